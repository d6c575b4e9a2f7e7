"""The pages Render and DeepDream, as a session sees them, with a worker that only says that it renders."""

import functools
import io
import sys
import time
from pathlib import Path

import PIL.Image
import pytest
from fvfast_dashboard import catalogue, jobs
from fvfast_dashboard.asking import RenderRequest
from fvfast_dashboard.catalogue import LayerRow
from streamlit.testing.v1 import AppTest

from fvfast.errors import FvfastError
from fvfast.store import Store
from tests.fvfast.sketch_store import made

FAKE = Path(__file__).parent / "fake_worker.py"
ROWS = [
    LayerRow("_blocks.7", "MBConvBlock", 80, "14x14"),
    LayerRow("_blocks.7._bn0", "BatchNorm2d", 480, "14x14"),
    LayerRow("logits", "output", 1000, ""),
]


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """The desk that the pages use, of a store that is not there yet."""
    monkeypatch.setenv("FVFAST_DASHBOARD_STORE", "kept")
    monkeypatch.setenv("FAKE_GO", str(tmp_path / "go"))
    monkeypatch.setenv("FAKE_KEYS", " ".join(made(n).entry.key for n in (0, 2)))
    monkeypatch.setattr(catalogue, "layers", lambda model, code: ROWS)
    made_ = jobs.Desk(Path("kept"), [sys.executable, str(FAKE)])
    monkeypatch.setattr(jobs, "desk", lambda: made_)
    yield made_
    made_.close()


@pytest.fixture
def full(desk):
    with Store("kept", write=True) as store:
        store.add([made(0), made(2)])
    return desk


def script(first):
    from fvfast_dashboard import app

    app.main(first)


def page(name):
    session = AppTest.from_function(script, args=(name,), default_timeout=60)
    session.run()
    assert not session.exception
    return session


def button(session, label):
    (found,) = [b for b in session.button if b.label == label]
    return found


def texts(session):
    return " ".join(str(e.value) for e in (*session.markdown, *session.caption, *session.error, *session.info))


def until(session, condition):
    end = time.monotonic() + 60
    while not condition(session.run()):
        assert not session.exception
        assert time.monotonic() < end, texts(session)
        time.sleep(0.05)


def running(session):
    return "step 5" in texts(session) or len(session.get("progress")) == 1


@pytest.mark.parametrize("store", ["empty", "full"])
@pytest.mark.parametrize("name", ["render", "dream"])
def test_the_pages_stand_before_anything_is_done(name, store, request):
    request.getfixturevalue("desk" if store == "empty" else "full")
    session = page(name)
    assert session.title[0].value == {"render": "Render", "dream": "DeepDream"}[name]
    assert "No dream yet" in texts(session) or "Nothing is being rendered" in texts(session)
    assert button(session, {"render": "Render", "dream": "Dream"}[name]).disabled == (name == "dream")
    assert not Path("kept").exists() or store == "full"  # looking makes no store


def test_layers_are_searched_and_targets_gathered(desk):
    session = page("render")
    (options,) = [s for s in session.selectbox if s.label.startswith("Layer")]
    assert options.label == "Layer (3 of 3)"
    assert options.options[1] == "\u2003\u2003_blocks.7._bn0  ·  480 channels  ·  14x14  ·  BatchNorm2d"
    session.text_input(key="render search").set_value("batch").run()
    (options,) = [s for s in session.selectbox if s.label.startswith("Layer")]
    assert options.label == "Layer (1 of 3)"
    session.text_input(key="render channels").set_value("3,5").run()
    button(session, "Add").click().run()
    assert session.multiselect[0].value == ["_blocks.7:11", "_blocks.7._bn0:3,5"]
    session.text_input(key="render channels").set_value("").run()
    button(session, "Add").click().run()
    assert session.multiselect[0].value[-1] == "_blocks.7._bn0"
    assert (
        session.code[0].value
        == "fvfast render efficientnet_lite0 _blocks.7:11 _blocks.7._bn0:3,5 _blocks.7._bn0 --store kept"
    )
    session.multiselect[0].set_value([]).run()
    assert not session.code
    assert "Add a target first." in texts(session)  # where the command was: what is open there stays open
    session.text_input(key="render search").set_value("nothing like it").run()
    assert "None of the 3 layers" in texts(session)


