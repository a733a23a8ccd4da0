"""diffusers' text-to-image scripts by their command lines: their table, and what several arguments come to together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.config.foreign import accelerate, files
from trainer.config.foreign.keys import Key, Table, absent, flag, needless, number, one_of, part, positive, row, text
from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.shell.commands import Command
from trainer.config.foreign.translate import Source
from trainer.config.foreign.values import Context, Values
from trainer.errors import UserError

PROGRAM = "diffusers"
SCRIPTS = ("train_text_to_image.py", "train_text_to_image_lora.py", "train_text_to_image_sdxl.py",
           "train_text_to_image_lora_sdxl.py")  # fmt: skip
ATTENTION = ["to_q", "to_k", "to_v", "to_out", "q_proj", "k_proj", "v_proj", "out_proj"]  # what its LoRA adapts
SECRETS = ("hub_token",)
_PRECISIONS = {"no": "fp32"}


def is_lora(values: Values) -> bool:
    return "_lora" in values.context.script


def _sdxl(values: Values) -> bool:
    return values.context.family == "sdxl"


def _rate(values: Values) -> dict[str, Any]:
    """scale_lr multiplies it by all that makes a batch."""
    found = values.number("learning_rate") or 0.0
    if values.flag("scale_lr"):
        found *= _whole(values, "train_batch_size") * _whole(values, "gradient_accumulation_steps")
    trains = is_lora(values) and _sdxl(values) and values.flag("train_text_encoder")
    text_encoder = {"training.text_encoder": trains} | ({"optimizer.text_encoder_lr": found} if trains else {})
    return {"optimizer.lr": found, **text_encoder}


def _whole(values: Values, name: str) -> int:
    return values.whole(name) or 1


def _length(values: Values) -> dict[str, Any]:
    steps = values.whole("max_train_steps")
    return {"training.steps": steps} if steps else {"training.epochs": values.whole("num_train_epochs")}


def _schedule(values: Values, name: str) -> Outcome | str:
    found = values.text(name)
    if found in ("constant", "linear", "cosine", "cosine_with_restarts", "polynomial"):
        return found
    if found == "constant_with_warmup":
        return "constant"
    return missing(f"there is no schedule {found} here that is the same")


def _warmup(values: Values) -> dict[str, Any]:
    return {} if values.text("lr_scheduler") == "constant" else {"schedule.warmup": values.whole("lr_warmup_steps")}


def _optimizer(values: Values) -> dict[str, Any]:
    betas = [values.number("adam_beta1"), values.number("adam_beta2")]
    return {
        "optimizer.name": "adamw8bit" if values.flag("use_8bit_adam") else "adamw",
        "optimizer.args.betas": betas,
        "optimizer.args.weight_decay": values.number("adam_weight_decay"),
        "optimizer.args.eps": values.number("adam_epsilon"),
    }


def _adapter(values: Values) -> dict[str, Any]:
    """A LoRA of the attention alone, whose alpha is its rank."""
    rank = values.whole("rank")
    return {"lora.rank": rank, "lora.alpha": float(rank or 1), "lora.layers": ATTENTION} if is_lora(values) else {}


def _crop(values: Values, name: str) -> Outcome:
    """Squares, cut at random unless center_crop; full fine-tunes of SDXL cut each image once."""
    if values.flag(name):
        return changed({"general.enable_bucket": False, "data.latent_sampling": _sampling(values)}, "squares")
    if values.context.script == "train_text_to_image_sdxl.py":
        return changed({"data.latent_sampling": "once"}, "cut in the middle here, once at random there")
    return carried({"general.random_crop": True, "data.cache_latents": False, "data.latent_sampling": "fresh"})


def _sampling(values: Values) -> str:
    return "once" if values.context.script == "train_text_to_image_sdxl.py" else "fresh"


def _size(values: Values, name: str) -> int:
    return values.whole(name) or (1024 if _sdxl(values) else 512)


def _folder(values: Values, name: str) -> Outcome | None:
    """train_data_dir: an image folder with metadata.jsonl."""
    if not values.has(name):
        return None
    folder = values.text(name)
    found = files.found(values.context.folder, f"{folder}/metadata.jsonl")
    listed = {"metadata_file": f"{folder}/metadata.jsonl"}
    column = values.text("caption_column")
    if column != "text":
        return missing(f"captions stand under text in metadata.jsonl here, not under {column}")
    why = "" if found else "its metadata.jsonl cannot be read now"
    return changed({"datasets": [{"subsets": [{"image_dir": folder, **listed}]}]}, why)


def _prompts(values: Values, name: str) -> Outcome | None:
    found = values.given.get(name)
    if found is None:
        return None
    prompts = list(found) if isinstance(found, list) else [str(found)]
    count = _whole(values, "num_validation_images") if name == "validation_prompt" else 1
    return changed({"samples.prompts": prompts * count}, "each picture with a seed of its own")


def _drawn(values: Values, name: str) -> Outcome | str:
    if not (values.has("validation_prompt") or values.has("validation_prompts")):
        return unneeded("there are no prompts")
    count = values.whole(name) or 1
    return f"{count} epoch{'s' if count > 1 else ''}"


def _place(values: Values, name: str) -> Outcome:
    """output_dir: the run's folder."""
    folder, _, last = values.text(name).replace("\\", "/").rstrip("/").rpartition("/")
    sets = {"run.name": last} | ({"run.output_dir": folder} if folder else {})
    return changed(sets, "a run has a folder of its own") if last else unneeded("not set")


