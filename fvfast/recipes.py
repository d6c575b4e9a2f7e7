"""Recipes: named presets of parameterisation, views, optimiser and steps. docs/recipes.md compares them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any

from fvfast.errors import FvfastError, did_you_mean
from fvfast.expressions import Objective
from fvfast.layers import LOGITS
from fvfast.views import Views

IMAGES = ("fourier", "pixel", "phase", "pyramid", "cppn", "generator:NAME")

# Fields that are written only where they are set: what was rendered before they were thought of is found by its name.
LATER = {"later": True}


@dataclass(frozen=True)
class Recipe:
    """How an image is made.

    image: "fourier" (the image thinks in waves), "pixel", "phase" (only the waves' phases are learnt), "pyramid" (a sum
        of coarse and fine grids), "cppn" (a small network from coordinates to colours), or "generator:NAME" (what a
        generator paints; see `fvfast.generators.find`).
    steps, lr: how many Adam steps, and how long.
    size: the canvas in pixels; None for the network's own input size.
    view: the view in pixels; None for the canvas's size.
    envelope, decay: the fixed scaling of the Fourier spectrum ("lucid": 1/max(f, 1/max(H, W))^decay, or
        "torch-dreams"); for a pyramid, how much more its coarse grids count.
    sd: standard deviation of the starting noise; gain: what the image is multiplied by before the sigmoid.
    decorrelate: whether channels are mixed by ImageNet's colour statistics, where they are three; others never are.
    clip: largest norm of an image's gradient; None for any.
    magnitude: for phases, the file with their magnitudes; None for 1/f. noise: the standard deviation of the noise
        added to each of their views, in the network's normalised units.
    prior: for generators, what |latent|^2 is weighed with against the objective.
    alpha: for images with a learnt opacity, what part of its objective an image pays for being opaque throughout; 0
        for opaque images.
    shared: what part of its parameter an image has in common with the others of the same call, 0 up to 1.
    start: the file of the image to start from; None for noise.
    redirect: in how many of the first steps gradients find their way around ReLUs that are dead at the start.
    patience, tolerance: an image is finished once its last `patience` steps brought less than `tolerance` of its whole
        rise (see `fvfast.plateau`); None: after `steps`.
    """

    name: str
    image: str = "fourier"
    steps: int = 128
    lr: float = 0.05
    size: int | None = None
    view: int | None = None
    views: Views = field(default_factory=Views)
    envelope: str = "lucid"
    decay: float = 1.0
    sd: float = 0.01
    gain: float = 0.25
    decorrelate: bool = True
    clip: float | None = None
    magnitude: str | None = None
    noise: float = 0.0
    prior: float = 0.0
    alpha: float = field(default=0.0, metadata=LATER)
    shared: float = field(default=0.0, metadata=LATER)
    start: str | None = field(default=None, metadata=LATER)
    redirect: int = 16
    patience: int | None = field(default=None, metadata=LATER)
    tolerance: float = field(default=0.02, metadata=LATER)

    def to_dict(self) -> dict[str, Any]:
        later = {f.name for f in dataclasses.fields(self) if f.metadata == LATER and getattr(self, f.name) == f.default}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in later}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote. Raises FvfastError where a field is unknown or missing."""
        try:
            views = dict(values["views"])
            views["zoom"] = tuple(views["zoom"])
            views["choices"] = tuple(views["choices"])
            # What does not say so was made before gradients were redirected.
            return Recipe(**{"redirect": 0, **values, "views": Views(**views)})
        except (KeyError, TypeError) as error:
            raise FvfastError(f"this recipe was written by another version of fvfast ({error})") from error


DEFAULT = Recipe("default", steps=128, lr=0.1, views=Views(jitter=12, zoom=(0.9, 1.1), stretch=1.1, shear=10))

# Classes want whole objects: closer views of a smoother image, and smaller steps.
DEFAULT_CLASSES = Recipe(
    "default", steps=192, lr=0.035, decay=1.25, views=Views(jitter=32, zoom=(0.4, 1.1), stretch=1.1, shear=15)
)

# lucent 0.1.8 (render.py, transform.py, param/). Its five resamplings are one here; the frame it pads with is
# 0.5 throughout (it turns black where a rotation reaches beyond its padding).
LUCENT = Recipe(
    "lucent",
    steps=512,
    lr=0.05,
    size=128,
    view=224,
    views=Views(
        jitter=5,
        zoom=(1.0, 1 / 0.9),
        choices=(*range(-10, 11), 0, 0, 0, 0, 0),
        border=0.5,
        pad=12,
    ),
)

