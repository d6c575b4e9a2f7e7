"""Which of the tensors in a file are a network's, whatever wrote them and around what."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fvfast.checkpoints import State, entry_of, read, within
from fvfast.errors import FvfastError

# Entries that versions of the same network have or lack: counters, and tables that follow from its shape alone.
HARMLESS = {
    "num_batches_tracked",
    "position_ids",
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
    "n_averaged",
    "total_ops",
    "total_params",
}
AVERAGED = ("ema", "swa", "average", "averaged", "avg", "shadow")  # parts of the names of averages of the weights
ATTEMPTS = 8

# What torch's own wrappers put into the names of what they wrap, wherever in a network it is.
INSIDE = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
PARALLEL = "module"  # as DataParallel and its like do


@dataclass(frozen=True)
class Fit:
    """A way to read a network's state: `prefix` stands before the file's names, `inner` before the network's.

    state: by the network's names, without what torch's wrappers put into them.
    """

    prefix: str
    inner: str
    state: dict[str, Any]

    @property
    def name(self) -> str:
        return self.prefix.removesuffix(".")


def load_file(module: nn.Module, weights: str) -> tuple[str, ...]:
    """Have a network take its weights from a file. Returns sentences about what in it was chosen.

    Names in the file may have anything in front, and lie in anything, as long as what follows are the network's own
    names, all of them, with shapes that fit. Raises FvfastError where no part of the file is that.
    """
    file, entry = entry_of(weights)
    state = read(file)
    if entry is not None:
        state = within(state, entry, file)
    original, state = state, _bare(state, INSIDE)
    fits = _fits(module, state)
    if not fits and not any(PARALLEL in name.split(".") for name in _own(module)):
        state = _bare(state, {PARALLEL})
        fits = _fits(module, state)
    if not fits:
        state = original
        _load_as_it_knows(module, state, file)
        return ()
    chosen, others = _choose(fits, file)
    _check_kinds(module, chosen, file)
    try:
        _take(module, chosen.state, _versions(module, state, chosen.prefix, chosen.inner))
    except (RuntimeError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise FvfastError(f"the weights in {file} do not fit this model: {_first(error)}") from error
    if others:
        plain = f"{chosen.name} was read" if chosen.name else "those without a name were read"
        names = " and ".join(fit.name or "those without a name" for fit in others[:3])
        choose = next(fit.name for fit in [*others, chosen] if fit.name)
        said = f"several sets of weights: {plain}, not {names}; choose with --weights {file}:{choose}"
        return (f"{file} holds {said}",)
    left = _beside(state, chosen.prefix)
    return (f"of {file} only {chosen.name} was read: {left[0]} is not this model's",) if left else ()


# Fitting ---------------------------------------------------------------------------------------------------


def _fits(module: nn.Module, state: State) -> list[Fit]:
    """Every way to read the network's whole state from the file's."""
    own = _own(module)
    for inner in _common(own):
        needed = {key.removeprefix(inner): value for key, value in own.items()}
        found: list[Fit] = []
        for prefix in _prefixes(needed, state):
            # A set of weights may lie inside of another one: an average beside what it is of.
            given = _given(state, prefix, [fit.prefix for fit in found])
            if any(_differences(needed, given)):
                continue
            if _beside(state, prefix) and (inner or prefix.rstrip(".").rpartition(".")[2].isdigit()):
                continue  # some part of another network that happens to have the same shapes
            found.append(Fit(prefix, inner, {inner + key: given[key] for key in needed if key in given}))
        if found:  # what the network's own names stand for comes before what only a part of them does
            return found
    return []


def _own(module: nn.Module) -> dict[str, Any]:
    """The network's state, by names without what torch's wrappers put into them."""
    return {_without(name, INSIDE): value for name, value in module.state_dict(keep_vars=True).items()}


def _without(name: str, parts: Collection[str]) -> str:
    return ".".join(part for part in name.split(".") if part not in parts)


def _bare(state: State, parts: Collection[str]) -> State:
    """A file's state with some parts of its names left out; as it is where two names would become one."""
    entries = {_without(name, parts): value for name, value in state.entries.items()}
    if len(entries) < len(state.entries):
        return state
    versions = {_without(name, parts): value for name, value in state.versions.items()}
    mappings: dict[str, int] = {}
    for start, count in state.mappings.items():
        bare = _without(start, parts)
        mappings[bare] = max(count, mappings.get(bare, 0))
    return State(entries, versions, mappings)


