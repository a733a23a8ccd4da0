"""A workspace with a config, and trainings that are only files and a process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.ui.browser import FLAGS, PATIENCE, find_browser
from trainer.run.holder import living
from ui import workspace
from ui.work import processes
from ui.workspace import Workspace

FAKE = Path(__file__).with_name("fake_trainer.py")
CONFIG = """
[run]
name = "{name}"
[model]
base = "base"
[training]
steps = {steps}
[[datasets]]
[[datasets.subsets]]
image_dir = "photos"
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_browser()
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """An empty workspace in which `train` is the fake trainer; what still runs at the end is ended."""
    monkeypatch.setattr(processes, "command", lambda *args: [sys.executable, str(FAKE), *args])
    monkeypatch.setattr(workspace, "MEMORY", 0.0)
    found = Workspace(tmp_path)
    yield found
    for note in found.note("starts", {}).values():
        if process := living(note):
            processes.end(process, at_once=True)


def write_config(place: Workspace, name: str, steps: int = 5) -> Path:
    path = place.root / f"{name}.toml"
    path.write_text(CONFIG.format(name=name, steps=steps), encoding="utf-8")
    return path


def wait_for(true: Callable[[], object], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
