"""Every key of the config as a page of Markdown, with its names in other trainers: docs/settings.md."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.config.foreign.names import names_of
from trainer.config.keys import keys as schema_keys
from trainer.config.schema.data import DatasetSettings, GeneralSettings, SubsetSettings

HEAD = """# Every setting

Made from the schema by `python -m trainer schema --markdown`; do not edit. The column *elsewhere* gives names of the
same setting in kohya's sd-scripts, OneTrainer, ai-toolkit and diffusers; typing one of them into the TOML file is
answered with the name used here. Dataset options are explained in [datasets.md](datasets.md).
"""
DATASETS = (
    "Options of images and captions may stand in `[[datasets.subsets]]`, `[[datasets]]` or `[general]`; the nearest "
    "one wins. `[[validation.datasets]]` takes the same."
)


def markdown() -> str:
    """The whole page."""
    parts = [HEAD]
    for table, rows in _tables().items():
        name = f"[[{table[:-2]}]]" if table.endswith("[]") else f"[{table}]"
        parts.append(f"## `{name}`\n" if table else "## Top level\n")
        parts.append(_table(rows))
    parts += ["## Datasets\n", f"{DATASETS}\n", _table(_dataset_rows())]
    return "\n".join(parts)


Rows = list[tuple[str, FieldInfo]]


def _tables() -> dict[str, Rows]:
    """The keys by the table that they stand in, datasets left out."""
    found: dict[str, Rows] = {}
    for path, field in schema_keys():
        table = path.rpartition(".")[0]
        if "datasets" in path or path.startswith("general") or _is_table(field):
            continue
        found.setdefault(table, []).append((path, field))
    return found


def _dataset_rows() -> Rows:
    rows = {
        name: field
        for model in (SubsetSettings, DatasetSettings, GeneralSettings)
        for name, field in model.model_fields.items()
    }
    return [(f"datasets[].{name}", field) for name, field in rows.items() if not _is_table(field)]


def _is_table(field: FieldInfo) -> bool:
    kinds = (field.annotation, *get_args(field.annotation))
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)


def _table(rows: Rows) -> str:
    lines = ["| key | default | what it does | elsewhere |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(_cells(path, field))} |" for path, field in rows]
    return "\n".join(lines) + "\n"


def _cells(path: str, field: FieldInfo) -> Iterator[str]:
    yield f"`{path.rpartition('.')[2]}`"
    yield f"`{_literal(field.get_default(call_default_factory=True))}`"
    choices = _choices(field.annotation)
    listed = f" One of {', '.join(f'`{_literal(choice)}`' for choice in choices)}." if choices else ""
    yield _escaped(f"{field.description or ''}{listed}")
    yield ", ".join(f"`{other}`" for other in names_of(path))


def _choices(annotation: Any) -> tuple[Any, ...]:
    """What may be written, where that is a list of names."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (typing.Union, typing.Annotated):
        inner = [one for one in get_args(annotation) if one is not NoneType]
        return _choices(inner[0]) if len(inner) == 1 or get_origin(annotation) is typing.Annotated else ()
    return ()


def _literal(value: Any) -> str:
    """As TOML writes it; a key that is absent unless set has none."""
    match value:
        case None:
            return "not set"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case tuple() | list():
            return f"[{', '.join(map(_literal, value))}]"
        case dict():
            return "{}" if not value else str(value)
        case float():
            return f"{value:g}"
    return str(value)


def _escaped(text: str) -> str:
    """A bar would end the cell, and < might begin a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")
