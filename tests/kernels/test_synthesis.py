"""The synthesis kernels against the dense float64 DFT and the reference; on a GPU, or in triton's interpreter."""

import math

import pytest
import torch
from fvfast_kernels import Buffers, frequencies, synthesize, synthesize_adjoint_adam_, synthesize_into

# Exact: three float16 products leave 2^-22 an operand, about the rounding of float32 itself; 4e-7 measured.
# Fast: one leaves 2^-11 an operand, rounded to nearest: 3.5e-4 measured in the gradient, and no bias.
TOLERANCE = {"exact": 2e-6, "fast": 6e-4}

VIEW = ((1.3, -40.2, 0.8, 1.2, 0.3),)


def gradient(function, inputs, cotangent):
    spectrum = inputs["spectrum"].detach().requires_grad_()
    view = function(spectrum, inputs["envelope"], inputs["views"])
    return view.detach(), torch.autograd.grad(view, spectrum, cotangent.to(view))[0]


def run(inputs, options, cotangent, **kernel_options):
    """Value and gradient by the kernels, with the allocator's memory poisoned."""
    poison(inputs["spectrum"].device)
    call = options | kernel_options | {"backend": "triton"}
    return gradient(lambda *a: synthesize(*a, **call), inputs, cotangent)


def poison(device):
    """Leave NaN in the memory that the next allocations are likely to get."""
    blocks = [torch.full((size,), math.nan, device=device) for size in (1 << 8, 1 << 12, 1 << 14, 1 << 16)]
    del blocks


def on_cpu(inputs, options):
    """The same inputs where the oracle computes."""
    move = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return {k: v.cpu() for k, v in inputs.items()}, move


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize(
    ("size", "out_size", "layout"),
    [
        pytest.param((16, 18), (16, 18), "nchw", id="even"),
        pytest.param((17, 15), (12, 9), "nhwc4", id="odd"),
        pytest.param((24, 21), (31, 30), "nhwc", id="larger view"),
        pytest.param((2, 3), (4, 5), "nhwc4", id="tiny"),
        pytest.param((1, 1), (3, 2), "nchw", id="one pixel"),
        pytest.param((72, 70), (68, 70), "nhwc4", id="several tiles"),
    ],
)
def test_equals_the_dense_transform(make_inputs, oracle, error, device, size, out_size, layout, precision):
    views = (*VIEW, (-300.25, 7.7, 1.1, 0.7, -0.2))[: 1 if min(size) > 50 else 2]
    inputs, options = make_inputs(*size, views=views, device=device)
    options["out_size"] = out_size
    channels = 4 if layout == "nhwc4" else 3
    cotangent = torch.randn(len(views), channels, *out_size, dtype=torch.float64)
    view, grad = run(inputs, options, cotangent, precision=precision, layout=layout, antialias=False)
    inputs, options = on_cpu(inputs, options)
    expected, expected_grad = gradient(lambda *a: oracle(*a, **options), inputs, cotangent[:, :3])
    assert error(view[:, :3], expected) < TOLERANCE[precision]
    assert error(grad, expected_grad) < TOLERANCE[precision]
    assert not view[:, 3:].any()


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_precision_at_full_size(make_inputs, oracle, error, bias, device, precision):
    """The errors that docs/kernels.md states: 224 px, a 1/f spectrum, value of f and gradient."""
    size = 224
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    envelope = 1 / torch.hypot(fy, fx).clamp(min=1 / size)
    inputs, options = make_inputs(size, size, views=((3.3, -7.6, 0.93, 1.04, 0.1),), envelope=envelope, device=device)
    # So small a gain keeps the sigmoid linear: its value less 1/2 is the field, and shows the field's errors.
    options |= {"out_size": (48, size), "gain": 1e-3, "std": torch.ones(3, device=device)}
    options |= {"mean": torch.full((3,), 0.5, device=device), "colour": torch.eye(3, device=device)}
    cotangent = torch.randn(1, 3, 48, size, dtype=torch.float64)
    view, grad = run(inputs, options, cotangent, precision=precision, antialias=False)
    inputs, options = on_cpu(inputs, options)
    expected, expected_grad = gradient(lambda *a: oracle(*a, **options), inputs, cotangent)
    # The view is 1/2 + 2.5e-4 f before 1/2 is taken off: float32 leaves 3e-8 / |view| of that.
    floor = 2**-24 * math.sqrt(expected.numel()) / expected.norm().item()
    assert error(view, expected) < TOLERANCE[precision] + floor
    assert error(grad, expected_grad) < TOLERANCE[precision]
    # Unbiased errors of 4e-4 leave 4e-4 / sqrt(1e5) = 1e-6 along the truth, if no few entries dominate it:
    # the gradient is taken before the envelope, which would let its lowest frequencies do so.
    scale = envelope.clamp(min=1).double()
    assert abs(bias(view, expected)) < 1e-5
    assert abs(bias(grad.double().cpu() / scale, expected_grad / scale)) < 1e-5


