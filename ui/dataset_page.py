"""The dataset page: what the model will see of every image, and captions edited in place."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from trainer.errors import UserError
from ui import captions, entries, looks, session
from ui import dataset_views as views
from ui.captions import Change, Editor
from ui.look import Look, Picture
from ui.media import Media
from ui.picks import ON_LOAD, picked, plain
from ui.setup_page import Setup
from ui.tell import told
from ui.workspace import Workspace


class Dataset:
    """The components of the page."""

    def __init__(self, workspace: Workspace, media: Media, setup: Setup) -> None:
        self.workspace, self.media, self.setup = workspace, media, setup
        self.editor = Editor(workspace.state)

    def build(self) -> None:
        with gr.Column(elem_classes="card"):
            with gr.Row(elem_classes="buttons"):
                gr.HTML("<h2>Images as they will be trained</h2>")
                self.start = gr.Button("Look at the images", size="sm", variant="primary", elem_id="look")
                self.cancel = gr.Button("Cancel", size="sm", elem_id="cancel-look", visible=False)
                self.folder = gr.Textbox(
                    placeholder="Another folder of images", show_label=False, label="Folder to add", container=False,
                    max_lines=1, elem_id="new-folder", min_width=180,
                )  # fmt: skip
                self.add = gr.Button("Add this folder", size="sm", elem_id="add-images")
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
                    self.back = gr.Button("Previous", size="sm", elem_id="page-back")
                    self.where = gr.HTML(elem_id="page-where")
                    self.forward = gr.Button("Next", size="sm", elem_id="page-forward")
                self.gallery = gr.HTML(elem_id="gallery", js_on_load=ON_LOAD)
            with gr.Column(scale=3, min_width=300):
                self._side()
        self.id = gr.Textbox(elem_classes="hidden-field", elem_id="look-id", label="Look")
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
            gr.HTML("<h2>Change many captions</h2><p class='quiet'>Of all images that the filter lets through.</p>")
            self.find = gr.Textbox(label="Tag", max_lines=1, elem_id="tag-find", elem_classes="field")
            self.put = gr.Textbox(label="Replace by", max_lines=1, elem_id="tag-put", elem_classes="field")
            with gr.Row(elem_classes="buttons"):
                self.replace = gr.Button("Replace", size="sm", elem_id="caption-replace-all", elem_classes="asks")
                self.remove = gr.Button("Remove tag", size="sm", elem_id="tag-remove")
                self.first = gr.Button("Put first everywhere", size="sm", elem_id="tag-first")
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
        return [self.id, self.which, self.search, self.page, self.picked]

    @property
    def grid(self) -> list[Any]:
        return [self.page, self.where, self.gallery]

    @property
    def one(self) -> list[Any]:
        return [self.picked, self.shown, self.caption, self.tools]

    def wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        everything = [
            self.id, self.progress, self.cancel, self.summary, self.broken, self.rest, self.which, self.buckets,
            self.tags, *self.grid,
        ]  # fmt: skip
        looking = self.start.click(self._look, self.setup.inputs, everything, **quiet)
        adding = self.add.click(
            self._add, [self.folder, *self.setup.inputs], [self.folder, *self.setup.everything], **quiet
        )
        looking_after = adding.success(self._look, self.setup.inputs, everything, **quiet)
        self.broken.click(self._drop_broken, self.id, [self.summary, self.broken], **quiet)
        self.cancel.click(
            lambda: ("<p class='quiet'>Cancelled.</p>", gr.update(visible=False)), None, [self.progress, self.cancel],
            cancels=[looking, looking_after], **quiet,
        )  # fmt: skip
        again: dict[str, Any] = {"inputs": self.browse, "outputs": self.grid, **quiet}
        # change, not input: Gradio's input passes over what is pasted or deleted.
        gr.on([self.which.input, self.search.change], self._first_page, trigger_mode="always_last", **again)
        self.back.click(self._turn(-1), **again)
        self.forward.click(self._turn(1), **again)
        self.gallery.click(self._click, self.id, self.one, **quiet).then(self._same_page, **again)
        self.tags.click(_search_for, None, self.search, **quiet)
        changed = [self.said, self.tags, *self.grid]
        self.save.click(self._save, [*self.browse, self.caption], changed, **quiet)
        self.next.click(self._save, [*self.browse, self.caption], changed, **quiet).success(
            self._pick_next, self.browse, [*self.one], **quiet
        ).then(self._same_page, **again)
        self.drop.click(self._drop, self.browse, changed, **quiet)
        edits = [*self.browse, self.find, self.put]
        self.replace.click(self._many(_replace), edits, changed, **quiet)
        self.remove.click(self._many(_remove), edits, changed, **quiet)
        self.first.click(self._many(_first), edits, changed, **quiet)
        self.undo.click(self._undo, self.browse, changed, **quiet)

    def _add(self, folder: str, draft: str, *raw: Any) -> list[Any]:
        page = told(entries.with_images, told(session.page_of, draft, raw), (folder or "").strip())
        return ["", *self.setup.show_all(page)]

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

    def _look(self, draft: str, *raw: Any) -> Iterator[list[Any]]:
        page = told(session.page_of, draft, raw)
        lines = looks.make(self.workspace, page)
        rest = [gr.skip()] * (6 + len(self.grid))
        while (line := told(next, lines, None)) is not None:
            yield [gr.skip(), f"<p class='quiet' role='status'>{html.escape(line)}</p>", gr.update(visible=True), *rest]
        yield self._overview(looks.id_of(page))

    def _overview(self, id: str) -> list[Any]:
        found = told(looks.need, self.workspace, id)
        tags = captions.frequencies(picture.written for picture in found.pictures)
        count = len(views.broken(found))
        name = "Move 1 broken file away" if count == 1 else f"Move {count:,} broken files away"
        return [
            id, "", gr.update(visible=False), views.summary_html(found), gr.update(value=name, visible=count > 0),
            gr.update(visible=True),
            gr.update(choices=views.filters(found), value=""), views.buckets_html(found),
            views.tags_html(tags.most_common()), *self._grid(found, "", "", "0", ""),
        ]  # fmt: skip

    def _grid(self, found: Look, which: str, search: str, page: str, picked: str) -> list[Any]:
        places = views.chosen(found, plain(which), search or "")
        pages = max(1, math.ceil(len(places) / views.PAGE))
        number = min(max(0, _whole(page) or 0), pages - 1)
        current = _whole(picked)
        where = f"<span class='quiet'>page {number + 1:,} of {pages:,}, {len(places):,} images</span>"
        return [str(number), where, views.gallery_html(self.media, found, places, number, current)]

    def _first_page(self, id: str, which: str, search: str, page: str, picked: str) -> list[Any]:
        return self._grid(told(looks.need, self.workspace, id), which, search, "0", picked)

    def _same_page(self, id: str, which: str, search: str, page: str, picked: str) -> list[Any]:
        return self._grid(told(looks.need, self.workspace, id), which, search, page, picked)

    def _turn(self, by: int) -> Callable[..., list[Any]]:
        return lambda id, which, search, page, picked: self._grid(
            told(looks.need, self.workspace, id), which, search, str((_whole(page) or 0) + by), picked
        )

    def _click(self, id: str, event: gr.EventData) -> list[Any]:
        return self._pick(id, picked(event))

    def _pick(self, id: str, picked: str) -> list[Any]:
        picture = told(looks.picture, told(looks.need, self.workspace, id), picked)
        text, can = _text_of(picture)
        return [
            picked, views.picture_html(self.media, picture), gr.update(value=text, visible=can),
            gr.update(visible=True),
        ]  # fmt: skip

    def _pick_next(self, id: str, which: str, search: str, page: str, picked: str) -> list[Any]:
        found = told(looks.need, self.workspace, id)
        places = views.chosen(found, plain(which), search or "")
        current = _whole(picked)
        after = places if current is None else [place for place in places if place > current]
        return self._pick(id, str((after or places or [0])[0]))

    def _save(self, id: str, which: str, search: str, page: str, picked: str, caption: str) -> list[Any]:
        picture = told(looks.picture, told(looks.need, self.workspace, id), picked)
        file = told(_editable, picture)
        text = (caption or "").strip()
        wanted = told(captions.changes, [file], lambda _: text, new=True)
        told(self.editor.write, f"the caption of {Path(picture.file).name}", wanted)
        return self._changed("Saved." if wanted else "Nothing to save.", id, which, search, page, picked)

    def _many(self, edit: Callable[[str, str], tuple[str, Callable[[str], str]]]) -> Callable[..., list[Any]]:
        def handler(id: str, which: str, search: str, page: str, picked: str, tag: str, put: str) -> list[Any]:
            found = told(looks.need, self.workspace, id)
            files = [found.pictures[i].caption_file for i in views.chosen(found, plain(which), search or "")]
            what, change = told(edit, (tag or "").strip(), (put or "").strip())
            wanted: list[Change] = told(captions.changes, [Path(f) for f in files if f], change)
            told(self.editor.write, f"{what} in {len(wanted):,} captions", wanted)
            said = f"{what[:1].upper()}{what[1:]}: {len(wanted):,} captions changed."
            return self._changed(said, id, which, search, page, picked)

        return handler

    def _undo(self, id: str, which: str, search: str, page: str, picked: str) -> list[Any]:
        return self._changed(told(self.editor.undo), id, which, search, page, picked)

    def _drop(self, id: str, which: str, search: str, page: str, picked: str) -> list[Any]:
        picture = told(looks.picture, told(looks.need, self.workspace, id), picked)
        caption = Path(picture.caption_file) if picture.caption_file else None
        target = told(captions.drop, Path(picture.file), caption)
        said = f"{Path(picture.file).name} is in {target.parent.name}/ now and trains no more. Look again for the rest."
        return self._changed(said, id, which, search, page, picked)

    def _changed(self, said: str, id: str, which: str, search: str, page: str, picked: str) -> list[Any]:
        """The message, the tags as they are in the files now, and the same page of pictures."""
        found = told(looks.need, self.workspace, id)
        tags = captions.frequencies(views.edited_since(p) or p.written for p in found.pictures)
        return [
            f"<p class='quiet' role='status'>{html.escape(said)}</p>", views.tags_html(tags.most_common()),
            *self._grid(found, which, search, page, picked),
        ]  # fmt: skip


def _whole(text: str) -> int | None:
    """A place or page as the browser sent it."""
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text or "") else None


def _search_for(event: gr.EventData) -> str:
    return picked(event)


def _text_of(picture: Picture) -> tuple[str, bool]:
    """The caption as its file has it now, and whether it can be edited here."""
    if not picture.caption_file:
        return picture.written, False
    return (told(captions.read, Path(picture.caption_file)) or "").rstrip("\r\n"), True


def _editable(picture: Picture) -> Path:
    if not picture.caption_file:
        raise UserError(f"{Path(picture.file).name}: its caption stands in a JSON file; edit it there.")
    return Path(picture.caption_file)


def _need(tag: str, what: str) -> str:
    if not tag or "\n" in tag:
        raise UserError(f"{what}: write the tag first.")
    return tag


def _replace(tag: str, put: str) -> tuple[str, Callable[[str], str]]:
    _need(tag, "Tag")
    _need(put, "Replace by")
    return f"replaced {tag!r} by {put!r}", lambda text: captions.replaced(text, tag, put)


def _remove(tag: str, put: str) -> tuple[str, Callable[[str], str]]:
    _need(tag, "Tag")
    return f"removed {tag!r}", lambda text: captions.replaced(text, tag, "")


def _first(tag: str, put: str) -> tuple[str, Callable[[str], str]]:
    _need(tag, "Tag")
    return f"put {tag!r} first", lambda text: captions.with_first(text, tag)
