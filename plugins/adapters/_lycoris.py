"""What LyCORIS' products of more than two factors share: how they train, and the Tucker form of a convolution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from plugins.adapters._kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterDropout


def tucker(core: Tensor, out: Tensor, inner: Tensor) -> Tensor:
    """core (r, r, kh, kw), out (r, O), inner (r, I) -> (O, I, kh, kw)."""
    import torch

    return torch.einsum("ijkl,jr,ip->prkl", core, inner, out)


class Product(Kind):
    """Peft has these kinds with rank and module dropout, and without dropout of the inputs."""

    trains = True
    skips_whole = True

    @classmethod
    def problems(cls, dropout: AdapterDropout) -> Iterable[str]:
        if dropout.inputs:
            yield f"lora.dropout: {cls.title} has none; use lora.rank_dropout or lora.module_dropout"

    @classmethod
    def config(cls, common: Mapping[str, Any], dropout: AdapterDropout, settings: Any) -> Any:
        return cls.peft()(rank_dropout=dropout.ranks, module_dropout=dropout.modules, **common)

    @classmethod
    def peft(cls) -> Any:
        """peft's class of its configuration."""
        raise NotImplementedError
