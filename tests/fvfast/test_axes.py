"""Where a layer has its channels: told from its kind, its sizes and numbers of images, never from how a shape looks."""

import by_hand
import pytest
import torch
from torch import nn

import fvfast
from fvfast import axes, tracing
from fvfast.errors import FvfastError
from fvfast.layers import LOGITS


def seeded(make):
    torch.manual_seed(0)
    return make().eval()


class Moved(nn.Module):
    """A convolution's map with its axes in another order, and back; `moved` is an Identity in that order."""

    def __init__(self, order, channels=6):
        super().__init__()
        self.conv, self.moved, self.order = nn.Conv2d(3, channels, 4, 4), nn.Identity(), order
        self.out = nn.Conv2d(channels, 4, 1)

    def forward(self, x):
        found = self.moved(self.conv(x).permute(self.order))
        back = [self.order.index(a) for a in range(4)]
        return self.out(found.permute(back))


class Sequence(nn.Module):
    """Patches as a sequence: (L, B, C), (B, L, C) or (B, C, L), through a layer of one's choice."""

    def __init__(self, layout, layer):
        super().__init__()
        self.patch, self.layout, self.layer, self.last = nn.Conv2d(3, 16, 8, 8), layout, layer, nn.Identity()

    def forward(self, x):
        found = self.patch(x).flatten(2)  # [B, C, L]
        found = {"BCL": found, "BLC": found.transpose(1, 2), "LBC": found.permute(2, 0, 1)}[self.layout]
        found = self.layer(found)
        found = found[0] if isinstance(found, tuple) else found
        return self.last(found)


def flat(*parts):
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2), *parts)


class Pooled(nn.Module):
    """A map of a size of its own, whatever the image's: 6 channels on a grid of 6 x 6, or 5 x 7."""

    def __init__(self, grid, last):
        super().__init__()
        self.conv, self.pool, self.last, self.after = (
            nn.Conv2d(3, 6, 3),
            nn.AdaptiveAvgPool2d(grid),
            last,
            nn.Identity(),
        )
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        found = self.pool(torch.relu(self.conv(x)))
        return self.head(self.after(found.permute(0, 2, 3, 1) if self.last else found.permute(0, 2, 3, 1) * 1)).mean(
            (1, 2)
        )


# (network, size, layer, axis of the channels): each with sizes at which a shape alone says nothing, or the wrong thing.
TRUE = {
    "second": (lambda: Moved((0, 1, 2, 3)), 24, "moved", 1),
    "last": (lambda: Moved((0, 2, 3, 1)), 24, "moved", 3),
    "between": (lambda: Moved((0, 2, 1, 3)), 24, "moved", 2),
    "grid equals channels": (lambda: Moved((0, 2, 3, 1), 8), 32, "moved", 3),
    "images come second": (lambda: Moved((1, 0, 2, 3)), 24, "moved", 0),
    "sequence first": (lambda: Sequence("LBC", nn.LayerNorm(16)), 32, "layer", 2),
    "sequence first encoder": (lambda: Sequence("LBC", nn.TransformerEncoderLayer(16, 2, 32, 0.0)), 32, "layer", 2),
    "within the encoder": (lambda: Sequence("LBC", nn.TransformerEncoderLayer(16, 2, 32, 0.0)), 32, "layer.linear1", 2),
    "sequence first lstm": (lambda: Sequence("LBC", nn.LSTM(16, 5)), 32, "layer", 2),
    "lstm": (lambda: Sequence("BLC", nn.LSTM(16, 5, batch_first=True)), 32, "layer", 2),
    "gru both ways": (lambda: Sequence("BLC", nn.GRU(16, 5, bidirectional=True, batch_first=True)), 32, "layer", 2),
    "attention": (
        lambda: Sequence("BLC", nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)),
        32,
        "layer",
        2,
    ),
    "conv1d": (lambda: Sequence("BCL", nn.Conv1d(16, 5, 3)), 32, "layer", 1),
    "after conv1d": (lambda: Sequence("BCL", nn.Conv1d(16, 16, 1)), 32, "last", 1),
    "tokens equal channels": (lambda: Sequence("BLC", nn.Linear(16, 16)), 32, "layer", 2),
    "channels equal tokens": (lambda: Sequence("BCL", nn.Conv1d(16, 16, 1)), 32, "layer", 1),
    "flattened": (lambda: flat(nn.BatchNorm1d(8), nn.MaxPool1d(2)), 32, "1", 1),
    "pooled in a row": (lambda: flat(nn.AdaptiveAvgPool1d(8)), 32, "2", 1),
    "unfolded": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Unfold(3)), 16, "1", 1),
    "pooled map": (lambda: Pooled((6, 6), False), 24, "pool", 1),
    "pooled map that is not square": (lambda: Pooled((5, 7), False), 24, "pool", 1),
    "head on a map": (lambda: Pooled((6, 6), True), 24, "head", 3),
    "volume": (lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 2), nn.ReLU()), 16, "1", 1),
    "after a volume": (lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 4, 2), nn.ReLU()), 16, "2", 1),
    "wide strides": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, (4, 2)), nn.Tanh()), 32, "1", 1),
}


