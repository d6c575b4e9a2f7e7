"""What is handed over as a network: what wraps one, what is none, and what it is fed with."""

import copy
import functools

import pytest
import torch
from torch import nn

import fvfast
from fvfast.errors import FvfastError
from fvfast.identity import render_key, weights_digest
from fvfast.models import Model, load, wants


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


class Holds(nn.Module):
    def __init__(self, part) -> None:
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x)


class DistributedDataParallel(Holds):
    """As torch's, which needs a group of processes: what counts is its name, and where it keeps the network."""

    def __init__(self, module) -> None:
        super().__init__(module)
        self.module = self.part


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, image, text, *, scale, extra=None):
        return self.conv(image) * text * scale


def refused(model, **options):
    with pytest.raises(FvfastError) as caught:
        load(model, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Wrappers --------------------------------------------------------------------------------------------------


def module_compile(net):
    net.compile(backend="eager")
    return net


@pytest.mark.parametrize(
    "wrap",
    [
        functools.partial(torch.compile, backend="eager"),
        module_compile,
        nn.DataParallel,
        DistributedDataParallel,
        torch.optim.swa_utils.AveragedModel,
        lambda net: torch.compile(nn.DataParallel(net), backend="eager"),
        lambda net: torch.compile(torch.optim.swa_utils.AveragedModel(net), backend="eager"),
    ],
)
def test_what_wraps_a_network_gives_the_networks_own_picture(wrap):
    def picture(model):
        return fvfast.render(load(model, size=16), "logits:1", size=16, steps=2).images

    net = network()
    wrapped = wrap(copy.deepcopy(net))
    names, mode = [name for name, _ in wrapped.named_modules()], wrapped.training
    loaded = load(wrapped)
    assert (loaded.name, type(loaded.module)) == ("Sequential", nn.Sequential)
    assert picture(wrapped).equal(picture(net))
    assert ([name for name, _ in wrapped.named_modules()], wrapped.training) == (names, mode)


# What no image can be rendered with ------------------------------------------------------------------------


def quantised_by_graph():
    from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx

    example = (torch.rand(1, 3, 16, 16),)
    prepared = quantize_fx.prepare_fx(network(), get_default_qconfig_mapping(), example)
    prepared(*example)
    return quantize_fx.convert_fx(prepared)


def on_meta():
    with torch.device("meta"):
        return nn.Conv2d(3, 8, 3)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: torch.jit.script(network()), "TorchScript, whose layers cannot be watched"),
        (lambda: torch.jit.trace(network(), torch.rand(1, 3, 16, 16)), "give the module it was made from"),
        (lambda: torch.ao.quantization.quantize_dynamic(network(), {nn.Linear}), "the layer '3' of Sequential is quan"),
        (quantised_by_graph, "is quantised, which has no gradients: give the network from before quantisation"),
        (lambda: nn.LazyConv2d(8, 3), "the network LazyConv2d is lazy and 'weight' has no shape yet: run it on an"),
        (on_meta, "'weight' of the network Conv2d is on the device meta and holds no numbers"),
    ],
)
def test_networks_without_gradients_or_numbers_are_refused_with_the_cure(make, sentence):
    model = make()
    assert sentence in refused(model)
    nested = refused(Holds(model))
    assert "part" in nested
    assert nested.partition(" is ")[2] == refused(model).partition(" is ")[2].replace("'weight'", "'part.weight'")


class Learner:
    def __init__(self) -> None:
        self.model = network()


class Trainer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loss, self.net = nn.CrossEntropyLoss(), network()


