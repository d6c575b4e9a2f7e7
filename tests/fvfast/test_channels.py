"""Networks that take other images than three colours: how many channels, what becomes of them, how they are written."""

import io
import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fvfast
from fvfast import (
    animations,
    channels,
    examples,
    files,
    judging,
    keeping,
    objectives,
    photographs,
    planes,
    seeded,
    speed,
    tracing,
)
from fvfast.errors import FvfastError
from fvfast.images import Fourier, Frame, _in_threes
from fvfast.recipes import DEFAULT, PLAIN
from fvfast.store import Store

COUNTS = (1, 2, 4, 12)
PARAMETERISATIONS = ("fourier", "pixel", "phase", "pyramid", "cppn")


def net(count, size=16):
    """Two convolutions whose channels weigh unlike one another, so that none may be left out or taken for another."""
    torch.manual_seed(count)
    return nn.Sequential(nn.Conv2d(count, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3))


def normalisation(count):
    return {"mean": [0.3 + 0.02 * i for i in range(count)], "std": [0.2 + 0.01 * i for i in range(count)]}


def given(count, **options):
    return fvfast.load(net(count), size=16, **normalisation(count), **options)


def by_hook(model, layer, images):
    """A layer's output for images in 0..1, by a hook on the untouched network."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.mean, model.std))
    seen = []
    handle = model.module.get_submodule(layer).register_forward_hook(lambda m, i, output: seen.append(output))
    with torch.no_grad():
        model.module((images - mean) / std)
    handle.remove()
    return seen[0]


def refusal(work):
    with pytest.raises(FvfastError) as caught:
        work()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# How many --------------------------------------------------------------------------------------------------


class LateStem(nn.Module):
    """What is registered first runs last."""

    def __init__(self, count):
        super().__init__()
        self.head, self.stem = nn.Conv2d(8, 4, 3), nn.Conv2d(count, 8, 3)

    def forward(self, x):
        return self.head(self.stem(x))


class Functional(nn.Module):
    """No layer says how many channels it takes."""

    def __init__(self, count):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, count, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight)


class Greyed(nn.Module):
    """Takes colours, though its first convolution sees one channel."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        return self.stem(x[:, :1] * 0.3 + x[:, 1:2] * 0.6 + x[:, 2:3] * 0.1)


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (nn.Conv2d(1, 4, 3), 1),
        (nn.Conv2d(16, 4, 3), 16),
        (nn.Conv2d(6, 12, 3, groups=3), 6),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 3)), 4),
        (nn.Sequential(nn.BatchNorm2d(7), nn.Conv2d(7, 4, 3)), 7),
        (nn.Sequential(nn.Flatten(), nn.Linear(2 * 32 * 32, 4)), 2),
        (nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 4)), 1),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 4)), 1),
        (LateStem(5), 5),
        (Functional(12), 12),
        (Greyed(), 3),
        (nn.Conv2d(3, 4, 3), 3),
        (nn.AvgPool2d(2), 3),
    ],
)
def test_the_network_says_how_many_channels_its_images_have(module, count):
    model = fvfast.load(module, size=32)
    assert model.channels == count
    # ImageNet's colours are three; of other channels nothing is known.
    assert model.assumed == (count != 3)
    assert (model.mean, model.std) == ((0.5,) * count, (0.25,) * count) or count == 3


@pytest.mark.parametrize("count", [1, 4])
def test_metadata_of_as_many_channels_are_believed(count):
    module = net(count)
    module.__dict__["pretrained_cfg"] = {"input_size": (count, 16, 16), "mean": [0.1] * count, "std": [0.2] * count}
    model = fvfast.load(module)
    assert (model.channels, model.mean, model.assumed, model.size) == (count, (0.1,) * count, False, 16)
    # timm leaves the colours' figures where a network is built with in_chans=1.
    module.__dict__["pretrained_cfg"] = {"input_size": (3, 16, 16), "mean": [0.1] * 3, "std": [0.2] * 3}
    model = fvfast.load(module)
    assert (model.channels, model.mean, model.assumed) == (count, (0.5,) * count, True)


def test_one_number_stands_for_every_channel():
    for count in (1, 3, 4):
        model = fvfast.load(net(count), mean=0, std=0.5)
        assert (model.mean, model.std, model.assumed) == ((0.0,) * count, (0.5,) * count, False)
    half = fvfast.load(net(4), mean=(0.1, 0.2, 0.3, 0.4))
    assert (half.mean, half.std, half.assumed) == ((0.1, 0.2, 0.3, 0.4), (0.25,) * 4, True)
    assert fvfast.load(fvfast.load(net(4)), mean=torch.tensor([0.5] * 4), std=1).assumed is False


