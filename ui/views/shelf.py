"""The lists of runs, configs and the trash, each row with what can be done with it."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from trainer.journal.run_dir import RunDir
from ui.work import run_notes, trash
from ui.work.history import history, number
from ui.work.run_notes import RunNote
from ui.work.status import PILLS, WORDS, Status, status
from ui.workspace import Workspace

SORTS = {"newest first": "time", "name": "name", "loss": "loss", "better than base": "gain", "largest first": "size"}
NO_RUNS = (
    "<div class='note-box'>No runs yet. The <button type='button' class='link' data-tab='Train'>Train</button> "
    "page starts one; its results will be listed here.</div>"
)


@dataclass(frozen=True)
class ListedRun:
    name: str
    found: Status
    note: RunNote
    gain: float  # share better than the base, NaN where it was not measured
    when: float
    size: int

    def key(self, sort: str) -> tuple[bool, object]:
        """Stars come first everywhere."""
        by = {"time": -self.when, "name": self.name, "loss": self.found.loss, "gain": -self.gain, "size": -self.size}
        value = by.get(sort, -self.when)
        return not self.note.star, (1e300 if isinstance(value, float) and np.isnan(value) else value)

    def has(self, find: str) -> bool:
        text = f"{self.name} {WORDS[self.found.state]} {self.note.text}".lower()
        return all(word in text for word in find.lower().split())


def runs_html(workspace: Workspace, chosen: Sequence[str], find: str = "", sort: str = "time") -> str:
    """All runs that have the words of `find`, with a box to choose each."""
    notes = run_notes.read(workspace)
    rows = [_listed(workspace, name, run, notes) for name, run in workspace.runs().items()]
    if not rows:
        return NO_RUNS
    shown = sorted((row for row in rows if row.has(find)), key=lambda row: row.key(sort))
    if not shown:
        return "<p class='quiet'>No run has these words in its name, state or note.</p>"
    body = "".join(_row(row, checked=row.name in chosen) for row in shown)
    titles = ("Run", "State", "Step", "Loss", "Better than base", "Last change", "Size", "")
    head = "".join(f"<th>{text}</th>" for text in titles)
    return f"<div class='scroll'><table class='plain runs'><tr>{head}</tr>{body}</table></div>"


def _listed(workspace: Workspace, name: str, run: RunDir, notes: Mapping[str, RunNote]) -> ListedRun:
    told = history(run)
    last = told.validations[-1].get("better") if told.validations else None
    gain = number(last[0]) if isinstance(last, list) and len(last) == 3 else np.nan
    when = number((told.end or told.last_step or told.start).get("time"))
    size = _size_of(run.path, told.count, len(told.saves))
    found = status(workspace, name, run)
    return ListedRun(name, found, notes.get(name, RunNote()), gain, 0.0 if np.isnan(when) else when, size)


@lru_cache(maxsize=1024)
def _size_of(path: Path, events: int, saves: int) -> int:
    """Looked at again when the run has told something new."""
    return trash.size(path)


def _row(row: ListedRun, *, checked: bool) -> str:
    name = html.escape(row.name, quote=True)
    found = row.found
    gain = f"{row.gain:+.1%}" if np.isfinite(row.gain) else "-"
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(row.when)) if row.when else "-"
    note = f"<div class='quiet'>{html.escape(row.note.text)}</div>" if row.note.text else ""
    buttons = [
        _button(row.name, "star", "Star", "&#9733;" if row.note.star else "&#9734;"),
        _button(row.name, "note", "Note", "&#9998;", ask="A note on this run:", value=row.note.text),
        _button(row.name, "new", "New from this run", "&#43;", tab="Setup"),
    ]
    if not found.live:
        buttons += [
            _button(row.name, "rename", "Rename", "Aa", ask="Its new name:", value=Path(row.name).name),
            _button(row.name, "throw", "Delete", "&times;", confirm=f"Move {row.name} to the trash?"),
        ]
    return (
        f"<tr><td><label><input type='checkbox' data-box='{name}' {'checked' if checked else ''}> {name}</label>{note}"
        f"</td><td><span class='pill {PILLS[found.state]}'>{WORDS[found.state]}</span></td>"
        f"<td>{found.step:,} / {found.steps:,}</td>"
        f"<td>{f'{found.loss:.4g}' if np.isfinite(found.loss) else '-'}</td><td>{gain}</td><td>{date}</td>"
        f"<td>{size_text(row.size)}</td><td class='row-buttons'>{''.join(buttons)}</td></tr>"
    )


def configs_html(workspace: Workspace) -> str:
    rows = []
    for name in workspace.configs():
        path = workspace.root / name
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime)) if path.exists() else "-"
        buttons = [
            _button(name, "duplicate", "Duplicate", "&#43;"),
            _button(name, "rename-config", "Rename", "Aa", ask="Its new name:", value=path.stem),
            _button(name, "throw-config", "Delete", "&times;", confirm=f"Move {name} to the trash?"),
        ]
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{date}</td><td class='row-buttons'>{''.join(buttons)}</td></tr>"
        )
    if not rows:
        return "<p class='quiet'>No configs yet.</p>"
    return f"<table class='plain'><tr><th>Config</th><th>Changed</th><th></th></tr>{''.join(rows)}</table>"


def trash_html(workspace: Workspace) -> str:
    found = trash.listed(workspace)
    if not found:
        return "<p class='quiet'>The trash is empty.</p>"
    rows = "".join(
        f"<tr><td>{html.escape(item.origin)}</td><td>{size_text(item.size)}</td><td class='row-buttons'>"
        f"{_button(item.id, 'restore', f'Bring back {item.origin}', '&#8630;')}</td></tr>"
        for item in found
    )
    whole = size_text(sum(item.size for item in found))
    return f"<table class='plain'><tr><th>Deleted</th><th>{whole}</th><th></th></tr>{rows}</table>"


def _button(
    what: str, do: str, title: str, sign: str, *, tab: str = "", ask: str = "", value: str = "", confirm: str = ""
) -> str:
    data = {
        "pick": json.dumps({"do": do, "what": what}),
        "tab": tab,
        "ask": ask,
        "value": value,
        "confirm": confirm,
    }
    told = "".join(f" data-{k}='{html.escape(v, quote=True)}'" for k, v in data.items() if v)
    label = html.escape(f"{title}: {what}" if do != "restore" else title, quote=True)
    return f"<button type='button' title='{html.escape(title, quote=True)}' aria-label='{label}'{told}>{sign}</button>"


def size_text(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
