"""Anima on a tiny model: step for step what diffusers' own modular pipeline computes, and files as ComfyUI has them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers.models.transformers.transformer_cosmos as cosmos
import pytest
import torch
from diffusers import AnimaAutoBlocks, AnimaTextConditioner, AutoencoderKLQwenImage, ModularPipeline
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.loaders.single_file_utils import (
    convert_cosmos_transformer_checkpoint_to_diffusers,
    convert_wan_vae_to_diffusers,
)
from safetensors.torch import load_file, save_file

from plugins.models import _anima_config, _anima_names, _anima_vae_names
from plugins.models._unet import layers_within
from plugins.models.anima import Anima
from tests.tiny_anima import CLASSES, comfy_files, tiny_anima, tiny_transformer
from trainer import registry
from trainer.adapters import injection, lora_file, naming
from trainer.adapters.naming import Weighted
from trainer.batch import TextStates
from trainer.errors import UserError

WORDS = ["a red cat", "two dogs of a digit", ""]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_anima(tmp_path / "base")


@pytest.fixture
def reference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """diffusers' pipeline over the same folder. It resizes a mask of zeros with torchvision, which is not installed."""

    def resize(mask: torch.Tensor, size: list[int], **_: Any) -> torch.Tensor:
        return mask.new_zeros(*mask.shape[:2], *size)

    modes = SimpleNamespace(NEAREST="nearest")
    found = SimpleNamespace(functional=SimpleNamespace(resize=resize), InterpolationMode=modes)
    monkeypatch.setattr(cosmos, "transforms", found, raising=False)
    return opened_by_diffusers(folder)


def opened_by_diffusers(folder: Path) -> Any:
    pipe = AnimaAutoBlocks().init_pipeline(str(folder))
    pipe.load_components()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def states_of(pipe: Any, words: list[str]) -> dict[str, Any]:
    encoder = pipe.blocks.sub_blocks["text_encoder"]
    found: dict[str, Any] = encoder.encode_prompt(pipe, words, prepare_unconditional_embeds=False, device="cpu")
    return found


