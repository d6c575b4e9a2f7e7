"""What is said of the peers: who takes turns when, what their turns come to, and what an interruption leaves.

The contenders here are small scripts whose speed is known, so that every figure of the table is too.
"""

import importlib.util
import itertools
import json
import sys

import numpy as np
import pytest
import torch

from bench import record
from bench.peers import __main__ as cli
from bench.peers import contenders, driver, setup, table, task, worker
from bench.peers.contenders import CONTENDERS, choose
from bench.peers.driver import Cell, Settings
from bench.peers.judge import Judge
from bench.peers.task import Clock, Task
from fvfast import models
from fvfast.errors import FvfastError

CELL = Cell(64, "_blocks.4:1", 1)
SETTINGS = Settings(steps=40, rounds=3, threads=1, device="cpu", seconds=4.0)

# Answers as a worker does, at the speeds it is given, one a turn after the warm-up; notes who had a turn, and how long.
FAKE = """
import json, sys
import numpy as np
name, diary, rates = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
print("hello from", name, file=sys.stderr, flush=True)
for number, line in enumerate(sys.stdin):
    task = json.loads(line)
    with open(diary, "a") as file:
        file.write(f"{name} {task['steps']} {task['seed']}\\n")
    rate = rates[number]
    if rate is None:
        sys.exit("RuntimeError: out of paint")
    shape = (len(task["channels"]), 3, task["size"], task["size"])
    np.save(task["canvas"], np.full(shape, task["seed"] / 10, "float32"))
    answer = {"steps_per_s": rate, "seconds": 1.0, "peak_bytes": 1000 * number, "dtype": "float32", "version": "9"}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def judge():
    return Judge()


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Makes contenders fake: given {name: [the warm-up's rate, round 1's, ...]}, returns them and the diary's path."""
    script, diary = tmp_path / "fake.py", tmp_path / "diary"
    script.write_text(FAKE)
    monkeypatch.setattr(contenders, "HOME", tmp_path / "home")

    def make(rates):
        def command(contender):
            return [sys.executable, str(script), contender.name, str(diary), json.dumps(rates[contender.name])]

        monkeypatch.setattr(driver, "command", command)
        return choose(rates), diary

    return make


def measured(fakes, judge, rates, settings=SETTINGS, cell=CELL):
    able, _ = fakes(rates)
    return driver.measure(cell, able, settings, judge, lambda *_: None)


# The driver ------------------------------------------------------------------------------------------------


def test_contenders_take_turns(fakes, judge):
    able, diary = fakes({"fvfast-default": [1, 20, 20, 20], "lucent": [1, 10, 10, 10], "horama": [1, 3, 3, 3]})
    driver.measure(CELL, able, SETTINGS, judge, lambda *_: None)
    names, steps, seeds = zip(*(line.split() for line in diary.read_text().splitlines()), strict=True)
    assert list(names) == ["fvfast-default", "lucent", "horama"] * 4
    # A short warm-up; then all 40 steps; then as many as fit into four seconds at the first round's rate.
    assert list(steps) == ["8"] * 3 + ["40"] * 3 + ["40", "40", "12"] * 2
    assert list(seeds) == [s for seed in "0123" for s in seed * 3]


def test_rows_are_medians_of_rounds(fakes, judge):
    rows = measured(fakes, judge, {"fvfast-default": [1, 30, 36, 33], "lucent": [1, 10, 9, 12], "horama": [1, 4, 2, 3]})
    default, lucent, horama = rows
    assert [row["steps_per_s"] for row in rows] == [33, 10, 3]
    assert default["features_per_s"] == 33 / 128
    assert lucent["rounds"] == [10, 9, 12]
    assert lucent["peak_bytes"] == 3000
    # Three full turns had three seeds; the slow one's later turns were cut, and tell no objective.
    assert len(lucent["objectives"]) == 3
    assert len(horama["objectives"]) == 1
    assert horama["round_steps"] == [40, 16, 16]
    assert (contenders.HOME / "images" / "64px-_blocks.4-1" / "lucent-0.png").exists()


