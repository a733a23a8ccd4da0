"""What the handlers of the setup page do, as plain functions of the draft and the controls."""

from __future__ import annotations

import difflib
import html
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config.presets.choosing import preset_of, text_of
from trainer.errors import UserError
from trainer.files.atomic import write_text
from ui.draft import config as drafts
from ui.draft import kept
from ui.draft.config import Draft
from ui.draft.fields import UNSET, Control, above, all_fields, from_control
from ui.draft.problems import ConfigProblem, problems
from ui.draft.problems import problems_of_files as problems_of_files_of
from ui.draft.toml_text import rendered
from ui.workspace import Workspace, forget, free_name, read_config

KEPT_WITH_PRESET = ("run.name", "model.base", "datasets[].subsets[].image_dir", "datasets[].subsets[].trigger")
CHOSEN_FIRST = ("model.base", "datasets[].subsets[].image_dir")
NEW = """# A run of Immiscible Trainer. What is not written here has its default.

[run]
name = "my-lora"

[model]
base = ""

[noise]
# oversampling = 64  # Noise Oversampling: of 64 noises the one nearest to each image; free, but no gain is shown

[[datasets]]
resolution = 512
enable_bucket = true

[[datasets.subsets]]
image_dir = ""
"""


@dataclass(frozen=True)
class Page:
    """The state of the form: a draft whose selected entries are up to date, and every control."""

    draft: Draft
    controls: dict[str, Control]

    @property
    def text(self) -> str:
        """The config as TOML."""
        return rendered(self.draft, self.controls)

    @property
    def problems(self) -> list[ConfigProblem]:
        return problems(self.draft, self.text)


def page_of(draft_json: str, raw: Sequence[Control]) -> Page:
    """The page's state from what the browser sent. Raises UserError where that is damaged."""
    draft = drafts.from_json(draft_json)
    fields = all_fields()
    if len(raw) != len(fields):
        raise UserError("the page is older than the program; reload it.")
    controls: dict[str, Control] = {
        key: value if isinstance(value, bool) else "" if value is None else str(value)
        for key, value in zip(fields, raw, strict=True)
    }
    return Page(drafts.collected(draft, controls), controls)


def opened(draft: Draft) -> Page:
    return Page(draft, drafts.shown(draft))


def new() -> Page:
    return opened(drafts.from_text(NEW))


def open_config(workspace: Workspace, name: str) -> Page:
    page = opened(drafts.from_file(read_config(workspace.config(name)), name))
    workspace.used(name)
    return page


def from_run(workspace: Workspace, name: str) -> Page:
    """A new config like that of a run, under the next free name. Raises UserError."""
    run = workspace.run(name)
    page = opened(drafts.from_text(read_config(run.config)))
    taken = {other.name for other in workspace.runs().values()} | {Path(n).stem for n in workspace.configs()}
    return page_of(
        page.draft.model_dump_json(), list({**page.controls, "run.name": free_name(run.name, taken)}.values())
    )


def open_preset(name: str, before: Page) -> Page:
    """A preset as a new config; name, base and images that were chosen already are kept."""
    page = opened(drafts.from_text(text_of(preset_of(name.split()))))
    kept = {key: value for key in KEPT_WITH_PRESET if (value := before.controls[key]) and before.draft.datasets}
    return page_of(page.draft.model_dump_json(), list({**page.controls, **kept}.values()))


def open_text(text: str, before: Page) -> Page:
    """A config that was typed or pasted; it still belongs to the file that was open."""
    draft = drafts.from_text(text, before.draft.file)
    draft.disk = before.draft.disk
    return opened(draft)


def save(workspace: Workspace, page: Page) -> Page:
    """Writes the open file. Raises UserError when it has no name yet, or was changed by somebody else meanwhile."""
    if not page.draft.file:
        raise UserError("this config has no file yet: give it a name and save it.")
    path = workspace.config(page.draft.file)
    if drafts.fingerprint(read_config(path)) != page.draft.disk:
        raise UserError(
            f"{page.draft.file}: was changed on disk since it was opened. Open it again to see those changes, "
            "or save under another name."
        )
    return _write(workspace, page, path)


def save_as(workspace: Workspace, page: Page, name: str) -> Page:
    path = workspace.new_config(name)
    if path.exists() and workspace.relative(path) != page.draft.file:
        raise UserError(f"{path.name}: there is such a file already; choose another name.")
    return _write(workspace, page, path)


