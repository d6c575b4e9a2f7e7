"""lucent's images and transforms as the engine's: one warp a step, drawn ahead, where lucent samples five times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fvfast_kernels import warp
from torch import Tensor

from fvfast.compat.lucent.optvis.param.color import Rgb
from fvfast.compat.lucent.optvis.param.spatial import DIVISOR, Pixels, Spectrum
from fvfast.compat.lucent.optvis.transform import Move, Normalise, Pad, Resize, centred
from fvfast.images import Fourier, Frame, Image, Pixel, identity
from fvfast.recipes import Recipe
from fvfast.rendering import LARGEST, SMALLEST


@dataclass(frozen=True)
class Chain:
    """A list of transforms in the order that can be fused: margins, moves, normalisation, a resize.

    side: the view's pixels. Where nothing resizes, it is that of the canvas with its margins: a frame that random
    scales make larger shows its middle, one that they make smaller its margin, and the view keeps its size.
    """

    pads: tuple[Pad, ...]
    moves: tuple[Move, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    side: int

    @property
    def still(self) -> bool:
        """Whether the view is the canvas itself."""
        return not self.pads and not self.moves

    def table(self, steps: int, batch: int) -> Tensor:
        """The maps of all steps, [steps, batch, 6] float32: what `warp` takes, [2, 3], as one row."""
        if self.still:
            return identity(batch).repeat(steps, 1, 1)
        frame = self.size + 2 * sum(pad.width for pad in self.pads)
        rows = []
        for _ in range(steps):
            matrix, height, width = np.eye(3), frame, frame
            for move in self.moves:
                step, height, width = move.draw(height, width)
                matrix = matrix @ step
            # A frame of another size than the view lies with its middle on the view's.
            offset = np.array([[1.0, 0.0, (height - self.side) / 2], [0.0, 1.0, (width - self.side) / 2], [0, 0, 1.0]])
            rows.append(centred(matrix @ offset, (frame, frame), (self.side, self.side)).reshape(6))
        return torch.from_numpy(np.stack(rows)).float()[:, None].repeat(1, batch, 1)


def chain(transforms: Sequence[Callable[[Tensor], Tensor]], size: int) -> Chain | str:
    """A list of transforms of square images of `size` pixels as a chain, or a sentence that says why it is none."""
    rest = list(transforms)
    pads: list[Pad] = []
    moves: list[Move] = []
    normal: list[Normalise] = []
    resize: list[Resize] = []
    for kind, into in ((Pad, pads), (Move, moves), (Normalise, normal), (Resize, resize)):
        while rest and isinstance(rest[0], kind) and not (kind is Move and isinstance(rest[0], Resize)):
            into.append(rest.pop(0))  # pyright: ignore[reportArgumentType] (of `kind`, as `into` is)
    if rest:
        name = getattr(rest[0], "__name__", type(rest[0]).__name__)
        return f"the transform {name} is not one of pad, jitter, random_scale, random_rotate, normalize in this order"
    if len(normal) > 1:
        return "images are normalised more than once"
    mean, std = (normal[0].mean, normal[0].std) if normal else ((0.0,) * 3, (1.0,) * 3)
    side = resize[-1].size[0] if resize else size + 2 * sum(pad.width for pad in pads)
    if resize and any(one.size != (side, side) for one in resize):
        return "views are not square"
    if [one.size[0] for one in resize] == [size] and not pads and not moves:
        resize = []
    return Chain(tuple(pads), (*moves, *resize), mean, std, size, side)


class Warped(Image):
    """An image whose views are its margins and one warp, by a row of a chain's table."""

    chain: Chain

    def view(self, views: Tensor) -> Tensor:
        frame = self.frame
        image = self.canvas()
        for pad in self.chain.pads:
            image = pad(image)
        if self.chain.moves:
            image = warp(image, views.view(-1, 2, 3), (frame.view, frame.view), border=0.0)
        image = (image - frame.mean[:, None, None]) / frame.std[:, None, None]
        if frame.channels == 4:
            image = torch.cat([image, torch.zeros_like(image[:, :1])], 1)
        return image.to(frame.dtype, memory_format=torch.channels_last)


class WarpedFourier(Warped, Fourier):
    """A spectrum seen through a chain."""


class WarpedPixel(Warped, Pixel):
    """Pixels seen through a chain."""


def why_not(params: Sequence[Tensor], image_f: Callable[[], Tensor]) -> str | None:
    """Why what a `param_f` gave cannot be one of the engine's images, or None where it can."""
    if not isinstance(image_f, Rgb) or not isinstance(image_f.source, (Spectrum, Pixels)):
        return "the image is not made by param.image alone"
    tensor = image_f.source.tensor
    if len(params) != 1 or params[0] is not tensor:
        return "other parameters than the image's are optimised"
    _, channels, height, width = shape_of(image_f.source)
    if channels != 3 or height != width or not SMALLEST <= width <= LARGEST:
        return f"the image is not square, in colour, and of {SMALLEST} to {LARGEST} px"
    return None


def shape_of(source: Spectrum | Pixels) -> tuple[int, int, int, int]:
    """[B, C, H, W] of what is made."""
    batch, channels, height, width = source.tensor.shape[:4]
    return batch, channels, height, source.width if isinstance(source, Spectrum) else width


def engine_image(image_f: Rgb, chain: Chain, frame: Frame, warped: bool) -> Image:
    """The engine's image of lucent's. warped: whether its views are more than the canvas, or more looks at it."""
    source = image_f.source
    recipe = Recipe("lucent", sd=1.0, gain=1 / DIVISOR, decorrelate=image_f.decorrelate)
    if isinstance(source, Spectrum):
        start = source.tensor.detach()[..., : source.width // 2 + 1, :].permute(0, 1, 4, 2, 3)
        image: Image = (WarpedFourier if warped else Fourier)([recipe], start.cpu().contiguous(), frame)
        assert isinstance(image, Fourier)
        image.envelope = source.scale[:, : source.width // 2 + 1].to(frame.device).contiguous()
    else:
        assert isinstance(source, Pixels)
        recipe = Recipe("lucent", image="pixel", sd=1.0, gain=1.0, decorrelate=image_f.decorrelate)
        image = WarpedPixel([recipe], source.tensor.detach().cpu(), frame)
    if isinstance(image, Warped):
        image.chain = chain
    return image


@torch.no_grad()
def give_back(image: Image, source: Spectrum | Pixels) -> None:
    """Write what the engine made of the parameter into the user's own tensor, in place."""
    made = image.parameter.detach()
    if isinstance(source, Spectrum):
        source.tensor[..., : source.width // 2 + 1, :] = made.permute(0, 1, 3, 4, 2).to(source.tensor)
    else:
        source.tensor.copy_(made)
