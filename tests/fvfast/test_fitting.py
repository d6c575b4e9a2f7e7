"""Networks that want something of their own: one size, more than an image, or to be told which axis is which."""

import json

import by_hand
import pytest
import torch
from torch import nn

import fvfast
from fvfast.errors import FvfastError


def classifier(side, viewed=True):
    """As every tutorial has it: convolutions, a flattened map, a linear layer, for one size only."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.out = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 8, 3)
            self.length = 8 * ((side - 4) // 2 - 2) ** 2
            self.head = nn.Linear(self.length, 10)

        def forward(self, x):
            y = self.out(torch.max_pool2d(torch.relu(self.first(x)), 2))
            return self.head(y.view(-1, self.length) if viewed else y.flatten(1))

    return Net().eval()


@pytest.mark.parametrize("side", [28, 32, 96])
def test_a_network_of_one_size_is_rendered_at_that_size(side):
    made = fvfast.render(classifier(side, viewed=False), "out:3", steps=2)
    # 8 x 8 places and fewer fit a side and the next: the one that is more usual is taken
    assert made.size in (side, side + 1)
    right = by_hand.channel(classifier(side, viewed=False), "out", made.images, 3)
    assert float(made.objective) == pytest.approx(right, rel=1e-3)


def test_another_canvas_is_brought_to_the_size_that_the_network_takes():
    made = fvfast.render(classifier(32), "out:3", size=64, steps=2)
    assert made.images.shape == (1, 3, 64, 64)
    assert made.notes == ["Net sees images of 32 px: the canvas of 64 px is brought to that size"]


@pytest.mark.parametrize("target", ["first:2", "out:3", "head:4", "logits:5"])
def test_a_map_that_is_viewed_as_a_row(target):
    """`y.view(len(y), -1)` allows of one order in memory only, which is not the fastest for convolutions."""
    made = fvfast.render(fvfast.load(classifier(32), size=32), target, steps=3)
    layer, _, number = target.partition(":")
    right = by_hand.channel(classifier(32), "" if layer == "logits" else layer, made.images, int(number))
    assert float(made.objective) == pytest.approx(right, rel=1e-3, abs=1e-6)
    assert made.form == "fused"


def test_a_network_that_takes_no_size_says_why():
    class Never(nn.Module):
        def forward(self, x):
            return x @ torch.zeros(3, 3)[:0]

    with pytest.raises(
        FvfastError, match=r"Never fails on an image of 3 channels and 224 px: RuntimeError: .*line \d+"
    ):
        fvfast.render(Never(), "logits:0", steps=1)


# More than an image ------------------------------------------------------------------------------------------


class Captioned(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.see, self.read, self.out = nn.Conv2d(3, 8, 3), nn.Linear(4, 8), nn.Conv2d(8, 4, 1)

    def forward(self, image, text, scale=1.0):
        return self.out(self.see(image) * self.read(text)[..., None, None] * scale)


TEXT = torch.rand(1, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inputs", [{"text": TEXT}, {"text": TEXT.double()}, (TEXT,), (TEXT, 2.0)])
def test_what_a_network_takes_besides_the_image(inputs):
    net = Captioned().eval()
    made = fvfast.render(fvfast.load(net, inputs=inputs), ["out:1", "out:3"], size=16, steps=2, batch=2)
    scale = 2.0 if len(inputs) == 2 else 1.0
    with torch.no_grad():
        right = net((made.images - by_hand.MEAN) / by_hand.STD, TEXT, scale)
    for row, number in enumerate((1, 3)):
        assert float(made.objective[row]) == pytest.approx(float(right[row, number].mean()), rel=1e-3, abs=1e-6)


def test_without_it_the_sentence_says_how_to_give_it():
    with pytest.raises(
        FvfastError, match=r'wants more than an image: give it text with fvfast.load\(model, inputs={"te'
    ):
        fvfast.render(Captioned(), "out:1", size=16, steps=1)


# Told on the command line ------------------------------------------------------------------------------------

NETS = """
import torch
from torch import nn

class Cube(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(3 * 256, 216))
    def forward(self, x):
        return (x.flatten(1) @ self.weight).unflatten(1, (6, 6, 6))
"""


def test_a_layout_is_said_on_the_command_line(cli, tmp_path, monkeypatch):
    (tmp_path / "cubes.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    what = ("cubes:Cube", "logits:2", "--size", 16, "--steps", 2)
    code, _, said = cli("render", *what)
    assert code == 2
    assert "--layout logits=BCHW or BHCW or BHWC" in said
    values = {}
    for layout in ("BCHW", "BHWC"):
        code, out, _ = cli("render", *what, "--layout", f"logits={layout}", "--out", layout, "--json")
        assert code == 0
        (made,) = json.loads(out)["renders"]
        values[layout] = made["objective_end"]
        code, out, _ = cli("render", "--from", made["file"], "--out", "again", "--json")
        assert (code, json.loads(out)["renders"][0]["objective_end"]) == (0, values[layout])
    assert values["BCHW"] != values["BHWC"]
    code, out, _ = cli("layers", "cubes:Cube", "--size", 16, "--layout", "logits=BHWC")
    assert code == 0
    assert "6x6" in out


@pytest.mark.parametrize("text", ["logits", "logits=", "=BCHW", "logits=BXC", "logits=BBCC"])
def test_a_layout_that_is_none(cli, text):
    code, _, said = cli("render", "sketch_nets:tiny", "deep:1", "--layout", text, "--steps", 1)
    assert code == 2
    assert said.count("\n") == 1
