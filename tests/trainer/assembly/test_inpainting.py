"""Whole runs over an inpainting base: cached and live, LoRA and full, measured and drawn."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_sd
from tests.trainer.runs import make_project, train, training
from trainer.assembly.memory import estimate
from trainer.assembly.model import open_family
from trainer.batch import Batch
from trainer.config import reading
from trainer.errors import UserError
from trainer.training.noise import Streams


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = make_project(tmp_path_factory.mktemp("fill"), images=3)
    shutil.rmtree(file.parent / "base")
    tiny_sd(file.parent / "base", fills=True)
    return file


def test_noise_touches_the_noisy_latents_alone(project: Path, tmp_path: Path) -> None:
    """The network's further channels are mask and visible part as the batch has them, whatever the noise does."""
    found = training(project, f"run.output_dir='{tmp_path}'", "noise={oversampling=8,offset=0.1,perturbation=0.1}")
    given: list[Tensor] = []
    hook = found.family.parts["unet"].register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
    batch: Batch = found.loader.batch(0)
    result = found.loop.gradients.step(batch, Streams(1, 0, 0, 0, torch.device("cpu")))
    hook.remove()
    assert batch.shown is not None and batch.shown.latents is not None
    assert given[0].shape[1] == 9
    assert torch.equal(given[0][:, 4:], torch.cat([batch.shown.hidden, batch.shown.latents], dim=1))
    assert result.per_sample.shape == (len(batch),)


def test_full_without_a_cache_with_samples_and_a_measure(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, steps = project.parent / "photos" / "0.png", "--w 32 --h 32 --s 1"
    prompts = f'samples.prompts=["a cat {steps} --i {picture} --m {picture}", "a cat {steps}"]'
    found = train(
        project, f"run.output_dir='{tmp_path}'", "training.method=full", "data.cache_latents=false", "training.steps=1",
        "validation.split=0.3", "save.full=file", prompts,
    )  # fmt: skip
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) >= 2
    assert (tmp_path / "run" / "run.safetensors").is_file()
    assert found.family.fills
    assert any('"validation"' in line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())


def test_pictures_to_fill_in_are_for_inpainting_bases(tmp_path: Path) -> None:
    file = make_project(tmp_path, images=2)
    picture = tmp_path / "photos" / "0.png"
    with pytest.raises(UserError, match=r"samples.prompts: --i and --m are for an inpainting base"):
        training(file, f'samples.prompts=["a cat --i {picture} --m {picture}"]')
    with pytest.raises(UserError, match="a mask an image"):
        training(file, f'samples.prompts=["a cat --i {picture}"]')


def test_the_memory_of_the_further_channels_is_counted(project: Path) -> None:
    """`check` runs the real networks on the meta device: nine channels need what is shown."""
    config = reading.read(project, ["samples.prompts=['a cat']"])
    assert estimate(config, open_family(config, outline=True)).total > 0
