"""Whole runs that are held to their base: by LoRA's own base, and by a frozen copy of what trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.trainer.runs import make_project, train, training
from trainer.adapters import injection
from trainer.adapters.lora_file import NothingLearnedError
from trainer.assembly.preservation import copied
from trainer.assembly.run import PreparedRun
from trainer.assembly.split_states import unsplittable
from trainer.batch import Geometry, TextStates
from trainer.config import reading
from trainer.config.checks import notes
from trainer.errors import UserError
from trainer.training.noise import Streams

WORDS = "preservation.words={'cat'='dog'}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def prepared(project: Path, tmp_path: Path) -> Callable[..., PreparedRun]:
    return lambda *overrides: training(project, f"run.output_dir='{tmp_path}'", "training.steps=2", *overrides)


def test_who_only_learns_the_answers_of_the_base_learns_nothing(prepared: Callable[..., PreparedRun]) -> None:
    with pytest.raises(NothingLearnedError):
        prepared("general.prior_prediction=true").run()


@pytest.mark.parametrize(
    "name", ["training.text_encoder=true", "general.custom_attributes={diff_output_preservation=true}"]
)
def test_a_frozen_copy_answers_as_the_base(prepared: Callable[..., PreparedRun], name: str) -> None:
    """A full fine-tune whose target is the base's answer has no gradient at all, text encoder included."""
    found = prepared("training.method=full", "general.prior_prediction=true", "preservation.copy_precision=fp32", name)
    result = found.loop.gradients.eager(0).results[0]
    assert float(result.loss.detach()) == 0


def predicted(found: PreparedRun) -> Tensor:
    """What the network makes of two noisy latents and of some text, without gradients."""
    stream = torch.Generator().manual_seed(0)
    noisy, text = torch.randn(2, 4, 16, 16, generator=stream), torch.randn(2, 77, 64, generator=stream)
    pair = torch.full((2, 2), 32)
    with torch.no_grad():
        states = TextStates({"hidden": text})
        return found.family.predict(noisy, torch.tensor([100, 900]), states, Geometry(pair, pair * 0, pair))


def test_adapters_that_learned_are_off_for_the_base_and_stay_marked_as_training(project: Path, tmp_path: Path) -> None:
    base = predicted(training(project, f"run.output_dir='{tmp_path / 'a'}'"))
    found = train(project, f"run.output_dir='{tmp_path / 'b'}'", WORDS, "optimizer.lr=1e-2")
    assert not torch.equal(predicted(found), base)
    marked = {n: p.requires_grad for n, p in found.loop.network.named_parameters()}
    with injection.Off(found.family)():
        assert torch.equal(predicted(found), base)
        assert {n: p.requires_grad for n, p in found.loop.network.named_parameters()} == marked
    assert not torch.equal(predicted(found), base)


def test_a_copy_shares_all_but_the_parts_that_it_copies(prepared: Callable[..., PreparedRun]) -> None:
    family = prepared("training.method=full").family
    other, tensors = copied(family, ["unet"], torch.device("cpu"), torch.bfloat16)
    assert other.vae is family.vae and other.parts["text_encoder"] is family.parts["text_encoder"]
    assert other.parts["unet"] is not family.parts["unet"]
    assert {p.dtype for p in other.parts["unet"].parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in other.parts["unet"].parameters())
    assert {t.data_ptr() for t in tensors}.isdisjoint(p.data_ptr() for p in family.parts["unet"].parameters())


def test_the_words_hold_the_class_to_the_base(project: Path, tmp_path: Path) -> None:
    """After the same steps the losses against the base's answers about the class are a part of what they were."""
    overrides = ("training.steps=12", "optimizer.lr=1e-2", "data.workers=0")
    kept = {}
    for name, weight in (("barely", 1e-6), ("kept", 4.0)):
        found = train(
            project,
            f"run.output_dir='{tmp_path}'",
            f"run.name={name}",
            *overrides,
            WORDS,
            f"preservation.weight={weight}",
        )
        with torch.no_grad():
            result = found.loop.gradients.step(found.loader.batch(3), Streams(5, 0, 0, 0, torch.device("cpu")))
        kept[name] = (float(result.loss) - float(result.per_sample.mean())) / weight
    assert 0 < kept["kept"] < 0.5 * kept["barely"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("preservation.words={'ohwx'='cat'}", "preservation.words: no caption that trains holds 'ohwx'"),
        ("preservation.words={'cat'='cat'}", "'cat' is to be replaced by itself"),
        ("preservation.words={''='cat'}", "preservation.words: an empty word"),
    ],
)
def test_words_that_do_nothing_are_refused(prepared: Callable[..., PreparedRun], override: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        prepared(override)


def test_the_blank_prompt_is_held_and_told_apart_in_the_log(project: Path, tmp_path: Path) -> None:
    """After the same steps the answers without a caption are nearer to the base's; the log has them beside the loss."""
    kept = {}
    for name, weight in (("barely", 1e-6), ("kept", 20.0)):
        found = train(
            project, f"run.output_dir='{tmp_path}'", f"run.name={name}", "training.steps=8", "optimizer.lr=1e-2",
            "data.workers=0", "preservation.blank=true", f"preservation.weight={weight}",
        )  # fmt: skip
        events = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        told = [event["preservation"] for event in events if event["event"] == "step"]
        assert told[0] == 0 and len(told) == 8  # a new LoRA is the base
        kept[name] = sum(told[4:]) / weight
        assert any("asks the base without a caption" in line for line in found.notices)
    assert 0 < kept["kept"] < 0.5 * kept["barely"]


def test_what_is_asked_and_its_cost_are_told(prepared: Callable[..., PreparedRun], project: Path) -> None:
    found = prepared(WORDS, "preservation.share=0.5", "preservation.outside_mask=1")
    assert [line for line in found.notices if line.startswith("preservation: ")] == [
        "preservation: outside the masks of 0 images the base answers, in 50% of the steps: no image has one, so this "
        "does nothing",
        "preservation: 5 of 5 images name what 'cat' stands for; 50% of the steps asks the base and trains a second "
        "pass: 1.5 times a step's passes more, and twice the memory of activations",
    ]
    idle = notes(reading.read(project, ["preservation={weight=2,share=0.5,copy_place='host'}"]))
    assert sum("has no effect on what is asked of the base" in line for line in idle) == 3


@pytest.mark.parametrize(
    "override", [WORDS, "preservation.outside_mask=1", "general.prior_prediction=true", "data.prior_prediction=true"]
)
def test_split_weights_are_refused_by_name(project: Path, override: str) -> None:
    assert any("prior_prediction" in line for line in unsplittable(reading.read(project, [override])))
    assert not any("prior_prediction" in line for line in unsplittable(reading.read(project)))
