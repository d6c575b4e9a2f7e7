"""How to render something again: as a command, and in Python."""

from __future__ import annotations

import shlex
from pathlib import Path
from pprint import pformat
from typing import Any

from fvfast.recipes import DEFAULT_CLASSES, GENERATOR, RECIPES, Recipe
from fvfast.reloading import GIVEN
from fvfast.store import Entry
from fvfast_dashboard.asking import render_command

_ON_THE_COMMAND_LINE = ("image", "steps", "lr", "size")


def command(folder: Path, entry: Entry) -> str:
    """The command that renders an entry again; from its own file, where no options say what its recipe does.

    folder: of the entry's store.
    """
    if entry.weights == GIVEN:
        return f"# this {entry.model} was given in Python: take the Python"
    changes = _changes(entry)
    if changes is None:
        if entry.image.endswith((".png", ".tif")):
            return shlex.join(["fvfast", "render", "--from", str(folder / entry.image)])
        return "# this recipe has no equivalent on the command line: take the Python"
    words: list[str] = []
    name = entry.recipe.get("name")
    if name not in ("default", "generator"):
        words += ["--recipe", str(name)]
    for option, value in changes.items():
        words += [f"--{option}", str(value)]
    if entry.seed:
        words += ["--seed", str(entry.seed)]
    if entry.weights != "default":
        words += ["--weights", entry.weights]
    if entry.dtype != "float32":
        words += ["--dtype", entry.dtype]
    return render_command(entry.model, [entry.target], words)


def python(entry: Entry) -> str:
    """The same in Python, with everything that the recipe says."""
    changes = _changes(entry)
    options: dict[str, Any] = {}
    lines = ["import fvfast", ""]
    if changes is None:
        lines = ["import fvfast", "from fvfast.recipes import Recipe", ""]
        lines += [f"recipe = Recipe.from_dict({pformat(entry.recipe, width=88, sort_dicts=False)})", ""]
    elif entry.recipe.get("name") not in ("default", "generator"):
        options["recipe"] = entry.recipe["name"]
    options |= changes or {"size": entry.size}
    options |= {"seed": entry.seed} if entry.seed else {}
    options |= {"weights": entry.weights} if entry.weights not in ("default", GIVEN) else {}
    options |= {"dtype": entry.dtype} if entry.dtype != "float32" else {}
    if entry.weights == GIVEN:
        lines += [f"model = ...  # the {entry.model} that was given in Python", ""]
    given = ["model" if entry.weights == GIVEN else repr(entry.model), repr(entry.target)]
    given += ["recipe=recipe"] if changes is None else []
    given += [f"{name}={value!r}" for name, value in options.items()]
    return "\n".join([*lines, f"result = fvfast.render({', '.join(given)})", 'result.save("renders")'])


def _changes(entry: Entry) -> dict[str, Any] | None:
    """What to say besides the recipe's name; None where its other figures were changed too."""
    try:
        mine = Recipe.from_dict(entry.recipe).to_dict()
    except Exception:  # whatever another version wrote
        return None
    best: dict[str, Any] | None = None
    named = RECIPES.get(str(entry.recipe.get("name")))
    for known in (named, DEFAULT_CLASSES, GENERATOR):
        if known is None or known.name != mine["name"]:
            continue
        theirs = known.to_dict()
        differing = [name for name in mine if mine[name] != theirs.get(name)]
        if set(differing) <= set(_ON_THE_COMMAND_LINE):
            changes = {name: mine[name] for name in differing if name != "size"} | {"size": entry.size}
            best = changes if best is None or len(changes) < len(best) else best
    return best
