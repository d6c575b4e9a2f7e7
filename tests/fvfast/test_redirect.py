"""Redirected gradients against their formula, and images that start dead."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fvfast
from fvfast.graph import record
from fvfast.models import Model
from fvfast.optimize import ascend
from fvfast.recipes import DEFAULT, RECIPES, Recipe
from fvfast.redirect import Redirection, redirected
from fvfast.views import Views

INF = float("inf")
ON, COUNT = torch.tensor([True, True]), torch.zeros(1, dtype=torch.int32)


def by_hand(x, gradient, low, high):
    """One number at a time: lucid's rule, where an image gets no gradient at all."""
    out = torch.zeros_like(x)
    for image in range(len(x)):
        flat = [(v <= low, v >= high) for v in x[image].flatten().tolist()]
        incoming = gradient[image].flatten().tolist()
        plain = [0.0 if below or above else g for (below, above), g in zip(flat, incoming, strict=True)]
        if not any(plain):
            plain = [
                0.0 if (below and g > 0) or (above and g < 0) else g
                for (below, above), g in zip(flat, incoming, strict=True)
            ]
        out[image] = torch.tensor(plain).view(x[image].shape)
    return out


@pytest.mark.parametrize(("low", "high"), [(0.0, INF), (0.0, 6.0), (-1.0, 1.0), (-INF, 2.0)])
@pytest.mark.parametrize("shift", [-20.0, 0.0, 20.0])
def test_the_formula(low, high, shift):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 4, generator=generator) * 3 + shift
    gradient = torch.randn(2, 3, 4, 4, generator=generator)
    assert redirected(x, gradient, low, high, ON).equal(by_hand(x, gradient, low, high))


CALLS = {
    "nn.ReLU": (nn.ReLU(), 0.0, INF),
    "nn.ReLU6": (nn.ReLU6(), 0.0, 6.0),
    "nn.Hardtanh": (nn.Hardtanh(-2, 3), -2.0, 3.0),
    "F.relu": (F.relu, 0.0, INF),
    "F.relu6": (F.relu6, 0.0, 6.0),
    "torch.relu": (torch.relu, 0.0, INF),
    "Tensor.relu": (lambda x: x.relu(), 0.0, INF),
    "Tensor.clamp": (lambda x: x.clamp(min=0), 0.0, INF),
    "torch.clamp": (lambda x: torch.clamp(x, -1, 1), -1.0, 1.0),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("shift", [-20.0, 0.0, 20.0])
def test_every_way_to_write_a_relu_is_redirected(name, shift):
    call, low, high = CALLS[name]
    x = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)) + shift).requires_grad_()
    weights = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    with Redirection(ON, COUNT, 16):
        y = call(x)
    assert y.equal(call(x))
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    assert gradient.equal(by_hand(x.detach(), weights, low, high))


def test_only_the_images_named_and_only_in_the_first_steps():
    x = torch.full((2, 4), -3.0, requires_grad=True)
    for images, count, expected in (
        ([True, False], 0, [-1.0, 0.0]),
        ([True, True], 15, [-1.0, -1.0]),
        ([True, True], 16, [0.0, 0.0]),
    ):
        with Redirection(torch.tensor(images), torch.tensor([count]), 16):
            y = torch.relu(x)
        (gradient,) = torch.autograd.grad(-y.sum(), x)
        assert gradient[:, 0].tolist() == expected


def test_what_is_no_relu_goes_its_own_way():
    x = torch.full((2, 3), -5.0, requires_grad=True)
    bound = torch.zeros(3)
    with Redirection(ON, COUNT, 16):
        leaky, gelu, bounded = F.leaky_relu(x, 0.1), F.gelu(x), torch.clamp(x, min=bound)
        in_place = torch.relu_(x * 1)
    assert torch.autograd.grad(leaky.sum(), x)[0].unique().tolist() == pytest.approx([0.1])
    assert torch.autograd.grad(gelu.sum(), x)[0].abs().max() > 0
    assert torch.autograd.grad(-bounded.sum(), x)[0].abs().max() == 0
    assert torch.autograd.grad(-in_place.sum(), x)[0].abs().max() == 0


