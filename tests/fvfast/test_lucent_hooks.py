"""What notebooks for lucent import beside `render_vis`: hooks on the user's network, reducers, pictures in the page."""

import copy
import gc
import io as bytes_io
import pickle
import re
import sys
import types
import warnings
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fvfast import FvfastError
from fvfast.compat.lucent import objectives, param, render, transform
from fvfast.compat.lucent.misc import io
from fvfast.compat.lucent.misc.channel_reducer import ChannelReducer
from fvfast.compat.lucent.misc.io import collapse_channels, serialize_array, showing
from fvfast.compat.lucent.optvis import objectives_util
from fvfast.compat.lucent.optvis.param.resize_bilinear_nd import resize_bilinear_nd


class Residual(nn.Module):
    """Writes into what its layers give: an in-place ReLU, and `+=`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.b(self.relu(self.a(x)))
        out += x
        return self.relu(out)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.mixed = Residual()
        self.again = self.mixed
        self.head, self.aux = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.mixed(self.stem(x)).mean((2, 3)))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def page(monkeypatch) -> list[str]:
    """A notebook's page: what was put there, as HTML."""
    told: list[str] = []
    display = types.SimpleNamespace(HTML=lambda text: text, display=told.append)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(display=display))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return told


def pictures(page: str) -> list[np.ndarray]:
    import base64

    found = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    return [np.asarray(PIL.Image.open(bytes_io.BytesIO(base64.b64decode(one)))) for one in found]


def hooks_on(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs")
    return sum(len(getattr(child, kind)) for child in model.modules() for kind in kinds)


# hook_model and ModuleHook ---------------------------------------------------------------------------------


def by_hand(model, x) -> dict[str, torch.Tensor]:
    """The layers' outputs, computed apart from any hook."""
    with torch.no_grad():
        conv = F.conv2d(x, model.stem[0].weight, model.stem[0].bias, stride=2, padding=1)
        stem = conv.clamp(min=0)
        a = F.conv2d(stem, model.mixed.a.weight, model.mixed.a.bias, padding=1)
        b = F.conv2d(a.clamp(min=0), model.mixed.b.weight, model.mixed.b.bias, padding=1)
        mixed = (b + stem).clamp(min=0)
        return {
            "stem_0": conv,
            "stem": stem,
            "mixed_a": a,
            "mixed_b": b,
            "mixed": mixed,
            "again_b": b,
            "labels": model.head(mixed.mean((2, 3))),
        }


def test_a_layer_is_what_it_put_out_when_the_model_last_ran(model):
    first, second = torch.rand(2, 3, 16, 16), torch.rand(1, 3, 20, 12)
    expected = [by_hand(model, x) for x in (first, second)]
    plain = model(first)
    T = render.hook_model(model, lambda: second)
    for x, right in zip((first, second), expected, strict=True):
        torch.testing.assert_close(model(x), right["labels"])
        for name, value in right.items():
            torch.testing.assert_close(T(name), value, msg=name)
        assert T("mixed.b") is T("mixed_b")
    assert T("input") is second
    torch.testing.assert_close(plain, expected[0]["labels"])


@pytest.mark.parametrize("layer", ["stem_0", "mixed_a", "mixed_b", "mixed"])
def test_gradients_reach_the_layer_and_the_image(model, layer):
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    model(x)[0, 2].backward()
    assert x.grad is not None
    right, x.grad = x.grad.clone(), None
    T = render.hook_model(model, lambda: x)
    model(x)
    at_layer, at_image = torch.autograd.grad(T("labels")[0, 2], (T(layer), x))
    torch.testing.assert_close(at_image, right)
    assert at_layer.shape == T(layer).shape
    assert at_layer.abs().sum() > 0
    assert all(p.grad is not None for p in model.mixed.parameters())  # of the first backward, as torch has it


@pytest.mark.parametrize("way", ["close", "with", "forgotten", "a cycle"])
def test_the_model_is_left_as_it_was(model, way):
    own = model.stem.register_forward_hook(lambda *_: None)
    before = {name: list(vars(child)) for name, child in model.named_modules()}
    T = render.hook_model(model, lambda: torch.zeros(1))
    model(torch.rand(1, 3, 16, 16))
    assert hooks_on(model) > 5
    if way == "close":
        T.close()
    elif way == "with":
        with T:
            pass
    elif way == "a cycle":
        T.image_f = lambda held=T: held("input")
    kept = T("mixed") if way in ("close", "with") else None
    del T
    gc.collect()
    assert hooks_on(model) == 1
    assert own.id in model.stem._forward_hooks
    assert {name: list(vars(child)) for name, child in model.named_modules()} == before
    assert kept is None or kept.shape == (1, 8, 8, 8)
    pickle.dumps(model.mixed)


def test_a_model_can_be_copied_saved_and_rendered_while_it_is_hooked(model):
    options: dict[str, Any] = {
        "transforms": [],
        "fixed_image_size": 32,
        "thresholds": (3,),
        "progress": False,
        "show_image": False,
    }

    def rendered():
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return render.render_vis(model, "mixed_a:3", lambda: param.image(16), **options)[0]

    alone = rendered()
    T = render.hook_model(model)
    hook = render.ModuleHook(model.mixed)
    x = torch.rand(1, 3, 16, 16)
    expected = model(x)
    seen = T("labels"), hook.features
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(x + 1), model(x + 1))
        model(x)
        assert T("labels").equal(expected)
        seen = T("labels"), hook.features
        other(x + 2)
        assert T("labels") is seen[0]  # what a copy puts out is not the model's
    np.testing.assert_array_equal(rendered(), alone)
    assert T("labels") is seen[0]
    assert hook.features is seen[1]


