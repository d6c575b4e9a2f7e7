"""The command line: in this process where that will do, as a process of its own where signals and limits matter."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import PIL.Image
import pytest
import torch

import fvfast
from fvfast import files

HERE = Path(__file__).parent
QUICK = ("--size", "32", "--steps", "2")


def pngs(folder="renders"):
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def pixels(path):
    with PIL.Image.open(path) as image:
        return image.tobytes()


# render ----------------------------------------------------------------------------------------------------


def test_render_writes_an_image_each_a_sheet_and_a_table(cli):
    code, out, err = cli("render", "sketch_nets:tiny", "deep:3,4", "logits:7", *QUICK)
    assert (code, err) == (0, "")
    assert pngs() == [
        "sheet.png",
        "sketch_nets-tiny-deep-3.png",
        "sketch_nets-tiny-deep-4.png",
        "sketch_nets-tiny-logits-7.png",
    ]
    for word in ("target", "start", "end", "file", "deep:4", "sketch_nets-tiny-logits-7.png", "sheet.png", "32 px"):
        assert word in out
    with PIL.Image.open("renders/sketch_nets-tiny-deep-3.png") as image:
        assert image.size == (32, 32)


def test_one_image_needs_no_sheet(cli):
    code, out, _ = cli("render", "sketch_nets:tiny", "deep:3", *QUICK, "--out", "some/where", "--every", 1)
    assert code == 0
    assert pngs("some") == [
        "where/sketch_nets-tiny-deep-3.png",
        "where/snapshots/sketch_nets-tiny-deep-3-step00001.png",
        "where/snapshots/sketch_nets-tiny-deep-3-step00002.png",
    ]
    assert "sheet.png" not in out


@pytest.mark.bundled
def test_the_bundled_model_is_the_default(cli):
    code, out, _ = cli("render", "efficientnet_lite0", "logits:daisy", "--size", 32, "--steps", 1, "--json")
    assert code == 0
    assert json.loads(out)["model"] == "efficientnet_lite0"
    assert pngs() == ["efficientnet_lite0-logits-daisy.png"]


@pytest.mark.bundled
def test_without_arguments_the_showcase_is_rendered(cli):
    code, out, _ = cli("render", *QUICK, "--json", "--weights", "none")
    assert code == 0
    document = json.loads(out)
    assert len(document["renders"]) == 8
    assert len(pngs()) == 9
    assert sum(r["target"].startswith("logits:") for r in document["renders"]) >= 3


def test_render_as_json(cli):
    arguments = ("deep:3,4", "--size", 32, "--steps", 4, "--seed", 5, "--copies", 2, "--json")
    code, out, err = cli("render", "sketch_nets:tiny", *arguments)
    assert (code, err) == (0, "")
    document = json.loads(out)
    told = ("device", "path", "form", "form_why", "dtype", "steps", "size", "seed", "interrupted")
    assert {k: document[k] for k in told} == {
        "device": "cpu",
        "path": "reference",
        "form": "fused",
        "form_why": "",
        "dtype": "float32",
        "steps": 4,
        "size": 32,
        "seed": 5,
        "interrupted": False,
    }
    assert document["steps_per_s"] == pytest.approx(16 / document["seconds"], rel=0.05)  # seconds are rounded to 1 ms
    assert document["images_per_s"] == pytest.approx(4 / document["seconds"], rel=0.05)
    assert [(r["target"], r["seed"]) for r in document["renders"]] == [
        ("deep:3", 5),
        ("deep:3", 6),
        ("deep:4", 5),
        ("deep:4", 6),
    ]
    assert all(Path(r["file"]).is_file() for r in document["renders"])
    assert all(r["objective_end"] > r["objective_start"] for r in document["renders"])
    assert len({r["file"] for r in document["renders"]}) == 4


def test_every_option_reaches_the_render(cli, halves):
    arguments = ("--image", "pixel", "--lr", 0.2, "--recipe", "plain", "--device", "cpu", "--dtype", "bfloat16")
    code, out, _ = cli(
        "render", "sketch_nets:tiny", "deep:3", *QUICK, *arguments, "--batch", 2, "--threads", 1, "--json"
    )
    assert code == 0
    assert json.loads(out)["dtype"] == "bfloat16"
    spec = files.read_spec(Path(json.loads(out)["renders"][0]["file"]))
    assert (spec["recipe"]["name"], spec["recipe"]["image"], spec["recipe"]["lr"]) == ("plain", "pixel", 0.2)
    assert (spec["recipe"]["steps"], spec["size"], spec["dtype"]) == (2, 32, "bfloat16")


def test_the_same_command_gives_the_same_bytes(cli):
    for folder in ("a", "b"):
        assert cli("render", "sketch_nets:tiny", "deep:3,4", *QUICK, "--out", folder)[0] == 0
    assert pngs("a") == pngs("b")
    for name in pngs("a"):
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--seed", 3, "--lr", 0.1),
        ("--recipe", "lucent"),
        ("--recipe", "plain", "--dtype", "bfloat16"),
        ("--image", "pixel", "--weights", "default"),
    ],
)
def test_from_renders_the_same_bytes_again(cli, halves, options):
    assert cli("render", "sketch_nets:tiny", "deep:3", *QUICK, *options)[0] == 0
    (name,) = pngs()
    code, _, err = cli("render", "--from", f"renders/{name}", "--out", "again")
    assert (code, err) == (0, "")
    assert pngs("again") == [name]
    assert Path("again", name).read_bytes() == Path("renders", name).read_bytes()


@pytest.mark.bundled
def test_from_a_class_by_name_and_from_one_of_several(cli):
    arguments = ("efficientnet_lite0", "logits:bell pepper", "_blocks.2:1", "--weights", "none", "--copies", 2)
    assert cli("render", *arguments, *QUICK)[0] == 0
    for name in ("efficientnet_lite0-logits-bell-pepper-seed1.png", "efficientnet_lite0-_blocks.2-1.png"):
        assert cli("render", "--from", f"renders/{name}", "--out", "again")[0] == 0
        assert Path("again", name).read_bytes() == Path("renders", name).read_bytes()


def test_from_a_snapshot_stops_where_the_snapshot_was_taken(cli):
    assert cli("render", "sketch_nets:tiny", "deep:3", "--size", 32, "--steps", 5, "--every", 2)[0] == 0
    shot = "renders/snapshots/sketch_nets-tiny-deep-3-step00002.png"
    assert cli("render", "--from", shot, "--out", "again")[0] == 0
    assert pixels("again/sketch_nets-tiny-deep-3.png") == pixels(shot)
    assert pixels(shot) != pixels("renders/sketch_nets-tiny-deep-3.png")


def test_from_with_something_changed(cli):
    assert cli("render", "sketch_nets:tiny", "deep:3", *QUICK)[0] == 0
    code, out, _ = cli(
        "render", "--from", "renders/sketch_nets-tiny-deep-3.png", "--steps", 3, "--seed", 9, "--json", "--out", "b"
    )
    assert code == 0
    assert (json.loads(out)["steps"], json.loads(out)["seed"], json.loads(out)["size"]) == (3, 9, 32)


# Bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet81", "a:1"], "unknown model 'resnet81' (did you mean resnet18"),
        (["timm:resnt26", "a:1"], "unknown model 'timm:resnt26' (did you mean resnet26"),
        (["nowhere:net", "a:1"], "no Python module 'nowhere' for model 'nowhere:net'"),
        (["sketch_nets:tinny", "a:1"], "sketch_nets has no 'tinny' (did you mean tiny"),
        (["sketch_nets:tiny"], "name at least one target; `fvfast layers sketch_nets:tiny` lists the layers"),
        (["sketch_nets:tiny", "deeep:1"], "has no layer 'deeep' with a tensor output (did you mean deep"),
        (["sketch_nets:Mute", "words:1"], "words of sketch_nets:Mute cannot be a target: its output holds no tensor"),
        (["sketch_nets:tiny", "deep:12"], "deep has channels 0-11, not 12"),
        (["sketch_nets:tiny", "deep:4-2"], "the range 4-2 in deep:4-2 runs backwards; write 2-4"),
        (["sketch_nets:tiny", "deep:one"], "'deep:one' is no target; write LAYER:CHANNEL, LAYER:3,7,10-19"),
        (["sketch_nets:tiny", ""], "'' is no target"),
        (["sketch_nets:tiny", "logits:daisy"], "does not name its classes; write logits:INDEX instead of 'daisy'"),
        (["efficientnet_lite0", "logits:daysy"], "efficientnet_lite0 has no class 'daysy' (did you mean daisy"),
        pytest.param(
            ["efficientnet_lite0", "logits:CARDIGAN"],
            "'CARDIGAN' names 2 classes; write logits:264 or logits:474",
            marks=pytest.mark.bundled,
        ),
        (["sketch_nets:tiny", "deep:1@99,0"], "'deep:1@99,0' lies outside deep, which is 16x16 at this size"),
        (["sketch_nets:Multiples", "conv:1", "--size", "40"], "cannot take images of 40 px; use --size 64"),
        (["vgg11", "features.3:1", "--size", "20", "--weights", "none"], "vgg11 cannot take images of 20 px"),
        (["sketch_nets:tiny", "deep:1", "--size", "15"], "size must be 16 to 1024 px, not 15"),
        (["sketch_nets:tiny", "deep:1", "--size", "0"], "size must be 16 to 1024 px, not 0"),
        (["sketch_nets:tiny", "deep:1", "--size", "1025"], "size must be 16 to 1024 px, not 1025"),
        (["sketch_nets:tiny", "deep:1", "--size", "big"], "Invalid value for '--size'"),
        (["sketch_nets:tiny", "deep:1", "--recipe", "lucnt"], "unknown recipe 'lucnt' (did you mean lucent?)"),
        (["sketch_nets:tiny", "deep:1", "--image", "oil"], "unknown image 'oil'"),
        (["sketch_nets:tiny", "deep:1", "--device", "gpu"], "device 'gpu' cannot be used here; there is cpu"),
        (["sketch_nets:tiny", "deep:1", "--dtype", "half"], "unknown dtype 'half'; there are float32, bfloat16"),
        (["sketch_nets:tiny", "deep:1", "--network", "fast"], "unknown network form 'fast'; there are auto, modules"),
        (["sketch_nets:tiny", "deep:1", "--network", "tuned", "--device", "cpu"], "--network tuned is for an NVIDIA"),
        (["sketch_nets:tiny", "deep:1", "--steps", "0"], "steps must be 1 or more, not 0"),
        (["sketch_nets:tiny", "deep:1", "--steps", "10000000000000"], "steps must be at most 1000000"),
        (["sketch_nets:tiny", "deep:1", "--lr", "-1"], "lr must be above 0, not -1.0"),
        (["sketch_nets:tiny", "deep:1", "--batch", "0"], "batch must be 1 or more, not 0"),
        (["sketch_nets:tiny", "deep:1", "--every", "0"], "every must be 1 or more, not 0"),
        (["sketch_nets:tiny", "deep:1", "--threads", "0"], "threads must be 1 or more, not 0"),
        (["sketch_nets:tiny", "deep:1", "--copies", "0"], "copies must be 1 or more, not 0"),
        (["sketch_nets:tiny", "deep:1", "--seed", "-1"], "seed must be 0 or more, not -1"),
        (["sketch_nets:tiny", "deep:1", "--weights", "gone.pth"], "no weights file 'gone.pth': --weights takes none"),
        (["sketch_nets:tiny", "deep:1", "--weights", "text.pth"], "text.pth is not a plain checkpoint"),
        (["sketch_nets:tiny", "deep:1", "--weights", "other.pth"], "other.pth do not fit this model: "),
        (["sketch_nets:tiny", "deep:1", "--out", "text.pth"], "cannot write to the folder text.pth"),
        (["sketch_nets:tiny", "deep:1", "--out", "text.pth/below"], "cannot write to the folder text.pth/below"),
        (["sketch_nets:Exploding", "root:1"], "the objective root:1 became nan at step 1: try a smaller --lr"),
        (["sketch_nets:Flat", "out:1"], "the objective out:1 does not depend on the image"),
        (["--from", "gone.png"], "no file gone.png"),
        (["--from", "foreign.png"], "foreign.png carries no fvfast recipe"),
        (["--from", "text.pth"], "text.pth is not a readable PNG"),
        (["sketch_nets:tiny", "--from", "foreign.png"], "--from takes its model and target from the PNG"),
        (["--sise", "3"], "No such option: --sise"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_nothing(cli, arguments, sentence):
    Path("text.pth").write_text("no weights")
    torch.save({"stem.weight": torch.ones(2)}, "other.pth")
    PIL.Image.new("RGB", (4, 4)).save("foreign.png")
    before = pngs(".")
    size = () if "--size" in arguments else ("--size", "32")
    steps = () if "--steps" in arguments or "--from" in arguments else ("--steps", "2")
    code, out, err = cli("render", *arguments, *size, *steps)
    assert code == 2
    assert sentence in err
    assert err.startswith("fvfast: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert out == ""
    assert pngs(".") == before
    assert not Path("renders").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, a folder that nobody can write to")
def test_a_folder_that_nobody_can_write_to(cli):
    code, out, err = cli("render", "sketch_nets:tiny", "deep:1", *QUICK, "--out", "/proc/images")
    assert (code, out) == (2, "")
    assert "cannot write to the folder /proc/images (" in err


def test_no_weights_to_be_had_says_where_to_put_a_file(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses at once
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request._opener", None)  # urllib keeps the proxies it first saw
    code, out, err = cli("render", "resnet18", "layer1:1", *QUICK, "--json")
    assert (code, out) == (2, "")
    file = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    assert f"put the file at {file}, or pass --weights FILE, or --weights none for random ones" in err
    assert not file.exists()
    assert not Path("renders").exists()


def test_an_unknown_command(cli):
    code, out, err = cli("rendr")
    assert (code, out) == (2, "")
    assert "No such command 'rendr'" in err


def test_what_could_be_rendered_is_written_and_the_rest_named(cli):
    code, out, err = cli("render", "sketch_nets:Exploding", "root:1", "root:0", *QUICK, "--copies", 2, "--json")
    assert code == 2
    assert len(json.loads(out)["renders"]) == 2
    assert pngs() == ["sheet.png", "sketch_nets-Exploding-root-0-seed1.png", "sketch_nets-Exploding-root-0.png"]
    assert err.count("the objective root:1 became nan") == 2


def test_a_networks_bug_is_a_sentence_that_says_where(cli):
    code, out, err = cli("render", "sketch_nets:Buggy", "conv:1", *QUICK)
    assert (code, out) == (2, "")
    lines = Path(__file__).with_name("sketch_nets.py").read_text().splitlines()
    line = 1 + next(number for number, text in enumerate(lines) if "a bug of its own" in text)
    assert f"LookupError: a bug of its own (sketch_nets.py, line {line})" in err
    assert "Traceback" not in err


def test_a_grey_image_is_pointed_out(cli, monkeypatch, tmp_path):
    (tmp_path / "grey_net.py").write_text(
        "from torch import nn\n"
        "class Dead(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.act = nn.ReLU()\n"
        "    def forward(self, x):\n"
        "        return self.act(x - 100)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    code, _, err = cli("render", "grey_net:Dead", "act:0", *QUICK)
    assert code == 0
    assert err.startswith("fvfast: act:0 never woke: its gradient died")


# layers, models, doctor ------------------------------------------------------------------------------------


def test_layers_as_json(cli):
    code, out, err = cli("layers", "sketch_nets:tiny", "--size", 32, "--json")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert (document["model"], document["size"]) == ("sketch_nets:tiny", 32)
    assert [row["name"] for row in document["layers"]][:4] == ["stem", "norm", "act", "deep"]
    assert document["layers"][3] == {"name": "deep", "kind": "Conv2d", "channels": 12, "height": 16, "width": 16}
    assert document["layers"][-1] == {"name": "logits", "kind": "output", "channels": 10, "height": None, "width": None}


def test_every_layer_listed_can_be_rendered(cli):
    _, out, _ = cli("layers", "sketch_nets:Tokens", "--size", 32, "--json")
    names = [row["name"] for row in json.loads(out)["layers"]]
    code, out, _ = cli("render", "sketch_nets:Tokens", *(f"{name}:1" for name in names), *QUICK, "--json")
    assert code == 0
    assert [r["target"] for r in json.loads(out)["renders"]] == [f"{name}:1" for name in names]


def test_layers_as_a_table_in_columns(cli):
    code, out, _ = cli("layers", "sketch_nets:tiny", "--size", 32)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["layer", "kind", "channels", "grid"]
    assert lines[4].split() == ["deep", "Conv2d", "12", "16x16"]
    assert lines[-1].split() == ["logits", "output", "10"]
    assert len({line.index("Conv2d") for line in lines if "Conv2d" in line}) == 1


@pytest.mark.bundled
def test_layers_at_the_networks_own_size(cli):
    code, out, _ = cli("layers", "--json")
    document = json.loads(out)
    assert (code, document["model"], document["size"]) == (0, "efficientnet_lite0", 224)
    rows = {row["name"]: row for row in document["layers"]}
    assert rows["_blocks.15"]["channels"] == 320
    assert rows["_blocks.15"]["height"] == rows["_blocks.15"]["width"] == 7


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["resnet81"], "unknown model 'resnet81' (did you mean resnet18"),
        (["sketch_nets:tiny", "--size", "0"], "size must be 1 or more, not 0"),
        (["sketch_nets:Multiples", "--size", "33"], "cannot take images of 33 px; use --size 64"),
        (["sketch_nets:tiny", "--weights", "gone.pth"], "no weights file 'gone.pth'"),
    ],
)
def test_layers_refuses_bad_input(cli, arguments, sentence):
    code, out, err = cli("layers", *arguments, "--json")
    assert (code, out) == (2, "")
    assert sentence in err


@pytest.mark.bundled
def test_models(cli):
    code, out, _ = cli("models", "ResNet18")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["model", "source", "weights"]
    assert ["resnet18", "torchvision"] in [row[:2] for row in rows]
    assert all("resnet18" in row[0] for row in rows[1:])
    code, out, _ = cli("models", "efficientnet_lite0", "--json")
    rows = json.loads(out)["models"]
    assert rows[0] == {"name": "efficientnet_lite0", "source": "efficientnet-lite-pytorch", "weights": "bundled"}
    assert all("efficientnet_lite0" in row["name"] for row in rows)
    code, out, err = cli("models", "zzzz")
    assert (code, out, err) == (2, "", "fvfast: no model's name contains 'zzzz'\n")


def test_doctor(cli):
    code, out, _ = cli("doctor", "--json")
    assert code == 0
    assert json.loads(out)["torch"] == torch.__version__
    code, out, _ = cli("doctor")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith("at once"))
    assert lines["fvfast"] == fvfast.__version__
    assert lines["path"] in ("reference", "triton")
    assert lines["why"]


def test_a_network_that_runs_as_it_is_says_why(cli):
    arguments = ("render", "sketch_nets:Slow", "conv:3", "--weights", "none", "--size", 16, "--steps", 1)
    code, out, _ = cli(*arguments, "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["form"], document["form_why"]) == ("modules", "it draws random numbers")
    code, out, _ = cli(*arguments)
    assert code == 0
    assert "the network ran as its own modules, slower: it draws random numbers" in " ".join(out.split())


def test_version_and_help(cli):
    assert cli("--version") == (0, f"fvfast {fvfast.__version__}\n", "")
    code, out, _ = cli("render", "--help")
    assert code == 0
    assert "LAYER:CHANNEL@Y,X" in out
    code, out, err = cli()
    assert "render" in out + err
    assert "doctor" in out + err


# The screen ------------------------------------------------------------------------------------------------


def test_the_screen_counts_and_hears_the_first_interrupt(capsys):
    from fvfast.result import Progress
    from fvfast.screen import Screen

    before = signal.getsignal(signal.SIGINT)
    with Screen(quiet=True) as screen:
        screen.progress(Progress(0, 10, 0, 2, float("nan")))
        screen.progress(Progress(5, 10, 1, 2, 3.14159))
        task = screen.bar.tasks[0]
        assert (task.completed, task.total, task.fields["count"], task.fields["value"]) == (5, 10, "1/2", "3.142")
        assert not screen.stopped()
        signal.raise_signal(signal.SIGINT)
        assert screen.stopped()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    out, err = capsys.readouterr()
    assert out == ""
    assert "stopping after this step (Ctrl-C again to leave at once)" in err


def test_an_interrupt_outside_a_render_is_130(cli, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("fvfast.doctor"), "report", interrupted)
    code, out, err = cli("doctor")
    assert (code, out) == (130, "")
    assert "Traceback" not in err


# As a process ----------------------------------------------------------------------------------------------


def start(*arguments, code=None):
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "fvfast.cli"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    if code == LIMITED:  # else what a thread frees stays in an arena of its own, within the limit
        environment["MALLOC_ARENA_MAX"] = "1"
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def wait_for_steps(process):
    """Until the loop has begun."""
    deadline = time.monotonic() + 120
    while not Path("begun").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


SLOW = """
import sys, time, pathlib
import torch
import sketch_nets
class Slow(sketch_nets.Slow):
    looks = 0
    def forward(self, x):
        Slow.looks += x.requires_grad
        if Slow.looks == 10:  # the first are of the preparation
            pathlib.Path("begun").touch()
        return super().forward(x)
