"""Run a program on a GPU that does nothing.

    python -m bench.rehearsal -- COMMAND...            run it there, and return its exit status
    python -m bench.rehearsal --python PYTHON -- ...   for the torch of another environment
    python -m bench.rehearsal paths [NAME...]          every path of a render: captured as a CUDA graph, or not

REHEARSAL_LOG names a file for what happened in captures; REHEARSAL_NODES=1 names every node there.
"""

from __future__ import annotations

import argparse
import os
import sys

from bench.rehearsal.build import Unfit, build


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.rehearsal",
        usage="%(prog)s [--python PYTHON] (-- COMMAND... | paths [NAME...])",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", default=sys.executable, help="the interpreter whose torch is rehearsed")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="COMMAND")
    options = parser.parse_args()
    rest = options.rest
    if rest[:1] == ["paths"]:
        command = [options.python, "-m", "bench.rehearsal.paths", *rest[1:]]
    elif rest[:1] == ["--"] and len(rest) > 1:
        command = rest[1:]
    else:
        parser.error("say what to run: -- COMMAND..., or paths")
    try:
        environment = build(options.python).environment()
        os.execvpe(command[0], command, environment)
    except Unfit as reason:
        print(reason, file=sys.stderr)
    except OSError as error:
        print(f"{command[0]} cannot be run: {error.strerror}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
