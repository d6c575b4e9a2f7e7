"""The reference synthesis against a dense float64 DFT, torch.fft and finite differences."""

import os
import subprocess
import sys

import pytest
import torch
from fvfast_kernels import describe, frequencies, synthesize

SIZES = [
    pytest.param((16, 18), (16, 18), id="even"),
    pytest.param((17, 15), (12, 9), id="odd"),
    pytest.param((24, 21), (31, 30), id="larger view"),
    pytest.param((2, 3), (4, 5), id="tiny"),
    pytest.param((1, 1), (3, 2), id="one pixel"),
]


def gradient(function, inputs, cotangent):
    spectrum = inputs["spectrum"].detach().requires_grad_()
    view = function(spectrum, inputs["envelope"], inputs["views"])
    return view.detach(), torch.autograd.grad(view, spectrum, cotangent.to(view))[0]


@pytest.mark.parametrize(("size", "out_size"), SIZES)
# float64: rounding of sums of up to 400 terms. float32: 2^-24 a term, grown to about 4e-7 measured; half a
# decade left.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-12), (torch.float32, 1.5e-6)])
def test_equals_the_dense_transform(make_inputs, oracle, error, size, out_size, dtype, tolerance):
    inputs, options = make_inputs(*size, dtype=dtype)
    options["out_size"] = out_size
    cotangent = torch.randn(3, 3, *out_size, dtype=torch.float64)
    view, grad = gradient(lambda *a: synthesize(*a, **options, dtype=dtype, antialias=False), inputs, cotangent)
    expected, expected_grad = gradient(lambda *a: oracle(*a, **options), inputs, cotangent)
    assert error(view, expected) < tolerance
    assert error(grad, expected_grad) < tolerance


def test_float32_phases_stay_exact_at_full_size(make_inputs, oracle, error):
    # 512 px, far shifts: a float32 product ky * y would be wrong by up to 256 * 3e4 * 6e-8 = 0.5 turns.
    views = ((20000.37, -31000.11, 1.0625, 0.93, 0.2),)
    inputs, options = make_inputs(512, 512, views=views)
    options["out_size"] = (32, 31)
    view = synthesize(*inputs.values(), **options, antialias=False)
    assert error(view, oracle(*inputs.values(), **options)) < 2e-6