def made_by_keras():
    kind = type("Sequential", (), {})
    kind.__module__ = "keras.src.models"
    return kind()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: nn.Conv2d, "not the class Conv2d: give an instance, Conv2d(...)"),
        (lambda: network, "not the function network: call it and give what it makes, network(...)"),
        (lambda: network().state_dict(), "not an OrderedDict: make the network first and load these weights"),
        (lambda: {"model": network(), "epoch": 3}, "not a dict: give the network in it alone, ['model']"),
        (lambda: (network(), str), "not a tuple: give the network in it alone, [0]"),
        (lambda: [network(), nn.ReLU()], "not a list: give the one network, or nn.Sequential(*modules)"),
        (lambda: nn.ModuleList([network()]), "ModuleList has no forward and cannot run: give nn.Sequential(*modules)"),
        (lambda: torch.export.export(network(), (torch.rand(1, 3, 16, 16),)), "give the module that was exported"),
        (Learner, "Learner: give its .model"),
        (Trainer, "the network Trainer has no forward and cannot run: give its .net"),
        (made_by_keras, "not a keras.Sequential: convert it to PyTorch first"),
        (lambda: None, "a network must be a torch.nn.Module, not None"),
        (lambda: 3, "a network must be a torch.nn.Module, not an int"),
        (lambda: torch.ones(2), "not a torch.Tensor"),
        (lambda: "model.pth", "'model.pth' is a file with weights: name the model that they are for"),
        (lambda: "runs/Best.CKPT", "pass weights='runs/Best.CKPT'"),
    ],
)
def test_what_is_no_network_is_named_with_what_to_give_instead(make, sentence):
    assert sentence in refused(make())


def test_networks_without_parameters_are_fine():
    for net in (nn.Sequential(nn.ReLU()), nn.Identity(), Holds(nn.AvgPool2d(2))):
        assert load(net).module is net


def test_weights_for_a_module_that_is_there_are_not_ignored(tiny):
    for model in (network(), tiny):
        for weights in ("weights.pth", "none"):
            assert "load them into your module before" in refused(model, weights=weights)
    assert "weights must be none, default, or the name of a file" in refused("resnet18", weights={"a": 1})


# Builders --------------------------------------------------------------------------------------------------


def test_builders_are_checked_like_modules(nets, monkeypatch):
    for made, sentence in (
        (lambda: (network(), None), "sketch_nets:built gave a tuple, not a torch.nn.Module: give the network in it"),
        (lambda: nn.Conv2d, "sketch_nets:built gave the class Conv2d, not a torch.nn.Module: give an instance"),
        (lambda: nn.LazyConv2d(3, 3), "the network LazyConv2d is lazy"),
        (
            lambda n: network(),
            "built cannot be called without arguments (missing a required argument: 'n')",
        ),
        ([network()], "sketch_nets:built is of type list, which makes no torch.nn.Module: give the network in it"),
    ):
        monkeypatch.setattr(nets, "built", made, raising=False)
        assert sentence in refused("sketch_nets:built")


def test_a_builder_may_give_a_model(nets, monkeypatch):
    def build():
        return load(Two(), inputs={"text": torch.tensor(2.0), "scale": 3}, size=40, classes=("a", "b"))

    for made in (build, build()):
        monkeypatch.setattr(nets, "built", made, raising=False)
        model = load("sketch_nets:built")
        assert (model.name, model.weights, model.size, model.classes) == (
            "sketch_nets:built",
            "default",
            40,
            ("a", "b"),
        )
        assert model.inputs == {"text": torch.tensor(2.0), "scale": 3}


# Further inputs and layouts --------------------------------------------------------------------------------


def test_what_a_forward_wants_besides_the_image():
    assert wants(Two()) == ["text", "scale"]
    assert wants(network()) == wants(Holds(network())) == wants(torch.fx.symbolic_trace(network())) == []


