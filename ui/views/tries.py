"""A kept try: its pictures, each row under its prompt, each column under its result and strength."""

from __future__ import annotations

import html
from pathlib import Path

from ui.server.media import Media
from ui.work.tries import Grid, read

EMPTY = (
    "<div class='note-box'>Choose results, write a prompt and press <b>Draw</b>: a row for each prompt and guidance, a "
    "column for each result and strength, always from the same noise.</div>"
)


def grid_html(media: Media, folder: Path) -> str:
    found = read(folder)
    if found is None:
        return "<p class='quiet'>This try cannot be read any more.</p>"
    head = "".join(f"<th>{html.escape(column)}</th>" for column in found.columns)
    rows = "".join(_row(media, folder, found, index) for index in range(len(found.rows)))
    width = max(160, min(512, 1000 // max(1, len(found.columns))))
    return (
        f"<div class='try' style='--try-width:{width}px'><p class='quiet'>{html.escape(found.about)}</p>"
        f"<div class='scroll'><table class='tries'><tr>{head}</tr>{rows}</table></div></div>"
    )


def _row(media: Media, folder: Path, found: Grid, index: int) -> str:
    prompt = html.escape(found.rows[index], quote=True)
    cells = "".join(f"<td>{_picture(media, folder, place, prompt)}</td>" for place in found.pictures[index])
    return f"<tr><th class='prompt' colspan='{len(found.columns)}'>{prompt}</th></tr><tr>{cells}</tr>"


def _picture(media: Media, folder: Path, place: str, prompt: str) -> str:
    path = (folder / place).resolve()
    if not place or not path.is_relative_to(folder.resolve()) or path.suffix != ".png":
        return "<span class='quiet'>none</span>"
    url = media.url("image", path)
    return f"<a href='{url}' target='_blank' rel='noopener'><img src='{url}' alt='{prompt}' loading='lazy'></a>"
