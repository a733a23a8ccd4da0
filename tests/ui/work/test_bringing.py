"""Images that come from a browser: hostile names, archives and pictures write nothing where they should not."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from trainer.errors import UserError
from ui.pages.bringing import listing_html, plan_html
from ui.work import bringing, browsing
from ui.workspace import Workspace


def picture(kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind)
    return buffer.getvalue()


def huge(width: int, height: int) -> bytes:
    """The header of a PNG with so many pixels, and nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0"))
    )


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    (tmp_path / "root").mkdir()
    return Workspace(tmp_path / "root")


def upload(place: Workspace, files: dict[str, bytes]) -> list[Path]:
    folder = place.root.parent / "uploads"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def zipped(entries: dict[str, bytes], **kinds: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = kinds.get(name.partition(".")[0], stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def refused(place: Workspace, sources: list[Path], folder: str = "photos") -> dict[str, str]:
    return dict(bringing.plan(place, sources, folder).refused)


def test_images_captions_and_zips_come_into_a_folder(place: Workspace) -> None:
    archive = zipped({"set/b.webp": picture("WEBP"), "set/b.txt": b"a cat", "set/": b"", "__MACOSX/._b": b"x"})
    sources = upload(place, {"a.png": picture(), "a.txt": b"a dog\n", "more.zip": archive})
    made = bringing.plan(place, sources, "photos/cats")
    assert not made.folder.exists()  # a plan writes nothing
    assert "4 files" in plan_html(place, made)
    assert bringing.write(made) == 4
    assert {p.name: p.read_bytes() for p in made.folder.iterdir()} == {
        "a.png": picture(), "a.txt": b"a dog\n", "b.webp": picture("WEBP"), "b.txt": b"a cat",
    }  # fmt: skip
    again = bringing.plan(place, sources, "photos/cats")
    assert again.files == []
    assert set(dict(again.refused).values()) == {f"{n} is there already" for n in ("a.png", "a.txt", "b.webp", "b.txt")}


def test_nothing_is_written_over_what_came_after_the_plan_nor_through_a_link(place: Workspace) -> None:
    made = bringing.plan(place, upload(place, {"a.png": picture()}), "photos")
    made.folder.mkdir()
    outside = place.root.parent / "outside.png"
    (made.folder / "a.png").symlink_to(outside)
    with pytest.raises(UserError, match=r"a\.png: could not be written"):
        bringing.write(made)
    assert not outside.exists()


@pytest.mark.parametrize(
    "folder",
    ["", "..", "../x", "/etc", "a/../../x", ".immiscible", "a/.git", "a" + "/b" * 9, "C:\\x", "x\0y", "con", "~"],
)
def test_only_plain_folders_of_the_workspace_are_written_to(place: Workspace, folder: str) -> None:
    with pytest.raises(UserError, match="folder"):
        bringing.plan(place, [], folder)
    (place.root / "link").symlink_to(place.root.parent)
    (place.root / "file").write_text("")
    for other in ("link", "link/x", "file"):
        with pytest.raises(UserError, match="folder"):
            bringing.plan(place, [], other)


def test_names_become_plain_ones(place: Workspace) -> None:
    entries = {
        "../../etc/passwd.png": picture(), "/abs.png": picture(), "a\\b\\c.png": picture(), "<script>.png": picture(),
        "CON.png": picture(), ".hidden.png": picture(), "dir/x.png": picture(), "other/X.PNG": picture(),
        "x" * 300 + ".png": picture(), "ü é.png": picture(),
    }  # fmt: skip
    made = bringing.plan(place, upload(place, {"a.zip": zipped(entries)}), "photos")
    names = [file.name for file in made.files]
    assert names[:8] == [
        "passwd.png",
        "abs.png",
        "c.png",
        "_script_.png",
        "_CON.png",
        "hidden.png",
        "x.png",
        "x" * 120 + ".png",
    ]
    assert names[8] == "ü é.png"
    assert dict(made.refused) == {"other/X.PNG": "X.PNG is there already"}
    bringing.write(made)
    assert {p.name for p in (place.root / "photos").iterdir()} == set(names)
    assert not (place.root.parent / "etc").exists()


def test_links_passwords_programs_and_broken_files_are_left_out(place: Workspace) -> None:
    archive = zipped(
        {"link.png": b"/etc/passwd", "run.exe": b"MZ", "page.html": b"<script>", "inner.zip": b"PK"},
        link=stat.S_IFLNK | 0o777,
    )
    sources = upload(
        place, {"a.zip": archive, "no.zip": b"PK no", "b.png": b"no", "c.txt": b"\xff\xfe\0a", "d.txt": b"a\0b"}
    )
    assert refused(place, sources) == {
        "link.png": "is a link", "run.exe": "is neither an image nor a caption",
        "page.html": "is neither an image nor a caption", "inner.zip": "is neither an image nor a caption",
        "no.zip": "is no zip that can be read", "b.png": "is no image that can be read", "c.txt": "is no text in UTF-8",
        "d.txt": "is no text",
    }  # fmt: skip


def test_a_zip_bomb_is_neither_unpacked_nor_believed(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bringing, "MOST_FILE", 50_000)
    monkeypatch.setattr(bringing, "MOST_CAPTION", 1000)
    good = picture()
    bomb = zipped({"a.png": good + b"\0" * 1_000_000, "a.txt": b"a" * 5000})
    assert all("too large" in why for why in refused(place, upload(place, {"a.zip": bomb})).values())

    # One that says it is small: the size in its directory is changed.
    lying = bytearray(zipped({"b.png": good + b"\0" * 1_000_000}))
    whole = struct.pack("<I", len(good) + 1_000_000)
    while (at := lying.find(whole)) >= 0:
        lying[at : at + 4] = struct.pack("<I", 100)
    made = bringing.plan(place, upload(place, {"b.zip": bytes(lying)}), "photos")
    if made.files:
        with pytest.raises(UserError):
            bringing.write(made)
    assert not (place.root / "photos" / "b.png").exists()

    monkeypatch.setattr(bringing, "MOST_FILES", 3)
    many = zipped({f"{i}.txt": b"a" for i in range(5)})
    assert "holds 5 files" in refused(place, upload(place, {"c.zip": many}))["c.zip"]
    monkeypatch.setattr(bringing, "MOST_WHOLE", 2 * len(good))
    three = upload(place, {f"{i}.png": good for i in range(3)})
    assert refused(place, three) == {"2.png": "is too much at once"}


def test_a_huge_picture_is_refused_by_its_header(place: Workspace) -> None:
    told = refused(place, upload(place, {"a.png": huge(60_000, 60_000), "b.png": huge(13_000, 13_000)}))
    assert told == {"a.png": "has too many pixels", "b.png": "has too many pixels"}


def test_only_the_workspace_is_browsed(place: Workspace) -> None:
    (place.root / "photos <b>").mkdir()
    (place.root / "photos <b>" / "a.png").write_bytes(picture())
    (place.root / "models").mkdir()
    (place.root / "models" / "sd.safetensors").write_bytes(b"x")
    (place.root / ".immiscible").mkdir()
    (place.root / "out").symlink_to(place.root.parent)
    found = browsing.entries(place, "")
    assert [(e.name, e.images) for e in found] == [("models", 0), ("photos <b>", 1)]
    assert [(e.path, e.is_model) for e in browsing.entries(place, "models")] == [("models/sd.safetensors", True)]
    assert "photos &lt;b&gt;" in listing_html("", found)
    for wrong in ("..", "/", "/etc", "out", ".immiscible", "none", "photos/../..", str(place.root.parent)):
        with pytest.raises(UserError, match="no such folder"):
            browsing.entries(place, wrong)


def test_hard_links_and_special_files_are_no_uploads(place: Workspace) -> None:
    pipe = place.root.parent / "pipe.png"
    os.mkfifo(pipe)
    assert refused(place, [pipe]) == {"pipe.png": "is no file"}
