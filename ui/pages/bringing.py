"""Bringing images in, and finding folders and models on the machine that the server runs on."""

from __future__ import annotations

import contextlib
import html
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from trainer.errors import UserError
from ui.draft import entries, session
from ui.draft.session import Page, page_of
from ui.pages.picks import ON_LOAD, plain, told_pick
from ui.pages.setup import Setup
from ui.pages.tell import refusal_html, told
from ui.pages.wiring import EACH, ONCE
from ui.views.shelf import size_text
from ui.work import bringing, browsing
from ui.work.bringing import Plan
from ui.work.browsing import Entry
from ui.workspace import Workspace

SHOWN = 12  # names of each kind in the preview


class BringingCard:
    """The components; both lead to a folder in the config."""

    def __init__(self, workspace: Workspace, setup: Setup) -> None:
        self.workspace, self.setup = workspace, setup

    def build(self) -> None:
        with (
            gr.Accordion("Bring images in, or find them on the server", open=False, elem_id="bringing") as self.card,
            gr.Row(elem_classes="split"),
        ):
            with gr.Column(scale=1, min_width=280):
                gr.HTML("<h3>From this computer</h3>")
                self.folder = gr.Textbox(
                    label="Into the folder", placeholder="photos", max_lines=1, elem_id="bring-folder",
                    elem_classes="field", info="New or present; nothing that is there is overwritten.",
                )  # fmt: skip
                self.files = gr.File(
                    label="Images, captions, zips", file_count="multiple", elem_id="bring-files", height=130
                )
                self.preview = gr.HTML(elem_id="bring-preview")
                self.write = gr.Button("Write them", size="sm", variant="primary", elem_id="bring-write", visible=False)
            with gr.Column(scale=1, min_width=280):
                gr.HTML("<h3>On the server</h3>")
                self.browser = gr.HTML(elem_id="browser", js_on_load=ON_LOAD)

    def wire(self) -> None:
        self.card.expand(lambda: told(self._listing, ""), None, self.browser, **EACH)  # as it is by then
        previewed = [self.preview, self.write]
        gr.on([self.files.change, self.folder.change], self._preview, [self.files, self.folder], previewed, **EACH)
        written = [self.files, *previewed, *self.setup.everything]
        self.write.click(self._write, [self.files, self.folder, *self.setup.inputs], written, **ONCE)
        self.browser.click(self._browse, None, [self.browser, self.folder], **EACH)
        self.browser.click(self._use, self.setup.inputs, self.setup.everything, **ONCE)

    def _plan(self, files: object, folder: str) -> Plan:
        sources = [Path(f) for f in files if isinstance(f, str)] if isinstance(files, list) else []
        return bringing.plan(self.workspace, sources, folder or "")

    def _preview(self, files: object, folder: str) -> list[Any]:
        if not files:
            return ["", gr.update(visible=False)]
        try:
            made = self._plan(files, folder)
        except UserError as error:
            return [refusal_html(error), gr.update(visible=False)]
        return [plan_html(self.workspace, made), gr.update(visible=bool(made.files))]

    def _write(self, files: object, folder: str, draft: str, *raw: Any) -> list[Any]:
        made = told(self._plan, files, folder)
        count = told(bringing.write, made)
        for source in {incoming.source for incoming in made.files}:
            with contextlib.suppress(OSError):
                source.unlink()
        name = self.workspace.relative(made.folder)
        said = f"<p class='quiet' role='status'>{count:,} files are in {html.escape(name)}.</p>"
        page = self._with_images(told(session.page_of, draft, raw), name)
        return [None, said, gr.update(visible=False), *self.setup.edited(page)]

    def _with_images(self, page: Page, folder: str) -> Page:
        """The folder in the config, unless it is there."""
        present = [f.written.get("image_dir") for d in page.draft.datasets for f in d.folders]
        return page if folder in present else told(entries.with_images, page, folder)

    def _listing(self, path: str) -> str:
        return listing_html(path, browsing.entries(self.workspace, path))

    def _browse(self, event: gr.EventData) -> list[Any]:
        asked = told_pick(event)
        if asked.get("do") == "open":
            return [told(self._listing, asked.get("what", "")), gr.skip()]
        return [gr.skip(), asked.get("what", "") if asked.get("do") == "into" else gr.skip()]

    def _use(self, event: gr.EventData, draft: str, *raw: Any) -> list[Any]:
        asked = told_pick(event)
        do, what = asked.get("do"), plain(asked.get("what"))
        if do not in ("images", "base"):
            return [gr.skip()] * len(self.setup.everything)
        page = session.note(self.workspace, told(session.page_of, draft, raw))
        uses: dict[str, Callable[[], Page]] = {
            "images": lambda: self._with_images(page, what),
            "base": lambda: page_of(page.draft.model_dump_json(), list({**page.controls, "model.base": what}.values())),
        }
        return self.setup.edited(uses[do]())


def plan_html(workspace: Workspace, made: Plan) -> str:
    name = html.escape(workspace.relative(made.folder))
    parts = [f"<p><b>{len(made.files):,} files</b>, {size_text(made.size)}, into {name}</p>"]
    if made.files:
        parts.append(_names([html.escape(file.name) for file in made.files]))
    if made.refused:
        refused = [f"<b>{html.escape(file)}</b> {html.escape(why)}" for file, why in made.refused]
        parts.append(f"<p class='bad-text'>{len(refused):,} are left out:</p>{_names(refused)}")
    return f"<div class='note-box'>{''.join(parts)}</div>"


def _names(names: Sequence[str]) -> str:
    more = f"<li>and {len(names) - SHOWN:,} more</li>" if len(names) > SHOWN else ""
    return f"<ul>{''.join(f'<li>{name}</li>' for name in names[:SHOWN])}{more}</ul>"


def listing_html(path: str, found: Sequence[Entry]) -> str:
    rows = []
    up = str(Path(path).parent) if path not in ("", ".") else ""
    if path not in ("", "."):
        rows.append(f"<li>{_link('open', '' if up == '.' else up, '&uarr; up')}</li>")
    for entry in found:
        name = html.escape(entry.name)
        if entry.is_model:
            rows.append(f"<li>{name} <span class='quiet'>model</span> {_link('base', entry.path, 'use as base')}</li>")
            continue
        use = f"<span class='quiet'>{entry.images:,} images</span> {_link('images', entry.path, 'train on them')} "
        into = _link("into", entry.path, "bring images here")
        rows.append(f"<li>{_link('open', entry.path, name)} {use if entry.images else ''}{into}</li>")
    where = html.escape(path or "the workspace")
    return f"<p class='quiet'>{where}</p><ul class='files'>{''.join(rows) or '<li>Nothing here.</li>'}</ul>"


def _link(do: str, what: str, text: str) -> str:
    pick = html.escape(json.dumps({"do": do, "what": what}), quote=True)
    return f"<button type='button' class='link' data-pick='{pick}'>{text}</button>"
