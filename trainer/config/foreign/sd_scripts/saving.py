"""What sd-scripts saves, draws and measures on the way."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.sd_scripts.rates import is_lora
from trainer.config.foreign.values import Values

_NO_NAME = '<>:"/\\|?*'  # what a folder's name cannot hold


def epochs(number: float) -> str:
    return f"{number:g} epoch{'' if number == 1 else 's'}"


def _every(values: Values, what: str) -> int | str:
    """Epochs win over steps for samples; for saves and measurements, where both count, they stand for both."""
    by_epochs = values.whole(f"{what}_every_n_epochs") or 0
    return epochs(by_epochs) if by_epochs > 0 else max(0, values.whole(f"{what}_every_n_steps") or 0)


def interval(values: Values, key: str) -> Outcome | int | str:
    """save_every_n_epochs and its like."""
    if (values.whole(key) or 0) <= 0:
        return unneeded("off")
    what = key.partition("_")[0]
    every = _saves(values) if what == "save" else _every(values, what)
    if key.endswith("_steps") and isinstance(every, str):
        return unneeded("one interval counts here: that in epochs")
    return every


def _saves(values: Values) -> int | str:
    ratio, total = values.whole("save_n_epoch_ratio") or 0, values.whole("max_train_epochs") or 0
    if ratio > 0 and total:
        return epochs(max(1, total // ratio))
    return max(1, (values.whole("max_train_steps") or 0) // ratio) if ratio > 0 else _every(values, "save")


def validation(values: Values) -> dict[str, Any]:
    """Nothing where nothing is held out."""
    split = values.number("validation_split") or 0
    if not 0 < split < 1:
        return {}
    found: dict[str, Any] = {"validation.split": split}
    if (seed := values.whole("validation_seed")) is not None:
        found["validation.seed"] = seed
    if every := _every(values, "validate"):
        found["validation.every"] = every
    if most := values.whole("max_validation_steps"):
        found["validation.images"] = most
    return found


def name(values: Values, key: str) -> Outcome | str | None:
    found = values.text(key)
    plain = "".join("_" if letter in _NO_NAME else letter for letter in found).strip(" .")
    if plain != found:
        return changed({"run.name": plain}, "it becomes a folder's name here")
    return found or None


def form(values: Values, key: str) -> Outcome | str | None:
    """save_model_as. A full fine-tune is saved in the form of its base unless it says otherwise."""
    found = values.text(key)
    if is_lora(values):
        return changed({}, "a LoRA is always a .safetensors file") if found in ("ckpt", "pt") else unneeded("always so")
    if found == "ckpt":
        return changed({"save.full": "file"}, "always .safetensors here")
    if found:
        return "folder" if found.startswith("diffusers") else "file"
    base = values.text("pretrained_model_name_or_path").lower()
    return "file" if base.endswith((".safetensors", ".ckpt", ".pt")) else "folder"


def log_with(values: Values, key: str) -> Outcome | None:
    found = values.text(key)
    if not found:
        return None
    sets: dict[str, Any] = {"logging.tensorboard": found in ("tensorboard", "all")}
    if found in ("wandb", "all"):
        if find_spec("wandb") is None:
            return missing("the package wandb is not installed here; then set logging.wandb = true", harmless=True)
        sets["logging.wandb"] = True
    return carried(sets)
