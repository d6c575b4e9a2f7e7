import os
import threading
import time

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fvfast import objectives as o
from fvfast import optimize, tracing
from fvfast.errors import FvfastError
from fvfast.images import Frame, Pixel
from fvfast.optimize import Batch, OutOfMemory, ascend, crew_size, run
from fvfast.prepare import prepare
from fvfast.pristine import pristine
from fvfast.recipes import Recipe
from fvfast.views import identity

SIZE = 16


class Mean(nn.Module):
    """Channel c of `out` is c + 1 times the image, so that its objective is known."""

    def __init__(self, before=None):
        super().__init__()
        self.before = before or (lambda x: None)
        self.out = nn.Conv2d(3, 3, 1, bias=False)
        self.out.weight.data.copy_((torch.arange(1.0, 4)[:, None] * torch.ones(3, 3) / 3)[..., None, None])

    def forward(self, x):
        self.before(x)
        return self.out(x + 0 * torch.rand(()))  # not recorded, so that `before` runs at every step


def batch(objectives, steps=5, lr=0.1, rows=None, **options):
    """Pixels in a batch as large as the objectives say; the network sees the canvas itself."""
    count = sum(n for _, n in objectives)
    frame = Frame(SIZE, SIZE, torch.zeros(3), torch.ones(3), torch.float32, torch.device("cpu"))
    start = torch.stack([Pixel.noise(SIZE, torch.Generator().manual_seed(i)) for i in range(count)])
    return Batch(
        image=Pixel([Recipe("p", image="pixel", sd=0.3, gain=1.0, decorrelate=False)] * count, start, frame),
        objectives=objectives,
        table=identity(steps)[:, None].expand(steps, count, 6),
        lr=torch.full((count,), lr),
        rows=rows or list(range(count)),
        **options,
    )


def tap_on(net, names=("out",)):
    module = pristine(net, torch.device("cpu"))
    return prepare(module, tracing.trace(module, SIZE), names, SIZE, torch.float32)


def never():
    return False


# ascend ----------------------------------------------------------------------------------------------------


def test_the_history_is_the_objective_of_each_view_and_it_rises():
    one = batch([(o.channel("out", 1), 1)], steps=20)
    before = one.image.canvas().detach().clone()
    with tap_on(Mean()) as tap:
        ascend(one, tap, never)
    assert one.history.shape == (20, 1)
    assert one.done == 20
    # Channel 1 is twice the mean of the image.
    assert one.history[0, 0].item() == pytest.approx(2 * before.mean().item(), rel=1e-5)
    assert (one.history.diff(dim=0) > 0).all()
    assert one.image.canvas().mean() > before.mean() + 0.1


def test_the_steps_are_adams():
    """Against torch.optim.Adam on the same problem, written out."""
    one = batch([(o.channel("out", 0), 1)], steps=6, lr=0.05)
    parameter = one.image.parameter.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([parameter], lr=0.05)
    values = []
    for _ in range(6):
        value = torch.sigmoid(parameter).mean()
        values.append(value.item())
        optimizer.zero_grad()
        (-value).backward()
        optimizer.step()
    with tap_on(Mean()) as tap:
        ascend(one, tap, never)
    assert one.history[:, 0].tolist() == pytest.approx(values, rel=1e-5)
    # float32 gradients of 1e-4, normalised: 1e-3 of a step of 0.05 at the very most
    torch.testing.assert_close(one.image.parameter, parameter, rtol=0, atol=5e-5)


def test_every_image_has_its_own_learning_rate():
    both = batch([(o.channel("out", 0), 2)], steps=1)
    both.lr = torch.tensor([0.1, 0.001])
    start = both.image.parameter.detach().clone()
    with tap_on(Mean()) as tap:
        ascend(both, tap, never)
    moved = (both.image.parameter - start).abs().amax((1, 2, 3))
    # Adam's first step is lr * g / (|g| + eps); here g is about 3e-4 and eps 1e-8
    assert moved.tolist() == pytest.approx([0.1, 0.001], rel=1e-3)


def test_clipping_bounds_each_images_gradient():
    """Adam forgets a constant factor; only its eps tells. A gradient of norm 1e-8 moves less than a full step."""
    one, two = (batch([(o.channel("out", 0), 2)], steps=1, clip=clip) for clip in (None, 1e-8))
    start = one.image.parameter.detach().clone()
    with tap_on(Mean()) as tap:
        ascend(one, tap, never)
        ascend(two, tap, never)
    free, clipped = (((b.image.parameter - start).abs().amax((1, 2, 3))) for b in (one, two))
    assert (free > 0.099).all()
    # 768 values of norm 1e-8 are 3.6e-10 each: lr * g / (g + 1e-8) = 0.0035
    assert clipped.tolist() == pytest.approx([0.0035, 0.0035], rel=0.1)


