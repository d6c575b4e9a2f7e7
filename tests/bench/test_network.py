"""The network's report, on a CPU: what is counted, what a profile comes to, and what is said where there is no GPU."""

from functools import partial
from types import MethodType, SimpleNamespace

import pytest
import torch
from torch import nn

from bench import network, roofline
from bench.steps import Case
from fvfast.recorded import tape_of
from fvfast.step import Step

BLOCK = 2 * 8 * 16 * 16 * 2  # bytes of a tensor [2, 8, 16, 16] in half precision


def counted(net, channels=8):
    """What each way of `net`, on [2, `channels`, 16, 16], amounts to."""
    return roofline.counted(tape_of(lambda x: [net(x)], torch.empty(2, channels, 16, 16)))


def test_a_convolution_with_bias_and_relu_by_hand():
    found = counted(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()))
    weights = 8 * 8 * 9 * 2
    # Products, twice: forwards and for the image's gradient.
    assert found["modules"]["gflop"] == pytest.approx(2 * 2 * (2 * 8 * 16 * 16) * (8 * 9) / 1e9)
    passes = {  # of the whole tensor, beside two readings of the weights
        "modules": 2 + 2 + 2 + 3 + 2,  # convolution, bias, ReLU, mask, gradient
        "recorded": 2 + 3 + 2,
        "compiled": 2 + 2 + 3 + 2,
        "fused": 2 + 3,  # the gradient reads the mask
    }
    for way, count in passes.items():
        assert found[way]["mb"] == pytest.approx((count * BLOCK + 2 * weights) / 1e6), way
    assert [found[way]["kernels"] for way in roofline.WAYS] == [5, 3, 4, 2]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = (nn.Conv2d(8, 8, 1, bias=False) for _ in range(2))

    def forward(self, x):
        x = nn.functional.relu(x)
        return torch.cat([self.left(x), self.right(x)], 1)


def test_where_branches_meet_and_part():
    found = counted(Branches())
    weights = 4 * 8 * 8 * 2
    # ReLU 2 and its mask 3; two convolutions, forwards and back, 8; concatenation 4; the sum of two gradients 3.
    assert found["modules"]["mb"] == pytest.approx((20 * BLOCK + weights) / 1e6)
    # Nothing is concatenated, and a sum is one more reading; the image's own ReLU has no convolution to be part of.
    assert found["fused"]["mb"] == pytest.approx((3 + 8 + 1) * BLOCK / 1e6 + weights / 1e6)


def test_a_kernel_takes_as_long_as_the_slower_of_its_two_sides():
    assert roofline.Kernel("convolution", 989e12, 1.0, 1.0).seconds == 1
    assert roofline.Kernel("convolution", 1.0, 3.35e12, 3.35e12).seconds == 2


@pytest.mark.parametrize(
    ("kernel", "callers", "part"),
    [
        ("void cudnn::ops::nchwToNhwcKernel<...>", ["aten::cudnn_convolution", "aten::conv2d"], "layout"),
        ("sm90_xmma_fprop_implicit_gemm_bf16", ["aten::cudnn_convolution", "aten::convolution"], "convolution forward"),
        ("sm80_xmma_gemm", ["aten::convolution_backward", "ConvolutionBackward0"], "data gradient"),
        ("sm80_xmma_gemm", ["aten::cudnn_convolution_transpose", "aten::convolution"], "data gradient"),
        ("Memcpy DtoD (Device -> Device)", ["aten::copy_"], "copy"),
        ("elementwise_kernel", ["aten::copy_", "aten::contiguous"], "copy"),
        ("vectorized_elementwise_kernel", ["aten::add_", "aten::convolution"], "elementwise"),
        ("triton_poi_fused_relu_0", ["CompiledFunction"], "elementwise"),
        ("max_pool_forward_nhwc", ["aten::max_pool2d_with_indices"], "other"),
    ],
)
def test_a_kernel_belongs_to_what_launched_it(kernel, callers, part):
    assert network.part_of(kernel, callers) == part


def event(name, kernels, parent=None):
    return SimpleNamespace(
        name=name, cpu_parent=parent, kernels=[SimpleNamespace(name=n, duration=d) for n, d in kernels]
    )


def test_a_profile_is_summed_by_kernel_and_part():
    backward = event("ConvolutionBackward0", [])
    events = [
        backward,
        event("aten::convolution_backward", [("gemm", 30.0)], backward),
        event("aten::cudnn_convolution", [("gemm", 10.0), ("nchwToNhwcKernel", 5.0)]),
        event("aten::cudnn_convolution", [("gemm", 5.0)]),
    ]
    found = network.summed(events, passes=2)
    assert found["us a pass"] == 25
    assert found["kernels"][0] == {"kernel": "gemm", "part": "data gradient", "us": 15.0}
    assert found["shares"] == {
        "convolution forward": 0.3,
        "data gradient": 0.6,
        "layout": 0.1,
        "copy": 0,
        "elementwise": 0,
        "other": 0,
    }
    assert network.summed([], 2)["kernels"] == []


def test_every_form_of_a_case_is_measured_and_what_fails_is_told(monkeypatch):
    """The flow, with the clock, the profiler and the graph stood in for; one form runs out of memory."""

    def samples(run, view, tuned):
        run(view)
        if not isinstance(run, MethodType):  # no modules
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2.0, 3.0]

    monkeypatch.setattr(network, "samples", samples)
    monkeypatch.setattr(network, "profiled", lambda *_: network.summed([], 1))
    monkeypatch.setattr(network, "_steps", lambda step, device: isinstance(step, Step) and [4.0, 5.0])
    case = Case("resnet18", "layer1", 1, 32)
    row, kept = network.begun(case, torch.float32), []
    keep = partial(network.measure, case, torch.device("cpu"), row=row, keep=lambda: kept.append(list(row["forms"])))
    keep(["modules"])
    keep(["tuned", "recorded"])
    assert kept == [["modules"], ["modules", "tuned"], ["modules", "tuned", "recorded"]]
    for name in ("modules", "tuned"):
        form = row["forms"][name]
        assert form["passed"]
        assert form["error of the outputs"] < 1e-4
        assert (form["pass ms"]["p50"], form["step ms"]["p50"]) == (2.5, 4.5)
    assert row["forms"]["recorded"]["error"] == "out of memory"
    lost = Case("resnet18", "nowhere", 1, 32)
    missing = network.begun(lost, torch.float32)
    network.measure(lost, torch.device("cpu"), [], missing, lambda: None)
    assert missing["error"] == "KeyError: 'nowhere'"
    text = network.markdown({"rows": [row, missing]})
    assert "| resnet18 layer1, 32 px, batch 1 | modules | 2.200 / 2.500 / 2.800 |" in text
    assert "out of memory" in text


def test_without_a_gpu_it_says_so_in_a_sentence(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    path = tmp_path / "report.json"
    assert network.main(["--quick", "--json", str(path)]) == 2
    assert capsys.readouterr().err == "bench.network needs an NVIDIA GPU: torch finds none here.\n"
    assert not path.exists()
