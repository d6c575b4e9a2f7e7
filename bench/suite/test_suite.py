"""What is timed. Each benchmark checks its result before it is timed, so that nothing wrong is ever fast."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fvfast_kernels import Buffers, synthesize_adjoint_adam_, synthesize_into

import fvfast
from fvfast.atlases import atlas
from fvfast.images import COLOUR, envelope
from fvfast.job import Job
from fvfast.optimize import keep_large_blocks
from fvfast.prepare import prepare
from fvfast.recipes import RECIPES
from fvfast.views import Views

LAYER = "_blocks.10"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _one_thread():
    """As the engine runs an image on a CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_large_blocks()
    yield
    torch.set_num_threads(threads)


def run(benchmark, step, title, baseline=None, rounds=30, each=1):
    """Time a step that has already been checked; on a GPU up to the end of its work."""

    def timed():
        step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.extra_info.update(title=title, baseline=baseline, each=each)
    benchmark.pedantic(timed, rounds=rounds, warmup_rounds=min(3, rounds))


# Everything outside the network, at whole-pixel shifts, so that irfft2 and roll are the same work ----------------


class Outside:
    """One image's view and update, by the engine's loop and as a user of torch.fft would write it."""

    def __init__(self, size):
        generator = torch.Generator().manual_seed(0)
        self.size = size
        self.spectrum = (torch.randn(1, 3, 2, size, size // 2 + 1, generator=generator) * 0.01).to(DEVICE)
        self.envelope = envelope("lucid", size, size, 1.0).to(DEVICE)
        self.views = Views(jitter=12).draw(64, generator, size, size)[:, None, :5].contiguous().to(DEVICE)
        self.gradient = torch.randn(1, 3, size, size, generator=generator).to(DEVICE)
        self.colour, self.mean, self.std = COLOUR.to(DEVICE), torch.full((3,), 0.45), torch.full((3,), 0.225)
        self.mean, self.std = self.mean.to(DEVICE), self.std.to(DEVICE)
        self.lr = torch.full((1,), 0.05, device=DEVICE)

    def loop(self, sheared):
        """The engine's: any view, no autograd, Adam in the adjoint."""
        self.views[..., 4] = 0.1 if sheared else 0.0
        how = {"colour": self.colour, "mean": self.mean, "std": self.std, "device": DEVICE, "layout": "nhwc"}
        buffers = Buffers.allocate(1, self.size, self.size, (self.size, self.size), **how)
        spectrum, moments = self.spectrum.clone(), (torch.zeros_like(self.spectrum), torch.zeros_like(self.spectrum))
        count = torch.zeros(1, dtype=torch.int32, device=DEVICE)

        def step():
            synthesize_into(buffers, spectrum, self.envelope, self.views, count)
            synthesize_adjoint_adam_(
                buffers, self.gradient, spectrum, *moments, self.lr, self.envelope, self.views, count
            )
            count.add_(1).remainder_(64)

        return step, spectrum

    def plain(self):
        """irfft2, whole-pixel jitter, colour, sigmoid, autograd, torch.optim.Adam."""
        spectrum = self.spectrum.clone().requires_grad_()
        optimizer = torch.optim.Adam([spectrum], lr=0.05)

        def step():
            planes = spectrum * self.envelope
            canvas = torch.fft.irfft2(torch.complex(planes[:, :, 0], planes[:, :, 1]), s=(self.size,) * 2, norm="ortho")
            mixed = torch.einsum("oc,bchw->bohw", self.colour, canvas.roll((5, -9), (2, 3)) * 0.25)
            view = (torch.sigmoid(mixed) - self.mean[:, None, None]) / self.std[:, None, None]
            optimizer.zero_grad()
            view.backward(self.gradient)
            optimizer.step()

        return step, spectrum


@pytest.mark.parametrize("size", [128, 224])
def test_outside_by_fft(benchmark, size):
    step, _ = Outside(size).plain()
    run(benchmark, step, f"outside the network, {size} px: torch.fft, whole-pixel jitter, autograd")


@pytest.mark.parametrize("size", [128, 224])
def test_outside_by_the_loop(benchmark, size):
    outside = Outside(size)
    outside.views[..., 0], outside.views[..., 1] = -5, 9  # roll(5, -9), to compare the first step
    (mine, ours), (theirs, truth) = outside.loop(sheared=False), outside.plain()
    mine()
    theirs()
    # Adam's first step is as long for every number: where a gradient is mere rounding, its direction is too.
    assert ((ours - truth).abs() > 1e-3).float().mean() < 1e-3
    step, _ = Outside(size).loop(sheared=True)
    title = f"outside the network, {size} px: fvfast, any shift, zoom and shear"
    run(benchmark, step, title, f"outside the network, {size} px: torch.fft, whole-pixel jitter, autograd")


# The network -------------------------------------------------------------------------------------------------------


class Network:
    """Forward, objective and gradient of a channel's mean, by the engine and by the network's own modules."""

    def __init__(self, size, dtype):
        job = Job(fvfast.load(), DEVICE, dtype, size, None)
        self.fast = prepare(job.module, job.layers, [LAYER], job.view, dtype)
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
        self.image = image.to(memory_format=torch.channels_last).requires_grad_()

    def step(self, function):
        def step():
            value = function(self.image, [LAYER])[LAYER][:, 3].float().mean()
            return torch.autograd.grad(value, self.image)[0]

        return step


@pytest.mark.parametrize("size", [128, 224])
def test_network_by_modules(benchmark, size):
    network = Network(size, torch.float32)
    run(benchmark, network.step(network.fast.folded), f"network to {LAYER}, {size} px: its modules, folded and frozen")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [128, 224])
def test_network_by_the_engine(benchmark, size, dtype):
    network = Network(size, dtype)
    truth = Network(size, torch.float32)
    mine, right = network.step(network.fast)().float(), truth.step(truth.fast.folded)()
    assert F.cosine_similarity(mine.flatten(), right.flatten(), dim=0) > (0.9999 if dtype == torch.float32 else 0.9)
    name = str(dtype).removeprefix("torch.")
    title = f"network to {LAYER}, {size} px: fvfast, {name}"
    run(benchmark, network.step(network.fast), title, f"network to {LAYER}, {size} px: its modules, folded and frozen")


# From end to end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [128, 224])
@pytest.mark.parametrize("count", [1, 8])
def test_render(benchmark, size, count):
    """A whole call, model in memory: 32 steps of `count` features."""
    model = fvfast.load()
    target = f"{LAYER}:0-{count - 1}"
    results = []
    recipe = RECIPES["default"]
    step = lambda: results.append(fvfast.render(model, target, recipe=recipe, size=size, steps=32))  # noqa: E731
    alone = f"render of 32 steps, {size} px, one feature"
    title = alone if count == 1 else f"render of 32 steps, {size} px, a feature of {count} at once"
    run(benchmark, step, title, None if count == 1 else alone, rounds=3, each=count)
    assert all((result.objective > result.objective_start).all() for result in results)


def test_atlas(benchmark, tmp_path):
    """16 features into a store: rendering, encoding, keeping."""
    model = fvfast.load()
    folders = (tmp_path / str(i) for i in range(100))
    made = []
    step = lambda: made.append(atlas(model, LAYER, channels="0-15", size=128, steps=32, store=next(folders)))  # noqa: E731
    run(benchmark, step, "atlas of 32 steps, 128 px, a feature of 16", rounds=2, each=16)
    assert all(result.rendered == 16 and not result.failures for result in made)
