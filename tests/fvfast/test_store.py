"""The store: rows and files that belong together, one writer, many readers, schemas old and new, upkeep, exports."""

import errno
import hashlib
import io
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from fvfast import blobs, files, schema, upkeep
from fvfast.errors import FvfastError
from fvfast.identity import render_key, weights_digest
from fvfast.store import Made, Query, Store
from tests.fvfast.sketch_store import HISTORY, made, traced, tree

HERE = Path(__file__).parent
SPEC: dict[str, Any] = {
    "target": "deep:3",
    "recipe": {"name": "default", "steps": 4, "zoom": (0.9, 1.1)},
    "size": 32,
    "seed": 0,
    "dtype": "float32",
}


# Rows and files --------------------------------------------------------------------------------------------


def test_what_is_kept_is_read_back_whole(folder):
    one = made(10)
    with Store(folder) as store:
        assert store.entries(Query(key=one.entry.key)) == [one.entry]
    assert (folder / one.entry.image).read_bytes() == one.image
    assert (folder / one.entry.thumbnail).read_bytes() == one.thumbnail
    assert Path(one.entry.image).stem == hashlib.sha256(one.image).hexdigest()
    assert one.entry.image.split("/")[1] == Path(one.entry.image).stem[:2]


def test_rows_come_in_the_order_of_the_forward_pass(folder):
    with Store(folder) as store:
        assert [e.target for e in store.entries()] == ["shallow:0", "shallow:1", "deep:0", "deep:2", "deep:10"]
        assert [e.target for e in store.entries(limit=2, offset=1)] == ["shallow:1", "deep:0"]
        assert store.entries(limit=2, offset=5) == []
        assert store.layers() == [
            {"model": "tiny", "layer": "shallow", "depth": 1, "count": 2},
            {"model": "tiny", "layer": "deep", "depth": 3, "count": 3},
        ]


@pytest.mark.parametrize(
    ("query", "targets"),
    [
        (Query(layer="deep"), ["deep:0", "deep:2", "deep:10"]),
        (Query(channel=0), ["shallow:0", "deep:0"]),
        (Query(channel=(1, 9)), ["shallow:1", "deep:2"]),
        (Query(recipe="lucent"), ["shallow:0"]),
        (Query(text="EP:1"), ["deep:10"]),
        (Query(text="%"), []),
        (Query(text="_"), []),
        (Query(model="tiny", layer="deep", channel=(2, 99)), ["deep:2", "deep:10"]),
        (Query(model="other"), []),
        (Query(key="g"), []),
        (Query(recipe=("lucent", "plain")), ["shallow:0"]),
        (Query(recipe=()), []),
        (Query(objective=(1.0, None)), ["shallow:1", "deep:2", "deep:10"]),
        (Query(objective=(1.25, 2.25)), ["shallow:1", "deep:2"]),
        (Query(keys=(made(10).entry.key, made(0).entry.key, "gone")), ["deep:0", "deep:10"]),
        (Query(keys=()), []),
        (Query(layer="deep", sort="highest"), ["deep:10", "deep:2", "deep:0"]),
        (Query(layer="deep", sort="lowest"), ["deep:0", "deep:2", "deep:10"]),
        (Query(sort="newest"), ["shallow:0", "shallow:1", "deep:10", "deep:0", "deep:2"]),
    ],
)
def test_every_filter(folder, query, targets):
    with Store(folder) as store:
        assert [e.target for e in store.entries(query)] == targets
        assert store.count(query) == len(targets)


def test_an_unknown_order_is_a_sentence(folder):
    with Store(folder) as store, pytest.raises(FvfastError, match="unknown order 'best'; there are layer, highest"):
        store.entries(Query(sort="best"))


@pytest.mark.parametrize("sort", ["highest", "lowest"])
def test_what_is_not_a_number_comes_last(folder, sort):
    one = made(7)
    with Store(folder, write=True) as store:
        store.add([Made(replace(one.entry, objective_end=float("nan")), one.image, one.thumbnail)])
        assert store.entries(Query(sort=sort))[-1].target == "deep:7"
        assert store.count(Query(objective=(None, 1e9))) == 5


