"""The stand-in libraries, built by gcc from `stand_ins/` for the CUDA that an environment's torch was made for."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "stand_ins"
PRELOADED = ("capture.c", "runtime.c", "libraries.c", "cudnn.c")
TOOLKITS = ("/usr/local/cuda", "/usr")
OLDEST_CUDA = 13  # whose entry points are the ones stood in for

# What another Python says of itself, without importing torch: that takes seconds.
ASK = """
import importlib.util, json, os, runpy, sys
spec = importlib.util.find_spec("torch")
cuda = runpy.run_path(os.path.join(spec.submodule_search_locations[0], "version.py")).get("cuda") if spec else None
print(json.dumps({"torch": spec is not None, "cuda": cuda, "path": sys.path}))
"""


class Unfit(Exception):
    """Why nothing can be rehearsed here, in one sentence."""


@dataclass(frozen=True)
class StandIns:
    """The folder of the built libraries, which also keeps what triton compiles for them."""

    folder: Path

    def environment(self) -> dict[str, str]:
        """The environment in which a program finds the stand-ins in place of a GPU's libraries."""
        env = {
            key: value for key, value in os.environ.items() if key not in ("TRITON_INTERPRET", "CUDA_VISIBLE_DEVICES")
        }
        before = env.get("LD_LIBRARY_PATH")
        env["LD_LIBRARY_PATH"] = f"{self.folder}:{before}" if before else str(self.folder)
        env["LD_PRELOAD"] = str(self.folder / "libdevice.so")
        env["TRITON_LIBCUDA_PATH"] = str(self.folder)
        env.setdefault("TRITON_CACHE_DIR", str(self.folder / "triton"))
        return env


def build(python: str) -> StandIns:
    """The stand-ins for the torch of the interpreter `python`; built where they have not been before. Raises Unfit."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise Unfit("a rehearsal needs gcc, to build what stands in for a GPU's libraries")
    said = ask(python)
    if not said["torch"]:
        raise Unfit(f"a rehearsal needs torch, which {python} does not have")
    if said["cuda"] is None or int(said["cuda"].partition(".")[0]) < OLDEST_CUDA:
        made_for = "no CUDA at all" if said["cuda"] is None else f"CUDA {said['cuda']}"
        raise Unfit(f"a rehearsal needs a torch made for CUDA {OLDEST_CUDA}; that of {python} is made for {made_for}")
    includes = headers(said["path"])
    content = b"".join(file.read_bytes() for file in sorted(SOURCES.glob("*.[ch]")))
    digest = hashlib.sha256(content + repr(includes).encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "fvfast" / "rehearsal" / digest
    if not folder.exists():
        compile_into(folder, compiler, includes)
    return StandIns(folder)


def ask(python: str) -> dict:
    """What the interpreter says of its torch and of where it looks for packages. Raises Unfit."""
    try:
        done = subprocess.run([python, "-c", ASK], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unfit(f"{python} cannot be run as a Python interpreter") from error
    return json.loads(done.stdout)


def headers(path: list[str]) -> list[str]:
    """The folders of CUDA's and cuDNN's headers: those that came with torch first, then a toolkit's. Raises Unfit."""
    packages = [Path(entry) for entry in path if entry]
    toolkits = [Path(entry) / "include" for entry in (os.environ.get("CUDA_HOME"), *TOOLKITS) if entry]
    includes = [found for package in packages for found in sorted(package.glob("nvidia/*/include"))] + toolkits
    # Without the package of these few macros, which no release changes, triton's copy does.
    macros = [*includes, *(package / "triton/backends/nvidia/include" for package in packages)]
    runtime = next((folder for folder in includes if new_enough(folder / "cuda_runtime_api.h")), None)
    crt = next((folder for folder in macros if (folder / "crt" / "host_defines.h").exists()), None)
    dnn = next((folder for folder in includes if (folder / "cudnn_graph.h").exists()), None)
    if runtime is None or crt is None:
        raise Unfit(
            f"a rehearsal needs the headers of CUDA {OLDEST_CUDA}: pip install nvidia-cuda-runtime nvidia-cuda-crt, "
            "or name a toolkit's folder in CUDA_HOME"
        )
    if dnn is None:
        raise Unfit("a rehearsal needs cuDNN's header cudnn_graph.h: pip install nvidia-cudnn-cu13")
    return list(dict.fromkeys(map(str, (runtime, dnn, crt))))


def new_enough(header: Path) -> bool:
    """Whether there is such a header, of a CUDA whose entry points are stood in for."""
    if not header.exists():
        return False
    version = re.search(r"#define CUDART_VERSION\s+(\d+)", header.read_text(errors="replace"))
    return version is not None and int(version[1]) // 1000 >= OLDEST_CUDA


def compile_into(folder: Path, compiler: str, includes: list[str]) -> None:
    """Build both libraries in a new folder, which appears only when it is whole. Raises Unfit."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent))
    options = ["-shared", "-fPIC", "-O1", *(f"-I{include}" for include in includes)]
    for library, sources in (("libdevice.so", PRELOADED), ("libcuda.so.1", ("driver.c",))):
        files = [str(SOURCES / name) for name in sources]
        command = [compiler, *options, *files, "-o", str(made / library), "-ldl", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(made)
            fault = next((line for line in done.stderr.splitlines() if "error" in line), "")
            raise Unfit(f"gcc cannot build what stands in for a GPU's libraries: {fault}")
    try:
        made.rename(folder)
    except OSError:  # someone else was faster
        shutil.rmtree(made)
