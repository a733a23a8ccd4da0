"""Draws pictures from prompts with fixed seeds, without touching any random stream of training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from trainer.atomic import write_file
from trainer.protocols import Family


@dataclass(frozen=True)
class Request:
    """One picture. The start noise is plain Gaussian from a CPU generator: the same on every device."""

    prompt: str
    seed: int
    negative: str = ""
    width: int = 512
    height: int = 512
    steps: int = 30
    guidance: float = 7.5


@contextmanager
def evaluating(family: Family) -> Iterator[None]:
    """All parts in eval mode, without gradients; each returns to the mode it had."""
    modes = {name: part.training for name, part in family.parts.items()}
    try:
        for part in family.parts.values():
            part.eval()
        with torch.no_grad():
            yield
    finally:
        for name, part in family.parts.items():
            part.train(modes[name])


def draw(family: Family, requests: Sequence[Request]) -> list[Image.Image]:
    """One picture per request. Requests that differ only in prompt, negative prompt and seed are drawn as one batch."""
    pictures: dict[int, Image.Image] = {}
    groups: dict[tuple[int, int, int, float], list[int]] = {}
    for index, r in enumerate(requests):
        groups.setdefault((r.width, r.height, r.steps, r.guidance), []).append(index)
    with evaluating(family):
        pipeline = family.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        for (width, height, steps, guidance), members in groups.items():
            latents = pipeline(
                prompt=[requests[i].prompt for i in members],
                negative_prompt=[requests[i].negative for i in members],
                generator=[torch.Generator().manual_seed(requests[i].seed) for i in members],
                width=width,
                height=height,
                num_inference_steps=steps,
                guidance_scale=guidance,
                output_type="latent",
            ).images
            for index, pixels in zip(members, family.decode_latents(latents.float()), strict=True):
                pictures[index] = to_image(pixels)
    return [pictures[i] for i in range(len(requests))]


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> a picture; values outside are clipped."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(scaled.permute(1, 2, 0).cpu().numpy())


def save(picture: Image.Image, path: Path) -> None:
    write_file(path, lambda temporary: picture.save(temporary, format="PNG"))
