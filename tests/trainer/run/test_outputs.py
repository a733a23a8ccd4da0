"""What happens between steps: samples that cannot end a run, contact sheets, and when things are due."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from tests.trainer import runs
from trainer.assembly.run import PreparedRun
from trainer.batch import Batch
from trainer.config.schema.samples import SamplesSettings
from trainer.errors import UserError
from trainer.journal.run_dir import RunDir
from trainer.run import outputs
from trainer.samples import contact_sheet, drawing
from trainer.samples.prompts import Request
from trainer.training.control import ask
from trainer.training.pace import Pace

ONE = "samples={prompts=['a cat'],width=32,height=32,steps=1}"
PROMPTS = "samples={prompts=['a cat','a dog','a big cat --w 128'],width=64,height=64,steps=2,every=2}"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return runs.make_project(tmp_path, images=3)


def folder(project: Path, name: str = "run") -> RunDir:
    return RunDir(project.parent / "output" / name)


def events(run_dir: RunDir, kind: str) -> list[dict[str, Any]]:
    return [e for e in run_dir.events() if e["event"] == kind]


def without_memory_for(monkeypatch: pytest.MonkeyPatch, too_large: Callable[[Any], bool]) -> None:
    real = drawing._together

    def together(family: Any, pipeline: Any, alike: Any, stopped: Any) -> Any:
        if too_large(alike):
            raise torch.OutOfMemoryError
        return real(family, pipeline, alike, stopped)

    monkeypatch.setattr(drawing, "_together", together)


def test_a_picture_that_does_not_fit_is_left_out_and_the_run_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_memory_for(monkeypatch, lambda alike: alike[0].width == 128)
    runs.train(project, PROMPTS)
    run_dir = folder(project)
    assert run_dir.finished
    for event in events(run_dir, "sample"):
        assert event["prompts"] == ["a cat", "a dog"]
        assert all((run_dir.path / file).exists() for file in event["files"])
    notices = [e["message"] for e in events(run_dir, "notice")]
    assert notices[0].startswith("step 2: the memory ran out while drawing sample 2 (128x64)")
    assert "step 2: the memory ran out" in run_dir.log.read_text()
    assert len(notices) == 2


def test_pictures_that_do_not_fit_together_are_drawn_one_by_one(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.train(project, PROMPTS, "run.name='together'")
    without_memory_for(monkeypatch, lambda alike: len(alike) > 1)
    runs.train(project, PROMPTS, "run.name='single'")
    assert events(folder(project, "single"), "notice") == []
    for index in range(3):
        one, other = (Image.open(folder(project, name).sample(4, index)) for name in ("together", "single"))
        difference = max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))
        assert difference <= 2  # batches are computed in another order


def test_a_stop_ends_the_drawing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.training(project, PROMPTS, "samples.steps=30")
    calls = 0
    real = run.family.unet.forward  # type: ignore[attr-defined]

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if not torch.is_grad_enabled():
            calls += 1
            run.loop.control.stop_requested = True
        return real(*args, **kwargs)

    monkeypatch.setattr(run.family.unet, "forward", forward)  # type: ignore[attr-defined]
    assert run.run() == "stopped"
    assert calls == 1
    assert events(folder(project), "sample") == []
    assert (folder(project).checkpoint(2) / "manifest.json").exists()


def test_samples_can_be_asked_for(project: Path) -> None:
    """The control file's word finds the samples."""
    run = runs.training(project, PROMPTS, "samples.every=0")
    assert [p.name for p in run.loop.periodic if p.name == "sample"] == ["sample"]


def typing(run: PreparedRun, run_dir: RunDir, lines: dict[int, str]) -> None:
    """Asks for a prompt before the micro-batch with its number."""
    real = run.loop.gradients.batch

    def batch(index: int) -> Batch:
        if index in lines:
            ask(run_dir.control, "sample", lines[index])
        return real(index)

    run.loop.gradients.batch = batch


