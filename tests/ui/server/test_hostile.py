"""Every endpoint of the page called directly with hostile data, as whoever reaches the server can."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.ui.conftest import write_config
from ui import serve
from ui.draft import session
from ui.work import processes
from ui.workspace import Workspace

SECRET = "the secret of the neighbour"
SHELL = "x; touch pwned; $(touch pwned) `touch pwned` | touch pwned & --set run.name=pwned"


@dataclass
class Attacked:
    """A running page; `started`: the arguments of every program that a handler wanted to run."""

    client: TestClient
    place: Workspace
    outside: Path
    endpoints: list[dict[str, Any]]
    uploads: set[int]  # components that take files
    started: list[list[str]] = field(default_factory=list)

    def call(self, endpoint: dict[str, Any], data: list[Any]) -> Any:
        body = {"data": data, "session_hash": "x", "event_data": {"pick": data[0] if data else SHELL}}
        return self.client.post(f"/gradio_api/run/{endpoint['api_name']}", json=body)

    def tree(self) -> dict[str, bytes]:
        return {str(p.relative_to(self.outside)): p.read_bytes() for p in self.outside.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    top = tmp_path_factory.mktemp("top")
    outside = top / "outside"
    outside.mkdir()
    (outside / "secret.toml").write_text(f'[model]\nbase = "{SECRET}"\n')
    (outside / "secret.txt").write_text(SECRET)
    place = Workspace(top / "work")
    place.root.mkdir()
    write_config(place, "mine")
    before = os.environ.copy()
    app = serve.make(place, "127.0.0.1", 7860).config.app
    patch = pytest.MonkeyPatch()
    with TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        told = client.get("/config").json()
        endpoints = [d for d in told["dependencies"] if d["backend_fn"] is not False]
        uploads = {c["id"] for c in told["components"] if c["type"] in ("uploadbutton", "file")}
        found = Attacked(client, place, outside, endpoints, uploads)

        def stream(arguments: list[str], cwd: Path) -> Iterator[str]:
            found.started.append(list(arguments))
            yield "done"

        patch.setattr(processes, "stream", stream)
        patch.setattr(processes, "spawn", lambda arguments, log, cwd: found.started.append(list(arguments)))
        yield found
    patch.undo()
    os.environ.clear()
    os.environ.update(before)


def forged(place: Workspace, outside: Path) -> list[Any]:
    """What the form would send, with a draft that points elsewhere and shell text in every control."""
    page = session.open_config(place, "mine.toml")
    draft = {**page.draft.model_dump(), "file": f"../{outside.name}/secret.toml"}
    return [json.dumps(draft), *(SHELL if isinstance(c, str) else c for c in page.controls.values())]


def hostile(kind: str, count: int, attacked: Attacked) -> list[Any]:
    secret = str(attacked.outside / "secret.txt")
    form = forged(attacked.place, attacked.outside)
    every: dict[str, list[Any]] = {
        "paths": [f"../{attacked.outside.name}/secret.txt", secret, f"../{attacked.outside.name}/secret.toml"],
        "shell": [SHELL],
        "nothing": [None],
        "shapes": [{"path": secret}, [[secret]], -1, 1e308, True],
        "json": ['{"file": "../outside/secret.toml", "text": ""}', f'["{secret}"]', '{"id": "x", "do": "remove"}'],
        "forged form": (["../outside/secret.toml"] if count == len(form) + 1 else []) + form,
    }
    values = every[kind]
    return [values[i % len(values)] for i in range(count)]


@pytest.mark.parametrize("kind", ["paths", "shell", "nothing", "shapes", "json", "forged form"])
def test_no_endpoint_does_harm_whatever_it_is_sent(kind: str, attacked: Attacked) -> None:
    before, first = attacked.tree(), len(attacked.started)
    crashed = []
    for endpoint in attacked.endpoints:
        answer = attacked.call(endpoint, hostile(kind, len(endpoint["inputs"]), attacked))
        assert SECRET not in answer.text, endpoint["api_name"]
        # What is not even a file is refused before the handler of an upload.
        uploads = attacked.uploads & set(endpoint["inputs"])
        if answer.status_code == 500 and not answer.json().get("error") and not uploads:
            crashed.append(endpoint["api_name"])
    assert crashed == [], "these handlers did not refuse in words of their own"
    assert attacked.tree() == before
    assert not list(attacked.place.root.parent.rglob("pwned*"))
    for arguments in attacked.started[first:]:
        paths = [a for a in arguments[4:] if not a.startswith("--")]
        assert SHELL not in arguments
        assert all(Path(p).is_relative_to(attacked.place.root) for p in paths if os.sep in p), arguments


def test_a_path_that_stands_for_an_upload_is_refused(attacked: Attacked) -> None:
    """Gradio would copy such a file into its own folder, from which it can be read."""
    told = {"path": str(attacked.outside / "secret.txt"), "meta": {"_type": "gradio.FileData"}}
    states = {c["id"] for c in attacked.client.get("/config").json()["components"] if c["type"] == "state"}
    for endpoint in attacked.endpoints:
        if set(endpoint["inputs"]) - states:  # a state lies in the server; what is sent for it is dropped
            answer = attacked.call(endpoint, [told] * len(endpoint["inputs"]))
            assert answer.status_code >= 400, (endpoint["api_name"], answer.text[:200])
    assert list((attacked.place.state / "uploads").rglob("secret*")) == []


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file={secret}", "gradio_api/file=../outside/secret.txt", "gradio_api/file=%2e%2e/secret.txt",
        "gradio_api/file={root}/mine.toml", "file={secret}", "media/x/secret.txt", "static/../../{secret}",
        "gradio_api/proxy=http://127.0.0.1:1/", "docs", "openapi.json", "monitoring", "gradio_api/mcp",
    ],
)  # fmt: skip
def test_no_file_can_be_read_by_its_path(path: str, attacked: Attacked) -> None:
    asked = path.format(secret=attacked.outside / "secret.txt", root=attacked.place.root)
    answer = attacked.client.get(f"/{asked}")
    assert SECRET not in answer.text
    assert "[run]" not in answer.text
    assert answer.status_code >= 400 or "text/html" in answer.headers["content-type"]


def test_uploads_from_other_sites_and_too_big_ones_are_refused(attacked: Attacked) -> None:
    file = {"files": ("a.toml", b"[run]\n")}
    stored = attacked.place.state / "uploads"
    foreign = {"origin": "http://evil.test"}
    assert attacked.client.post("/gradio_api/upload", files=file, headers=foreign).status_code == 403
    big = {"files": ("a.toml", b"x" * (51 * 1024 * 1024))}
    assert attacked.client.post("/gradio_api/upload", files=big).status_code == 413
    assert [p for p in stored.rglob("*") if p.is_file() and p.stat().st_size] == []
    sent = attacked.client.post("/gradio_api/upload", files={"files": ("../../x.toml", b"[run]\n")})
    assert sent.status_code in (200, 400)
    assert not list(attacked.place.root.glob("*x.toml"))


def test_the_page_is_sent_packed(attacked: Attacked) -> None:
    for path in ("/", "/config"):
        with attacked.client.stream("GET", path, headers={"accept-encoding": "gzip"}) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            packed = len(b"".join(answer.iter_raw()))
        whole = len(attacked.client.get(path, headers={"accept-encoding": "identity"}).content)
        print(path, packed, whole)
        assert packed < whole / 4, (path, packed, whole)
