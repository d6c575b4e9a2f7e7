"""Convolutions of a frozen network as single oneDNN calls: padding, layout of the weights, bias and ReLU in one.

PyTorch's own convolutions reorder their weights at every call, pad in a pass of their own and clamp in another; and at
batch 1 on one thread, 1x1 convolutions run without oneDNN (docs/performance.md has what each is worth). Weights that
never change can be laid out once, for both directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from fvfast.tape import Op, Ref, Tape

aten = torch.ops.aten
RELU = (0.0, float("inf"))
# Channels of an image up to which a product and a fold made its float32 gradient faster than oneDNN did (3 at 128 px:
# 217 against 449 us, at 224 px 618 against 1228; in bfloat16, conversions ate the gain).
FEW = 4


@dataclass
class Convolution:
    """A convolution with constant weights, and with the padding before and the clamp after it, as one operation.

    weight: [O, C/groups, Kh, Kw]; padding, stride, dilation: (vertical, horizontal). low, high: what the output is
    clamped to, or None.
    """

    weight: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    clamp: tuple[float, float] | None = None

    alone: bool = False  # whether nothing else can see the gradient of the output, so that it may be written into
    packed: Tensor = field(init=False)
    margin: list[int] = field(init=False, default_factory=list)
    turned: Tensor | None = field(init=False, default=None)

    def lay_out(self, shape: torch.Size) -> None:
        """Bring the weights into oneDNN's own layout for inputs of `shape`, for both directions."""
        self.packed = _packed(self.weight, self, self.padding, shape)
        margin = [d * (k - 1) - p for d, k, p in zip(self.dilation, self.weight.shape[2:], self.padding, strict=True)]
        if self.stride == [1, 1] and min(margin) >= 0:
            # The gradient of a convolution without strides is one with its kernel turned and its channels exchanged.
            self.margin = margin
            grouped = self.weight.flip(2, 3).unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1).contiguous()
            out = [
                s + 2 * p - d * (k - 1)
                for s, p, d, k in zip(shape[2:], self.padding, self.dilation, self.weight.shape[2:], strict=True)
            ]
            self.turned = _packed(grouped, self, margin, [shape[0], self.weight.shape[0], *out])

    def __call__(self, image: Tensor) -> Tensor:
        return self.forward(image)

    def forward(self, image: Tensor) -> Tensor:
        if self.clamp is None:
            name, scalars = "none", []
        elif self.clamp == RELU:
            name, scalars = "relu", []
        else:
            name, scalars = "hardtanh", list(self.clamp)
        return self._run(image, self.packed, self.bias, self.padding, name, scalars)

    def kept(self, image: Tensor, output: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What `backward` asks for: the image, if it looks at its shape, and the output, if it was clamped."""
        return None if self.turned is not None else image, None if self.clamp is None else output

    def backward(self, gradient: Tensor, image: Tensor | None, output: Tensor | None) -> Tensor:
        """The gradient of the image from that of the output."""
        if self.clamp is not None:
            assert output is not None
            # A clamp's output tells where it passed its input through: strictly between its bounds.
            into = gradient if self.alone else torch.empty_like(gradient)
            gradient = aten.hardtanh_backward.grad_input(gradient, output, *self.clamp, grad_input=into)
        if self.turned is not None:
            return self._run(gradient, self.turned, None, self.margin, "none", [])
        assert image is not None
        if self.groups == 1 and image.shape[1] <= FEW and gradient.dtype == torch.float32:
            return self._folded(gradient, image)
        # Strided depthwise gradients in half precision run in oneDNN's reference code: 30 times slower than float32.
        kind = torch.float32 if self.groups > 1 else gradient.dtype
        # The image's values are not read: other ones of its shape do as well, without a conversion.
        alike = image if image.dtype == kind else torch.empty_like(image, dtype=kind)
        return aten.convolution_backward(
            laid_out(gradient).to(kind),
            alike,
            self.weight.to(kind),
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0, 0],
            self.groups,
            [True, False, False],
        )[0].to(gradient.dtype)

    def _folded(self, gradient: Tensor, image: Tensor) -> Tensor:
        """The gradient of an image of few channels, [B, C, H, W]: what each pixel of the output adds, laid together."""
        pixels = laid_out(gradient).permute(0, 2, 3, 1).flatten(1, 2)  # [B, Oh * Ow, O]
        patches = torch.matmul(self.weight.flatten(1).t(), pixels.transpose(1, 2))  # [B, C * Kh * Kw, Oh * Ow]
        size, kernel, options = image.shape[2:], self.weight.shape[2:], (self.dilation, self.padding, self.stride)
        return F.fold(patches, tuple(size), tuple(kernel), *(tuple(option) for option in options))

    def _run(
        self, image: Tensor, weight: Tensor, bias: Tensor | None, padding: list[int], name: str, scalars: list[float]
    ) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            laid_out(image), weight, bias, padding, self.stride, self.dilation, self.groups, name, scalars, ""
        )


def laid_out(tensor: Tensor) -> Tensor:
    """The tensor [B, C, H, W] with its channels last."""
    return tensor.contiguous(memory_format=torch.channels_last)


def _packed(weight: Tensor, plan: Convolution, padding: list[int], shape: Sequence[int]) -> Tensor:
    return torch.ops.mkldnn._reorder_convolution_weight(
        weight, padding, plan.stride, plan.dilation, plan.groups, list(shape)
    )


# The pass --------------------------------------------------------------------------------------------------


def fuse(tape: Tape, dtype: torch.dtype, kind: type[Convolution] = Convolution) -> Tape:
    """The same tape with every convolution of constant weights as one operation, of a `kind`, with what surrounds it.

    What is fused depends on the tape alone, and the tape on the wanted outputs: a convolution whose own output is
    wanted keeps it.
    """
    uses = tape.uses()
    maker = {place: op for op in tape.ops for place in op.out if place is not None}
    reader = {place: op for op in tape.ops for place in op.inputs}
    gone: set[int] = set()  # places that exist inside of a fused operation only
    fused: dict[int, Op] = {}  # by the place of the output
    plans: dict[int, Convolution] = {}
    for op in tape.ops:
        plan = _convolution(op, dtype, kind)
        if plan is None:
            continue
        (source,), (out,) = op.inputs, op.out
        before, after = maker.get(source), reader.get(out or 0)
        if before is not None and uses[source] == 1 and _absorb(plan, before):
            gone.add(source)
            (source,) = before.inputs
        if after is not None and uses[out or 0] == 1 and (bounds := _clamp(after)):
            plan.clamp = bounds
            gone.add(out or 0)
            (out,) = after.out
        plan.lay_out(tape.shapes[source])
        fused[out or 0], plans[out or 0] = Op(plan, (Ref(source),), {}, (out,)), plan
    ops = [fused.get(op.out[0] or 0, op) for op in tape.ops if op.out[0] not in gone]
    convolved = {op.inputs[0] for op in fused.values()}
    for out, plan in plans.items():
        # The gradient that one convolution made for another is nobody else's.
        plan.alone = uses[out] == 1 and out in convolved
    return Tape(tuple(ops), tape.outputs, tape.shapes)


def _convolution(op: Op, dtype: torch.dtype, kind: type[Convolution]) -> Convolution | None:
    """An operation as a convolution of planes with constant weights, if it is one."""
    if op.call is not aten.convolution.default:
        return None
    image, weight, bias, stride, padding, dilation, transposed, _, groups = op.args
    if not isinstance(image, Ref) or not isinstance(weight, Tensor) or isinstance(bias, Ref):
        return None
    if transposed or weight.dim() != 4 or weight.dtype != dtype:
        return None
    stride, padding, dilation = (list(v) * (2 // len(v)) for v in (stride, padding, dilation))
    return kind(weight.detach(), None if bias is None else bias.detach(), stride, padding, dilation, groups)


def _absorb(plan: Convolution, op: Op) -> bool:
    """Have the convolution pad by itself what `op` pads with zeros; False where it is no such padding.

    oneDNN pads alike on both sides (through PyTorch). Where a depthwise convolution is padded more after than before,
    as TensorFlow's "same" does, its kernel is given zeros in front instead, which shifts what it reads.
    """
    if op.call is not aten.constant_pad_nd.default or len(op.args[1]) != 4 or any(op.args[2:]):
        return False
    left, right, top, bottom = op.args[1]
    if min(left, right, top, bottom) < 0:
        return False
    uneven = (left, top) != (right, bottom)
    if uneven and (plan.groups != plan.weight.shape[0] or plan.dilation != [1, 1]):
        return False
    front = [max(right - left, 0), max(bottom - top, 0)]  # horizontal, vertical
    back = [max(left - right, 0), max(top - bottom, 0)]
    if uneven:
        plan.weight = F.pad(plan.weight, (front[0], back[0], front[1], back[1]))
    plan.padding = [plan.padding[0] + max(top, bottom), plan.padding[1] + max(left, right)]
    return True


def _clamp(op: Op) -> tuple[float, float] | None:
    """The bounds between which an operation clamps its only tensor, if that is what it does."""
    if op.call is aten.relu.default:
        return RELU
    if op.call is aten.hardtanh.default:
        low, high = (*op.args[1:], *(-1.0, 1.0)[len(op.args) - 1 :])
        return float(low), float(high)
    return None
