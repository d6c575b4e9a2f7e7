"""Make a network fast to differentiate with respect to its image: a private copy, changed in form, not in value."""

from __future__ import annotations

import copy
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fvfast.distances import distance
from fvfast.errors import Fault
from fvfast.forms import MODULES, Form
from fvfast.layers import UNFOLDED, Layer, Tap, watched
from fvfast.lowering import lower
from fvfast.reverse import Reversible
from fvfast.stem import widen
from fvfast.tape import Refused, in_short

# Folding changes the order of roundings only: at most 2e-6 at the logits of 13 networks (torchvision, random weights).
FOLD_TOLERANCE = 1e-3


def pristine(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy in eval mode on `device`, in float32: what the final objective is evaluated with."""
    return copy.deepcopy(module).eval().requires_grad_(False).to(device, torch.float32)


class Fast:
    """The outputs of a network made fast: as `Tap`, from the folded copy wherever that one is right.

    Which copy serves a layer depends on that layer alone, so that what is rendered together changes no bit.
    """

    def __init__(
        self,
        folded: nn.Module,
        plain: nn.Module,
        layers: Mapping[str, Layer],
        wanted: Collection[str],
        unfit: frozenset[str],
        channels: int = 3,
        inputs: int = 3,
    ) -> None:
        self.unfit, self.channels, self.inputs = unfit, channels, inputs
        self.folded = Tap(folded, layers, wanted)
        self.plain = Tap(plain, layers, wanted) if unfit else None
        self.layers = self.folded.layers
        self.refusals: list[str] = []  # why something could not be fused
        self.forms: dict[tuple[tuple[str, ...], int], Form] = {}  # on a GPU: by layers and number of images
        self._lowered: dict[Any, Reversible | None] = {}
        self._lowering = threading.Lock()

    def __call__(self, image: Tensor, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """Outputs of the layers `names` (default all), each [B, C, H, W].

        image: [B, C, H, W], normalised; where `channels` is one more than `inputs`, with zeros in the last.
        """
        wanted = list(self.layers if names is None else names)
        replaced = self.replaced(image, wanted) if image.is_cuda else self.lowered(image, wanted)
        found = self.tap(wanted)(image, wanted) if replaced is None else dict(zip(wanted, replaced(image), strict=True))
        if image.is_cuda:
            keep_layout(found.values())
        return found

    def ready(self, shape: tuple[int, ...], dtype: torch.dtype, names: Collection[str]) -> None:
        """Lower the network now, not at the first call: for images of a shape, [B, C, H, W], and layers."""
        wanted = sorted(names)
        if next(self.tap(wanted).module.parameters(), torch.zeros(())).device.type == "cpu":
            self.lowered(torch.empty(shape, dtype=dtype), wanted)

    def tap(self, names: Collection[str]) -> Tap:
        """The copy that serves these layers."""
        fit = self.plain is None or self.unfit.isdisjoint(names)
        return self.folded if fit or self.plain is None else self.plain

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
        with self._lowering:
            if key not in self._lowered:
                self._lowered[key] = self._lower(lambda x: list(tap(x, names).values()), image)
            return self._lowered[key]

    def _lower(self, run: Callable[[Tensor], list[Tensor]], image: Tensor) -> Reversible | None:
        try:
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
        self.folded.close()
        if self.plain is not None:
            self.plain.close()


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
    plain = copy.deepcopy(module)
    for child in plain.modules():
        if getattr(child, "inplace", False) is True:
            setattr(child, "inplace", False)  # noqa: B010 (nn.Module types its attributes as tensors and modules)
    folded, unfit = _fold(plain, layers, wanted, size, inputs)
    channels = inputs
    if wide and not unfit and inputs == 3 and widen(folded, layers, list(wanted), size):
        channels = 4
    folded, plain = (_laid_out(network).requires_grad_(False).to(dtype=dtype) for network in (folded, plain))
    return Fast(folded, plain, layers, wanted, unfit, channels, inputs)


def _laid_out(module: nn.Module) -> nn.Module:
    if any(isinstance(child, nn.Conv2d) for child in module.modules()):
        return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return module


def _fold(
    module: nn.Module, layers: Mapping[str, Layer], wanted: Collection[str], size: int, inputs: int = 3
) -> tuple[nn.Module, frozenset[str]]:
    """A copy with every batch-norm folded whose input is a convolution's output, and where that shows.

    Pairs are found by running the network, not by tracing its code, so any network will do; a convolution whose
    output goes elsewhere too is folded wrongly, so the wanted layers are compared before and after.
    """
    parameter = next(module.parameters(), torch.zeros(()))
    image = torch.randn(1, inputs, size, size, generator=torch.Generator().manual_seed(0)).to(parameter)
    folded = copy.deepcopy(module)
    for conv_name, norm_name in _pairs(module, image):
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        if conv_name in wanted:
            setattr(conv, UNFOLDED, copy.deepcopy(conv))
        conv.weight, conv.bias = weight, bias
        parent, _, leaf = norm_name.rpartition(".")
        setattr(folded.get_submodule(parent), leaf, nn.Identity())
    with Tap(module, layers, wanted) as before, Tap(folded, layers, wanted) as after, torch.no_grad():
        right, now = before(image), after(image)
    return folded, frozenset(name for name in wanted if not distance(now[name], right[name]) < FOLD_TOLERANCE)


def _pairs(module: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """The names of every (convolution, batch-norm) that follow each other and run once in a whole forward pass."""
    produced: dict[int, str] = {}
    kept: list[Any] = []  # an id is unique only as long as its tensor lives
    pairs: list[tuple[str, str]] = []
    runs: dict[str, int] = {}

    def after(name: str, child: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        runs[name] = runs.get(name, 0) + 1
        if isinstance(child, nn.Conv2d):
            produced[id(output)] = name
            kept.append(output)
        elif id(inputs[0]) in produced:
            pairs.append((produced[id(inputs[0])], name))

    watched(module, image, after, lambda child: isinstance(child, nn.Conv2d) or _is_plain_norm(child))
    uses = Counter(conv for conv, _ in pairs)
    return [(conv, norm) for conv, norm in pairs if uses[conv] == runs[conv] == runs[norm] == 1]


def _is_plain_norm(module: nn.Module) -> bool:
    """Whether a module is a batch-norm and no more: subclasses may hold an activation too."""
    return (
        isinstance(module, nn.BatchNorm2d)
        and type(module).forward is nn.BatchNorm2d.forward
        and module.running_mean is not None
    )
