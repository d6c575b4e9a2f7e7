"""Pages run as scripts, on stores and results made for them."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from fvfast import evidence
from fvfast.store import INDEX, Store
from tests.fvfast.sketch_store import made, traced

if TYPE_CHECKING:
    from streamlit.testing.v1 import AppTest


def _script():
    import os

    from fvfast_dashboard import app

    app.main(os.environ["FVFAST_TEST_PAGE"])


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """A store and results of one's own, which are not there yet; nothing measured elsewhere."""
    import streamlit as st
    from fvfast_dashboard import settings

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(settings.STORE, str(tmp_path / "store"))
    monkeypatch.setenv(settings.RESULTS, str(tmp_path / "results"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    st.cache_resource.clear()
    st.cache_data.clear()


@pytest.fixture
def visit(monkeypatch):
    """Open a page at an address: visit("feature", key=...)."""

    def visit(page: str, **query: str) -> AppTest:
        from streamlit.testing.v1 import AppTest

        monkeypatch.setenv("FVFAST_TEST_PAGE", page)
        app = AppTest.from_function(_script, default_timeout=30)
        for name, value in query.items():
            app.query_params[name] = value
        return app.run()

    return visit


@pytest.fixture
def full(tmp_path):
    """A store of 12 renders: two layers, two recipes, a trace, another seed, examples and neighbours of one feature."""
    renders = [made(n, "early", 1) for n in range(5)] + [made(n) for n in range(4)] + [made(1, recipe="lucent")]
    seeded = made(2)
    other = dataclasses.replace(seeded.entry, key="f" * 64, seed=7, objective_end=99.5)
    renders += [dataclasses.replace(seeded, entry=other), traced(11)]
    with Store(tmp_path / "store", write=True) as store:
        store.add(renders)
        found = evidence.Example(1, 0, 7.5, "cat.jpg", 0, 0, 8, 8, renders[0].entry.image)
        near = evidence.Neighbour(1, 0, 3, 0.875)
        evidence.keep(store, "tiny", "0" * 64, "deep", [found], [near], {})
    return {f"{m.entry.target} {m.entry.recipe['name']} {m.entry.seed}": m.entry for m in renders}


@pytest.fixture
def spoil(tmp_path):
    """Write nonsense into one field of a row."""

    def spoil(key: str, column: str, value: object) -> None:
        connection = sqlite3.connect(tmp_path / "store" / INDEX)
        connection.execute(f"UPDATE renders SET {column} = ? WHERE key = ?", (value, key))
        connection.commit()
        connection.close()

    return spoil


@pytest.fixture
def result(tmp_path):
    """Put a file of results there: a document, or any text."""

    def result(name: str, document: object) -> None:
        folder = tmp_path / "results"
        folder.mkdir(exist_ok=True)
        text = document if isinstance(document, str) else json.dumps(document)
        (folder / f"{name}.json").write_text(text)

    return result


def words(app: AppTest) -> str:
    """Everything that a page says in words."""
    kinds = ("title", "subheader", "markdown", "caption", "error", "warning", "info", "code")
    return "\n".join(str(element.value) for kind in kinds for element in getattr(app, kind))


@pytest.fixture(name="words")
def words_of():
    return words


def component(app: AppTest, which: int = 0) -> dict:
    """The data of a component of the page."""
    proto = app.get("bidi_component")[which].proto
    return json.loads(proto.json or proto.mixed.json)


@pytest.fixture(name="component")
def component_of():
    return component
