"""The real UNet of SD 1.5 (random weights, bfloat16) trains one LoRA step on the CPU."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from plugins.models._latent_diffusion import Components, StoredSchedule
from plugins.models._modules import freeze
from plugins.models.sd import LAYOUTS, StableDiffusion
from tests.full_size import UNETS, fill
from tests.tiny import SCHEDULER, byte_tokenizer, tiny_clip, tiny_vae
from trainer.adapters import injection
from trainer.batch import Geometry, TextStates


def real_unet() -> UNet2DConditionModel:
    """860 million weights, drawn straight in bfloat16: 1.7 GB."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS["sd1"])
    fill(unet, torch.device("cpu"), torch.bfloat16)
    return unet


def test_the_real_unet_trains_a_lora_step() -> None:
    tokenizer = byte_tokenizer()
    family = StableDiffusion(
        Components(
            unet=freeze(real_unet()),
            vae=freeze(tiny_vae(8)),
            text_encoders={"text_encoder": freeze(tiny_clip(tokenizer))},
            tokenizers={"tokenizer": tokenizer},
            schedule=StoredSchedule.read(SCHEDULER, "auto", "test"),
            layout=LAYOUTS["sd1"],
        )
    )
    adapters = injection.inject(family, ["unet"], rank=4, alpha=2.0, seed=0)
    assert len(adapters) == 192
    optimizer = torch.optim.AdamW([p for p in family.unet.parameters() if p.requires_grad], lr=1e-3)
    stream = torch.Generator().manual_seed(1)
    noisy, noise = torch.randn(2, 1, 4, 32, 32, generator=stream)
    text = TextStates({"hidden": torch.randn(1, 77, 768, generator=stream)})
    geometry = Geometry(*(torch.full((1, 2), 256) for _ in range(3)))
    with torch.autocast("cpu", torch.bfloat16):
        prediction = family.predict(noisy, torch.tensor([500]), text, geometry)
    loss = (prediction.float() - noise).square().mean()
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert all(a.weights.up.dtype == torch.float32 and bool(a.weights.up.any()) for a in adapters)
