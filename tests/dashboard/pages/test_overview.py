"""The first page, and the frame around all of them."""

import pytest
from fvfast_dashboard import navigation, settings, theme


def test_it_says_what_the_machine_is_and_what_was_rendered_last(visit, full, component, words):
    app = visit("overview")
    assert not app.exception
    said = words(app)
    assert "path" in said
    assert "torch" in said
    assert said.count("not yet measured") == 4
    assert len(component(app)["tiles"]) == 12
    assert not component(app)["selectable"]


@pytest.mark.parametrize("page", list(navigation.PAGES))
def test_every_page_opens_without_a_store(visit, page):
    app = visit(page)
    assert not app.exception
    assert app.title[0].value


def test_results_are_those_of_the_checkout_or_of_the_package(monkeypatch, tmp_path):
    monkeypatch.delenv(settings.RESULTS)
    assert (settings.results_folder() / "atlas.json").is_file()
    monkeypatch.setattr(settings, "_HERE", tmp_path / "site-packages" / "fvfast_dashboard")
    assert settings.results_folder() == tmp_path / "site-packages" / "fvfast_dashboard" / "results"


def test_the_theme_is_one_that_streamlit_knows():
    import tomllib

    from streamlit import config

    for name, value in theme.theme_options().items():
        assert name in config._config_options_template
        assert value
    found = tomllib.loads(theme.FILE.read_text())["theme"]
    assert {"light", "dark"} <= set(found)
    for part in ("light", "dark"):
        for name, value in found[part].items():
            known = f"theme.{part}.{name}"
            assert isinstance(value, dict) or known in config._config_options_template, known
