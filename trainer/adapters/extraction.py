"""The LoRA between two checkpoints: what training changed, without what storing the weights rounded."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.adapters.tools import Approximated, approximate
from trainer.errors import UserError
from trainer.protocols import Family

STORED = (torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float32)  # coarsest first


@dataclass(frozen=True)
class Extracted:
    found: Approximated
    rounding: int  # layers left out because they differ by no more than the two files' rounding
    small: int  # layers left out because they differ by no more than was asked for
    lost: tuple[str, ...]  # weights that differ and that no module of this LoRA holds, by part and dotted name


def extract(
    tuned: Family, base: Family, parts: Collection[str], rank: int, conv_rank: int = 0, *, min_diff: float = 0.0
) -> Extracted:
    """The LoRA that turns `base` nearest into `tuned`; `conv_rank` 0 leaves the ResNets' convolutions out.

    Layers that do not differ, or by no more than `rounding` explains, or in no number by more than `min_diff`, get no
    module. Raises UserError when the two are not of one architecture, or nothing is left.
    """
    changes: dict[str, Tensor] = {}
    rounded = small = 0
    for part in parts:
        for target in base.adapter_targets(part, conv=conv_rank > 0):
            old, new = _pair(base.parts[part], tuned.parts[part], part, target)
            difference = new - old
            if not bool(difference.any()):
                continue
            if bool((difference.abs() <= rounding(old) + rounding(new)).all()):
                rounded += 1
            elif float(difference.abs().max()) <= min_diff:
                small += 1
            else:
                changes[base.adapter_key(part, target)] = difference
    if not changes:
        why = f"; {rounded + small} differ by rounding or by less than was asked for" if rounded + small else ""
        raise UserError(
            f"the two models are the same in every layer that a LoRA adapts{why}; there is nothing to extract"
        )
    lost = [name for part in parts for name in _lost(part, base, tuned, conv=conv_rank > 0)]
    return Extracted(approximate(changes, rank, conv_rank), rounded, small, tuple(lost))


def _lost(part: str, base: Family, tuned: Family, *, conv: bool) -> Iterator[str]:
    """What differs by more than rounding beside the layers that were looked at: convolutions, norms, biases."""
    seen = {f"{target}.weight" for target in base.adapter_targets(part, conv=conv)}
    others = dict(tuned.parts[part].named_parameters())
    for name, old in base.parts[part].named_parameters():
        new = others.get(name)
        if name in seen or new is None or new.shape != old.shape:
            continue
        first, second = old.detach().float(), new.detach().float()
        if bool(((first - second).abs() > rounding(first) + rounding(second)).any()):
            yield f"{part}.{name}"


def rounding(weight: Tensor) -> Tensor:
    """By how much each number may differ from the one that was stored: half a unit in the last place of the coarsest
    type that holds all of the tensor."""
    kind = next(kind for kind in STORED if torch.equal(weight.to(kind).to(weight.dtype), weight))
    told = torch.finfo(kind)
    return (weight.abs() * (told.eps / 2)).clamp_min(told.smallest_normal * told.eps / 2)


def _pair(old: torch.nn.Module, new: torch.nn.Module, part: str, target: str) -> tuple[Tensor, Tensor]:
    """A layer's weight in both, float32."""
    first = old.get_parameter(f"{target}.weight")
    try:
        second = new.get_parameter(f"{target}.weight")
    except (KeyError, AttributeError) as error:
        raise UserError(f"{part}.{target}: only one of the two models has it") from error
    if first.shape != second.shape:
        raise UserError(f"{part}.{target}: {list(second.shape)} and {list(first.shape)}: two different architectures")
    return first.detach().float(), second.detach().float()
