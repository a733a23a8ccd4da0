"""Weights that are read one at a time, from files that may be damaged or exchanged meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainer.errors import UserError
from trainer.files import tensor_file
from trainer.files.tensor_file import Stored


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.safetensors"
    save_file({f"{n}": torch.full((2, 3), float(n)) for n in range(4)}, path)
    return path


def test_what_is_wanted_is_read_into_memory_of_its_own(file: Path) -> None:
    stored = Stored(file, lambda name: name != "2")
    assert list(stored) == ["0", "1", "3"] and len(stored) == 3 and "2" not in stored and "3" in stored
    with pytest.raises(KeyError):
        stored["2"]
    first = stored["1"]
    first.zero_()
    assert torch.equal(stored["1"], torch.ones(2, 3))


def test_a_file_is_mapped_anew_after_so_many_bytes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "MAPPED", 24)
    opened, real = [], tensor_file._open
    monkeypatch.setattr(tensor_file, "_open", lambda path: (opened.append(path), real(path))[1])
    stored = Stored(file)
    assert [float(tensor[0, 0]) for tensor in stored.values()] == [0, 1, 2, 3]
    assert len(opened) == 2


def test_a_file_that_was_exchanged_is_told(file: Path) -> None:
    stored = Stored(file)
    save_file({"0": torch.zeros(5)}, file.with_name("b"))
    file.with_name("b").replace(file)
    with pytest.raises(UserError, match=r"a\.safetensors: the file was changed while it was read"):
        stored["0"]
    file.unlink()
    with pytest.raises(UserError, match="no such file"):
        stored["0"]


def test_a_pickle_is_read_the_same_way(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(3), "b": torch.zeros(1)}}, tmp_path / "a.ckpt")
    stored = Stored(tmp_path / "a.ckpt", lambda name: name == "a")
    assert dict(stored).keys() == {"a"} and torch.equal(stored["a"], torch.ones(3))
