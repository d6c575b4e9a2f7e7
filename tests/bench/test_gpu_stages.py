"""What the report's stages decide by themselves, as far as that needs no GPU."""

import json

import pytest
import torch

from bench.gpu import atlas, findings, graphs, smoke, tests, wanted
from bench.gpu.findings import DEADLINE, Findings
from bench.gpu.small_paths import PATHS, render


def test_a_case_that_fails_is_kept_and_the_next_one_runs(tmp_path, capsys):
    found = Findings(tmp_path / "found.json", about="this")
    with found.case("one") as row:
        row["value"] = 1
        raise ValueError("of no use\nat all")
    with found.case("two", "others") as row:
        row["words"] = "fine"
    assert found.end() == 1
    kept = json.loads((tmp_path / "found.json").read_text())
    assert kept["rows"][0] | {"seconds": 0, "traceback": ""} == {
        "case": "one", "value": 1, "failed": "ValueError: of no use", "passed": False, "seconds": 0, "traceback": "",
    }  # fmt: skip
    assert 'raise ValueError("of no use' in kept["rows"][0]["traceback"]
    assert [row["case"] for row in kept["others"]] == ["two"]
    assert (kept["finished"], kept["passed"], kept["about"]) == (True, False, "this")
    assert "two: fine" in capsys.readouterr().out
    assert Findings(None).end() == 1  # what has found nothing has not passed


def test_a_stage_knows_what_time_is_left(monkeypatch):
    monkeypatch.delenv(DEADLINE, raising=False)
    assert findings.seconds_left() == float("inf")
    monkeypatch.setattr(findings.time, "time", lambda: 1000.0)
    monkeypatch.setenv(DEADLINE, "1012.5")
    assert findings.seconds_left() == 12.5


def test_channels_are_spread_over_layers():
    targets = atlas.spread({"a": 10, "b": 100, "c": 7}, 8)
    chosen = {layer: [int(n) for n in numbers.split(",")] for layer, numbers in (t.split(":") for t in targets)}
    assert sum(map(len, chosen.values())) == 8
    assert {layer: len(numbers) for layer, numbers in chosen.items()} == {"a": 2, "b": 3, "c": 3}
    assert chosen["b"] == [0, 33, 66]
    assert all(len(set(numbers)) == len(numbers) for numbers in chosen.values())


def test_an_atlas_is_as_large_as_the_time_allows():
    # A batch of 64 takes 0.36 s to capture and 64 x 256 x 10 us = 0.16 s to render: 19 of them in 10 s.
    assert atlas.fitting(64, 1e-5, 0.36, 10, 256) == 512
    assert atlas.fitting(64, 1e-5, 0.36, 2, 256) == 3 * 64
    assert atlas.fitting(64, 1e-5, 0.36, 0.1, 256) == 64
    assert atlas.fitting(1, 1e-4, 0.5, 5, 256) == 9


def test_the_gpu_tests_are_found_by_their_mark():
    found = [path.rsplit("tests/", 1)[1] for path in tests.files()]
    assert {"kernels/test_gpu.py", "fvfast/test_gpu.py"} <= set(found)
    assert not any(path.startswith("dashboard/") for path in found)


def test_each_kind_of_launch_is_compiled_once():
    found = wanted.all_launches(quick=True)
    kinds = {wanted._kind(one) for one in found}
    assert len(kinds) == len(found)
    # Batches of 1, of multiples of 16, and of others are compiled apart.
    columns = [one for one in found if one.kernel.__name__ == "columns"]
    batches = {wanted._sort_of(next(a for a in one.arguments if isinstance(a, int))) for one in columns}
    assert batches == {"one", "of 16", "any"}


@pytest.mark.parametrize("name", ["recipe maco", "align, interpolate", "dead at the start"])
def test_a_small_path_is_compared_with_itself(name):
    target, options = PATHS[name]
    one, other = (render(target, device="cpu", **{**options, "dtype": "float32", "steps": 2}) for _ in range(2))
    assert smoke.relative(one.images, other.images) == 0
    assert smoke.first_apart(one, other) == 0
    other.images[0] += 0.1
    assert smoke.relative(one.images, other.images) > 1e-2


def test_captures_can_be_counted_and_refused():
    # Without a GPU a capture cannot begin either: counted where it tries, refused before it does.
    graph = torch.cuda.graph.__new__(torch.cuda.graph)
    with graphs.counted() as count, pytest.raises(Exception):  # noqa: B017, PT011 (whatever torch says without a GPU)
        graph.__enter__()
    assert count == [1]
    with graphs.refused(), pytest.raises(RuntimeError, match=graphs.REFUSAL):
        graph.__enter__()
