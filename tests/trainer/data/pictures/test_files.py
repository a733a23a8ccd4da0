"""Sizes from the headers of image files, and files that are none."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trainer
from tests.trainer.data.conftest import picture
from trainer.data.pictures import decode
from trainer.data.pictures import files as images
from trainer.data.pictures.files import BrokenImageError


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores so that it is shown upright (EXIF 2.3, tag 0x0112)."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]


@pytest.fixture
def upright() -> np.ndarray:
    pixels = np.zeros((24, 40, 3), np.uint8)
    pixels[:12, :20] = 255  # one white corner, top left
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["jpg", "webp", "png", "avif"])
def test_exif_orientation_in_size_and_pixels(
    tmp_path: Path, upright: np.ndarray, orientation: int, format: str
) -> None:
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    path = tmp_path / f"a.{format}"
    Image.fromarray(np.ascontiguousarray(stored_as(upright, orientation))).save(path, exif=exif, quality=100)
    assert images.size_of(str(path)) == (40, 24)
    shown = np.asarray(decode.load(str(path)).rgb).astype(int)
    assert shown.shape == (24, 40, 3)
    assert np.abs(shown - upright).mean() < 3


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path, upright: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored_as(upright, 6))).save(buffer, "png")
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    whole = buffer.getvalue()
    end = whole.rindex(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(whole[:end] + chunk + whole[end:])
    assert images.size_of(str(tmp_path / "a.png")) == (40, 24)
    assert np.array_equal(np.asarray(decode.load(str(tmp_path / "a.png")).rgb), upright)


@pytest.mark.parametrize("format", ["png", "jpg", "webp", "bmp", "gif", "avif"])
def test_a_truncated_file_is_named_when_decoded(tmp_path: Path, format: str) -> None:
    whole = tmp_path / f"whole.{format}"
    picture(128, 96).save(whole)
    assert decode.check(str(whole)) is None
    cut = tmp_path / f"cut.{format}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(BrokenImageError, match=rf"cut\.{format}: "):
        decode.load(str(cut))
    assert decode.check(str(cut))


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_a_truncated_file_is_named_from_the_header_alone(tmp_path: Path, format: str) -> None:
    whole = tmp_path / f"whole.{format}"
    picture(128, 96).save(whole)
    assert images.size_of(str(whole)) == (128, 96)
    cut = tmp_path / f"cut.{format}"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(BrokenImageError, match=rf"cut\.{format}: "):
        images.size_of(str(cut))


def test_empty_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(BrokenImageError, match=r"empty\.png: the file is empty"):
        images.size_of(str(tmp_path / "empty.png"))
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(BrokenImageError, match=r"text\.png: not an image"):
        images.size_of(str(tmp_path / "text.png"))
    with pytest.raises(BrokenImageError, match=r"gone\.png: cannot be read: No such file"):
        images.size_of(str(tmp_path / "gone.png"))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(BrokenImageError, match=r"folder\.png: is not a file"):
        images.size_of(str(tmp_path / "folder.png"))


def test_a_symlink_loop_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    with pytest.raises(BrokenImageError, match=r"a\.png: cannot be read: Too many levels of symbolic links"):
        images.size_of(str(tmp_path / "a.png"))


def test_a_decompression_bomb_is_named_before_it_explodes(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xae\x42\x60\x82")
    with pytest.raises(BrokenImageError, match=r"bomb\.png: too many pixels to be safe"):
        images.size_of(str(tmp_path / "bomb.png"))


def test_names_that_are_not_utf8_can_be_shown() -> None:
    assert images.printable("a\udcff b ü 😀.png") == "a\\xff b ü 😀.png"
    assert images.listed([f"{n}.png" for n in range(7)]) == "0.png, 1.png, 2.png, 3.png, 4.png and 2 more"


def test_a_file_that_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "secret.png"
        Image.new("RGB", (64, 64)).save(path)
        Path(folder).chmod(0o755)
        path.chmod(0)
        with as_nobody(), pytest.raises(BrokenImageError, match=r"secret\.png: cannot be read: Permission denied"):
            images.size_of(str(path))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Permissions do not bind root: it becomes another user for a moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


PLUGIN = """
from PIL import Image, ImageFile

class Made(ImageFile.ImageFile):
    format = "JXL"
    def _open(self):
        text = self.fp.read().split()
        if text[-1] != b"end":
            raise RuntimeError("Generic Error.\\nMore lines of it.")
        self._size, self._mode = (int(text[1]), int(text[2])), "RGB"

Image.register_open("JXL", Made, lambda head: head.startswith(b"jxl"))
Image.register_extension("JXL", ".jxl")
"""


def test_jpeg_xl_is_read_where_its_plugin_is_installed(tmp_path: Path) -> None:
    (tmp_path / "whole.jxl").write_text("jxl 48 32 end")
    (tmp_path / "half.jxl").write_text("jxl 48 32")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/pillow_jxl.py").write_text(PLUGIN)
    program = (
        "from trainer.data.pictures import files as images\n"
        "for name in ('whole.jxl', 'half.jxl'):\n"
        "    try: print(images.size_of(name))\n"
        "    except images.BrokenImageError as error: print(error)\n"
    )

    def told(*path: Path) -> list[str]:
        paths = os.pathsep.join(map(str, (Path(trainer.__file__).parents[1], *path)))
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.splitlines()

    assert told(tmp_path / "site") == ["(48, 32)", "half.jxl: damaged: Generic Error."]
    if importlib.util.find_spec("pillow_jxl") is None:
        assert all("JPEG XL needs a plugin" in line for line in told())
