"""Learnt opacity, components in common, and the way from one objective to another."""

from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

import fvfast
from fvfast import objectives as o
from fvfast.blending import RANDOMS, Shared, Transparent
from fvfast.errors import FvfastError
from fvfast.expressions import Context
from fvfast.images import Fourier, Frame, Pixel
from fvfast.job import PARAMETERISATIONS
from fvfast.recipes import DEFAULT, PLAIN
from fvfast.views import Views

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
SIZE = 24
FRAME = Frame(SIZE, SIZE, MEAN, STD, torch.float32, torch.device("cpu"))
STILL = [0.0, 0, 1, 1, 0, 0]


def noises(kind, count=2):
    return torch.stack([kind.noise(SIZE, torch.Generator().manual_seed(i)) for i in range(count)])


def transparent(kind=Pixel, recipe=PLAIN, count=2):
    recipes = [replace(recipe, alpha=1.0, sd=1.0)] * count
    return Transparent(kind(recipes, noises(kind, count), FRAME), recipes, noises(Transparent, count), FRAME)


# Opacity ---------------------------------------------------------------------------------------------------


def test_a_transparent_image_is_seen_before_a_backdrop():
    image = transparent()
    randoms = torch.tensor([[0.1, 0, 0, 0.5, 0.5, 0.5], [0.9, 0.5, 0.25, 1.0, 0.5, 0.0]])
    views = torch.cat([torch.tensor([STILL, STILL]), randoms], 1)
    with torch.no_grad():
        seen, colours, opacity = image.view(views), image.canvas(), image.alpha()[:, None]
    seen = seen * STD[:, None, None] + MEAN[:, None, None]
    # The first backdrop as it is; the last rolled by half and a quarter of the canvas, redder and less blue.
    first = torch.sigmoid(image.backdrops[0, 0])
    tint = torch.tensor([1.5, 0.0, -1.5])[:, None, None]
    second = torch.sigmoid(image.backdrops[1, 3].roll((-SIZE // 2, -SIZE // 4), (1, 2)) + tint)
    expected = opacity * colours + (1 - opacity) * torch.stack([first, second])
    torch.testing.assert_close(seen, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(image.shown(), opacity * colours + 0.5 * (1 - opacity), rtol=0, atol=1e-6)
    assert image.picture().equal(torch.cat([colours, opacity], 1))


def test_beyond_the_edge_there_is_only_the_backdrop():
    image = transparent()
    away = torch.tensor([[2.0 * SIZE, 0, 1, 1, 0, 0, 0.1, 0, 0, 0.5, 0.5, 0.5]] * 2)
    seen = image.view(away) * STD[:, None, None] + MEAN[:, None, None]
    torch.testing.assert_close(seen, torch.sigmoid(image.backdrops[:, 0]), rtol=0, atol=1e-5)


def test_the_backdrops_go_from_grainy_to_blurred():
    backdrops = transparent().backdrops
    rough = (backdrops[..., 1:] - backdrops[..., :-1]).square().mean((0, 2, 3, 4))
    assert (rough[:-1] > rough[1:]).all()
    draws = Transparent.draw(500, torch.Generator().manual_seed(0))
    assert draws.shape == (500, RANDOMS)
    # 500 uniform numbers: a standard error of 0.013
    torch.testing.assert_close(draws.mean(0), torch.full((RANDOMS,), 0.5), rtol=0, atol=0.06)


def test_opacity_costs_a_part_of_the_objective():
    image = transparent()
    mean = image.alpha().mean((1, 2))
    torch.testing.assert_close(image.prior(torch.tensor([3.0, -2.0])), mean * torch.tensor([3.0, 2.0]))
    (gradient,) = torch.autograd.grad(image.prior(torch.ones(2)).sum(), image.parameter)
    colours = 3 * SIZE * SIZE
    assert gradient[:, :colours].abs().max() == 0
    assert gradient[:, colours:].abs().amax(1).min() > 0


@pytest.mark.parametrize("kind", sorted(PARAMETERISATIONS.keys() - {"phase"}))
def test_every_parameterisation_learns_an_opacity(tiny, tmp_path, kind):
    result = fvfast.render(tiny, ["deep:3", "logits:1"], image=kind, alpha=True, size=32, steps=6, every=3)
    assert all(a is not None and a.shape == (32, 32) and a.std() > 1e-4 for a in result.alphas)
    assert result.snapshots[0][-1][1].shape == (4, 32, 32)
    assert (result.objective > result.objective_start).any()
    path = result.save(tmp_path)[0]
    written = np.array(PIL.Image.open(path))
    assert result.alphas[0] is not None
    assert np.array_equal(written[..., 3], (result.alphas[0] * 255).round().byte().numpy())
    assert np.array_equal(written[..., :3], (result.images[0] * 255).round().byte().permute(1, 2, 0).numpy())
    alone = fvfast.render(tiny, "logits:1", image=kind, alpha=True, size=32, steps=6)
    assert alone.images[0].equal(result.images[1])


def test_what_the_objective_does_not_need_becomes_transparent(nets):
    class Corner(torch.nn.Module):
        """Looks at the brightness of the upper left quarter only, and at how far the image is from black there."""

        def __init__(self):
            super().__init__()
            self.quarter = torch.nn.Identity()

        def forward(self, x):
            return self.quarter(x[..., :16, :16].mean((2, 3)) + 5)

    recipe = replace(DEFAULT, steps=60, lr=0.2, views=Views(), alpha=1.0)
    result = fvfast.render(fvfast.Model("corner", "none", Corner(), size=32), "quarter:0", recipe=recipe, size=32)
    (opacity,) = result.alphas
    assert opacity is not None
    assert opacity[2:14, 2:14].mean() > opacity[18:, 18:].mean() + 0.3


@pytest.mark.parametrize(("option", "name"), [({"alpha": True}, "--alpha"), ({"align": True}, "--align")])
def test_a_generator_has_no_opacity_and_shares_nothing(tiny, option, name):
    with pytest.raises(FvfastError, match=f"a generator paints whole pictures by itself: leave out {name}"):
        fvfast.render(tiny, "deep:3", image="generator:dcgan-faces", size=32, steps=1, **option)


# A component in common -------------------------------------------------------------------------------------


def test_a_shared_parameter_is_the_weighted_sum_of_own_and_common():
    recipes = [replace(DEFAULT, sd=0.5)] * 3
    inner = Fourier(recipes, noises(Fourier, 3), FRAME)
    alone = inner.canvas().detach()
    image = Shared(inner, 0.75)
    # Nothing is shared at the start: the canvases are what they were
    torch.testing.assert_close(image.canvas(), alone, rtol=0, atol=1e-5)
    with torch.no_grad():
        image.parameter[:, 1] = torch.randn(image.parameter[:, 1].shape, generator=torch.Generator().manual_seed(9))
    expected = 0.25 * image.parameter[:, 0] + 0.75 * image.parameter[:, 1].mean(0)
    by_hand = Fourier(recipes, noises(Fourier, 3), FRAME)
    by_hand.parameter = expected
    torch.testing.assert_close(image.canvas(), by_hand.canvas(), rtol=0, atol=1e-6)


def test_all_shares_have_the_gradient_of_the_sum_of_images():
    image = Shared(Fourier([replace(DEFAULT, sd=0.5)] * 3, noises(Fourier, 3), FRAME), 0.75)
    weights = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((image.canvas() * weights).sum(), image.parameter)
    shares = gradient[:, 1]
    torch.testing.assert_close(shares, shares[:1].expand_as(shares), rtol=0, atol=0)
    # d/d share = 0.75 / 3 sum over images of d/d parameter, and d/d own = 0.25 d/d parameter
    torch.testing.assert_close(shares[0], gradient[:, 0].sum(0) / 0.25 * 0.75 / 3, rtol=1e-4, atol=1e-7)


def test_aligned_images_are_more_alike_than_others(tiny):
    def unlike(**options):
        images = fvfast.render(tiny, ["deep:3", "deep:5"], copies=2, size=32, steps=12, **options).images
        return float((images[:, None] - images[None]).square().mean())

    assert unlike(align=True) < 0.5 * unlike()


def test_aligned_images_are_one_batch_and_transparent_if_asked(tiny):
    result = fvfast.render(tiny, ["deep:3", "deep:5"], align=True, alpha=True, image="pyramid", size=32, steps=3)
    assert all(opacity is not None for opacity in result.alphas)
    assert result.recipes[0].shared == 0.75
    assert (result.objective != result.objective_start).all()


def test_aligned_images_need_one_recipe(tiny):
    with pytest.raises(FvfastError, match="layers and classes have recipes of their own: align them apart"):
        fvfast.render(tiny, ["deep:3", "logits:2"], align=True, size=32)


# From one objective to another -----------------------------------------------------------------------------


def test_an_interpolations_objectives():
    first, last = o.channel("a", 1), o.neuron("a", 0, 1, 1)
    context = Context({"a": torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))})
    found = o.interpolated(first, last, 4)
    assert found[0] is first
    assert found[-1] is last
    assert found[1].label == "0.6667 * a:1 + 0.3333 * a:0@1,1"
    for objective, t in zip(found, (0, 0.3333, 0.6667, 1), strict=True):
        expected = (1 - t) * first.value(context) + t * last.value(context)
        torch.testing.assert_close(objective.value(context), expected, rtol=1e-5, atol=0)
    assert found[1].layers == {"a"}


def test_an_interpolations_ends_are_the_single_renders(tiny):
    way = fvfast.render(tiny, ["deep:3", "logits:bee"], interpolate=3, size=32, steps=4)
    assert way.targets == ["deep:3", "0.5 * deep:3 + 0.5 * logits:1", "logits:bee"]
    for at, target in ((0, "deep:3"), (2, "logits:bee")):
        assert way.images[at].equal(fvfast.render(tiny, target, size=32, steps=4).images[0])
    again = fvfast.render(tiny, way.targets[1], size=32, steps=4)
    assert again.images[0].equal(way.images[1])


def test_three_targets_make_two_ways_that_share_an_end(tiny):
    way = fvfast.render(tiny, "deep:1,2,3", interpolate=3, size=32, steps=1)
    assert [t.count("*") for t in way.targets] == [0, 2, 0, 2, 0]


@pytest.mark.parametrize(
    ("target", "options", "sentence"),
    [
        ("deep:1", {"interpolate": 3}, "there is nothing to interpolate between: name two targets or more"),
        ("deep:1,2", {"interpolate": 1}, "interpolate must be 2 or more, not 1"),
        ("0.5 * deep:1 + deep:2", {}, "is no target: a sum is written WEIGHT \\* TARGET \\+ WEIGHT \\* TARGET"),
        ("half * deep:1", {}, "is no target: a sum is written WEIGHT"),
        ("0.5 * deep:1,2", {}, "'deep:1,2' means 2 images where one is needed: name one channel"),
        ("0.5 * deap:1", {}, "tiny has no layer 'deap'"),
    ],
)
def test_what_cannot_be_mixed(tiny, target, options, sentence):
    with pytest.raises(FvfastError, match=sentence):
        fvfast.render(tiny, target, size=32, steps=1, **options)