def test_a_trace_is_read_back_and_goes_with_its_render(folder):
    one = traced(7)
    with Store(folder, write=True) as store:
        store.add([one])
        trace = store.trace(one.entry.key)
        np.testing.assert_array_equal(trace.history, np.array(HISTORY, np.float32))
        assert [step for step, _ in trace.snapshots] == [1, 3]
        assert [(folder / path).read_bytes() for _, path in trace.snapshots] == [data for _, data in one.snapshots]
        assert upkeep.verify(store) == upkeep.Report(rows=6)
        empty = store.trace(made(10).entry.key)  # an older version kept none
        assert (len(empty.history), empty.snapshots) == (0, [])
        with pytest.raises(FvfastError, match="no render 'abc' in"):
            store.trace("abc")
        store.add([replace(one, history=b"", snapshots=())])  # what is there stays
        assert len(store.trace(one.entry.key).history) == 4
        with store.transaction() as connection:
            connection.execute("DELETE FROM renders WHERE key = ?", [one.entry.key])
        assert store.execute("SELECT count(*) FROM traces") == store.execute("SELECT count(*) FROM snapshots") == [(0,)]
        assert upkeep.gc(store)[0] == 4


def test_a_key_that_is_there_stays_as_it_is(folder):
    one = made(0)
    with Store(folder, write=True) as store:
        store.add([Made(replace(one.entry, seconds=99.0), one.image, one.thumbnail)])
        assert store.count() == 5
        assert store.entries(Query(key=one.entry.key))[0].seconds == 0.125
        keys = [made(n).entry.key for n in range(1200)]  # more than SQLite takes in one question
        assert store.present(keys) == {made(n).entry.key for n in (0, 2, 10)}


def test_an_objective_that_is_not_a_number_is_kept_as_such(folder):
    one = made(7)
    with Store(folder, write=True) as store:
        store.add([Made(replace(one.entry, objective_end=float("nan")), one.image, one.thumbnail)])
        end = store.entries(Query(channel=7))[0].objective_end
    assert end != end


def test_a_recipe_is_kept_once(folder):
    with Store(folder) as store:
        assert store.execute("SELECT name FROM recipes ORDER BY name") == [("default",), ("lucent",)]
        assert store.entries(Query(recipe="default"))[0].recipe == made(0).entry.recipe


def test_a_failure_while_rows_are_written_leaves_none_of_them(folder):
    good, bad = made(100), made(101)
    bad = Made(replace(bad.entry, layer=None), bad.image, bad.thumbnail)  # pyright: ignore[reportArgumentType]
    with Store(folder, write=True) as store:
        with pytest.raises(FvfastError, match="index of the store"):
            store.add([good, bad])
        assert store.count() == 5
        store.add([good])
        assert store.count() == 6


