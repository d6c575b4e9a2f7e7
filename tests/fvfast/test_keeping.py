"""Any render as rows of a store: neurons, layers, directions, sums; what makes two of them the same."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

import fvfast
import fvfast.session
from fvfast import files, generators, keeping, upkeep
from fvfast import objectives as o
from fvfast.atlases import atlas
from fvfast.errors import FvfastError
from fvfast.recipes import Recipe
from fvfast.store import Query, Store
from fvfast.subjects import subject

RECIPE = Recipe("painted", image="generator:given", steps=2, sd=1.0)


def kept(store, model, target, steps=3, **options):
    result = fvfast.render(model, target, size=32, steps=steps, snapshots=keeping.SNAPSHOTS, **options)
    with Store(store, write=True) as writer:
        return result, keeping.keep(writer, result)


def test_every_kind_of_objective_is_kept_and_found_again(tiny):
    vector = torch.arange(12.0)
    targets = [
        "deep:3",
        "deep:3@1,2",
        "deep",
        o.direction("deep", vector),
        o.channel("stem", 1) + 2 * o.channel("deep", 4),
        o.channel("logits", 1) - o.total_variation(),
        -o.l2(),
        "logits:bee",
    ]
    result, entries = kept("store", tiny, targets)
    order = list(fvfast.job.Job(tiny, torch.device("cpu"), torch.float32, 32, None).layers)
    found = [(e.target, e.layer, e.depth, e.channel) for e in entries]
    deep, logits = order.index("deep"), order.index("logits")
    assert found == [
        ("deep:3", "deep", deep, 3),
        ("deep:3@1,2", "deep", deep, 3),
        ("deep", "deep", deep, -1),
        ("deep:direction", "deep", deep, -1),
        ("stem:1 + (2 * deep:4)", "deep", deep, -1),
        ("logits:1 - total_variation", "logits", logits, -1),
        ("-1 * l2", "", -1, -1),
        ("logits:bee", "logits", logits, 1),
    ]
    assert [e.objective_end for e in entries] == result.objective.tolist()
    with Store("store") as store:
        assert upkeep.verify(store) == upkeep.Report(rows=8)
        assert {e.key for e in store.entries(Query(keys=tuple(e.key for e in entries)))} == {e.key for e in entries}
        for entry, image, history in zip(entries, result.images, result.history, strict=True):
            with PIL.Image.open(Path("store") / entry.image) as picture:
                assert picture.tobytes() == files.to_pil(image).tobytes()
            np.testing.assert_array_equal(store.trace(entry.key).history, history.numpy())


def test_a_kept_channel_is_the_atlas_s_row(tiny):
    _, (one,) = kept("store", tiny, "deep:3")
    again = atlas(tiny, "deep", channels="3-4", store="store", size=32, steps=3)
    assert (again.skipped, again.rendered) == (1, 1)
    assert again.keys[0] == one.key
    with Store("store") as store:
        assert [len(store.trace(key).history) for key in again.keys] == [3, 3]  # an atlas keeps histories too


def test_what_a_target_leaves_unsaid_is_part_of_the_key(tiny):
    first, second = torch.arange(12.0), torch.arange(12.0) + 1e-6
    objectives = [
        o.direction("deep", first),
        o.direction("deep", second),
        o.direction("deep", first, power=2),
        o.channel("deep", 1) - 0.12345678 * o.l1(),
        o.channel("deep", 1) - 0.12345679 * o.l1(),
        o.channel("deep", 1) - 0.12345678 * o.l1(middle=0.4),
    ]
    _, entries = kept("store", tiny, objectives)
    assert len({e.key for e in entries}) == 6
    _, again = kept("store", tiny, [o.direction("deep", first.clone())])
    assert again == [entries[0]]


def test_pictures_that_differ_in_their_middles_only_have_keys_of_their_own(tiny):
    pictures = [torch.full((3, 40, 40), 0.5) for _ in range(3)]
    pictures[1][:, 20, 20] = 0.51
    pictures[2][0, 30, 11] += 1e-6
    objectives = [kind("deep", p) for p in pictures for kind in (o.caricature, o.inversion)]
    _, entries = kept("store", tiny, objectives)
    for picture in pictures:  # which begin from pictures of one name, so each is rendered by itself
        entries += kept("store", tiny, o.accentuation(o.channel("deep", 1), "stem", picture))[1]
    assert len({e.key for e in entries}) == 9
    _, again = kept("store", tiny, [o.caricature("deep", pictures[1].clone())])
    assert again == [entries[2]]


def test_a_neuron_at_a_position_is_filed_as_before_there_were_tokens():
    found = dict.fromkeys(["stem", "deep"])
    there = subject(o.channel("deep", 1) - 0.5 * o.neuron("stem", 2), found, (), {})  # pyright: ignore
    assert there.unsaid.startswith("cf1f64162ae3467e")
    token = subject(o.channel("deep", 1) - 0.5 * o.neuron("stem", 2, token="cls"), found, (), {})  # pyright: ignore
    assert token.unsaid != there.unsaid


def test_images_that_were_to_differ_depend_on_their_company(tiny):
    objective = o.channel("deep", 1) + o.diversity("deep")
    _, two = kept("store", tiny, objective, copies=2)
    _, three = kept("store", tiny, objective, copies=3)
    assert len({e.key for e in (*two, *three)}) == 5
    _, apart = kept("store", tiny, "deep:1", copies=2)
    _, more = kept("store", tiny, "deep:1", copies=3)
    assert more[:2] == apart


def test_what_was_stopped_is_no_short_render(tiny):
    calls = iter(range(100))
    stopped = fvfast.render(
        tiny, "deep:3", size=32, steps=4000, snapshots=1000, stop=lambda: next(calls) > 0, threads=1
    )
    done = stopped.specs[0]["steps"]
    assert 0 < done < 4000
    with Store("store", write=True) as store:
        (entry,) = keeping.keep(store, stopped)
        assert entry.steps == done
        assert entry.note == f"stopped after {done} of 4000 steps"
        trace = store.trace(entry.key)
    assert len(trace.history) == done
    assert np.isfinite(trace.history).all()
    assert [step for step, _ in trace.snapshots] == list(range(4, done, 4))
    _, (short,) = kept("store", tiny, "deep:3", steps=done)
    assert short.key != entry.key


def test_snapshots_are_few_and_spread_over_the_steps(tiny):
    result, (entry,) = kept("store", tiny, "deep:3", steps=32)
    with Store("store") as store:
        snapshots = store.trace(entry.key).snapshots
    assert [step for step, _ in snapshots] == [4, 8, 12, 16, 20, 24, 28]  # the last is the image itself
    for (_, path), (_, image) in zip(snapshots, result.snapshots[0], strict=False):
        with PIL.Image.open(Path("store") / path) as picture:
            difference = np.asarray(picture, np.float32) - np.asarray(files.to_pil(image), np.float32)
        assert np.abs(difference).mean() < 8  # of 255: lossy, but the same picture


def test_only_a_render_of_this_process_knows_its_network(tiny):
    result = fvfast.render(tiny, "deep:3", size=32, steps=1)
    with Store("store", write=True) as store, pytest.raises(FvfastError, match="does not know its network"):
        keeping.keep(store, dataclasses.replace(result, network=None))


# On the command line ---------------------------------------------------------------------------------------


def test_render_keeps_in_a_store_when_told_to(cli):
    arguments = ("render", "sketch_nets:tiny", "deep:3", "deep", "--size", 32, "--steps", 9, "--store", "kept")
    code, out, err = cli(*arguments, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["store"] == "kept"
    assert not Path("renders/snapshots").exists()  # which nobody asked for
    shown = json.loads(cli("store", "show", document["keys"][1], "--store", "kept", "--json")[1])
    assert (shown["target"], shown["channel"], len(shown["history"])) == ("deep", -1, 9)
    assert [(s["step"], Path(s["image"]).is_file()) for s in shown["snapshots"]] == [(s, True) for s in (2, 4, 6, 8)]
    text = cli("store", "show", "deep:3", "--store", "kept")[1]
    assert "snapshot         after 2 steps  kept/snapshots/" in text
    code, out, _ = cli(*arguments)
    assert code == 0
    assert f"kept in kept; see one: fvfast store show {document['keys'][0][:10]} --store kept" in out
    code, out, _ = cli("store", "export", "site", "--store", "kept")
    row = json.loads(Path("site/manifest.json").read_text())[1]
    assert len(row["history"]) == 9
    assert all(Path("site", snapshot["image"]).is_file() for snapshot in row["snapshots"])
    assert row["snapshots"][0]["image"] == "snapshots/sketch_nets-tiny-deep-3-step00002.webp"


def test_a_store_that_cannot_be_written_to_is_told_of_before_any_work(cli):
    Path("file").touch()
    code, out, err = cli("render", "sketch_nets:tiny", "deep:3", "--store", "file/below")
    assert (code, out) == (2, "")
    assert err.startswith("fvfast: cannot write to the store file/below")
    assert not Path("renders").exists()


# What a recipe only names ------------------------------------------------------------------------------------


class Painter(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3 * 8 * 8)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)

    def forward(self, latent):
        return torch.tanh(self.linear(latent).view(-1, 3, 8, 8))


def painter(seed, **changes):
    return fvfast.Generator(Painter(seed), (2,), **changes)


def keys(tmp_path, model, **options):
    return kept(tmp_path / "kept", model, "deep:3", **options)[1][0].key


def test_generators_of_one_name_are_told_apart_by_what_they_paint_with(tiny, tmp_path):
    sources = [painter(1), painter(2), painter(1, truncation=0.5), painter(1, to_rgb=torch.sigmoid), painter(1)]
    found = [keys(tmp_path, tiny, image=source, recipe=RECIPE) for source in sources]
    assert len(set(found)) == 4
    assert found[0] == found[4]
    half = fvfast.Generator(Painter(1).half(), (2,))
    assert keys(tmp_path, tiny, image=half, recipe=RECIPE) not in found  # rounded weights are other weights
    with Store(tmp_path / "kept") as store:
        assert store.count(Query()) == 5


def test_an_atlas_is_made_again_by_a_generator_with_other_weights(tiny, monkeypatch):
    recipe = dataclasses.replace(RECIPE, image="generator:mine")

    def counts(seed):
        monkeypatch.setattr(generators, "find", lambda name: painter(seed, name=name))
        made = atlas(tiny, "deep", channels="0-1", recipe=recipe, size=32, store="kept")
        return made.rendered, made.skipped

    assert [counts(1), counts(1), counts(2), counts(1)] == [(2, 0), (0, 2), (2, 0), (0, 2)]


def test_an_image_that_was_handed_over_as_a_start_is_part_of_the_key(tiny, tmp_path):
    first, second = (torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    found = [keys(tmp_path, tiny, start=start) for start in (first, second, first.clone())]
    assert found[0] == found[2] != found[1]
