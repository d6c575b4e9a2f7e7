"""docs/images/showcase.webp: what `fvfast render` makes with no arguments.

python -m bench.showcase
"""

from __future__ import annotations

import fvfast
from bench.report import DOCS


def main() -> None:
    fvfast.render().sheet().save(DOCS / "images" / "showcase.webp", quality=85)


if __name__ == "__main__":
    main()
