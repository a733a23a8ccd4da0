"""Consistency training in pixel space: whole runs, their average, drawing in few steps, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from plugins.models.pixel import Pixel
from tests.plugins.models.test_pixel import CONDITIONAL, SMALL, draw, made, project
from tests.trainer import runs
from tests.trainer.runs import make_project
from trainer import registry
from trainer.assembly import run as assembled
from trainer.assembly.check import check
from trainer.assembly.memory import estimate
from trainer.assembly.model import open_family
from trainer.assembly.split_states import unsplittable
from trainer.config import checks, reading
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.optim.averages import Averages
from trainer.samples import drawing
from trainer.samples.prompts import Request

FLOW = ("model.prediction=flow", "samples={prompts=['cat', 'dog'], sampler='consistency', steps=2}", CONDITIONAL[0])
AVERAGE = ("consistency={target='average', decay=0.9, begin=1, end=4}", *FLOW)


def weights(folder: Path, name: str) -> dict[str, Tensor]:
    return load_file(folder / "output" / name / name / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with an average that teaches and intervals that double after two and four."""
    folder = tmp_path_factory.mktemp("consistency")
    runs.train(project(folder), *AVERAGE, "training.steps=6", "save.every=1", "save.keep=9", "noise.oversampling=4")
    return folder


def resumed(folder: Path, name: str, step: int) -> dict[str, Tensor]:
    asked = [*AVERAGE, "training.steps=6", "save.every=1", "save.keep=9", "noise.oversampling=4", f"run.name={name}"]
    halfway = folder / "output" / "run" / "checkpoints" / f"step-{step:06d}"
    found = assembled.training(reading.read(folder / "run.toml", asked), Console(quiet=True), given=halfway)
    assert found is not None and found.loop.start.step == step
    found.run()
    return weights(folder, name)