@pytest.mark.parametrize("case", TRUE)
def test_a_channel_is_a_channel(case):
    make, size, layer, axis = TRUE[case]
    net = seeded(make)
    made = fvfast.render(fvfast.load(net, size=size), f"{layer}:2", size=size, steps=2)
    assert float(made.objective) == pytest.approx(by_hand.channel(net, layer, made.images, 2, axis), rel=1e-3, abs=1e-6)
    found = tracing.trace(net, size)
    assert found[layer].channels == by_hand.output(net, layer, made.images).shape[axis]
    with pytest.raises(FvfastError, match=rf"channels 0-{found[layer].channels - 1}"):
        fvfast.render(net, f"{layer}:{found[layer].channels}", size=size, steps=2)


def test_one_number_an_image_is_one_channel():
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 1, 16), nn.Flatten(0)))
    made = fvfast.render(net, "1:0", size=16, steps=2)
    assert float(made.objective) == pytest.approx(float(by_hand.output(net, "1", made.images)), rel=1e-4)


# What does not tell ----------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """Takes one size only, and puts out something made without any layer that would tell, (B, 6, 6, 6)."""

    def __init__(self, shape=(6, 6, 6)):
        super().__init__()
        self.weight, self.shape = nn.Parameter(torch.randn(3 * 16 * 16, 6**3)), shape

    def forward(self, x):
        return (x.flatten(1) @ self.weight[:, : torch.Size(self.shape).numel()]).unflatten(1, self.shape)


@pytest.mark.parametrize("shape", [(6, 6, 6), (5, 6, 6), (6, 6, 5), (6, 5, 6), (12, 7), (7, 7)])
def test_a_shape_that_does_not_tell_is_refused_until_it_is_told(shape):
    net = seeded(lambda: Fixed(shape))
    with pytest.raises(FvfastError, match=r"does not tell which axis holds the channels: say so with --layout logits="):
        fvfast.render(net, "logits:2", size=16, steps=2)
    for axis in range(1, len(shape) + 1):
        layout = axes.spelt(len(shape) + 1, 0, axis)
        made = fvfast.render(fvfast.load(net, size=16, layouts={LOGITS: layout}), "logits:2", size=16, steps=2)
        by = by_hand.channel(net, "", made.images, 2, axis)
        assert float(made.objective) == pytest.approx(by, rel=1e-3, abs=1e-6)


def test_a_layout_of_another_length_is_refused():
    net = seeded(lambda: Fixed((6, 6, 6)))
    with pytest.raises(FvfastError, match="has 4 axes, its layout BTC has 3"):
        fvfast.render(fvfast.load(net, size=16, layouts={LOGITS: "BTC"}), "logits:2", size=16, steps=2)


def test_windows_in_the_axis_of_images_are_no_layer():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.inside, self.out = nn.Conv2d(3, 6, 4, 4), nn.Linear(6, 6), nn.Conv2d(6, 4, 1)

        def forward(self, x):
            found = self.conv(x)
            b, c, h, w = found.shape
            rows = self.inside(found.permute(0, 2, 3, 1).reshape(b * h, w, c)).reshape(b, h, w, c)
            return self.out(rows.permute(0, 3, 1, 2))

    with pytest.raises(FvfastError, match=r"inside of Windows cannot be a target: .* mixes images with positions"):
        fvfast.render(seeded(Windows), "inside:2", size=32, steps=2)


# The letters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout", ["B", "BC", "CB", "BTC", "BCT", "TBC", "BCHW", "BHWC", "HWBC", "CBHW", "BCDHW", "BDHWC"]
)
def test_what_was_laid_out_comes_back(layout):
    sizes = {"B": 2, "C": 3, "T": 4, "H": 5, "W": 6, "D": 7}
    shape = [sizes[a] for a in layout]
    output = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    maps = axes.standard(output, layout)
    assert maps.dim() == 4
    assert maps.shape[:2] == (2, 3 if "C" in layout else 1)
    assert axes.original(maps, layout, tuple(shape)).equal(output)
    if "C" in layout:
        channel = output.select(layout.index("C"), 1)
        assert maps[:, 1].sum().equal(channel.sum())
