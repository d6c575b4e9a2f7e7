"""What `fvfast speed` measures, kept for the dashboard: fvfast's step against the lucent-style loop, on this CPU.

python -m bench.speed                 writes bench/results/speed.json
"""

from __future__ import annotations

import sys

from bench import record
from fvfast.speed import measure


def main() -> int:
    found = measure()
    del found["machine"]  # `record.save` stamps it
    path = record.save("speed", "python -m bench.speed", found.pop("rows"), **found)
    print(f"{path}: {found['ratios']}")
    return 0 if found["gate"]["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
