"""What networks say of finished images, against the same worked out another way."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fvfast import judging
from fvfast.errors import FvfastError
from fvfast.judging import HELD_OUT_COUNT, HELD_OUT_SEED, Judge, SecondNetwork, noise_images
from fvfast.models import Model
from fvfast.objectives import Channel
from fvfast.quality import spectrum_slope
from fvfast.rendering import render

CPU = torch.device("cpu")
FIRST = Channel("deep", 3)


@pytest.fixture
def judge(tiny):
    with Judge(tiny, CPU, 32, None, [FIRST, Channel("logits", 2)]) as judge:
        yield judge


def normalised(images, model):
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.mean, model.std))
    return (images - mean) / std


def deep(images, model):
    """The `deep` convolution's output, by the module's own code."""
    net = model.module.eval()
    with torch.no_grad():
        return net.deep(torch.relu(net.norm(net.stem(normalised(images, model)))))


def test_views_of_an_image_by_another_sampler(judge, tiny):
    image = noise_images(1, 32, seed=4)[0]
    ty, tx, zy, zx, sigma, angle = judge.views.double().unbind(1)
    # Zoom, then rotate, then shear (x by sigma y), then shift: from centred view pixels to canvas pixels
    i = torch.arange(32, dtype=torch.float64) - 15.5
    v, u = torch.meshgrid(i, i, indexing="ij")
    v, u = v[None] * zy[:, None, None], u[None] * zx[:, None, None]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    y = cos * v - sin * u + ty[:, None, None]
    x = sin * v + cos * u + sigma[:, None, None] * y + tx[:, None, None]
    grid = torch.stack([(x + 15.5) * 2 + 1, (y + 15.5) * 2 + 1], -1) / 32 - 1  # grid_sample's coordinates
    plain = normalised(image[None], tiny).expand(len(y), -1, -1, -1)
    views = F.grid_sample(plain, grid.float(), align_corners=False)  # zeros, the mean, outside
    net = tiny.module.eval()
    with torch.no_grad():
        expected = net.deep(torch.relu(net.norm(net.stem(views))))[:, 3].mean()
    assert judge.held_out(FIRST, image) == pytest.approx(expected.item(), rel=1e-4)
    assert judge.held_out(FIRST, image) != pytest.approx(judge.on_canvas(FIRST, image[None]).item(), rel=1e-3)


def test_no_render_can_have_seen_the_held_out_views(judge, tiny):
    assert len(judge.views) == HELD_OUT_COUNT
    with pytest.raises(FvfastError, match=r"seed must be below 2\^63"):
        render(tiny, "deep:3", size=32, steps=1, seed=HELD_OUT_SEED)
    zoom = judge.views[:, 2:4]
    assert zoom.max() <= 1.1**0.5 + 1e-6  # closer, but for the stretch: nothing is aliased
    assert zoom.min() >= 0.8 / 1.1**0.5 - 1e-6
    assert judge.views[:, :2].abs().max() <= 2  # 32 px / 16


def test_an_image_is_judged_the_same_in_any_company(tiny):
    image = noise_images(1, 32, seed=4)[0]
    values = []
    for objectives in ([FIRST], [Channel("stem", 1), FIRST]):
        with Judge(tiny, CPU, 32, None, objectives) as judge:
            values.append(judge.held_out(FIRST, image))
    assert values[0] == values[1]
    assert not tiny.module._modules["deep"]._forward_hooks


def test_deviations_are_counted_from_noise(judge, tiny):
    over_noise = deep(noise_images(64, 32), tiny)[:, 3].mean((1, 2)).double()
    expected = (1.5 - over_noise.mean()) / over_noise.std()
    assert judge.deviations(FIRST, 1.5) == pytest.approx(expected.item(), rel=1e-3)


def test_a_feature_that_no_noise_excites_has_no_deviations(nets):
    flat = Model("flat", "none", nets.Flat(), size=32)
    with Judge(flat, CPU, 32, None, [Channel("out", 0)]) as judge:
        assert judge.deviations(Channel("out", 0), 1.0) is None


def test_the_noise_is_like_photographs_in_its_spectrum():
    noise = noise_images(16, 64)
    assert spectrum_slope(noise).mean().item() == pytest.approx(-2, abs=0.2)
    assert noise.min() >= 0
    assert noise.max() <= 1


def test_diversity_by_hand(judge, tiny):
    images = noise_images(3, 32, seed=9)
    assert judge.middle == "deep_norm"
    assert judge.diversity(images[:1].repeat(3, 1, 1, 1)) == pytest.approx(0, abs=1e-5)

    def middle(some):
        with torch.no_grad():
            return tiny.module.eval().deep_norm(deep(some, tiny))

    maps = middle(images) - middle(noise_images(64, 32)).mean((0, 2, 3))[:, None, None]
    grams = [m.flatten(1) @ m.flatten(1).T for m in maps]
    cosines = [
        float((grams[a] * grams[b]).sum() / (grams[a].norm() * grams[b].norm())) for a, b in ((0, 1), (0, 2), (1, 2))
    ]
    assert judge.diversity(images) == pytest.approx(1 - sum(cosines) / 3, abs=1e-4)
    assert judge.diversity(images) > 0.01


def test_a_network_without_a_grid_has_no_diversity():
    flat = Model("flat", "none", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)), size=32)
    with Judge(flat, CPU, 32, None, [Channel("logits", 0)]) as judge:
        assert judge.diversity(noise_images(2, 32)) is None


def test_the_second_networks_probability_is_its_softmax(tiny):
    images = noise_images(2, 32, seed=2)
    other = SecondNetwork(tiny, CPU)
    with torch.no_grad():
        logits = tiny.module.eval()(normalised(images, tiny)).double()
    expected = logits.exp()[:, 4] / logits.exp().sum(1)
    assert other.probability(images, 4).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_the_second_network_sees_images_at_its_own_size(tiny):
    """Averages of 2x2 blocks, nearly: a checkerboard of pixels is flat grey to a network of half the size."""
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(1, 3, 64, 64)
    other = SecondNetwork(tiny, CPU)
    grey = other.probability(torch.full((1, 3, 64, 64), 0.5), 1)
    assert other.probability(board, 1).item() == pytest.approx(grey.item(), rel=0.05)


def test_classes_are_matched_by_name(tiny):
    names = tuple(reversed(tiny.classes or ()))
    other = SecondNetwork(dataclasses.replace(tiny, classes=names), CPU)
    assert other.index(tiny, 0) == 9
    assert SecondNetwork(tiny, CPU).index(tiny, 2) == 2
    with pytest.raises(FvfastError, match="has no class 'crane': choose a second network"):  # two of that name
        other.index(tiny, 2)
    nameless = SecondNetwork(dataclasses.replace(tiny, classes=None), CPU)
    with pytest.raises(FvfastError, match="has no class 'ant'"):
        nameless.index(tiny, 0)


def test_seeds_of_renders_end_where_the_held_out_seed_is():
    assert judging.HELD_OUT_SEED == 2**63
    torch.Generator().manual_seed(judging.HELD_OUT_SEED)  # a seed that generators take
