"""T-LoRA: directions of the layer's own weight, fewer of them at noisy timesteps (arXiv 2507.05964). Read only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from plugins.adapters._kind import Kind

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.batch import AdapterWeights

DOWN, UP, LENGTHS = "q_layer.weight", "p_layer.weight", "lambda_layer"


class Tlora(Kind):
    """P L Q less what it began as, as LyCORIS reads its files: with all directions, begun as the weight's longest."""

    title = "T-LoRA"
    leaves: ClassVar[tuple[str, ...]] = (DOWN, UP, LENGTHS)
    needed: ClassVar[tuple[tuple[str, ...], ...]] = ((DOWN,), (UP,), (LENGTHS,))
    extras: ClassVar[tuple[str, ...]] = ()
    arguments: ClassVar[Mapping[str, str]] = {"algo": "tlora"}

    @classmethod
    def rank(cls, weights: AdapterWeights) -> int:
        return int(weights.tensors[DOWN].shape[0])

    @classmethod
    def needs_base(cls, weights: AdapterWeights) -> bool:
        return True

    @classmethod
    def check(cls, tensors: Mapping[str, Tensor]) -> None:
        if not tensors[DOWN].shape[0] == tensors[UP].shape[1] == tensors[LENGTHS].numel():
            raise RuntimeError("the ranks of the factors differ")

    @classmethod
    def change(cls, weights: AdapterWeights, base: Tensor | None = None) -> Tensor:
        import torch

        assert base is not None
        down, up, lengths = (weights.tensors[name].float().flatten(1) for name in (DOWN, UP, LENGTHS))
        whole, rank = base.float().flatten(1), cls.rank(weights)
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
        before = (left[:, :rank] * values[:rank]) @ right[:rank]
        return ((up * lengths) @ down - before).reshape(base.shape) * cls.scale(weights)


PLUGIN = Tlora
