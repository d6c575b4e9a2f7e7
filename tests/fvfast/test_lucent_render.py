"""`render_vis`: lucent's examples unchanged but for the import, and the engine against lucent's own loop."""

import copy
import sys
import warnings
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import fvfast.compat.lucent
from fvfast import FvfastError
from fvfast.compat.lucent import objectives, param, render, transform
from fvfast.compat.lucent.misc import io
from fvfast.compat.lucent.optvis import render as optvis_render
from fvfast.compat.lucent.optvis.param.spatial import fft_image
from fvfast.compat.lucent.paths import Engine, General, SlowPath

QUIET: dict[str, Any] = {"progress": False, "show_image": False}
MEAN, STD = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture
def net(nets) -> nn.Module:
    torch.manual_seed(0)
    return nets.Tiny().eval()


@pytest.fixture(scope="module")
def googlenet() -> nn.Module:
    from fvfast.compat.lucent.modelzoo import googlenet as build

    torch.manual_seed(0)
    network = build(weights=None, init_weights=False).eval()
    for child in network.modules():  # torchvision's fresh googlenet gives next to nothing behind its first blocks
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight)
    return network


@pytest.fixture
def seen(monkeypatch) -> list[PIL.Image.Image]:
    """What would have been opened in a viewer."""
    shown: list[PIL.Image.Image] = []
    monkeypatch.setattr(PIL.Image.Image, "show", lambda picture: shown.append(picture))
    return shown


def small(**options: Any) -> dict[str, Any]:
    """Transforms and sizes for networks that are tested at a few pixels."""
    return {**QUIET, "transforms": [], "fixed_image_size": 24, **options}


# lucent's examples -----------------------------------------------------------------------------------------

