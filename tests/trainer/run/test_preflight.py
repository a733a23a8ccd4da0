"""A trial step tells what a run takes, and leaves no bit of it changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.reliability import small
from tests.trainer.commands.test_bad_input import command
from trainer.data.order.plan import Plan
from trainer.errors import RunError
from trainer.run import preflight
from trainer.training.gradients import Passes


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


@pytest.mark.parametrize(
    "overrides",
    [
        ("lora.dropout=0.5", "training.gradient_accumulation=2"),
        ("training.method='full'", "training.text_encoder=true"),
        ("optimizer={name='prodigy',lr=1.0}",),
        ("optimizer={name='adamwschedulefree'}", "ema={decay=0.9}"),
        ("training.method='full'", "training.fused_backward=true", "training.max_grad_norm=0"),
        ("training.method='full'", "training.weight_dtype='bf16'", "training.precision='bf16'", "ema={decay=0.9}"),
    ],
)
def test_a_run_with_a_trial_step_equals_one_without(project: Path, overrides: tuple[str, ...]) -> None:
    for name, tried in (("with", "true"), ("without", "false")):
        small.training(project, *overrides, f"run.name='{name}'", f"training.preflight={tried}").run()
    states = {small.state_hash(small.run_dir(project, name).checkpoint(6)) for name in ("with", "without")}
    assert len(states) == 1
    assert small.losses(project, "with") == small.losses(project, "without")


def test_everything_is_as_it_was(project: Path) -> None:
    found = small.training(project)
    before = {name: p.detach().clone() for name, p in found.loop.network.named_parameters()}
    stream = torch.get_rng_state()
    trial = preflight.attempt(found.loop, found.loader.plan, torch.optim.SGD(_trained(found.loop), lr=100.0))
    assert trial.seconds > 0
    assert 0 < trial.memory < trial.total
    for name, parameter in found.loop.network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
    assert torch.equal(torch.get_rng_state(), stream)
    assert found.loop.end.optimizer.state_dict()["state"] == {}


def _trained(loop: object) -> list[torch.nn.Parameter]:
    return [p for p in loop.network.parameters() if p.requires_grad]  # type: ignore[attr-defined]


def test_the_largest_batch_is_the_one_that_is_tried(project: Path) -> None:
    plan = small.training(project, "training.steps=50").loader.plan
    assert isinstance(plan, Plan)
    chosen = plan.largest()
    sizes = [_pixels(plan, index) for index in range(plan.batches_per_epoch)]
    assert _pixels(plan, chosen) == max(sizes)
    assert len(set(sizes)) > 1
    seen: list[int] = []
    found = small.training(project)
    real = found.loop.gradients.batch
    found.loop.gradients.batch = lambda index: seen.append(index) or real(index)  # type: ignore[func-returns-value]
    preflight.attempt(found.loop, plan, None)
    assert seen == [chosen]


def _pixels(plan: Plan, index: int) -> int:
    items = [plan.dataset.items[entry.item] for entry in plan.batch(index).entries]
    return sum(item.target[0] * item.target[1] for item in items)


def test_the_line_tells_batch_memory_and_time(project: Path) -> None:
    line = small.training(project, "training.preflight=true").notices[0]
    assert line.startswith("preflight: a step with the largest batch (2 x ")
    assert "on cpu; 6 steps take at most about" in line
    trial = preflight.Trial("4 x 768x512", 1.5, 10 * 2**30, 24 * 2**30, "cuda:0")
    assert trial.line(2400) == (
        "preflight: a step with the largest batch (4 x 768x512) takes 1.50 s and 10.0 GB of 24.0 GB on cuda:0; "
        "2400 steps take at most about 1:00:00, plus samples and saves"
    )


def test_check_preflight_writes_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(project.parent.rglob("*"))
    code, text = command(monkeypatch, capsys, "check", str(project), "--preflight")
    assert code == 0, text
    assert "preflight: a step with the largest batch" in text
    assert sorted(project.parent.rglob("*")) == before


def test_memory_that_runs_out_in_the_trial_is_told_before_anything_is_written(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("trainer.training.gradients.Gradients.eager", full)
    with pytest.raises(RunError, match=r"in a first step with the largest batch \(2 x \d+x\d+\)\. What saves most: "):
        small.training(project, "training.preflight=true")
    assert not (project.parent / "output").exists()


def test_processes_agree_on_the_trial_of_the_fullest_and_exchange_no_gradients(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One whose memory ran out would keep the others waiting for its gradients."""
    found = small.training(project)
    other = preflight.Trial("another process", 1.0, 99, 100, "cuda:1")
    accelerator = type(found.loop.accelerator)
    real, apart = accelerator.no_sync, []
    monkeypatch.setattr(accelerator, "no_sync", lambda self, model: apart.append(model) or real(self, model))  # type: ignore[func-returns-value]
    monkeypatch.setattr(preflight, "gather_object", lambda mine: [*mine, other])
    assert preflight.attempt(found.loop, found.loader.plan, None) == other
    assert apart == [found.loop.network]
    monkeypatch.setattr(preflight, "gather_object", lambda mine: [*mine, None])
    monkeypatch.setattr(accelerator, "num_processes", property(lambda _: 2))
    monkeypatch.setattr(found.loop.gradients, "take", lambda finished: Passes([], [], (), 0))
    with pytest.raises(torch.OutOfMemoryError, match="of another process"):
        preflight.attempt(found.loop, found.loader.plan, None)
