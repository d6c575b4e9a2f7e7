"""Which of the user's own images excite each channel of a layer, where in them, and which channels fire alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from PIL import ImageOps
from torch import Tensor, nn

from fvfast import arguments, blobs, evidence, files, layers, models, photographs, tracing
from fvfast.errors import FvfastError
from fvfast.identity import weights_digest
from fvfast.layers import Layer, Tap
from fvfast.models import Model
from fvfast.neutral import neutral
from fvfast.photographs import with_channels
from fvfast.pristine import pristine
from fvfast.rendering import pick_device
from fvfast.store import DEFAULT, Store

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
UNREADABLE = (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError, EOFError, FvfastError)
BATCH = 16
PICTURE = 192  # pixels of a kept example's longer side, at most
REACH = 0.9  # the share of the gradient's energy that a box holds


@dataclass
class Found:
    """What was found: counts of images, channels and examples; sentences about files that could not be read; seconds;
    whether it was stopped, and so nothing kept."""

    images: int = 0
    channels: int = 0
    examples: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "seconds": round(self.seconds, 3)}


@dataclass(frozen=True)
class Seen:
    """What a network saw of an image: the square in its middle, `side` pixels wide from (left, top)."""

    path: Path
    left: int
    top: int
    side: int


@neutral()
def find(
    model: str | nn.Module | Model,
    layer: str,
    folder: str | Path,
    *,
    store: str | Path = DEFAULT,
    top: int = 9,
    neighbours: int = 8,
    size: int | None = None,
    whole: bool = False,
    device: str | int | torch.device | None = None,
    weights: str = "default",
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Found:
    """Show every image below `folder` to a network, and keep what excites each channel of `layer` most in a store.

    Of each image the square in its middle is seen, at `size` pixels (default: the network's own). A channel's
    examples are the `top` images with the largest activation anywhere in them, each with the box around that place
    which holds 90 % of what the place depends on; `whole`: the whole square instead. Its neighbours are the channels
    with the nearest activations over all images, by the cosine of their deviations from their means. Both replace
    what the store had of this layer.

    model, device, weights: as for `fvfast.render`. progress: told (images seen, images).
    Raises FvfastError for an unknown layer, a folder without images, and sizes that do not fit.
    """
    started = time.perf_counter()
    arguments.callables(progress=progress, stop=stop)
    top, neighbours = arguments.whole("--top", top, 1), arguments.whole("--neighbours", neighbours, 0)
    side, whole = arguments.side(size), arguments.flag("whole", whole)
    size = None if side is None else arguments.whole("size", side, 1)
    layer, store = arguments.layer_name(layer), arguments.path("store", store)
    folder = arguments.path("folder", folder)
    paths = pictures_in(folder)
    loaded, where = models.load(model, weights), pick_device(device)
    loaded.need_colours("a folder of pictures", or_grey=True)
    module = pristine(loaded.module, where, loaded.inputs)
    view, known = tracing.input_size(
        module, size or loaded.size, loaded.size, loaded.name, loaded.channels, loaded.layouts
    )
    described = layers.find(known, layer, loaded.name)
    found = Found(channels=described.channels)
    with Store(store, write=True) as kept, Tap(module, known, [layer]) as tap:
        look = Look(tap, described, loaded, where, view)
        seen, values, places = look.at(paths, found.failures, progress or (lambda done, total: None), stop)
        found.interrupted = bool(stop and stop())
        if found.interrupted:
            return found
        if not seen:
            raise FvfastError(f"none of the images in {folder} could be read: {found.failures[0]}")
        reach = 1.0 if whole else look.reach()
        examples, files = _examples(seen, values, places, top, reach)
        near = nearest(values, neighbours)
        evidence.keep(kept, loaded.name, weights_digest(loaded), layer, examples, near, files)
    found.images, found.examples, found.seconds = len(seen), len(examples), time.perf_counter() - started
    return found


class Look:
    """A layer of a network, looking at images."""

    def __init__(self, tap: Tap, layer: Layer, model: Model, device: torch.device, size: int) -> None:
        self.tap, self.layer, self.device, self.size, self.channels = tap, layer, device, size, model.channels
        self.mean, self.std = (torch.tensor(v, device=device)[:, None, None] for v in (model.mean, model.std))

    def at(
        self,
        paths: Sequence[Path],
        failures: list[str],
        progress: Callable[[int, int], None],
        stop: Callable[[], bool] | None,
    ) -> tuple[list[Seen], Tensor, Tensor]:
        """(what was seen, [N, C] the largest activation in each image, [N, C, 2] where: y and x in 0..1)."""
        seen: list[Seen] = []
        values: list[Tensor] = []
        places: list[Tensor] = []
        for begin in range(0, len(paths), BATCH):
            if stop and stop():
                break
            views = []
            for path in paths[begin : begin + BATCH]:
                try:
                    view, square = self.view(path)
                except UNREADABLE as error:
                    failures.append(unreadable(path, error))
                    continue
                seen.append(square)
                views.append(view)
            if views:
                value, place = self.peaks(torch.stack(views))
                values.append(value)
                places.append(place)
            progress(min(begin + BATCH, len(paths)), len(paths))
        count = self.layer.channels
        return seen, torch.cat([torch.empty(0, count), *values]), torch.cat([torch.empty(0, count, 2), *places])

    def view(self, path: Path) -> tuple[Tensor, Seen]:
        """([C, R, R] the square in an image's middle, in 0..1; which square). Raises one of `UNREADABLE`."""
        picture = _open(path)
        side = min(picture.size)
        square = Seen(path, (picture.width - side) // 2, (picture.height - side) // 2, side)
        box = (square.left, square.top, square.left + side, square.top + side)
        small = picture.resize((self.size, self.size), PIL.Image.Resampling.BICUBIC, box)
        image = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1).float() / 255
        return with_channels(image, self.channels), square

    @torch.no_grad()
    def peaks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """([B, C] largest activation, [B, C, 2] its place) of images [B, C, R, R] in 0..1."""
        seen = (images.to(self.device) - self.mean) / self.std
        grid = self.grid(self.tap(seen)[self.layer.name].float())  # [B, C, H, W]
        height, width = grid.shape[2:]
        value, at = grid.flatten(2).max(2)
        place = torch.stack([(at // width + 0.5) / height, (at % width + 0.5) / width], 2)
        return value.cpu(), place.cpu()

    def grid(self, activations: Tensor) -> Tensor:
        """Tokens laid out as the patches lie in the image; class tokens, which lie nowhere, left out."""
        layer = self.layer
        if layer.tokens is None or layer.height is None or layer.width is None:
            return activations
        patches = activations[:, :, layer.tokens - layer.height * layer.width :, 0]
        return patches.unflatten(2, (layer.height, layer.width))

    def reach(self) -> float:
        """How much of the image's width decides what the middle of the layer sees: 0..1, measured by its gradient."""
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, self.channels, self.size, self.size, generator=generator)
        image = image.to(self.device).requires_grad_()
        grid = self.grid(self.tap(image)[self.layer.name].float())
        height, width = grid.shape[2:]
        if height * width == 1:
            return 1.0
        middle = grid[0, :, height // 2, width // 2]
        if not middle.requires_grad:
            return 1.0
        (gradient,) = torch.autograd.grad(middle.square().sum(), image)
        energy = gradient[0].square().sum(0)  # [R, R]
        spans = [_span(energy.sum(axis)) for axis in (0, 1)]
        return min(1.0, max(1 / 16, max(spans) / self.size))


def nearest(values: Tensor, count: int) -> list[evidence.Neighbour]:
    """The `count` channels nearest to each, by the cosine of activations [N, C] less their mean over the images."""
    vectors = F.normalize(values - values.mean(0), dim=0, eps=1e-12)
    cosines = vectors.T @ vectors  # [C, C]
    cosines.fill_diagonal_(-2)
    best, others = cosines.topk(min(count, len(cosines) - 1), 1)
    return [
        evidence.Neighbour(channel, rank, int(others[channel, rank]), float(best[channel, rank].clamp(-1, 1)))
        for channel in range(len(cosines))
        for rank in range(best.shape[1])
    ]


def _examples(
    seen: Sequence[Seen], values: Tensor, places: Tensor, top: int, reach: float
) -> tuple[list[evidence.Example], dict[str, bytes]]:
    """The examples of every channel, and the files of their pictures. Each image is opened once."""
    best, rows = values.topk(min(top, len(seen)), 0)  # [top, C]
    wanted: dict[int, list[tuple[int, int]]] = {}
    for rank in range(len(rows)):
        for channel, row in enumerate(rows[rank].tolist()):
            wanted.setdefault(row, []).append((channel, rank))
    examples: list[evidence.Example] = []
    files: dict[str, bytes] = {}
    for row, uses in wanted.items():
        picture = _open(seen[row].path)
        made: dict[tuple[int, int, int, int], str] = {}
        for channel, rank in uses:
            box = _box(seen[row], float(places[row, channel, 0]), float(places[row, channel, 1]), reach)
            if box not in made:
                data = blobs.thumbnail(picture.crop(box), PICTURE)
                made[box] = blobs.address("examples", data, "webp")
                files[made[box]] = data
            activation, source = float(best[rank, channel]), str(seen[row].path.absolute())
            left, top_edge, right, bottom = box
            examples.append(
                evidence.Example(channel, rank, activation, source, left, top_edge, right, bottom, made[box])
            )
    return examples, files


def _box(seen: Seen, y: float, x: float, reach: float) -> tuple[int, int, int, int]:
    """A square of `reach` times what was seen around a place in it, moved inside: left, top, right, bottom."""
    side = max(1, round(reach * seen.side))
    left = min(max(0, round(x * seen.side - side / 2)), seen.side - side) + seen.left
    top = min(max(0, round(y * seen.side - side / 2)), seen.side - side) + seen.top
    return left, top, left + side, top + side


def _span(energy: Tensor) -> int:
    """How many entries around the middle of the energy hold the share `REACH` of it."""
    total = energy.cumsum(0) / energy.sum().clamp_min(1e-30)
    low = int((total < (1 - REACH) / 2).sum())
    high = int((total < 1 - (1 - REACH) / 2).sum())
    return high - low + 1


def pictures_in(folder: Path) -> list[Path]:
    """Every file below a folder whose name ends like a picture's, sorted. Raises FvfastError where there is none."""
    if not folder.is_dir():
        raise FvfastError(f"no folder {folder}")
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise FvfastError(f"no images in {folder}: it takes {', '.join(SUFFIXES)}")
    return found


def unreadable(path: Path, error: Exception) -> str:
    """Why one of `UNREADABLE` leaves an image out."""
    return str(error) if isinstance(error, FvfastError) else f"{path} is not a readable image ({type(error).__name__})"


def _open(path: Path) -> PIL.Image.Image:
    with PIL.Image.open(path) as picture:
        photographs.refuse_several(path, photographs.frames_of(picture, path))
        if picture.mode.startswith(("I", "F")):  # deeper than 8 bits, which Pillow would cut off at white
            return files.to_pil(photographs.to_tensor(ImageOps.exif_transpose(picture)))
        return ImageOps.exif_transpose(picture).convert("RGB")
