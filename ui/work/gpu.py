"""What the graphics card is doing, as its driver tells it: no library of the trainer has to be loaded for that."""

from __future__ import annotations

import shutil
import subprocess
import time

QUERY = "--query-gpu=utilization.gpu,memory.used,memory.total"
EVERY = 3.0  # seconds between questions
PATIENCE = 2.0  # seconds for an answer

_told: tuple[float, str] = (float("-inf"), "")


def use() -> str:
    """ "87 %, 10.2 of 24.0 GB" of the busiest card, "" without one."""
    global _told
    if time.monotonic() - _told[0] > EVERY:
        _told = (time.monotonic(), _ask())
    return _told[1]


def _ask() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, QUERY, "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=PATIENCE,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return _busiest(done.stdout)


def _busiest(text: str) -> str:
    """Of lines such as "87, 10444, 24576": percent, MiB, MiB."""
    cards = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and all(part.isdigit() for part in parts):
            cards.append(tuple(map(int, parts)))
    if not cards:
        return ""
    share, used, whole = max(cards)
    return f"{share} %, {used / 1024:.1f} of {whole / 1024:.1f} GB"
