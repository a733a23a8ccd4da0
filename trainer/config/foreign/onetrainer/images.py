"""OneTrainer's concepts as tables of images, and its samples as prompts with flags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.config.foreign import files
from trainer.config.foreign.outcome import Outcome, changed, missing, unneeded
from trainer.config.foreign.values import BadValueError, Values

SAMPLERS = {
    "DDIM": "ddim", "EULER": "euler", "EULER_A": "euler_a", "EULER_KARRAS": "k_euler", "DPMPP": "dpmsolver++",
    "DPMPP_KARRAS": "dpmsolver++", "DPMPP_SDE": "dpmsolver++", "DPMPP_SDE_KARRAS": "dpmsolver++",
    "UNIPC": "dpmsolver++", "UNIPC_KARRAS": "dpmsolver++",
}  # fmt: skip
LABEL = "-masklabel.png"  # behind an image's name: its mask
_CHANGES = ("rotate", "brightness", "contrast", "saturation", "hue")
_SWITCHES = ("flip_aug", "shuffle_caption", "prior_prediction")
_NOTE = (
    "[[datasets]]: the crop's place is the middle here, and every image trains in each epoch; of a caption file with "
    "several lines one is drawn"
)


def concepts(values: Values) -> list[Mapping[str, Any]]:
    found = values.context.tables.get("concepts")
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def tables(values: Values) -> dict[str, Any]:
    """Every concept that is switched on as a dataset; those of validation apart."""
    on = [one for one in concepts(values) if one.get("enabled", True)]
    training = [_dataset(one, values) for one in on if not _is_validation(one)]
    held_out = [_dataset(one, values) for one in on if _is_validation(one)]
    sets: dict[str, Any] = {"datasets": training} if training else {}
    if held_out and values.flag("validation"):
        sets["validation.datasets"] = held_out
    return sets


def _is_validation(concept: Mapping[str, Any]) -> bool:
    return concept.get("type") == "VALIDATION" or bool(concept.get("validation_concept"))


def outcome(values: Values, name: str) -> Outcome:
    """concepts, concept_file_name."""
    if not concepts(values):
        if name == "concepts":
            return unneeded("not set")
        return changed({}, f"{values.text(name)!r} cannot be read now: name the folders in [[datasets]]")
    if problems := list(_problems(values)):
        return missing("; ".join(problems))
    return changed(tables(values), _NOTE)


def _dataset(concept: Mapping[str, Any], values: Values) -> dict[str, Any]:
    image = concept.get("image") or {}
    found: dict[str, Any] = {}
    if image.get("enable_resolution_override"):
        found["resolution"] = resolution_of("resolution_override", str(image.get("resolution_override", "")))
    subsets = [_subset(path, concept) | _masks(path, values) for path in _folders(concept, values)]
    return found | {"subsets": subsets}


def _masks(path: str, values: Values) -> dict[str, Any]:
    """Masks beside the images, where there are any: without one all of an image counts, there."""
    if not values.flag("masked_training") or not files.holds(values.context.folder, path, LABEL):
        return {}
    return {"conditioning_data_dir": path, "mask_outside": values.number("unmasked_weight") or 0.0}


def masked(values: Values, name: str) -> Outcome:
    if not values.flag("masked_training"):
        return unneeded("off" if name == "masked_training" else "without masked_training")
    return changed(tables(values), "masks beside images count; a folder in which only some have one is an error")


def _folders(concept: Mapping[str, Any], values: Values) -> list[str]:
    """The concept's folder, with those below it where it asks for them."""
    path = str(concept.get("path", ""))
    if not concept.get("include_subdirectories"):
        return [path]
    return files.with_images_below(values.context.folder, path)


def _subset(path: str, concept: Mapping[str, Any]) -> dict[str, Any]:
    image, text = concept.get("image") or {}, concept.get("text") or {}
    found: dict[str, Any] = {"image_dir": path, "caption_extension": ".txt", "enable_wildcard": True}
    repeats = concept.get("balancing", concept.get("repeats", 1))
    found |= {
        "num_repeats": max(1, round(float(repeats))),
        "loss_weight": float(concept.get("loss_weight", 1)),
        "flip_aug": bool(image.get("enable_random_flip")),
        "shuffle_caption": bool(text.get("enable_tag_shuffling")),
        "prior_prediction": concept.get("type") == "PRIOR_PREDICTION",
    }
    if found["shuffle_caption"]:
        found |= {
            "caption_separator": text.get("tag_delimiter", ","),
            "keep_tokens": int(text.get("keep_tags_count", 1)),
        }
    if text.get("tag_dropout_enable"):
        name = "caption_dropout_rate" if text.get("tag_dropout_mode") == "FULL" else "caption_tag_dropout_rate"
        found[name] = float(text.get("tag_dropout_probability", 0))
    usual = {"num_repeats": 1, "loss_weight": 1.0, **dict.fromkeys(_SWITCHES, False)}
    return {key: value for key, value in found.items() if value != usual.get(key, ...)}