def _common(names: Iterable[str]) -> list[str]:
    """The prefixes that all names have, the empty one first: "", "module.", "module.model."."""
    names = list(names)
    parts = min(names, default="").split(".")
    prefixes = ["", *(".".join(parts[:end]) + "." for end in range(1, len(parts)))]
    return [prefix for prefix in prefixes if all(name.startswith(prefix) for name in names)]


def _prefixes(needed: Mapping[str, Any], state: State) -> list[str]:
    """What may stand before the network's names in the file, longest first."""
    times = Counter(_storage(value) for value in needed.values())
    required = [key for key in needed if key.rpartition(".")[2] not in HARMLESS]
    first = next((key for key in required if times[_storage(needed[key])] == 1), next(iter(required), None))
    if first is None:
        return [""]
    ends = (key.removesuffix(first) for key in state.entries if key.endswith(first))
    return sorted((start for start in ends if start == "" or start.endswith(".")), key=lambda p: -p.count("."))


def _storage(value: Any) -> Any:
    """What two names of one tensor have in common."""
    if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta or not len(value.shape):
        return id(value)
    return value.device, value.data_ptr(), value.shape, value.stride()


def _given(state: State, prefix: str, apart: Sequence[str] = ()) -> dict[str, Any]:
    """What lies under a prefix in the file, by the rest of its name, but for what lies under others inside of it."""
    below = tuple(other for other in apart if other.startswith(prefix))
    return {
        key[len(prefix) :]: value
        for key, value in state.entries.items()
        if key.startswith(prefix) and not key.startswith(below)
    }


def _beside(state: State, prefix: str) -> list[str]:
    """The names of what lies beside a part of the file in the mapping that the part lies in."""
    around = max((start for start in state.mappings if prefix.startswith(start)), key=len)
    return [
        key
        for key, value in state.entries.items()
        if key.startswith(around)
        and not key.startswith(prefix)
        and isinstance(value, Tensor)
        and key.rpartition(".")[2] not in HARMLESS
    ]


