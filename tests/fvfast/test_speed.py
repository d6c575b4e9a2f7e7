"""The short measurement of this machine: what it says, and what it refuses to say."""

import copy
import json

import pytest
import torch

from fvfast import speed

TINY = {"model": "sketch_nets:Tiny", "layer": "deep", "weights": "none", "size": 32, "seconds": 0.05}


def test_every_way_takes_its_turns_and_the_ratios_are_of_their_medians():
    told = []
    found = speed.measure(**TINY, progress=lambda part, what: told.append(part))
    ways = {row["way"]: row for row in found["rows"]}
    assert list(ways) == [speed.LUCENT, speed.ONE, speed.SIDE_BY_SIDE]
    for row in ways.values():
        assert 0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"]
        assert row["steps_per_s"] == pytest.approx(1e3 / row["p50_ms"], rel=0.01)
    assert found["gate"]["passed"]
    for path in ("plain", "fast"):
        assert 0 < found["gate"][path]["gradient"] < 1e-6
    for way, ratio in found["ratios"].items():
        assert ratio == pytest.approx(ways[speed.LUCENT]["p50_ms"] / ways[way]["p50_ms"], rel=0.02)
    assert found["rounds"] >= speed.LEAST_ROUNDS
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_wrong_network_gets_no_ratio(monkeypatch):
    honest = speed.prepare

    def wrong(module, *rest, **more):
        other = copy.deepcopy(module)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(1.3)
        return honest(other, *rest, **more)

    monkeypatch.setattr(speed, "prepare", wrong)
    found = speed.measure(**TINY)
    assert not found["gate"]["passed"]
    assert found["ratios"] is None
    assert found["rows"]


def test_a_stop_ends_it_after_a_round():
    found = speed.measure(**{**TINY, "seconds": 60}, stop=lambda: True)
    assert found["interrupted"]
    assert found["rounds"] == 1


def test_the_command_prints_json_and_a_table(cli):
    arguments = ("speed", "sketch_nets:Tiny", "deep", "--weights", "none", "--size", "32", "--seconds", "1")
    code, out, err = cli(*arguments, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["layer"] == "deep"
    assert document["ratios"]
    assert "fvfast: 100%" in err
    code, out, _ = cli(*arguments)
    assert code == 0
    assert "lucent-style loop" in out
    assert "commit" in out
    assert max(map(len, out.splitlines())) <= 120


def test_an_unknown_layer_is_a_sentence(cli):
    code, _, err = cli("speed", "sketch_nets:Tiny", "dep", "--weights", "none", "--size", "32")
    assert code == 2
    assert "did you mean deep" in err


def test_another_network_needs_a_layer(cli):
    code, _, err = cli("speed", "sketch_nets:Tiny", "--weights", "none")
    assert code == 2
    assert "fvfast layers" in err
