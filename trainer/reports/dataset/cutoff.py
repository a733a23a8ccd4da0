"""Where a tokenizer cuts captions off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SPECIAL = 2  # the tokens for begin and end, which are part of the limit


@dataclass(frozen=True, slots=True)
class Cut:
    tokens: int  # of the whole caption
    kept: int  # characters of it that reach the model


Cutter = Callable[[Sequence[str]], list[Cut]]


def cutter(tokenizer: Any, limit: int = 77) -> Cutter:
    """From a fast tokenizer of transformers. `limit`: tokens that the model takes, with begin and end."""

    def cuts(captions: Sequence[str]) -> list[Cut]:
        encoded = tokenizer(
            list(captions), add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
        )
        room = limit - SPECIAL
        return [
            Cut(len(offsets), offsets[room - 1][1] if len(offsets) > room else len(caption))
            for caption, offsets in zip(captions, encoded["offset_mapping"], strict=True)
        ]

    return cuts
