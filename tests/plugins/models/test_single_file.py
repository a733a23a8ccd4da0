"""Original one-file checkpoints: configs from shapes, names against diffusers' own converters, the way back."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

from plugins.models import _original_config, _single_file
from plugins.models._original_names import unet_names, vae_names
from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests import full_size
from tests.tiny import tiny_sd, tiny_sdxl
from trainer.adapters import injection
from trainer.batch import Geometry
from trainer.errors import UserError

Maker = Callable[[Path], Path]
BASES: dict[str, tuple[Any, Maker]] = {
    "sd1": (StableDiffusion, lambda folder: tiny_sd(folder, prediction="epsilon")),
    "sd2": (StableDiffusion, lambda folder: tiny_sd(folder, version=2)),
    "sdxl": (StableDiffusionXL, tiny_sdxl),
}


@pytest.fixture(params=list(BASES))
def base(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Path]:
    """(family class, diffusers folder, the same as one file in the original layout)"""
    kind, make = BASES[request.param]
    folder = make(tmp_path / "folder")
    file = tmp_path / "base.safetensors"
    kind.load(str(folder)).save_file(file, torch.float32, {"modelspec.title": "x"})
    return kind, folder, file


def networks(family: Any) -> dict[str, Any]:
    return {"unet": family.unet, "vae": family.vae, **family.components.text_encoders}


def states(family: Any) -> dict[str, Tensor]:
    return {f"{part}.{n}": t for part, net in networks(family).items() for n, t in net.state_dict().items()}


def test_diffusers_reads_the_same_weights_from_our_file(base: tuple[Any, Path, Path]) -> None:
    kind, folder, file = base
    family = kind.load(str(folder))
    content = load_file(file)
    unet = convert_ldm_unet_checkpoint(dict(content), dict(family.unet.config))
    vae = convert_ldm_vae_checkpoint(dict(content), dict(family.vae.config))
    found = {"unet": unet, "vae": vae}
    if kind is StableDiffusionXL:
        found["text_encoder"] = convert_ldm_clip_checkpoint(content, "conditioner.embedders.0.transformer.")
        second = family.encoders[1]
        found["text_encoder_2"] = convert_open_clip_checkpoint(second, content, "conditioner.embedders.1.model.")
    elif family.base_version == "sd_v2":
        found["text_encoder"] = convert_open_clip_checkpoint(family.text_encoder, content, "cond_stage_model.model.")
    else:
        found["text_encoder"] = convert_ldm_clip_checkpoint(content, "cond_stage_model.transformer.")
    for part, network in networks(family).items():
        for name, tensor in network.state_dict().items():
            theirs = found[part].get(name, found[part].get(f"text_model.{name}"))
            assert theirs is not None, f"{part}: {name}"
            assert torch.equal(theirs.reshape(tensor.shape), tensor), f"{part}: {name}"


def test_what_we_write_we_read_back(base: tuple[Any, Path, Path]) -> None:
    kind, folder, file = base
    ours, again = kind.load(str(folder)), kind.load(str(file), tokenizer=str(folder))
    before, after = states(ours), states(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    words = ["a photo of a cat! " * 9, ""]
    first, second = ours.encode_text(words), again.encode_text(words)
    assert torch.equal(first["hidden"], second["hidden"])
    assert "pooled" not in first or torch.equal(first["pooled"], second["pooled"])
    assert again.base_version == ours.base_version and again.latent_factor == ours.latent_factor
    assert torch.equal(again.schedule.alphas_cumprod, ours.schedule.alphas_cumprod)


def train(family: Any, steps: int = 2) -> None:
    """A few steps of the whole UNet."""
    family.unet.requires_grad_(True)
    optimizer = torch.optim.AdamW(family.unet.parameters(), lr=1e-2)
    geometry = Geometry(*(torch.full((1, 2), 32) for _ in range(3)))
    for step in range(steps):
        noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(step))
        family.predict(noisy, torch.tensor([500]), family.encode_text(["a cat"]), geometry).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("frozen", [torch.float32, torch.bfloat16])
def test_training_changes_what_trained_and_nothing_else(
    base: tuple[Any, Path, Path], tmp_path: Path, frozen: torch.dtype
) -> None:
    kind, folder, file = base
    before = {name: tensor.half() for name, tensor in load_file(file).items()}
    extras = {"model_ema.decay": torch.tensor(0.9999), "alphas_cumprod": torch.linspace(1, 0, 1000)}
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): tensor * 0.5
        for name, tensor in before.items()
        if name.startswith("model.diffusion_model.")
    }
    before |= extras | averages
    half = tmp_path / "half.safetensors"
    save_file(before, half)
    family = kind.load(str(half), tokenizer=str(folder), prediction="epsilon")
    family.unet.requires_grad_(True)
    family.to("cpu", frozen)
    train(family)
    family.save_file(tmp_path / "after.safetensors", torch.float16, {})
    after = load_file(tmp_path / "after.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    unet = {n for n in before if n.startswith(("model.diffusion_model.", "model_ema.diffusion_model"))}
    assert changed <= unet and len(changed) > 0.9 * len(unet)
    assert all(after[name].dtype == before[name].dtype for name in before)
    name = "model.diffusion_model.out.2.weight"
    assert torch.equal(after["model_ema.diffusion_modelout2weight"], after[name])
    trained = family.unet.conv_out.weight.detach()
    assert torch.equal(after[name], trained.half())


def test_a_merged_lora_ends_up_in_the_file(base: tuple[Any, Path, Path], tmp_path: Path) -> None:
    kind, folder, file = base
    family = kind.load(str(file), tokenizer=str(folder))
    adapters = injection.inject(family, ["unet"], rank=2, alpha=1.0, seed=0)
    for adapter in adapters:
        torch.nn.init.normal_(adapter.weights.up, generator=torch.Generator().manual_seed(0))
    changes = {adapter.module: injection.delta_w(adapter).detach().clone() for adapter in adapters}
    injection.merge(family)
    family.save_file(tmp_path / "merged.safetensors", torch.float32, {})
    merged, plain = kind.load(str(tmp_path / "merged.safetensors"), tokenizer=str(folder)), kind.load(str(folder))
    for module, change in changes.items():
        difference = merged.unet.get_submodule(module).weight - plain.unet.get_submodule(module).weight
        torch.testing.assert_close(difference, change, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("version", ["sd1", "sd2", "sdxl"])
def test_configs_worked_out_from_shapes_are_the_published_ones(version: str) -> None:
    family = full_size.family(version)
    config = dict(family.unet.config)
    shapes = {str(unet_names(config).to_original(n)): tuple(t.shape) for n, t in family.unet.state_dict().items()}
    pooled = 1280 if version == "sdxl" else 0
    found = _original_config.unet(shapes, head_width=None if version == "sd1" else 64, pooled=pooled)
    for key, value in full_size.UNETS[version].items():
        assert found[key] == value, key
    vae = {str(vae_names(full_size.VAE).to_original(n)): tuple(t.shape) for n, t in family.vae.state_dict().items()}
    attention = {n: (*s, 1, 1) for n, s in vae.items() if ".attn_1." in n and len(s) == 2}
    described = _original_config.vae({**vae, **attention}, 0.18215)
    assert {key: described[key] for key in full_size.VAE} == full_size.VAE


@pytest.mark.parametrize(
    ("version", "part", "name"), [("sd1", 0, "clip_l"), ("sd2", 0, "open_clip_h"), ("sdxl", 1, "open_clip_g")]
)
def test_text_configs_worked_out_from_shapes_are_the_published_ones(version: str, part: int, name: str) -> None:
    family = full_size.family(version)
    encoder = list(family.components.text_encoders.values())[part]
    layout = family.components.layout
    role = list(layout.text)[part]
    original = _single_file.to_original(encoder.state_dict(), role, {}, layout, complete=True)
    shapes = {n.removeprefix(layout.prefixes[role]): tuple(t.shape) for n, t in original.items()}
    if name == "clip_l":
        found = _original_config.clip(shapes)
    else:
        found = _original_config.open_clip(shapes, drop_last=name == "open_clip_h")
    expected = full_size.TEXTS[name]
    assert {key: found[key] for key in expected} == expected


def test_full_size_names_are_the_original_checkpoints() -> None:
    """The number of tensors of the released files: 686 in the UNet of SD 1.x, 248 in the VAE, 1680 in SDXL's UNet."""
    assert len(full_size.family("sd1").unet.state_dict()) == 686
    assert len(full_size.family("sdxl").unet.state_dict()) == 1680
    names = unet_names(dict(full_size.family("sdxl").unet.config))
    expected = {
        "conv_in.weight": "input_blocks.0.0.weight",
        "add_embedding.linear_2.bias": "label_emb.0.2.bias",
        "down_blocks.1.resnets.0.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
        "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj.weight": (
            "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj.weight"
        ),
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.2.conv.weight",
        "up_blocks.2.resnets.2.norm2.weight": "output_blocks.8.0.out_layers.0.weight",
        "conv_norm_out.weight": "out.0.weight",
    }
    assert {name: names.to_original(name) for name in expected} == expected
    assert all(names.to_diffusers(original) == name for name, original in expected.items())


