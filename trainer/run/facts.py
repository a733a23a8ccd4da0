"""What a run tells about itself in the header of the files it makes."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from trainer import registry
from trainer.config import in_headers, reading
from trainer.config.schema.slider import PromptPair
from trainer.config.schema.whole import BaseConfig
from trainer.data.dataset import Dataset
from trainer.files.base_hashes import base_hashes
from trainer.files.metadata import TrainingFacts, checkpoint_metadata, lora_metadata
from trainer.protocols import Family
from trainer.training.pace import Pace

LISTED = 16  # pairs of prompts


@dataclass(frozen=True)
class Taught:
    """What a run learned from, as the header of a file tells it."""

    resolution: tuple[int, int]  # (width, height) of the first group
    batch_size: int
    images: int = 0  # with repeats
    triggers: tuple[str, ...] = ()
    folders: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    tags: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)


def by_images(dataset: Dataset) -> Taught:
    return Taught(
        resolution=resolution_of(dataset),
        batch_size=dataset.groups[0].batch_size,
        images=sum(item.repeats for item in dataset.items),
        triggers=tuple(sorted({item.source.options.trigger for item in dataset.items} - {""})),
        folders=dataset_dirs(dataset),
        tags=tag_frequency(dataset),
    )


def by_prompts(pairs: Sequence[PromptPair]) -> Taught:
    """Under the names that sd-scripts has for them; as there, a header lists the first ones."""
    told = [
        {
            "target": pair.target,
            "positive": pair.concept,
            "unconditional": pair.unconditional,
            "neutral": pair.start,
            "action": pair.action,
            "multiplier": pair.multiplier,
            "weight": pair.weight,
            "guidance_scale": pair.guidance_scale,
        }
        for pair in pairs[:LISTED]
    ]
    extra = {"ss_leco_prompt_count": len(pairs), "ss_leco_preview": json.dumps(told, ensure_ascii=False)}
    return Taught(resolution=pairs[0].size, batch_size=pairs[0].batch_size, extra=extra)


def metadata_of(
    config: BaseConfig, family: Family, taught: Taught, pace: Pace, processes: int
) -> Callable[[int], dict[str, str]]:
    """The metadata after a number of steps, for a LoRA file."""
    started = time.time()
    told = noise_metadata(config) | run_metadata(config, family) | in_headers.written(reading.to_dict(config))
    kind = registry.find("adapters", config.lora.method)
    hashes = cache(lambda: base_hashes(Path(config.model.base)))  # reads the whole file: when it is first asked for

    def after(step: int) -> dict[str, str]:
        return lora_metadata(
            TrainingFacts(
                output_name=config.run.name,
                base_version=family.base_version,
                architecture=family.architecture,
                prediction=registry.find("objectives", family.prediction).modelspec_name,
                rank=config.lora.rank,
                alpha=config.lora.alpha,
                conv_rank=config.lora.conv_rank,
                conv_alpha=config.lora.conv_alpha,
                seed=config.run.seed,
                learning_rate=config.optimizer.lr,
                unet_lr=config.optimizer.lr if config.training.unet else None,
                text_encoder_lr=config.text_encoder_lr if config.text_encoder_trains else None,
                optimizer=config.optimizer.name + "".join(f" {k}={v}" for k, v in config.optimizer.args.items()),
                steps=step,
                max_steps=pace.steps,
                epoch=step * pace.accumulation * processes // pace.batches_per_epoch,
                resolution=taught.resolution,
                network_module=kind.module,
                network_args=kind.arguments,
                implementation=family.implementation,
                trigger=", ".join(sorted({*taught.triggers, *config.embeddings.words})),
                batches_per_epoch=pace.batches_per_epoch,
                batch_size=taught.batch_size,
                gradient_accumulation=pace.accumulation,
                images=taught.images,
                comment=config.save.comment,
                base_name=Path(config.model.base).name,
                started_at=started,
                finished_at=time.time(),
                tag_frequency=taught.tags,
                dataset_dirs=taught.folders,
                extra=told | dict(taught.extra) | hashes() | {"ss_max_grad_norm": config.training.max_grad_norm},
            )
        )

    return after


def model_metadata_of(config: BaseConfig, family: Family, taught: Taught) -> Callable[[], dict[str, str]]:
    """The header of a whole model in one file."""

    def now() -> dict[str, str]:
        standard = checkpoint_metadata(
            output_name=config.run.name,
            architecture=family.architecture,
            prediction=registry.find("objectives", family.prediction).modelspec_name,
            resolution=taught.resolution,
            finished_at=time.time(),
        )
        return standard | {key: str(value) for key, value in noise_metadata(config).items()}

    return now


def resolution_of(dataset: Dataset) -> tuple[int, int]:
    """(width, height) that the first group of images trains at."""
    side = dataset.groups[0].resolution
    return (side, side) if isinstance(side, int) else side


def run_metadata(config: BaseConfig, family: Family) -> dict[str, object]:
    """The settings under kohya's names, those that it has names for."""
    c = config
    return {
        "ss_session_id": int.from_bytes(os.urandom(4), "little"),
        "ss_lr_scheduler": c.schedule.name,
        "ss_lr_warmup_steps": c.schedule.warmup,
        "ss_gradient_checkpointing": c.training.gradient_checkpointing != "off",
        "ss_mixed_precision": {"fp32": "no"}.get(c.training.precision, c.training.precision),
        "ss_scale_weight_norms": c.lora.max_norm or None,
        "ss_network_dropout": c.lora.dropout or None,
        "ss_clip_skip": c.model.clip_skip or None,
        "ss_max_token_length": c.model.max_tokens,
        "ss_cache_latents": c.data.cache_latents,
        "ss_prior_loss_weight": c.data.prior_loss_weight,
        "ss_caption_dropout_rate": c.general.caption_dropout_rate,
        "ss_min_snr_gamma": c.loss.gamma if c.loss.weighting == "min_snr" else None,
        "ss_debiased_estimation": c.loss.weighting == "debiased",
        "ss_loss_type": c.loss.kind,
        "ss_huber_schedule": c.loss.huber_schedule,
        "ss_huber_c": c.loss.huber_c,
        "ss_zero_terminal_snr": family.schedule.zero_terminal_snr,
        "ss_vae_name": Path(c.model.vae).name or None,
    }


def noise_metadata(config: BaseConfig) -> dict[str, object]:
    """What each noise stage that is on writes about its settings."""
    found: dict[str, object] = {}
    for name, settings in config.noise.stages().items():
        found |= registry.find("noise", name).metadata(settings)
    return found


def dataset_dirs(dataset: Dataset) -> dict[str, tuple[int, int]]:
    """Folder's own name -> (repeats, images)."""
    images = Counter((item.source.folder.name, item.repeats) for item in dataset.items)
    return {name: (repeats, count) for (name, repeats), count in images.items()}


def tag_frequency(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Folder's own name -> tag -> number of images, tags in lower case as kohya counts them."""
    found: dict[str, Counter[str]] = {}
    for item in dataset.items:
        tags = found.setdefault(item.source.folder.name, Counter())
        for caption in item.captions[:1]:
            tags.update(tag for part in caption.split(",") if (tag := part.strip().lower()))
    return {name: dict(tags.most_common()) for name, tags in found.items()}