EXAMPLES = {
    "README": """
        from lucent.optvis import render
        from lucent.modelzoo import inceptionv1

        device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        model = inceptionv1(pretrained=True)
        model.to(device).eval()

        images = render.render_vis(model, "mixed4a:476")
    """,
    "an objective, and a sum": """
        from lucent.optvis import render, param, transform, objectives
        obj = objectives.channel("mixed4a", 476) + objectives.channel("mixed4a", 465)
        images = render.render_vis(model, obj, show_inline=True)
    """,
    "transforms": """
        from lucent.optvis import render, param, transform, objectives
        images = render.render_vis(model, "mixed4a:476", transforms=[
            transform.pad(16),
            transform.jitter(8),
            transform.random_scale([n / 100. for n in range(80, 120)]),
            transform.random_rotate(list(range(-10, 10)) + list(range(-5, 5)) + 10 * list(range(-2, 2))),
            transform.jitter(2),
        ])
    """,
    "a batch, with diversity": """
        from lucent.optvis import render, param, transform, objectives
        batch_param_f = lambda: param.image(128, batch=2)
        obj = objectives.channel("mixed4a", 97) - 1e2 * objectives.diversity("mixed4a")
        images = render.render_vis(model, obj, batch_param_f, show_inline=True)
    """,
    "one's own optimizer": """
        from lucent.optvis import render, param, transform, objectives
        param_f = lambda: param.image(64, fft=False, decorrelate=False)
        opt = lambda params: torch.optim.Adam(params, 5e-3)
        images = render.render_vis(model, "labels:3", param_f, opt, transforms=[])
    """,
    "a cppn": """
        from lucent.optvis import render, param, transform, objectives
        cppn_param_f = lambda: param.cppn(64)
        cppn_opt = lambda params: torch.optim.Adam(params, 5e-3)
        obj = "mixed4d_3x3_bottleneck_pre_relu_conv:39"
        images = render.render_vis(model, obj, cppn_param_f, cppn_opt, transforms=[])
    """,
}
FAST = {"README", "an objective, and a sum", "transforms", "a batch, with diversity", "one's own optimizer"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_lucents_examples_run_unchanged_but_for_the_import(name, googlenet, seen, monkeypatch):
    """At two steps instead of 512, with torchvision's googlenet, where mixed4a is called inception4a."""
    text = "\n".join(line.strip() for line in EXAMPLES[name].splitlines())
    text = text.replace("from lucent", "from fvfast.compat.lucent").replace("mixed4a", "inception4a")
    text = text.replace("mixed4d_3x3_bottleneck_pre_relu_conv", "inception4d_branch2_0_conv")
    text = text.replace("import inceptionv1", "import googlenet").replace("inceptionv1(pretrained=True)", "given")
    inline: list[object] = []
    monkeypatch.setattr(io, "show", inline.append)
    given = render.render_vis
    options = {"thresholds": (2,), "fixed_image_size": 64}
    monkeypatch.setattr(optvis_render, "render_vis", lambda *a, **more: given(*a, **{**options, **more}))
    names = {"torch": torch, "given": googlenet, "model": googlenet}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        exec(text, names)
    images = names["images"]
    assert [type(one) for one in images] == [np.ndarray]
    side = 64 if "(64" in text else 128
    assert images[0].shape == (2 if "batch=2" in text else 1, side, side, 3)
    assert 0 < images[0].min() < images[0].max() < 1
    assert images[0].std() > (1e-3 if name in FAST else 1e-6)  # a cppn starts with a last layer of zeros
    assert [w.category for w in told] == [] if name in FAST else [SlowPath]
    assert len(inline) == text.count("show_inline=True")
    assert len(seen) == 1 - len(inline)


def test_the_package_has_lucents_shape():
    lucent = fvfast.compat.lucent
    assert lucent.optvis.render is lucent.render
    assert fft_image is param.fft_image
    assert lucent.modelzoo.util.get_model_layers(nn.Sequential(nn.Sequential(nn.ReLU()))) == ["0", "0_0"]
    assert lucent.modelzoo.util.get_model_layers(nn.Sequential(nn.ReLU()), True) == {"0": "ReLU()"}
    with pytest.raises(FvfastError, match="googlenet, where mixed4a is called inception4a"):
        lucent.modelzoo.inceptionv1(pretrained=True)
    with pytest.raises(AttributeError, match="no attribute 'resnet_8'"):
        lucent.modelzoo.resnet_8  # noqa: B018
    lucent.util.set_seed(4)
    first = torch.rand(1)
    lucent.util.set_seed(4)
    assert torch.equal(first, torch.rand(1))


# The engine against lucent's loop --------------------------------------------------------------------------


def by_hand(net, loss, params, image_f, transforms, steps, lr=0.05):
    """lucent's loop in its plainest form, on the user's own network: the image after the last step."""
    found: dict[str, torch.Tensor] = {}
    net = copy.deepcopy(net)
    for name, child in net.named_modules():
        child.register_forward_hook(lambda m, i, o, name=name: found.__setitem__(name.replace(".", "_"), o.clone()))
    optimizer = torch.optim.Adam(params, lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        image = image_f()
        for one in transforms:
            image = one(image)
        net((image - MEAN) / STD)
        loss(lambda name, image=image_f: image() if name == "input" else found[name]).backward()
        optimizer.step()
    return image_f().detach().permute(0, 2, 3, 1).numpy()


LOSSES = {
    "channel": objectives.channel("deep_norm", 3),
    "in basis, with the output": objectives.channel("norm", 1) + 0.1 * objectives.channel("head", 2),
    "the image itself": objectives.channel("deep_norm", 3) + 1e-3 * objectives.blur_input_each_step(),
    "coupled": objectives.channel("deep_norm", 3) - 5 * objectives.diversity("norm"),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("fft", [True, False])
def test_the_engine_takes_lucents_steps(net, loss, fft):
    def start():
        torch.manual_seed(8)
        return param.image(24, batch=2, fft=fft, sd=0.3)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = render.render_vis(net, LOSSES[loss], start, thresholds=(1, 5), **small())
    begin = start()[1]().detach().permute(0, 2, 3, 1).numpy()
    for ours, steps in zip(images, (1, 5), strict=True):
        expected = by_hand(net, LOSSES[loss], *start(), [], steps)
        assert np.abs(expected - begin).max() > 0.008 * steps
        # Adam's first steps are the gradient's sign: entries whose gradient is nothing but rounding may go either way.
        assert np.abs(ours - expected).mean() < 0.02 * np.abs(expected - begin).mean()


def test_transforms_are_drawn_as_in_lucents_loop(net):
    moves = [transform.pad(4, "constant", 0.5), transform.jitter(6), transform.jitter(3)]

    def start():
        torch.manual_seed(8)
        np.random.seed(2)
        return param.image(24, sd=0.3)

    loss = objectives.channel("deep_norm", 3)
    (ours,) = render.render_vis(net, loss, start, thresholds=(4,), **small(transforms=moves, fixed_image_size=32))
    begin = start()[1]().detach().permute(0, 2, 3, 1).numpy()
    expected = by_hand(net, loss, *start(), moves, 4)
    assert np.corrcoef((ours - begin).ravel(), (expected - begin).ravel())[0, 1] > 0.999
    np.random.seed(77)
    other = by_hand(net, loss, *param_seeded(), moves, 4)
    assert np.corrcoef((ours - begin).ravel(), (other - begin).ravel())[0, 1] < 0.99


def param_seeded():
    torch.manual_seed(8)
    return param.image(24, sd=0.3)


def test_the_general_loop_takes_lucents_steps(net):
    def start():
        torch.manual_seed(8)
        params, image_f = param.image(20, sd=0.3)
        return params, lambda: image_f().flip(2)

    loss = objectives.channel("deep_norm", 3)
    with pytest.warns(SlowPath, match="the image is not made by param.image alone") as told:
        (ours,) = render.render_vis(net, loss, start, thresholds=(4,), **small(fixed_image_size=20))
    assert len(told) == 1
    assert told[0].filename == __file__
    expected = by_hand(net, loss, *start(), [], 4)
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_a_standard_render_raises_its_channel(net):
    torch.manual_seed(0)
    np.random.seed(0)
    tensor, image_f = param.image(32)
    render.render_vis(net, "deep_norm:3", lambda: (tensor, image_f), thresholds=(30,), fixed_image_size=40, **QUIET)
    found = {}
    with torch.no_grad():
        probe = copy.deepcopy(net)
        probe.deep_norm.register_forward_hook(lambda m, i, o: found.__setitem__("end", o[:, 3].mean().item()))
        probe((image_f() - MEAN) / STD)
        end = found["end"]
        probe((torch.full((1, 3, 32, 32), 0.5) - MEAN) / STD)
    assert end > found["end"] + 0.1


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"param_f": lambda: param.cppn(16)}, "not made by param.image alone"),
        ({"param_f": lambda: param.image(16, h=20)}, "the image is not square"),
        ({"param_f": lambda: param.image(16), "optimizer": lambda p: torch.optim.SGD(p, 1.0)}, "SGD is not a plain"),
        (
            {"param_f": lambda: param.image(16), "optimizer": lambda p: torch.optim.Adam(p, 0.1, weight_decay=1)},
            "Adam is not a plain Adam",
        ),
        (
            {"param_f": lambda: param.image(16), "optimizer": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=2)},
            "LBFGS is not a plain Adam",
        ),
        ({"param_f": lambda: param.image(16), "transforms": [lambda x: x.flip(3)]}, "the transform <lambda> is not"),
        ({"param_f": lambda: param.image(8)}, "of 16 to 1024 px"),
    ],
)
def test_whatever_the_engine_does_not_know_runs_step_by_step_and_says_why(net, options, reason):
    with pytest.warns(SlowPath, match=reason):
        images = render.render_vis(net, "deep_norm:3", thresholds=(1, 2), **small(**options))
    assert len(images) == 2
    assert np.abs(images[0] - images[1]).max() > 1e-4