def _prediction(values: Values, name: str) -> str | None:
    return {"v_prediction": "v"}.get(values.text(name), values.text(name)) or None


def _gamma(values: Values, name: str) -> Outcome:
    found = values.number(name)
    return carried({"loss.weighting": "min_snr", "loss.gamma": found}) if found else unneeded("off")


def _average(values: Values, name: str) -> Outcome:
    if not values.flag(name):
        return unneeded("off")
    return changed({"ema.decay": 0.9999}, "what diffusers' average does unasked")


def _whole_value(values: Values, name: str) -> int | None:
    return values.whole(name)


def _only(script: str, key: Key) -> Key:
    """A key that only some scripts have; the others refuse it."""

    def how(values: Values, name: str) -> Any:
        return key.how(values, name) if script in values.context.script else unneeded("this script does not have it")

    return Key(key.name, key.ours, how, key.default, key.note)


_OPTIMIZER = (
    ("use_8bit_adam", "optimizer.name", False),
    ("adam_beta1", "optimizer.args.betas", 0.9),
    ("adam_beta2", "optimizer.args.betas", 0.999),
    ("adam_weight_decay", "optimizer.args.weight_decay", 1e-2),
    ("adam_epsilon", "optimizer.args.eps", 1e-8),
)
_BOTH = ("optimizer.lr", "optimizer.text_encoder_lr")

