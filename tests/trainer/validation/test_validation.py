"""Validation: plain fixed noise, the same questions for all, no trace in the training, the best state kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.reliability import forks
from tests.tiny import tiny_sd
from tests.trainer import runs
from tests.trainer.assembly.test_training import losses, same, weights
from trainer import registry
from trainer.adapters import injection
from trainer.batch import Batch, Geometry, NoiseSchedule
from trainer.commands import reports
from trainer.config import reading
from trainer.config.schema.validation import ValidationSettings
from trainer.data.cache.memory import MemoryLatents
from trainer.data.order.holdout import Split
from trainer.data.order.loader import Loader
from trainer.data.order.plan import Plan
from trainer.data.sources.scan import scan
from trainer.errors import UserError
from trainer.journal.run_dir import RunDir
from trainer.reports.learning.findings import learning
from trainer.run.validator import Validator
from trainer.validation import fixed_loss, measurements
from trainer.validation import questions as validation_set
from trainer.validation.fixed_loss import QuestionBatch
from trainer.validation.measurements import Answers, AskedImage, Measurements, Questions

MEASURED = ("validation.split=0.3", "validation.every=2", "validation.draws=2", "validation.training_images=2")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return runs.make_project(tmp_path, images=8)


def folder(project: Path, name: str = "run") -> RunDir:
    return RunDir(project.parent / "output" / name)


def found(project: Path, name: str = "run") -> Measurements:
    read = measurements.read(folder(project, name).validation)
    assert read is not None
    return read


SCHEDULE = NoiseSchedule(1000, torch.linspace(0.999, 0.005, 1000))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Validator]:
    """Every validator that is built, the newest last."""
    found: list[Validator] = []
    real = Validator.__post_init__

    def remember(self: Validator) -> None:
        real(self)
        found.append(self)

    monkeypatch.setattr(Validator, "__post_init__", remember)
    return found


def test_timesteps_are_stratified_and_independent_of_other_images() -> None:
    for name in ("a.png", "b.png"):
        times = fixed_loss.timesteps_of(name, seed=0, draws=8, schedule=SCHEDULE)
        assert [t * 8 // 1000 for t in times] == list(range(8))
    assert times != fixed_loss.timesteps_of("a.png", seed=0, draws=8, schedule=SCHEDULE)
    assert times != fixed_loss.timesteps_of("b.png", seed=1, draws=8, schedule=SCHEDULE)
    spread = [t for i in range(500) for t in fixed_loss.timesteps_of(f"{i}", seed=0, draws=4, schedule=SCHEDULE)]
    assert scipy.stats.kstest(spread, scipy.stats.uniform(0, 1000).cdf).pvalue > 0.01
    assert min(spread) >= 0
    assert max(spread) <= 999


def test_a_flow_is_asked_at_any_time() -> None:
    times = fixed_loss.timesteps_of("a.png", seed=0, draws=8, schedule=NoiseSchedule(1000))
    assert [int(t * 8 // 1000) for t in times] == list(range(8)) and all(t != int(t) for t in times)
    assert [int(t) for t in times] == list(fixed_loss.timesteps_of("a.png", seed=0, draws=8, schedule=SCHEDULE))


def test_the_noise_is_plain_gaussian_and_belongs_to_image_and_draw() -> None:
    like = torch.zeros(4, 32, 32)
    noise = torch.stack([fixed_loss.noise_of(f"{i}.png", d, like, seed=0) for i in range(10) for d in range(2)])
    assert scipy.stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    # Unrelated to each other, and to any latent: the projection on a fixed direction has the variance 1.
    products = noise.flatten(1) @ noise.flatten(1).T / 4096
    assert (products - torch.eye(20)).abs().max() < 0.1
    assert torch.equal(noise[2], fixed_loss.noise_of("1.png", 0, like, seed=0))
    assert not torch.equal(noise[2], fixed_loss.noise_of("1.png", 0, like, seed=1))


def test_the_loss_is_the_mean_squared_error_of_the_network_on_these_questions(tmp_path: Path) -> None:
    """Worked out row by row, in the other order, without the module under test."""
    family = registry.find("models", "sd").load(str(tiny_sd(tmp_path / "base", prediction="v_prediction")))
    objective = registry.find("objectives", family.prediction)(family.schedule)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    masks = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    pictures = tuple(AskedImage(f"{i}", (16, 16), True, "", (100 * i + 7, 900 + i)) for i in range(3))
    pair = torch.zeros(3, 2, dtype=torch.long)
    batch = Batch(("0", "1", "2"), ("a", "b", "c"), Geometry(pair, pair, pair), torch.ones(3), latents, mask=masks)
    family.unet.train()
    state = torch.get_rng_state()
    questions = Questions(5, "v_prediction", 1000, pictures)
    measured = fixed_loss.measure(family, objective, questions, [QuestionBatch((0, 1, 2), batch)])
    assert torch.equal(torch.get_rng_state(), state)
    assert family.unet.training
    family.unet.eval()
    for row in reversed(range(3)):
        for draw in (1, 0):
            t = torch.tensor([pictures[row].timesteps[draw]])
            noise = fixed_loss.noise_of(f"{row}", draw, latents[row], seed=5)[None]
            abar = family.schedule.alphas_cumprod[t].view(1, 1, 1, 1)
            noisy = abar.sqrt() * latents[row : row + 1] + (1 - abar).sqrt() * noise
            target = abar.sqrt() * noise - (1 - abar).sqrt() * latents[row : row + 1]
            with torch.no_grad():
                text = family.encode_text([batch.captions[row]])
                error = (family.predict(noisy, t, text, batch.geometry) - target) ** 2 * masks[row]
            assert measured[row, draw] == pytest.approx(float(error.mean()), rel=1e-4)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(("noise.oversampling=8", "lora.dropout=0.3"), id="lora"),
        pytest.param(("training.method='full'", "training.text_encoder=true"), id="full"),
        pytest.param(("ema.decay=0.9",), id="ema"),
        pytest.param(("optimizer.name='adamwschedulefree'", "validation.every=1"), id="schedule-free"),
    ],
)
def test_a_measured_run_equals_one_that_is_not(project: Path, overrides: tuple[str, ...]) -> None:
    """Bit for bit, on the same training images: the second run has never heard of the held-out ones."""
    measured = runs.train(project, *MEASURED, *overrides, "run.name='measured'")
    held = [p.name for p in found(project, "measured").questions.pictures if p.held_out]
    assert held
    for name in held:
        (project.parent / name).unlink()
    plain = runs.train(project, *overrides, "run.name='plain'")
    assert same(weights(measured), weights(plain))
    output = project.parent / "output"
    assert losses(output / "measured") == losses(output / "plain")


def test_base_and_questions_are_the_same_for_every_setting(project: Path) -> None:
    """Noise oversampling, other seeds, other losses and a full fine-tune: the base's answers never change."""
    for name, *settings in (
        ("a", "noise.oversampling=64", "run.seed=1"),
        ("b", "loss.weighting='min_snr'", "timesteps.min=500", "datasets[0].batch_size=1"),
        ("c", "training.method='full'", "general.caption_dropout_rate=0.9", "data.cache_latents=false"),
    ):
        runs.train(project, *settings, *MEASURED, "training.steps=2", f"run.name='{name}'")
    first, second, third = (found(project, name) for name in "abc")
    assert first.questions == second.questions == third.questions
    for other in (second, third):
        assert first.base is not None
        assert other.base is not None
        np.testing.assert_allclose(other.base.losses, first.base.losses, rtol=1e-5)
    assert not np.allclose(first.checkpoints[0].losses, second.checkpoints[0].losses, rtol=1e-6)


