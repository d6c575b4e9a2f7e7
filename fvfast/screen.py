"""What a person sees while a command runs: the progress bar, the first Ctrl-C, and messages on the way."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fvfast.result import Progress


class Screen:
    """The progress bar, the first Ctrl-C, and messages on the way. Writes to stderr where stdout is for JSON."""

    def __init__(self, quiet: bool, unit: str = "images") -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        # A layer may be called "[/x]", a class ":dog:".
        self.console = Console(stderr=quiet, highlight=False, markup=False, emoji=False)
        self.bar = Progress(
            TextColumn(f"{{task.fields[count]}} {unit}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]:>6} steps/s"),
            TextColumn("objective {task.fields[value]:>7}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None, count="0/?", rate="", value="")
        self.interrupted = False

    def __enter__(self) -> Screen:
        self.told: list[str] = []
        self.before = signal.signal(signal.SIGINT, self._interrupt)
        self.bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.bar.stop()
        signal.signal(signal.SIGINT, self.before)

    def _interrupt(self, number: int, frame: object) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        self.notify("stopping after this step (Ctrl-C again to leave at once)")

    def stopped(self) -> bool:
        return self.interrupted

    def notify(self, sentence: str) -> None:
        self.told.append(sentence)
        print(f"fvfast: {sentence}", file=sys.stderr)

    def progress(self, progress: Progress) -> None:
        """Show how far a render is."""
        count = f"{progress.images_done}/{progress.images_total}"
        self.show(progress.steps_done, progress.steps_total, count, progress.steps_done, progress.value)

    def show(self, completed: int, total: int, count: str, steps: int, value: float) -> None:
        """Show what part is completed, what the count is, and the rate of steps."""
        elapsed = self.bar.tasks[0].elapsed or 0
        self.bar.update(
            self.task,
            completed=completed,
            total=total,
            count=count,
            rate=f"{steps / elapsed:.1f}" if elapsed > 0.5 else "",
            value=f"{value:.3f}" if value == value else "",
        )