# In a render -----------------------------------------------------------------------------------------------


class Dead(nn.Module):
    """Two ReLU6, the first flat from below for even channels and from above for odd ones; the second from below."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU6()
        self.second = nn.Conv2d(4, 4, 1)
        generator = torch.Generator().manual_seed(4)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
        assert self.first.bias is not None
        assert self.second.bias is not None
        self.first.weight.data *= 3
        self.first.bias.data.copy_(torch.tensor([-8.0, 14.0, -8.0, 0.5]))
        self.second.weight.data.abs_()
        self.second.bias.data.fill_(-20)

    def forward(self, x):
        return F.relu(self.second(self.act(self.first(x))) + 10)


STILL = replace(DEFAULT, steps=40, lr=0.3, views=Views(jitter=2))


def dead():
    return Model("dead", "none", Dead(), size=32)


def test_a_dead_start_is_woken_and_says_so_otherwise():
    grey = fvfast.render(dead(), "logits:0-3", recipe=replace(STILL, redirect=0), size=32)
    woken = fvfast.render(dead(), "logits:0-3", recipe=replace(STILL, redirect=40), size=32)
    assert len(grey.notes) == 4
    assert (grey.objective == 0).all()
    assert (woken.objective > 0.1).sum() >= 3


def test_what_is_alive_is_the_same_with_and_without_and_in_any_company(tiny):
    recipe = replace(DEFAULT, steps=5)
    with_it = fvfast.render(tiny, ["deep:3", "deep_act:1"], recipe=recipe, size=32)
    without = fvfast.render(tiny, ["deep:3", "deep_act:1"], recipe=replace(recipe, redirect=0), size=32)
    assert with_it.images.equal(without.images)


def test_in_one_tensor_only_dead_images_are_redirected():
    recipe = replace(STILL, steps=6)
    apart = fvfast.render(dead(), ["logits:0", "first:1"], recipe=recipe, size=32)
    together = fvfast.render(dead(), ["logits:0", "first:1"], recipe=recipe, size=32, batch=2)
    torch.testing.assert_close(together.images, apart.images, rtol=0, atol=1e-3)


class Replayed:
    """Stands where a CUDA graph stands: runs the step when it is asked to replay it."""

    def run(self, step, times):
        for _ in range(times):
            step()

    def capture(self, step):
        return step

    def release(self):
        pass

    wait = release


@pytest.mark.parametrize("patience", [None, 3])
def test_a_recorded_loop_takes_the_same_steps(monkeypatch, patience):
    recipe = replace(STILL, redirect=5, patience=patience)
    plain = fvfast.render(dead(), ["logits:0", "first:1"], recipe=recipe, size=32, batch=2)

    def recorded(batch, tap, stopped, notify, recordings):
        ascend(batch, tap, stopped, notify, lambda step, say: record(step, say, lambda device, tuned: Replayed()))

    monkeypatch.setattr("fvfast.optimize.ascend", recorded)
    monkeypatch.setattr("fvfast.optimize.stride_on", lambda device: 16)
    replayed = fvfast.render(dead(), ["logits:0", "first:1"], recipe=recipe, size=32, batch=2)
    assert replayed.images.equal(plain.images)
    torch.testing.assert_close(replayed.history, plain.history, rtol=0, atol=0, equal_nan=True)


def test_the_users_module_keeps_its_hooks_and_its_gradients():
    net = Dead()
    fvfast.render(net, "logits:1", recipe=STILL, size=32, steps=3)
    assert all(not child._forward_hooks and not child._backward_hooks for child in net.modules())
    x = torch.full((1, 3, 8, 8), -9.0, requires_grad=True)
    (expected,) = torch.autograd.grad(Dead()(x).sum(), x)
    assert torch.autograd.grad(net(x).sum(), x)[0].equal(expected)


def test_every_preset_redirects_and_what_was_made_before_does_not():
    assert all(recipe.redirect == 16 for recipe in RECIPES.values())
    older = {name: value for name, value in DEFAULT.to_dict().items() if name != "redirect"}
    assert Recipe.from_dict(older) == replace(DEFAULT, redirect=0)
    assert Recipe.from_dict(DEFAULT.to_dict()) == DEFAULT
