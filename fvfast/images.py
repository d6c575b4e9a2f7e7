"""How an image is parameterised: what the optimiser moves, and how that becomes the canvas and its views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from fvfast_kernels import Buffers, synthesize, warp
from torch import Generator, Tensor

from fvfast.errors import FvfastError
from fvfast.neutral import neutral
from fvfast.recipes import Recipe
from fvfast.views import Views, identity, matrices

# Square root of ImageNet's colour covariance, as lucid and all that followed it use it, over its largest column norm.
with neutral():  # this module may be imported under any of its caller's settings
    COLOUR = torch.tensor([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]]) / 0.4619524
    # Inverted here, once: on a GPU that would take a solver library, for nine numbers.
    DECORRELATING = COLOUR.double().inverse().float()


def envelope(kind: str, height: int, width: int, decay: float) -> Tensor:
    """The fixed scaling of a half-spectrum, [H, W//2+1] float32.

    "lucid": 1 / max(f, 1/max(H, W))^decay with f in cycles a pixel (lucid's and lucent's `fft_image`).
    "torch-dreams": 1 / max(g, 1/(d max(H, W))), g = (f/d)^(2 decay), d = sqrt(1/2), and nothing at the Nyquist
    column of an even width (torch-dreams 4.0.0, `get_fft_scale`).
    """
    fy = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    fx = torch.fft.rfftfreq(width, dtype=torch.float64)[None]
    f = (fy.square() + fx.square()).sqrt()  # [H, M]
    if kind == "lucid":
        return f.clamp(min=1 / max(height, width)).pow(-decay).float()
    d = 0.5**0.5
    scale = 1 / (f / d).pow(2 * decay).clamp(min=1 / (max(height, width) * d))
    if width % 2 == 0:
        scale[:, -1] = 0
    return scale.float()


@dataclass(frozen=True)
class Frame:
    """What every image of a batch shares.

    size: the canvas in pixels; view: the view in pixels; mean, std: the network's normalisation, [C], one number for
    each channel of the image; dtype: of the view; device: where it lives. channels: of the view; four where the network
    takes three have a fourth that is zero.
    """

    size: int
    view: int
    mean: Tensor
    std: Tensor
    dtype: torch.dtype
    device: torch.device
    channels: int = 3

    @property
    def inputs(self) -> int:
        """How many channels an image has."""
        return len(self.mean)

    @property
    def wide(self) -> bool:
        """Whether the view has a fourth channel that the image lacks."""
        return self.channels == 4 and self.inputs == 3


class Image(ABC):
    """B images as the optimiser sees them.

    parameter: the leaf tensor that is moved, [B, ...] float32.
    """

    parameter: Tensor
    frame: Frame
    views: Views

    def prior(self, value: Tensor) -> Tensor | None:
        """What the loss of each image gains for a parameter that is unlikely, [B]; None where all are alike.

        value: the objective of each, [B].
        """
        return None

    def settle(self) -> None:  # noqa: B027 (most parameters may be anything)
        """Bring the parameter back to where it may be, after each step."""

    def reset(self) -> None:  # noqa: B027 (most gather nothing)
        """Forget what was gathered on the way, in place; the parameter is set back by whoever moved it."""

    def alpha(self) -> Tensor | None:
        """Opacity [B, H, W] in 0..1, where the parameterisation knows of one."""
        return None

    def begin(self, pictures: Tensor) -> None:
        """Have the canvases be these pictures, [B, C, H, W] in 0..1, as nearly as they can. Raises FvfastError."""
        raise FvfastError("only --image fourier, pixel, phase and pyramid can start from an image")

    def shown(self) -> Tensor:
        """What there is to see, [B, C, H, W]: the canvas, before mid-grey where it is transparent."""
        return self.canvas()

    def picture(self) -> Tensor:
        """What is written to a file, [B, C, H, W], or [B, C + 1, H, W] with a learnt opacity."""
        return self.canvas()

    @abstractmethod
    def canvas(self) -> Tensor:
        """The images themselves, [B, C, H, W] float32 in 0..1, differentiable in the parameter."""

    def view(self, views: Tensor) -> Tensor:
        """What the network sees: [B, C, R, R], normalised, differentiable. views: [B, 6] as `Views.draw` gives."""
        return look(self.canvas(), views, self.views, self.frame)


def look(canvas: Tensor, views: Tensor, settings: Views, frame: Frame) -> Tensor:
    """Canvases [B, C, H, W] in 0..1 as a network sees them by views [B, 6]: sampled bilinearly and normalised."""
    size = (frame.view, frame.view)
    mean, std = frame.mean[:, None, None], frame.std[:, None, None]
    if settings.still and frame.view == frame.size:
        return ready((canvas - mean) / std, frame)
    if settings.border == "mean":
        return ready(warp((canvas - mean) / std, matrices(views), size, border=0.0), frame)
    return ready((warp(canvas, matrices(views), size, border=settings.border) - mean) / std, frame)


def ready(image: Tensor, frame: Frame) -> Tensor:
    """Normalised images [B, C, R, R] in the layout and the type that the network takes."""
    if frame.wide:
        image = torch.cat([image, torch.zeros_like(image[:, :1])], 1)
    return image.to(frame.dtype, memory_format=torch.channels_last)


def mixing(decorrelate: bool, channels: int, device: torch.device) -> Tensor:
    """The matrix from what is learnt to an image's channels, [C, C]: the identity where they are no colours."""
    return (COLOUR if decorrelate and channels == 3 else torch.eye(channels)).to(device)


class Fourier(Image):
    """The image as the inverse FFT of a scaled, learnable half-spectrum. parameter: [B, C, 2, H, W//2+1].

    The kernels take three channels; other numbers are folded into the batch in groups of three.
    """

    def __init__(self, recipes: Sequence[Recipe], noise: Tensor, frame: Frame) -> None:
        self.frame = frame
        self.views = recipes[0].views
        self.gain = recipes[0].gain
        scales = [envelope(r.envelope, frame.size, frame.size, r.decay) for r in recipes]
        shared = all(scale.equal(scales[0]) for scale in scales)
        self.envelope = (scales[0] if shared else torch.stack(scales)).to(frame.device)  # [H, M] or [B, H, M]
        self.decorrelate = recipes[0].decorrelate
        self.colour = mixing(self.decorrelate, frame.inputs, frame.device)
        sd = torch.tensor([r.sd for r in recipes])[:, None, None, None, None]
        self.parameter = (noise * sd).to(frame.device).requires_grad_()
        self._still = identity(len(noise))[:, :5].to(frame.device)

    @staticmethod
    def noise(size: int, generator: Generator, channels: int = 3) -> Tensor:
        """One image's starting point, standard normal, [C, 2, H, W//2+1]."""
        return torch.randn(channels, 2, size, size // 2 + 1, generator=generator)

    def canvas(self) -> Tensor:
        zero = torch.zeros_like(self.frame.mean)
        return self._synthesize(self._still, self.frame.size, zero, torch.ones_like(zero), torch.float32, "nchw")

    def view(self, views: Tensor) -> Tensor:
        if not self.views.in_basis:
            return super().view(views)
        frame = self.frame
        layout = "nhwc4" if frame.wide else "nhwc"
        return self._synthesize(views[:, :5], frame.view, frame.mean, frame.std, frame.dtype, layout)

    def begin(self, pictures: Tensor) -> None:
        size = self.frame.size
        field = decorrelated(pictures.to(self.frame.device), self.decorrelate, self.gain)
        waves = torch.fft.rfft2(field, norm="ortho")  # [B, C, H, M]
        scale = self.envelope if self.envelope.dim() == 2 else self.envelope[:, None]
        # Where the envelope lets nothing through (torch-dreams' last column), nothing is asked for.
        waves = waves * torch.where(scale > 0, 1 / scale.clamp(min=1e-12), 0)
        assert waves.shape[-2:] == (size, size // 2 + 1)
        with torch.no_grad():
            self.parameter.copy_(torch.stack([waves.real, waves.imag], 2))

    def spectrum(self) -> Tensor:
        """What is synthesised, [B, C, 2, H, W//2+1], differentiable in the parameter."""
        return self.parameter

    def buffers(self) -> Buffers:
        """What a step makes views of three channels with, without autograd (`fvfast_kernels.synthesize_into`)."""
        frame = self.frame
        return Buffers.allocate(
            len(self.parameter),
            frame.size,
            frame.size,
            (frame.view, frame.view),
            colour=self.colour,
            mean=frame.mean,
            std=frame.std,
            device=frame.device,
            gain=self.gain,
            # Half-precision views round away more than half-precision products do.
            precision="exact" if frame.dtype == torch.float32 else "fast",
            dtype=frame.dtype,
            layout="nhwc4" if frame.wide else "nhwc",
        )

    def _synthesize(
        self, views: Tensor, size: int, mean: Tensor, std: Tensor, dtype: torch.dtype, layout: str
    ) -> Tensor:
        spectrum = self.spectrum()
        options = {"width": self.frame.size, "out_size": (size, size), "gain": self.gain}
        if self.frame.inputs == 3:
            return synthesize(
                spectrum,
                self.envelope,
                views,
                colour=self.colour,
                mean=mean,
                std=std,
                dtype=dtype,
                layout=layout,
                **options,
            )
        image = _in_threes(spectrum, self.envelope, views, options)
        memory = torch.contiguous_format if layout == "nchw" else torch.channels_last
        return ((image - mean[:, None, None]) / std[:, None, None]).to(dtype, memory_format=memory)


def _in_threes(spectrum: Tensor, envelope: Tensor, views: Tensor, options: dict[str, Any]) -> Tensor:
    """Images [B, C, R, R] float32 in 0..1 of spectra [B, C, 2, H, M], synthesised three channels at a time.

    options: what `synthesize` takes besides, the same for all. What fills the last group up has no waves.
    """
    images, channels = spectrum.shape[:2]
    groups = -(-channels // 3)
    folded = F.pad(spectrum, (0, 0, 0, 0, 0, 0, 0, 3 * groups - channels)).reshape(-1, 3, *spectrum.shape[2:])
    if envelope.dim() == 3:  # one an image
        envelope = _for_each(envelope, groups)
    # Each group with the network's own mean and deviation would be as many launches as groups.
    zero = spectrum.new_zeros(3)
    found = synthesize(
        folded,
        envelope,
        _for_each(views, groups),
        colour=torch.eye(3, dtype=spectrum.dtype, device=spectrum.device),
        mean=zero,
        std=torch.ones_like(zero),
        **options,
    )
    return found.reshape(images, 3 * groups, *found.shape[2:])[:, :channels]


def _for_each(values: Tensor, groups: int) -> Tensor:
    """Every image's row [B, ...] once for each of its groups, [B * groups, ...]."""
    return values[:, None].expand(-1, groups, *values.shape[1:]).reshape(-1, *values.shape[1:])


class Pixel(Image):
    """The image as pixels, through a sigmoid. parameter: [B, C, H, W]."""

    def __init__(self, recipes: Sequence[Recipe], noise: Tensor, frame: Frame) -> None:
        self.frame = frame
        self.views = recipes[0].views
        self.gain = recipes[0].gain
        self.decorrelate = recipes[0].decorrelate
        self.colour = mixing(self.decorrelate, frame.inputs, frame.device)
        sd = torch.tensor([r.sd for r in recipes])[:, None, None, None]
        self.parameter = (noise * sd).to(frame.device).requires_grad_()

    @staticmethod
    def noise(size: int, generator: Generator, channels: int = 3) -> Tensor:
        """One image's starting point, standard normal, [C, H, W]."""
        return torch.randn(channels, size, size, generator=generator)

    def begin(self, pictures: Tensor) -> None:
        with torch.no_grad():
            self.parameter.copy_(decorrelated(pictures.to(self.frame.device), self.decorrelate, self.gain))

    def canvas(self) -> Tensor:
        mixed = torch.einsum("oc,bchw->bohw", self.colour, self.parameter)
        return torch.sigmoid(self.gain * mixed)


def decorrelated(pictures: Tensor, decorrelate: bool, gain: float) -> Tensor:
    """What colours and a sigmoid make these pictures of: the inverse of sigmoid(gain . mixing @ x), [B, C, H, W].

    Black and white, which no sigmoid reaches, are taken for the levels next to them, of 256.
    """
    logits = torch.logit(pictures.clamp(1 / 255, 254 / 255)) / gain
    mixed = decorrelate and logits.shape[1] == 3
    return torch.einsum("oc,bchw->bohw", DECORRELATING.to(logits), logits) if mixed else logits


class Kind(Protocol):
    """A way to parameterise images: what a start is drawn as, and what is made of the starts of a batch."""

    def noise(self, size: int, generator: Generator, channels: int = 3) -> Tensor: ...

    def __call__(self, recipes: Sequence[Recipe], noise: Tensor, frame: Frame) -> Image: ...
