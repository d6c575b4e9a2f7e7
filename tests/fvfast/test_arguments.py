"""Arguments of other types than those that are meant: taken where they mean the same, else refused in a sentence."""

import decimal
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import fvfast
from fvfast import examples
from fvfast.compat.lucent.optvis import objectives as lucent
from fvfast.errors import FvfastError
from fvfast.objectives import (
    blur,
    channel,
    direction,
    diversity,
    l1,
    l2,
    layer,
    logit,
    mixture,
    neuron,
)

HUGE = 10**5000  # more digits than Python writes
NO_NUMBERS = ["20", True, np.bool_(True), math.nan, math.inf, [20], np.array([20]), b"20", 1j, {}, object()]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    modules = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return fvfast.load(nn.Sequential(*modules), size=32)


def render(model, target: Any = "0:3", **options: Any):
    return fvfast.render(model, target, **{"size": 16, "steps": 2, **options})


def refused(call, *arguments, **options):
    with pytest.raises(FvfastError) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 300
    return sentence


# Numbers ---------------------------------------------------------------------------------------------------

COUNTS = ["size", "steps", "seed", "copies", "batch", "threads", "every", "frames", "patience", "interpolate"]


@pytest.mark.parametrize("name", [*COUNTS, "lr", "snapshots"])
def test_what_is_no_number_is_refused(net, name):
    more = {"target": ["0:1", "0:2"]} if name == "interpolate" else {}
    for value in [*NO_NUMBERS, HUGE, -HUGE, -1]:
        if name == "snapshots" and isinstance(value, (list, np.ndarray)):
            continue  # these are steps
        assert name in refused(render, net, **{**more, name: value})


@pytest.mark.parametrize("value", [20.0, np.int64(20), np.float32(20), torch.tensor(20), decimal.Decimal(20)])
def test_whole_numbers_of_any_type_are_the_number(net, value):
    result = render(net, size=value, steps=value, seed=value, every=value, patience=value, threads=value, lr=value)
    assert (result.size, result.seeds, result.recipes[0].steps, result.recipes[0].lr) == (20, [20], 20, 20.0)
    assert result.images.equal(render(net, size=20, steps=20, seed=20, every=20, patience=20, threads=20, lr=20).images)


def test_a_canvas_is_square(net):
    for size in ((48, 32), [48], (16, 16, 3), np.array([16, 20]), "48x48"):
        assert "size must be" in refused(render, net, size=size)
    for size in ((20, 20), [20, 20.0], np.array([20, 20]), torch.Size((20, 20))):
        assert render(net, size=size).images.shape == (1, 3, 20, 20)


def test_numbers_beyond_what_can_be_made_are_refused(net):
    for name, value in (("steps", 10**9), ("threads", 10**9), ("copies", 10**9), ("seed", 2**63), ("lr", 1e30)):
        assert f"{name} must be" in refused(render, net, **{name: value})
    assert render(net, patience=10**9).steps == 2  # a plateau that cannot be reached
    assert refused(render, net, snapshots=[1, HUGE]).startswith("a snapshot's step must be at most")


# Other arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, "torch.float32", "float32", np.float32, np.dtype("float32")])
def test_a_dtype_may_be_torchs_own(net, dtype):
    assert render(net, dtype=dtype).dtype == "float32"
    for other in (3, 2.5, ["float32"], object()):
        assert "dtype must be a name such as 'float32'" in refused(render, net, dtype=other)
    assert "unknown dtype 'int8'" in refused(render, net, dtype=torch.int8)


@pytest.mark.parametrize("name", ["recipe", "image", "network", "magnitude", "device", "weights", "alpha", "align"])
def test_names_files_and_flags_of_another_type(net, name):
    for value in (3, 2.5, [1], object(), HUGE):
        assert name in refused(render, net, **{name: value})


@pytest.mark.parametrize("name", ["progress", "preview", "stop", "notify"])
def test_what_is_called_back_is_callable(net, name):
    for value in ("print", 3, [print]):
        assert refused(render, net, **{name: value}).startswith(f"{name} must be a function")


def test_snapshots_are_a_number_or_steps(net):
    for steps in ([0, 1], (0, 1.0), range(2), np.array([0, 1]), torch.tensor([0, 1])):
        assert [step for step, _ in render(net, snapshots=steps).snapshots[0]] == [0, 1]
    for steps in ("01", ["1"], [True], [-1], {0: 1}, True, 0):
        assert "snapshot" in refused(render, net, snapshots=steps)


