"""The queue and its worker: renders that are kept, cancelled, killed; a worker that outlives nothing and nobody."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from fvfast_dashboard import asking, jobs
from fvfast_dashboard.asking import DreamRequest, RenderRequest
from fvfast_dashboard.jobs import Desk

import fvfast
from fvfast import photographs
from fvfast.errors import FvfastError
from fvfast.store import Store

PATIENCE = 120.0


@pytest.fixture(scope="module")
def one_desk(tmp_path_factory):
    made = Desk(tmp_path_factory.mktemp("desk") / "kept")
    yield made
    made.close()


@pytest.fixture
def desk(one_desk):
    """With the worker that the test before has left, since each takes seconds to import torch."""
    yield one_desk
    for job in one_desk.jobs():
        one_desk.cancel(job.number)


def request(*targets, steps=3, model="sketch_nets:tiny", **options):
    return RenderRequest(model, targets or ("deep:3",), size=32, steps=steps, **options)


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_one_worker_for_a_render_a_mistake_a_crash_and_a_cancelled_job(desk):
    good = desk.submit(request("deep:3", "deep", steps=30), code=True)
    wrong = desk.submit(request("deep:99"), code=True)
    deadly = desk.submit(request("conv:3", steps=400, model="own_nets:Mortal"), code=True)
    slow = desk.submit(request("conv:1", "conv:2", steps=1000, model="own_nets:Slow"), code=True)
    waiting = desk.submit(request(), code=True)
    submitted = [job.number for job in (waiting, slow, deadly, wrong, good)]
    assert submitted == sorted(submitted, reverse=True)
    assert [job.number for job in desk.jobs()][:5] == submitted  # the newest first

    done = desk.wait(good.number, PATIENCE)
    assert (done.state, done.targets, done.sentence) == ("finished", ["deep:3", "deep"], "")
    assert {row: shot.step for row, shot in done.shots.items()} == {0: 30, 1: 30}
    with Store(desk.store) as store:
        trace = store.trace(done.keys[0])
    np.testing.assert_allclose([value for _, value in done.shots[0].curve], trace.history, rtol=1e-6)
    assert [step for step, _ in done.shots[0].curve] == list(range(1, 31))

    failed = desk.wait(wrong.number, PATIENCE)
    assert (failed.state, failed.sentence, failed.log) == ("failed", "deep has channels 0-11, not 99", "")
    first = desk._worker
    assert first is not None
    pid = first._process.pid
    if hasattr(os, "getsid"):
        assert os.getsid(pid) == pid  # a Ctrl-C in the server's terminal does not reach it

    dead = desk.wait(deadly.number, PATIENCE)
    assert dead.state == "failed"
    assert dead.sentence.startswith("the worker process was killed (SIGKILL, as when memory runs out)")
    assert not alive(pid)

    until(lambda: desk.job(slow.number).done > 3, "the queue goes on with a new worker")
    running = desk.job(slow.number)
    assert (running.state, running.total) == ("running", 2000)
    desk.cancel(waiting.number)
    assert desk.job(waiting.number).state == "cancelled"
    desk.cancel(slow.number)
    ended = desk.wait(slow.number, PATIENCE)
    assert (ended.state, ended.asked_to_stop) == ("cancelled", True)
    with Store(desk.store) as store:  # what there was of it is kept
        (entry,) = [e for e in store.entries() if e.key == ended.keys[0]]
        assert 0 < entry.steps < 1000
        assert entry.note == f"stopped after {entry.steps} of 1000 steps"
    desk.forget(waiting.number)
    assert desk.job(waiting.number) is None


def test_a_dream_a_damaged_photograph_and_a_bug(desk, tmp_path):
    picture = PIL.Image.effect_noise((64, 48), 90).convert("RGB")
    picture.save(tmp_path / "photo.png")
    (tmp_path / "bad.png").write_bytes(b"no")
    out = tmp_path / "out.png"
    good = desk.submit(DreamRequest(str(tmp_path / "photo.png"), str(out), "photo.png", "patterns", 1, 2))
    bad = desk.submit(DreamRequest(str(tmp_path / "bad.png"), str(out), "bad.png", "patterns", 1, 1))
    bug = desk.submit(request("conv:1", model="sketch_nets:Buggy"), code=True)
    ours = desk.submit(DreamRequest(3, str(out), "3.png", "patterns", 1, 1))  # pyright: ignore (no page asks for it)
    after = desk.submit(request(), code=True)
    done = desk.wait(good.number, PATIENCE)
    assert (done.state, done.file, done.done, done.part) == ("finished", str(out), 2, 1.0)
    same = fvfast.dream(tmp_path / "photo.png", preset="patterns", octaves=1, steps=2)
    assert done.objectives == pytest.approx([same.objective_start, same.objective], rel=1e-3)
    difference = (photographs.read(out).image - same.image).abs()
    assert difference.mean() < 1 / 255
    assert desk.wait(bad.number, PATIENCE).sentence.endswith("is not a picture that can be read")
    broken = desk.wait(bug.number, PATIENCE)
    assert broken.state == "failed"
    assert "LookupError: a bug of its own (sketch_nets.py, line " in broken.sentence
    broken = desk.wait(ours.number, PATIENCE)
    assert (broken.state, broken.sentence[:21]) == ("failed", "the worker met a bug:")
    assert "Traceback" in broken.log
    assert desk.wait(after.number, PATIENCE).state == "finished"


def test_a_render_waits_for_another_process_that_writes(desk):
    with Store(desk.store, write=True):
        job = desk.submit(request(), code=True)
        until(lambda: "is writing to the store" in desk.job(job.number).sentence, "it says what it waits for")
        assert desk.job(job.number).state == "running"
    assert desk.wait(job.number, PATIENCE).state == "finished"


SERVER = """
import sys, time
from pathlib import Path
from fvfast_dashboard.asking import RenderRequest
from fvfast_dashboard.jobs import Desk
desk = Desk(Path(sys.argv[1]))
job = desk.submit(RenderRequest("own_nets:Slow", ("conv:1",), size=32, steps=20000), code=True)
while desk.job(job.number).done < 2:
    time.sleep(0.05)
