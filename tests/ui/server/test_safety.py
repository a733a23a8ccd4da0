"""What must not get through: other sites, other hosts, wrong passwords, foreign files, names that are paths."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from trainer.errors import UserError
from ui import serve
from ui.draft import session
from ui.draft.config import Draft, from_json
from ui.server import guard as guards
from ui.server import login as logins
from ui.server import media as medias
from ui.server import uploads as upload_bounds
from ui.server.guard import Guard, is_local
from ui.server.login import Login
from ui.server.media import Media, add_route
from ui.server.uploads import Uploads
from ui.workspace import Workspace

PORT = 7860
HOME = "http://127.0.0.1:7860"


@pytest.fixture
def calls() -> list[str]:
    return []


def inner(calls: list[str]) -> FastAPI:
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST", "OPTIONS"])
    async def handler(path: str) -> dict[str, str]:
        calls.append(path)
        return {"path": path}

    return app


def client(calls: list[str], host: str = "127.0.0.1", auth: str = "", names: tuple[str, ...] = ()) -> TestClient:
    return TestClient(Guard(inner(calls), host, PORT, names, auth), base_url=HOME)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.test"},
        {"host": "evil.test:7860"},
        {"host": "127.0.0.1:8080"},
        {"host": "127.0.0.1.evil.test:7860"},
        {"host": "192.168.1.5:7860"},
        {"host": ""},
        {"origin": "http://evil.test"},
        {"origin": "http://127.0.0.1:8080"},
        {"origin": "http://localhost:7860"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
    ids=str,
)
def test_other_hosts_and_other_sites_are_refused(headers: dict[str, str], calls: list[str]) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        assert client(calls).request(method, "/gradio_api/upload", headers=headers).status_code == 403
    assert calls == [], "the handler must not even run"


def test_a_link_from_another_site_may_open_the_page_but_not_post(calls: list[str]) -> None:
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client(calls).get("/", headers=visit).status_code == 200
    assert client(calls).post("/", headers=visit).status_code == 403


def test_the_page_itself_gets_through(calls: list[str]) -> None:
    for headers in ({}, {"origin": HOME}, {"host": "localhost:7860", "origin": "http://localhost:7860"}):
        assert client(calls).post("/run", headers=headers).status_code == 200
    assert client(calls, names=("ui.example.org",)).get("/", headers={"host": "ui.example.org"}).status_code == 200


def test_on_a_network_only_addresses_and_known_names_are_hosts(calls: list[str]) -> None:
    """Another site can have a name that leads here, but it cannot have a bare address for a name."""
    for host, code in (("192.168.1.5:7860", 200), ("[fe80::1]:7860", 200), ("evil.test:7860", 403)):
        assert client(calls, host="0.0.0.0").get("/", headers={"host": host}).status_code == code


def test_nothing_is_answered_without_the_password(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(logins.asyncio, "sleep", sleep)
    asked = client(calls, auth="ann:secret word: ü")
    for path in ("/", "/theme.css", "/config", "/media/x/y", "/gradio_api/heartbeat/x"):
        assert asked.get(path).status_code == 401
    for wrong in ("ann:wrong", "ann", "", "bob:secret word: ü"):
        code = base64.b64encode(wrong.encode()).decode()
        assert asked.get("/", headers={"authorization": f"Basic {code}"}).status_code == 401
    for broken in ("Basic \u00fc", "Basic", "Bearer x", "Basic !!!!"):
        assert asked.get("/", headers={"authorization": broken.encode("latin-1")}).status_code == 401
    assert calls == []
    assert waited == [logins.PACE] * 8, "guessing is slow"
    right = base64.b64encode("ann:secret word: ü".encode()).decode()
    assert asked.get("/", headers={"authorization": f"Basic {right}"}).status_code == 200


def basic(auth: str) -> str:
    return f"Basic {base64.b64encode(auth.encode()).decode()}"


def test_guesses_at_once_are_answered_one_after_the_other_and_most_are_sent_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logins, "PACE", 0.01)
    login = Login("ann:secret")

    async def attack() -> tuple[list[str], float, str]:
        start = asyncio.get_running_loop().time()
        guesses = [login.answer(basic(f"ann:{n}"), f"10.0.0.{n}") for n in range(199)]
        right = login.answer(basic("ann:secret"), "10.0.1.1")  # among them, it is no faster
        answers = await asyncio.gather(*guesses, right)
        seconds = asyncio.get_running_loop().time() - start
        return list(answers), seconds, await login.answer(basic("ann:secret"), "10.0.1.2")

    answers, seconds, afterwards = asyncio.run(attack())
    assert answers.count("ask") == logins.MOST_WAITING
    assert answers.count("busy") == 200 - logins.MOST_WAITING
    assert seconds >= 0.9 * logins.MOST_WAITING * logins.PACE
    assert afterwards == "in"
    assert [record.getMessage() for record in caplog.records] == [
        "login: wrong password from 10.0.0.0 (1 wrong attempts so far)",
        "login: wrong password from 10.0.0.10 (11 wrong attempts so far)",
    ]


def test_who_knew_the_password_does_not_wait_until_a_wrong_guess_comes_from_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(logins.asyncio, "sleep", sleep)
    login, right = Login("ann:secret"), basic("ann:secret")

    async def visit() -> list[int]:
        counts = []
        for authorization in (right, right, right, basic("ann:guess"), right, right):
            await login.answer(authorization, "10.0.0.1")
            counts.append(len(waited))
        return counts

    assert asyncio.run(visit()) == [1, 1, 1, 2, 3, 3]


def test_uploads_have_a_bound_together(calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_bounds, "MOST", 1000)
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file").write_bytes(b"x" * 600)
    uploads = Uploads(tmp_path)
    asked = TestClient(Guard(inner(calls), "127.0.0.1", PORT, uploads=uploads), base_url=HOME)
    for path in ("/gradio_api/upload", "/sub/gradio_api//upload/"):
        assert asked.post(path, content=b"x" * 300).status_code == 200
        assert asked.post(path, content=b"x" * 500).status_code == 507
    with uploads.receiving(300):
        assert asked.post("/gradio_api/upload", content=b"x" * 300).status_code == 507, "what comes in counts too"
    assert asked.post("/elsewhere", content=b"x" * 500).status_code == 200
    assert asked.post("/gradio_api/upload", content=b"x" * 300).status_code == 200
    assert uploads.coming == 0
    unsized = (b"x" for _ in range(3))
    assert asked.post("/gradio_api/upload", content=unsized).status_code == 507, "a size that is not told may be any"


def test_an_image_of_very_many_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tmp_path / "bomb.png"
    Image.new("1", (8000, 8000)).save(bomb)
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (8000, 7000), "red").save(photo)
    media = Media(tmp_path / "state")
    assert media.answer(token_of(media.url("thumb", photo))).media_type == "image/jpeg", "drawn small at once"
    monkeypatch.setattr(medias.Image.Image, "thumbnail", lambda *_: pytest.fail("it is decoded"))
    answer = media.answer(token_of(media.url("thumb", bomb)))
    assert b"too large" in answer.body


def token_of(url: str) -> str:
    return url.split("/")[1]


def test_big_bodies_are_refused_whether_they_tell_their_size_or_not(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "MOST_BODY", 1000)
    app = FastAPI()

    @app.post("/")
    async def handler(body: dict[str, str]) -> None:
        calls.append("ran")

    asked = TestClient(Guard(app, "127.0.0.1", PORT), base_url=HOME)
    big = b'{"a": "' + b"x" * 2000 + b'"}'
    json = {"content-type": "application/json"}

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(big), 100):
            yield big[start : start + 100]

    assert asked.post("/", content=big, headers=json).status_code == 413
    # The framework turns an interrupted body into an answer of its own.
    assert asked.post("/", content=pieces(), headers=json).status_code in (400, 413)
    assert calls == []


def test_web_sockets_are_not_answered(calls: list[str]) -> None:
    async def never(*_: object) -> None:
        raise AssertionError("nothing may be sent")

    guard = Guard(inner(calls), "127.0.0.1", PORT)
    asyncio.run(guard({"type": "websocket", "headers": []}, never, never))  # type: ignore[arg-type]


def test_every_answer_forbids_frames_and_foreign_content(calls: list[str]) -> None:
    headers = client(calls).get("/").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "http" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_it_does_not_listen_to_others_without_a_login() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "my-server"):
        assert not is_local(host)
        with pytest.raises(UserError, match="--auth"):
            serve.check_login(host, "", without_login=False)
        serve.check_login(host, "ann:secret", without_login=False)
        serve.check_login(host, "", without_login=True)
    for host in ("127.0.0.1", "localhost", "::1", "127.1.2.3"):
        assert is_local(host)
        serve.check_login(host, "", without_login=False)
    with pytest.raises(UserError, match="USER:PASSWORD"):
        serve.check_login("127.0.0.1", "no-colon", without_login=False)


def test_a_mistyped_folder_is_an_error(tmp_path: Path) -> None:
    for name in ("nowhere", "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="no such folder"):
            serve.main(tmp_path / name, browser=False)


def test_a_taken_port_is_an_error_or_the_next_one() -> None:
    first = serve.bind("127.0.0.1", 0)
    port = first.getsockname()[1]
    with pytest.raises(UserError, match="--port"):
        serve.bind("127.0.0.1", port)
    with pytest.raises(UserError, match="--port"):
        serve.bind("203.0.113.7", 0)
    first.close()


@pytest.fixture
def media(tmp_path: Path) -> Media:
    return Media(tmp_path / "state")


def asking(media: Media) -> TestClient:
    app = FastAPI()
    add_route(app, media)
    return TestClient(app)


def test_only_links_that_were_made_here_open_a_file(media: Media, tmp_path: Path) -> None:
    picture, secret = tmp_path / "a b.png", tmp_path / "secret.png"
    for path in (picture, secret):
        Image.new("RGB", (8, 8), "red").save(path)
    url = media.url("image", picture)
    found = asking(media).get(f"/{url}")
    assert found.status_code == 200
    assert found.content == picture.read_bytes()
    token = url.split("/")[1]
    code, signature = token.split(".")
    other = base64.urlsafe_b64encode(f"image\0{secret}\0".encode()).decode().rstrip("=")
    for forged in (
        f"{other}.{signature}",
        f"{code}.{'0' * 40}",
        code,
        f"{code}.",
        ".",
        "..%2f..%2fetc%2fpasswd",
        "\u00fc.\u00fc",
    ):
        assert asking(media).get(f"/media/{forged}/x.png").status_code == 404
    assert Media(tmp_path / "elsewhere").resolve(token) is None, "each workspace has a key of its own"
    assert Media(tmp_path / "state").resolve(token) == ("image", picture), "which outlives the server"
    assert (tmp_path / "state" / "key").stat().st_mode & 0o077 == 0


def test_what_could_run_in_the_page_is_disarmed(media: Media, tmp_path: Path) -> None:
    page, drawing = tmp_path / "learning-report.html", tmp_path / "x.svg"
    page.write_text("<script>parent.document</script>")
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    report = asking(media).get(f"/{media.url('report', page)}")
    assert report.headers["content-security-policy"].startswith("sandbox")
    assert "allow-same-origin" not in report.headers["content-security-policy"]
    picture = asking(media).get(f"/{media.url('image', drawing)}")
    assert picture.headers["content-type"] == "application/octet-stream"
    assert "attachment" in picture.headers["content-disposition"]


def test_thumbnails_are_small_upright_and_survive_broken_files(media: Media, tmp_path: Path) -> None:
    big = tmp_path / "big.jpg"
    exif = Image.Exif()
    exif[274] = 6  # lying on its side
    Image.new("RGB", (1000, 500), "blue").save(big, exif=exif)
    made = asking(media).get(f"/{media.url('thumb', big)}")
    kept = next((tmp_path / "state" / "thumbs").glob("*"))
    with Image.open(kept) as image:
        assert image.size == (160, 320)
    assert made.headers["content-type"] == "image/jpeg"
    for name, content in (("empty.png", b""), ("text.png", b"hello"), ("cut.jpg", big.read_bytes()[:200])):
        (tmp_path / name).write_bytes(content)
        broken = asking(media).get(f"/{media.url('thumb', tmp_path / name)}")
        assert broken.status_code == 200
        assert broken.headers["content-type"].startswith("image/svg+xml")


def test_names_cannot_leave_the_workspace(tmp_path: Path) -> None:
    place = Workspace(tmp_path / "work")
    place.root.mkdir()
    (tmp_path / "outside.toml").write_text("[model]\nbase = 'x'\n")
    (place.root / "mine.toml").write_text("[model]\nbase = 'x'\n")
    page = session.open_config(place, "mine.toml")
    for name in ("../outside.toml", str(tmp_path / "outside.toml"), "mine", "", "./mine.toml", "mine.toml\0"):
        with pytest.raises(UserError):
            place.config(name)
        with pytest.raises(UserError):
            place.run(name)
    for name in ("../x", "a/b", "..", ".hidden", "", " ", "a\\b", "x" * 200, "a\0b", "con:", "-rf"):
        with pytest.raises(UserError):
            session.save_as(place, page, name)
    forged = session.Page(page.draft.model_copy(update={"file": "../outside.toml"}), page.controls)
    with pytest.raises(UserError):
        session.save(place, forged)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside.toml", "work"]
    saved = session.save_as(place, page, "other name.toml")
    assert saved.draft.file == "other name.toml"


def test_a_file_that_somebody_else_changed_is_not_overwritten(tmp_path: Path) -> None:
    place = Workspace(tmp_path)
    file = tmp_path / "mine.toml"
    file.write_text("[model]\nbase = 'x'\n")
    page = session.open_config(place, "mine.toml")
    file.write_text("[model]\nbase = 'y'\n")
    with pytest.raises(UserError, match="changed on disk"):
        session.save(place, page)
    with pytest.raises(UserError, match="there is such a file"):
        session.save_as(place, session.new(), "mine")
    assert file.read_text() == "[model]\nbase = 'y'\n"


@pytest.mark.parametrize(
    "sent",
    [
        "{", "[]", '{"datasets": 3}', '{"text": "= ="}', '{"file": 1}', '{"dataset": -1}', '{"x": 1}',
        '{"datasets": [{"origin": -1}]}', '{"datasets": [{"origin": 0, "folders": [{"origin": "x"}]}]}',
        '{"text": "' + "x" * 1_000_001 + '"}',
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_draft_that_the_page_could_not_have_sent_is_refused(sent: str) -> None:
    with pytest.raises(UserError):
        from_json(sent)


def test_a_draft_that_points_at_nothing_shows_an_empty_folder() -> None:
    page = session.opened(Draft(text="", dataset=77, folder=5))
    assert page.text == ""
    assert page.controls["datasets[].subsets[].image_dir"] == ""
