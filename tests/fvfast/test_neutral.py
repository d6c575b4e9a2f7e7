"""A render is the same whatever its caller has set, and leaves it set."""

import contextlib
import threading

import pytest
import torch
from torch import nn

import fvfast
from fvfast.neutral import neutral


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, dtype=torch.float32), nn.ReLU(), nn.Conv2d(8, 4, 3, dtype=torch.float32))


def render():
    return fvfast.render(net(), "2:1", size=16, steps=2).images


@contextlib.contextmanager
def default(kind):
    before = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


SETTINGS = {
    "float64": lambda: default(torch.float64),
    "bfloat16": lambda: default(torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_render_under_the_callers_settings_is_the_same(setting):
    expected, model = render(), net()
    with SETTINGS[setting]():
        before = torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = fvfast.render(model, "2:1", size=16, steps=2).images
        assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert found.equal(expected)
    assert render().equal(expected)


def test_weights_that_were_made_in_inference_mode():
    with torch.inference_mode():
        made = net()
    assert fvfast.render(made, "2:1", size=16, steps=2).images.equal(render())


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_a_network_in_another_type_is_rendered_in_float32(kind):
    made = fvfast.render(net().to(kind), "2:1", size=16, steps=2)
    assert made.dtype == "float32"
    assert made.images.isfinite().all()


def test_several_calls_at_a_time_set_back_what_the_first_found():
    inside, go = threading.Barrier(2), threading.Event()

    def call():
        with neutral():
            inside.wait()
            go.wait()

    with default(torch.float64):
        other = threading.Thread(target=call)
        other.start()
        with neutral():
            inside.wait()
            assert torch.get_default_dtype() == torch.float32
        assert torch.get_default_dtype() == torch.float32  # the other is still at it
        go.set()
        other.join()
        assert torch.get_default_dtype() == torch.float64
    assert torch.backends.mha.get_fastpath_enabled()


class Spectral(nn.Module):
    """Weights in the frequency domain, as Fourier neural operators have them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.out = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.weight = nn.Parameter(torch.randn(4, 1, 1, dtype=torch.cfloat))

    def forward(self, x):
        waves = torch.fft.rfft2(self.first(x)) * self.weight
        return self.out(torch.fft.irfft2(waves, s=x.shape[-2:]))


@pytest.mark.parametrize("kind", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("target", ["out:1", "out:1@3,4", "first:2"])
def test_complex_weights_keep_both_of_their_parts(kind, target):
    model = Spectral().eval()
    model.weight = nn.Parameter(model.weight.to(kind))
    made = fvfast.render(model, target, size=16, steps=3)
    import by_hand

    layer, _, rest = target.partition(":")
    channel, _, place = rest.partition("@")
    maps = by_hand.output(Spectral(), layer, made.images)[0, int(channel)]
    right = maps[3, 4] if place else maps.mean()
    assert float(made.objective) == pytest.approx(float(right), rel=1e-3, abs=1e-6)
