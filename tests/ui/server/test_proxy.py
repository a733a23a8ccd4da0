"""The page behind a proxy that shows it under a path of its own, as on a rented machine."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from tests.ui.browser import FLAGS, PATIENCE, Server, find_browser, free_port, open_tab, ready
from tests.ui.views.test_views import make_run
from ui.workspace import Workspace

PREFIX = "/tools/trainer"


class Proxy:
    """Passes requests for PREFIX/... on without the prefix, one connection each; anything else is 404."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target, self.strangers = port, target, set[str]()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()
        assert self._ready.wait(PATIENCE)

    def _run(self) -> None:
        async def serve() -> None:
            await asyncio.start_server(self._handle, "127.0.0.1", self.port)
            self._ready.set()

        self._loop.run_until_complete(serve())
        self._loop.run_forever()

    def stop(self) -> None:
        def end() -> None:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.call_soon(self._loop.stop)

        self._loop.call_soon_threadsafe(end)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, path, rest = head.split(b" ", 2)
            if not path.decode().startswith(f"{PREFIX}/"):
                self.strangers.add(path.decode())
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                rest = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"\r\nConnection: close", rest)
                inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
                inner_writer.write(b" ".join([method, path[len(PREFIX) :], rest]))
                await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer, close=True))
        writer.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, close: bool = False) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()
    if close:
        target.close()


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[Proxy]:
    run = make_run(Workspace(tmp_path), "one", samples=(2,))
    Image.new("RGB", (8, 8), "red").save(run.sample(2, 0))
    outer = free_port()
    server = Server(tmp_path, free_port(), "--root-path", f"http://127.0.0.1:{outer}{PREFIX}")
    proxy = Proxy(outer, server.port)
    yield proxy
    proxy.stop()
    server.kill()


def test_the_page_works_under_a_path_of_a_proxy(proxied: Proxy) -> None:
    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_browser(), args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        asked: set[str] = set()
        page.on("request", lambda request: asked.add(urlsplit(request.url).netloc))
        ready(page, f"http://127.0.0.1:{proxied.port}{PREFIX}/")
        open_tab(page, "Train")
        picture = page.locator("#samples img").first
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
        browser.close()
    assert asked <= {f"127.0.0.1:{proxied.port}", ""}
    assert proxied.strangers <= {"/favicon.ico"}, "the page must ask for nothing outside its path"
