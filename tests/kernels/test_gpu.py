"""What only a GPU can show: full sizes and batches, every dtype, repeatability, and capture in a CUDA graph."""

import pytest
import torch
from fvfast_kernels import Buffers, describe, synthesize, synthesize_adjoint_adam_, synthesize_into, warp

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

TOLERANCE = {"exact": 2e-6, "fast": 6e-4}  # as in test_synthesis.py


def smooth_inputs(batch, size, device="cuda", seed=0) -> tuple[dict, dict]:
    """A 1/f image whose f has a standard deviation of about 1, and random views."""
    generator = torch.Generator().manual_seed(seed)
    fy, fx = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    spectrum = torch.randn(batch, 3, 2, size, size // 2 + 1, generator=generator) * 0.4
    views = torch.rand(batch, 5, generator=generator) * torch.tensor([30, 30, 0.2, 0.2, 0.4])
    inputs = {
        "spectrum": spectrum.to(device),
        "envelope": (1 / torch.hypot(fy, fx).clamp(min=1 / size)).to(device),
        "views": (views + torch.tensor([-15, -15, 0.9, 0.9, -0.2])).to(device),
    }
    colour = torch.tensor([[0.56, 0.19, 0.04], [0.58, 0.0, -0.11], [0.58, -0.19, 0.06]])
    options = {"colour": colour.to(device), "mean": torch.full((3,), 0.45, device=device)}
    options |= {"std": torch.full((3,), 0.225, device=device), "width": size}
    return inputs, options


def gradient(inputs, options, cotangent, **more):
    spectrum = inputs["spectrum"].detach().requires_grad_()
    view = synthesize(spectrum, inputs["envelope"], inputs["views"], **options, **more)
    return view.detach(), torch.autograd.grad(view, spectrum, cotangent.to(view))[0]


def truth(inputs, options, cotangent, **more):
    """The reference in float64 on the CPU, which test_reference.py holds against the dense transform."""
    inputs = {k: v.double().cpu() for k, v in inputs.items()}
    options = {k: v.double().cpu() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return gradient(inputs, options, cotangent.cpu(), dtype=torch.float64, **more)


@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize(("size", "out"), [(64, 64), (225, 224), (512, 299), (768, 1024), (1024, 768)])
def test_full_sizes(error, bias, size, out, precision):
    inputs, options = smooth_inputs(2, size)
    options["out_size"] = (out, out)
    cotangent = torch.randn(2, 3, out, out, device="cuda")
    view, grad = gradient(inputs, options, cotangent, precision=precision)
    expected, expected_grad = truth(inputs, options, cotangent)
    assert error(view, expected) < TOLERANCE[precision]
    assert error(grad, expected_grad) < TOLERANCE[precision]
    # In a 1/f image few low frequencies are nearly all of the norm, and the rounding of each shows: 2^-12 in fast mode.
    assert abs(bias(view, expected)) < (1e-5 if precision == "exact" else 2.5e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "nhwc4"])
def test_dtypes_and_layouts(error, dtype, layout):
    inputs, options = smooth_inputs(3, 96)
    options["out_size"] = (80, 96)
    cotangent = torch.randn(3, 4 if layout == "nhwc4" else 3, 80, 96, device="cuda").to(dtype)
    view, grad = gradient(inputs, options, cotangent, dtype=dtype, layout=layout)
    expected, expected_grad = truth(inputs, options, cotangent[:, :3].double())
    # Rounding to nearest to 11 or 8 bits: at most half a unit, 2^-11 or 2^-8, of each value.
    rounding = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
    assert error(view[:, :3], expected) < 2e-6 + rounding
    assert error(grad, expected_grad) < 2e-6


@pytest.mark.parametrize("batch", [1, 7, 512])
def test_batches(error, batch):
    inputs, options = smooth_inputs(batch, 64)
    options["out_size"] = (64, 64)
    cotangent = torch.randn(batch, 3, 64, 64, device="cuda")
    view, grad = gradient(inputs, options, cotangent)
    expected, expected_grad = truth(inputs, options, cotangent)
    assert error(view, expected) < 2e-6
    assert error(grad, expected_grad) < 2e-6


def loop(precision, graphed, steps=6):
    """Some steps of the hot loop towards a target image, plainly or as one captured step replayed."""
    inputs, options = smooth_inputs(4, 224)
    views = torch.stack([smooth_inputs(4, 2, seed=n)[0]["views"] for n in range(steps)])  # [steps, 4, 5]
    options = {k: v for k, v in options.items() if k != "width"} | {"precision": precision, "layout": "nhwc4"}
    settings: dict = options | {"dtype": torch.float16, "device": "cuda"}
    buffers = Buffers.allocate(4, 224, 224, (224, 224), **settings)
    spectrum = inputs["spectrum"].clone()
    moments, step = (torch.zeros_like(spectrum), torch.zeros_like(spectrum)), torch.zeros(1, dtype=torch.int32).cuda()
    target = torch.randn(buffers.view.shape, generator=torch.Generator().manual_seed(9)).half().cuda()
    rates = torch.full((4,), 0.05, device="cuda")

    def once():
        synthesize_into(buffers, spectrum, inputs["envelope"], views, step)
        grad = (buffers.view - target).contiguous(memory_format=torch.channels_last)
        tensors = (spectrum, *moments, rates, inputs["envelope"], views, step)
        synthesize_adjoint_adam_(buffers, grad, *tensors)
        step.add_(1)

    if not graphed:
        for _ in range(steps):
            once()
        return spectrum
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        once()  # loads the kernels, which a capture must not
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    for tensor in (*moments, step):
        tensor.zero_()
    spectrum.copy_(inputs["spectrum"])
    for _ in range(steps):
        graph.replay()
    return spectrum


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_the_loop_repeats_itself_to_the_bit(precision):
    assert torch.equal(loop(precision, graphed=False), loop(precision, graphed=False))


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_a_captured_loop_is_the_loop(precision):
    assert torch.equal(loop(precision, graphed=True), loop(precision, graphed=False))


def test_warp_at_full_size():
    image = torch.randn(16, 3, 224, 224, device="cuda", requires_grad=True)
    angle = torch.linspace(-0.3, 0.3, 16)
    rows = torch.stack((angle.cos(), angle.sin(), 9 * angle, -angle.sin(), angle.cos(), -50 * angle), 1)
    matrix = rows.view(16, 2, 3).cuda()
    cotangent = torch.randn(16, 3, 224, 224, device="cuda")
    results = []
    for backend in ("reference", "triton"):
        out = warp(image, matrix, (224, 224), backend=backend)
        results.append((out.detach(), torch.autograd.grad(out, image, cotangent)[0]))
    # float32 positions of 112 pixels are good to 8e-6; the reference normalises them for grid_sample, and back.
    for expected, value in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=4e-4)


def test_dispatch_chooses_the_kernels(monkeypatch):
    monkeypatch.delenv("FVFAST_KERNELS", raising=False)
    assert describe("cuda")["backend"] == "triton"
    monkeypatch.setenv("FVFAST_KERNELS", "reference")
    assert describe("cuda")["backend"] == "reference"
