"""Stores checked and cleaned, exported, listed and shown; on the command line too."""

import json
import sys
from pathlib import Path

import pytest

from fvfast import exports, upkeep
from fvfast.errors import FvfastError
from fvfast.store import Store
from tests.fvfast.sketch_store import made, tree

# Upkeep ----------------------------------------------------------------------------------------------------


def damage(folder: Path) -> tuple[str, str, str, str]:
    """One file missing, one altered, one without a row, one unfinished."""
    missing, altered = made(0).entry.image, made(2).entry.thumbnail
    (folder / missing).unlink()
    with (folder / altered).open("r+b") as file:
        file.seek(20)
        file.write(b"\x00\xff")
    orphan, unfinished = "images/ee/" + "e" * 64 + ".png", "images/ee/.fvfast-abc"
    (folder / "images/ee").mkdir(exist_ok=True)
    (folder / orphan).write_bytes(b"alone")
    (folder / unfinished).write_bytes(b"half")
    return missing, altered, orphan, unfinished


def test_verify_finds_every_kind_of_damage(folder):
    with Store(folder) as store:
        assert upkeep.verify(store) == upkeep.Report(rows=5)
        missing, altered, orphan, unfinished = damage(folder)
        report = upkeep.verify(store)
    assert report == upkeep.Report(5, [missing], [altered], [orphan], [unfinished])
    assert not report.sound


def test_gc_removes_what_no_row_names_and_nothing_else(folder, cli):
    before = tree(folder)
    _, _, orphan, unfinished = damage(folder)
    missing = made(0).entry.image
    code, out, err = cli("store", "gc", "--store", folder, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"store": str(folder), "removed": 2, "bytes": 9}
    assert tree(folder) == before - {missing}
    assert not (folder / orphan).exists()
    assert not (folder / unfinished).exists()


def test_verify_and_repair_on_the_command_line(folder, cli):
    code, out, err = cli("store", "verify", "--store", folder)
    assert (code, out, err) == (0, "5 rows: sound\n", "")
    missing, altered, orphan, _ = damage(folder)
    code, out, err = cli("store", "verify", "--store", folder)
    assert code == 2
    assert out.splitlines() == [
        f"missing: {missing}",
        f"damaged: {altered}",
        "5 rows: 1 files missing, 1 damaged; 1 files without a row, 1 unfinished",
    ]
    assert err == f"fvfast: the store {folder} is broken: `fvfast store verify --repair --store {folder}` mends it\n"
    document = json.loads(cli("store", "verify", "--store", folder, "--json")[1])
    assert (document["sound"], document["missing"], document["orphans"]) == (False, [missing], [orphan])
    code, _, err = cli("store", "verify", "--repair", "--store", folder)
    assert (code, err) == (0, "fvfast: dropped 2 rows; the atlas command makes them again\n")
    with Store(folder) as store:
        assert [e.target for e in store.entries()] == ["shallow:0", "shallow:1", "deep:10"]
        assert upkeep.verify(store).sound


# Exports and listings --------------------------------------------------------------------------------------


def test_a_folder_with_a_manifest(folder, tmp_path, cli):
    with Store(folder, write=True) as store:  # the same target twice: another recipe
        store.add([made(1, "shallow", 1, recipe="plain")])
    code, out, _ = cli("store", "export", tmp_path / "site", "--store", folder, "--layer", "shallow")
    assert (code, out) == (0, f"3 renders in {tmp_path / 'site'}\n")
    manifest = json.loads((tmp_path / "site/manifest.json").read_text())
    assert [row["target"] for row in manifest] == ["shallow:0", "shallow:1", "shallow:1"]
    assert manifest[0]["image"] == "images/tiny-shallow-0.png"
    assert manifest[0]["recipe"]["name"] == "lucent"
    assert tree(tmp_path / "site") == {"manifest.json"} | {row[k] for row in manifest for k in ("image", "thumbnail")}
    assert len(tree(tmp_path / "site")) == 7
    assert (tmp_path / "site" / manifest[0]["image"]).read_bytes() == made(0, "shallow", 1, recipe="lucent").image


def test_parquet_holds_the_rows_and_the_images(folder, tmp_path, cli):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow: pip install 'fvfast[parquet]'")
    code, out, _ = cli("store", "export", tmp_path / "all.parquet", "--store", folder, "--json")
    assert (code, json.loads(out)["renders"]) == (0, 5)
    table = parquet.read_table(tmp_path / "all.parquet").to_pylist()
    assert [row["target"] for row in table] == ["shallow:0", "shallow:1", "deep:0", "deep:2", "deep:10"]
    assert table[4]["objective_end"] == 10.25
    assert json.loads(table[0]["recipe"])["name"] == "lucent"
    assert table[2]["image_bytes"] == made(0).image
    assert cli("store", "export", tmp_path / "bare.parquet", "--store", folder, "--no-images")[0] == 0
    assert "image_bytes" not in parquet.read_table(tmp_path / "bare.parquet").column_names


def test_parquet_without_pyarrow_says_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with Store(folder) as store, pytest.raises(FvfastError, match=r"pip install 'fvfast\[parquet\]'"):
        exports.to_parquet(store, tmp_path / "x.parquet")
    assert not (tmp_path / "x.parquet").exists()


def test_listing_and_showing(folder, cli):
    code, out, err = cli("store", "ls", "--store", folder, "--layer", "deep", "--channels", "0-9")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["key", "model", "target", "recipe", "px", "steps", "seed", "start", "end", "s"]
    assert lines[1].split()[1:] == ["tiny", "deep:0", "default", "32", "4", "0", "-0.500", "0.250", "0.1"]
    assert lines[3] == f"1-2 of 2 renders in {folder}"
    document = json.loads(cli("store", "ls", "--store", folder, "--limit", 2, "--offset", 3, "--json")[1])
    assert document["total"] == 5
    assert [row["target"] for row in document["renders"]] == ["deep:2", "deep:10"]
    key = made(10).entry.key
    for name in ("deep:10", key, key[:12]):
        shown = json.loads(cli("store", "show", name, "--store", folder, "--json")[1])
        assert shown["key"] == key
        assert Path(shown["image"]).read_bytes() == made(10).image
        assert shown["examples"] == shown["neighbours"] == []
    assert "objective_end    10.25" in cli("store", "show", "deep:10", "--store", folder)[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "deep:1"), "no render 'deep:1' in"),
        (("show", ""), "no render '' in"),
        (("ls", "--channels", "x"), "--channels takes a number or a range such as 0-63, not 'x'"),
        (("export", "out", "--layer", "none"), "nothing to export"),
        (("export", "kept/index.sqlite/x"), "cannot write to kept/index.sqlite/x"),
        (("export", "no/where/x.parquet"), "cannot write no/where/x.parquet (No such file or directory)"),
        (("ls", "--limit", "0"), "Invalid value"),
    ],
)
def test_bad_input_is_one_sentence(folder, cli, arguments, sentence):
    code, out, err = cli("store", *arguments, "--store", folder)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_a_target_by_two_recipes_is_shown_by_key(folder, cli):
    with Store(folder, write=True) as store:
        store.add([made(10, recipe="plain")])
    code, _, err = cli("store", "show", "deep:10", "--store", folder)
    assert code == 2
    assert "'deep:10' names 2 renders; write one of the keys" in err
    assert made(10, recipe="plain").entry.key[:10] in err
