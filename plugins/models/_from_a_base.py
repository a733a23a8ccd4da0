"""What families have in common that draw from any text, begin with a base and have a VAE."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from plugins.models import _modules
from plugins.models._needs_a_base import needs_a_base
from trainer.batch import NewWord
from trainer.errors import UserError


class FromABase:
    """The answers of such a family to `trainer.protocols.Family`."""

    name: ClassVar[str]
    parts: dict[str, nn.Module]
    vae: Any
    reads_captions: bool = True
    some_caption: str = "a"
    fills: bool = False
    samplers: ClassVar[Mapping[str, Callable[[], Any]]] = {}
    embedding_keys: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    @classmethod
    def create(
        cls, network: Mapping[str, Any], classes: Sequence[str], *, prediction: str = "auto", outline: bool = False
    ) -> Any:
        """Text encoders and VAE are never made anew."""
        raise UserError(f"model.network: {needs_a_base(cls.name)}")

    def to(self, device: torch.device | str, frozen_dtype: torch.dtype, only: Collection[str] | None = None) -> None:
        """Moves everything, or `only` these parts and "vae". Parameters that do not require gradients take
        `frozen_dtype`, those of the VAE stay float32. On "meta" weights are lost."""
        for name, part in self.parts.items():
            if only is None or name in only:
                _modules.move(part, device, frozen_dtype)
        if only is None or "vae" in only:
            self.vae.to(device)

    def cannot_draw(self, prompt: str, negative: str, guidance: float) -> str:
        """Any text will do."""
        return ""

    def learn_words(self, words: Sequence[NewWord]) -> None:
        """Of the families whose text encoders are CLIP's."""
        raise NotImplementedError(f"{self.name} learns no words")

    def fill_arguments(self, pixels: Tensor, hidden: Tensor) -> dict[str, Any]:
        raise NotImplementedError(f"{self.name} fills no pictures in")