@pytest.mark.parametrize("size", [(16, 18), (17, 15), (9, 2)])
def test_whole_shifts_are_irfft2_and_roll(make_inputs, size):
    inputs, options = make_inputs(*size, dtype=torch.float64, views=((5, -3, 1, 1, 0), (-40, 0, 1, 1, 0)))
    options |= {"out_size": size, "colour": torch.eye(3).double(), "gain": 1.0, "dtype": torch.float64}
    spectrum = torch.complex(*inputs["spectrum"].unbind(2)) * inputs["envelope"]
    canvas = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    rolled = torch.stack((canvas[0].roll((-5, 3), (1, 2)), canvas[1].roll((40, 0), (1, 2))))
    expected = (torch.sigmoid(rolled) - options["mean"][:, None, None]) / options["std"][:, None, None]
    torch.testing.assert_close(synthesize(*inputs.values(), **options), expected, rtol=1e-12, atol=1e-12)
    # A shear of 1e-300 turns the FFT path off and changes nothing: both paths meet here.
    inputs["views"][:, 4] = 1e-300
    torch.testing.assert_close(synthesize(*inputs.values(), **options), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("views", [((2, -3, 1, 1, 0),) * 2, ((0.3, 1, 1.5, 0.8, 0.2), (0, 0, 1, 2.5, 0))])
@pytest.mark.parametrize("border", ["wrap", "mask"])
def test_gradcheck(make_inputs, views, border):
    inputs, options = make_inputs(6, 7, views=views, dtype=torch.float64)
    spectrum = inputs["spectrum"].requires_grad_()

    def function(spectrum):
        rest = (inputs["envelope"], inputs["views"])
        return synthesize(spectrum, *rest, **options, out_size=(6, 7), dtype=torch.float64, border=border)

    assert torch.autograd.gradcheck(function, (spectrum,))


def test_antialias_leaves_out_what_the_view_cannot_hold(make_inputs, oracle, error):
    views = ((0.5, 0.25, 1.5, 2.0, 0.0), (0.0, 3.1, 1.0, 1.0, 0.4), (0.0, 0.0, 0.6, 0.9, 0.0))
    inputs, options = make_inputs(20, 22, views=views, dtype=torch.float64)
    options["out_size"] = (13, 11)
    ky, kx = frequencies(20, 22)
    keep = torch.ones(3, 20, 12)
    keep[0] = ((ky.abs() <= 6)[:, None] & (kx <= 5)).double()  # 20 / (2 * 1.5) = 6.7 and 22 / (2 * 2) = 5.5 cycles
    keep[1] = ((ky[:, None] * 22 + 0.4 * kx * 20).abs() <= 220).double()  # |ky/20 + 0.4 kx/22| <= 1/2
    assert 0 < keep[1].mean() < 1
    expected = oracle(*inputs.values(), **options, keep=keep)
    assert error(synthesize(*inputs.values(), **options, dtype=torch.float64), expected) < 2e-12


@pytest.mark.parametrize("band", [0, 3, 7, 8, 50])
@pytest.mark.parametrize("size", [(16, 18), (17, 13)])
def test_band_keeps_low_frequencies(make_inputs, oracle, error, size, band):
    inputs, options = make_inputs(*size, dtype=torch.float64)
    options["out_size"] = (10, 11)
    ky, kx = frequencies(*size)
    keep = ((ky.abs() <= band)[:, None] & (kx <= band)).double().expand(3, -1, -1)
    cotangent = torch.randn(3, 3, 10, 11, dtype=torch.float64)
    limited = {"dtype": torch.float64, "antialias": False, "band": band}
    view, grad = gradient(lambda *a: synthesize(*a, **options, **limited), inputs, cotangent)
    expected, expected_grad = gradient(lambda *a: oracle(*a, **options, keep=keep), inputs, cotangent)
    assert error(view, expected) < 2e-12
    assert error(grad, expected_grad) < 2e-12


def test_border_mask_shows_the_mean_outside(make_inputs):
    inputs, options = make_inputs(8, 8, views=((2, 0, 1, 1, 0), (0, 0.5, 1, 1, 0)), dtype=torch.float64)
    options |= {"out_size": (8, 8), "dtype": torch.float64}
    wrapped = synthesize(*inputs.values(), **options)
    masked = synthesize(*inputs.values(), **options, border="mask")
    # Shifted by two rows, the last two lie below the canvas; half a pixel is still its rim.
    assert torch.equal(masked[0, :, 6:], torch.zeros(3, 2, 8).double())
    torch.testing.assert_close(masked[0, :, :6], wrapped[0, :, :6])
    torch.testing.assert_close(masked[1], wrapped[1])


def test_each_image_may_have_its_own_envelope(make_inputs):
    inputs, options = make_inputs(9, 10, dtype=torch.float64)
    options |= {"out_size": (9, 10), "dtype": torch.float64}
    envelopes = torch.rand(3, 9, 6, dtype=torch.float64)
    together = synthesize(inputs["spectrum"], envelopes, inputs["views"], **options)
    for n in range(3):
        one = synthesize(inputs["spectrum"][n : n + 1], envelopes[n], inputs["views"][n : n + 1], **options)
        torch.testing.assert_close(together[n : n + 1], one, rtol=1e-12, atol=1e-12)


def test_layouts_hold_the_same_view(make_inputs):
    inputs, options = make_inputs(9, 10)
    options["out_size"] = (7, 6)
    plain = synthesize(*inputs.values(), **options)
    last = synthesize(*inputs.values(), **options, layout="nhwc")
    padded = synthesize(*inputs.values(), **options, layout="nhwc4", dtype=torch.float16)
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert padded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(plain, last)
    assert torch.equal(padded, torch.cat((plain, torch.zeros(3, 1, 7, 6)), 1).half())


def test_expanded_and_permuted_cotangents(make_inputs):
    inputs, options = make_inputs(9, 10, dtype=torch.float64)
    options |= {"out_size": (7, 6), "dtype": torch.float64}
    ones = torch.ones(3, 3, 7, 6)
    for cotangent in (torch.ones(()).expand(3, 3, 7, 6), ones.contiguous(memory_format=torch.channels_last)):
        _, grad = gradient(lambda *a: synthesize(*a, **options), inputs, cotangent)
        _, expected = gradient(lambda *a: synthesize(*a, **options), inputs, ones)
        torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)


