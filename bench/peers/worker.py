"""One contender in a process of its own: takes tasks as JSON lines on stdin, answers each with one on stdout.

    python -m bench.peers.worker NAME [PROCESSOR ...]     run with the contender's own Python

The process waits between its turns, warm, while others have theirs. A task's answer: steps_per_s of the loop, seconds
of the whole call, peak_bytes (resident memory of the process so far, or device memory of the call), dtype and version.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import os
import random
import re
import resource
import sys
import time
from pathlib import Path
from typing import Any

from bench.peers.contenders import CONTENDERS, Contender
from bench.peers.task import Clock, Task, network


def answer(contender: Contender, task: Task) -> dict[str, Any]:
    """Do a task, and say how it went."""
    import numpy as np
    import torch

    torch.set_num_threads(task.threads)
    torch.manual_seed(task.seed)
    np.random.seed(task.seed)
    random.seed(task.seed)
    cuda = task.device.startswith("cuda")
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    loop = importlib.import_module(f"bench.peers.loops.{contender.loop}_loop")
    net = None if contender.loop == "fvfast" else network(task.device)  # fvfast loads its own
    clock = Clock(task)
    started = time.perf_counter()
    canvas = loop.render(net, task, clock, **contender.options)
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if cuda else peak_resident()
    np.save(task.canvas, canvas.detach().float().cpu().numpy())
    return {
        "steps_per_s": clock.rate,
        "seconds": seconds,
        "peak_bytes": peak,
        "dtype": clock.dtype,
        "version": importlib.metadata.version(contender.package) if contender.package else None,
    }


def peak_resident() -> int:
    """The most memory that this process has held, in bytes.

    Linux hands ru_maxrss on from the process that started this one, so what /proc says comes first.
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found.group(1)) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main() -> None:
    name, *processors = sys.argv[1:]
    if processors and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(processor) for processor in processors})  # before torch counts them
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a peer prints goes to the log
    for line in sys.stdin:
        task = Task(**json.loads(line))
        print(json.dumps(answer(CONTENDERS[name], task)), file=answers, flush=True)


if __name__ == "__main__":
    main()
