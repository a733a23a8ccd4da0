"""Runs the tests that need a card, in a process of their own with a limit."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "tests"
MARKS = ("mark.gpu", "any_card")
LAST = 4000  # letters that are kept of what it said


def files() -> list[Path]:
    """Those with GPU tests, so that no other has to be imported: not all of their packages are everywhere."""
    return [
        path
        for path in sorted(FOLDER.rglob("test_*.py"))
        if any(mark in path.read_text(encoding="utf-8") for mark in MARKS)
    ]


def measure(seconds: float) -> dict[str, Any]:
    """Counts of what passed and failed, and which failed; "error" when they did not come to their end."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-ra", "--tb=short", *map(str, files())]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout.decode("utf-8", "replace") if isinstance(error.stdout, bytes) else error.stdout or ""
        return {"error": f"not done after {seconds:.0f} s", **counts(said), "said": said[-LAST:]}
    found = counts(done.stdout)
    if done.returncode:
        found["said"] = (done.stdout + done.stderr)[-LAST:]
    if done.returncode not in (0, 1):
        found["error"] = f"pytest ended with {done.returncode}"
    return found


def counts(said: str) -> dict[str, Any]:
    """Of pytest's quiet output: a letter for each test, then a line for each that failed or was skipped."""
    letters = "".join(re.findall(r"^([.FsEx]+)(?:\s+\[ *\d+%\])?$", said, flags=re.MULTILINE))
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", said, flags=re.MULTILINE)
    return {"passed": letters.count("."), "failed": failed, "skipped": letters.count("s")}
