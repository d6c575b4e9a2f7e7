"""Two renders against each other: which, what differs, and the figures."""

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest
import torch
from fvfast_dashboard import charts

import fvfast
from fvfast import blobs, differences, keeping, quality
from fvfast.store import Store
from tests.fvfast.sketch_store import traced


@pytest.fixture
def pair(tmp_path):
    """Two renders whose pictures are large and lively enough to be compared."""
    found = []
    for number, seed in ((20, 0), (20, 1)):
        rng = np.random.default_rng(seed)
        picture = PIL.Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
        data = blobs.encode(picture, "png")
        one = traced(number)
        entry = dataclasses.replace(
            one.entry, seed=seed, key=f"{seed + 10:064x}", image=blobs.address("images", data, "png")
        )
        found.append(dataclasses.replace(one, entry=entry, image=data))
    with Store(tmp_path / "store", write=True) as store:
        store.add(found)
    return [one.entry for one in found], [one.image for one in found]


def test_the_figures_are_those_of_the_two_pictures(visit, pair):
    (a, b), data = pair
    app = visit("compare", a=a.key, b=b.key)
    assert not app.exception
    images = [differences.decode(one) for one in data]
    expected = quality.compare(*images)
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["PSNR"] == f"{expected['psnr']:.1f} dB"
    assert shown["MS-SSIM"] == f"{expected['ms_ssim']:.3f}"
    assert shown["FSIM"] == f"{expected['fsim']:.3f}"
    assert shown["RMS difference"] == f"{expected['rms']:.3f}"


def test_the_wipe_has_both_pictures_and_what_tells_them_apart(visit, pair, component):
    (a, b), _ = pair
    found = component(visit("compare", a=a.key, b=b.key))
    assert found["labels"] == ["seed 0", "seed 1"]
    assert found["left"].startswith("data:image/png;base64,")
    assert found["left"] != found["right"]


def test_two_stages_of_one_render_can_be_compared(visit, pair, component):
    (a, _), _ = pair
    app = visit("compare", a=a.key, b=a.key)
    app.select_slider[0].set_value(1).run()
    assert not app.exception
    assert component(app)["labels"] == ["step 1", "step 4"]
    assert component(app)["left"].startswith("data:image/webp")


def test_a_choice_changes_the_address(visit, pair, full):
    (a, b), _ = pair
    app = visit("compare", a=a.key, b=b.key)
    app.selectbox[1].select(full["early:1 default 0"].key).run()
    assert not app.exception
    assert app.query_params["b"] == full["early:1 default 0"].key


def test_without_an_address_a_pair_of_one_feature_is_shown(visit, full):
    app = visit("compare")
    assert not app.exception
    a, b = (app.query_params[name] for name in "ab")
    by_key = {entry.key: entry for entry in full.values()}
    assert a != b
    assert by_key[a].target == by_key[b].target


@pytest.mark.parametrize("key", ["../../x", "'; DROP TABLE renders; --", "<script>"])
def test_a_hostile_address_is_refused(visit, full, key):
    app = visit("compare", a=key, b=full["early:1 default 0"].key)
    assert not app.exception
    assert "hexadecimal digits" in app.error[0].value


def test_a_missing_picture_is_a_sentence(visit, pair, tmp_path):
    (a, b), _ = pair
    (tmp_path / "store" / b.image).unlink()
    app = visit("compare", a=a.key, b=b.key)
    assert not app.exception
    assert "missing or damaged" in app.error[0].value


def test_the_smaller_picture_is_enlarged():
    a, b = torch.rand(3, 40, 30), torch.full((3, 20, 15), 0.25)
    larger, same = differences.matched(b, a)
    assert larger.shape == same.shape == (3, 40, 30)
    assert torch.equal(same, a)
    assert torch.allclose(larger, torch.full((3, 40, 30), 0.25), atol=1e-6)


def test_a_difference_is_the_mean_of_the_channels():
    a, b = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    b[0, 1, 0] = 0.6
    b[1, 1, 0] = 0.3
    assert torch.allclose(differences.difference(a, b), torch.tensor([[0, 0], [0.3, 0]]))


def test_what_is_no_picture_is_refused():
    with pytest.raises(differences.FvfastError, match="not a readable picture"):
        differences.decode(b"nonsense")
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (2, 1), (255, 0, 51)).save(buffer, "PNG")
    assert torch.allclose(differences.decode(buffer.getvalue())[:, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


def test_heat_goes_from_dark_to_light():
    colours = charts.heat(np.array([[0.0, 0.25, 0.5]]), 0.5).astype(int).sum(-1)[0]
    assert colours[0] < colours[1] < colours[2]
    assert (charts.heat(np.zeros((2, 2)), 0.0) == charts.heat(np.zeros((2, 2)), 1.0)).all()


def test_spectra_are_logarithmic_and_in_cycles_a_pixel():
    curves = {n: (np.array([0.1, 0.2]), np.array([4.0, 0.0])) for n in ("a", "b")}
    chart = charts.spectra(curves).to_dict()
    assert chart["encoding"]["x"]["scale"]["type"] == chart["encoding"]["y"]["scale"]["type"] == "log"
    assert "cycles/pixel" in chart["encoding"]["x"]["title"]
    (rows,) = chart["datasets"].values()
    assert [row["power"] for row in rows if row["render"] == "a"] == [4.0, 1e-12]


@pytest.mark.parametrize("count", [1, 2, 4, 12])
def test_images_of_other_channels_are_shown_and_not_measured_as_colours(visit, tmp_path, words, component, count):
    model = fvfast.load(torch.nn.Conv2d(count, 4, 3), mean=0.5, std=0.25)
    with Store(tmp_path / "store", write=True) as store:
        made = fvfast.render(model, "logits:1", size=64, steps=2, copies=2, snapshots=[1])
        a, b = keeping.keep(store, made)
    app = visit("compare", a=a.key, b=b.key)
    assert not app.exception
    found = component(app)
    assert (found["left"][:22], found["left"] != found["right"]) == ("data:image/png;base64,", True)
    assert bool(app.metric) == (count == 1)  # a grey image is measured
    assert ("in grey or in three colours only" in words(app)) == (count != 1)
    feature = visit("feature", key=a.key)
    assert not feature.exception
    assert not visit("gallery").exception
