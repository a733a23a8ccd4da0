"""Pictures, reports and results for the page, by links that only this server can make.

A link carries the path and a signature; so what can be read through the UI is exactly what the UI itself has shown:
samples and results of runs, images of datasets that the user named. No folder is open.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import os
import secrets
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from PIL import Image, ImageOps

from trainer.files.atomic import write_file

Kind = Literal["image", "thumb", "report", "download"]
THUMB = 320  # pixels of a thumbnail's longer side
IMAGE_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
}
# A report is a page of ours with its own scripts: it runs without an origin and can reach nothing.
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)
MOST_PIXELS = 50_000_000  # that are decoded for one thumbnail: 200 MB
_DECODING = threading.Semaphore(2)  # thumbnails at the same time
CACHED = {"cache-control": "private, max-age=86400"}


@dataclass(frozen=True)
class Media:
    """`state`: the UI's own folder, where the key and the thumbnails are kept."""

    state: Path

    def url(self, kind: Kind, path: Path) -> str:
        """A link relative to the page. A changed file gets another link, so that browsers may keep what they have."""
        stamp = ""
        if kind in ("image", "thumb"):
            with contextlib.suppress(OSError):
                stamp = format(path.stat().st_mtime_ns, "x")
        told = f"{kind}\0{path}\0{stamp}".encode("utf-8", "surrogateescape")
        code = base64.urlsafe_b64encode(told).decode().rstrip("=")
        return f"media/{code}.{self._sign(code)}/{quote(path.name, errors='replace')}"

    def resolve(self, token: str) -> tuple[str, Path] | None:
        """(kind, path) of a link that was made here, or None."""
        code, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(code).encode()):
            return None
        told = base64.urlsafe_b64decode(code + "=" * (-len(code) % 4)).decode("utf-8", "surrogateescape")
        kind, path, _ = told.split("\0")
        return kind, Path(path)

    def _sign(self, code: str) -> str:
        return hmac.new(self._key(), code.encode(), hashlib.sha256).hexdigest()[:40]

    def _key(self) -> bytes:
        """Kept on disk, so that an open page stays whole when the server is started again."""
        path = self.state / "key"
        with contextlib.suppress(OSError):
            if len(key := path.read_bytes()) == 32:
                return key
        path.parent.mkdir(parents=True, exist_ok=True)
        made = secrets.token_bytes(32)
        write_file(path, lambda temporary: _write_private(temporary, made))
        return path.read_bytes()

    def answer(self, token: str) -> Response:
        found = self.resolve(token)
        if found is None or not found[1].is_file():
            return Response("404: there is no such file\n", 404, media_type="text/plain")
        kind, path = found
        if kind == "thumb":
            return self._thumbnail(path)
        if kind == "report":
            return FileResponse(path, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})
        if kind == "image" and path.suffix.lower() in IMAGE_TYPES:
            return FileResponse(path, media_type=IMAGE_TYPES[path.suffix.lower()], headers=CACHED)
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    def _thumbnail(self, path: Path) -> Response:
        stat = path.stat()
        name = hashlib.sha256(f"{path}\0{stat.st_mtime_ns}\0{stat.st_size}".encode("utf-8", "surrogateescape"))
        kept = self.state / "thumbs" / f"{name.hexdigest()[:32]}.jpg"
        if not kept.is_file():
            try:
                with _DECODING:
                    made = thumbnail(path)
            except TooLargeError:
                return Response(LARGE, media_type="image/svg+xml")
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
                return Response(BROKEN, media_type="image/svg+xml")
            # Without waiting for the disk: it can be made again at any time.
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_suffix(f".{secrets.token_hex(4)}")
            temporary.write_bytes(made)
            temporary.replace(kept)
        return FileResponse(kept, media_type="image/jpeg", headers=CACHED)


BROKEN = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 100 100'><rect width='100' height='100' fill='#fee2e2'/>"
    "<path d='M30 30L70 70M70 30L30 70' stroke='#b91c1c' stroke-width='4'/></svg>"
)


LARGE = (
    "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 100 100'><rect width='100' height='100' fill='#e2e8f0'/>"
    "<text x='50' y='54' font-size='11' text-anchor='middle' fill='#475569'>too large to show</text></svg>"
)


class TooLargeError(Exception):
    """An image of so many pixels that decoding it would take gigabytes."""


def thumbnail(path: Path) -> bytes:
    """A small JPEG of an image, upright, on white. Raises TooLargeError, and what Pillow raises for a broken one."""
    with Image.open(path) as image:
        image.draft("RGB", (THUMB * 2, THUMB * 2))  # a JPEG is decoded small at once
        if image.width * image.height > MOST_PIXELS:
            raise TooLargeError
        image.thumbnail((THUMB, THUMB))
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            flat = Image.new("RGBA", upright.size, "white")
            flat.alpha_composite(upright.convert("RGBA"))
            upright = flat
        buffer = io.BytesIO()
        upright.convert("RGB").save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _write_private(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def add_route(app: FastAPI, media: Media) -> None:
    @app.get("/media/{token}/{name}")
    def get(token: str, name: str) -> Response:
        return media.answer(token)
