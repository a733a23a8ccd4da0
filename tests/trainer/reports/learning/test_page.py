"""The page says what the numbers say, marks the best, fits every course of a run, and stands alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.trainer.reports.learning.test_findings import run
from trainer.journal.run_dir import RunDir
from trainer.reports.learning import page as learning_page
from trainer.reports.learning.findings import Learning

COURSES = {
    "learning": [(0.99, 0.98), (0.97, 0.95), (0.95, 0.92)],
    "memorising": [(0.97, 0.96), (0.92, 0.9), (0.95, 0.8), (1.0, 0.6)],
    "breaking": [(0.95, 0.95), (1.1, 1.1), (1.3, 1.3)],
    "plateau": [(0.95, 0.95), (0.95, 0.9), (0.95, 0.85), (0.95, 0.8)],
    "one": [(0.9, 0.9)],
    "long": [(1 - 0.001 * i, 1 - 0.001 * i) for i in range(100)],
}


def text(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", re.sub(r"<style>.*?</style>", "", markup, flags=re.S)))


@pytest.mark.parametrize("base", [True, False])
@pytest.mark.parametrize("course", COURSES)
def test_every_course_has_a_page_that_needs_nothing_else(course: str, base: bool) -> None:
    found = run(COURSES[course], base=base)
    page = learning_page.render(found, "my-style", "my-style-best.safetensors")
    assert found.verdict[1:] in text(page)
    assert set(re.findall(r"https?://[^\"'<> ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "<script" not in page
    assert not re.search(r"\b(nan|inf|None)\b", text(page))
    assert len(re.findall(r'<tr class="marked">', page)) == 1
    assert page.count('<tr class="marked"><td>' + str(found.best)) == 1


def test_memorising_comes_with_advice_and_the_file_to_use() -> None:
    page = text(learning_page.render(run(COURSES["memorising"]), "x", "x-best.safetensors"))
    assert "Memorising since step 300." in page
    assert "The result to use is that of step 200, saved as x-best.safetensors." in page
    assert "Memorising since" not in text(learning_page.render(run(COURSES["learning"]), "x"))


def test_a_long_run_lists_the_best_and_the_last_checkpoint_and_not_all() -> None:
    found = run([*COURSES["long"], (1.1, 0.5), (1.11, 0.5), (1.12, 0.5)])
    page = learning_page.render(found, "x")
    steps = [int(step) for step in re.findall(r"<tr(?: class=\"marked\")?><td>(\d+)</td>", page)]
    assert found.best in steps
    assert found.last.step in steps
    assert len(steps) <= learning_page.MOST_ROWS + 2


def test_names_are_shown_as_they_are_and_never_as_markup() -> None:
    found = run(COURSES["one"])
    first = found.changes[0]
    evil = type(first)("p/<script>alert(1)</script>.png", first.base_loss, first.loss)
    page = learning_page.render(Learning(**{**vars(found), "changes": (evil,)}), "a&b")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "a&amp;b" in page


def test_both_files_are_written(tmp_path: Path) -> None:
    found, run_dir = run(COURSES["memorising"]), RunDir(tmp_path / "run")
    run_dir.path.mkdir()
    (run_dir.path / "run-best.safetensors").touch()
    learning_page.write(found, run_dir)
    assert json.loads(run_dir.learning_numbers.read_text())["verdict"] == found.verdict
    assert "saved as run-best.safetensors" in run_dir.learning_page.read_text()
