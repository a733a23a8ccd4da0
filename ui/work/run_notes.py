"""A star and a note on a run, kept by the UI."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic import Field as Limits

from ui.workspace import Workspace


class RunNote(BaseModel):
    model_config = ConfigDict(extra="ignore")
    star: bool = False
    text: str = Limits(default="", max_length=1000)


def read(workspace: Workspace) -> dict[str, RunNote]:
    """By run; what is damaged is passed over."""
    found = {}
    for name, told in workspace.note("runs", {}).items():
        try:
            found[name] = RunNote.model_validate(told)
        except ValidationError:
            continue
    return found


def write(workspace: Workspace, name: str, *, star: bool | None = None, text: str | None = None) -> None:
    """Raises UserError for what is no run."""
    workspace.run(name)
    before = read(workspace).get(name, RunNote())
    now = RunNote(star=before.star if star is None else star, text=before.text if text is None else text[:1000])
    workspace.write_note("runs", {**workspace.note("runs", {}), name: now.model_dump()})
