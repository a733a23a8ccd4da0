"""Requests to a running trainer: Ctrl-C and SIGTERM ask it to save and stop after the current step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Control:
    """Holds whether a stop was asked for. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.stop_requested = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.stop_requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_requested = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM inside the block, and restores the old handlers after it."""
        signals = [signal.SIGINT, signal.SIGTERM]
        before = {s: signal.signal(s, self.request_stop) for s in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
