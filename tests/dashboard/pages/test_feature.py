"""A feature's own page: its link, its stages, its history, and what it is near to."""

import numpy as np
import pytest
from fvfast_dashboard import charts, library, snippets

from fvfast.store import Store
from tests.fvfast.sketch_store import HISTORY

HOSTILE = [
    "../../etc/passwd",
    "' OR 1=1 --",
    "<script>alert(1)</script>",
    "a" * 65,
    "ABCDEF0123",
    "",
    "0123",
    "0123456789%",
]


def test_a_link_shows_its_feature(visit, full, words):
    entry = full["deep:1 lucent 0"]
    app = visit("feature", key=entry.key)
    assert not app.exception
    assert app.title[0].value == "deep:1"
    assert "lucent recipe" in words(app)
    assert {m.label: m.value for m in app.metric} == {"Objective": "1.250", "At the start": "-0.500", "Seconds": "0.1"}


@pytest.mark.parametrize("key", HOSTILE)
def test_a_hostile_link_is_refused_with_a_sentence(visit, full, words, key):
    app = visit("feature", key=key)
    assert not app.exception
    assert "8 to 64 hexadecimal digits" in app.error[0].value
    assert key not in app.error[0].value or key == ""


def test_a_link_to_what_is_not_there_says_so(visit, full):
    app = visit("feature", key="0" * 64)
    assert "no render in this store" in app.error[0].value.lower()


def test_without_a_key_the_newest_is_shown_and_its_link_given(visit, full):
    app = visit("feature")
    assert not app.exception
    assert app.query_params["key"] in {entry.key for entry in full.values()}


def test_the_slider_goes_through_the_stages(visit, full, tmp_path):
    entry = full["deep:11 default 0"]
    app = visit("feature", key=entry.key)
    slider = app.select_slider[0]
    assert [int(option) for option in slider.options] == [1, 3, 4]
    assert slider.value == 4
    slider.set_value(1).run()
    assert not app.exception
    with Store(tmp_path / "store") as store:
        stages = dict(store.trace(entry.key).snapshots)
    assert app.get("download_button")[0].proto.label == "Download"
    assert stages[1] != stages[3]


def test_the_history_is_drawn_as_it_was(full):
    chart = charts.histories({"objective": np.array(HISTORY, dtype=np.float32)}, 3).to_dict()
    rows = next(rows for rows in chart["datasets"].values() if len(rows) == 4)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["objective"] for row in rows] == [-0.5, 1.25, None, 3.0]
    assert [{"step": 3}] in chart["datasets"].values()
    assert chart["layer"][0]["encoding"]["x"]["title"] == "step"


def test_recipes_and_seeds_of_the_same_feature_are_beside_it(visit, full, component):
    app = visit("feature", key=full["deep:2 default 0"].key)
    assert [tile["title"] for tile in component(app)["tiles"]] == ["default, seed 7"]


def test_examples_and_neighbours_are_shown(visit, full, component, words):
    app = visit("feature", key=full["deep:1 default 0"].key)
    assert "Features that fire like it" in words(app)
    near = component(app, 1)["tiles"]
    assert [(tile["title"], tile["caption"]) for tile in near] == [("deep:3", "cosine 0.88")]
    assert "What excites it in your images" in words(app)


def test_without_evidence_the_command_that_finds_it(visit, full, words):
    assert "fvfast examples tiny early FOLDER" in words(visit("feature", key=full["early:1 default 0"].key))


def test_before_and_after_go_through_the_network(full, tmp_path):
    with Store(tmp_path / "store") as store:
        around = {}
        for name in ("early:0 default 0", "early:4 default 0", "deep:0 default 0", "deep:11 default 0"):
            around[name] = [one and one.target for one in library.beside(store, full[name])]
    assert around == {
        "early:0 default 0": [None, "early:1"],
        "early:4 default 0": ["early:3", "deep:0"],
        "deep:0 default 0": ["early:4", "deep:1"],
        "deep:11 default 0": ["deep:3", None],
    }


def test_next_leaves_for_the_next(visit, full):
    app = visit("feature", key=full["early:1 default 0"].key)
    next(button for button in app.button if button.label == "Next").click().run()
    assert app.title[0].value == "early:2"
    assert app.query_params["key"] == full["early:2 default 0"].key


@pytest.mark.parametrize(("column", "value"), [("objective_end", "a lot"), ("image", 5)])
def test_a_corrupt_row_is_a_sentence(visit, full, spoil, column, value):
    entry = full["deep:3 default 0"]
    spoil(entry.key, column, value)
    if column == "image":  # SQLite turns the number into text, which is no path of a store
        assert "image file is missing" in visit("feature", key=entry.key).warning[0].value
        return
    assert "damaged" in visit("feature", key=entry.key).error[0].value


def test_a_missing_image_is_a_sentence(visit, full, tmp_path):
    entry = full["deep:3 default 0"]
    (tmp_path / "store" / entry.image).unlink()
    app = visit("feature", key=entry.key)
    assert not app.exception
    assert "fvfast store verify" in app.warning[0].value


def test_a_command_says_what_differs_from_the_recipe(full, tmp_path):
    import dataclasses

    from fvfast.recipes import DEFAULT, LUCENT

    entry = dataclasses.replace(
        full["deep:1 default 0"],
        model="net",
        target="deep:1,2",
        weights="default",
        size=96,
        seed=3,
        recipe=dataclasses.replace(LUCENT, steps=64, size=96).to_dict(),
    )
    expected = "fvfast render net deep:1,2 --recipe lucent --steps 64 --size 96 --seed 3"
    assert snippets.command(tmp_path, entry) == expected
    code = snippets.python(entry)
    assert "fvfast.render('net', 'deep:1,2', recipe='lucent', steps=64, size=96, seed=3)" in code
    compile(code, "snippet", "exec")
    changed = dataclasses.replace(entry, recipe=dataclasses.replace(DEFAULT, decay=0.5).to_dict())
    assert snippets.command(tmp_path, changed).startswith("fvfast render --from ")
    names: dict = {}
    exec(snippets.python(changed).split("result =")[0], names)
    assert names["recipe"].to_dict() == changed.recipe  # what it says of the recipe is the recipe
    for known in (entry, changed):
        given = dataclasses.replace(known, weights="given")
        assert snippets.command(tmp_path, given) == "# this net was given in Python: take the Python"
        code = snippets.python(given)
        assert "model = ...  # the net that was given in Python" in code
        assert "fvfast.render(model, 'deep:1,2', recipe=" in code
        assert "weights" not in code
        compile(code, "snippet", "exec")
