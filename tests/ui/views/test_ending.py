"""The end of a run's page, and what a run that goes on does next."""

from __future__ import annotations

import html
import json
import math
import re
import sys
from pathlib import Path

import pytest

from tests.ui.large import write_run
from trainer.journal.run_dir import RunDir
from ui.server.media import Media
from ui.views import ending, run
from ui.work import gpu, schedule
from ui.work.history import history
from ui.work.status import Status, status
from ui.workspace import Workspace


def shown(place: Path, name: str) -> str:
    found = RunDir(place / "output" / name)
    workspace = Workspace(place)
    state = status(workspace, f"output/{name}", found)
    return ending.ending_html(Media(workspace.state), f"output/{name}", found, state, history(found))


def test_the_end_names_the_best_state_and_leads_on(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", 20)
    assert shown(tmp_path, "a") == ""  # nothing to use
    for name in ("a", "a-step000010", "a-best"):
        (folder / f"{name}.safetensors").write_bytes(b"x")
    (folder / "learning-report.json").write_text(json.dumps({"verdict": "learned <b>a lot</b>"}))
    (folder / "learning-report.html").write_text("<p>")
    said = shown(tmp_path, "a")
    assert "Learned &lt;b&gt;a lot" in said
    assert "a-best.safetensors" in said
    picks = [json.loads(html.unescape(p)) for p in re.findall(r"data-pick='([^']*)'", said)]
    assert {"do": "try", "result": "output/a / a-best.safetensors"} in picks
    assert {"do": "compare", "run": "output/a"} in picks
    assert str(folder / "a-best.safetensors") in said
    assert "media/" in said
    (folder / "learning-report.json").write_text("[1")
    assert "Try it" in shown(tmp_path, "a")


def test_the_log_is_searched_as_a_whole(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("the <first> word\n" + "line\n" * 50_000 + "the last word\n")
    assert "first" not in run.log_html(log)
    said = run.log_html(log, find="FIRST the")
    assert "the &lt;first&gt; word" in said
    assert "last" not in said
    assert "No line has &lt;x&gt;" in run.log_html(log, find="<x>")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3, 100, 8192\n97, 10444, 24576\n", "97 %, 10.2 of 24.0 GB"),
        ("[N/A], [N/A], [N/A]\n", ""),
        ("no devices were found\n", ""),
    ],
)
def test_the_card_tells_what_its_busiest_does(text: str, expected: str) -> None:
    assert gpu._busiest(text) == expected


def test_a_card_that_cannot_be_asked_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.shutil, "which", lambda name: sys.executable)  # knows no such option
    assert gpu._ask() == ""


def test_what_comes_next_is_told_with_its_time(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "a", 20)
    (folder / "config.toml").write_text(
        "[samples]\nprompts = ['a']\nevery = 50\n[save]\nevery = '1 epoch'\n[validation]\nsplit = 0.1\n"
    )
    going = Status("training", 120, 1000, 0.1, 2.0, 3.0, "cpu", "")
    told = dict(schedule.coming(RunDir(folder), going, steps_per_epoch=40.0))
    assert told == {
        "Next sample": "step 150, in 0:15",
        "Next validation": "step 200, in 0:40",
        "Next save": "step 160, in 0:20",
    }
    (folder / "config.toml").write_text("[samples]\nevery = 50\n[save]\nevery = '15m'\n")
    told = dict(schedule.coming(RunDir(folder), going, steps_per_epoch=math.inf))
    assert told == {"Next save": "every 15:00"}
    (folder / "config.toml").write_text("[samples\n")
    assert schedule.coming(RunDir(folder), going, 1.0) == []
