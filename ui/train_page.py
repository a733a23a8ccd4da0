"""The training page: start a run, follow it, ask it for something. It shows whatever runs, whoever started it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from trainer.errors import UserError
from ui import processes, session
from ui.history import history
from ui.media import Media
from ui.picks import plain
from ui.run_views import curves_html, log_html, samples_html, status_html
from ui.session import Page
from ui.setup_page import Setup
from ui.status import LIVE, status
from ui.tell import told
from ui.workspace import Workspace

EVERY = 1.0  # seconds between looks at the files
READERS = 40  # pages that may follow at the same time
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
                with gr.Column(elem_classes="card"):
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
                    self.answer = gr.HTML(elem_id="answer")
                    self.curves = gr.HTML(elem_id="curves")
            with gr.Column(scale=3, min_width=300):
                with gr.Column(elem_classes="card"):
                    gr.HTML("<h2>Samples</h2>")
                    self.samples = gr.HTML(elem_id="samples")
                with gr.Column(elem_classes="card"):
                    gr.HTML("<h2>Log</h2>")
                    self.log = gr.HTML(elem_id="log", autoscroll=True)
        self.seen = gr.State("")
        self.timer = gr.Timer(EVERY)

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
            *self.buttons.values(),
        ]

    def wire(self, demo: gr.Blocks) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        follow: dict[str, Any] = {
            "fn": self.tick, "inputs": [self.run, self.seen], "outputs": self.live,
            "trigger_mode": "once", "concurrency_limit": READERS, **quiet,
        }  # fmt: skip
        self.timer.tick(**follow)
        self.run.input(self._choose, self.run, self.live, **quiet)
        demo.load(lambda: self._show(self._default(), ""), None, self.live, **quiet)
        setup = self.setup
        self.start.click(self._start, setup.inputs, [*setup.everything, *self.live], **quiet)
        shown = [*setup.everything, self.checked, self.cancel]
        checking = self.check.click(self._check, setup.inputs, shown, **quiet)
        trying = self.preflight.click(self._preflight, setup.inputs, shown, **quiet)
        self.cancel.click(
            lambda: ("<p class='quiet'>Cancelled.</p>", gr.update(visible=False)), None, [self.checked, self.cancel],
            cancels=[checking, trying], **quiet,
        )  # fmt: skip
        for word, button in self.buttons.items():
            if word not in ("resume", "stop now"):
                button.click(self._ask(word), self.run, self.answer, **quiet)
        self.buttons["stop now"].click(self._stop_now, self.run, self.answer, **quiet)
        self.buttons["resume"].click(self._resume, [self.run, self.checkpoint], self.live, **quiet)

    # --- handlers ---------------------------------------------------------------------------------------------

    def tick(self, name: str, seen: str) -> list[Any]:
        return self._show(plain(name), seen)

    def _choose(self, name: str) -> list[Any]:
        return self._show(plain(name), "")

    def _default(self) -> str:
        """The run that goes on now, else the newest."""
        runs = self.workspace.runs()
        going = (name for name, run in runs.items() if status(self.workspace, name, run).state in LIVE)
        return next(going, next(iter(runs), ""))

    def _show(self, name: str, seen: str) -> list[Any]:
        """Everything that changed since the state of which `seen` is the mark."""
        runs = self.workspace.runs()
        old = _marks(seen)
        asked = name
        if name not in runs:
            name = next(iter(runs), "")
        if not name:
            mark = json.dumps({"runs": []})
            quiet = [gr.update(visible=False)] * (len(self.buttons) + 1)
            return (
                ["", mark, gr.update(choices=[], value=""), EMPTY, "", "", "", *quiet]
                if old.get("runs") != []
                else self._skip()
            )
        run = runs[name]
        found, told_so_far = status(self.workspace, name, run), history(run)
        marks: dict[str, Any] = {
            "runs": list(runs), "name": name, "count": told_so_far.count, "samples": len(told_so_far.samples),
            "state": found.state, "log": _size(run.log) + _size(self._start_log(name)), "message": found.message,
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
            gr.skip()
            if {"runs", "name"} <= same
            else self._choices(list(runs), name, keep=bool(seen) and asked == name),
            status_html(name, found, told_so_far),
            gr.skip() if "count" in same else curves_html(told_so_far),
            gr.skip() if "samples" in same else samples_html(self.media, run, told_so_far),
            gr.skip() if {"log", "state"} <= same else log_html(log, run.log, self._start_log(name)),
            gr.skip() if "state" in same else self._checkpoints(run.checkpoints, "resume" in found.can),
            *([gr.skip()] * len(buttons) if "state" in same else buttons),
        ]

    def _choices(self, runs: list[str], name: str, *, keep: bool) -> Any:
        """keep: an answer to a look at this run must not undo the choice of another one that was made meanwhile."""
        return gr.update(choices=runs) if keep else gr.update(choices=runs, value=name)

    def _skip(self) -> list[Any]:
        return [gr.skip()] * len(self.live)

    def _checkpoints(self, folder: Path, visible: bool) -> Any:
        names = sorted((p.name for p in folder.glob("step-*") if p.is_dir()), reverse=True)
        return gr.update(choices=[("newest checkpoint", ""), *((n, n) for n in names)], value="", visible=visible)

    def _start_log(self, name: str) -> Path:
        return processes.start_log(self.workspace, name)

    def _start(self, draft: str, *raw: Any) -> list[Any]:
        page = self.saved(draft, raw)
        name = told(processes.start, self.workspace, self.workspace.config(page.draft.file))
        return [*self.setup.show_all(page), *self._show(name, "")]

    def saved(self, draft: str, raw: Any) -> Page:
        """The page, saved if it has changes: a run is started from a file."""
        page = told(session.page_of, draft, raw)
        if not page.draft.file:
            return told(session.save_as, self.workspace, page, str(page.controls["run.name"]) or "run")
        return told(session.save, self.workspace, page) if session.changed(page) else page

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

    def _ask(self, word: str) -> Any:
        said = {
            "stop": "Asked to stop: it saves and ends after this step.",
            "pause": "Asked to pause after this step.",
            "go": "Asked to go on.",
            "sample": "Asked for samples after this step.",
            "save": "Asked to save after this step.",
        }[word]

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
            if checkpoint not in {p.name for p in run.checkpoints.glob("step-*")}:
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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
