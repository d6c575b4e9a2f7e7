"""Recipes side by side: what is rendered and kept, what is measured of it, and what the means are made of."""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import fvfast
from fvfast import evidence, naturals, quality, trials
from fvfast import objectives as o
from fvfast.errors import FvfastError
from fvfast.judging import Judge
from fvfast.measures import MEASURES, Report, between_seeds, looks, measure, read
from fvfast.objectives import Channel
from fvfast.store import Query, Store

TARGETS = ["deep:0-2", "logits:gizmo", "deep:3"]  # five: the first and the fourth get two seeds
OPTIONS: dict[str, Any] = {"variants": ["default", "plain"], "size": 32, "steps": 3, "seeds": 2, "threads": 1}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store of two recipes' renders, and what rendering them returned."""
    from fvfast.models import Model
    from tests.fvfast import sketch_nets

    torch.manual_seed(0)
    names = ("gizmo", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
    model = Model("tiny", "none", sketch_nets.Tiny(), size=32, classes=names)
    folder = tmp_path_factory.mktemp("quality") / "store"
    return folder, model, trials.render(model, TARGETS, store=folder, **OPTIONS)


@pytest.fixture(scope="module")
def report(kept):
    folder, model, made = kept
    return measure(folder, made.keys, model=model)


# Rendering -------------------------------------------------------------------------------------------------


def test_every_third_feature_has_several_seeds(kept):
    folder, _, made = kept
    assert made.rendered == 14
    with Store(folder) as store:
        entries = store.entries()
    seeds = {(e.recipe["name"], e.target): 0 for e in entries}
    for e in entries:
        seeds[e.recipe["name"], e.target] += 1
    expected = {"deep:0": 2, "deep:1": 1, "deep:2": 1, "deep:3": 1, "logits:gizmo": 2}
    for recipe in ("default", "plain"):
        assert {target: seeds[recipe, target] for target in expected} == expected


def test_what_is_there_is_not_rendered_again(kept):
    folder, model, made = kept
    again = trials.render(model, TARGETS, store=folder, **OPTIONS)
    assert (again.rendered, again.skipped) == (0, 14)
    assert again.keys == made.keys


def test_a_run_that_was_stopped_goes_on(kept, tmp_path):
    _, model, made = kept
    seen = []

    def stop():
        return bool(seen) and seen[-1].rendered > 0

    part = trials.render(model, TARGETS, store=tmp_path / "part", progress=seen.append, stop=stop, **OPTIONS)
    assert part.interrupted
    assert 0 < part.rendered < 14
    assert sum(len(keys) for keys in part.keys.values()) == part.rendered
    rest = trials.render(model, TARGETS, store=tmp_path / "part", **OPTIONS)
    assert (rest.skipped, rest.rendered) == (part.rendered, 14 - part.rendered)
    assert rest.keys == made.keys
    assert not rest.interrupted


def test_the_fixed_features_are_spread_over_layers_and_classes():
    every = trials.features(64)
    assert len(set(every)) == 64
    for count in (8, 16, 32):
        some = trials.features(count)
        assert set(some) <= set(every)
        assert any(t.startswith("logits") for t in some[:: trials.EVERY])  # those that get several seeds
        assert 0.2 < sum(t.startswith("logits") for t in some) / count < 0.6
    assert len({t.partition(":")[0] for t in trials.features(32)}) == 11  # ten blocks and the classes


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"variants": ["defualt"]}, "unknown recipe 'defualt' \\(did you mean default\\?\\)"),
        ({"variants": ["default:pixle"]}, "unknown image 'pixle' \\(did you mean pixel"),
        ({"variants": []}, "name at least one recipe"),
        ({"target": ["deep:0@1,1"]}, "channels and classes, not on deep:0@1,1"),
        ({"target": None}, "name at least one target"),
        ({"count": 3}, "belongs to the bundled list"),
        ({"seeds": 0}, "seeds must be 1 or more"),
    ],
)
def test_bad_input_is_told_of_before_a_store_is_made(tiny, tmp_path, options, sentence):
    given: dict[str, Any] = {"target": ["deep:0"], "size": 32, "steps": 1, "store": tmp_path / "none", **options}
    with pytest.raises(FvfastError, match=sentence):
        trials.render(tiny, **given)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("count", [0, 65])
