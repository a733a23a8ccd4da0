"""Latents that are encoded when they are asked for: what a cache would give, for those who want a few of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainer.data.cache.encode import Encode, Stored, Variant, encoded
from trainer.data.dataset import Dataset


class OnDemandLatents:
    def __init__(self, dataset: Dataset, encode: Encode) -> None:
        self._dataset, self._encode = dataset, encode

    def read(self, variant: Variant) -> Stored:
        """Raises UserError naming a file that cannot be read."""
        with torch.no_grad():
            ((_, stored),) = encoded(self._dataset, [[variant]], self._encode, workers=1)
        return stored

    def means(self, variants: Sequence[Variant]) -> Tensor | None:
        """None: there is no faster way than one by one."""
        return None
