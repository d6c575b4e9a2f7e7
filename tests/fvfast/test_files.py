import json
import os
import stat
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from PIL import PngImagePlugin

import fvfast
from fvfast import files
from fvfast.errors import FvfastError
from fvfast.recipes import Recipe
from fvfast.result import Render

SPEC = {
    "model": "net",
    "weights": "none",
    "target": "a:1",
    "seed": 3,
    "size": 16,
    "steps": 5,
    "dtype": "float32",
    "recipe": Recipe("default", steps=5).to_dict(),
}


def made(count=2, snapshots=False, targets=None):
    """A render of flat images, of another grey each."""
    shade = torch.arange(1.0, count + 1)[:, None, None, None] / 10
    return Render(
        images=shade.expand(count, 3, 16, 16).clone(),
        targets=targets or [f"a:{i}" for i in range(count)],
        seeds=[0] * count,
        objective_start=torch.zeros(count),
        objective=torch.arange(1.0, count + 1),
        history=torch.zeros(count, 5),
        alphas=[None] * count,
        snapshots=[[(2, torch.full((3, 16, 16), 0.25))] if snapshots else [] for _ in range(count)],
        recipes=[Recipe("default", steps=5)] * count,
        specs=[{**SPEC, "target": f"a:{i}"} for i in range(count)],
        model="net",
        device="cpu",
        path="reference",
        dtype="float32",
        size=16,
        seconds=1.0,
        steps=10,
    )


def test_pixels_are_rounded_to_the_nearest_of_256():
    image = torch.tensor([0.0, 0.499 / 255, 0.501 / 255, 0.5, 254.4 / 255, 1.0, -3.0, 7.0]).expand(3, 1, 8).clone()
    image[1] = 0
    red, green, blue = np.asarray(files.to_pil(image))[0].T.tolist()
    assert red == blue == [0, 0, 1, 128, 254, 255, 0, 255]
    assert green == [0] * 8


def test_a_png_carries_its_recipe(tmp_path):
    files.write_png(files.to_pil(torch.rand(3, 16, 16)), tmp_path / "a.png", SPEC)
    with PIL.Image.open(tmp_path / "a.png") as image:
        assert image.info["Software"] == f"fvfast {fvfast.__version__}"
        assert json.loads(image.info["fvfast"]) == json.loads(json.dumps({"version": fvfast.__version__, **SPEC}))
        assert image.size == (16, 16)
    spec = files.read_spec(tmp_path / "a.png")
    assert {key: spec[key] for key in ("model", "target", "seed", "size")} == {
        "model": "net",
        "target": "a:1",
        "seed": 3,
        "size": 16,
    }
    assert Recipe.from_dict(spec["recipe"]) == Recipe("default", steps=5)


def test_the_same_image_gives_the_same_bytes(tmp_path):
    image = files.to_pil(torch.rand(3, 16, 16))
    files.write_png(image, tmp_path / "a.png", SPEC)
    files.write_png(image, tmp_path / "b.png", SPEC)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_sheet_carries_no_recipe(tmp_path):
    files.write_png(PIL.Image.new("RGB", (4, 4)), tmp_path / "sheet.png")
    with pytest.raises(FvfastError, match="carries no fvfast recipe"):
        files.read_spec(tmp_path / "sheet.png")


def test_a_file_gets_the_permissions_that_the_user_asked_for(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_png(PIL.Image.new("RGB", (4, 4)), tmp_path / "a.png")
        assert os.umask(0o027) == 0o027  # and the mask is as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


class Unwritable(PIL.Image.Image):
    """An image that fails halfway through being written."""

    def __init__(self, error):
        self.error = error

    def save(self, fp: Any, format=None, **params):
        fp.write(b"half a file")
        raise self.error


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    with pytest.raises(FvfastError, match=r"cannot write .*a\.png \(No space left on device\); choose another folder"):
        files.write_png(Unwritable(OSError(28, "No space left on device")), tmp_path / "a.png", SPEC)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path):
    files.write_png(PIL.Image.new("RGB", (4, 4)), tmp_path / "a.png", SPEC)
    old = (tmp_path / "a.png").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        files.write_png(Unwritable(KeyboardInterrupt()), tmp_path / "a.png", SPEC)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == old


def test_names_are_unlike_and_safe():
    targets = ["a.b:1", "a.b:1", "logits:bell pepper", "a.b:1@2,3", "x/../../etc", "a.b:1"]
    names = files.file_names(targets, [0, 0, 0, 0, 0, 7], "timm:net")
    assert names == [
        "timm-net-a.b-1",
        "timm-net-a.b-1-2",
        "timm-net-logits-bell-pepper",
        "timm-net-a.b-1@2-3",
        "timm-net-x-..-..-etc",
        "timm-net-a.b-1-seed7",
    ]


def test_names_that_collide_with_a_number_stay_unlike():
    names = files.file_names(["a-2", "a", "a", "é", "ü"], [0] * 5, "n")
    assert len(set(names)) == 5
    assert len(set(files.file_names(["x" * 300 + str(i) for i in range(3)], [0] * 3, "n"))) == 3
    assert max(map(len, files.file_names(["x" * 300], [0], "n"))) < 200  # file systems stop at 255


