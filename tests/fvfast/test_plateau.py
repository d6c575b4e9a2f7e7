"""When an image is finished, step by step; snapshots, frames and films."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import fvfast
from fvfast.errors import FvfastError
from fvfast.film import FRAMES, grid
from fvfast.plateau import reached
from fvfast.recipes import DEFAULT
from fvfast.views import Views


def first_flat(history, patience, tolerance):
    """The first step after which the last window rose by less than a part of the whole rise; None if there is none."""
    for count in range(3 * patience, len(history) + 1):
        last, before = history[count - patience : count], history[count - 2 * patience : count - patience]
        recent, earlier, first = (sum(part) / patience for part in (last, before, history[:patience]))
        if recent - earlier < tolerance * abs(recent - first) or recent == earlier == first:
            return count
    return None


@pytest.mark.parametrize("patience", [2, 5])
@pytest.mark.parametrize("shape", ["saturating", "rising", "falling", "flat", "noisy"])
def test_the_plateau_is_where_the_formula_says(shape, patience):
    steps = torch.arange(60, dtype=torch.float64)
    noise = torch.randn(60, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    history = {
        "saturating": 1 - torch.exp(-steps / 6),
        "rising": steps,
        "falling": -steps,
        "flat": torch.ones(60, dtype=torch.float64),
        "noisy": 5 * (1 - torch.exp(-steps / 10)) + 0.3 * noise,
    }[shape]
    expected = first_flat(history.tolist(), patience, 0.02)
    padded = torch.full((60, 1), float("nan"), dtype=torch.float64)
    found = None
    for count in range(1, 61):
        padded[count - 1] = history[count - 1]
        if reached(padded, torch.tensor([count]), patience, 0.02)[0]:
            found = count
            break
    assert found == expected
    assert (found is None) == (shape == "rising")


QUICK = replace(DEFAULT, steps=80, lr=0.1, views=Views())


class Full(torch.nn.Module):
    """`fast` saturates within a few steps, `slow` never."""

    def __init__(self):
        super().__init__()
        self.fast, self.slow = torch.nn.Identity(), torch.nn.Identity()

    def forward(self, x):
        level = x.mean((1, 2, 3), keepdim=True).expand(len(x), 2, 1, 1)
        return self.slow(self.fast(torch.tanh(40 * level)) * 0 + level)


def test_a_render_stops_at_the_exact_step_alone_and_in_batches():
    model = fvfast.Model("full", "none", Full(), size=16)
    whole = fvfast.render(model, ["fast:0", "slow:1"], recipe=QUICK, size=16)
    expected = [first_flat(row, 4, 0.02) or 80 for row in whole.history.tolist()]
    assert expected[0] < 60
    for batch in (1, 2):
        result = fvfast.render(model, ["fast:0", "slow:1"], recipe=QUICK, size=16, patience=4, batch=batch)
        assert [spec["steps"] for spec in result.specs] == expected
        assert [int(row.isfinite().sum()) for row in result.history] == expected
        assert result.steps == sum(expected)
        # The image is the one of that step, however long its company went on
        short = fvfast.render(model, "fast:0", recipe=QUICK, size=16, steps=expected[0])
        torch.testing.assert_close(result.images[0], short.images[0], rtol=0, atol=1e-6)


def test_what_stopped_early_is_rendered_again_from_its_file(cli):
    arguments = ("sketch_nets:tiny", "deep:3", "--size", 32, "--steps", 60, "--patience", 3, "--lr", 1.0)
    code, out, _ = cli("render", *arguments, "--json")
    (made,) = json.loads(out)["renders"]
    assert code == 0
    assert made["steps"] < 60
    assert cli("render", "--from", made["file"], "--out", "again")[0] == 0
    assert Path("again", Path(made["file"]).name).read_bytes() == Path(made["file"]).read_bytes()


# Snapshots and films ---------------------------------------------------------------------------------------


def test_snapshots_at_given_steps_are_the_images_of_those_steps(tiny):
    result = fvfast.render(tiny, "deep:3", size=32, steps=9, snapshots=[0, 1, 5, 9, 70], every=4)
    assert [step for step, _ in result.snapshots[0]] == [0, 1, 4, 5, 8, 9]
    for step, image in result.snapshots[0][1:]:
        assert image.equal(fvfast.render(tiny, "deep:3", size=32, steps=step).images[0])
    assert result.snapshots[0][0][1].std() < result.snapshots[0][-1][1].std()


def test_a_films_frames_go_from_the_start_to_the_image(tiny):
    result = fvfast.render(tiny, ["deep:3", "logits:2"], size=32, steps=20, frames=11)
    steps = [step for step, _ in result.frames[0]]
    assert steps == list(range(0, 21, 2))
    for frames, image in zip(result.frames, result.images, strict=True):
        assert frames[-1][1].equal((image * 255).round().byte())
        assert not frames[0][1].equal(frames[-1][1])


def test_a_grid_of_frames():
    def flat(value):
        return torch.full((3, 8, 8), value, dtype=torch.uint8)

    one, other = [(0, flat(0)), (1, flat(51)), (4, flat(102))], [(0, flat(255)), (2, flat(204))]
    pages = list(grid([one, other]))
    assert [tuple(page.shape) for page in pages] == [(3, 8, 20)] * 4
    assert [round(float(page[0, 0, 0]) * 255) for page in pages] == [0, 51, 51, 102]
    assert [round(float(page[0, 0, -1]) * 255) for page in pages] == [255, 255, 204, 204]
    clear = torch.cat([flat(255), torch.zeros(1, 8, 8, dtype=torch.uint8)])
    (page,) = grid([[(0, clear)]])
    assert [round(v * 255) for v in page[:, 3, 3].tolist()] == [250, 250, 248]


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_film_of_an_optimisation(cli, suffix):
    arguments = ("sketch_nets:tiny", "deep:3", "--size", 32, "--steps", 6, "--video", f"film.{suffix}", "--json")
    code, out, err = cli("render", *arguments)
    assert (code, err) == (0, "")
    assert json.loads(out)["video"] == {"file": f"film.{suffix}", "frames": 7}
    final = np.array(PIL.Image.open(json.loads(out)["renders"][0]["file"])).astype(int)
    with PIL.Image.open(f"film.{suffix}") as film:
        assert getattr(film, "n_frames", 1) == 7
        film.seek(6)
        last = np.array(film.convert("RGB")).astype(int)
    # A palette of 256 colours, or a lossy WebP: near, not equal
    assert np.abs(last - final).mean() < 12
    assert FRAMES > 6


def test_an_mp4_has_as_many_frames(tiny, tmp_path):
    av = pytest.importorskip("av")
    result = fvfast.render(tiny, "deep:3", size=32, steps=5, frames=6)
    assert result.film(tmp_path / "film.mp4") == 6
    with av.open(str(tmp_path / "film.mp4")) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(pictures) == 6
    final = (result.images[0] * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(pictures[-1].astype(int) - final).mean() < 12


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--snapshots", "1,x"], "--snapshots takes steps such as 1,8,64, not '1,x'"),
        (["--snapshots", "-1"], "--snapshots takes steps such as 1,8,64, not '-1'"),
        (["--patience", "1"], "patience must be 2 or more, not 1"),
        (["--video", "film.avi"], "end it in .mp4, .gif or .webp"),
        (["--video", "nowhere/film.gif"], "no folder nowhere to write film.gif in"),
        (["--start", "gone.jpg"], "no file gone.jpg"),
        (["--start", "text.jpg"], "text.jpg is not a picture that can be read"),
    ],
)
def test_bad_options_are_one_sentence(cli, arguments, sentence):
    Path("text.jpg").write_text("none")
    code, out, err = cli("render", "sketch_nets:tiny", "deep:1", "--size", 32, "--steps", 2, *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not Path("renders").exists()


def test_a_render_without_frames_has_no_film(tiny):
    with pytest.raises(FvfastError, match="this render kept no frames: ask for them with frames="):
        fvfast.render(tiny, "deep:3", size=32, steps=1).film("film.gif")