@pytest.mark.parametrize("step", [1, 4])
def test_a_run_goes_on_bit_for_bit(whole: Path, step: int) -> None:
    """Within one number of intervals, and where the next one begins."""
    found, expected = resumed(whole, f"again-{step}", step), weights(whole, "run")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_the_average_that_teaches_belongs_to_the_state(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same check with an average that is not restored fails."""
    load = Averages.load_state_dict

    def forgetful(self: Averages, state: Any) -> None:
        if self._average is None or self._average._decay != 0.9:  # the other one is that of [ema]
            load(self, state)

    monkeypatch.setattr(Averages, "load_state_dict", forgetful)
    found, expected = resumed(whole, "forgetful", 4), weights(whole, "run")
    assert not all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_it_tells_what_it_does_and_draws_in_two_steps(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "output" / "run" / "metrics.jsonl").read_text().splitlines()]
    messages = [line["message"] for line in lines if line["event"] == "notice"]
    assert "consistency: 1 intervals from noise to picture, doubled every 2 steps to 4" in messages
    with Image.open(whole / "output" / "run" / "samples" / "step-000006-01.png") as picture:
        assert picture.info["evaluations"] == "2"


def test_the_average_is_an_ordinary_one_and_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    """Against an exponential moving average in float64, with the decay that rises to its value."""
    loop = runs.training(project(tmp_path), *AVERAGE, "training.steps=6").loop
    loop.network.train()
    trained = loop.gradients.weights
    expected = [w.detach().double() for w in trained]
    for n in range(4):
        loop.take_step(n)
        decay = min(0.9, (1 + n) / (10 + n)) if n else 0.0
        expected = [decay * e + (1 - decay) * w.detach().double() for e, w in zip(expected, trained, strict=True)]
    before = [w.detach().clone() for w in trained]
    with loop.gradients.step.teaching():  # type: ignore[attr-defined]
        shown = [w.detach().double() for w in trained]
    for one, other in zip(shown, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert not all(torch.equal(s.float(), b) for s, b in zip(shown, before, strict=True))
    assert all(torch.equal(w, b) for w, b in zip(trained, before, strict=True))


@pytest.mark.parametrize("prediction", ["flow", "velocity"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_drawing_is_the_written_out_loop(prediction: str, steps: int) -> None:
    """Algorithm 1 of arXiv 2303.01469, in times that are counted here; each picture from its own seed alone."""
    family = made((), prediction)
    objective = registry.find("objectives", prediction)(family.schedule)
    pipeline = family.pipeline()
    pipeline.scheduler = family.samplers["consistency"]()
    found = pipeline(
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        width=8,
        height=8,
        num_inference_steps=steps,
    )
    assert found.evaluations == steps
    times = {
        "flow": {1: [1000.0], 2: [1000.0, 500.0], 3: [1000.0, 2000 / 3, 1000 / 3]},
        "velocity": {1: [999], 2: [999, 500], 3: [999, 666, 333]},
    }[prediction][steps]
    for row, seed in enumerate((5, 6)):
        stream = torch.Generator().manual_seed(seed)
        x = torch.randn(1, 3, 8, 8, generator=stream)
        for k, time in enumerate(times):
            t = torch.tensor([time])
            with torch.no_grad():
                answer = family.unet(x, t).sample
            alpha, sigma = objective.signal_and_noise(t)
            clean = x - sigma * answer if prediction == "flow" else alpha * x - sigma * answer
            if k + 1 < steps:
                alpha, sigma = objective.signal_and_noise(torch.tensor([times[k + 1]]))
                x = alpha * clean + sigma * torch.randn(1, 3, 8, 8, generator=stream)
        torch.testing.assert_close(found.images[row], clean[0], rtol=1e-4, atol=1e-4)


def test_a_network_that_predicts_noise_has_no_such_sampler() -> None:
    assert len(draw(made((), "flow"), [1], sampler="consistency", steps=1)) == 1
    (line,) = drawing.problems(made(), [Request("", 1, sampler="consistency")])  # type: ignore[arg-type]
    assert line.startswith("samples.sampler: this model has no sampler 'consistency'")


REFUSED = [
    (["training.method=lora"], "training.method: 'lora', but [consistency] trains all weights"),
    (["loss.weighting=min_snr"], "loss.weighting: [consistency] has a distance and weights of its own"),
    (["loss.kind=huber"], "loss.kind: [consistency] has a distance"),
    (["timesteps.max=900"], "timesteps.max: each time learns from the one below it"),
    (["preservation.words={cat='dog'}"], "preservation: the base's answers stand for noise"),
    (["data.prior_prediction=true"], "preservation: the base's answers stand for noise"),
    (["validation.split=0.2"], "validation.split: the held-out loss is that of denoising"),
    (["general.validation_split=0.2"], "general.validation_split: the held-out loss is that of denoising"),
    (["noise.explore=2"], "noise.explore: it asks for the loss of another training"),
    (["noise.perturbation=0.1"], "noise.perturbation: it changes what is not compared here"),
    (["consistency.begin=900"], "consistency.begin: 900 must not be above consistency.end = 640"),
    (["consistency.target=off", "consistency.end=20"], "consistency.target: 'off', so that [consistency] has no"),
    (["model.prediction=epsilon"], "consistency: a network that predicts the noise says next to nothing"),
    (["model.prediction=v", "consistency.end=1280"], "consistency.end: found 1280, but there are 1000 timesteps"),
]


@pytest.mark.parametrize(("changes", "told"), REFUSED)
def test_what_does_not_go_with_it_is_refused_by_name(tmp_path: Path, changes: list[str], told: str) -> None:
    config = project(tmp_path)
    with pytest.raises(UserError) as error:
        runs.training(config, "consistency.target=network", "model.prediction=flow", *changes)
    assert any(told in problem for problem in error.value.problems), error.value.problems
    assert not (tmp_path / "output").exists()


def test_a_family_that_cannot_draw_it_is_refused_and_check_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_project(tmp_path)
    asked = ("training.method=full", "consistency.target=network", "model.prediction=v")
    told = "consistency: models of 'sd' have no sampler that draws what it makes"
    with pytest.raises(UserError, match=told):
        runs.training(config, *asked)
    found = check(reading.read(config, asked), Console())
    assert not found["would_train"] and told in " ".join(capsys.readouterr().out.split())


def test_it_costs_a_forward_pass_and_an_average(tmp_path: Path) -> None:
    config = project(tmp_path)

    def needs(*asked: str) -> Any:
        read = reading.read(config, ["model.prediction=flow", *asked])
        return estimate(read, open_family(read, outline=True), (3, 8, 8))

    plain, own, averaged = (needs(), *(needs(f"consistency.target={t}") for t in ("network", "average")))
    assert own.operations - plain.operations == pytest.approx(plain.operations / 3)
    numbers = sum(p.numel() for p in Pixel.create(SMALL, ()).unet.parameters())
    assert averaged.optimizer - own.optimizer == 4 * numbers and own.optimizer == plain.optimizer


def test_it_is_refused_where_states_are_split(tmp_path: Path) -> None:
    config = project(tmp_path)
    assert not any("consistency" in line for line in unsplittable(reading.read(config)))
    found = unsplittable(reading.read(config, ["consistency.target=network"]))
    assert any(line.startswith("consistency: its steps ask the network twice") for line in found)


def test_settings_without_effect_are_noted(tmp_path: Path) -> None:
    asked = ["consistency={target='network', decay=0.9}", "samples.prompts=['']"]
    lines = checks.notes(reading.read(project(tmp_path), asked))
    assert any(line.startswith("note: samples.sampler: only 'consistency' draws") for line in lines)
    assert "note: consistency.decay has no effect with consistency.target = 'network'." in lines
