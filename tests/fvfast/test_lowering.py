"""Recorded and fused networks against the modules they were recorded from, in value and gradient."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fvfast import lowering, tape
from fvfast.fusion import Convolution

pytestmark = pytest.mark.skipif(not lowering.usable(torch.float32), reason="needs PyTorch with oneDNN")
# float32 sums of some hundred products, in another order than float64's: roundings of 6e-8 that add up.
TOLERANCE = 1e-5


def run_of(module: nn.Module):
    module.eval().requires_grad_(False)
    return lambda image: [module(image)]


def laid_out(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(memory_format=torch.channels_last)


def value_and_gradient(function, image):
    leaf = image.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    (output,) = function(leaf)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    (gradient,) = torch.autograd.grad((output.double() * weights).sum(), leaf)
    return output.detach().double(), gradient.double()


def assert_near(value, reference):
    assert (value - reference).norm() <= TOLERANCE * reference.norm()


class Padded(nn.Module):
    """Padding, a convolution, a clamp: each in a form that networks write."""

    def __init__(self, pads, kernel, stride, groups, dilation, clamp, channels=8):
        super().__init__()
        self.pads, self.clamp = pads, clamp
        self.conv = nn.Conv2d(8, channels, kernel, stride, padding=kernel // 3, groups=groups, dilation=dilation)

    def forward(self, x):
        y = self.conv(F.pad(x, self.pads) if any(self.pads) else x)
        return {"relu": F.relu, "relu6": F.relu6, "none": lambda v: v, "tanh": torch.tanh}[self.clamp](y)


CASES = [
    ((left, left + uneven, top, top + uneven), kernel, stride, groups, dilation, clamp)
    for (left, top), uneven, kernel, stride, groups, dilation, clamp in itertools.product(
        ((0, 0), (2, 1)), (0, 1), (1, 3), (1, 2), (1, 2, 8), (1, 2), ("relu6",)
    )
    if not (kernel == 1 and dilation == 2)
]


@pytest.mark.parametrize(
    "case",
    [
        *CASES,
        ((1, 2, 1, 2), 5, 2, 8, 1, "none"),
        ((0, 0, 0, 0), 3, 1, 1, 1, "relu"),
        ((1, 0, 3, 1), 3, 2, 8, 1, "tanh"),
    ],
)
def test_a_convolution_with_what_surrounds_it(case):
    torch.manual_seed(0)
    module = Padded(*case)
    lowered = lowering.lower(run_of(module), laid_out(2, 8, 14, 13))
    assert lowered is not None
    plans = [op.call for op in lowered.tape.ops if isinstance(op.call, Convolution)]
    assert len(plans) == 1
    image = laid_out(2, 8, 14, 13)
    truth = value_and_gradient(run_of(copy.deepcopy(module).double()), image.double())
    for value, reference in zip(value_and_gradient(lowered, image), truth, strict=True):
        assert_near(value, reference)


@pytest.mark.parametrize("size", [(14, 13), (15, 12)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(3, 2, 0, 1), (7, 2, 3, 1), (3, 3, 1, 2), (2, 3, 0, 1)]
)
def test_a_stem_of_few_channels(size, kernel, stride, padding, dilation):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, kernel, stride, padding, dilation), nn.ReLU6())
    lowered = lowering.lower(run_of(module), laid_out(2, 3, *size))
    assert lowered is not None
    image = laid_out(2, 3, *size)
    truth = value_and_gradient(run_of(copy.deepcopy(module).double()), image.double())
    for value, reference in zip(value_and_gradient(lowered, image), truth, strict=True):
        assert_near(value, reference)


def test_padding_and_clamp_are_taken_in():
    module = Padded((0, 1, 0, 1), 3, 2, 8, 1, "relu6")
    lowered = lowering.lower(run_of(module), laid_out(1, 8, 14, 14))
    assert lowered is not None
    assert len(lowered.tape.ops) == 1


def test_an_output_that_is_wanted_stays_as_it_is():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3)

    def run(image):
        before = conv(image)
        return [before, F.relu(before)]

    conv.requires_grad_(False)
    lowered = lowering.lower(run, laid_out(1, 8, 9, 9))
    assert lowered is not None
    before, after = lowered(laid_out(1, 8, 9, 9))
    assert before.min() < 0
    assert after.equal(before.clamp(min=0))


def test_gradients_that_meet_are_not_written_over():
    """A residual hands one gradient to both of its branches."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            y = F.relu(self.first(x))
            z = self.second(y)
            z += y
            return F.relu(z)

    module = Residual()
    lowered = lowering.lower(run_of(module), laid_out(1, 8, 9, 9))
    assert lowered is not None
    image = laid_out(1, 8, 9, 9)
    first_time, again = value_and_gradient(lowered, image), value_and_gradient(lowered, image)
    truth = value_and_gradient(run_of(copy.deepcopy(module).double()), image.double())
    for value, repeated, reference in zip(first_time, again, truth, strict=True):
        assert_near(value, reference)
        assert repeated.equal(value)


class Straight(torch.autograd.Function):
    """Rounds on the way there, and passes the gradient on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0]


def doubled_through_a_view(x):
    y = x + 1
    y[:, :1].mul_(2)
    return y


@pytest.mark.parametrize(
    "habit",
    [
        lambda x: Straight.apply(x),
        lambda x: x + torch.rand_like(x),
        lambda x: x * float(x.detach().mean()),
        doubled_through_a_view,
    ],
    ids=["a backward pass of its own", "random numbers", "a number read on the host", "writing through a view"],
)
def test_what_cannot_be_replayed_is_not(habit):
    conv = nn.Conv2d(8, 8, 3).requires_grad_(False)
    assert lowering.lower(lambda image: [habit(conv(image))], laid_out(1, 8, 9, 9)) is None


def test_only_what_is_wanted_is_replayed():
    convs = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3)).requires_grad_(False)

    def run(image):
        outputs = [conv(image) for conv in convs]
        return [outputs[1]]

    recorded = tape.record(run, laid_out(1, 8, 5, 5))
    assert recorded is not None
    assert len(recorded.ops) == 1


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet"])
def test_whole_networks(name):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    module = getattr(torchvision.models, name)(weights=None, **options)
    lowered = lowering.lower(run_of(module), laid_out(1, 3, 64, 64))
    assert lowered is not None
    assert not any(op.call is torch.ops.aten.convolution.default for op in lowered.tape.ops)


@pytest.mark.skipif(not lowering.usable(torch.bfloat16), reason="needs a processor with bfloat16 (AVX-512 BF16 or AMX)")
@pytest.mark.parametrize("stride", [1, 2])
def test_half_precision_keeps_eight_bits(stride):
    torch.manual_seed(0)
    module = Padded((0, 1, 0, 1), 3, stride, 8, 1, "relu6").to(torch.bfloat16)
    image = laid_out(1, 8, 14, 14).to(torch.bfloat16)
    lowered = lowering.lower(run_of(module), image)
    assert lowered is not None
    truth = value_and_gradient(run_of(copy.deepcopy(module).double()), image.double())
    for value, reference in zip(value_and_gradient(lowered, image), truth, strict=True):
        # bfloat16 keeps 8 bits, 4e-3 relative; the gradient of a clamp at its edge passes in one and not in the other.
        assert (value - reference).norm() <= 2e-2 * reference.norm()