@torch.no_grad()
def test_text_and_prediction_are_what_diffusers_computes(folder: Path, reference: Any) -> None:
    family = Anima.load(str(folder))
    text = family.encode_text(WORDS)
    theirs = states_of(reference, WORDS)
    length = theirs["qwen_prompt_embeds"].shape[1]
    torch.testing.assert_close(text["hidden"][:, :length], theirs["qwen_prompt_embeds"], atol=1e-5, rtol=1e-4)
    assert torch.equal(text["words"], theirs["t5_input_ids"])
    context = reference.text_conditioner(
        theirs["qwen_prompt_embeds"], theirs["t5_input_ids"], theirs["t5_attention_mask"], theirs["qwen_attention_mask"]
    )
    noisy = torch.randn(3, 16, 6, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([3.0, 500.0, 1000.0])
    expected = reference.transformer(
        noisy.unsqueeze(2), times / 1000, context, padding_mask=torch.zeros(1, 1, 12, 16), return_dict=False
    )[0]
    found = family.predict(noisy, times, text)
    torch.testing.assert_close(found, expected.squeeze(2), atol=1e-5, rtol=1e-4)
    assert float(found.std()) > 0.01


@torch.no_grad()
def test_latents_are_what_diffusers_vae_gives_brought_to_variance_1(folder: Path) -> None:
    family, vae = Anima.load(str(folder)), AutoencoderKLQwenImage.from_pretrained(folder / "vae")
    pixels = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, scale = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    posterior = vae.encode(pixels.unsqueeze(2)).latent_dist
    latents, deviation = family.encode_posterior(pixels)
    torch.testing.assert_close(latents, ((posterior.mode() - mean) / scale).squeeze(2))
    torch.testing.assert_close(deviation, (posterior.std / scale).squeeze(2))
    assert torch.equal(family.encode_images(pixels), latents) and latents.shape == (2, 16, 6, 8)
    back = vae.decode(latents.unsqueeze(2) * scale + mean).sample.squeeze(2)
    torch.testing.assert_close(family.decode_latents(latents), back)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_samples_are_diffusers_own(folder: Path, reference: Any, guidance: float) -> None:
    family = Anima.load(str(folder))
    told: list[int] = []
    ours = family.pipeline()(
        **family.prompt_arguments(["a red cat"], [""]),
        generator=[torch.Generator().manual_seed(5)],
        width=16,
        height=12,
        num_inference_steps=3,
        guidance_scale=guidance,
        output_type="latent",
        callback_on_step_end=lambda pipe, step, time, tensors: told.append(step),
    ).images
    reference.update_components(guider=ClassifierFreeGuidance(guidance_scale=guidance))
    theirs = reference(
        prompt=["a red cat"],
        negative_prompt=[""],
        width=16,
        height=12,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(5),
        output_type="pt",
        output="images",
    )
    shown = (family.decode_latents(ours) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(shown, theirs, atol=1e-4, rtol=1e-3)
    assert told == [0, 1, 2]


def test_text_does_not_depend_on_its_neighbours(folder: Path) -> None:
    family = Anima.load(str(folder))
    together = family.encode_text(WORDS)
    alone = [family.encode_text([caption]) for caption in WORDS]
    joined = TextStates.cat(alone)
    assert all(torch.equal(joined[name], together[name]) for name in together.tensors)
    noisy = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for row, one in enumerate(alone):
            padded = family.predict(noisy, torch.tensor([400.0]), together.row(row))
            torch.testing.assert_close(padded, family.predict(noisy, torch.tensor([400.0]), one), atol=1e-5, rtol=1e-4)


def same_weights(one: Anima, other: Anima) -> bool:
    pairs = [(one.parts[name], other.parts[name]) for name in one.parts] + [(one.vae, other.vae)]
    states = [(a.state_dict(), b.state_dict()) for a, b in pairs]
    return all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in states)


@pytest.mark.parametrize("prefix", _anima_names.FILE_PREFIXES)
def test_comfyuis_files_and_the_folder_are_one_model(folder: Path, tmp_path: Path, prefix: str) -> None:
    file = comfy_files(tmp_path / "comfy", prefix=prefix)
    assert Anima.recognises(str(file)) and Anima.recognises(str(folder))
    one, other = Anima.load(str(file)), Anima.load(str(folder))
    assert same_weights(one, other)
    assert one.transformer.config.num_attention_heads == 2 and one.text_encoder.config.num_key_value_heads == 1
    for part in (*one.parts, "vae"):
        ours, theirs = (dict(f.parts.get(part, f.vae).named_buffers()) for f in (one, other))
        assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    one.save_file(tmp_path / "again.safetensors", torch.float32, {"told": "yes"})
    ours, before = load_file(tmp_path / "again.safetensors"), load_file(file)
    assert ours.keys() == before.keys() and all(torch.equal(ours[n], before[n]) for n in ours)


def test_the_names_are_those_that_diffusers_converts(tmp_path: Path) -> None:
    """At full size on the meta device, against diffusers' own converters of both files."""
    with torch.device("meta"):
        vae = AutoencoderKLQwenImage()
    original = {_anima_vae_names.to_original(name, 3): tensor for name, tensor in vae.state_dict().items()}
    assert {_anima_vae_names.to_diffusers(name, 3) for name in original} == set(vae.state_dict())
    assert convert_wan_vae_to_diffusers(dict(original)).keys() == vae.state_dict().keys()
    told = _anima_config.vae({name: tuple(tensor.shape) for name, tensor in original.items()})
    assert {key: vae.config[key] for key in told} == told
    state = tiny_transformer().state_dict()
    named = {f"net.{_anima_names.to_original(name)}": tensor for name, tensor in state.items()}
    back = convert_cosmos_transformer_checkpoint_to_diffusers(dict(named))
    assert back.keys() == state.keys() and all(torch.equal(back[n], state[n]) for n in state)
    assert {_anima_names.to_diffusers(name.removeprefix("net.")) for name in named} == set(state)


# SHA-256 of "name [shape]" in lines, sorted: of all 685 weights of sd-scripts' class (library/anima_models.py) in the
# sizes of its load_anima_model, as torch built it on the meta device.
PUBLISHED = "4439ea160beb2c1a2f71455319eda900352e9c497b763d0ed5960f5671ae0fe8"


def test_at_full_size_names_and_shapes_are_sd_scripts_own() -> None:
    with torch.device("meta"):
        network: Any = cosmos.CosmosTransformer3DModel(
            num_attention_heads=16, attention_head_dim=128, num_layers=28, extra_pos_embed_type=None
        )
        network.add_module("text_conditioner", AnimaTextConditioner())
    shapes = {_anima_names.to_original(n): list(t.shape) for n, t in network.state_dict().items()}
    lines = "\n".join(f"{name} {shapes[name]}" for name in sorted(shapes))
    assert hashlib.sha256(lines.encode()).hexdigest() == PUBLISHED
    assert len(layers_within(network, ("Attention", "FeedForward"))) == 280
    files = {n: tuple(s) for n, s in shapes.items()}
    told = _anima_config.transformer(files)
    facts = {"max_size", "rope_scale", "patch_size"}  # which no shape tells
    assert all(network.config[key] == told[key] for key in told.keys() - facts)
    inner = {n.removeprefix("llm_adapter."): s for n, s in files.items() if n.startswith("llm_adapter.")}
    told = _anima_config.conditioner(inner)
    assert told == {key: network.text_conditioner.config[key] for key in told}


def test_a_saved_folder_is_diffusers_and_ours(folder: Path, tmp_path: Path, reference: Any) -> None:
    family = Anima.load(str(comfy_files(tmp_path / "comfy")))
    family.save(tmp_path / "saved", torch.float32)
    assert same_weights(Anima.load(str(tmp_path / "saved")), family)
    config = json.loads((tmp_path / "saved" / "transformer" / "config.json").read_text())
    assert config["in_channels"] == 16 and config["concat_padding_mask"] is True
    pipe = ModularPipeline.from_pretrained(str(tmp_path / "saved"))
    pipe.load_components()
    for name in CLASSES:
        assert getattr(pipe, name) is not None, name
    ours, theirs = pipe.transformer.state_dict(), reference.transformer.state_dict()
    assert all(torch.equal(ours[n], theirs[n]) for n in theirs)
    (tmp_path / "saved" / "modular_model_index.json").unlink()
    assert Anima.recognises(str(tmp_path / "saved"))


def test_saving_in_half_precision_copies_what_did_not_train(tmp_path: Path) -> None:
    file = comfy_files(tmp_path / "comfy")
    family = Anima.load(str(file), dtype=torch.bfloat16)
    with torch.no_grad():
        family.transformer.proj_out.weight += 1
    family.save_file(tmp_path / "new.safetensors", torch.bfloat16, {})
    new, old = load_file(tmp_path / "new.safetensors"), load_file(file)
    changed = {name for name in old if new[name].dtype != old[name].dtype or not torch.equal(new[name], old[name])}
    assert changed == {"net.final_layer.linear.weight"}
    assert new["net.final_layer.linear.weight"].dtype == torch.bfloat16


# What sd-scripts' LoRANetwork for Anima makes of blocks of this kind (networks/lora_anima.py): its default leaves out
# whatever has _modulation, _norm, _embedder or final_layer in its name, and the conditioner.
LAYERS = (
    *(f"{kind}_attn_{layer}" for kind in ("self", "cross") for layer in ("q_proj", "k_proj", "v_proj", "output_proj")),
    "mlp_layer1",
    "mlp_layer2",
)  # fmt: skip


def test_a_lora_has_sd_scripts_layers_and_names(folder: Path, tmp_path: Path) -> None:
    family = Anima.load(str(folder))
    adapters = injection.inject(family, ["transformer"], rank=2, alpha=1.0, seed=0)
    assert {a.key for a in adapters} == {f"lora_unet_blocks_{i}_{layer}" for i in range(2) for layer in LAYERS}
    with torch.no_grad():
        for adapter in adapters:
            adapter.weights.up.normal_()
    injection.save(family, tmp_path / "lora.safetensors", dtype=torch.float32, metadata={})
    read = lora_file.read(tmp_path / "lora.safetensors")
    shapes = {n: tuple(t.shape) for n, t in load_file(tmp_path / "lora.safetensors").items()}
    assert Anima.recognises_lora(
        {n: (2, 1024) if "cross_attn_k_proj.lora_down" in n else s for n, s in shapes.items()}, {}
    )
    fresh = Anima.load(str(folder))
    injection.inject(fresh, ["transformer"], rank=2, alpha=1.0, seed=1)
    dotted = {a.key: a for a in adapters}
    for spelling in (0, 1, 2):  # ComfyUI's and diffusion-pipe's, diffusers', peft's
        names = {family.adapter_aliases(a.part, a.module)[spelling]: read.modules[a.key] for a in dotted.values()}
        injection.load_into(fresh, names, "other names")
        weights = injection.weights(fresh)
        assert all(torch.equal(weights[key].up, a.weights.up) for key, a in dotted.items())
    alias = {family.adapter_aliases(a.part, a.module)[0]: read.modules[a.key] for a in adapters}
    (told,) = naming.unified([Weighted(alias, 1.0, "comfy", {"ss_base_model_version": "anima"})])
    assert told.modules.keys() == read.modules.keys()


def test_other_layers_of_a_lora_have_names_too(folder: Path) -> None:
    family = Anima.load(str(folder))
    key = family.adapter_key("transformer", "text_conditioner.blocks.1.cross_attn.q_proj")
    assert key == "lora_unet_llm_adapter_blocks_1_cross_attn_q_proj"
    assert family.adapter_key("text_encoder", "layers.1.mlp.up_proj") == "lora_te_layers_1_mlp_up_proj"
    assert len(family.adapter_targets("text_encoder", conv=False)) == 2 * 7
    assert Anima.recognises_lora({f"{key}.lora_down.weight": (4, 8)}, {}) == "anima"
    for other in ("sd", "sdxl"):
        assert registry.find("models", other).recognises_lora({f"{key}.lora_down.weight": (4, 8)}, {}) is None
    stranger = {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)}
    assert Anima.recognises_lora(stranger, {}) is None


