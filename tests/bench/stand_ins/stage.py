"""A stage of three short cases, with the findings and the planted faults of a real one."""

import sys
import time

from bench.gpu.findings import Findings, stage_parser

options = stage_parser(__doc__).parse_args()
findings = Findings(options.json)
for number in range(3):
    with findings.case(f"case {number}") as row:
        time.sleep(0.1)
        row["words"] = "done"
sys.exit(findings.end())
