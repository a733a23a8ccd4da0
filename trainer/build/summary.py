"""What would train, in lines, for `check`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from trainer import prompts
from trainer.build.data import held_out_lines, split_of
from trainer.build.pace import pace_of
from trainer.config import BaseConfig
from trainer.data.plan import Plan
from trainer.data.scan import scan
from trainer.reports import noise_warning


def summary(config: BaseConfig) -> list[str]:
    """What would train, for `check`: reads headers and captions, loads no weights."""
    scanned = scan(config.datasets, config.general, config.data, config_dir=Path.cwd())
    split = split_of(config, scanned, scanned.rendering.cell)
    dataset = split.training
    plan = Plan(dataset, config.run.seed)
    pace = pace_of(config, plan, 1)
    pictures = prompts.requests(config.samples)
    sizes = Counter(item.target for item in dataset.items)
    return [
        *dataset.notes,
        *held_out_lines(config, split),
        *(f"{skipped.path}: skipped: {skipped.reason}" for skipped in dataset.skipped),
        *(f"bucket {width}x{height}: {count} images" for (width, height), count in sorted(sizes.items())),
        f"{len(dataset.items)} images, {plan.samples_per_epoch} samples in {plan.batches_per_epoch} batches per epoch",
        f"{pace.steps} steps, {pace.steps * pace.accumulation / plan.batches_per_epoch:.1f} epochs",
        *([f"{len(pictures)} samples each time"] if pictures else ()),
        *noise_warning.warnings_before_encoding(config.noise.stages(), dataset, accumulation=pace.accumulation),
    ]
