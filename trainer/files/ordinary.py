"""Texts that a person names: of an ordinary file and of a text's size, so that no pipe or device is waited for."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

MOST = 2**28  # bytes; a list of captions of a million images


def content(path: Path) -> bytes:
    """Raises OSError, also for what is no file and for one above MOST."""
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, no file", str(path))
    if found.st_size > MOST:
        raise OSError(errno.EFBIG, f"it has {found.st_size / 1e6:,.0f} MB, more than any text of this kind", str(path))
    with path.open("rb") as file:
        return file.read(MOST)


def text(path: Path) -> str:
    """UTF-8 with or without a byte order mark, with any line ends. Raises OSError or UnicodeDecodeError."""
    return content(path).decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