def saved_to_run(workspace: Workspace, page: Page, runs: Container[str]) -> Page:
    """The page, saved if it has changes. `runs`: names of those that there are or that wait. A variant of one of them
    gets a file of its own, named like itself: the config of the earlier run stays what it was."""
    name = str(page.controls["run.name"]) or "run"
    if not page.draft.file:
        return save_as(workspace, page, name)
    if not changed(page):
        return page
    before = _run_name(page.draft)
    variant = before != (str(page.controls["run.name"]) or Path(page.draft.file).stem) and before in runs
    return save_as(workspace, page, name) if variant else save(workspace, page)


def _run_name(draft: Draft) -> str:
    """Of the run that the file describes; a file that names none is named after itself."""
    found = drafts.value_at(drafts.parse_toml(draft.text, draft.file), "run.name")
    return found if isinstance(found, str) else Path(draft.file).stem


def _write(workspace: Workspace, page: Page, path: Path) -> Page:
    text = page.text
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error}).") from None
    forget()
    name = workspace.relative(path)
    workspace.used(name)
    kept.saved(workspace, page.draft.file, name, text)
    saved = drafts.from_file(text, name)
    saved.dataset, saved.folder = page.draft.dataset, page.draft.folder
    return opened(saved)


def note(workspace: Workspace, page: Page) -> Page:
    """Keeps an edit, so that it can be taken back and outlives the page."""
    kept.note(workspace, page.draft.file, page.draft.text, page.text)
    return page


def step(workspace: Workspace, page: Page, by: int) -> Page:
    """The form one edit back (-1) or forth (1). Raises UserError where there is none."""
    note(workspace, page)
    return open_text(kept.step(workspace, page.draft.file, by), page)


def take_over(workspace: Workspace, page: Page) -> Page:
    """The edits that were never saved, in the form again. Raises UserError where there are none."""
    found = kept.waiting(workspace, page.draft.file)
    if found is None:
        raise UserError("there are no unsaved changes any more.")
    return open_text(found.text, page)


def first(workspace: Workspace) -> Page:
    """What a page opens with: what was worked on last."""
    unnamed = kept.waiting(workspace, "")
    if unnamed is not None and unnamed.time > workspace.noted("recent"):
        return new()
    for name in workspace.recent() or workspace.configs()[:1]:
        try:
            return open_config(workspace, name)
        except UserError:
            continue  # it was damaged since: the next one
    return new()


def offer_html(workspace: Workspace, page: Page) -> str:
    """A line about edits that were never saved, "" where there are none."""
    found = kept.waiting(workspace, page.draft.file)
    if found is None or found.text == page.text:
        return ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.time))
    what = html.escape(page.draft.file or "a config without a name")
    return f"<p role='status'>Changes of <b>{what}</b> from {when} were never saved.</p>"


def unsaved(workspace: Workspace, page: Page) -> str:
    """The difference between the file on disk and the form, as a unified diff."""
    try:
        before = read_config(workspace.config(page.draft.file)) if page.draft.file else ""
    except UserError:
        before = ""
    lines = difflib.unified_diff(before.splitlines(), page.text.splitlines(), "file", "form", lineterm="", n=2)
    return "\n".join(lines)


def from_defaults(page: Page) -> list[tuple[str, str, str]]:
    """(key, default, value) of everything that differs from its default."""
    found = []
    for key, field in all_fields().items():
        value = from_control(field, page.controls[key])
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        if value is not UNSET and value != default:
            found.append((key, _words(above(field)), _words(page.controls[key])))
    return found


def _words(control: Control) -> str:
    return {True: "yes", False: "no"}[control] if isinstance(control, bool) else control


def diff_html(text: str) -> str:
    kinds = {"+": "added", "-": "removed", "@": "place"}
    rows = [
        f"<span class='{kinds.get(line[:1], '')}'>{html.escape(line) or ' '}</span>"
        for line in text.splitlines()
        if not line.startswith(("+++", "---"))
    ]
    return f"<pre class='diff'>{''.join(rows)}</pre>" if rows else "<p class='quiet'>Nothing is unsaved.</p>"


