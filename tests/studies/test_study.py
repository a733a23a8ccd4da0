"""Studies: what is missing is trained, once, whoever else is at it; the differences are those of a paired test."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock
from scipy.stats import ttest_rel
from typer.testing import CliRunner

from studies import cells, report
from studies.__main__ import app, write
from studies.differences import paired
from studies.plan import Plan, read
from tests.reliability import small
from trainer import __main__ as product
from trainer.errors import UserError

STUDY = """
title = "Does it help?"
config = "run.toml"
seeds = [1, 2]
baseline = "plain"
settings = {"training.steps" = 2}
[scales.card]
"training.steps" = 4
[arms.plain]
[arms."k = 8"]
"noise.oversampling" = 8
[measures.loss]
title = "Held-out loss"
[measures.size]
title = "Bytes"
run = [["count", "{run}"]]
read = "{run}/bytes.json:found.bytes"
lower_is_better = false
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "study.toml"
    found.write_text(STUDY, encoding="utf-8")
    (tmp_path / "run.toml").touch()
    return found


class Pretended:
    """Stands for the product: writes what a run leaves behind."""

    def __init__(self, plan: Plan, code: int = 0) -> None:
        self.plan, self.code = plan, code
        self.asked: list[list[str]] = []

    def __call__(self, words: Sequence[str], folder: Path) -> int:
        self.asked.append(list(words))
        if self.code:
            return self.code
        if words[0] == "count":
            (Path(words[1]) / "bytes.json").write_text('{"found": {"bytes": 7}}', encoding="utf-8")
            return 0
        settings = dict(one.split("=", 1) for flag, one in pairwise(words) if flag == "--set")
        made = Path(json.loads(settings["run.output_dir"])) / json.loads(settings["run.name"])
        made.mkdir(parents=True, exist_ok=True)
        (made / "config.toml").touch()
        loss = int(settings["run.seed"]) + ("noise.oversampling" in settings) * 0.5
        events = [{"event": "start"}, {"event": "validation", "loss": loss}, {"event": "stop", "reason": "done"}]
        (made / "metrics.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n{cut", encoding="utf-8")
        return 0


def test_what_is_missing_is_trained_once_and_whole_pairs_come_first(file: Path) -> None:
    plan = read(file)
    product = Pretended(plan)
    assert cells.complete(plan, lambda _: None, product) == []
    trained = [words for words in product.asked if words[0] == "train"]
    assert [next(w for w in words if w.startswith("run.name=")) for words in trained] == [
        'run.name="plain-1"', 'run.name="k---8-1"', 'run.name="plain-2"', 'run.name="k---8-2"'
    ]  # fmt: skip
    assert "noise.oversampling=8" in trained[1]
    assert "training.steps=2" in trained[0]
    assert "--resume" not in trained[0]
    asked = len(product.asked)
    assert cells.complete(plan, lambda _: None, product) == []
    assert len(product.asked) == asked
    assert cells.number(plan, plan.cells[1], "loss") == 1.5
    assert cells.number(plan, plan.cells[1], "size") == 7


def test_a_run_that_was_killed_goes_on(file: Path) -> None:
    plan = read(file)
    begun = cells.folder(plan, plan.cells[0])
    begun.mkdir(parents=True)
    (begun / "config.toml").touch()
    (begun / "metrics.jsonl").write_text('{"event": "start"}\n', encoding="utf-8")
    assert not cells.finished(plan, plan.cells[0])
    assert cells.train_words(plan, plan.cells[0])[-1] == "--resume"


def test_what_another_process_is_at_is_left_to_it(file: Path) -> None:
    plan = read(file)
    plan.output.mkdir(parents=True)
    with FileLock(plan.output / f"{plan.cells[0].name}.lock"):
        assert cells.complete(plan, lambda _: None, Pretended(plan)) == [plan.cells[0]]
    assert cells.number(plan, plan.cells[0], "loss") is None
    assert cells.number(plan, plan.cells[1], "loss") is not None


def test_a_scale_adds_settings_and_has_runs_of_its_own(file: Path) -> None:
    plan = read(file, "card")
    assert plan.cells[0].settings["training.steps"] == 4
    assert plan.output != read(file).output


def test_differences_are_those_of_a_paired_t_test() -> None:
    random = np.random.default_rng(0)
    one, other = random.normal(1, 1, 6), random.normal(0, 1, 6)
    found = paired(dict(enumerate(one)), {**dict(enumerate(other)), 99: 5.0})
    assert found is not None
    interval = ttest_rel(one, other).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(tuple(interval))
    assert found.pairs == 6
    assert paired({1: 1.0}, {2: 1.0}) is None


def test_the_table_says_what_is_there(file: Path) -> None:
    plan = read(file)
    cells.complete(plan, lambda _: None, Pretended(plan))
    text = write(plan).read_text(encoding="utf-8")
    assert "4 of 4 trainings are measured" in text
    assert "| k = 8 | 2 | 2 | +0.5 ± 0 | worse |" in text
    assert "| k = 8 | 7 | 2 | +0 ± 0 | no clear difference |" in text
    drawn = (plan.output / "table.svg").read_text(encoding="utf-8")
    assert drawn.count("<circle") == 2
    assert report.figure(plan, {name: {} for name in plan.study.measures}).count("<circle") == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('baseline = "plain"', 'baseline = "none"', "baseline = 'none' is not one of the arms"),
        ("seeds = [1, 2]", "seeds = []", "seeds"),
        ("title = ", "tilte = ", "tilte"),
        ('config = "run.toml"', 'config = "no.toml"', "there is no file"),
        ("seeds = [", "seeds = [[", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_told(file: Path, old: str, new: str, said: str) -> None:
    file.write_text(STUDY.replace(old, new, 1), encoding="utf-8")
    found = CliRunner().invoke(app, [str(file)])
    assert found.exit_code == 2
    assert said in found.output
    assert not (file.parent / "output").exists()


def test_a_command_that_fails_ends_the_study_and_nothing_counts(file: Path) -> None:
    plan = read(file)
    with pytest.raises(UserError, match="exit code 3"):
        cells.complete(plan, lambda _: None, Pretended(plan, code=3))
    assert cells.number(plan, plan.cells[0], "loss") is None
    with pytest.raises(UserError, match="card"):
        read(file, "none")


def test_with_the_product_itself(tmp_path: Path) -> None:
    small.make(tmp_path)
    file = tmp_path / "study.toml"
    file.write_text(
        STUDY.partition("[measures.size]")[0].replace(
            '"training.steps" = 2', '"training.steps" = 2, "validation.split" = 0.4, "validation.draws" = 1'
        ).replace("seeds = [1, 2]", "seeds = [1]"),
        encoding="utf-8",
    )  # fmt: skip
    plan = read(file)

    def run(words: Sequence[str], folder: Path) -> int:
        here = Path.cwd()
        try:
            return CliRunner().invoke(product.app, list(words)).exit_code
        finally:
            os.chdir(here)

    assert cells.complete(plan, lambda _: None, run) == []
    losses = [cells.number(plan, cell, "loss") for cell in plan.cells]
    assert all(loss is not None and 0 < loss < 10 for loss in losses)
    assert losses[0] != losses[1]
