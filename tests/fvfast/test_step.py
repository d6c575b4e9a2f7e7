"""A step and the loop around it: the same code that a GPU captures and replays, run eagerly."""

import gc
import json
import os
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

from fvfast import objectives as o
from fvfast import session, tracing
from fvfast.errors import FvfastError
from fvfast.graph import record
from fvfast.images import Fourier, Frame
from fvfast.layers import Tap
from fvfast.memory import images_that_fit
from fvfast.optimize import STRIDE, ascend
from fvfast.prepare import prepare
from fvfast.pristine import pristine
from fvfast.recipes import Recipe
from fvfast.rendering import render
from fvfast.stem import widen
from fvfast.step import Batch, Step
from fvfast.views import Views

SIZE = 24
MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])


class Net(nn.Module):
    """A stem, a ReLU and an odd second layer: enough for gradients that depend on where and what is seen."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.act = nn.ReLU()
        self.out = nn.Conv2d(6, 4, 3, stride=2)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, x):
        return self.out(self.act(self.stem(x)))


def fourier_batch(count=2, steps=8, **options):
    recipe = Recipe("r", sd=0.3, views=Views(jitter=5, zoom=(0.7, 1.2), stretch=1.2, shear=12))
    frame = Frame(SIZE, SIZE, MEAN, STD, torch.float32, torch.device("cpu"), options.pop("channels", 3))
    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    noise = torch.stack([Fourier.noise(SIZE, g) for g in generators])
    table = torch.stack([recipe.views.draw(steps, g, SIZE, SIZE) for g in generators], 1)
    return Batch(
        image=Fourier([recipe] * count, noise, frame),
        objectives=[(o.channel("out", 1), 1), (o.channel("stem", 2), count - 1)],
        table=table,
        lr=torch.linspace(0.02, 0.05, count),
        rows=list(range(count)),
        **options,
    )


@pytest.fixture
def tap():
    module = pristine(Net(), torch.device("cpu"))
    return prepare(module, tracing.trace(module, SIZE), ["out", "stem"], SIZE, torch.float32)


def never():
    return False


def test_the_fused_step_is_the_step_by_autograd(tap):
    fused, plain = fourier_batch(), fourier_batch()
    one, other = Step(fused, tap), Step(plain, tap)
    other._advance = Step._by_autograd
    for _ in range(8):
        one()
        other()
    # Both are float32 on the same formulas; Adam divides by small numbers where a gradient is small.
    torch.testing.assert_close(one.history, other.history, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused.image.canvas(), plain.image.canvas(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("options", [{}, {"clip": 1.0}], ids=["fused", "by autograd"])
def test_a_steps_memory_is_given_back_with_the_step(tap, options):
    gc.disable()  # a cycle would wait for it, and a GPU's memory runs out before that
    try:
        step = Step(fourier_batch(**options), tap)
        step()
        moments = weakref.ref(step.exp_avg)
        del step
        assert moments() is None
    finally:
        gc.enable()


def test_each_step_looks_up_its_own_views(tap):
    batch = fourier_batch(steps=5)
    step = Step(batch, tap)
    seen = []
    for number in range(5):
        assert step.count.item() == number
        before = batch.image.canvas().detach()
        expected = batch.image.view(batch.table[number]).detach()
        step()
        assert not batch.image.canvas().equal(before)
        with torch.no_grad():
            activations = tap(expected, ["out", "stem"])
        # The history's row is the objective of this step's view, before this step's update.
        expected_value = torch.stack([activations["out"][0, 1].mean(), activations["stem"][1, 2].mean()])
        torch.testing.assert_close(step.history[number], expected_value, rtol=1e-4, atol=1e-5)
        seen.append(step.history[number])
    assert step.history.isfinite().all()


def test_reset_undoes_a_warm_up_to_the_bit(tap):
    fresh, warmed = fourier_batch(), fourier_batch()
    step = Step(warmed, tap)
    for _ in range(3):
        step()
    step.reset()
    assert step.history.isnan().all()
    again = Step(fresh, tap)
    for _ in range(8):
        step()
        again()
    assert step.history.equal(again.history)
    assert warmed.image.parameter.equal(fresh.image.parameter)


class Recording:
    """Stands where `graph.record` stands: warms up, resets, and counts what the loop asks for."""

    def __init__(self):
        self.replays, self.released = 0, 0

    def __call__(self, step, notify):
        for _ in range(3):
            step()
        step.reset()
        self.step = step
        return self

    def advance(self):
        self.replays += 1
        self.step()

    def take_over(self, batch):
        return False

    def release(self):
        self.released += 1


def test_a_recorded_loop_takes_the_same_steps_and_releases_its_graph(tap):
    plain, recorded = fourier_batch(), fourier_batch()
    recording = Recording()
    ascend(plain, tap, never)
    ascend(recorded, tap, never, recorder=recording)
    assert (recording.replays, recording.released) == (8, 1)
    assert recorded.history.equal(plain.history)


def test_a_loop_that_is_stopped_or_fails_releases_its_graph_too(tap):
    recording = Recording()
    stopped = fourier_batch()
    ascend(stopped, tap, lambda: stopped.done == 2, recorder=recording)
    assert (stopped.done, recording.released) == (2, 1)
    broken = fourier_batch()
    broken.lr = torch.full((2,), float("inf"))
    with pytest.raises(FvfastError, match=r"became nan at step 2"):
        ascend(broken, tap, never, recorder=recording)
    assert recording.released == 2


class FakeGraph:
    """Stands where `graph.CudaGraph` stands. A capture runs nothing; a replay runs what was captured."""

    def __init__(self, refusal=None):
        self.refusal, self.calls = refusal, []

    def __call__(self, device, tuned):
        assert (device.type, tuned) == ("cpu", False)
        return self

    def run(self, step, times):
        self.calls.append(f"run {times}")
        for _ in range(times):
            step()

    def capture(self, step):
        self.calls.append("capture")
        if self.refusal:
            step()  # as far as it came before it was refused
            raise self.refusal
        return step

    def release(self):
        self.calls.append("release")

    def wait(self):
        self.calls.append("wait")


REFUSAL = RuntimeError("operation not permitted when stream is capturing\nmore")
LATER = RuntimeError("operation failed due to a previous error during capture")  # so the end of a broken one says
LATER.__context__ = REFUSAL


@pytest.mark.parametrize("refusal", [None, REFUSAL, LATER])
def test_recording_warms_up_captures_and_starts_from_the_start(tap, refusal):
    plain, recorded = fourier_batch(), fourier_batch()
    ascend(plain, tap, never)
    fake, said = FakeGraph(refusal), []
    ascend(recorded, tap, never, said.append, lambda step, notify: record(step, notify, fake))
    assert recorded.history.equal(plain.history)
    assert recorded.image.parameter.equal(plain.image.parameter)
    assert fake.calls[:2] == ["run 3", "capture"]
    assert set(recorded.seconds) == {"warm-up", "capture", "loop"}
    if refusal:
        assert said == [
            "this network cannot be captured as a CUDA graph (operation not permitted when stream is capturing); "
            "running it step by step"
        ]
        assert "release" not in fake.calls  # nothing was captured
    else:
        assert said == []
        assert fake.calls[-1] == "release"


def test_a_render_shorter_than_the_warm_up_can_be_recorded(tap):
    batch = fourier_batch(steps=2)
    fake = FakeGraph()
    ascend(batch, tap, never, recorder=lambda step, notify: record(step, notify, fake))
    assert fake.calls[0] == "run 2"
    assert batch.history.isfinite().all()


def test_memory_that_runs_out_inside_a_capture_is_not_taken_for_a_refusal(tap):
    fake = FakeGraph(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        ascend(fourier_batch(), tap, never, recorder=lambda step, notify: record(step, notify, fake))


def test_snapshots_fall_on_their_steps_whatever_the_stride(tap, monkeypatch):
    plain, strided = fourier_batch(every=3), fourier_batch(every=3)
    ascend(plain, tap, never)
    monkeypatch.setattr("fvfast.optimize.stride_on", lambda device: STRIDE)
    ascend(strided, tap, never)
    assert [step for step, _ in strided.snapshots] == [3, 6]
    for (_, one), (_, other) in zip(plain.snapshots, strided.snapshots, strict=True):
        assert one.equal(other)
    assert strided.done == 8


def test_a_stride_of_steps_names_the_step_that_was_no_number(tap, monkeypatch):
    monkeypatch.setattr("fvfast.optimize.stride_on", lambda device: STRIDE)
    batch = fourier_batch()
    batch.lr = torch.tensor([0.05, float("nan")])
    with pytest.raises(FvfastError, match=r"stem:2 became nan at step 2"):
        ascend(batch, tap, never)


def test_a_wide_stem_sees_the_same_image():
    module = pristine(Net(), torch.device("cpu"))
    found = tracing.trace(module, SIZE)
    wide = prepare(module, found, ["out", "stem"], SIZE, torch.bfloat16, wide=True)
    assert wide.channels == 4
    narrow = prepare(module, found, ["out", "stem"], SIZE, torch.float32)
    four, three = fourier_batch(channels=4), fourier_batch()
    view = four.image.view(four.table[0])
    assert view.shape == (2, 4, SIZE, SIZE)
    assert view.is_contiguous(memory_format=torch.channels_last)
    assert not view[:, 3].any()
    torch.testing.assert_close(view[:, :3], three.image.view(three.table[0]))
    values, exact = wide(view.bfloat16()), narrow(view[:, :3])
    for name in ("out", "stem"):
        error = (values[name].float() - exact[name]).norm() / exact[name].norm()
        assert error < 0.02  # bfloat16 keeps 8 bits: 2^-9 a rounding, a few of them a layer


class Reader(Net):
    """Looks at single channels of its input before the stem, as torchvision's GoogLeNet can."""

    def forward(self, x):
        return super().forward(torch.cat([x[:, :1] * 2, x[:, 1:3]], 1))


