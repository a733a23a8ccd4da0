"""Edits outlive the page, can be taken back and made again, and are offered until they are saved or forgotten."""

from __future__ import annotations

import json

import pytest

from tests.ui.conftest import write_config
from trainer.errors import UserError
from ui.draft import kept, session
from ui.draft.session import Page
from ui.workspace import Workspace


def typed(page: Page, **controls: str) -> Page:
    changed = {**page.controls, **{key.replace("__", "."): text for key, text in controls.items()}}
    return session.page_of(page.draft.model_dump_json(), list(changed.values()))


def steps(page: Page) -> str:
    return str(page.controls["training.steps"])


@pytest.fixture
def page(place: Workspace) -> Page:
    write_config(place, "one", steps=5)
    return session.open_config(place, "one.toml")


def test_undo_and_redo_walk_through_the_edits(place: Workspace, page: Page) -> None:
    for count in ("6", "7", "8"):
        page = session.note(place, typed(page, training__steps=count))
    walked = []
    for by in (-1, -1, -1, 1, 1):
        page = session.step(place, page, by)
        walked.append(steps(page))
    assert walked == ["7", "6", "5", "6", "7"]
    page = session.note(place, typed(page, training__steps="70"))
    with pytest.raises(UserError, match="nothing to redo"):
        session.step(place, page, 1)
    assert steps(session.step(place, page, -1)) == "7"


def test_nothing_was_edited_so_nothing_is_kept_or_undone(place: Workspace, page: Page) -> None:
    session.note(place, page)
    assert kept.read(place, "one.toml") is None
    with pytest.raises(UserError, match="nothing to undo"):
        session.step(place, page, -1)


def test_an_edit_that_was_never_saved_is_offered_and_taken_over(place: Workspace, page: Page) -> None:
    session.note(place, typed(page, training__steps="6"))
    again = session.open_config(place, "one.toml")
    assert steps(again) == "5"
    assert "one.toml" in session.offer_html(place, again)
    back = session.take_over(place, again)
    assert steps(back) == "6"
    assert session.offer_html(place, back) == ""
    saved = session.save(place, back)
    assert session.offer_html(place, saved) == session.offer_html(place, session.open_config(place, "one.toml")) == ""
    assert steps(session.step(place, saved, -1)) == "5", "saving does not end the way back"


def test_what_is_forgotten_is_not_offered(place: Workspace, page: Page) -> None:
    session.note(place, typed(page, training__steps="6"))
    kept.forget(place, "one.toml")
    assert session.offer_html(place, page) == ""
    with pytest.raises(UserError, match="no unsaved changes"):
        session.take_over(place, page)


def test_a_page_opens_with_an_unnamed_config_whose_edits_go_along(place: Workspace, page: Page) -> None:
    assert session.first(place).draft.file == "one.toml"
    session.note(place, typed(session.new(), training__steps="9"))
    first = session.first(place)
    assert first.draft.file == ""
    assert "without a name" in session.offer_html(place, first)
    saved = session.save_as(place, session.take_over(place, first), "fresh")
    assert kept.waiting(place, "") is None
    assert session.first(place).draft.file == "fresh.toml"
    assert steps(session.step(place, saved, -1)) == "1600"


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"texts": [], "at": 0, "saved": "", "time": 0}', b"\xff\xfe"])
def test_a_damaged_note_is_passed_over(place: Workspace, page: Page, damaged: str | bytes) -> None:
    session.note(place, typed(page, training__steps="6"))
    note = next((place.state / "drafts").glob("*.json"))
    note.write_bytes(damaged if isinstance(damaged, bytes) else damaged.encode())
    assert session.offer_html(place, page) == ""
    session.note(place, typed(page, training__steps="7"))
    assert json.loads(note.read_text())["texts"][-1].count("steps = 7") == 1


def test_the_notes_stay_small(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(kept.STEPS + 10):
        kept.note(place, "x", "", f"# {number}")
    found = kept.read(place, "x")
    assert found is not None
    assert len(found.texts) == kept.STEPS
    monkeypatch.setattr(kept, "MOST_CHARACTERS", 100)
    kept.note(place, "x", "", "#" * 90)
    kept.note(place, "x", "", "#" * 91)
    assert [len(text) for text in (kept.read(place, "x") or found).texts] == [90, 91]
