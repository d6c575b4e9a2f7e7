"""Atlases on a Ray cluster of two workers on this machine: the same rows as without, even when a worker is killed."""

import importlib
import os
import secrets
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fvfast import cluster, upkeep
from fvfast.atlases import atlas
from fvfast.errors import FvfastError
from fvfast.models import load
from fvfast.places import Work
from fvfast.store import Store

HERE = Path(__file__).parent
QUICK: dict[str, Any] = {"size": 32, "steps": 10, "threads": 1}


def rows(folder):
    with Store(folder) as store:
        assert upkeep.verify(store).sound
        entries = store.entries()
    return [(e.key, e.target, e.objective_start, e.objective_end, e.image, e.thumbnail) for e in entries]


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    """A local cluster of two workers, that can import the sketched networks."""
    found = pytest.importorskip("ray", reason="needs Ray: pip install 'fvfast[ray]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *sys.path]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else one is written into the home folder
        patch.setenv("SKETCH_NETS_MARKER", str(tmp_path_factory.mktemp("mortal") / "died"))
        patch.delenv("RAY_ADDRESS", raising=False)
        found.init(
            "local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, object_store_memory=2**27
        )
        yield found
        found.shutdown()


def test_the_cluster_gives_what_this_machine_gives(ray, tiny):
    told = []
    there = atlas(tiny, ["stem", "deep"], store="ray", engine="ray", progress=told.append, **QUICK)
    here = atlas(tiny, ["stem", "deep"], store="local", **QUICK)
    assert (there.rendered, there.skipped, there.failures) == (20, 0, [])
    assert there.keys == here.keys
    assert rows("ray") == rows("local")
    assert (told[-1].done, told[-1].total) == (20, 20)
    assert ray.is_initialized()  # a connection that was open before stays open
    assert atlas(tiny, ["stem", "deep"], store="local", engine="ray", **QUICK).skipped == 20


def test_a_killed_worker_loses_nothing_and_doubles_nothing(ray, nets, monkeypatch):
    # Five features a task, ten steps each: the 40th look falls into the fourth feature of a worker's first task.
    monkeypatch.setattr(cluster, "ON_CPU", 5)
    model = load("sketch_nets:Mortal", size=32)
    marker = Path(os.environ["SKETCH_NETS_MARKER"])
    assert not marker.exists()
    result = atlas(model, ["stem", "deep"], store="ray", engine="ray", **QUICK)
    assert marker.exists(), "no worker was killed: this test would show nothing"
    assert (result.rendered, result.failures, result.interrupted) == (20, [], False)
    with Store("ray") as store:
        assert [e.key for e in store.entries()] == result.keys
    atlas(model, ["stem", "deep"], store="local", **QUICK)
    assert rows("ray") == rows("local")


def test_a_stop_keeps_what_is_there_and_another_engine_goes_on(ray, tiny, monkeypatch):
    monkeypatch.setattr(cluster, "ON_CPU", 1)
    told = []
    first = atlas(
        tiny,
        "deep",
        store="kept",
        engine="ray",
        progress=told.append,
        stop=lambda: bool(told) and told[-1].done > 1,
        **QUICK,
    )
    assert first.interrupted
    assert 2 <= first.rendered < 12
    second = atlas(tiny, "deep", store="kept", **QUICK)
    assert (second.skipped, second.rendered) == (first.rendered, 12 - first.rendered)
    atlas(tiny, "deep", store="whole", **QUICK)
    assert rows("kept") == rows("whole")


def test_what_fails_on_a_worker_is_a_sentence(ray, nets, tiny):
    with pytest.raises(FvfastError, match="this Ray cluster has no GPU"):
        atlas(tiny, "deep", store="kept", engine="ray", device="cuda", **QUICK)
    with pytest.raises(FvfastError, match="device 'x' is unknown"):
        atlas(tiny, "deep", store="kept", engine="ray", device="x", **QUICK)
    module = nets.Tiny()
    with torch.no_grad():
        module.deep.weight[4] = float("nan")
    result = atlas(load(module, size=32), "deep", store="kept", channels="4", engine="ray", **QUICK)
    assert (result.rendered, len(result.failures)) == (0, 1)
    assert "deep:4 became nan" in result.failures[0]


def test_a_model_that_workers_cannot_import_is_a_sentence(ray, tmp_path, monkeypatch):
    (tmp_path / "homemade.py").write_text("from sketch_nets import Tiny\nclass Own(Tiny):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    with pytest.raises(FvfastError, match=r"a Ray worker cannot load the model .No module named .homemade"):
        atlas("homemade:Own", "deep", channels="0", store="kept", engine="ray", **QUICK)


def test_a_cluster_that_does_not_answer_is_a_sentence_at_once(tiny):
    code = (
        "import sys; from fvfast.cli import main; "
        "main(['atlas', 'efficientnet_lite0', '_conv_stem', '--engine', 'ray', '--address', sys.argv[1]])"
    )
    pytest.importorskip("ray", reason="needs Ray: pip install 'fvfast[ray]'")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fvfast: no Ray cluster answers at {address} (")
    assert len(done.stderr.splitlines()) == 1


def test_without_ray_it_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FvfastError, match=r"--engine ray needs Ray: pip install 'fvfast\[ray\]'"):
        atlas(tiny, "deep", store="kept", engine="ray", **QUICK)
    assert not Path("kept").exists()


def test_a_task_takes_a_gpu_where_there_are_any(tiny, monkeypatch):
    """What Ray is asked for, with a Ray that only listens."""
    asked = []

    class Listener:
        exceptions = SimpleNamespace(RayTaskError=KeyError, RayError=KeyError)

        def cluster_resources(self):
            return {"CPU": 8, "GPU": 2}

        def remote(self, **options):
            asked.append(options)
            return lambda task: SimpleNamespace(remote=lambda *arguments: arguments)

        def put(self, value):
            return value

        def wait(self, running, timeout):
            return running[:1], running[1:]

        def get(self, reference):
            return reference

        def cancel(self, reference, force):
            raise AssertionError("nothing is left to be cancelled")

    place = cluster.Cluster()
    place.ray = Listener()
    assert place.devices(None) == (torch.device("cpu"), torch.device("cuda"))
    assert place.devices("cuda:1")[1] == torch.device("cuda")
    work = _work(tiny)
    done = list(place.chunks(work, lambda partial: None, lambda: False, print))
    assert asked == [{"num_cpus": 1, "num_gpus": 1, "max_retries": -1}]
    models, setting, plan, options = done[0]  # pyright: ignore[reportGeneralTypeIssues]
    assert (models, setting.device, setting.dtype) == ([tiny], "cuda", torch.float32)
    assert (len(done), [image.objective.label for image in plan]) == (1, [f"deep:{n}" for n in range(12)])
    assert options.workers is None


def _work(model):
    from fvfast.job import Job
    from fvfast.plans import ImagePlan
    from fvfast.producing import Options
    from fvfast.recipes import DEFAULT
    from fvfast.selection import features

    job = Job(model, torch.device("cpu"), torch.float32, 32, None)
    chosen = features(job.module, job.layers, "tiny", ["deep"])
    plan = [ImagePlan(row, objective, DEFAULT, 0) for row, objective in enumerate(chosen)]
    return Work(job, torch.device("cuda"), "w", Options(), plan)
