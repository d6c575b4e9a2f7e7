import functools
import threading

import pytest
import torch
import torchvision
from torch import nn

from fvfast import layers, tracing
from fvfast.errors import FvfastError
from fvfast.layers import LOGITS, Layer, Tap, first_tensor


def image(size=32, count=1):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@functools.cache
def torchvision_net(name):
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(weights=None, **options).eval()


# trace -----------------------------------------------------------------------------------------------------


def test_layers_are_listed_in_the_order_of_the_forward_pass(tiny):
    found = tracing.trace(tiny.module.eval(), 32)
    assert list(found) == ["stem", "norm", "act", "deep", "deep_norm", "deep_act", "pool", "head", "logits"]
    assert found["deep"] == Layer("deep", "Conv2d", 12, 16, 16, None, False, 1)
    assert found["head"] == Layer("head", "Linear", 10, None, None, None, False, 1)
    assert found["logits"].channels == 10


def test_what_has_no_tensor_cannot_be_named(nets):
    found = tracing.trace(nets.Mute().eval(), 16)
    assert "words" not in found
    assert (found["pair"].channels, found["named"].channels) == (4, 4)


def test_channels_are_found_where_they_are(nets):
    found = tracing.trace(nets.ChannelsLast().eval(), 24)
    assert found["last"] == Layer("last", "Linear", 5, 24, 24, None, True, 1)


@pytest.mark.parametrize(
    ("name", "layer", "expected"),
    [
        ("swin_t", "features.3", (192, 8, 8, None, True)),
        ("swin_t", "features.0.0", (96, 16, 16, None, False)),
        ("convnext_tiny", "features.3", (192, 8, 8, None, False)),
        ("convnext_tiny", "features.1.0.block.3", (384, 16, 16, None, True)),
        ("resnet18", "layer2", (128, 8, 8, None, False)),
        ("googlenet", "inception3a", (256, 8, 8, None, False)),
    ],
)
def test_the_layout_of_known_networks(name, layer, expected):
    found = tracing.trace(torchvision_net(name), 64)[layer]
    assert (found.channels, found.height, found.width, found.tokens, found.channels_last) == expected


def test_a_vision_transformers_tokens_and_their_grid():
    net = torchvision.models.VisionTransformer(32, 8, 1, 2, 12, 24, num_classes=5).eval()
    found = tracing.trace(net, 32)
    block = found["encoder.layers.encoder_layer_0"]
    assert (block.channels, block.height, block.width, block.tokens, block.channels_last) == (12, 4, 4, 17, True)
    assert block.position(0, 0) == (1, 0)
    assert block.position(2, 3) == (1 + 2 * 4 + 3, 0)


@pytest.mark.parametrize(
    ("tokens", "grid"), [(196, 14), (197, 14), (201, 14), (202, None), (50, 7), (2, None), (64, 8)]
)
def test_tokens_before_the_grid(tokens, grid):
    class Net(nn.Module):
        def forward(self, x):
            return x.new_zeros(len(x), tokens, 8)

    found = tracing.trace(Net(), 16, layouts={LOGITS: "BTC"})[LOGITS]
    assert (found.height, found.width, found.tokens, found.channels) == (grid, grid, tokens, 8)


def test_a_repeated_layer_counts_its_calls_and_stands_last(nets):
    found = tracing.trace(nets.Repeated().eval(), 16)
    assert found["conv"].calls == 3
    assert found["after"].calls == 1
    found = tracing.trace(nets.Reshaped().eval(), 16)
    assert found["act"].calls == 2
    assert list(found) == ["conv", "act", "logits"]


def test_tracing_leaves_no_hook_and_no_gradient(tiny):
    tracing.trace(tiny.module.eval(), 32)
    assert not any(child._forward_hooks for child in tiny.module.modules())
    assert all(p.grad is None for p in tiny.module.parameters())


@pytest.mark.parametrize(
    ("output", "value"),
    [((None, ["x", 3.0], {"a": None, "b": torch.ones(2)}), torch.ones(2)), ({"a": "b"}, None), ("text", None)],
)
def test_the_first_tensor_of_an_output(output, value):
    found = first_tensor(output)
    assert (found is None) == (value is None)
    assert found is None or torch.equal(found, value)


# input_size ------------------------------------------------------------------------------------------------


def test_a_network_that_takes_any_size_sees_the_canvas_as_it_is(tiny):
    size, found = tracing.input_size(tiny.module.eval(), 48, 32, "tiny")
    assert size == 48
    assert found["deep"].height == 24


