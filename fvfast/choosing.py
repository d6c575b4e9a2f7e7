"""Which form of a network a render on a GPU takes: the one that was asked for, or what a short measurement says.

Each form's forward and backward pass is captured and replayed a few times on the render's own first view. What was
measured is remembered, and decides again for every render by its length: a form costs its time a step, and what it
takes to have it. docs/performance.md has the rule.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from fvfast.compiled import compiled
from fvfast.distances import distance
from fvfast.errors import is_out_of_memory
from fvfast.forms import AUTO, COMPILED, FORMS, MODULES, RECORDED, TUNED, Form
from fvfast.graph import CudaGraph, choosing
from fvfast.layers import Tap
from fvfast.optimize import OutOfMemory
from fvfast.prepare import Fast
from fvfast.recorded import recorded
from fvfast.remembered import Remembered, folder
from fvfast.step import Batch
from fvfast.tape import Refused, in_short

# Compiling takes half a minute to some minutes. By the roofline (docs/performance.md) it can save an eighth of what the
# recorded network takes: in a render that takes five minutes in its best other form it may win as much as it costs.
WORTH_COMPILING = 300.0  # seconds
WORTH_MEASURING = 64  # steps: a trial takes a second or a few, and a shorter render hardly longer
MARGIN = 0.03  # by so much a form has to be faster than a plainer one: less is noise
TRIALS, BOX = 15, 1.5  # replays of a form, and the seconds after which they end
# Outputs against the untouched float32 network, and the image's gradient against that of the modules in the same
# type, as relative L2: 8 or 11 bits a rounding, a few roundings a layer, a ReLU at its edge that passes a gradient or
# does not; and TF32 in the convolutions of float32.
OUTPUT_TOLERANCE = {torch.float32: 5e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
GRADIENT_TOLERANCE = {torch.float32: 5e-2, torch.bfloat16: 3e-1, torch.float16: 1e-1}

Run = Callable[[Tensor], list[Tensor]]
T = TypeVar("T")


class Chooser:
    """Chooses forms for one network on one device."""

    def __init__(
        self,
        wanted: str,
        untouched: Tap,
        network: Callable[[], str],
        notify: Callable[[str], None],
        remembered: Remembered | None = None,
        timed: Callable[[Run, Tensor, bool], float] | None = None,
    ) -> None:
        """wanted: "auto" or a form. untouched: the unmodified network. network: says which it is, in a few letters.

        timed: milliseconds of a pass of `run` over a view, with cuDNN's algorithms measured or not.
        """
        self.wanted, self.untouched, self.network, self.notify = wanted, untouched, network, notify
        self.remembered = remembered or Remembered(folder() / "networks.json")
        self.timed = timed or timed_alone

    def choose_for(
        self, batches: Sequence[Batch], fast: Fast, ahead: float = 1.0, before: Callable[[], object] = lambda: None
    ) -> None:
        """Choose the forms of `fast` for every kind of batch that has none yet, on the first view of its first.

        ahead: how many times the steps of these batches are to come; before: called before a network is tried.
        Raises OutOfMemory.
        """
        kinds: dict[tuple[tuple[str, ...], int], list[Batch]] = {}
        for batch in batches:
            names = sorted({name for objective, _ in batch.objectives for name in objective.layers})
            if names:
                kinds.setdefault((tuple(names), len(batch.rows)), []).append(batch)
        for kind, alike in kinds.items():
            if kind in fast.forms:
                continue
            before()
            first, steps = alike[0], sum(batch.steps for batch in alike)
            try:
                with torch.no_grad():
                    view = first.image.view(first.table[0].to(first.image.parameter.device))
                fast.settle(view, kind[0])
                fast.forms[kind] = self.choose(fast, view, kind[0], int(steps * ahead))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory(first) from error

    def choose(self, fast: Fast, view: Tensor, names: Sequence[str], steps: int) -> Form:
        """The form for these layers and views like this one, [B, C, H, W], in a render of so many steps of a batch.

        Raises errors of memory where the modules themselves do not fit.
        """
        trial = Trial(fast, self.untouched, view.detach(), list(names))
        if self.wanted != AUTO:
            return self._asked(trial)
        key = self._key(view, names)
        known = self.remembered.get(key)
        ms, seconds = (_entries(known, part, (int, float)) for part in ("ms", "seconds"))
        refused = _entries(known, "refused", str)
        plain = [name for name in (MODULES, TUNED, RECORDED) if name not in ms and name not in refused]
        if plain and steps < WORTH_MEASURING:
            return Form(MODULES, "too few steps to measure other forms")
        for name in plain:
            self._measure(trial, name, ms, seconds, refused)
        best = min(ms.values(), default=0.0)
        tried = not plain
        if best * steps / 1e3 >= WORTH_COMPILING and COMPILED not in ms and COMPILED not in refused:
            self._measure(trial, COMPILED, ms, seconds, refused)
            tried = False
        if not tried:
            lasting = {name: reason for name, reason in refused.items() if reason != _NO_MEMORY}
            self.remembered.put(key, {"ms": ms, "seconds": seconds, "refused": lasting})
        return self._best(trial, ms, seconds, refused, steps, "remembered" if tried else "measured")

    def _asked(self, trial: Trial) -> Form:
        run, reason = trial.make(self.wanted)
        if not reason:
            return Form(self.wanted, "asked for", run)
        self.notify(f"the network cannot run {self.wanted} ({reason}): it runs as its own modules, tuned")
        return Form(TUNED, f"{self.wanted} was asked for, but {reason}")

    def _measure(
        self, trial: Trial, name: str, ms: dict[str, float], seconds: dict[str, float], refused: dict[str, str]
    ) -> None:
        """Add a form to those that were measured, or to those that cannot be used."""
        started = time.perf_counter()
        run, reason = trial.make(name)
        if reason:
            refused[name] = reason
            return
        if name == COMPILED:
            seconds[name] = round(time.perf_counter() - started, 1)
        try:
            ms[name] = round(self.timed(trial.modules if run is None else run, trial.view, Form(name).tuned), 4)
        except Exception as error:
            if is_out_of_memory(error) and name == MODULES:
                raise
            refused[name] = _reason(error)
        finally:
            if trial.view.is_cuda:
                torch.cuda.empty_cache()

    def _best(
        self,
        trial: Trial,
        ms: dict[str, float],
        seconds: dict[str, float],
        refused: dict[str, str],
        steps: int,
        source: str,
    ) -> Form:
        """The form that a render of so many steps will be done with first, if it is still what it was."""
        left = {name: ms[name] for name in FORMS if name in ms}
        while left:
            name = quickest(left, seconds, steps)
            told = ", ".join(f"{other} {time:.3g} ms a pass" for other, time in ms.items())
            run, reason = trial.make(name)
            if not reason:
                return Form(name, f"{source}: {told}", run)
            refused[name] = reason
            del left[name]
        return Form(MODULES, "; ".join(f"{name}: {reason}" for name, reason in refused.items()))

    def _key(self, view: Tensor, names: Sequence[str]) -> str:
        shape = "x".join(map(str, view.shape))
        dtype = str(view.dtype).removeprefix("torch.")
        device = torch.cuda.get_device_name(view.device) if view.is_cuda else view.device.type
        versions = f"torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"
        return f"{self.network()}, {' '.join(names)}, {shape} {dtype}, {device}, {versions}"


def quickest(ms: dict[str, float], seconds: dict[str, float], steps: int) -> str:
    """The form with which so many steps are done first; a plainer one where the difference may be noise.

    ms: of a pass, by form, the plainest first; seconds: what it takes to have the form.
    """
    total = {name: each * steps / 1e3 + seconds.get(name, 0.0) for name, each in ms.items()}
    best = next(iter(total))
    for name, time_taken in total.items():
        if time_taken < total[best] * (1 - MARGIN):
            best = name
    return best


def _entries(known: dict[str, Any], part: str, kind: Any) -> dict[str, Any]:
    """What is remembered of each form; a file that others may have changed is not trusted."""
    found = known.get(part)
    return (
        {name: v for name, v in found.items() if name in FORMS and isinstance(v, kind)}
        if isinstance(found, dict)
        else {}
    )


_NO_MEMORY = "memory ran out while it was tried"


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return _NO_MEMORY
    return str(error) if isinstance(error, Refused) else in_short(error)


class Trial:
    """A network in its forms, on one view [B, C, H, W]; each form is made once."""

    def __init__(self, fast: Fast, untouched: Tap, view: Tensor, names: list[str]) -> None:
        self.fast, self.untouched, self.view, self.names = fast, untouched, view, names
        self._made: dict[str, tuple[Run | None, str]] = {}

    def modules(self, image: Tensor) -> list[Tensor]:
        """The outputs as the network's own modules make them."""
        return list(self.fast.tap(self.names)(image, self.names).values())

    def make(self, name: str) -> tuple[Run | None, str]:
        """(what runs in a form, None where that is the modules; why it cannot be used, or nothing)."""
        if name not in (RECORDED, COMPILED):
            return None, ""
        if name not in self._made:
            try:
                run = recorded(self.modules, self.view) if name == RECORDED else compiled(self.modules, self.view)
                self._made[name] = run, self._differs(run)
            except Exception as error:  # whatever a compiler has to say, the network runs without it
                self._made[name] = None, _reason(error)
        return self._made[name]

    def _differs(self, run: Run) -> str:
        dtype = self.view.dtype
        with choosing(False):
            found, gradient = self.look(run)
            far = self.error(found)
            if not far <= OUTPUT_TOLERANCE[dtype]:
                return f"its outputs are {far:.1e} from the network's"
            _, right = self.look(self.modules)
        far = distance(gradient, right)
        return "" if far <= GRADIENT_TOLERANCE[dtype] else f"its gradient is {far:.1e} from the modules'"

    def error(self, outputs: list[Tensor]) -> float:
        """The largest relative error of outputs for the first image, against the untouched network in float32."""
        with torch.no_grad():
            plain = self.untouched(self.view[:1, : self.fast.inputs].float(), self.names).values()
        return max(distance(mine[:1], right) for mine, right in zip(outputs, plain, strict=True))

    def look(self, run: Run) -> tuple[list[Tensor], Tensor]:
        """Outputs, and the image's gradient of a random sum of them."""
        leaf = self.view.detach().requires_grad_()
        with torch.enable_grad():
            outputs = run(leaf)
            weights = [_weights(output) for output in outputs]
            (gradient,) = torch.autograd.grad(outputs, leaf, weights)
        return [output.detach() for output in outputs], gradient


