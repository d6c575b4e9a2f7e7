"""Where compiled code is kept between runs: `.gpu-cache/`, which git ignores and which may travel to another machine.

Triton's key for a kernel is made of the kernel's source (with its line numbers and the constants it reads), argument
types and alignments, options, the target's architecture, and triton's own build: so what is compiled here is found
there where the checkout, triton's wheel (of the same Python version) and the architecture are the same. Inductor's
caches need the GPU itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

FOLDER = ".gpu-cache"


def environment(root: Path) -> dict[str, str]:
    """The variables that have triton and Inductor keep their code in a checkout's cache; those set already stay."""
    folder = root / FOLDER
    wanted = {
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def triton_folder() -> Path | None:
    """Where triton keeps its kernels; None where no folder was named."""
    named = os.environ.get("TRITON_CACHE_DIR")
    return Path(named) if named else None


def count(environment: Mapping[str, str]) -> int:
    """How many compiled kernels are in the cache that these variables name."""
    return sum(1 for _ in Path(environment["TRITON_CACHE_DIR"]).glob("*/*.cubin"))


def settle(folder: Path) -> int:
    """Make a cache that was filled elsewhere this machine's own; returns how many kernels are in it.

    Triton writes into each kernel's folder where its files lie, by absolute paths, and takes no others.
    """
    settled = 0
    for group in folder.glob("*/__grp__*.json"):
        try:
            children = json.loads(group.read_text())["child_paths"]
        except (OSError, ValueError, KeyError):
            continue  # triton makes it again
        here = {name: str(group.parent / name) for name in children}
        here = {name: path for name, path in here.items() if os.path.exists(path)}
        if here != children:
            group.write_text(json.dumps({"child_paths": here}))
        settled += 1
    return settled
