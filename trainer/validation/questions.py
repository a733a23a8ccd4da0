"""Makes the questions of a validation, and the batches to ask them with, from held-out and a few training images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trainer.batch import Batch, Geometry, NoiseSchedule, Shown, TextStates
from trainer.config.schema.base import changed
from trainer.config.schema.data import SubsetOptions
from trainer.config.schema.validation import ValidationSettings
from trainer.data.cache import encode
from trainer.data.cache.encode import Stored, Variant
from trainer.data.captions import pipeline as caption_pipeline
from trainer.data.dataset import Dataset, ImageItem
from trainer.data.order import holdout
from trainer.data.order.holdout import Split
from trainer.randomness import python_random
from trainer.validation import fixed_loss
from trainer.validation.fixed_loss import QuestionBatch
from trainer.validation.measurements import AskedImage, Questions

EncodeImages = Callable[[Tensor], Tensor]  # (B, 3, H, W) -> (B, C, h, w)
EncodeText = Callable[[Sequence[str]], TextStates]


@dataclass(frozen=True)
class ValidationSet:
    questions: Questions
    asked: tuple[QuestionBatch, ...]


def make(
    split: Split,
    settings: ValidationSettings,
    *,
    objective: str,
    schedule: NoiseSchedule,
    encode_images: EncodeImages,
    encode_text: EncodeText | None,
) -> ValidationSet:
    """Encodes the images once. `encode_text`: None when the text encoder trains: captions are encoded each time then.

    objective: what the loss measures; schedule: the base's.
    """
    parts = [(chosen(split.held_out, settings, settings.images), True)]
    if settings.training_images:
        parts.append((chosen(split.training, settings, settings.training_images), False))
    pictures: list[AskedImage] = []
    asked: list[QuestionBatch] = []
    for dataset, held_out in parts:
        names = holdout.distinct_names(dataset.items)
        first = len(pictures)
        captions = [caption(item, name, settings.seed) for item, name in zip(dataset.items, names, strict=True)]
        for item, name, text in zip(dataset.items, names, captions, strict=True):
            times = fixed_loss.timesteps_of(name, seed=settings.seed, draws=settings.draws, schedule=schedule)
            pictures.append(AskedImage(name, item.target, held_out, fingerprint(item, text), times))
        asked += _batches(dataset, captions, first, encode_images, encode_text)
    questions = Questions(settings.seed, objective, schedule.steps, tuple(pictures))
    return ValidationSet(questions, tuple(asked))


def chosen(dataset: Dataset, settings: ValidationSettings, most: int) -> Dataset:
    """At most `most` images (0 = all), always the same ones; an image in several sizes counts once for each."""
    items = holdout.in_order([item for item in dataset.items if not item.source.is_reg], settings.seed)
    return replace(dataset, items=tuple(items[: most or None]))


def caption(item: ImageItem, name: str, seed: int) -> str:
    """The first caption with nothing dropped and nothing shuffled; wildcards are drawn once for all."""
    never = SubsetOptions()
    names = (
        "caption_dropout_rate",
        "caption_dropout_every_n_epochs",
        "shuffle_caption",
        "token_warmup_step",
        "caption_tag_dropout_rate",
        "tag_weights",
    )
    options = changed(item.source.options, **{n: getattr(never, n) for n in names})
    moment = caption_pipeline.Moment()
    return caption_pipeline.final_caption(
        item.captions[:1], options, lambda purpose: python_random(seed, f"validation.{purpose}/{name}"), moment
    )


def fingerprint(item: ImageItem, text: str) -> str:
    """Tells whether two runs measured with the same file and caption."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8)
    digest.update(Path(item.path).read_bytes())
    return digest.hexdigest()


def _batches(
    dataset: Dataset, captions: Sequence[str], first: int, encode_images: EncodeImages, encode_text: EncodeText | None
) -> list[QuestionBatch]:
    size = min((group.batch_size for group in dataset.groups), default=1)
    batches = encode.batches_of_one_size(dataset, [Variant(i) for i in range(len(dataset.items))], size)
    with torch.no_grad():
        stored = {v.item: s for v, s in encode.encoded(dataset, batches, encode_images)}
        partly = [[replace(variant, hidden=0) for variant in batch] for batch in batches] if dataset.hiding else []
        hidden = {v.item: s for v, s in encode.encoded(dataset, partly, encode_images)}
    found = []
    for batch in batches:
        places = [variant.item for variant in batch]
        words = tuple(captions[i] for i in places)
        items = [dataset.items[i] for i in places]
        found.append(
            QuestionBatch(
                rows=tuple(first + i for i in places),
                batch=Batch(
                    names=tuple(item.path for item in items),
                    captions=words,
                    geometry=_geometry(items),
                    weights=torch.ones(len(items)),
                    latents=torch.stack([stored[i].mean for i in places]),
                    text=None if encode_text is None else encode_text(words).to("cpu"),
                    mask=_masks(items, [stored[i] for i in places]),
                    shown=_shown([hidden[i] for i in places]) if hidden else None,
                ),
            )
        )
    return found


def _shown(stored: Sequence[Stored]) -> Shown:
    """Always with the same area hidden."""
    masks = [one.mask for one in stored if one.mask is not None]
    return Shown(torch.stack(masks).unsqueeze(1) / 255, latents=torch.stack([one.mean for one in stored]))


def _geometry(items: Sequence[ImageItem]) -> Geometry:
    """(B, 2) each, as (height, width) and (top, left)."""
    corners = [(int(item.crop_ltrb[1]), int(item.crop_ltrb[0])) for item in items]
    return Geometry(
        original=torch.tensor([item.original[::-1] for item in items]),
        crop=torch.tensor(corners),
        target=torch.tensor([item.target[::-1] for item in items]),
    )


def _masks(items: Sequence[ImageItem], stored: Sequence[Stored]) -> Tensor | None:
    """(B, 1, h, w): the loss masks that these images train with; None when none has one."""
    if all(one.mask is None for one in stored):
        return None
    rows = []
    for item, one in zip(items, stored, strict=True):
        outside = item.source.options.mask_outside
        inside = torch.ones(one.mean.shape[-2:]) if one.mask is None else one.mask.float() / 255
        rows.append(outside + (1 - outside) * inside)
    return torch.stack(rows).unsqueeze(1)
