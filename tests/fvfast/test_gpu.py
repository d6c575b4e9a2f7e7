"""The engine on an NVIDIA GPU: `python -m pytest -m gpu`. Skipped where there is none."""

import gc

import pytest
import torch
from torch import nn

import fvfast
from fvfast import objectives as o
from fvfast.models import Model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with CUDA and triton"),
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Conv2d(16, 8, 3, stride=2)

    def forward(self, x):
        return self.out(self.act(self.norm(self.stem(x)))).mean((2, 3))


class Peeking(Net):
    """Looks at a value on the host, which no CUDA graph can."""

    def forward(self, x):
        if float(x.abs().sum()) < 0:
            raise ValueError
        return super().forward(x)


def model(module=None):
    return Model("net", "none", module or Net(), size=64)


def render(target, module=None, **options):
    return fvfast.render(model(module), target, **{"steps": 20, "seed": 3, "device": "cuda", **options})


def test_the_kernels_take_the_path_of_the_reference(monkeypatch):
    monkeypatch.setenv("FVFAST_KERNELS", "reference")
    truth = render("out:0-3", dtype="float32")
    monkeypatch.setenv("FVFAST_KERNELS", "auto")
    kernels = render("out:0-3", dtype="float32")
    assert (truth.path, kernels.path) == ("reference", "triton")
    # Exact mode, so the objectives agree as far as Adam's amplification over 20 steps lets them.
    torch.testing.assert_close(kernels.history, truth.history, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_graph_is_recorded_and_the_objective_rises(dtype):
    result = render(["out:1", "stem:2", "logits:3"], dtype=dtype)
    assert result.stages["capture"] > 0
    assert (result.objective > result.objective_start).all()
    assert result.history.isfinite().all()


@pytest.mark.parametrize("network", ["tuned", "recorded", "compiled"])
def test_every_form_of_the_network_takes_the_modules_way(network, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    modules, found = (render("out:0-3", dtype="float32", network=name) for name in ("modules", network))
    assert (modules.form, found.form, found.form_why) == ("modules", network, "asked for")
    # Other algorithms sum in another order; Adam amplifies that over 20 steps.
    torch.testing.assert_close(found.history, modules.history, rtol=2e-2, atol=1e-3)
    assert found.specs[0]["form"] == network
    assert not torch.backends.cudnn.benchmark


def test_the_fastest_form_is_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = (render("out:0-3", steps=64) for _ in range(2))
    assert one.form_why.startswith("measured: modules ")
    assert (other.form, other.form_why) == (one.form, one.form_why.replace("measured", "remembered"))


def test_equal_batches_share_one_capture_and_end_as_if_captured_apart():
    together = render("out:0-7", batch=2, network="modules")
    apart = [render(f"out:{i},{i + 1}", batch=2, network="modules") for i in range(0, 8, 2)]
    assert together.images.equal(torch.cat([one.images for one in apart]))
    assert together.stages["capture"] < 2 * apart[0].stages["capture"]


def test_the_same_seed_gives_the_same_bytes_twice():
    one, other = (render("out:1", network="modules") for _ in range(2))  # cuDNN may measure otherwise each time
    assert one.images.equal(other.images)


def test_a_network_that_cannot_be_captured_says_so_once_and_renders():
    said = []
    result = render("out:0-3", Peeking(), batch=2, notify=said.append)
    assert (result.objective > result.objective_start).all()
    assert len(said) == 1
    assert "cannot be captured as a CUDA graph" in said[0]


def test_every_parameterisation_and_objective_goes_through_the_loop():
    vector = torch.randn(8)
    for target in (o.direction("out", vector, 2), o.channel("out", 1) - 2 * o.total_variation(), o.layer("stem")):
        result = render(target)
        assert result.objective[0] > result.objective_start[0]
    assert render("out:1", image="pixel").objective[0] > 0
    assert render("out:1", recipe="lucent", size=64).history.isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {"image": "pyramid"},
        {"image": "cppn"},
        {"alpha": True},
        {"align": True, "interpolate": 3},
        {"patience": 3},
        {"frames": 5, "snapshots": [0, 3, 17]},
        {"start": torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))},
    ],
    ids=lambda options: "-".join(options),
)
def test_what_belongs_to_one_call_goes_through_a_graph(options):
    result = render(["out:1", "out:2"], dtype="float32", **options)
    assert result.stages["capture"] > 0
    assert (result.objective > result.objective_start).all()
    cpu = render(["out:1", "out:2"], device="cpu", **options)
    torch.testing.assert_close(result.history, cpu.history, rtol=2e-2, atol=1e-3, equal_nan=True)
    assert [step for step, _ in result.snapshots[0]] == [step for step, _ in cpu.snapshots[0]]


def test_pictures_and_dead_starts_go_through_a_graph():
    picture = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert render(o.caricature("out", picture)).objective[0] > 1
    dead = Net()
    dead.norm.bias.data.fill_(-9)
    assert render("act:0-3", dead, steps=40).objective.max() > 0


def test_a_hundred_renders_do_not_grow_memory():
    used = []
    for _ in range(100):
        render("out:0-7", steps=3)
        gc.collect()
        used.append(torch.cuda.memory_allocated())
    assert used[-1] == used[9]  # after whatever libraries keep for good


def test_batches_are_as_large_as_memory_allows():
    result = render("out:0-7", copies=8, steps=2)
    assert len(result) == 64
    assert result.stages["capture"] < result.seconds
