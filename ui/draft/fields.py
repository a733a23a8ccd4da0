"""The config's keys as form fields: what kind of control each one needs, and how its value is written as text.

A control holds text (True or False for a plain switch). Blank means "not written": the default, or for an option of a
dataset or folder whatever stands above it. Text that is no valid value is handed on as it is, so that the config's own
check reports it in its own words.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomlkit
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer import registry
from trainer.config.keys import keys as schema_keys
from trainer.config.schema.base import extra
from trainer.config.schema.data import GeneralSettings
from ui.draft.labels import LABELS, SUGGESTIONS, plain_label

Kind = Literal["switch", "choice", "text", "number", "lines", "list", "table", "presence"]
Control = str | bool

DATASET = "datasets[]"
FOLDER = "datasets[].subsets[]"
HELD_OUT = "validation.datasets"
NAMES_FILE = re.compile(r"\.(txt|toml|json)\s*$")  # instead of lines, the file that holds them


class Unset:
    """The value of a key that is not to be written."""


UNSET = Unset()


@dataclass(frozen=True)
class Field:
    """One key of the config."""

    key: str  # dotted, as trainer.config.keys writes it: training.steps, datasets[].resolution
    kind: Kind
    label: str
    help: str
    unit: str
    default: Any
    choices: tuple[str | int, ...]  # of the schema: the only values, or with a number the other ones
    suggestions: tuple[str, ...]  # known good values; others may be valid too
    basic: bool
    is_path: bool
    bounds: str = ""  # in words: "at least 1", "0 to 1"

    @property
    def section(self) -> str:
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        return self.key.rpartition(".")[2]

    @property
    def inherits(self) -> bool:
        """Whether it is looked up above its dataset or folder when it is not written there."""
        return self.section in (DATASET, FOLDER) and self.name in _general_names()

    @property
    def blank_is_unset(self) -> bool:
        """Whether an empty control says something else than an empty value would."""
        return self.inherits or self.default not in ("", [], {}, None)

    @property
    def control_id(self) -> str:
        """The id of its control in the page."""
        return "f-" + re.sub(r"\W+", "-", self.key).strip("-")


@cache
def all_fields() -> dict[str, Field]:
    """Every key that can be set, in the schema's order."""
    found: dict[str, Field] = {}
    for key, field in schema_keys():
        # Held-out datasets are entries like the others: the same controls show them, see ui.draft. Other lists of
        # tables are left to the file's text.
        if ("[]" not in key or key.startswith(DATASET)) and (made := _field(key, field)) is not None:
            found[key] = made
    return found


@cache
def _general_names() -> frozenset[str]:
    return frozenset(GeneralSettings.model_fields)


def section_fields(section: str) -> list[Field]:
    return [field for field in all_fields().values() if field.section == section]


@cache
def noise_headlines() -> dict[str, str]:
    """noise.<plugin> -> the key that `noise.<plugin> = value` stands for."""
    return {f"noise.{n}": f"noise.{n}.{registry.find('noise', n).headline}" for n in registry.names("noise")}


def _field(key: str, field: FieldInfo) -> Field | None:
    told = extra(field)
    kind, choices = _kind(key, field)
    if kind is None:
        return None
    return Field(
        key=key,
        kind=kind,
        label=LABELS.get(key) or plain_label(key.rpartition(".")[2]),
        help=field.description or "",
        unit=str(told.get("unit") or ""),
        default=False if kind == "presence" else field.get_default(call_default_factory=True),
        choices=choices,
        suggestions=SUGGESTIONS.get(key, lambda: ())(),
        basic=bool(told.get("basic")),
        is_path=bool(told.get("path")),
        bounds=_bounds(field) if kind == "number" else "",
    )


def _bounds(field: FieldInfo) -> str:
    """The range of a number in words, "" where there is none."""
    told = list(field.metadata)
    for branch in get_args(field.annotation):
        for part in getattr(branch, "__metadata__", ()):
            told += getattr(part, "metadata", [part])
    found: dict[str, Any] = {}
    for bound in told:
        found |= {name: getattr(bound, name) for name in ("ge", "gt", "le", "lt") if hasattr(bound, name)}
    if "ge" in found and "le" in found:
        return f"{found['ge']:g} to {found['le']:g}"
    words = {"ge": "at least {:g}", "gt": "more than {:g}", "le": "at most {:g}", "lt": "less than {:g}"}
    # Seeds and the like are bounded by what a computer's whole numbers hold, which tells a person nothing.
    return ", ".join(words[name].format(value) for name, value in found.items() if value < 2**53)


def _kind(key: str, field: FieldInfo) -> tuple[Kind | None, tuple[str | int, ...]]:
    branches = list(_branches(field.annotation))
    if any(isinstance(b, type) and issubclass(b, BaseModel) for b in branches):
        return ("presence", ()) if _on_by_being_there(key) else (None, ())
    choices = tuple(c for b in branches if get_origin(b) is Literal for c in get_args(b))
    if branches == [bool]:
        return "switch", ()
    if choices:
        return "choice", choices
    origins = {get_origin(b) or b for b in branches}
    if list[str] in branches:
        return "lines", ()
    if str in origins and not origins & {int, float}:
        return "text", ()
    if dict in origins:
        return "table", ()
    if origins & {tuple, list}:
        return "list", ()
    return "number", ()


