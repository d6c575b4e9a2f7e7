"""Every public path of a render, small: what `bench.rehearsal.paths` goes through."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import fvfast
from bench.rehearsal import device
from fvfast import objectives as o
from fvfast.expressions import Context, OnLayer
from fvfast.generators import Generator, dcgan
from fvfast.models import Model
from fvfast.recipes import RECIPES, Recipe
from fvfast.redirect import Redirection
from fvfast.step import Step

SIZE, STEPS = 32, 20
Notify = Callable[[str], None]
Case = Callable[[Notify], object]


class Net(nn.Module):
    """A convolution with batch-norm and ReLU, another, and a mean: three kinds of layer at eight features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Conv2d(16, 8, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.norm(self.stem(x)))).mean((2, 3))


class Wide(Net):
    """Five megabytes of activations an image, which a small memory does not hold for many."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2048, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2048)
        self.out = nn.Conv2d(2048, 8, 3, stride=2)


class Peeking(Net):
    """Looks at a value on the host, which no CUDA graph can."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * (1.0 if float(x.detach().sum()) < 0 else 2.0))


class Copying(Net):
    """Brings numbers from the host in every pass, which no CUDA graph can do again."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * torch.linspace(0, 1, SIZE).to(x))


@dataclasses.dataclass(frozen=True)
class Contrast(OnLayer):
    """A user's own objective: the largest activation of a channel less its mean."""

    layer: str
    channel: int

    def value(self, context: Context) -> Tensor:
        maps = context[self.layer][:, self.channel].flatten(1)
        return maps.amax(1) - maps.mean(1)

    @property
    def label(self) -> str:
        return f"contrast({self.layer}:{self.channel})"


def network(module: nn.Module | None = None) -> Model:
    return Model("net", "none", module or Net(), size=SIZE)


def picture() -> Tensor:
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def recipe(name: str = "default", **changes: Any) -> Recipe:
    return dataclasses.replace(RECIPES[name], **changes)


def awake(**changes: Any) -> Recipe:
    """Without the step that looks for dead images: one graph, recorded at once."""
    return recipe(redirect=0, **changes)


def renders(target: Any = "out:1", module: type[nn.Module] = Net, **options: Any) -> Case:
    """A path that is one call of `fvfast.render`. target: or what makes it."""

    def run(notify: Notify) -> object:
        wanted: Any = target() if callable(target) else target
        return fvfast.render(network(module()), wanted, device="cuda", notify=notify, **{"steps": STEPS, **options})

    return run


def woken(**options: Any) -> Case:
    """Every image is taken for dead after the first step, and its gradients are redirected."""

    def run(notify: Notify) -> object:
        def wake(step: Step) -> bool:
            step.redirection = Redirection(torch.ones_like(step.lr, dtype=torch.bool), step.count, step.batch.redirect)
            return True

        with mock.patch.object(Step, "wake", wake):
            return renders("out:0-3", **options)(notify)

    return run


def sizes(notify: Notify) -> None:
    """Other sizes in one process, and the first again."""
    for size in (SIZE, 2 * SIZE, SIZE):
        renders(size=size)(notify)


def short_of_memory(notify: Notify) -> None:
    """A batch that does not fit, and goes on with fewer images at a time."""
    torch.cuda.empty_cache()
    with device.memory(device.counts().used + (160 << 20)):
        said: list[str] = []
        renders("out:0-7", Wide, copies=4, batch=32)(said.append)
    if not any("memory ran out" in sentence for sentence in said):
        raise AssertionError("memory was meant to run out, and did not")


def lucent(**options: Any) -> Case:
    """`render_vis` of the lucent drop-in; that it takes its general loop is a warning."""

    def run(notify: Notify) -> None:
        from fvfast.compat.lucent.optvis import param
        from fvfast.compat.lucent.optvis.render import render_vis

        render_vis(
            Net().eval().cuda(),
            "out:1",
            lambda: param.image(SIZE, **options),
            thresholds=(STEPS,),
            fixed_image_size=SIZE,
            progress=False,
            show_image=False,
        )

    return run


def kept(notify: Notify) -> None:
    """An atlas of a layer: many renders, by chunks, into a store."""
    with tempfile.TemporaryDirectory() as folder:
        fvfast.atlas(network(), "out", store=folder, notify=notify, device="cuda", steps=STEPS)


