"""Weights under other names, each read and changed when it is asked for: a base is never in memory twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Lazily(Mapping[str, "Tensor"]):
    def __init__(self, makers: Mapping[str, Callable[[], Tensor]]) -> None:
        self._makers = makers

    def __getitem__(self, name: str) -> Tensor:
        return self._makers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers  # Mapping's own would read the tensor


def renamed(
    state: Mapping[str, Tensor],
    new_name: Callable[[str], str | None],
    changed: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
) -> Lazily:
    """The tensors under their new names, without those whose new name is None. changed: of (new name, tensor)."""
    names = ((new_name(old), old) for old in state)
    return Lazily({new: lambda new=new, old=old: changed(new, state[old]) for new, old in names if new is not None})  # type: ignore[misc]