# torch-dreams 4.0.0 (dreamer.py, utils.py). It resizes the image by 0.5 to 1.2, which changes the size of the
# network's input; here the view keeps its size and the canvas, tiled, shrinks or grows inside it.
TORCH_DREAMS = Recipe(
    "torch-dreams",
    steps=120,
    lr=9e-3,
    size=256,
    views=Views(zoom=(1 / 1.2, 2.0), stretch=1.4, rotate=15),
    envelope="torch-dreams",
    decay=0.75,
    gain=1.0,
    clip=1.0,
)

# What happens without any of it: raw pixels, no views. High objectives, noise to look at.
PLAIN = Recipe("plain", image="pixel", gain=1.0, decorrelate=False)

# MaCo (Fel et al. 2023): horama 0.3.0 has 1,280 px, 1,000 steps of six crops, a fifth to a quarter of the canvas wide.
# Here a step has one crop, of a canvas of the network's own size: most of it. Magnitudes of 1/f^1.25 look better than
# 1/f: goldfish 29.1 against 27.9, and less grain.
MACO = Recipe(
    "maco",
    image="phase",
    steps=192,
    lr=0.1,
    decay=1.25,
    gain=1.2,
    noise=0.05,
    views=Views(jitter=40, zoom=(0.65, 0.95)),
)

# A generator's pictures are smooth and upright already, and its latent has few numbers: nothing else is needed.
GENERATOR = Recipe("generator", image="generator:dcgan-faces", steps=96, lr=0.05, sd=1.0, prior=0.02)

# Coarse grids move further than fine ones, or the picture is all detail.
PYRAMID = Recipe("pyramid", image="pyramid", steps=128, lr=0.02, gain=1.0, decay=1.5, views=DEFAULT.views)
PYRAMID_CLASSES = replace(PYRAMID, steps=192, lr=0.015, views=DEFAULT_CLASSES.views)

# A few thousand weights that all move every pixel: small steps. Rotation costs a function of coordinates nothing.
CPPN = Recipe("cppn", image="cppn", steps=160, lr=0.003, sd=0.3, gain=1.0, views=DEFAULT.views)

RECIPES = {recipe.name: recipe for recipe in (DEFAULT, LUCENT, TORCH_DREAMS, PLAIN, MACO)}
# What the default recipe is for other parameterisations than the Fourier spectrum's and the pixels'.
CLASSES = {"pyramid": PYRAMID_CLASSES}
DEFAULTS = {"phase": MACO, "generator": GENERATOR, "pyramid": PYRAMID, "cppn": CPPN}


def choose(
    name: str,
    objective: Objective,
    *,
    image: str | None = None,
    steps: int | None = None,
    lr: float | None = None,
    size: int | None = None,
) -> Recipe:
    """The recipe called `name` for an objective, with what the user set otherwise.

    The default recipe has one set of figures for layers and another for classes.
    """
    if name not in RECIPES:
        raise FvfastError(f"unknown recipe {name!r}{did_you_mean(name, RECIPES)}; there are {', '.join(RECIPES)}")
    kind = None if image is None else check_image(image)
    recipe = RECIPES[name]
    classes = bool(objective.layers) and objective.layers <= {LOGITS}
    if recipe is DEFAULT and kind in DEFAULTS:
        recipe = CLASSES.get(kind, DEFAULTS[kind]) if classes else DEFAULTS[kind]
    elif kind in DEFAULTS and kind != recipe.image.partition(":")[0]:
        raise FvfastError(f"the recipe {name} is made for another image than {image}: leave out one of the two")
    elif recipe is DEFAULT and classes:
        recipe = DEFAULT_CLASSES
    changes: dict[str, Any] = {"image": image, "steps": steps, "lr": lr, "size": size}
    if kind == "pixel" and recipe.image == "fourier":
        changes["gain"] = 1.0  # the gain belongs to the spectrum's scale
    return dataclasses.replace(recipe, **{k: v for k, v in changes.items() if v is not None})


def check_image(image: str) -> str:
    """The kind of parameterisation that a name means, without a generator's own name. Raises FvfastError."""
    kind, colon, rest = image.partition(":")
    if (kind == "generator" and rest) or (kind in IMAGES and not colon):
        return kind
    raise FvfastError(f"unknown image {image!r}{did_you_mean(image, IMAGES)}; there are {', '.join(IMAGES)}")