def defaults_html(rows: Sequence[tuple[str, str, str]]) -> str:
    if not rows:
        return "<p class='quiet'>Every setting has its default.</p>"
    body = "".join(
        f"<tr><td><code>{k}</code></td><td>{html.escape(v)}</td><td class='quiet'>{html.escape(d)}</td></tr>"
        for k, d, v in rows
    )
    return f"<table class='plain'><tr><th>Setting</th><th>Value</th><th>Default</th></tr>{body}</table>"


def problems_of_files(workspace: Workspace, page: Page) -> list[ConfigProblem]:
    """What only the disk tells of a config that is right by itself."""
    directory = (workspace.root / page.draft.file).parent if page.draft.file else workspace.root
    return problems_of_files_of(page.draft, page.text, directory)


def problems_html(page: Page, found: Sequence[ConfigProblem]) -> str:
    """The list above the form; the page's script marks the fields by it."""
    if not found:
        return "<div class='good' role='status'>Ready: settings are valid, base and images are there.</div>"
    if not page.draft.file and all(p.control in CHOSEN_FIRST and not page.controls[p.control] for p in found):
        return _still_to_choose([p.control for p in found])
    ids = {key: field.control_id for key, field in all_fields().items()}
    rows = []
    for problem in found:
        said = html.escape(problem.text, quote=True) if problem.visible(page.draft) else ""
        show = f"data-show='{ids[problem.control]}' data-said=\"{said}\"" if problem.control else ""
        key = f"<code>{html.escape(problem.key)}</code> " if problem.key else ""
        rows.append(f"<li><button type='button' {show}>{key}{html.escape(problem.text)}</button></li>")
    count = "1 setting needs" if len(rows) == 1 else f"{len(rows)} settings need"
    return f"<div class='bad-list' role='alert'><b>{count} attention</b><ul>{''.join(rows)}</ul></div>"


def _still_to_choose(keys: Sequence[str]) -> str:
    """A new config, in which nothing is wrong yet."""
    fields = [all_fields()[key] for key in dict.fromkeys(keys)]
    rows = "".join(f"<li><button type='button' data-show='{f.control_id}'>{f.label}</button></li>" for f in fields)
    return f"<div class='note-box to-choose' role='status'><b>Still to choose</b><ul>{rows}</ul></div>"


def summary_html(page: Page) -> str:
    """What the config would do, in one sentence."""
    c = page.controls
    name = str(c["run.name"]) or Path(page.draft.file).stem or "run"
    what = f"a LoRA of rank {c['lora.rank']}" if c["training.method"] == "lora" else "all weights"
    length = (
        f"{c['training.epochs']} epochs" if c["training.epochs"] not in ("", "0") else f"{c['training.steps']} steps"
    )
    choice = oversampling_choice(c)
    noise = {"Off": "plain noise", "Custom": f"Noise Oversampling {c['noise.oversampling.k']}"}
    folders = sum(len(d.folders) for d in page.draft.datasets if not d.held_out)
    images = f"on {'1 folder' if folders == 1 else f'{folders} folders'} of images"
    if not folders and "slider" in drafts.parse_toml(page.draft.text, page.draft.file):
        images = "by prompts, without images"
    parts = [
        f"Trains {what} for {length}",
        images,
        f"with {noise.get(choice, f'Noise Oversampling {choice}')}",
    ]
    said = html.escape(" ".join(parts))
    return f"<p class='summary'><b>{html.escape(name)}</b> {said}.</p>"


def changed(page: Page) -> bool:
    """Whether something would be lost with the page."""
    return drafts.fingerprint(page.text) != page.draft.disk


def oversampling_choice(controls: Mapping[str, Control]) -> str:
    """The choice of the basic view that stands for the k in the form."""
    k = from_control(all_fields()["noise.oversampling.k"], controls["noise.oversampling.k"])
    return "Off" if k in (0, 1) else str(k) if k in (64, 128, 256) else "Custom"


def state_html(page: Page) -> str:
    if not page.draft.file:
        edited = page.text != page.draft.text
        return f"<span class='pill'{' data-lose' if edited else ''}>not saved</span>"
    return (
        "<span class='pill warn' data-lose>unsaved changes</span>"
        if changed(page)
        else "<span class='pill ok'>saved</span>"
    )


def files(workspace: Workspace) -> list[str]:
    """The configs of the workspace, those used last first."""
    recent = workspace.recent()
    return [*recent, *(name for name in workspace.configs() if name not in recent)]
