"""Neurons at a transformer's tokens: the class token, and any other by number."""

import pytest
import torch
from torch import nn

import fvfast
from fvfast import objectives as o
from fvfast import targets, tracing
from fvfast.errors import FvfastError
from fvfast.expressions import Context
from fvfast.models import Model
from fvfast.together import Together


@pytest.fixture
def sketch(nets):
    """A model with a class token before 4 x 4 patches in `embed`, and its layers."""
    torch.manual_seed(0)
    model = Model("tokens", "none", nets.Tokens(), size=32)
    return model, tracing.trace(model.module.eval(), 32)


def tokens(model, images):
    """What `embed` puts out for images as fvfast feeds them, [B, T, C], by a hook on the module itself."""
    seen = []
    handle = model.module.embed.register_forward_hook(lambda module, inputs, output: seen.append(output))
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.mean, model.std))
    with torch.no_grad():
        model.module.eval()((images - mean) / std)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize(
    ("text", "meant", "token"),
    [
        ("embed:3@cls", o.neuron("embed", 3, token="cls"), 0),
        ("embed:3@token0", o.neuron("embed", 3, token=0), 0),
        ("embed:5@token16", o.neuron("embed", 5, token=16), 16),
        ("embed:2@1,2", o.neuron("embed", 2, 1, 2), 7),
        ("embed:2@centre", o.neuron("embed", 2), 11),
        ("embed:2@centre,0", o.neuron("embed", 2, None, 0), 9),
    ],
)
def test_a_token_is_the_one_that_the_network_has_there(sketch, text, meant, token):
    model, found = sketch
    assert targets.parse(text, found, model) == [meant]
    assert targets.label(meant, model) == text
    made = fvfast.render(model, text, size=32, steps=2)
    expected = tokens(model, made.images)[0, token, meant.channel]
    assert made.objective[0] == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert made.targets == [text]


def test_tokens_and_positions_share_one_gather(sketch):
    _, found = sketch
    maps = torch.rand(4, 6, 17, 1)
    wanted = [o.neuron("embed", 3, token="cls"), o.neuron("embed", 1, token=9), o.neuron("embed", 2, 0, 1)]
    together = Together([(wanted[0], 2), (wanted[1], 1), (wanted[2], 1)])
    context = Context({"embed": maps}, layers=found)
    expected = torch.stack([maps[0, 3, 0, 0], maps[1, 3, 0, 0], maps[2, 1, 9, 0], maps[3, 2, 2, 0]])
    assert torch.equal(together(context), expected)
    assert together.take_over([(wanted[2], 2), (wanted[0], 1), (wanted[1], 1)])
    expected = torch.stack([maps[0, 2, 2, 0], maps[1, 2, 2, 0], maps[2, 3, 0, 0], maps[3, 1, 9, 0]])
    assert torch.equal(together(context), expected)


class Patches(nn.Module):
    """Patches as tokens, none of them a class's: 4 x 4 in `embed`, 15 in no grid in `some`."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 8, stride=8)
        self.embed, self.some, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.embed(self.patch(x).flatten(2).transpose(1, 2))
        return self.head(self.some(x[:, :15]).mean(1))


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        (o.neuron("embed", 1, token="cls"), "embed has no class token: all 16 tokens are patches"),
        (o.neuron("some", 1, token="cls"), "which of the 15 tokens of some is a class token is not to be seen"),
        (o.neuron("patch", 1, token="cls"), "patch has no tokens"),
        (o.neuron("head", 1, token=0), "head has no tokens"),
        (o.neuron("embed", 1, token=16), "embed has tokens 0-15 at this size, not 16"),
        (o.neuron("embed", 1, token=-1), "embed has tokens 0-15 at this size, not -1"),
        (o.neuron("embed", 1, token="class"), "embed has tokens 0-15 at this size, not 'class'"),
        (o.neuron("embed", 6, token=1), "embed has channels 0-5, not 6"),
        (o.neuron("embed", 1, 2, 3, token=1), "at a token or at a row and column"),
    ],
)
def test_a_token_that_is_not_there_is_refused(objective, sentence):
    with pytest.raises(FvfastError, match=sentence):
        fvfast.render(Model("patches", "none", Patches(), size=32), objective, size=32, steps=1)