def _problems(values: Values) -> Iterator[str]:
    """What a concept asks for and is not here."""
    for place, concept in enumerate(concepts(values)):
        if not concept.get("enabled", True):
            continue
        where = f"concept {concept.get('name') or concept.get('path') or place!r}"
        yield from (f"{where}: {what}" for what in _unknown(concept, values))


def _unknown(concept: Mapping[str, Any], values: Values) -> Iterator[str]:
    image, text = concept.get("image") or {}, concept.get("text") or {}
    if concept.get("balancing_strategy") == "SAMPLES":
        yield "a number of samples for each epoch is not here; repeats are"
    if float(concept.get("balancing", concept.get("repeats", 1))) % 1:
        yield "repeats are whole numbers here"
    if concept.get("include_subdirectories") and files.found(values.context.folder, str(concept.get("path"))) is None:
        yield "folders below it cannot be listed now: name each in [[datasets.subsets]]"
    if changes := [n for n in _CHANGES if image.get(f"enable_random_{n}") or image.get(f"enable_fixed_{n}")]:
        yield f"images are not changed in {', '.join(changes)} here"
    if image.get("enable_fixed_flip"):
        yield "images are mirrored at random only"
    if (source := text.get("prompt_source", "sample")) != "sample":
        yield f"captions stand in files beside the images here, not in {source}"
    if text.get("tag_dropout_enable") and text.get("tag_dropout_mode") == "RANDOM WEIGHTED":
        yield "tags are dropped with one rate, or tag_weights"
    if text.get("tag_dropout_enable") and text.get("tag_dropout_special_tags_mode", "NONE") != "NONE":
        yield "special tags are told by tag_weights here"
    if text.get("caps_randomize_enable"):
        yield "capitals are not changed here"


def resolution_of(name: str, text: str) -> int | list[int]:
    """ "512" or "1024x768" (width, height). Raises BadValueError for several, which no dataset has here."""
    try:
        sides = [int(side) for side in text.lower().replace(" ", "").split("x")]
    except ValueError:
        raise BadValueError(name, text, "one size: an image has one resolution in a dataset here") from None
    return sides[0] if len(set(sides)) == 1 else sides


def resolution(values: Values, name: str) -> Outcome:
    found = values.text(name)
    if "," in found:
        return missing("an image has one resolution in a dataset here, not one drawn from a list")
    size = resolution_of(name, found)
    return (
        changed({"general.resolution": size}, "")
        if isinstance(size, list)
        else Outcome("carried", {"general.resolution": size})
    )


def buckets(values: Values, name: str) -> Outcome:
    """aspect_ratio_bucketing: aspects from 1:4 to 4:1 at the same area."""
    if not values.flag(name):
        return Outcome("carried", {"general.enable_bucket": False})
    found = values.text("resolution")
    side = resolution_of("resolution", found.split(",")[0])
    longest = max(side) if isinstance(side, list) else side
    sets = {
        "general.enable_bucket": True,
        "general.min_bucket_reso": longest // 2,
        "general.max_bucket_reso": longest * 2,
        "general.bucket_reso_steps": 64 if values.context.family == "sdxl" else 8,
    }
    return changed(sets, "sides between half and twice the resolution, as its list of aspects comes to")


def caption_dropout(values: Values, name: str) -> Outcome | float | None:
    """text_encoder.dropout_probability: of captions, for each text encoder alone."""
    found = values.number(name) or 0.0
    if not found:
        return unneeded("off")
    if values.context.family != "sdxl":
        return Outcome("carried", {"general.caption_dropout_rate": found})
    both = {values.number(f"{part}.dropout_probability") or 0.0 for part in ("text_encoder", "text_encoder_2")}
    if len(both) > 1:
        return missing("a caption is dropped for both text encoders here")
    return changed({"general.caption_dropout_rate": found}, "for both text encoders at once here")


def samples(values: Values) -> list[Mapping[str, Any]]:
    found = values.context.tables.get("samples")
    listed: Sequence[Any] = found if isinstance(found, list) else []
    return [one for one in listed if isinstance(one, Mapping) and one.get("enabled", True) and one.get("prompt")]


def prompts(values: Values, name: str) -> Outcome:
    """samples, sample_definition_file_name."""
    if not samples(values):
        return unneeded("no prompts, or the file cannot be read now" if name != "samples" else "not set")
    return changed({"samples.prompts": [_prompt(one) for one in samples(values)]}, "prompts with kohya's flags")


def _prompt(sample: Mapping[str, Any]) -> str:
    flags = {
        "n": sample.get("negative_prompt"),
        "w": sample.get("width"),
        "h": sample.get("height"),
        "d": None if sample.get("random_seed") else sample.get("seed"),
        "s": sample.get("diffusion_steps"),
        "l": sample.get("cfg_scale"),
        "ss": SAMPLERS.get(str(sample.get("noise_scheduler"))),
    }
    told = [f" --{flag} {value}" for flag, value in flags.items() if value not in (None, "")]
    return " ".join(str(sample["prompt"]).split()) + "".join(told)