def _differences(needed: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[list[str], list[str], list[str]]:
    """(names that are missing, names that are not the network's, sentences about shapes that differ)."""
    there = {_storage(value) for key, value in needed.items() if key in given}
    missing = [
        key
        for key, value in needed.items()
        if key not in given and _storage(value) not in there and key.rpartition(".")[2] not in HARMLESS
    ]
    unexpected = [
        key
        for key, value in given.items()
        if key not in needed and isinstance(value, Tensor) and key.rpartition(".")[2] not in HARMLESS
    ]
    shapes = []
    for key, value in needed.items():
        if key not in given or not isinstance(value, Tensor) or is_lazy(value):
            continue
        has = tuple(given[key].shape) if isinstance(given[key], Tensor) else type(given[key]).__name__
        if has != tuple(value.shape) and not (has == (1,) and value.shape == ()):
            shapes.append(f"{key} has shape {has} in the file and {tuple(value.shape)} in the model")
    return missing, unexpected, shapes


def _check_kinds(module: nn.Module, fit: Fit, file: str) -> None:
    """Raise FvfastError where numbers of a file cannot become the network's by a mere change of precision."""
    own = _own(module)
    for key, value in fit.state.items():
        mine = own[key]
        if not isinstance(value, Tensor) or not isinstance(mine, Tensor):
            continue
        if value.is_meta:
            raise FvfastError(f"{file} holds no numbers for {key}: it was saved from the device meta")
        whole = not (value.is_floating_point() or mine.is_complex()) and mine.is_floating_point()
        if value.is_quantized or (whole and key.rpartition(".")[2] not in HARMLESS):
            here, there = (str(t.dtype).removeprefix("torch.") for t in (mine, value))
            raise FvfastError(
                f"the weights in {file} do not fit this model: {key} is {there} in the file and {here} in the model; "
                "save the weights from before they were quantised or converted"
            )


def _choose(fits: list[Fit], file: str) -> tuple[Fit, list[Fit]]:
    """The set of weights that a file's name promises, and others that differ from it: plain ones before averages."""
    plain = [fit for fit in fits if not _is_average(fit.prefix)] or fits
    nearest = min(plain, key=lambda fit: fit.prefix.count("."))  # the first in the file's order where they are as near
    different = [fit for fit in fits if fit is not nearest and not _same(fit, nearest)]
    if any(fit in plain for fit in different):
        names = [fit.name for fit in (nearest, *different) if fit.name]
        raise FvfastError(
            f"{file} holds several sets of weights that fit this model ({', '.join(names[:4])}): choose one, as in "
            f"--weights {file}:{names[0]}"
        )
    return nearest, different


def _is_average(prefix: str) -> bool:
    words = prefix.lower().replace("-", ".").replace("_", ".").split(".")
    return any(word in AVERAGED for word in words)


def _same(one: Fit, other: Fit) -> bool:
    """Whether two sets hold the same numbers, as where a file names them twice."""
    return one.state.keys() == other.state.keys() and all(
        value is other.state[key] or (isinstance(value, Tensor) and torch.equal(value, other.state[key]))
        for key, value in one.state.items()
    )


# Taking ----------------------------------------------------------------------------------------------------


def _versions(module: nn.Module, state: State, prefix: str, inner: str = "") -> dict[str, Any]:
    """What the file says of the versions of the network's modules; the network's own where it says nothing."""
    found = dict(getattr(module.state_dict(), "_metadata", None) or {})
    for name in found:
        where = prefix + (_without(name, INSIDE) + ".").removeprefix(inner)
        found[name] = state.versions.get(where.rstrip("."), found[name])
    return found


def _take(module: nn.Module, state: Mapping[str, Any], versions: Mapping[str, Any]) -> None:
    """Load a state strictly, with what may be left out filled up from the network itself."""
    own = module.state_dict(keep_vars=True)
    bare = {key: _without(key, INSIDE) for key in own}
    twins = {_storage(value): bare[key] for key, value in own.items() if bare[key] in state}
    full: Any = type(own)()
    for key, value in own.items():
        name = bare[key] if bare[key] in state else twins.get(_storage(value))
        full[key] = value if name is None else state[name]
    full._metadata = dict(versions)
    module.load_state_dict(full, strict=True)


def _load_as_it_knows(module: nn.Module, state: State, file: str) -> None:
    """Leave it to the network, which may know the names that its older versions had; or say what does not fit."""
    candidates: list[tuple[str, dict[str, Any]]] = []
    for start in state.mappings:
        inside = [key for key, value in _given(state, start).items() if isinstance(value, Tensor)]
        candidates += [(start + more, _given(state, start + more)) for more in _common(inside)]
    own = module.state_dict(keep_vars=True)
    candidates.sort(key=lambda candidate: -len(own.keys() & candidate[1].keys()))
    for start, given in candidates[:ATTEMPTS]:
        tensors = {key: value for key, value in given.items() if isinstance(value, Tensor)}
        for versions in (_versions(module, state, start), None):  # None: from before there were any
            full: Any = OrderedDict(tensors)
            if versions is not None:
                full._metadata = versions
            try:
                module.load_state_dict(full, strict=True)
            except Exception:  # each network has its own way to refuse
                continue
            return
    missing, unexpected, shapes = _differences(own, candidates[0][1])
    said = [f"{missing[0]} is missing"] if missing else []
    said += [f"{unexpected[0]} is not the model's"] if unexpected else []
    detail = " and ".join(said) or (shapes[0] if shapes else "its names are others")
    raise FvfastError(f"the weights in {file} do not fit this model: {detail}")


def _first(error: Exception) -> str:
    """load_state_dict lists every key over many lines; the first that is off says enough."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__)[:200]