@pytest.mark.parametrize(
    ("count", "options", "words"),
    [
        (3, {"mean": (0.5,) * 2, "std": (0.5,) * 3}, ("mean has 2", "std has 3")),
        (3, {"mean": (0.5,) * 4}, ("3 channels", "for 4")),
        (4, {"mean": (0.5,) * 3, "std": (0.2,) * 3}, ("4 channels", "for 3")),
        (1, {"std": (0.2,) * 12}, ("1 channel,", "for 12")),
        (3, {"mean": "0.5"}, ("mean must be a number or a list of numbers", "'0.5'")),
        (3, {"mean": float("nan")}, ("mean must be a finite number", "nan")),
        (1, {"std": 0}, ("std must be above 0", "0")),
        (4, {"mean": []}, ("mean must be a number or a list of numbers", "[]")),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(monkeypatch, count, options, words):
    monkeypatch.setattr(tracing, "PATIENCE", 0.2)  # with looking for a size that would do
    sentence = refusal(lambda: fvfast.render(fvfast.load(net(count), **options), "2:1", size=16, steps=1))
    assert all(word in sentence for word in words), sentence


def test_what_a_model_says_of_itself_is_not_guessed_again(monkeypatch):
    monkeypatch.setattr(tracing, "PATIENCE", 0.2)
    for count in (1, 4, 12):
        model = fvfast.Model("made", "none", net(3), (0.5,) * count, (0.2,) * count)
        assert fvfast.load(model) is model
        assert "3 channels" in refusal(lambda model=model: fvfast.render(model, "2:1", size=16, steps=1))


def test_a_render_says_what_it_assumes():
    (note,) = [n for n in fvfast.render(fvfast.load(net(4)), "2:1", size=16, steps=1).notes if "assumed" in n]
    assert "4 channels" in note
    assert "mean 0.5 and deviation 0.25" in note
    assert not [n for n in fvfast.render(given(4), "2:1", size=16, steps=1).notes if "assumed" in n]


# Values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "image"),
    [(count, "fourier") for count in COUNTS] + [(count, image) for image in PARAMETERISATIONS[1:] for count in (1, 4)],
)
def test_objectives_are_those_of_the_untouched_network(count, image):
    model = given(count)
    made = fvfast.render(model, ["2:3", "0:1"], image=image, size=20, steps=3)
    assert made.images.shape == (2, count, 20, 20)
    for row, (layer, channel) in enumerate((("2", 3), ("0", 1))):
        expected = by_hook(model, layer, made.images[row : row + 1])[:, channel].mean()
        torch.testing.assert_close(made.objective[row], expected, rtol=1e-4, atol=1e-5)
    assert (made.objective > made.objective_start).all()
    # Every channel takes part: one that the network did not see would have stayed as it began.
    assert (made.images.std((2, 3)) > 0).all()
    # What is rendered together comes out as alone.
    assert torch.equal(fvfast.render(model, "0:1", image=image, size=20, steps=3).images[0], made.images[1])


@pytest.mark.parametrize("recipe", ["lucent", "torch-dreams", "plain", "maco"])
@pytest.mark.parametrize("count", [1, 4])
def test_recipes_take_any_number_of_channels(count, recipe):
    model = given(count)
    made = fvfast.render(model, "2:3", recipe=recipe, size=32, steps=2)
    views = {"lucent": 224}  # what its views are zoomed to
    seen = made.images if recipe not in views else F.interpolate(made.images, size=(224, 224), mode="bilinear")
    torch.testing.assert_close(made.objective, by_hook(model, "2", seen)[:, 3].mean()[None], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 7, 12])
