"""sd-scripts' images: a dataset file, folders with repeats in their names, or a metadata file; caches, sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.config.foreign.keys import How, Key
from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.sd_scripts import anima
from trainer.config.foreign.values import BadValueError, Values

DATASET_FILE = "dataset_config"
_AUGMENTED = ("color_aug", "random_crop")
PLACEHOLDER = "images"  # a folder to be named by hand


def tables(values: Values) -> Mapping[str, Any]:
    """The content of the dataset file, {} without one."""
    found = values.context.tables.get(DATASET_FILE)
    return found if isinstance(found, Mapping) else {}


def option(name: str, how: How, default: Any = None, ours: str = "") -> Key:
    """An option of images, which counts where the dataset file says nothing."""
    key = ours or name

    def look(values: Values, name: str) -> Outcome:
        if key in tables(values).get("general", {}):
            return unneeded("the dataset file says it in [general], which comes first")
        found = how(values, name)
        if isinstance(found, Outcome):
            return found
        return unneeded("not set") if found is None else carried({f"general.{key}": found})

    return Key(name, (f"general.{key}",), look, default)


def size(values: Values, name: str) -> int | list[int] | None:
    """ "512", "512,768" (width, height) or numbers."""
    words = values.words(name)
    try:
        sides = [int(float(word)) for word in words]
    except (TypeError, ValueError):
        raise BadValueError(name, values[name], "a side, or width,height") from None
    if len(sides) > 2:
        raise BadValueError(name, values[name], "a side, or width,height")
    return None if not sides else sides[0] if len(set(sides)) == 1 else sides


def step(values: Values, name: str) -> Outcome | int | None:
    """bucket_reso_steps: latents have a pixel for 8 x 8 of the image."""
    found = values.whole(name)
    if found is not None and found < 8:
        return changed({f"general.{name}": 8}, "the least that latents allow; newer sd-scripts refuses it")
    return found


def extension(values: Values, name: str) -> str | None:
    found = values.text("caption_extention") or values.text(name)  # both spellings are read, the older one first
    return None if not found else found if found.startswith(".") else f".{found}"


def faces(values: Values, name: str) -> Outcome | list[float] | None:
    words = values.words(name)
    if words and is_cached(values):
        return unneeded("without effect on cached latents, there")
    return [float(word) for word in words] or None


def is_cached(values: Values) -> bool:
    return values.flag("cache_latents") or values.flag("cache_latents_to_disk")


def _is_augmented(values: Values) -> bool:
    """Whether every presentation of an image is another one."""
    if any(values.flag(name) for name in _AUGMENTED) or values.words("face_crop_aug_range"):
        return True
    found = tables(values)
    levels = [found.get("general", {}), *found.get("datasets", [])]
    levels += [subset for level in found.get("datasets", []) for subset in level.get("subsets", [])]
    return any(level.get(name) for level in levels for name in (*_AUGMENTED, "face_crop_aug_range"))


def cache(values: Values) -> dict[str, Any]:
    """Cached latents are one sample of the posterior there, uncached ones a fresh one each time; Anima's its mean."""
    if anima.is_anima(values):
        return {**_cached(values), "data.latent_sampling": "mean"}
    return _cached(values)


def _cached(values: Values) -> dict[str, Any]:
    if is_cached(values):
        to_disk = values.flag("cache_latents_to_disk") or values.flag("cache_text_encoder_outputs_to_disk")
        return {"data.cache_latents": True, "data.latent_sampling": "once", "data.cache_to_disk": to_disk}
    return {"data.cache_latents": not _is_augmented(values), "data.latent_sampling": "fresh"}


def images(values: Values) -> dict[str, Any]:
    """Where the images are."""
    if tables(values):
        return _from_file(values)
    folder = values.text("train_data_dir")
    if not folder:
        return {}
    masked = {"alpha_mask": True} if values.flag("alpha_mask") else {}
    if values.has("in_json") and values.context.script != "train_db.py":
        subset = {"image_dir": folder, "metadata_file": values.text("in_json"), **masked}
        return {"datasets": [{"subsets": [subset]}]}
    if masked:
        found = _subsets(values, "train_data_dir", False) + _subsets(values, "reg_data_dir", True)
        return {"datasets": [{"subsets": found}]} if found else {}
    regular = values.text("reg_data_dir")
    return {"data.train_data_dir": folder} | ({"data.reg_data_dir": regular} if regular else {})


def _from_file(values: Values) -> dict[str, Any]:
    """The dataset file's tables. What [general] says there is [general] here; transparency masks stand in subsets."""
    found = tables(values)
    sets = {f"general.{key}": value for key, value in found.get("general", {}).items()}
    datasets = [dict(table) for table in found.get("datasets", [])]
    if values.flag("alpha_mask"):
        for table in datasets:
            table["subsets"] = [{"alpha_mask": True, **subset} for subset in table.get("subsets", [])]
    return sets | {"datasets": datasets}


def _subsets(values: Values, name: str, is_reg: bool) -> list[dict[str, Any]]:
    """The folders 10_name in a folder, as tables; [] where it cannot be read."""
    folder = values.context.folder / values.text(name)
    if not values.has(name) or not folder.is_dir():
        return []
    found = []
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        repeats, _, tokens = inner.name.partition("_")
        if repeats.isdecimal() and int(repeats):
            path = f"{values.text(name).rstrip('/')}/{inner.name}"
            table = {"image_dir": path, "num_repeats": int(repeats), "class_tokens": tokens, "alpha_mask": True}
            found.append(table | ({"is_reg": True} if is_reg else {}))
    return found


def dataset_file(values: Values, _name: str) -> Outcome | None:
    if not tables(values):
        return None
    return changed(images(values), "its tables stand in the new file")


def where(values: Values, name: str) -> Outcome | None:
    """train_data_dir, reg_data_dir, in_json."""
    if not values.has(name):
        return None
    if tables(values):
        return unneeded("the dataset file takes its place")
    if name == "in_json" and values.context.script == "train_db.py":
        return unneeded("train_db.py does not read it")
    found = images(values)
    if name == "reg_data_dir" and "data.reg_data_dir" not in found and "datasets" not in found:
        return unneeded("not read together with a metadata file")
    return carried({k: v for k, v in found.items() if k in ("datasets", f"data.{name}")})


def alpha_mask(values: Values, name: str) -> Outcome:
    if not values.flag(name):
        return unneeded("off")
    found = images(values)
    if "datasets" not in found:
        return missing(f"stands in each folder's table here, and {values.text('train_data_dir')!r} cannot be read now")
    return changed(found, "stands in each folder's table here")
