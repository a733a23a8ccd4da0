"""What is written about one image: its captions, where they came from, its weight; from text or from JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.config.schema.data import SubsetOptions
from trainer.data.captions import tags
from trainer.errors import UserError
from trainer.files import ordinary

KEYS = frozenset({"caption", "captions", "tags", "loss_weight"})  # of a JSON object that we read
Origin = Literal["found", "missing", "empty"]


@dataclass(frozen=True, slots=True)
class Written:
    captions: tuple[str, ...]  # alternatives, one of which is drawn each time; ("",) when there is none
    origin: Origin
    unused_lines: bool = False  # whether the file has lines that no option asks for
    weight: float = 1.0  # in the loss


def missing(options: SubsetOptions) -> Written:
    """Of an image without a caption."""
    return Written((options.class_tokens,), "missing")


def from_lines(lines: list[str], options: SubsetOptions) -> Written:
    """Of a caption file: its first line, or with `enable_wildcard` each of its lines (kohya's rule)."""
    if not lines:
        return Written(("",), "empty")
    if options.enable_wildcard:
        return Written(tuple(lines), "found")
    return Written((lines[0],), "found", unused_lines=len(lines) > 1)


def from_entry(entry: Any, options: SubsetOptions, where: str) -> Written:
    """Of a JSON object with `caption` and/or `captions` and `tags`, as kohya's metadata files hold them.

    Tags (a text or a list) follow each caption, after the separator. `captions`, a list, gives alternatives;
    `loss_weight` weighs this image. Other keys are not ours. Raises UserError, starting with `where`.
    """
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object with caption or tags, found {json.dumps(entry)[:60]}")
    sentences = _sentences(entry, options, where)
    listed = _texts(entry.get("tags"), where, "tags")
    joined = tags.join(listed, options.caption_separator)
    if joined:
        sentences = [tags.join([s, joined] if s else [joined], options.caption_separator) for s in sentences or [""]]
    weight = entry.get("loss_weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < 1e6:
        raise UserError(f"{where}: loss_weight is {weight!r}, expected a number of at least 0")
    if not {"caption", "captions", "tags"} & entry.keys():
        return Written((options.class_tokens,), "missing", weight=float(weight))
    alternatives = tuple(dict.fromkeys(s for s in sentences if s))
    return Written(alternatives or ("",), "found" if alternatives else "empty", weight=float(weight))


def _sentences(entry: dict[str, Any], options: SubsetOptions, where: str) -> list[str]:
    found = _texts(entry.get("captions"), where, "captions")
    for text in _texts(entry.get("caption"), where, "caption"):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        found += lines if options.enable_wildcard else lines[:1]
    return found


def _texts(value: Any, where: str, key: str) -> list[str]:
    """A text, a list of texts, or nothing, as a list."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in values):
        raise UserError(f"{where}: {key} is {json.dumps(value)[:60]}, expected a text or a list of texts")
    return [text.strip() for text in values if text.strip()]


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises UserError naming it, with line and column."""
    try:
        return json.loads(ordinary.content(path).decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON: {error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not usable JSON: nested too deeply") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