def test_synthesis_in_threes_is_an_inverse_fft(count, own):
    """In float64, with the gradient; own: an envelope for each image."""
    size, images = 16, 2
    generator = torch.Generator().manual_seed(count)
    draw = {"generator": generator, "dtype": torch.float64}
    spectrum = torch.randn(images, count, 2, size, size // 2 + 1, **draw).requires_grad_()
    envelope = torch.rand(*([images] if own else []), size, size // 2 + 1, **draw)
    weights = torch.randn(images, count, size, size, **draw)
    shift = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0], [3.0, -2.0, 1.0, 1.0, 0.0]], dtype=torch.float64)

    found = _in_threes(
        spectrum, envelope, shift, {"width": size, "out_size": (size, size), "gain": 0.7, "dtype": torch.float64}
    )
    scale = envelope[:, None] if own else envelope
    planes_ = torch.complex(spectrum[:, :, 0], spectrum[:, :, 1]) * scale
    field = torch.fft.irfft2(planes_, s=(size, size), norm="ortho")
    expected = torch.sigmoid(0.7 * torch.stack([field[0], field[1].roll((-3, 2), (-2, -1))]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad((image * weights).sum(), spectrum)[0] for image in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_view_has_the_images_channels_only(count):
    """Four channels are no three with a spare one, as a widened stem has them."""
    mean, std = (torch.tensor(v) for v in normalisation(count).values())
    frame = Frame(16, 16, mean, std, torch.float32, torch.device("cpu"), count)
    noise = torch.stack([Fourier.noise(16, torch.Generator().manual_seed(i), count) for i in range(2)])
    image = Fourier([replace(DEFAULT, sd=1.0)] * 2, noise, frame)
    assert (frame.inputs, frame.wide, replace(frame, channels=4).wide) == (count, False, count == 3)
    view = image.view(torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.0]]).expand(2, -1))
    torch.testing.assert_close(view, (image.canvas() - mean[:, None, None]) / std[:, None, None], rtol=0, atol=2e-5)
    assert view.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("count", [1, 4])
def test_objectives_on_the_image_itself(count):
    model = given(count)
    goal = objectives.channel("2", 3) - 2 * objectives.total_variation() - objectives.l2() - objectives.blur()
    made = fvfast.render(model, goal, size=16, steps=2)
    pixels = made.images.double()
    edges = pixels.diff(dim=2).abs().mean() + pixels.diff(dim=3).abs().mean()
    square = (pixels - 0.5).square().mean()
    rest = by_hook(model, "2", made.images)[:, 3].mean() - made.objective[0]
    blurred = rest - 2 * edges - square
    assert 0 < blurred < 0.05  # what a blur takes away, which is little


def test_images_in_one_tensor_and_with_something_in_common():
    model = given(4)
    together = fvfast.render(model, ["2:3", "2:1"], size=16, steps=2, batch=2)
    apart = fvfast.render(model, ["2:3", "2:1"], size=16, steps=2, batch=1)
    torch.testing.assert_close(together.images, apart.images, rtol=0, atol=2e-3)
    aligned = fvfast.render(model, ["2:3", "2:1"], size=16, steps=4, align=True)
    assert aligned.images.shape == (2, 4, 16, 16)


# Pictures to begin with ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
def test_a_picture_of_the_networks_channels_is_what_a_render_starts_from(count):
    model = given(count)
    smooth = F.interpolate(torch.rand(1, count, 4, 4), size=(16, 16), mode="bicubic")[0].clamp(0.2, 0.8)
    for image in ("fourier", "pixel", "pyramid"):
        made = fvfast.render(model, "2:3", image=image, start=smooth, size=16, steps=2, snapshots=[0])
        torch.testing.assert_close(made.snapshots[0][0][1], smooth, rtol=0, atol=2e-3)
        expected = by_hook(model, "2", smooth[None])[:, 3].mean()
        torch.testing.assert_close(made.objective_start[0], expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        *[((count, 16, 16), 0) for count in (1, 2, 3, 4, 5, 12, 16)],
        *[((16, 16, count), 2) for count in (1, 3, 4)],
        *[((40, 30, count), 2) for count in (1, 2, 3, 4, 12)],
        ((12, 16, 20), 0),
        ((2, 40, 16), 0),
        ((16, 20, 3), 2),
    ],
)
def test_an_arrays_channels_are_first_unless_only_last_makes_sense(shape, axis):
    picture = torch.rand(shape)
    assert torch.equal(photographs.planes_of(picture), picture.movedim(axis, 0))
    assert torch.equal(photographs.planes_of(picture.numpy()[None]), picture.movedim(axis, 0))


@pytest.mark.parametrize("shape", [(3, 4, 3), (4, 40, 4), (1, 9, 3), (16, 16, 12), (8, 8, 2), (17, 18, 19)])
def test_an_array_whose_channels_cannot_be_told_is_refused(shape):
    assert str(list(shape)) in refusal(lambda: seeded.inversion("2", torch.rand(shape)))


def test_a_fourth_channel_is_an_opacity_to_a_network_of_colours():
    picture = F.interpolate(torch.rand(1, 4, 4, 4), size=(16, 16), mode="bicubic")[0].clamp(0.2, 0.8)
    for count, seen in ((3, picture[:3]), (4, picture), (1, photographs.with_channels(picture[:3], 1))):
        made = fvfast.render(given(count), "2:3", image="pixel", start=picture, size=16, steps=1)
        expected = by_hook(given(count), "2", seen[None])[:, 3].mean()
        torch.testing.assert_close(made.objective_start[0], expected, rtol=1e-2, atol=1e-3)


