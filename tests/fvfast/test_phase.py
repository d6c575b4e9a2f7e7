import dataclasses
import math

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

import fvfast
from fvfast import magnitudes
from fvfast.errors import FvfastError
from fvfast.images import COLOUR, Frame
from fvfast.objectives import channel
from fvfast.phase import Phase, column_weights, magnitude, standard_deviation
from fvfast.plans import shared_settings
from fvfast.recipes import RECIPES, Recipe, choose
from fvfast.views import identity

CPU = torch.device("cpu")


def phases(size=24, count=2, **changes):
    recipe = Recipe("phases", image="phase", **{"gain": 1.0, **changes})
    frame = Frame(size, size, torch.zeros(3), torch.ones(3), torch.float32, CPU)
    starts = torch.stack([Phase.noise(size, torch.Generator().manual_seed(seed)) for seed in range(count)])
    return Phase([recipe] * count, starts, frame)


def field(image):
    """What a canvas was before its sigmoid and colours, [B, 3, H, W]."""
    return torch.einsum("co,bohw->bchw", COLOUR.inverse(), image.canvas().detach().logit() / image.gain)


@pytest.mark.parametrize("size", [24, 25])
def test_parsevals_standard_deviation_is_the_images(size):
    planes = torch.randn(2, 3, 2, size, size // 2 + 1, generator=torch.Generator().manual_seed(0))
    planes[..., 0, 0] = 0
    canvas = torch.fft.irfft2(torch.complex(planes[:, :, 0], planes[:, :, 1]), s=(size, size), norm="ortho")
    expected = canvas.std((1, 2, 3), correction=0)
    assert torch.allclose(standard_deviation(planes, column_weights(size)), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [24, 25])
def test_the_image_has_the_fixed_magnitudes_and_unit_deviation(size):
    image = phases(size)
    canvas = field(image)
    assert torch.allclose(canvas.mean((1, 2, 3)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(canvas.std((1, 2, 3), correction=0), torch.ones(2), rtol=1e-3)
    spectrum = torch.fft.rfft2(canvas, norm="ortho")[..., 1 : (size + 1) // 2]  # but the columns that are real
    ratio = spectrum.abs() / magnitude(None, size)[..., 1 : (size + 1) // 2]
    assert torch.allclose(ratio, ratio.mean((1, 2, 3), keepdim=True).expand_as(ratio), rtol=1e-3)
    angle = torch.polar(torch.ones(1), image.parameter.detach()[..., 1 : (size + 1) // 2])
    assert torch.allclose(spectrum / spectrum.abs(), angle, atol=1e-3)


def test_the_default_magnitude_is_one_over_f():
    found = magnitude(None, 32)
    assert found.shape == (3, 32, 17)
    assert found[0, 0, 0] == 0
    assert found[1, 0, 4] == pytest.approx(32 / 4)
    assert found[2, 3, 4] == pytest.approx(32 / 5)
    assert magnitude(None, 32, 2.0)[0, 0, 4] == pytest.approx((32 / 4) ** 2)


def test_phases_have_a_gradient_that_changes_nothing_but_them():
    image = phases(count=1)
    canvas = image.canvas()
    (gradient,) = torch.autograd.grad(canvas[:, 0].square().sum(), image.parameter)
    step = 1e-3
    with torch.no_grad():
        direction = gradient / gradient.norm()
        before = float(image.canvas()[:, 0].square().sum())
        image.parameter += step * direction
        after = float(image.canvas()[:, 0].square().sum())
    assert (after - before) / step == pytest.approx(float(gradient.norm()), rel=0.05)


def test_opacity_gathers_the_canvass_gradients():
    size = 24
    image = phases(size, count=1)
    weight = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(5))
    canvas = image.canvas()
    torch.autograd.grad((canvas * weight).sum(), image.parameter)
    # The gradient of the field before gain and colours: through the sigmoid, then back through the colour matrix.
    through = weight * canvas.detach() * (1 - canvas.detach()) * image.gain
    expected = torch.einsum("oc,bohw->bchw", COLOUR, through)
    assert torch.allclose(image.pulled, expected.abs().sum(1), rtol=1e-3, atol=1e-4)


def test_opacity_is_where_the_objective_pulled():
    size = 48
    image = phases(size, count=1)
    mask = torch.zeros(size, size)
    mask[8:20, 28:40] = 1
    for _ in range(3):
        torch.autograd.grad((image.canvas() * mask).sum(), image.parameter)
    alpha = image.alpha()
    assert alpha.shape == (1, size, size)
    assert alpha.min() >= 0
    assert alpha.max() == 1
    assert alpha[0, 10:18, 30:38].min() > 0.9
    assert alpha[0, 30:, :20].max() < 0.1


def test_no_gradient_is_no_opacity_and_no_fault():
    assert not phases(count=1).alpha().any()


def test_every_view_has_noise_of_its_own_that_a_seed_repeats():
    views = torch.cat([identity(), identity()])
    views[1, :2] = torch.tensor([3.7, -2.2])
    clean, noisy, again = (phases(48, noise=sd).view(views).detach() for sd in (0.0, 0.05, 0.05))
    assert noisy.equal(again)
    noise = (noisy - clean) / 0.05
    # Normal plus uniform of width 1: variance 1 + 1/12.
    assert float(noise.var()) == pytest.approx(13 / 12, rel=0.05)
    assert abs(float(noise.mean())) < 0.03
    same = phases(48, noise=0.05, count=1)
    first, second = (same.view(v[None]).detach() for v in views)
    plain = phases(48, count=1)
    first, second = (n - plain.view(v[None]).detach() for n, v in zip((first, second), views, strict=True))
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.1


def test_phases_rise_and_carry_their_opacity(tiny, tmp_path):
    result = fvfast.render(tiny, ["deep:3", "deep:5"], image="phase", steps=40, size=32)
    assert (result.objective > result.objective_start + 0.01).all()
    assert [recipe.name for recipe in result.recipes] == ["maco", "maco"]
    assert all(alpha is not None and alpha.shape == (32, 32) for alpha in result.alphas)
    opaque = PIL.Image.open(result.save(tmp_path / "a")[0])
    clear = PIL.Image.open(result.save(tmp_path / "b", alpha=True)[0])
    assert (opaque.mode, clear.mode) == ("RGB", "RGBA")
    assert np.array_equal(np.array(opaque), np.array(clear)[..., :3])
    assert result.alphas[0] is not None
    assert np.array_equal(np.array(clear)[..., 3], (result.alphas[0] * 255).round().byte().numpy())


def test_phases_of_other_magnitudes_do_not_share_a_batch():
    steep = dataclasses.replace(RECIPES["maco"], steps=2, decay=2.0)
    flat = dataclasses.replace(steep, decay=0.5)
    assert shared_settings(steep) != shared_settings(flat)
    assert shared_settings(steep) == shared_settings(dataclasses.replace(steep, lr=0.3))


def test_a_fourier_image_has_no_opacity(tiny, tmp_path):
    result = fvfast.render(tiny, "deep:3", steps=2)
    assert result.alphas == [None]
    assert PIL.Image.open(result.save(tmp_path, alpha=True)[0]).mode == "RGB"


# Magnitudes of one's own pictures --------------------------------------------------------------------------


def grating(size, cycles, strength=0.2):
    """A grey picture [3, size, size] of so many waves from left to right."""
    x = torch.arange(size) / size
    return (0.5 + strength * torch.cos(2 * math.pi * cycles * x)).expand(3, size, size)


def test_a_gratings_magnitude_lies_at_its_frequency():
    found = magnitudes.magnitudes_of(grating(64, 9))
    assert found.shape == (3, 64, 33)
    luminance = found[0]
    row, column = divmod(int(luminance.argmax()), 33)
    assert (row, column) == (0, 9)
    # A Hann window spreads a wave over its neighbours, and over nothing else.
    far = luminance.clone()
    far[:, 7:12] = 0
    assert far.max() < 0.15 * luminance.max()  # what the inverse sigmoid adds, at thrice the frequency


def test_magnitudes_are_the_mean_of_a_folder(tmp_path):
    (tmp_path / "within").mkdir()
    pictures = [grating(64, 5), grating(64, 12)]
    for i, picture in enumerate(pictures):
        array = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        PIL.Image.fromarray(array).save(tmp_path / ("within" if i else ".") / f"{i}.png")
    (tmp_path / "broken.jpg").write_text("no picture")
    (tmp_path / "notes.txt").write_text("nothing")
    found, count = magnitudes.measure(tmp_path, 64)
    assert count == 2
    expected = torch.stack([magnitudes.magnitudes_of(picture) for picture in pictures]).mean(0)
    assert torch.allclose(found, expected.float(), atol=0.02 * float(expected.max()))


def test_magnitudes_survive_a_file(tmp_path):
    written = torch.rand(3, 16, 9, generator=torch.Generator().manual_seed(0))
    magnitudes.write(written, tmp_path / "m.safetensors")
    assert magnitudes.read(tmp_path / "m.safetensors").equal(written)
    assert magnitudes.at_size(written, 16)[:, 1:8, 1:8].allclose(written[:, 1:8, 1:8], atol=1e-5)


def test_magnitudes_mean_the_same_frequencies_at_another_size():
    small, large = magnitude(None, 64), magnitude(None, 128)
    # 1/f in cycles a picture: the same number of cycles has the same magnitude up to the canvas's own scale.
    found = magnitudes.at_size(small, 128)
    expected = large / 2
    near = (slice(None), slice(4, 28), slice(4, 28))
    assert torch.allclose(found[near], expected[near], rtol=0.02)
    beyond = (slice(None), slice(40, 60), slice(40, 60))  # more than the small one ever measured
    assert torch.allclose(found[beyond], expected[beyond], rtol=0.05)


def test_a_file_of_magnitudes_is_what_a_phase_renders_with(tiny, tmp_path):
    narrow = torch.zeros(3, 32, 17)
    narrow[:, 1:4, 1:4] = 1  # nothing but long waves
    magnitudes.write(narrow, tmp_path / "m.safetensors")
    result = fvfast.render(tiny, "deep:3", image="phase", steps=3, magnitude=tmp_path / "m.safetensors")
    values = torch.einsum("co,bohw->bchw", COLOUR.inverse(), result.images.clamp(1e-5, 1 - 1e-5).logit())
    energy = torch.fft.rfft2(values).abs().square()
    assert float(energy[..., 1:4, 1:4].sum() / energy.sum()) > 0.99
    assert result.specs[0]["recipe"]["magnitude"] == str(tmp_path / "m.safetensors")


def test_magnitudes_that_are_none_are_a_sentence(tiny, tmp_path):
    def refused(sentence, file):
        with pytest.raises(FvfastError, match=sentence):
            fvfast.render(tiny, "deep:3", image="phase", magnitude=file, steps=1)

    refused("`fvfast magnitude FOLDER` makes one", tmp_path / "none.safetensors")
    (tmp_path / "a.safetensors").write_text("nothing")
    refused("is not a readable safetensors file", tmp_path / "a.safetensors")
    save_file({"other": torch.zeros(3, 4, 3)}, tmp_path / "b.safetensors")
    refused("holds no magnitudes", tmp_path / "b.safetensors")
    save_file({"magnitude": torch.zeros(3, 4, 4)}, tmp_path / "c.safetensors")
    refused("holds no magnitudes", tmp_path / "c.safetensors")
    save_file({"magnitude": torch.full((3, 4, 3), math.nan)}, tmp_path / "d.safetensors")
    refused("negative, not numbers, or all 0", tmp_path / "d.safetensors")
    magnitudes.write(torch.ones(3, 4, 3), tmp_path / "e.safetensors")
    with pytest.raises(FvfastError, match="--magnitude needs --image phase"):
        fvfast.render(tiny, "deep:3", magnitude=tmp_path / "e.safetensors", steps=1)
    with pytest.raises(FvfastError, match="no folder"):
        magnitudes.measure(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FvfastError, match=r"no picture in .* could be read"):
        magnitudes.measure(tmp_path / "empty")


def test_the_default_recipe_for_phases_is_macos():
    assert choose("default", channel("a", 1), image="phase") == RECIPES["maco"]
    assert choose("default", channel("a", 1), image="phase", steps=7).steps == 7
    with pytest.raises(FvfastError, match="the recipe lucent is made for another image than phase"):
        choose("lucent", channel("a", 1), image="phase")


@pytest.mark.parametrize("width", [6, 7])
def test_column_weights_count_the_whole_spectrum(width):
    assert column_weights(width).sum() == width
