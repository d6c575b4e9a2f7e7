"""README's headline: float32 first, bfloat16 with its condition, and no figure of what did not run."""

import copy
import re

import numpy as np
import pytest

from bench import headline, record, report
from bench.peers import table, task, worker
from bench.peers.contenders import CONTENDERS
from fvfast import precision


@pytest.fixture
def stored():
    found = record.load("peers")
    assert found is not None
    return found


def speeds(text: str) -> list[str]:
    return [line for line in text.splitlines() if re.match(r"- \d+ px", line)]


def test_what_is_bold_is_float32_and_bfloat16_has_its_condition(stored):
    lines = speeds(headline.words(stored))
    assert len(lines) == 2
    for line in lines:
        assert re.match(r"- \d+ px, float32: \*\*\d", line)
        assert not any("bfloat16" in bold for bold in re.findall(r"\*\*(.*?)\*\*", line))
        assert "in bfloat16, on a processor with bfloat16 (AVX512-BF16 or AMX)" in line
    assert "in bfloat16, on a processor with bfloat16" in table.markdown(stored)


@pytest.mark.parametrize("block", ["headline", "peers", "peers-layers"])
def test_documents_say_what_the_results_say(block):
    (shown,) = (shown for shown in report.SHOWN if shown.block == block)
    text = (report.ROOT / shown.document).read_text()
    found = record.load(shown.kind)
    assert found is not None
    words = {"headline": headline.words, "peers": table.markdown, "peers-layers": table.compact}[block](found)
    assert f"<!-- {block} -->\n{words}\n<!-- /{block} -->" in text


def test_what_ran_in_float32_is_no_figure_of_bfloat16(stored):
    other = copy.deepcopy(stored)
    for row in other["rows"]:
        row["dtype"] = "float32"
    assert speeds(headline.words(other))[0].startswith(speeds(headline.words(stored))[0].split(";")[0])
    assert not any("bfloat16" in line for line in speeds(headline.words(other)))
    assert "in bfloat16" not in table.markdown(other)


@pytest.mark.parametrize(("reason", "ran"), [("", "bfloat16"), ("it is old", "float32")])
def test_a_row_says_what_ran(tmp_path, monkeypatch, reason, ran):
    monkeypatch.setattr(precision, "emulated", lambda *_: reason)
    canvas = tmp_path / "canvas.npy"
    turn = task.Task("_blocks.1", (1,), 32, 8, 0, "cpu", 1, str(canvas))
    assert worker.answer(CONTENDERS["fvfast-bfloat16"], turn)["dtype"] == ran
    assert np.load(canvas).shape == (1, 3, 32, 32)
