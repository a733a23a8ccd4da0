"""Runs that differ in one setting: choose it and its values, see them, queue them, land on their comparison."""

from __future__ import annotations

import html
import json
from typing import Any

import gradio as gr

from ui.draft import session
from ui.draft.variants import Variant, choices, variants
from ui.pages.picks import ON_LOAD, plain
from ui.pages.setup import Setup
from ui.pages.tell import told
from ui.pages.wiring import EACH, ONCE
from ui.work import queue as queues
from ui.workspace import Workspace

FIRST = "noise.oversampling.k"


class VariantsCard:
    """Stands on the training page. `link`: leads to the comparison of what was queued."""

    def __init__(self, workspace: Workspace, setup: Setup) -> None:
        self.workspace, self.setup = workspace, setup

    def build(self) -> None:
        with gr.Accordion(
            "Compare variants of this config", open=False, elem_classes="card", elem_id="variants"
        ) as self.panel:
            gr.HTML(
                "<p class='quiet'>One run for each value, everything else the same; they train one after the other. "
                "With held-out images (Validation) their difference is told with an interval.</p>"
            )
            with gr.Row():
                self.key = gr.Dropdown(
                    choices(), value=FIRST, label="Setting", elem_id="variants-key", elem_classes="field", min_width=240
                )
                self.values = gr.Textbox(
                    "off, 64, 256",
                    label="Values",
                    max_lines=1,
                    elem_id="variants-values",
                    elem_classes="field",
                    min_width=240,
                )
            with gr.Row(elem_classes="buttons"):
                self.queue = gr.Button("Queue these runs", size="sm", variant="primary", elem_id="variants-queue")
            self.preview = gr.HTML(elem_id="variants-preview")
            self.link = gr.HTML(elem_id="variants-link", js_on_load=ON_LOAD)

    def wire(self) -> None:
        setup = self.setup
        asked = [self.key, self.values, *setup.inputs]
        gr.on([self.panel.expand, self.key.input, self.values.change], self._preview, asked, self.preview, **EACH)
        self.queue.click(self._queue, asked, [self.preview, self.link], **ONCE)

    def _preview(self, key: str, values: str, draft: str, *raw: Any) -> str:
        try:
            return runs_html(self._made(key, values, draft, raw))
        except gr.Error as error:
            return f"<p class='bad-text'>{html.escape(str(error.message))}</p>"

    def _made(self, key: str, values: str, draft: str, raw: Any) -> list[Variant]:
        place = self.workspace
        taken = {run.name for run in place.runs().values()} | {i.name for i in queues.read(place).items}
        taken |= {name.removesuffix(".toml") for name in place.configs()}
        return told(variants, told(session.page_of, draft, raw), plain(key), values or "", taken)

    def _queue(self, key: str, values: str, draft: str, *raw: Any) -> list[str]:
        place = self.workspace
        made = self._made(key, values, draft, raw)
        items = told(queues.add_texts, place, {variant.name: variant.text for variant in made})
        runs = "\n".join(queues.run_of(place, item) for item in items)
        pick = html.escape(json.dumps({"do": "compare", "run": runs, "alone": "yes"}), quote=True)
        said = (
            f"<p class='quiet' role='status'>{len(items)} runs are in the queue. <button type='button' class='link' "
            f"data-tab='Runs' data-pick='{pick}'>See them side by side</button></p>"
        )
        return [runs_html(made), said]


def runs_html(made: list[Variant]) -> str:
    rows = "".join(f"<tr><td>{html.escape(v.name)}</td><td>{html.escape(v.value)}</td></tr>" for v in made)
    return f"<table class='plain'><tr><th>Run</th><th>Value</th></tr>{rows}</table>"
