"""The rows of a program's table: its key, ours, how the value is converted, what it is when the file leaves it out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.values import NOTHING, Values, literal

How = Callable[[Values, str], Any]  # the value of our key, None where nothing is set, or an Outcome
Together = Callable[[Values], Mapping[str, Any]]  # what several keys come to: our dotted key -> value


@dataclass(frozen=True)
class Key:
    """A row. A name may hold `*` and stands for all keys that fit then."""

    name: str
    ours: tuple[str, ...]
    how: How
    default: Any = None
    note: str = ""  # what is different here

    def outcome(self, values: Values, name: str) -> Outcome:
        found = self.how(values, name)
        if isinstance(found, Outcome):
            return found
        if found is None:
            return unneeded("not set")
        sets = {self.ours[0]: found}
        return changed(sets, self.note) if self.note else carried(sets)


class Table(Mapping[str, Key]):
    """A program's rows by the names of its keys."""

    def __init__(self, *rows: Key | Iterable[Key]) -> None:
        flat = [key for one in rows for key in ([one] if isinstance(one, Key) else one)]
        self._rows = {key.name: key for key in flat}
        self._wild = [key for key in flat if "*" in key.name]
        if len(self._rows) != len(flat):
            names = [key.name for key in flat]
            raise ValueError(f"two rows for {sorted({n for n in names if names.count(n) > 1})}")
        self.defaults = {key.name: key.default for key in flat if "*" not in key.name}

    def find(self, name: str) -> Key | None:
        return self._rows.get(name) or next((key for key in self._wild if fnmatchcase(name, key.name)), None)

    def __getitem__(self, name: str) -> Key:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


# --- rows


def row(name: str, ours: str | tuple[str, ...], how: How, default: Any = None, note: str = "") -> Key:
    return Key(name, (ours,) if isinstance(ours, str) else ours, how, default, note)


def part(name: str, ours: str | tuple[str, ...], of: Together, default: Any = None, otherwise: str = "off") -> Key:
    """A key that means something together with others: it answers for those of `ours` that all come to.

    otherwise: why it may come to none of them.
    """
    mine = (ours,) if isinstance(ours, str) else ours

    def how(values: Values, name: str) -> Outcome:
        found = of(values)
        sets = {key: found[key] for key in mine if key in found}
        return carried(sets) if sets else unneeded(otherwise)

    return Key(name, mine, how, default)


def needless(why: str, *names: str) -> list[Key]:
    """Keys that are not needed here, whatever they say."""
    return [Key(name, (), lambda _values, _name: unneeded(why), note=f"not needed here ({why})") for name in names]


def absent(why: str, *names: str, harmless: bool = False, default: Any = None) -> list[Key]:
    """Keys without a counterpart, where they say something else than their default."""

    def how(values: Values, name: str) -> Outcome:
        value = values.given.get(name)
        off = value in NOTHING or value == default or (default is None and literal(value) in (0, False))
        return unneeded("off") if off else missing(why, harmless=harmless)

    return [Key(name, (), how, default, f"without a counterpart here ({why})") for name in names]


# --- conversions of a single value


def vae_precision(words: Mapping[str, str]) -> How:
    """The VAE's precision, by other words. SDXL's overflows in float16, which every program has its own way around."""

    def how(values: Values, name: str) -> Any:
        found = words.get(values.text(name).lower()) if values.has(name) else None
        if found == "fp16" and values.context.family == "sdxl":
            return changed({"model.vae_precision": "fp32"}, "SDXL's VAE makes NaN in fp16")
        return found

    return how


def same(values: Values, name: str) -> Any:
    return values[name]


def text(values: Values, name: str) -> str | None:
    return values.text(name) or None


def flag(values: Values, name: str) -> bool:
    return values.flag(name)


def number(values: Values, name: str) -> float | None:
    return values.number(name)


def positive(values: Values, name: str) -> float | None:
    """A number of which 0 stands for off."""
    return values.number(name) or None


def whole(values: Values, name: str) -> int | None:
    return values.whole(name)


def one_of(words: Mapping[str, Any]) -> How:
    """Other words for the same choices, without regard to case; others stay as they are."""

    def how(values: Values, name: str) -> Any:
        found = values.text(name)
        return words.get(found.lower(), found) if found else None

    return how
