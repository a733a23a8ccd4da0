"""What a family needs from a base, whatever its layout on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


class BaseSource(Protocol):
    """A base on disk. Parts are "unet", "vae", "text_encoder", "text_encoder_2" and "scheduler" (config only)."""

    @property
    def path(self) -> Path: ...

    def has(self, part: str) -> bool: ...

    def where(self, part: str) -> str:
        """The part's place, for messages."""
        ...

    def config(self, part: str) -> dict[str, Any]:
        """The part's diffusers or transformers config. Raises UserError."""
        ...

    def weights(self, part: str) -> Mapping[str, Tensor]:
        """The part's weights under diffusers' or transformers' names, in the files' precision. Raises UserError."""
        ...

    def tokenizer(self, part: str) -> Path:
        """The folder in which the tokenizer ("tokenizer" or "tokenizer_2") would be."""
        ...
