"""What a page may ask the worker for: checked here, since it comes from a browser, and written out for people."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fvfast.errors import FvfastError

# Names that mean a model or a generator that fvfast itself knows; anything else is code or a file on this machine.
_MODEL = re.compile(r"(timm:)?[A-Za-z0-9_.]+")
WEIGHTS = ("default", "none")
RECIPES = ("default", "lucent", "torch-dreams", "plain", "maco")
DREAMS = ("creatures", "garden", "patterns", "engraving")
IMAGES = ("fourier", "pixel", "phase", "generator:dcgan-faces")
MOST_IMAGES, MOST_STEPS, MOST_TARGETS = 64, 20_000, 64


@dataclass(frozen=True)
class RenderRequest:
    """Features to render. The fields mean what they mean for `fvfast.render`; None leaves a choice to the recipe."""

    model: str
    targets: tuple[str, ...]
    recipe: str = "default"
    image: str | None = None
    size: int | None = None
    steps: int | None = None
    seed: int = 0
    copies: int = 1
    weights: str = "default"
    kind: str = field(default="render", init=False)

    @property
    def title(self) -> str:
        return ", ".join(self.targets)

    def check(self, code: bool) -> None:
        """Raise FvfastError for what no page may ask. code: whether modules and files may be named.

        What is wrong with targets, sizes and so on is the engine's to say.
        """
        check_model(self.model, self.weights, code)
        if self.image is not None and self.image not in IMAGES and not code:
            raise FvfastError(f"unknown image {self.image!r}; there are {', '.join(IMAGES)}")
        if not self.targets:
            raise FvfastError("name at least one target")
        for name, value, most in (
            ("targets", len(self.targets), MOST_TARGETS),
            ("copies", self.copies, MOST_IMAGES),
            ("steps", self.steps or 1, MOST_STEPS),
        ):
            if not 1 <= value <= most:
                raise FvfastError(f"{name} must be 1 to {most} here, not {value}; the command line takes more")

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `fvfast.render` that are not its defaults."""
        defaults = RenderRequest("", ())
        names = ("recipe", "image", "size", "steps", "seed", "copies", "weights")
        return {name: value for name in names if (value := getattr(self, name)) != getattr(defaults, name)}

    def command(self, store: Path) -> str:
        """The line for a shell that renders the same into the same store."""
        options = [word for name, value in self.options().items() for word in (f"--{name}", str(value))]
        return render_command(self.model, self.targets, [*options, "--store", str(store)])

    def snippet(self, store: Path) -> str:
        """The same in Python."""
        targets = repr(self.targets[0]) if len(self.targets) == 1 else repr(list(self.targets))
        options = "".join(f", {name}={value!r}" for name, value in self.options().items())
        return (
            "import fvfast\n\n"
            f"result = fvfast.render({self.model!r}, {targets}{options}, snapshots=8)\n"
            f"with fvfast.Store({str(store)!r}, write=True) as store:\n"
            "    fvfast.keep(store, result)\n"
        )


@dataclass(frozen=True)
class DreamRequest:
    """A photograph to dream over, as the server has put it down. The fields mean what they mean for `fvfast.dream`."""

    photo: str
    out: str
    name: str
    preset: str
    octaves: int | None = None
    steps: int | None = None
    strength: float | None = None
    seed: int = 0
    kind: str = field(default="dream", init=False)

    @property
    def title(self) -> str:
        return f"{self.name}, {self.preset}"

    def check(self, code: bool) -> None:
        """Raise FvfastError for what no page may ask."""
        if self.preset not in DREAMS:
            raise FvfastError(f"unknown preset {self.preset!r}; there are {', '.join(DREAMS)}")
        for name, value, most in (("octaves", self.octaves, 12), ("steps", self.steps, 200)):
            if value is not None and not 1 <= value <= most:
                raise FvfastError(f"{name} must be 1 to {most} here, not {value}; the command line takes more")

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `fvfast.dream` that are not its defaults."""
        names = ("preset", "octaves", "steps", "strength")
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        return found | ({"seed": self.seed} if self.seed else {})

    def command(self) -> str:
        """The line for a shell that dreams the same, in the photograph's folder."""
        words = ["fvfast", "dream", self.name]
        for name, value in self.options().items():
            words += [f"--{name}", str(value)]
        return shlex.join(words)


Request = RenderRequest | DreamRequest


def render_command(model: str, targets: Sequence[str], options: Sequence[str]) -> str:
    """The line for a shell that renders targets; one that begins with a dash must not be taken for an option."""
    dashed = any(target.startswith("-") for target in targets)
    words = [model, *options, "--", *targets] if dashed else [model, *targets, *options]
    return shlex.join(["fvfast", "render", *words])


def check_model(model: str, weights: str, code: bool) -> None:
    """Raise FvfastError where a model or its weights are not among those that a page may name."""
    if code:
        return
    if not _MODEL.fullmatch(model):
        raise FvfastError(
            f"{model!r} would run code of this machine: start the dashboard with --allow-code to let pages name "
            "package.module:callable"
        )
    if weights not in WEIGHTS:
        raise FvfastError("weights must be default or none here: start the dashboard with --allow-code to name a file")


def environment() -> dict[str, str]:
    """What a child process is given, so that it finds the packages where this process did."""
    paths = [path for path in (*sys.path, os.environ.get("PYTHONPATH", "")) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


def to_dict(request: Request) -> dict[str, Any]:
    return asdict(request)


def from_dict(values: dict[str, Any]) -> Request:
    """What `to_dict` wrote."""
    values = dict(values)
    if values.pop("kind") == "dream":
        return DreamRequest(**values)
    return RenderRequest(**{**values, "targets": tuple(values["targets"])})
