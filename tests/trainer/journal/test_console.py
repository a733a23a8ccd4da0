"""What a person sees while something goes on."""

from __future__ import annotations

import pytest
from rich.progress import Progress

from trainer.journal import console
from trainer.journal.console import SPEED, Remaining


def test_the_first_time_that_is_left_is_the_one_that_was_expected() -> None:
    now = [0.0]
    progress, column = Progress(get_time=lambda: now[0], speed_estimate_period=SPEED), Remaining()
    for expected, before, after_one in ((450.0, "1:15:00", "1:07:30"), (0.0, "-:--:--", "-:--:--")):
        progress.add_task("training", total=10, expected=expected)
        task = progress.tasks[-1]
        said = [column.render(task).plain]
        for done in (1, 2):  # two are needed for a rate
            now[0] += 60.0
            progress.update(task.id, completed=done)
            said.append(column.render(task).plain)
        assert said == [before, after_one, "0:08:00"]


def test_what_takes_long_shows_how_far_it_is_and_what_is_soon_done_does_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "MANY", 3)
    for total in (2, 3):
        with console.Console().counting("reading images", "images") as told:
            for done in range(1, total + 1):
                told(done, total)
    assert capsys.readouterr().out.startswith("reading images: 3/3 images, ")
