"""Other trainers' files in the form: what became of each of their keys, then the config."""

from __future__ import annotations

import html
from pathlib import Path

from trainer.config.foreign.recognise import kind_of
from trainer.config.importing import report
from trainer.config.importing.run import Imported, imported
from trainer.errors import UserError
from ui.draft import config as drafts
from ui.draft.session import Page, opened
from ui.workspace import Workspace


def refuse_foreign(path: Path) -> None:
    """Raises UserError for a file that only “Import” can open."""
    if what := kind_of(path):
        raise UserError(f"{path.name}: this is {what}: open it by “Import” beside “New”.")


def look_at(workspace: Workspace, uploaded: str, typed: str, script: str) -> Imported:
    """An uploaded file, whose relative paths are taken to start in the workspace, or one on the server's disk."""
    typed = typed.strip().strip("\"'")
    if not uploaded and not typed:
        raise UserError("choose a file, or write where it lies.")
    path = workspace.absolute(typed) if typed else Path(uploaded)
    folder = None if typed else workspace.root
    return imported(path, workspace.root / f"{path.stem}.toml", script=script, folder=folder, lenient=True)


def lists_html(found: Imported) -> str:
    """The four lists, and what is left to fill in."""
    left = f"<p>To fill in: {html.escape(', '.join(found.left))}.</p>" if found.left else ""
    parts = [
        f"<h3>{html.escape(title)}</h3><ul>{''.join(f'<li>{html.escape(line)}</li>' for line in told)}</ul>"
        for title, told in report.lists(found.translation)
    ]
    head = f"{found.translation.source.what}; {report.summary(found.translation)}."
    return f"<p>{html.escape(head)}</p>{left}{''.join(reversed(parts))}"


def open_imported(text: str) -> Page:
    """The result as a config without a file yet."""
    if not text:
        raise UserError("look at a file first.")
    return opened(drafts.from_text(text))