def test_v_prediction_and_zero_snr_marks_are_read_and_written(tmp_path: Path) -> None:
    folder = tiny_sdxl(tmp_path / "x", prediction="v_prediction", zero_snr=True)
    file = tmp_path / "v.safetensors"
    StableDiffusionXL.load(str(folder)).save_file(file, torch.float16, {})
    assert {"v_pred", "ztsnr"} <= load_file(file).keys()
    again = StableDiffusionXL.load(str(file), tokenizer=str(folder))
    assert again.prediction == "velocity"
    assert again.schedule.alphas_cumprod[-1] == 0
    assert again.pipeline().scheduler.config.timestep_spacing == "trailing"


def test_the_prediction_of_sd2_is_asked_of_the_metadata_then_of_the_network(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "x", version=2)
    family = StableDiffusion.load(str(folder))
    file = tmp_path / "b.safetensors"
    family.save_file(file, torch.float32, {"modelspec.prediction_type": "v"})
    assert StableDiffusion.load(str(file), tokenizer=str(folder)).prediction == "velocity"
    with torch.no_grad():
        family.unet.conv_out.bias -= 2  # answers pure noise with something darker, as a v model does
    family.save_file(file, torch.float32, {})
    asked = StableDiffusion.load(str(file), tokenizer=str(folder))
    assert asked.prediction == "velocity" and "velocity" in asked.notes[0]
    told = StableDiffusion.load(str(file), tokenizer=str(folder), prediction="epsilon")
    assert told.prediction == "epsilon" and told.notes == ()


