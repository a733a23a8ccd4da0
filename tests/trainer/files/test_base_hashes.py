"""kohya's hashes of the base."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trainer.files.base_hashes import base_hashes


def test_the_hashes_are_kohyas(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000  # 1.28 MB
    (tmp_path / "base.safetensors").write_bytes(content)
    found = base_hashes(tmp_path / "base.safetensors")
    assert found["ss_new_sd_model_hash"] == hashlib.sha256(content).hexdigest()
    piece = content[1 << 20 : (1 << 20) + (1 << 16)]
    assert found["ss_sd_model_hash"] == hashlib.sha256(piece).hexdigest()[:8]


def test_folders_and_hub_ids_have_none(tmp_path: Path) -> None:
    assert base_hashes(tmp_path) == base_hashes(Path("someone/something")) == {}
