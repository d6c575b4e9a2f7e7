"""Run the suite, compare it with the run that is stored, and keep it: `python -m bench.suite`."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import record
from bench.report import redraw_all
from bench.suite import COMMAND, KIND, words

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.suite", description=__doc__)
    parser.add_argument("-k", metavar="EXPRESSION", help="only these, as for pytest; nothing is kept")
    options = parser.parse_args()
    only = ["-k", options.k] if options.k else []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", str(HERE), "-q", "-p", "no:cacheprovider", "--benchmark-columns"]
        done = subprocess.run([*command, "median,min,rounds", f"--benchmark-json={output}", *only], cwd=record.ROOT)
        if done.returncode or not output.exists():
            return done.returncode or 1
        rows = rows_of(json.loads(output.read_text()))
    before = record.load(KIND)
    print(changes(rows, before))
    if not options.k:
        record.save(KIND, COMMAND, rows)
        redraw_all(KIND)
        stored = record.load(KIND)
        assert stored is not None
        print(words(stored))
    return 0


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """pytest-benchmark's report as rows: name, seconds at three quantiles, and how fast beside its rival.

    Each round has its rival's time just before it: "against" is the median of the rounds' ratios.
    """
    rows = []
    for one in report["benchmarks"]:
        data, more = one["stats"]["data"], one["extra_info"]
        cuts = statistics.quantiles(data, n=10, method="inclusive") if len(data) > 1 else data * 9
        row = {"name": more["title"]} | {f"p{n}0": cuts[n - 1] / more["each"] for n in (2, 5, 8)} | {"against": ""}
        if more["rival"]:
            ratios = [more["each"] * rival / mine for rival, mine in zip(more["beside"], data, strict=True)]
            row["against"] = f"{statistics.median(ratios):.2f}x {more['rival']}"
        rows.append(row)
    return rows


def changes(rows: list[dict[str, Any]], before: dict[str, Any] | None) -> str:
    """A line a benchmark: its median beside the stored run's, where that was measured on the same processor."""
    if before is None:
        return "no stored run to compare with"
    if before["machine"]["processor"] != record.processor():
        return f"the stored run is of another machine ({before['machine']['device']}): not compared"
    old = {row["name"]: row["p50"] for row in before["rows"]}
    lines = [
        f"{row['name']}: {row['p50'] / old[row['name']]:.2f} of the stored time" for row in rows if row["name"] in old
    ]
    return "\n".join([f"against the run of {before['machine']['date']}, commit {before['machine']['commit']}:", *lines])


if __name__ == "__main__":
    sys.exit(main())
