"""Old or new, never a half, and no litter."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.files import atomic


def fail(path: Path) -> None:
    if path.is_dir():
        (path / "half").write_text("half")
    else:
        path.write_text("half")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("write", [atomic.write_file, atomic.write_folder])
def test_a_failed_write_leaves_the_old_one_and_no_litter(tmp_path: Path, write: object) -> None:
    target = tmp_path / "target"
    if write is atomic.write_file:
        target.write_text("old")
    else:
        target.mkdir()
        (target / "old").write_text("old")
    with pytest.raises(OSError, match="space"):
        write(target, fail)  # type: ignore[operator]
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
    assert (target if target.is_file() else target / "old").read_text() == "old"


def test_what_does_not_validate_never_replaces(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    atomic.write_text(target, "old")

    def refuse(path: Path) -> None:
        raise ValueError(path.read_text())

    with pytest.raises(ValueError, match="new"):
        atomic.write_file(target, lambda p: p.write_text("new"), validate=refuse)
    assert target.read_text() == "old"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("one", "two"):
        atomic.write_folder(target, lambda p, name=name: (p / name).touch())  # type: ignore[misc]
    assert [p.name for p in target.iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_what_the_library_of_safetensors_left_goes_too_and_nothing_else(tmp_path: Path) -> None:
    for name in (".tmptbkoau", ".tmpAb1Z9x", ".tmp", ".tmp-notes.txt", ".tmptoolong1", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    atomic.tidy(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp", ".tmp-notes.txt", ".tmptoolong1", "model.safetensors"]
