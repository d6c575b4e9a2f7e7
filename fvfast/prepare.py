"""Make a network fast to differentiate with respect to its image: a private copy, changed in form, not in value."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fvfast.agreement import near, passes, seen
from fvfast.copies import duplicate
from fvfast.errors import Fault
from fvfast.folding import fold, laid_out
from fvfast.forms import MODULES, Form
from fvfast.habits import Dice, Habits, seeded
from fvfast.layers import Layer, Layers, Tap
from fvfast.lowering import lower
from fvfast.pristine import in_type
from fvfast.reverse import Reversible
from fvfast.stem import widen
from fvfast.tape import Refused, in_short

_TURN = threading.RLock()


class Fast:
    """The outputs of a network made fast: as `Tap`, from the folded copy wherever that one is right.

    Which copy serves a layer depends on that layer alone, so that what is rendered together changes no bit.
    """

    def __init__(
        self,
        folded: nn.Module,
        plain: nn.Module,
        given: nn.Module,
        layers: Mapping[str, Layer],
        wanted: Collection[str],
        unfit: frozenset[str],
        astray: frozenset[str],
        channels: int = 3,
        inputs: int = 3,
    ) -> None:
        """given: the network as it is, in the type of the others. unfit: the layers for which the folded copy is wrong;
        astray: those for which the plain one is too, since what it does in place has effects elsewhere.
        """
        self.unfit, self.astray, self.given = unfit, astray, given
        self.channels, self.inputs = channels, inputs
        self.habits = layers.habits if isinstance(layers, Layers) else Habits()
        # Each with hooks of its own; those that they were made from stay without, to be copied once more.
        self._folded, self._plain = folded, plain
        how = {"whole": self.habits.reads, "channels": self._writable}
        self.folded = Tap(self._new(folded), layers, wanted, **how)
        self.plain = Tap(self._new(plain), layers, wanted, **how) if unfit else None
        self.layers = self.folded.layers
        self.refusals: list[str] = []  # why something could not be fused
        self.forms: dict[tuple[tuple[str, ...], int], Form] = {}  # on a GPU: by layers and number of images
        # Whose pass it is, where passes may not overlap: of any network, since they may reach the same variables.
        self.turn = _TURN if self.habits.shared else threading.RLock()
        self._lowered: dict[Any, Reversible | None] = {}
        self._lowering = threading.Lock()
        self._own = threading.local()
        self._asis: Tap | None = None

    def __call__(self, image: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Outputs of the layers `names` (default all), each [B, C, H, W].

        image: [B, C, H, W], normalised; where `channels` is one more than `inputs`, with zeros in the last.
        """
        wanted = list(self.layers if names is None else names)
        if not image.is_cuda:
            own: Private | None = getattr(self._own, "network", None)
            if own is None:
                own = self._own.network = self.private()
            return own(image, wanted)
        replaced = self.replaced(image, wanted)
        found = self.tap(wanted)(image, wanted) if replaced is None else dict(zip(wanted, replaced(image), strict=True))
        keep_layout(found.values())
        return found

    def _new(self, template: nn.Module) -> nn.Module:
        """A copy as new; with weights of its own where the network changes them."""
        return duplicate(template, own_weights=self.habits.rewrites)

    @property
    def _writable(self) -> int | None:
        """How many channels of an image a network gets in a copy, where it changes its image."""
        return self.channels if self.habits.writes else None

    def private(self, seed: int = 0) -> Private:
        """The network for one batch, which shares no state with any other. seed: of the random numbers it draws."""
        return Private(self, seed)

    def ready(self, shape: tuple[int, ...], dtype: torch.dtype, names: Collection[str]) -> None:
        """Lower the network now, not at the first call: for images of a shape, [B, C, H, W], and layers."""
        wanted = sorted(names)
        if next(self.given.parameters(), torch.zeros(())).device.type == "cpu":
            self.lowered(torch.empty(shape, dtype=dtype), wanted)

    def tap(self, names: Collection[str]) -> Tap:
        """The copy that serves these layers."""
        if not self.astray.isdisjoint(names):
            return self.as_given
        fit = self.plain is None or self.unfit.isdisjoint(names)
        return self.folded if fit or self.plain is None else self.plain

    @property
    def as_given(self) -> Tap:
        """The network unchanged."""
        if self._asis is None:
            self._asis = self.copy_as_given()
        return self._asis

    def copy_as_given(self) -> Tap:
        """The network unchanged and as new; where code of its own runs in it, every pass runs to its end."""
        whole, copy = self.habits.foreign or self.habits.reads, self._new(self.given)
        return Tap(copy, self.layers, self.layers, whole=whole, channels=self.inputs)

    def copy_of(self, names: Collection[str]) -> Tap:
        """The copy that serves these layers, as new."""
        if not self.astray.isdisjoint(names):
            return self.copy_as_given()
        template = self._folded if self.unfit.isdisjoint(names) else self._plain
        copy, whole = self._new(template), self.habits.foreign or self.habits.reads
        return Tap(copy, self.layers, self.layers, whole=whole, channels=self._writable)

    def settle(self, image: Tensor, names: Collection[str]) -> None:
        """See whether the copy that serves these layers does for an image what the network does as it was given.

        From then on the latter serves them, where it does not. For a GPU, where batches share one network.
        """
        if self.astray.isdisjoint(names) and not passes(self.copy_of(names), self.copy_as_given(), image, names):
            self.astray |= frozenset(names)

    def form_for(self, names: Collection[str], images: int) -> Form:
        """The form that was chosen for these layers and a batch of so many images on a GPU."""
        return self.forms.get((tuple(names), images), Form(MODULES))

    def replaced(self, image: Tensor, names: Sequence[str]) -> Callable[[Tensor], list[Tensor]] | None:
        """What stands for the modules on a GPU for such an image; None where they run themselves.

        They do without a gradient, and where a mode catches functions, which would see nothing of what is replayed.
        """
        if not image.requires_grad or not torch.is_grad_enabled() or torch._C._len_torch_function_stack() > 0:
            return None
        return self.form_for(names, len(image)).run

    def lowered(self, image: Tensor, names: Sequence[str]) -> Reversible | None:
        """The network as the fused operations that run for such an image, where it can be had as such and they may.

        Made (`fvfast.lowering`) once for each set of layers and shape of images.
        """
        # A mode that catches functions (`fvfast.redirect`) sees nothing of what is replayed.
        if image.device.type != "cpu" or torch._C._len_torch_function_stack() > 0:
            return None
        key, tap = (tuple(names), image.shape, image.dtype), self.tap(names)
        with self._lowering, self.turn:
            if key not in self._lowered:
                self._lowered[key] = self._lower(lambda x: list(tap(x, names).values()), image)
            return self._lowered[key]

    def _lower(self, run: Callable[[Tensor], list[Tensor]], image: Tensor) -> Reversible | None:
        try:
            if self.habits.remembers:
                raise Refused("what it puts out depends on the passes before")
            if self.habits.draws:
                raise Refused("it draws random numbers")
            if self.habits.rewrites:
                raise Refused("it changes its own weights")
            with seeded(0):
                return lower(run, image)
        except Refused as refusal:
            self.refusals.append(str(refusal))
        except Exception as fault:  # no reason to be without the image, which the modules make too
            self.refusals.append(f"a fault of fvfast's: {in_short(fault)}")
            warnings.warn(
                f"the network runs as its own modules, slower, since fusing it failed ({in_short(fault)}). This is a "
                "fault of fvfast's: please report it with what PYTHONWARNINGS=error::RuntimeWarning shows",
                Fault,
                stacklevel=2,
            )
        return None

    @property
    def form(self) -> tuple[str, str]:
        """How the network ran so far, and why: on a GPU the forms of its batches, on a CPU "fused" or "modules"."""
        if self.forms:
            names = dict.fromkeys(form.name for form in self.forms.values())
            reasons = dict.fromkeys(form.why for form in self.forms.values() if form.why)
            return ", ".join(names), "; ".join(reasons)
        if self.refusals:
            return "modules", self.refusals[0]
        return ("fused", "") if self._lowered else ("modules", "only what runs on a CPU is fused")

    def __enter__(self) -> Fast:
        return self

    def __exit__(self, *exc: object) -> None:
        for tap in (self.folded, self.plain, self._asis):
            if tap is not None:
                tap.close()


