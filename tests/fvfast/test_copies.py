"""Copies that are the network, and share nothing with it that a pass may change."""

# Networks as people write them: what they keep on themselves has any type.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import collections
import functools
import threading
import types
import warnings
import weakref
from dataclasses import dataclass, field

import by_hand
import pytest
import torch
import torch.nn.utils.prune
from torch import nn

import fvfast
from fvfast import outside
from fvfast.copies import duplicate, strays
from fvfast.errors import FvfastError

IMAGE = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """`first`, what `middle` does with it (and with the network), `out`."""

    def __init__(self, middle=lambda net, y: y, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.out, self.middle = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), middle
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.out(self.middle(self, self.first(x)))


# What deepcopy refuses, or shares ----------------------------------------------------------------------------


@dataclass
class Kept:
    skip: object = None
    lock: object = field(default_factory=threading.Lock)


class Slotted:
    __slots__ = ("skip",)


def by_object(net, y):
    net.kept.skip = y
    return torch.relu(y) + net.kept.skip


def closing_over_a_list():
    kept = []
    net = Net(lambda net, y: torch.relu(y) + kept.pop())
    net.first.register_forward_hook(lambda module, given, output: kept.append(output))
    return net


def closing_over_a_variable():
    kept = None

    def keep(module, given, output):
        nonlocal kept
        kept = output

    net = Net()
    net.first.register_forward_hook(keep)
    net.out.register_forward_pre_hook(lambda module, given: (torch.relu(given[0]) + kept,))
    return net


def closing_over_itself():
    net = Net(kept=[])
    net.first.register_forward_hook(lambda module, given, output: net.kept.append(output))
    net.out.register_forward_pre_hook(lambda module, given: (given[0] + net.kept.pop(),))
    return net


def by_weak_reference():
    net = Net(kept=None)
    there = weakref.ref(net)
    net.first.register_forward_hook(lambda module, given, output: setattr(there(), "kept", output))
    net.middle = lambda net, y: torch.relu(y) + net.kept
    return net


def by_the_id_of_a_layer():
    net = Net(lambda net, y: y * net.gains[id(net.first)] + net.weakly[net.out])
    net.gains, net.weakly = {id(net.first): 2.0}, weakref.WeakKeyDictionary({net.out: 0.5})
    return net


def with_a_partial():
    net = Net(kept={})
    keep = functools.partial(lambda kept, module, given, output: kept.update(skip=output), net.kept)
    net.first.register_forward_hook(keep)
    net.middle = lambda net, y: torch.relu(y) + net.kept["skip"]
    return net


def hook_that_goes():
    net = Net()
    handle = net.first.register_forward_hook(lambda module, given, output: handle.remove())
    return net


def after_a_pass(make):
    net = make()
    net(IMAGE)
    return net


def weight_normed(norm):
    net = Net()
    with warnings.catch_warnings(action="ignore"):
        norm(net.first)
    net(IMAGE)
    return net


MAKES = {
    "list": closing_over_a_list,
    "variable": closing_over_a_variable,
    "itself": closing_over_itself,
    "weak reference": by_weak_reference,
    "ids": by_the_id_of_a_layer,
    "partial": with_a_partial,
    "hook that goes": hook_that_goes,
    "object": lambda: Net(by_object, kept=Kept()),
    "slots": lambda: Net(by_object, kept=Slotted()),
    "namespace": lambda: Net(by_object, kept=types.SimpleNamespace(skip=None)),
    "deque": lambda: Net(
        lambda net, y: (net.kept.append(y), torch.relu(y) + net.kept.pop())[1], kept=collections.deque()
    ),
    "lock": lambda: Net(lambda net, y: y, lock=threading.RLock(), other=threading.Lock(), event=threading.Event()),
    "kept activation": lambda: after_a_pass(lambda: Net(by_object, kept=Kept())),
    "weight_norm": lambda: weight_normed(nn.utils.weight_norm),
    "spectral_norm": lambda: weight_normed(nn.utils.spectral_norm),
    "parametrisation": lambda: weight_normed(nn.utils.parametrizations.weight_norm),
    "orthogonal": lambda: weight_normed(nn.utils.parametrizations.orthogonal),
    "pruned": lambda: weight_normed(lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.5)),
}


