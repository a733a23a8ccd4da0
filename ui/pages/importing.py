"""“Import”: a file of another trainer, what becomes of each of its keys, and the result in the form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from trainer.config.foreign.sd_scripts.table import SCRIPTS
from ui.draft import importing
from ui.draft.session import Page
from ui.pages.tell import told
from ui.pages.wiring import ONCE
from ui.workspace import Workspace


@dataclass
class ImportPanel:
    """Stands below the bar while it is asked for. `show`: what the form shows of a page, given what it
    showed before."""

    workspace: Workspace
    show: Callable[[Page, str, Sequence[Any]], list[Any]]
    panel: gr.Column = field(init=False)

    def build(self) -> None:
        with gr.Column(visible=False, elem_classes="card holds", elem_id="import-panel") as self.panel:
            gr.HTML(
                "<h2>Import</h2><p class='quiet'>A config, preset or command line of sd-scripts, kohya_ss, OneTrainer, "
                "ai-toolkit or diffusers, or a finished LoRA. Nothing is written before you save.</p>"
            )
            with gr.Row(equal_height=True):
                self.upload = gr.File(label="From this computer", elem_id="import-file", height=110)
                self.path = gr.Textbox(
                    label="Or where it lies", placeholder="configs/their-run.toml", max_lines=1, elem_id="import-path"
                )
                self.script = gr.Dropdown(
                    [("as its keys say", ""), *((name, name) for name in SCRIPTS)], value="", elem_id="import-script",
                    label="Script of sd-scripts", filterable=False,
                )  # fmt: skip
            with gr.Row(elem_classes="buttons"):
                self.look = gr.Button("Look at it", elem_id="import-look", size="sm")
                self.use = gr.Button(
                    "Open the result", elem_id="import-use", size="sm", variant="primary", visible=False
                )
                self.close = gr.Button("Close", elem_id="import-close", size="sm")
            self.lists = gr.HTML("", elem_id="import-lists")
            self.text = gr.State("")

    def wire(self, opener: gr.Button, inputs: Sequence[Component], form: Sequence[Component | Block]) -> None:
        """inputs: the draft and every control; form: the components that `show` fills."""
        found = [self.panel, self.lists, self.text, self.use]
        opener.click(lambda: gr.update(visible=True), None, self.panel, **ONCE)
        self.close.click(lambda: gr.update(visible=False), None, self.panel, **ONCE)
        self.look.click(self.looked, [self.upload, self.path, self.script], found, **ONCE)
        self.use.click(self.used, [self.text, *inputs], [*found, *form], **ONCE)

    def looked(self, uploaded: str | None, typed: str, script: str) -> list[Any]:
        found = told(importing.look_at, self.workspace, uploaded or "", typed or "", script or "")
        return [gr.skip(), importing.lists_html(found), found.text, gr.update(visible=True)]

    def used(self, text: str, draft: str, *raw: Any) -> list[Any]:
        page = told(importing.open_imported, text)
        return [gr.update(visible=False), "", "", gr.update(visible=False), *self.show(page, draft, raw)]
