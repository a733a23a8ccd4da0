"""The training page: start a run, follow it, ask it for something. It shows whatever runs, whoever started it."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from trainer.errors import UserError
from trainer.journal.run_dir import RunDir
from trainer.training.control import Word
from ui.draft import session
from ui.draft.session import Page
from ui.pages.picks import ON_LOAD, plain
from ui.pages.setup import Setup
from ui.pages.tell import told, warned
from ui.pages.variants import VariantsCard
from ui.pages.wiring import EACH, ONCE
from ui.server.media import Media
from ui.views.ending import ending_html
from ui.views.run import curves_html, log_html, samples_html, status_html
from ui.work import gpu, processes
from ui.work import queue as queues
from ui.work.history import history
from ui.work.schedule import coming
from ui.work.status import LIVE, Status, checkpoints, status, watched
from ui.workspace import Workspace

READERS = 40  # pages that may follow at the same time
SAID: dict[Word, str] = {
    "stop": "Asked to stop: it saves and ends after this step.",
    "pause": "Asked to pause after this step.",
    "go": "Asked to go on.",
    "sample": "Asked for samples after this step.",
    "save": "Asked to save after this step.",
}
EMPTY = (
    "<div class='note-box'>No run yet. Set one up on the "
    "<button type='button' class='link' data-tab='Setup'>Setup</button> page, then press <b>Start training</b>.</div>"
)


class Train:
    """The components of the page."""

    def __init__(self, workspace: Workspace, media: Media, setup: Setup) -> None:
        self.workspace, self.media, self.setup = workspace, media, setup

    def build(self) -> None:
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=5):
                with gr.Column(elem_classes="card holds"):
                    gr.HTML("<h2>Start</h2>")
                    self.setup.train_summary = gr.HTML(elem_id="start-what")
                    with gr.Row(elem_classes="buttons"):
                        self.start = gr.Button("Start training", variant="primary", size="sm", elem_id="start")
                        self.queue = gr.Button("Add to queue", size="sm", elem_id="enqueue")
                        self.check = gr.Button("Check first", size="sm", elem_id="check")
                        self.preflight = gr.Button("Try one step", size="sm", elem_id="preflight")
                        self.cancel = gr.Button("Cancel check", size="sm", elem_id="cancel-check", visible=False)
                    self.checked = gr.HTML(elem_id="checked")
                with gr.Column(elem_classes="card"):
                    self.run = gr.Dropdown(
                        [], label="Run", elem_id="run", allow_custom_value=True, elem_classes="field",
                    )  # fmt: skip
                    self.state = gr.HTML(EMPTY, elem_id="run-state")
                    self.ending = gr.HTML(elem_id="ending", js_on_load=ON_LOAD)
                    with gr.Row(elem_classes="buttons"):
                        self.buttons = {
                            "stop": gr.Button("Stop (saves first)", size="sm", elem_id="stop"),
                            "pause": gr.Button("Pause", size="sm", elem_id="pause"),
                            "go": gr.Button("Go on", size="sm", elem_id="go", variant="primary"),
                            "sample": gr.Button("Sample now", size="sm", elem_id="sample-now"),
                            "save": gr.Button("Save now", size="sm", elem_id="save-now"),
                            "resume": gr.Button("Resume", size="sm", elem_id="resume", variant="primary"),
                            "stop now": gr.Button(
                                "Stop now", size="sm", elem_id="stop-now", elem_classes="asks danger"
                            ),
                        }
                        self.checkpoint = gr.Dropdown(
                            [("newest checkpoint", "")], value="", label="Checkpoint to resume from", visible=False,
                            show_label=False, container=False, elem_id="checkpoint", allow_custom_value=True,
                            min_width=170,
                        )  # fmt: skip
                    with gr.Row(elem_classes="buttons", visible=False) as self.asking:
                        self.prompt = gr.Textbox(
                            placeholder="Draw this now: a prompt, with --w --h --s --d if you like", show_label=False,
                            label="Prompt to draw now", container=False, max_lines=1, elem_id="sample-prompt",
                            min_width=240,
                        )  # fmt: skip
                        self.draw = gr.Button("Draw", size="sm", elem_id="sample-draw")
                    self.answer = gr.HTML(elem_id="answer")
                    self.curves = gr.HTML(elem_id="curves")
            with gr.Column(scale=3, min_width=300):
                with gr.Column(elem_classes="card"):
                    gr.HTML("<h2>Samples</h2>")
                    self.samples = gr.HTML(elem_id="samples")
                with gr.Column(elem_classes="card"):
                    with gr.Row(elem_classes="buttons"):
                        gr.HTML("<h2>Log</h2>")
                        self.find = gr.Textbox(
                            placeholder="Find in the log", show_label=False, label="Find in the log", container=False,
                            max_lines=1, elem_id="log-find", min_width=120,
                        )  # fmt: skip
                    self.log = gr.HTML(elem_id="log", autoscroll=True)
        self.variants = VariantsCard(self.workspace, self.setup)
        self.variants.build()
        self.seen = gr.Textbox(elem_classes="hidden-field", elem_id="train-seen", label="What is shown of the run")

    @property
    def live(self) -> list[Any]:
        return [
            self.answer,
            self.seen,
            self.run,
            self.state,
            self.curves,
            self.samples,
            self.log,
            self.checkpoint,
            self.ending,
            self.asking,
            self.setup.states,
            *self.buttons.values(),
        ]

    def wire(self, demo: gr.Blocks) -> None:
        follow: dict[str, Any] = {
            "fn": self.tick, "inputs": [self.run, self.seen, self.find], "outputs": self.live,
            "concurrency_limit": READERS, **ONCE,
        }  # fmt: skip
        self.setup.timer.tick(**follow)
        self.run.input(self._choose, [self.run, self.find], self.live, **EACH)
        self.find.change(self._choose, [self.run, self.find], self.live, **EACH)
        drawn = {"fn": self._draw, "inputs": [self.run, self.prompt], "outputs": [self.prompt, self.answer], **EACH}
        gr.on([self.draw.click, self.prompt.submit], **drawn)
        demo.load(lambda: self._show(self._default(), ""), None, self.live, **ONCE)
        setup = self.setup
        self.variants.wire()
        self.start.click(self._start, setup.inputs, [*setup.everything, self.checked, *self.live], **ONCE)
        shown = [*setup.everything, self.checked, self.cancel]
        checking = self.check.click(self._check, setup.inputs, shown, **ONCE)
        trying = self.preflight.click(self._preflight, setup.inputs, shown, **ONCE)
        self.cancel.click(
            lambda: ("<p class='quiet'>Cancelled.</p>", gr.update(visible=False)), None, [self.checked, self.cancel],
            cancels=[checking, trying], **ONCE,
        )  # fmt: skip
        for word, said in SAID.items():
            self.buttons[word].click(self._ask(word, said), self.run, self.answer, **EACH)
        self.buttons["stop now"].click(self._stop_now, self.run, self.answer, **EACH)
        self.buttons["resume"].click(self._resume, [self.run, self.checkpoint], self.live, **ONCE)

    # --- handlers ---------------------------------------------------------------------------------------------

    def tick(self, name: str, seen: str, find: str | None) -> list[Any]:
        """find: None as long as its tab was never opened."""
        return self._show(plain(name), seen or "", plain(find))

    def _choose(self, name: str, find: str) -> list[Any]:
        return self._show(plain(name), "", plain(find))

    def _draw(self, name: str, prompt: str) -> list[Any]:
        if not (prompt or "").strip():
            told(_refuse, "write what to draw first.")
        told(processes.ask, self.workspace, plain(name), "sample", prompt)
        return ["", f"<p class='quiet' role='status'>Draws {html.escape(prompt)} after this step.</p>"]

    def _default(self) -> str:
        """The run that goes on now, else the newest."""
        runs = self.workspace.runs()
        going = (name for name, run in runs.items() if status(self.workspace, name, run).state in LIVE)
        return next(going, next(iter(runs), ""))

    def _show(self, name: str, seen: str, find: str = "") -> list[Any]:
        """Everything that changed since the state of which `seen` is the mark."""
        runs = self.workspace.runs()
        old = _marks(seen)
        if name not in runs:
            name = next(iter(runs), "")
        if not name:
            mark = json.dumps({"runs": []})
            gone = [gr.update(visible=False), "", gr.update(visible=False), ""]
            gone += [gr.update(visible=False)] * len(self.buttons)
            return (
                ["", mark, gr.update(choices=[], value=""), EMPTY, "", "", "", *gone]
                if old.get("runs") != []
                else self._skip()
            )
        run = runs[name]
        found, told_so_far = status(self.workspace, name, run), history(run)
        marks: dict[str, Any] = {
            "runs": list(runs), "name": name, "count": told_so_far.count, "samples": len(told_so_far.samples),
            "state": found.state, "log": _size(run.log) + _size(self._start_log(name)), "message": found.message,
            "find": find, "gpu": gpu.use() if found.live else "",
            "states": {"runs": watched(self.workspace), "queue": queues.tally(self.workspace)},
        }  # fmt: skip
        same = {key for key, value in marks.items() if old.get(key) == value} if old.get("name") == name else set()
        if len(same) == len(marks):
            return self._skip()
        log = (
            run.log
            if found.state != "starting" and not found.message.startswith("Traceback")
            else self._start_log(name)
        )
        buttons = [gr.update(visible=word in found.can) for word in self.buttons]
        return [
            gr.skip() if "state" in same else "",
            json.dumps(marks),
            gr.skip() if {"runs", "name"} <= same else gr.update(choices=list(runs), value=name),
            status_html(name, found, told_so_far, self._live(run, found, marks["gpu"])),
            gr.skip() if "count" in same else curves_html(told_so_far),
            gr.skip() if "samples" in same else samples_html(self.media, run, told_so_far),
            gr.skip() if {"log", "state", "find"} <= same else log_html(log, run.log, self._start_log(name), find=find),
            gr.skip() if "state" in same else self._checkpoints(run, "resume" in found.can),
            gr.skip() if {"state", "count"} <= same else ending_html(self.media, name, run, found, told_so_far),
            gr.skip() if "state" in same else gr.update(visible="sample" in found.can),
            gr.skip() if "states" in same else states_html(marks["states"]),
            *([gr.skip()] * len(buttons) if "state" in same else buttons),
        ]

    def _live(self, run: RunDir, found: Status, card: str) -> list[tuple[str, str]]:
        """Numbers of a run that goes on."""
        if not found.live:
            return []
        per_epoch = found.step / found.epoch if found.epoch and found.epoch > 0 else math.inf
        return [("Card", card), *coming(run, found, per_epoch)]

    def _skip(self) -> list[Any]:
        return [gr.skip()] * len(self.live)

    def _checkpoints(self, run: RunDir, visible: bool) -> Any:
        names = checkpoints(run)
        return gr.update(choices=[("newest checkpoint", ""), *((n, n) for n in names)], value="", visible=visible)

    def _start_log(self, name: str) -> Path:
        return processes.start_log(self.workspace, name)

    def _start(self, draft: str, *raw: Any) -> list[Any]:
        page = self.saved(draft, raw)
        name = warned(processes.start, self.workspace, self.workspace.config(page.draft.file))
        live = self._show(name, "") if name else self._skip()
        live[self.live.index(self.answer)] = ""
        return [*self.setup.show_all(page), "", *live]

    def saved(self, draft: str, raw: Any) -> Page:
        """The page, saved if it has changes: a run is started from a file. Whoever calls this tells the page."""
        runs = {run.name for run in self.workspace.runs().values()} | {
            i.name for i in queues.read(self.workspace).items
        }
        return told(session.saved_to_run, self.workspace, told(session.page_of, draft, raw), runs)

    def _check(self, draft: str, *raw: Any) -> Iterator[list[Any]]:
        yield from self._told("Looking at config, base and images ...", [], draft, raw)

    def _preflight(self, draft: str, *raw: Any) -> Iterator[list[Any]]:
        yield from self._told("Trying one step with the largest batch ...", ["--preflight"], draft, raw)

    def _told(self, doing: str, options: list[str], draft: str, raw: Any) -> Iterator[list[Any]]:
        """Shows what `check` prints, as it prints it."""
        page = self.saved(draft, raw)
        shown: list[Any] = self.setup.show_all(page)
        config = str(self.workspace.config(page.draft.file))
        yield [*shown, f"<p class='quiet' role='status'>{doing}</p>", gr.update(visible=True)]
        rest: list[Any] = [gr.skip()] * len(shown)
        for text in processes.stream(processes.command("check", config, *options), self.workspace.root):
            yield [*rest, f"<pre class='log' tabindex='0'>{html.escape(text)}</pre>", gr.skip()]
        yield [*rest, gr.skip(), gr.update(visible=False)]

    def _ask(self, word: Word, said: str) -> Any:
        def asked(name: str) -> str:
            told(processes.ask, self.workspace, plain(name), word)
            return f"<p class='quiet' role='status'>{said}</p>"

        return asked

    def _stop_now(self, name: str) -> str:
        told(processes.stop_now, self.workspace, plain(name))
        return "<p class='quiet' role='status'>Ended.</p>"

    def _resume(self, name: str, checkpoint: str) -> list[Any]:
        run = told(self.workspace.run, plain(name))
        path = ""
        if checkpoint := plain(checkpoint):
            if checkpoint not in checkpoints(run):
                told(_refuse, f"{checkpoint!r}: there is no such checkpoint.")
            path = str(run.checkpoints / checkpoint)
        told(processes.resume, self.workspace, name, path)
        return self._show(name, "")


def _refuse(message: str) -> None:
    raise UserError(message)


def _marks(seen: str) -> dict[str, Any]:
    try:
        found = json.loads(seen) if seen else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def states_html(states: dict[str, Any]) -> str:
    """For the page's script, which tells the person when a run or the queue has ended."""
    return f"<span hidden data-states='{html.escape(json.dumps(states), quote=True)}'></span>"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
