"""The one exception that means "the user's input is wrong"."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Bad input: shown as plain lines without a traceback, exit code 2.

    Every line names the key or file, what was found and what to do.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class RunError(Exception):
    """A run that cannot go on although its input was sound (NaN, a full disk): no traceback, exit code 1."""