def test_the_base_is_what_the_network_answers_without_the_adapter(project: Path, made: list[Validator]) -> None:
    """Also when it is measured late: at strength 0 the trained LoRA is not there."""
    run = runs.train(project, *MEASURED, "optimizer.lr=1e-2")
    first = found(project).base
    validator = made[-1]
    assert first is not None
    assert validator.without is not None
    with validator.without():
        late = validator._losses()
    trained = validator._losses()
    assert late is not None
    assert trained is not None
    assert np.array_equal(late, first.losses)
    assert not np.allclose(trained, first.losses, rtol=1e-4)
    assert injection.adapters(run.family)[0].layer.scaling["default"] == 0.5  # as it was


def test_a_resumed_run_measures_what_the_uninterrupted_one_does(project: Path) -> None:
    """And what an abandoned continuation had measured is gone."""
    runs.train(project, *MEASURED, "run.name='whole'", "training.steps=6")
    runs.train(project, *MEASURED, "run.name='parts'", "save.every=2", "save.keep=9", "training.steps=4")
    output = folder(project, "parts")
    shutil.rmtree(output.checkpoint(4))
    assert [c.step for c in found(project, "parts").checkpoints] == [2, 4]
    runs.train(project, *MEASURED, "run.name='parts'", "save.every=2", "training.steps=6", resume=True)
    whole, parts = found(project, "whole"), found(project, "parts")
    assert whole.questions == parts.questions
    assert [c.step for c in parts.checkpoints] == [2, 4, 6]
    for one, other in zip((whole.base, *whole.checkpoints), (parts.base, *parts.checkpoints), strict=True):
        assert one is not None
        assert other is not None
        assert np.array_equal(one.losses, other.losses)


