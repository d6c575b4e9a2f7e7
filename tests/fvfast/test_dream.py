import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fvfast
from fvfast import dreaming, tiles
from fvfast.dreamsteps import LARGEST_DETAIL, FourierStep, PixelStep
from fvfast.errors import FvfastError
from fvfast.expressions import Context
from fvfast.guide import Guided
from fvfast.images import COLOUR
from fvfast.models import Model
from fvfast.objectives import channel, layer
from fvfast.prepare import prepare
from fvfast.tracing import trace

QUICK: dict[str, Any] = {"octaves": 2, "steps": 3, "tile": 128}


class Wide(nn.Module):
    """One layer of many channels: `a` sees single pixels, or `kernel` of them."""

    def __init__(self, kernel: int = 1, channels: int = 16) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, channels, kernel, padding=kernel // 2), nn.Tanh())

    def forward(self, image):
        return self.a(image).mean((2, 3))


def tiled(module, objectives, tile, size=64):
    """`module` in tiles, unnormalised."""
    module = module.eval()
    found = trace(module, size)
    tap = prepare(module, found, sorted({name for o in objectives for name in o.layers}), size, torch.float32)
    return tiles.Tiled(tap, objectives, torch.zeros(3), torch.ones(3), torch.float32, tile)


@pytest.fixture
def photo():
    """A smooth picture of 150 x 200 px with something in it."""
    y, x = torch.linspace(0, 1, 150)[:, None], torch.linspace(0, 1, 200)[None]
    noise = torch.rand(3, 150, 200, generator=torch.Generator().manual_seed(3))
    return (0.3 + 0.2 * torch.stack([y + 0 * x, x + 0 * y, torch.sin(9 * x * y)]) + 0.2 * noise).clamp(0, 1)


# Tiles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "tile"), [(5, 512), (512, 512), (513, 512), (1000, 300), (4000, 512)])
def test_spans_cover_a_length_in_as_few_even_parts_as_fit(length, tile):
    spans = tiles.spans(length, tile)
    lengths = [stop - start for start, stop in spans]
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert [start for start, _ in spans[1:]] == [stop for _, stop in spans[:-1]]
    assert len(spans) == math.ceil(length / tile)
    assert max(lengths) <= tile
    assert max(lengths) - min(lengths) <= 1


def test_a_picture_within_one_tile_has_the_gradient_of_the_whole(photo):
    network = Wide(kernel=5)
    seams = tiled(network, [layer("a")], 512)
    gradient, value = seams.gradient(photo, (13, -21))
    moved = photo.roll((-13, 21), (1, 2))[None].requires_grad_()
    whole = network.a(moved).square().mean()
    whole.backward()
    expected = moved.grad[0].roll((13, -21), (1, 2))
    assert value == pytest.approx(whole.item(), rel=1e-5)
    assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))  # convolutions differ


def test_tiles_add_up_where_nothing_crosses_a_seam(photo):
    network = Wide(kernel=1)
    whole, value = tiled(network, [layer("a"), channel("a", 3)], 512).gradient(photo, (7, 9))
    parts, value_in_parts = tiled(network, [layer("a"), channel("a", 3)], 64).gradient(photo, (7, 9))
    assert torch.allclose(parts, whole, rtol=1e-4, atol=1e-4 * float(whole.abs().max()))
    assert value_in_parts == pytest.approx(value, rel=1e-4)


def test_seams_lie_where_the_shift_puts_them(photo):
    network = Wide(kernel=5)
    whole, _ = tiled(network, [layer("a")], 512).gradient(photo)
    parts, _ = tiled(network, [layer("a")], 100).gradient(photo, (30, 40))
    # 150 rows in two tiles of 75 and 200 columns in two of 100, from (30, 40): seams at rows 30, 105; columns 40, 140.
    wrong = (parts - whole).abs().amax(0) > 1e-3 * whole.abs().max()
    rows = torch.arange(150)[:, None]
    columns = torch.arange(200)[None]
    near = ((rows - 30).abs() <= 5) | ((rows - 105).abs() <= 5) | ((columns - 40).abs() <= 5)
    near = near | ((columns - 140).abs() <= 5)
    edge = (rows < 5) | (rows >= 145) | (columns < 5) | (columns >= 195)  # there the wrapped picture meets itself
    assert wrong.any()
    assert not (wrong & ~near & ~edge).any()


