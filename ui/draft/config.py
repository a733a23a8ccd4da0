"""The config that a page is editing: the file's text, its dataset tables as the form sees them, and what is selected.

A draft lives in the page, not in the server, so that an open page survives a restart of the server. It comes back from
the page as JSON and is checked like any other input.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Limits

from trainer.config.syntax import explained
from trainer.errors import UserError
from ui.draft.fields import (
    DATASET,
    FOLDER,
    HELD_OUT,
    UNSET,
    Control,
    Field,
    all_fields,
    from_control,
    noise_headlines,
    section_fields,
    to_control,
)

MOST_TEXT = 1_000_000  # characters of a config file
MOST_ENTRIES = 1000  # datasets, and folders in each


class FormEntry(BaseModel):
    """A dataset or folder: its place in the file's text (None = new), and the controls of what is written there."""

    model_config = ConfigDict(extra="forbid")
    origin: int | None = Limits(default=None, ge=0)
    written: dict[str, str | bool] = {}


class Folder(FormEntry):
    """One [[datasets.subsets]]."""


class DatasetForm(FormEntry):
    """One [[datasets]], or one [[validation.datasets]] when it is held out."""

    held_out: bool = False
    folders: list[Folder] = Limits(default_factory=list, max_length=MOST_ENTRIES)


class Draft(BaseModel):
    """`file`: the config's name in the workspace, "" when it was never saved; `text`: what the form began with;
    `disk`: the fingerprint of the file as it was last read or written."""

    model_config = ConfigDict(extra="forbid")
    file: str = ""
    text: str = Limits(default="", max_length=MOST_TEXT)
    disk: str = ""
    datasets: list[DatasetForm] = Limits(default_factory=list, max_length=MOST_ENTRIES)
    dataset: int = Limits(default=0, ge=0)
    folder: int = Limits(default=0, ge=0)

    @property
    def selected(self) -> tuple[DatasetForm, Folder]:
        """What the form shows; a file without datasets or folders is shown as if it had an empty one."""
        dataset = self.datasets[self.dataset] if self.dataset < len(self.datasets) else DatasetForm(origin=None)
        return dataset, dataset.folders[self.folder] if self.folder < len(dataset.folders) else Folder(origin=None)


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """Raises UserError where the text is not TOML."""
    if len(text) > MOST_TEXT:
        raise UserError(f"{source}: {len(text)} characters are too long for a config.")
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(explained(text, error, source)) from None


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def from_file(text: str, file: str) -> Draft:
    """The draft of a file's content. Raises UserError as `from_text`."""
    draft = from_text(text, file)
    draft.disk = fingerprint(text)
    return draft


def from_text(text: str, file: str = "") -> Draft:
    """Raises UserError where the text is not TOML, or its dataset tables are none."""
    values = parse_toml(text, file or "config")
    datasets = []
    for place in ("datasets", HELD_OUT):
        for d, table in enumerate(_tables(value_at(values, place), place)):
            folders = [
                Folder(origin=s, written=_written(FOLDER, inner))
                for s, inner in enumerate(_tables(table.get("subsets"), f"{place}[{d}].subsets"))
            ]
            held_out = place == HELD_OUT
            datasets.append(DatasetForm(origin=d, written=_written(DATASET, table), folders=folders, held_out=held_out))
    return Draft(file=file, text=text, datasets=datasets)


def from_json(text: str) -> Draft:
    """The draft as the page sent it. Raises UserError when it is none."""
    if not text:
        return Draft()
    try:
        draft = Draft.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"the page sent a damaged config ({error.error_count()} errors); reload it.") from None
    parse_toml(draft.text, draft.file or "config")
    return draft


def _tables(value: Any, place: str) -> Sequence[dict[str, Any]]:
    if value is UNSET or value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UserError(f"{place}: expected tables, written as [[...]].")
    return value


def _written(section: str, table: Mapping[str, Any]) -> dict[str, Control]:
    return {f.name: to_control(f, table[f.name]) for f in section_fields(section) if f.name in table}


def plain_shown(text: str) -> dict[str, Control]:
    """What the controls outside the datasets show for a file's text."""
    values = with_noise_tables(parse_toml(text, "config"))
    return {key: to_control(field, value_at(values, key)) for key, field in all_fields().items() if DATASET not in key}


def shown(draft: Draft) -> dict[str, Control]:
    """What every control shows for a draft."""
    dataset, folder = draft.selected
    controls = plain_shown(draft.text)
    for field in all_fields().values():
        if field.section in (DATASET, FOLDER):
            written = (folder if field.section == FOLDER else dataset).written
            controls[field.key] = written.get(field.name, to_control(field, UNSET))
    return {key: controls[key] for key in all_fields()}


def collected(draft: Draft, controls: Mapping[str, Control]) -> Draft:
    """The draft with the controls of the selected dataset and folder taken over."""
    found = draft.model_copy(deep=True)
    dataset, folder = found.selected
    for section, entry in ((DATASET, dataset), (FOLDER, folder)):
        before = set(entry.written)
        entry.written = {f.name: c for f in section_fields(section) if _says(f, c := controls[f.key], before)}
    if found.dataset >= len(found.datasets) and (dataset.written or folder.written):
        found.dataset = len(found.datasets)
        found.datasets.append(dataset)
    if found.folder >= len(dataset.folders) and folder.written:
        found.folder = len(dataset.folders)
        dataset.folders.append(folder)
    return found


def _says(field: Field, control: Control, before: set[str]) -> bool:
    """Whether a control of a dataset or folder says something that must be written there."""
    if field.inherits:
        return from_control(field, control) is not UNSET
    return field.name in before or control != to_control(field, UNSET)


def value_at(values: Any, key: str) -> Any:
    """The value of a dotted key in nested tables, or UNSET."""
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return UNSET
        values = values[part]
    # The switch of a plugin whose table alone turns it on.
    return bool(values) or values == {} if key in noise_headlines() else values


def with_noise_tables(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values with `noise.x = 64` written as the table that it stands for."""
    noise = values.get("noise")
    if not isinstance(noise, Mapping):
        return dict(values)
    spread = {
        name: {headline.rpartition(".")[2]: noise[name]}
        for plugin, headline in noise_headlines().items()
        if (name := plugin.partition(".")[2]) in noise and not isinstance(noise[name], Mapping)
    }
    return {**values, "noise": {**noise, **spread}}
