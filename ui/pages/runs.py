"""The page of all runs: choose some, see what differs, compare curves and samples, open reports, download results."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from trainer.journal.run_dir import RunDir
from ui.pages.picks import ON_LOAD, ON_LOAD_BOXES, picked, plain, told_pick
from ui.pages.tell import told
from ui.pages.wiring import EACH, ONCE
from ui.server.media import Media
from ui.views import compare, shelf
from ui.work import naming, processes, run_notes, trash
from ui.work.run_notes import RunNote
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
            with gr.Row(elem_classes="buttons filter-bar"):
                self.find = gr.Textbox(
                    placeholder="Find a run", show_label=False, label="Find a run", container=False, max_lines=1,
                    elem_id="runs-find", min_width=150,
                )  # fmt: skip
                self.sort = gr.Dropdown(
                    list(shelf.SORTS.items()), value="time", show_label=False, label="Order", container=False,
                    elem_id="runs-sort", min_width=150, filterable=False,
                )  # fmt: skip
            self.table = gr.HTML(elem_id="runs", js_on_load=ON_LOAD_BOXES + ON_LOAD)
            with gr.Accordion("Configs and trash", open=False):
                self.configs = gr.HTML(elem_id="configs", js_on_load=ON_LOAD)
                self.trash = gr.HTML(elem_id="trash", js_on_load=ON_LOAD)
                self.empty = gr.Button("Empty the trash", size="sm", elem_id="empty-trash", elem_classes="asks danger")
            self.chosen = gr.Textbox(elem_id="runs-chosen", elem_classes="hidden-field", label="Chosen runs")
        with gr.Column(elem_classes="card", visible=False) as self.details:
            gr.HTML("<h2>What differs</h2>")
            self.settings = gr.HTML(elem_id="runs-settings")
            with gr.Row(elem_classes="buttons"):
                self.pair = gr.Button("Did it help?", size="sm", elem_id="runs-pair")
            self.paired = gr.HTML(elem_id="runs-paired")
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
        return [
            self.table,
            self.configs,
            self.trash,
            self.pair,
            self.details,
            self.settings,
            self.curves,
            self.step,
            self.samples,
            self.files,
        ]

    def wire(self, tab: gr.Tab) -> None:
        asked = [self.chosen, self.find, self.sort]
        gr.on([tab.select, self.refresh.click], self._show, asked, self.views, **EACH)
        gr.on([self.find.change, self.sort.input], self._show, asked, self.views, **EACH)
        for view in (self.table, self.configs, self.trash):
            view.click(self._do, asked, self.views, **EACH)
        self.empty.click(self._empty, asked, self.views, **ONCE)
        self.pair.click(self._pair, self.chosen, self.paired, **ONCE)
        self.table.input(self._choose, None, [self.chosen, *self.views], **EACH)
        self.step.input(self._samples, [self.chosen, self.step], self.samples, **EACH)

    def follow(self, page: gr.HTML) -> None:
        """page: a view with buttons that lead here."""
        page.click(self._sent, [self.chosen, self.find, self.sort], [self.chosen, *self.views], **EACH)

    def _sent(self, chosen: str, find: str, sort: str, event: gr.EventData) -> list[Any]:
        """A run beside those that are chosen already, or the runs of a list alone."""
        asked = told_pick(event)
        if asked.get("do") != "compare":
            return [gr.skip()] * (1 + len(self.views))
        names, _ = self._picked("" if asked.get("alone") else chosen)
        asked_for = asked.get("run", "").split("\n")
        wanted = json.dumps([*names, *(name for name in asked_for if name not in names)])
        return [wanted, *self._show(wanted, find, sort)]

    def _choose(self, event: gr.EventData) -> list[Any]:
        chosen = picked(event)
        views = self._show(chosen)
        # The lists have their ticks already; new ones would move the focus away.
        return [chosen, *[gr.skip()] * 3, *views[3:]]

    def _do(self, chosen: str, find: str, sort: str, event: gr.EventData) -> list[Any]:
        """One of the buttons in the lists."""
        asked = told_pick(event)
        told(self._done, asked.get("do", ""), asked.get("what", ""), asked.get("said", ""))
        return self._show(chosen, find, sort)

    def _done(self, do: str, what: str, said: str) -> None:
        place = self.workspace
        actions: dict[str, Callable[[], object]] = {
            "star": lambda: run_notes.write(place, what, star=not run_notes.read(place).get(what, RunNote()).star),
            "note": lambda: run_notes.write(place, what, text=said),
            "rename": lambda: naming.rename_run(place, what, said),
            "throw": lambda: trash.throw_run(place, what),
            "duplicate": lambda: naming.duplicate_config(place, what),
            "rename-config": lambda: naming.rename_config(place, what, said),
            "throw-config": lambda: trash.throw_config(place, what),
            "restore": lambda: trash.restore(place, what),
        }
        if do in actions:
            actions[do]()

    def _empty(self, chosen: str, find: str, sort: str) -> list[Any]:
        trash.empty(self.workspace)
        return self._show(chosen, find, sort)

    def _pair(self, chosen: str) -> Iterator[str]:
        """What `compare` tells of the first run beside each other one: on the same images, with an interval."""
        names, runs = self._picked(chosen)
        parts: list[str] = []
        for name, run in list(zip(names, runs, strict=True))[1:]:
            title = f"<h3>{html.escape(names[0])} and {html.escape(name)}</h3>"
            for text in processes.stream(
                processes.command("compare", str(runs[0].path), str(run.path)), self.workspace.root
            ):
                yield "".join([*parts, f"{title}<pre class='log' tabindex='0'>{html.escape(text)}</pre>"])
            parts.append(f"{title}<pre class='log' tabindex='0'>{html.escape(text)}</pre>")
        yield "".join(parts)

    def _show(self, chosen: str, find: str = "", sort: str = "") -> list[Any]:
        names, runs = self._picked(chosen)
        steps = compare.sample_steps(runs)
        first = steps[0] if steps else 0
        return [
            shelf.runs_html(self.workspace, names, find or "", plain(sort)),
            shelf.configs_html(self.workspace),
            shelf.trash_html(self.workspace),
            gr.update(visible=len(runs) > 1),
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