def test_a_module_hook_keeps_what_its_module_puts_out(model):
    x = torch.rand(1, 3, 16, 16)
    hook = render.ModuleHook(model.mixed.b)
    assert (hook.module, hook.features) == (None, None)
    model(x)
    hook.close()
    assert hook.module is model.mixed.b
    torch.testing.assert_close(hook.features, by_hand(model, x)["mixed_b"])
    kept = hook.features
    model(x + 1)
    assert hook.features is kept
    assert hooks_on(model) == 0
    several = render.ModuleHook(nn.LSTM(3, 4))  # what is no tensor is kept as it is
    several.hook_fn(model, (), (kept, kept))
    assert several.features[1] is kept


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("mixd_a", r"Net has no layer 'mixd_a' \(did you mean mixed_a"),
        ("stem.7", "Net has no layer 'stem.7'"),
        ("aux", "aux has not run since hook_model: run the model first, in eval mode"),
        ("input", "hook_model.model, image_f. was given none"),
    ],
)
def test_what_is_not_there_is_said(model, layer, words):
    T = render.hook_model(model, None)
    model(torch.rand(1, 3, 16, 16))
    with pytest.raises(FvfastError, match=words):
        T(layer)


def test_script_takes_no_hooks(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted: Any = torch.jit.trace(model, torch.rand(1, 3, 16, 16))
    for hook in (render.ModuleHook, render.hook_model):
        with pytest.raises(FvfastError, match="hand over the module that it was made from"):
            hook(scripted)


# The notebooks' own cells ----------------------------------------------------------------------------------

QUIET: dict[str, Any] = {"show_image": False, "progress": False, "fixed_image_size": 32, "thresholds": (2,)}


def test_lucents_own_loop_runs_on_hooks(model):
    """As its tests and many scripts have it."""
    torch.manual_seed(0)
    params, image_f = param.image(32, batch=2)
    optimizer = torch.optim.Adam(params, lr=0.05)
    T = render.hook_model(model, image_f)
    loss_f = objectives.channel("mixed", 3) - 0.1 * objectives.diversity("mixed")
    loss_f += 1e-3 * objectives.blur_input_each_step()
    model(image_f())
    start = loss_f(T).item()
    for _ in range(8):
        optimizer.zero_grad()
        model(image_f())
        loss_f(T).backward()
        optimizer.step()
    assert loss_f(T).item() < start


def test_activation_grid(model, page):
    """activation_grids.ipynb: a layer's cells, reduced to groups, each cell painted by itself and its groups."""
    from fvfast.compat.lucent.modelzoo import resnet18, util

    assert callable(resnet18)
    assert "mixed_a" in util.get_model_layers(model)

    @torch.no_grad()
    def get_layer(model, layer, X):
        hook = render.ModuleHook(getattr(model, layer))
        model(X)
        hook.close()
        return hook.features

    img = torch.rand(1, 3, 40, 40)
    upsample = nn.Upsample(size=8, mode="bilinear", align_corners=True)
    chain = [*transform.standard_transforms.copy(), transform.normalize(), upsample]
    acts = get_layer(model, "mixed", transform.compose(chain)(img))[0].permute(1, 2, 0)
    acts = acts.reshape(-1, acts.shape[-1])
    cells, groups_count = acts.shape[0], 2
    groups = ChannelReducer(groups_count, "NMF").fit_transform(acts.numpy())
    groups = torch.from_numpy(groups / groups.max(0))
    groups_params, groups_image_f = param.fft_image([groups_count, 3, 12, 12])
    cells_params, cells_image_f = param.fft_image([cells, 3, 12, 12])

    def image_f():
        return 0.7 * cells_image_f() + 0.5 * torch.einsum("ij,jchw->ichw", groups, groups_image_f())

    image_f = param.to_valid_rgb(image_f, decorrelate=True)
    drawn = {}

    def sampled():
        images = image_f()
        drawn["at"] = torch.randint(0, len(images), size=(4,))
        return images[drawn["at"]]

    def objective(T):
        wanted = acts[drawn["at"]].view(4, -1, 1, 1)
        return -(T("mixed") * wanted).sum(1).mean()

    before = image_f().detach()
    with pytest.warns(UserWarning, match="step by step"):
        render.render_vis(
            model, objectives.Objective(objective), lambda: ([*groups_params, *cells_params], sampled), **QUIET
        )
    after = image_f().detach()
    assert not after.equal(before)
    assert hooks_on(model) == 0
    render.show(after[0].permute(1, 2, 0).numpy())
    (picture,) = pictures(page[0])
    np.testing.assert_array_equal(picture, (after[0].permute(1, 2, 0).numpy().astype(float) * 255).round())


def test_feature_inversion(model, page):
    @objectives.wrap_objective()
    def dot_compare(layer, batch=1, cossim_pow=0):
        def inner(T):
            dot = (T(layer)[batch] * T(layer)[0]).sum()
            mag = torch.sqrt(torch.sum(T(layer)[0] ** 2))
            cossim = dot / (1e-6 + mag)
            return -dot * cossim**cossim_pow

        return inner

    img = torch.rand(3, 32, 32)
    obj = objectives.Objective.sum([1.0 * dot_compare("mixed", cossim_pow=1), objectives.blur_input_each_step()])
    params, image_f = param.image(32)
    transforms = [transform.pad(8, mode="constant", constant_value=0.5), transform.jitter(8), transform.jitter(2)]
    with pytest.warns(UserWarning, match="step by step"):
        images = render.render_vis(
            model, obj, lambda: (params, lambda: torch.stack([image_f()[0], img])), transforms=transforms, **QUIET
        )
    io.show(images[0][0])
    assert pictures(page[0])[0].shape == (32, 32, 3)
    np.testing.assert_allclose(images[0][1], img.permute(1, 2, 0), atol=1e-6)


def test_style_transfer(model, page):
    @objectives.wrap_objective()
    def activation_difference(layers, loss_f=lambda a, b: (a - b).abs().mean(), transform_f=None, difference_to=1):
        def inner(T):
            found = [[T(layer)[index] for layer in layers] for index in (difference_to, 0)]
            wanted, mine = ([transform_f(a) if transform_f else a for a in one] for one in found)
            return sum(loss_f(a, b) for a, b in zip(wanted, mine, strict=True))

        return inner

    def gram_matrix(features):
        flat = features.view(features.shape[0], -1)
        return flat @ flat.T / flat.shape[1]

    content, style = np.random.default_rng(0).random((2, 32, 32, 3))

    def style_transfer_param():
        params, image = param.image(32, 32, decorrelate=True, fft=True)
        both = [torch.tensor(np.transpose(one, [2, 0, 1])).float() for one in (content, style)]
        return params, lambda: torch.stack([image()[0], *both])

    content_obj = activation_difference(["mixed"], difference_to=1)
    content_obj.description = "Content Loss"
    style_obj = activation_difference(["stem", "mixed"], transform_f=gram_matrix, difference_to=2)
    with pytest.warns(UserWarning, match="step by step"):
        images = render.render_vis(
            model,
            5 * content_obj + style_obj,
            style_transfer_param,
            **{**QUIET, "thresholds": (1, 2), "show_inline": True},
        )
    assert "Content Loss" in (5 * content_obj + style_obj).description
    assert len(pictures(page[-1])) == 3
    np.testing.assert_allclose(images[1][1], content, atol=1e-6)
    assert np.abs(images[1][0] - images[0][0]).max() > 1e-4


@pytest.mark.parametrize(
    "line",
    [
        "from {}.optvis import render, param, transform, objectives",
        "from {}.optvis.render import *; render_vis, hook_model, ModuleHook, tensor_to_img_array, view, export, show",
        "from {}.optvis.render import hook_model, ModuleHook, tensor_to_img_array, show",
        "from {}.optvis.transform import *; jitter, pad, random_scale, random_rotate, compose, standard_transforms",
        "from {}.optvis.objectives import *; wrap_objective, handle_batch, Objective, channel, as_objective",
        "from {}.optvis.objectives_util import _extract_act_pos, _make_arg_str, _T_handle_batch",
        "from {}.optvis.param.spatial import *; pixel_image, fft_image, rfft2d_freqs",
        "from {}.optvis.param.color import *; to_valid_rgb, color_correlation_normalized, color_mean",
        "from {}.optvis.param.lowres import lowres_tensor",
        "from {}.optvis.param.resize_bilinear_nd import resize_bilinear_nd",
        "from {}.optvis.param.cppn import cppn, CompositeActivation",
        "from {}.optvis.param.gan import upconvGAN",
        "from {}.optvis.param import image, cppn",
        "from {}.modelzoo import *; inceptionv1, util, resnet18, vgg16, densenet121",
        "from {}.modelzoo.util import get_model_layers",
        "from {}.misc.io import show",
        "from {}.misc.io.showing import show, images, image, animate_sequence, _image_url, _display_html",
        "from {}.misc.io.collapse_channels import collapse_channels, hue_to_rgb, sparse_channels_to_rgb",
        "from {}.misc.io.serialize_array import serialize_array",
        "from {}.misc.channel_reducer import ChannelReducer",
        "from {}.util import set_seed",
        "import {0}.optvis.objectives as objectives; objectives.channel",
        "import {0}; {0}.modelzoo.util.get_model_layers, {0}.__version__",
    ],
)
def test_what_scripts_import_is_there(line):
    exec(line.format("fvfast.compat.lucent"), {})


# Pieces ----------------------------------------------------------------------------------------------------


def test_pieces_of_objectives():
    maps = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    assert objectives_util._extract_act_pos(maps).equal(maps[:, :, 2:3, 2:3])
    assert objectives_util._extract_act_pos(maps, x=4, y=1).equal(maps[:, :, 1:2, 4:5])
    assert objectives_util._make_arg_str(torch.zeros(9)) == "..."
    assert objectives_util._make_arg_str("mixed4a") == "mixed4a"
    assert objectives_util._T_handle_batch(lambda name: maps, 1)("x").equal(maps[1:])
    assert objectives_util._T_handle_batch(lambda name: maps)("x") is maps


@pytest.mark.parametrize("alg", ["NMF", "PCA", "FastICA"])
def test_channels_are_reduced_as_scikit_learn_does(alg):
    decomposition = pytest.importorskip("sklearn.decomposition")
    acts = np.random.default_rng(0).random((3, 4, 5, 6))
    reducer = ChannelReducer(2, alg, random_state=0)
    right = getattr(decomposition, alg)(n_components=2, random_state=0)
    expected = right.fit_transform(acts.reshape(-1, 6))
    np.testing.assert_allclose(reducer(acts), expected.reshape(3, 4, 5, 2))
    np.testing.assert_allclose(reducer(acts[:1]), right.transform(acts[:1].reshape(-1, 6)).reshape(1, 4, 5, 2))
    np.testing.assert_array_equal(reducer.components, right.components_)
    assert "components" in dir(reducer)
    assert ChannelReducer(2, alg).fit(acts).n_components == 2
    assert isinstance(ChannelReducer(1, type(right))._reducer, type(right))
    with pytest.raises(AttributeError, match="no attribute 'componets'"):
        _ = reducer.componets


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0,), "n_components must be a whole number of 1 or more, not 0"),
        ((None,), "not None"),
        (("string",), "not 'string'"),
        ((3, "NMFF"), r"unknown reduction 'NMFF' \(did you mean NMF"),
    ],
)
def test_reductions_that_there_are_not(arguments, words):
    pytest.importorskip("sklearn")
    with pytest.raises(FvfastError, match=words) as caught:
        ChannelReducer(*arguments)
    assert isinstance(caught.value, ValueError)


