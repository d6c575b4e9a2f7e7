"""What one batch leaves for the next that is like it: a fast network, how many images fit, and a captured step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fvfast.prepare import Fast
from fvfast.refill import copied
from fvfast.step import Batch, Step


class Recorded(Protocol):
    """A step that was turned into something faster, which does the same."""

    step: Step

    def advance(self) -> None: ...

    def take_over(self, batch: Batch) -> bool: ...

    def release(self) -> None: ...


Recorder = Callable[[Step, Callable[[str], None]], Recorded]


class Recordings:
    """Keeps the last network that was made fast and the last step that was recorded, until others take their place.

    fits: how many images a batch may hold, by what they have in common. Everything is freed by `close`.
    """

    def __init__(self) -> None:
        self.fits: dict[Any, int] = {}
        self._key: Any = None
        self._fast: Fast | None = None
        self._recorded: Recorded | None = None

    def fast(self, key: Any, make: Callable[[], Fast]) -> Fast:
        """The network that was made fast for `key`, or made anew."""
        if self._fast is None or self._key != key:
            self.close()
            self._key, self._fast = key, make()
        return self._fast

    def recording(self, batch: Batch, tap: Fast, notify: Callable[[str], None], recorder: Recorder) -> Recorded:
        """The batch's steps, recorded: by taking over what was recorded for one that is like it, or anew."""
        recorded = self._recorded
        if recorded is not None and recorded.step.tap is tap and recorded.take_over(batch):
            return recorded
        self.release()  # first, since one that is captured has all of its memory to itself
        self._recorded = recorder(Step(batch, tap), notify)
        return self._recorded

    def part(self, batch: Batch) -> None:
        """Give a batch that is done an image of its own, before the next writes into the one that was recorded."""
        if self._recorded is not None and batch.image is self._recorded.step.image:
            batch.image = copied(batch.image)

    def release(self) -> bool:
        """Free the recorded step; False where there was none."""
        recorded, self._recorded = self._recorded, None
        if recorded is None:
            return False
        recorded.release()
        return True

    def close(self) -> None:
        """Free everything, and forget how many images fit."""
        self.release()
        if self._fast is not None:
            self._fast.__exit__()
        self._fast = self._key = None
        self.fits = {}
