"""What a user would do to see whether a render is true: hook the network as it is, and look at the picture with it."""

import copy

import torch

MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


def output(net, layer, pictures, mean=MEAN, std=STD):
    """What a layer puts out for pictures [B, C, H, W] in 0..1, by a forward hook; the network's own output for "".

    net: in eval mode, and a copy where passes leave something behind. A later in-place operation does not show.
    """
    seen = []
    net.eval()
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append(_first(o).clone()))
    torch.manual_seed(0)
    try:
        with torch.no_grad():
            net((pictures - mean) / std)
    finally:
        handle.remove()
    return seen[-1]


def _first(found):
    while not isinstance(found, torch.Tensor):
        found = next(iter(found.values() if isinstance(found, dict) else found))
    return found


def channel(net, layer, pictures, number, axis=1, **how):
    """The mean of a channel, of one picture."""
    return float(output(net, layer, pictures, **how).select(axis, number).mean())


def alone_and_together(render, net, targets, **options):
    """How far the pictures that are rendered side by side are from those that are rendered alone."""
    together = render(copy.deepcopy(net), targets, **options).images
    apart = [render(copy.deepcopy(net), target, **options).images[0] for target in targets]
    return max(float((one - other).abs().max()) for one, other in zip(together, apart, strict=True))
