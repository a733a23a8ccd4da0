"""kohya's hashes of a checkpoint, by which other programs find the base that a LoRA was trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

_LEGACY_START, _LEGACY_LENGTH = 0x100000, 0x10000
_PIECE = 1 << 22


def base_hashes(base: Path) -> dict[str, str]:
    """ss_sd_model_hash (first 8 digits of the SHA-256 of 64 KiB at 1 MiB, as A1111 once had it) and
    ss_new_sd_model_hash (SHA-256 of the file). Empty for folders and hub ids, which have no such hash."""
    if not base.is_file():
        return {}
    whole = hashlib.sha256()
    with base.open("rb") as file:
        file.seek(_LEGACY_START)
        legacy = hashlib.sha256(file.read(_LEGACY_LENGTH)).hexdigest()[:8]
        file.seek(0)
        while piece := file.read(_PIECE):
            whole.update(piece)
    return {"ss_sd_model_hash": legacy, "ss_new_sd_model_hash": whole.hexdigest()}
