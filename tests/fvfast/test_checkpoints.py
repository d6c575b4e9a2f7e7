"""Weights from files, whatever wrote them: every tensor of the network is compared with the one that was saved."""

import argparse
import pathlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from fvfast.errors import FvfastError
from fvfast.fitting import load_file
from fvfast.models import load


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.backbone(x).mean((2, 3)))


class Wrapped(nn.Module):
    """Has a submodule of the name that DataParallel puts in front."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Net()

    def forward(self, x):
        return self.module(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
        self.first.weight = self.last.weight

    def forward(self, x):
        return self.last(self.first(x))


def half_compiled():
    net = Net()
    setattr(net, "backbone", torch.compile(net.backbone, backend="eager"))  # noqa: B010 (of another type than it was)
    return net


@pytest.fixture(autouse=True)
def own(nets, monkeypatch):
    """Networks that a name can mean."""
    builders = {
        "net": Net,
        "wrapped": Wrapped,
        "tied": Tied,
        "one": lambda: nn.Conv2d(3, 4, 3),
        "parallel": lambda: nn.DataParallel(Net()),
        "compiled": lambda: torch.compile(Net(), backend="eager"),
        "half_compiled": half_compiled,
        "there": Net(),
    }
    for name, builder in builders.items():
        monkeypatch.setattr(nets, name, builder, raising=False)


def trained(kind: type[nn.Module] = Net, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + seed
        for key, value in kind().state_dict().items()
    }


STATE, OTHER = trained(), trained(seed=6)


def under(prefix, state=STATE):
    return {prefix + key: value for key, value in state.items()}


def read(content, file="weights.pth", name="net", entry=""):
    save_file(content, file) if file.lower().endswith("safetensors") else torch.save(content, file)
    return load(f"sketch_nets:{name}", file + entry)


def refused(*arguments, **options):
    with pytest.raises(FvfastError) as caught:
        read(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def holds(model, state, strip=""):
    ours = {key.replace(strip, "") if strip else key: value for key, value in model.module.state_dict().items()}
    return ours.keys() == state.keys() and all(ours[key].equal(state[key]) for key in state)


# Keys and prefixes -----------------------------------------------------------------------------------------


KEYS = [
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "ema",
    "state_dict_ema",
    "model_ema",
    "teacher",
    "student",
    "module",
    "weights",
    "params",
    "params_ema",
    "generator",
    "whatever",
]
PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "backbone.",
    "encoder.",
    "teacher.",
    "ema.",
    "student.",
    "module._orig_mod.",
    "_orig_mod.module.model.",
    "a.b.c.",
]


@pytest.mark.parametrize("key", KEYS)
def test_weights_lie_under_any_key(key):
    for content in ({key: STATE, "epoch": 3}, {"checkpoint": {key: {"state_dict": STATE}}, "step": torch.tensor(3)}):
        model = read(content)
        assert holds(model, STATE)
        assert model.notes == ()


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("file", ["w.pth", "w.CKPT", "w.safetensors", "w.SafeTensors"])
def test_names_have_anything_in_front(prefix, file):
    assert holds(read(under(prefix), file), STATE)
    if not file.lower().endswith("safetensors"):
        assert holds(read({"state_dict": under(prefix)}, file), STATE)


def test_what_wraps_a_part_leaves_its_mark_inside_of_names():
    for mark in ("_orig_mod", "module"):
        marked = {key.replace("backbone.", f"backbone.{mark}."): value for key, value in STATE.items()}
        assert holds(read(marked), STATE)
    for content in (STATE, under("module."), {k.replace("backbone.", "backbone._orig_mod."): STATE[k] for k in STATE}):
        assert holds(read(content, name="half_compiled"), STATE, strip="._orig_mod")


def test_a_network_with_a_submodule_called_module_loads_its_own():
    own = trained(Wrapped)
    for content in (own, {"model": own}, under("module.", own), under("model.", own)):
        assert holds(read(content, name="wrapped"), own)
    assert holds(read(STATE, name="wrapped"), under("module."))  # a prefix that only the network has


@pytest.mark.parametrize("name", ["parallel", "compiled"])
def test_a_wrapped_network_takes_weights_with_and_without_the_wrappers_prefix(name):
    for content in (STATE, under("module."), under("_orig_mod.")):
        assert holds(read(content, name=name), STATE)


def test_a_network_that_is_there_already_is_left_alone(nets):
    before = {key: value.clone() for key, value in nets.there.state_dict().items()}
    assert holds(read(STATE, name="there"), STATE)
    assert all(value.equal(before[key]) for key, value in nets.there.state_dict().items())


# Several sets of weights -----------------------------------------------------------------------------------


def test_the_plain_weights_come_before_their_average_and_a_note_says_so():
    for content, plain, average in (
        ({"ema": OTHER, "model": STATE}, "model", "ema"),
        ({"params_ema": OTHER, "params": STATE}, "params", "params_ema"),
        (
            {"state_dict": {**under("net."), **under("ema_net.module.", OTHER)}},
            "state_dict.net",
            "state_dict.ema_net.module",
        ),
        ({**STATE, "swa": OTHER}, "those without a name", "swa"),
    ):
        model = read(content)
        assert holds(model, STATE)
        (note,) = model.notes
        assert plain in note
        assert note.endswith(f"choose with --weights weights.pth:{average}")
        chosen = read(content, entry=f":{average}")
        assert holds(chosen, OTHER)
        assert chosen.weights == f"weights.pth:{average}"


def test_two_plain_sets_are_the_users_to_choose_from():
    for first, second in (("student", "teacher"), ("encoder_q", "encoder_k"), ("best", "last")):
        content = {first: STATE, second: OTHER}
        sentence = refused(content)
        assert f"({first}, {second}): choose one, as in --weights weights.pth:{first}" in sentence
        assert holds(read(content, entry=f":{second}"), OTHER)
        assert holds(read({first: STATE, second: dict(STATE)}), STATE)  # the same twice leaves no choice
    assert "no weights under 'techer' (did you mean teacher?)" in refused({"teacher": STATE}, entry=":techer")


def test_other_parts_of_a_trainers_module_are_named():
    model = read({"state_dict": {**under("model."), "criterion.weight": torch.ones(5)}})
    assert holds(model, STATE)
    assert model.notes == (
        "of weights.pth only state_dict.model was read: state_dict.criterion.weight is not this model's",
    )


# What else lies in files -----------------------------------------------------------------------------------


def test_figures_and_settings_beside_the_weights_do_not_matter():
    for more in (
        {"epoch": 3, "hyper_parameters": {"lr": 0.1}, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        {"hyper_parameters": argparse.Namespace(lr=0.1, folder=pathlib.Path("/data"), inner=argparse.Namespace(a=1))},
        {"best": np.float64(0.5), "curve": np.arange(3.0), "flag": np.bool_(True), "count": np.int64(3)},
    ):
        assert holds(read({"state_dict": under("model."), **more}), STATE)
    counters = {"n_averaged": torch.tensor(3), **under("module.")}
    profile = {**STATE, "total_ops": torch.zeros(1), "backbone.0.total_params": torch.zeros(1)}
    for content in (counters, profile):
        model = read(content)
        assert holds(model, STATE)
        assert model.notes == ()


def test_counters_may_be_missing_and_statistics_may_not():
    without = {key: value for key, value in STATE.items() if not key.endswith("num_batches_tracked")}
    model = read(without).module.state_dict()
    assert all(model[key].equal(value) for key, value in without.items())
    for lost in ("running_mean", "running_var", "head.bias"):
        assert f"{lost} is missing" in refused({key: value for key, value in STATE.items() if not key.endswith(lost)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision_is_read(dtype):
    model = read({key: value.to(dtype) if value.is_floating_point() else value for key, value in STATE.items()})
    assert holds(model, {k: v.to(dtype).float() if v.is_floating_point() else v for k, v in STATE.items()})


def test_numbers_of_another_kind_are_refused():
    for change, kind in (
        (lambda value: (10 * value).to(torch.int8), "int8"),
        (lambda value: value * (1 + 1j), "complex64"),
        (lambda value: value.long(), "int64"),
    ):
        content = {key: change(value) if key == "head.weight" else value for key, value in STATE.items()}
        assert f"head.weight is {kind} in the file and float32 in the model" in refused(content)


def test_weights_that_two_layers_share_are_stored_once():
    model = Tied()
    save_model(model, "tied.safetensors")
    loaded = load("sketch_nets:tied", "tied.safetensors")
    assert holds(loaded, model.state_dict())
    first, last = loaded.module.get_parameter("first.weight"), loaded.module.state_dict()["last.weight"]
    assert first.data_ptr() == last.data_ptr()


def test_the_suffix_does_not_decide():
    save_file(STATE, "weights.bin")
    assert holds(load("sketch_nets:net", "weights.bin"), STATE)
    torch.save(STATE, "old.pt", _use_new_zipfile_serialization=False)
    assert holds(load("sketch_nets:net", "old.pt"), STATE)


def test_names_that_a_network_knows_of_old_are_its_own_to_read():
    older = load("mnasnet0_5", "none").module
    save_file(older.state_dict(), "mnasnet.safetensors")  # which knows of no versions, and MNASNet asks for one
    assert holds(load("mnasnet0_5", "mnasnet.safetensors"), older.state_dict())
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    state = {key: value + 1 for key, value in normed.state_dict().items()}
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    torch.save({names.get(key, key): value for key, value in state.items()}, "normed.pth")
    load_file(normed, "normed.pth")
    assert all(normed.state_dict()[key].equal(value) for key, value in state.items())


# What does not fit -----------------------------------------------------------------------------------------


def test_what_does_not_fit_is_named_with_both_shapes():
    wrong = {**STATE, "head.weight": torch.ones(6, 4)}
    for content in (wrong, {"state_dict": under("model.", wrong)}, under("module.", wrong)):
        assert "head.weight has shape (6, 4) in the file and (5, 4) in the model" in refused(content)
    missing = {key: value for key, value in STATE.items() if key != "head.bias"}
    assert refused(missing).endswith("head.bias is missing")
    assert refused({**STATE, "extra": torch.ones(2)}).endswith("extra is not the model's")
    both = refused({**missing, "head.beta": torch.ones(5)})
    assert both.endswith("head.bias is missing and head.beta is not the model's")


def test_a_part_of_another_network_is_not_taken_for_the_whole():
    deep = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)).state_dict()
    for content in (deep, {"model": deep}, under("net.", deep)):
        assert "do not fit this model" in refused(content, name="one")


class Settings:
    pass


def test_what_is_no_plain_checkpoint_is_named_with_what_to_do():
    for content, name in (
        ({"state_dict": STATE, "hyper_parameters": Settings()}, "Settings"),
        ({"state_dict": STATE, "callback": nn.ReLU()}, "ReLU"),
        (Net(), "Net"),
    ):
        sentence = refused(content)
        assert "only tensors are read (weights_only=True), and it holds" in sentence
        assert name in sentence
        assert "read it with weights_only=False and save the network's state_dict() alone" in sentence
    torch.jit.script(nn.Conv2d(3, 4, 3)).save("script.pt")
    with pytest.raises(FvfastError, match=r"script.pt is a TorchScript archive.*save the state_dict"):
        load("sketch_nets:one", "script.pt")