def test_a_file_without_vae_takes_another(base: tuple[Any, Path, Path], tmp_path: Path) -> None:
    kind, folder, file = base
    content = load_file(file)
    bare = tmp_path / "bare.safetensors"
    save_file({n: t for n, t in content.items() if not n.startswith("first_stage_model.")}, bare)
    with pytest.raises(UserError, match=r"model\.vae"):
        kind.load(str(bare), tokenizer=str(folder))
    alone = tmp_path / "vae.safetensors"
    prefix = "first_stage_model."
    save_file({n.removeprefix(prefix): t for n, t in content.items() if n.startswith(prefix)}, alone)
    wanted = kind.load(str(folder)).vae.state_dict()
    for vae in (alone, file, folder, folder / "vae"):
        found = kind.load(str(bare), tokenizer=str(folder), vae=str(vae)).vae.state_dict()
        assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_old_files_without_text_model_in_their_names_keep_their_names(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "x")
    file = tmp_path / "b.safetensors"
    StableDiffusion.load(str(folder)).save_file(file, torch.float32, {})
    old = {name.replace("transformer.text_model.", "transformer."): t for name, t in load_file(file).items()}
    save_file(old, file)
    family = StableDiffusion.load(str(file), tokenizer=str(folder))
    family.save_file(tmp_path / "again.safetensors", torch.float32, {})
    assert load_file(tmp_path / "again.safetensors").keys() == old.keys()


def test_one_file_trains_and_saves_without_network(
    base: tuple[Any, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer lies beside the file; nothing may open a connection."""
    kind, folder, file = base
    for part in ("tokenizer", "tokenizer_2"):
        if (folder / part).is_dir():
            shutil.copytree(folder / part, file.parent / part)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert kind.recognises(str(file))
    family = kind.load(str(file), prediction="epsilon")
    family.unet.requires_grad_(True)
    train(family)
    family.save_file(tmp_path / "after.safetensors", torch.float32, {})
    assert load_file(tmp_path / "after.safetensors").keys() == load_file(file).keys()


def test_a_checkpoint_pickle_of_plain_tensors_is_read(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "x")
    family = StableDiffusion.load(str(folder))
    family.save_file(tmp_path / "b.safetensors", torch.float32, {})
    torch.save({"state_dict": load_file(tmp_path / "b.safetensors")}, tmp_path / "b.ckpt")
    again = StableDiffusion.load(str(tmp_path / "b.ckpt"), tokenizer=str(folder))
    assert all(torch.equal(t, states(again)[n]) for n, t in states(family).items())


def test_incomplete_files_are_named(base: tuple[Any, Path, Path], tmp_path: Path) -> None:
    kind, folder, file = base
    content = load_file(file)
    broken = {
        "a missing weight": {n: t for n, t in content.items() if "input_blocks.1.0.in_layers.0" not in n},
        "a wrong shape": {n: t[:-1] if n.endswith("out.0.weight") else t for n, t in content.items()},
        "no first convolution": {n: t for n, t in content.items() if "input_blocks.0.0" not in n},
        "no output": {n: t for n, t in content.items() if ".out.2." not in n},
        "no text": {n: t for n, t in content.items() if "token_embedding" not in n},
    }
    for what, tensors in broken.items():
        path = tmp_path / "broken.safetensors"
        save_file(tensors, path)
        with pytest.raises(UserError) as caught:
            kind.load(str(path), tokenizer=str(folder))
        assert "broken.safetensors" in str(caught.value), what