def test_without_scikit_learn_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(FvfastError, match="pip install scikit-learn"):
        ChannelReducer()


@pytest.mark.parametrize(
    ("thing", "shapes"),
    [
        (np.random.rand(6, 5, 3), [(6, 5, 3)]),
        (np.random.rand(6, 5, 4), [(6, 5, 4)]),
        (np.random.rand(6, 5, 1), [(6, 5)]),
        (np.random.rand(6, 5), [(6, 5)]),
        (np.random.rand(2, 6, 5, 3), [(6, 5, 3)] * 2),
        ([np.random.rand(6, 5), np.random.rand(7, 5, 2)], [(6, 5), (7, 5, 3)]),
        (np.random.randn(6, 5, 9), [(6, 5, 3)]),
    ],
)
def test_show_takes_what_lucents_takes(page, thing, shapes):
    io.show(thing, width=40)
    assert [picture.shape for picture in pictures(page[0])] == shapes
    assert page[0].count("width=40") == len(shapes)


def test_what_is_no_picture_is_printed(page, capsys):
    for thing in (np.zeros(3), "words", None):
        io.show(thing)
    assert capsys.readouterr().out == "array([0., 0., 0.])\n'words'\nNone\n"
    assert page == []


def test_other_ways_to_show(page):
    ramp = np.linspace(2, 4, 6).reshape(2, 3)
    showing.image(ramp)
    showing.images([ramp, ramp * 5], labels=["a", "b"])
    for one in pictures("".join(page)):
        np.testing.assert_array_equal(one, [[0, 51, 102], [153, 204, 255]])
    showing.animate_sequence(np.stack([np.zeros((4, 5, 3)), np.ones((4, 5, 3))]))
    (strip,) = pictures(page[-1])
    assert strip.shape == (4, 10, 3)
    assert strip[:, :5].max() == 0 < strip[:, 5:].min()
    assert "steps(2)" in page[-1]
    assert "-10px" in page[-1]
    with pytest.raises(FvfastError, match="2 images have 1"):
        showing.images([ramp, ramp], labels=["a"])


