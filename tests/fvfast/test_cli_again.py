"""`fvfast render --from PNG` where the PNG's own network is not to be had: cause and cure, and MODEL in its place."""

import json
import shutil
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from torch import nn

import fvfast
from fvfast import measures
from fvfast.errors import FvfastError
from fvfast.generators import Generator
from fvfast.models import Model
from fvfast.store import Store

GIVEN = "was made from a network that was given in Python (Tiny)"


@pytest.fixture
def made(nets, monkeypatch):
    """Makes a PNG by how its network is handed over: bare, by `load`, as a Model; by a name, or weights, then gone."""
    Path("passing.py").write_text("import sketch_nets, torch\ntorch.manual_seed(3)\nnet = sketch_nets.Tiny()\n")
    monkeypatch.syspath_prepend(".")
    torch.manual_seed(3)
    module = nets.Tiny()
    torch.save(module.state_dict(), "w.pt")
    networks = {
        "bare": (module, {}),
        "loaded": (fvfast.load(module, size=32), {}),
        "model": (Model("mine:net", "none", module, size=32), {}),
        "module gone": ("passing:net", {}),
        "weights gone": ("sketch_nets:tiny", {"weights": "w.pt"}),
        "there": ("sketch_nets:tiny", {}),
    }

    def make(name):
        network, options = networks[name]
        (path,) = fvfast.render(network, "deep:3", size=32, steps=2, seed=5, **options).save("made")
        Path("passing.py").unlink()
        monkeypatch.delitem(sys.modules, "passing", raising=False)
        Path("w.pt").rename("moved.pt")
        return shutil.move(path, f"{name.replace(' ', '-')}.png")

    return make


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("bare", GIVEN),
        ("loaded", GIVEN),
        ("model", "was made from mine:net, which cannot be loaded here (no Python module 'mine'"),
        ("module gone", "was made from passing:net, which cannot be loaded here (no Python module 'passing'"),
        ("weights gone", "was made from sketch_nets:tiny, which cannot be loaded here (no weights file 'w.pt'"),
    ],
)
def test_a_network_that_is_not_to_be_had_is_named_with_its_cure(cli, made, name, cause):
    path = made(name)
    code, out, err = cli("render", "--from", path)
    assert (code, out) == (2, "")
    assert err.startswith(f"fvfast: {path} {cause}")
    assert f"name what makes it: fvfast render PACKAGE.MODULE:CALLABLE --from {path}" in err
    assert ("fvfast.render(model, 'deep:3', recipe=...)" in err) == (cause == GIVEN)
    assert err.count("\n") == 1
    assert "Traceback" not in err
    # The cure does cure: the same network by a name, with the weights it had, makes the same picture.
    code, out, _ = cli("render", "sketch_nets:tiny", "--weights", "moved.pt", "--from", path, "--json")
    assert code == 0
    with PIL.Image.open(json.loads(out)["renders"][0]["file"]) as again, PIL.Image.open(path) as before:
        assert again.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sketch_nets:Shared", "--from", "there.png"), "there.png's own, sketch_nets:tiny, can be loaded: leave out"),
        (
            ("sketch_nets:tiny", "deep:2", "--from", "there.png"),
            "--from takes its target from the PNG: leave out",
        ),
        (("sketch_nets:tinny", "--from", "bare.png"), "sketch_nets has no 'tinny' (did you mean tiny"),
        (("sketch_nets:tiny", "--from", "gone.png"), "no file gone.png"),
    ],
)
def test_a_model_stands_in_only_where_it_must(cli, made, arguments, sentence):
    made("bare" if "bare.png" in arguments else "there")
    code, out, err = cli("render", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_the_model_of_the_png_itself_may_be_named(cli, made):
    there = made("there")
    assert cli("render", "sketch_nets:tiny", "--from", there, "--out", "again")[0] == 0
    assert Path("again/sketch_nets-tiny-deep-3-seed5.png").read_bytes() == Path(there).read_bytes()


@pytest.mark.parametrize("changes", [{"mean": (0.1, 0.5, 0.9)}, {"std": (1.0, 1.0, 1.0)}, {"size": 40}])
def test_images_are_normalised_as_they_were(cli, nets, changes):
    torch.manual_seed(3)
    module = nets.Tiny()
    torch.save(module.state_dict(), "w.pt")
    (path,) = fvfast.render(fvfast.load(module, **changes), "deep:3", size=32, steps=3).save("made")
    (named,) = fvfast.render(fvfast.load("sketch_nets:tiny", "w.pt", **changes), "deep:3", size=32, steps=3).save("by")
    for arguments in (("sketch_nets:tiny", "--weights", "w.pt", "--from", path), ("--from", named)):
        assert cli("render", *arguments, "--out", "again")[0] == 0
        with PIL.Image.open("again/sketch_nets-tiny-deep-3.png") as again, PIL.Image.open(path) as before:
            assert again.tobytes() == before.tobytes()


def test_a_generator_given_in_python_is_named(cli, nets):
    painter = nn.Sequential(nn.ConvTranspose2d(4, 3, 16), nn.Tanh())
    generator = Generator(painter, (4, 1, 1))
    (path,) = fvfast.render("sketch_nets:tiny", "deep:3", image=generator, size=32, steps=1).save("made")
    code, _, err = cli("render", "--from", path)
    assert code == 2
    assert "was painted by a generator that was given in Python: render it again there" in err


def test_a_store_of_a_given_network_says_what_to_pass(cli, nets):
    with Store(Path("kept"), write=True) as store:
        fvfast.keep(store, fvfast.render(nets.Tiny(), "deep:3", size=32, steps=1))
    sentence = f"what kept holds {GIVEN}: pass it as model= to fvfast.measures.measure, in Python"
    code, _, err = cli("quality", "--only", "--store", "kept")
    assert (code, err) == (2, f"fvfast: {sentence}\n")
    with pytest.raises(FvfastError, match="pass it as model="):
        measures.measure("kept", None)
