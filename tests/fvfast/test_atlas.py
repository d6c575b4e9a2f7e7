"""Atlases: what is selected, rendered and kept; runs that are interrupted, killed and resumed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

import fvfast
from fvfast import atlases as package
from fvfast import files, places, upkeep
from fvfast.atlases import AtlasProgress, atlas
from fvfast.cli_atlas import duration
from fvfast.errors import FvfastError
from fvfast.models import load
from fvfast.places import Pace
from fvfast.selection import features, stages, whole_network
from fvfast.store import Query, Store
from fvfast.tracing import trace

HERE = Path(__file__).parent
QUICK: dict[str, Any] = {"size": 32, "steps": 3}


def rows(folder, query=None):
    """What must be the same whenever, and after however many attempts, it was rendered."""
    with Store(folder) as store:
        entries = store.entries(query)
    return [
        (e.key, e.target, e.seed, e.recipe, e.objective_start, e.objective_end, e.image, e.thumbnail) for e in entries
    ]


def start(*arguments, code="import fvfast.cli; fvfast.cli.main()", threads="1"):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]), "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


# What is rendered ------------------------------------------------------------------------------------------


def test_an_atlas_holds_what_render_gives(tiny):
    result = atlas(tiny, ["deep", "stem"], channels="1-2", store="kept", seed=5, **QUICK)
    assert (result.rendered, result.skipped, result.failures, result.interrupted) == (4, 0, [], False)
    assert result.features_per_s == pytest.approx(4 / result.seconds)
    same = fvfast.render(tiny, ["stem:1,2", "deep:1,2"], seed=5, **QUICK)
    with Store("kept") as store:
        entries = store.entries()
        assert upkeep.verify(store) == upkeep.Report(rows=4)
    assert [e.target for e in entries] == same.targets == ["stem:1", "stem:2", "deep:1", "deep:2"]
    assert [e.key for e in entries] == result.keys
    for entry, image, begin, end, spec in zip(
        entries, same.images, same.objective_start, same.objective, same.specs, strict=True
    ):
        with PIL.Image.open(Path("kept") / entry.image) as picture:
            assert picture.tobytes() == files.to_pil(image).tobytes()
        assert (entry.objective_start, entry.objective_end) == (float(begin), float(end))
        assert {**files.read_spec(Path("kept") / entry.image), "steps": 3} == {**spec, "recipe": entry.recipe}
        assert (entry.layer, entry.channel) == (spec["target"].split(":")[0], int(spec["target"].split(":")[1]))
        assert (entry.model, entry.weights, entry.seed, entry.size, entry.steps) == ("tiny", "none", 5, 32, 3)
        assert (entry.device, entry.path, entry.dtype, entry.version) == ("cpu", "reference", "float32", "0.1.0")
        assert entry.seconds > 0


def test_what_is_there_is_skipped_and_what_differs_is_not(tiny, halves, monkeypatch):
    first = atlas(tiny, "deep", channels="0-1", store="kept", **QUICK)
    before = rows("kept")
    again = atlas(tiny, "deep", channels="0-3", store="kept", **QUICK)
    assert (again.rendered, again.skipped) == (2, 2)
    assert again.keys[:2] == first.keys
    assert rows("kept")[:2] == before
    with monkeypatch.context() as patch:
        patch.setattr(places, "produce", None)  # nothing is rendered where nothing is missing
        assert atlas(tiny, "deep", channels="0-3", store="kept", **QUICK).skipped == 4
    for change in ({"seed": 1}, {"steps": 4}, {"size": 48}, {"lr": 0.2}, {"recipe": "plain"}, {"dtype": "bfloat16"}):
        assert atlas(tiny, "deep", channels="0", store="kept", **{**QUICK, **change}).rendered == 1
    with torch.no_grad():
        tiny.module.deep.bias += 0.01
    assert atlas(tiny, "deep", channels="0", store="kept", **QUICK).rendered == 1
    assert len(rows("kept", Query(channel=0))) == 8


def test_company_and_chunks_change_no_bit(tiny, monkeypatch):
    atlas(tiny, ["stem", "deep"], store="one", **QUICK)
    monkeypatch.setattr(places, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(places, "LARGEST", 1)
    for channel in range(12):
        atlas(tiny, ["deep"], channels=str(channel), store="many", **QUICK)
    atlas(tiny, ["stem"], store="many", **QUICK)
    assert rows("one") == rows("many")
    assert len(rows("one")) == 20


def test_copies_are_of_consecutive_seeds(tiny):
    atlas(tiny, "deep", channels="3", copies=3, seed=7, store="kept", **QUICK)
    with Store("kept") as store:
        assert [(e.target, e.seed) for e in store.entries()] == [("deep:3", 7), ("deep:3", 8), ("deep:3", 9)]


def test_classes_are_kept_by_name(tiny):
    atlas(tiny, "logits", channels="1-2", store="kept", **QUICK)
    with Store("kept") as store:
        found = [(e.target, e.layer, e.channel, e.recipe["lr"]) for e in store.entries()]
    assert found == [("logits:bee", "logits", 1, 0.035), ("logits:2", "logits", 2, 0.035)]


def test_webp_holds_the_same_pixels(tiny):
    atlas(tiny, "deep", channels="0", store="png", **QUICK)
    atlas(tiny, "deep", channels="0", store="webp", image_format="webp", **QUICK)
    pixels = []
    for folder in ("png", "webp"):
        (image,) = list(Path(folder, "images").rglob("*.*"))
        assert image.suffix == f".{folder}"
        with PIL.Image.open(image) as picture:
            pixels.append(picture.convert("RGB").tobytes())
    assert pixels[0] == pixels[1]


def test_a_feature_that_fails_is_told_and_the_others_are_kept(nets, monkeypatch):
    monkeypatch.setattr(places, "LARGEST", 1)

    class Sick(torch.nn.Conv2d):
        def forward(self, input):
            y = super().forward(input)
            return torch.cat([y[:, :4], y[:, 4:5].abs().neg().log(), y[:, 5:]], 1)

    module = nets.Tiny()
    module.deep = Sick(8, 12, 3)
    model = load(module, size=32)
    result = atlas(model, "deep", channels="3-5", store="kept", **QUICK)
    assert (result.rendered, len(result.failures)) == (2, 1)
    assert "deep:4 became nan" in result.failures[0]
    assert atlas(model, "deep", channels="3-5", store="kept", **QUICK).skipped == 2


def test_progress_counts_features(tiny):
    told: list[AtlasProgress] = []
    atlas(tiny, "deep", channels="0-1", store="kept", **QUICK)
    atlas(tiny, "deep", channels="0-5", store="kept", progress=told.append, **QUICK)
    assert {p.total for p in told} == {6}
    assert (told[-1].done, told[-1].rendered, told[-1].partial) == (6, 4, 0.0)
    assert told[0].done == 2
    amounts = [p.done + p.partial for p in told]
    assert amounts == sorted(amounts)


def test_rates_and_the_time_that_is_left():
    assert AtlasProgress(30, 100, 20, 5.0, 10.0).rate == 2.5
    assert AtlasProgress(30, 100, 20, 5.0, 10.0).seconds_left == 26.0
    assert AtlasProgress(30, 100, 0, 0.0, 10.0).seconds_left is None
    assert [duration(s) for s in (None, 59.4, 61, 3599, 18_420)] == ["?", "59 s", "1:01 min", "59:59 min", "5:07 h"]


# Selection -------------------------------------------------------------------------------------------------


def test_layers_patterns_and_channels(tiny):
    layers = trace(tiny.module.eval(), 32)

    def chosen(*names, channels=None, everything=False):
        found = features(tiny.module, layers, "tiny", names, channels, everything)
        return [(f.layer, f.channel) for f in found]

    assert chosen("deep", "stem", channels="0,2-3") == [(n, c) for n in ("stem", "deep") for c in (0, 2, 3)]
    assert chosen("stem", "stem") == [("stem", c) for c in range(8)]
    assert chosen("deep*", channels="11") == [("deep", 11), ("deep_norm", 11), ("deep_act", 11)]
    assert chosen("*", channels="10-500") == [
        (n, c) for n in ("deep", "deep_norm", "deep_act", "pool") for c in (10, 11)
    ]
    assert whole_network(tiny.module, layers) == ["norm", "deep_norm", "logits"]
    assert len(chosen(everything=True)) == 8 + 12 + 10


@pytest.mark.bundled
def test_a_pattern_stands_for_one_part_of_a_name():
    model = load("efficientnet_lite0", "none")
    layers = trace(model.module.eval(), 64)
    found = features(model.module, layers, "x", ["_blocks.*"], "0")
    assert [f.layer for f in found] == [f"_blocks.{n}" for n in range(16)]
    every = whole_network(model.module, layers)
    assert every[:3] == ["_bn0", "_blocks.0._bn1", "_blocks.0._bn2"]
    assert every[-2:] == ["_bn1", "logits"]
    assert len(every) == 50
    place = stages(model.module, layers)
    assert place["_blocks.4._bn2"] == place["_blocks.4"] == place["_blocks.4._project_conv"]
    assert place["_blocks.4._bn1"] < place["_blocks.4"] < place["_blocks.5._expand_conv"]


def test_a_transformers_whole_network_is_its_attention_and_its_linear_maps():
    model = load("vit_b_16", "none")
    every = whole_network(model.module, trace(model.module.eval(), 224))
    block = "encoder.layers.encoder_layer_0."
    assert every[:4] == ["conv_proj", f"{block}self_attention", f"{block}mlp.0", f"{block}mlp.3"]
    assert every[-2:] == ["encoder.layers.encoder_layer_11.mlp.3", "logits"]
    assert len(every) == 1 + 12 * 3 + 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "name at least one layer, or --all"),
        (("deep", "--all"), "--all takes every layer"),
        (("dep",), "has no layer 'dep' with a tensor output (did you mean deep"),
        (("dep*.x",), "no layer of sketch_nets:tiny matches 'dep*.x'"),
        (("deep:3",), "'deep:3' is a target, not a layer: write deep --channels 3"),
        (("deep", "--channels", "12"), "deep has channels 0-11, not 12"),
        (("deep", "--channels", "5-3"), "the range 5-3 of --channels runs backwards; write 3-5"),
        (("deep", "--channels", "a"), "--channels takes numbers and ranges"),
        (("deep*", "--channels", "400"), "none of the layers has a channel 400"),
        (("deep", "--batch", "many"), "--batch takes a number or auto, not 'many'"),
        (("deep", "--batch", "0"), "batch must be 1 or more"),
        (("deep", "--copies", "0"), "copies must be 1 or more"),
        (("deep", "--engine", "cloud"), "unknown engine 'cloud'; there are local, ray"),
        (("deep", "--address", "x"), "--address belongs to --engine ray"),
        (("deep", "--format", "gif"), "unknown image format 'gif'"),
        (("deep", "--recipe", "none"), "unknown recipe 'none'"),
        (("deep", "--size", "8"), "size must be 16 to 1024 px"),
        (("deep", "--store", "file/x"), "cannot write to the store file/x"),
    ],
)
def test_bad_input_is_one_sentence_and_makes_no_store(cli, arguments, sentence):
    Path("file").touch()
    code, out, err = cli("atlas", "sketch_nets:tiny", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert not Path("atlas").exists()


def test_layers_with_the_same_truncation_share_batches(tiny):
    work = _work(tiny, batch=8)
    groups = places.together(work)
    assert [sorted({g.objective.label.split(":")[0] for g in group}) for group in groups] == [
        ["norm", "stem"],
        ["deep", "deep_act"],
    ]
    assert [len(g) for g in places.together(_work(tiny, batch=None))] == [8 + 8 + 12 + 12]


def _work(model, batch):
    from fvfast.job import Job
    from fvfast.plans import ImagePlan
    from fvfast.producing import Options
    from fvfast.recipes import DEFAULT

    job = Job(model, torch.device("cpu"), torch.float32, 32, None)
    chosen = features(job.module, job.layers, "tiny", ["stem", "norm", "deep", "deep_act"])
    plan = [ImagePlan(row, objective, DEFAULT, 0) for row, objective in enumerate(chosen)]
    return places.Work(job, job.device, "w", Options(batch), plan)


def test_the_pace_follows_the_speed():
    pace = Pace(2, 1)
    assert pace.count == 4
    pace.learn(4, 4.0)
    assert pace.count == 14  # 15 s at one a second, in pairs
    pace.learn(14, 0.1)
    assert pace.count == 56  # four times as many at most
    pace.learn(56, 1e-9)
    pace.learn(224, 1e-9)
    assert pace.count == places.LARGEST
    pace.learn(512, 1e9)
    assert pace.count == 2
    assert Pace(1, 256).count == 256


def test_batches_of_several_images_are_kept_too(tiny):
    result = atlas(tiny, ["stem", "deep"], channels="0-4", batch=4, store="kept", **QUICK)
    assert (result.rendered, result.failures) == (10, [])


# The command -----------------------------------------------------------------------------------------------


def test_the_command_and_its_json(cli):
    arguments = ("atlas", "sketch_nets:tiny", "deep", "--channels", "0-2", "--size", 32, "--steps", 3)
    code, out, err = cli(*arguments, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["store"], document["model"], document["features"]) == ("atlas", "sketch_nets:tiny", 3)
    assert (document["rendered"], document["skipped"], document["failures"]) == (3, 0, [])
    assert document["features_per_s"] == pytest.approx(3 / document["seconds"], rel=0.05)
    assert [row[0] for row in rows("atlas")] == document["keys"]
    code, out, err = cli(*arguments)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "0 features rendered; 3 were there before",
        "3 of 3 in atlas; list them: fvfast store ls --store atlas",
    ]


def test_every_option_reaches_the_atlas(cli, monkeypatch):
    seen = {}

    def record(*arguments, **options):
        seen.update(options, arguments=arguments)
        return package.AtlasResult(Path("x"), "m", [], 0)

    monkeypatch.setattr(package, "atlas", record)
    code, _, _ = cli(
        *("atlas", "m", "a", "b", "--channels", "3", "--all", "--store", "s", "--batch", 4, "--engine", "ray"),
        *("--address", "a:1", "--size", 64, "--steps", 9, "--seed", 2, "--copies", 3, "--lr", 0.5, "--image", "pixel"),
        *("--recipe", "plain", "--device", "cpu", "--dtype", "float16", "--threads", 2, "--weights", "none"),
        *("--format", "webp", "--network", "tuned"),
    )
    assert code == 0
    for name in ("progress", "stop", "notify"):
        assert callable(seen.pop(name))
    assert seen.pop("arguments") == ("m", ["a", "b"])
    chosen = {"channels": "3", "everything": True, "store": Path("s"), "batch": 4, "engine": "ray", "address": "a:1"}
    how = {"size": 64, "steps": 9, "seed": 2, "copies": 3, "lr": 0.5, "image": "pixel", "recipe": "plain"}
    where = {"device": "cpu", "dtype": "float16", "threads": 2, "weights": "none", "image_format": "webp"}
    where["network"] = "tuned"
    assert seen == chosen | how | where


# Ends before the end ---------------------------------------------------------------------------------------

MANY = ("sketch_nets:tiny", "stem", "deep", "--size", "64", "--steps", "40", "--threads", "1")


def test_ctrl_c_keeps_what_is_finished(cli):
    process = start("atlas", *MANY, "--steps", 200, "--store", "kept", "--json")
    _wait_for_rows("kept", 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopping after this step (Ctrl-C again to leave at once)" in err
    assert "Traceback" not in err
    document = json.loads(out)
    assert document["interrupted"] is True
    assert 0 < document["rendered"] == len(rows("kept")) < 20
    assert f"{20 - document['rendered']} features are left, the same command goes on with them" in err
    assert {row[3]["steps"] for row in rows("kept")} == {200}  # nothing that was cut short
    assert cli("store", "verify", "--store", "kept")[0] == 0


def test_killed_at_random_moments_it_ends_as_if_nothing_had_happened(cli):
    code, out, err = cli("atlas", *MANY, "--store", "whole", "--json")
    assert code == 0, err
    lasts = json.loads(out)["seconds"]
    moments = random.Random(20_250_601)
    counts = []
    for more in (0, 2, 3, 1, 2):
        process = start("atlas", *MANY, "--store", "killed")
        _wait_for_lock("killed", process)
        # By what is there, not by the clock alone: how fast it comes changes with what else the machine does.
        _wait_for_rows("killed", sum(counts[-1:]) + more, process)
        time.sleep(moments.random() * lasts / 40)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        code, out, err = cli("store", "verify", "--store", "killed")
        assert code == 0, err
        counts.append(len(rows("killed")))
    assert counts == sorted(counts)
    assert counts[-1] < 20, "every kill came too late to show anything"
    assert _tree("killed"), "every kill came too early to show anything"
    code, out, err = cli("atlas", *MANY, "--store", "killed", "--json")
    assert code == 0, err
    assert json.loads(out)["skipped"] == counts[-1]
    assert rows("killed") == rows("whole")
    assert cli("store", "gc", "--store", "killed")[0] == 0
    assert _tree("killed") == _tree("whole")


def _tree(folder):
    """Every image and thumbnail with its bytes."""
    found = {
        p.relative_to(folder).as_posix(): p for kind in ("images", "thumbnails") for p in Path(folder, kind).rglob("*")
    }
    return {name: path.read_bytes() for name, path in found.items() if path.is_file()}


def _wait_for_lock(folder, process):
    """Until the process has the right to write, and the index is there: from then on it renders."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        lock = Path(folder, "writer.lock")
        if lock.exists() and lock.read_text() == f"process {process.pid}" and Path(folder, "index.sqlite").exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"the store was not opened: {process.communicate()[1]}")


def _wait_for_rows(folder, count, process):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if len(rows(folder)) >= count:
                return
        except FvfastError:
            pass
        time.sleep(0.02)
    raise AssertionError(f"no rows came: {process.communicate()[1]}")
