"""Stands between Python and the disk: sees every call that changes a folder, and may make it fail or be the last."""

from __future__ import annotations

import errno
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

real_open = io.open


class Listener(Protocol):
    def before(self, kind: str, path: str, detail: Any = None) -> Any:
        """May raise. For a write, `detail` is the data; what is returned is written instead."""
        ...

    def after(self, kind: str, path: str, detail: Any = None) -> None: ...


class _File(io.FileIO):
    """The raw file below Python's buffer, where the operating system's errors arise."""

    def __init__(self, path: str, mode: str, listener: Listener) -> None:
        self._path, self._listener = path, listener
        super().__init__(path, mode)

    def write(self, data: Any, /) -> int:
        kept = self._listener.before("write", self._path, data)
        if isinstance(kept, Lie):
            super().write(kept.data)
            return len(memoryview(data))
        offset = self.tell()
        done = super().write(kept)
        self._listener.after("write", self._path, (offset, bytes(memoryview(kept)[:done])))
        return done

    def truncate(self, size: int | None = None, /) -> int:
        raise NotImplementedError


class Lie:
    """The part of a write that reaches the disk although all of it is reported as written."""

    def __init__(self, data: Any) -> None:
        self.data = data


@contextmanager
def watched(root: Path, listener: Listener) -> Iterator[None]:
    """Every call below `root` that creates, writes, syncs, renames or removes goes through the listener."""
    top = str(root)

    def inside(path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(top)

    def opened(path: Any, mode: str = "r", buffering: int = -1, *rest: Any, **named: Any) -> Any:
        if not inside(path) or not set(mode) & set("wax") or "b" not in mode:
            return real_open(path, mode, buffering, *rest, **named)
        listener.before("open", os.fspath(path))
        raw = _File(os.fspath(path), mode.replace("b", ""), listener)
        listener.after("open", os.fspath(path))
        if buffering == 0:
            return raw
        return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

    def one_path(kind: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, dir_fd: int | None = None, **named: Any) -> Any:
            full = path if dir_fd is None else os.path.join(_path_of(dir_fd), os.fspath(path))  # noqa: PTH118
            if not inside(full):
                return real(path, *rest, **({} if dir_fd is None else {"dir_fd": dir_fd}), **named)
            listener.before(kind, os.fspath(full))
            found = real(path, *rest, **({} if dir_fd is None else {"dir_fd": dir_fd}), **named)
            listener.after(kind, os.fspath(full))
            return found

        return call

    def fsync(handle: int, real: Callable[[int], None] = os.fsync) -> None:
        path = _path_of(handle)
        if not inside(path):
            return real(handle)
        listener.before("fsync", path)
        real(handle)
        return listener.after("fsync", path)

    def replace(source: Any, target: Any, real: Callable[..., Any] = os.replace) -> None:
        if not inside(source):
            return real(source, target)
        listener.before("replace", os.fspath(source), os.fspath(target))
        real(source, target)
        return listener.after("replace", os.fspath(source), os.fspath(target))

    with (
        mock.patch("io.open", opened),
        mock.patch("builtins.open", opened),
        mock.patch("os.fsync", fsync),
        mock.patch("os.replace", replace),
        mock.patch("os.unlink", one_path("unlink", os.unlink)),
        mock.patch("os.mkdir", one_path("mkdir", os.mkdir)),
        mock.patch("os.rmdir", one_path("rmdir", os.rmdir)),
    ):
        yield


def _path_of(handle: int) -> str:
    return os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115


class Counter:
    """Counts the calls, and knows each of them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def before(self, kind: str, path: str, detail: Any = None) -> Any:
        self.calls.append((kind, Path(path).name))
        return detail

    def after(self, kind: str, path: str, detail: Any = None) -> None:
        pass


class Fails(Counter):
    """The call number `at` (from 1) fails once, or all calls from it on.

    how: an errno; "short": half of the data is written, and the next write finds the disk full; "lie": half of it is
    written and all of it reported, once. The two last ones wait for a write.
    """

    def __init__(self, at: int, how: int | str, *, for_good: bool = False) -> None:
        super().__init__()
        self.at, self.how, self.for_good = at, how, for_good
        self.struck = self.full = False

    def before(self, kind: str, path: str, detail: Any = None) -> Any:
        super().before(kind, path, detail)
        due = len(self.calls) >= self.at and (self.for_good or not self.struck or self.full)
        if not due or (isinstance(self.how, str) and kind != "write"):
            return detail
        self.struck = True
        if isinstance(self.how, int) or self.full:
            how, self.full = self.how if isinstance(self.how, int) else errno.ENOSPC, False
            raise OSError(how, os.strerror(how), path)
        half = memoryview(detail)[: len(memoryview(detail)) // 2]
        if self.how == "lie":
            return Lie(half)
        self.full = True  # as the rest of it finds out
        return half


class Kills(Counter):
    """SIGKILL before the call number `at` (from 1)."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def before(self, kind: str, path: str, detail: Any = None) -> Any:
        super().before(kind, path, detail)
        if len(self.calls) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return detail
