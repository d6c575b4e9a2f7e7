"""What is said of a report: by its tables, README's headline and docs; and above all what is not said.

rehearsed.json is what the whole report wrote on the GPU of bench.rehearsal, which computes nothing, so that every gate
failed, with one stage made to crash and one to hang:

    FVFAST_BENCH_FAULT=sanitizer=hang,quality=crash python -m bench.gpu_report --quick
"""

import json
import re
from pathlib import Path

import pytest
import torch

from bench import headline, record, report, steps
from bench.gpu import document, words
from bench.steps import EXACT_BOUND, HALF_BOUND, Case, measure
from bench.timing import quantiles

REHEARSED = Path(__file__).parent / "rehearsed.json"
RATIO = re.compile(r"\d\.\d\dx")


@pytest.fixture
def rehearsed():
    return json.loads(REHEARSED.read_text())


def as_if_right(report):
    """The report as it would be had every gate passed, by the code that makes it so."""
    for row in document.rows(report, "steps"):
        row["gate"]["passed"] = True
        steps._compare(row)
    for row in document.rows(report, "kernels"):
        row["right"] = True
    return report


@pytest.fixture(scope="module")
def step():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield measure(Case("resnet18", "layer1", 2, 64), torch.device("cpu"), torch.bfloat16, 0.05)
    torch.set_num_threads(threads)


def test_a_whole_step_is_measured_behind_its_gate(step):
    gate = step["gate"]
    assert gate["passed"]
    # On a CPU both paths are the reference: equal to the bit. The half-precision step is not.
    assert gate["float32, 8 steps"] == 0
    assert 0 < gate["bfloat16, first step"] < HALF_BOUND
    assert gate["bound"] == EXACT_BOUND
    assert set(step["ms"]) == {"reference", "fvfast", "network alone", "lucent-style"}
    assert step["ratios"]["over lucent-style"] == step["ms"]["lucent-style"]["p50"] / step["ms"]["fvfast"]["p50"]
    assert f"{step['ratios']['over lucent-style']:.2f}x" in words.steps_table([step])


@pytest.mark.parametrize("whose", ["reference", "fvfast"])
def test_memory_that_runs_out_is_named_and_leaves_the_other_ways(monkeypatch, step, whose):
    def out(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(steps, "_gate", lambda *_: step["gate"])
    baseline = steps._baseline
    if whose == "reference":
        monkeypatch.setattr(steps, "_baseline", lambda name, *given: (out if name == whose else baseline)(name, *given))
    else:
        monkeypatch.setattr(steps, "_ours", out)
    ways = ("fvfast", "reference", "lucent-style")
    found = measure(Case("resnet18", "layer1", 1, 32), torch.device("cpu"), torch.float32, 0.01, ways)
    assert found["failures"] == {whose: "out of memory"}
    assert "lucent-style" in found["ms"]
    text = words.steps_table([found])
    if whose == "reference":
        assert "reference: out of memory" in text
        assert set(found["ratios"]) == {"over lucent-style"}
    else:
        assert found["ratios"] is None
        assert not RATIO.search(text)


def test_no_ratio_is_given_where_no_gate_has_passed(rehearsed):
    text = words.markdown(rehearsed)
    assert not RATIO.search(text)
    assert "gate failed" in text
    assert "wrong result" in text
    assert not document.healthy(rehearsed)
    assert not RATIO.search(headline.gpu(rehearsed))


def test_ratios_are_given_where_gates_have_passed(rehearsed):
    row = document.rows(as_if_right(rehearsed), "steps")[0]
    over = row["ms"]["lucent-style"]["p50"] / row["ms"]["fvfast"]["p50"]
    assert f"{over:.2f}x" in words.markdown(rehearsed)
    assert f"**{over:.2f}x as fast as a lucent-style loop**" in headline.gpu(rehearsed)


def test_every_stage_has_its_section_however_it_ended(rehearsed):
    text = words.markdown(rehearsed)
    assert "| sanitizer | TIMED OUT: ended when its time was over |" in text
    assert "| quality | CRASHED |" in text
    assert "_plant_fault" in text  # where the crash was
    for name in rehearsed["stages"]:
        assert f"## {words.SECTIONS[name][0]}\n" in text
    assert "not of the form" not in text
    for part in ("captures for batches", "GB/s", "us an image", "Every path of a render"):
        assert part in text


def test_a_headline_says_what_is_not_measured(rehearsed):
    for name in ("steps", "atlas"):
        rehearsed["stages"][name] = {"state": "timed out"}
    said = headline.gpu(rehearsed)
    assert "a step of batch 1 not measured; a step of batch 64 not measured; channels a minute not measured" in said
    assert headline.gpu(None) == "On an NVIDIA GPU: not yet measured; `make gpu` measures it."


@pytest.mark.parametrize("name", words.SECTIONS)
def test_what_is_of_another_shape_costs_its_own_section_only(rehearsed, name):
    rehearsed["stages"][name] = {"state": "failed", "found": {"rows": [{"ms": 3}], "case": 5}}
    text = words.markdown(rehearsed)
    assert text.count("\n## ") == len(words.SECTIONS)


def test_the_newest_report_is_shown(tmp_path, rehearsed, monkeypatch):
    assert document.newest(tmp_path) is None
    for day in ("2026-01-02", "2026-01-01"):
        rehearsed |= {"started": day, "machine": {**rehearsed["machine"], "date": day}}
        document.write(rehearsed, tmp_path / f"{day}.json")
    (tmp_path / "peers.json").write_text('{"kind": "peers"}')
    (tmp_path / "broken.json").write_text("{")
    assert (document.newest(tmp_path) or {})["machine"]["date"] == "2026-01-02"
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "gpu.md").write_text("<!-- gpu -->\nNot yet measured\n<!-- /gpu -->\n")
    report.redraw_all("gpu")
    text = (tmp_path / "docs" / "gpu.md").read_text()
    assert "Not yet measured" not in text
    assert "captures for batches" in text


def test_quantiles():
    assert quantiles([float(i) for i in range(11)]) == {"p20": 2.0, "p50": 5.0, "p80": 8.0}
    assert quantiles([3.0]) == {"p20": 3.0, "p50": 3.0, "p80": 3.0}
