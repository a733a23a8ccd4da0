"""Whole runs that learn from prompts alone: what is learned, saved, gone on with, told and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_sd, tiny_sdxl
from tests.tiny_anima import comfy_files
from tests.trainer.runs import CONFIG, train, training
from trainer.adapters import injection, lora_file
from trainer.adapters.inspection import inspect
from trainer.adapters.weights import delta
from trainer.assembly.check import check
from trainer.assembly.memory import begun
from trainer.assembly.run import PreparedRun
from trainer.assembly.split_states import unsplittable
from trainer.batch import Geometry
from trainer.commands.training import cache
from trainer.config import reading
from trainer.errors import UserError
from trainer.journal.console import Console

SLIDER = """
[slider]
denoising_steps = 2
[[slider.targets]]
target_class = "a cat"
positive = "a large cat by day, in the sun"
negative = "dark"
neutrals = ["a cat"]
guidance_scale = 3.0
resolution = 16
batch_size = 2
"""


def made(folder: Path, text: str = SLIDER) -> Path:
    file = folder / "run.toml"
    file.write_text(CONFIG[: CONFIG.index("[general]")] + text)
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without any folder of images."""
    folder = tmp_path_factory.mktemp("slider")
    tiny_sd(folder / "base", prediction="v_prediction", version=2)
    return made(folder)


