"""The noise page: every noise setting, and beside it what the chosen one does to the user's own images."""

from __future__ import annotations

import hashlib
import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from trainer import registry
from trainer.config import reading
from trainer.errors import UserError
from trainer.files.atomic import write_text
from ui.draft import session
from ui.draft.fields import section_fields
from ui.draft.labels import section_label
from ui.draft.session import Page
from ui.pages.setup import Setup
from ui.pages.tell import told
from ui.pages.wiring import EACH, ONCE
from ui.server.media import Media
from ui.views import noise as noise_views
from ui.work import noise_numbers as numbers
from ui.work import processes
from ui.workspace import Workspace

FIRST = ("oversampling", "offset", "pyramid", "perturbation")  # in the order in which people look for them


class NoisePage:
    """The components of the page."""

    def __init__(self, workspace: Workspace, media: Media, setup: Setup) -> None:
        self.workspace, self.media, self.setup = workspace, media, setup

    def build(self) -> None:
        form = self.setup.form
        form.at("Noise")
        with gr.Row(elem_classes="split holds"):
            with gr.Column(scale=4):
                for name in sorted(registry.names("noise"), key=_rank):
                    self._plugin(name)
                self._timesteps()
            with gr.Column(scale=3, min_width=320, elem_classes="aside"), gr.Column(elem_classes="card"):
                with gr.Row(elem_classes="buttons"):
                    gr.HTML("<h2>What it does</h2>")
                    self.measure = gr.Button("Measure on my images", size="sm", elem_id="measure-noise")
                    self.cancel = gr.Button("Cancel", size="sm", elem_id="cancel-noise", visible=False)
                self.progress = gr.HTML(elem_id="noise-progress")
                self.curve = gr.HTML(elem_id="noise-curve")
                self.words = gr.HTML(elem_id="noise-words")
                self.pictures = gr.HTML(elem_id="noise-pictures")

    def _plugin(self, name: str) -> None:
        plugin = registry.find("noise", name)
        form, keys = self.setup.form, self.setup.form.rest(f"noise.{name}")
        keys = [f"noise.{name}", *keys] if f"noise.{name}" in form.rest("noise") else keys
        lead = [f.key for f in section_fields(f"noise.{name}") if f.name == plugin.headline]
        lead = [key for key in (f"noise.{name}", *lead) if key in keys]
        about = (plugin.__doc__ or "").strip().split("\n")[0]
        with gr.Column(elem_classes="card"):
            gr.HTML(f"<h2>{section_label(f'noise.{name}')}</h2><p class='quiet'>{html.escape(about)}</p>")
            form.place(lead, lead=True)
            if rest := [key for key in keys if key not in lead]:
                with gr.Accordion("More", open=False):
                    form.at("Noise")
                    form.place(rest)

    def _timesteps(self) -> None:
        with gr.Column(elem_classes="card"):
            gr.HTML("<h2>Timesteps</h2>")
            self.timesteps = gr.HTML(elem_id="timesteps-plot")
            self.setup.form.place(self.setup.form.rest("timesteps"))

    @property
    def views(self) -> list[Any]:
        return [self.curve, self.words, self.pictures, self.timesteps]

    def wire(self, tab: gr.Tab) -> None:
        # Whatever changed it: a field, or another config.
        gr.on([tab.select, self.setup.drawn.change], self._show, self.setup.inputs, self.views, **EACH)
        measuring = self.measure.click(
            self._measure, self.setup.inputs, [self.progress, self.cancel, *self.views], **ONCE
        )
        self.cancel.click(
            lambda: ("<p class='quiet'>Cancelled.</p>", gr.update(visible=False)), None, [self.progress, self.cancel],
            cancels=[measuring], **EACH,
        )  # fmt: skip

    def _show(self, draft: str, *raw: Any) -> list[Any]:
        return self._views(told(session.page_of, draft, raw))

    def _views(self, page: Page) -> list[Any]:
        k = noise_views.chosen_k(page)
        found = numbers.measured(self._report(page)) or numbers.typical(*numbers.resolution(page), k)
        words = noise_views.words_html(found, k)
        report = self._report(page).with_suffix(".html")
        if found.images and report.is_file():
            url = self.media.url("report", report)
            words += f"<p><a href='{url}' target='_blank' rel='noopener'>The whole noise report</a></p>"
        return [
            noise_views.curve_html(found, k),
            words,
            noise_views.pictures_html(self.media, self._folder(page)),
            noise_views.timesteps_html(page),
        ]

    def _report(self, page: Page) -> Path:
        """Where the trainer writes the report of this config."""
        name = str(page.controls["run.name"]) or Path(page.draft.file).stem
        output = self.workspace.absolute(str(page.controls["run.output_dir"]) or "output")
        if page.draft.file:
            output = ((self.workspace.root / page.draft.file).parent / output).resolve()
        return output / Path(name).name / "noise-report.json"

    def _folder(self, page: Page) -> Path:
        """Of the pictures: one for each config file."""
        return self.workspace.state / "noise" / hashlib.sha256(page.draft.file.encode()).hexdigest()[:16]

    def _measure(self, draft: str, *raw: Any) -> Iterator[list[Any]]:
        page = told(session.page_of, draft, raw)
        directory = (self.workspace.root / page.draft.file).parent if page.draft.file else self.workspace.root
        config = told(reading.parse, page.text, directory=directory, source=page.draft.file or "config")
        folder = self._folder(page)
        copy = folder.with_suffix(".toml")
        write_text(copy, reading.to_toml(config))
        rest = [gr.skip()] * len(self.views)
        yield ["<p class='quiet' role='status'>Loading the base ...</p>", gr.update(visible=True), *rest]
        text = ""
        arguments = processes.module("ui.work.noise_work", str(copy), str(folder))
        for text in processes.stream(arguments, self.workspace.root):
            last = text.rstrip().rpartition("\n")[2]
            yield [f"<p class='quiet' role='status'>{html.escape(last)}</p>", gr.skip(), *rest]
        if "(ended with exit code" in text.rpartition("\n")[2]:
            told(_refuse, text)
        yield ["", gr.update(visible=False), *self._views(page)]


def _refuse(text: str) -> None:
    raise UserError("\n".join(line for line in text.split("\n") if line.strip())[-1500:])


def _rank(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)
