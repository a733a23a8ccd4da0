"""The page of the queue: what waits, in which order, what runs, how the others ended."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui.pages.picks import ON_LOAD, picked
from ui.pages.tell import told, warned
from ui.pages.train import READERS, Train
from ui.pages.wiring import EACH, ONCE
from ui.work import queue as queues
from ui.work.queue import Queue, QueuedRun
from ui.workspace import Workspace

PILLS = {"waiting": "", "running": "live", "done": "ok", "stopped": "warn", "failed": "bad"}
EMPTY = (
    "<div class='note-box'>The queue is empty. Set up a config, then press <b>Add to queue</b> on the "
    "<button type='button' class='link' data-tab='Train'>Train</button> page: trainings run one after the other, "
    "overnight too, and one that fails does not stop the rest.</div>"
)


class QueuePage:
    """The components of the page."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def build(self) -> None:
        with gr.Column(elem_classes="card"):
            with gr.Row(elem_classes="buttons"):
                gr.HTML("<h2>Queue</h2>")
                self.start = gr.Button("Start queue", size="sm", elem_id="queue-start", variant="primary")
                self.pause = gr.Button("Pause queue", size="sm", elem_id="queue-pause")
                self.clear = gr.Button("Remove finished", size="sm", elem_id="queue-clear", visible=False)
            self.table = gr.HTML(EMPTY, elem_id="queue", js_on_load=ON_LOAD)
        self.seen = gr.Textbox(elem_classes="hidden-field", elem_id="queue-seen", label="What is shown of the queue")

    @property
    def views(self) -> list[Any]:
        return [self.seen, self.table, self.start, self.pause, self.clear]

    def wire(self, train: Train) -> None:
        """train: the page with the button that adds."""
        train.setup.timer.tick(self._tick, self.seen, self.views, concurrency_limit=READERS, **ONCE)
        self.table.click(self._act, None, self.views, **EACH)
        self.start.click(lambda: self._after(lambda: queues.pause(self.workspace, False)), None, self.views, **EACH)
        self.pause.click(lambda: self._after(lambda: queues.pause(self.workspace, True)), None, self.views, **EACH)
        self.clear.click(lambda: self._after(lambda: queues.clear(self.workspace)), None, self.views, **EACH)
        setup = train.setup
        outputs = [*setup.everything, train.checked, *self.views]
        train.queue.click(lambda draft, *raw: self.add(train, draft, raw), setup.inputs, outputs, **ONCE)

    def add(self, train: Train, draft: str, raw: Sequence[Any]) -> list[Any]:
        page = train.saved(draft, raw)
        item = warned(queues.add, self.workspace, self.workspace.config(page.draft.file))
        said = f"<p class='quiet' role='status'>{html.escape(item.name)} is in the queue.</p>" if item else ""
        return [*train.setup.show_all(page), said, *self._show("")]

    def _after(self, change: Any) -> list[Any]:
        told(change)
        return self._show("")

    def _act(self, event: gr.EventData) -> list[Any]:
        """One of the buttons in the table: {"id", "do": "up", "down" or "remove"}."""
        try:
            asked = json.loads(picked(event))
            id, do = str(asked["id"]), str(asked["do"])
        except (ValueError, KeyError, TypeError):
            return self._show("")
        if do in ("up", "down"):
            told(queues.move, self.workspace, id, -1 if do == "up" else 1)
        elif do == "remove":
            told(queues.remove, self.workspace, id)
        return self._show("")

    def _tick(self, seen: str) -> list[Any]:
        return self._show(seen)

    def _show(self, seen: str) -> list[Any]:
        queue = queues.read(self.workspace)
        going = bool(queue.items) and queues.working(self.workspace)
        mark = f"{going}{queue.model_dump_json()}"
        if mark == seen:
            return [gr.skip()] * len(self.views)
        waits = any(item.state == "waiting" for item in queue.items)
        return [
            mark,
            table_html(queue, going=going),
            gr.update(visible=waits and (queue.paused or not going)),
            gr.update(visible=going and not queue.paused),
            gr.update(visible=any(item.state not in ("waiting", "running") for item in queue.items)),
        ]


def table_html(queue: Queue, *, going: bool) -> str:
    if not queue.items:
        return EMPTY
    waits = any(item.state == "waiting" for item in queue.items)
    note = ""
    if waits and queue.paused:
        note = "<p class='quiet'>Paused: what runs goes on, nothing new is started.</p>"
    elif waits and not going:
        note = "<p class='quiet'>Nobody works this queue off now (the machine was restarted?): press Start queue.</p>"
    order = {"running": 0, "waiting": 1}
    rows = "".join(_row(item) for item in sorted(queue.items, key=lambda i: order.get(i.state, 2)))
    head = "".join(f"<th>{text}</th>" for text in ("Run", "State", "From", "Added", ""))
    return f"{note}<div class='scroll'><table class='plain'><tr>{head}</tr>{rows}</table></div>"


def _row(item: QueuedRun) -> str:
    buttons = []
    if item.state == "waiting":
        buttons += [_button(item, "up", "Up", "&uarr;"), _button(item, "down", "Down", "&darr;")]
    if item.state != "running":
        buttons.append(_button(item, "remove", "Remove", "&times;"))
    said = f"<p class='bad-text'>{html.escape(item.message)}</p>" if item.message else ""
    added = time.strftime("%Y-%m-%d %H:%M", time.localtime(item.added))
    return (
        f"<tr><td><b>{html.escape(item.name)}</b>{said}</td>"
        f"<td><span class='pill {PILLS[item.state]}'>{item.state}</span></td>"
        f"<td>{html.escape(item.source)}</td><td>{added}</td><td class='row-buttons'>{''.join(buttons)}</td></tr>"
    )


def _button(item: QueuedRun, do: str, name: str, sign: str) -> str:
    told_back = html.escape(json.dumps({"id": item.id, "do": do}), quote=True)
    label = html.escape(f"{name}: {item.name}", quote=True)
    return f"<button type='button' data-pick='{told_back}' aria-label='{label}' title='{name}'>{sign}</button>"