def _weights(output: Tensor) -> Tensor:
    """Random weights of an output [B, C, H, W], the same for every image, in its own layout."""
    drawn = torch.randn(output.shape[1:], generator=torch.Generator().manual_seed(0))
    return torch.empty_like(output).copy_(drawn.to(output.device))


def timed_alone(run: Run, view: Tensor, tuned: bool) -> float:
    """Milliseconds of a forward and backward pass on a GPU, captured and replayed; the median of a few."""
    return statistics.median(alone(lambda: samples(run, view, tuned)))


def alone(work: Callable[[], T]) -> T:
    """`work()`, in a thread of its own.

    cuDNN keeps by thread the plans that it finds, and takes the first for a shape: one form must not meet another's.
    """
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def samples(run: Run, view: Tensor, tuned: bool) -> list[float]:
    """Milliseconds of single forward and backward passes on a GPU, captured and replayed."""
    leaf = view.detach().requires_grad_()

    def step() -> None:
        outputs = run(leaf)
        torch.autograd.grad(outputs, leaf, [torch.ones_like(output) for output in outputs])

    found: list[float] = []
    with torch.cuda.device(view.device), contextlib.ExitStack() as stack:
        graph = CudaGraph(view.device, tuned)
        stack.callback(graph.release)
        graph.run(step, 2)
        replay = graph.capture(step)
        for _ in range(3):
            replay()
        until = time.perf_counter() + BOX
        while len(found) < TRIALS and (len(found) < 3 or time.perf_counter() < until):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            replay()
            end.record()
            end.synchronize()
            found.append(begin.elapsed_time(end))
    return found
