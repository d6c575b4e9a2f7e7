"""Recorded and fused networks against the modules they were recorded from, in value and gradient."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from fvfast import lowering, tape
from fvfast.distances import distance
from fvfast.fusion import Convolution

pytestmark = pytest.mark.skipif(bool(lowering.unusable(torch.float32)), reason="needs PyTorch with oneDNN")
needs_bfloat16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="needs a processor on which oneDNN has bfloat16"
)
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
    assert len(lowered.tape.ops) == 1


def test_an_output_that_is_wanted_stays_as_it_is():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3)

    def run(image):
        before = conv(image)
        return [before, F.relu(before)]

    conv.requires_grad_(False)
    lowered = lowering.lower(run, laid_out(1, 8, 9, 9))
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


def fails(x):
    raise ValueError("this size is not\nfor me")


def shy(x):
    """Does not like to be watched."""
    if _get_current_dispatch_mode() is not None:
        raise NotImplementedError("no modes")
    return x


@pytest.mark.parametrize(
    ("habit", "reason"),
    [
        (lambda x: Straight.apply(x), "with another image, or with the gradient"),
        (lambda x: x + torch.rand_like(x), "aten::rand_like draws random numbers"),
        (lambda x: x * float(x.detach().mean()), "looks at values .*_local_scalar_dense"),
        (doubled_through_a_view, "aten::mul_.Tensor writes into a tensor that others share"),
        (fails, "does not go through: ValueError: this size is not$"),
        (shy, "does not go through: NotImplementedError: no modes"),
        (lambda x: x.detach(), "do not depend on the image"),
    ],
    ids=["backward", "random", "host", "view", "fails", "shy", "detached"],
)
def test_what_cannot_be_replayed_is_refused_with_a_reason(habit, reason):
    conv = nn.Conv2d(8, 8, 3).requires_grad_(False)
    with pytest.raises(tape.Refused, match=reason):
        lowering.lower(lambda image: [habit(conv(image))], laid_out(1, 8, 9, 9))


# Faults of its own are none of the network's -----------------------------------------------------------------


KERNEL = torch.ones(4, 8, 3, 3)


def convolved(image):
    return [F.relu(F.conv2d(image, KERNEL))]


def test_a_fault_while_fusing_is_no_refusal(monkeypatch):
    monkeypatch.setattr(lowering, "fuse", lambda *_: {}["a mistake"])
    with pytest.raises(KeyError, match="a mistake"):
        lowering.lower(convolved, laid_out(1, 8, 9, 9))


def test_a_fault_of_the_recorder_is_not_the_networks_even_where_the_network_catches_it(monkeypatch):
    def careful(image):
        try:
            return convolved(image)
        except Exception:
            return [image]

    monkeypatch.setattr(tape._Recorder, "_new", lambda *_: {}["a mistake"])
    for run in (convolved, careful):
        with pytest.raises(KeyError, match="a mistake"):
            lowering.lower(run, laid_out(1, 8, 9, 9))


def test_wrong_fused_operations_are_no_refusal(monkeypatch):
    right = Convolution.backward
    monkeypatch.setattr(Convolution, "backward", lambda *given: right(*given) * 1.1)
    with pytest.raises(AssertionError, match="the fused operations differ"):
        lowering.lower(convolved, laid_out(1, 8, 9, 9))


@needs_bfloat16
def test_in_half_precision_they_may_be(halves, monkeypatch):
    right, kernel = Convolution.backward, KERNEL.bfloat16()
    monkeypatch.setattr(Convolution, "backward", lambda *given: right(*given) * 1.5)
    with pytest.raises(tape.Refused, match="round too differently"):
        lowering.lower(lambda image: [F.relu(F.conv2d(image, kernel))], laid_out(1, 8, 9, 9).to(torch.bfloat16))


def test_too_little_memory_is(monkeypatch):
    def fuse(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(lowering, "fuse", fuse)
    with pytest.raises(tape.Refused, match="memory ran out"):
        lowering.lower(convolved, laid_out(1, 8, 9, 9))


def test_units_on_their_edge_are_neither(nets):
    """Where the fused and the plain network decide differently about units, each is right."""
    module, image = nets.OnEdge(), nets.flat(12)
    run, other = run_of(module), copy.deepcopy(module)
    other.stem.bias += 1e-7
    lowered = lowering.lower(run_of(other), laid_out(1, 3, 12, 12))
    found, right = lowering._look(lowered, image), lowering._look(run, image)
    assert found is not None
    assert right is not None
    assert distance(found[0][0], right[0][0]) < 1e-6
    assert distance(found[1], right[1]) > 0.1
    recorded = tape.record(run, image)
    lowering._explain(recorded, lowered, image, right)
    other.deep.weight *= 1.02
    with pytest.raises(AssertionError, match="the fused operations differ"):
        lowering._explain(recorded, lowering.lower(run_of(other), image), image, right)


def test_only_what_is_wanted_is_replayed():
    convs = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3)).requires_grad_(False)

    def run(image):
        outputs = [conv(image) for conv in convs]
        return [outputs[1]]

    recorded = tape.record(run, laid_out(1, 8, 5, 5))
    assert len(recorded.ops) == 1


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet"])
def test_whole_networks(name):
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    module = getattr(torchvision.models, name)(weights=None, **options)
    lowered = lowering.lower(run_of(module), laid_out(1, 3, 64, 64))
    assert not any(op.call is torch.ops.aten.convolution.default for op in lowered.tape.ops)


@needs_bfloat16
@pytest.mark.parametrize("stride", [1, 2])
def test_half_precision_keeps_eight_bits(halves, stride):
    torch.manual_seed(0)
    module = Padded((0, 1, 0, 1), 3, stride, 8, 1, "relu6").to(torch.bfloat16)
    image = laid_out(1, 8, 14, 14).to(torch.bfloat16)
    lowered = lowering.lower(run_of(module), image)
    truth = value_and_gradient(run_of(copy.deepcopy(module).double()), image.double())
    for value, reference in zip(value_and_gradient(lowered, image), truth, strict=True):
        # bfloat16 keeps 8 bits, 4e-3 relative; the gradient of a clamp at its edge passes in one and not in the other.
        assert (value - reference).norm() <= 2e-2 * reference.norm()