def test_saving_writes_an_image_each_and_its_snapshots(tmp_path):
    paths = made(2, snapshots=True).save(tmp_path / "new" / "folder")
    assert [p.name for p in paths] == ["net-a-0.png", "net-a-1.png"]
    for i, path in enumerate(paths):
        with PIL.Image.open(path) as image:
            assert image.getpixel((3, 3)) == (round(255 * (i + 1) / 10),) * 3
    shots = sorted((tmp_path / "new" / "folder" / "snapshots").iterdir())
    assert [p.name for p in shots] == ["net-a-0-step00002.png", "net-a-1-step00002.png"]
    spec = files.read_spec(shots[1])
    assert (spec["target"], spec["recipe"]["steps"]) == ("a:1", 2)  # rendering it again stops there


def test_looking_whether_a_folder_can_be_written_does_not_make_it(tmp_path):
    assert files.writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    files.writable(tmp_path / "a" / "b", make=True)
    assert list((tmp_path / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_that_cannot_be(tmp_path, make):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FvfastError, match=r"cannot write to the folder .*file.*; choose another with --out"):
            files.writable(folder, make=make)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, a folder that nobody can write to")
def test_a_folder_that_nobody_can_write_to():
    from pathlib import Path

    with pytest.raises(FvfastError, match="cannot write to the folder /proc/images"):
        files.writable(Path("/proc/images"))


# Reading back ----------------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path):
    with pytest.raises(FvfastError, match=r"no file .*gone\.png"):
        files.read_spec(tmp_path / "gone.png")


def test_a_foreign_png(tmp_path):
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "foreign.png")
    with pytest.raises(FvfastError, match=r"foreign\.png carries no fvfast recipe: only PNGs that fvfast wrote"):
        files.read_spec(tmp_path / "foreign.png")


def test_what_is_no_png(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    files.write_png(files.to_pil(torch.rand(3, 64, 64)), tmp_path / "cut.png", SPEC)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-3000])
    for name in ("text.png", "cut.png", "."):
        with pytest.raises(FvfastError, match="is not a readable PNG"):
            files.read_spec(tmp_path / name)


@pytest.mark.parametrize("text", ["{", "[1]", "3", json.dumps({k: v for k, v in SPEC.items() if k != "seed"})])
def test_a_recipe_that_cannot_be_read(tmp_path, text):
    info = PngImagePlugin.PngInfo()
    info.add_text("fvfast", text)
    PIL.Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(FvfastError, match=r"the recipe in .*a\.png cannot be read; it may be from another version"):
        files.read_spec(tmp_path / "a.png")


# Sheets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "columns", "grid"),
    [(1, None, (1, 1)), (2, None, (2, 1)), (8, None, (4, 2)), (5, None, (3, 2)), (6, 2, (2, 3)), (3, 9, (3, 1))],
)
def test_a_sheet_holds_every_image_where_it_belongs(count, columns, grid):
    shades = [20 + 20 * i for i in range(count)]
    tiles = [PIL.Image.new("RGB", (40, 40), (s, 0, 0)) for s in shades]
    page = files.sheet(tiles, ["t"] * count, ["c"] * count, columns, tile=100)
    margin, gap, text = 9, 7, 20
    assert page.width == 2 * margin + grid[0] * 100 + (grid[0] - 1) * gap
    for i, shade in enumerate(shades):
        x, y = margin + i % grid[0] * (100 + gap), margin + i // grid[0] * (100 + text + gap)
        assert page.getpixel((x + 50, y + 50)) == (shade, 0, 0)
    assert page.getpixel((2, 2)) == files.PAPER


def test_a_sheet_writes_titles_and_captions():
    tile = PIL.Image.new("RGB", (40, 40))

    def ink(title, caption):
        page = files.sheet([tile], [title], [caption], tile=224)
        below = page.crop((0, 20 + 224 + 3, page.width, page.height))
        return int((np.asarray(below, dtype=int).sum(2) < 600).sum())

    assert ink("", "") == 0
    assert ink("title", "") > 30
    assert ink("", "caption") > 30


def test_a_long_title_keeps_its_end():
    from PIL import ImageDraw, ImageFont

    draw, font = ImageDraw.Draw(PIL.Image.new("RGB", (10, 10))), ImageFont.load_default(15)
    text = "encoder.layers.encoder_layer_7.mlp.very.long.name:123"
    short = files._fit(draw, text, font, 150)
    assert short.startswith("…")
    assert short.endswith(":123")
    assert draw.textlength(short, font=font) <= 150
    assert files._fit(draw, "short:1", font, 150) == "short:1"


def test_a_renders_own_sheet_shows_its_images():
    page = made(2).sheet(columns=1)
    assert page.getpixel((20 + 112, 20 + 112)) == (26, 26, 26)
    assert page.height > page.width
    assert len(made(2)) == 2
