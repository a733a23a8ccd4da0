"""What the UI reads of a run: torn lines, repeated steps, files that grow."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from tests.ui.large import write_run
from trainer.journal.run_dir import RunDir
from trainer.reports.plot import MOST_POINTS
from ui.views import run as run_views
from ui.views.smoothing import MOST_SMOOTHED, smooth_line, smoothed
from ui.work.history import history


def write(run: RunDir, *events: dict[str, object] | str) -> None:
    run.path.mkdir(exist_ok=True)
    with run.metrics.open("a", encoding="utf-8") as file:
        for event in events:
            file.write(event if isinstance(event, str) else json.dumps(event) + "\n")


def step(number: int, **about: object) -> dict[str, object]:
    return {"event": "step", "step": number, "time": number / 10, "loss": 1 / number, "lr": {"unet": 1e-4}, **about}


def test_a_line_counts_once_it_is_whole(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    write(run, {"event": "start", "step": 0, "time": 0, "steps": 9}, step(1), '{"event": "step", "st')
    assert history(run).step == 1
    write(run, 'ep": 2, "time": 0.2, "loss": 0.5}\n', "garbage\n", "[1]\n", step(3))
    told = history(run)
    assert told.curve("loss").steps.tolist() == [1, 2, 3]
    assert told.count == 4


def test_steps_that_a_resumed_run_does_again_replace_the_first_ones(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    write(run, {"event": "start", "step": 0, "time": 0, "steps": 9}, *(step(i) for i in range(1, 8)))
    write(run, {"event": "sample", "step": 6, "time": 1, "files": [], "prompts": []})
    write(run, {"event": "start", "step": 4, "time": 2, "steps": 9, "resumed": True})
    assert history(run).step == 4
    assert history(run).samples == []
    write(run, step(5), step(6))
    assert history(run).curve("loss").steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert history(run).curve("lr/unet").steps.tolist() == [1, 2, 3, 4, 5, 6]


def test_another_file_under_the_same_name_is_read_anew(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    write(run, *(step(i) for i in range(1, 8)))
    assert history(run).step == 7
    run.metrics.unlink()
    assert history(run).step == 0
    write(run, step(1))
    assert history(run).curve("loss").steps.tolist() == [1]


def test_hostile_values_are_gaps(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    write(run, step(1, loss="nan"), step(2, loss=None, lr="x", loss_by_timestep=[1]), step(3, grad_norm="inf"))
    told = history(run)
    assert [math.isnan(v) for v in told.curve("loss").values] == [True, True, False]
    assert told.curve("lr/unet").steps.tolist() == [1, 3]


def test_the_rate_leaves_out_a_pause(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    events = [step(i) for i in range(1, 21)]
    for event in events[10:]:
        event["time"] = float(str(event["time"])) + 3600
    write(run, *events)
    rate = history(run).steps_per_second()
    assert rate is not None
    assert math.isclose(rate, 10.0, rel_tol=1e-6)


def test_smoothing_of_a_constant_is_the_constant_and_gaps_are_passed_over() -> None:
    values = np.full(100, 3.0)
    values[50] = np.nan
    assert np.allclose(smoothed(values), 3.0)


def test_a_very_long_run_is_drawn_with_few_points_and_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(write_run(tmp_path, "long", 20_000))
    page = run_views.curves_html(history(run))
    lines = re.findall(r'points="([^"]*)"', page)
    assert len(lines) > 5
    assert max(len(points.split()) for points in lines) <= MOST_POINTS + 2
    x, y = smooth_line(*history(run).curve("loss").arrays())
    assert len(x) == len(y) <= MOST_SMOOTHED
    assert x[-1] == 19_998
    before = history(run).count
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("what was read before is not read again"))
    assert history(run).count == before == 20_000


def test_averages_of_neighbours_pass_over_what_is_not_finite() -> None:
    y = np.full(3 * MOST_SMOOTHED, 2.0)
    y[::2] = np.nan
    x, smooth = smooth_line(np.arange(len(y), dtype=float), y)
    assert np.allclose(smooth, 2.0)
    assert len(x) == MOST_SMOOTHED