CASES: dict[str, Case] = {
    "channel": renders("out:0-3"),
    "channel, one graph": renders("out:0-3", recipe=awake()),
    "channel, float32": renders("out:0-3", recipe=awake(), dtype="float32"),
    "channel, float16": renders("out:0-1", dtype="float16"),
    "neuron": renders("out:1@centre"),
    "layer": renders(lambda: o.layer("stem")),
    "logit": renders("logits:3"),
    "direction": renders(lambda: o.direction("out", torch.randn(8), 2)),
    "total variation": renders(lambda: o.channel("out", 1) - 2 * o.total_variation()),
    "l1, l2, blur": renders(lambda: o.channel("out", 1) - 0.1 * o.l1() - o.l2() - o.blur()),
    "product": renders(lambda: o.channel("out", 1) * o.channel("stem", 1) / 2.0),
    "diversity": renders(lambda: o.channel("out", 1) + o.diversity("stem"), copies=3),
    "user's objective": renders(lambda: Contrast("out", 1) - 0.1 * o.total_variation()),
    "caricature": renders(lambda: o.caricature("out", picture())),
    "inversion": renders(lambda: o.inversion("out", picture())),
    "accentuation": renders(lambda: o.accentuation(o.channel("out", 1), "stem", picture())),
    "mixture": renders(lambda: [o.channel("out", 1), o.channel("out", 2)], interpolate=3),
    "mixed batch": renders(lambda: ["out:1", "stem:2", o.layer("stem"), o.direction("out", torch.randn(8))]),
    "several groups": renders(["out:1", "logits:3"], copies=2),
    "batches of one": renders("out:0-2", batch=1),
    "lucent": renders(recipe="lucent"),
    "torch-dreams": renders(recipe="torch-dreams"),
    "plain": renders(recipe="plain"),
    "maco": renders(recipe="maco"),
    "pixel": renders(image="pixel"),
    "phase": renders(image="phase"),
    "phase, float16": renders(image="phase", dtype="float16"),
    "phase, float32": renders(image="phase", dtype="float32"),
    "phase, no grain": renders(recipe=recipe("maco", noise=0.0)),
    "pyramid": renders(image="pyramid"),
    "cppn": renders(image="cppn"),
    "generator": renders(image=Generator(dcgan(16, 8), (16, 1, 1), truncation=1.0)),
    "generator, no bounds": renders(image=Generator(dcgan(16, 8), (16, 1, 1))),
    "alpha": renders(alpha=True),
    "alpha, phase": renders(alpha=True, image="phase"),
    "alpha, pixel": renders(alpha=True, image="pixel"),
    "align": renders(["out:1", "out:2"], align=True, interpolate=3),
    "align, alpha": renders(["out:1", "out:2"], align=True, alpha=True),
    "align, phase": renders(["out:1", "out:2"], align=True, image="phase"),
    "start, fourier": renders(start=picture()),
    "start, pixel": renders(image="pixel", start=picture()),
    "start, phase": renders(image="phase", start=picture()),
    "start, pyramid": renders(image="pyramid", start=picture()),
    "start, alpha": renders(alpha=True, start=picture()),
    "start, align": renders(["out:1", "out:2"], align=True, start=picture()),
    "redirection": woken(),
    "redirection, alpha": woken(alpha=True),
    "redirection, phase": woken(image="phase"),
    "patience": renders(patience=3),
    "patience, film": renders(patience=3, frames=5, snapshots=[0, 3, 17]),
    "snapshots": renders(every=4),
    "clip": renders("out:0-1", recipe=awake(clip=1.0)),
    "preview": renders(preview=lambda _: None, progress=lambda _: None),
    "canvas larger than the view": renders(size=2 * SIZE, recipe=recipe(view=SIZE)),
    "sizes": sizes,
    "short of memory": short_of_memory,
    "atlas": kept,
    "lucent's own": lucent(),
    "lucent's own, pixel": lucent(fft=False),
}

# Networks with what no capture can hold: that these are found out shows that the others are not passed by chance.
FAULTY: dict[str, Case] = {
    "a value read on the host": renders(module=Peeking),
    "a copy from the host": renders(module=Copying),
}
