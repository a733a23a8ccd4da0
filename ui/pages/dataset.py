"""The dataset page: what the model will see of every image, and captions edited in place."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import gradio as gr

from trainer.data.captions.edits import edit_of
from trainer.errors import UserError
from ui.draft import entries, session
from ui.pages.bringing import BringingCard
from ui.pages.picks import ON_LOAD, ON_LOAD_BOXES, picked, plain
from ui.pages.setup import Setup
from ui.pages.tell import refusal_html, told
from ui.pages.wiring import AFTER, EACH, ONCE
from ui.server.media import Media
from ui.views import dataset as views
from ui.work import captions, looks
from ui.work.captions import Change, Editor
from ui.work.look import DatasetLook, ImageView
from ui.workspace import Workspace

COUNTS = (24, 48, 96, 192)  # pictures on a page
COUNT_NOTE = "gallery"  # where the choice is kept
KINDS = [
    ("add", "add"), ("put first", "first"), ("remove", "remove"), ("replace", "replace"), ("sort", "sort"),
    ("each once", "deduplicate"),
]  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """Which pictures are shown, as the browser sent it."""

    id: str  # of the look
    which: str
    search: str
    page: str
    picked: str
    count: str  # on a page

    def found(self, workspace: Workspace) -> DatasetLook:
        return told(looks.need, workspace, self.id)

    def places(self, found: DatasetLook) -> list[int]:
        return views.chosen(found, plain(self.which), self.search or "")

    @property
    def per_page(self) -> int:
        return int(self.count) if plain(self.count) in map(str, COUNTS) else COUNTS[0]


FIRST_PAGE = {"page": "0"}
OVERVIEW = {"which": "", "search": "", "picked": "", **FIRST_PAGE}
SHOWN = len(fields(Shown))


class DatasetPage:
    """The components of the page."""

    def __init__(self, workspace: Workspace, media: Media, setup: Setup) -> None:
        self.workspace, self.media, self.setup = workspace, media, setup
        self.editor = Editor(workspace.state)

    def build(self) -> None:
        with gr.Column(elem_classes="card holds"):
            with gr.Row(elem_classes="buttons"):
                gr.HTML("<h2>Images as they will be trained</h2>")
                self.start = gr.Button("Look at the images", size="sm", variant="primary", elem_id="look")
                self.cancel = gr.Button("Cancel", size="sm", elem_id="cancel-look", visible=False)
                self.folder = gr.Textbox(
                    placeholder="Another folder of images", show_label=False, label="Folder to add", container=False,
                    max_lines=1, elem_id="new-folder", min_width=180,
                )  # fmt: skip
                self.add = gr.Button("Add this folder", size="sm", elem_id="add-images")
            self.bringing = BringingCard(self.workspace, self.setup)
            self.bringing.build()
            self.progress = gr.HTML(elem_id="look-progress")
            self.summary = gr.HTML(views.EMPTY, elem_id="dataset-summary")
            self.broken = gr.Button(
                "Move broken files away", size="sm", visible=False, elem_id="drop-broken", elem_classes="asks"
            )
        with gr.Row(elem_classes="split", visible=False) as self.rest:
            with gr.Column(scale=5), gr.Column(elem_classes="card"):
                with gr.Row(elem_classes="buttons filter-bar"):
                    self.which = gr.Dropdown(
                        [("all images", "")], value="", show_label=False, label="Which images", container=False,
                        elem_id="dataset-which", allow_custom_value=True, min_width=200,
                    )  # fmt: skip
                    self.search = gr.Textbox(
                        placeholder="Find in captions", show_label=False, label="Find in captions",
                        container=False, max_lines=1, elem_id="dataset-search", min_width=150,
                    )  # fmt: skip
                    self.count = gr.Dropdown(
                        [(f"{count} a page", str(count)) for count in COUNTS], value=self._kept_count,
                        show_label=False, label="Images on a page", container=False, elem_id="dataset-count",
                        min_width=110, filterable=False,
                    )  # fmt: skip
                    self.back = gr.Button("Previous", size="sm", elem_id="page-back")
                    self.where = gr.HTML(elem_id="page-where")
                    self.forward = gr.Button("Next", size="sm", elem_id="page-forward")
                self.gallery = gr.HTML(elem_id="gallery", js_on_load=ON_LOAD + ON_LOAD_BOXES)
            with gr.Column(scale=3, min_width=300):
                self._side()
        self.id = gr.Textbox(elem_classes="hidden-field", elem_id="look-id", label="Look")
        self.ticked = gr.Textbox(elem_classes="hidden-field", elem_id="dataset-ticked", label="Ticked images")
        self.picked = gr.Textbox(elem_classes="hidden-field", elem_id="dataset-picked", label="Picked image")
        self.page = gr.Textbox("0", elem_classes="hidden-field", elem_id="page-number", label="Page")

    def _side(self) -> None:
        with gr.Column(elem_classes="card"):
            gr.HTML("<h2>This image</h2>")
            self.shown = gr.HTML("<p class='quiet'>Choose an image.</p>", elem_id="picture")
            self.caption = gr.Textbox(
                label="Caption in its file",
                lines=4,
                max_lines=12,
                elem_id="caption",
                elem_classes="field",
                visible=False,
            )
            with gr.Row(elem_classes="buttons", visible=False) as self.tools:
                self.save = gr.Button("Save caption", size="sm", variant="primary", elem_id="save-caption")
                self.next = gr.Button("Save and next", size="sm", elem_id="next-picture")
                self.drop = gr.Button("Remove image", size="sm", elem_id="drop-file", elem_classes="asks danger")
        with gr.Column(elem_classes="card"):
            gr.HTML(
                "<h2>Change many captions</h2><p class='quiet'>Of the ticked images; without ticks, of all that the "
                "filter lets through.</p>"
            )
            self.kind = gr.Radio(
                KINDS, value="add", label="What to do", show_label=False, elem_id="tag-kind", container=False
            )
            self.find = gr.Textbox(label="Tag", max_lines=1, elem_id="tag-find", elem_classes="field")
            self.put = gr.Textbox(
                label="Replace by", max_lines=1, elem_id="tag-put", elem_classes="field", visible=False
            )
            self.change_preview = gr.HTML(elem_id="tag-preview")
            with gr.Row(elem_classes="buttons"):
                self.apply = gr.Button("Change them", size="sm", elem_id="tag-apply", variant="primary")
                self.undo = gr.Button("Undo", size="sm", elem_id="undo")
            self.said = gr.HTML(elem_id="caption-said")
        with gr.Column(elem_classes="card"):
            self.buckets = gr.HTML(elem_id="buckets")
            gr.HTML("<h3>Tags</h3>")
            self.tags = gr.HTML(elem_id="tags", js_on_load=ON_LOAD)

    # --- wiring -----------------------------------------------------------------------------------------------

    @property
    def browse(self) -> list[Any]:
        """What says which pictures are shown."""
        return [self.id, self.which, self.search, self.page, self.picked, self.count]

    @property
    def grid(self) -> list[Any]:
        return [self.page, self.where, self.gallery, self.ticked]

    @property
    def one(self) -> list[Any]:
        return [self.picked, self.shown, self.caption, self.tools]

    def wire(self) -> None:
        everything = [
            self.id, self.progress, self.cancel, self.summary, self.broken, self.rest, self.which, self.buckets,
            self.tags, *self.grid,
        ]  # fmt: skip
        looked = [self.count, *self.setup.inputs]
        looking = self.start.click(self._look, looked, everything, **ONCE)
        adding = self.add.click(
            self._add, [self.folder, *self.setup.inputs], [self.folder, *self.setup.everything], **ONCE
        )
        looking_after = adding.success(self._look, looked, everything, **AFTER)
        self.broken.click(self._drop_broken, self.id, [self.summary, self.broken], **ONCE)
        self.cancel.click(
            lambda: ("<p class='quiet'>Cancelled.</p>", gr.update(visible=False)), None, [self.progress, self.cancel],
            cancels=[looking, looking_after], **EACH,
        )  # fmt: skip
        again: dict[str, Any] = {"inputs": self.browse, "outputs": self.grid, **EACH}
        # change, not input: Gradio's input passes over what is pasted or deleted.
        gr.on([self.which.input, self.search.change], self._first_page, **again)
        self.count.input(self._counted, **again)
        self.back.click(self._turn(-1), **again)
        self.forward.click(self._turn(1), **again)
        self.gallery.click(self._click, self.id, self.one, **EACH)
        self.tags.click(_search_for, None, self.search, **EACH)
        changed = [self.said, self.tags, *self.grid]
        self.save.click(self._save, [*self.browse, self.caption], changed, **EACH)
        self.next.click(self._save_and_next, [*self.browse, self.caption], [*self.one, *changed], **ONCE)
        self.drop.click(self._drop, self.browse, changed, **EACH)
        self.bringing.wire()
        edits = [*self.browse, self.ticked, self.kind, self.find, self.put]
        gr.on(
            [self.kind.change, self.find.change, self.put.change, self.ticked.change], self._foreseen, edits,
            [self.change_preview, self.put], **EACH,
        )  # fmt: skip
        self.gallery.input(_ticks, None, self.ticked, **EACH)
        self.apply.click(self._many, edits, [self.change_preview, *changed], **ONCE)
        self.undo.click(self._undo, self.browse, changed, **EACH)

    def _add(self, folder: str, draft: str, *raw: Any) -> list[Any]:
        page = told(entries.with_images, told(session.page_of, draft, raw), (folder or "").strip())
        return ["", *self.setup.edited(page)]

    def _drop_broken(self, id: str) -> list[Any]:
        files = views.broken(told(looks.need, self.workspace, id))
        for file in files:
            told(captions.drop, file, file.with_suffix(".txt"))
        said = "1 file was" if len(files) == 1 else f"{len(files):,} files were"
        return [
            f"<div class='note-box' role='status'>{said} moved into the folder “{captions.REMOVED}” beside the "
            "images. Press <b>Look at the images</b> again.</div>",
            gr.update(visible=False),
        ]

    def _look(self, count: str, draft: str, *raw: Any) -> Iterator[list[Any]]:
        page = told(session.page_of, draft, raw)
        rest = [gr.skip()] * (6 + len(self.grid))
        try:
            for line in looks.make(self.workspace, page):
                said = f"<p class='quiet' role='status'>{html.escape(line)}</p>"
                yield [gr.skip(), said, gr.update(visible=True), *rest]
        except UserError as error:
            yield [gr.skip(), refusal_html(error), gr.update(visible=False), *rest]
            return
        yield self._overview(Shown(id=looks.id_of(page), count=count, **OVERVIEW))

    def _overview(self, shown: Shown) -> list[Any]:
        found = shown.found(self.workspace)
        tags = captions.frequencies(picture.written for picture in found.pictures)
        count = len(views.broken(found))
        name = "Move 1 broken file away" if count == 1 else f"Move {count:,} broken files away"
        return [
            shown.id, "", gr.update(visible=False), views.summary_html(found), gr.update(value=name, visible=count > 0),
            gr.update(visible=True),
            gr.update(choices=views.filters(found), value=""), views.buckets_html(found),
            views.tags_html(tags.most_common()), *self._grid(shown),
        ]  # fmt: skip

    def _grid(self, shown: Shown) -> list[Any]:
        found = shown.found(self.workspace)
        places = shown.places(found)
        pages = max(1, math.ceil(len(places) / shown.per_page))
        number = min(max(0, _whole(shown.page) or 0), pages - 1)
        here = places[number * shown.per_page :][: shown.per_page]
        where = f"<span class='quiet'>page {number + 1:,} of {pages:,}, {len(places):,} images</span>"
        # Pictures that are shown anew have no ticks.
        return [str(number), where, views.gallery_html(self.media, found, here, _whole(shown.picked)), ""]

    def _first_page(self, *sent: str) -> list[Any]:
        return self._grid(replace(Shown(*sent), **FIRST_PAGE))

    def _kept_count(self) -> str:
        kept = self.workspace.note(COUNT_NOTE, "")
        return kept if kept in map(str, COUNTS) else str(COUNTS[0])

    def _counted(self, *sent: str) -> list[Any]:
        """Another number on a page, kept; the first picture that was shown is still among them."""
        shown = Shown(*sent)
        before = int(self._kept_count())
        self.workspace.write_note(COUNT_NOTE, str(shown.per_page))
        page = (_whole(shown.page) or 0) * before // shown.per_page
        return self._grid(replace(shown, page=str(page)))

    def _turn(self, by: int) -> Callable[..., list[Any]]:
        def turned(*sent: str) -> list[Any]:
            shown = Shown(*sent)
            return self._grid(replace(shown, page=str((_whole(shown.page) or 0) + by)))

        return turned

    def _click(self, id: str, event: gr.EventData) -> list[Any]:
        return self._pick(id, picked(event))

    def _pick(self, id: str, picked: str) -> list[Any]:
        picture = told(looks.picture, told(looks.need, self.workspace, id), picked)
        text, can = _text_of(picture)
        return [
            picked, views.picture_html(self.media, picture), gr.update(value=text, visible=can),
            gr.update(visible=True),
        ]  # fmt: skip

    def _save_and_next(self, *sent: str) -> list[Any]:
        self._save(*sent)
        shown = Shown(*sent[:SHOWN])
        places = shown.places(shown.found(self.workspace))
        current = _whole(shown.picked)
        after = places if current is None else [place for place in places if place > current]
        following = str((after or places or [0])[0])
        return [*self._pick(shown.id, following), *self._changed("Saved.", replace(shown, picked=following))]

    def _save(self, *sent: str) -> list[Any]:
        shown, text = Shown(*sent[:SHOWN]), (sent[SHOWN] or "").strip()
        picture = told(looks.picture, shown.found(self.workspace), shown.picked)
        file = told(_editable, picture)
        wanted = told(captions.changes, [file], lambda _: text, new=True)
        told(self.editor.write, f"the caption of {Path(picture.file).name}", wanted)
        return self._changed("Saved." if wanted else "Nothing to save.", shown)

    def _wanted(self, shown: Shown, ticked: str, kind: str, tag: str, put: str) -> tuple[str, list[Change], int]:
        """(what is done, the changes, how many captions were looked at)."""
        found = looks.need(self.workspace, shown.id)
        places = _numbers(ticked, len(found.pictures)) or shown.places(found)
        files = [Path(file) for i in places if (file := found.pictures[i].caption_file)]
        what, change = edit_of(plain(kind), tag or "", put or "")
        return what, captions.changes(files, change, new=kind in ("add", "first")), len(files)

    def _foreseen(self, *sent: str) -> list[Any]:
        """What the change would do, before it is done."""
        asks = gr.update(visible=plain(sent[SHOWN + 1]) == "replace")
        try:
            _, wanted, count = self._wanted(Shown(*sent[:SHOWN]), *sent[SHOWN:])
        except UserError as error:
            return [f"<p class='quiet'>{html.escape(str(error))}</p>", asks]
        return [views.changes_html(wanted, count), asks]

    def _many(self, *sent: str) -> list[Any]:
        shown = Shown(*sent[:SHOWN])
        what, wanted, _ = told(self._wanted, shown, *sent[SHOWN:])
        told(self.editor.write, f"{what} in {len(wanted):,} captions", wanted)
        return ["", *self._changed(f"{what[:1].upper()}{what[1:]}: {len(wanted):,} captions changed.", shown)]

    def _undo(self, *sent: str) -> list[Any]:
        return self._changed(told(self.editor.undo), Shown(*sent))

    def _drop(self, *sent: str) -> list[Any]:
        shown = Shown(*sent)
        picture = told(looks.picture, shown.found(self.workspace), shown.picked)
        caption = Path(picture.caption_file) if picture.caption_file else None
        target = told(captions.drop, Path(picture.file), caption)
        said = f"{Path(picture.file).name} is in {target.parent.name}/ now and trains no more. Look again for the rest."
        return self._changed(said, shown)

    def _changed(self, said: str, shown: Shown) -> list[Any]:
        """The message, the tags as they are in the files now, and the same page of pictures."""
        found = shown.found(self.workspace)
        tags = captions.frequencies(views.edited_since(p) or p.written for p in found.pictures)
        return [
            f"<p class='quiet' role='status'>{html.escape(said)}</p>", views.tags_html(tags.most_common()),
            *self._grid(shown),
        ]  # fmt: skip


def _whole(text: str) -> int | None:
    """A place or page as the browser sent it."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text or "") else None


def _search_for(event: gr.EventData) -> str:
    return picked(event)


def _text_of(picture: ImageView) -> tuple[str, bool]:
    """The caption as its file has it now, and whether it can be edited here."""
    if not picture.caption_file:
        return picture.written, False
    return (told(captions.read, Path(picture.caption_file)) or "").rstrip("\r\n"), True


def _editable(picture: ImageView) -> Path:
    if not picture.caption_file:
        raise UserError(f"{Path(picture.file).name}: its caption stands in a JSON file; edit it there.")
    return Path(picture.caption_file)


def _ticks(event: gr.EventData) -> str:
    return picked(event)


def _numbers(text: str, below: int) -> list[int]:
    """The places of the ticked images, as the browser sent them."""
    try:
        found = json.loads(text) if text else []
    except ValueError:
        return []
    numbers = [_whole(one) for one in found if isinstance(one, str)] if isinstance(found, list) else []
    return [number for number in numbers if number is not None and number < below]
