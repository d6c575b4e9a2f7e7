"""Batches that take over from each other what was captured for the first: the same results, and one capture."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fvfast import objectives as o
from fvfast.forms import Form
from fvfast.generators import Generator
from fvfast.graph import record
from fvfast.job import Job
from fvfast.models import Model
from fvfast.optimize import ascend, run
from fvfast.plans import ImagePlan
from fvfast.prepare import prepare
from fvfast.recipes import RECIPES
from fvfast.recordings import Recordings
from fvfast.session import Session

SIZE = 32
STILL = replace(RECIPES["default"], steps=5, redirect=0)


class Net(nn.Module):
    """Two layers, the second behind a ReLU."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.out = nn.Conv2d(8, 6, 3, stride=2)

    def forward(self, x):
        return self.out(self.act(self.stem(x))).mean((2, 3))


class Painter(nn.Module):
    def forward(self, z):
        return torch.sigmoid(z.reshape(-1, 3, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3))


class Graphs:
    """Stands where CUDA graphs stand: counts captures, and replays by running."""

    def __init__(self):
        self.captures, self.released, self.runs = 0, 0, 0

    def __call__(self, device, tuned):
        return self

    def run(self, step, times):
        self.runs += times
        for _ in range(times):
            step()

    def capture(self, step):
        self.captures += 1
        return step

    def release(self):
        self.released += 1

    def wait(self):
        pass


def never():
    return False


def batches_of(job, targets, recipe, size):
    """Batches of `size`, and the network made fast for all of them."""
    plan = [
        ImagePlan(row, one, replace(recipe, lr=0.05 + row / 100), row)
        for row, target in enumerate(targets)
        for one in job.objectives(target)
    ]
    names = sorted({name for image in plan for name in image.objective.layers})
    session = Session(job, plan, size, None, None, None, None, lambda _: None)
    return list(session.batches()), prepare(job.module, job.layers, names, job.view, job.dtype)


def both(targets, recipe=STILL, size=2, net=None, generator=None, frames=frozenset()):
    """(batches with a step of their own each, the same with recordings, the captures of the latter)."""
    job = Job(Model("net", "none", net or Net(), size=SIZE), torch.device("cpu"), torch.float32, SIZE, None)
    if generator:
        job.bring("generator:painter", generator)
    apart, fast = batches_of(job, targets, recipe, size)
    together, _ = batches_of(job, targets, recipe, size)
    graphs, recordings = Graphs(), Recordings()
    for batch in apart:
        ascend(batch, fast, never)
    for batch in together:
        batch.frames_at = frames
        ascend(batch, fast, never, recorder=lambda s, say: record(s, say, graphs), recordings=recordings)
    recordings.close()
    for one, other in zip(apart, together, strict=True):
        assert one.history.isfinite().all()
        assert one.history.equal(other.history)
        assert one.image.canvas().equal(other.image.canvas())
        mine, theirs = one.image.alpha(), other.image.alpha()
        assert mine is theirs if mine is None or theirs is None else mine.equal(theirs)
    return apart, together, graphs


VECTORS = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "targets",
    [
        [o.channel("out", i) for i in (1, 5, 0, 3)],
        [o.neuron("out", 1), o.neuron("out", 2, 3, 4), o.neuron("out", 5, 0, 1), o.neuron("out", 0)],
        [o.direction("out", vector) for vector in VECTORS],
        [o.channel("out", 1), o.channel("stem", 2), o.channel("stem", 7), o.channel("out", 4)],  # in another order
        [o.logit(1), o.logit(3), o.logit(0), o.logit(2)],
        [o.layer("stem")] * 4,
    ],
    ids=["channels", "neurons", "directions", "layers", "logits", "whole layers"],
)
def test_equal_batches_are_captured_once_and_end_as_if_captured_apart(targets):
    apart, _, graphs = both(targets)
    assert len(apart) == 2
    assert graphs.captures == 1
    assert not apart[0].history.equal(apart[1].history)


def test_eight_equal_batches_are_captured_once():
    _, _, graphs = both([f"out:{i % 6}" for i in range(16)])
    assert graphs.captures == 1


@pytest.mark.parametrize(
    "recipe",
    [
        replace(STILL, image="pixel"),
        replace(STILL, image="phase"),
        replace(STILL, image="pyramid"),
        replace(STILL, image="cppn"),
        replace(STILL, image="generator:painter"),
        replace(STILL, alpha=1.0),
        replace(STILL, patience=2),
        replace(RECIPES["lucent"], steps=4, redirect=0),
    ],
    ids=["pixel", "phase", "pyramid", "cppn", "generator", "alpha", "patience", "lucent"],
)
def test_every_parameterisation_can_be_taken_over(recipe):
    painter = Generator(Painter(), (192,), name="painter")
    _, _, graphs = both([f"out:{i}" for i in range(4)], recipe, generator=painter)
    assert graphs.captures == 1


