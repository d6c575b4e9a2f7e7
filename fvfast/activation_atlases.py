"""An activation atlas: what a layer has to say of one's own images, laid out as a map and rendered cell by cell.

After Carter, Armstrong, Schubert, Johnson and Olah, "Activation Atlas", Distill (2019).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from PIL import ImageDraw, ImageFont
from torch import Tensor, nn

from fvfast import arguments, files, layers, layouts, models, precision, sampling, tracing
from fvfast.errors import FvfastError
from fvfast.examples import Look, pictures_in
from fvfast.identity import canonical, feeding, weights_digest
from fvfast.layers import LOGITS, Tap
from fvfast.layouts import Cell
from fvfast.models import Model
from fvfast.neutral import neutral
from fvfast.objectives import Direction
from fvfast.pristine import pristine
from fvfast.recipes import Recipe
from fvfast.rendering import canvas_size, pick_device, preset_of, recipe_for, render
from fvfast.result import Progress
from fvfast.sampling import Vectors

ICON, STEPS, POWER = 112, 96, 2.0
CHUNK = {"cpu": 16, "cuda": 256}  # cells in one call of the engine; each is kept when its chunk is done
LARGEST_GRID = 200
TOP = 3  # classes and labels named for a cell


@dataclass
class ActivationAtlas:
    """What was made.

    picture, document: the files; icons: one an image of `cells`, None where it is not rendered yet.
    cells: by rows; vectors: the activations and where they come from; positions: where they lie on the map, [N, 2],
    x and y in 0..1. rendered: in this run; skipped: there before. failures: sentences about images and cells.
    dtype: what icons are rendered in; dtype_why: the reason.
    """

    picture: Path
    document: Path
    cells: list[Cell] = field(default_factory=list)
    icons: list[PIL.Image.Image | None] = field(default_factory=list)
    vectors: Vectors | None = None
    positions: Tensor = field(default_factory=lambda: torch.empty(0, 2))
    rendered: int = 0
    skipped: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    dtype: str = ""
    dtype_why: str = ""


@neutral()
def activation_atlas(
    model: str | nn.Module | Model,
    layer: str,
    folder: str | Path,
    *,
    out: str | Path = "activation-atlas",
    grid: int = 20,
    positions: int = 1,
    average: bool = False,
    whiten: bool = False,
    reduce: str = "umap",
    least: int = 1,
    size: int = ICON,
    steps: int = STEPS,
    seed: int = 0,
    power: float = POWER,
    recipe: str | Recipe = "default",
    batch: int | None = None,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    weights: str = "default",
    progress: Callable[[str, float, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    notify: Callable[[str], None] | None = None,
) -> ActivationAtlas:
    """Map the activations of `layer` over every image below `folder`, and render what each cell of the map stands for.

    Of each image the square in its middle is seen, and of the layer `positions` random places (`average`: the mean of
    all places). The vectors are reduced to two dimensions (`reduce`: "umap" or "pca") and gathered in `grid` x `grid`
    cells; a cell's mean vector, in cells with `least` vectors or more, is rendered as a direction (`power`: of the
    cosine; `whiten`: the inverse correlation of all vectors comes before). Icons have `size` pixels and take `steps`.

    `out`/atlas.png is the picture, `out`/atlas.json says what every cell holds, `out`/cells has the icons. A run that
    ends at any moment is gone on with by the same call: what was seen and rendered is kept.

    progress: told (what is counted, "images" or "cells"; done; of how many). stop: asked often, ends the run early.
    Raises FvfastError for an unknown layer, one without positions, a folder without images, and settings out of range.
    """
    started = time.perf_counter()
    arguments.callables(progress=progress, stop=stop, notify=notify)
    tell = progress or (lambda what, done, total: None)
    stopped = stop or (lambda: False)
    where, folder, target = pick_device(device), arguments.path("folder", folder), arguments.path("out", out)
    layer, dtype = arguments.layer_name(layer), arguments.dtype_name(dtype)
    preset_of(recipe)
    average, whiten = arguments.flag("average", average), arguments.flag("whiten", whiten)
    positions, least = arguments.whole("--positions", positions, 1), arguments.whole("--least", least, 1)
    seed, power = arguments.seed(seed), arguments.number("--power", power, least=0.0, most=arguments.STEEPEST)
    batch = arguments.maybe_whole("batch", batch, 1)
    grid = _grid(grid, reduce)
    paths = pictures_in(folder)
    loaded = models.load(model, weights)
    loaded.need_colours("a folder of pictures", or_grey=True)
    size = canvas_size(None, size, loaded)
    files.writable(target, make=True)
    atlas = ActivationAtlas(target / "atlas.png", target / "atlas.json")
    digest = weights_digest(loaded)

    found = _look(loaded, digest, layer, folder, paths, where, target, positions, average, seed, tell, stopped)
    atlas.vectors, atlas.failures = found, list(found.failures)
    if stopped():
        atlas.interrupted = True
        return atlas
    if not len(found.values):
        raise FvfastError(f"none of the images in {folder} could be read: {found.failures[0]}")

    atlas.positions = layouts.reduce(found.values, reduce, seed)
    atlas.cells = layouts.cells(found.values, atlas.positions, grid, least)
    if not atlas.cells:
        raise FvfastError(f"no cell of the map holds {least} vectors: use a smaller --grid or --least")
    inverse = layouts.whitener(found.values) if whiten else None
    objectives = [_objective(layer, cell, inverse, power) for cell in atlas.cells]
    # Every cell starts from the same seed, so that neighbours differ by their vectors alone.
    chosen = recipe_for(recipe, objectives[0], image=None, steps=steps, lr=None, size=size)
    settings = {"weights": digest, "recipe": chosen.to_dict(), "seed": seed, "power": power}
    chosen_dtype = precision.choose(dtype, where, loaded.module)
    atlas.dtype, atlas.dtype_why = str(chosen_dtype.dtype).removeprefix("torch."), chosen_dtype.why
    if notify and chosen_dtype.note:
        notify(chosen_dtype.note)
    settings |= {"dtype": str(chosen_dtype.dtype), "mean": loaded.mean, "std": loaded.std} | feeding(loaded)
    icons = [target / "cells" / f"{_name(objective, settings)}.png" for objective in objectives]
    options = {"recipe": chosen, "size": size, "seed": seed, "batch": batch, "device": where, "dtype": atlas.dtype}
    _render(atlas, loaded, objectives, icons, options, tell, stopped, notify)

    atlas.icons = [_icon(path) for path in icons]
    atlas.seconds = time.perf_counter() - started
    files.write_png(page(atlas, loaded, layer, grid), atlas.picture)
    document = _document(atlas, loaded, layer, folder, grid, reduce, whiten, icons)
    with files.whole(atlas.document) as file:
        file.write((json.dumps(document, indent=1) + "\n").encode())
    return atlas


def _look(
    loaded: Model,
    digest: str,
    layer: str,
    folder: Path,
    paths: Sequence[Path],
    device: torch.device,
    target: Path,
    positions: int,
    average: bool,
    seed: int,
    tell: Callable[[str, float, int], None],
    stopped: Callable[[], bool],
) -> Vectors:
    """The activations of the images, and what the network makes of each."""
    module = pristine(loaded.module, device, loaded.inputs)
    view, known = tracing.input_size(module, loaded.size, loaded.size, loaded.name, loaded.channels, loaded.layouts)
    described = layers.find(known, layer, loaded.name)
    names = [layer, *([LOGITS] if LOGITS in known and layer != LOGITS else [])]
    settings = {"layer": layer, "view": view, "positions": positions, "average": average, "seed": seed}
    settings |= {"mean": loaded.mean, "std": loaded.std} | feeding(loaded)
    with Tap(module, known, names) as tap:
        look = Look(tap, described, loaded, device, view)
        sampling.check(positions, average, look)
        return sampling.collect(
            look,
            folder,
            paths,
            positions=positions,
            average=average,
            seed=seed,
            key=sampling.key_of(folder, paths, weights=digest, **settings),
            keep=target / "vectors.safetensors",
            progress=lambda done, total: tell("images", done, total),
            stop=stopped,
        )


def _grid(grid: Any, reduce: Any) -> int:
    sides = arguments.whole("--grid", grid, least=-(2**31))
    if not 2 <= sides <= LARGEST_GRID:
        raise FvfastError(f"--grid must be 2 to {LARGEST_GRID}, not {sides}")
    layouts.check(arguments.text("reduce", reduce))
    return sides


# Rendering -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CellDirection(Direction):
    """A cell's vector as a direction, called after its place."""

    place: tuple[int, int] = (0, 0)

    def on(self, device: torch.device) -> CellDirection:
        return dataclasses.replace(self, vector=self.vector.to(device))

    def spelt(self, layer: str) -> str:
        return f"{layer}:cell {self.place[0]},{self.place[1]}"


