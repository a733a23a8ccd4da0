"""What the dataset page shows, as HTML: numbers, buckets, tags, and pictures with crop box and captions."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.data.pictures.files import EXTENSIONS
from trainer.errors import UserError
from trainer.reports.plot import Bar, bar_plot
from ui.server.media import Media
from ui.work.captions import Change, read
from ui.work.look import CaptionView, DatasetLook, ImageView

MOST_PROBLEMS = 8
MOST_FILES = 200  # named under one warning
NUMBER = re.compile(r"\d+(\.\d+)?")
MOST_TAGS = 60
MOST_CHANGES = 6  # that are shown before they are made
EMPTY = (
    "<div class='note-box'>Press <b>Look at the images</b>: every image is opened once, and you see what the model "
    "will see: which part of each picture, how often, and with which caption. Trigger word, repeats and resolution are "
    "on the <button type='button' class='link' data-show='f-datasets-subsets-trigger'>Setup</button> page.</div>"
)


def summary_html(found: DatasetLook) -> str:
    report = found.report
    captions = report.get("captions", {})
    cut = captions.get("cut_off")
    facts = [
        ("Images", f"{report.get('images', 0):,}"),
        ("Captions", f"{captions.get('found', 0):,}"),
        ("Missing", f"{captions.get('missing', 0):,}"),
        ("Empty", f"{captions.get('empty', 0):,}"),
        ("Cut off", "not counted" if cut is None else f"{cut:,}"),
        ("Samples an epoch", f"{report.get('samples_per_epoch', 0):,}"),
        ("Steps an epoch", f"{report.get('steps_per_epoch', 0):,}"),
        ("Steps", f"{report.get('steps', 0):,}"),
    ]
    cells = "".join(f"<div><dt>{k}</dt><dd>{html.escape(str(v))}</dd></div>" for k, v in facts)
    return f"<dl class='facts'>{cells}</dl>{_problems(report.get('problems', []))}{_notes(report)}"


def _problems(problems: Sequence[dict[str, object]]) -> str:
    if not problems:
        return "<div class='good' role='status'>Nothing looks odd.</div>"
    stops = any(p.get("stops") for p in problems)
    kinds = grouped(problems)
    rows = "".join(map(_kind, kinds[:MOST_PROBLEMS]))
    more = f"<li>and {len(kinds) - MOST_PROBLEMS:,} other things</li>" if len(kinds) > MOST_PROBLEMS else ""
    count = "1 thing" if len(problems) == 1 else f"{len(problems):,} things"
    title = "Training would not start" if stops else f"{count} worth a look"
    return f"<div class='{'bad-list' if stops else 'note-box'}' role='status'><b>{title}</b><ul>{rows}{more}</ul></div>"


def grouped(problems: Sequence[dict[str, object]]) -> list[list[tuple[str, str]]]:
    """(file, what is odd) of each kind of problem; what differs in numbers only is one kind."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for problem in problems:
        what = str(problem.get("what", ""))
        kinds.setdefault(NUMBER.sub("#", what), []).append((Path(str(problem.get("file", ""))).name, what))
    return list(kinds.values())


def _kind(found: Sequence[tuple[str, str]]) -> str:
    lines = [f"<b>{html.escape(file)}</b>: {html.escape(what)}" for file, what in found]
    if len(lines) == 1:
        return f"<li>{lines[0]}</li>"
    rest = f"<br>and {len(lines) - MOST_FILES:,} more" if len(lines) > MOST_FILES else ""
    said = f"<b>{len(lines):,} files</b>, as {lines[0]}"
    return f"<li><details><summary>{said}</summary>{'<br>'.join(lines[:MOST_FILES])}{rest}</details></li>"


def _notes(report: dict[str, object]) -> str:
    notes = report.get("notes")
    lines = [str(n) for n in notes] if isinstance(notes, list) else []
    return "".join(f"<p class='quiet'>{html.escape(line)}</p>" for line in lines)


def broken(found: DatasetLook) -> list[Path]:
    """Files that the training would stop at because they are no images."""
    good = {picture.file for picture in found.pictures}
    named = [str(p.get("file", "")) for p in found.report.get("problems", []) if p.get("stops")]
    files = [Path(name) for name in dict.fromkeys(named) if name and name not in good]
    return [file for file in files if file.suffix.lower() in EXTENSIONS and file.is_file()]


def buckets_html(found: DatasetLook) -> str:
    counts = [Bar(f"{b['width']} x {b['height']}", float(b["images"])) for b in found.report.get("buckets", [])]
    return bar_plot("Images by training size", counts)


def tags_html(tags: Sequence[tuple[str, int]]) -> str:
    """The most frequent tags; a click puts one into the search."""
    if not tags:
        return "<p class='quiet'>No captions.</p>"
    cells = "".join(
        f"<button type='button' class='tag' data-pick=\"{html.escape(tag, quote=True)}\">"
        f"{html.escape(tag)} <span>{count:,}</span></button>"
        for tag, count in tags[:MOST_TAGS]
    )
    more = f"<p class='quiet'>and {len(tags) - MOST_TAGS:,} rarer ones</p>" if len(tags) > MOST_TAGS else ""
    return f"<div class='tags'>{cells}</div>{more}"


