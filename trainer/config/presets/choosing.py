"""Which presets there are, and the config of one: `sdxl 12gb style`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from trainer.config.presets.merging import ABOUT, FOLDER, Sections, merged, read, rendered, sections
from trainer.errors import UserError

KINDS = {"family": "families", "card": "cards", "purpose": "purposes"}
EVERY = FOLDER / "every.toml"
ESTIMATED = "estimated (python tests/benchmarks/memory.py), not measured on such a card"
CHECK = "Change the paths, then: python launch.py check --preflight FILE   takes one step, tells what it really needs"


@dataclass(frozen=True)
class Preset:
    """One of each kind."""

    family: str
    card: str
    purpose: str

    @property
    def name(self) -> str:
        return f"{self.family} {self.card} {self.purpose}"

    @property
    def chosen(self) -> list[tuple[str, str]]:
        """(kind, name) in the order in which they are merged: what the card needs counts last."""
        return [("family", self.family), ("purpose", self.purpose), ("card", self.card)]

    @property
    def case(self) -> str:
        """What overlays of a combination are named by: sdxl-full."""
        return f"{self.family}-{method(self.purpose)}"

    @property
    def exists(self) -> bool:
        """Whether it fits its card: a card says something of every case that does."""
        return self.case in _overlay("card", self.card)

    @property
    def memory(self) -> float:
        """Gigabytes (10**9 bytes) that are estimated to be needed."""
        return float(_overlay("card", self.card)[self.case][ABOUT]["memory"])


@cache
def choices(kind: str) -> list[str]:
    """The names of a kind; cards by their size."""
    names = [path.stem for path in (FOLDER / KINDS[kind]).glob("*.toml")]
    return sorted(names, key=lambda name: (int(name.removesuffix("gb")), name) if kind == "card" else (0, name))


def all_presets() -> list[Preset]:
    found = [
        Preset(family, card, purpose)
        for family in choices("family")
        for card in choices("card")
        for purpose in choices("purpose")
    ]
    return [preset for preset in found if preset.exists]


def method(purpose: str) -> str:
    return str(_overlay("purpose", purpose)["training"]["method"])


def title(kind: str, name: str) -> str:
    """What a person reads beside a choice."""
    return str(_overlay(kind, name)[ABOUT]["title"])


def preset_of(words: Sequence[str]) -> Preset:
    """The preset of three words in any order. Raises UserError with what is wrong, and with what there is."""
    known = {name: kind for kind in KINDS for name in choices(kind)}
    if unknown := [word for word in words if word.lower() not in known]:
        raise UserError([_unknown(word, list(known)) for word in unknown])
    found = {kind: [w.lower() for w in words if known[w.lower()] == kind] for kind in KINDS}
    problems = [
        f"preset: {'no' if not given else 'more than one'} {kind}; choose one of {', '.join(choices(kind))}."
        for kind, given in found.items()
        if len(given) != 1
    ]
    if problems:
        raise UserError(problems)
    preset = Preset(found["family"][0], found["card"][0], found["purpose"][0])
    if not preset.exists:
        enough = next(p.card for p in all_presets() if (p.family, p.purpose) == (preset.family, preset.purpose))
        raise UserError(f"preset: {preset.name} needs a larger card; it fits {enough} or more.")
    return preset


def _unknown(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word.lower(), known, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return f"preset: unknown word {word!r}.{hint} There are {', '.join(known)}."


def text_of(preset: Preset) -> str:
    """The config as TOML, with comments."""
    overlays: list[Sections] = [sections(read(EVERY))]
    for kind, name in preset.chosen:
        tables = _overlay(kind, name)
        overlays += [sections(tables), sections(tables.get(preset.case, {}))]
    family, purpose, card = (title(kind, name) for kind, name in preset.chosen)
    what = _overlay("purpose", preset.purpose)[ABOUT]["what"]
    header = [
        f"{what} {family} for {purpose}, on {card}.",
        f"Memory: {preset.memory:.1f} GB, {ESTIMATED}.",
        CHECK,
    ]
    return rendered(merged(overlays), header)


@cache
def _overlay(kind: str, name: str) -> dict[str, Any]:
    return read(FOLDER / KINDS[kind] / f"{name}.toml")
