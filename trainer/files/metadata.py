"""The header of the files that are made: kohya's ss_ keys and Stability's modelspec keys, from plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

SETTINGS = "immiscible_settings"  # all of them, as trainer.config.in_headers writes them
_ORIGINAL = "https://github.com/Stability-AI/generative-models"  # whose names one-file checkpoints carry


@dataclass(frozen=True)
class TrainingFacts:
    """What is told about a training run. No absolute path and no secret: these files are shared.

    Names of files and folders are base names; `tag_frequency` maps a folder to its tags and their counts,
    `dataset_dirs` a folder to (repeats, images).
    """

    output_name: str
    base_version: str  # kohya's ss_base_model_version, e.g. "sd_v1"
    architecture: str  # of the base, in Stability's words: "stable-diffusion-v1"
    prediction: str  # the objective's modelspec_name
    rank: int
    alpha: float
    seed: int
    learning_rate: float
    optimizer: str  # e.g. "torch.optim.AdamW(weight_decay=0.01)"
    steps: int  # done so far
    max_steps: int
    epoch: int
    resolution: tuple[int, int]  # width, height
    conv_rank: int = 0
    conv_alpha: float = 1.0
    network_module: str = "networks.lora"  # whose reader understands the file, which is what other tools look here for
    network_args: Mapping[str, str] = field(default_factory=dict)  # by which they know the kind of adapter
    text_encoder_lr: float | None = None
    unet_lr: float | None = None
    batch_size: int = 1
    gradient_accumulation: int = 1
    images: int = 0  # with repeats
    batches_per_epoch: int = 0
    implementation: str = "diffusers"  # whose names the modules carry, in Stability's words
    trigger: str = ""  # the words that call what was learned
    comment: str = ""
    base_name: str = ""
    started_at: float = 0.0  # Unix time
    finished_at: float = 0.0
    tag_frequency: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    dataset_dirs: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)  # more ss_ keys, e.g. {"ss_lr_scheduler": "cosine"}


def lora_metadata(facts: TrainingFacts) -> dict[str, str]:
    """Everything as text, the way kohya writes it: None as "None", booleans as "True", structures as JSON."""
    values = {**_core(facts), **_network(facts), **_dataset(facts), **facts.extra, **_model_spec(facts)}
    return {key: value if isinstance(value, str) else str(value) for key, value in values.items()}


def checkpoint_metadata(
    *, output_name: str, architecture: str, prediction: str, resolution: tuple[int, int], finished_at: float
) -> dict[str, str]:
    """The header of a whole model in one file: Stability's keys."""
    return _standard(output_name, architecture, _ORIGINAL, prediction, resolution, finished_at)


def _core(facts: TrainingFacts) -> dict[str, object]:
    return {
        "ss_output_name": facts.output_name,
        "ss_training_comment": facts.comment or None,
        "ss_training_started_at": facts.started_at,
        "ss_training_finished_at": facts.finished_at,
        "ss_learning_rate": facts.learning_rate,
        "ss_unet_lr": facts.unet_lr,
        "ss_text_encoder_lr": facts.text_encoder_lr,
        "ss_max_train_steps": facts.max_steps,
        "ss_num_epochs": -(-facts.max_steps // max(1, facts.batches_per_epoch)) if facts.batches_per_epoch else None,
        "ss_steps": facts.steps,
        "ss_epoch": facts.epoch,
        "ss_gradient_accumulation_steps": facts.gradient_accumulation,
        "ss_v2": "_v2" in facts.base_version,
        "ss_base_model_version": facts.base_version,
        "ss_sd_model_name": facts.base_name or None,
        "ss_seed": facts.seed,
        "ss_optimizer": facts.optimizer,
    }


def _network(facts: TrainingFacts) -> dict[str, object]:
    arguments = {"conv_dim": str(facts.conv_rank), "conv_alpha": str(facts.conv_alpha)} if facts.conv_rank else {}
    arguments |= facts.network_args
    return {
        "ss_network_module": facts.network_module,
        "ss_network_dim": facts.rank,
        "ss_network_alpha": facts.alpha,
        **({"ss_network_args": json.dumps(arguments)} if arguments else {}),
    }


def _dataset(facts: TrainingFacts) -> dict[str, object]:
    folders = {
        name: {"n_repeats": repeats, "img_count": images} for name, (repeats, images) in facts.dataset_dirs.items()
    }
    tags = {name: dict(counts) for name, counts in facts.tag_frequency.items()}
    return {
        "ss_num_train_images": facts.images,
        "ss_num_batches_per_epoch": facts.batches_per_epoch,
        "ss_batch_size_per_device": facts.batch_size,
        "ss_total_batch_size": facts.batch_size * facts.gradient_accumulation,
        "ss_resolution": facts.resolution,
        "ss_dataset_dirs": json.dumps(folders),
        "ss_tag_frequency": json.dumps(tags),
    }


def _model_spec(facts: TrainingFacts) -> dict[str, str]:
    trigger = {"modelspec.trigger_phrase": facts.trigger} if facts.trigger else {}
    comment = {"modelspec.description": facts.comment} if facts.comment else {}
    architecture = f"{facts.architecture}/lora"
    standard = _standard(
        facts.output_name, architecture, facts.implementation, facts.prediction, facts.resolution, facts.finished_at
    )
    return {**standard, **trigger, **comment}


def _standard(
    title: str, architecture: str, implementation: str, prediction: str, resolution: tuple[int, int], finished_at: float
) -> dict[str, str]:
    """Stability's model metadata standard, version 1.0.1."""
    finished = datetime.fromtimestamp(finished_at).replace(microsecond=0)
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": implementation,
        "modelspec.title": title,
        "modelspec.date": finished.isoformat(),
        "modelspec.resolution": "x".join(map(str, resolution)),
        "modelspec.prediction_type": prediction,
    }
