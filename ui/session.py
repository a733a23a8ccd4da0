"""What the handlers of the setup page do, as plain functions of the draft and the controls."""

from __future__ import annotations

import difflib
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.errors import UserError
from trainer.files.atomic import write_text
from ui import draft as drafts
from ui.draft import Draft
from ui.fields import UNSET, Control, above, all_fields, from_control
from ui.problems import Problem, problems
from ui.toml_text import rendered
from ui.workspace import Workspace, forget, read_config

KEPT_WITH_PRESET = ("run.name", "model.base", "datasets[].subsets[].image_dir", "datasets[].subsets[].trigger")
NEW = """# A run of Immiscible Trainer. What is not written here has its default.

[run]
name = "my-lora"

[model]
base = ""

[noise]
oversampling = 64

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
    def problems(self) -> list[Problem]:
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


def open_preset(workspace: Workspace, name: str, before: Page) -> Page:
    """A preset as a new config; name, base and images that were chosen already are kept."""
    presets = workspace.presets()
    if name not in presets:
        raise UserError(f"{name!r}: there is no such preset.")
    page = opened(drafts.from_text(read_config(presets[name])))
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


def _write(workspace: Workspace, page: Page, path: Path) -> Page:
    text = page.text
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror or error}).") from None
    forget()
    name = workspace.relative(path)
    workspace.used(name)
    saved = drafts.from_file(text, name)
    saved.dataset, saved.folder = page.draft.dataset, page.draft.folder
    return opened(saved)


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


def problems_html(page: Page) -> str:
    """The list above the form; the page's script marks the fields by it."""
    found = page.problems
    if not found:
        return "<div class='good' role='status'>Ready: every setting is valid.</div>"
    ids = {key: field.control_id for key, field in all_fields().items()}
    rows = []
    for problem in found:
        said = html.escape(problem.text, quote=True) if problem.visible(page.draft) else ""
        show = f"data-show='{ids[problem.control]}' data-said=\"{said}\"" if problem.control else ""
        key = f"<code>{html.escape(problem.key)}</code> " if problem.key else ""
        rows.append(f"<li><button type='button' {show}>{key}{html.escape(problem.text)}</button></li>")
    count = "1 setting needs" if len(rows) == 1 else f"{len(rows)} settings need"
    return f"<div class='bad-list' role='alert'><b>{count} attention</b><ul>{''.join(rows)}</ul></div>"


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
    images = "1 folder" if folders == 1 else f"{folders} folders"
    parts = [
        f"Trains {what} for {length}",
        f"on {images} of images",
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
        return "<span class='pill'>not saved</span>"
    return "<span class='pill warn'>unsaved changes</span>" if changed(page) else "<span class='pill ok'>saved</span>"


def files(workspace: Workspace) -> list[str]:
    """The configs of the workspace, those used last first."""
    recent = workspace.recent()
    return [*recent, *(name for name in workspace.configs() if name not in recent)]
