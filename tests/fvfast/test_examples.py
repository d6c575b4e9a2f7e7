"""Examples and neighbours: on a network whose channels are known, and images that are made to excite them."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from fvfast import evidence, examples, upkeep
from fvfast.atlases import atlas
from fvfast.examples import find, nearest
from fvfast.models import Model
from fvfast.store import Query, Store


class Colours(nn.Module):
    """Four channels: red, green, blue, and red less green; each over patches of 4 pixels."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Conv2d(3, 4, 1, bias=False)
        self.pool = nn.AvgPool2d(4)
        self.mix.weight.data = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, -1, 0]], dtype=torch.float32).view(
            4, 3, 1, 1
        )

    def forward(self, x):
        return self.pool(self.mix(x)).flatten(1)


@pytest.fixture
def colours() -> Model:
    return Model("colours", "none", Colours(), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), size=32)


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Grey pictures, one with a red spot, one with a green, one with a blue; one is no picture."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    spots = {"a.png": (255, 0, 0), "below/b.png": (0, 250, 0), "c.png": (0, 0, 255)}
    for name, colour in spots.items():
        array = np.full((64, 96, 3), 20, np.uint8)
        array[8:16, 56:64] = colour  # in the middle square from x = 16: seen at y 4-8, x 20-24 of 32
        PIL.Image.fromarray(array).save(folder / name)
    PIL.Image.fromarray(np.full((40, 40, 3), 120, np.uint8)).save(folder / "plain.png")
    (folder / "broken.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("not even called one")
    return folder


def test_each_channel_finds_its_picture_and_the_place_in_it(colours, pictures):
    told = []
    found = find(colours, "pool", pictures, store="kept", top=2, progress=lambda *at: told.append(at))
    assert (found.images, found.channels, found.examples, found.interrupted) == (4, 4, 8, False)
    assert found.failures == [f"{pictures / 'broken.jpg'} is not a readable image (UnidentifiedImageError)"]
    assert told == [(5, 5)]
    atlas(colours, "pool", size=32, steps=1, store="kept")
    with Store("kept") as store:
        assert upkeep.verify(store) == upkeep.Report(rows=4)
        entries = store.entries()
        best = [evidence.examples(store, entry) for entry in entries]
    assert [Path(e[0].source).name for e in best] == ["a.png", "b.png", "c.png", "a.png"]
    assert [e[0].activation for e in best] == pytest.approx([1.0, 250 / 255, 1.0, 1.0], abs=0.08)  # the edges blur
    assert all(e[0].activation >= e[1].activation for e in best)
    assert Path(best[0][1].source).name == "plain.png"
    for one in best[0][:1]:
        # A patch of 4 of 32 pixels, seen at half the size: a box of about 8 pixels about the spot.
        assert 4 <= one.box_right - one.box_left == one.box_bottom - one.box_top <= 10
        assert abs((one.box_left + one.box_right) / 2 - 60) <= 1
        assert abs((one.box_top + one.box_bottom) / 2 - 12) <= 1
        with PIL.Image.open(Path("kept") / one.image) as picture:
            middle = np.asarray(picture.convert("RGB")).astype(int)[picture.height // 2, picture.width // 2]
        assert middle[0] > 200
        assert max(middle[1:]) < 60


def test_whole_images_where_they_are_wanted(colours, pictures):
    find(colours, "pool", pictures, store="kept", top=1, whole=True)
    with Store("kept") as store:
        (row,) = store.execute("SELECT box_left, box_top, box_right, box_bottom FROM examples WHERE channel = 1")
    assert row == (16, 0, 80, 64)


def test_a_layer_without_places_shows_the_whole_square(tiny, pictures):
    find(tiny, "logits", pictures, store="kept", top=1)
    with Store("kept") as store:
        rows = store.execute("SELECT DISTINCT box_right - box_left, box_bottom - box_top FROM examples")
    assert set(rows) <= {(64, 64), (40, 40)}


def test_looking_again_replaces_what_was_there(colours, pictures, cli):
    find(colours, "pool", pictures, store="kept", top=3)
    for path in pictures.rglob("*.png"):
        PIL.Image.open(path).rotate(180).save(path)
    find(colours, "pool", pictures, store="kept", top=1)
    with Store("kept") as store:
        rows = store.execute("SELECT channel, rank, box_top FROM examples ORDER BY channel")
        assert [row[:2] for row in rows] == [(0, 0), (1, 0), (2, 0), (3, 0)]
        assert rows[0][2] > 40
        assert upkeep.verify(store).orphans != []
    assert cli("store", "gc", "--store", "kept")[0] == 0
    with Store("kept") as store:
        assert upkeep.verify(store) == upkeep.Report(rows=0)


def test_neighbours_by_cosine():
    red, green = torch.tensor([3.0, 0, 1, 0]), torch.tensor([0, 2.0, 0, 1])
    values = torch.stack([red, green, 2 * red + 5, -green, torch.ones(4)], 1)
    near = nearest(values, 2)
    assert [(n.channel, n.rank) for n in near] == [(c, r) for c in range(5) for r in range(2)]
    best = {n.channel: (n.other, n.cosine) for n in near if n.rank == 0}
    assert best[0] == (2, pytest.approx(1.0))
    assert best[2] == (0, pytest.approx(1.0))
    plain = np.corrcoef(red, -green)[0, 1]
    assert best[3] == (0, pytest.approx(plain, abs=1e-6)) or best[3] == (2, pytest.approx(plain, abs=1e-6))
    assert {n.cosine for n in near if n.channel == 4} == {0.0}  # a channel that never changes is like none
    assert nearest(values[:, :1], 3) == []


def test_the_reach_is_what_a_place_depends_on(nets, tiny):
    def reach(model, layer, size):
        module = model.module.eval()
        view, known = examples.tracing.input_size(module, size, model.size, model.name)
        with examples.Tap(module, known, [layer]) as tap:
            return examples.Look(tap, known[layer], model, torch.device("cpu"), view).reach()

    box = Model("x", "none", nn.Sequential(nn.AvgPool2d(8, 1)), size=64)
    assert reach(box, "0", 64) == pytest.approx(8 / 64, abs=1 / 64)
    assert reach(tiny, "logits", 32) == 1.0
    assert reach(tiny, "stem", 32) < reach(tiny, "deep", 32) < 0.5


def test_tokens_lie_where_their_patches_lie(nets):
    """A network of patches with a class token before them: the brightest patch is found where it is."""

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = Tokens()

        def forward(self, x):
            return self.tokens(x)[:, 0]

    class Tokens(nn.Module):
        def forward(self, x):
            patches = nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2)  # [B, 16, 3]
            return torch.cat([patches.mean(1, keepdim=True) + 9, patches], 1)

    model = Model("x", "none", Patches(), size=32)
    _, known = examples.tracing.input_size(model.module, 32, 32, "x")
    if known["tokens"].height is None:
        pytest.fail("17 tokens of 32 px are a class token and a grid of 4 x 4")
    with examples.Tap(model.module, known, ["tokens"]) as tap:
        look = examples.Look(tap, known["tokens"], model, torch.device("cpu"), 32)
        image = torch.zeros(1, 3, 32, 32)
        image[:, 1, 16:24, 8:16] = 1
        value, place = look.peaks(image)
    assert place[0, 1].tolist() == [2.5 / 4, 1.5 / 4]
    assert value[0, 1] == pytest.approx((1 - model.mean[1]) / model.std[1], abs=1e-5)


def test_the_command_and_what_the_store_shows(cli, pictures):
    code, out, err = cli("examples", "sketch_nets:tiny", "deep", pictures, "--store", "kept", "--size", 32, "--json")
    assert code == 0
    assert err == f"fvfast: {pictures / 'broken.jpg'} is not a readable image (UnidentifiedImageError)\n"
    document = json.loads(out)
    assert (document["images"], document["channels"], document["examples"]) == (4, 12, 48)
    assert cli("atlas", "sketch_nets:tiny", "deep", "--store", "kept", "--size", 32, "--steps", 1)[0] == 0
    shown = json.loads(cli("store", "show", "deep:3", "--store", "kept", "--json")[1])
    assert [e["rank"] for e in shown["examples"]] == [0, 1, 2, 3]
    assert all(Path(e["image"]).is_file() for e in shown["examples"])
    assert len(shown["neighbours"]) == 8
    assert shown["neighbours"][0]["cosine"] >= shown["neighbours"][7]["cosine"]
    out = cli("store", "show", "deep:3", "--store", "kept")[1]
    assert out.count("\nexample ") == 4
    assert f"deep:{shown['neighbours'][0]['other']}" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("sketch_nets:tiny", "dep", "pictures"), "has no layer 'dep'"),
        (("sketch_nets:tiny", "deep", "nowhere"), "no folder nowhere"),
        (("sketch_nets:tiny", "deep", "empty"), "no images in empty"),
        (("sketch_nets:tiny", "deep", "bad"), "none of the images in bad could be read: bad/x.png is not a readable"),
        (("sketch_nets:tiny", "deep", "pictures", "--top", "0"), "--top must be 1 or more"),
    ],
)
def test_bad_input_is_one_sentence(cli, pictures, arguments, sentence):
    for folder in ("empty", "bad"):
        Path(folder).mkdir()
    Path("bad/x.png").touch()
    code, out, err = cli("examples", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_a_stop_keeps_nothing(colours, pictures):
    found = find(colours, "pool", pictures, store="kept", stop=lambda: True)
    assert found.interrupted
    with Store("kept") as store:
        assert store.execute("SELECT count(*) FROM examples") == [(0,)]
        assert store.count(Query()) == 0