def _branches(annotation: Any) -> Iterator[Any]:
    """The types of a union, without None and annotations; lists of tables come out as their tables."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _branches(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for branch in get_args(annotation):
            yield from _branches(branch)
    elif (
        origin is list and isinstance(get_args(annotation)[0], type) and issubclass(get_args(annotation)[0], BaseModel)
    ):
        yield get_args(annotation)[0]
    elif annotation is not NoneType:
        yield annotation


def _on_by_being_there(key: str) -> bool:
    """Whether an empty table of this noise plugin already does something, so that the form needs a switch for it."""
    kind, _, name = key.partition(".")
    if kind != "noise" or name not in registry.names("noise"):
        return False
    plugin = registry.find("noise", name)
    return bool(plugin.active(plugin.Settings()))


def to_control(field: Field, value: Any) -> Control:
    """What the control shows for a value of the file; UNSET and None show the default, or nothing if it is above."""
    if value is UNSET or value is None:
        if field.inherits or field.default is None:
            return ""
        return to_control(field, field.default)
    if field.kind in ("switch", "presence"):
        if isinstance(value, bool):
            return ("yes" if value else "no") if field.inherits else value
        return toml_literal(value) if field.inherits else bool(field.default)  # a box can't show anything else
    if field.kind == "lines" and isinstance(value, list) and all(isinstance(line, str) for line in value):
        lines = [_quoted(line, blank_matters=True) for line in value]
        return toml_literal(value[0]) if len(lines) == 1 and NAMES_FILE.search(lines[0]) else "\n".join(lines)
    if field.kind == "table" and isinstance(value, dict):
        return toml_literal(value)[1:-1].strip()
    if isinstance(value, str) and field.kind in ("text", "choice", "number", "lines"):
        return _quoted(value, blank_matters=field.blank_is_unset)
    if field.kind in ("number", "choice") and isinstance(value, (int, float)) and not isinstance(value, bool):
        return toml_literal(value)
    if not value and value in ([], {}) and not field.blank_is_unset:
        return ""
    return toml_literal(list(value) if isinstance(value, tuple) else value)


def above(field: Field) -> Control:
    """What an option of a dataset or folder is where nothing is written: the default of [general]."""
    general = all_fields().get(f"general.{field.name}")
    return to_control(general, UNSET) if field.inherits and general else to_control(field, UNSET)


def from_control(field: Field, raw: Any) -> Any:
    """The value that a control stands for: UNSET, a value of the key's type, or the text as typed if it is neither."""
    if isinstance(raw, bool):
        return raw
    text = "" if raw is None else str(raw)
    if field.kind in ("switch", "presence"):
        return {"yes": True, "no": False, "": UNSET}.get(text, text)
    if text.strip() == "" and (field.kind not in ("text", "choice") or text == ""):
        return UNSET if field.blank_is_unset or field.default is None else field.default
    if field.kind == "text":
        return _unquoted(text.strip() if field.is_path else text)
    if field.kind == "choice":
        known = {str(choice): choice for choice in field.choices}
        if text in known:
            return known[text]
        number = _number(text)
        return _unquoted(text) if isinstance(number, str) else number
    if field.kind == "number":
        return _number(text)
    if field.kind == "lines":
        lines = [line for line in text.split("\n") if line.strip()]
        if len(lines) == 1 and (NAMES_FILE.search(lines[0]) or isinstance(field.default, str)):
            return _unquoted(lines[0].strip())  # a file, or one word for all
        return [_unquoted(x) for x in lines]
    return _literal(f"{{{text}}}", text) if field.kind == "table" else _list(text)


def toml_literal(value: Any) -> str:
    """A value as it stands in a file, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(k)} = {toml_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_literal(v) for v in value) + "]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.1f}" if value else "0.0"
    return tomlkit.item(value).as_string()


def toml_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else tomlkit.item(name).as_string()


def _quoted(text: str, *, blank_matters: bool) -> str:
    """The text itself, or in quotes where it would be misread: blank, of several lines, or quoted already."""
    misread = any(ord(c) < 32 for c in text) or (len(text) > 1 and text[0] == text[-1] == '"')
    if misread or (blank_matters and not text.strip()):
        return toml_literal(text)
    return text


def _unquoted(text: str) -> Any:
    return _literal(text, text) if len(text) > 1 and text[0] == text[-1] == '"' else text


def _number(text: str) -> Any:
    """A number as TOML or Python read it, or the text."""
    cleaned = text.strip()
    value = _literal(cleaned, cleaned)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    try:
        return float(cleaned)
    except ValueError:
        return text


def _list(text: str) -> Any:
    """`[1, 2]`, `1, 2` and `1024x768` are lists; a number alone is a number."""
    parts = re.split(r"\s*[,x\u00d7]\s*", text.strip())
    numbers = [_number(part) for part in parts]
    if not any(isinstance(number, str) for number in numbers):
        return numbers if len(numbers) > 1 else numbers[0]
    return _literal(text.strip(), text)


def _literal(text: str, otherwise: Any) -> Any:
    """The value of a TOML literal, or `otherwise` where it is none."""
    try:
        found = tomllib.loads(f"x = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return otherwise
    return found["x"] if set(found) == {"x"} else otherwise
