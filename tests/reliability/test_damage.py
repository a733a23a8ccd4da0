"""A checkpoint that was cut off, changed by a single bit or mixed with another is never loaded, and named."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from tests.reliability.artefacts import same_state, state
from trainer.errors import RunError
from trainer.run import checkpoint

FILES = (checkpoint.TENSORS, checkpoint.VALUES, checkpoint.MANIFEST)
BITS = 200


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two checkpoints; returns the newer one."""
    for step in (1, 2):
        checkpoint.save(tmp_path / f"step-{step:06d}", state(step, elements=500, step=step))
    return tmp_path / "step-000002"


def refused(folder: Path) -> None:
    with pytest.raises(RunError, match="step-000002"):
        checkpoint.load(folder)
    said: list[str] = []
    found = checkpoint.load_newest(folder.parent, said.append)
    assert found is not None
    assert same_state(found, state(1, elements=500, step=1))
    assert len(said) == 1
    assert "step-000002" in said[0]


@pytest.mark.parametrize("name", FILES)
def test_cut_off_at_every_place_of_interest(saved: Path, name: str) -> None:
    file = saved / name
    content = file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little") if name == checkpoint.TENSORS else len(content) // 3
    for length in {0, 1, 7, 8, 9, header - 1, header, header + 1, len(content) // 2, len(content) - 1}:
        file.write_bytes(content[:length])
        refused(saved)
    file.write_bytes(content + b" ")
    refused(saved)
    file.write_bytes(content)
    assert same_state(checkpoint.load(saved), state(2, elements=500, step=2))


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit(saved: Path, name: str) -> None:
    file = saved / name
    content = file.read_bytes()
    luck = random.Random(name)
    for _ in range(BITS):
        damaged = bytearray(content)
        damaged[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
        file.write_bytes(damaged)
        refused(saved)


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_checkpoint(saved: Path, name: str) -> None:
    shutil.copy(saved.with_name("step-000001") / name, saved / name)
    refused(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(saved: Path, name: str) -> None:
    (saved / name).unlink()
    refused(saved)


def test_a_manifest_that_was_written_by_hand_is_not_believed(saved: Path) -> None:
    (saved / checkpoint.MANIFEST).write_text('{"step": 2, "files": {}}')
    refused(saved)


def test_things_that_are_no_checkpoints_are_passed_over(saved: Path) -> None:
    for name in ("step-latest", "step-", "step-9x"):
        (saved.parent / name).mkdir()
    (saved.parent / "step-000009").write_text("a file")
    said: list[str] = []
    found = checkpoint.load_newest(saved.parent, said.append)
    assert found is not None
    assert found.step == 2
    assert len(said) == 1