@pytest.mark.parametrize("case", MAKES)
def test_a_copy_puts_out_the_same_and_leaves_the_original_alone(case):
    with torch.no_grad():
        expected = MAKES[case]().eval()(IMAGE)
        net = MAKES[case]().eval()
        held = {name: id(value) for name, value in vars(net).items()}
        kept = repr(getattr(net, "kept", None))
        one, other = duplicate(net), duplicate(net, own_weights=False)
        for copied in (one, other, duplicate(one)):
            assert copied(IMAGE).equal(expected)
        assert {name: id(value) for name, value in vars(net).items()} == held
        assert repr(getattr(net, "kept", None)) == kept
        assert net(IMAGE).equal(expected)
    assert one.get_submodule("out").weight is not net.out.weight
    assert other.get_submodule("out").weight is net.out.weight


@pytest.mark.parametrize("case", MAKES)
def test_whatever_is_rendered_beside_it(case, monkeypatch):
    monkeypatch.setattr("fvfast.session.crew_size", lambda threads: (3, 1))
    made = fvfast.render(MAKES[case]().eval(), ["out:0", "out:3"], size=16, steps=2)
    for row, channel in enumerate((0, 3)):
        right = by_hand.channel(MAKES[case](), "out", made.images[row : row + 1], channel)
        assert float(made.objective[row]) == pytest.approx(right, rel=1e-3, abs=1e-5)
    assert fvfast.render(MAKES[case]().eval(), "out:3", size=16, steps=2).images[0].equal(made.images[1])


def test_what_torch_compile_wraps_is_taken_out_of_it():
    net = nn.Sequential(torch.compile(nn.Conv2d(3, 4, 3), backend="eager"), nn.ReLU())
    assert [type(child).__name__ for child in duplicate(net)] == ["Conv2d", "ReLU"]


def test_what_cannot_be_copied_is_shared_and_named(tmp_path):
    with (tmp_path / "log").open("w") as file:
        net = Net(log=file)
        assert strays(net) == ["TextIOWrapper"]
        assert duplicate(net).log is file
    assert strays(Net(lock=threading.Lock())) == []


# What lies outside -------------------------------------------------------------------------------------------

GATHERED, COUNT, CONSTANT = [], 0, (1.0, 2.0)


def through_a_helper(y):
    GATHERED.append(y)
    return GATHERED.pop()


def counting(net, y):
    global COUNT
    COUNT += 1
    return y


def with_a_default(y, kept=[]):  # noqa: B006 (what is tried here)
    kept.append(y)
    return kept.pop()


@pytest.mark.parametrize(
    ("middle", "name"),
    [
        (lambda net, y: through_a_helper(y), "GATHERED"),
        (counting, "COUNT"),
        (lambda net, y: with_a_default(y), "with_a_default keeps"),
        (lambda net, y: globals()["GATHERED"] or y, "globals()"),
        (lambda net, y: y * CONSTANT[0], None),
        (lambda net, y: torch.relu(y), None),
    ],
    ids=["list", "number", "default", "globals", "constant", "nothing"],
)
def test_variables_outside_are_read_from_the_code(middle, name):
    assert list(outside.read(Net(middle)).variables)[:1] == ([] if name is None else [name])


def test_known_libraries_keep_nothing_outside():
    from torchvision.models import resnet18

    found = outside.read(resnet18(weights=None))
    assert (found.variables, found.foreign) == ({}, False)


def test_a_network_that_its_own_code_names_is_refused():
    global NAMED
    NAMED = Net()
    NAMED.first.register_forward_hook(lambda module, given, output: setattr(NAMED, "kept", output))
    with pytest.raises(FvfastError, match="names the network itself in the variable 'NAMED'"):
        fvfast.render(NAMED, "out:1", size=16, steps=1)


NAMED = None
