"""Stage `tests`: the tests marked `gpu`, with what each of them came to.

    python -m bench.gpu.tests --json FILE

Only the files that have such tests are collected, so that nothing else needs to be installed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from typing import Any

import pytest

from bench.gpu.document import ROOT
from bench.gpu.findings import Findings, needs_gpu, stage_parser

MARK = re.compile(r"\bmark\.gpu\b")
EACH_S = 60  # for one test, where pytest-timeout is installed
QUICK = "graph or bytes"


class Watch:
    """Tells the findings of each test as soon as it has ended."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        failed_around = report.failed and report.when != "call"
        if report.when != "call" and not failed_around and not (report.skipped and report.when == "setup"):
            return
        row: dict[str, Any] = {"case": report.nodeid, "outcome": report.outcome, "passed": not report.failed}
        row["seconds"] = round(self.seconds[report.nodeid], 2)
        if report.failed:
            row["traceback"] = report.longreprtext[-4000:]
        self.findings.add(row)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            row = {"case": report.nodeid, "outcome": "not collected", "passed": False}
            self.findings.add({**row, "traceback": report.longreprtext[-4000:]})


def files() -> list[str]:
    """The test files in which the mark stands."""
    return sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if MARK.search(path.read_text()))


def main() -> int:
    options = stage_parser(__doc__).parse_args()
    if not needs_gpu("bench.gpu.tests"):
        return 2
    findings = Findings(options.json)
    command = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--tb=short", *files()]
    if importlib.util.find_spec("pytest_timeout"):
        command += [f"--timeout={EACH_S}"]
    if options.quick:
        command += ["-k", QUICK]
    code = pytest.main(command, plugins=[Watch(findings)])
    counts = {word: sum(row["outcome"] == word for row in findings.rows) for word in ("passed", "failed", "skipped")}
    findings.say(counts=counts, exit=int(code))
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        findings.add({"case": "pytest", "outcome": "failed", "passed": False, "traceback": f"pytest ended with {code}"})
    return findings.end()


if __name__ == "__main__":
    sys.exit(main())
