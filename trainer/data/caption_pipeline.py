"""Turns an image's caption into the one that a sample is trained with: dropout so far."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from trainer.config import SubsetOptions


def final_caption(written: Sequence[str], options: SubsetOptions, random: Random) -> str:
    """One training caption. `written`: the alternatives as written; `random`: this sample's own stream."""
    if random.random() < options.caption_dropout_rate:
        return ""
    return written[0]


def possible(written: Sequence[str], options: SubsetOptions) -> set[str]:
    """Everything that `final_caption` can return."""
    return {written[0]} | ({""} if options.caption_dropout_rate > 0 else set())
