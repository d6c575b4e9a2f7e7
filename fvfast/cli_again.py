"""What `fvfast render --from PNG` renders: what made the PNG, as far as the command line says nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvfast.errors import FvfastError

if TYPE_CHECKING:
    from fvfast.models import Model


def again(
    source: Path, model: str | None, target: list[str] | None, options: dict[str, Any]
) -> tuple[Model, list[str], dict[str, Any]]:
    """Model, target and options that a PNG was made with; of the options, those that are not None win.

    model: the name on the command line, for a PNG whose own model cannot be loaded. options["weights"]: whose weights,
    "default" where the command line does not say. Raises FvfastError.
    """
    from fvfast import files
    from fvfast.generators import PREFIX
    from fvfast.recipes import Recipe
    from fvfast.reloading import GIVEN

    if target:
        raise FvfastError("--from takes its target from the PNG: leave out TARGET")
    try:
        spec = files.read_spec(source)
    except FvfastError as error:
        if model is None:
            raise
        raise FvfastError(f"--from takes its model and target from the PNG, and {error}") from error
    recipe = Recipe.from_dict(spec["recipe"])
    if recipe.shared:
        raise FvfastError(f"{source} has a component in common with the others of its call: render them all again")
    if recipe.image == PREFIX + GIVEN and options["image"] is None:
        raise FvfastError(
            f"{source} was painted by a generator that was given in Python: render it again there with "
            "fvfast.render(..., image=generator)"
        )
    stored = {"recipe": recipe, "seed": spec["seed"], "size": spec["size"], "dtype": spec["dtype"]}
    given = {key: value for key, value in options.items() if value is not None and key != "weights"}
    weights = options["weights"]
    loaded = _own(source, spec, weights) if model is None else _named(source, spec, model, weights)
    return _seeing(loaded, spec), [spec["target"]], {**stored, **given}


def _own(source: Path, spec: dict[str, Any], weights: str) -> Model:
    """The model that a PNG was made from, with its weights or those of the command line."""
    from fvfast.reloading import GIVEN, reload

    kept = spec["weights"]
    cure = f"name what makes it: fvfast render PACKAGE.MODULE:CALLABLE --from {source}"
    if kept == GIVEN:
        cure = f"render it there with fvfast.render(model, {spec['target']!r}, recipe=...), or {cure}"
    return reload(spec["model"], weights if weights != "default" and kept != GIVEN else kept, str(source), cure)


def _seeing(model: Model, spec: dict[str, Any]) -> Model:
    """A model that sees images as the PNG's did: how they are normalised may have been said in Python."""
    if "input" not in spec:
        return model
    mean, std, size = (spec["input"][key] for key in ("mean", "std", "size"))
    layouts = spec["input"].get("layouts", {})
    return replace(model, mean=tuple(mean), std=tuple(std), size=size, layouts={**model.layouts, **layouts})


def _named(source: Path, spec: dict[str, Any], name: str, weights: str) -> Model:
    """The model of the command line, which stands in for a PNG's own only where that cannot be loaded."""
    from fvfast import models
    from fvfast.reloading import GIVEN, reload

    if spec["weights"] == GIVEN:
        return models.load(name, weights)
    if name != spec["model"]:
        try:
            reload(spec["model"], spec["weights"], str(source), "")
        except FvfastError:
            pass
        else:
            raise FvfastError(
                f"--from takes its model and target from the PNG, and {source}'s own, {spec['model']}, can be loaded: "
                "leave out MODEL"
            )
    return models.load(name, spec["weights"] if weights == "default" else weights)
