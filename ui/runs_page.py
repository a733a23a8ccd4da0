"""The page of all runs: choose some, see what differs, compare curves and samples, open reports, download results."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr

from trainer.run_dir import RunDir
from ui import compare
from ui.media import Media
from ui.picks import ON_LOAD_BOXES, picked
from ui.workspace import Workspace


class Runs:
    """The components of the page."""

    def __init__(self, workspace: Workspace, media: Media) -> None:
        self.workspace, self.media = workspace, media

    def build(self) -> None:
        with gr.Column(elem_classes="card"):
            with gr.Row(elem_classes="buttons"):
                gr.HTML("<h2>Runs</h2>")
                self.refresh = gr.Button("Refresh", size="sm", elem_id="refresh-runs")
            gr.HTML(
                "<p class='quiet'>Tick a run to see its curves, samples and files; tick several to compare them.</p>"
            )
            self.table = gr.HTML(elem_id="runs", js_on_load=ON_LOAD_BOXES)
            self.chosen = gr.Textbox(elem_id="runs-chosen", elem_classes="hidden-field", label="Chosen runs")
        with gr.Column(elem_classes="card", visible=False) as self.details:
            gr.HTML("<h2>What differs</h2>")
            self.settings = gr.HTML(elem_id="runs-settings")
            gr.HTML("<h2>Curves</h2>")
            self.curves = gr.HTML(elem_id="runs-curves")
            with gr.Row(elem_classes="buttons"):
                gr.HTML("<h2>Samples</h2>")
                self.step = gr.Dropdown(
                    [], show_label=False, label="Step of the samples", container=False, elem_id="runs-step",
                    allow_custom_value=True, min_width=140,
                )  # fmt: skip
            self.samples = gr.HTML(elem_id="runs-samples")
            gr.HTML("<h2>Reports and files</h2>")
            self.files = gr.HTML(elem_id="runs-files")

    @property
    def views(self) -> list[Any]:
        return [self.table, self.details, self.settings, self.curves, self.step, self.samples, self.files]

    def wire(self, tab: gr.Tab) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on([tab.select, self.refresh.click], self._show, self.chosen, self.views, **quiet)
        self.table.input(self._choose, None, [self.chosen, *self.views], trigger_mode="always_last", **quiet)
        self.step.input(self._samples, [self.chosen, self.step], self.samples, **quiet)

    def _choose(self, event: gr.EventData) -> list[Any]:
        chosen = picked(event)
        views = self._show(chosen)
        # The table has its ticks already; a new one would move the focus away.
        return [chosen, gr.skip(), *views[1:]]

    def _show(self, chosen: str) -> list[Any]:
        names, runs = self._picked(chosen)
        steps = compare.sample_steps(runs)
        first = steps[0] if steps else 0
        return [
            compare.table_html(self.workspace, names),
            gr.update(visible=bool(runs)),
            compare.settings_html(names, runs),
            compare.curves_html(names, runs),
            gr.update(
                choices=[f"step {s}" for s in steps], value=f"step {first}" if steps else "", visible=bool(steps)
            ),
            compare.samples_html(self.media, names, runs, first),
            compare.files_html(self.media, names, runs),
        ]

    def _samples(self, chosen: str, step: str) -> str:
        names, runs = self._picked(chosen)
        digits = str(step).removeprefix("step ")
        return compare.samples_html(self.media, names, runs, int(digits) if digits.isdigit() else 0)

    def _picked(self, chosen: str) -> tuple[list[str], list[RunDir]]:
        """The chosen runs; a name that is no run is passed over."""
        try:
            told = json.loads(chosen) if chosen else []
        except ValueError:
            told = []
        listed = self.workspace.runs()
        names = [n for n in told if isinstance(n, str) and n in listed] if isinstance(told, list) else []
        names = list(dict.fromkeys(names))[: compare.MOST]
        return names, [listed[name] for name in names]