OPTIONS = [
    pytest.param({}, id="antialias"),
    pytest.param({"border": "mask"}, id="mask"),
    pytest.param({"border": "mask", "layout": "nhwc4"}, id="mask nhwc4"),
    pytest.param({"band": 0}, id="band 0"),
    pytest.param({"band": 5, "layout": "nhwc"}, id="band 5"),
    pytest.param({"layout": "nhwc4", "dtype": torch.float16}, id="half"),
]


def in_play(size, views, band):
    """The frequencies [B, H, M] that a band and the views' Nyquist frequencies keep."""
    ky, kx = frequencies(*size)
    zy, zx, sigma = (views[:, n, None, None] for n in (2, 3, 4))
    keep = (zx * kx / size[1] <= 0.501) & ((zy * (ky[:, None] / size[0] + sigma * kx / size[1])).abs() <= 0.501)
    return keep if band is None else keep & ((ky.abs() <= band)[:, None] & (kx <= band))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", [(18, 21), (21, 26)])
def test_equals_the_reference(make_inputs, error, device, size, options):
    inputs, call = make_inputs(*size, views=(*VIEW, (0.0, 3.0, 1.4, 0.9, 0.0)), device=device)
    call |= options | {"out_size": (17, 22)}
    cotangent = torch.randn(2, 4 if options.get("layout") == "nhwc4" else 3, 17, 22)
    cotangent = cotangent.to(options.get("dtype", torch.float32)).to(device)
    view, grad = run(inputs, call, cotangent)
    expected, expected_grad = gradient(lambda *a: synthesize(*a, **call, backend="reference"), inputs, cotangent)
    assert view.stride() == expected.stride()
    assert view.dtype == expected.dtype
    # A float16 view may round to the other neighbour where two float32 results lie on either side of the
    # middle.
    assert error(view, expected) < (2e-5 if view.dtype == torch.float16 else 2e-6)
    assert error(grad, expected_grad) < 2e-6
    left_out = ~in_play(size, inputs["views"].cpu(), call.get("band"))[:, None, None].expand(grad.shape)
    assert left_out.any()
    assert not grad.cpu()[left_out].any()


def test_phase_and_magnitude(make_inputs, error, device):
    inputs, options = make_inputs(12, 15, device=device)
    options["out_size"] = (11, 13)
    magnitude = torch.rand(3, 12, 8, generator=torch.Generator().manual_seed(5)).to(device)
    magnitudes = torch.stack((magnitude, 2 * magnitude, 0 * magnitude))
    inputs["spectrum"] = 40 * inputs["spectrum"][:, :, 0].contiguous()  # radians, many turns of them
    cotangent = torch.randn(3, 3, 11, 13)
    for given in (magnitude, magnitudes):
        view, grad = run(inputs, options, cotangent, magnitude=given)
        call = options | {"magnitude": given, "backend": "reference"}
        expected, expected_grad = gradient(lambda *a, call=call: synthesize(*a, **call), inputs, cotangent)
        assert error(view, expected) < 2e-6
        assert error(grad, expected_grad) < 2e-6


def test_each_image_may_have_its_own_envelope(make_inputs, error, device):
    inputs, options = make_inputs(9, 10, device=device)
    options["out_size"] = (9, 10)
    inputs["envelope"] = torch.rand(3, 9, 6, device=device)
    cotangent = torch.randn(3, 3, 9, 10)
    view, grad = run(inputs, options, cotangent)
    expected, expected_grad = gradient(lambda *a: synthesize(*a, **options, backend="reference"), inputs, cotangent)
    assert error(view, expected) < 2e-6
    assert error(grad, expected_grad) < 2e-6


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("magnitude", [1e-20, 1e9])
def test_gradients_of_any_magnitude(make_inputs, error, device, magnitude, precision):
    """float16 holds 6e-8 to 6e4; the kernels scale by powers of two, which must change nothing else."""
    inputs, options = make_inputs(9, 10, views=VIEW * 2, device=device)
    options["out_size"] = (9, 10)
    cotangent = torch.randn(2, 3, 9, 10)
    cotangent[0] *= 1e-6  # images and rows differ as well
    cotangent[1, :, 4] *= 1e-4
    _, plain = run(inputs, options, cotangent, precision=precision)
    _, scaled = run(inputs, options, cotangent * magnitude, precision=precision)
    for n in range(2):
        assert error(scaled[n].double() / magnitude, plain[n]) < 2 * TOLERANCE[precision]


