"""A frozen network on a GPU as its recorded operations: convolution, bias and ReLU in one, and one gradient only."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fvfast.errors import is_out_of_memory
from fvfast.fusion import RELU, Convolution, fuse, laid_out
from fvfast.reverse import Reversible
from fvfast.tape import Tape, record

aten = torch.ops.aten


def recorded(run: Callable[[Tensor], list[Tensor]], image: Tensor) -> Reversible:
    """`run` as fused operations for images like this one [B, C, H, W], with the image's gradient and no other.

    Raises `Refused` where the network cannot be recorded.
    """
    return Reversible(fuse(tape_of(run, image), image.dtype, CudnnConvolution))


def tape_of(run: Callable[[Tensor], list[Tensor]], image: Tensor) -> Tape:
    """What `run` does with an image, recorded without computing anything: a full batch needs no memory for it.

    Raises `Refused`, also where the network looks at values, which no CUDA graph lets it do either.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # which imports a computer algebra system

    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        return record(run, fake.from_tensor(image.detach()))


class CudnnConvolution(Convolution):
    """As `Convolution`, by cuDNN: ReLU and bias in its own kernel, and a gradient that keeps no input."""

    def lay_out(self, shape: torch.Size) -> None:
        self.packed, self.shape = laid_out(self.weight), shape
        rises = self.clamp is not None and self.clamp[0] == 0 and self.clamp[1] > 0
        self.one_kernel = rises and self.bias is not None and self.groups == 1

    def forward(self, image: Tensor) -> Tensor:
        image = laid_out(image)
        if self.one_kernel and self.clamp is not None and image.is_cuda:
            try:
                output = aten.cudnn_convolution_relu(
                    image, self.packed, self.bias, self.stride, self.padding, self.dilation, self.groups
                )
                return output if self.clamp == RELU else output.clamp_max_(self.clamp[1])
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                self.one_kernel = False  # cuDNN has none for this shape, and says so before anything is captured
        output = aten.convolution(
            image, self.packed, self.bias, self.stride, self.padding, self.dilation, False, [0, 0], self.groups
        )
        return output if self.clamp is None else aten.hardtanh_(output, *self.clamp)

    def kept(self, image: Tensor, output: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return None, None if self.clamp is None else output

    def backward(self, gradient: Tensor, image: Tensor | None, output: Tensor | None) -> Tensor:
        if self.clamp is not None:
            assert output is not None
            into = gradient if self.alone else torch.empty_like(output)
            gradient = aten.hardtanh_backward.grad_input(gradient, output, *self.clamp, grad_input=into)
        # The data gradient is the transposed convolution, to cuDNN the same kernels; it asks for the shape alone.
        sizes = zip(
            self.shape[2:], gradient.shape[2:], self.weight.shape[2:], self.stride, self.padding, self.dilation,
            strict=True,
        )  # fmt: skip
        rest = [size - ((out - 1) * s - 2 * p + d * (k - 1) + 1) for size, out, k, s, p, d in sizes]
        return aten.convolution(
            laid_out(gradient), self.packed, None, self.stride, self.padding, self.dilation, True, rest, self.groups
        )
