"""Queueing one variant after the other from the form: nothing is refused, nothing is lost, nothing is replaced."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from tests.ui.conftest import write_config
from ui.draft import session
from ui.draft.fields import all_fields
from ui.draft.session import Page
from ui.pages.form import Form
from ui.pages.noise import NoisePage
from ui.pages.queue import QueuePage
from ui.pages.setup import Setup
from ui.pages.train import Train
from ui.server.media import Media
from ui.work import queue as queues
from ui.workspace import Workspace


class Tab:
    """What a browser shows: the form as the server's answers left it."""

    def __init__(self, place: Workspace) -> None:
        setup = Setup(place, Form({}))
        media = Media(place.state)
        self.train, self.queue = Train(place, media, setup), QueuePage(place)
        with gr.Blocks():
            setup.header()
            self.train.build()
            setup.basics()
            NoisePage(place, media, setup).build()
            setup.all_settings()
            setup.aside()
            self.queue.build()
        self.setup = setup
        self.show(setup.show_all(session.open_config(place, "one.toml")))

    def show(self, answer: list[Any]) -> None:
        shown = dict(zip(map(id, self.setup.everything), answer, strict=False))
        self.draft = shown[id(self.setup.draft)]
        self.controls = dict(zip(all_fields(), (shown[id(c)] for c in self.setup.form.ordered), strict=True))

    def type(self, key: str, text: str) -> None:
        self.controls[key] = text
        page: Page = session.page_of(self.draft, list(self.controls.values()))
        self.draft = page.draft.model_dump_json()

    def enqueue(self) -> None:
        self.show(self.queue.add(self.train, self.draft, list(self.controls.values())))


@pytest.fixture
def tab(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tab]:
    monkeypatch.setattr(queues, "work", lambda workspace: None)
    write_config(place, "one")
    return Tab(place)


def names(place: Workspace) -> list[str]:
    return [item.name for item in queues.read(place).items]


def test_three_variants_are_queued_in_a_row_and_each_keeps_its_config(place: Workspace, tab: Tab) -> None:
    tab.enqueue()
    before = (place.root / "one.toml").read_text()
    for name, steps in (("two", "7"), ("three", "9")):
        tab.type("run.name", name)
        tab.type("training.steps", steps)
        tab.enqueue()
    assert names(place) == ["one", "two", "three"]
    assert (place.root / "one.toml").read_text() == before
    for name, steps in (("one", 5), ("two", 7), ("three", 9)):
        assert tomllib.loads((place.root / f"{name}.toml").read_text())["training"]["steps"] == steps
    copies = [tomllib.loads(queues.copy_of(place, i).read_text()) for i in queues.read(place).items]
    assert [copy["training"]["steps"] for copy in copies] == [5, 7, 9]


def test_a_refusal_tells_the_page_what_was_written(place: Workspace, tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the next save would find a file that "somebody else" had changed."""
    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda text, **_: said.append(text))
    tab.enqueue()
    tab.type("training.steps", "8")
    tab.enqueue()
    assert "is in the queue already" in said[0]
    assert names(place) == ["one"]
    tab.type("training.steps", "9")
    page = session.page_of(tab.draft, list(tab.controls.values()))
    assert not session.changed(session.save(place, page))
    assert "steps = 9" in (place.root / "one.toml").read_text()


def test_a_start_that_fails_tells_the_page_too(place: Workspace, tab: Tab, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda text, **_: said.append(text))
    tab.type("training.steps", "-3")
    tab.show(tab.train._start(tab.draft, *tab.controls.values()))
    assert "training.steps" in said[0]
    tab.type("training.steps", "3")
    assert not session.changed(session.save(place, session.page_of(tab.draft, list(tab.controls.values()))))
