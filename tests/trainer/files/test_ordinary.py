"""Texts that a person names: what is no file, or far too large, is refused instead of waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config import reading
from trainer.config.importing.run import imported
from trainer.data.captions import files as captions
from trainer.data.captions import written
from trainer.errors import UserError
from trainer.files import ordinary


def test_a_text_is_read_with_any_mark_and_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("\ufeffgr\u00fcn\r\nrot\rblau\n".encode())
    assert ordinary.text(tmp_path / "a.txt") == "gr\u00fcn\nrot\nblau\n"


WAYS_IN: dict[str, Callable[[Path], object]] = {
    "a config": lambda path: reading.read(path),
    "another trainer's file": lambda path: imported(path, path.with_name("ours.toml")),
    "a caption": captions.read,
    "captions in JSON": written.read_json,
}


@pytest.mark.parametrize("way", WAYS_IN)
def test_what_never_ends_is_refused_by_every_way_in(way: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(ordinary.MOST + 1)
    for name, said in (("pipe.toml", "a pipe or a device"), ("huge.toml", "268 MB")):
        with pytest.raises(UserError, match=said):
            WAYS_IN[way](tmp_path / name)
