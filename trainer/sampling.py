"""Draws pictures from prompts with fixed seeds, without touching any random stream of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from trainer.files.atomic import write_file
from trainer.protocols import Family
from trainer.samples import samplers
from trainer.samples.prompts import Request

TOGETHER = 4  # pictures drawn as one batch


class InterruptedDrawingError(Exception):
    """A stop was asked for while pictures were drawn."""


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


def draw(family: Family, requests: Sequence[Request], stopped: Callable[[], bool] = lambda: False) -> list[Image.Image]:
    """One picture per request. Those that differ only in prompt, negative prompt and seed are drawn together, or one by
    one where the memory is too small for that. Raises InterruptedDrawingError soon after `stopped` says so."""
    pictures: dict[int, Image.Image] = {}
    with evaluating(family):
        pipeline = family.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        own = pipeline.scheduler
        for members in groups(requests):
            pipeline.scheduler = samplers.named(requests[members[0]].sampler, own, family.alphas_cumprod)
            for index, pixels in zip(members, _pixels(family, pipeline, requests, members, stopped), strict=True):
                pictures[index] = to_image(pixels)
    return [pictures[i] for i in range(len(requests))]


def groups(requests: Sequence[Request]) -> list[list[int]]:
    """The indices of requests that can be drawn as one batch."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, r in enumerate(requests):
        alike.setdefault((r.width, r.height, r.steps, r.guidance, r.sampler), []).append(index)
    return [same[i : i + TOGETHER] for same in alike.values() for i in range(0, len(same), TOGETHER)]


def _pixels(
    family: Family, pipeline: Any, requests: Sequence[Request], members: Sequence[int], stopped: Callable[[], bool]
) -> Tensor:
    """(len(members), 3, H, W)"""
    try:
        return _together(family, pipeline, [requests[i] for i in members], stopped)
    except torch.OutOfMemoryError:
        if len(members) == 1:
            raise
    # Outside the handler: the exception holds the tensors that filled the memory.
    free_memory()
    return torch.cat([_together(family, pipeline, [requests[i]], stopped) for i in members])


def _together(family: Family, pipeline: Any, alike: Sequence[Request], stopped: Callable[[], bool]) -> Tensor:
    def between_steps(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if stopped():
            raise InterruptedDrawingError
        return tensors

    first = alike[0]
    latents = pipeline(
        prompt=[r.prompt for r in alike],
        negative_prompt=[r.negative for r in alike],
        generator=[torch.Generator().manual_seed(r.seed) for r in alike],
        width=first.width,
        height=first.height,
        num_inference_steps=first.steps,
        guidance_scale=first.guidance,
        output_type="latent",
        callback_on_step_end=between_steps,
    ).images
    # One by one: decoding takes more memory than anything before it.
    return torch.cat([family.decode_latents(one[None].float()).cpu() for one in latents])


def free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> a picture; values outside are clipped."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(scaled.permute(1, 2, 0).cpu().numpy())


def save(picture: Image.Image, path: Path) -> None:
    write_file(path, lambda temporary: picture.save(temporary, format="PNG"))
