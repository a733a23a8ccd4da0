"""Inpainting bases: recognised, given what they are to fill in, written and read back by diffusers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import load_file

from plugins.models import sd, sdxl
from plugins.models._identify import identify
from plugins.models._probe import predicts_velocity
from tests.tiny import tiny_sd, tiny_sdxl
from trainer.adapters import injection
from trainer.batch import Geometry, Shown
from trainer.data.pictures.render import to_tensor
from trainer.samples import drawing
from trainer.samples.prompts import Request

Make = Callable[..., Path]
BASES: dict[str, tuple[Make, Any]] = {
    "sd1": (tiny_sd, sd.PLUGIN),
    "sd2": (lambda folder, **more: tiny_sd(folder, version=2, **more), sd.PLUGIN),
    "sdxl": (tiny_sdxl, sdxl.PLUGIN),
}


@pytest.fixture(params=BASES)
def loaded(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path]:
    make, plugin = BASES[request.param]
    folder = make(tmp_path / "base", fills=True)
    return plugin.load(str(folder)), folder


def shown(size: int = 8) -> Shown:
    stream = torch.Generator().manual_seed(2)
    hidden = (torch.rand(1, 1, size, size, generator=stream) > 0.5).float()
    return Shown(hidden, torch.randn(1, 4, size, size, generator=stream))


def test_the_network_is_given_noisy_latents_then_mask_then_what_is_visible(loaded: tuple[Any, Path]) -> None:
    family, folder = loaded
    assert family.fills
    noisy, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500])
    text, pair, about = family.encode_text(["a cat"]), torch.full((1, 2), 16), shown()
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    rest = {}
    if "pooled" in text:
        sizes = torch.tensor([[16, 16, 0, 0, 16, 16]])
        rest = {"added_cond_kwargs": {"text_embeds": text["pooled"], "time_ids": sizes.float()}}
    assert about.latents is not None
    given = torch.cat([noisy, about.hidden, about.latents], dim=1)
    with torch.no_grad():
        expected = unet(given, t, text["hidden"], **rest).sample
        found = family.predict(noisy, t, text, Geometry(pair, pair * 0, pair), about)
    assert torch.allclose(found, expected, atol=1e-6)
    assert expected.shape == noisy.shape
    predicts_velocity(family.unet)  # does not mind the further channels


def test_one_file_out_and_in(loaded: tuple[Any, Path], tmp_path: Path) -> None:
    family, _ = loaded
    family.save_file(tmp_path / "one.safetensors", torch.float32, {})
    identity = identify(str(tmp_path / "one.safetensors"))
    assert identity is not None and identity.family == family.name and "for inpainting" in identity.what
    assert load_file(tmp_path / "one.safetensors")["model.diffusion_model.input_blocks.0.0.weight"].shape[1] == 9
    tokenizer = str(tmp_path / "base" / "tokenizer")
    again = type(family).load(str(tmp_path / "one.safetensors"), tokenizer=tokenizer, prediction="epsilon")
    for name, weight in family.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[name], weight), name


def test_a_folder_and_a_lora_are_read_by_diffusers_inpainting_pipeline(tmp_path: Path) -> None:
    family = sd.PLUGIN.load(str(tiny_sd(tmp_path / "base", fills=True)))
    family.save(tmp_path / "out", torch.float32)
    injection.inject(family, ["unet"], rank=4, alpha=4)
    for adapter in injection.adapters(family):
        torch.nn.init.normal_(adapter.weights.up, generator=torch.Generator().manual_seed(len(adapter.key)))
    injection.save(family, tmp_path / "lora.safetensors", dtype=torch.float32, metadata={})
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    assert type(pipeline).__name__ == "StableDiffusionInpaintPipeline"
    pipeline.load_lora_weights(tmp_path / "lora.safetensors")
    noisy, t, about = torch.randn(1, 4, 8, 8), torch.tensor([500]), shown()
    text, pair = family.encode_text(["a cat"]), torch.full((1, 2), 16)
    assert about.latents is not None
    with torch.no_grad():
        ours = family.predict(noisy, t, text, Geometry(pair, pair, pair), about)
        theirs = pipeline.unet(torch.cat([noisy, about.hidden, about.latents], 1), t, text["hidden"]).sample
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-4


def test_a_sample_is_what_diffusers_draws_of_picture_and_mask(tmp_path: Path) -> None:
    base = tiny_sd(tmp_path / "base", fills=True)
    family = sd.PLUGIN.load(str(base))
    picture = Image.effect_noise((32, 32), 60).convert("RGB")
    picture.save(tmp_path / "picture.png")
    mask = Image.new("L", (32, 32))
    ImageDraw.Draw(mask).rectangle((8, 8, 23, 31), fill=255)
    mask.save(tmp_path / "mask.png")
    files = {"image": str(tmp_path / "picture.png"), "mask": str(tmp_path / "mask.png")}
    wanted = [Request("a cat", seed=3, width=32, height=32, steps=2, guidance=3.0, **files)]
    (drawn,) = drawing.draw(family, wanted)
    pipeline = family.pipeline()
    hidden = to_tensor(np.array(mask.convert("RGB")))[:1] > 0
    visible = to_tensor(np.array(picture)) * ~hidden
    given = pipeline(
        "a cat", picture, mask, family.encode_images(visible[None]), height=32, width=32, num_inference_steps=2,
        guidance_scale=3.0, generator=torch.Generator().manual_seed(3), output_type="latent",
    ).images  # fmt: skip
    assert drawing.to_image(family.decode_latents(given)[0]).tobytes() == drawn.tobytes()
    whole = drawing.draw(family, [Request("a cat", seed=3, width=32, height=32, steps=2, guidance=3.0)])[0]
    assert whole.tobytes() != drawn.tobytes()