def test_report_events_and_the_best_are_written(project: Path) -> None:
    runs.train(project, *MEASURED, "save.every=2", "optimizer.lr=1e-2")
    output = folder(project)
    report = json.loads(output.learning_numbers.read_text())
    events = [e for e in output.events() if e["event"] == "validation"]
    assert [e["step"] for e in events] == [c["step"] for c in report["checkpoints"]] == [2, 4]
    assert events[-1]["best"] == report["best"]
    assert report["images"] == 2
    assert report["training_images"] == 2
    assert output.learning_page.read_text().count("http") == output.learning_page.read_text().count("http://www.w3.org")
    last = [e for e in output.events() if e["event"] == "notice"][-1]
    assert report["verdict"] in last["message"]
    best = load_file(output.best.with_name("run-best.safetensors"))
    known = output.result(None if report["best"] == 4 else 2).with_suffix(".safetensors")
    known = known if known.exists() else output.path / f"run-step{report['best']:06d}.safetensors"
    assert all(torch.equal(tensor, load_file(known)[name]) for name, tensor in best.items())


def test_the_best_checkpoint_outlives_newer_ones(project: Path, made: list[Validator]) -> None:
    run = runs.training(project, *MEASURED, "training.steps=8", "save.every=2", "save.keep=1")
    course = iter([1.0, 0.8, 0.5, 0.7, 0.9])  # the base, then steps 2, 4, 6, 8
    made[-1]._losses = lambda: np.full((4, 2), next(course))  # type: ignore[method-assign]
    run.run()
    assert [p.name for p in sorted(folder(project).checkpoints.iterdir())] == ["step-000004", "step-000008"]
    runs.training(project, *MEASURED, "training.steps=9", "save.every=2", "save.keep=1", resume=True)
    assert made[-1].worth_keeping == {4}


def test_early_stop_ends_the_run_as_done(project: Path, made: list[Validator]) -> None:
    run = runs.training(project, *MEASURED, "training.steps=20", "validation.early_stop=2")
    course = iter([1.0, 0.8, 0.5, 0.7, 0.6, 0.1])
    made[-1]._losses = lambda: np.full((4, 2), next(course))  # type: ignore[method-assign]
    assert run.run() == "done"
    output = folder(project)
    assert output.finished
    assert [c.step for c in found(project).checkpoints] == [2, 4, 6, 8]
    assert (output.path / "run.safetensors").exists()
    assert any("the run ends here (validation.early_stop)" in e.get("message", "") for e in output.events())


def test_a_loss_that_is_not_finite_is_told_and_never_the_best(project: Path, made: list[Validator]) -> None:
    run = runs.training(project, *MEASURED)
    course = iter([1.0, np.nan, 0.5])
    made[-1]._losses = lambda: np.full((4, 2), next(course))  # type: ignore[method-assign]
    run.run()
    assert [c.step for c in found(project).checkpoints] == [4]
    assert any("NaN" in e.get("message", "") for e in folder(project).events())


