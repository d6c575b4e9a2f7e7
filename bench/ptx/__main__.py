"""`python -m bench.ptx check`, `cost` or `mutate`."""

from __future__ import annotations

import importlib
import sys

COMMANDS = ("check", "cost", "mutate")


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        print(f"usage: python -m bench.ptx {' | '.join(COMMANDS)} [options]; each knows --help", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    try:
        return importlib.import_module(f"bench.ptx.{name}").main(sys.argv[2:])
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
