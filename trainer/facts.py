"""What a run tells about itself in the header of the files it makes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from trainer import registry
from trainer.config import BaseConfig
from trainer.data.dataset import Dataset
from trainer.loop import Pace
from trainer.metadata import TrainingFacts, lora_metadata
from trainer.protocols import Family


def metadata_of(
    config: BaseConfig, family: Family, dataset: Dataset, pace: Pace, processes: int
) -> Callable[[int], dict[str, str]]:
    """The metadata after a number of steps, for a LoRA file."""
    started = time.time()
    noise = noise_metadata(config)
    folders = dataset_dirs(dataset)
    tags = tag_frequency(dataset)
    options = dataset.groups[0]
    sides = (options.resolution,) * 2 if isinstance(options.resolution, int) else options.resolution

    def after(step: int) -> dict[str, str]:
        return lora_metadata(
            TrainingFacts(
                output_name=config.run.name,
                base_version=family.base_version,
                architecture=family.architecture,
                prediction=family.prediction,
                rank=config.lora.rank,
                alpha=config.lora.alpha,
                conv_rank=config.lora.conv_rank,
                conv_alpha=config.lora.conv_alpha,
                seed=config.run.seed,
                learning_rate=config.optimizer.lr,
                unet_lr=config.optimizer.lr if config.training.unet else None,
                text_encoder_lr=(config.optimizer.text_encoder_lr or config.optimizer.lr)
                if config.training.text_encoder
                else None,
                optimizer=config.optimizer.name + "".join(f" {k}={v}" for k, v in config.optimizer.args.items()),
                steps=step,
                max_steps=pace.steps,
                epoch=step * pace.accumulation * processes // pace.batches_per_epoch,
                resolution=sides,
                batch_size=options.batch_size,
                gradient_accumulation=pace.accumulation,
                images=sum(item.repeats for item in dataset.items),
                comment=config.save.comment,
                base_name=Path(config.model.base).name,
                started_at=started,
                finished_at=time.time(),
                tag_frequency=tags,
                dataset_dirs=folders,
                extra=noise | {"ss_lr_scheduler": config.schedule.name, "ss_max_grad_norm": pace.max_grad_norm},
            )
        )

    return after


def noise_metadata(config: BaseConfig) -> dict[str, object]:
    """What each noise stage that is on writes about its settings."""
    found: dict[str, object] = {}
    for name, settings in config.noise.stages().items():
        plugin = registry.find("noise", name)
        tell = getattr(plugin, "metadata", None)
        found |= tell(settings) if tell else {f"ss_noise_{name}": settings.model_dump_json()}
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
