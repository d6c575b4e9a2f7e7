"""What a network runs in: half precision only where the device computes in it, and never in silence otherwise."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fvfast
from fvfast import activation_atlases, atlases, doctor, dreaming, files, lowering, models, precision, rendering
from fvfast.store import Store

CPU, GPU = torch.device("cpu"), torch.device("cuda")
QUICK: dict[str, Any] = {"size": 32, "steps": 2}
WORDS = "rendering in float32, not {}: this processor would only emulate {}, slower than float32"


@pytest.fixture
def emulating(monkeypatch):
    """A processor that has neither half."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: False)


def processor(monkeypatch, onednn, avx512, amx, machine="x86_64"):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(precision.platform, "machine", lambda: machine)


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ((False, False, False), torch.float32),  # AVX2
        ((True, False, False), torch.float32),  # AVX-512, which oneDNN is content with
        ((True, True, False), torch.bfloat16),
        ((True, False, True), torch.bfloat16),
        ((True, False, False, "aarch64"), torch.bfloat16),
        ((False, False, False, "arm64"), torch.float32),
        ((False, True, True), torch.float32),  # oneDNN is told not to
    ],
)
def test_bfloat16_takes_instructions_of_the_processors_own(monkeypatch, has, expected):
    processor(monkeypatch, *has)
    chosen = precision.choose("bfloat16", CPU)
    assert chosen.dtype == rendering.pick_dtype("bfloat16", CPU) == expected
    assert bool(chosen.note) == (expected == torch.float32) == bool(lowering.unusable(torch.bfloat16))
    assert precision.choose(None, CPU) == precision.Precision(torch.float32, "the default on a CPU")
    assert precision.choose("float32", CPU).note == ""


@pytest.mark.parametrize("has", [True, False])
def test_float16_takes_them_too(monkeypatch, has):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: has)
    assert precision.choose("float16", CPU).dtype == (torch.float16 if has else torch.float32)


