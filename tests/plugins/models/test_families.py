"""The families on tiny models: what goes in and out, against diffusers and transformers used directly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.simulated_device import simulated_card
from tests.tiny import tiny_sd, tiny_sdxl
from trainer import registry
from trainer.batch import Geometry
from trainer.errors import UserError

WORDS = ["a red cat", "two dogs"]
KINDS: dict[str, tuple[Any, Any]] = {
    "sd": (StableDiffusion, tiny_sd),
    "sd2": (StableDiffusion, lambda folder: tiny_sd(folder, version=2)),
    "sdxl": (StableDiffusionXL, tiny_sdxl),
    "words": (StableDiffusion, lambda folder: tiny_sd(folder, words=True, plain_outer=True, vae_factor=4)),
}


@pytest.fixture(params=list(KINDS))
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    kind, make = KINDS[request.param]
    folder = make(tmp_path / "base")
    return kind.load(str(folder)), folder


def geometry(count: int = 2) -> Geometry:
    original, crop, target = ([900, 1023], [3, 0], [32, 32])
    return Geometry(*(torch.tensor([size] * count) for size in (original, crop, target)))


def inputs(family: Any) -> dict[str, Any]:
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = family.encode_text(WORDS)
    return {"noisy": noisy, "timesteps": torch.tensor([3, 800]), "text": text, "geometry": geometry()}


def pipeline_of(folder: Path) -> Any:
    xl = (folder / "text_encoder_2").is_dir()
    return (StableDiffusionXLPipeline if xl else StableDiffusionPipeline).from_pretrained(folder)


def test_everything_is_frozen_float32_and_in_eval_mode(loaded: tuple[Any, Path]) -> None:
    family, _ = loaded
    for module in (*family.parts.values(), family.vae):
        assert not module.training
        assert all(not p.requires_grad and p.dtype == torch.float32 for p in module.parameters())
    assert set(family.text_parts) == set(family.parts) - {"unet"}


def test_text_and_prediction_are_what_diffusers_computes(loaded: tuple[Any, Path]) -> None:
    family, folder = loaded
    pipe = pipeline_of(folder)
    given = inputs(family)
    encoded = pipe.encode_prompt(WORDS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    torch.testing.assert_close(given["text"]["hidden"], encoded[0], atol=1e-6, rtol=1e-5)
    added = {}
    if family.name == "sdxl":
        torch.testing.assert_close(given["text"]["pooled"], encoded[2], atol=1e-6, rtol=1e-5)
        sizes = torch.tensor([[900.0, 1023.0, 3.0, 0.0, 32.0, 32.0]] * 2)
        added = {"added_cond_kwargs": {"text_embeds": encoded[2], "time_ids": sizes}}
    theirs = pipe.unet(given["noisy"], given["timesteps"], encoded[0], **added).sample
    torch.testing.assert_close(family.predict(**given), theirs, atol=1e-6, rtol=1e-5)


def test_latents_are_the_posterior_mean_times_the_scale(loaded: tuple[Any, Path]) -> None:
    family, folder = loaded
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    pixels = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = family.encode_images(pixels)
    expected = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(latents, expected)
    assert latents.shape == (2, 4, 32 // family.latent_factor, 48 // family.latent_factor)
    back = vae.decode(latents / vae.config.scaling_factor).sample
    torch.testing.assert_close(family.decode_latents(latents), back)
    assert not latents.requires_grad
    mean, deviation = family.encode_posterior(pixels)
    assert torch.equal(mean, latents)
    torch.testing.assert_close(deviation, vae.encode(pixels).latent_dist.std * vae.config.scaling_factor)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_vae_in_half_precision_computes_as_diffusers_does_in_it(loaded: tuple[Any, Path], dtype: torch.dtype) -> None:
    """As near to it as its kernels are to themselves, and its own weights stay as they are."""
    family, folder = loaded
    vae = AutoencoderKL.from_pretrained(folder / "vae").to(dtype)
    pixels = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    exact, weights = family.encode_images(pixels), {n: t.clone() for n, t in family.vae.state_dict().items()}
    shown, scale = family.decode_latents(exact), vae.config.scaling_factor
    family.vae_dtype = dtype
    with torch.no_grad():
        theirs = vae.encode(pixels.to(dtype)).latent_dist
        pairs = [
            (family.encode_images(pixels), theirs.mean.float() * scale, exact),
            (family.encode_posterior(pixels)[0], theirs.mean.float() * scale, exact),
            (family.decode_latents(exact), vae.decode((exact / scale).to(dtype)).sample.float(), shown),
        ]
    for ours, reference, whole in pairs:
        assert ours.dtype == torch.float32
        assert float((ours - reference).norm()) <= float((whole - reference).norm())
        assert 0.5 < float((ours - whole).norm() / (reference - whole).norm()) < 2
    assert all(torch.equal(tensor, weights[name]) for name, tensor in family.vae.state_dict().items())


def test_on_a_cpu_each_picture_is_encoded_alone_and_on_a_device_all_together(loaded: tuple[Any, Path]) -> None:
    family, _ = loaded
    given: list[int] = []
    family.vae.encoder.register_forward_pre_hook(lambda _, inputs: given.append(len(inputs[0])))
    pixels = torch.rand(3, 3, 16, 16) * 2 - 1
    latents = family.encode_images(pixels)
    assert given == [1, 1, 1]
    assert torch.equal(latents[1:2], family.encode_images(pixels[1:2]))
    with simulated_card():
        family.to("cuda", torch.float32, ["vae"])
        given.clear()
        family.encode_images(pixels.to("cuda"))
    assert given == [3]


def test_the_text_recipe_tells_settings_and_tokenizers_apart(tmp_path: Path) -> None:
    base = tiny_sd(tmp_path / "b")
    plain = StableDiffusion.load(str(base)).text_recipe()
    assert plain == StableDiffusion.load(str(base)).text_recipe()
    others = [{"clip_skip": 2}, {"max_tokens": 150}, {"weighted_captions": True}]
    recipes = {plain, *(StableDiffusion.load(str(base), **o).text_recipe() for o in others)}  # type: ignore[arg-type]
    recipes.add(StableDiffusion.load(str(tiny_sd(tmp_path / "w", words=True))).text_recipe())
    recipes.add(StableDiffusion.load(str(tiny_sd(tmp_path / "2", version=2))).text_recipe())
    assert len(recipes) == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_and_the_vae_stays_exact(loaded: tuple[Any, Path], dtype: torch.dtype) -> None:
    family, _ = loaded
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    exact, latents = family.predict(**inputs(family)), family.encode_images(pixels)
    family.to("cpu", dtype)
    with torch.autocast("cpu", dtype=dtype):
        near = family.predict(**inputs(family)).float()
        assert torch.equal(family.encode_images(pixels), latents)
    assert 0 < (near - exact).abs().max() < 0.1


def test_cached_text_equals_live_text_whatever_the_batch(loaded: tuple[Any, Path]) -> None:
    family, _ = loaded
    together = family.encode_text([*WORDS, ""])
    for index, caption in enumerate([*WORDS, ""]):
        alone = family.encode_text([caption])
        assert torch.equal(alone["hidden"], together.row(index)["hidden"])
        assert "pooled" not in alone or torch.equal(alone["pooled"], together.row(index)["pooled"])


def test_a_text_encoder_that_trains_gets_gradients_and_the_same_states(loaded: tuple[Any, Path]) -> None:
    family, _ = loaded
    frozen = family.encode_text(WORDS)
    for part in family.text_parts:
        family.parts[part].requires_grad_(True)
    live = family.encode_text(WORDS)
    assert live["hidden"].requires_grad and not frozen["hidden"].requires_grad
    torch.testing.assert_close(live["hidden"].detach(), frozen["hidden"], atol=1e-6, rtol=1e-5)


def test_random_weights_follow_torchs_seed_and_keep_vae_and_schedule(loaded: tuple[Any, Path]) -> None:
    family, folder = loaded

    def fresh(seed: int) -> Any:
        torch.manual_seed(seed)
        return type(family).load(str(folder), init="random")

    def state(model: Any, part: str) -> torch.Tensor:
        return torch.cat([p.flatten() for p in model.parts[part].parameters()])

    one, again, other = fresh(1), fresh(1), fresh(2)
    for part in family.parts:
        assert torch.equal(state(one, part), state(again, part))
        assert not torch.equal(state(one, part), state(other, part))
        assert not torch.equal(state(one, part), state(family, part))
    assert all(torch.equal(a, b) for a, b in zip(one.vae.parameters(), family.vae.parameters(), strict=True))
    assert torch.equal(one.schedule.alphas_cumprod, family.schedule.alphas_cumprod)


def test_an_outline_has_every_weights_name_and_shape_and_no_weights(loaded: tuple[Any, Path]) -> None:
    family, folder = loaded
    outline = type(family).load(str(folder), init="outline")
    for name, whole in {**family.parts, "vae": family.vae}.items():
        part = outline.vae if name == "vae" else outline.parts[name]
        assert all(p.is_meta and not p.requires_grad for p in part.parameters())
        shapes = [{k: t.shape for k, t in m.state_dict().items()} for m in (part, whole)]
        assert shapes[0] == shapes[1]
    assert outline.prediction == family.prediction


def test_a_saved_folder_gives_the_same_model_everywhere(loaded: tuple[Any, Path], tmp_path: Path) -> None:
    family, _ = loaded
    family.save(tmp_path / "saved", torch.float32)
    again = type(family).load(str(tmp_path / "saved"))
    for part in (*family.parts, "vae"):
        ours = family.parts.get(part, family.vae).state_dict()
        theirs = again.parts.get(part, again.vae).state_dict()
        assert all(torch.equal(ours[n], theirs[n]) for n in ours)
    pipe = pipeline_of(tmp_path / "saved")
    words = ["a red cat"]
    expected = pipe.encode_prompt(words, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)[0]
    torch.testing.assert_close(family.encode_text(words)["hidden"], expected, atol=1e-6, rtol=1e-5)
    assert again.prediction == family.prediction and again.base_version == family.base_version


def test_saved_text_encoders_have_the_names_that_all_versions_read(loaded: tuple[Any, Path], tmp_path: Path) -> None:
    family, _ = loaded
    family.save(tmp_path / "saved", torch.float16)
    for part in family.text_parts:
        weights = load_file(tmp_path / "saved" / part / "model.safetensors")
        assert all(name.startswith(("text_model.", "text_projection.")) for name in weights)
        assert all(tensor.dtype == torch.float16 for tensor in weights.values())
        kind = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
        kind.from_pretrained(tmp_path / "saved" / part)
    words = tmp_path / "saved" / "tokenizer"
    assert (words / "tokenizer_config.json").is_file()
    if type(family.components.tokenizers["tokenizer"]).__name__ == "CLIPTokenizer":
        vocabulary = json.loads((words / "vocab.json").read_text(encoding="utf-8"))
        assert len(vocabulary) == 514 and (words / "merges.txt").read_text().startswith("#version")


def test_saving_what_did_not_train_costs_no_precision(loaded: tuple[Any, Path], tmp_path: Path) -> None:
    family, _ = loaded
    exact = {n: t.clone() for part in family.text_parts for n, t in family.parts[part].state_dict().items()}
    family.unet.requires_grad_(True)
    family.to("cpu", torch.bfloat16)
    with torch.no_grad():
        family.unet.conv_out.bias += 1
    family.save(tmp_path / "saved", torch.float32)
    again = type(family).load(str(tmp_path / "saved"))
    assert all(torch.equal(t, exact[n]) for p in family.text_parts for n, t in again.parts[p].state_dict().items())
    assert torch.equal(again.unet.conv_out.bias, family.unet.conv_out.bias)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_schedule_is_the_bases(tmp_path: Path, prediction: str, zero_snr: bool) -> None:
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "b", prediction=prediction, zero_snr=zero_snr)))
    settings = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    reference = DDPMScheduler(**settings, rescale_betas_zero_snr=zero_snr)
    assert torch.equal(family.schedule.alphas_cumprod, reference.alphas_cumprod)
    assert (family.schedule.alphas_cumprod[-1] == 0) == zero_snr
    assert registry.find("objectives", family.prediction).diffusers_name == prediction
    sampler = family.pipeline().scheduler.config
    assert sampler.prediction_type == prediction
    assert sampler.timestep_spacing == ("trailing" if zero_snr else "leading")


def test_another_prediction_can_be_asked_for(tmp_path: Path) -> None:
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "b")), prediction="v")
    assert family.prediction == "velocity"
    assert family.base_version == "sd_v1_v"
    assert family.pipeline().scheduler.config.prediction_type == "v_prediction"


def test_a_flow_is_sampled_along_straight_paths(tmp_path: Path) -> None:
    """With a network that knows the way, any number of steps ends at the clean latent."""
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "b")), prediction="flow")
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    asked = []

    def perfect(noisy: torch.Tensor, timestep: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        share = (timestep + 1) / 1000  # as the flow objective mixes
        asked.append(float(timestep))
        return ((noisy - clean) / share,)

    pipe = family.pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.forward = perfect
    given = {"guidance_scale": 1.0, "num_inference_steps": 4, "output_type": "latent", "height": 32, "width": 32}
    latents = pipe("a cat", generator=torch.Generator().manual_seed(0), **given).images
    torch.testing.assert_close(latents, clean, atol=1e-5, rtol=1e-5)
    assert asked == [999, 749, 499, 249]
    family.save(tmp_path / "saved", torch.float32)
    assert StableDiffusion.load(str(tmp_path / "saved")).prediction == "flow"


def test_samples_come_out_of_the_live_modules(loaded: tuple[Any, Path]) -> None:
    family, _ = loaded
    pipe = family.pipeline()
    pipe.set_progress_bar_config(disable=True)

    def draw() -> torch.Tensor:
        stream = torch.Generator().manual_seed(0)
        given = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent", "generator": stream}
        return family.decode_latents(pipe("a red cat", **given).images)

    before = draw()
    assert before.shape == (1, 3, 32, 32) and torch.equal(before, draw())
    with torch.no_grad():
        family.unet.conv_out.bias += 1
    assert not torch.equal(before, draw())


def test_clip_skip_takes_an_earlier_layer_through_the_final_norm(tmp_path: Path) -> None:
    base = str(tiny_sd(tmp_path / "b"))
    plain = StableDiffusion.load(base)
    ids = plain.tokenizer(WORDS, padding="max_length", max_length=77, return_tensors="pt").input_ids
    states = plain.text_encoder(ids, output_hidden_states=True).hidden_states
    expected = plain.text_encoder.final_layer_norm(states[-2])
    skipped = StableDiffusion.load(base, clip_skip=2).encode_text(WORDS)["hidden"]
    assert torch.equal(skipped, expected)
    one = StableDiffusion.load(base, clip_skip=1).encode_text(WORDS)["hidden"]
    assert torch.equal(one, plain.encode_text(WORDS)["hidden"])
    with pytest.raises(UserError, match="only 2 layers"):
        StableDiffusion.load(base, clip_skip=3)


def test_adapters_and_their_base_have_no_part_in_the_saved_weights(tmp_path: Path) -> None:
    from trainer.adapters import injection

    base = tiny_sd(tmp_path / "b")
    family = StableDiffusion.load(str(base))
    injection.inject(family, ["unet", "text_encoder"], rank=2, alpha=1, conv_rank=2, seed=0)
    family.save(tmp_path / "saved", torch.float32)
    for part in ("unet", "text_encoder"):
        stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
        saved, original = (load_file(f / part / f"{stem}.safetensors") for f in (tmp_path / "saved", base))
        assert saved.keys() == original.keys()
        assert all(torch.equal(saved[n], original[n]) for n in saved)


def broken_folders(folder: Path) -> dict[str, Path]:
    """What can be wrong with a diffusers folder, each in a copy of its own, with the file that is to blame."""
    return {
        "no unet": folder / "unet",
        "no unet weights": folder / "unet" / "diffusion_pytorch_model.safetensors",
        "no text encoder config": folder / "text_encoder" / "config.json",
        "no scheduler": folder / "scheduler" / "scheduler_config.json",
        "no tokenizer": folder / "tokenizer",
    }


@pytest.mark.parametrize("which", list(broken_folders(Path())))
def test_missing_pieces_are_named(tmp_path: Path, which: str) -> None:
    folder = tiny_sd(tmp_path / "b")
    gone = broken_folders(folder)[which]
    gone.rename(tmp_path / "gone")
    with pytest.raises(UserError) as caught:
        StableDiffusion.load(str(folder))
    assert gone.relative_to(folder).parts[0] in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "header", "text", "config", "config shape", "not json"])
def test_damaged_pieces_are_named(tmp_path: Path, damage: str) -> None:
    folder = tiny_sd(tmp_path / "b")
    weights, config = folder / "unet" / "diffusion_pytorch_model.safetensors", folder / "unet" / "config.json"
    content = weights.read_bytes()
    settings = json.loads(config.read_text())
    spoil = {
        "truncated": lambda: weights.write_bytes(content[:-1000]),
        "empty": lambda: weights.write_bytes(b""),
        "header": lambda: weights.write_bytes(b"\xff" * 64 + content[64:]),
        "text": lambda: weights.write_text("I am not a model."),
        "config": lambda: config.write_text(json.dumps({**settings, "block_out_channels": [31, 64]})),
        "config shape": lambda: config.write_text(json.dumps({**settings, "block_out_channels": [64, 64]})),
        "not json": lambda: config.write_text("{"),
    }
    spoil[damage]()
    with pytest.raises(UserError, match="unet"):
        StableDiffusion.load(str(folder))


def test_foreign_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({**weights, "another.weight": torch.ones(2)}, file)
    with pytest.raises(UserError, match="not of this model"):
        StableDiffusion.load(str(folder))


def test_a_tokenizer_with_too_many_words_is_refused(tmp_path: Path) -> None:
    folder, words = tiny_sd(tmp_path / "b"), tiny_sd(tmp_path / "w", words=True)
    with pytest.raises(UserError, match="514 tokens"):
        StableDiffusion.load(str(words), tokenizer=str(folder))


def test_older_folders_load(tmp_path: Path) -> None:
    """Half precision files, position ids, the VAE's attention names of old, and shards."""
    folder = tiny_sd(tmp_path / "b")
    wanted = StableDiffusion.load(str(folder))
    vae = folder / "vae" / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(name: str) -> str:
        for new, ancient in names.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{ancient}.")
        return name

    save_file({old(n): t for n, t in load_file(vae).items()}, vae)
    text = folder / "text_encoder" / "model.safetensors"
    save_file({**load_file(text), "text_model.embeddings.position_ids": torch.arange(77)[None]}, text)
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(unet)
    halves = [dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])]
    index = {n: f"part-{i}.safetensors" for i, half in enumerate(halves) for n in half}
    for i, half in enumerate(halves):
        save_file(half, folder / "unet" / f"part-{i}.safetensors")
    unet.with_name(unet.name + ".index.json").write_text(json.dumps({"weight_map": index}))
    unet.unlink()
    found = StableDiffusion.load(str(folder))
    assert any("query" in n for n in load_file(vae))
    for part in (*wanted.parts, "vae"):
        ours = wanted.parts.get(part, wanted.vae).state_dict()
        theirs = found.parts.get(part, found.vae).state_dict()
        assert all(torch.equal(ours[n], theirs[n]) for n in ours)
