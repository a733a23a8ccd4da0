"""What `check` shows of the schedule is what the optimizer's groups will get."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.reliability import small
from trainer.assembly.check import check
from trainer.config import reading
from trainer.journal.console import Console
from trainer.reports import plot, rates


def test_heights_follow_the_rate() -> None:
    assert rates.sparkline(lambda step: step, 8) == "▁▂▃▄▅▆▇█"
    assert rates.sparkline(lambda step: 0.5, 100, 5) == "█████"
    assert rates.sparkline(lambda step: float(step >= 50), 100, 4) == "▁▁██"
    assert rates.sparkline(lambda step: 0.0, 3) == "▁▁▁"


def test_a_line_tells_first_largest_and_last() -> None:
    told = rates.line("unet", lambda step: [1e-5, 1e-4, 5e-5, 0][step], 4)
    assert told.startswith("unet: ▂█")
    assert told.endswith("1e-05 in the first step, 0.0001 at most (from step 2), 0 in the last")


def test_check_tells_the_rates_that_a_run_has(tmp_path: Path) -> None:
    project = small.make(tmp_path / "a project")
    settings = (
        "training.steps=6", "training.text_encoder=true", "training.text_encoder_until=4",
        "optimizer={lr=1e-3,text_encoder_lr=1e-4,windows={'unet.mid_block'=[0.5,0]}}",
        "schedule={name='cosine',warmup=2}",
    )  # fmt: skip
    seen: list[str] = []
    console = Console(quiet=True)
    console.say = lambda text, *_, **__: seen.append(str(text))  # type: ignore[method-assign]
    found = check(reading.read(project, settings), console)
    small.training(project, *settings).run()
    logged = [e["lr"] for e in small.run_dir(project).events() if e["event"] == "step"]
    told = found["learning_rates"]
    assert list(told) == ["text encoder", "unet.mid_block", "others"]
    for name, group in (("text encoder", "text_encoder"), ("unet.mid_block", "unet")):
        assert told[name] == pytest.approx([rate[group] for rate in logged])
    assert any(line.startswith("learning rate of unet.mid_block: ") for line in seen)
    page = (small.run_dir(project).path / "schedule.html").read_text()
    assert "<svg" in page
    assert "text encoder" in page


@pytest.mark.parametrize("rate", [1e-4, 3.2e-5, 1.0, 2e-7])
def test_the_title_of_the_upright_axis_stands_beside_its_numbers(tmp_path: Path, rate: float) -> None:
    rates.write({"all": lambda step: rate * (1 - step / 100)}, 100, "a", tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    numbers = re.findall(r'<text x="(\d+)"[^>]*text-anchor="end"[^>]*>([^<]+)<', page)
    assert len(numbers) > 3
    for right, number in numbers:
        assert int(right) - plot.LETTER * len(number) > plot.TITLE + plot.LETTER, number
