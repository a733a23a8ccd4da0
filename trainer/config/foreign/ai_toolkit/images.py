"""ai-toolkit's datasets as tables of images: one for each of a dataset's resolutions."""

from __future__ import annotations

from typing import Any

from trainer.config.foreign import files
from trainer.config.foreign.ai_toolkit import words
from trainer.config.foreign.outcome import Outcome, changed, missing, unneeded
from trainer.config.foreign.values import Values

_SAME = {
    "num_repeats": "num_repeats",
    "caption_dropout_rate": "caption_dropout_rate",
    "shuffle_tokens": "shuffle_caption",
    "keep_tokens": "keep_tokens",
    "token_dropout_rate": "caption_tag_dropout_rate",
    "flip_x": "flip_aug",
    "is_reg": "is_reg",
    "loss_multiplier": "loss_weight",
    "default_caption": "class_tokens",
    "alpha_mask": "alpha_mask",
    "mask_path": "conditioning_data_dir",
    "mask_min_value": "mask_outside",
}
TAKEN = (*_SAME, "folder_path", "dataset_path", "caption_ext", "caption_type", "resolution", "batch_size", "buckets",
         "bucket_tolerance", "trigger_word", "cache_latents", "cache_latents_to_disk", "random_crop")  # fmt: skip


def datasets(values: Values) -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for name, value in values.under("datasets.").items():
        place, _, key = name.partition(".")
        found.setdefault(int(place), {})[key] = value
    return [found[place] for place in sorted(found)]


def tables(values: Values) -> dict[str, Any]:
    made = [_table(about, size, values) for about in datasets(values) for size in _sizes(about)]
    return {"datasets": made} if made else {}


def cache(values: Values) -> dict[str, Any]:
    """Cached latents are one sample of the posterior there; uncached ones a fresh sample each time."""
    if not datasets(values):
        return {}
    cached = [bool(a.get("cache_latents") or a.get("cache_latents_to_disk")) for a in datasets(values)]
    sampling = {"data.latent_sampling": "once" if all(cached) else "fresh"}
    disk = any(about.get("cache_latents_to_disk") for about in datasets(values))
    cropped = any(about.get("random_crop") for about in datasets(values))
    return {"data.cache_to_disk": disk, "data.cache_latents": not cropped, **sampling}


def _sizes(about: dict[str, Any]) -> list[int]:
    found = about.get("resolution", 512)
    return [int(size) for size in (found if isinstance(found, list) else [found])]


def _table(about: dict[str, Any], size: int, values: Values) -> dict[str, Any]:
    usual = values.whole("train.batch_size") or 1
    table: dict[str, Any] = {"resolution": size, "batch_size": int(about.get("batch_size") or usual)}
    if about.get("buckets", True):
        step = int(about.get("bucket_tolerance", 64))
        table |= {"enable_bucket": True, "min_bucket_reso": max(step, size // 4), "max_bucket_reso": size * 4}
        table["bucket_reso_steps"] = max(8, step)
    path = str(about.get("folder_path") or about.get("dataset_path") or "")
    return table | {
        "subsets": [_subset(folder, about, values) for folder in files.with_images_below(values.context.folder, path)]
    }


def _subset(folder: str, about: dict[str, Any], values: Values) -> dict[str, Any]:
    extension = str(about.get("caption_type") or about.get("caption_ext") or ".txt")
    found: dict[str, Any] = {
        "image_dir": folder,
        "caption_extension": extension if extension.startswith(".") else f".{extension}",
    }
    if about.get("random_crop"):
        found["random_crop"] = True
    trigger = about.get("trigger_word") or values.text("trigger_word") or words.trigger(values)
    if trigger:
        found["trigger"] = trigger
    return found | {ours: about[name] for name, ours in _SAME.items() if about.get(name) not in (None, "", False, 0)}


def option(values: Values, name: str) -> Outcome:
    """Any key of a dataset that has a counterpart."""
    value = values[name]
    if value is None or value is False:
        return unneeded("off")
    key = name.rpartition(".")[2]
    notes = {
        "trigger_word": "stands first in every caption here; [trigger] inside a caption is not replaced",
        "resolution": "a dataset for each resolution",
        "folder_path": "with the folders below it that hold images now",
    }
    sets = cache(values) if key.startswith("cache") else tables(values)
    return changed(sets | (cache(values) if key == "folder_path" else {}), notes.get(key, ""))


def trigger(values: Values, name: str) -> Outcome:
    if not values.has(name):
        return unneeded("not set")
    return changed(tables(values), "stands first in every caption here; [trigger] inside a caption is not replaced")


def batch(values: Values, _name: str) -> Outcome:
    return changed(tables(values), "stands in each dataset here") if tables(values) else unneeded("there are no images")


def whole_prompt_dropout(values: Values, name: str) -> Outcome:
    found = values.number(name) or 0
    return missing("captions are dropped by caption_dropout_rate of their images here") if found else unneeded("off")