def test_snapshots_are_kept_every_so_many_steps():
    one = batch([(o.channel("out", 0), 2)], steps=7, every=3)
    with tap_on(Mean()) as tap:
        ascend(one, tap, never)
    assert [step for step, _ in one.snapshots] == [3, 6]
    assert all(shot.shape == (2, 3, SIZE, SIZE) for _, shot in one.snapshots)
    shorter = batch([(o.channel("out", 0), 2)], steps=3)
    with tap_on(Mean()) as tap:
        ascend(shorter, tap, never)
    assert one.snapshots[0][1].equal(shorter.image.canvas().detach())
    assert not one.snapshots[0][1].equal(one.snapshots[1][1])


def test_a_stop_is_heard_between_steps():
    one = batch([(o.channel("out", 0), 1)], steps=50)
    with tap_on(Mean()) as tap:
        ascend(one, tap, lambda: one.done == 4)
    assert one.done == 4
    assert one.history[:4].isfinite().all()
    assert one.history[4:].isnan().all()


def test_an_objective_on_the_image_alone_needs_no_network():
    one = batch([(-1 * o.l2(), 1)], steps=30, lr=0.05)
    before = (one.image.canvas() - 0.5).abs().mean()
    with tap_on(Mean(), ()) as tap:
        ascend(one, tap, never)
    assert (one.image.canvas() - 0.5).abs().mean() < 0.2 * before


def test_an_objective_that_is_no_number_names_itself_and_its_step(nets):
    one = batch([(o.channel("root", 0), 1), (o.channel("root", 1), 1)])
    with tap_on(nets.Exploding(), ["root"]) as tap, pytest.raises(FvfastError) as caught:
        ascend(one, tap, never)
    assert str(caught.value) == ("the objective root:1 became nan at step 1: try a smaller --lr, or --dtype float32")


def test_an_objective_that_does_not_see_the_image(nets):
    one = batch([(o.channel("out", 1), 1)])
    with tap_on(nets.Flat()) as tap, pytest.raises(FvfastError) as caught:
        ascend(one, tap, never)
    assert "the objective out:1 does not depend on the image: there is nothing to optimise" in str(caught.value)


# run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_every_batch_is_run_and_comes_back_in_order(workers):
    batches = [batch([(o.channel("out", i % 3), 1)], rows=[4 - i]) for i in range(5)]
    with tap_on(Mean()) as tap:
        done = run(batches, tap, workers=workers, threads=1, poll=never)
    assert [b.rows for b in done] == [[0], [1], [2], [3], [4]]
    assert all(b.done == b.steps for b in done)


def test_how_many_workers_there_are_changes_no_bit():
    canvases = []
    for workers in (1, 2, 4):
        batches = [batch([(o.channel("out", i % 3), 1)], rows=[i]) for i in range(5)]
        with tap_on(Mean()) as tap:
            canvases.append(
                [b.image.canvas().detach() for b in run(batches, tap, workers=workers, threads=1, poll=never)]
            )
    for other in canvases[1:]:
        assert all(a.equal(b) for a, b in zip(canvases[0], other, strict=True))


def test_stopping_ends_all_after_their_step_and_begins_no_more():
    net = Mean(lambda x: time.sleep(0.01))
    batches = [batch([(o.channel("out", 0), 1)], steps=10_000, rows=[i]) for i in range(4)]
    polls = []

    def poll():
        polls.append(sum(b.done for b in batches))
        return min(b.done for b in batches[:2]) >= 3

    with tap_on(net) as tap:
        started = time.perf_counter()
        begun = run(batches, tap, workers=2, threads=1, poll=poll, interval=0.02)
    assert time.perf_counter() - started < 30
    assert [b.rows for b in begun] == [[0], [1]]
    assert all(0 < b.done < 10_000 for b in begun)
    assert polls == sorted(polls)  # progress never goes back


def test_a_failing_objective_does_not_stop_the_others(nets):
    bad, good = batch([(o.channel("root", 1), 1)], rows=[0]), batch([(o.channel("root", 0), 1)], rows=[1])
    with tap_on(nets.Exploding(), ["root"]) as tap:
        begun = run([bad, good], tap, workers=1, threads=1, poll=never)
    assert [b.rows for b in begun] == [[0], [1]]
    assert isinstance(bad.error, FvfastError)
    assert good.error is None
    assert good.done == good.steps