sketch_nets.Slow = Slow
import fvfast.cli
fvfast.cli.main(sys.argv[1:])
"""


def test_ctrl_c_writes_the_canvas_as_it_is_and_exits_130():
    arguments = ("render", "sketch_nets:Slow", "conv:1", "--size", 32, "--steps", 100_000, "--json")
    process = start(*arguments, code=SLOW)
    wait_for_steps(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "fvfast: stopping after this step (Ctrl-C again to leave at once)" in err
    assert "fvfast: interrupted; wrote 1 images as far as they had come" in err
    assert "Traceback" not in err
    document = json.loads(out)
    assert document["interrupted"] is True
    assert 0 < document["renders"][0]["steps"] < 100_000
    assert pngs() == ["sketch_nets-Slow-conv-1.png"]
    spec = files.read_spec(Path("renders/sketch_nets-Slow-conv-1.png"))
    assert spec["recipe"]["steps"] == document["renders"][0]["steps"]


def test_a_second_ctrl_c_leaves_at_once_and_writes_nothing():
    held = 'while Slow.looks >= 10 and not pathlib.Path("go").exists(): time.sleep(0.01)'
    code = SLOW.replace("return super()", f"{held}\n        return super()")
    process = start("render", "sketch_nets:Slow", "conv:1", "--size", 32, "--steps", 100_000, code=code)
    wait_for_steps(process)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said == "fvfast: stopping after this step (Ctrl-C again to leave at once)\n"
    process.send_signal(signal.SIGINT)  # within this step, which does not end before
    Path("go").touch()
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "")
    assert not Path("renders").exists()


def test_a_reader_that_goes_away_leaves_no_traceback():
    process = start("layers", "sketch_nets:tiny", "--size", 32)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=120) in (0, 1)
    assert err == ""
    process.stderr.close()


LIMITED = """
import resource, sys
import fvfast, fvfast.cli
import sketch_nets
from fvfast.models import load
fvfast.render(load("sketch_nets:Hungry"), "wide:1", size=16, steps=1)  # threads and libraries are there from now on
size = int(next(l for l in open("/proc/self/status") if l.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]) * 2**20,) * 2)
fvfast.cli.main(sys.argv[2:])
"""

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")


@linux
def test_memory_that_runs_out_halves_the_batch_and_says_so():
    # An image takes 27 MiB and again as much for each of a few intermediate results: eight do not fit into 500 MiB.
    arguments = ("render", "sketch_nets:Hungry", "wide:0-7", "--size", 48, "--steps", 1, "--batch", 8, "--json")
    process = start(500, *arguments, "--threads", 1, code=LIMITED)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    said = [line for line in err.splitlines() if line.startswith("fvfast: memory ran out: going on with ")]
    assert said
    assert said[0] == "fvfast: memory ran out: going on with 4 images at a time"
    assert len(json.loads(out)["renders"]) == 8
    assert len(pngs()) == 9


@linux
def test_memory_that_does_not_do_for_one_image_is_a_sentence():
    arguments = ("render", "sketch_nets:Hungry", "wide:0-1", "--size", 64, "--steps", 1, "--threads", 1)
    process = start(60, *arguments, code=LIMITED)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert "fvfast: memory ran out with" in err.splitlines()[-1]
    assert "use a smaller --size" in err
    assert "Traceback" not in err
    assert out == ""
    assert not Path("renders").exists()