def test_an_outline_reads_no_weights(folder: Path, tmp_path: Path) -> None:
    for base in (folder, comfy_files(tmp_path / "comfy")):
        outline, whole = Anima.load(str(base), init="outline"), Anima.load(str(base))
        for part in (*whole.parts, "vae"):
            empty = outline.parts.get(part, outline.vae)
            assert all(p.is_meta and not p.requires_grad for p in empty.parameters())
            shapes = [{k: t.shape for k, t in f.parts.get(part, f.vae).state_dict().items()} for f in (outline, whole)]
            assert shapes[0] == shapes[1]


def test_new_parts_follow_torchs_seed(folder: Path) -> None:
    def fresh(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        made = Anima.load(str(folder), init=["transformer"])
        return torch.cat([p.flatten() for p in made.transformer.parameters()])

    assert torch.equal(fresh(1), fresh(1)) and not torch.equal(fresh(1), fresh(2))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"prediction": "epsilon"}, "model.prediction: found 'epsilon', but Anima is a flow"),
        ({"clip_skip": 2}, "model.clip_skip: 2"),
        ({"max_tokens": 150}, "model.max_tokens: 150: Anima reads 512 tokens"),
        ({"weighted_captions": True}, "model.weighted_captions"),
        ({"vae": "other"}, "model.vae: this base is a folder"),
        ({"text_encoder": "other"}, "model.text_encoder: this base is a folder"),
    ],
)
def test_what_it_has_not_is_refused_by_name(folder: Path, settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Anima.load(str(folder), **settings)
    family = Anima.load(str(folder))
    family.use_zero_terminal_snr(False)
    with pytest.raises(UserError, match="ends in pure noise anyway"):
        family.use_zero_terminal_snr(True)


def test_what_is_not_beside_the_base_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    file = comfy_files(tmp_path / "comfy")
    models = tmp_path / "comfy" / "models"
    vae, text = models / "vae", models / "text_encoders" / "qwen.safetensors"
    vae.rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"model\.vae: the base is a diffusion model alone.*diffusion_models.*models/vae"
    ):
        Anima.load(str(file))
    other = tmp_path / "elsewhere" / "qwen_image_vae.safetensors"
    assert Anima.load(str(file), vae=str(other), text_encoder=str(text))
    with pytest.raises(UserError, match=r"model\.vae: .*qwen\.safetensors: this is no VAE of Anima"):
        Anima.load(str(file), vae=str(text))
    with pytest.raises(UserError, match=r"model\.text_encoder: .*: this is no text encoder of Anima"):
        Anima.load(str(file), vae=str(other), text_encoder=str(other))
    shutil.copy(text, text.with_name("second.safetensors"))
    with pytest.raises(UserError, match=r"model\.text_encoder: .* holds several that fit \(qwen.*, second"):
        Anima.load(str(file), vae=str(other))


