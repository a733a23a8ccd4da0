"""Runs and configs are deleted and brought back, renamed, noted, found: and never while they train."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.ui.conftest import wait_for, write_config
from tests.ui.large import write_run
from trainer.errors import UserError
from ui.draft import session
from ui.views import shelf
from ui.work import naming, processes, run_notes, trash
from ui.work.status import status
from ui.workspace import Workspace, free_name


@pytest.fixture
def runs(place: Workspace) -> Workspace:
    for name in ("a", "b"):
        folder = write_run(place.root, name, 5)
        (folder / f"{name}.safetensors").write_bytes(b"x" * 1000)
        (folder / f"{name}-step000002.safetensors").write_bytes(b"x")
    return place


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_deleted_comes_back_as_it_was_until_the_trash_is_emptied(runs: Workspace) -> None:
    write_config(runs, "one")
    before = contents(runs.root / "output")
    trash.throw_run(runs, "output/a")
    trash.throw_config(runs, "one.toml")
    assert list(runs.runs()) == ["output/b"]
    assert runs.configs() == []
    found = trash.listed(runs)
    assert [item.origin for item in found] == ["one.toml", "output/a"]
    assert found[1].size > 1000
    assert "output/a" in shelf.trash_html(runs)
    for item in found:
        trash.restore(runs, item.id)
    assert contents(runs.root / "output") == before
    assert runs.configs() == ["one.toml"]
    assert trash.listed(runs) == []

    trash.throw_run(runs, "output/a")
    write_run(runs.root, "a", 3)
    with pytest.raises(UserError, match="one of this name again"):
        trash.restore(runs, trash.listed(runs)[0].id)
    trash.empty(runs)
    assert trash.listed(runs) == []
    assert set(runs.runs()) == {"output/a", "output/b"}
    for wrong in ("../x", "", "output/none"):
        with pytest.raises(UserError):
            trash.throw_run(runs, wrong)
        with pytest.raises(UserError):
            trash.restore(runs, wrong)


def test_a_run_that_trains_is_neither_deleted_nor_renamed(place: Workspace) -> None:
    name = processes.start(place, write_config(place, "one", steps=100_000))
    for _ in range(2):  # while it starts, and while it trains
        with pytest.raises(UserError, match="is training now"):
            trash.throw_run(place, name)
        with pytest.raises(UserError, match="is training now"):
            naming.rename_run(place, name, "two")
        wait_for(lambda: status(place, name, place.runs()[name]).state == "training")
    assert "Delete" not in shelf.runs_html(place, [])


def test_a_run_gets_another_name_with_all_that_bears_it(runs: Workspace) -> None:
    run_notes.write(runs, "output/a", star=True, text="<good>")
    assert naming.rename_run(runs, "output/a", "new name") == "output/new name"
    folder = runs.root / "output" / "new name"
    assert {"new name.safetensors", "new name-step000002.safetensors", "metrics.jsonl"} <= set(contents(folder))
    assert tomllib.loads((folder / "config.toml").read_text())["run"]["name"] == "new name"
    assert run_notes.read(runs)["output/new name"].star
    for wrong in ("b", "../b", "", "x/y", "con.", "."):
        with pytest.raises(UserError):
            naming.rename_run(runs, "output/new name", wrong)
    assert set(runs.runs()) == {"output/new name", "output/b"}


def test_configs_are_doubled_and_renamed_and_nothing_is_replaced(place: Workspace) -> None:
    write_config(place, "one")
    assert naming.duplicate_config(place, "one.toml") == "one-2.toml"
    assert naming.duplicate_config(place, "one-2.toml") == "one-3.toml"
    assert (place.root / "one-3.toml").read_bytes() == (place.root / "one.toml").read_bytes()
    with pytest.raises(UserError, match="such a file already"):
        naming.rename_config(place, "one.toml", "one-2")
    assert naming.rename_config(place, "one.toml", "first") == "first.toml"
    assert free_name("x-9", {"x-10"}) == "x-11"


def test_runs_are_noted_found_and_sorted(runs: Workspace) -> None:
    run_notes.write(runs, "output/a", text="too <dark>")
    page = shelf.runs_html(runs, ["output/a"])
    assert "too &lt;dark&gt;" in page
    assert "1.9 KB" in page or "KB" in page
    assert "output/b" not in shelf.runs_html(runs, [], find="DARK")
    assert "No run has these words" in shelf.runs_html(runs, [], find="nothing")
    by_name = shelf.runs_html(runs, [], sort="name")
    assert by_name.index("output/a") < by_name.index("output/b")
    run_notes.write(runs, "output/b", star=True)
    starred = shelf.runs_html(runs, [], sort="name")
    assert starred.index("output/b") < starred.index("output/a")
    with pytest.raises(UserError):
        run_notes.write(runs, "output/none", star=True)
    runs.write_note("runs", {"output/a": {"star": []}})
    assert run_notes.read(runs) == {}


def test_a_new_config_begins_from_a_run(runs: Workspace) -> None:
    page = session.from_run(runs, "output/a")
    assert page.controls["run.name"] == "a-2"
    assert page.draft.file == ""