def test_the_objective_is_the_judges(fakes, judge):
    (row,) = measured(fakes, judge, {"plain": [1, 10, 10, 10]})
    grey = [judge(torch.full((1, 3, 64, 64), seed / 10), "_blocks.4", (1,)) for seed in (1, 2, 3)]
    assert row["objectives"] == grey
    assert row["objective"] == sorted(grey)[1][0]


def test_ratios_are_of_the_same_round(fakes, judge):
    rows = measured(fakes, judge, {"fvfast-default": [1, 30, 36, 33], "lucent": [1, 10, 9, 12]})
    (ratio,) = driver.ratios(rows)
    assert (ratio["over"], ratio["under"]) == ("fvfast-default", "lucent")
    # 30/10, 36/9, 33/12: neither the ratio of medians (3.3) nor of the extremes (2.5 to 4).
    assert (ratio["min"], ratio["median"], ratio["max"]) == (2.75, 3.0, 4.0)


def test_a_batch_has_a_channel_an_image(fakes, judge):
    cell = Cell(64, "logits:999", 3)
    (row,) = measured(fakes, judge, {"plain": [1, 10, 10, 10]}, cell=cell)
    assert row["features_per_s"] == 30 / 128
    assert [len(values) for values in row["objectives"]] == [3, 3, 3]
    assert judge.channels("logits:999", 3) == (999, 0, 1)


def test_who_fails_is_left_out_and_says_why(fakes, judge):
    able, diary = fakes({"fvfast-default": [1, 20, 20, 20], "lucent": [1, 10, None]})
    rows = driver.measure(CELL, able, SETTINGS, judge, lambda *_: None)
    assert rows[1]["failed"] == "lucent failed: RuntimeError: out of paint"
    assert [line.split()[0] for line in diary.read_text().splitlines()].count("lucent") == 3
    assert rows[0]["steps_per_s"] == 20
    assert driver.ratios(rows) == []
    text = table.markdown(document(rows))
    assert "| lucent | failed |" in text
    assert "out of paint" in text


def test_the_clock_times_what_lies_between_steps(monkeypatch):
    clock = Clock(Task("l", (0,), 64, steps=10, seed=0, device="cpu", threads=1, canvas=""))
    now = itertools.count()
    monkeypatch.setattr(task.time, "perf_counter", lambda: next(now) * 3.5)
    for _ in range(10):
        clock.tick()
    # Seven steps from the third to the tenth, whose clock was read twice.
    assert clock.rate == 7 / 3.5


# Runs and interruptions ------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_behind_its_finished_cells(fakes, judge, tmp_path, monkeypatch):
    able, diary = fakes({"fvfast-default": [1, 20, 20, 20], "lucent": [1, 10, 10, 10]})
    cells = [(Cell(64, "_blocks.4:1", 1), able), (Cell(96, "_blocks.4:1", 1), able)]
    say = cli.Progress.__call__

    def interrupted(self, cell, number, contender, answer):
        say(self, cell, number, contender, answer)
        if cell.size == 96 and number == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli.Progress, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cli.measure(cells, SETTINGS, judge, "some", False, tmp_path)
    assert record.load("some", tmp_path) is None
    diary.unlink()
    monkeypatch.setattr(cli.Progress, "__call__", say)
    cli.measure(cells, SETTINGS, judge, "some", True, tmp_path)
    found = record.load("some", tmp_path)
    assert found is not None
    assert [(row["size"], row["contender"]) for row in found["rows"]] == [
        (64, "fvfast-default"),
        (64, "lucent"),
        (96, "fvfast-default"),
        (96, "lucent"),
    ]
    assert [(ratio["size"], ratio["median"]) for ratio in found["ratios"]] == [(64, 2.0), (96, 2.0)]
    assert len(diary.read_text().splitlines()) == 8  # one cell's turns
    assert not (tmp_path / "some.partial.json").exists()


