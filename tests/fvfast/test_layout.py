"""What a GPU should find in a prepared network: channels last from the view to its gradient, and one gradient only."""

import pytest
import torch
import torchvision
from torch import nn

from fvfast import objectives as o
from fvfast import tracing
from fvfast.expressions import Context
from fvfast.prepare import keep_layout, prepare
from fvfast.pristine import pristine
from fvfast.together import Together

SIZE = 64
LAST = torch.channels_last


class Dense(nn.Module):
    """Convolutions that add up, and one whose output is concatenated."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.one = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.two = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.norm(self.one(x)).relu()
        return self.pool(torch.cat([x, self.two(x)], 1))


def mobilenet():
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v3_small(weights=None)


def fast(net, layer, dtype=torch.float32, wide=False):
    module = pristine(net, torch.device("cpu"))
    return prepare(module, tracing.trace(module, SIZE), [layer], SIZE, dtype, wide)


def gradients(network, layer, objective, keep):
    """(the gradient of the view, gradients [B, C, H, W] of convolutions' outputs that are not channels-last)."""
    lost = []

    def watch(module, inputs, output):
        def see(gradient):
            # Slices of a concatenation are strided; cuDNN copies them either way.
            if not gradient.is_contiguous(memory_format=LAST) and gradient.stride(1) != 1:
                lost.append(gradient.shape)

        output.register_hook(see)

    children = [child for child in network.folded.module.modules() if isinstance(child, nn.Conv2d)]
    handles = [child.register_forward_hook(watch) for child in children]
    view = torch.randn(2, 3, SIZE, SIZE).contiguous(memory_format=LAST).requires_grad_()
    activations = network.tap([layer])(view, [layer])
    if keep:
        keep_layout(activations.values())
    value = Together([(objective, 2)])(Context(activations, layers=network.layers))
    (gradient,) = torch.autograd.grad(value.sum(), view)
    for handle in handles:
        handle.remove()
    return gradient, lost


@pytest.mark.parametrize(("net", "layer"), [(Dense, "pool"), (mobilenet, "features.8")], ids=["dense", "mobilenet"])
@pytest.mark.parametrize("objective", [lambda layer: o.channel(layer, 1), o.layer, lambda layer: o.neuron(layer, 2)])
def test_the_objectives_gradient_is_brought_into_the_networks_layout_once(net, layer, objective):
    network = fast(net(), layer)
    plain, before = gradients(network, layer, objective(layer), keep=False)
    torch.manual_seed(0)
    kept, after = gradients(network, layer, objective(layer), keep=True)
    assert kept.is_contiguous(memory_format=LAST)
    assert after == []
    assert before or net is Dense  # without it, it is lost somewhere
    assert plain.shape == kept.shape


def leaves(tensor):
    """Every tensor that autograd's graph would put a gradient into."""
    found, seen, todo = [], set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo.extend(following for following, _ in node.next_functions)
    return found


@pytest.mark.parametrize("wide", [False, True])
def test_only_the_view_has_a_gradient(wide):
    network = fast(Dense(), "pool", torch.bfloat16 if wide else torch.float32, wide)
    assert network.channels == (4 if wide else 3)
    view = torch.randn(1, network.channels, SIZE, SIZE, dtype=torch.bfloat16 if wide else torch.float32)
    view.requires_grad_()
    activations = network.tap(["pool"])(view, ["pool"])
    value = Together([(o.channel("pool", 3), 1)])(Context(activations, layers=network.layers))
    assert [leaf is view for leaf in leaves(value.sum())] == [True]
    assert not any(p.requires_grad for p in network.folded.module.parameters())
