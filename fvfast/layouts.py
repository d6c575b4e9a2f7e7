"""Where activation vectors lie on a map: whitened, reduced to two dimensions, and put into the cells of a grid."""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from fvfast.errors import FvfastError, did_you_mean

REDUCTIONS = ("umap", "pca")
# As for the atlas of Carter et al. 2019.
NEIGHBOURS, MIN_DISTANCE, METRIC = 20, 0.01, "cosine"
OUTLIERS = 0.005  # the share of vectors beyond each edge of the map, which are moved to the edge
RIDGE = 1e-3  # of the mean variance, added to every direction's before the correlation is inverted
FEWEST = 8


@dataclass(frozen=True)
class Cell:
    """A place of the grid: its row and column from the top left, the vectors in it, and their mean [C]."""

    row: int
    column: int
    members: list[int]
    vector: Tensor


def reduce(values: Tensor, method: str, seed: int) -> Tensor:
    """Vectors [N, C] in two dimensions, [N, 2]: x to the right and y down, in 0..1.

    method: "umap" (McInnes et al. 2018, by umap-learn) or "pca". Raises FvfastError where there are too few vectors,
    or umap-learn is missing.
    """
    check(method)
    if len(values) < FEWEST:
        raise FvfastError(
            f"{len(values)} activation vectors are too few for a map: take {FEWEST} images or more, or more --positions"
        )
    flat = _umap(values, seed) if method == "umap" else _pca(values)
    low, high = flat.quantile(OUTLIERS, 0), flat.quantile(1 - OUTLIERS, 0)
    return ((flat - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).float()


def check(method: str) -> None:
    """Raise FvfastError where a reduction is unknown, or what it needs is missing."""
    if method not in REDUCTIONS:
        raise FvfastError(f"unknown reduction {method!r}{did_you_mean(method, REDUCTIONS)}; there are umap and pca")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise FvfastError("--reduce umap needs umap-learn: pip install 'fvfast[umap]', or --reduce pca")


def _pca(values: Tensor) -> Tensor:
    """The two directions of the largest variance, each with the sign that makes its largest share positive."""
    centred = values.double() - values.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    if len(axes) < 2:
        axes = torch.cat([axes, torch.zeros_like(axes)])
    axes = axes[:2]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return centred @ (axes * signs).T


def _umap(values: Tensor, seed: int) -> Tensor:
    import umap

    neighbours = min(NEIGHBOURS, len(values) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that a seed costs it its threads
        mapper = umap.UMAP(
            n_components=2, n_neighbors=neighbours, min_dist=MIN_DISTANCE, metric=METRIC, random_state=seed
        )
        return torch.as_tensor(mapper.fit_transform(values.numpy()), dtype=torch.float64)


def cells(values: Tensor, places: Tensor, grid: int, least: int) -> list[Cell]:
    """The cells of a grid x grid map that hold `least` vectors or more, by rows; those whose mean is nothing left out.

    values: [N, C]; places: [N, 2], x and y in 0..1.
    """
    columns, rows = (places * grid).long().clamp(0, grid - 1).unbind(1)
    members: dict[tuple[int, int], list[int]] = {}
    for index, place in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        members.setdefault(place, []).append(index)
    found = [
        Cell(row, column, those, values[those].mean(0))
        for (row, column), those in sorted(members.items())
        if len(those) >= least
    ]
    return [cell for cell in found if cell.vector.abs().max() > 0]


def whitener(values: Tensor) -> Tensor:
    """The inverse of the vectors' correlation matrix, [C, C] float64: what a direction is multiplied with.

    Directions in which all activations are large then count for less (Carter et al. 2019). A small ridge keeps the
    inverse finite where there are fewer vectors than channels.
    """
    wide = values.double()
    correlation = wide.T @ wide / len(wide)
    ridge = RIDGE * correlation.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.inv(correlation + ridge * torch.eye(len(correlation), dtype=torch.float64))