def test_a_network_of_one_size_sees_that_one(nets):
    size, found = tracing.input_size(nets.Tokens().eval(), 80, 32, "tokens")
    assert size == 32
    assert found["embed"].tokens == 17


@pytest.mark.parametrize(("size", "works"), [(20, 32), (50, 64), (230, 224), (500, 480)])
def test_a_size_that_does_not_fit_names_one_that_works(nets, size, works):
    with pytest.raises(FvfastError) as caught:
        tracing.input_size(nets.Multiples().eval(), size, 224, "multiples")
    assert str(caught.value) == f"multiples cannot take images of {size} px; use --size {works}"
    assert tracing.input_size(nets.Multiples().eval(), works, 224, "multiples")[0] == works


def test_too_small_for_vgg_names_the_smallest():
    class Pooled(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(3, 2, 3, padding=1), *(nn.MaxPool2d(2) for _ in range(5)), nn.Flatten(1))

    with pytest.raises(FvfastError, match=r"cannot take images of 17 px; use --size 32$"):
        tracing.input_size(Pooled().eval(), 17, 224, "pooled")


def test_a_network_that_fails_at_every_size_says_why_and_where(nets):
    with pytest.raises(
        FvfastError, match=r"buggy fails on .* LookupError: a bug of its own \(.*\.py, line \d+\)"
    ) as caught:
        tracing.input_size(nets.Buggy().eval(), 32, 32, "buggy")
    assert isinstance(caught.value.__cause__, LookupError)


def test_memory_that_runs_out_is_no_refusal_of_a_size(nets):
    class Greedy(nn.Module):
        def forward(self, x):
            return torch.empty(1, 1, x.shape[-1], 2**50) if x.shape[-1] > 64 else x

    with pytest.raises(RuntimeError, match="allocate"):
        tracing.input_size(Greedy(), 128, 64, "greedy")


def test_an_unknown_layer_is_named_with_its_nearest(tiny):
    found = tracing.trace(tiny.module.eval(), 32)
    with pytest.raises(FvfastError) as caught:
        layers.find(found, "deep_nrm", "tiny")
    assert "tiny has no layer 'deep_nrm' with a tensor output (did you mean deep_norm" in str(caught.value)
    assert str(caught.value).endswith("see `fvfast layers tiny`")


# Tap -------------------------------------------------------------------------------------------------------


def test_a_tap_hands_out_what_the_layers_put_out(tiny):
    net = tiny.module.eval()
    found = tracing.trace(net, 32)
    with torch.no_grad(), Tap(net, found, ["stem", "deep", "logits"]) as tap:
        got = tap(image(count=2))
        stem = net.stem(image(count=2))
        rest = net.deep(torch.relu(net.norm(stem)))
        torch.testing.assert_close(got["stem"], stem, rtol=0, atol=0)
        torch.testing.assert_close(got["deep"], rest, rtol=0, atol=0)
        torch.testing.assert_close(got["logits"][:, :, 0, 0], net(image(count=2)), rtol=0, atol=0)


@pytest.mark.parametrize("names", [["conv"], ["conv", "more"]])
def test_in_place_functions_behind_a_layer_leave_its_output_alone(nets, names):
    net = nets.Functional().eval()
    found = tracing.trace(net, 16)
    with torch.no_grad(), Tap(net, found, names) as tap:
        got = tap(image(16))["conv"]
        expected = nn.functional.conv2d(image(16), net.conv.weight, net.conv.bias, padding=1)
    assert expected.min() < -1  # which a ReLU would have cut off
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_the_gradient_passes_in_place_functions_behind_a_layer(nets):
    net = nets.Functional().eval()
    found = tracing.trace(net, 16)
    start = image(16).requires_grad_()
    with Tap(net, found, ["conv", "more"]) as tap:
        got = tap(start)
        (gradient,) = torch.autograd.grad(got["conv"].sum() + got["more"].sum(), start)
    conv = nn.functional.conv2d(start, net.conv.weight, net.conv.bias, padding=1)
    more = net.more(torch.relu(conv + 1))
    (expected,) = torch.autograd.grad(conv.sum() + more.sum(), start)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)  # one sum in another order