def test_a_full_disk_is_a_sentence_and_breaks_nothing(folder, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = tree(folder)
    with Store(folder, write=True) as store:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(FvfastError, match=r"No space left on device.*make room"):
            store.add([made(50)])
        monkeypatch.undo()
        assert upkeep.verify(store) == upkeep.Report(rows=5)
        assert store.count() == 5
        store.add([made(50)])
        assert upkeep.verify(store) == upkeep.Report(rows=6)
    assert len(tree(folder) - before) == 2


@pytest.mark.parametrize("format", blobs.FORMATS)
def test_images_are_lossless(format, tmp_path):
    picture = PIL.Image.effect_noise((40, 30), 90).convert("RGB")
    path = tmp_path / f"x.{format}"
    spec = {"model": "m", "weights": "none", **SPEC}
    path.write_bytes(blobs.encode(picture, format, spec))
    with PIL.Image.open(path) as image:
        assert image.convert("RGB").tobytes() == picture.tobytes()
    if format == "png":
        assert files.read_spec(path)["target"] == "deep:3"


def test_thumbnails_are_small():
    with PIL.Image.open(io.BytesIO(blobs.thumbnail(PIL.Image.new("RGB", (400, 200))))) as image:
        assert (image.size, image.format) == ((96, 48), "WEBP")


# Keys ------------------------------------------------------------------------------------------------------


def test_a_key_depends_on_what_determines_a_render_and_on_nothing_else(tiny):
    digest = weights_digest(tiny)
    key = render_key(SPEC, tiny, digest)
    assert key == render_key({**SPEC, "steps": 9, "weights": "file"}, replace(tiny, weights="x"), digest)
    assert key == render_key({**SPEC, "recipe": {"zoom": [0.9, 1.1], "steps": 4, "name": "default"}}, tiny, digest)
    others = [
        render_key({**SPEC, name: value}, tiny, digest)
        for name, value in (("target", "deep:4"), ("size", 33), ("seed", 1), ("dtype", "float16"))
    ]
    others.append(render_key({**SPEC, "recipe": {**SPEC["recipe"], "steps": 5}}, tiny, digest))
    others.append(render_key(SPEC, replace(tiny, name="other"), digest))
    others.append(render_key(SPEC, replace(tiny, mean=(0.5, 0.5, 0.5)), digest))
    others.append(render_key(SPEC, tiny, "0" * 64))
    assert len({key, *others}) == 9


def test_a_key_stays_what_it_was(tiny):
    """Stores are found again by it. Only a new `identity.RENDERING` may change it: this is 3's."""
    expected = "2df964c4fcb2ee1d4006ba741a2e0a80e0e475a9c6b2c5040b2805dabf673d2f"
    assert render_key(SPEC, tiny, "0" * 64) == expected


def test_a_key_follows_what_is_in_a_file_of_magnitudes(tiny, tmp_path):
    def key(name: str, content: bytes) -> str:
        (tmp_path / name).write_bytes(content)
        recipe = {**SPEC["recipe"], "magnitude": str(tmp_path / name)}
        return render_key({**SPEC, "recipe": recipe}, tiny, "0" * 64)

    assert key("a", b"1") == key("b", b"1") != key("a", b"2")


def test_a_weights_digest_sees_every_number(tiny):
    before = weights_digest(tiny)
    assert weights_digest(tiny) == before
    tiny.module.deep_norm.running_var[3] += 1e-6
    assert weights_digest(tiny) != before


# Readers and writers ---------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from fvfast.store import Store
with Store(sys.argv[1], write=True):
    print("open", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_gets_a_sentence_and_readers_go_on(folder, cli):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(FvfastError, match=f"process {process.pid} is writing to the store .*another --store"):
            Store(folder, write=True)
        code, out, err = cli("atlas", "sketch_nets:tiny", "deep", "--store", folder, "--size", 32, "--steps", 1)
        assert (code, out) == (2, "")
        assert err.startswith(f"fvfast: process {process.pid} is writing to the store")
        assert len(err.splitlines()) == 1
        assert cli("store", "gc", "--store", folder)[0] == 2
        code, out, _ = cli("store", "ls", "--store", folder)
        assert code == 0
        assert "1-5 of 5 renders" in out
    finally:
        process.kill()
        process.communicate()
    with Store(folder, write=True) as store:  # a killed process holds nothing
        assert store.count() == 5


def test_a_reader_sees_what_is_written_while_it_is_open(folder):
    with Store(folder) as reader, Store(folder, write=True) as writer:
        assert reader.count() == 5
        writer.add([made(77)])
        assert reader.count() == 6
        with writer.transaction() as connection:
            connection.execute("DELETE FROM renders")
            assert reader.count() == 6  # nothing is held up, and nothing half-written is seen
        assert reader.count() == 0
        with pytest.raises(FvfastError, match="reading only"):
            reader.add([made(78)])


def test_a_store_that_cannot_be_opened(tmp_path):
    with pytest.raises(FvfastError, match=r"no store in .*nowhere: `fvfast atlas"):
        Store(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "index.sqlite").write_text("this is no database, whatever its name says" * 100)
    for write in (False, True):
        with pytest.raises(FvfastError, match="file is not a database"):
            Store(tmp_path, write=write)
    (tmp_path / "file").touch()
    with pytest.raises(FvfastError, match="cannot write to the store"):
        Store(tmp_path / "file" / "below", write=True)


# Schemas ---------------------------------------------------------------------------------------------------


def old_store(folder: Path) -> Path:
    """A store as the first version of the schema had it, with one row."""
    folder.mkdir()
    connection = sqlite3.connect(folder / "index.sqlite", isolation_level=None)
    schema.migrate(connection, to=1)
    connection.execute("INSERT INTO recipes VALUES (5, 'd', 'default', '{\"name\": \"default\"}')")
    values = ("k" * 64, "tiny", "none", "w", "deep", 3, 4, "deep:4", 5, 0, 32, 9, 0.5, 2.5, 1.0, "cpu", "reference")
    values = (*values, "float32", "0.1.0", "2025", "", "images/aa/aa.png", "thumbnails/bb/bb.webp")
    connection.execute(f"INSERT INTO renders VALUES (1, {', '.join('?' * len(values))})", values)
    connection.close()
    return folder


@pytest.mark.parametrize("write", [False, True])
def test_an_older_schema_becomes_todays_with_its_rows(tmp_path, write):
    folder = old_store(tmp_path / "old")
    with sqlite3.connect(folder / "index.sqlite") as connection:
        assert schema.version(connection) == 1
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'examples'").fetchall() == []
    with Store(folder, write=write) as store:
        assert schema.version(store.connection) == schema.VERSION == 3
        (entry,) = store.entries()
        assert (entry.target, entry.objective_end, entry.recipe) == ("deep:4", 2.5, {"name": "default"})
        assert store.execute("SELECT count(*) FROM examples") == [(0,)]


def test_a_migration_is_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = old_store(tmp_path / "old")
    monkeypatch.setattr(schema, "STEPS", (schema.STEPS[0], "CREATE TABLE half (x); CREATE TABLE renders (y);"))
    with pytest.raises(FvfastError, match="already exists"):
        Store(folder, write=True)
    monkeypatch.undo()
    with sqlite3.connect(folder / "index.sqlite") as connection:
        assert schema.version(connection) == 1
        assert connection.execute("SELECT name FROM sqlite_master WHERE name = 'half'").fetchall() == []
    with Store(folder, write=True) as store:
        assert store.count() == 1


def test_a_newer_schema_is_left_alone(folder):
    with sqlite3.connect(folder / "index.sqlite") as connection:
        connection.execute("PRAGMA user_version = 99")
    for write in (False, True):
        with pytest.raises(FvfastError, match=r"has version 99.*update fvfast"):
            Store(folder, write=write)


# Many rows -------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_rows_answer_within_a_tenth_of_a_second(tmp_path):
    pattern = made(0)
    with Store(tmp_path / "large", write=True) as store:
        store.add([pattern])
        (row,) = store.execute("SELECT * FROM renders")
        names = [name for (name,) in store.execute("SELECT name FROM pragma_table_info('renders')")]
        at = {name: names.index(name) for name in names}

        def rows():
            for number in range(1, 100_000):
                values = list(row)
                layer, channel = f"block.{number // 256}", number % 256
                values[at["id"]], values[at["key"]] = None, hashlib.sha256(str(number).encode()).hexdigest()
                values[at["layer"]], values[at["channel"]] = layer, channel
                values[at["depth"]], values[at["target"]] = number // 256, f"{layer}:{channel}"
                values[at["objective_end"]] = 0.25 + number / 1e8
                yield values

        with store.transaction() as connection:
            connection.executemany(f"INSERT INTO renders VALUES ({', '.join('?' * len(row))})", rows())
    keys = tuple(hashlib.sha256(str(number).encode()).hexdigest() for number in range(1, 100_000, 200))
    with Store(tmp_path / "large") as store:
        assert store.count() == 100_000
        questions = [
            lambda: store.entries(limit=100),
            lambda: store.entries(limit=100, offset=99_900),
            lambda: store.entries(Query(layer="block.77"), 100, 100),
            lambda: store.entries(Query(channel=(3, 4)), 100, 600),
            lambda: store.entries(Query(recipe="default"), 100, 50_000),
            lambda: store.entries(Query(text=".77:2"), 100),
            lambda: store.entries(Query(text="nowhere"), 100),
            lambda: store.count(Query(text=":25")),
            lambda: store.count(),
            lambda: store.entries(Query(sort="highest"), 100, 50_000),
            lambda: store.entries(Query(sort="lowest", text=".77:2"), 100),
            lambda: store.entries(Query(sort="newest", layer="block.77"), 100, 100),
            lambda: store.entries(Query(sort="newest"), 500, 99_000),
            lambda: store.entries(Query(objective=(0.2, 0.2503)), 100, 20_000),
            lambda: store.count(Query(objective=(0.250300005, None), recipe=("default", "lucent"))),
            lambda: store.entries(Query(keys=keys)),
            lambda: store.recipes(),
            lambda: len(store.layers()),
        ]
        sizes = [len(answer) if isinstance(answer := ask(), list) else answer for ask in questions]
        assert sizes == [
            *(100, 100, 100, 100, 100, 67, 0, 7 * 390 + 1, 100_000),  # the last layer ends at 159
            *(100, 67, 100, 500, 100, 69_999, 500, 1, 392),
        ]
        for number, ask in enumerate(questions):
            best = min(_seconds(ask) for _ in range(5))
            print(number, best)
            assert best < 0.1, f"question {number} took {best:.3f} s"


def _seconds(ask) -> float:
    started = time.perf_counter()
    ask()
    return time.perf_counter() - started
