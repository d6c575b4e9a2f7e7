"""Images that share or lack something: transparent ones, and batches with a component in common.

Both wrap another parameterisation, whatever it is: they keep its parameter and their own in one tensor, and lend it the
part that it knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from fvfast_kernels import warp
from torch import Generator, Tensor

from fvfast.channels import counted
from fvfast.errors import FvfastError
from fvfast.images import COLOUR, Frame, Image, envelope, ready
from fvfast.recipes import Recipe
from fvfast.views import matrices

BACKDROPS = (0.75, 1.0, 1.5, 2.0)  # from grainy to blurred: by what power of the frequency their waves fall
ALPHA_DECAY = 1.5  # an opacity is smoother than colours are
RANDOMS = 6  # numbers a step: which backdrop, its shift (y, x), its tint (r, g, b)


class Transparent(Image):
    """An image with a learnt opacity. parameter: the colours', then the opacity's half-spectrum, in a row, [B, N].

    The network sees it before another random backdrop in every step, so what should be seen must be opaque; and the
    mean opacity costs a part of the objective, so what need not be seen becomes transparent. After lucid's
    `collapse_alpha_random` and Mordvintsev et al., "Differentiable image parameterizations" (2018). Beyond its
    edge the canvas is transparent.
    """

    def __init__(self, colours: Image, recipes: Sequence[Recipe], noise: Tensor, frame: Frame) -> None:
        """noise: as `noise` gives it, [B, ...]."""
        if frame.inputs != 3:
            raise FvfastError(
                f"an opacity is learnt with three colours, and this network's images have "
                f"{counted(frame.inputs)}: leave out --alpha"
            )
        self.colours, self.frame, self.views = colours, frame, recipes[0].views
        size, device = frame.size, frame.device
        self.weight = torch.tensor([r.alpha for r in recipes], device=device)  # [B]
        self.envelope = envelope("lucid", size, size, ALPHA_DECAY).to(device)  # [H, M]
        columns = size // 2 + 1
        waves = noise.to(device)  # [B, 1 + 3 K, 2, H, M]
        own = colours.parameter.detach()
        self._shape, self._count = own.shape[1:], own[0].numel()
        opacity = 0.01 * waves[:, :1]
        self.parameter = torch.cat([own.flatten(1), opacity.flatten(1)], 1).requires_grad_()
        self._half = (1, 2, size, columns)
        scales = torch.stack([envelope("lucid", size, size, decay) for decay in BACKDROPS]).to(device)  # [K, H, M]
        fields = _picture(waves[:, 1:].unflatten(1, (len(BACKDROPS), 3)), scales[:, None], size)  # [B, K, 3, H, W]
        fields = fields / fields.std((2, 3, 4), keepdim=True)
        self.backdrops = torch.einsum("oc,bkchw->bkohw", COLOUR.to(device), fields) * 1.5

    @staticmethod
    def noise(size: int, generator: Generator) -> Tensor:
        """One image's opacity and backdrops as half-spectra, standard normal, [1 + 3 K, 2, H, W//2+1]."""
        return torch.randn(1 + 3 * len(BACKDROPS), 2, size, size // 2 + 1, generator=generator)

    @staticmethod
    def draw(steps: int, generator: Generator) -> Tensor:
        """What picks the backdrops of every step, uniform in 0..1, [steps, RANDOMS]; they follow the views' numbers."""
        return torch.rand(steps, RANDOMS, generator=generator)

    def canvas(self) -> Tensor:
        with self._lent() as colours:
            return colours.canvas()

    def alpha(self) -> Tensor:
        waves = self.parameter[:, self._count :].view(-1, *self._half)
        return torch.sigmoid(_picture(waves, self.envelope, self.frame.size)[:, 0])

    def prior(self, value: Tensor) -> Tensor:
        opacity = self.weight * self.alpha().mean((1, 2)) * value.detach().abs()
        with self._lent() as colours:
            inner = colours.prior(value)
        return opacity if inner is None else inner + opacity

    def reset(self) -> None:
        self.colours.reset()

    def shown(self) -> Tensor:
        opacity = self.alpha()[:, None]
        return self.canvas() * opacity + 0.5 * (1 - opacity)

    def picture(self) -> Tensor:
        return torch.cat([self.canvas(), self.alpha()[:, None]], 1)

    def begin(self, pictures: Tensor) -> None:
        self.colours.begin(pictures)
        with torch.no_grad():
            self.parameter[:, : self._count] = self.colours.parameter.flatten(1)

    def view(self, views: Tensor) -> Tensor:
        """As `Image.view`. views: [B, 6 + RANDOMS], the last of which choose the backdrop."""
        frame = self.frame
        opacity = self.alpha()[:, None]
        # Colours are weighed with their opacity before they are interpolated, or they would bleed at its edges.
        layers = torch.cat([self.canvas() * opacity, opacity], 1)  # [B, 4, H, W]
        layers = warp(layers, matrices(views[:, :6]), (frame.view, frame.view), border=0.0)
        image = layers[:, :3] + (1 - layers[:, 3:]) * self._backdrop(views[:, 6:])
        return ready((image - frame.mean[:, None, None]) / frame.std[:, None, None], frame)

    def _backdrop(self, randoms: Tensor) -> Tensor:
        """A piece of a backdrop for every image, [B, 3, R, R] in 0..1. randoms: [B, RANDOMS] in 0..1."""
        size, side = self.frame.size, self.frame.view
        batch = torch.arange(len(randoms), device=randoms.device)
        which = (randoms[:, 0] * len(BACKDROPS)).long()
        start = (randoms[:, 1:3] * size).long()
        offset = torch.arange(side, device=randoms.device)
        rows, columns = ((start[:, i, None] + offset) % size for i in (0, 1))  # [B, R]
        pieces = self.backdrops[batch[:, None, None], which[:, None, None], :, rows[:, :, None], columns[:, None]]
        tint = (2 * randoms[:, 3:6] - 1)[:, None, None] * 1.5
        return torch.sigmoid(pieces + tint).permute(0, 3, 1, 2)

    def _lent(self) -> contextlib.AbstractContextManager[Image]:
        return lent(self.colours, self.parameter[:, : self._count].view(-1, *self._shape))


class Shared(Image):
    """Images of a batch with a component in common. parameter: each image's own, and its share, [B, 2, ...].

    What another parameterisation sees is (1 - part) own + part mean(shares). The shares all have the same gradient and
    begin alike, so they stay alike: together they are one parameter that every image of the batch pulls at. After
    the shared parameterisations of lucid's "Aligned feature visualization interpolation" (Mordvintsev et al. 2018).
    """

    def __init__(self, inner: Image, part: float) -> None:
        """part: 0 for images that share nothing .. below 1."""
        self.inner, self.part, self.frame, self.views = inner, part, inner.frame, inner.views
        own = inner.parameter.detach() / (1 - part)
        self.parameter = torch.stack([own, torch.zeros_like(own)], 1).requires_grad_()

    def canvas(self) -> Tensor:
        with self._lent() as inner:
            return inner.canvas()

    def view(self, views: Tensor) -> Tensor:
        with self._lent() as inner:
            return inner.view(views)

    def shown(self) -> Tensor:
        with self._lent() as inner:
            return inner.shown()

    def picture(self) -> Tensor:
        with self._lent() as inner:
            return inner.picture()

    def alpha(self) -> Tensor | None:
        with self._lent() as inner:
            return inner.alpha()

    def prior(self, value: Tensor) -> Tensor | None:
        with self._lent() as inner:
            return inner.prior(value)

    def reset(self) -> None:
        self.inner.reset()

    def begin(self, pictures: Tensor) -> None:
        self.inner.begin(pictures)
        with torch.no_grad():
            self.parameter[:, 0] = self.inner.parameter / (1 - self.part)

    def _lent(self) -> contextlib.AbstractContextManager[Image]:
        own, share = self.parameter.unbind(1)
        return lent(self.inner, (1 - self.part) * own + self.part * share.mean(0, keepdim=True))


@contextlib.contextmanager
def lent(image: Image, parameter: Tensor) -> Iterator[Image]:
    """An image with another parameter for a while.

    It is taken back without its history: that would keep the leaf's place in autograd alive beyond the step, on the
    stream of its first use, which a CUDA graph may not wait for.
    """
    image.parameter = parameter
    try:
        yield image
    finally:
        image.parameter = parameter.detach()


def _picture(waves: Tensor, scale: Tensor, size: int) -> Tensor:
    """Half-spectra [..., 2, H, M], scaled by [..., H, M], as pictures [..., H, W]."""
    scaled = waves * scale[..., None, :, :]
    return torch.fft.irfft2(torch.complex(scaled.select(-3, 0), scaled.select(-3, 1)), s=(size, size), norm="ortho")
