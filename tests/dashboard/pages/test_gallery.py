"""The gallery: what it lists, filters and exports, and what it says where there is nothing, or something broken."""

import csv
import io
import json
import zipfile

import pytest

from fvfast import exports
from fvfast.store import Store


def titles(component, app):
    return [tile["title"] for tile in component(app)["tiles"]]


def test_every_feature_is_there_in_the_networks_order(visit, full, component, words):
    app = visit("gallery")
    assert not app.exception
    assert titles(component, app)[:5] == [f"early:{n}" for n in range(5)]
    assert len(titles(component, app)) == 12
    assert "**12** renders" in words(app)
    tile = component(app)["tiles"][0]
    assert tile["source"].startswith("data:image/webp;base64,")
    assert tile["caption"] == "0.250 · default"
    assert tile["key"] == full["early:0 default 0"].key


def test_filters_narrow_it_down(visit, full, component, words):
    app = visit("gallery")
    app.selectbox(key="gallery layer").select("deep").run()
    assert set(titles(component, app)) == {"deep:0", "deep:1", "deep:2", "deep:3", "deep:11"}
    app.multiselect(key="gallery recipes").select("lucent").run()
    assert titles(component, app) == ["deep:1"]
    assert "**1** of 12 renders" in words(app)
    app.multiselect(key="gallery recipes").set_value([]).run()
    app.text_input(key="gallery text").set_value(":3").run()
    assert titles(component, app) == ["deep:3"]
    app.text_input(key="gallery text").set_value("nothing'; DROP TABLE renders; --").run()
    assert not app.exception
    assert "No feature is like this" in words(app)


def test_it_is_sorted_by_objective(visit, full, component):
    app = visit("gallery")
    app.selectbox(key="gallery sort").select("Objective, highest first").run()
    assert titles(component, app)[:2] == ["deep:2", "deep:11"]  # 99.5, 11.25
    app.selectbox(key="gallery sort").select("Objective, lowest first").run()
    assert component(app)["tiles"][0]["caption"].startswith("0.250")


def test_the_range_of_objectives_leaves_those_between_its_ends(visit, full, component):
    app = visit("gallery")
    slider = app.slider[0]
    assert (slider.min, slider.max) == (0.25, 99.5)
    slider.set_range(3.0, 12.0).run()
    assert titles(component, app) == ["early:3", "early:4", "deep:3", "deep:11"]


def test_what_was_ticked_can_be_compared(visit, full, words):
    app = visit("gallery")
    assert app.button[0].disabled
    app.session_state["selection"] = [full["deep:1 default 0"].key, full["deep:1 lucent 0"].key]
    app.run()
    assert "**2** selected" in words(app)
    assert not app.button[0].disabled
    app.button[0].click().run()
    assert app.title[0].value == "Compare"
    assert not app.exception


def test_an_archive_holds_images_and_manifests(full, tmp_path):
    chosen = [full["deep:1 default 0"], full["deep:1 lucent 0"]]
    with Store(tmp_path / "store") as store:
        archive = zipfile.ZipFile(io.BytesIO(exports.to_zip(store, chosen)))
        manifest = json.loads(archive.read("manifest.json"))
        assert [row["key"] for row in manifest] == [entry.key for entry in chosen]
        assert len({row["image"] for row in manifest}) == 2
        for row, entry in zip(manifest, chosen, strict=True):
            assert archive.read(row["image"]) == (store.folder / entry.image).read_bytes()


def test_a_table_has_every_field_and_no_formula(full):
    import dataclasses

    entry = dataclasses.replace(full["deep:1 default 0"], note="=HYPERLINK(1)")
    (row,) = csv.DictReader(io.StringIO(exports.to_csv([entry])))
    assert row["target"] == "deep:1"
    assert float(row["objective_end"]) == 1.25
    assert json.loads(row["recipe"])["name"] == "default"
    assert row["note"] == "'=HYPERLINK(1)"


@pytest.mark.parametrize("page", ["gallery", "feature", "compare", "overview"])
def test_without_a_store_pages_say_how_to_make_one(visit, page, words):
    app = visit(page)
    assert not app.exception
    assert "Nothing rendered yet" in words(app)
    assert "fvfast atlas" in words(app)


@pytest.mark.parametrize("page", ["gallery", "feature", "compare", "overview"])
def test_an_empty_store_is_no_error(visit, page, words, tmp_path):
    Store(tmp_path / "store", write=True).close()
    app = visit(page)
    assert not app.exception
    assert "Nothing rendered yet" in words(app)


@pytest.mark.parametrize("page", ["gallery", "feature", "compare", "overview"])
def test_a_file_that_is_no_index_is_a_sentence(visit, page, words, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "index.sqlite").write_bytes(b"this is no database" * 100)
    app = visit(page)
    assert not app.exception
    assert "cannot be used" in words(app)


@pytest.mark.parametrize(("column", "value"), [("recipe", 999), ("objective_end", "a lot"), ("seed", "x'; --")])
def test_a_corrupt_row_leaves_the_others(visit, full, spoil, component, words, column, value):
    spoil(full["deep:3 default 0"].key, column, value)
    app = visit("gallery")
    assert not app.exception
    assert "deep:3" not in titles(component, app)
    assert len(titles(component, app)) == 11
    if column != "recipe":  # a row without its recipe is in no listing
        assert "1 render of this store cannot be read" in words(app)


def test_a_missing_thumbnail_leaves_its_tile(visit, full, component, tmp_path):
    entry = full["deep:3 default 0"]
    (tmp_path / "store" / entry.thumbnail).unlink()
    found = {tile["title"]: tile["source"] for tile in component(visit("gallery"))["tiles"]}
    assert found["deep:3"] == ""
    assert found["deep:2"]


def test_a_row_that_names_a_file_elsewhere_shows_none(visit, full, spoil, component, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"\x89PNG secret")
    spoil(full["deep:3 default 0"].key, "thumbnail", "../secret.png")
    found = {tile["title"]: tile["source"] for tile in component(visit("gallery"))["tiles"]}
    assert found["deep:3"] == ""


def test_renders_that_come_later_are_shown(visit, full, component, tmp_path):
    from tests.fvfast.sketch_store import made

    app = visit("gallery")
    with Store(tmp_path / "store", write=True) as store:
        store.add([made(40, "late", 9)])
    assert "late:40" in titles(component, app.run())
