"""Gets a base from the Hugging Face hub or its cache, and gives up at once where there is no network."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from plugins.models._diffusers_folder import DiffusersFolder, find
from trainer.errors import UserError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FACTS = ("model_index.json", "unet/config.json")
_ALL = ("*.json", "*/*.json", "*/*.txt", "*/*.safetensors")
_NEVER = ("*.fp16.*", "*.non_ema.*", "*ema_only*", "*onnx*", "safety_checker/*")


def is_id(base: str) -> bool:
    return _ID.fullmatch(base) is not None


def facts(base: str) -> DiffusersFolder:
    """The folder with what tells the kind of a model. Raises UserError when it cannot be had."""
    return _had(base, _FACTS, parts=())


def whole(base: str) -> DiffusersFolder:
    """The folder with everything (safetensors only where there are any). Raises UserError when it cannot be had."""
    return _had(base, _ALL, parts=("unet", "vae"))


def snapshot(repository: str, patterns: Sequence[str], *, cached: bool) -> Path:
    """The folder with those files of a repository; `cached`: as far as they are there already. Raises OSError or
    ValueError.

    A snapshot, since a single file is asked for five times, half a minute without a network.
    """
    return Path(
        snapshot_download(
            repository, local_files_only=cached, allow_patterns=list(patterns), ignore_patterns=list(_NEVER)
        )
    )


def _had(base: str, patterns: Sequence[str], parts: Sequence[str]) -> DiffusersFolder:
    """From the cache when the folders of these parts hold weights there, else downloaded."""
    for cached in (True, False):
        try:
            path = snapshot(base, patterns, cached=cached)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        found = find(str(path))
        if found is not None and (not cached or all(_holds_weights(path / part) for part in parts)):
            return found
        reason = "the repository is no diffusers model"
    raise UserError(f"{base}: no such file or folder, and it could not be had from the hub ({reason})")


def _holds_weights(folder: Path) -> bool:
    """Whether more than what `facts` asks for is there."""
    return any(file.suffix == ".safetensors" for file in folder.glob("*"))
