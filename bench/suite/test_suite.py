"""What is timed. Each benchmark checks its result before it is timed, so that nothing wrong is ever fast."""

from __future__ import annotations

import time

import pytest
import torch
import torch.nn.functional as F

import fvfast
from bench.suite.outside import DEVICE, Outside, first_step_errors, first_steps
from fvfast import exactness
from fvfast.atlases import atlas
from fvfast.job import Job
from fvfast.optimize import keep_large_blocks
from fvfast.prepare import prepare
from fvfast.recipes import RECIPES

LAYER = "_blocks.10"


@pytest.fixture(autouse=True)
def _one_thread():
    """As the engine runs an image on a CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    keep_large_blocks()
    yield
    torch.set_num_threads(threads)


def run(benchmark, step, title, rival=None, rounds=30, each=1):
    """Time a step that has already been checked; on a GPU up to the end of its work.

    rival: (title, step) of what it is compared with, run and timed before each round, so that both meet the same
    machine. each: how many features a step makes.
    """
    beside = []

    def timed(step=step):
        step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    def setup():
        if rival is not None:
            started = time.perf_counter()
            timed(rival[1])
            beside.append(time.perf_counter() - started)

    warm = min(3, rounds)
    benchmark.extra_info.update(title=title, each=each, rival=rival and rival[0])
    benchmark.pedantic(timed, setup=setup, rounds=rounds, warmup_rounds=warm)
    benchmark.extra_info["beside"] = beside[warm:]


# Everything outside the network --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [128, 224])
def test_outside_by_fft(benchmark, size):
    step, _ = Outside(size).plain()
    run(benchmark, step, f"outside the network, {size} px: torch.fft, whole-pixel jitter, autograd")


@pytest.mark.parametrize("size", [128, 224])
def test_outside_by_the_loop(benchmark, size):
    for name, (error, bound) in first_step_errors(*first_steps(size)).items():
        assert error <= bound, name
    outside = Outside(size)
    outside.views[..., 4] = 0.1  # a shear, which torch.fft knows nothing of
    step, _ = outside.loop()
    plain, _ = Outside(size).plain()
    title = f"outside the network, {size} px: fvfast, any shift, zoom and shear"
    run(benchmark, step, title, ("torch.fft, whole-pixel jitter, autograd", plain))


# The network -------------------------------------------------------------------------------------------------------


class Network:
    """Forward, objective and gradient of a channel's mean, by the engine and by the network's own modules."""

    def __init__(self, size, dtype):
        self.job = job = Job(fvfast.load(), DEVICE, dtype, size, None)
        self.fast = prepare(job.module, job.layers, [LAYER], job.view, dtype)
        image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
        self.image = image.to(memory_format=torch.channels_last).requires_grad_()

    def step(self, function):
        def step():
            value = self.value(function(self.image, [LAYER])).sum()
            return torch.autograd.grad(value, self.image)[0]

        return step

    def value(self, activations):
        found = activations[LAYER][:, 3]
        return (found if found.dtype == torch.float64 else found.float()).mean((1, 2))

    def verdict(self):
        image = self.image.detach()
        return exactness.verdict(
            exactness.compare(self.job.module, self.job.layers, self.fast, [LAYER], image, self.value)
        )


@pytest.mark.parametrize("size", [128, 224])
def test_network_by_modules(benchmark, size):
    network = Network(size, torch.float32)
    run(benchmark, network.step(network.fast.folded), f"network to {LAYER}, {size} px: its modules, folded and frozen")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [128, 224])
def test_network_by_the_engine(benchmark, size, dtype):
    network, single = Network(size, dtype), Network(size, torch.float32)
    if dtype == torch.float32:
        told = network.verdict()
        assert told["passed"], told
    else:
        mine, right = network.step(network.fast)().float(), single.step(single.fast.folded)()
        assert F.cosine_similarity(mine.flatten(), right.flatten(), dim=0) > 0.9
    name = str(dtype).removeprefix("torch.")
    title = f"network to {LAYER}, {size} px: fvfast, {name}"
    run(benchmark, network.step(network.fast), title, ("its modules in float32", single.step(single.fast.folded)))


# From end to end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [128, 224])
@pytest.mark.parametrize("count", [1, 8])
def test_render(benchmark, size, count):
    """A whole call, model in memory: 32 steps of `count` features."""
    model = fvfast.load()
    results = []

    def render(count):
        target = f"{LAYER}:0-{count - 1}"
        results.append(fvfast.render(model, target, recipe=RECIPES["default"], size=size, steps=32))

    what = "one feature" if count == 1 else f"a feature of {count} at once"
    rival = None if count == 1 else ("one feature at a time", lambda: render(1))
    run(benchmark, lambda: render(count), f"render of 32 steps, {size} px, {what}", rival, rounds=3, each=count)
    assert all((result.objective > result.objective_start).all() for result in results)


def test_atlas(benchmark, tmp_path):
    """16 features into a store: rendering, encoding, keeping."""
    model = fvfast.load()
    folders = (tmp_path / str(i) for i in range(100))
    made = []
    step = lambda: made.append(atlas(model, LAYER, channels="0-15", size=128, steps=32, store=next(folders)))  # noqa: E731
    run(benchmark, step, "atlas of 32 steps, 128 px, a feature of 16", rounds=2, each=16)
    assert all(result.rendered == 16 and not result.failures for result in made)
