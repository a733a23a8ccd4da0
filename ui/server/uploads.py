"""How much may lie in the folder of uploads: a page, or whoever reaches it, must not fill the disk."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MOST = 2 * 1024**3  # bytes, of all uploads together
UPLOAD = re.compile(r"(^|.*/)gradio_api/+upload/*$")


class NoRoomError(Exception):
    """The uploads of this request and those before are too many."""


@dataclass
class Uploads:
    """`folder`: where they lie; what is on its way counts too."""

    folder: Path
    coming: int = 0

    @contextmanager
    def receiving(self, size: int) -> Iterator[None]:
        """Raises NoRoomError. size: bytes that the request has, or may have where it does not tell."""
        if self.coming + size + held(self.folder) > MOST:
            raise NoRoomError
        self.coming += size
        try:
            yield
        finally:
            self.coming -= size


def held(folder: Path) -> int:
    """Bytes of all files in a folder."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found = file.lstat()
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total