class Largest(TorchDispatchMode):
    """The number of elements in the largest tensor that any operation puts out."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.count = max(self.count, tensor.numel())
        return output


@pytest.mark.parametrize("basis", ["pixel", "fourier"])
def test_memory_is_bounded_by_the_photograph_not_by_its_activations(basis):
    photo = torch.rand(3, 400, 600, generator=torch.Generator().manual_seed(0))
    model = Model("wide", "none", Wide(kernel=3, channels=48), size=64)
    with Largest() as largest:
        fvfast.dream(photo, model, "a", octaves=1, steps=1, tile=128, basis=basis)
    # Untiled, the 48 channels would be 16 times the photograph; in tiles they are 48 x 100 x 120 numbers.
    assert largest.count <= 1.3 * photo.numel()


def test_several_objectives_pull_equally_hard(photo):
    network = Wide()
    both = tiled(network, [layer("a"), 100 * channel("a", 2)], 512)
    both.balance(photo)
    pulls = []
    for kept in range(2):
        one = tiled(network, both.objectives, 512)
        one.weights = [weight * (i == kept) for i, weight in enumerate(both.weights)]
        pulls.append(float(one.gradient(photo)[0].abs().mean()))
    assert pulls[0] == pytest.approx(pulls[1], rel=1e-3)
    assert sum(both.weights) == pytest.approx(1)


# Steps -----------------------------------------------------------------------------------------------------


def band_strengths(step):
    """Mean amplitude of a step [3, H, W] in three bands of wavelengths: 2-4, 4-8 and 8-32 pixels."""
    spectrum = torch.fft.fft2(step).abs().mean(0)
    fy, fx = torch.fft.fftfreq(step.shape[1])[:, None], torch.fft.fftfreq(step.shape[2])[None]
    f = (fy.square() + fx.square()).sqrt()
    edges = (0.5, 0.25, 0.125, 1 / 32)
    return [float(spectrum[(f > low) & (f <= high)].mean()) for high, low in itertools.pairwise(edges)]


@pytest.mark.parametrize("make", [PixelStep, lambda: FourierStep(96, 130, torch.device("cpu"))])
def test_steps_hold_high_frequencies_back_whatever_the_gradients_scale(make):
    gradient = torch.randn(3, 96, 130, generator=torch.Generator().manual_seed(1))
    step = make()(gradient.clone())
    assert step.shape == gradient.shape
    assert float(step.abs().mean()) == pytest.approx(1, rel=1e-4)
    fine, middle, coarse = band_strengths(step)
    assert fine < 0.6 * middle < 0.6 * coarse
    assert torch.allclose(make()(gradient * 1e-6), step, rtol=1e-3, atol=1e-3)
    assert float((step * gradient).sum()) > 0  # uphill


def test_a_pyramid_evens_out_bands_of_unequal_strength():
    generator = torch.Generator().manual_seed(2)
    coarse = F.interpolate(torch.randn(1, 3, 16, 16, generator=generator), size=(128, 128), mode="bicubic")[0]
    fine = torch.randn(3, 128, 128, generator=generator)
    weak = band_strengths(PixelStep()(0.001 * coarse + fine))
    strong = band_strengths(PixelStep()(1000 * coarse + fine))
    raw_weak, raw_strong = band_strengths(0.001 * coarse + fine), band_strengths(1000 * coarse + fine)
    assert raw_strong[2] / raw_strong[0] > 30 * raw_weak[2] / raw_weak[0]
    assert strong[2] / strong[0] < 8 * weak[2] / weak[0]


def test_no_gradient_is_no_step():
    assert not PixelStep()(torch.zeros(3, 40, 50)).any()
    assert not FourierStep(40, 50, torch.device("cpu"))(torch.zeros(3, 40, 50)).any()


def test_adams_first_step_moves_every_frequency_by_its_envelope():
    height, width = 60, 80
    gradient = torch.randn(3, height, width, generator=torch.Generator().manual_seed(4))
    step = FourierStep(height, width, torch.device("cpu"))(gradient)
    field = torch.einsum("co,ohw->chw", COLOUR.inverse(), step)
    spectrum = torch.fft.rfft2(field, norm="ortho")[:, 1:29, 1:39]  # away from columns that stand for themselves
    fy = torch.fft.fftfreq(height)[1:29, None]
    fx = torch.fft.rfftfreq(width)[None, 1:39]
    scale = 1 / (fy.square() + fx.square()).sqrt().clamp(min=1 / LARGEST_DETAIL)
    # Adam's first step is the gradient's sign, in the real and in the imaginary plane alike.
    for plane in (spectrum.real, spectrum.imag):
        ratio = plane.abs() / scale
        assert torch.allclose(ratio, ratio.median().expand_as(ratio), rtol=2e-2)


# Dreams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("basis", ["pixel", "fourier"])
def test_a_dream_raises_its_objective_and_keeps_the_size(photo, tiny, basis):
    result = fvfast.dream(photo, tiny, "deep", basis=basis, strength=0.03, **QUICK)
    assert result.image.shape == photo.shape
    assert result.image.min() >= 0
    assert result.image.max() <= 1
    assert result.objective > 1.1 * result.objective_start
    assert result.steps == 6
    assert result.sizes == [(107, 143), (150, 200)]
    change = (result.image - photo).abs().mean()
    assert 0.01 < change < 6 * 0.03


def test_a_dream_is_a_function_of_its_seed(photo, tiny):
    first, again, other = (fvfast.dream(photo, tiny, "deep", seed=seed, **QUICK).image for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)


def test_a_tile_larger_than_the_photograph_changes_nothing(photo, tiny):
    first, second = (fvfast.dream(photo, tiny, "deep", octaves=1, steps=2, tile=tile).image for tile in (256, 4096))
    assert first.equal(second)


def test_what_is_there_is_kept_when_stopped(photo, tiny):
    seen = []

    def stop():
        return len(seen) == 4

    result = fvfast.dream(photo, tiny, "deep", octaves=3, steps=3, tile=128, progress=seen.append, stop=stop)
    assert result.interrupted
    assert result.steps == 4
    assert len(result.sizes) == 2
    assert result.image.shape == photo.shape
    assert (result.image - photo).abs().mean() > 0.005
    assert [p.octave for p in seen] == [1, 1, 1, 2]
    assert seen[-1].pixels_total == 3 * sum(h * w for h, w in ((77, 102), (107, 143), (150, 200)))


def test_stopped_before_the_first_step_it_is_the_photograph(photo, tiny):
    result = fvfast.dream(photo, tiny, "deep", stop=lambda: True, **QUICK)
    assert result.interrupted
    assert result.steps == 0
    assert result.image.equal(photo)


def test_octaves_go_down_to_the_coarsest():
    settings = dreaming.Preset((), coarsest=180, scale=1.4)
    sizes = dreaming.octave_sizes(683, 1024, settings)
    assert sizes[-1] == (683, 1024)
    assert len(sizes) == 5
    assert sizes[0] == (round(683 / 1.4**4), round(1024 / 1.4**4))
    assert dreaming.octave_sizes(100, 90, settings) == [(100, 90)]
    many = dreaming.octave_sizes(100, 90, dreaming.preset_with(settings, octaves=9))
    assert min(many[0]) >= dreaming.SMALLEST


def test_a_guide_is_matched_position_by_position():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 3, 4, generator=generator)
    guide = torch.randn(7, 5, generator=generator)
    value = Guided("a", guide).value(Context({"a": maps}))
    expected = [
        sum(max(float(guide[n] @ maps[b, :, y, x]) for n in range(7)) for y in range(3) for x in range(4)) / 12
        for b in range(2)
    ]
    assert value.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_guide_takes_the_dream_elsewhere(photo, tiny):
    guides = (torch.zeros(3, 40, 40), torch.ones(3, 40, 40))
    dark, bright = (fvfast.dream(photo, tiny, "deep", guide=guide, **QUICK) for guide in guides)
    assert dark.objective > dark.objective_start
    assert not dark.image.equal(bright.image)
    assert dark.targets == ["deep, guided"]
    with pytest.raises(FvfastError, match="a guide needs whole layers as targets"):
        fvfast.dream(photo, tiny, "deep:1", guide=guides[0], **QUICK)


def test_a_zoom_begins_with_the_dream_and_goes_closer(photo, tiny):
    settings = dreaming.preset_with("creatures", strength=1e-6)
    with dreaming.Dreamer(tiny, "deep", settings) as dreamer:
        frames = list(dreamer.zoom(photo, 3, rate=1.1))
    assert len(frames) == 3
    assert frames[0].equal(photo)
    # With next to no strength a frame is the middle of the one before.
    middle = F.interpolate(photo[None, :, 7:143, 9:191], size=(150, 200), mode="bicubic")[0]
    coarse = F.avg_pool2d(torch.stack([frames[1], middle]), 10)
    assert torch.allclose(coarse[0], coarse[1], atol=0.03)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"preset": "creature"}, r"unknown preset 'creature' \(did you mean creatures"),
        ({"basis": "wavelet"}, "unknown basis 'wavelet'; there are pixel, fourier"),
        ({"octaves": 0}, "octaves must be 1 or more, not 0"),
        ({"steps": 0}, "steps must be 1 or more, not 0"),
        ({"jitter": -1}, "jitter must be 0 or more, not -1"),
        ({"scale": 1.0}, "scale must be above 1"),
        ({"strength": 0.0}, "strength must be above 0 and at most 1"),
        ({"strength": math.nan}, "strength must be above 0 and at most 1"),
        ({"tile": 3}, "tile must be 128 px or more, not 3"),
        ({"target": "nowhere"}, "tiny has no layer 'nowhere'"),
    ],
)
def test_bad_settings_are_a_sentence(photo, tiny, changes, sentence):
    with pytest.raises(FvfastError, match=sentence):
        fvfast.dream(photo, tiny, **{"target": "deep", **changes})


@pytest.mark.parametrize("shape", [(5, 40, 40), (40,), (2, 3, 40, 40), (3, 31, 400)])
def test_a_picture_that_is_none_is_refused(tiny, shape):
    with pytest.raises(FvfastError, match=r"a picture must be|are 2 pictures where one is needed"):
        fvfast.dream(torch.zeros(shape), tiny, "b")


def test_an_objective_that_is_no_number_is_a_sentence(photo):
    network = Wide()
    nn.init.constant_(network.get_parameter("a.0.weight"), math.nan)
    with pytest.raises(FvfastError, match="the objective became nan"):
        fvfast.dream(photo, Model("wide", "none", network, size=64), "a", **QUICK)
