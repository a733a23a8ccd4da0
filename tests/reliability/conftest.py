"""Set-up of the tests in this folder."""

from __future__ import annotations

import os
import sys

import pytest

# They fork, and look at /proc; what they test is the same code everywhere.
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]


@pytest.fixture(autouse=True)
def nothing_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """That fsync is called, and when, is what these tests see; what it does could only be seen by cutting the power,
    and on a busy disk it takes a second."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
