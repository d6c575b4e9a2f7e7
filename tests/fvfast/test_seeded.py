"""Caricature, inversion and accentuation: their formulas, the pictures they compare with, and how they are written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import fvfast
from fvfast import files
from fvfast import objectives as o
from fvfast.errors import FvfastError
from fvfast.expressions import Context
from fvfast.photographs import square
from fvfast.recipes import DEFAULT
from fvfast.views import Views

GENERATOR = torch.Generator().manual_seed(0)
MAPS, WANTED = torch.randn(2, 5, 3, 3, generator=GENERATOR), torch.randn(2, 5, 3, 3, generator=GENERATOR)
SEEN = Context({"a": MAPS}, reference=lambda picture, layer, start, stop: WANTED[start:stop])


def photograph(size=32, seed=0):
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return 0.1 + 0.8 * F.interpolate(coarse, (size, size), mode="bilinear", align_corners=True)[0]


@pytest.fixture
def photo():
    """A picture in the current folder, and what its pixels are as they are read."""
    files.to_pil(photograph()).save("photo.png")
    return (photograph() * 255).round() / 255


# Formulas --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_a_caricature_is_dot_times_cosine_at_every_position(power):
    expected = []
    for image, wanted in zip(MAPS.double(), WANTED.double(), strict=True):
        terms = []
        for y in range(3):
            for x in range(3):
                a, b = image[:, y, x], wanted[:, y, x]
                cosine = max(0.1, float(a @ b / (a.norm() * b.norm())))
                terms.append(float(a @ b) * cosine**power)
        size = float(wanted.square().sum()) / 9
        expected.append(sum(terms) / 9 / size)
    value = o.caricature("a", photograph(), power).value(SEEN)
    assert value.tolist() == pytest.approx(expected, rel=1e-5)


def test_an_inversion_is_the_relative_squared_distance():
    expected = [-float((m - w).square().sum() / w.square().sum()) for m, w in zip(MAPS, WANTED, strict=True)]
    assert o.inversion("a", photograph()).value(SEEN).tolist() == pytest.approx(expected, rel=1e-5)


def test_an_accentuation_pays_for_the_way_it_went():
    channel = o.channel("a", 2)
    away = [float((m - w).norm() / w.norm()) for m, w in zip(MAPS, WANTED, strict=True)]
    plain = channel.value(SEEN).tolist()
    expected = [v - 0.5 * abs(v) * d for v, d in zip(plain, away, strict=True)]
    assert o.accentuation(channel, "a", photograph(), 0.5).value(SEEN).tolist() == pytest.approx(expected, rel=1e-4)


def test_rows_of_a_batch_compare_with_what_was_seen_in_their_place():
    whole = o.inversion("a", photograph()).value(SEEN)
    assert o.inversion("a", photograph()).value(SEEN.rows(1, 2)).tolist() == whole[1:].tolist()


def test_the_middle_square_of_a_picture():
    wide = torch.arange(60.0).view(1, 4, 15).expand(3, 4, 15) / 60
    assert square(wide, 4).equal(wide[:, :, 5:9])
    halved = square(photograph(64), 32)
    assert halved.shape == (3, 32, 32)
    # A smooth picture keeps its values at the middles of its pixels' squares
    assert (halved - photograph(64).view(3, 32, 2, 32, 2).mean((2, 4))).abs().max() < 0.02


# Renders ---------------------------------------------------------------------------------------------------

STILL = replace(DEFAULT, steps=40, lr=0.1, views=Views())


def test_of_the_picture_itself_a_caricature_is_1_and_an_inversion_0(tiny, photo):
    tiny_step = replace(STILL, steps=1, lr=1e-9)
    targets = [o.caricature("deep", "photo.png"), o.inversion("deep", "photo.png")]
    result = fvfast.render(tiny, targets, recipe=tiny_step, start="photo.png", size=32)
    assert result.objective.tolist() == pytest.approx([1, 0], abs=1e-3)
    assert result.history[:, 0].tolist() == pytest.approx([1, 0], abs=1e-3)


def test_an_inversion_comes_near_to_the_picture_and_a_caricature_goes_beyond(tiny, photo):
    result = fvfast.render(tiny, ["inversion(deep, photo.png)", "caricature(deep, photo.png)"], recipe=STILL, size=32)
    assert result.objective_start[0] < -0.05
    assert result.objective[0] > 0.2 * result.objective_start[0]
    assert result.objective[1] > 1.2
    # Of the inversion the pixels too have come nearer to the picture
    before = (0.5 - photo).square().mean()
    assert (result.images[0] - photo).square().mean() < 0.5 * before


def test_the_picture_moves_with_the_view(tiny, photo):
    jittered = replace(STILL, steps=1, lr=1e-9, views=Views(jitter=8))
    result = fvfast.render(tiny, o.inversion("deep", photo), recipe=jittered, start=photo, size=32)
    # Seen by one and the same random view the two differ by how each is interpolated, not by eight pixels
    assert result.history[0, 0] > -0.02


def test_accentuation_starts_from_the_picture_and_stays_nearer_to_it_the_more_it_weighs(tiny, photo):
    def moved(weight):
        target = o.accentuation(o.channel("deep", 3), "stem", "photo.png", weight)
        result = fvfast.render(tiny, target, recipe=STILL, size=32)
        assert result.recipes[0].start == "photo.png"
        assert weight or result.objective > result.objective_start
        return float((result.images[0] - photo).square().mean())

    assert moved(3.0) < moved(0.3) < moved(0.0)


def test_several_pictures_and_plain_targets_share_a_batch(tiny, photo):
    other = photograph(seed=5)
    targets = [o.inversion("deep", photo), o.channel("deep", 1), o.inversion("deep", other)]
    apart = fvfast.render(tiny, targets, recipe=replace(STILL, steps=5), size=32)
    together = fvfast.render(tiny, targets, recipe=replace(STILL, steps=5), size=32, batch=3)
    torch.testing.assert_close(together.images, apart.images, rtol=0, atol=2e-3)
    torch.testing.assert_close(together.objective, apart.objective, rtol=1e-3, atol=1e-3)


# Written ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "caricature(deep, photo.png)",
        "caricature(deep, 2, photo.png)",
        "inversion(deep, photo.png)",
        "accentuation(deep:3, stem, photo.png)",
        "accentuation(logits:1, stem, 0.25, photo.png)",
    ],
)
def test_a_written_target_is_rendered_again_from_its_file(cli, photo, target):
    code, out, err = cli("render", "sketch_nets:tiny", target, "--size", 32, "--steps", 3, "--json")
    assert (code, err) == (0, "")
    (made,) = json.loads(out)["renders"]
    assert made["target"] == target
    code, _, err = cli("render", "--from", made["file"], "--out", "again")
    assert (code, err) == (0, "")
    assert Path("again", Path(made["file"]).name).read_bytes() == Path(made["file"]).read_bytes()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("caricature(deep)", "caricature(deep) is no target; write caricature(LAYER, FILE)"),
        ("inversion(deep, gone.png)", "no file gone.png"),
        ("inversion(deap, photo.png)", "has no layer 'deap' with a tensor output (did you mean deep"),
        ("accentuation(deep:1, photo.png)", "write accentuation(TARGET, LAYER, FILE)"),
        ("accentuation(deep:1-3, stem, photo.png)", "'deep:1-3' means 3 images where one is needed"),
        ("inversion(deep, given)", "the picture of inversion(deep, given) was given in Python"),
    ],
)
def test_a_target_that_cannot_be_read(cli, photo, target, sentence):
    code, out, err = cli("render", "sketch_nets:tiny", target, "--size", 32, "--steps", 2)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not Path("renders").exists()


def test_what_was_given_in_python_cannot_be_rendered_from_its_file(tiny, photo, tmp_path, cli):
    result = fvfast.render(tiny, "deep:1", start=photo, size=32, steps=1)
    result.specs[0]["model"] = "sketch_nets:tiny"
    (path,) = result.save(tmp_path / "r")
    code, _, err = cli("render", "--from", path)
    assert code == 2
    assert "this image started from one that was given in Python: pass it again as start=..." in err


def test_an_aligned_image_cannot_be_rendered_without_the_others(cli):
    arguments = ("sketch_nets:tiny", "deep:1", "--size", 32, "--steps", 1, "--copies", 2, "--align")
    assert cli("render", *arguments)[0] == 0
    code, _, err = cli("render", "--from", "renders/sketch_nets-tiny-deep-1.png")
    assert code == 2
    assert "has a component in common with the others of its call: render them all again" in err


@pytest.mark.parametrize(
    "picture", [torch.zeros(1, 3, 8, 8), torch.zeros(3, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)]
)
def test_a_picture_has_channels_of_numbers_in_0_to_1(picture):
    with pytest.raises(FvfastError, match=r"a picture must be \[C, H, W\] in 0\.\.1"):
        o.inversion("a", picture)