def test_a_prompt_typed_meanwhile_is_drawn_and_changes_nothing_of_the_training(project: Path) -> None:
    """Nor of what a resumed run draws: the picture lies beside the samples of the config."""
    asked = runs.training(project, ONE, "samples.every=0", "run.name=asked")
    run_dir = folder(project, "asked")
    typing(asked, run_dir, {1: "a dog, --w 32 --h 32 --s 2", 2: "a dog --s none"})
    asked.run()
    drawn = [(e["files"], e["prompts"]) for e in events(run_dir, "sample")]
    assert drawn[0] == (["samples/asked-000.png"], ["a dog,"])
    with Image.open(run_dir.samples / "asked-000.png") as picture:
        assert picture.size == (32, 32)
    assert "none" in events(run_dir, "notice")[-1]["message"]
    assert not list(run_dir.samples.glob("asked-001*"))
    plain = runs.training(project)  # without prompts what draws is given back
    typing(plain, folder(project), {1: "a dog"})
    plain.run()
    assert "'a dog' is not drawn" in events(folder(project), "notice")[-1]["message"]
    pairs = zip(plain.loop.network.parameters(), asked.loop.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(UserError, match="only a sample has a prompt"):
        ask(run_dir.control, "save", "a dog")


def test_a_sheet_shows_every_step_of_one_prompt(project: Path) -> None:
    runs.train(project, PROMPTS, "samples.at_start=true")
    run_dir = folder(project)
    with Image.open(run_dir.sheet(0)) as sheet, Image.open(run_dir.sheet(2)) as wide:
        side = 2 * 64  # pictures of 64 pixels are doubled
        assert sheet.size == (3 * side + 4 * contact_sheet.GAP, sheet.height)
        assert wide.height == sheet.height - 64
        top = sheet.height - contact_sheet.GAP - side
        for place, step in enumerate((0, 2, 4)):
            left = contact_sheet.GAP + place * (side + contact_sheet.GAP)
            shown = sheet.crop((left, top, left + side, top + side))
            with Image.open(run_dir.sample(step, 0)) as picture:
                assert shown.resize((64, 64), 0).tobytes() == picture.tobytes()


def test_a_sheet_of_a_long_run_shows_the_first_and_the_last(tmp_path: Path) -> None:
    for step in range(1, 201):
        Image.new("RGB", (16, 16), (step, 0, 0)).save(tmp_path / f"step-{step:06d}-03.png")
    Image.new("RGB", (16, 16)).save(tmp_path / "step-000001-04.png")
    files = contact_sheet._spread(sorted((int(f.name[5:11]), f) for f in tmp_path.glob("step-*-03.png")))
    assert len(files) == contact_sheet.MOST
    assert (files[0][0], files[-1][0]) == (1, 200)
    contact_sheet.write(tmp_path, 3, "", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == contact_sheet.COLUMNS * (128 + contact_sheet.GAP) + contact_sheet.GAP


def pace(steps: int = 40, batches_per_epoch: int = 10, accumulation: int = 2) -> Pace:
    return Pace(steps, accumulation, batches_per_epoch, 5, 0)


def one_process(count: int = 1) -> Any:
    return SimpleNamespace(num_processes=count, is_main_process=True, device="cpu", reduce=lambda tensor, _: tensor)


def test_epochs_are_counted_in_steps_of_all_processes() -> None:
    due = outputs.schedule("1 epoch", pace(), one_process(2))  # 10 batches, 4 a step
    assert [s for s in range(1, 11) if due(s)] == [3, 5, 8, 10]


def test_time_is_counted_from_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(outputs.time, "monotonic", lambda: now)
    due = outputs.schedule("10m", pace(), one_process())
    found = []
    for step in range(1, 31):  # four minutes each
        now += 240
        if due(step):
            found.append(step)
    assert found == list(range(3, 31, 3))


def test_several_processes_look_at_the_clock_only_where_they_meet_anyway(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(outputs.time, "monotonic", lambda: now)
    due = outputs.schedule("1s", pace(), one_process(2))
    found = []
    for step in range(1, 21):
        now += 10
        if due(step):
            found.append(step)
    assert found == [5, 10, 15, 20]


def test_requests_that_differ_in_more_than_words_are_not_drawn_together() -> None:
    same = [Request("a", i) for i in range(5)]
    others = [Request("a", 0, width=256), Request("a", 0, steps=9), Request("a", 0, sampler="euler")]
    assert drawing.groups([*same, *others]) == [[0, 1, 2, 3], [4], [5], [6], [7]]


def test_samples_take_their_settings_from_the_config(project: Path) -> None:
    settings = SamplesSettings(prompts=["a"], every="15m")
    assert settings.every == "15m"
    with pytest.raises(ValueError, match="1 epoch"):
        SamplesSettings(prompts=["a"], every="15 parsecs")