class Private:
    """A network for one batch, as `Fast`. What its modules leave behind, and the random numbers they draw, are its own.

    Whatever form it runs in was compared with the network as given, on the first image of its shape that it saw.
    """

    def __init__(self, fast: Fast, seed: int) -> None:
        self.fast, self.layers = fast, fast.layers
        self._dice = Dice(seed) if fast.habits.draws else None
        self._taps: dict[tuple[str, ...], Tap] = {}
        self._fits: dict[Any, bool] = {}

    def __call__(self, image: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """As `Fast`."""
        wanted = list(self.layers if names is None else names)
        lowered = self.fast.lowered(image, wanted)
        if lowered is not None and self._right(lowered, image, wanted):
            return dict(zip(wanted, lowered(image), strict=True))
        tap = self._modules(image, wanted)
        with self._turn(), self._dice() if self._dice else contextlib.nullcontext():
            return tap(image, wanted)

    def _turn(self) -> contextlib.AbstractContextManager[Any]:
        """While entered, no other network's pass is under way that may reach the same variables."""
        return self.fast.turn if self.fast.habits.shared else contextlib.nullcontext()

    def _right(self, lowered: Reversible, image: Tensor, names: list[str]) -> bool:
        """Whether the fused operations do for this batch what the network does."""
        key = tuple(names), image.shape
        if key not in self._fits:
            with self._turn():
                right = seen(self._reference(), image, names)
            self._fits[key] = near([*lowered(image.detach())], right, image.dtype)
            if not self._fits[key]:
                self.fast.refusals.append("its operations do something else with the image's first view")
        return self._fits[key]

    def _modules(self, image: Tensor, names: list[str]) -> Tap:
        """The modules that run for these layers."""
        key = tuple(names)
        if key not in self._taps:
            fast = self.fast
            with self._turn():
                fits = passes(fast.copy_of(names), self._reference(), image, names)
            self._taps[key] = fast.copy_of(names) if fits else fast.copy_as_given()
        return self._taps[key]

    def _reference(self) -> Tap:
        """The network as given; as new, unless it is known to keep nothing."""
        return self.fast.copy_as_given() if self.fast.habits.foreign else self.fast.as_given


def keep_layout(activations: Iterable[Tensor]) -> None:
    """Have the gradients of activations [B, C, H, W] come with channels last where they themselves do.

    What an objective makes of them is often a mean, whose gradient has every stride 0 or the other order: cuDNN would
    bring it into its own at every convolution that meets it, where once is enough.
    """
    for activation in activations:
        if activation.requires_grad and activation.is_contiguous(memory_format=torch.channels_last):
            activation.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))