print(desk._worker._process.pid, flush=True)
time.sleep(600)
"""


def test_a_worker_whose_server_is_killed_keeps_what_there_is_and_ends(tmp_path):
    command = [sys.executable, "-c", SERVER, str(tmp_path / "kept")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=asking.environment())
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    assert alive(worker)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until(lambda: not alive(worker), "the worker is still there")
    with Store(tmp_path / "kept") as store:
        (entry,) = store.entries()
    assert entry.note.startswith("stopped after")


# Without a real worker -------------------------------------------------------------------------------------

STUBBORN = "import sys, time\nfor line in sys.stdin: pass\ntime.sleep(600)"
SILENT = "import sys; sys.stderr.write('no such library\\n'); sys.exit(3)"


def test_a_worker_that_does_not_listen_is_ended_by_force(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.3)
    desk = Desk(tmp_path / "kept", [sys.executable, "-c", STUBBORN])
    job = desk.submit(request(), code=True)
    until(lambda: desk.busy(), "it runs")
    worker = desk._worker
    assert worker is not None
    desk.cancel(job.number)
    ended = desk.wait(job.number, PATIENCE)
    assert (ended.state, ended.keys) == ("cancelled", [])
    assert ended.sentence == "it did not stop by itself and was ended; nothing of it was kept"
    assert not alive(worker._process.pid)
    desk.close()


def test_a_worker_that_cannot_start_is_one_sentence_with_its_last_words(tmp_path, monkeypatch):
    class Short(jobs.Worker):
        """Has ended before anyone looks."""

        def __init__(self, *arguments):
            super().__init__(*arguments)
            self._process.wait()

    monkeypatch.setattr(jobs, "Worker", Short)
    desk = Desk(tmp_path / "kept", [sys.executable, "-c", SILENT])
    job = desk.wait(desk.submit(request(), code=True).number, PATIENCE)
    assert job.sentence == "the worker process ended by itself (exit status 3): its last words are in the log"
    assert job.log == "no such library"
    desk.close()
    assert not desk.folder.exists()
    with pytest.raises(FvfastError, match="closing"):
        desk.submit(request(), code=True)


def test_what_was_noted_on_the_way_is_not_noted_again_at_the_end(desk):
    job = jobs.Job(0, request(), "")
    last = ["rendering in float32", "deep:3 stayed grey"]
    with desk._changed:
        desk._note(job, {"event": "note", "sentence": last[0]})
        desk._note(job, {"event": "finished", "notes": last, "failures": ["deep:4 failed"]})
    assert job.notes == [*last, "deep:4 failed"]


def test_the_queue_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "MOST_WAITING", 2)
    desk = Desk(tmp_path / "kept", [sys.executable, "-c", STUBBORN])
    for _ in range(2):
        desk.submit(request(), code=True)
    with pytest.raises(FvfastError, match="2 jobs are waiting"):
        desk.submit(request(), code=True)
    with pytest.raises(FvfastError, match="would run code"):
        desk.submit(request())
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.1)
    desk.close()
    assert {job.state for job in desk.jobs() if job.number == 2} == {"cancelled"}


def test_every_page_and_session_shares_one_desk(monkeypatch, tmp_path):
    monkeypatch.setenv("FVFAST_DASHBOARD_STORE", str(tmp_path / "kept"))
    assert jobs.desk() is jobs.desk()
    assert jobs.desk().store == tmp_path / "kept"
