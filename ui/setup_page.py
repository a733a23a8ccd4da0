"""The setup page: the basic settings first, everything else behind tabs, and the same config as TOML."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from trainer.errors import UserError
from ui import entries, session
from ui.fields import DATASET, FOLDER, section_fields
from ui.form import Form, tabs
from ui.labels import section_label
from ui.session import Page
from ui.tell import told
from ui.workspace import Workspace, read_config

BASIC_RUN = ("run.name", "model.base", "training.method", "training.steps", "lora.rank", "optimizer.lr")
K = "noise.oversampling.k"
CHOICES = ["Off", "64", "128", "256", "Custom"]
ENTRY_NOTES = {
    DATASET: "The dataset that holds the folder shown above. What is blank is taken from “All datasets”.",
    FOLDER: "The folder shown above. What is blank is taken from its dataset, then from “All datasets”.",
    "general": "Values for all datasets and folders that say nothing else.",
}


def basic_image_keys() -> list[str]:
    """The basic options of a folder, then those that only its dataset has; the folder itself first."""
    mine = {f.name for f in section_fields(FOLDER)}
    keys = [f.key for f in section_fields(FOLDER) if f.basic]
    keys += [f.key for f in section_fields(DATASET) if f.basic and f.name not in mine]
    return sorted(keys, key=lambda key: key != f"{FOLDER}.image_dir")


@dataclass
class Setup:
    """The components of the page, and what other pages need of them."""

    workspace: Workspace
    form: Form
    draft: gr.Textbox = field(init=False)
    file: gr.Dropdown = field(init=False)
    train_summary: gr.HTML = field(init=False)  # the same line on the training page

    @property
    def inputs(self) -> list[Component]:
        """What a handler needs to know the config: the draft and every control."""
        return [self.draft, *self.form.ordered]

    def header(self) -> None:
        """The bar that stands above all pages: which file is open."""
        with gr.Row(elem_classes="bar", equal_height=True):
            gr.HTML("<h1>Immiscible Trainer</h1>", elem_classes="brand")
            self.file = gr.Dropdown(
                label="Config", show_label=False, choices=[], allow_custom_value=True, elem_id="file", scale=2,
                min_width=200, container=False,
            )  # fmt: skip
            self.state = gr.HTML("", elem_id="file-state")
            self.new = gr.Button("New", elem_id="new", size="sm")
            presets = list(self.workspace.presets())
            self.preset = gr.Dropdown(
                [("Preset ...", ""), *((name, name) for name in presets)], value="", show_label=False, label="Preset",
                container=False, elem_id="preset", min_width=130, filterable=False,
            )  # fmt: skip
            self.save = gr.Button("Save", elem_id="save", size="sm", variant="primary")
            self.save_name = gr.Textbox(
                placeholder="new-name", show_label=False, label="Name for Save as", container=False, max_lines=1,
                elem_id="save-name", min_width=110,
            )  # fmt: skip
            self.save_as = gr.Button("Save as", elem_id="save-as", size="sm")
        self.draft = gr.Textbox(elem_id="draft", visible="hidden", show_label=False)

    def basics(self) -> None:
        form = self.form
        form.at("Setup")
        with gr.Column(elem_classes="card"):
            gr.HTML("<h2>What to train</h2>")
            form.place(BASIC_RUN)
            self.oversampling = gr.Radio(
                CHOICES, value="64", label="Noise Oversampling", elem_id="oversampling",
                info="Noise candidates per image: the one nearest to the image's latent is used. Costs the same for "
                "any number. Custom numbers and all other noise settings are on the Noise page.",
            )  # fmt: skip
        with gr.Column(elem_classes="card"):
            gr.HTML("<h2>Images</h2>")
            with gr.Row(elem_classes="entry-bar", equal_height=True):
                self.which = gr.Dropdown(
                    [], label="Folder shown", show_label=False, container=False, elem_id="entry",
                    allow_custom_value=True, min_width=220, scale=3,
                )  # fmt: skip
                self.add_folder = gr.Button("Add folder", elem_id="add-folder", size="sm")
                self.add_dataset = gr.Button("Add dataset", elem_id="add-dataset", size="sm")
                self.add_held_out = gr.Button("Add validation set", elem_id="add-held-out", size="sm")
                self.remove = gr.Button("Remove this", elem_id="remove-entry", size="sm")
            form.place(basic_image_keys())

    def all_settings(self) -> None:
        form = self.form
        with gr.Column(elem_classes="card"):
            gr.HTML("<h2>All settings</h2>")
            gr.Textbox(
                placeholder="Find a setting, by its name here, in kohya's scripts or in OneTrainer", show_label=False,
                label="Find a setting", container=False, elem_id="search", max_lines=1,
            )  # fmt: skip
            gr.HTML("<div id='search-results' hidden></div>")
            with gr.Tabs(elem_id="settings"):
                for name, found in tabs().items():
                    with gr.Tab(name):
                        form.at("Setup", name)
                        for section in found:
                            self._section(section, titled=len(found) > 1)
                with gr.Tab("TOML", elem_id="tab-toml"):
                    self._toml()

    def _section(self, section: str, *, titled: bool) -> None:
        keys = self.form.rest(section)
        if not keys:
            return
        note = f"<p class='quiet'>{ENTRY_NOTES[section]}</p>" if section in ENTRY_NOTES else ""
        if titled or note:
            gr.HTML(f"<h3>{section_label(section)}</h3>{note}")
        self.form.place(keys)

    def _toml(self) -> None:
        with gr.Row():
            with gr.Column(scale=3):
                self.toml = gr.Textbox(
                    label="This config as TOML", lines=22, max_lines=40, elem_id="toml", elem_classes="mono",
                    info="Change it here if you like: “Use this text” takes it over into the form.",
                )  # fmt: skip
                with gr.Row(elem_classes="buttons"):
                    self.use_text = gr.Button("Use this text", elem_id="use-text", size="sm")
                    self.upload = gr.UploadButton("Load a file from this computer", file_types=[".toml"], size="sm")
            with gr.Column(scale=2):
                gr.HTML("<h3>Not saved yet</h3>")
                self.diff = gr.HTML(elem_id="diff")
                gr.HTML("<h3>Different from the defaults</h3>")
                self.different = gr.HTML(elem_id="different")

    def aside(self) -> None:
        self.summary = gr.HTML(elem_id="summary")
        self.problems = gr.HTML(elem_id="problems")
        gr.HTML(
            "<p class='next'><button type='button' class='link' data-tab='Dataset'>Look at the images</button>"
            "<button type='button' class='link' data-tab='Train'>Go to training</button></p>"
        )

    # --- wiring -----------------------------------------------------------------------------------------------

    @property
    def views(self) -> list[Component]:
        """What follows from the form."""
        return [
            self.summary,
            self.train_summary,
            self.draft,
            self.problems,
            self.state,
            self.oversampling,
            self.which,
            self.toml,
            self.diff,
            self.different,
        ]

    def show_views(self, page: Page) -> list[Any]:
        summary = session.summary_html(page)
        return [
            summary,
            summary,
            page.draft.model_dump_json(),
            session.problems_html(page),
            session.state_html(page),
            session.oversampling_choice(page.controls),
            gr.update(choices=entries.choices(page.draft), value=entries.name(page.draft.dataset, page.draft.folder)),
            page.text,
            session.diff_html(session.unsaved(self.workspace, page)),
            session.defaults_html(session.from_defaults(page)),
        ]

    def show_all(self, page: Page) -> list[Any]:
        files = [("new config (not saved)", ""), *((name, name) for name in session.files(self.workspace))]
        return [*self.show_views(page), gr.update(choices=files, value=page.draft.file), *page.controls.values()]

    @property
    def everything(self) -> list[Component]:
        return [*self.views, self.file, *self.form.ordered]

    def wire(self, demo: gr.Blocks) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        refresh: dict[str, Any] = {
            "fn": self._refresh,
            "inputs": [self.oversampling, *self.inputs],
            "outputs": self.views,
            **quiet,
        }
        triggers = [getattr(c, "blur" if isinstance(c, gr.Textbox) else "input") for c in self.form.ordered]
        gr.on(triggers, trigger_mode="always_last", **refresh)
        demo.load(self._first, None, self.everything, **quiet)
        self.oversampling.input(
            lambda choice: gr.skip() if choice == "Custom" else "0" if choice == "Off" else str(choice),
            self.oversampling, self.form.controls[K], **quiet,
        ).then(**refresh)  # fmt: skip
        self.file.input(self._open, [self.file, *self.inputs], self.everything, **quiet)
        self.new.click(lambda: self.show_all(session.new()), None, self.everything, **quiet)
        self.preset.input(self._preset, [self.preset, *self.inputs], [self.preset, *self.everything], **quiet)
        self.save.click(self._save, self.inputs, self.everything, **quiet)
        self.save_as.click(self._save_as, [self.save_name, *self.inputs], self.everything, **quiet)
        self.use_text.click(self._use_text, [self.toml, *self.inputs], self.everything, **quiet)
        self.upload.upload(self._use_file, [self.upload, *self.inputs], self.everything, **quiet)
        self.which.input(self._select, [self.which, *self.inputs], self.everything, **quiet)
        for button, change in (
            (self.add_folder, entries.add_folder),
            (self.add_dataset, entries.add_dataset),
            (self.add_held_out, entries.add_held_out),
            (self.remove, entries.remove),
        ):
            button.click(self._entries(change), self.inputs, self.everything, **quiet)

    def _first(self) -> list[Any]:
        for name in self.workspace.recent() or self.workspace.configs()[:1]:
            try:
                return self.show_all(session.open_config(self.workspace, name))
            except UserError:
                continue  # it was damaged since: the next one
        return self.show_all(session.new())

    def _refresh(self, chosen: str, draft: str, *raw: Any) -> list[Any]:
        page = told(session.page_of, draft, raw)
        shown = self.show_views(page)
        if session.oversampling_choice(page.controls) == chosen:  # or a slow answer would undo a later click on it
            shown[self.views.index(self.oversampling)] = gr.skip()
        return shown

    def _open(self, name: str, draft: str, *raw: Any) -> list[Any]:
        if not name:
            return self.show_all(session.new())
        return self.show_all(told(session.open_config, self.workspace, name))

    def _preset(self, name: str, draft: str, *raw: Any) -> list[Any]:
        page = told(session.open_preset, self.workspace, name, told(session.page_of, draft, raw))
        return ["", *self.show_all(page)]

    def _save(self, draft: str, *raw: Any) -> list[Any]:
        page = told(session.page_of, draft, raw)
        if not page.draft.file:
            name = str(page.controls["run.name"]) or "run"
            return self.show_all(told(session.save_as, self.workspace, page, name))
        return self.show_all(told(session.save, self.workspace, page))

    def _save_as(self, name: str, draft: str, *raw: Any) -> list[Any]:
        return self.show_all(told(session.save_as, self.workspace, told(session.page_of, draft, raw), name or ""))

    def _use_text(self, text: str, draft: str, *raw: Any) -> list[Any]:
        return self.show_all(told(session.open_text, text or "", told(session.page_of, draft, raw)))

    def _use_file(self, file: str, draft: str, *raw: Any) -> list[Any]:
        text = told(read_config, Path(file or ""))
        return self.show_all(told(session.open_text, text, told(session.page_of, draft, raw)))

    def _select(self, which: str, draft: str, *raw: Any) -> list[Any]:
        page = told(session.page_of, draft, raw)
        return self.show_all(told(entries.select, page, which))

    def _entries(self, change: Callable[[Page], Page]) -> Callable[..., list[Any]]:
        return lambda draft, *raw: self.show_all(change(told(session.page_of, draft, raw)))
