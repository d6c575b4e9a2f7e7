"""The reference warp and Adam update against direct evaluation and torch's own."""

import math

import pytest
import torch
from fvfast_kernels import adam_, synthesize, warp

ROTATION = ((math.cos(0.4), math.sin(0.4), 2.3), (-math.sin(0.4), math.cos(0.4), -11.6))


def sample_by_hand(image, matrix, out_size, border):
    """Bilinear interpolation of one pixel at a time."""
    batch, channels, height, width = image.shape
    out = torch.zeros(batch, channels, *out_size, dtype=image.dtype)

    def tap(n, y, x):
        if border == "wrap":
            return image[n, :, y % height, x % width]
        fill = 0.0 if border == "zeros" else border
        return (
            image[n, :, y, x]
            if 0 <= y < height and 0 <= x < width
            else torch.full((channels,), fill, dtype=image.dtype)
        )

    for n, i, j in ((n, i, j) for n in range(batch) for i in range(out_size[0]) for j in range(out_size[1])):
        point = torch.tensor((i - (out_size[0] - 1) / 2, j - (out_size[1] - 1) / 2, 1.0)).to(image)
        y, x = (matrix[n].to(image) @ point + torch.tensor(((height - 1) / 2, (width - 1) / 2)).to(image)).tolist()
        y0, x0 = math.floor(y), math.floor(x)
        out[n, :, i, j] = sum(
            (1 - abs(y - yy)) * (1 - abs(x - xx)) * tap(n, yy, xx) for yy in (y0, y0 + 1) for xx in (x0, x0 + 1)
        )
    return out


@pytest.mark.parametrize("border", ["wrap", "zeros", 0.7])
@pytest.mark.parametrize("out_size", [(9, 8), (4, 13)])
def test_warp_is_bilinear_interpolation(border, out_size):
    image = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    matrix = torch.tensor((ROTATION, ((1.7, 0.0, 0.25), (0.3, 0.6, 5.0))), dtype=torch.float64)
    expected = sample_by_hand(image, matrix, out_size, border)
    torch.testing.assert_close(warp(image, matrix, out_size, border=border), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("border", ["wrap", "zeros", 0.7])
def test_warp_gradcheck(border):
    image = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    matrix = torch.tensor((ROTATION,), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda image: warp(image, matrix, (4, 5), border=border), (image,))


def test_warp_by_whole_pixels_is_roll():
    image = torch.randn(1, 3, 10, 12)
    matrix = torch.tensor((((1.0, 0.0, 23.0), (0.0, 1.0, -5.0)),))
    # float32 positions of the 12 columns, normalised for grid_sample and back, are good to about 1e-6 pixels.
    torch.testing.assert_close(warp(image, matrix, (10, 12)), image.roll((-23, 5), (2, 3)), rtol=0, atol=2e-5)


def test_warp_has_the_convention_of_the_views():
    # Bilinear interpolation of a period of 64 pixels errs by up to (pi/64)^2 / 2 = 1e-3 of its amplitude.
    height, width = 64, 96
    spectrum = torch.zeros(1, 3, 2, height, width // 2 + 1)
    spectrum[:, :, :, [0, 1, height - 1], :2] = (
        torch.randn(1, 3, 2, 3, 2, generator=torch.Generator().manual_seed(1)) * 40
    )
    ty, tx, zy, zx, sigma = 3.25, -7.5, 0.8, 1.1, 0.2
    options = {"width": width, "colour": torch.eye(3), "mean": torch.zeros(3), "std": torch.ones(3)}
    envelope = torch.ones(height, width // 2 + 1)
    canvas = synthesize(spectrum, envelope, torch.tensor([[0.0, 0, 1, 1, 0]]), **options, out_size=(height, width))
    view = synthesize(spectrum, envelope, torch.tensor([[ty, tx, zy, zx, sigma]]), **options, out_size=(20, 30))
    warped = warp(canvas, torch.tensor([[[zy, 0, ty], [sigma * zy, zx, tx + sigma * ty]]]), (20, 30))
    assert canvas.std() > 0.05
    torch.testing.assert_close(warped, view, rtol=0, atol=2e-3)


@pytest.mark.parametrize("step_as", [int, torch.tensor])
def test_adam_is_torch_optim_adam(step_as):
    generator = torch.Generator().manual_seed(2)
    start = torch.randn(3, 4, generator=generator)
    param, expected = start.clone(), start.clone().requires_grad_()
    optimizer = torch.optim.Adam([expected], lr=0.05)
    exp_avg, exp_avg_sq = torch.zeros_like(param), torch.zeros_like(param)
    for step in range(1, 6):
        grad = torch.randn(3, 4, generator=generator) * 10.0**-step
        expected.grad = grad.clone()
        optimizer.step()
        adam_(param, grad, exp_avg, exp_avg_sq, step_as(step), 0.05)
    torch.testing.assert_close(param, expected.detach(), rtol=1e-6, atol=1e-7)


def test_adam_with_one_learning_rate_an_image():
    param, grad = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    rates = torch.tensor([0.1, 0.0, 0.02])
    together = param.clone()
    adam_(together, grad, torch.zeros_like(param), torch.zeros_like(param), 1, rates)
    for n, rate in enumerate(rates.tolist()):
        alone = param[n].clone()
        adam_(alone, grad[n], torch.zeros_like(alone), torch.zeros_like(alone), 1, rate)
        torch.testing.assert_close(together[n], alone)


def test_wrong_arguments_are_named():
    image, matrix = torch.zeros(2, 3, 4, 4), torch.zeros(2, 2, 3)
    with pytest.raises(ValueError, match=r"matrix must have shape \(2, 2, 3\), not \(1, 2, 3\)"):
        warp(image, matrix[:1], (4, 4))
    with pytest.raises(ValueError, match="border must be one of wrap, zeros, not 'mirror'"):
        warp(image, matrix, (4, 4), border="mirror")
    with pytest.raises(ValueError, match=r"lr must be a number or have shape \(2,\), not \(3,\)"):
        adam_(image, image, image, image, 1, torch.zeros(3))
    with pytest.raises(ValueError, match="grad must be like param"):
        adam_(image, image[:1], image, image, 1, 0.1)
