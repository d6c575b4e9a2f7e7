"""What was measured: shown as it was measured, withheld where a gate failed, and a sentence where it is broken."""

import json
import stat
import sys

import pytest
from fvfast_dashboard import headlines, measuring, results, speedcharts

from bench import steps
from bench.report import ROOT

MACHINE = {"device": "2 cores of a CPU", "torch": "2.9", "date": "2025-06-01", "commit": "abc"}
SPEED = {
    "model": "net",
    "layer": "deep",
    "size": 32,
    "rounds": 5,
    "gate": {"passed": True},
    "rows": [
        {"way": "lucent-style loop", "p20_ms": 90.0, "p50_ms": 100.0, "p80_ms": 120.0, "steps_per_s": 10.0},
        {"way": "fvfast, one image", "p20_ms": 38.0, "p50_ms": 40.0, "p80_ms": 44.0, "steps_per_s": 25.0},
    ],
    "ratios": {"fvfast, one image": 2.5},
    "machine": MACHINE,
}


def times(scale):
    return {"p20": scale * 0.9, "p50": scale, "p80": scale * 1.2}


@pytest.fixture
def gpu():
    """What the report wrote on a GPU that computes nothing (tests/bench/rehearsed.json): no gate has passed."""
    return json.loads((ROOT / "tests" / "bench" / "rehearsed.json").read_text())


def as_if_right(gpu):
    """That report with every gate passed, and times that are easy to divide."""
    ms = {"fvfast": 2.0, "network alone": 1.5, "reference": 8.0, "graphed": 4.0, "lucent-style": 20.0}
    for row in results.rows(gpu, "steps"):
        row["gate"]["passed"] = True
        row["ms"] = {name: times(scale) for name, scale in ms.items()}
        steps._compare(row)
    for row in results.rows(gpu, "kernels"):
        row["right"] = True
    return gpu


PEERS = {
    "machine": MACHINE,
    "rows": [
        {
            "contender": name,
            "version": "1",
            "size": 224,
            "target": "deep:1",
            "batch": 1,
            "rounds": [rate * 0.9, rate],
            "steps_per_s": rate * 0.95,
            "features_per_s": rate / 128,
            "peak_bytes": 5e8,
            "objective": 30.0,
        }
        for name, rate in (("lucent", 5.0), ("fvfast-default", 20.0), ("torch-dreams", 8.0))
    ]
    + [{"contender": "horama", "size": 224, "target": "deep:1", "batch": 1, "failed": "horama failed: no memory"}],
    "ratios": [
        {"size": 224, "target": "deep:1", "batch": 1, "over": "fvfast-default", "under": under, "median": median}
        for under, median in (("lucent", 4.0), ("torch-dreams", 2.5))
    ],
}
TRAJECTORIES = {
    "machine": MACHINE,
    "kernels": "interpreted",
    "case": {"model": "net", "layer": "deep", "batch": 2, "size": 32},
    "rows": [
        {"path": path, "step": step, "canvas": step * 1e-6, "objective": step * 1e-7}
        for path in ("kernels", "rounding")
        for step in (1, 4, 16)
    ],
    "final objective": {"reference": 20.0, "kernels": 20.1, "rounding": 19.9},
}


def test_without_results_every_part_says_how_to_measure_it(visit, words):
    app = visit("speed")
    assert not app.exception
    said = words(app)
    for command in ("fvfast speed", "make gpu", "python -m bench.peers", "python -m bench.trajectories"):
        assert command in said
    assert said.count("not yet measured") == 6


def test_results_are_shown_with_their_machine(visit, result, gpu, words):
    result("speed", SPEED)
    result("peers", PEERS)
    result("trajectories", TRAJECTORIES)
    result("made-up-gpu-2025-06-01", as_if_right(gpu))
    app = visit("speed")
    assert not app.exception
    assert not app.error
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["fvfast, one image"] == "2.50×"
    assert shown["Over graphed"] == "2.00×"
    assert shown["Over lucent-style"] == "10.00×"
    assert shown["Final objective, kernels"] == "20.100"
    said = words(app)
    assert "2 cores of a CPU" in said
    assert "A GPU that computes nothing" in said
    assert "did not pass" in said
    assert "sanitizer (timed out)" in said
    assert "quality (crashed)" in said
    assert "horama failed: no memory" in said


def test_no_ratio_is_shown_behind_a_failed_gate(visit, result, gpu, words):
    result("made-up-gpu-2025-06-01", gpu)
    result("speed", {**SPEED, "ratios": None})
    app = visit("speed")
    assert not app.exception
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Over graphed"] == "gate failed"
    assert "no ratio is given" in words(app)
    assert not any("×" in metric.value for metric in app.metric)


def test_a_wrong_kernel_is_named(visit, result, gpu, words):
    result("made-up-gpu-2025-06-01", as_if_right(gpu))
    assert "A path gave a wrong result" not in words(visit("speed"))
    results.rows(gpu, "kernels")[0]["right"] = False
    result("made-up-gpu-2025-06-01", gpu)
    assert "A path gave a wrong result" in words(visit("speed"))