def test_there_are_64_features(count):
    with pytest.raises(FvfastError, match=f"features must be 1 to 64, not {count}"):
        trials.features(count)


# Measuring -------------------------------------------------------------------------------------------------


def test_rows_hold_what_the_network_and_the_eye_see(kept, report):
    folder, model, _ = kept
    assert len(report.rows) == 14
    row = next(r for r in report.rows if r["target"] == "deep:2" and r["variant"] == "plain")
    with Store(folder) as store:
        (entry,) = (e for e in store.entries() if e.key == row["key"])
    image = read(folder / entry.image)
    # The store's objective is of the image before it was rounded to 8 bits
    assert row["objective"] == pytest.approx(entry.objective_end, rel=0.01, abs=0.01)
    with Judge(model, torch.device("cpu"), 32, None, [Channel("deep", 2)]) as judge:
        held_out = judge.held_out(Channel("deep", 2), image)
        assert row["held_out"] == pytest.approx(judge.deviations(Channel("deep", 2), held_out), rel=1e-5)
    assert row["contrast"] == pytest.approx(quality.contrast(image[None]).item(), rel=1e-6)
    assert row["slope"] == pytest.approx(quality.spectrum_slope(image[None]).item(), rel=1e-6)
    assert row["transfer"] is None
    kept_share = [r for r in report.rows if r["kept"] is not None]
    assert all(r["kept"] == pytest.approx(r["held_out_objective"] / r["objective"]) for r in kept_share)


def test_seeds_are_compared_in_pairs(kept, report):
    folder, model, made = kept
    assert {(p["variant"], p["target"]) for p in report.pairs} == {
        (v, t) for v in ("default", "plain") for t in ("deep:0", "logits:gizmo")
    }
    with Store(folder) as store:
        entries = [e for e in store.entries() if e.key in made.keys["plain"] and e.target == "deep:0"]
    a, b = (read(folder / e.image) for e in entries)
    pair = next(p for p in report.pairs if (p["variant"], p["target"]) == ("plain", "deep:0"))
    assert pair["structure"] == pytest.approx(1 - quality.compare(a, b)["ms_ssim"], abs=1e-5)
    assert pair["gram"] is not None
    with Judge(model, torch.device("cpu"), 32, None, []) as judge:
        assert between_seeds(torch.stack([a, a]), judge) == pytest.approx({"structure": 0, "gram": 0}, abs=1e-4)


@pytest.mark.bundled
def test_the_bundled_second_network_does_not_know_a_sketchs_classes(report):
    assert report.second is None
    assert any(
        note.startswith("no transfer to a second network: efficientnet_lite2 has no class") for note in report.notes
    )


def test_transfer_to_a_network_that_knows_the_classes(kept):
    folder, model, made = kept
    other = dataclasses.replace(model, name="other", size=24)
    found = measure(folder, {"plain": made.keys["plain"]}, model=model, second=other)
    assert found.second == "other"
    values = [row["transfer"] for row in found.rows]
    assert [v is not None for v in values] == [row["target"] == "logits:gizmo" for row in found.rows]
    assert all(0 < v < 1 for v in values if v is not None)


def test_a_whole_store_is_measured_by_its_recipes(kept, report):
    folder, model, _ = kept
    found = measure(folder, model=model)
    assert sorted(found.variants) == sorted(report.variants)
    by_key = {row["key"]: row for row in report.rows}
    assert {row["key"]: row["held_out"] for row in found.rows} == {key: row["held_out"] for key, row in by_key.items()}


def test_without_piq_the_rest_is_measured(kept, monkeypatch):
    folder, model, made = kept
    monkeypatch.setitem(sys.modules, "piq", None)
    found = measure(folder, {"plain": made.keys["plain"]}, model=model)
    assert all(pair["structure"] is None and pair["gram"] is not None for pair in found.pairs)
    assert any("pip install 'fvfast[quality]'" in note for note in found.notes)


