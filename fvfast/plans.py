"""What a render is to make, and what it is to keep on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fvfast.expressions import Objective
from fvfast.recipes import Recipe


@dataclass(frozen=True)
class ImagePlan:
    """One image to make: its row in the result, and what determines it."""

    row: int
    objective: Objective
    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class Keep:
    """What is kept on the way.

    every: a snapshot every so many steps; about: or, where that is not set, about so many of each image; after: and
    after these steps. frames: so many frames for a film.
    """

    every: int | None = None
    about: int | None = None
    after: frozenset[int] = frozenset()
    frames: int = 0

    def period(self, steps: int) -> int | None:
        """How many steps lie between snapshots."""
        return self.every or (math.ceil(steps / self.about) if self.about else None)

    def frames_at(self, steps: int) -> frozenset[int]:
        """After which steps to keep a frame: evenly from before the first to the last."""
        return (
            frozenset(round(i * steps / (self.frames - 1)) for i in range(self.frames)) if self.frames else frozenset()
        )


def shared_settings(recipe: Recipe) -> tuple[Any, ...]:
    """What images must have in common to be optimised in one tensor."""
    in_basis = recipe.image in ("fourier", "phase") and not recipe.alpha
    views = "basis" if in_basis and recipe.views.in_basis else recipe.views
    same = (recipe.image, recipe.steps, recipe.view, recipe.gain, recipe.decorrelate, recipe.clip, recipe.shared)
    same += (bool(recipe.alpha), bool(recipe.start), recipe.redirect, recipe.patience, recipe.tolerance)
    # Spectra may differ in their envelopes; phases share one magnitude.
    magnitude = (recipe.magnitude, recipe.noise, recipe.decay) if recipe.image == "phase" else None
    return (*same, magnitude, views)
