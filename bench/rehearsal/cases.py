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
from bench.gpu import small_paths
from bench.gpu.small_paths import PATHS, SIZE, Net, awake, picture
from bench.rehearsal import device
from fvfast import objectives as o
from fvfast.expressions import Context, OnLayer
from fvfast.generators import Generator, dcgan
from fvfast.models import Model
from fvfast.recipes import RECIPES
from fvfast.redirect import Redirection
from fvfast.step import Step

STEPS = 20
Notify = Callable[[str], None]
Case = Callable[[Notify], object]


class Wide(Net):
    """Twenty megabytes of activations an image, which a small memory does not hold for many."""

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


def renders(target: Any = "out:1", **options: Any) -> Case:
    """A path that is one small render."""

    def run(notify: Notify) -> object:
        return small_paths.render(target, device="cuda", notify=notify, **{"steps": STEPS, **options})

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
    with device.memory(device.counts().used + (640 << 20)):
        said: list[str] = []
        renders("out:0-7", module=Wide, copies=4, batch=32)(said.append)
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
        fvfast.atlas(
            Model("net", "none", Net(), size=SIZE), "out", store=folder, notify=notify, device="cuda", steps=STEPS
        )


CASES: dict[str, Case] = {name: renders(target, **options) for name, (target, options) in PATHS.items()} | {
    "user's objective": renders(lambda: Contrast("out", 1) - 0.1 * o.total_variation()),
    "mixture": renders(lambda: [o.channel("out", 1), o.channel("out", 2)], interpolate=3),
    "several groups": renders(["out:1", "logits:3"], copies=2),
    "phase, float16": renders(image="phase", dtype="float16"),
    "phase, float32": renders(image="phase", dtype="float32"),
    "phase, no grain": renders(recipe=lambda: dataclasses.replace(RECIPES["maco"], noise=0.0)),
    "generator, no bounds": renders(image=lambda: Generator(dcgan(16, 8), (16, 1, 1))),
    "alpha, phase": renders(alpha=True, image="phase"),
    "alpha, pixel": renders(alpha=True, image="pixel"),
    "align, phase": renders(["out:1", "out:2"], align=True, image="phase"),
    "start, phase": renders(image="phase", start=picture),
    "start, pyramid": renders(image="pyramid", start=picture),
    "start, alpha": renders(alpha=True, start=picture),
    "start, align": renders(["out:1", "out:2"], align=True, start=picture),
    "redirection": woken(),
    "redirection, alpha": woken(alpha=True),
    "redirection, phase": woken(image="phase"),
    "patience, film": renders(patience=3, frames=5, snapshots=[0, 3, 17]),
    "preview": renders(preview=lambda _: None, progress=lambda _: None),
    "canvas larger than the view": renders(size=2 * SIZE, recipe=lambda: awake(view=SIZE)),
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
