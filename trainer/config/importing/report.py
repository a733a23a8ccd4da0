"""What is told about an import: four lists, in the terminal, at the top of the new file and in the UI."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config.foreign.outcome import KINDS, Kind
from trainer.config.foreign.translate import Entry, Translation

TITLES: Mapping[Kind, str] = {
    "carried": "carried over",
    "changed": "in another form here",
    "unneeded": "not needed here",
    "missing": "without a counterpart",
}
WIDTH = 116


def of_kind(translation: Translation, kind: Kind) -> list[Entry]:
    return [entry for entry in translation.entries if entry.outcome.kind == kind]


def summary(translation: Translation) -> str:
    counts = ", ".join(f"{len(of_kind(translation, kind))} {TITLES[kind]}" for kind in KINDS)
    return f"{len(translation.entries)} keys: {counts}"


def lines(translation: Translation) -> list[str]:
    """All four lists."""
    found = [f"{summary(translation)}."]
    for title, told in lists(translation):
        found += [f"{title}:", *(line for one in told for line in _wrapped(one))]
    return found


def lists(translation: Translation) -> list[tuple[str, list[str]]]:
    """(title with the number of keys, what is told) of each list that is not empty."""
    found = [(kind, of_kind(translation, kind)) for kind in KINDS]
    return [
        (f"{TITLES[kind]} ({len(entries)})", _list(kind, entries, translation)) for kind, entries in found if entries
    ]


def _list(kind: Kind, entries: Sequence[Entry], translation: Translation) -> list[str]:
    if kind == "carried":
        return ["; ".join(_pair(entry) for entry in entries)]
    if kind == "changed":
        return [_change(entry, translation) for entry in entries]
    by_reason: dict[str, list[str]] = {}
    for entry in entries:
        by_reason.setdefault(entry.outcome.why, []).append(entry.name)
    return [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]


def _pair(entry: Entry) -> str:
    ours = ", ".join(entry.outcome.sets)
    return f"{entry.name} -> {ours}" if ours else entry.name


def _change(entry: Entry, translation: Translation) -> str:
    """network_train_unet_only = true -> training.text_encoder = false"""
    hidden = entry.name in translation.source.secrets
    theirs = f"{entry.name} = {'...' if hidden else shown(entry.value)}"
    ours = _ours(entry.outcome.sets)
    why = f" ({entry.outcome.why})" if entry.outcome.why else ""
    return f"{theirs} -> {ours}{why}" if ours else f"{theirs}:{why.replace(' (', ' ').rstrip(')')}"


def _ours(sets: Mapping[str, Any]) -> str:
    told = [f"{key} = {shown(value)}" for key, value in sets.items() if key != "datasets"]
    more = ["[[datasets]]"] if "datasets" in sets else []
    return ", ".join([*told[:3], *([f"and {len(told) - 3} more"] if len(told) > 3 else []), *more])


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = f"{value:g}" if isinstance(value, float) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_long_words=False)