def test_a_build_without_onednn_has_neither(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert {precision.choose(name, CPU).dtype for name in precision.DTYPES} == {torch.float32}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("asked", [None, "bfloat16"])
def test_an_old_gpu_is_not_asked_to_emulate(monkeypatch, old, asked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or not old
    )
    chosen = precision.choose(asked, GPU)
    assert chosen.dtype == (torch.float32 if old else torch.bfloat16)
    assert bool(chosen.note) == old
    assert precision.choose("float16", GPU).dtype == torch.float16
    assert precision.choose("float32", GPU).note == ""


def test_a_clusters_gpu_is_not_judged_by_this_machine(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert precision.choose(None, GPU).dtype == torch.bfloat16


class Spectral(nn.Module):
    """A network with a complex parameter, or a complex buffer, below its first level."""

    def __init__(self, kind):
        super().__init__()
        self.inner = nn.Module()
        weight = torch.ones(1, dtype=torch.complex64)
        if kind == "parameter":
            self.inner.weight = nn.Parameter(weight)
        else:
            self.inner.register_buffer("weight", weight)


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
@pytest.mark.parametrize(("asked", "device"), [("bfloat16", CPU), ("float16", GPU), (None, GPU)])
def test_complex_weights_are_of_float32(halves, kind, asked, device):
    chosen = precision.choose(asked, device, Spectral(kind))
    assert chosen.dtype == torch.float32
    assert "complex weights" in chosen.note
    assert precision.choose(asked, device, nn.Conv2d(3, 4, 1)).dtype != torch.float32
    assert precision.choose("float32", device, Spectral(kind)).note == ""


# By the public doors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_render_says_what_really_ran(emulating, tiny, dtype, tmp_path):
    said = []
    full = fvfast.render(tiny, "deep:3", **QUICK)
    half = fvfast.render(tiny, "deep:3", dtype=dtype, notify=said.append, **QUICK)
    sentence = WORDS.format(dtype, dtype)
    assert said == [sentence]
    assert half.notes == [sentence, *full.notes]
    assert (full.dtype, full.dtype_why) == ("float32", "the default on a CPU")
    assert (half.dtype, half.dtype_why) == ("float32", sentence.split(": ")[1])
    assert half.images.equal(full.images)
    assert half.form == full.form == "fused"
    assert half.specs == full.specs
    with Store(tmp_path / "kept", write=True) as store:
        assert [e.key for e in fvfast.keep(store, half)] == [e.key for e in fvfast.keep(store, full)]
        assert store.entries()[0].dtype == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_command_line_says_so_once(emulating, cli, dtype):
    arguments = ("render", "sketch_nets:tiny", "deep:3", "--size", 32, "--steps", 2, "--dtype", dtype)
    code, out, err = cli(*arguments, "--json")
    document = json.loads(out)
    assert (code, document["dtype"]) == (0, "float32")
    assert document["dtype_why"] == f"this processor would only emulate {dtype}, slower than float32"
    assert err == f"fvfast: {WORDS.format(dtype, dtype)}\n"
    assert files.read_spec(Path(document["renders"][0]["file"]))["dtype"] == "float32"
    _, out, err = cli(*arguments)
    assert out.count("float32") == 1
    assert err == f"fvfast: {WORDS.format(dtype, dtype)}\n"


def test_a_picture_of_another_machine_is_rendered_again_in_float32(halves, cli, monkeypatch):
    made = ("render", "sketch_nets:tiny", "deep:3", "--size", 32, "--steps", 2, "--dtype", "bfloat16", "--json")
    file = json.loads(cli(*made)[1])["renders"][0]["file"]
    monkeypatch.setattr(precision, "emulated", lambda *_: "this processor is old")
    code, out, err = cli("render", "--from", file, "--out", "again", "--json")
    assert (code, json.loads(out)["dtype"]) == (0, "float32")
    assert "not bfloat16: this processor is old" in err


def test_an_atlas_keeps_what_really_ran(emulating, tiny, tmp_path):
    said = []
    full = atlases.atlas(tiny, "deep", channels="0-1", store=tmp_path, **QUICK)
    half = atlases.atlas(tiny, "deep", channels="0-2", store=tmp_path, dtype="bfloat16", notify=said.append, **QUICK)
    assert (half.dtype, half.dtype_why) == (
        "float32",
        "this processor would only emulate bfloat16, slower than float32",
    )
    assert half.skipped == full.rendered == 2
    assert said == [WORDS.format("bfloat16", "bfloat16")]
    with Store(tmp_path) as store:
        assert {entry.dtype for entry in store.entries()} == {"float32"}


def test_an_activation_atlas_says_it_once(emulating, tiny, tmp_path, monkeypatch):
    (tmp_path / "pictures").mkdir()
    for number in range(8):
        files.write_png(files.to_pil(torch.rand(3, 32, 32)), tmp_path / "pictures" / f"{number}.png")
    monkeypatch.setattr(activation_atlases, "CHUNK", {"cpu": 1})
    said = []
    options: dict[str, Any] = {
        "out": tmp_path / "out",
        "reduce": "pca",
        "grid": 2,
        "dtype": "bfloat16",
        "notify": said.append,
    }
    made = activation_atlases.activation_atlas(tiny, "deep", tmp_path / "pictures", **options, **QUICK)
    assert made.rendered > 1
    assert made.dtype == "float32"
    assert said == [WORDS.format("bfloat16", "bfloat16")]


def test_a_dream_says_what_really_ran(emulating, tiny):
    photo = torch.rand(3, 48, 48)
    options: dict[str, Any] = {"model": tiny, "target": "deep:3", "octaves": 1, "steps": 2}
    full, half = dreaming.dream(photo, **options), dreaming.dream(photo, dtype="bfloat16", **options)
    assert half.image.equal(full.image)
    assert (half.dtype, half.notes, full.notes) == ("float32", [WORDS.format("bfloat16", "bfloat16")], [])


def test_the_doctor_says_what_the_machine_has(emulating, monkeypatch):
    assert doctor._dtype(CPU) == "float32 by default; bfloat16 and float16 would only be emulated, slower"
    monkeypatch.setattr(doctor, "emulated", lambda *_: "")
    assert doctor._dtype(CPU) == "float32 by default"


def test_asked_for_bfloat16_it_is_as_fast_as_float32(emulating):
    loaded = models.load("resnet18", "none")
    took = {"float32": [], "bfloat16": []}
    for _ in range(3):
        for dtype, seconds in took.items():
            made = fvfast.render(loaded, "layer1:3", size=64, steps=6, dtype=dtype)
            seconds.append(made.stages["loop"])
    # Emulated it takes some twenty times as long.
    assert statistics.median(took["bfloat16"]) < 2 * statistics.median(took["float32"])
