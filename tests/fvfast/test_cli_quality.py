"""`fvfast quality` as people and scripts use it."""

import json
import signal

import pytest

from fvfast import cli_quality
from fvfast.cli_quality import cell
from fvfast.intervals import Interval

RUN = ("quality", "sketch_nets:tiny", "deep:0-1", "--recipes", "plain,default", "--steps", 2, "--size", 32)


def test_tables_for_people(cli, tmp_path):
    code, out, err = cli(*RUN, "--store", tmp_path / "q")
    assert code == 0
    assert "Traceback" not in err
    assert max(map(len, out.splitlines())) <= 80 + len(str(tmp_path))
    for word in ("recipe", "plain", "default", "held-out", "slope", "1 - MS-SSIM", "means over 2 features"):
        assert word in out
    assert out.count("\nplain ") == 3  # one row in each table


def test_a_document_for_machines_and_nothing_new_the_second_time(cli, tmp_path):
    code, out, _ = cli(*RUN, "--store", tmp_path / "q", "--json")
    first = json.loads(out)
    assert code == 0
    assert set(first["summary"]) == {"plain", "default"}
    assert first["summary"]["plain"]["contrast"]["count"] == 2
    assert len(first["renders"]) == 6  # two features, the first with two seeds, by two recipes
    files = sorted(p.name for p in (tmp_path / "q").rglob("*.png"))
    _, out, _ = cli(*RUN, "--store", tmp_path / "q", "--json")
    assert json.loads(out) == first
    assert sorted(p.name for p in (tmp_path / "q").rglob("*.png")) == files


def test_only_measures_what_is_there(cli, tmp_path):
    cli(*RUN, "--store", tmp_path / "q")
    code, out, _ = cli("quality", "--only", "--store", tmp_path / "q", "--json")
    assert code == 0
    assert len(json.loads(out)["renders"]) == 6


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on(cli, tmp_path, monkeypatch):
    advance = cli_quality.Board.advance

    def impatient(board, progress):
        advance(board, progress)
        if progress.rendered and not board.interrupted:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(cli_quality.Board, "advance", impatient)
        code, out, err = cli(*RUN, "--store", tmp_path / "q")
    assert code == 130
    assert out == ""
    assert "interrupted; the renders are in" in err
    there = len(list((tmp_path / "q").rglob("*.png")))
    assert 0 < there < 6
    code, out, _ = cli(*RUN, "--store", tmp_path / "q", "--json")
    assert code == 0
    assert len(json.loads(out)["renders"]) == 6


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--recipes", "lucid"), "unknown recipe 'lucid' (did you mean lucent?)"),
        (("--features", 65), "features must be 1 to 64, not 65"),
        (("sketch_nets:tiny",), "name at least one target"),
        (("sketch_nets:tiny", "deep:0", "--features", 3), "the number of features belongs to the bundled list"),
        (("--only", "--recipes", "plain"), "--only measures all that the store holds"),
        (("--only",), "no store in nowhere"),
        (("sketch_nets:tiny", "deep:0", "--size", 8), "size must be 16 to 1024 px"),
    ],
)
def test_bad_input_is_one_sentence(cli, arguments, sentence):
    code, out, err = cli("quality", *arguments, "--store", "nowhere")
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_cells():
    assert cell(None) == "-"
    assert cell(Interval(0.125, None, None, 1)) == "0.12"
    assert cell(Interval(12.34, 9.9, 14.06, 5)) == "12.3 [9.90, 14.1]"
