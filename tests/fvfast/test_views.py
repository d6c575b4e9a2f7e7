import math

import pytest
import torch
from fvfast_kernels import synthesize, warp

from fvfast.images import COLOUR, envelope
from fvfast.views import Views, identity, matrices

STEPS = 4000


def draw(views, canvas=100, view=100, steps=STEPS, seed=3):
    return views.draw(steps, torch.Generator().manual_seed(seed), canvas, view)


def spread(values, low, high):
    """Within [low, high], and filling it evenly: the mean and the quartiles where a uniform draw has them."""
    width = high - low
    # Standard error of a mean of 4,000 uniform draws: 0.0046 of the width; of a quartile 0.0068. Five of these.
    assert low - 1e-5 * width <= values.min()
    assert values.max() <= high + 1e-5 * width
    assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.023 * width)
    for share in (0.25, 0.75):
        assert values.quantile(share).item() == pytest.approx(low + share * width, abs=0.035 * width)


def test_every_part_of_a_view_fills_its_range():
    table = draw(Views(jitter=12, zoom=(0.5, 2.0), stretch=1.44, shear=20, rotate=15))
    assert table.shape == (STEPS, 6)
    assert table.dtype == torch.float32
    ty, tx, zy, zx, sigma, angle = table.unbind(1)
    spread(ty, -12, 12)
    spread(tx, -12, 12)
    spread((zy * zx).log() / 2, math.log(0.5), math.log(2))
    spread((zy / zx).log(), -math.log(1.44), math.log(1.44))
    spread(sigma.atan().rad2deg(), -20, 20)
    spread(angle.rad2deg(), -15, 15)


def test_the_parts_of_a_view_are_independent():
    table = draw(Views(jitter=12, zoom=(0.5, 2.0), stretch=1.44, shear=20, rotate=15))
    parts = torch.stack([table[:, 0], table[:, 1], table[:, 2] * table[:, 3], table[:, 4], table[:, 5]])
    correlation = torch.corrcoef(parts) - torch.eye(5)
    # 1 / sqrt(4000) = 0.016 for independent draws; five of these
    assert correlation.abs().max() < 0.08


def test_choices_are_all_drawn_as_often_as_listed():
    table = draw(Views(choices=(-10, 0, 0, 0, 30)))
    degrees = table[:, 5].rad2deg().round().tolist()
    # sqrt(4000 * 0.2 * 0.8) = 25 for a share of a fifth, 31 for three; five of these
    assert degrees.count(-10) == pytest.approx(800, abs=127)
    assert degrees.count(0) == pytest.approx(2400, abs=155)
    assert degrees.count(-10) + degrees.count(0) + degrees.count(30) == STEPS


def test_no_views_are_the_identity():
    torch.testing.assert_close(draw(Views(), steps=5), identity(5), rtol=0, atol=0)
    assert Views().still
    assert not Views(jitter=1).still


def test_zoom_is_in_canvas_pixels_a_view_pixel():
    table = draw(Views(zoom=(2.0, 2.0), pad=12), canvas=128, view=224, steps=3)
    # unit zoom shows the canvas with its padding, 152 px, in 224
    torch.testing.assert_close(table[:, 2:4], torch.full((3, 2), 2 * 152 / 224), rtol=1e-6, atol=0)


def test_the_same_seed_draws_the_same_views():
    views = Views(jitter=3, zoom=(0.9, 1.1), rotate=5)
    assert draw(views, steps=9).equal(draw(views, steps=9))
    assert not draw(views, steps=9).equal(draw(views, steps=9, seed=4))


@pytest.mark.parametrize("views", [Views(jitter=3, zoom=(0.5, 1.2), stretch=1.2, shear=9), Views(choices=(1, 2, 3))])
def test_fewer_steps_see_the_first_of_the_same_views(views):
    assert draw(views, steps=7).equal(draw(views, steps=40)[:7])