def test_layers_that_are_asked_for_later_are_found(net):
    calls = []

    @objectives.wrap_objective()
    def restless():
        def inner(model):
            calls.append(None)
            return -model("deep_norm" if len(calls) < 3 else "norm")[:, 3].mean()

        return inner

    with pytest.warns(SlowPath, match="reads other layers at some steps"):
        images = render.render_vis(net, restless(), lambda: param.image(16), thresholds=(4,), **small())
    assert len(images) == 1


# Kept, shown and said --------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", [False, True])
def test_the_model_stays_exactly_as_it_was(nets, slow):
    torch.manual_seed(0)
    net = nets.Tiny().train()
    net.stem.weight.requires_grad_(False)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    wanted = {name: value.requires_grad for name, value in net.named_parameters()}
    transforms = [lambda x: x] if slow else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        render.render_vis(net, "deep:3", lambda: param.image(16), thresholds=(2,), **small(transforms=transforms))
    assert all(child.training for child in net.modules())
    assert not any(child._forward_hooks or child._backward_hooks for child in net.modules())
    assert all(value.grad is None for value in net.parameters())
    assert {name: value.requires_grad for name, value in net.named_parameters()} == wanted
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())


def test_thresholds_come_in_order_and_the_users_tensor_holds_the_last(net):
    tensors, image_f = param.image(24)
    images = render.render_vis(net, "deep_norm:3", lambda: (tensors, image_f), thresholds=(4, 1, 4), **small())
    assert len(images) == 2
    np.testing.assert_array_equal(images[1], image_f().detach().permute(0, 2, 3, 1).numpy())
    assert np.abs(images[0] - images[1]).max() > 0.01


