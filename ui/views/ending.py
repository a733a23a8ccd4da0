"""What stands on a run's page once it is over: what it learned, which file to use, and where to go from here."""

from __future__ import annotations

import html
import json
from pathlib import Path

from trainer.journal.run_dir import RunDir
from ui.server.media import Media
from ui.work.history import History, whole
from ui.work.results import SEPARATOR, of_run
from ui.work.status import LIVE, Status
from ui.workspace import read_json


def ending_html(media: Media, name: str, run: RunDir, found: Status, told: History) -> str:
    """ "" while it goes on, and where nothing came of it."""
    if found.state in LIVE:
        return ""
    file, what = _best(run, told)
    if file is None:
        return ""
    said = verdict(run)
    sentence = f"<p>{html.escape(said[:1].upper() + said[1:])}.</p>" if said else ""
    report = ""
    if run.learning_page.is_file():
        url = media.url("report", run.learning_page)
        report = f"<a href='{url}' target='_blank' rel='noopener'>Learning report</a>"
    buttons = [
        _button("Try it", "Try", {"do": "try", "result": f"{name}{SEPARATOR}{file.name}"}),
        f"<a class='button' href='{media.url('download', file)}' download>Download</a>" if file.is_file() else "",
        f"<button type='button' class='button' data-copy='{html.escape(str(file), quote=True)}'>Copy its path</button>",
        _button("Compare with ...", "Runs", {"do": "compare", "run": name}),
        report,
    ]
    return (
        f"<div class='ending' role='status'><b>{html.escape(file.name)}</b> <span class='quiet'>{what}</span>{sentence}"
        f"<p class='links'>{''.join(buttons)}</p></div>"
    )


def verdict(run: RunDir) -> str:
    """The learning report's sentence, "" without one."""
    found = read_json(run.learning_numbers)
    said = found.get("verdict") if isinstance(found, dict) else ""
    return said if isinstance(said, str) else ""


def _best(run: RunDir, told: History) -> tuple[Path | None, str]:
    """The result to use, and why."""
    best = run.best.with_name(f"{run.best.name}.safetensors")
    step = whole(told.validations[-1].get("best")) if told.validations else 0
    if best.is_file():
        return best, f"the best state: step {step:,}" if step else "the best state"
    found = of_run(run)
    return (found[0], "the newest result") if found else (None, "")


def _button(text: str, tab: str, told: dict[str, str]) -> str:
    pick = html.escape(json.dumps(told), quote=True)
    return f"<button type='button' class='button' data-tab='{tab}' data-pick='{pick}'>{text}</button>"