@pytest.mark.parametrize("magnitude", [1e-20, 1e6])
def test_spectra_of_any_magnitude(make_inputs, error, device, magnitude):
    inputs, options = make_inputs(9, 10, device=device, views=VIEW)
    options |= {"out_size": (9, 10), "gain": 0.25 / magnitude}
    cotangent = torch.randn(1, 3, 9, 10)
    expected, _ = run(inputs, {**options, "gain": 0.25}, cotangent)
    inputs["spectrum"] = inputs["spectrum"] * magnitude
    view, _ = run(inputs, options, cotangent)
    assert error(view, expected) < 2e-6


def test_cotangents_in_any_strides(make_inputs, device):
    inputs, options = make_inputs(9, 10, device=device, views=VIEW)
    options["out_size"] = (7, 6)
    for layout, channels in (("nchw", 3), ("nhwc4", 4)):
        dense = torch.full((1, channels, 7, 6), 0.5, device=device)
        _, expected = run(inputs, options, dense, layout=layout)
        expanded = torch.full((), 0.5, device=device).expand(1, channels, 7, 6)  # as .sum().backward() gives
        turned = dense.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
        for cotangent in (expanded, turned):
            spectrum = inputs["spectrum"].detach().requires_grad_()
            call = options | {"layout": layout, "backend": "triton"}
            view = synthesize(spectrum, inputs["envelope"], inputs["views"], **call)
            (grad,) = torch.autograd.grad(view, spectrum, cotangent)
            torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-9)


def test_non_contiguous_inputs(make_inputs, device):
    inputs, options = make_inputs(9, 10, device=device)
    options["out_size"] = (7, 6)
    expected = synthesize(*inputs.values(), **options, backend="triton")
    wide = torch.cat((inputs["views"], torch.zeros(3, 1, device=device)), 1)
    spread = inputs["spectrum"].transpose(3, 4).contiguous().transpose(3, 4)
    inputs |= {"views": wide[:, :5], "spectrum": spread}
    options["colour"] = options["colour"].t().contiguous().t()
    assert torch.equal(synthesize(*inputs.values(), **options, backend="triton"), expected)


@pytest.mark.parametrize(("layout", "band", "phase"), [("nhwc4", None, False), ("nchw", 4, True)])
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_the_loop_is_torch_optim_adam_on_the_reference(make_inputs, device, layout, band, phase, backend):
    """Views from a table by a counter, three steps of Adam in the adjoint's epilogue, one learning rate an image."""
    steps, batch, size, out_size = 3, 2, (14, 17), (11, 12)
    inputs, options = make_inputs(*size, views=((0, 0, 1, 1, 0),) * batch, device=device)
    magnitude = torch.rand(3, 14, 9).to(device) if phase else None
    start = inputs["spectrum"][:, :, 0].contiguous() if phase else inputs["spectrum"]
    views = (torch.rand(steps, batch, 5) * 0.3 + torch.tensor([2, -3, 0.9, 0.9, 0])).to(device)
    rates, betas = torch.tensor([0.05, 0.02]).to(device), (0.8, 0.99)
    target = torch.randn(batch, 3, *out_size).to(device)

    loop = {k: v for k, v in options.items() if k != "width"} | {
        "device": device,
        "layout": layout,
        "band": band,
    }
    buffers = Buffers.allocate(batch, *size, out_size, **loop, backend=backend)
    spectrum, step = start.clone(), torch.zeros(1, dtype=torch.int32, device=device)
    moments = torch.zeros_like(start), torch.zeros_like(start)
    for _ in range(steps):
        synthesize_into(buffers, spectrum, inputs["envelope"], views, step, magnitude=magnitude)
        grad = torch.zeros_like(buffers.view)
        grad[:, :3] = buffers.view[:, :3] - target
        tensors = (spectrum, *moments, rates, inputs["envelope"], views, step)
        synthesize_adjoint_adam_(buffers, grad, *tensors, betas=betas, magnitude=magnitude)
        step += 1

    parameters = [image.clone().requires_grad_() for image in start]
    groups = [{"params": [p], "lr": rate} for p, rate in zip(parameters, rates.tolist(), strict=True)]
    optimizer = torch.optim.Adam(groups, betas=betas)
    for n in range(steps):
        call = options | {"magnitude": magnitude, "out_size": out_size, "band": band, "backend": "reference"}
        view = synthesize(torch.stack(parameters), inputs["envelope"], views[n], **call)
        optimizer.zero_grad()
        (view - target).square().sum().mul(0.5).backward()
        optimizer.step()
    expected = torch.stack([p.detach() for p in parameters])
    assert (expected - start).abs().max() > 0.1
    # Adam divides by the gradient's own size: a relative error of 1e-6 of a gradient becomes 1e-6 of a step,
    # save where the gradient is rounding itself, 1e-7 of the others.
    difference = (spectrum - expected).abs()
    assert difference.quantile(0.99) < 2e-6
    assert difference.max() < 2e-3