def test_colours_are_seen_in_grey_by_a_network_of_one_channel(tmp_path):
    colours = F.interpolate(torch.rand(1, 3, 4, 4), size=(16, 16), mode="bicubic")[0].clamp(0.2, 0.8)
    files.to_pil(colours).save(tmp_path / "colours.png")
    grey = (0.299 * colours[0] + 0.587 * colours[1] + 0.114 * colours[2])[None]
    torch.testing.assert_close(photographs.with_channels(colours, 1), grey)
    made = fvfast.render(given(1), "2:3", start=tmp_path / "colours.png", size=16, steps=1, snapshots=[0])
    torch.testing.assert_close(made.snapshots[0][0][1], grey, rtol=0, atol=5e-3)
    for goal in (seeded.inversion("2", colours), "inversion(2, colours.png)"):
        start = fvfast.render(given(1), goal, start=colours, size=16, steps=1).objective_start
        assert start.item() == pytest.approx(0, abs=2e-3)


@pytest.mark.parametrize(("count", "held"), [(4, 3), (12, 3), (2, 1), (3, 5), (1, 2)])
def test_a_picture_of_other_channels_is_refused(count, held):
    other = torch.rand(held, 16, 16)
    for options in ({"start": other}, {"target": seeded.caricature("2", other)}):
        sentence = refusal(
            lambda o=options: fvfast.render(given(count), **{"target": "2:1", "size": 16, "steps": 1, **o})
        )
        assert f"the picture has {channels.counted(held)}" in sentence
        assert f"have {count}" in sentence


@pytest.mark.parametrize(
    ("count", "options", "word"),
    [
        (1, {"alpha": True}, "--alpha"),
        (4, {"alpha": True}, "--alpha"),
        (12, {"recipe": replace(PLAIN, alpha=0.5)}, "--alpha"),
        (4, {"image": "generator:dcgan-faces"}, "three colours"),
        (1, {"image": "generator:dcgan-faces"}, "three colours"),
    ],
)
def test_what_needs_colours_says_so(count, options, word):
    assert word in refusal(lambda: fvfast.render(given(count), "2:1", **{"size": 16, "steps": 1, **options}))


def test_measured_magnitudes_are_of_colours():
    recipe = replace(fvfast.recipes.MACO, magnitude="colours.safetensors")
    sentence = refusal(lambda: fvfast.render(given(4), "2:1", recipe=recipe, size=16, steps=1))
    assert "--magnitude" in sentence


def test_commands_on_photographs_say_what_they_take(tmp_path):
    files.to_pil(torch.rand(3, 40, 40)).save(tmp_path / "a.png")
    assert "4 channels" in refusal(lambda: fvfast.dream(tmp_path / "a.png", given(4), "2"))
    assert "4 channels" in refusal(lambda: examples.find(given(4), "2", tmp_path, store=tmp_path / "kept"))
    (tmp_path / "greying.py").write_text("from torch import nn\ndef net(): return nn.Conv2d(1, 4, 3)\n")
    assert "1 channel" in refusal(lambda: speed.measure("greying:net", "logits"))
    assert "12 channels" in refusal(lambda: judging.Judge(given(12), torch.device("cpu"), 16, None, []))
    found = examples.find(given(1), "2", tmp_path, store=tmp_path / "kept", size=16, top=1)
    assert (found.images, found.failures) == (1, [])


# Files -----------------------------------------------------------------------------------------------------


def levels(image):
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def test_one_channel_is_a_grey_png(tmp_path):
    made = fvfast.render(given(1), ["2:3", "2:1"], size=16, steps=2, snapshots=[1], frames=2)
    for path, image in zip(made.save(tmp_path), made.images, strict=True):
        with PIL.Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (16, 16))
            assert np.array_equal(np.asarray(picture), levels(image)[0])
        assert files.read_spec(path)["recipe"]["image"] == "fourier"
    assert len(list((tmp_path / "snapshots").glob("*.png"))) == 2
    assert made.sheet().mode == "RGB"
    assert made.film(tmp_path / "film.gif") == 2


