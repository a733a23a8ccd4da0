"""Does one piece of work at a time in a thread; what went wrong is raised where the work is asked about."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Waits for the work before. Raises what that raised; then this one is not begun."""
        self.wait()

        def guarded() -> None:
            try:
                work()
            except Exception as error:  # handed to whoever asks next
                self._error = error

        # A daemon: a person who stops the program a second time does not wait for the disk.
        self._thread = threading.Thread(target=guarded, name="saving", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what finished work raised; does not wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Until the work is done. Raises what it raised, once."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