def failing_after(calls, error):
    """A network that raises `error` once the loop (not the preparation) has run it `calls` times."""
    # Of the module, which every copy of the network shares; what lies in the closure each copy has for itself.
    CALLS.clear()

    def before(x):
        if x.requires_grad and _get_current_dispatch_mode() is None:  # else it is only being recorded
            CALLS.append(1)
            if len(CALLS) > calls:
                raise error

    return Mean(before)


CALLS: list[int] = []


def test_any_other_error_reaches_the_caller_and_stops_the_others():
    batches = [batch([(o.channel("out", 0), 1)], rows=[i]) for i in range(3)]
    with tap_on(failing_after(2, LookupError("a bug"))) as tap, pytest.raises(LookupError, match="a bug"):
        run(batches, tap, workers=1, threads=1, poll=never)
    assert [b.done for b in batches] == [2, 0, 0]


def test_memory_that_runs_out_names_its_batch():
    batches = [batch([(o.channel("out", 0), 1)], rows=[i]) for i in range(2)]
    with tap_on(failing_after(7, MemoryError())) as tap, pytest.raises(OutOfMemory) as caught:
        run(batches, tap, workers=1, threads=1, poll=never)
    assert caught.value.batch is batches[1]


@pytest.mark.parametrize("possible", [0, 1])
def test_where_no_more_threads_can_start_those_that_run_do_all(monkeypatch, possible):
    started = []
    start = threading.Thread.start

    def sparing(thread):
        if len(started) == possible:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    batches = [batch([(o.channel("out", 0), 1)], rows=[i]) for i in range(3)]
    with tap_on(Mean()) as tap:
        monkeypatch.setattr(threading.Thread, "start", sparing)
        if possible:
            assert len(run(batches, tap, workers=2, threads=1, poll=never)) == 3
        else:
            with pytest.raises(OutOfMemory) as caught:
                run(batches, tap, workers=2, threads=1, poll=never)
            assert caught.value.batch is batches[0]
    assert all(b.done == (b.steps if possible else 0) for b in batches)


def test_an_error_in_the_poll_stops_the_workers():
    batches = [batch([(o.channel("out", 0), 1)], steps=10_000)]

    def poll():
        raise KeyboardInterrupt

    before = threading.active_count()
    with tap_on(Mean(lambda x: time.sleep(0.005))) as tap, pytest.raises(KeyboardInterrupt):
        run(batches, tap, workers=1, threads=1, poll=poll, interval=0.01)
    assert threading.active_count() == before
    assert batches[0].done < 10_000


def test_the_callers_threads_are_left_as_they_were():
    before = torch.get_num_threads()
    net = Mean(lambda x: CALLS.append(torch.get_num_threads()))
    with tap_on(net) as tap:
        CALLS.clear()
        run([batch([(o.channel("out", 0), 1)])], tap, workers=1, threads=before + 1, poll=never)
    assert set(CALLS) == {before + 1}
    assert torch.get_num_threads() == before


def test_gradients_are_on_inside_whatever_the_caller_does():
    with torch.no_grad(), tap_on(Mean()) as tap:
        (done,) = run([batch([(o.channel("out", 0), 1)])], tap, workers=1, threads=1, poll=never)
    assert done.done == 5


# The machine -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "threads", "expected"),
    [
        (1, None, (1, 1)),
        (2, None, (2, 1)),
        (4, None, (4, 1)),
        (8, None, (4, 2)),
        (16, None, (4, 4)),
        (64, None, (16, 4)),
        (8, 8, (1, 8)),
        (8, 3, (2, 3)),
        (2, 4, (1, 4)),
    ],
)
def test_how_the_processors_are_shared_out(monkeypatch, cores, threads, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert crew_size(threads) == expected


def test_the_allocators_setting_is_the_users_where_there_is_one(monkeypatch):
    asked = []
    monkeypatch.setattr(optimize.ctypes, "CDLL", lambda name: asked.append(name) or pytest.fail("called"))
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    optimize.keep_large_blocks()
    assert not asked


def test_another_c_library_is_left_alone(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setattr(optimize.ctypes, "CDLL", missing)
    assert optimize.keep_large_blocks() is None


def test_layers_of_names_each_layer_once():
    objectives = [o.channel("b", 1), o.channel("a", 1) + o.channel("b", 2), o.l2()]
    assert optimize.layers_of(objectives) == ["b", "a"]
