"""`fvfast speed` in a child process, one at a time for the whole server, and how far it is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from typing import Any

import streamlit as st

from fvfast_dashboard import results


class Measurement:
    """The child process, if there is one, and what came of the last."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        self.part, self.words = 0.0, ""
        self.failure = ""
        self.document: dict[str, Any] | None = None

    @property
    def running(self) -> bool:
        return self.process is not None

    def start(self, *arguments: str) -> None:
        """Begin, unless one runs."""
        with self.lock:
            if self.process is not None:
                return
            self.part, self.words, self.failure = 0.0, "starting", ""
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fvfast.cli", "speed", "--json", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        threading.Thread(target=self._follow, args=(self.process,), daemon=True).start()

    def stop(self) -> None:
        """End it; nothing is kept."""
        process = self.process
        if process is not None:
            process.kill()

    def wait(self, seconds: float) -> None:
        """Until it has ended."""
        until = time.monotonic() + seconds
        while self.running and time.monotonic() < until:
            time.sleep(0.05)

    def _follow(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        assert process.stdout is not None
        said = ""
        for line in process.stderr:
            told = re.match(r"fvfast: (\d+)% (.*)", line)
            if told:
                self.part, self.words = int(told[1]) / 100, told[2]
            elif line.strip():
                said = line.strip().removeprefix("fvfast: ")
        output = process.stdout.read()
        try:
            if process.wait() == 0:
                self.document = json.loads(output)
                results.keep_speed(self.document or {})
            elif process.returncode > 0:
                self.failure = said or f"`fvfast speed` ended with code {process.returncode}"
        finally:
            self.process = None


@st.cache_resource(show_spinner=False)
def measurement() -> Measurement:
    """The server's one measurement."""
    return Measurement()