def test_only_the_same_run_is_resumed(fakes, judge, tmp_path):
    with pytest.raises(FvfastError, match="no interrupted run"):
        cli.measure([], SETTINGS, judge, "some", True, tmp_path)
    other = {**driver.asdict(SETTINGS), "steps": 99}
    record.save("some.partial", "", [], tmp_path, settings=other)
    with pytest.raises(FvfastError, match="had other settings"):
        cli.measure([], SETTINGS, judge, "some", True, tmp_path)
    path = record.save("some.partial", "", [], tmp_path, settings=driver.asdict(SETTINGS))
    kept = json.loads(path.read_text())
    kept["machine"]["commit"] = "0000000"
    path.write_text(json.dumps(kept))
    with pytest.raises(FvfastError, match="measured commit 0000000"):
        cli.measure([], SETTINGS, judge, "some", True, tmp_path)


# The table -------------------------------------------------------------------------------------------------


def document(rows):
    machine = {**record.machine(), "device": "a machine", "commit": "abc"}
    settings = driver.asdict(SETTINGS)
    ratios = driver.ratios(rows)
    return {"command": "measure", "machine": machine, "settings": settings, "rows": rows, "ratios": ratios}


def test_the_table_says_what_was_measured(fakes, judge):
    rows = measured(
        fakes, judge, {"fvfast-default": [1, 30, 36, 33], "lucent": [1, 10, 9, 12], "plain": [1, 40, 40, 40]}
    )
    batch = Cell(64, "_blocks.4:1", 2)
    rows += measured(fakes, judge, {"fvfast-default": [1, 20, 20, 20]}, cell=batch)
    text = table.markdown(document(rows))
    end = f"{rows[1]['objective']:.2f}"
    assert f"| lucent 9 | 10.0 | 9.0-12.0 | 3.00x (2.75-4.00) |  | 0.078 | 0 | {end} |" in text
    # A loop of one's own is no peer, however fast.
    assert "fvfast-default is 3.00x (2.75-4.00) as fast as the fastest peer, lucent." in text
    assert "fvfast-default renders 1.21x as many features a second as with one image a step." in text
    assert "IPython.display replaced by an empty module." in text
    assert "Measured on a machine" in text
    assert "not quiet" not in text
    objectives = f"{rows[0]['objective']:.1f} / {rows[1]['objective']:.1f}"
    end = f"3.00x (2.75-4.00) | 3.00x (2.75-4.00) | lucent | {objectives} |"
    assert f"| 64 px, `_blocks.4:1`, fvfast-default | 33.0 | {end}" in table.compact(document(rows))


def test_figures_of_a_busy_machine_carry_a_warning(fakes, judge):
    rows = measured(fakes, judge, {"lucent": [1, 10, 9, 12], "plain": [1, 40, 25, 40]})
    assert "The machine was not quiet: the rounds of plain lie far apart" in table.markdown(document(rows))


# Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--only", "lucnet"], "unknown contender 'lucnet' (did you mean lucent"),
        (["--sizes", "16"], "sizes must be 64 to 1024 px, not 16"),
        (["--steps", "4"], "steps must be 8 or more, not 4"),
        (["--rounds", "0"], "rounds must be 1 or more, not 0"),
        (["--threads", "999"], "the processors of this machine, not 999"),
        (["--seconds", "0"], "seconds must be above 0"),
        (["--device", "cdua"], "device 'cdua' cannot be used here"),
        (["--layers", "_blocks.1O:3"], "(did you mean _blocks.1"),
        (["--layers", "_blocks.10"], "'_blocks.10' is not one channel"),
        (["--batches", "5000"], "channels, too few for a batch of 5000"),
        (["--only", "horama", "--batches", "8"], "nobody takes part"),
        (["--only", "lucent"], "lucent is not set up: run python -m bench.peers.setup lucent"),
        (["--show", "--results", "nothing-of-the-kind"], "there is no bench/results/nothing-of-the-kind.json"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, judge, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(contenders, "HOME", tmp_path)
    monkeypatch.setattr(cli, "Judge", lambda: judge)
    monkeypatch.setattr(sys, "argv", ["bench.peers", *words])
    assert cli.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("peers: ")
    assert err.count("\n") == 1
    assert sentence in err


# What the work is ------------------------------------------------------------------------------------------


def test_the_judge_reads_the_unmodified_network(judge):
    image = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    net = task.network("cpu")
    kept = task.kept_outputs(net.get_submodule("_blocks.10"))
    with torch.no_grad():
        logits = net(task.normalise(image))
    layer, channel = judge.feature("_blocks.10:3")
    wanted = [kept[0][0, channel].mean().item(), kept[0][1, channel + 1].mean().item()]
    assert judge(image, layer, (channel, channel + 1)) == pytest.approx(wanted, rel=1e-4)
    name, daisy = judge.feature("logits:daisy")
    assert judge(image, name, (daisy, 0)) == pytest.approx([logits[0, daisy].item(), logits[1, 0].item()], rel=1e-4)


def test_workers_share_fvfasts_network_and_normalisation():
    model = models.load()
    for name, value in task.network("cpu").state_dict().items():
        assert torch.equal(value, model.module.state_dict()[name])
    assert model.mean == (task.MEAN,) * 3
    assert model.std == (task.STD,) * 3
    assert model.size == task.NATIVE
    # Peers name the module that puts out the logits.
    kept = task.kept_outputs(model.module.get_submodule(task.LOGITS_MODULE))
    with torch.no_grad():
        output = model.module.eval()(torch.zeros(1, 3, 64, 64))
    assert output is kept[0]


@pytest.mark.parametrize("name", ["plain", "fvfast-default", "fvfast-lucent"])
def test_a_loop_climbs(name, judge, tmp_path):
    canvas = tmp_path / "canvas.npy"
    threads = torch.get_num_threads()
    try:
        told = worker.answer(CONTENDERS[name], Task("_blocks.4", (1, 3), 64, 8, 0, "cpu", 1, str(canvas)))
    finally:
        torch.set_num_threads(threads)
    images = torch.from_numpy(np.load(canvas))
    assert images.shape == (2, 3, 64, 64)
    assert 0 <= images.min() < images.max() <= 1
    before = judge(torch.full((2, 3, 64, 64), 0.5), "_blocks.4", (1, 3))
    assert all(end > start for end, start in zip(judge(images, "_blocks.4", (1, 3)), before, strict=True))
    assert 8 / told["seconds"] < told["steps_per_s"] * 1.01  # the loop is a part of the call
    assert 1e8 < told["peak_bytes"] < 1e11


def test_a_stand_in_is_imported_and_refuses_to_work(tmp_path, monkeypatch):
    setup.write_stand_in(tmp_path, "imaginary.plotting", "horama")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("imaginary.plotting")
    with pytest.raises(NotImplementedError, match=r"imaginary.plotting is an empty stand-in here: horama .* use show"):
        module.show()
    monkeypatch.delitem(sys.modules, "imaginary")
    monkeypatch.delitem(sys.modules, "imaginary.plotting")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, contender in CONTENDERS.items() if contender.requirements])
def test_a_peer_is_set_up_and_runs(name, judge, tmp_path, monkeypatch):
    monkeypatch.setattr(contenders, "HOME", tmp_path)
    contender = CONTENDERS[name]
    assert setup.set_up(contender)
    assert not setup.set_up(contender)  # there already
    settings = Settings(steps=8, rounds=1, threads=1, device="cpu", seconds=9.0)
    (row,) = driver.measure(Cell(64, "_blocks.4:1", 1), [contender], settings, judge, lambda *_: None)
    assert row["version"] == contender.requirements[0].partition("==")[2]
    assert row["steps_per_s"] > 0
    grey = judge(torch.full((1, 3, 64, 64), 0.5), "_blocks.4", (1,))
    assert row["objective"] > grey[0]
