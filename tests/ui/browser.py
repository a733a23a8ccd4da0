"""A real browser, and the user interface as a process that can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PROGRAM = ("trainer", "ui")
PATIENCE = 120.0  # seconds; the machine may be busy


def find_browser() -> str:
    """The path of a browser. Without one the tests are skipped, but not where CI=true: there it must be installed."""
    found = next((path for name in NAMES if (path := shutil.which(name))), "")
    if not found:
        reason = f"no browser on the PATH (looked for {', '.join(NAMES)})"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Server:
    """`python -m trainer ui` on a port of its own; what it prints goes to a file."""

    def __init__(self, folder: Path, port: int, *options: str, program: tuple[str, ...] = PROGRAM) -> None:
        self.folder, self.port, self._options, self._program = folder, port, options, program
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self.log = self.folder / "ui.log"
        command = [sys.executable, "-P", "-m", *self._program, str(self.folder), "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--no-browser", *self._options], stdout=log, stderr=log, cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=PATIENCE):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def kill(self) -> None:
        """As a closed terminal or a crash would."""
        if self.process.poll() is None:
            if os.name == "nt":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def open_tab(page: Page, *names: str) -> None:
    for name in names:
        page.get_by_role("tab", name=name, exact=True).first.click()
    page.wait_for_timeout(300)  # Gradio mounts what a tab shows and then fills it; nobody types that soon


def type_in(page: Page, control: str, text: str) -> None:
    """Types into a field of the form and leaves it."""
    field = page.locator(f"#{control} input, #{control} textarea").first
    field.fill(text)
    field.press("Tab")


def pick(page: Page, control: str, name: str) -> None:
    """Opens a list and chooses."""
    page.locator(f"#{control} input").click()
    page.get_by_role("option", name=name).first.click()


def ready(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#problems ul, #problems .good").first).to_be_visible()
