"""The control that draws timesteps as noisy as paired noise, against a flow's closed form; and the studies' files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from studies import times
from studies.cells import train_words
from studies.plan import read
from studies.times import weights
from trainer.config import reading

STUDIES = Path(times.__file__).parent
FLOW = np.arctan2(np.arange(1, 1001), 1000 - np.arange(1, 1001))
DDPM = np.arccos(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)) ** 0.5)
FILES = [file for file in sorted(STUDIES.glob("*.toml")) if "[arms." in file.read_text(encoding="utf-8")]


def test_a_flows_times_have_the_odds_that_paired_noise_gives() -> None:
    """(1 - t) x + t (c x + s n) is noisy as t' with t' / (1 - t') = s t / (1 - t + c t); t is uniform."""
    pull, scale = 0.04, 0.97
    ends = np.arange(1, 101) / 100  # t'
    left = scale * (1 - ends) - pull * ends  # solved: t = ends / (left + ends), 1 where it is 0
    shares = np.cumsum(weights(FLOW, pull, scale)) / 100
    np.testing.assert_allclose(shares, ends / (left.clip(min=0) + ends), atol=5e-4)


def test_plain_noise_keeps_its_timesteps() -> None:
    for angles in (FLOW, DDPM):
        assert set(weights(angles, 0.0, 1.0)) <= {0.995, 1.0, 1.005}


def test_an_arm_is_printed_from_a_report(tmp_path: Path) -> None:
    report = tmp_path / "noise-report.json"
    one = {"pull": 0.04, "scale": 0.97, "configured": True}
    report.write_text(json.dumps({"angles": FLOW.tolist(), "oversampling": {"64": one, "2": {}}}))
    done = CliRunner().invoke(_app(), [str(report)])
    assert done.exit_code == 0
    assert json.loads(done.stdout.partition('"timesteps.weights" = ')[2]) == weights(FLOW, 0.04, 0.97)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"angles": 3, "oversampling": {"4": {"configured": true}}}'])
def test_what_is_no_report_is_said(tmp_path: Path, text: str) -> None:
    report = tmp_path / "noise-report.json"
    report.write_text(text)
    done = CliRunner().invoke(_app(), [str(report)])
    assert done.exit_code == 2 and "one pairing stage" in done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_arm_of_the_studies_here_is_a_config(file: Path) -> None:
    for scale in ("", *read(file).study.scales):
        for cell in (plan := read(file, scale)).cells:
            words = train_words(plan, cell)
            reading.read(Path(words[1]), [word for word in words[2:] if word not in ("--set", "--resume")])


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command()(times.main)
    return app
