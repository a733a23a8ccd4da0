"""A file of another trainer in the page: the four lists first, then the result in the form; nothing is written."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from tests.trainer.config.importing.cases import CASES
from tests.ui.conftest import write_config
from trainer.config.foreign.outcome import KINDS
from trainer.config.importing.report import TITLES
from ui.draft import importing, session
from ui.draft.fields import all_fields
from ui.pages.form import Form
from ui.pages.setup import Setup
from ui.workspace import Workspace


@pytest.fixture
def setup(place: Workspace) -> Setup:
    found = Setup(place, Form({}))
    with gr.Blocks() as blocks:
        found.train_summary = gr.HTML()
        found.header()
        found.form.place(all_fields())
        found.basics()
        found.all_settings()
        found.aside()
        found.wire(blocks)
    return found


def used(setup: Setup, text: str) -> dict[str, Any]:
    """The form after the result took the place of a new config."""
    page = session.new()
    answer = setup.importing.used(text, page.draft.model_dump_json(), *page.controls.values())
    shown = dict(zip(map(id, setup.opening), answer[4:], strict=True))
    return dict(zip(all_fields(), (shown[id(c)] for c in setup.form.ordered), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_the_lists_stand_before_the_result(name: str, setup: Setup, place: Workspace) -> None:
    case = CASES[name]
    file = case.write(place.root)
    before = sorted(place.root.rglob("*"))
    _, lists, text, button = setup.importing.looked(None, file.name, case.script)
    assert sum(TITLES[kind] in lists for kind in KINDS) >= 2 and button["visible"]
    shown = used(setup, text)
    assert float(shown["optimizer.lr"]) > 0 and shown["model.base"]
    assert sorted(p for p in place.root.rglob("*") if place.state not in (p, *p.parents)) == before


def test_paths_of_an_uploaded_file_start_in_the_workspace(setup: Setup, place: Workspace) -> None:
    CASES["sd-scripts, flat"].write(place.root)
    uploads = place.root / "uploads"
    uploads.mkdir()
    keys = {"pretrained_model_name_or_path": "base", "network_module": "networks.lora", "train_data_dir": "train"}
    file = uploads / "theirs.toml"
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in keys.items()))
    text = setup.importing.looked(str(file), "", "")[2]
    assert str(uploads) not in text and 'base = "base"' in text and 'train_data_dir = "train"' in text


@pytest.mark.parametrize(
    ("typed", "told"), [("", "choose a file"), ("none.toml", r"none\.toml"), ("mine.toml", "already")]
)
def test_what_cannot_be_imported_is_told(typed: str, told: str, setup: Setup, place: Workspace) -> None:
    write_config(place, "mine")
    with pytest.raises(gr.Error, match=told):
        setup.importing.looked(None, typed, "")


def test_other_ways_to_open_it_lead_here(setup: Setup, place: Workspace) -> None:
    file = next(iter(CASES.values())).write(place.root)
    with pytest.raises(gr.Error, match="“Import”"):
        setup._use_file(str(file), "")


def test_texts_of_the_file_are_no_markup(place: Workspace) -> None:
    file = place.root / "odd.toml"
    file.write_text('network_module = "networks.lora"\n"<b>x" = "<script>"\nnetwork_dim = 4\nunet_lr = 1e-4\n')
    assert "<b>x" not in importing.lists_html(importing.look_at(place, "", "odd.toml", ""))
