"""Pictures of several frames: kept with their times, dreamt over frame by frame, and never cut to the first."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import fvfast
from fvfast import animations, examples, magnitudes, photographs
from fvfast import objectives as o
from fvfast.errors import FvfastError
from fvfast.screen import Screen

MODEL = "sketch_nets:tiny"
QUICK = ("--octaves", 1, "--steps", 1, "--tile", 128)
IN_PYTHON: dict[str, Any] = {"octaves": 1, "steps": 2, "tile": 128}
MS = [80, 130, 40]
ANIMATED = ["a.gif", "a.webp", "a.png"]


def frames(alpha=False):
    """Three pictures of 48 x 40 px in few colours, each shifted further; transparent within a square of their own."""
    blocks = np.random.default_rng(0).integers(0, 6, (5, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1) * 51
    made = [PIL.Image.fromarray(np.roll(blocks, 8 * k, 1)) for k in range(3)]
    for k, picture in enumerate(made if alpha else []):
        mask = PIL.Image.new("L", picture.size, 255)
        mask.paste(0, (8 * k, 8, 8 * k + 10, 20))
        picture.putalpha(mask)
    return made


def saved(name, pictures=None, **options):
    """The pictures as frames of a file; without a loss, and shown thrice unless it is said otherwise."""
    first, *more = pictures or frames()
    kind = Path(name).suffix
    if kind != ".tif":
        options = {"duration": MS, "loop": 2 if kind == ".gif" else 3, **options}
    if kind == ".webp":
        options["lossless"] = True
    first.save(name, save_all=True, append_images=more, **options)
    return name


def shown(name):
    """What a file shows, by Pillow alone: ([N, H, W, 4] in 8 bits, durations, loop)."""
    with PIL.Image.open(name) as file:
        pixels, times = [], []
        for index in range(getattr(file, "n_frames", 1)):
            file.seek(index)
            file.load()
            times.append(file.info.get("duration"))
            pixels.append(np.array(file.convert("RGBA")))
        return np.stack(pixels), times, file.info.get("loop")


# Files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("source", ANIMATED)
@pytest.mark.parametrize("target", ["b.gif", "b.webp", "b.png"])
def test_frames_times_and_repetitions_go_from_format_to_format(source, target, alpha):
    disposal = {"disposal": 2} if alpha and source == "a.gif" else {}
    animation = animations.find(saved(source, frames(alpha), **disposal))
    assert animation is not None
    read = list(animation.frames())
    assert [frame.duration for frame in read] == MS
    assert animation.plays == 3
    pictures = [photographs.to_pil(frame.photograph) for frame in read]
    assert [picture.mode for picture in pictures] == ["RGBA" if alpha else "RGB"] * 3
    animations.write(pictures, MS, read[0].photograph, animation.plays, Path(target))
    pixels, times, loop = shown(target)
    assert times == MS
    assert loop == (2 if target == "b.gif" else 3)
    expected = np.stack([np.array(picture.convert("RGBA")) for picture in frames(alpha)])
    assert np.array_equal(pixels[..., 3], expected[..., 3])
    seen = expected[..., 3] > 0
    off = np.abs(pixels[seen].astype(int) - expected[seen])
    assert off.mean() < (10 if target == "b.webp" else 1e-9)  # which alone is written with a loss


@pytest.mark.parametrize(
    ("name", "loop", "plays"),
    [("a.gif", None, 1), ("a.gif", 0, 0), ("a.gif", 1, 2), ("a.webp", 0, 0), ("a.webp", 1, 1), ("a.png", 1, 1)],
)
def test_a_gif_counts_repetitions_and_the_others_how_often_they_are_shown(name, loop, plays):
    first, *more = frames()
    first.save(name, save_all=True, append_images=more, **({} if loop is None else {"loop": loop}))
    animation = animations.find(name)
    assert animation is not None
    assert animation.plays == plays
    for target in ("b.gif", "b.webp", "b.png"):
        animations.write(frames(), MS, animation.first(), plays, Path(target))
        again = animations.find(target)
        assert again is not None
        assert again.plays == plays


def test_a_gifs_centiseconds_add_up():
    animations.write(frames(), [33, 33, 34], photographs.take(frames()[0]), 0, Path("b.gif"))
    assert shown("b.gif")[1] == [30, 40, 30]


def test_what_holds_one_picture_more_than_it_shows_is_no_animation():
    first, second, third = frames()
    first.save("camera.jpg", "MPO", save_all=True, append_images=[second])
    first.save("still.gif")
    saved("front.png", [first, second], default_image=True, duration=[80])
    for name in ("camera.jpg", "still.gif", "front.png"):
        assert animations.find(name) is None
        photographs.read(name)
    saved("fronted.png", [third, first, second], default_image=True, duration=[80, 90])
    animation = animations.find("fronted.png")
    assert animation is not None
    pictures = [photographs.to_pil(frame.photograph) for frame in animation.frames()]
    assert [picture.tobytes() for picture in pictures] == [first.tobytes(), second.tobytes()]


def test_a_small_copy_is_no_page():
    first = frames()[0]
    small = first.resize((12, 10))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    first.save("scan.tif", save_all=True, append_images=[small])
    with PIL.Image.open("scan.tif") as file:
        assert getattr(file, "n_frames", 1) == 2
    assert animations.find("scan.tif") is None
    assert np.array_equal(np.array(photographs.to_pil(photographs.read("scan.tif"))), np.array(first))


def test_a_pil_image_stays_where_it_was():
    with PIL.Image.open(saved("a.gif")) as file:
        file.seek(1)
        animation = animations.find(file)
        assert animation is not None
        assert len(list(animation.frames())) == 3
        assert file.tell() == 1
        # Sought on purpose, it is the frame that is meant.
        assert np.array_equal(np.array(photographs.to_pil(photographs.take(file))), np.array(frames()[1]))


# Dreams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ANIMATED, "a.tif"])
def test_a_dream_has_every_frame_and_its_time(cli, name):
    saved(name)
    code, out, err = cli("dream", name, MODEL, "deep", *QUICK, "--strength", 0.02)
    assert (code, err) == (0, "")
    made = name.replace("a.", "a-dream.")
    assert f"{made}, 48x40, 3 of 3 frames, 1 octaves, 3 steps" in out
    before, pixels = shown(name)[0].astype(int), shown(made)[0].astype(int)
    assert shown(made)[1:] == shown(name)[1:]
    assert pixels.shape == before.shape
    for k in range(3):
        assert 1 < np.abs(pixels[k] - before[k])[..., :3].mean() < 12  # dreamt over, each from itself


@pytest.mark.parametrize("targets", [["deep"], ["deep", "stem:3"]])
def test_frames_are_dreamt_alike(tiny, targets):
    still = frames()[0]
    saved("a.png", [still, PIL.Image.fromarray(255 - np.array(still)), still])
    result = fvfast.dream_animation("a.png", tiny, targets, **IN_PYTHON)
    assert result.images.shape == (3, 3, 40, 48)
    assert torch.equal(result.images[0], result.images[2])
    assert not torch.equal(result.images[0], result.images[1])
    alone = fvfast.dream(still, tiny, targets, **IN_PYTHON)
    assert (result.images[0] - alone.image).abs().max() <= 0.5 / 255 + 1e-6
    assert (result.steps, result.durations, result.targets) == (6, [float(ms) for ms in MS], alone.targets)
    assert result.objective > result.objective_start
    result.save("b.webp")
    assert shown("b.webp")[1] == MS


def test_json_counts_frames(cli):
    frames()[0].save("still.png")
    for name, count in ((saved("a.gif"), 3), (saved("a.tif"), 3), ("still.png", 1)):
        code, out, _ = cli("dream", name, MODEL, "deep", *QUICK, "--json")
        document = json.loads(out)
        assert (code, document["frames"], document["frames_total"]) == (0, count, count)
        assert document["steps"] == count


@pytest.mark.parametrize(("shows", "kept"), [(1, 1), (3, 1), (4, 2)])
def test_interrupted_it_keeps_the_frames_that_are_done(cli, monkeypatch, shows, kept):
    shown_at = []

    def show(self, *arguments):
        shown_at.append(arguments)
        if len(shown_at) == shows:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Screen, "show", show)
    saved("a.gif")
    code, out, err = cli("dream", "a.gif", MODEL, "deep", "--octaves", 1, "--steps", 2, "--json")
    document = json.loads(out)
    assert (code, document["interrupted"]) == (130, True)
    assert (document["frames"], document["frames_total"]) == (kept, 3)
    assert len(shown("a-dream.gif")[0]) == kept
    assert f"interrupted; wrote {kept} of 3 frames" in err
    assert shown_at[-1][1] == 3 * 2 * 40 * 48


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("a.gif", "--out", "b.jpg"), "JPEG holds one picture and a.gif has 3 frames: name a .gif, .webp or .png"),
        (("a.webp", "--out", "b.bmp"), "BMP holds one picture and a.webp has 3 frames"),
        (("a.png", "--out", "b.tif"), "TIFF does not say for how long a frame is shown"),
        (("a.gif", "--out", "b.mp4"), "cannot tell a picture's format from the name b.mp4"),
        (("a.gif", "--zoom", "z.gif"), "a zoom falls into one picture and a.gif has 3 frames: leave out --zoom"),
        (("unlike.tif", "--out", "b.gif"), "the pages of unlike.tif differ in size, which only TIFF holds"),
        (("small.gif",), "small.gif must be 32 px or more on each side"),
        (("cut.gif",), "cut.gif cannot be read as a picture"),
        (("damaged.png",), "damaged.png cannot be read as a picture"),
        (("a.gif", "--guide", "a.webp"), "a.webp has 3 frames and one picture is needed: give one of them by itself"),
    ],
)
def test_what_cannot_be_is_one_sentence(cli, arguments, sentence):
    for name in ANIMATED:
        saved(name)
    saved("unlike.tif", [frames()[0], frames()[1].resize((40, 36))])
    saved("small.gif", [picture.resize((40, 20)) for picture in frames()])
    Path("cut.gif").write_bytes(Path("a.gif").read_bytes()[:900])
    Path("damaged.png").write_bytes(Path("a.png").read_bytes()[:-60])  # in its last frame
    before = sorted(Path().iterdir())
    code, out, err = cli("dream", arguments[0], MODEL, "deep", *QUICK, *arguments[1:])
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert sorted(Path().iterdir()) == before


# Everything else that takes a picture ----------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ANIMATED, "a.tif"])
def test_where_one_picture_is_needed_an_animation_is_refused(tiny, cli, name):
    saved(name)
    ways = (
        lambda: fvfast.dream(name, tiny, "deep"),
        lambda: fvfast.dream(PIL.Image.open(name), tiny, "deep"),
        lambda: fvfast.render(tiny, "deep:1", start=name, size=32, steps=1),
        lambda: fvfast.render(tiny, "deep:1", start=PIL.Image.open(name), size=32, steps=1),
        lambda: o.caricature("deep", name),
        lambda: o.accentuation(o.channel("deep", 1), "stem", PIL.Image.open(name)),
    )
    for way in ways:
        with pytest.raises(FvfastError, match="has 3 frames and one picture is needed: give one of them by itself"):
            way()
    code, _, err = cli("render", MODEL, f"inversion(deep, {name})", "--size", 32, "--steps", 1)
    assert code == 2
    assert f"{name} has 3 frames" in err
    frames()[0].save("still.png")
    with pytest.raises(FvfastError, match="this picture has one frame: dream over it with"):
        fvfast.dream_animation("still.png", tiny, "deep")


def test_a_folder_with_an_animation_says_what_it_leaves_out(tiny, cli):
    Path("pictures").mkdir()
    for k, picture in enumerate(frames()):
        picture.save(f"pictures/{k}.png")
    saved("pictures/a.webp")
    told = []
    _, count = magnitudes.measure("pictures", 16, notify=told.append)
    assert count == 3
    assert [text.split(" and ")[0] for text in told] == ["left out: pictures/a.webp has 3 frames"]
    code, out, err = cli("examples", MODEL, "deep", "pictures", "--size", 32, "--json")
    assert code == 0
    assert json.loads(out)["images"] == 3
    assert "pictures/a.webp has 3 frames" in err


def test_sixteen_bits_in_a_folder_are_not_white():
    deep = np.linspace(0, 65535, 40 * 40).reshape(40, 40).astype(np.uint16)
    PIL.Image.fromarray(deep).save("deep.png")
    read = np.array(examples._open(Path("deep.png")))
    assert np.abs(read[..., 1] / 255 - deep / 65535).max() < 0.003