def asked(found: PreparedRun, prompt: str, strength: float = 1.0) -> Tensor:
    """The network's answer about eight noisy latents, (8, 4, 8, 8)."""
    noisy = torch.randn(8, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = torch.full((8, 2), 32)
    found.loop.network.eval()
    with torch.no_grad(), injection.scaled(found.family, strength):
        states = found.loader.states([prompt] * 8)
        assert states is not None
        times = torch.full((8,), 499)
        return found.family.predict(noisy, times, states, Geometry(sizes, sizes * 0, sizes))


def gone(found: PreparedRun, strength: float) -> float:
    """How much of the way from the base's answer to the target is gone at a strength of the LoRA."""
    before, now = asked(found, "a cat", 0.0), asked(found, "a cat", strength)
    way = asked(found, "a large cat by day, in the sun", 0.0) - asked(found, "dark", 0.0)
    goal = before + strength * 3.0 * way
    return 1 - float((now - goal).norm() / (before - goal).norm())


def test_both_ends_of_a_slider_move_towards_their_targets(base: Path, tmp_path: Path) -> None:
    """Measured: 0.36 and 0.20 of the way after ten steps, on noise that did not train."""
    found = train(
        base, f"run.output_dir='{tmp_path}'", "training.steps=10", "optimizer.lr=1e-2", "training.max_grad_norm=0",
        "slider.denoising_guidance=1", "samples={prompts=['a cat'],width=16,height=16,steps=1}", "save.dtype=fp32",
    )  # fmt: skip
    assert gone(found, 1.0) > 0.25 and gone(found, -1.0) > 0.1
    folder = tmp_path / "run"
    assert len(list((folder / "samples").glob("step-*.png"))) == 1
    told = inspect(folder / "run.safetensors")
    assert (told.method, told.rank, told.zero, told.not_finite) == ("lora", 4, (), ())
    assert told.metadata["ss_leco_prompt_count"] == "2" and told.metadata["ss_num_train_images"] == "0"
    first, second = json.loads(told.metadata["ss_leco_preview"])
    assert (first["positive"], first["multiplier"], second["positive"], second["multiplier"]) == (
        "a large cat by day, in the sun", 1.0, "dark", -1.0,
    )  # fmt: skip
    live = {adapter.key: injection.delta_w(adapter) for adapter in injection.adapters(found.family)}
    stored = lora_file.read(folder / "run.safetensors").modules
    assert live.keys() == stored.keys()
    assert all(torch.allclose(delta(stored[k]).reshape(w.shape), w, atol=1e-6) for k, w in live.items())


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
def test_what_the_backward_pass_computes_anew_has_the_strength_of_the_step(
    base: Path, tmp_path: Path, method: str
) -> None:
    """At strength -2 recomputed activations give the same gradients; after the step adapters are as before."""
    found = []
    for level in ("off", "full"):
        run = training(
            base, f"run.output_dir='{tmp_path}'", f"lora.method={method}", f"training.gradient_checkpointing='{level}'",
            "slider.targets=[{positive='big',multiplier=-2.0,resolution=16}]",
        )  # fmt: skip
        run.loop.network.train()
        with torch.no_grad():
            for adapter in injection.adapters(run.family):
                for tensor in adapter.weights.tensors.values():
                    tensor.add_(0.05)
        scales = [adapter.layer.scaling for adapter in injection.adapters(run.family)]
        before = [dict(one) for one in scales]
        run.loop.gradients.take(0)
        assert scales == before
        found.append([weight.grad for weight in run.loop.gradients.weights])
    for kept, anew in zip(*found, strict=True):
        assert kept is not None and anew is not None
        torch.testing.assert_close(anew, kept, rtol=1e-4, atol=1e-7)


def test_sdxl_is_told_sizes_and_asked_with_pooled_states(tmp_path: Path) -> None:
    tiny_sdxl(tmp_path / "base")
    crops = SLIDER.replace("resolution = 16", "resolution = 16\ndynamic_crops = true")
    found = train(made(tmp_path, crops), "training.steps=2")
    assert (tmp_path / "output/run/run.safetensors").is_file()
    batch: Any = found.loader.batch(0)
    assert {"hidden", "pooled"} <= set(batch.text.tensors)
    assert not torch.equal(batch.geometry.original, batch.geometry.target)


def test_a_flow_is_denoised_along_its_own_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another family, with masks beside its text states and continuous times."""
    comfy_files(tmp_path / "comfy")
    file = made(tmp_path)
    file.write_text(file.read_text().replace('"base"', '"comfy/models/diffusion_models/anima.safetensors"'))
    monkeypatch.chdir(tmp_path)
    found = train(file, "training.steps=2", "slider.denoising_steps=4", "training.precision='bf16'")
    assert inspect(tmp_path / "output/run/run.safetensors").family == "anima"
    taken = found.loop.gradients.eager(7).results[0]
    assert bool(taken.per_sample.isfinite().all()) and float(taken.timesteps[0]) in (250, 500, 750)


def test_check_tells_pairs_memory_and_time_without_a_dataset(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 100
    told = check(reading.read(base, ["training.steps=30", f"slider.prompts=[{{target='{long}'}}]"]), Console())
    said = capsys.readouterr().out
    assert told["would_train"] and told["steps"] == 30 and told["steps_per_epoch"] == 3
    assert [pair["target"] for pair in told["prompts"]] == [long, "a cat", "a cat"]
    assert told["needs"]["bytes"] > 0 and len(told["learning_rates"]["all"]) == 30
    assert "enhance 'dark' (against 'a large cat by day, in the sun') in 'a cat' at strength -1" in said
    assert "asks the base 2.67 times" in said and "TFLOP a step" in said
    assert any("is cut off after 75 tokens" in note for note in told["notes"])


def test_the_cost_of_a_step_is_that_of_its_questions(base: Path) -> None:
    """3 to the base, and with 40 steps a mean of 20 of the denoising, each about 2 prompts, instead of 1."""
    assert begun(reading.read(base)) == 3 + 2
    assert begun(reading.read(base, ["slider.denoising_steps=40"])) == 3 + 20 * 2
    assert begun(reading.read(base, ["slider.denoising_guidance=1"])) == 3 + 1


def test_sizes_that_the_base_does_not_take_are_refused(base: Path) -> None:
    override = "slider.targets=[{positive='a',resolution=17}]"
    told = check(reading.read(base, [override]), Console(quiet=True))
    assert not told["would_train"] and told["problems"][0]["file"] == "slider"
    with pytest.raises(UserError, match="slider: resolution 17x17: this base takes sides that divide by"):
        training(base, override)


def test_an_inpainting_base_is_refused(tmp_path: Path) -> None:
    tiny_sd(tmp_path / "base", fills=True)
    with pytest.raises(UserError, match="slider: an inpainting model is shown pictures"):
        training(made(tmp_path))


def test_commands_for_images_say_that_there_are_none(base: Path) -> None:
    with pytest.raises(UserError, match=r"slider: .* no images"):
        cache(base, ["data.cache_to_disk=true"])


def test_split_weights_are_refused_by_name(base: Path) -> None:
    assert any("slider" in line for line in unsplittable(reading.read(base)))