@pytest.mark.parametrize(
    ("targets", "sizes"),
    [
        (["out:1", "out:2", "stem:1", "stem:2"], 2),
        (["out:1", "out:2", "out:3"], 2),
        ([o.channel("out", i) - 0.1 * o.l2() for i in range(4)], 2),
    ],
    ids=["other layers", "a smaller batch", "what has no numbers on the device"],
)
def test_what_is_not_alike_is_captured_anew(targets, sizes):
    _, _, graphs = both(targets, size=sizes)
    assert graphs.captures == 2
    assert graphs.released == 2


@pytest.mark.parametrize("order", [(3, 4, 1, 5, 0, 6), (5, 1, 3, 4, 2, 6)])
def test_only_what_is_dead_in_its_own_batch_is_redirected_and_only_at_first(order):
    recipe = replace(STILL, steps=6, redirect=3)
    batches, _, graphs = both([o.channel("act", i) for i in order], recipe, net=Dead())
    assert len(batches) == 3
    # One capture with redirection and one without, whichever batch asks for which first.
    assert graphs.captures == 2


class Dead(Net):
    """Channels 1 and 2 of `act` begin on the flat side of the ReLU."""

    def __init__(self):
        super().__init__()
        self.stem.get_parameter("bias").data[1:3] -= 9


def test_a_batch_that_is_done_keeps_its_image_while_the_next_is_made():
    job = Job(Model("net", "none", Net(), size=SIZE), torch.device("cpu"), torch.float32, SIZE, None)
    (first, second), fast = batches_of(job, [f"out:{i}" for i in range(4)], STILL, 2)
    recordings = Recordings()

    def recorder(step, say):
        return record(step, say, Graphs())

    ascend(first, fast, never, recorder=recorder, recordings=recordings)
    before = first.image.canvas()
    ascend(second, fast, never, recorder=recorder, recordings=recordings)
    assert first.image.canvas().equal(before)
    assert not second.image.canvas().equal(before)


def test_another_network_frees_what_was_recorded_for_the_one_before():
    job = Job(Model("net", "none", Net(), size=SIZE), torch.device("cpu"), torch.float32, SIZE, None)
    (first, second), fast = batches_of(job, [f"out:{i}" for i in range(4)], STILL, 2)
    recordings, graphs = Recordings(), Graphs()

    def recorder(step, say):
        return record(step, say, graphs)

    assert recordings.fast("a", lambda: fast) is recordings.fast("a", lambda: pytest.fail("made twice"))
    ascend(first, fast, never, recorder=recorder, recordings=recordings)
    recordings.fits["x"] = 3
    other = prepare(job.module, job.layers, ["out"], job.view, job.dtype)
    assert recordings.fast("b", lambda: other) is other
    assert (graphs.released, recordings.fits) == (1, {})
    assert not fast.folded._handles  # its hooks are gone
    ascend(second, other, never, recorder=recorder, recordings=recordings)
    assert graphs.captures == 2


def test_a_step_that_cannot_be_captured_is_asked_once_and_taken_over_all_the_same():
    class Refusing(Graphs):
        def capture(self, step):
            self.captures += 1
            raise RuntimeError("operation not permitted when stream is capturing")

    job = Job(Model("net", "none", Net(), size=SIZE), torch.device("cpu"), torch.float32, SIZE, None)
    batches, fast = batches_of(job, [f"out:{i}" for i in range(4)], replace(STILL, redirect=2), 2)
    graphs, said, recordings = Refusing(), [], Recordings()
    for batch in batches:
        ascend(batch, fast, never, said.append, lambda s, say: record(s, say, graphs), recordings)
    recordings.close()
    assert (graphs.captures, len(said)) == (1, 1)
    again, fast = batches_of(job, [f"out:{i}" for i in range(4)], replace(STILL, redirect=2), 2)
    run(again, fast, workers=1, threads=1, poll=never)
    assert all(one.history.equal(other.history) for one, other in zip(batches, again, strict=True))


def test_the_graph_is_tuned_where_the_networks_form_is():
    job = Job(Model("net", "none", Net(), size=SIZE), torch.device("cpu"), torch.float32, SIZE, None)
    (batch,), fast = batches_of(job, ["out:1", "out:2"], STILL, 2)
    fast.forms[("out",), 2] = Form("tuned")
    told = []

    def graphs(device, tuned):
        told.append(tuned)
        return Graphs()

    ascend(batch, fast, never, recorder=lambda s, say: record(s, say, graphs))
    assert told == [True]
