"""Reads what to draw: prompts from the config, or from a prompt file of kohya's sd-scripts (.txt, .toml, .json)."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from trainer.config import paths
from trainer.config.schema.base import left_to_the_model
from trainer.config.schema.samples import Sampler, SamplesSettings
from trainer.errors import UserError
from trainer.files import ordinary

WHERE = "samples.prompts"
SAMPLERS: tuple[str, ...] = get_args(Sampler)


@dataclass(frozen=True)
class Request:
    """One picture. The start noise is plain Gaussian from a CPU generator: the same on every device."""

    prompt: str
    seed: int
    negative: str = ""
    width: int = 512
    height: int = 512
    steps: int = 30
    guidance: float = 7.5
    sampler: str = "ddim"
    image: str = ""  # a file, of which an inpainting model fills in what `mask` has white; without one it draws it all
    mask: str = ""
    unset: frozenset[str] = frozenset()  # what nobody asked for and a model may have its own values of

    def fitting(self, usual: Mapping[str, Any], multiple: int) -> Request:
        """With the usual values of a model where nobody asked for others, and in a size that it draws: sides are
        rounded down to multiples of so many pixels, as sd-scripts does to those of 8."""
        asked = replace(self, unset=frozenset(), **{key: usual[key] for key in self.unset & usual.keys()})
        width, height = (max(multiple, side // multiple * multiple) for side in (asked.width, asked.height))
        return replace(asked, width=width, height=height)


def requests(settings: SamplesSettings) -> list[Request]:
    """The pictures that the config asks for, each with a seed of its own. Raises UserError with every problem."""
    found: list[Request] = []
    problems: list[str] = []
    for where, entry in _entries(settings.prompts):
        usual = Request(
            prompt="",
            seed=settings.seed + len(found),
            negative=settings.negative,
            width=settings.width,
            height=settings.height,
            steps=settings.steps,
            guidance=settings.guidance,
            sampler=settings.sampler,
            unset=left_to_the_model(settings),
        )
        try:
            one = _from_line(entry, usual) if isinstance(entry, str) else _from_table(entry, usual)
            if bool(one.image) != bool(one.mask):
                raise ValueError("an image to fill in needs a mask, and a mask an image: --i photo.png --m mask.png.")
            found.append(one)
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise UserError(problems)
    return found


def _entries(prompts: list[str] | str) -> Iterator[tuple[str, str | dict[str, Any]]]:
    """Every prompt with its place: a line with flags, or a table."""
    if isinstance(prompts, list):
        yield from ((f"{WHERE}[{i}]", line) for i, line in enumerate(prompts))
        return
    if not prompts:
        return
    path, text = Path(prompts), _read(prompts)
    if path.suffix == ".txt":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and not line.startswith("#"):
                yield f"{WHERE}: {path.name}:{number}", paths.prompt_with_files(line, path.parent)
    else:
        for index, table in enumerate(_tables(path, text)):
            named = {key: str(paths.absolute(table[key], path.parent)) for key in FILES if _is_text(table.get(key))}
            yield f"{WHERE}: {path.name}[{index}]", table | named


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _read(prompts: str) -> str:
    path = Path(prompts)
    if path.suffix not in (".txt", ".toml", ".json"):
        raise UserError(
            f"{WHERE}: found {path.name!r}, expected a list of prompts, or a file .txt, .toml or .json. "
            'One prompt is a list too: ["a cat"].'
        )
    paths.need(WHERE, prompts, "file")
    try:
        return ordinary.text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{WHERE}: {path} cannot be read ({error}).") from None


def _tables(path: Path, text: str) -> list[dict[str, Any]]:
    """kohya's TOML is [prompt] with usual values and [[prompt.subset]]; its JSON is a list of tables."""
    try:
        if path.suffix == ".toml":
            usual = dict(tomllib.loads(text)["prompt"])
            tables: Any = [{**usual, **table} for table in usual.pop("subset")]
        else:
            tables = json.loads(text)
        if all(isinstance(table, dict) for table in tables):
            return list(tables)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{WHERE}: {path.name}: {error}.") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        pass  # another shape, as below
    shape = "[prompt] with [[prompt.subset]]" if path.suffix == ".toml" else "a list of tables"
    raise UserError(f"{WHERE}: {path.name}: expected {shape}, as sd-scripts writes it.")


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = int(value)
        if isinstance(value, (bool, float)) or not low <= number <= high:
            raise ValueError
        return number

    read.__doc__ = f"a whole number from {low} to {high}"
    return read


def _strength(value: Any) -> float:
    """a number of at least 0"""
    number = float(value)
    if isinstance(value, bool) or not 0 <= number < float("inf"):
        raise ValueError
    return number


def _text(value: Any) -> str:
    """text"""
    if not isinstance(value, str):
        raise ValueError
    return value


def _file(value: Any) -> str:
    """a picture that is there"""
    if not isinstance(value, str) or not Path(value).is_file():
        raise ValueError
    return value


def _sampler(value: Any) -> str:
    if value not in SAMPLERS:
        raise ValueError
    return str(value)


_sampler.__doc__ = f"one of {', '.join(SAMPLERS)}"

# kohya's flag, kohya's key, our field, what reads the value
_KEYS: tuple[tuple[str, str, str, Callable[[Any], Any]], ...] = (
    ("", "prompt", "prompt", _text),
    ("n", "negative_prompt", "negative", _text),
    ("w", "width", "width", _whole(8, 16384)),
    ("h", "height", "height", _whole(8, 16384)),
    ("d", "seed", "seed", _whole(0, 2**63 - 1)),
    ("s", "sample_steps", "steps", _whole(1, 1000)),
    ("l", "scale", "guidance", _strength),
    ("ss", "sample_sampler", "sampler", _sampler),
    ("i", "image", "image", _file),
    ("m", "mask", "mask", _file),
)
FILES = ("image", "mask")  # keys of files in tables, relative to the file of prompts
_IGNORED = ("enum",)  # sd-scripts writes it into tables itself


def _from_line(line: str, usual: Request) -> Request:
    """a cat --n dog --w 512: everything after " --" is a flag. Raises ValueError."""
    prompt, *flags = f" {line.strip()}".split(" --")
    known = {flag: (field, read) for flag, _, field, read in _KEYS if flag}
    values: dict[str, Any] = {"prompt": prompt.strip()}
    for piece in flags:
        flag, _, text = piece.strip().partition(" ")
        if flag.lower() not in known:
            raise ValueError(f"unknown flag --{flag}; known are {' '.join(f'--{f}' for f in known)}.")
        field, read = known[flag.lower()]
        values[field] = _value(f"--{flag}", text.strip(), read)
    return replace(usual, **values, unset=frozenset(usual.unset - values.keys()))


def _from_table(table: dict[str, Any], usual: Request) -> Request:
    known = {key: (field, read) for _, key, field, read in _KEYS}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in _IGNORED or value is None:  # null: as usual
            continue
        if key not in known:
            raise ValueError(f"unknown key {key!r}; known are {', '.join(known)}.")
        field, read = known[key]
        values[field] = _value(key, value, read)
    return replace(usual, **values, unset=frozenset(usual.unset - values.keys()))


def _value(name: str, value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        return read(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{name}: found {value!r}, expected {read.__doc__}.") from None
