"""How far from float64 a path is: right ones pass whatever falls on a ReLU's edge, and wrong ones do not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fvfast
from fvfast import exactness, lowering
from fvfast.fusion import Convolution
from fvfast.job import Job
from fvfast.models import Model
from fvfast.prepare import prepare

CPU = torch.device("cpu")
LAYER = "deep"
needs_onednn = pytest.mark.skipif(bool(lowering.unusable(torch.float32)), reason="needs PyTorch with oneDNN")


class Smoothed(nn.Module):
    """Batch-norm, a max-pool and kinks of several kinds on the way to a layer."""

    def __init__(self, habit=lambda x: x):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.norm, self.deep = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.norm.running_mean, self.norm.running_var = torch.randn(8), torch.rand(8) + 0.5
        self.habit = habit

    def forward(self, x):
        x = F.max_pool2d(F.hardswish(self.norm(self.stem(self.habit(x)))), 2)
        return self.deep(F.leaky_relu(x, 0.1).clamp(max=1.5))


def noise(size):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(5))


def errors_of(module, image, other=None, names=(LAYER,), spoil=lambda: None):
    """other: what the fast network is made of, in place of `module`; spoil: called once it is there."""
    job = Job(Model("given", "none", module, size=image.shape[-1]), CPU, torch.float32, image.shape[-1], None)
    fast = prepare(job.module if other is None else other.eval(), job.layers, names, job.view, torch.float32)
    fast.ready(tuple(image.shape), torch.float32, names)
    spoil()
    weights = torch.linspace(1, 2, job.layers[LAYER].channels).view(-1, 1, 1)
    objective = lambda found: (found[LAYER] * weights.to(found[LAYER].dtype)).mean((1, 2, 3))  # noqa: E731
    return exactness.compare(job.module, job.layers, fast, names, image, objective)


@needs_onednn
def test_units_on_their_edge_are_told_from_errors(nets):
    errors = errors_of(nets.OnEdge(), nets.flat(12))
    for found in errors.values():
        assert found.units == 64 * 10 * 10
        assert found.switched is not None
        assert 100 <= found.switched <= 32 * 10 * 10
        assert found.apart > 0.1
        assert found.gradient < 1e-6
        assert abs(found.bias) < 1e-6
    assert exactness.verdict(errors)["passed"]


@pytest.mark.parametrize(
    ("habit", "units"),
    [(lambda x: x, 8 * 14 * 14 * 2 + 8 * 7 * 7 * 2), (lambda x: x + 0 * torch.rand(()), None)],
    ids=["recorded", "not to be recorded"],
)
def test_a_right_path_is_as_near_as_the_modules(habit, units):
    errors = errors_of(Smoothed(habit), noise(16))
    assert exactness.verdict(errors)["passed"]
    for found in errors.values():
        assert 0 < found.activations < 1e-6
        assert 0 < found.gradient < 1e-6
        assert found.units == units


@needs_onednn
def test_the_bundled_network_is():
    model = fvfast.load()
    job = Job(model, CPU, torch.float32, 64, None)
    fast = prepare(job.module, job.layers, ["_blocks.10"], job.view, torch.float32)
    value = lambda found: found["_blocks.10"][:, 3].mean((1, 2))  # noqa: E731
    found = exactness.compare(job.module, job.layers, fast, ["_blocks.10"], noise(64), value)
    for path in found.values():
        # float32 rounds by 6e-8; through 42 convolutions, forwards and back, that adds up to ten times as much.
        assert path.gradient < 2e-6
        assert path.activations < 2e-5
        assert path.switched is not None
        assert path.switched < 10
    assert exactness.verdict(found)["passed"]


# Wrong paths -------------------------------------------------------------------------------------------------


@needs_onednn
@pytest.mark.parametrize("scale", [1.01, 0.99, 1.0001])
def test_a_gradient_of_the_wrong_length_is_caught(monkeypatch, nets, scale):
    right = Convolution.backward
    spoil = lambda: monkeypatch.setattr(Convolution, "backward", lambda *given: right(*given) * scale)  # noqa: E731
    errors = errors_of(nets.OnEdge(), nets.flat(12), spoil=spoil)
    told = exactness.verdict(errors)
    assert not told["passed"]
    assert errors["fast"].activations <= told["bounds"]["activations"]
    expected = scale**2 - 1  # by each of two convolutions
    assert errors["fast"].bias == pytest.approx(expected, rel=1e-2)
    assert errors["fast"].gradient == pytest.approx(abs(expected), rel=1e-2)
    assert errors["fast"].cosine < 1e-9


@needs_onednn
def test_a_gradient_that_passes_everywhere_is_caught(monkeypatch, nets):
    def everywhere(self, *given):
        clamp, self.clamp = self.clamp, None
        try:
            return right(self, *given)
        finally:
            self.clamp = clamp

    right = Convolution.backward
    errors = errors_of(
        nets.OnEdge(), nets.flat(12), spoil=lambda: monkeypatch.setattr(Convolution, "backward", everywhere)
    )
    assert not exactness.verdict(errors)["passed"]
    assert errors["fast"].gradient > 0.1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda net: net.stem.weight.mul_(1.001),
        lambda net: net.norm.bias.add_(1e-4),
        lambda net: net.deep.weight.copy_(net.deep.weight.bfloat16()),
        lambda net: net.stem.weight[3].zero_(),
    ],
    ids=["weights a thousandth too large", "a bias off", "weights of 8 bits", "a channel lost"],
)
def test_a_network_that_is_slightly_another_is_caught(spoil):
    module = Smoothed()
    other = copy.deepcopy(module)
    with torch.no_grad():
        spoil(other)
    assert not exactness.verdict(errors_of(module, noise(16), other))["passed"]


def test_the_bounds_are_what_the_modules_are_off_by():
    def made(activations, gradient):
        return exactness.Errors(activations, gradient, 0.0, 0.0, 0.5, 3, 9)

    plain = made(4e-6, 5e-7)
    told = exactness.verdict({"plain": plain, "fast": made(1.19e-5, 1.49e-6)})
    assert told["bounds"] == pytest.approx({"activations": 1.2e-5, "gradient": 1.5e-6})
    assert told["passed"]
    assert exactness.verdict({"plain": made(0.0, 0.0), "fast": made(1e-6, 0.9e-6)})["passed"]
    assert told["fast"]["apart"] == 0.5
    assert not exactness.verdict({"plain": plain, "fast": made(1.21e-5, 5e-7)})["passed"]
    assert not exactness.verdict({"plain": plain, "fast": made(4e-6, 1.51e-6)})["passed"]
    assert not exactness.verdict({"plain": plain, "fast": made(4e-6, float("nan"))})["passed"]
