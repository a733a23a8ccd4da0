"""Recomputes activations in the backward pass instead of keeping them: all of them, every second, or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch.utils.checkpoint
from torch import nn

Level = Literal["off", "selective", "full"]
LEVELS: tuple[Level, ...] = ("off", "selective", "full")  # from the quickest to the one that needs the least memory


def set_level(parts: Iterable[nn.Module], level: Level) -> None:
    """Switches diffusers' and transformers' modules.

    "selective" takes every second ResNet and transformer block of diffusers' modules, in the order of the first forward
    pass: what they save per recomputed operation is about the same for all, so it is half of both. Text encoders of
    transformers are small and recompute nothing then.
    """
    for part in parts:
        if hasattr(part, "enable_gradient_checkpointing"):  # diffusers
            if level == "off":
                part.disable_gradient_checkpointing()  # type: ignore[operator]
            else:
                part.enable_gradient_checkpointing(_recompute(every=1 if level == "full" else 2))  # type: ignore[operator]
        elif hasattr(part, "activation_checkpointing_enable"):  # transformers
            switch = "activation_checkpointing_enable" if level == "full" else "activation_checkpointing_disable"
            getattr(part, switch)()


def _recompute(every: int) -> Callable[..., Any]:
    """What diffusers calls in the place of a block: it recomputes the first of every so many blocks."""
    numbers: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
    kinds: Counter[type[nn.Module]] = Counter()  # counted apart: in many networks two kinds take turns

    def call(block: nn.Module, *inputs: Any) -> Any:
        if block not in numbers:
            numbers[block] = kinds[type(block)]
            kinds[type(block)] += 1
        if numbers[block] % every:
            return block(*inputs)
        return torch.utils.checkpoint.checkpoint(block, *inputs, use_reentrant=False)

    return call