def filters(found: DatasetLook) -> list[tuple[str, str]]:
    odd = sum(bool(p.problems) for p in found.pictures)
    sizes = dict.fromkeys(p.size_name for p in sorted(found.pictures, key=lambda p: p.bucket))
    choices = [(f"all, problems first ({len(found.pictures):,})", "")]
    return [*choices, *([(f"with problems ({odd:,})", "problems")] if odd else []), *((s, s) for s in sizes)]


def chosen(found: DatasetLook, which: str, search: str) -> list[int]:
    """Places in `found.pictures` of what is to be shown."""
    words = search.lower().split()
    return [
        index
        for index, picture in enumerate(found.pictures)
        if (not which or (picture.problems if which == "problems" else picture.size_name == which))
        and all(word in f"{Path(picture.file).name} {picture.written}".lower() for word in words)
    ]


def gallery_html(media: Media, found: DatasetLook, places: Sequence[int], current: int | None) -> str:
    """The pictures at these places."""
    if not places:
        return "<p class='quiet'>No image fits.</p>"
    shown = str(time.time_ns())  # boxes that are shown anew have no ticks, also where they stand for the same picture
    cells = "".join(_cell(media, found.pictures[i], i, shown, selected=i == current) for i in places)
    return f"<div class='gallery'>{cells}</div>"


def _cell(media: Media, picture: ImageView, index: int, shown: str, *, selected: bool) -> str:
    name = html.escape(Path(picture.file).name)
    marks = f"{' odd' if picture.problems else ''}{' selected' if selected else ''}"
    problems = "".join(f"<p class='bad-text'>{html.escape(text)}</p>" for text in picture.problems[:2])
    caption = caption_html(picture.captions[0]) if picture.captions else ""
    if (edited := edited_since(picture)) is not None:
        caption = f"{html.escape(edited)} <i class='quiet'>(edited)</i>"
    return (
        f"<div class='tickable'><button type='button' class='cell{marks}' data-pick='{index}' aria-label='{name}'>"
        f"{framed(media, picture)}<b>{name}</b>"
        f"<small>{picture.size_name}, {picture.times:g} an epoch</small>{problems}<p>{caption}</p></button>"
        f"<input type='checkbox' data-box='{index}' data-shown='{shown}' aria-label='Tick {name}' title='Tick'></div>"
    )


def edited_since(picture: ImageView) -> str | None:
    """The text of its caption file, where that is no longer what was looked at."""
    if not picture.caption_file:
        return None
    try:
        now = (read(Path(picture.caption_file)) or "").strip()
    except UserError:
        return None
    first = now if "\n" in picture.written else now.partition("\n")[0]
    return first if first.strip() != picture.written.strip() else None


def framed(media: Media, picture: ImageView) -> str:
    """The thumbnail with what trains inside the frame."""
    left, top, width, height = (f"{v * 100:.2f}%" for v in picture.crop)
    box = f"<span class='crop' style='left:{left};top:{top};width:{width};height:{height}'></span>"
    mask = ""
    if picture.mask:
        url = media.url("thumb", Path(picture.mask))
        mask = f"<img class='mask' src='{url}' alt='' loading='lazy' title='What is dark here does not train.'>"
    return (
        f"<span class='thumb'><img src='{media.url('thumb', Path(picture.file))}' alt='' loading='lazy'>{mask}"
        f"<span class='clip'>{box}</span></span>"
    )


def changes_html(wanted: Sequence[Change], count: int) -> str:
    """The first captions before and after a change."""
    rows = "".join(
        f"<tr><td>{html.escape(c.file.stem)}</td><td><s>{html.escape((c.before or '').strip())}</s><br>"
        f"{html.escape((c.after or '').strip())}</td></tr>"
        for c in wanted[:MOST_CHANGES]
    )
    more = f" The first {MOST_CHANGES}:" if len(wanted) > MOST_CHANGES else ""
    table = f"<table class='plain changes'>{rows}</table>" if rows else ""
    return f"<p class='quiet' role='status'>{len(wanted):,} of {count:,} captions would change.{more}</p>{table}"


def caption_html(caption: CaptionView) -> str:
    """The caption with what does not reach the model struck out."""
    if not caption.text:
        return "<i>(empty)</i>"
    if caption.kept is None or caption.kept >= len(caption.text):
        return html.escape(caption.text)
    kept, lost = caption.text[: caption.kept], caption.text[caption.kept :]
    return f"{html.escape(kept)}<s title='cut off: {caption.tokens} tokens'>{html.escape(lost)}</s>"


def picture_html(media: Media, picture: ImageView) -> str:
    """One image large, and what is done with it."""
    facts = (
        f"{picture.original[0]} x {picture.original[1]} pixels, trained as {picture.size_name}, "
        f"{picture.times:g} times an epoch"
    )
    problems = "".join(f"<p class='bad-text'>{html.escape(text)}</p>" for text in picture.problems)
    captions = "".join(f"<li>{caption_html(c)}</li>" for c in picture.captions)
    return (
        f"<div class='picture'>{framed(media, picture)}<b>{html.escape(Path(picture.file).name)}</b>"
        f"<p class='quiet'>{facts}</p>{problems}<h3>As it will be trained</h3><ul>{captions}</ul></div>"
    )
