"""A command in a process group of its own, ended with all its children when its time is over."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.2
LINGER_S = 1.0  # for a process to end that has nothing more to do
GRACE_S = 2.0  # from asking a process to end to ending it
DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG
UNKILLABLE_S = 5.0  # a process inside a driver's call may not even be killed: nobody waits longer for it
TAIL_BYTES = 24_000


@dataclass(frozen=True)
class Ended:
    """How a command ended. code: its exit status, minus the signal's number if by one; None where its time was over."""

    code: int | None
    seconds: float
    output: str  # the end of stdout and stderr together


def run(
    command: Sequence[str],
    seconds: float,
    log: Path,
    folder: Path,
    environment: Mapping[str, str],
    tick: Callable[[], bool] = lambda: False,
    grace: float = GRACE_S,
) -> Ended:
    """Run a command for at most some seconds, its output appended to `log`.

    tick: called a few times a second while it runs; True says that nothing more is to come of it. grace: seconds from
    asking it to end to ending it. Whatever ends this, an exception in `tick` or a signal's handler included, ends the
    command's whole process group; if this very process is killed, the command is too.
    """
    started = time.monotonic()
    code = None
    with log.open("ab") as out:
        begin = out.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=_die_with_parent,
        )  # fmt: skip
        try:
            while code is None and time.monotonic() - started < seconds:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = process.wait(POLL_S)
                if tick():
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        code = process.wait(LINGER_S)
                    break
        finally:
            end_group(process, grace)
    return Ended(code, time.monotonic() - started, tail(log, begin))


def end_group(process: subprocess.Popen, grace: float = GRACE_S) -> None:
    """End a process that leads a group, and all of the group: asked first, then forced."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    _signal(process.pid, signal.SIGKILL)  # children that outlived it, too
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(UNKILLABLE_S)


def tail(log: Path, begin: int = 0) -> str:
    """The end of a log, from `begin` bytes on."""
    with log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - TAIL_BYTES))
        return file.read().decode(errors="replace")


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, as far as it is one that can."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
