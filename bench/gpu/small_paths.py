"""Every public path of a render, on a network of two convolutions: small enough that all of them take seconds."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

import fvfast
from fvfast import objectives as o
from fvfast.generators import Generator, dcgan
from fvfast.models import Model
from fvfast.recipes import RECIPES, Recipe

SIZE, STEPS = 64, 8


class Net(nn.Module):
    """A convolution with batch-norm and ReLU, another, and a mean: three kinds of layer, eight features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Conv2d(16, 8, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.norm(self.stem(x)))).mean((2, 3))


class Dead(Net):
    """Whose features' gradients are zero at the start, so that they are redirected."""

    def __init__(self) -> None:
        super().__init__()
        self.norm.bias.data.fill_(-9)


def picture() -> Tensor:
    """A picture of noise, [3, 64, 64]."""
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def direction() -> Tensor:
    return torch.randn(8, generator=torch.Generator().manual_seed(1))


def awake(name: str = "default", **changes: Any) -> Recipe:
    """A recipe that does not look for dead images: one graph, recorded at once."""
    return dataclasses.replace(RECIPES[name], redirect=0, **changes)


def render(target: Any, module: type[nn.Module] = Net, **options: Any) -> fvfast.Render:
    """A small render; what is a function in `target` or the options is called for its value."""
    wanted: Any = target() if callable(target) else target
    given = {key: value() if key in ("image", "start", "recipe") and callable(value) else value
             for key, value in options.items()}  # fmt: skip
    return fvfast.render(Model("net", "none", module(), size=SIZE), wanted, **{"steps": STEPS, "seed": 3, **given})


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(dcgan(16, 8), (16, 1, 1), truncation=1.0)


Path = tuple[Any, dict[str, Any]]
PATHS: dict[str, Path] = {
    "channels": ("out:0-3", {}),
    "channels, none redirected": ("out:0-3", {"recipe": awake}),
    "channels, float32": ("out:0-3", {"dtype": "float32"}),
    "channels, float16": ("out:0-3", {"dtype": "float16"}),
    "neuron": ("out:1@centre", {}),
    "layer": (lambda: o.layer("stem"), {}),
    "logit": ("logits:3", {}),
    "direction": (lambda: o.direction("out", direction(), 2), {}),
    "total variation": (lambda: o.channel("out", 1) - 2 * o.total_variation(), {}),
    "l1, l2, blur": (lambda: o.channel("out", 1) - 0.1 * o.l1() - o.l2() - o.blur(), {}),
    "product": (lambda: o.channel("out", 1) * o.channel("stem", 1) / 2.0, {}),
    "diversity": (lambda: o.channel("out", 1) + o.diversity("stem"), {"copies": 3}),
    "caricature": (lambda: o.caricature("out", picture()), {}),
    "inversion": (lambda: o.inversion("out", picture()), {}),
    "accentuation": (lambda: o.accentuation(o.channel("out", 1), "out", picture()), {}),
    "mixed batch": (lambda: ["out:1", "stem:2", "logits:3", o.layer("stem")], {}),
    "recipe lucent": ("out:1", {"recipe": "lucent"}),
    "recipe torch-dreams": ("out:1", {"recipe": "torch-dreams"}),
    "recipe plain": ("out:1", {"recipe": "plain"}),
    "recipe maco": ("out:1", {"recipe": "maco"}),
    "image pixel": ("out:1", {"image": "pixel"}),
    "image phase": ("out:1", {"image": "phase"}),
    "image pyramid": ("out:1", {"image": "pyramid"}),
    "image cppn": ("out:1", {"image": "cppn"}),
    "image generator": ("out:1", {"image": generator}),
    "alpha": ("out:1", {"alpha": True}),
    "align, interpolate": (["out:1", "out:2"], {"align": True, "interpolate": 3}),
    "align, alpha": (["out:1", "out:2"], {"align": True, "alpha": True}),
    "patience": ("out:1", {"patience": 3}),
    "frames, snapshots": ("out:1", {"frames": 3, "snapshots": [0, 3]}),
    "every": ("out:1", {"every": 4}),
    "size 96": ("out:1", {"size": 96}),
    "three, one at a time": ("out:0-2", {"batch": 1}),
    "start, pixel": ("out:1", {"image": "pixel", "start": picture}),
    "start, fourier": ("out:1", {"start": picture}),
    "clip": ("out:0-1", {"recipe": lambda: awake(clip=1.0)}),
    "dead at the start": ("act:0-3", {"module": Dead}),
}