def _objective(layer: str, cell: Cell, inverse: Tensor | None, power: float) -> CellDirection:
    """A cell's vector, of length 1, so that all cells are pulled alike."""
    wide = cell.vector.double() if inverse is None else inverse @ cell.vector.double()
    return CellDirection(layer, (wide / wide.norm().clamp_min(1e-12)).float(), power, (cell.row, cell.column))


def _name(objective: Direction, settings: dict[str, Any]) -> str:
    """What determines an icon, as the name of its file."""
    vector = objective.vector.contiguous().numpy().tobytes()
    return hashlib.sha256(vector + f"{objective.layer} {canonical(settings)}".encode()).hexdigest()[:16]


def _render(
    atlas: ActivationAtlas,
    loaded: Model,
    objectives: Sequence[CellDirection],
    icons: Sequence[Path],
    options: dict[str, Any],
    tell: Callable[[str, float, int], None],
    stopped: Callable[[], bool],
    notify: Callable[[str], None] | None,
) -> None:
    """Render the icons that are not there, a chunk at a time, and keep those that are finished."""
    files.writable(icons[0].parent, make=True)
    left = [i for i, path in enumerate(icons) if not path.is_file()]
    paths = {objective.label: path for objective, path in zip(objectives, icons, strict=True)}
    atlas.skipped = len(icons) - len(left)
    chunk = CHUNK.get(options["device"].type, 16)
    for at in range(0, len(left), chunk):
        if stopped():
            break
        rows = left[at : at + chunk]
        done = atlas.skipped + at

        def advance(now: Progress, done: int = done, count: int = len(rows)) -> None:
            tell("cells", done + count * now.steps_done / now.steps_total, len(icons))

        try:
            made = render(
                loaded, [objectives[i] for i in rows], progress=advance, stop=stopped, notify=notify, **options
            )
        except FvfastError:
            if not stopped():
                raise
            break
        atlas.failures += made.failures
        for image, target, spec in zip(made.images, made.targets, made.specs, strict=True):
            # One that was stopped on the way is made again; one that reached a plateau before its last step is done.
            if not made.interrupted or spec["steps"] == options["recipe"].steps:
                files.write_png(files.to_pil(image), paths[target])
                atlas.rendered += 1
    tell("cells", atlas.skipped + atlas.rendered, len(icons))
    atlas.interrupted = stopped()


