"""The setup page: the basic settings first, everything else behind tabs, and the same config as TOML."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from trainer.config.presets.choosing import all_presets
from ui.draft import entries, kept, session
from ui.draft.fields import DATASET, FOLDER, section_fields
from ui.draft.importing import refuse_foreign
from ui.draft.labels import section_label
from ui.draft.session import Page
from ui.pages.form import Form, tabs
from ui.pages.importing import ImportPanel
from ui.pages.picks import plain, told_pick
from ui.pages.tell import told
from ui.pages.wiring import EACH, ONCE
from ui.work.noise_numbers import resolution
from ui.workspace import Workspace, forget, read_config

EVERY = 1.0  # seconds between looks at the runs' files
BASIC_RUN = ("run.name", "model.base", "training.method", "training.steps", "lora.rank", "optimizer.lr")
K = "noise.oversampling.k"
STAY = "\0stay"  # the choice of somebody who does not want to leave unsaved changes
# The page's script asks before a choice in a list would replace unsaved changes.
ASKED = f"(choice, ...rest) => [window.trainerPage.mayLeave(choice) ? choice : {json.dumps(STAY)}, ...rest]"
# In the page itself: what is asked of the server next must know it already.
CHOSEN_K = "(choice, k) => choice === 'Custom' ? k : choice === 'Off' ? '0' : choice"
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


def drawn(page: Page) -> str:
    """What the Noise page draws follows from this alone."""
    wanted = ("noise.", "timesteps.", "run.name", "run.output_dir")
    return json.dumps(
        [page.draft.file, {k: v for k, v in page.controls.items() if k.startswith(wanted)}, resolution(page)]
    )


@dataclass
class Setup:
    """The components of the page, and what other pages need of them."""

    workspace: Workspace
    form: Form
    draft: gr.Textbox = field(init=False)
    file: gr.Dropdown = field(init=False)
    importing: ImportPanel = field(init=False)
    states: gr.HTML = field(init=False)  # where the runs stand, on every page
    timer: gr.Timer = field(init=False)
    train_summary: gr.HTML = field(init=False)  # the same line on the training page

    @property
    def inputs(self) -> list[Component]:
        """What a handler needs to know the config: the draft and every control."""
        return [self.draft, *self.form.ordered]

    def header(self) -> None:
        """The bar that stands above all pages: which file is open."""
        with gr.Row(elem_classes="bar holds", equal_height=True):
            gr.HTML("<h1>Immiscible Trainer</h1>", elem_classes="brand")
            self.file = gr.Dropdown(
                label="Config", show_label=False, choices=[], allow_custom_value=True, elem_id="file", scale=2,
                min_width=200, container=False,
            )  # fmt: skip
            self.state = gr.HTML("", elem_id="file-state")
            self.new = gr.Button("New", elem_id="new", size="sm")
            self.bring = gr.Button("Import", elem_id="import", size="sm")
            self.preset = gr.Dropdown(
                [("Preset ...", ""), *((preset.name, preset.name) for preset in all_presets())], value="",
                show_label=False, label="Preset", container=False, elem_id="preset", min_width=130,
                allow_custom_value=True,
            )  # fmt: skip
            self.save = gr.Button("Save", elem_id="save", size="sm", variant="primary")
            self.save_name = gr.Textbox(
                placeholder="new-name", show_label=False, label="Name for Save as", container=False, max_lines=1,
                elem_id="save-name", min_width=110,
            )  # fmt: skip
            self.save_as = gr.Button("Save as", elem_id="save-as", size="sm")
            self.back = gr.Button("Undo", elem_id="step-back", size="sm")
            self.forth = gr.Button("Redo", elem_id="step-forth", size="sm")
            gr.HTML(
                "<span class='signs'>"
                "<button type='button' class='sign' data-theme title='Light or dark' aria-label='Light or dark'>"
                "&#9680;</button><button type='button' class='sign menu' data-menu title='More' aria-label='More'>"
                "&#9776;</button></span>",
            )
        with gr.Row(elem_classes="buttons note-box holds", visible=False, elem_id="offer") as self.offer:
            self.offered = gr.HTML()
            self.take = gr.Button("Take them over", elem_id="take-draft", size="sm", variant="primary")
            self.forget = gr.Button("Forget them", elem_id="forget-draft", size="sm", elem_classes="asks")
        self.importing = ImportPanel(self.workspace, self._imported)
        self.importing.build()
        self.states = gr.HTML(elem_id="states")
        self.timer = gr.Timer(EVERY)  # here, since one behind a tab only runs once that was opened
        self.draft = gr.Textbox(elem_id="draft", visible="hidden", show_label=False)
        self.asked = gr.Textbox(elem_id="asked", visible="hidden", show_label=False)
        self.drawn = gr.Textbox(elem_id="drawn", visible="hidden", show_label=False)

    def basics(self) -> None:
        form = self.form
        form.at("Setup")
        with gr.Column(elem_classes="card"):
            gr.HTML("<h2>What to train</h2>")
            form.place(BASIC_RUN)
            self.oversampling = gr.Radio(
                CHOICES, value="Off", label="Noise Oversampling", elem_id="oversampling",
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
            "<p class='next'><button type='button' class='link' data-tab='Dataset' data-press='look'>Look at the images"
            "</button>"
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
            self.asked,
            self.drawn,
        ]

    def show_views(self, page: Page) -> list[Any]:
        summary = session.summary_html(page)
        return [
            summary,
            summary,
            page.draft.model_dump_json(),
            # Those of a valid config's files are looked at next; what stands there stays so long.
            session.problems_html(page, page.problems) if page.problems else gr.skip(),
            session.state_html(page),
            session.oversampling_choice(page.controls),
            gr.update(choices=entries.choices(page.draft), value=entries.name(page.draft.dataset, page.draft.folder)),
            page.text,
            session.diff_html(session.unsaved(self.workspace, page)),
            session.defaults_html(session.from_defaults(page)),
            f"{page.draft.file}\n{page.text}",
            drawn(page),
        ]

    def show_all(self, page: Page) -> list[Any]:
        files = gr.update(choices=self._files(), value=page.draft.file)
        return [*self.show_views(page), files, *page.controls.values()]

    def _files(self) -> list[tuple[str, str]]:
        return [("new config (not saved)", ""), *((name, name) for name in session.files(self.workspace))]

    def edited(self, page: Page) -> list[Any]:
        """The answer to an edit, which is kept."""
        return self.show_all(session.note(self.workspace, page))

    def opened(self, page: Page) -> list[Any]:
        """The answer where another config is shown: edits of it that were never saved are offered."""
        return [*self.show_all(page), *self.show_offer(page)]

    def show_offer(self, page: Page) -> list[Any]:
        said = session.offer_html(self.workspace, page)
        return [gr.update(visible=bool(said)), said]

    @property
    def opening(self) -> list[Component | Block]:
        return [*self.everything, self.offer, self.offered]

    @property
    def everything(self) -> list[Component]:
        return [*self.views, self.file, *self.form.ordered]

    def wire(self, demo: gr.Blocks) -> None:
        quiet = ONCE
        refresh: dict[str, Any] = {
            "fn": self._refresh,
            "inputs": self.inputs,
            "outputs": self.views,
            **EACH,
        }
        triggers = [getattr(c, "blur" if isinstance(c, gr.Textbox) else "input") for c in self.form.ordered]
        gr.on(triggers, **refresh)
        self.asked.change(self._look_at_files, self.inputs, self.problems, **EACH)
        for key, find in ((f"{FOLDER}.image_dir", self.workspace.folders), ("model.base", self.workspace.bases)):
            self._offers(self.form.controls[key], find)
        self._offers(self.file, self._files)
        demo.load(self._first, None, self.opening, **quiet)
        self.oversampling.input(
            None, [self.oversampling, self.form.controls[K]], self.form.controls[K], js=CHOSEN_K, **EACH
        ).then(**refresh)
        self.file.input(self._open, [self.file, *self.inputs], self.opening, js=ASKED, **quiet)
        self.new.click(lambda: self.opened(session.new()), None, self.opening, **quiet)
        self.importing.wire(self.bring, self.inputs, self.opening)
        choosing = [self.preset, *self.inputs]
        self.preset.input(self._preset, choosing, [self.preset, *self.opening], js=ASKED, **quiet)
        self.take.click(self._take, self.inputs, self.opening, **quiet)
        self.forget.click(self._forget, self.inputs, [self.offer, self.offered], **quiet)
        for button, by in ((self.back, -1), (self.forth, 1)):
            button.click(self._step(by), self.inputs, self.opening, **quiet)
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
        """What the page opens with, without the controls that show it already: each one costs the browser time."""
        forget()
        built: dict[int, Any] = {id(control): control for control in self.form.ordered}
        answers = self.opened(session.first(self.workspace))
        return [
            gr.skip() if id(c) in built and built[id(c)].value == answer else answer
            for c, answer in zip(self.opening, answers, strict=True)
        ]

    def follow(self, runs: gr.HTML) -> None:
        """runs: a list with buttons that begin a new config from a run."""
        runs.click(self._from_run, self.inputs, self.opening, **ONCE)

    def _from_run(self, event: gr.EventData, draft: str, *raw: Any) -> list[Any]:
        asked = told_pick(event)
        if asked.get("do") != "new":
            return [gr.skip()] * len(self.opening)
        page = told(session.from_run, self.workspace, asked.get("what", ""))
        self._now(draft, raw)
        return self.opened(session.note(self.workspace, page))

    def _offers(self, control: Component, find: Callable[[], Sequence[Any]]) -> None:
        """What came since is offered when the list is opened."""
        if not isinstance(control, gr.Dropdown):
            return
        offered = gr.Textbox(elem_classes="hidden-field", label="What was offered", show_label=False)

        def fresh(before: str) -> list[Any]:
            forget()
            names = find()
            told_now = json.dumps(names)
            return [gr.skip(), gr.skip()] if told_now == before else [gr.update(choices=names), told_now]

        control.focus(fresh, offered, [control, offered], **EACH)

    def _refresh(self, draft: str, *raw: Any) -> list[Any]:
        return self.show_views(session.note(self.workspace, told(session.page_of, draft, raw)))

    def _look_at_files(self, draft: str, *raw: Any) -> Any:
        """Whenever the config is another one: what the disk tells of it, once nothing else is wrong."""
        page = told(session.page_of, draft, raw)
        if page.problems:
            return gr.skip()
        return session.problems_html(page, session.problems_of_files(self.workspace, page))

    def _open(self, name: str, draft: str, *raw: Any) -> list[Any]:
        page = told(session.page_of, draft, raw)
        if plain(name) == STAY:
            return [gr.skip() if c is not self.file else page.draft.file for c in self.opening]
        session.note(self.workspace, page)
        if name:
            told(refuse_foreign, told(self.workspace.config, name))
        return self.opened(told(session.open_config, self.workspace, name) if name else session.new())

    def _preset(self, name: str, draft: str, *raw: Any) -> list[Any]:
        page = told(session.page_of, draft, raw)
        if plain(name) == STAY:
            return ["", *(gr.skip() for _ in self.opening)]
        session.note(self.workspace, page)
        return ["", *self.opened(session.note(self.workspace, told(session.open_preset, plain(name), page)))]

    def _imported(self, page: Page, draft: str, raw: Any) -> list[Any]:
        """A config that another trainer's file came to, in place of what the form shows, which is kept."""
        self._now(draft, raw)
        return self.opened(session.note(self.workspace, page))

    def _take(self, draft: str, *raw: Any) -> list[Any]:
        return self.opened(told(session.take_over, self.workspace, told(session.page_of, draft, raw)))

    def _forget(self, draft: str, *raw: Any) -> list[Any]:
        page = told(session.page_of, draft, raw)
        kept.forget(self.workspace, page.draft.file)
        return self.show_offer(page)

    def _step(self, by: int) -> Callable[..., list[Any]]:
        return lambda draft, *raw: self.opened(
            told(session.step, self.workspace, told(session.page_of, draft, raw), by)
        )

    def _save(self, draft: str, *raw: Any) -> list[Any]:
        page = told(session.page_of, draft, raw)
        if not page.draft.file:
            name = str(page.controls["run.name"]) or "run"
            return self.show_all(told(session.save_as, self.workspace, page, name))
        return self.show_all(told(session.save, self.workspace, page))

    def _save_as(self, name: str, draft: str, *raw: Any) -> list[Any]:
        return self.show_all(told(session.save_as, self.workspace, told(session.page_of, draft, raw), name or ""))

    def _use_text(self, text: str, draft: str, *raw: Any) -> list[Any]:
        return self.edited(told(session.open_text, text or "", self._now(draft, raw)))

    def _use_file(self, file: str, draft: str, *raw: Any) -> list[Any]:
        told(refuse_foreign, Path(file or ""))
        text = told(read_config, Path(file or ""))
        return self.edited(told(session.open_text, text, self._now(draft, raw)))

    def _now(self, draft: str, raw: Any) -> Page:
        """The form before a change that replaces much of it: kept, so that it can be taken back."""
        return session.note(self.workspace, told(session.page_of, draft, raw))

    def _select(self, which: str, draft: str, *raw: Any) -> list[Any]:
        page = told(session.page_of, draft, raw)
        return self.show_all(told(entries.select, page, which))

    def _entries(self, change: Callable[[Page], Page]) -> Callable[..., list[Any]]:
        return lambda draft, *raw: self.edited(change(self._now(draft, raw)))
