"""What a page may ask for, and how it is written for a terminal and for Python: both are run here."""

import json
import shlex
import subprocess

import pytest
from fvfast_dashboard import asking, catalogue, snippets
from fvfast_dashboard.asking import DreamRequest, RenderRequest

import fvfast.cli
from fvfast.dreaming import PRESETS
from fvfast.errors import FvfastError
from fvfast.models import names
from fvfast.recipes import RECIPES
from fvfast.store import Store

FULL = RenderRequest(
    "sketch_nets:tiny", ("deep:3", "stem:1@2,3"), "lucent", "fourier", 32, 2, seed=4, copies=2, weights="none"
)


def kept(folder):
    with Store(folder) as store:
        return [(e.key, e.target, e.seed) for e in store.entries()]


@pytest.mark.parametrize("request_", [FULL, RenderRequest("sketch_nets:tiny", ("deep:3",), size=32, steps=2)])
def test_the_command_and_the_snippet_do_what_they_say(request_, tmp_path, monkeypatch):
    line = shlex.split(request_.command(tmp_path / "by line"))
    assert line[0] == "fvfast"
    with pytest.raises(SystemExit) as exit_:
        fvfast.cli.main(line[1:])
    assert exit_.value.code == 0
    exec(request_.snippet(tmp_path / "by code"), {})
    assert kept(tmp_path / "by line") == kept(tmp_path / "by code")
    assert len(kept(tmp_path / "by line")) == len(request_.targets) * request_.copies


def test_what_a_shell_would_take_apart_is_quoted(tmp_path):
    request_ = RenderRequest("efficientnet_lite0", ("logits:bell pepper; rm -rf $HOME",))
    words = shlex.split(request_.command(tmp_path / "a b"))
    assert words[3:] == ["logits:bell pepper; rm -rf $HOME", "--store", str(tmp_path / "a b")]
    assert request_.snippet(tmp_path).count("'logits:bell pepper; rm -rf $HOME'") == 1


@pytest.mark.parametrize("target", ["-1 * deep:3", "'deep':3", "0.5 * deep:1 + -2 * stem"])
def test_a_target_of_any_look_is_one_to_the_command_line(target, tmp_path):
    request_ = RenderRequest("sketch_nets:tiny", (target,), size=32, steps=1)
    with pytest.raises(SystemExit) as exit_:
        fvfast.cli.main(shlex.split(request_.command(tmp_path / "kept"))[1:])
    assert exit_.value.code == 0
    with Store(tmp_path / "kept") as store:
        (entry,) = store.entries()
    assert entry.target == target.replace("'", "")
    again = shlex.split(snippets.command(tmp_path, entry))
    assert again[again.index("--") + 1 :] == [target] if target[0] == "-" else entry.target in again


def test_a_dream_on_the_command_line():
    request_ = DreamRequest("/secret/x", "/secret/y", "my photo.jpg", "garden", octaves=3, seed=2)
    words = shlex.split(request_.command())
    assert words == ["fvfast", "dream", "my photo.jpg", "--preset", "garden", "--octaves", "3", "--seed", "2"]


@pytest.mark.parametrize("request_", [FULL, DreamRequest("a", "b", "c.jpg", "garden", 2, 3, 0.01, 4)])
def test_a_request_survives_the_way_to_the_worker(request_):
    assert asking.from_dict(json.loads(json.dumps(asking.to_dict(request_)))) == request_


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "os:getcwd"}, "'os:getcwd' would run code of this machine: start the dashboard with --allow-code"),
        ({"model": "timm:../x"}, "would run code"),
        ({"model": "--weights=/etc/passwd"}, "would run code"),
        ({"weights": "/etc/passwd"}, "weights must be default or none here"),
        ({"image": "generator:/etc"}, "unknown image 'generator:/etc'"),
        ({"targets": ()}, "name at least one target"),
        ({"targets": ("deep",) * 65}, "targets must be 1 to 64 here, not 65"),
        ({"copies": 1000}, "copies must be 1 to 64 here, not 1000"),
        ({"steps": 10**9}, "steps must be 1 to 20000 here"),
    ],
)
def test_what_no_page_may_ask(changes, sentence):
    with pytest.raises(FvfastError) as caught:
        RenderRequest(**{"model": "resnet18", "targets": ("layer1:2",), **changes}).check(code=False)
    assert sentence in str(caught.value)


def test_code_is_for_servers_that_were_told_to_allow_it():
    FULL.check(code=True)
    RenderRequest("timm:vit_tiny_patch16_224.augreg_in21k", ("blocks.1",)).check(code=False)
    with pytest.raises(FvfastError, match="unknown preset 'x'"):
        DreamRequest("a", "b", "c", "x").check(code=False)


def test_the_pages_offer_what_there_is():
    assert tuple(RECIPES) == asking.RECIPES
    assert set(PRESETS) == set(asking.DREAMS)
    assert set(catalogue.MODELS) <= {row["name"] for row in names()}


# The catalogue ---------------------------------------------------------------------------------------------


def test_layers_are_read_by_a_process_of_its_own():
    rows = catalogue.layers("sketch_nets:tiny", True)
    assert [(row.name, row.channels, row.grid) for row in rows][:2] == [("stem", 8, "224x224"), ("norm", 8, "224x224")]
    assert rows[-1].label == "logits  ·  10 channels  ·  output"
    assert [row.name for row in catalogue.matching(rows, "DEEP relu")] == ["deep_act"]
    with pytest.raises(FvfastError, match="would run code"):
        catalogue.layers("sketch_nets:tiny", False)


def test_what_is_wrong_with_a_network_is_said_without_asking_again(monkeypatch):
    asked = []

    def run(command, **options):
        asked.append(command)
        return subprocess.CompletedProcess(
            command, 1, "", "Traceback (most recent call last):\nLookupError: of its own\n"
        )

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        with pytest.raises(FvfastError, match="LookupError: of its own"):
            catalogue.layers("some_net", False)
    assert [command[-3:] for command in asked] == [["layers", "some_net", "--json"]]
    with pytest.raises(FvfastError, match="unknown model '--store'"):
        catalogue.layers("--store", True)