def test_a_render_from_start_to_picture(full, tmp_path):
    session = page("render")
    boxes = {box.label: box for box in session.number_input}
    boxes["Size, px"].set_value(64)
    boxes["Steps"].set_value(20)
    button(session, "Render").click().run()
    assert not session.exception
    (job,) = full.jobs()
    assert job.request == RenderRequest("efficientnet_lite0", ("_blocks.7:11",), size=64, steps=20)
    until(session, lambda s: [p.proto.text for p in s.get("progress")] == ["5 of 20 steps · 2.5 steps/s · 6 s left"])
    other = page("render")  # another session sees it too
    assert other.get("progress")
    (tmp_path / "go").touch()
    until(session, lambda s: "finished" in texts(s))
    assert not session.get("progress")
    assert len(session.get("image")) == 2
    links = {link.proto.query_string for link in session.get("page_link") if "key=" in link.proto.query_string}
    assert {f"key={made(n).entry.key}" for n in (0, 2)} <= links


def test_cancel_ends_a_job_and_the_next_one_runs(full):
    session = page("render")
    button(session, "Render").click().run()
    until(session, lambda s: s.get("progress"))
    full.submit(RenderRequest("resnet18", ("layer1:1",)))
    session.run()
    next(b for b in session.button if b.label == "Cancel").click().run()
    until(session, lambda s: full.job(1).state == "cancelled" and full.job(2).state == "running")
    assert "cancelled" in texts(session.run())


@pytest.mark.parametrize(
    ("word", "sentence", "log"),
    [
        ("fail", "Deep has channels 0-11, not 99.", []),
        ("die", "The worker process ended by itself (exit status 7): its last words are in the log.", ["out of luck"]),
    ],
)
def test_what_goes_wrong_is_a_sentence(desk, tmp_path, word, sentence, log):
    (tmp_path / "go").write_text(word)
    session = page("render")
    button(session, "Render").click().run()
    until(session, lambda s: s.error)
    assert [e.value for e in session.error] == [sentence]
    assert [c.value for c in session.code][: len(log)] == log


def test_a_model_that_cannot_be_had_is_a_sentence_and_its_targets_can_still_be_typed(desk, monkeypatch):
    def unknown(model, code):
        raise FvfastError(f"unknown model {model!r} (did you mean resnet18?)")

    monkeypatch.setattr(catalogue, "layers", unknown)
    session = page("render")
    assert session.error[0].value == "Unknown model 'efficientnet_lite0' (did you mean resnet18?)."
    assert session.multiselect[0].value == ["_blocks.7:11"]


@functools.cache
def photograph():
    buffer = io.BytesIO()
    PIL.Image.effect_noise((80, 60), 90).convert("RGB").save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_photograph_is_dreamt_over_and_kept(desk, tmp_path):
    session = page("dream")
    session.file_uploader[0].upload("me.jpg", photograph(), "image/jpeg").run()
    assert not session.exception
    button(session, "Dream").click().run()
    until(session, lambda s: s.get("progress"))
    (job,) = desk.jobs()
    assert (job.request.preset, job.request.name) == ("creatures", "me.jpg")
    assert Path(job.request.photo).read_bytes() == photograph()
    (tmp_path / "go").touch()
    until(session, lambda s: "finished" in texts(s))
    button(session, "Keep").click().run()
    assert not session.exception
    (kept,) = Path("kept/dreams").iterdir()
    assert kept.name.startswith("me-dream-creatures-")
    assert kept.read_bytes() == Path(desk.job(1).file).read_bytes()
    session.run()
    assert "Kept dreams" in [s.value for s in session.subheader]


def test_what_is_no_photograph_is_refused(desk):
    session = page("dream")
    session.file_uploader[0].upload("me.jpg", b"<html>", "image/jpeg").run()
    assert session.error[0].value.startswith("Me.jpg is not a picture")
    assert button(session, "Dream").disabled
