"""What `inspect` tells a person about a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.adapters.inspection import Inspection

NAMED = 5  # modules of a kind that are listed
WIDEST = 100  # characters of a value of the metadata


def lines(path: Path, found: Inspection) -> Iterator[str]:
    """What it is, whether anything in it is broken, then its metadata by name."""
    yield f"{path}: {found.what}"
    facts = {
        "family": found.family or "none that is known here",
        "made for": found.base_version,
        "predicts": found.prediction,
        "rank": _ranks(found),
        "numbers": f"{found.parameters:,} in {', '.join(f'{n:,} {name}' for name, n in found.dtypes.items())} tensors",
    }
    yield from (f"  {name:<9} {value}" for name, value in facts.items() if value)
    yield from (f"  new word  {one}" for one in found.embeddings)
    yield _soundness(found)
    if found.metadata:
        yield f"metadata ({len(found.metadata)}):"
        width = min(40, max(map(len, found.metadata)))
        yield from (f"  {name:<{width}}  {_short(value)}" for name, value in sorted(found.metadata.items()))
    elif found.kind != "diffusers folder":
        yield "It has no metadata."


def _ranks(found: Inspection) -> str:
    told = [f"{size} ({count:,} modules)" for size, count in found.ranks.items()]
    return "; ".join([one.removeprefix("rank ") for one in told[:NAMED]]) + (" ..." if len(told) > NAMED else "")


def _soundness(found: Inspection) -> str:
    """One sentence."""
    things = "modules" if found.kind == "lora" else "tensors"
    told = []
    for names, what in ((found.not_finite, "hold NaN or infinity"), (found.zero, "are zero and change nothing")):
        if names:
            told.append(f"{len(names)} of {found.modules:,} {things} {what}: {_listed(names)}")
    if told:
        return f"{'; '.join(told)}."
    return f"Nothing in it is {'NaN, infinite or all zero' if found.kind == 'lora' else 'NaN or infinite'}."


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _short(value: str) -> str:
    value = " ".join(value.split())
    return value if len(value) <= WIDEST else f"{value[: WIDEST - 4]} ..."