@pytest.mark.parametrize("count", [2, 4, 12])
def test_other_channels_are_pages_of_a_tiff(tmp_path, count):
    made = fvfast.render(given(count), ["2:3", "2:1"], size=16, steps=2, snapshots=[1], frames=2)
    for path, image in zip(made.save(tmp_path), made.images, strict=True):
        with PIL.Image.open(path) as picture:
            assert (picture.format, getattr(picture, "n_frames", 1)) == ("TIFF", count)
            for channel in range(count):
                picture.seek(channel)
                assert picture.mode == "L"  # four of them are not red, green, blue and an opacity
                assert np.array_equal(np.asarray(picture), levels(image)[channel])
        with PIL.Image.open(path.with_suffix(".png")) as beside:
            assert beside.mode == "RGB"
        assert files.read_spec(path) == files.read_spec(path.with_suffix(".png"))
        assert torch.equal(photographs.planes_of(path), torch.from_numpy(levels(image)).float() / 255)
        for take in (photographs.read, animations.find, lambda p: fvfast.dream(p, given(3), "2")):
            assert f"the {count} channels of a render" in refusal(lambda p=path, take=take: take(p))
        with PIL.Image.open(path) as opened:
            assert torch.equal(photographs.planes_of(opened), photographs.planes_of(path))
            assert "the PIL image is no photograph" in refusal(lambda p=opened: photographs.take(p))
    shots = sorted((tmp_path / "snapshots").glob("*.tif"))
    assert len(shots) == 2
    assert torch.equal(photographs.planes_of(shots[1]), torch.from_numpy(levels(made.snapshots[0][0][1])).float() / 255)
    assert made.sheet().mode == "RGB"
    assert made.film(tmp_path / "film.gif") == 2


def test_channels_side_by_side_are_each_in_grey():
    image = torch.linspace(0, 1, 5)[:, None, None].expand(5, 32, 32)
    page = np.asarray(planes.side_by_side(image)).astype(int)
    assert page.shape[2] == 3
    for level in levels(image)[:, 0, 0]:
        assert (page == int(level)).all(2).sum() >= 32 * 32 * 0.9
    assert files.to_pil(torch.rand(4, 8, 8), opacity=True).mode == "RGBA"
    assert files.to_pil(torch.rand(4, 8, 8)).mode == "RGB"


def test_an_opacity_of_phases_is_on_every_page(tmp_path):
    for count, modes in ((1, ["LA"]), (4, ["LA"] * 4)):
        made = fvfast.render(given(count), "2:3", image="phase", size=16, steps=2)
        (path,) = made.save(tmp_path / str(count), alpha=True)
        with PIL.Image.open(path) as picture:
            pages = range(getattr(picture, "n_frames", 1))
            assert [(picture.seek(page), picture.mode)[1] for page in pages] == modes


@pytest.mark.parametrize(("count", "suffix"), [(1, ".webp"), (4, ".tif"), (12, ".tif")])
def test_a_store_keeps_every_channel(tmp_path, count, suffix):
    made = fvfast.render(given(count), "2:3", size=16, steps=3, snapshots=[1])
    with Store(tmp_path / "kept", write=True) as store:
        (entry,) = keeping.keep(store, made, "webp")
        assert (entry.image.endswith(suffix), entry.thumbnail.endswith(".webp")) == (True, True)
        assert len(store.trace(entry.key).snapshots) == 1
    data = (tmp_path / "kept" / entry.image).read_bytes()
    with PIL.Image.open(io.BytesIO(data)) as picture:
        kept = planes.read(picture)
        if kept is None:
            kept = torch.from_numpy(np.asarray(picture.convert("L")).copy())[None].float() / 255
    assert torch.equal(kept, torch.from_numpy(levels(made.images[0])).float() / 255)
    shown = planes.viewable(data)
    assert (shown == data) == (count == 1)
    assert PIL.Image.open(io.BytesIO(shown)).format == ("WEBP" if count == 1 else "PNG")


@pytest.mark.parametrize("count", [1, 4])
def test_what_was_written_is_rendered_again(cli, tmp_path, count):
    (tmp_path / f"taking{count}.py").write_text(
        f"import torch\nfrom torch import nn\ndef net(): return nn.Conv2d({count}, 4, 3)\n"
    )
    code, out, err = cli("render", f"taking{count}:net", "logits:1", "--size", 16, "--steps", 2, "--json")
    assert code == 0, err
    assert "are assumed" in err
    first = tmp_path / json.loads(out)["renders"][0]["file"]
    code, out, err = cli("render", "--from", first, "--out", "again", "--json")
    assert code == 0, err
    assert (tmp_path / json.loads(out)["renders"][0]["file"]).read_bytes() == first.read_bytes()
    code, _, err = cli("render", f"taking{count}:net", "logits:1", "--size", 16, "--steps", 1, "--start", first)
    assert code == 0, err