KEYS = Table(
    row("pretrained_model_name_or_path", "model.base", text),
    row("pretrained_vae_model_name_or_path", "model.vae", text),
    row("prediction_type", "model.prediction", _prediction),
    *absent("the hub's main revision is taken here", "revision"),
    *needless("which files of a folder are read is seen from the folder", "variant"),
    row("train_data_dir", "datasets", _folder),
    *absent("images lie in a folder here, not in a dataset of the hub", "dataset_name", "dataset_config_name"),
    *absent("the images' own names count", "image_column", default="image"),
    row("caption_column", (), lambda _values, _name: unneeded("train_data_dir says it"), "text"),
    *absent("a dataset trains whole here", "max_train_samples"),
    row("resolution", "general.resolution", _size),
    row("center_crop", ("general.random_crop", "data.cache_latents"), _crop, False),
    row("random_flip", "general.flip_aug", flag, False),
    row("image_interpolation_mode", "general.resize_interpolation", text, "lanczos"),
    row("train_batch_size", "general.batch_size", _whole_value, 16),
    row("proportion_empty_prompts", "general.caption_dropout_rate", number, 0.0),
    part("num_train_epochs", "training.epochs", _length, 100, "max_train_steps comes first"),
    part("max_train_steps", "training.steps", _length),
    row("gradient_accumulation_steps", "training.gradient_accumulation", _whole_value, 1),
    row("gradient_checkpointing", "training.gradient_checkpointing", flag, False),
    part("learning_rate", _BOTH, _rate, 1e-4),
    part("scale_lr", _BOTH, _rate, False),
    part("train_text_encoder", "training.text_encoder", _rate, False),
    row("lr_scheduler", "schedule.name", _schedule, "constant"),
    part("lr_warmup_steps", "schedule.warmup", _warmup, 500, "this lr_scheduler does not use it"),
    *(part(name, ours, _optimizer, default) for name, ours, default in _OPTIMIZER),
    row("max_grad_norm", "training.max_grad_norm", number, 1.0),
    row("mixed_precision", "training.precision", one_of(_PRECISIONS), "no"),
    row("allow_tf32", "performance.tf32", lambda values, name: "on" if values.flag(name) else "auto", False),
    _only("_lora", part("rank", ("lora.rank", "lora.alpha", "lora.layers"), _adapter, 4)),
    row("snr_gamma", ("loss.weighting", "loss.gamma"), _gamma),
    row("noise_offset", "noise.offset.strength", positive, 0),
    row("input_perturbation", "noise.perturbation.gamma", positive, 0),
    *absent("DREAM is not here", "dream_training"),
    *needless("for dream_training", "dream_detail_preservation"),
    *absent("timesteps.distribution tells how often each is drawn", "timestep_bias_strategy", default="none"),
    *needless("for timestep_bias_strategy", "timestep_bias_multiplier", "timestep_bias_begin", "timestep_bias_end",
              "timestep_bias_portion"),
    row("use_ema", "ema.decay", _average, False),
    *needless("how the average is mixed", "offload_ema", "foreach_ema", "non_ema_revision"),
    row("seed", "run.seed", _whole_value),
    row("output_dir", ("run.name", "run.output_dir"), _place),
    row("checkpointing_steps", "save.every", _whole_value, 500),
    row("checkpoints_total_limit", "save.keep", _whole_value),
    *absent("its checkpoints cannot be continued here", "resume_from_checkpoint"),
    row("validation_prompt", "samples.prompts", _prompts),
    row("validation_prompts", "samples.prompts", _prompts),
    *needless("validation_prompt is drawn as often", "num_validation_images"),
    row("validation_epochs", "samples.every", _drawn),
    row("dataloader_num_workers", "data.workers", _whole_value),
    *absent("nothing is uploaded here", "push_to_hub", "hub_token", "hub_model_id", harmless=True),
    *needless("logs lie in the run's folder", "logging_dir", "report_to", "tracker_project_name", "debug_loss"),
    *needless("attention always runs through torch's scaled dot product",
              "enable_xformers_memory_efficient_attention", "enable_npu_flash_attention"),
    *needless("how it runs, not what it learns", "cache_dir", "local_rank", "script", "config"),
)  # fmt: skip


def of_command(command: Command, folder: Path) -> Source:
    """Raises UserError for a script that is not one of those for text to image."""
    script = command.script.replace("\\", "/").rpartition("/")[2]
    if script not in SCRIPTS:
        raise UserError(f"{script}: of diffusers' scripts those for text to image are known: {', '.join(SCRIPTS)}.")
    family = "sdxl" if script.endswith("_sdxl.py") else "sd"
    given = dict(command.arguments)
    launched = command.launcher.get("mixed_precision")
    told = {"script": changed({}, "the base's family, and whether it is a LoRA"), **accelerate.told(command.launcher)}
    if launched and "mixed_precision" not in given:
        given["mixed_precision"] = launched
        told["accelerate --mixed_precision"] = carried({"training.precision": launched})
    raw = {"script": script, **accelerate.values(command.launcher), **command.arguments}
    implied = {"model.family": family, "training.method": "lora" if "_lora" in script else "full"}
    return Source(PROGRAM, f"a command line of {script}", KEYS, given, Context(folder, script, family), told=told,
                  raw=raw, secrets=SECRETS, implied={**implied, "save.dtype": "fp32"})  # fmt: skip