def _icon(path: Path) -> PIL.Image.Image | None:
    if not path.is_file():
        return None
    with PIL.Image.open(path) as picture:
        return picture.convert("RGB")


# Picture and document --------------------------------------------------------------------------------------


def page(atlas: ActivationAtlas, model: Model, layer: str, grid: int, tile: int | None = None) -> PIL.Image.Image:
    """The map as one picture: every icon in its cell, and what it is of below. Cells without an icon stay empty.

    tile: a cell's width in pixels; by default the icons', or less, so that the picture stays below 4,096 px.
    """
    there = next((icon for icon in atlas.icons if icon is not None), None)
    tile = tile or min(there.width if there else ICON, 4000 // grid)
    margin, foot = max(24, round(0.02 * grid * tile)), max(40, round(0.035 * grid * tile))
    width = grid * tile + 2 * margin
    picture = PIL.Image.new("RGB", (width, width + foot), files.PAPER)
    for cell, icon in zip(atlas.cells, atlas.icons, strict=True):
        if icon is not None:
            small = icon.resize((tile, tile), PIL.Image.Resampling.LANCZOS)
            picture.paste(small, (margin + cell.column * tile, margin + cell.row * tile))
    draw = ImageDraw.Draw(picture)
    count = len(atlas.vectors.values) if atlas.vectors else 0
    title = f"{model.name} {layer}"
    note = f"{count:,} activations, {len(atlas.cells)} cells"
    height = round(foot * 0.42)
    left = margin
    for text, ink, size in ((title, files.INK, height), (note, files.FAINT, round(height * 0.85))):
        font = ImageFont.load_default(size)
        draw.text((left, width), text, ink, font=font, anchor="ls")
        left += round(draw.textlength(text, font=font) + height)
    return picture


def _document(
    atlas: ActivationAtlas,
    model: Model,
    layer: str,
    folder: Path,
    grid: int,
    reduce: str,
    whiten: bool,
    icons: Sequence[Path],
) -> dict[str, Any]:
    """The JSON: settings, cells, and where every vector lies. Files are named from the document's folder."""
    found = atlas.vectors
    assert found is not None
    shares = found.logits.softmax(1)  # [N, K]
    cells = []
    for cell, icon, path in zip(atlas.cells, atlas.icons, icons, strict=True):
        names = list(dict.fromkeys(found.names[found.rows[i]] for i in cell.members))
        parts = Counter(name.split("/")[0] for name in names if "/" in name)
        cells.append(
            {
                "row": cell.row,
                "column": cell.column,
                "count": len(cell.members),
                "icon": path.relative_to(atlas.document.parent).as_posix() if icon else None,
                "classes": _classes(shares[cell.members].mean(0), model),
                "labels": [{"name": name, "images": images} for name, images in parts.most_common(TOP)],
                "images": names[:9],
                "vector": [float(f"{value:.6g}") for value in cell.vector.tolist()],
            }
        )
    vectors = [
        {"image": found.names[row], "image_y": y, "image_x": x, "x": right, "y": down}
        for row, (y, x), (right, down) in zip(
            found.rows, _rounded(found.places), _rounded(atlas.positions), strict=True
        )
    ]
    return {
        "model": model.name,
        "weights": model.weights,
        "layer": layer,
        "folder": str(folder),
        "grid": grid,
        "reduce": reduce,
        "whiten": whiten,
        "picture": atlas.picture.name,
        "finished": not atlas.interrupted and all(icon is not None for icon in atlas.icons),
        "images": len(found.names) - len(found.failures),
        "failures": atlas.failures,
        "cells": cells,
        "vectors": vectors,
    }


def _classes(share: Tensor, model: Model) -> list[dict[str, Any]]:
    """The classes that the network sees most in a cell's images: mean probability."""
    best, at = share.topk(min(TOP, len(share)))
    known = model.classes if model.classes and len(model.classes) == len(share) else None
    return [
        {"index": index, "name": known[index] if known else None, "share": round(value, 4)}
        for value, index in zip(best.tolist(), at.tolist(), strict=True)
    ]


def _rounded(values: Tensor) -> list[list[float]]:
    return [[round(value, 4) for value in row] for row in values.tolist()]