# Targets ---------------------------------------------------------------------------------------------------


def test_pairs_and_modules_are_targets(net):
    conv, head = net.module[0], net.module[4]
    expected = render(net, ["0:3", "0", "4", "4:1"])
    result = render(net, [("0", 3.0), conv, nn.DataParallel(head), (head, np.int64(1))])
    assert result.targets == expected.targets == ["0:3", "0", "4", "4:1"]
    assert result.images.equal(expected.images)
    assert render(net, ("0", 3)).targets == ["0:3"]
    assert render(net, ("0", "4")).targets == ["0", "4"]  # two strings are two targets
    assert render(net, (t for t in ("0:1", channel("0", 2)))).targets == ["0:1", "0:2"]


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (lambda T: T("0").mean(), "a function is no target: write 'LAYER:CHANNEL', or take one of fvfast.objectives;"),
        ([channel], "fvfast.compat.lucent renders functions as lucent does"),
        (lucent.channel("0", 3), "is rendered by its own render_vis"),
        (torch.ones(8), "a tensor of shape [8] is no target: a direction in a layer is fvfast.objectives.direction"),
        ([None], "None is no target"),
        (3, "3 is no target"),
        (["0", 3], "3 is no target"),
        ({"0": 3}, "{'0': 3} is no target"),
        ({"0:1"}, "a set has no order, give a list"),
        ([["0:1"]], "['0:1'] is no target"),
        (b"0:1", "is no target"),
        (Path("0"), "is no target"),
        ([HUGE], "something of type int too long to show is no target"),
        ("", "'' is no target"),
        ([""], "'' is no target"),
        (nn.Conv2d(3, 8, 3), "this Conv2d is no part of the network that is rendered"),
        (nn.Conv2d, "is no target"),
        (("0", True), "a channel must be a whole number, not True"),
        (("0", 2.5), "a channel must be a whole number, not 2.5"),
        (("0", 8), "0 has channels 0-7, not 8"),
    ],
)
def test_what_is_no_target_is_named(net, target, sentence):
    assert sentence in refused(render, net, target)


def test_the_network_itself_is_no_target(net):
    for target in (net.module, [net.module], nn.DataParallel(net.module)):
        assert "the network itself is no target: name a layer" in refused(render, net, target)


# Objectives ------------------------------------------------------------------------------------------------

MAKERS = {
    "channel": lambda value: channel("0", value),
    "neuron": lambda value: neuron("0", value),
    "row": lambda value: neuron("0", 1, value, 2),
    "column": lambda value: neuron("0", 1, 2, value),
    "logit": logit,
    "power": lambda value: direction("0", torch.ones(8), value),
    "l1": lambda value: channel("0", 1) - l1(value),
    "l2": lambda value: channel("0", 1) - l2(value),
    "blur": lambda value: channel("0", 1) - blur(value),
}
LAYERS = {
    "channel": lambda value: channel(value, 1),
    "neuron": lambda value: neuron(value, 1),
    "layer": layer,
    "direction": lambda value: direction(value, torch.ones(8)),
    "diversity": lambda value: channel("0", 1) + diversity(value),
}


@pytest.mark.parametrize(("turn", "name"), list(enumerate(MAKERS)))
def test_numbers_of_objectives(net, turn, name):
    """They are made without a complaint, so that a list of them can be; the render says what is wrong.

    Every maker has a third of the values that are no numbers, and half of those that are, by turns.
    """
    expected = render(net, MAKERS[name](3), steps=1)
    for value in (3.0, np.int64(3), np.float32(3), torch.tensor(3))[turn % 2 :: 2]:
        result = render(net, MAKERS[name](value), steps=1)
        assert result.targets == expected.targets
        assert result.images.equal(expected.images)
    for value in [*NO_NUMBERS[turn % 3 :: 3], HUGE]:
        assert "must be" in refused(render, net, MAKERS[name](value))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_objectives_go_by_name(net, name):
    for value in (0, None, "", net.module[0], ["0"], b"0"):
        assert "a layer goes by its name, a string such as 'features.3'" in refused(render, net, LAYERS[name](value))