def test_bytes_of_pictures():
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    for given in (array, array[None], array / 255):
        read = PIL.Image.open(bytes_io.BytesIO(serialize_array.serialize_array(given)))
        np.testing.assert_array_equal(np.asarray(read), array)
    assert PIL.Image.open(bytes_io.BytesIO(serialize_array.serialize_array(array, fmt="jpeg"))).format == "JPEG"
    with pytest.raises(FvfastError, match="use png"):
        serialize_array.serialize_array(np.zeros((4, 5, 4)), fmt="jpeg")
    with pytest.raises(FvfastError, match="not finite"):
        serialize_array.serialize_array(np.array([[0.0, np.nan]]))


def test_hues_of_channels():
    for angle, colour in ((0, [1, 0, 0]), (120, [0, 1, 0]), (240, [0, 0, 1]), (-360, [1, 0, 0])):
        np.testing.assert_allclose(collapse_channels.hue_to_rgb(angle), colour, atol=1e-12)
    np.testing.assert_allclose(collapse_channels.hue_to_rgb(180), np.array([0, 1, 1]) / np.sqrt(2), atol=1e-12)
    np.testing.assert_allclose(collapse_channels.hue_to_rgb(30, warp=False)[0:3:2], [0.92388, 0], atol=1e-5)
    one_hot = np.eye(3)[None] * 0.5
    np.testing.assert_allclose(collapse_channels.collapse_channels(one_hot), one_hot, atol=1e-3)
    signed = collapse_channels.collapse_channels(np.array([[1.0], [-1.0]]))  # opposite hues: red, and cyan
    np.testing.assert_allclose(signed, [[1, 0, 0], [0, 0.70711, 0.70711]], atol=1e-3)
    with pytest.raises(FvfastError, match="collapse_channels takes both signs"):
        collapse_channels.sparse_channels_to_rgb(-one_hot)


def test_resizing_along_every_axis():
    tensor = torch.randn(2, 3, 4, 5)
    found = resize_bilinear_nd(tensor, (2, 3, 7, 9))
    torch.testing.assert_close(found, F.interpolate(tensor, (7, 9), mode="bilinear", align_corners=True))
    assert resize_bilinear_nd(tensor, (4, 3, 4, 5))[::3].equal(tensor)
    with pytest.raises(FvfastError, match="a tensor of 4 axes"):
        resize_bilinear_nd(tensor, (4, 3))
