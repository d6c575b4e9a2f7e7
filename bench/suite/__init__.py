"""pytest-benchmark's suite, and its last run: `python -m bench.suite` (`make bench`), under ten minutes on two cores.

It times the synthesis and its adjoint against the same work by PyTorch's FFT and autograd, the network's step as the
engine runs it against its own modules, whole renders, and an atlas. It compares with the run that is stored, keeps its
own in its place, and shows both in docs/performance.md.
"""

from __future__ import annotations

from typing import Any

from bench import record
from bench.tables import table

KIND, COMMAND = "bench", "make bench"


def words(stored: dict[str, Any]) -> str:
    """What docs/performance.md shows of a stored run."""
    rows = [
        [row["name"], _time(row["p50"]), f"{_time(row['p20'])}-{_time(row['p80'])}", row["against"]]
        for row in stored["rows"]
    ]
    text = table(["what", "median", "p20-p80", "against"], rows)
    return f"{text}\n\n`{stored['command']}`; {record.line(stored['machine'])}."


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