@pytest.mark.parametrize(
    ("views", "fits"),
    [
        (Views(jitter=5, zoom=(0.5, 1.2), stretch=1.4, shear=10), True),
        (Views(rotate=1), False),
        (Views(choices=(0, 5)), False),
        (Views(border=0.5), False),
        (Views(border="mean"), False),
    ],
)
def test_what_the_fourier_basis_can_evaluate(views, fits):
    assert views.in_basis is fits


# The affine maps ---------------------------------------------------------------------------------------------


def test_the_identity_maps_every_pixel_onto_itself():
    torch.testing.assert_close(matrices(identity(1)), torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("view", "point", "lands"),
    [
        # (ty, tx, zy, zx, sigma, degrees), a point (y, x) from the view's centre, and where it lies on the canvas
        ((3, -4, 1, 1, 0, 0), (10, 20), (13, 16)),
        ((0, 0, 2, 0.5, 0, 0), (10, 20), (20, 10)),
        ((0, 0, 1, 1, 0, 90), (1, 0), (0, 1)),
        ((0, 0, 1, 1, 0, 90), (0, 1), (-1, 0)),
        ((0, 0, 1, 1, 0.5, 0), (10, 20), (10, 25)),
        ((0, 0, 2, 3, 0, 90), (1, 0), (0, 2)),  # zoom first, then rotation
        ((4, 0, 1, 1, 0.5, 0), (10, 20), (14, 27)),  # the shear sees the shifted y, as in `synthesize`
    ],
)
def test_a_view_maps_a_point_where_it_says(view, point, lands):
    *rest, degrees = view
    matrix = matrices(torch.tensor([[*rest, math.radians(degrees)]], dtype=torch.float32))[0]
    mapped = matrix @ torch.tensor([*point, 1.0], dtype=torch.float32)
    torch.testing.assert_close(mapped, torch.tensor(lands, dtype=torch.float32), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "view",
    [
        (0, 0, 1, 1, 0, 0),
        (3, -5, 1, 1, 0, 0),
        (2.25, -7.5, 0.8, 1.1, 0, 0),
        (-4.5, 3.25, 1.1, 0.9, 0.2, 0),
        (0, 0, 0.7, 0.7, -0.3, 0),
    ],
)
def test_the_warp_and_the_basis_show_the_same_view(view):
    """A smooth canvas resampled bilinearly against its trigonometric polynomial evaluated at the same points."""
    size = 64
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(1, 3, 2, size, size // 2 + 1, generator=generator)
    rows, columns = torch.fft.fftfreq(size, 1 / size).abs()[:, None], torch.arange(size // 2 + 1)[None]
    spectrum = spectrum * ((rows <= 2) & (columns <= 2))  # waves of 32 px and longer
    zero, one = torch.zeros(3), torch.ones(3)

    def evaluate(v):
        options = {"width": size, "out_size": (size, size), "colour": COLOUR, "mean": zero, "std": one, "gain": 1.0}
        return synthesize(spectrum, envelope("lucid", size, size, 1.0), v, antialias=False, **options)

    views = torch.tensor([view], dtype=torch.float32)
    canvas = evaluate(identity()[:, :5])
    warped = warp(canvas, matrices(views), (size, size), border="wrap")
    exact = evaluate(views[:, :5])
    # Bilinear interpolation is off by at most an eighth of the second derivative in each direction. These are taken
    # as second differences, which are a little flatter: hence a fifth more.
    bends = [(canvas.roll(1, axis) - 2 * canvas + canvas.roll(-1, axis)).abs().max().item() for axis in (2, 3)]
    assert sum(bends) / 8 < 0.015
    assert (warped - exact).abs().max() < 1.2 * sum(bends) / 8
    assert canvas.std() > 0.1
    if view[0] != 0 or view[2] != 1:
        assert (exact - canvas).abs().max() > 0.1  # the views do differ from the canvas
