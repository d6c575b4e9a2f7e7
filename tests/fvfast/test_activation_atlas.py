"""Activation atlases: what is sampled, where it lies, what is rendered of it, and that a run goes on."""

import importlib.machinery
import json
import sys
import types

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import fvfast
from fvfast import activation_atlases, layouts, sampling
from fvfast.models import Model

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}
SMALL = {"grid": 4, "size": 16, "steps": 3, "reduce": "pca", "device": "cpu"}


class Colours(nn.Module):
    """`maps` are the image's colours at every fourth pixel; the logits their means, ten times over."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 3, 1, stride=4, bias=False)
        self.maps.weight.data.copy_(torch.eye(3)[..., None, None])
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return 10 * self.pool(self.maps(x)).flatten(1)


def colours() -> Model:
    return Model("colours", "none", Colours(), (0.0,) * 3, (1.0,) * 3, 16, ("red", "green", "blue"))


@pytest.fixture
def pictures(tmp_path):
    """Twelve pictures, four of each colour, in folders of their names; each a little darker than the one before."""
    for name, colour in COLOURS.items():
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(4):
            shade = tuple(int(part * (1 - number / 20)) for part in colour)
            PIL.Image.new("RGB", (20, 18), shade).save(tmp_path / "pictures" / name / f"{number}.png")
    return tmp_path / "pictures"


def test_what_an_atlas_holds(pictures, tmp_path):
    heard = []
    atlas = fvfast.activation_atlas(
        colours(), "maps", pictures, out=tmp_path / "out", progress=lambda *told: heard.append(told), **SMALL
    )
    document = json.loads((tmp_path / "out" / "atlas.json").read_text())
    assert document["images"] == 12
    assert document["finished"]
    assert sum(cell["count"] for cell in document["cells"]) == 12
    assert len(document["cells"]) == len(atlas.cells) == atlas.rendered >= 3
    for cell in document["cells"]:
        # Pictures of different colours lie in different cells; each says its colour three times over.
        (label,) = cell["labels"]
        assert label["images"] == cell["count"] == len(cell["images"])
        shades = [np.array(COLOURS[label["name"]]) * (1 - int(name[-5]) / 20) // 1 / 255 for name in cell["images"]]
        np.testing.assert_allclose(cell["vector"], np.mean(shades, 0), atol=0.005)
        assert cell["classes"][0]["name"] == label["name"]
        assert cell["classes"][0]["share"] > 0.9
        with PIL.Image.open(tmp_path / "out" / cell["icon"]) as icon:
            assert icon.size == (16, 16)
    for vector in document["vectors"]:
        assert 0 <= vector["x"] <= 1
        assert 0 <= vector["y"] <= 1
    assert heard[0] == ("images", 0, 12)
    assert heard[-1] == ("cells", len(atlas.cells), len(atlas.cells))


def test_a_cell_shows_its_own_vector(pictures, tmp_path):
    """A direction of colours is rendered in that colour."""
    options = {**SMALL, "steps": 60}
    atlas = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "out", **options)
    for cell, icon in zip(atlas.cells, atlas.icons, strict=True):
        assert icon is not None
        mean = np.asarray(icon, float).mean((0, 1))
        assert mean.argmax() == int(cell.vector.argmax())


def test_the_picture_has_every_icon_in_its_cell(pictures, tmp_path):
    atlas = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "out", **SMALL)
    with PIL.Image.open(atlas.picture) as picture:
        page = np.asarray(picture.convert("RGB"))
    margin = 24
    places = {(cell.row, cell.column): icon for cell, icon in zip(atlas.cells, atlas.icons, strict=True)}
    for row in range(4):
        for column in range(4):
            there = page[margin + 16 * row : margin + 16 * (row + 1), margin + 16 * column : margin + 16 * (column + 1)]
            icon = places.get((row, column))
            expected = np.full((16, 16, 3), (250, 250, 248)) if icon is None else np.asarray(icon)
            np.testing.assert_array_equal(there, expected)


def test_a_run_goes_on_where_it_ended(pictures, tmp_path, monkeypatch):
    whole = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "whole", **SMALL)
    monkeypatch.setitem(activation_atlases.CHUNK, "cpu", 1)
    asked = []

    def enough():
        """Stops as soon as an icon is there."""
        asked.append(None)
        return any((tmp_path / "parts" / "cells").glob("*.png"))

    first = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "parts", stop=enough, **SMALL)
    assert first.interrupted
    assert first.rendered == 1
    assert not json.loads(first.document.read_text())["finished"]
    looked = []
    monkeypatch.setattr(sampling, "_look_at", lambda *a: looked.append(a))
    second = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "parts", **SMALL)
    assert (second.skipped, second.rendered) == (1, len(whole.cells) - 1)
    assert not looked
    assert second.picture.read_bytes() == whole.picture.read_bytes()
    third = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "parts", **SMALL)
    assert (third.skipped, third.rendered) == (len(whole.cells), 0)


def test_another_setting_or_image_is_another_run(pictures, tmp_path):
    first = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "out", **SMALL)
    other = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "out", **{**SMALL, "steps": 4})
    assert (other.skipped, other.rendered) == (0, len(first.cells))
    PIL.Image.new("RGB", (16, 16), (250, 250, 250)).save(pictures / "red" / "0.png")
    changed = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "out", **SMALL)
    assert changed.vectors is not None
    assert changed.vectors.values.min(1).values.max() > 0.9


def test_images_that_were_seen_are_not_seen_again(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "BATCH", 5)
    counts = []

    def after_one():
        counts.append(None)
        return len(counts) > 1

    first = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "out", stop=after_one, **SMALL)
    assert first.interrupted
    assert not first.cells
    assert first.vectors is not None
    assert len(first.vectors.names) == 5
    seen = []
    look_at = sampling._look_at
    monkeypatch.setattr(sampling, "_look_at", lambda *a: (seen.extend(a[2]), look_at(*a)))
    second = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "out", **SMALL)
    assert len(seen) == 7
    whole = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "whole", **SMALL)
    assert second.vectors is not None
    assert whole.vectors is not None
    assert torch.equal(second.vectors.values, whole.vectors.values)


# Sampling --------------------------------------------------------------------------------------------------


def test_places_are_random_and_say_where(tmp_path):
    """Every pixel of the picture says its own place: red for y, green for x."""
    (tmp_path / "one").mkdir()
    line = np.arange(16) * 16
    image = np.stack([np.repeat(line[:, None], 16, 1), np.repeat(line[None], 16, 0), np.zeros((16, 16))], 2)
    for number in range(9):
        PIL.Image.fromarray(image.astype(np.uint8)).save(tmp_path / "one" / f"{number}.png")
    out = {"out": tmp_path / "out", **SMALL}
    three = fvfast.activation_atlas(colours(), "maps", tmp_path / "one", positions=3, **out)
    found = three.vectors
    assert found is not None
    assert found.rows == [image for image in range(9) for _ in range(3)]
    seen = (found.values[:, :2] * 255 / 16).round() // 4  # of the layer's 4 x 4 places
    assert torch.equal(seen, (found.places * 4 - 0.5))
    assert len({tuple(place) for place in found.places[:3].tolist()}) == 3
    assert len({tuple(place) for place in found.places.tolist()}) > 8
    fewer = fvfast.activation_atlas(colours(), "maps", tmp_path / "one", positions=99, **{**out, "out": tmp_path / "b"})
    assert fewer.vectors is not None
    assert len(fewer.vectors.values) == 9 * 16
    mean = fvfast.activation_atlas(colours(), "maps", tmp_path / "one", average=True, **{**out, "least": 9})
    assert mean.vectors is not None
    torch.testing.assert_close(mean.vectors.values[0], torch.tensor([6.0, 6.0, 0.0]) * 16 / 255)


def test_a_vector_follows_from_its_image_alone(pictures, tmp_path):
    everything = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "a", **SMALL).vectors
    for number in (0, 2):
        (pictures / "blue" / f"{number}.png").unlink()
    fewer = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "b", **SMALL).vectors
    assert everything is not None
    assert fewer is not None
    places = dict(zip(everything.names, everything.places.tolist(), strict=True))
    assert len(fewer.names) == 10
    assert all(places[name] == place for name, place in zip(fewer.names, fewer.places.tolist(), strict=True))


# Layouts ---------------------------------------------------------------------------------------------------


def test_pca_keeps_the_two_largest_variances():
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(400, 2, generator=generator) * torch.tensor([5.0, 2.0])
    axes = torch.linalg.qr(torch.randn(6, 6, generator=generator)).Q[:2]
    values = spread @ axes + 0.05 * torch.randn(400, 6, generator=generator) + 3
    flat = layouts.reduce(values, "pca", 0)
    for axis in range(2):
        assert abs(np.corrcoef(flat[:, axis], spread[:, axis])[0, 1]) > 0.99
    assert flat.min() == 0
    assert flat.max() == 1
    assert torch.equal(flat, layouts.reduce(values, "pca", 5))


def test_umap_gets_the_atlas_papers_settings(monkeypatch):
    asked = {}

    class UMAP:
        def __init__(self, **options):
            asked.update(options)

        def fit_transform(self, values):
            return values[:, :2]

    module = types.ModuleType("umap")
    module.__dict__.update(UMAP=UMAP, __spec__=importlib.machinery.ModuleSpec("umap", None))
    monkeypatch.setitem(sys.modules, "umap", module)
    values = torch.rand(12, 5, generator=torch.Generator().manual_seed(0))
    flat = layouts.reduce(values, "umap", 7)
    assert asked == {"n_components": 2, "n_neighbors": 11, "min_dist": 0.01, "metric": "cosine", "random_state": 7}
    assert np.corrcoef(flat[:, 1], values[:, 1])[0, 1] > 0.99


@pytest.mark.slow
def test_umap_lays_apart_what_differs():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randn(3, 8, generator=generator).repeat_interleave(30, 0)
    flat = layouts.reduce(groups + 0.05 * torch.randn(90, 8, generator=generator), "umap", 0)
    middles = torch.stack([flat[i : i + 30].mean(0) for i in (0, 30, 60)])
    spread = max(float((flat[i : i + 30] - middles[i // 30]).norm(dim=1).mean()) for i in (0, 30, 60))
    assert torch.pdist(middles).min() > 3 * spread


def test_cells_hold_what_lies_in_them():
    values = torch.tensor([[1.0, 0.0], [3.0, 2.0], [0.0, 5.0], [1.0, -1.0], [-1.0, 1.0]])
    places = torch.tensor([[0.0, 0.0], [0.49, 0.1], [1.0, 0.2], [0.1, 0.9], [0.2, 0.8]])
    found = layouts.cells(values, places, 2, 1)
    assert [(cell.row, cell.column, cell.members) for cell in found] == [(0, 0, [0, 1]), (0, 1, [2])]  # 3 + 4 are 0
    assert torch.equal(found[0].vector, torch.tensor([2.0, 1.0]))
    assert [(cell.row, cell.column) for cell in layouts.cells(values, places, 2, 2)] == [(0, 0)]


def test_whitening_is_the_inverse_of_the_correlation():
    values = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor(
        [10.0, 1.0, 1.0, 0.5], dtype=torch.float64
    )
    inverse = layouts.whitener(values.float())
    correlation = np.cov(values.numpy().T, bias=True) + np.outer(values.mean(0), values.mean(0))
    product = inverse.numpy() @ correlation
    np.testing.assert_allclose(np.diag(product), 1, atol=0.2)
    assert abs(product[0, 0] - 1) < 1e-3
    few = layouts.whitener(torch.rand(3, 50))
    assert torch.isfinite(few).all()


def test_a_whitened_direction_discounts_what_is_common(pictures, tmp_path, monkeypatch):
    asked = []
    real = activation_atlases.render
    monkeypatch.setattr(
        activation_atlases, "render", lambda model, targets, **o: (asked.extend(targets), real(model, targets, **o))[1]
    )
    atlas = fvfast.activation_atlas(colours(), "maps", pictures, out=tmp_path / "out", whiten=True, **SMALL)
    assert atlas.vectors is not None
    inverse = layouts.whitener(atlas.vectors.values)
    for cell, objective in zip(atlas.cells, asked, strict=True):
        expected = inverse @ cell.vector.double()
        torch.testing.assert_close(objective.vector.double(), expected / expected.norm(), atol=1e-5, rtol=0)
        assert objective.label == f"maps:cell {cell.row},{cell.column}"


# The command line ------------------------------------------------------------------------------------------


def test_the_command(cli, pictures, tmp_path):
    arguments = ("activation-atlas", "sketch_nets:tiny", "deep", pictures, "--out", tmp_path / "a", "--grid", 3)
    arguments = (*arguments, "--size", 32, "--steps", 2, "--reduce", "pca", "--device", "cpu")
    code, out, err = cli(*arguments, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["vectors"] == 12
    assert document["rendered"] == document["cells"] > 1
    code, out, _ = cli(*arguments)
    assert code == 0
    assert out.splitlines()[:2] == [
        f"12 activations in {document['cells']} cells",
        f"0 cells rendered; {document['cells']} were there before",
    ]


def test_ctrl_c_says_how_to_go_on(cli, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("fvfast.cli_activations.Board.stopped", lambda board: True)
    code, _, err = cli("activation-atlas", "sketch_nets:tiny", "deep", pictures, "--out", tmp_path / "a")
    assert code == 130
    assert err == "fvfast: interrupted; what was seen is kept, the same command goes on\n"


def test_unreadable_images_are_named_and_left_out(cli, pictures, tmp_path):
    (pictures / "red" / "1.png").write_bytes(b"no picture")
    code, _, err = cli(
        "activation-atlas", "sketch_nets:tiny", "deep", pictures, "--out", tmp_path / "a", "--reduce", "pca",
        "--grid", 2, "--size", 32, "--steps", 1, "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert err == f"fvfast: {pictures / 'red' / '1.png'} is not a readable image (UnidentifiedImageError)\n"
    assert json.loads((tmp_path / "a" / "atlas.json").read_text())["images"] == 11


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("deep", "nowhere"), "no folder nowhere"),
        (("deep", "empty"), "no images in empty: it takes .jpg"),
        (("deep", "broken"), "none of the images in broken could be read: broken/a.png is not a readable image"),
        (("dep", "pictures"), "has no layer 'dep' with a tensor output (did you mean deep"),
        (("logits", "pictures"), "logits has no grid of positions to choose from: take an earlier layer, or --average"),
        (("deep", "pictures", "--grid", 1), "--grid must be 2 to 200, not 1"),
        (("deep", "pictures", "--positions", 0), "--positions must be 1 or more, not 0"),
        (("deep", "pictures", "--least", 0), "--least must be 1 or more"),
        (("deep", "pictures", "--least", 20, "--reduce", "pca"), "no cell of the map holds 20 vectors"),
        (("deep", "pictures", "--reduce", "umep"), "unknown reduction 'umep' (did you mean umap?)"),
        (("deep", "pictures", "--size", 5), "size must be 16 to 1024 px, not 5"),
        (("deep", "three", "--reduce", "pca"), "3 activation vectors are too few for a map"),
    ],
)
def test_bad_input_is_one_sentence(cli, pictures, tmp_path, arguments, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"")
    (tmp_path / "three").mkdir()
    for number in range(3):
        PIL.Image.new("RGB", (16, 16), (number * 50, 9, 9)).save(tmp_path / "three" / f"{number}.png")
    code, out, err = cli("activation-atlas", "sketch_nets:tiny", *arguments, "--device", "cpu", "--steps", 1)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "activation-atlas" / "atlas.json").exists()


def test_umap_is_asked_for_before_any_work(cli, pictures, monkeypatch):
    monkeypatch.setattr(layouts.importlib.util, "find_spec", lambda name: None)
    code, _, err = cli("activation-atlas", "sketch_nets:tiny", "deep", pictures)
    assert code == 2
    assert err == "fvfast: --reduce umap needs umap-learn: pip install 'fvfast[umap]', or --reduce pca\n"
