"""Whole runs over every kind of base, adapter and result, from the config file to the file that is shared."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import tiny_sd, tiny_sdxl
from tests.trainer import runs
from trainer.adapters import injection, lora_file
from trainer.adapters.inspection import inspect
from trainer.errors import UserError

BASES: dict[str, tuple[Any, Any]] = {
    "sd1": (StableDiffusion, tiny_sd),
    "sd2": (StableDiffusion, lambda folder: tiny_sd(folder, version=2)),
    "sdxl": (StableDiffusionXL, lambda folder: tiny_sdxl(folder, prediction="v_prediction", zero_snr=True)),
}


def project(folder: Path, kind: str, *, one_file: bool = False) -> Path:
    """A project over another base than the usual one; as one file with its tokenizers beside it, if asked."""
    config = runs.make_project(folder, images=3)
    shutil.rmtree(folder / "base")
    family, make = BASES[kind]
    make(folder / "base")
    if one_file:
        family.load(str(folder / "base")).save_file(folder / "base.safetensors", torch.float16, {})
        for words in ("tokenizer", "tokenizer_2"):
            if (folder / "base" / words).is_dir():
                shutil.copytree(folder / "base" / words, folder / words)
        shutil.rmtree(folder / "base")
        config.write_text(config.read_text().replace('base = "base"', 'base = "base.safetensors"'))
    return config


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_a_lora_over_one_file_tells_what_it_was_made_from(tmp_path: Path, kind: str) -> None:
    config = project(tmp_path / "p", kind, one_file=True)
    runs.train(config, "training.text_encoder=true", "noise.oversampling=8", "lora.conv_rank=2", "training.steps=2")
    found = inspect(tmp_path / "p" / "output" / "run" / "run.safetensors")
    assert (found.kind, found.family, found.rank, found.alpha) == ("lora", "sdxl" if kind == "sdxl" else "sd", 4, 2.0)
    told = found.metadata
    assert told["ss_sd_model_name"] == "base.safetensors" and len(told["ss_new_sd_model_hash"]) == 64
    assert told["modelspec.prediction_type"] == ("v" if kind == "sdxl" else "epsilon")
    assert told["ss_zero_terminal_snr"] == str(kind == "sdxl")
    assert json.loads(told["ss_network_args"])["conv_dim"] == "2"
    assert str(tmp_path) not in json.dumps(told)


def test_diffusers_loads_the_lora_of_a_run_over_sdxl(tmp_path: Path) -> None:
    config = project(tmp_path / "p", "sdxl")
    done = runs.train(config, "training.text_encoder=true", "training.steps=2", "save.dtype=fp32")
    pipe = StableDiffusionXLPipeline.from_pretrained(tmp_path / "p" / "base")
    pipe.load_lora_weights(tmp_path / "p" / "output" / "run" / "run.safetensors")
    family = done.loop.network._family
    for adapter in injection.adapters(family):
        layer = getattr(pipe, adapter.part).get_submodule(adapter.module)
        assert torch.allclose(layer.get_delta_weight(layer.active_adapters[0]), injection.delta_w(adapter), atol=1e-7)


@pytest.mark.parametrize("method", ["dora", "loha", "lokr"])
def test_other_kinds_train_and_go_on_from_their_file(tmp_path: Path, method: str) -> None:
    config = runs.make_project(tmp_path / "p", images=3)
    # Two steps: the first one gives the factors that start at zero something to multiply.
    runs.train(config, f"lora.method={method}", "training.steps=2", "save.dtype=fp32")
    file = tmp_path / "p" / "output" / "run" / "run.safetensors"
    assert inspect(file).method == method
    first = runs.training(config, f"lora.method={method}", f"lora.init_from={file}", "run.name=next")
    live = injection.weights(first.loop.network._family)
    stored = load_file(file)
    assert all(torch.equal(t.detach(), stored[f"{n}.{leaf}"]) for n, m in live.items() for leaf, t in m.tensors.items())


@pytest.mark.parametrize(
    ("kind", "architecture"), [("sd1", "stable-diffusion-v1"), ("sdxl", "stable-diffusion-xl-v1-base")]
)
def test_a_full_fine_tune_of_one_file_is_one_file_with_the_same_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, architecture: str
) -> None:
    """With the network switched off: whatever opens a connection fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = project(tmp_path / "p", kind, one_file=True)
    runs.train(config, "training.method=full", "save.full=both", "training.steps=2", "noise.oversampling=8")
    folder = tmp_path / "p" / "output" / "run"
    before, after = load_file(tmp_path / "p" / "base.safetensors"), load_file(folder / "run.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith("model.diffusion_model.") for name in changed)
    told = inspect(folder / "run.safetensors").metadata
    assert told["modelspec.architecture"] == architecture
    assert told["ss_noise_oversampling"] == "8"
    assert BASES[kind][0].recognises(str(folder / "run"))


def test_sd2_projections_are_written_flat_and_read_in_kohyas_four_dimensions_too(tmp_path: Path) -> None:
    """SD 2's projections are linear layers to diffusers and 1x1 convolutions to kohya's reader of single files."""
    config = project(tmp_path / "p", "sd2")
    runs.train(config, "training.steps=2", "save.dtype='fp32'")
    file = tmp_path / "p" / "output" / "run" / "run.safetensors"
    ours = load_file(file)
    factors = [n for n in ours if "_proj_in.lora_" in n or "_proj_out.lora_" in n]
    assert factors and {ours[name].ndim for name in factors} == {2}
    kohya = {n: t[..., None, None].contiguous() if n in factors else t for n, t in ours.items()}
    save_file(kohya, tmp_path / "kohya.safetensors", {"ss_base_model_version": "sd_v2"})

    def changes(given: Path) -> dict[str, torch.Tensor]:
        family = StableDiffusion.load(str(tmp_path / "p" / "base"))
        injection.inject(family, ["unet"], rank=4, alpha=2)
        injection.load_into(family, lora_file.read(given).modules, str(given))
        return {adapter.key: injection.delta_w(adapter) for adapter in injection.adapters(family)}

    one, other = changes(file), changes(tmp_path / "kohya.safetensors")
    assert any(bool(delta.any()) for delta in one.values())
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_base_in_eight_bits_trains(tmp_path: Path) -> None:
    config = runs.make_project(tmp_path / "p", images=3)
    runs.train(config, "training.base_precision=8bit", "training.steps=2")
    assert inspect(tmp_path / "p" / "output" / "run" / "run.safetensors").rank == 4
    with pytest.raises(UserError, match="base_precision"):
        runs.training(config, "training.base_precision=4bit", "lora.method=loha")


def test_long_captions_skipped_layers_and_weights_are_settings(tmp_path: Path) -> None:
    config = runs.make_project(tmp_path / "p", images=3)
    settings = ("model.max_tokens=150", "model.clip_skip=2", "model.weighted_captions=true", "training.steps=1")
    done = runs.train(config, *settings)
    family = done.loop.network._family
    assert family.encode_text(["a (cat:1.3)"])["hidden"].shape[1] == 152
    with pytest.raises(UserError, match=r"model\.clip_skip"):
        runs.training(config, "model.clip_skip=9", "run.name=other")


def test_what_cannot_be_trained_is_told_by_name(tmp_path: Path) -> None:
    config = runs.make_project(tmp_path / "p", images=1)
    runs.train(config, "training.steps=1")
    wrong = tmp_path / "p" / "output" / "run" / "run.safetensors"
    with pytest.raises(UserError, match=r"model\.base.*a LoRA, not a base model"):
        runs.training(config, f"model.base={wrong}", "run.name=other")
    wrong.write_bytes(wrong.read_bytes()[:500])
    with pytest.raises(UserError, match=r"model\.base.*not a sound safetensors file"):
        runs.training(config, f"model.base={wrong}", "run.name=other")
    assert not (tmp_path / "p" / "output" / "other").exists()


def test_a_lora_of_another_rank_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = runs.make_project(tmp_path / "p", images=1)
    runs.train(config, "training.steps=1")
    file = tmp_path / "p" / "output" / "run" / "run.safetensors"
    with pytest.raises(UserError, match=r"lora\.rank = 8: the modules of .* have another, 4;.*resize"):
        runs.training(config, "lora.rank=8", f"lora.init_from={file}", "run.name=other")
    assert not (tmp_path / "p" / "output" / "other" / "other.safetensors").exists()


def test_a_run_goes_on_from_a_file_as_it_is_and_tells_the_truth(tmp_path: Path) -> None:
    """Rank, alpha and kind are the file's unless they are set; its text encoder is saved though it does not train."""
    config = runs.make_project(tmp_path / "p", images=1)
    runs.train(config, "training.text_encoder=true", "training.steps=2", "save.dtype=fp32", "lora.method=dora")
    file = tmp_path / "p" / "output" / "run" / "run.safetensors"
    before = lora_file.read(file).modules
    plain = config.with_name("plain.toml")
    plain.write_text(config.read_text().replace("[lora]\nrank = 4\nalpha = 2\n", ""))
    runs.train(plain, f"lora.init_from={file}", "training.steps=1", "run.name=next", "save.dtype=fp32")
    after = inspect(result := tmp_path / "p" / "output" / "next" / "next.safetensors")
    assert (after.method, after.rank, after.alpha, after.modules) == ("dora", 4, 2.0, len(before))
    assert (after.metadata["ss_network_dim"], after.metadata["ss_network_alpha"]) == ("4", "2.0")
    assert after.metadata["ss_network_module"] == "lycoris.kohya"
    saved = lora_file.read(result).modules
    still = {n for n, m in saved.items() if all(torch.equal(t, before[n].tensors[x]) for x, t in m.tensors.items())}
    assert still == {name for name in before if name.startswith("lora_te_")}
    other = runs.training(
        plain, f"lora.init_from={file}", "lora.alpha=4", "run.name=b", "lora.init_untrained=leave_out"
    )
    live = injection.weights(other.loop.network._family)
    assert {m.alpha for m in live.values()} == {4.0} and live.keys() == before.keys() - still