def test_the_pass_ends_at_the_deepest_layer_wanted(nets):
    net = nets.Counting().eval()
    found = tracing.trace(net, 16)
    with torch.no_grad(), Tap(net, found, ["shallow", "deep"]) as tap:
        before = nets.Tally.runs
        tap(image(16), ["shallow"])
        assert nets.Tally.runs == before
        tap(image(16), ["deep"])
        assert nets.Tally.runs == before + 1
        tap(image(16))
        assert nets.Tally.runs == before + 2


def test_a_repeated_layer_gives_its_last_output(nets):
    net = nets.Repeated().eval()
    found = tracing.trace(net, 16)
    x = image(16)
    with torch.no_grad(), Tap(net, found, ["conv"]) as tap:
        expected = net.conv(torch.tanh(net.conv(torch.tanh(net.conv(x)))))
        torch.testing.assert_close(tap(x)["conv"], expected, rtol=0, atol=0)


def test_a_layer_whose_first_call_no_target_can_name_gives_its_last(nets):
    net = nets.Reshaped().eval()
    found = tracing.trace(net, 16)
    x = image(16)
    with torch.no_grad(), Tap(net, found, ["act"]) as tap:
        torch.testing.assert_close(tap(x)["act"], torch.tanh(2 * torch.tanh(net.conv(x))), rtol=0, atol=0)


def test_channels_come_first_whatever_the_network_thinks(nets):
    net = nets.ChannelsLast().eval()
    found = tracing.trace(net, 16)
    x = image(16)
    with torch.no_grad(), Tap(net, found, ["last"]) as tap:
        got = tap(x)["last"]
    assert got.shape == (1, 5, 16, 16)
    for channel in range(5):
        torch.testing.assert_close(got[:, channel], (channel + 1) * x.mean(1), rtol=1e-5, atol=1e-6)


def test_tokens_come_as_channels_by_positions(nets):
    net = nets.Tokens().eval()
    found = tracing.trace(net, 32)
    x = image(32)
    with torch.no_grad(), Tap(net, found, ["embed"]) as tap:
        got = tap(x)["embed"]
        patches = net.patch(x)  # [1, 6, 4, 4]
    assert got.shape == (1, 6, 17, 1)
    for y, x_ in ((0, 0), (1, 2), (3, 3)):
        row, column = found["embed"].position(y, x_)
        torch.testing.assert_close(got[0, :, row, column], patches[0, :, y, x_], rtol=0, atol=0)


def test_a_tuple_or_dictionary_gives_its_first_tensor(nets):
    net = nets.Mute().eval()
    found = tracing.trace(net, 16)
    x = image(16)
    with torch.no_grad(), Tap(net, found, ["pair", "named"]) as tap:
        got = tap(x)
        torch.testing.assert_close(got["pair"], 2 * net.conv(x), rtol=0, atol=0)
        torch.testing.assert_close(got["named"], 2 * net.conv(x) + 1, rtol=0, atol=0)


def test_closing_removes_every_hook_and_stops_nothing(tiny):
    net = tiny.module.eval()
    found = tracing.trace(net, 32)
    with Tap(net, found, ["stem", "deep"]):
        assert sum(len(child._forward_hooks) for child in net.modules()) == 2
        assert net(image()).shape == (1, 10)  # a call that is not the tap's runs through
    assert not any(child._forward_hooks for child in net.modules())


def test_an_error_in_the_network_passes_through_and_leaves_the_tap_usable(tiny):
    net = tiny.module.eval()
    found = tracing.trace(net, 32)
    with torch.no_grad(), Tap(net, found, ["deep"]) as tap:
        with pytest.raises(RuntimeError):
            tap(torch.zeros(1, 4, 32, 32))
        assert tap(image())["deep"].shape == (1, 12, 16, 16)
        assert net(image()).shape == (1, 10)


def test_one_tap_serves_threads_that_want_different_layers(tiny):
    net = tiny.module.eval()
    found = tracing.trace(net, 32)
    names = ["stem", "deep", "logits"]
    with Tap(net, found, names) as tap:
        with torch.no_grad():
            expected = {(name, i): tap(image() + i, [name])[name] for name in names for i in range(3)}
        wrong = []

        def work(name):
            with torch.no_grad():
                for turn in range(30):
                    got = tap(image() + turn % 3, [name])
                    if set(got) != {name} or not got[name].equal(expected[name, turn % 3]):
                        wrong.append((name, turn))

        crew = [threading.Thread(target=work, args=(name,)) for name in names]
        for member in crew:
            member.start()
        for member in crew:
            member.join()
    assert not wrong
