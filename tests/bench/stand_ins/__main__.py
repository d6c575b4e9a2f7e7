"""`python -m bench.gpu_report` with stages that need no GPU: `PYTHONPATH=. python tests/bench/stand_ins [OPTIONS]`."""

import sys

from bench import gpu_report
from bench.gpu import stages

STAGES = ("first", "second", "third", "fourth")
stages.STAGES = tuple(stages.Stage(name, "stage", 1, 0.5, 1, "a stand-in") for name in STAGES)
stages.NAMES = STAGES
gpu_report.MACHINE = "machine"

if __name__ == "__main__":
    sys.exit(gpu_report.main())
