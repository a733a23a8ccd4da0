"""Names of keys and sections in the words that users of other trainers know; the rest is made from the key itself."""

from __future__ import annotations

from collections.abc import Callable

from trainer import registry

LABELS = {
    "run.name": "Run name",
    "run.output_dir": "Output folder",
    "model.base": "Base model",
    "model.vae": "VAE override",
    "training.method": "Train",
    "training.max_grad_norm": "Clip gradient norm",
    "training.max_grad_value": "Clip gradient values",
    "lora.max_norm": "Scale weight norms",
    "training.unet": "Train UNet",
    "training.text_encoder": "Train text encoder",
    "lora.rank": "LoRA rank",
    "lora.alpha": "LoRA alpha",
    "optimizer.name": "Optimizer",
    "optimizer.lr": "Learning rate",
    "optimizer.text_encoder_lr": "Text encoder learning rate",
    "schedule.name": "Learning rate schedule",
    "noise.oversampling.k": "Noise Oversampling (k)",
    "noise.offset.strength": "Offset Noise Weight",
    "noise.offset.time_dependent": "Generalized Offset Noise",
    "noise.perturbation.gamma": "Perturbation Noise Weight",
    "noise.pyramid.iterations": "Pyramid Noise Levels",
    "noise.pyramid.discount": "Pyramid Noise Discount",
    "noise.assignment": "Assignment",
    "noise.matched.k": "Imitated candidates (k)",
    "timesteps.distribution": "Timestep Distribution",
    "timesteps.min": "Min Noising Strength (timestep)",
    "timesteps.max": "Max Noising Strength (timestep)",
    "timesteps.mean": "Noising Bias (mean)",
    "timesteps.std": "Noising Weight (width)",
    "timesteps.shift": "Timestep Shift",
    "datasets[].resolution": "Resolution",
    "datasets[].batch_size": "Batch size",
    "datasets[].enable_bucket": "Keep aspect ratios (buckets)",
    "datasets[].subsets[].image_dir": "Image folder",
    "datasets[].subsets[].trigger": "Trigger word",
    "datasets[].subsets[].num_repeats": "Repeats",
    "datasets[].subsets[].caption_extension": "Caption files",
}

SECTIONS = {
    "run": "Run",
    "lora": "LoRA",
    "ema": "EMA",
    "general": "All datasets",
    "datasets[]": "Dataset",
    "datasets[].subsets[]": "Folder",
    "noise.oversampling": "Noise Oversampling",
    "noise.offset": "Offset noise",
    "noise.perturbation": "Perturbation",
    "noise.pyramid": "Pyramid (multi-resolution) noise",
    "noise.assignment": "Assignment",
    "noise.matched": "Matched control",
    "timesteps": "Timesteps",
}

_CAPITALS = {"lora", "vae", "snr", "lr", "ema", "unet", "v", "l2"}


def plain_label(name: str) -> str:
    """gradient_accumulation -> Gradient accumulation; text_encoder_lr -> Text encoder LR"""
    words = [word.upper() if word in _CAPITALS else word for word in name.split("_")]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def section_label(section: str) -> str:
    return SECTIONS.get(section) or plain_label(section.rpartition(".")[2])


def _families() -> tuple[str, ...]:
    return ("auto", *registry.names("models"))


def _predictions() -> tuple[str, ...]:
    return ("auto", *registry.names("objectives"))


SUGGESTIONS: dict[str, Callable[[], tuple[str, ...]]] = {
    "model.family": _families,
    "model.prediction": _predictions,
    "optimizer.name": lambda: ("adamw", "adamw8bit", "sgd", "Lion", "Prodigy", "CAME", "Adafactor"),
    "datasets[].subsets[].caption_extension": lambda: (".txt", ".caption"),
    "general.caption_extension": lambda: (".txt", ".caption"),
}
