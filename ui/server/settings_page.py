"""docs/settings.md as a page, with a place for every key that the form's help leads to."""

from __future__ import annotations

import html
import re
from functools import cache
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

FILE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
CELLS = re.compile(r"(?<!\\)\|")
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color-scheme:light dark}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.35em .8em .35em 0;"
    "border-bottom:1px solid #8884}tr:target{background:#0d948833}code{font-size:.92em}"
)


DATASETS = "Datasets"  # the heading under which the options of all dataset tables stand


def place_of(key: str) -> str:
    """Where a key stands on the page: datasets[].subsets[].image_dir -> Datasets.image_dir"""
    section, _, name = key.rpartition(".")
    return f"{DATASETS}.{name}" if section == "general" or section.startswith("datasets[]") else key


def _row_place(section: str, name: str) -> str:
    return f"{section.strip('[]` ')}.{name.strip('` ')}"


@cache
def page(file: Path = FILE) -> str:
    """Headings, paragraphs and tables, which is all that the file has."""
    parts, section, inside = [], "", False
    for line in file.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in CELLS.split(line)[1:-1]] if line.startswith("|") else []
        if not cells and inside:
            parts.append("</table>")
        if cells and set("".join(cells)) <= set("-:"):
            continue
        if cells:
            tag = "td" if inside else "th"
            parts.append("" if inside else "<table>")
            row = "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in cells)
            parts.append(f"<tr id='{html.escape(_row_place(section, cells[0]), quote=True)}'>{row}</tr>")
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            section = line.lstrip("# ")
            parts.append(f"<h{level}>{_inline(section)}</h{level}>")
        elif line.strip():
            parts.append(f"<p>{_inline(line)}</p>")
        inside = bool(cells)
    body = "".join([*parts, "</table>" if inside else ""])
    return f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Settings</title><style>{STYLE}</style>{body}"


def _inline(text: str) -> str:
    plain = re.sub(r"\\([<>|*_\[\]])", r"\1", text)
    linked = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", plain)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(linked))


def add_route(app: FastAPI) -> None:
    @app.get("/settings")
    def get() -> HTMLResponse:
        if not FILE.is_file():
            return HTMLResponse("<p>The list of settings is not installed here.</p>", 404)
        return HTMLResponse(page(), headers={"content-security-policy": POLICY})