def test_verbose_says_the_losses(net, capsys):
    torch.manual_seed(8)
    start = param.image(24, sd=0.3)
    begin = start[1]().detach()
    render.render_vis(net, "deep_norm:3", lambda: start, thresholds=(1, 3), verbose=True, **small())
    said = capsys.readouterr().out.splitlines()
    found = {}
    probe = copy.deepcopy(net)
    probe.deep_norm.register_forward_hook(lambda m, i, o: found.__setitem__("loss", -o[:, 3].mean().item()))
    probe((begin - MEAN) / STD)
    assert said[0] == f"Initial loss: {found['loss']:.3f}"
    assert said[1] == f"Loss at step 1: {found['loss']:.3f}"
    assert float(said[2].removeprefix("Loss at step 3: ")) < found["loss"]


@pytest.mark.parametrize("loop", [Engine, General])
def test_ctrl_c_keeps_the_image_as_it_is(net, monkeypatch, capsys, loop):
    advance = loop.advance
    taken = []

    def interrupted(self, count):
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(count)
        advance(self, count)

    monkeypatch.setattr(loop, "advance", interrupted)
    transforms = [lambda x: x] if loop is General else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = render.render_vis(
            net, "deep_norm:3", lambda: param.image(24), thresholds=(2, 50), **small(transforms=transforms)
        )
    assert capsys.readouterr().out == "Interrupted optimization at step 3.\n"
    assert len(images) == 2
    assert np.abs(images[0] - images[1]).max() > 0.001


def test_images_are_saved_and_shown(net, seen, tmp_path):
    images = render.render_vis(
        net, "deep_norm:3", lambda: param.image(24, batch=2), None, [], (1,), False, True, False, True, True, "two.png",
        fixed_image_size=24,
    )  # fmt: skip
    side_by_side = np.concatenate(list(images[0]), 1)
    expected = (side_by_side * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "two.png")), expected)
    np.testing.assert_array_equal(np.asarray(seen[0]), expected)


