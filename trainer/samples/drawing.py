"""Draws pictures from prompts with fixed seeds, without touching any random stream of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from trainer.errors import UserError
from trainer.files.atomic import write_file
from trainer.protocols import Family
from trainer.samples import samplers
from trainer.samples.prompts import WHERE, Request

TOGETHER = 4  # pictures drawn as one batch
EVALUATIONS = "evaluations"  # of a pipeline's result, and in the header of a picture's file


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


def draw(
    family: Family,
    requests: Sequence[Request],
    stopped: Callable[[], bool] = lambda: False,
    *,
    together: int = TOGETHER,
) -> list[Image.Image]:
    """One picture per request. Those that differ only in prompt, negative prompt and seed are drawn together, at most
    so many, or one by one where the memory is too small for that. Raises InterruptedDrawingError soon after `stopped`
    says so."""
    pictures: dict[int, Image.Image] = {}
    with evaluating(family):
        pipeline = family.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        own = pipeline.scheduler
        requests = [one.fitting(family.drawn, family.size_multiple) for one in requests]
        for members in groups(requests, together):
            name = requests[members[0]].sampler
            pipeline.scheduler = samplers.named(name, own, family.schedule, family.samplers)
            for index, (pixels, asked) in zip(
                members, _pixels(family, pipeline, requests, members, stopped), strict=True
            ):
                pictures[index] = to_image(pixels)
                pictures[index].info |= {EVALUATIONS: str(asked)} if asked else {}
    return [pictures[i] for i in range(len(requests))]


def refuse(family: Family, requests: Sequence[Request]) -> None:
    """Raises UserError for what the family cannot draw; to be told before hours of training."""
    if found := problems(family, requests):
        raise UserError(found)


def problems(family: Family, requests: Sequence[Request]) -> list[str]:
    """Why the family cannot draw some of them."""
    found = []
    if not family.fills and any(request.image for request in requests):
        found.append(f"{WHERE}: --i and --m are for an inpainting base, which model.base is not.")
    for one in requests:
        fitting = one.fitting(family.drawn, family.size_multiple)
        why = family.cannot_draw(fitting.prompt, fitting.negative, fitting.guidance)
        found += [f"{WHERE}: {one.prompt!r} cannot be drawn: {why}"] if why else []
        if line := samplers.missing(one.sampler, family.samplers):
            found.append(line)
    return list(dict.fromkeys(found))


def notes(family: Family, requests: Sequence[Request]) -> list[str]:
    """What was asked for and has no effect on what the family draws."""
    named = {one.sampler for one in requests if "sampler" not in one.unset} - {"euler", "k_euler", *family.samplers}
    if not named or not samplers.has_one_way(family.pipeline().scheduler, family.schedule):
        return []
    return [f"samples.sampler = {name!r} has no effect: this flow is drawn in Euler steps." for name in sorted(named)]


def groups(requests: Sequence[Request], together: int = TOGETHER) -> list[list[int]]:
    """The indices of requests that can be drawn as one batch."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, r in enumerate(requests):
        alike.setdefault((r.width, r.height, r.steps, r.guidance, r.sampler), []).append(index)
    return [same[i : i + together] for same in alike.values() for i in range(0, len(same), together)]


def _pixels(
    family: Family, pipeline: Any, requests: Sequence[Request], members: Sequence[int], stopped: Callable[[], bool]
) -> list[tuple[Tensor, int]]:
    """For each of the members (3, H, W), and how often the network was asked about it, 0 = not told."""
    try:
        return _together(family, pipeline, [requests[i] for i in members], stopped)
    except torch.OutOfMemoryError:
        if len(members) == 1:
            raise
    # Outside the handler: the exception holds the tensors that filled the memory.
    free_memory()
    return [one for i in members for one in _together(family, pipeline, [requests[i]], stopped)]


def _together(
    family: Family, pipeline: Any, alike: Sequence[Request], stopped: Callable[[], bool]
) -> list[tuple[Tensor, int]]:
    def between_steps(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if stopped():
            raise InterruptedDrawingError
        return tensors

    first = alike[0]
    found = pipeline(
        **family.prompt_arguments([r.prompt for r in alike], [r.negative for r in alike]),
        **_to_fill(family, alike),
        generator=[torch.Generator().manual_seed(r.seed) for r in alike],
        width=first.width,
        height=first.height,
        num_inference_steps=first.steps,
        guidance_scale=first.guidance,
        output_type="latent",
        callback_on_step_end=between_steps,
    )
    evaluations = int(getattr(found, EVALUATIONS, 0))
    # One by one: decoding takes more memory than anything before it.
    return [(family.decode_latents(one[None].float()).cpu()[0], evaluations) for one in found.images]


def _to_fill(family: Family, alike: Sequence[Request]) -> dict[str, Any]:
    """The pictures that are to be filled in, for families that do so."""
    if not family.fills:
        return {}
    given = [_picture_and_mask(request) for request in alike]
    return family.fill_arguments(*(torch.stack(tensors) for tensors in zip(*given, strict=True)))


def _picture_and_mask(request: Request) -> tuple[Tensor, Tensor]:
    """(3, H, W) in [-1, 1] and (1, H, W), 1 = to be filled in; all of a grey picture where none is given."""
    size = (request.width, request.height)
    if not request.image:
        return torch.zeros(3, *size[::-1]), torch.ones(1, *size[::-1])
    picture, mask = (Image.open(path) for path in (request.image, request.mask))
    pixels = torch.from_numpy(np.array(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)))
    hidden = torch.from_numpy(np.array(mask.convert("L").resize(size, Image.Resampling.NEAREST)))
    return pixels.permute(2, 0, 1) / 127.5 - 1, (hidden[None] >= 128).float()


def free_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> a picture; values outside are clipped."""
    scaled = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(scaled.permute(1, 2, 0).cpu().numpy())


def save(picture: Image.Image, path: Path) -> None:
    """With how often the network was asked about it, where that is told."""
    told = PngInfo()
    for key in {EVALUATIONS} & picture.info.keys():
        told.add_text(key, picture.info[key])
    write_file(path, lambda temporary: picture.save(temporary, format="PNG", pnginfo=told))
