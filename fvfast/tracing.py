"""What a network is made of, found by watching it run: its layers, their layouts, its habits, the sizes it takes."""

from __future__ import annotations

import contextlib
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fvfast import axes, feeding, outside
from fvfast.axes import Seen
from fvfast.channels import counted, taken
from fvfast.copies import duplicate
from fvfast.distances import distance
from fvfast.errors import FvfastError, is_out_of_memory
from fvfast.habits import Memory, drawing, looking, seeded
from fvfast.layers import LOGITS, Layer, Layers, first_tensor

# The output for an image, alone and beside another: libraries sum in another order for two, through up to 200 layers.
MIXED = 1e-3
SAMPLES = 512  # numbers of an output that are compared

# Sizes that networks of one size are made for, the most common first.
USUAL = (224, 32, 28, 64, 96, 128, 299, 256, 227, 384, 48, 112, 160, 192, 84, 40, 36, 80, 100, 16, 20, 24, 150, 200)
PATIENCE = 8.0  # seconds for finding a size that fits


def trace(module: nn.Module, size: int, inputs: int = 3, layouts: Mapping[str, str] | None = None) -> Layers:
    """Run square images through copies of `module` (in eval mode) and describe every layer, in the order of the pass.

    inputs: the image's channels. layouts: what the user says of layers' axes. Returns a dictionary by name; the
    network's own output is `logits`. Raises whatever the network raises.
    """
    watch = _Watch(module, inputs)
    watch.first(size)
    watch.second(size)
    said = layouts or {}
    # Most networks take sizes by the 32, of which small ones are quick; patches of 14 pixels, and others, twice.
    for other in (size // 64 * 32 + 32 if size >= 128 else size + 32, 2 * size):
        if not axes.undecided(watch.seen, said) or watch.other(other):
            break
    if watch.result.habits.outside:  # what was left behind there should be of the size to come
        with seeded(0), contextlib.suppress(Exception):
            _watched(watch.copy, watch.image(size), lambda *told: None)
    return watch.layers(axes.layouts(watch.seen, said))


class _Watch:
    """A network being watched: once with an image, once with two, once at another size."""

    def __init__(self, module: nn.Module, inputs: int) -> None:
        self.module, self.inputs = module, inputs
        self.result = Layers()
        self.outside = outside.read(module)
        self.result.habits.foreign = self.outside.foreign
        self.copy = self._new()
        self.seen: dict[str, Seen] = {}  # in the order in which they ran last
        self.calls: dict[str, int] = {}
        self.unnamed: dict[str, str] = {}
        self._samples: dict[str, Tensor] = {}

    def _new(self) -> nn.Module:
        """A copy as new; with weights of its own where code of its own might write into them."""
        return duplicate(self.module, own_weights=self.result.habits.foreign)

    def image(self, size: int, count: int = 1) -> Tensor:
        """Noise, [count, C, size, size]; the first is the same whatever the count."""
        generator = torch.Generator().manual_seed(0)
        # The others are louder: whoever mixes them in by their maximum shows it.
        parts = [(1 + n) * torch.randn(1, self.inputs, size, size, generator=generator) for n in range(count)]
        parameter = next(iter(self.module.parameters()), torch.zeros(()))
        image = torch.cat(parts).to(parameter.device)
        return image.to(parameter.dtype) if parameter.is_floating_point() else image

    def first(self, size: int) -> None:
        """One image: which layers there are, and what the network does besides."""
        producers: dict[int, tuple[weakref.ref, str]] = {}

        def see(name: str, child: nn.Module | None, given: tuple[Any, ...], output: Any) -> None:
            tensor = first_tensor(output)
            self.calls[name] = self.calls.get(name, 0) + 1
            self.seen.pop(name, None)  # a layer that runs again counts where it ran last
            if tensor is None:
                self.unnamed[name] = "its output holds no tensor"
                return
            self.unnamed.pop(name, None)
            source = producers.get(id(given[0])) if given and isinstance(given[0], Tensor) else None
            before = source[1] if source is not None and source[0]() is given[0] else None
            producers[id(tensor)] = weakref.ref(tensor), name
            self.seen[name] = Seen(name, child, tuple(tensor.shape), before=before)
            self._samples[name] = _sample(tensor)

        habits, image = self.result.habits, self.image(size)
        before = image._version
        with drawing() as drew:
            try:
                with looking() as looked:
                    self._run(image, see)
                    habits.reads = looked()
            except Exception:  # some operations let nobody watch; what Python looks at then stays unknown
                self.copy, habits.reads = self._new(), True
                self.calls.clear()
                self._run(image, see)
            habits.draws, habits.writes = drew(), image._version != before
        weights = zip(self.copy.parameters(), self.module.parameters(), strict=False)
        habits.rewrites = habits.foreign and not all(mine is own or mine.equal(own) for mine, own in weights)
        shared = [*self.outside.variables, *(f"a {kind}" for kind in self.outside.strays)]
        habits.outside = shared[0] if shared else ""
        for name, layer in self.seen.items():
            inner = "" if name == LOGITS else f"{name}."
            layer.inside = [n for n in self.seen if n.startswith(inner) and n != name]

    def second(self, size: int) -> None:
        """Two images, of which one was seen before: which axis they lie along; whether they mix, or it remembers."""
        habits, before = self.result.habits, Memory.of(self.copy)
        samples = self._samples
        apart: set[str] = set()

        def see(name: str, child: nn.Module | None, given: tuple[Any, ...], output: Any) -> None:
            tensor, layer = first_tensor(output), self.seen.get(name)
            if tensor is None or layer is None:
                return
            layer.two = tuple(tensor.shape)
            at = axes.images_axis(layer)
            if isinstance(at, int) and _apart(_sample(tensor.select(at, 0).unsqueeze(at)), samples[name]):
                apart.add(name)
            else:
                apart.discard(name)

        try:
            with seeded(0):
                self._run(self.image(size, 2), see)
        except Exception as error:  # whatever a network raises, it takes one image at a time
            if is_out_of_memory(error):
                raise
            habits.single = True
        if apart or Memory.of(self.copy) != before:
            habits.remembers = self._remembers(size)
            if not habits.draws:  # or nobody could tell
                self.result.mixed = self._mixed(size) if apart else set()

    def _remembers(self, size: int) -> bool:
        """Whether a pass changes what the next puts out, or counts passes, as seen after two of one image."""
        copy = self._new()
        samples: list[dict[str, Tensor]] = []
        memories: list[Memory] = []
        for image in (self.image(size), self.image(size, 2)[1:], self.image(size)):
            found: dict[str, Tensor] = {}
            with seeded(0):
                _watched(copy, image, lambda name, child, given, output, found=found: _keep(found, name, output))
            samples.append(found)
            memories.append(Memory.of(copy))
        same = all(a.equal(samples[2][name]) for name, a in samples[0].items() if name in samples[2])
        return not same or memories[1] != memories[2]

    def _mixed(self, size: int) -> set[str]:
        """The layers whose output for an image depends on the others beside it, in networks as new."""
        found: list[dict[str, Tensor]] = [{}, {}]

        def see(name: str, child: nn.Module | None, given: tuple[Any, ...], output: Any, count: int) -> None:
            tensor, layer = first_tensor(output), self.seen.get(name)
            at = axes.images_axis(layer) if layer is not None and tensor is not None else ""
            if isinstance(at, int) and tensor is not None:
                found[count - 1][name] = _sample(tensor.select(at, 0).unsqueeze(at))

        for count in (1, 2):
            with seeded(0), contextlib.suppress(Exception):
                copy = self._new()
                _watched(copy, self.image(size, count), lambda *told, count=count: see(*told, count=count))
        return {name for name, one in found[0].items() if name in found[1] and _apart(found[1][name], one)}

    def other(self, size: int) -> bool:
        """An image of another size, as far as the network goes along; whether that is to the end."""

        def see(name: str, child: nn.Module | None, given: tuple[Any, ...], output: Any) -> None:
            tensor, layer = first_tensor(output), self.seen.get(name)
            if tensor is not None and layer is not None:
                layer.other = tuple(tensor.shape)

        with seeded(0), contextlib.suppress(Exception):
            _watched(self._new(), self.image(size), see)
            return True
        return False

    def layers(self, found: Mapping[str, str]) -> Layers:
        for name, seen in self.seen.items():
            if " " in found[name]:
                self.unnamed[name] = found[name]
            else:
                kind = "output" if seen.module is None else type(seen.module).__name__
                self.result[name] = _described(name, kind, seen.one, found[name], self.calls[name])
        self.result.unnamed = self.unnamed
        for name, _ in self.module.named_modules():
            if name and name not in self.calls:
                self.unnamed[name] = "it did not run when the network was looked at"
        first = {id(child): name for name, child in self.module.named_modules()}
        for name, child in self.module.named_modules(remove_duplicate=False):
            if first[id(child)] in self.result and name not in self.result:
                self.unnamed[name] = f"it is {first[id(child)]} under another name, so write {first[id(child)]}"
        return self.result

    def _run(self, image: Tensor, see: _See) -> None:
        _watched(self.copy, image, see)


_See = Callable[[str, "nn.Module | None", tuple[Any, ...], Any], None]


def _watched(module: nn.Module, image: Tensor, see: _See) -> None:
    """Run a module on an image: `see` is told of every run of a child, and of the module's own output as `logits`."""
    names = {name for name, _ in module.named_modules()}
    output = watched(module, image, lambda name, child, *told: None if child is module else see(name, child, *told))
    if LOGITS not in names:
        see(LOGITS, None, (), output)


def watched(
    module: nn.Module,
    image: Tensor,
    see: Callable[[str, nn.Module, tuple[Any, ...], Any], None],
    which: Callable[[nn.Module], bool] = lambda child: True,
) -> Any:
    """What a module puts out for an image, without gradients.

    see: told (name, child, inputs, output) of every run of a child, the module among them, for which `which` holds.
    """
    handles = [
        child.register_forward_hook(lambda m, given, output, name=name: see(name, m, given, output))
        for name, child in module.named_modules()
        if which(child)
    ]
    try:
        with torch.no_grad():
            return module(image)
    finally:
        for handle in handles:
            handle.remove()


def _keep(found: dict[str, Tensor], name: str, output: Any) -> None:
    tensor = first_tensor(output)
    if tensor is not None:
        found[name] = _sample(tensor)


def _sample(tensor: Tensor) -> Tensor:
    """Some of a tensor's numbers, evenly spread; of complex ones both parts."""
    flat = tensor.detach().flatten()
    some = flat[:: max(1, len(flat) // SAMPLES)].clone()
    return torch.view_as_real(some.resolve_conj()) if some.is_complex() else some


def _apart(one: Tensor, other: Tensor) -> bool:
    return one.shape != other.shape or not distance(one, other) < MIXED


def _described(name: str, kind: str, shape: tuple[int, ...], layout: str, calls: int) -> Layer:
    sizes = dict(zip(layout, shape, strict=True))
    channels = sizes.get("C", 1)
    positions = [a for a in layout if a not in "BC"]
    last = layout.endswith("C") and len(positions) > 0
    height = width = tokens = None
    if positions == ["H", "W"]:
        height, width = sizes["H"], sizes["W"]
    elif len(positions) == 1:
        tokens = sizes[positions[0]]
        # A class token (1), or one with registers or a distillation token, before a square grid of patches.
        side = int(tokens**0.5)
        height = width = side if side > 1 and 0 <= tokens - side * side <= axes.EXTRA_TOKENS else None
    return Layer(name, kind, channels, height, width, tokens, last, calls, layout, shape if len(positions) > 2 else ())


# Sizes -------------------------------------------------------------------------------------------------------


def input_size(
    module: nn.Module,
    size: int,
    native: int,
    name: str,
    inputs: int = 3,
    layouts: Mapping[str, str] | None = None,
) -> tuple[int, Layers]:
    """The size of view that suits a canvas of `size` pixels, and the layers at that size.

    That is the canvas's own size, except where the network takes only one (a vision transformer, a classifier with a
    flattened map): then it is that one, and views are zoomed. Raises FvfastError where the network cannot take images
    so small, or none at all.
    """
    layers, refusal = _tried(module, size, inputs, layouts)
    if layers is not None and refusal is None:
        return size, layers
    assert refusal is not None
    if layers is None and _takes(module, size, inputs):
        raise FvfastError(f"{name} cannot be watched while it runs: {told(refusal)}") from refusal
    more = feeding.wants(module)
    if isinstance(refusal, TypeError) and any(one in str(refusal) for one in more):
        given = ", ".join(f'"{one}": ...' for one in more)
        raise FvfastError(
            f"{name} wants more than an image: give it {' and '.join(more)} with fvfast.load(model, inputs={{{given}}})"
        ) from refusal
    fits = _fitting(module, size, native, inputs, refusal)
    if fits is None and layers is not None:
        return size, layers
    if fits is None and (count := taken(duplicate(module, own_weights=False), native)) not in (inputs, None):
        raise FvfastError(
            f"{name} takes images of {counted(count)}, and its mean and std are for {inputs}: load it with "
            f"fvfast.load(..., mean=..., std=...) of {count} numbers each, or one"
        ) from refusal
    if fits is None:
        raise FvfastError(f"{name} fails on an image of {inputs} channels and {size} px: {told(refusal)}") from refusal
    if not _takes(module, fits + 64, inputs) and not _takes(module, fits * 2, inputs):
        return fits, trace(module, fits, inputs, layouts)
    larger = range(size // 8 * 8 + 8, fits, 8)
    fitting = next((s for s in (*larger, max(fits, size // 32 * 32)) if s != size and _takes(module, s, inputs)), fits)
    raise FvfastError(f"{name} cannot take images of {size} px; use --size {fitting}") from refusal


def _tried(
    module: nn.Module, size: int, inputs: int, layouts: Mapping[str, str] | None
) -> tuple[Layers | None, Exception | None]:
    """The layers at a size, where the network runs; and what speaks against that size, if anything does."""
    try:
        layers = trace(module, size, inputs, layouts)
    except FvfastError:
        raise
    except Exception as error:  # networks refuse sizes with every kind of exception
        if is_out_of_memory(error):
            raise
        return None, error
    return layers, _Rows(layers.unnamed[LOGITS]) if "mixes images" in layers.unnamed.get(LOGITS, "") else None


class _Rows(Exception):
    """One image comes out as several, as `y.view(-1, 400)` makes of one that is too large."""


def _refusal(module: nn.Module, size: int, inputs: int) -> Exception | None:
    """What a network raises for an image of a size, or what is wrong with its output; None where it takes it."""
    try:
        watch = _Watch(module, inputs)
        with torch.no_grad(), seeded(0):
            output = first_tensor(watch.copy(watch.image(size)))
    except Exception as error:  # networks refuse sizes with every kind of exception
        if is_out_of_memory(error):
            raise
        return error
    if output is not None and output.dim() > 1 and 1 not in output.shape:
        return _Rows(f"its output {list(output.shape)} is not that of one image")
    return None


def _takes(module: nn.Module, size: int, inputs: int) -> bool:
    return _refusal(module, size, inputs) is None


def _fitting(module: nn.Module, size: int, native: int, inputs: int, refusal: Exception) -> int | None:
    """A size that a network takes, if there is one: its own, one that is usual, or any other that is found in time."""
    if native != size:
        other = _refusal(module, native, inputs)
        if other is None:
            return native
    else:
        other = _refusal(module, native + 64, inputs)
        if other is None:
            return native + 64
    if str(other) == str(refusal) and type(other) is type(refusal):
        return None  # it has nothing to do with the size
    until = time.perf_counter() + PATIENCE
    for candidate in _candidates():
        if time.perf_counter() > until:
            return None
        if candidate not in (size, native) and _takes(module, candidate, inputs):
            return candidate
    return None


def _candidates() -> Iterable[int]:
    yield from USUAL
    yield from (size for size in range(8, 400) if size not in USUAL)


def told(error: BaseException) -> str:
    """An error of a network's in one line: its kind, its first line, and where in whose code."""
    first = (str(error).strip() or "no more is said").splitlines()[0][:160]
    torch_folder = str(Path(torch.__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((torch_folder, "<"))]
    frames = [f for f in frames if Path(f.filename).parent != Path(__file__).parent]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    # Double where Float is expected, or the other way round: nothing that its user has done.
    cure = " (fvfast renders in float32: take what asks for float64 out of its forward)" if "ouble" in first else ""
    return f"{type(error).__name__}: {first}{where}{cure}"
