"""Runs that differ in one setting: what they are called, and the config of each."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass

from trainer.config import reading
from trainer.errors import UserError
from ui.draft.config import parse_toml
from ui.draft.fields import DATASET, FOLDER, Control, Field, all_fields, section_fields
from ui.draft.labels import section_label
from ui.draft.session import Page, page_of
from ui.draft.toml_text import rendered
from ui.workspace import PLAIN_NAME

MOST = 20  # runs at once
OFF = {"off": "0", "no": "0", "none": "0"}  # of a number
NAMES = ("run.name", "run.output_dir")
SWITCHES = {"yes": True, "no": False, "true": True, "false": False, "on": True, "off": False}
EVERY = {DATASET: "Every dataset", FOLDER: "Every folder"}


@dataclass(frozen=True)
class Variant:
    name: str  # of the run
    value: str
    text: str  # the config


def choices() -> list[tuple[str, str]]:
    """(what a person reads, the key) of every setting that can be varied."""
    return [
        (f"{EVERY.get(f.section) or section_label(f.section)}: {f.label} ({key})", key) for key, f in _fields().items()
    ]


def _fields() -> dict[str, Field]:
    """An option of images is varied where nothing overrules it: in every folder, else in every dataset."""
    of_folders = {field.name for field in section_fields(FOLDER)}
    overruled = {f"{DATASET}.{name}" for name in of_folders} | set(NAMES)
    return {k: f for k, f in all_fields().items() if k not in overruled and f.section != "general"}


def variants(page: Page, key: str, values: str, taken: Container[str]) -> list[Variant]:
    """One run for each value, in the order in which they were written. taken: names that runs and configs have.

    Raises UserError with everything that is wrong, also with what the values do to the config.
    """
    field = _fields().get(key)
    if field is None:
        raise UserError("setting: choose one of the list.")
    found = list(dict.fromkeys(_split(values)))
    if not 1 <= len(found) <= MOST:
        raise UserError(f"values: expected 1 to {MOST} with commas between them, such as: off, 64, 256.")
    base = str(page.controls["run.name"]) or "run"
    made, problems = [], []
    for value in found:
        written = OFF.get(value.lower(), value) if field.kind == "number" else value
        name = f"{base}-{_short(key)}-{_plain(value)}"
        text = _with(page, field, written, name)
        made.append(Variant(name, value, text))
        problems += _problems(text, name, taken)
    if len({variant.name for variant in made}) < len(made):
        problems.append("values: two of them give the same name.")
    if problems:
        raise UserError(list(dict.fromkeys(problems)))
    return made


def _split(values: str) -> list[str]:
    """At commas and line ends, but not inside brackets: [0, 500] is one value."""
    parts = re.split(r"[,;\n](?![^\[{]*[\]}])", values or "")
    return [part.strip() for part in parts if part.strip()]


def _with(page: Page, field: Field, written: str, name: str) -> str:
    if field.section in EVERY:
        return _in_every(page, field, written, name)
    changed = {field.key: _control(field, written), "run.name": name}
    return page_of(page.draft.model_dump_json(), list({**page.controls, **changed}.values())).text


def _in_every(page: Page, field: Field, written: str, name: str) -> str:
    """The config with an option in all that trains; what is held out stays, so that runs are measured alike."""
    draft = page.draft.model_copy(deep=True)
    training = [dataset for dataset in draft.datasets if not dataset.held_out]
    entries = training if field.section == DATASET else [folder for dataset in training for folder in dataset.folders]
    if not entries:
        raise UserError("images: choose a folder first.")
    if field.is_path and len(entries) > 1:
        raise UserError(f"{field.name}: the {len(entries)} folders of this config would all become one.")
    for entry in entries:
        entry.written[field.name] = _control(field, written)
    return rendered(draft, {**page.controls, "run.name": name})


def _control(field: Field, written: str) -> Control:
    """What the control would hold."""
    if field.kind not in ("switch", "presence") or written.lower() not in SWITCHES:
        return written
    on = SWITCHES[written.lower()]
    return ("yes" if on else "no") if field.inherits else on


def _problems(text: str, name: str, taken: Container[str]) -> list[str]:
    if not PLAIN_NAME.fullmatch(name):
        return [f"{name!r}: is no name for a run; give the run a shorter one."]
    if name in taken:
        return [f"{name}: there is such a run or config already."]
    _, lines = reading.validate(parse_toml(text, name))
    return lines


def _short(key: str) -> str:
    """noise.oversampling.k -> oversampling; optimizer.lr -> lr"""
    *rest, last = key.replace("[]", "").split(".")
    return rest[-1] if len(last) == 1 and rest else last


def _plain(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", value).strip("-.") or "blank"
