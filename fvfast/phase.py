"""Phase only: the image's Fourier magnitudes are fixed, as in photographs, and only its phases are learnt.

MaCo, after Fel et al., "Unlocking feature visualization for deeper networks with magnitude constrained optimization"
(2023). Where the objective pulled, summed over all steps, becomes the picture's transparency.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast import magnitudes
from fvfast.channels import counted
from fvfast.errors import FvfastError
from fvfast.images import Fourier, Frame, decorrelated, envelope, mixing
from fvfast.recipes import Recipe
from fvfast.views import identity

# What pulled less than this part of the strongest pull is wholly transparent; more than that, wholly opaque.
TRANSPARENT, OPAQUE = 0.1, 0.5


class Phase(Fourier):
    """The image as the inverse FFT of fixed magnitudes with learnable phases. parameter: phases [B, C, H, W//2+1].

    Synthesised like `Fourier`, from the spectrum m e^{i phase} / sd, where sd is the standard deviation that the
    image would have: MaCo's `standardize`, by Parseval's theorem from sums over the spectrum alone.
    """

    def __init__(self, recipes: Sequence[Recipe], noise: Tensor, frame: Frame) -> None:
        recipe, size = recipes[0], frame.size
        self.frame, self.views, self.gain = frame, recipe.views, recipe.gain
        self.decorrelate = recipe.decorrelate
        self.colour = mixing(self.decorrelate, frame.inputs, frame.device)
        self.magnitude = magnitude(recipe.magnitude, size, recipe.decay, frame.inputs).to(frame.device)  # [C, H, M]
        self.envelope = torch.ones_like(self.magnitude[0])  # [H, M]: the magnitudes are in the spectrum already
        columns = size // 2 + 1
        self.parameter = noise[..., :columns].clone().to(frame.device).requires_grad_()
        self.grain = noise[..., columns:].to(frame.device)  # [B, C, H, W]
        self.grain_sd = recipe.noise
        self.pulled = torch.zeros(len(noise), size, size, device=frame.device)  # [B, H, W], see `alpha`
        self._weight = column_weights(size).to(frame.device)
        self._still = identity(len(noise))[:, :5].to(frame.device)

    @staticmethod
    def noise(size: int, generator: torch.Generator, channels: int = 3) -> Tensor:
        """One image's phases, uniform in -pi .. pi, and beside them the noise of its views, [C, H, W//2+1 + W].

        The views' noise is normal plus uniform of width 1, as in horama.
        """
        phase = (2 * torch.rand(channels, size, size // 2 + 1, generator=generator) - 1) * math.pi
        normal = torch.randn(channels, size, size, generator=generator)
        return torch.cat([phase, normal + torch.rand(channels, size, size, generator=generator) - 0.5], 2)

    def spectrum(self) -> Tensor:
        """m e^{i phase} / sd, [B, C, 2, H, M]."""
        planes = torch.stack([self.parameter.cos(), self.parameter.sin()], 2) * self.magnitude[:, None]
        spectrum = planes / standard_deviation(planes, self._weight)[:, None, None, None, None]
        if spectrum.requires_grad:
            spectrum.register_hook(self._accumulate)
        return spectrum

    def view(self, views: Tensor) -> Tensor:
        view = super().view(views)
        if self.grain_sd:
            spare = view.shape[1] - self.frame.inputs  # a plane that the image lacks stays 0
            view = view + F.pad(self._noise(views, view), (0, 0, 0, 0, 0, spare))
        return view

    def begin(self, pictures: Tensor) -> None:
        """The pictures' phases; their magnitudes stay those that all images have."""
        field = decorrelated(pictures.to(self.frame.device), self.decorrelate, self.gain)
        with torch.no_grad():
            waves = torch.fft.rfft2(field, norm="ortho")  # [B, C, H, M]
            # What `angle` is, which torch would compile for a GPU at its first use.
            self.parameter.copy_(torch.atan2(waves.imag, waves.real))

    def reset(self) -> None:
        self.pulled.zero_()

    def alpha(self) -> Tensor:
        """Opacity, [B, H, W] in 0..1: how much the objective pulled at each pixel, summed over the steps, smoothed."""
        size = self.frame.size
        sigma = size / 40
        reach = int(3 * sigma)
        offsets = torch.arange(-reach, reach + 1, device=self.pulled.device)
        kernel = torch.softmax(-0.5 * (offsets / sigma).square(), 0)
        smooth = F.pad(self.pulled[:, None], (reach,) * 4, mode="circular")  # the canvas wraps around
        smooth = F.conv2d(F.conv2d(smooth, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[:, 0]
        pull = smooth / smooth.amax((1, 2), keepdim=True).clamp(min=1e-30)
        return ((pull - TRANSPARENT) / (OPAQUE - TRANSPARENT)).clamp(0, 1)

    def _accumulate(self, gradient: Tensor) -> None:
        """Add what a gradient of the spectrum [B, C, 2, H, M] means on the canvas, without its sign.

        The spectrum's gradient is w rfft2(g) with g that of the canvas, so g is the inverse transform of the rest.
        """
        planes = gradient / self._weight
        size = self.frame.size
        field = torch.fft.irfft2(torch.complex(planes[:, :, 0], planes[:, :, 1]), s=(size, size), norm="ortho")
        self.pulled += field.abs().sum(1)

    def _noise(self, views: Tensor, view: Tensor) -> Tensor:
        """Another piece of the grain for every view, normalised like the view: [B, C, R, R].

        Where the piece begins comes out of the view's own random shift, so that no generator runs inside the loop.
        """
        size, side = self.frame.size, self.frame.view
        start = ((views[:, :2] * 97.0) % 1.0 * size).long()  # [B, 2]
        offset = torch.arange(side, device=view.device)
        rows, columns = ((start[:, i, None] + offset) % size for i in (0, 1))  # [B, R]
        batch = torch.arange(len(views), device=view.device)[:, None, None]
        piece = self.grain[batch, :, rows[:, :, None], columns[:, None]]  # [B, R, R, C]
        return (piece.permute(0, 3, 1, 2) * self.grain_sd).to(view.dtype)


@functools.lru_cache(maxsize=8)
def magnitude(file: str | None, size: int, decay: float = 1.0, channels: int = 3) -> Tensor:
    """The fixed magnitudes of a canvas, [C, H, W//2+1]: those in `file`, or 1/f^decay. Nothing at frequency 0."""
    if file is None:
        found = envelope("lucid", size, size, decay).expand(channels, -1, -1).clone()
    elif channels != 3:
        raise FvfastError(
            f"magnitudes are measured on colour pictures, and this network's images have {counted(channels)}: leave "
            "out --magnitude"
        )
    else:
        found = magnitudes.at_size(magnitudes.read(file), size)
    found[:, 0, 0] = 0
    return found


def column_weights(width: int) -> Tensor:
    """How often each column of a half-spectrum counts in the whole, [W//2+1]: twice, but for those that are real."""
    kx = torch.arange(width // 2 + 1)
    return torch.where((kx == 0) | (2 * kx == width), 1.0, 2.0)


def standard_deviation(planes: Tensor, weight: Tensor) -> Tensor:
    """The standard deviation of all channels of a square image together, from its spectrum [B, C, 2, H, M]: [B].

    By Parseval's theorem, for irfft2 with norm="ortho" and nothing at frequency 0. In the columns that stand for
    themselves (kx = 0, and W/2 if W is even) the transform keeps the Hermitian part only: half of S(ky) + conj S(-ky).
    weight: the image's `column_weights`, where the spectrum is.
    """
    channels, size = planes.shape[1], planes.shape[-2]
    real, imaginary = planes.unbind(2)  # [B, C, H, M]
    back = -torch.arange(size, device=planes.device) % size
    alone = weight == 1
    real = torch.where(alone, (real + real[:, :, back]) / 2, real)
    imaginary = torch.where(alone, (imaginary - imaginary[:, :, back]) / 2, imaginary)
    energy = ((real.square() + imaginary.square()) * weight).sum((1, 2, 3))
    return (energy / (channels * size * size)).sqrt()
