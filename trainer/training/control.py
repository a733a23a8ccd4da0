"""Requests to a running trainer: Ctrl-C, SIGTERM, and the one word of the run folder's control file.

Below the word "sample" a prompt may stand, to be drawn instead of those of the config.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal, get_args

import psutil

from trainer.errors import UserError
from trainer.files.atomic import write_text

Word = Literal["stop", "pause", "go", "save", "sample"]
WORDS: tuple[str, ...] = get_args(Word)
POLL = 0.2  # seconds between looks at the file while paused


class StopRequestedError(Exception):
    """A stop was asked for before the first step, when there is nothing yet that could be saved."""


LONGEST_PROMPT = 2000  # characters


def ask(control_file: Path, word: Word, prompt: str = "") -> None:
    """Asks the run that owns the file for something; it answers at its next step. Raises UserError.

    prompt: with "sample", one line to draw, which may have the flags of samples.prompts.
    """
    if word not in WORDS:
        raise UserError(f"{word!r}: a run can be asked to {', '.join(WORDS)}.")
    line = " ".join(prompt.split())
    if line and word != "sample":
        raise UserError(f"{word!r}: only a sample has a prompt.")
    if len(line) > LONGEST_PROMPT:
        raise UserError(f"prompt: {len(line)} characters, expected at most {LONGEST_PROMPT}.")
    write_text(control_file, f"{word}\n{line}" if line else word)


class Control:
    """What was asked of this run. SIGINT and SIGTERM ask for a stop too; a second SIGINT stops at once."""

    def __init__(self, file: Path | None = None) -> None:
        self.stop_requested = False
        self.paused = False
        self.prompt = ""  # what the last "sample" was asked to draw, "" for the config's own
        self.ended = False  # the run decided itself that it is done before its last step
        self._file = file

    def forget_earlier(self) -> None:
        """What was asked before this process existed was asked of another run."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                if self._file.stat().st_mtime < psutil.Process().create_time():
                    self._file.unlink()

    def raise_if_stopped(self) -> None:
        """For long work before the first step."""
        self.take()
        if self.stop_requested:
            raise StopRequestedError

    def stops(self) -> bool:
        """Whether a stop was asked for, also in the file; leaves other words there for the next step."""
        if not self.stop_requested and self._peek()[0] == "stop":
            self.take()
        return self.stop_requested

    def take(self) -> set[str]:
        """Reads and empties the control file: the actions ("save", "sample") to do now."""
        word, self.prompt = self._read()
        if word == "stop":
            self.stop_requested = True
        if word in ("pause", "go"):
            self.paused = word == "pause"
        return {word} & {"save", "sample"}

    def wait(self, seconds: float) -> bool:
        """Whether a stop was asked for in the meantime."""
        before, self.stop_requested = self.stop_requested, False
        end = time.monotonic() + seconds
        while not self.stop_requested and time.monotonic() < end:
            time.sleep(min(POLL, seconds))
            self.take()
        asked, self.stop_requested = self.stop_requested, self.stop_requested or before
        return asked

    def wait_while_paused(self) -> set[str]:
        """Returns once the run may go on; actions asked for in the meantime end the wait too."""
        asked: set[str] = set()
        while self.paused and not self.stop_requested and not asked:
            time.sleep(POLL)
            asked = self.take()
        return asked

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.stop_requested and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop_requested = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM inside the block, and restores the old handlers after it."""
        before = {s: signal.signal(s, self.request_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _read(self) -> tuple[str, str]:
        if self._file is None or not self._file.exists():
            return "", ""
        word, prompt = self._peek()
        with contextlib.suppress(OSError):
            self._file.unlink()
            return (word, prompt) if word in WORDS else ("", "")
        return "", ""

    def _peek(self) -> tuple[str, str]:
        """The word and the prompt below it, each "" where there is none."""
        if self._file is None or not self._file.exists():
            return "", ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            word, _, prompt = self._file.read_text(encoding="utf-8").strip().partition("\n")
            return word.strip(), prompt.strip()
        return "", ""
