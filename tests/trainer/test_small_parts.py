"""Random streams, schedules, timesteps, losses, events: identities of the small parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from trainer.assembly.processes import accelerator_for
from trainer.config.schema.whole import Config
from trainer.errors import UserError
from trainer.journal.events import MetricsFile, Step, Stop
from trainer.journal.run_dir import RunDir
from trainer.randomness import derive, generator


def test_streams_differ_in_every_argument_and_repeat() -> None:
    keys = [
        (1, "noise", 0, 0, 0),
        (2, "noise", 0, 0, 0),
        (1, "time", 0, 0, 0),
        (1, "noise", 1, 0, 0),
        (1, "noise", 0, 1, 0),
    ]
    seeds = {derive(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert torch.equal(torch.rand(3, generator=generator(*keys[0])), torch.rand(3, generator=generator(*keys[0])))


def test_metrics_lines_survive_a_torn_end(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write = MetricsFile(run.metrics)
    write(Step(1, loss=float("nan"), lr={"unet": 1.0}, grad_norm=None, images_per_second=1.0, epoch=0.0))
    with run.metrics.open("a") as file:
        file.write('{"event": "st')
    assert [e["loss"] for e in run.events()] == ["nan"]
    MetricsFile(run.metrics)(Stop(2, reason="done", seconds=1.0))
    assert run.finished
    assert [json.dumps(e)[:17] for e in run.events()] == ['{"event": "step",', '{"event": "stop",']


@pytest.mark.parametrize(("asked", "there"), [("cuda", "mps"), ("mps", "cuda")])
def test_another_device_is_not_taken_for_the_one_that_was_asked_for(
    asked: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there == "mps")
    config = Config.model_validate({"run": {"device": asked}})
    with pytest.raises(UserError, match=f"run.device: found '{asked}', but torch sees no such device"):
        accelerator_for(config)
