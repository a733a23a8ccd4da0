"""How fast images become latents, in float32 as they do and in bfloat16, and how far those are apart."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gpu_check.architecture import fill
from gpu_check.case import SIDES, Case
from gpu_check.machine import forget, seconds_of
from gpu_check.steps import Bench
from trainer.assembly.model import open_family
from trainer.data.cache.encode import together

ROUNDS = 3
FEW = 4  # pictures, where they show no more than that it runs: 256 tiny ones took a CPU 80 s


@torch.no_grad()
def measure(version: str, bench: Bench) -> dict[str, Any]:
    """Weights are random, so that the difference of the precisions is that of the arithmetic alone."""
    device, side = bench.device, SIDES[version]
    family = open_family(Case("", version).config(bench.folders[version], device), outline=True)
    fill(family.vae, device, torch.float32)
    count = together(side, side) if device.type == "cuda" else FEW
    pixels = torch.rand(count, 3, side, side, device=device) * 2 - 1
    figures: dict[str, Any] = {"side": side, "batch": len(pixels)}
    latents: dict[str, Tensor] = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        family.vae_dtype = dtype
        encode = partial(family.encode_images, pixels)
        try:
            latents[name] = encode()
            taken = statistics.median(seconds_of(encode, device) for _ in range(ROUNDS))
            figures[name] = {"images_per_second": len(pixels) / taken}
        except torch.OutOfMemoryError as error:
            figures[name] = {"error": str(error).splitlines()[0]}
    if len(latents) == 2:
        apart = (latents["bf16"] - latents["fp32"]).norm() / latents["fp32"].norm()
        figures["relative_difference"] = float(apart)
    forget(device)
    return figures