def test_inputs_are_kept_without_what_made_them():
    text = torch.ones(2, requires_grad=True)
    model = load(Two(), inputs={"text": text * 2, "scale": 1.5})
    assert isinstance(model.inputs, dict)
    assert not model.inputs["text"].requires_grad
    assert model.inputs["text"].equal(torch.full((2,), 2.0))
    assert load(network()).inputs == ()


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"text": 1}, "Two.forward wants scale too: add it to inputs"),
        ({"txt": 1, "scale": 1}, "Two.forward takes no 'txt' (did you mean text"),
        ({"image": 1}, "'image' is the image itself: leave it out of inputs"),
        ((1,), "Two.forward wants scale too"),
        ((1, 2, 3), "Two.forward takes 1 inputs after the image, not 3"),
        (torch.ones(2), 'inputs must be a dictionary such as {"text": tensor}, or a tuple'),
        ("text", "inputs must be a dictionary"),
        ({0: 1}, "inputs go by the names of forward's parameters, not 0"),
        ({"text": object(), "scale": 1}, "inputs['text'] must be a tensor, a number"),
        ({"text": torch.ones(2, device="meta"), "scale": 1}, "holds no numbers"),
    ],
)
def test_inputs_that_a_forward_does_not_take(inputs, sentence):
    assert sentence in refused(Two(), inputs=inputs)


@pytest.mark.parametrize("axes", ["HWC", "BHW", "BBC", "BCXY", "bchw", "", 3, None])
def test_layouts_have_letters_with_b_and_c_once(axes):
    assert "the axes of '0' are letters such as 'BHWC'" in refused(network(), layouts={"0": axes})
    assert "Sequential has no layer '9'" in refused(network(), layouts={"9": "BHWC"})
    assert 'layouts must be a dictionary such as {"features.1": "BHWC"}' in refused(network(), layouts="BHWC")
    assert load(network(), layouts={"0": "BHWC", "logits": "LBC"}).layouts == {"0": "BHWC", "logits": "LBC"}


def test_inputs_and_layouts_are_part_of_a_renders_key():
    spec = {"target": "a", "recipe": {}, "size": 16, "seed": 0, "dtype": "float32"}
    net = Two()

    def key(**options):
        given = load(net, **options)
        return render_key(spec, given, weights_digest(given))

    plain = render_key(spec, Model("Two", "given", net), weights_digest(Model("Two", "given", net)))
    assert key() == key(inputs={}) == key(layouts={}) == plain
    keys = [
        plain,
        key(inputs={"text": torch.ones(2), "scale": 1}),
        key(inputs={"text": torch.ones(2), "scale": 2}),
        key(inputs={"text": torch.zeros(2), "scale": 1}),
        key(inputs={"text": torch.ones(1, 2), "scale": 1}),
        key(inputs={"text": [torch.ones(2)], "scale": 1}),
        key(layouts={"conv": "BHWC"}),
        key(layouts={"conv": "BWHC"}),
    ]
    assert len(set(keys)) == len(keys)
    assert key(inputs={"scale": 1, "text": torch.ones(2)}) == keys[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": (64, 32)}, "size must be one number, since images are square, not (64, 32)"),
        ({"size": "64"}, "size must be a whole number of pixels, not '64'"),
        ({"mean": "imagenet"}, "mean must be a number or a list of numbers, not 'imagenet'"),
        ({"mean": (0.5, float("nan"), 0.5)}, "each number of mean must be a finite number, not nan"),
        ({"std": (1, 0, 1)}, "each number of std must be above 0, not 0.0"),
        ({"classes": "abc"}, "classes must be a list of names, not 'abc'"),
        ({"classes": {0: "a"}}, "classes must be a list of names, not {0: 'a'}"),
    ],
)
def test_metadata_of_another_type(options, sentence, tiny):
    for model in (network(), tiny):
        assert sentence in refused(model, **options)


def test_metadata_may_come_from_numpy_and_change_a_models_own(tiny):
    changed = load(tiny, mean=torch.tensor([0.5, 0.25, 0.5]).numpy(), std=2, size=(48, 48), classes=["a", "b"])
    assert (changed.mean, changed.std, changed.size, changed.classes) == ((0.5, 0.25, 0.5), (2.0,) * 3, 48, ("a", "b"))
    assert (changed.name, changed.module) == (tiny.name, tiny.module)