def test_memory_that_is_too_small_for_measuring_does_not_end_the_run(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = fixed_loss.measure, 0

    def measure(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # the base, step 2, step 4
            raise torch.OutOfMemoryError
        return real(*arguments)

    monkeypatch.setattr(fixed_loss, "measure", measure)
    runs.train(project, *MEASURED)
    assert [c.step for c in found(project).checkpoints] == [4]
    told = [e["message"] for e in folder(project).events() if e["event"] == "notice"]
    assert "step 2: the memory ran out while measuring; nothing was recorded and training goes on" in told


def test_answers_survive_the_file_bit_for_bit(tmp_path: Path) -> None:
    questions = Questions(3, "epsilon", 1000, (AskedImage("a/b c.png", (64, 96), True, "ff", (1, 2)),) * 2)
    base = Answers(None, np.random.default_rng(0).random((2, 2)))
    measurements.begin(tmp_path, Measurements(questions, None, ()))
    measurements.write(tmp_path, base)
    measurements.write(tmp_path, Answers(7, base.losses / 3))
    read = measurements.read(tmp_path)
    assert read is not None
    assert read.questions == questions
    assert read.base is not None
    assert np.array_equal(read.base.losses, base.losses)
    assert np.array_equal(read.at(7).losses, base.losses / 3)
    assert measurements.known(tmp_path, questions, 6).checkpoints == ()
    other = Questions(4, "epsilon", 1000, questions.pictures)
    assert measurements.known(tmp_path, other, 9).base is None


def test_compare_tells_two_runs_apart(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command's own code: what differs, by how much, and where the files are not runs."""
    for name, rate in (("slow", "1e-5"), ("fast", "3e-3")):
        runs.train(project, *MEASURED, "training.steps=2", f"run.name='{name}'", f"optimizer.lr={rate}")
    one, other = folder(project, "slow").path, folder(project, "fast").path
    reports.compare(one, other)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "optimizer.lr: 1e-05 -> 0.003"
    assert told[1].startswith("at step 2: fast against slow: +")
    with pytest.raises(UserError, match="no run with a validation"):
        reports.compare(one, project.parent)


def test_a_validation_batch_is_what_training_would_show_without_chance(project: Path) -> None:
    """Sizes, crops, masks and captions as the loader gives them when nothing is dropped, shuffled or mirrored."""
    (project.parent / "masks").mkdir()
    for file in (project.parent / "photos").glob("*.png"):
        with Image.open(file) as picture:
            Image.linear_gradient("L").resize(picture.size).save(project.parent / "masks" / file.name)
    config = reading.read(
        project,
        [
            f"datasets[0].subsets[0].conditioning_data_dir={project.parent / 'masks'}",
            "general.mask_outside=0.25",
            "general.caption_prefix=my",
        ],
    )
    plain = scan(config.datasets, config.general, config.data, config_dir=project.parent, size_multiple=2)
    moving = [
        dataclasses.replace(item, source=dataclasses.replace(item.source, options=item.source.options.model_copy(
            update={"shuffle_caption": True, "caption_dropout_rate": 0.9, "caption_tag_dropout_rate": 0.9}
        )))
        for item in plain.items
    ]  # fmt: skip
    made = validation_set.make(
        Split(dataclasses.replace(plain, items=()), dataclasses.replace(plain, items=tuple(moving))),
        ValidationSettings(training_images=99),
        objective="epsilon",
        schedule=SCHEDULE,
        encode_images=lambda pixels: pixels[:, :, ::2, ::2],
        encode_text=None,
    )
    expected: dict[str, tuple[object, ...]] = {}
    plan = Plan(plain, 0)
    latents = MemoryLatents.encode(plain, lambda pixels: pixels[:, :, ::2, ::2])
    loader = Loader(plain, plan, 0, latents=latents)
    for index in range(plan.batches_per_epoch):
        expected |= rows(loader.batch(index))
    found: dict[str, tuple[object, ...]] = {}
    for one in made.asked:
        found |= rows(one.batch)
    assert found == expected
    assert len(found) == 8


def rows(batch: Batch) -> dict[str, tuple[object, ...]]:
    """Everything about each picture of a batch, by file."""
    g, full = batch.geometry, torch.ones(len(batch), 1, 1, 1)
    return {
        name: (
            batch.captions[i],
            *(pair[i].tolist() for pair in (g.original, g.crop, g.target)),
            (batch.latents[i] if batch.latents is not None else full[i]).tolist(),
            (batch.mask[i] if batch.mask is not None else full[i]).mean().item(),
        )
        for i, name in enumerate(batch.names)
    }


CLIMBING = "lr = 0.5\nname = 'torch.optim.SGD'\nargs = {maximize = true}"


def test_two_processes_share_the_questions_and_agree(project: Path) -> None:
    """Each measures a part; together they answer as one process does. Samples by the clock and an early stop too."""
    text = project.read_text()
    sections = (
        "[validation]\nsplit = 0.3\nevery = 1\ndraws = 2\nearly_stop = 1\ntraining_images = 2\n"
        "[samples]\nprompts = ['a cat']\nwidth = 64\nheight = 64\nsteps = 2\nevery = '1s'\n"
    )
    project.write_text(sections + text.replace("lr = 1e-3", CLIMBING))  # it gets worse from the first step on
    forks.ranks(2, lambda: runs.training(project, "noise.oversampling=8").run())
    both = found(project)
    assert folder(project).finished
    steps, told = [c.step for c in both.checkpoints], learning(both)
    assert told is not None
    assert steps == [1, 2]  # of four
    assert told.best == steps[-2]
    assert (folder(project).path / "run.safetensors").exists()
    project.write_text(sections + text)
    runs.train(project, "run.name='one'", "training.steps=1")
    alone = found(project, "one")
    assert both.questions == alone.questions
    assert both.base is not None
    assert alone.base is not None
    np.testing.assert_allclose(both.base.losses, alone.base.losses, rtol=1e-5)