def test_a_direction_is_a_list_of_numbers(net):
    expected = render(net, direction("0", torch.arange(8.0)))
    vector: Any
    for vector in (np.arange(8), list(range(8)), torch.arange(8).double().requires_grad_(), torch.arange(8).half()):
        assert render(net, direction("0", vector)).images.equal(expected.images)
    for vector in (
        3,
        None,
        "01234567",
        [],
        torch.ones(1, 8),
        ["a"] * 8,
        torch.ones(8) > 0,
        torch.ones(8) * 1j,
        object(),
    ):
        assert refused(render, net, direction("0", vector)).startswith("a direction is")
    assert "a direction in 0 needs 8 numbers" in refused(render, net, direction("0", torch.ones(7)))
    assert "finite numbers only" in refused(render, net, direction("0", torch.full((8,), math.nan)))


def test_a_position_has_a_row_and_a_column(net):
    for half in (neuron("0", 1, y=2), neuron("0", 1, x=2), neuron("0", 1, y=0)):
        assert "both a row y and a column x" in refused(render, net, half)


def test_what_an_objective_does_not_combine_with():
    one: Any = channel("0", 1)
    for value in ("2", True, None, [1], torch.ones(2)):
        for combine in (lambda v: one + v, lambda v: one * v, lambda v: one / v):
            assert "an objective combines with objectives and numbers" in refused(combine, value)
    for value in (math.nan, math.inf):
        assert "must be a finite number" in refused(lambda v: one * v, value)
        assert "a weight must be a finite number" in refused(mixture, (value, one))
    for parts in ([], [one], [(1, "0:1")], [("1", one)]):
        refused(mixture, *parts)
    assert (one * np.float32(2)).label == (one * torch.tensor(2)).label == "0:1 * 2"


# The other renderers ---------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for at in range(3):
        noise = np.random.default_rng(at).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(tmp_path / "pictures" / f"{at}.png")
    return tmp_path / "pictures"


def test_arguments_of_dreams(net):
    def dream(**options):
        return fvfast.dream(torch.rand(3, 40, 40), net, "0:3", **{"steps": 1, "octaves": 1, **options})

    for name in ("octaves", "scale", "steps", "strength", "jitter", "tile", "seed"):
        for value in [*NO_NUMBERS, HUGE, -1]:
            assert name in refused(dream, **{name: value})
    for name in ("preset", "basis", "dtype", "device", "progress", "stop"):
        assert name in refused(dream, **{name: 3.5})
    assert "a picture must be" in refused(fvfast.dream, 3, net, "0:3")
    assert dream(tile=512.0, seed=np.int64(1), jitter=2.0, octaves=np.float32(1)).steps == 1


def test_arguments_of_atlases(net):
    def atlas(layers="4", **options):
        return fvfast.atlas(net, layers, **{"channels": "0", "size": 16, "steps": 2, "store": "kept", **options})

    for name in ("size", "steps", "seed", "copies", "lr", "batch", "threads"):
        for value in [*NO_NUMBERS, HUGE, -1]:
            assert name in refused(atlas, **{name: value})
    for name in ("layers", "channels", "everything", "store", "engine", "recipe", "image", "dtype", "network"):
        assert name in refused(atlas, **{name: 3.5})
    assert atlas(copies=2.0, seed=np.int64(3)).rendered == 2


def test_arguments_of_activation_atlases_and_examples(net, pictures):
    def found(**options):
        return fvfast.activation_atlas(net, "0", pictures, **{"size": 16, "steps": 2, "reduce": "pca", **options})

    for name in ("grid", "positions", "least", "size", "seed", "power", "batch"):
        for value in [*NO_NUMBERS, HUGE, -1]:
            if (name, value) != ("size", -1):  # which the canvas refuses, once the images were seen
                assert name in refused(found, **{name: value})
    for name in ("average", "whiten", "reduce", "recipe", "out", "device", "stop"):
        assert name in refused(found, **{name: 3.5})
    for name in ("top", "neighbours", "size", "whole", "store"):
        for value in ("20x", 2.5, [1], -1, HUGE):
            if name != "store" or not isinstance(value, str):
                assert name in refused(examples.find, net, "0", pictures, **{name: value})
    assert "a layer goes by its name" in refused(examples.find, net, 0, pictures)
    options: Any = {"top": 2.0, "neighbours": np.int64(1), "size": (32, 32)}
    assert examples.find(net, "0", pictures, **options).images == 3