def test_magnitude_and_phase_are_a_spectrum(make_inputs):
    inputs, options = make_inputs(9, 10, dtype=torch.float64)
    options |= {"out_size": (7, 6), "dtype": torch.float64}
    real, imag = inputs["spectrum"].unbind(2)
    magnitude, phase = torch.hypot(real, imag), torch.atan2(imag, real).requires_grad_()
    by_phase = synthesize(phase, inputs["envelope"], inputs["views"], magnitude=magnitude, **options)
    torch.testing.assert_close(by_phase, synthesize(*inputs.values(), **options), rtol=1e-12, atol=1e-12)
    small = {
        "envelope": inputs["envelope"],
        "views": inputs["views"][:1],
        "magnitude": magnitude[0],
        **options,
    }
    assert torch.autograd.gradcheck(lambda phase: synthesize(phase, **small), (phase[:1],), fast_mode=True)


def test_frequencies_are_those_of_torch_fft():
    for height, width in ((8, 9), (7, 6)):
        ky, kx = frequencies(height, width)
        assert torch.equal(ky.float(), torch.fft.fftfreq(height, 1 / height))
        assert torch.equal(kx.float(), torch.fft.rfftfreq(width, 1 / width))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 12}, "a width of 12 needs 7 columns in the spectrum, not 5"),
        ({"out_size": (0, 3)}, "out_size must be two positive numbers"),
        ({"colour": torch.eye(4)}, r"colour must have shape \(3, 3\), not \(4, 4\)"),
        ({"mean": torch.zeros(3).double()}, "mean must be torch.float32 on cpu"),
        ({"precision": "best"}, "precision must be one of exact, fast, not 'best'"),
        ({"layout": "chw"}, "layout must be one of nchw, nhwc, nhwc4, not 'chw'"),
        ({"border": "zeros"}, "border must be one of wrap, mask, not 'zeros'"),
        ({"dtype": torch.int8}, "dtype must be one of"),
        ({"band": -1}, "band must be at least 0, not -1"),
        ({"backend": "cuda"}, "backend must be one of auto, reference, triton, not 'cuda'"),
    ],
)
def test_wrong_arguments_are_named(make_inputs, change, message):
    inputs, options = make_inputs(8, 9)
    with pytest.raises(ValueError, match=message):
        synthesize(*inputs.values(), **{**options, "out_size": (8, 9), **change})


def test_dispatch_obeys_argument_and_environment(monkeypatch):
    monkeypatch.delenv("FVFAST_KERNELS", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert describe("cpu")["backend"] == "reference"
    with pytest.raises(RuntimeError, match=r"the argument backend asks for triton, but .*cpu"):
        describe("cpu", "triton")
    monkeypatch.setenv("FVFAST_KERNELS", "triton")
    with pytest.raises(RuntimeError, match=r"FVFAST_KERNELS asks for triton, but .*cpu"):
        describe("cpu")
    assert describe("cpu", "reference")["backend"] == "reference"
    monkeypatch.setenv("FVFAST_KERNELS", "fast")
    with pytest.raises(ValueError, match="FVFAST_KERNELS must be one of"):
        describe("cpu")


def test_importing_needs_no_triton():
    """Not at start-up, where importing it would take half a second, and not where it cannot be installed."""
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, fvfast_kernels as k\n"
        "view = k.synthesize(torch.ones(1, 3, 2, 4, 3), torch.ones(4, 3), torch.tensor([[0., 0, 1, 1, 0]]), width=4,\n"
        "    out_size=(4, 4), colour=torch.eye(3), mean=torch.zeros(3), std=torch.ones(3))\n"
        "assert view.shape == (1, 3, 4, 4) and not k.available('cpu')\n"
        "print(k.describe('cpu')['backend'], [name for name in sys.modules if name.startswith('triton.')])"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("FVFAST_KERNELS", "TRITON_INTERPRET")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "reference []", done.stderr