def test_tokenizers_are_found_or_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("plugins.models._anima_text._from_hub", lambda name: None)
    file = comfy_files(tmp_path / "comfy")
    assert len(Anima.tokenizer_of(str(file))) == 17
    (tmp_path / "comfy" / "comfy").rename(tmp_path / "gone")
    with pytest.raises(UserError) as caught:
        Anima.load(str(file))
    told = str(caught.value)
    assert "comfy/text_encoders/qwen25_tokenizer" in told and "configs/qwen3_06b" in told and "Qwen/Qwen3-0.6B" in told
    asked = tmp_path / "asked"
    for name, place in (("tokenizer", "qwen25_tokenizer"), ("t5_tokenizer", "t5_tokenizer")):
        shutil.copytree(tmp_path / "gone" / "text_encoders" / place, asked / name)
    assert Anima.load(str(file), tokenizer=str(asked))


def test_damaged_and_misfitting_files_are_named(tmp_path: Path) -> None:
    file = comfy_files(tmp_path / "comfy")
    state = load_file(file)
    save_file({n: t for n, t in state.items() if "blocks.1.mlp" not in n}, file)
    with pytest.raises(UserError, match=r"anima\.safetensors: .*weights are missing"):
        Anima.load(str(file))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"anima\.safetensors"):
        Anima.recognises(str(file))
