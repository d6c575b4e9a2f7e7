"""The mean Fourier magnitudes of a folder of pictures: measured, kept in a file, and read at another size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import PIL.Image
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fvfast import files, photographs
from fvfast.errors import FvfastError
from fvfast.images import COLOUR

KEY = "magnitude"
SIZE = 256
# Values of a picture are kept off 0 and 1 before the inverse of the sigmoid: 8 bits tell no more apart.
MARGIN = 1 / 510


def measure(
    folder: str | Path, size: int = SIZE, progress: Callable[[int, int], None] | None = None
) -> tuple[Tensor, int]:
    """The mean magnitudes of all pictures in a folder (and those within it), and how many there were.

    The magnitudes are [3, size, size//2+1] float32.

    Each picture's middle square, at `size` pixels, is taken back to the decorrelated channels that parameterisations
    work in (inverse sigmoid, inverse colour matrix), and seen through a Hann window, without which its edges would
    count as a cross of high frequencies. progress: called with (done, total).

    Raises FvfastError where the folder holds no picture that can be read.
    """
    paths = sorted(_pictures(Path(folder)))
    total = torch.zeros(3, size, size // 2 + 1, dtype=torch.float64)
    count = 0
    for done, path in enumerate(paths, 1):
        try:
            picture = _square(photographs.read(path).image, size)
        except FvfastError:
            continue  # one broken file among thousands
        total += magnitudes_of(picture)
        count += 1
        if progress:
            progress(done, len(paths))
    if not count:
        raise FvfastError(f"no picture in {folder} could be read")
    return (total / count).float(), count


def magnitudes_of(picture: Tensor) -> Tensor:
    """|rfft2| of a square picture [3, H, H] in 0..1 in decorrelated channels, [3, H, H//2+1]."""
    size = picture.shape[-1]
    field = picture.double().clamp(MARGIN, 1 - MARGIN).logit()
    field = torch.einsum("co,ohw->chw", COLOUR.double().inverse(), field)
    window = torch.hann_window(size, dtype=torch.float64)
    window = window[:, None] * window
    mean = (field * window).sum((1, 2), keepdim=True) / window.sum()
    return torch.fft.rfft2((field - mean) * window, norm="ortho").abs()


def write(magnitude: Tensor, path: Path) -> None:
    """Keep magnitudes [3, H, H//2+1] in a safetensors file."""
    with files.whole(path) as file:
        file.write(save({KEY: magnitude.contiguous()}))


def read(path: str | Path) -> Tensor:
    """Magnitudes that `write` wrote, [3, H, H//2+1]. Raises FvfastError."""
    if not Path(path).is_file():
        raise FvfastError(f"no file {path}; `fvfast magnitude FOLDER` makes one")
    try:
        with safe_open(str(path), framework="pt") as file:
            found = file.get_tensor(KEY) if KEY in file.keys() else None  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise FvfastError(f"{path} is not a readable safetensors file ({error})") from error
    if found is None or found.dim() != 3 or found.shape[0] != 3 or found.shape[2] != found.shape[1] // 2 + 1:
        raise FvfastError(f"{path} holds no magnitudes; `fvfast magnitude FOLDER` makes such a file")
    if not (found.isfinite().all() and (found >= 0).all() and found.any()):
        raise FvfastError(f"{path} holds magnitudes that are negative, not numbers, or all 0")
    return found.float()


def at_size(magnitude: Tensor, size: int) -> Tensor:
    """Magnitudes [3, H, M] at the frequencies of a canvas of `size` pixels, [3, size, size//2+1].

    The same number of cycles a *picture* means the same magnitude: a larger canvas shows the same pictures larger, and
    what lies beyond their finest detail goes on as 1/f would. Frequencies between are interpolated.
    """
    height = magnitude.shape[1]
    half = height // 2
    whole = magnitude.roll(half, 1)  # rows from -H/2 upwards
    ky = torch.fft.fftfreq(size, 1 / size)[:, None]
    kx = torch.arange(size // 2 + 1)[None]
    radius = torch.maximum(ky.abs(), kx)
    beyond = (radius / (half - 1)).clamp(min=1)  # how far outside the measured square
    y, x = ky / beyond, kx / beyond
    grid = torch.stack(
        [(2 * x / (magnitude.shape[2] - 1) - 1).expand(size, -1), (2 * (y + half) / (height - 1) - 1).expand_as(x)], 2
    )
    found = F.grid_sample(whole[None], grid[None], mode="bilinear", align_corners=True)[0]
    return found / beyond


def _pictures(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise FvfastError(f"no folder {folder}" if not folder.exists() else f"{folder} is a file, not a folder")
    PIL.Image.init()
    for path in folder.rglob("*"):
        if path.suffix.lower() in PIL.Image.EXTENSION and path.is_file():
            yield path


def _square(picture: Tensor, size: int) -> Tensor:
    """The middle square of a picture [3, H, W] at `size` pixels."""
    height, width = picture.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = picture[None, :, top : top + side, left : left + side]
    return F.interpolate(square, size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)
