import importlib.util
import json
import signal
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from fvfast import magnitudes
from fvfast.screen import Screen

MODEL = "sketch_nets:tiny"
QUICK = ("--octaves", 2, "--steps", 2, "--tile", 128)


@pytest.fixture
def photo(tmp_path):
    """A JPEG of 120 x 80 px, lying on its side."""
    array = np.random.default_rng(0).integers(60, 200, (10, 15, 3), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.jpg"
    PIL.Image.fromarray(array).resize((120, 80), PIL.Image.Resampling.BICUBIC).save(path, exif=exif)
    return path


def test_a_dream_has_the_photographs_format_and_upright_size(cli, photo, tmp_path):
    code, out, err = cli("dream", photo, MODEL, "deep", *QUICK)
    assert (code, err) == (0, "")
    with PIL.Image.open(tmp_path / "photo-dream.jpg") as picture:
        assert (picture.format, picture.size) == ("JPEG", (80, 120))
        assert 0x0112 not in picture.getexif()
        before = np.asarray(PIL.Image.open(photo).transpose(PIL.Image.Transpose.ROTATE_270), dtype=float)
        difference = np.abs(np.asarray(picture, dtype=float) - before).mean()
    assert 1 < difference < 40
    assert "photo-dream.jpg, 80x120, 2 octaves, 4 steps" in out


def test_a_dream_in_json(cli, photo, tmp_path):
    arguments = ("--out", "d.png", "--basis", "fourier", "--zoom", "z.gif", "--frames", 3, "--json", "--strength", 0.03)
    code, out, err = cli("dream", photo, MODEL, "deep", "stem:3", *QUICK, *arguments)
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["file"] == "d.png"
    assert document["targets"] == ["deep", "stem:3"]
    assert (document["width"], document["height"], document["octaves"], document["steps"]) == (80, 120, 2, 4)
    assert document["objective_end"] > document["objective_start"]
    assert document["zoom"] == {"file": "z.gif", "frames": 3}
    assert document["interrupted"] is False
    with PIL.Image.open(tmp_path / "z.gif") as film:
        assert (getattr(film, "n_frames", 1), film.size) == (3, (80, 120))
    assert PIL.Image.open(tmp_path / "d.png").format == "PNG"


def test_an_interrupted_dream_keeps_what_is_there(cli, photo, tmp_path, monkeypatch):
    shown = []

    def show(self, *arguments):
        shown.append(arguments)
        if len(shown) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Screen, "show", show)
    before = signal.getsignal(signal.SIGINT)
    code, out, err = cli("dream", photo, MODEL, "deep", "--octaves", 3, "--steps", 2, "--json", "--zoom", "z.gif")
    assert code == 130
    assert signal.getsignal(signal.SIGINT) is before
    document = json.loads(out)
    assert document["interrupted"] is True
    assert (document["steps"], document["octaves"], document["zoom"]) == (3, 2, None)
    assert PIL.Image.open(tmp_path / "photo-dream.jpg").size == (80, 120)
    assert not (tmp_path / "z.gif").exists()
    assert "wrote the dream as far as it had come" in err


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed")
def test_a_fall_into_a_dream_is_an_mp4(cli, photo, tmp_path):
    import av  # pyright: ignore[reportMissingImports]

    code, _, _ = cli("dream", photo, MODEL, "deep", *QUICK, "--zoom", "z.mp4", "--frames", 4)
    assert code == 0
    with av.open(str(tmp_path / "z.mp4")) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 4
    assert frames[0].shape == (120, 80, 3)
    with PIL.Image.open(tmp_path / "photo-dream.jpg") as picture:
        assert np.abs(frames[0].astype(float) - np.asarray(picture, dtype=float)).mean() < 12


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("none.jpg",), "no file none.jpg"),
        ((".",), ". is a folder, not a picture"),
        (("text.jpg",), "text.jpg is not a picture that can be read"),
        (("small.png",), "small.png must be 32 px or more on each side, not 40x20"),
        (("photo.jpg", MODEL, "depe"), "tiny has no layer 'depe' with a tensor output (did you mean deep"),
        (("photo.jpg", MODEL, "deep:99"), "deep has channels 0-11, not 99"),
        (("photo.jpg", MODEL), "name at least one target"),
        (("photo.jpg", "resnet51"), "unknown model 'resnet51'"),
        (("photo.jpg", "--out", "photo.jpg"), "photo.jpg is the photograph itself"),
        (("photo.jpg", "--out", "./photo.jpg"), "photo.jpg is the photograph itself"),
        (("photo.jpg", "--out", "nowhere/d.png"), "no folder nowhere to write d.png in"),
        (("photo.jpg", "--out", "within"), "cannot tell a picture's format from the name within"),
        (("photo.jpg", "--out", "d.xyz"), "cannot tell a picture's format from the name d.xyz"),
        (("clear.png", "--out", "d.jpg"), "JPEG holds no transparency"),
        (("photo.jpg", "--zoom", "z.avi"), "cannot tell a moving picture's format from the name z.avi"),
        (("photo.jpg", "--zoom", "nowhere/z.gif"), "no folder nowhere to write z.gif in"),
        (("photo.jpg", "--preset", "monsters"), "unknown preset 'monsters'"),
        (("photo.jpg", "--steps", 0), "steps must be 1 or more, not 0"),
        (("photo.jpg", "--seed", -1), "seed must be 0 or more, not -1"),
        (("photo.jpg", "--frames", 0), "frames must be 1 or more, not 0"),
        (("photo.jpg", "--tile", 64), "tile must be 128 px or more, not 64"),
        (("photo.jpg", "--guide", "none.png"), "no file none.png"),
        (("photo.jpg", "--device", "tpu"), "device 'tpu' cannot be used here"),
    ],
)
def test_bad_input_is_one_sentence(cli, photo, tmp_path, arguments, sentence):
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "within").mkdir()
    PIL.Image.new("RGB", (40, 20)).save(tmp_path / "small.png")
    PIL.Image.new("RGBA", (40, 40)).save(tmp_path / "clear.png")
    files = sorted(tmp_path.rglob("*"))
    code, out, err = cli("dream", *arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("fvfast: ")
    assert sentence in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == files


def test_mp4_without_pyav_is_a_sentence(cli, photo, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "av" else real(name, *a))
    code, _, err = cli("dream", photo, "--zoom", "z.mp4")
    assert code == 2
    assert "pip install 'fvfast[video]'" in err


def test_magnitudes_by_the_command_line(cli, photo, tmp_path):
    code, out, err = cli("magnitude", tmp_path, "--size", 32, "--out", "m.safetensors", "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["pictures"], document["size"], document["file"]) == (1, 32, "m.safetensors")
    expected, _ = magnitudes.measure(tmp_path, 32)
    assert torch.equal(magnitudes.read(tmp_path / "m.safetensors"), expected)
    code, out, _ = cli("magnitude", tmp_path)
    assert code == 0
    assert "magnitude.safetensors: the mean of 1 pictures at 256 px" in out
    arguments = ("--image", "phase", "--alpha", "--steps", 2, "--magnitude", "m.safetensors", "--json")
    code, out, _ = cli("render", MODEL, "deep:1", *arguments)
    assert code == 0
    file = json.loads(out)["renders"][0]["file"]
    assert PIL.Image.open(file).mode == "RGBA"
    code, out, _ = cli("render", "--from", file, "--out", "again", "--json")
    assert code == 0
    again = json.loads(out)["renders"][0]["file"]
    assert np.array_equal(np.array(PIL.Image.open(file))[..., :3], np.array(PIL.Image.open(again)))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("magnitude", "nowhere"), "no folder nowhere"),
        (("magnitude", "photo.jpg"), "photo.jpg is a file, not a folder"),
        (("magnitude", ".", "--size", 4), "size must be 16 to 2048 px, not 4"),
        (("magnitude", ".", "--out", "nowhere/m"), "no folder nowhere to write m in"),
        (("render", MODEL, "deep:1", "--image", "phases"), "unknown image 'phases' (did you mean phase"),
        (("render", MODEL, "deep:1", "--image", "generator:x"), "unknown generator 'x'; there are dcgan-faces"),
        (("render", MODEL, "deep:1", "--magnitude", "photo.jpg"), "--magnitude needs --image phase"),
    ],
)
def test_bad_input_to_the_others_is_one_sentence(cli, photo, arguments, sentence):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_an_opacity_is_learnt_where_there_is_none_and_comes_back_from_the_file(cli):
    code, out, err = cli("render", MODEL, "deep:1", "--steps", 2, "--alpha", "--json")
    assert (code, err) == (0, "")
    file = json.loads(out)["renders"][0]["file"]
    assert PIL.Image.open(file).mode == "RGBA"
    assert cli("render", "--from", file, "--out", "again")[0] == 0
    assert Path("again", Path(file).name).read_bytes() == Path(file).read_bytes()
