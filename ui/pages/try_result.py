"""The page to try results: prompts drawn with the base and with LoRAs at several strengths, the same seeds."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from trainer.errors import UserError
from ui.pages.picks import plain, told_pick
from ui.pages.tell import refusal_html, told
from ui.pages.wiring import EACH, ONCE
from ui.server.media import Media
from ui.views import compare
from ui.views import tries as views
from ui.work import tries
from ui.work.results import results
from ui.work.tries import MOST_PROMPTS
from ui.workspace import Workspace


class Try:
    """The components of the page."""

    def __init__(self, workspace: Workspace, media: Media) -> None:
        self.workspace, self.media = workspace, media

    def build(self) -> None:
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=2, min_width=300), gr.Column(elem_classes="card"):
                gr.HTML("<h2>Try a result</h2>")
                field: dict[str, Any] = {"elem_classes": "field"}
                self.result = gr.Dropdown(
                    [], label="Results", elem_id="try-result", allow_custom_value=True, multiselect=True,
                    info="LoRA files (of any checkpoint) or trained models; columns beside each other.", **field,
                )  # fmt: skip
                self.prompts = gr.Textbox(
                    label="Prompts", lines=3, max_lines=10, elem_id="try-prompts", info="One on each line.", **field
                )
                self.strengths = gr.Textbox(
                    "0, 0.5, 1", label="Strengths", max_lines=1, elem_id="try-strengths",
                    info="One column each; 0 is the base model without the LoRA.", **field,
                )  # fmt: skip
                with gr.Row(elem_classes="fields three"):
                    self.seed = gr.Textbox("1", label="Seed", max_lines=1, elem_id="try-seed", min_width=60, **field)
                    self.steps = gr.Textbox(
                        "30", label="Steps", max_lines=1, elem_id="try-steps", min_width=60, **field
                    )
                    self.guidance = gr.Textbox(
                        "7.5",
                        label="Guidance",
                        info="One row each.",
                        max_lines=1,
                        elem_id="try-guidance",
                        min_width=60,
                        **field,
                    )
                with gr.Row(elem_classes="buttons"):
                    self.draw = gr.Button("Draw", variant="primary", size="sm", elem_id="try-draw")
                    self.cancel = gr.Button("Cancel", size="sm", elem_id="try-cancel", visible=False)
                self.progress = gr.HTML(elem_id="try-progress")
            with gr.Column(scale=5), gr.Column(elem_classes="card"):
                self.which = gr.Dropdown(
                    [], label="Kept tries", elem_id="try-kept", allow_custom_value=True, elem_classes="field"
                )
                self.pictures = gr.HTML(elem_id="try-pictures")

    @property
    def views(self) -> list[Any]:
        return [self.result, self.prompts, self.which, self.pictures]

    def wire(self, tab: gr.Tab) -> None:
        tab.select(self._fresh, [self.result, self.prompts], self.views, **EACH)
        asked = [self.result, self.prompts, self.strengths, self.seed, self.steps, self.guidance]
        shown = [self.progress, self.cancel, self.which, self.pictures]
        drawing = self.draw.click(self._draw, asked, shown, **ONCE)
        self.which.input(self._chosen, self.which, self.pictures, **EACH)
        self.cancel.click(
            lambda: ("<p class='quiet'>Cancelled.</p>", gr.update(visible=False)), None, [self.progress, self.cancel],
            cancels=[drawing], **EACH,
        )  # fmt: skip

    def follow(self, page: gr.HTML) -> None:
        """page: a view with buttons that lead here."""
        page.click(self._sent, self.prompts, self.views, **EACH)

    def _sent(self, prompts: str, event: gr.EventData) -> list[Any]:
        asked = told_pick(event)
        if asked.get("do") != "try":
            return [gr.skip()] * len(self.views)
        return self._fresh([asked.get("result", "")], prompts)

    def _fresh(self, chosen: object, prompts: str) -> list[Any]:
        found = results(self.workspace)
        names = list(found)
        value = [name for name in chosen if name in found] if isinstance(chosen, list) else []
        value = value or names[:1]
        if not prompts and value:
            written = compare.settings(found[value[0]][0]).get("samples.prompts")
            prompts = "\n".join(str(text) for text in written[:MOST_PROMPTS]) if isinstance(written, list) else ""
        return [gr.update(choices=names, value=value), prompts, *self._newest()]

    def _draw(self, *asked: Any) -> Iterator[list[Any]]:
        rest = [gr.skip()] * 2
        try:
            wanted = tries.wish(self.workspace, *asked)
            yield ["<p class='quiet' role='status'>Loading the base ...</p>", gr.update(visible=True), *rest]
            for line in tries.draw(self.workspace, wanted):
                yield [f"<p class='quiet' role='status'>{html.escape(line)}</p>", gr.skip(), *rest]
        except UserError as error:
            yield [refusal_html(error), gr.update(visible=False), *rest]
            return
        yield ["", gr.update(visible=False), *self._newest()]

    def _newest(self) -> list[Any]:
        kept = tries.kept(self.workspace)
        choices = [(self._title(folder.name, folder.parent.parent.name), folder.name) for folder in kept]
        shown = views.grid_html(self.media, kept[0]) if kept else views.EMPTY
        return [gr.update(choices=choices, value=kept[0].name if kept else "", visible=bool(kept)), shown]

    def _title(self, id: str, run: str) -> str:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(int(id[:20]) / 1e9))}, {run}"

    def _chosen(self, id: str) -> str:
        folder = next((folder for folder in tries.kept(self.workspace) if folder.name == plain(id)), None)
        return views.grid_html(self.media, folder) if folder else told(_refuse, "this try is not there any more.")


def _refuse(text: str) -> str:
    raise UserError(text)