def test_a_stem_is_left_alone_where_the_network_reads_channels_itself():
    module = pristine(Reader(), torch.device("cpu"))
    found = tracing.trace(module, SIZE)
    weight = module.get_submodule("stem").weight
    assert not widen(module, found, ["out"], SIZE)
    assert module.get_submodule("stem").weight is weight
    with Tap(module, found, ["out"]) as tap, torch.no_grad():
        assert tap(torch.zeros(1, 3, SIZE, SIZE))["out"].shape[1] == 4


@pytest.mark.parametrize(
    ("free", "one", "two", "expected"),
    [
        (1000, 100, 180, 11),  # 80 each and 20 besides: (900 - 20) / 80
        (1000, 100, 100, 801),  # the second takes nothing: counted as a byte each, 99 besides
        (50, 100, 180, 1),  # even one is too many; it is tried all the same
        (10_000, 500, 600, 86),
    ],
)
def test_how_many_images_fit(free, one, two, expected):
    assert images_that_fit(free, one, two) == expected


def test_the_probe_bounds_the_batch_and_no_image_is_lost(tiny, monkeypatch):
    """The GPU's way of batching, with its memory measured as room for two."""
    sizes = []
    make = session.Session._batch

    def note(self, images):
        sizes.append(len(images))
        return make(self, images)

    monkeypatch.setattr(session.Session, "_batch", note)
    monkeypatch.setattr(session, "probes", lambda device: True)
    monkeypatch.setattr(session, "largest_batch", lambda make, tap, device: 2)
    result = render(tiny, [f"logits:{i}" for i in range(5)], steps=2)
    assert result.targets == ["logits:ant", "logits:bee", "logits:2", "logits:3", "logits:red fox"]
    assert max(sizes) == 2
    alone = [render(tiny, f"logits:{i}", steps=2).images[0] for i in range(5)]
    # Batched convolutions sum in another order than single ones.
    torch.testing.assert_close(result.images, torch.stack(alone), rtol=0, atol=1e-3)


