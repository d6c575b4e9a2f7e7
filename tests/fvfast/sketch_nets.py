"""Networks small enough to reason about, each with one habit that a renderer may trip over."""

import os
import signal
import time

import torch
import torch.nn.functional as F
from torch import nn


def settle(module: nn.Module) -> nn.Module:
    """Give batch-norms statistics that matter: fresh ones are nearly the identity, which any mistake would pass."""
    generator = torch.Generator().manual_seed(7)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d) and child.running_mean is not None and child.running_var is not None:
            child.running_mean.copy_(torch.randn(child.num_features, generator=generator))
            child.running_var.copy_(torch.rand(child.num_features, generator=generator) + 0.3)
            if child.affine:
                child.weight.data.copy_(torch.rand(child.num_features, generator=generator) + 0.5)
                child.bias.data.copy_(torch.randn(child.num_features, generator=generator))
    return module


def unrecorded(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, by way of a random one: a network with a habit outside of its tensors must not be recorded."""
    return x + 0 * torch.rand((), dtype=x.dtype)


class Tiny(nn.Module):
    """conv, batch-norm and an in-place ReLU, twice; then ten logits."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.deep = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.deep_norm = nn.BatchNorm2d(12)
        self.deep_act = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(12, 10)
        settle(self)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        x = self.deep_act(self.deep_norm(self.deep(x)))
        return self.head(self.pool(x).flatten(1))


def tiny() -> nn.Module:
    return Tiny()


ready = nn.Conv2d(3, 4, 3)  # a module, not something that makes one
number = 3


def not_a_module():
    return [1, 2]


class Shared(nn.Module):
    """The first convolution's output goes through a batch-norm and, as it is, past it."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain
        self.early = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.mix = nn.Conv2d(6, 5, 1)
        settle(self)

    def forward(self, x):
        y = self.conv(self.early(x))
        return self.mix(self.norm(y) + self.gain * y)


class Twins(nn.Module):
    """One convolution with a batch-norm for each of two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.left = nn.BatchNorm2d(6)
        self.right = nn.BatchNorm2d(6)
        self.mix = nn.Conv2d(6, 5, 1)
        settle(self)

    def forward(self, x):
        y = self.conv(x)
        return self.mix(F.relu(self.left(y)) - F.relu(self.right(y)))


class ActiveNorm(nn.BatchNorm2d):
    """A batch-norm that holds its activation too, as timm's do."""

    def forward(self, input):
        return F.relu(super().forward(input))


class Mixed(nn.Module):
    """A plain pair of convolution and batch-norm, then one whose batch-norm does more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1)
        self.second_norm = ActiveNorm(6)
        settle(self)

    def forward(self, x):
        return self.second_norm(self.second(self.first_norm(self.first(x))))


class Functional(nn.Module):
    """In-place operations written as functions, on what a layer has just put out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.more = nn.Conv2d(6, 6, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        y += 1
        return self.more(F.relu_(y))


class Repeated(nn.Module):
    """One convolution, run three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.after = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.conv(x))
        return self.after(x)


class Reshaped(nn.Module):
    """An activation run first on a volume, which no target can name, and last on a map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.Tanh()

    def forward(self, x):
        y = self.act(self.conv(x)[:, None])  # [B, 1, C, H, W]
        return self.act(2 * y[:, 0])


class Counting(nn.Module):
    """Counts how often each half runs."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Conv2d(3, 4, 3, padding=1)
        self.deep = Tally()

    def forward(self, x):
        return self.deep(self.shallow(x))


class Tally(nn.Module):
    runs = 0

    def forward(self, x):
        Tally.runs += 1
        return x * 2


class ChannelsLast(nn.Module):
    """(B, H, W, C) maps, as swin's; channel k of `last` is k + 1 times the image's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3, 5, bias=False)
        weight = torch.arange(1.0, 6)[:, None].expand(5, 3) / 3
        self.last.weight.data.copy_(weight)

    def forward(self, x):
        return self.last(x.permute(0, 2, 3, 1))


class Tokens(nn.Module):
    """Patches of 8 px as tokens behind a class token, for images of 32 px only. `embed`: (B, 17, 6)."""

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.size = size
        self.patch = nn.Conv2d(3, 6, 8, stride=8)
        self.embed = nn.Identity()
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        if x.shape[-1] != self.size:
            raise AssertionError(f"only {self.size} px")
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        first = tokens.mean(1, keepdim=True)
        return self.head(self.embed(torch.cat([first, tokens], 1))[:, 0])


class Multiples(nn.Module):
    """Takes images whose side is a multiple of 32 only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        if x.shape[-1] % 32:
            raise ValueError("a multiple of 32, please")
        return self.conv(x)


class Mute(nn.Module):
    """`words` has no tensor in its output; `pair` gives a tuple, `named` a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.words = Words()
        self.pair = Pair()
        self.named = Named()

    def forward(self, x):
        y = self.conv(x)
        self.words(y)
        return self.named(self.pair(y)[0])["out"]


class Words(nn.Module):
    def forward(self, x):
        return "none"


class Pair(nn.Module):
    def forward(self, x):
        return x * 2, None


class Named(nn.Module):
    def forward(self, x):
        return {"note": "text", "out": x + 1}


class Exploding(nn.Module):
    """Channel 0 is a number for ever, channel 1 never."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
        self.root = Root()

    def forward(self, x):
        return self.root(self.conv(x))


class Root(nn.Module):
    def forward(self, x):
        return torch.stack([x[:, 0], x[:, 1] + float("nan")], 1)


class Flat(nn.Module):
    """Does not look at its image."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.out(torch.ones(len(x), 3, 4, 4))


class Buggy(nn.Module):
    """Fails at every size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        raise LookupError("a bug of its own")


class Slow(nn.Module):
    """Takes its time, so that there is something to interrupt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        time.sleep(0.05)
        return self.conv(unrecorded(x))


class Hungry(nn.Module):
    """48 MiB an image of 64 px, plus as much for its gradient, in one block."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = Widen()

    def forward(self, x):
        return self.wide(x).mean((2, 3))


class Widen(nn.Module):
    def forward(self, x):
        return x.repeat(1, 1024, 1, 1).square()


class Mortal(Tiny):
    """Kills the process that it runs in, at its 40th look at an image with a gradient; only the first such process."""

    looks = 0

    def forward(self, x):
        marker = os.environ.get("SKETCH_NETS_MARKER")
        if marker and x.requires_grad:
            Mortal.looks += 1
            if Mortal.looks == 40:
                try:
                    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(unrecorded(x))


class OnEdge(nn.Module):
    """Half of the first ReLU's channels get nothing but what float64 and float32 round differently."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.deep = nn.Conv2d(3, 64, 3), nn.Conv2d(64, 4, 3)
        with torch.no_grad():
            exact = F.conv2d(flat(3).double(), self.stem.weight.double())[0, :, 0, 0]
            self.stem.bias = nn.Parameter(torch.where(torch.arange(64) % 2 == 0, -exact, 0 * exact).float())

    def forward(self, x):
        return self.deep(F.relu(self.stem(x)))


def flat(size):
    """Every pixel alike, so that every place of an unpadded convolution's output is."""
    return torch.tensor([0.3, -0.7, 0.9]).view(1, 3, 1, 1).expand(1, 3, size, size).contiguous()