def test_one_recipe_at_two_sizes_is_measured_as_two(tiny, tmp_path):
    for size in (16, 24):
        trials.render(tiny, ["deep:0"], variants=["plain"], size=size, steps=1, seeds=1, store=tmp_path / "q")
    assert sorted(measure(tmp_path / "q", model=tiny).variants) == ["plain@16px,1", "plain@24px,1"]


def test_stopping_leaves_no_half_table(kept):
    folder, model, made = kept
    assert measure(folder, made.keys, model=model, stop=lambda: True).interrupted


def test_a_damaged_image_is_named(kept, tmp_path):
    folder, model, made = kept
    shutil.copytree(folder, tmp_path / "copy")
    with Store(tmp_path / "copy") as store:
        path = tmp_path / "copy" / store.entries()[0].image
    path.write_bytes(b"\x89PNG nothing more")
    with pytest.raises(FvfastError, match=r"cannot read the image .*store verify"):
        measure(tmp_path / "copy", made.keys, model=model)


def test_nothing_to_measure(kept):
    folder, model, _ = kept
    with pytest.raises(FvfastError, match="nothing to measure"):
        measure(folder, {"default": []}, model=model)
    with pytest.raises(FvfastError, match="no store in"):
        measure(folder / "elsewhere", model=model)


# What rows show --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A store of renders of every kind; the model; the values that the untouched network gives the stored images."""
    from fvfast.models import Model
    from tests.fvfast import sketch_nets

    torch.manual_seed(0)
    model = Model("tiny", "none", sketch_nets.Tiny(), size=32, classes=("1", "0", "3-7", *"cdefghi"))
    folder = tmp_path_factory.mktemp("mixed")
    Image.effect_noise((32, 32), 90).convert("RGB").save(folder / "seen.png")
    seen = str(folder / "seen.png")
    wanted = {
        "neuron": o.neuron("deep", 3, 2, 5),
        "centre": o.neuron("deep", 3),
        "layer": o.layer("deep"),
        "logits": o.layer("logits"),
        "mixture": o.mixture((0.123456789, o.channel("deep", 1)), (2, o.neuron("stem", 2, 0, 0))),
        "product": -2 * o.channel("deep", 4),
        "class": o.logit(0),
        "inversion": o.inversion("deep", seen),
        "direction": o.direction("deep", torch.ones(12)),
        "sum": o.channel("deep", 1) + o.channel("deep", 2),
        "given": o.caricature("deep", read(Path(seen))),
    }
    with Store(folder / "store", write=True) as store:
        keys = {
            kind: fvfast.keep(store, fvfast.render(model, one, recipe="plain", size=32, steps=2))[0].key
            for kind, one in wanted.items()
        }
    return folder / "store", model, keys, wanted, seen


def activations(model, pictures):
    """What `stem`, `deep` and the network put out for pictures [B, 3, 32, 32], by hooks on the module itself."""
    found = {}
    module = model.module.eval()
    handles = [
        getattr(module, name).register_forward_hook(lambda m, i, out, name=name: found.update({name: out.clone()}))
        for name in ("stem", "deep")
    ]
    mean, std = (torch.tensor(v)[:, None, None] for v in (model.mean, model.std))
    with torch.no_grad():
        found["logits"] = module((pictures - mean) / std)
    for handle in handles:
        handle.remove()
    return found


def test_every_row_is_measured_as_what_it_was_rendered_for(mixed):
    folder, model, keys, _, seen = mixed
    report = measure(folder, model=model)
    rows = {row["key"]: row for row in report.rows}
    with Store(folder) as store:
        images = {kind: read(folder / store.entries(Query(key=key))[0].image) for kind, key in keys.items()}

    def see(kind):
        return activations(model, images[kind][None])

    wanted = activations(model, read(Path(seen))[None])["deep"]
    mixture = see("mixture")
    expected = {
        "neuron": see("neuron")["deep"][0, 3, 2, 5],
        "centre": see("centre")["deep"][0, 3, 8, 8],
        "layer": see("layer")["deep"].square().mean(),
        "logits": see("logits")["logits"].square().mean(),
        "mixture": 0.123456789 * mixture["deep"][0, 1].mean() + 2 * mixture["stem"][0, 2, 0, 0],
        "product": -2 * see("product")["deep"][0, 4].mean(),
        "class": see("class")["logits"][0, 0],
        "inversion": -(see("inversion")["deep"] - wanted).square().sum() / wanted.square().sum(),
    }
    assert {kind for kind, key in keys.items() if key in rows} == set(expected)
    for kind, value in expected.items():
        assert rows[keys[kind]]["objective"] == pytest.approx(value.item(), rel=1e-4, abs=1e-5), kind
    (note,) = (note for note in report.notes if "not measured" in note)
    assert note.startswith("3 renders are not measured, since the store does not say what for: 'deep:direction' was")
    assert rows[keys["layer"]]["held_out_objective"] > 0


