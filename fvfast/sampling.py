"""Activation vectors of a layer, from a folder of the user's images; kept on the way, so that a run can go on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fvfast import files
from fvfast.errors import FvfastError
from fvfast.examples import BATCH, UNREADABLE, Look, unreadable
from fvfast.identity import canonical
from fvfast.layers import LOGITS

KEEP_EVERY_S = 15.0


@dataclass
class Vectors:
    """Activations of one layer, N of them.

    values: [N, C]; logits: the network's output for the image that each comes from, [N, K], K = 0 where it has none.
    rows: which of `names` each comes from; places: where in the image's square, [N, 2], y and x in 0..1.
    names: the images seen so far, as paths from their folder; failures: sentences about those that could not be read.
    """

    values: Tensor
    logits: Tensor
    rows: list[int] = field(default_factory=list)
    places: Tensor = field(default_factory=lambda: torch.empty(0, 2))
    names: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def collect(
    look: Look,
    folder: Path,
    paths: Sequence[Path],
    *,
    positions: int,
    average: bool,
    seed: int,
    key: str,
    keep: Path,
    progress: Callable[[int, int], None],
    stop: Callable[[], bool],
) -> Vectors:
    """The activations of `positions` random places in each image, or their average over all places.

    A place follows from `seed` and the image's path alone, not from what else is in the folder. `keep`: the file in
    which what was seen is kept every now and then, under `key`; what it holds of the same key is not looked at again.
    """
    names = [path.relative_to(folder).as_posix() for path in paths]
    found = _kept(keep, key, names) or Vectors(torch.empty(0, look.layer.channels), torch.empty(0, 0))
    begun = len(found.names)
    kept = time.monotonic()
    for at in range(begun, len(paths), BATCH):
        progress(at, len(paths))
        if stop():
            break
        _look_at(look, found, names[at : at + BATCH], paths[at : at + BATCH], positions, average, seed)
        if time.monotonic() - kept > KEEP_EVERY_S:
            _keep(keep, key, found)
            kept = time.monotonic()
    if len(found.names) > begun:
        _keep(keep, key, found)
    progress(len(found.names), len(paths))
    return found


@torch.no_grad()
def _look_at(
    look: Look, found: Vectors, names: Sequence[str], paths: Sequence[Path], positions: int, average: bool, seed: int
) -> None:
    """Add what a batch of images shows to what was found."""
    views: list[Tensor] = []
    rows: list[int] = []
    for name, path in zip(names, paths, strict=True):
        found.names.append(name)
        try:
            views.append(look.view(path)[0])
            rows.append(len(found.names) - 1)
        except UNREADABLE as error:
            found.failures.append(unreadable(path, error))
    if not views:
        return
    seen = (torch.stack(views).to(look.device) - look.mean) / look.std
    outputs = look.tap(seen)
    maps = look.grid(outputs[look.layer.name].float()).cpu()  # [B, C, H, W]
    logits = outputs[LOGITS].float().cpu().flatten(2).mean(2) if LOGITS in outputs else torch.empty(len(maps), 0)
    height, width = maps.shape[2:]
    vectors: list[Tensor] = []
    outputs_of: list[Tensor] = []
    places: list[Tensor] = []
    for row, image, output in zip(rows, maps, logits, strict=True):
        if average:
            values, where = image.mean((1, 2))[None], torch.tensor([[0.5, 0.5]])
        else:
            digest = hashlib.sha256(f"{seed} {found.names[row]}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
            at = torch.randperm(height * width, generator=generator)[:positions]
            values = image.flatten(1)[:, at].T
            where = torch.stack([(at // width + 0.5) / height, (at % width + 0.5) / width], 1)
        found.rows += [row] * len(values)
        vectors.append(values)
        outputs_of.append(output.expand(len(values), -1))
        places.append(where)
    found.values = torch.cat([found.values, *vectors])
    found.places = torch.cat([found.places, *places])
    found.logits = torch.cat([*([found.logits] if len(found.logits) else []), *outputs_of])


def key_of(folder: Path, paths: Sequence[Path], **settings: object) -> str:
    """What determines the vectors: the settings, and every image's path, size and time of change."""
    stats = [(path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(canonical([stats, settings]).encode()).hexdigest()


def _keep(path: Path, key: str, found: Vectors) -> None:
    story = {"key": key, "rows": found.rows, "names": found.names, "failures": found.failures}
    tensors = {"values": found.values, "logits": found.logits, "places": found.places}
    data = save({name: value.contiguous() for name, value in tensors.items()}, {"fvfast": json.dumps(story)})
    with files.whole(path) as file:
        file.write(data)


def _kept(path: Path, key: str, names: Sequence[str]) -> Vectors | None:
    """What an earlier run with the same key has seen; None where there is nothing of the kind."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            story = json.loads((file.metadata() or {})["fvfast"])
            tensors = {name: file.get_tensor(name) for name in ("values", "logits", "places")}
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    if story["key"] != key or story["names"] != list(names[: len(story["names"])]):
        return None
    return Vectors(**tensors, rows=story["rows"], names=story["names"], failures=story["failures"])


def check(positions: int, average: bool, look: Look) -> None:
    """Raise FvfastError where a layer has no places to choose from."""
    if positions < 1:
        raise FvfastError(f"--positions must be 1 or more, not {positions}")
    layer = look.layer
    if not average and (layer.height or 0) * (layer.width or 0) < 2:
        raise FvfastError(
            f"{layer.name} has no grid of positions to choose from: take an earlier layer, or --average for one "
            "vector an image"
        )
