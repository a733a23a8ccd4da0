"""The datasets and folders of a draft: choosing which one the form shows, adding and removing them."""

from __future__ import annotations

import re

from trainer.errors import UserError
from ui.draft.config import DatasetForm, Draft, Folder
from ui.draft.fields import FOLDER
from ui.draft.session import Page, opened, page_of

IMAGES = f"{FOLDER}.image_dir"


def name(dataset: int, folder: int) -> str:
    return f"{dataset}:{folder}"


def choices(draft: Draft) -> list[tuple[str, str]]:
    """(what a person reads, the entry's name) of every folder; a dataset without folders stands for itself."""
    found = []
    counts = {False: 0, True: 0}
    for d, dataset in enumerate(draft.datasets):
        counts[dataset.held_out] += 1
        kind = "Validation set" if dataset.held_out else "Dataset"
        for f in range(max(1, len(dataset.folders))):
            folder = dataset.folders[f].written if f < len(dataset.folders) else {}
            what = folder.get("image_dir") or folder.get("metadata_file") or f"folder {f + 1} (not chosen yet)"
            found.append((f"{kind} {counts[dataset.held_out]}: {what}", name(d, f)))
    return found or [("Dataset 1: folder 1 (not chosen yet)", name(0, 0))]


def select(page: Page, which: str) -> Page:
    """Raises UserError where there is no such entry."""
    match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", which or "")
    if match is None:
        raise UserError(f"{which!r}: there is no such folder in this config.")
    return _at(page.draft, int(match[1]), int(match[2]), page)


def add_folder(page: Page) -> Page:
    draft = page.draft.model_copy(deep=True)
    if not draft.datasets:
        draft.datasets.append(DatasetForm(origin=None))
    place = min(draft.dataset, len(draft.datasets) - 1)
    draft.datasets[place].folders.append(Folder(origin=None))
    return _at(draft, place, len(draft.datasets[place].folders) - 1, page)


def with_images(page: Page, folder: str) -> Page:
    """A further folder of images; where the shown one has no images yet, it gets these. Raises UserError."""
    if not folder:
        raise UserError("folder: choose or write the folder first.")
    start = add_folder(page) if page.controls[IMAGES] or page.draft.selected[1].written.get("metadata_file") else page
    return page_of(start.draft.model_dump_json(), list({**start.controls, IMAGES: folder}.values()))


def add_dataset(page: Page) -> Page:
    return _add(page, held_out=False)


def add_held_out(page: Page) -> Page:
    """Images of their own to measure what was learned."""
    return _add(page, held_out=True)


def remove(page: Page) -> Page:
    """Takes the shown folder out of the config, and its dataset when that was the last one. No file is touched."""
    draft = page.draft.model_copy(deep=True)
    if draft.dataset < len(draft.datasets):
        folders = draft.datasets[draft.dataset].folders
        del folders[draft.folder : draft.folder + 1]
        if not folders:
            del draft.datasets[draft.dataset]
            return _at(draft, max(0, draft.dataset - 1), 0, page)
    return _at(draft, draft.dataset, max(0, draft.folder - 1), page)


def _add(page: Page, *, held_out: bool) -> Page:
    draft = page.draft.model_copy(deep=True)
    draft.datasets.append(DatasetForm(origin=None, folders=[Folder(origin=None)], held_out=held_out))
    return _at(draft, len(draft.datasets) - 1, 0, page)


def _at(draft: Draft, dataset: int, folder: int, before: Page) -> Page:
    """The page with another entry shown; all other controls stay as they are."""
    moved = draft.model_copy(deep=True)
    moved.dataset, moved.folder = dataset, folder
    entries = {k: v for k, v in opened(moved).controls.items() if k.startswith("datasets[]")}
    return Page(moved, {**before.controls, **entries})
