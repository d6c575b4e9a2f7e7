"""The warp and Adam kernels against their references, and every custom operator against torch's own checks."""

import math

import pytest
import torch
from fvfast_kernels import adam_, warp

ROTATION = ((math.cos(0.4), math.sin(0.4), 2.3), (-math.sin(0.4), math.cos(0.4), -41.6))
SHRINK_AND_FLIP = ((1.6, 0.0, 0.25), (0.3, -0.6, 5.0))


@pytest.mark.parametrize("border", ["wrap", "zeros", 0.7])
@pytest.mark.parametrize(("size", "out_size"), [((13, 11), (9, 14)), ((5, 40), (5, 3))])
def test_warp_equals_the_reference(device, border, size, out_size):
    image = torch.randn(2, 5, *size, device=device, requires_grad=True)
    matrix = torch.tensor((ROTATION, SHRINK_AND_FLIP), device=device)
    cotangent = torch.randn(2, 5, *out_size, device=device).transpose(0, 1).contiguous().transpose(0, 1)
    results = []
    for backend in ("reference", "triton"):
        out = warp(image, matrix, out_size, border=border, backend=backend)
        results.append((out.detach(), torch.autograd.grad(out, image, cotangent)[0]))
    # Positions up to 60 pixels are good to 4e-6 pixels in float32, by which neighbours that differ by 4 mix.
    for expected, value in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=3e-5)


def test_warp_adjoint_is_the_transpose(device):
    """<warp x, y> = <x, warp^T y>, with both sides summed in float64: no reference takes part."""
    image = torch.randn(2, 3, 12, 10, device=device, requires_grad=True)
    matrix = torch.tensor((ROTATION, SHRINK_AND_FLIP), device=device)
    for border in ("wrap", "zeros"):
        out = warp(image, matrix, (11, 13), border=border, backend="triton")
        cotangent = torch.randn_like(out)
        (grad,) = torch.autograd.grad(out, image, cotangent)
        forwards = (out.double() * cotangent.double()).sum()
        torch.testing.assert_close((image.double() * grad.double()).sum(), forwards, rtol=0, atol=2e-5)


@pytest.mark.parametrize("scalar", [True, False])
def test_adam_equals_the_reference(device, scalar):
    start = torch.randn(3, 7, 100, device=device)
    rates = 0.03 if scalar else torch.tensor([0.1, 0.0, 0.02], device=device)
    states = [(start.clone(), torch.zeros_like(start), torch.zeros_like(start)) for _ in range(2)]
    for step in (1, 2, 3, 200, 5000):
        grad = torch.randn(3, 7, 100, device=device) * 10.0 ** (step % 3 - 4)
        for (param, first, second), backend in zip(states, ("reference", "triton"), strict=True):
            number = step if scalar else torch.tensor(step, device=device)
            adam_(param, grad, first, second, number, rates, backend=backend)
    for expected, value in zip(*states, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


def operator_samples(device):
    from fvfast_kernels import library

    spectrum, envelope = torch.randn(1, 3, 2, 5, 4), torch.rand(5, 4)
    views = torch.tensor(((1.3, -40.2, 0.8, 1.2, 0.3),))
    constants = (6, 4, 5, 0.25, "exact", torch.float32, "nchw", None, True, "wrap")
    epilogue = (torch.randn(3, 3), torch.rand(3), torch.rand(3) + 0.5)
    image, matrix = torch.randn(2, 3, 6, 5, requires_grad=True), torch.tensor((ROTATION, SHRINK_AND_FLIP))
    adjoint = (torch.randn(1, 3, 4, 5), torch.rand(1, 3, 2, 4, 8), None, None, envelope, views, *epilogue[::2])
    param = torch.randn(3, 20)
    moments = torch.zeros_like(param), torch.zeros_like(param)
    yield (
        library.synthesize,
        (spectrum.clone().requires_grad_(), None, envelope, views, *epilogue, *constants),
    )
    phase, magnitude = spectrum[:, :, 0].clone().requires_grad_(), torch.rand(3, 5, 4)
    yield library.synthesize, (phase, magnitude, envelope, views, *epilogue, *constants)
    yield library.synthesize_adjoint, (*adjoint, 6, 0.25, "exact", None, True, "wrap")
    yield library.warp, (image, matrix, 4, 7, True, 0.0)
    yield library.warp_adjoint, (torch.randn(2, 3, 4, 7), matrix, 6, 5, True)
    step, lr = torch.tensor(3), torch.tensor(0.1)
    yield library.adam_, (param, torch.randn_like(param), *moments, step, lr, 0.9, 0.999, 1e-8)


@pytest.mark.parametrize("number", range(6))
def test_operator_is_sound(device, number):
    operator, arguments = list(operator_samples(device))[number]
    moved = [
        a.detach().to(device).requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a for a in arguments
    ]
    torch.library.opcheck(operator, tuple(moved))
