"""The trained modules behind one forward, so that DDP and autocast wrap a single thing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from trainer.batch import Geometry, TextStates
from trainer.protocols import Family


class Network(nn.Module):
    """Text encoding (where it is not cached) and prediction of a family."""

    def __init__(self, family: Family, names: Collection[str]) -> None:
        """names: the parts that a step needs; others belong to nobody who would move or wrap them."""
        super().__init__()
        self.parts = nn.ModuleDict({name: part for name, part in family.parts.items() if name in names})
        self._family = family

    def forward(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextStates | None,
        captions: Sequence[str],
        geometry: Geometry,
    ) -> Tensor:
        """The prediction, (B, C, h, w). `text` wins over `captions`, which are encoded here when it is None."""
        states = self._family.encode_text(captions) if text is None else text
        return self._family.predict(noisy, timesteps, states, geometry)
