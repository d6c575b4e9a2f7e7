"""`python -m bench.ptx check | cost`."""

from __future__ import annotations

import sys


def main() -> int:
    name, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if name == "check":
        from bench.ptx import check as command
    elif name == "cost":
        from bench.ptx import cost as command
    else:
        print("usage: python -m bench.ptx check | cost [options]; --help after either", file=sys.stderr)
        return 2
    return command.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