@pytest.mark.parametrize(("stage", "found"), [("kernels", None), ("steps", {"rows": []}), ("atlas", None)])
def test_a_stage_without_figures_leaves_the_others(visit, result, gpu, words, stage, found):
    gpu["stages"][stage] = {"state": "timed out", "found": found}
    result("made-up-gpu-2025-06-01", as_if_right(gpu))
    app = visit("speed")
    assert not app.exception
    assert not app.error
    assert "(timed out)" in words(app)
    assert not visit("overview").exception


@pytest.mark.parametrize("document", ["{ broken", "[]", '{"rows": 5}', '{"rows": [{}], "ratios": {}}'])
@pytest.mark.parametrize("kind", ["speed", "peers", "trajectories", "quality"])
def test_a_broken_file_is_a_sentence_and_leaves_the_rest(visit, result, words, kind, document):
    result(kind, document)
    app = visit("speed")
    assert not app.exception
    assert app.error
    assert "make gpu" in words(app)
    assert not visit("overview").exception


def test_bars_are_the_quantiles_that_were_measured(gpu):
    chart = speedcharts.ways(speedcharts.speed_frame(SPEED), "milliseconds a step").to_dict()
    (rows,) = chart["datasets"].values()
    assert [(r["way"], r["p20"], r["p50"], r["p80"]) for r in rows] == [
        ("lucent-style loop", 90.0, 100.0, 120.0),
        ("fvfast, one image", 38.0, 40.0, 44.0),
    ]
    assert [r["ours"] for r in rows] == ["others", "fvfast"]
    assert chart["layer"][0]["encoding"]["x"]["title"] == "milliseconds a step"


def test_the_roofline_counts_bytes_from_the_share_of_a_copy(gpu):
    results.found(gpu, "kernels")["copy_bytes_per_second"] = 2e12
    for row in results.rows(gpu, "kernels"):
        row |= {"p50_ms": 0.5, "of_copy": 0.6 if row["path"] == "kernels fast" else None}
    frame = speedcharts.roofline_frame(gpu)
    assert set(frame["path"]) == {"kernels fast"}
    assert list(frame["GB/s"]) == pytest.approx([1200.0] * len(frame))  # 0.6 of 2 TB/s
    assert list(frame["MB"]) == pytest.approx([600.0] * len(frame))  # that, for half a millisecond


def test_peers_stand_in_the_order_of_their_speed():
    frame = speedcharts.peers_frame(PEERS, 224, "deep:1", 1)
    assert list(frame["way"]) == ["fvfast-default 1", "torch-dreams 1", "lucent 1"]
    assert list(frame["fvfast-default is"]) == ["", "2.50x as fast", "4.00x as fast"]


def test_headlines_are_the_modest_ones(result, gpu):
    result("speed", SPEED)
    result("peers", PEERS)
    result("trajectories", TRAJECTORIES)
    result("made-up-gpu-2025-06-01", as_if_right(gpu))
    speed, peers, kernels, trajectory = headlines.headlines()
    assert (speed.value, peers.value, kernels.value, trajectory.value) == ("2.50×", "2.50×", "2.00×", "+0.50%")
    assert peers.detail.startswith("torch-dreams")
    assert "interpreter" in trajectory.detail
    assert speed.where.replace("\u2011", "-") == "2 cores of a CPU, 2025-06-01"


def test_what_was_measured_here_comes_first(visit, result, words):
    result("speed", SPEED)
    results.keep_speed({**SPEED, "ratios": {"fvfast, one image": 3.75}})
    assert results.speed()[1] is True
    assert headlines.headlines()[0].value == "3.75×"
    assert headlines.headlines()[0].where.startswith("this machine")
    assert "Measured here" in words(visit("speed"))


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """Have a script run in the measurement's place."""

    def pretend(code: str) -> None:
        script = tmp_path / "python"
        script.write_text(f"#!{sys.executable}\nimport sys, json, time\n{code}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(measuring.sys, "executable", str(script))

    return pretend


def test_measuring_follows_the_child_and_keeps_what_it_says(pretend):
    pretend(f"print('fvfast: 40% 10 ms', file=sys.stderr)\nprint({json.dumps(json.dumps(SPEED))})")
    job = measuring.Measurement()
    job.start()
    job.wait(20)
    assert not job.running
    assert (job.part, job.words, job.failure) == (0.4, "10 ms", "")
    assert json.loads(results.measured_here().read_text()) == SPEED


def test_a_measurement_that_fails_says_why_and_keeps_nothing(pretend):
    pretend("print('fvfast: no memory left', file=sys.stderr)\nsys.exit(2)")
    job = measuring.Measurement()
    job.start()
    job.wait(20)
    assert job.failure == "no memory left"
    assert not results.measured_here().exists()


def test_a_measurement_can_be_stopped(pretend):
    pretend("print('fvfast: 1% on it', file=sys.stderr, flush=True)\ntime.sleep(60)")
    job = measuring.Measurement()
    job.start()
    assert job.running
    job.stop()
    job.wait(20)
    assert not job.running
    assert job.failure == ""


def test_the_button_starts_it(visit, pretend, words):
    pretend("time.sleep(60)")
    app = visit("speed")
    next(button for button in app.button if button.label == "Measure now").click().run()
    job = measuring.measurement()
    try:
        assert job.running
        assert "Stop" in [button.label for button in app.button]
    finally:
        job.stop()
        job.wait(20)