def test_inline_images_are_pngs_in_the_page(monkeypatch):
    page = io.html(np.zeros((2, 4, 4, 3)) + 0.5, labels=["a", "b"], width=90)
    assert page.count("data:image/png;base64,") == 2
    assert page.count("width=90") == 2
    assert ">a<br>" in page
    assert io.to_picture(np.array([[2.0, 4.0]]), domain=None).getpixel((1, 0)) == 255
    monkeypatch.setitem(sys.modules, "IPython", None)
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(FvfastError, match="pip install ipython"):
        io.show(np.zeros((4, 4, 3)))
    with pytest.raises(FvfastError, match=r"an image is .* not \[4, 4, 5\]"):
        io.html(np.zeros((4, 4, 5)))


# Networks of other kinds -----------------------------------------------------------------------------------


def test_lucents_own_inceptionv1_gets_its_range():
    ranges = []

    class InceptionV1(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x):
            ranges.append((x.min().item(), x.max().item()))
            return self.conv(x)

    render.render_vis(InceptionV1(), "conv:0", lambda: param.image(16, sd=9), thresholds=(1,), **small())
    # The network is also traced, with noise of a few units, before and after it sees the image.
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    assert -117 <= low < -50
    assert 50 < high <= 138


def test_a_network_of_grey_images(nets):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()
    with pytest.warns(SlowPath, match="in colour"):
        images = render.render_vis(
            net,
            "3:2",
            lambda: param.image(16, channels=1),
            thresholds=(3,),
            preprocess=False,
            **small(fixed_image_size=16),
        )
    assert images[0].shape == (1, 16, 16, 1)
    with torch.no_grad():
        after = net(torch.from_numpy(images[0]).permute(0, 3, 1, 2))[0, 2]
        assert after > net(torch.full((1, 1, 16, 16), 0.5))[0, 2]


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("Tokens", {"patch": (1, 6, 4, 4), "embed": (1, 17, 6), "labels": (1, 4), "input": (1, 3, 32, 32)}),
        ("ChannelsLast", {"last": (1, 32, 32, 5), "labels": (1, 32, 32, 5)}),
    ],
)
def test_an_objective_sees_outputs_as_the_module_gave_them(nets, kind, shapes, slow):
    found = {}

    def loss(model):
        for name in shapes:
            found[name] = tuple(model(name).shape)
        return -model("labels").sum()

    transforms = [lambda x: x] if slow else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if slow else "error")
        render.render_vis(
            getattr(nets, kind)().eval(),
            loss,
            lambda: param.image(32),
            thresholds=(1,),
            **small(transforms=transforms, fixed_image_size=32),
        )
    assert found == shapes


# Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "options", "sentence"),
    [
        ("deep_nrom:3", {}, r"Tiny has no layer 'deep_nrom' \(did you mean deep_norm"),
        ("deep_norm:12", {}, "deep_norm has channels 0-11, not 12"),
        ("deep_norm", {}, "'deep_norm' is no objective"),
        (None, {}, "None is no objective"),
        ("deep_norm:1", {"thresholds": ()}, "thresholds are steps after which to keep an image"),
        ("deep_norm:1", {"thresholds": (0,)}, r"not \(0,\)"),
        (lambda T: T("norm").mean((0, 1)), {}, "one number for a batch, not a tensor of shape"),
        (lambda T: 3.0, {}, "does not depend on the image"),
        (lambda T: T("norm").mean() / 0, {}, "became"),
        ("deep_norm:1", {"param_f": lambda: param.image(16, channels=2), "preprocess": False}, "2 channels and 24 px"),
        ("deep_norm:1", {"save_image": True, "image_name": "a.what"}, "end it in .png or .jpg"),
    ],
)
@pytest.mark.parametrize("slow", [False, True])
def test_bad_input_is_one_sentence(net, objective, options, sentence, slow):
    choice = {"param_f": lambda: param.image(24), "thresholds": (1,), **options}
    if slow:
        choice["optimizer"] = lambda params: torch.optim.SGD(params, 0.1)
    warnings.simplefilter("ignore")
    with pytest.raises(FvfastError, match=sentence):
        render.render_vis(net, objective, **small(**choice))
