"""What networks say of finished images: the one they were made for, under views it never saw, and another one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
import torch.nn.functional as F
from fvfast_kernels import warp
from torch import Tensor

from fvfast.errors import FvfastError
from fvfast.expressions import Context, Objective, Picture
from fvfast.images import COLOUR, envelope
from fvfast.job import Job
from fvfast.models import Model
from fvfast.objectives import Diversity
from fvfast.optimize import layers_of
from fvfast.photographs import square
from fvfast.pristine import pristine
from fvfast.selection import whole_network
from fvfast.views import Views, matrices

# Closer views only: whatever lies beyond an image's edge is grey, and none of its frequencies is aliased.
HELD_OUT = Views(zoom=(0.8, 1.0), stretch=1.1, shear=8, rotate=8, border="mean")
HELD_OUT_JITTER = 1 / 16  # of the canvas
HELD_OUT_COUNT = 16
# A render's views are drawn from a generator of its own seed, which is below 2^63: none has ever drawn these.
HELD_OUT_SEED = 2**63

NOISE_COUNT = 64


class Judge:
    """A network, unmodified and in float32, that looks at images of one size for some objectives.

    Leave the `with` block, and the network has its hooks no more.
    """

    def __init__(
        self,
        model: Model,
        device: torch.device,
        size: int,
        view: int | None,
        objectives: Sequence[Objective],
        job: Job | None = None,
    ) -> None:
        """size: of the images, in pixels; view: of what the network sees of them; None for the same. job: all of
        these, where they are together already."""
        model.need_colours("quality")
        self.job = job or Job(model, device, torch.float32, size, view)
        self.layers = self.job.layers
        self.middle = self._middle()
        wanted = layers_of(objectives)
        self.tap = self.job.tap([*wanted, self.middle] if self.middle else wanted)
        self.objectives = list(dict.fromkeys(objectives))
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (model.mean, model.std))
        generator = torch.Generator().manual_seed(HELD_OUT_SEED)
        views = replace(HELD_OUT, jitter=size * HELD_OUT_JITTER)
        self.views = views.draw(HELD_OUT_COUNT, generator, size, self.job.view).to(device)  # [V, 6]

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *exc: object) -> None:
        self.tap.close()

    def on_canvas(self, objective: Objective, images: Tensor) -> Tensor:
        """The objective of whole images [B, 3, H, W], [B]."""
        return self.job.evaluate(self.tap, objective, images.to(self.mean.device), self.job.view)

    @torch.no_grad()
    def held_out(self, objective: Objective, image: Tensor) -> float:
        """The mean objective of an image [3, H, W] under 16 random views that no render has been optimised under.

        They shift it by up to 1/16 of its size, come closer by up to a fifth, stretch, shear and rotate it a little.
        They are the same for all images of one size.
        """

        def views(pixels: Tensor) -> Tensor:
            seen = (pixels.to(self.mean) - self.mean) / self.std
            count, size = len(self.views), (self.job.view, self.job.view)
            return warp(seen.expand(count, -1, -1, -1).contiguous(), matrices(self.views), size, border=0.0)

        return float(objective.value(self._context(views(image), objective.layers, views)).float().mean())

    def deviations(self, objective: Objective, value: float) -> float | None:
        """How many standard deviations a value lies above the objective's mean over 64 images of 1/f noise.

        So that features of different scales can be averaged. None for a feature that no noise excites.
        """
        mean, deviation = self._noise[0][objective]
        return (value - mean) / deviation if deviation > 0 else None

    @torch.no_grad()
    def diversity(self, images: Tensor) -> float | None:
        """How unlike images [B, 3, H, W] are: 1 minus the mean cosine between their Gram matrices in a layer.

        The layer is the middle one of those with weights and a grid; None where the network has none. What all images
        have in common there, the mean over noise, is taken off first: it would hide all else.
        """
        if self.middle is None or self._noise[1] is None:
            return None
        maps = self.tap(self._seen(images.to(self.mean)), [self.middle])[self.middle]
        context = Context({self.middle: maps - self._noise[1][:, None, None]}, layers=self.layers)
        return 1 + float(Diversity(self.middle).value(context).mean())

    @cached_property
    @torch.no_grad()
    def _noise(self) -> tuple[dict[Objective, tuple[float, float]], Tensor | None]:
        """Over noise: each objective's mean and standard deviation; the mean of the middle layer's channels, [C]."""
        values: dict[Objective, list[Tensor]] = {objective: [] for objective in self.objectives}
        means: list[Tensor] = []
        for part in noise_images(NOISE_COUNT, self.job.size).split(8):
            seen = self._seen(part.to(self.mean))
            # A pass for each set of layers: one that went further might change a layer's output in place.
            for names in dict.fromkeys(tuple(sorted(objective.layers)) for objective in self.objectives):
                context = self._context(seen, names, lambda pixels: self._seen(pixels.to(self.mean)[None]))
                for objective, found in values.items():
                    if tuple(sorted(objective.layers)) == names:
                        found.append(objective.value(context).double())
            if self.middle is not None:
                means.append(self.tap(seen, [self.middle])[self.middle].mean((0, 2, 3)))
        every = {objective: torch.cat(found) for objective, found in values.items()}
        spread = {objective: (float(v.mean()), float(v.std())) for objective, v in every.items()}
        return spread, torch.stack(means).mean(0) if means else None

    def _context(self, seen: Tensor, names: Iterable[str], see: Callable[[Tensor], Tensor]) -> Context:
        """What an objective may look at in images [B, 3, H, W] as the network sees them. see: from the pixels of a
        picture that it compares with to how that is seen beside them, [B, 3, H, W] or [1, 3, H, W]."""

        def reference(picture: Picture, layer: str, start: int, stop: int) -> Tensor:
            found = self.tap(see(square(picture.pixels, self.job.size)), [layer])[layer]
            return found.expand(len(seen), -1, -1, -1)[start:stop]

        return Context(self.tap(seen, sorted(names)), layers=self.layers, reference=reference)

    def _seen(self, images: Tensor) -> Tensor:
        seen = (images - self.mean) / self.std
        if self.job.view != images.shape[-1]:
            size = (self.job.view, self.job.view)
            seen = F.interpolate(seen, size=size, mode="bilinear", align_corners=False)
        return seen

    def _middle(self) -> str | None:
        grids = [n for n in whole_network(self.job.module, self.layers) if (self.layers[n].height or 0) > 1]
        return grids[len(grids) // 2] if grids else None


class SecondNetwork:
    """Another classifier, which had no part in a render: does it see the class too?"""

    def __init__(self, model: Model, device: torch.device) -> None:
        model.need_colours("a second network")
        self.model = model
        self.module = pristine(model.module, device, model.inputs)
        self.device = device
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (model.mean, model.std))

    def index(self, first: Model, index: int) -> int:
        """This network's number for a class of another. Raises FvfastError where it does not know it."""
        if first.classes == self.model.classes and first.classes is not None:
            return index
        name = first.classes[index] if first.classes else f"number {index}"
        if not first.classes or not self.model.classes or self.model.classes.count(name) != 1:
            raise FvfastError(f"{self.model.name} has no class {name!r}: choose a second network of the same classes")
        return self.model.classes.index(name)

    @torch.no_grad()
    def probability(self, images: Tensor, index: int) -> Tensor:
        """The probability of a class, [B], for images [B, 3, H, W] brought to this network's own input size."""
        size = (self.model.size, self.model.size)
        seen = F.interpolate(images.to(self.device), size=size, mode="bilinear", align_corners=False, antialias=True)
        logits = self.module((seen - self.mean) / self.std)
        return logits.float().softmax(1)[:, index].cpu()


def noise_images(count: int, size: int, seed: int = 0) -> Tensor:
    """Images with random phases, amplitude 1/f, and ImageNet's colour statistics, [count, 3, size, size] in 0..1.

    Their contrasts are spread over 0.02 to 0.3.
    """
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.randn(count, 3, 2, size, size // 2 + 1, generator=generator) * envelope("lucid", size, size, 1.0)
    field = torch.fft.irfft2(torch.complex(spectrum[:, :, 0], spectrum[:, :, 1]), s=(size, size), norm="ortho")
    field = torch.einsum("oc,bchw->bohw", COLOUR, field)
    field = field / field.std((1, 2, 3), keepdim=True)
    # A sigmoid's slope is 1/4 at its centre: deviations of 0.08 to 1.5 become contrasts of about 0.02 to 0.3.
    spread = torch.logspace(-1.1, 0.18, count)[torch.randperm(count, generator=generator)]
    return torch.sigmoid(field * spread[:, None, None, None])
