"""Who fills a cache folder: clears up what killed processes left, but never what living ones are writing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer.files.atomic import PARTIAL, of_safetensors

LOCK = ".lock"
ABANDONED = 86_400  # seconds, where the system has no shared locks


@contextmanager
def filling(folder: Path) -> Iterator[None]:
    """Marks this process as one that writes into `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        _remove_leftovers(folder, older_than=ABANDONED)
        yield
        return
    import fcntl

    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove_leftovers(folder, older_than=0)  # nobody else is writing
        except BlockingIOError:
            pass  # somebody is: his unfinished files are none of ours
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _remove_leftovers(folder: Path, *, older_than: float) -> None:
    for path in (*folder.glob(f"{PARTIAL}*"), *of_safetensors(folder)):
        if time.time() - path.stat().st_mtime >= older_than:
            path.unlink(missing_ok=True)