def test_stages_add_up_to_the_time_taken(tiny):
    result = render(tiny, "logits:0", steps=3)
    assert set(result.stages) == {"model", "prepare", "warm-up", "capture", "loop", "judge"}
    assert result.stages["warm-up"] == result.stages["capture"] == 0  # nothing is captured on a CPU
    assert 0 < result.stages["loop"] <= result.seconds


INTERPRETED = """
import json, sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from tests.fvfast.test_step import Net, SIZE, fourier_batch, never
from fvfast import tracing
from fvfast.optimize import ascend
from fvfast.prepare import prepare
from fvfast.pristine import pristine
module = pristine(Net(), torch.device("cpu"))
tap = prepare(module, tracing.trace(module, SIZE), ["out", "stem"], SIZE, torch.float32)
batch = fourier_batch()
ascend(batch, tap, never)
import fvfast_kernels
print(json.dumps({{
    "backend": fvfast_kernels.describe("cpu")["backend"],
    "history": batch.history.tolist(),
    "canvas": batch.image.parameter.detach().flatten().tolist(),
}}))
"""


def test_the_kernels_inside_the_loop_take_the_steps_of_the_reference(tap):
    """Eight steps of the loop with every kernel interpreted, against the same eight by the reference path."""
    pytest.importorskip("triton", reason="needs triton, for its interpreter")
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    code = INTERPRETED.format(paths=[root, *sys.path])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "FVFAST_KERNELS": "triton"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == "triton"
    reference = fourier_batch()
    ascend(reference, tap, never)
    # Exact mode is good to 2e-6 a view (tests/kernels); Adam carries that on through eight steps.
    history = torch.tensor(found["history"])
    torch.testing.assert_close(history, reference.history, rtol=1e-3, atol=1e-4)
    spectrum = torch.tensor(found["canvas"]).view_as(reference.image.parameter)
    error = (spectrum - reference.image.parameter).norm() / reference.image.parameter.norm()
    assert error < 1e-2  # steps are of size lr whatever the gradient's size: one that is nearly 0 may turn its sign