def prepare(
    module: nn.Module,
    layers: Mapping[str, Layer],
    wanted: Collection[str],
    size: int,
    dtype: torch.dtype,
    wide: bool = False,
    inputs: int = 3,
) -> Fast:
    """Copies of a `pristine` module for the hot loop, with the same outputs at the layers `wanted`.

    Weights are frozen (no weight gradients), batch-norms folded into the convolutions before them, in-place
    operations made out-of-place, memory laid out channels-last, and everything cast to `dtype`.
    size: the input size in pixels at which the layers were traced. wide: let the stem take four channels, if it can.
    inputs: the image's channels.
    """
    wanted = list(dict.fromkeys(wanted))
    plain = laid_out(duplicate(module))
    for child in plain.modules():
        if getattr(child, "inplace", False) is True:
            setattr(child, "inplace", False)  # noqa: B010 (nn.Module types its attributes as tensors and modules)
    folded, unfit, astray = fold(module, plain, layers, wanted, size, inputs)
    writes = isinstance(layers, Layers) and layers.habits.writes
    widened = wide and not unfit and not writes and inputs == 3 and widen(folded, layers, list(wanted), size)
    given = module if dtype == torch.float32 else in_type(duplicate(module), dtype)
    folded, plain = (in_type(laid_out(network).requires_grad_(False), dtype) for network in (folded, plain))
    return Fast(folded, plain, given, layers, wanted, unfit, astray, 4 if widened else inputs, inputs)