def test_only_classes_are_looked_for_in_the_second_network(mixed):
    folder, model, keys, _, _ = mixed
    other = dataclasses.replace(model, name="other", size=24)
    found = measure(folder, {"plain": [keys["class"], keys["logits"], keys["neuron"]]}, model=model, second=other)
    assert [row["transfer"] is not None for row in found.rows] == [True, False, False]


def test_views_of_a_picture_are_those_of_the_image(mixed):
    _, model, _, wanted, seen = mixed
    with Judge(model, torch.device("cpu"), 32, None, [wanted["inversion"]]) as judge:
        assert judge.held_out(wanted["inversion"], read(Path(seen))) == pytest.approx(0, abs=1e-6)
        assert judge.held_out(wanted["inversion"], 1 - read(Path(seen))) < -0.1


def test_a_picture_that_was_replaced_is_not_compared_with(mixed):
    folder, model, keys, _, seen = mixed
    before = Path(seen).read_bytes()
    try:
        Image.new("RGB", (32, 32)).save(seen)
        with pytest.raises(FvfastError, match="is another one by now"):
            measure(folder, {"plain": [keys["inversion"]]}, model=model)
    finally:
        Path(seen).write_bytes(before)


def test_examples_are_those_of_whole_channels(mixed):
    folder, _, keys, _, _ = mixed
    with Store(folder) as store:
        found = {kind: evidence.whole_channel(store.entries(Query(key=key))[0]) for kind, key in keys.items()}
    assert {kind: channel for kind, channel in found.items() if channel is not None} == {"class": 0}


# Means -----------------------------------------------------------------------------------------------------


def row(variant, target, seed=0, **values):
    return {"variant": variant, "target": target, "seed": seed, **dict.fromkeys(MEASURES), **values}


def test_a_feature_counts_once_however_many_seeds_it_has():
    rows = [row("a", "x", 0, slope=0.0), row("a", "x", 1, slope=2.0), row("a", "y", slope=4.0)]
    found = Report("net", rows).summary()["a"]
    slope = found["slope"]
    assert slope is not None
    assert (slope.mean, slope.count) == (2.5, 2)
    assert found["transfer"] is None


def test_recipes_are_compared_on_the_features_that_all_have():
    rows = [row("a", "x", slope=1.0), row("a", "y", slope=9.0), row("b", "y", slope=5.0)]
    report = Report("net", rows)
    assert report.features == ["y"]
    means = {variant: found["slope"].mean for variant, found in report.summary().items() if found["slope"]}
    assert means == {"a": 9.0, "b": 5.0}


# Photographs -----------------------------------------------------------------------------------------------


def test_photographs_are_natural():
    images = naturals.photographs(128)
    if images is None:
        pytest.skip("scikit-learn is not installed")
    assert images.shape == (6, 3, 128, 128)
    slope = looks(images)["slope"]
    assert slope.mean().item() == pytest.approx(naturals.LITERATURE_SLOPE, abs=0.6)
    large = naturals.photographs(1024)
    assert large is not None
    assert large.shape[-1] == 427  # never made larger


def test_without_scikit_learn_there_are_none(monkeypatch):
    monkeypatch.setattr(naturals.importlib.util, "find_spec", lambda name: None)
    assert naturals.photographs(64) is None


def test_an_image_is_read_as_it_was_written(tmp_path):
    Image.new("RGB", (16, 16), (255, 0, 51)).save(tmp_path / "one.png")
    assert read(tmp_path / "one.png")[:, 3, 4].tolist() == pytest.approx([1, 0, 0.2])
