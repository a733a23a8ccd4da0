"""The rules between keys: what must be given, what excludes what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, time
from importlib.util import find_spec

from pydantic import BaseModel, ValidationError

from trainer import registry
from trainer.config import consistency_rules
from trainer.config.errors import shown
from trainer.config.schema.data import DatasetOptions, DatasetSettings, effective
from trainer.config.schema.lora import METHODS
from trainer.config.schema.slider import PromptPair, SliderSettings, SliderTarget
from trainer.config.schema.whole import BaseConfig
from trainer.errors import UserError

FORBIDDEN = '<>:"/\\|?*'  # in names of files, by Windows
_WORD = re.compile(r"[\w-]+")  # that other programs can know an embedding by
OWN_RANDOMNESS = ("kron",)  # optimizers
LONGEST_NAME = 150  # bytes: files get longer names than the run


def problems_between(config: BaseConfig) -> list[str]:
    """Every broken rule as "dotted.path: what is wrong"."""
    rules = (
        _required,
        _exclusions,
        _slider,
        _adapters,
        _embeddings,
        consistency_rules.problems,
        _kernels,
        _small_base,
        _updates,
        _plugins,
        _ranges,
    )
    return [line for rule in rules for line in rule(config)]


def _required(config: BaseConfig) -> Iterator[str]:
    yield from _base(config)
    if config.run.name and not _is_file_name(config.run.name):
        yield (
            f"run.name: found {shown(config.run.name)}, expected a plain name without slashes (it becomes a folder): "
            f"at most {LONGEST_NAME} characters, none of {FORBIDDEN}, no dot or space at the end."
        )
    data = config.data
    if not (config.datasets or data.train_data_dir or data.class_dir or data.config or config.slider.asked):
        yield "datasets: missing; add [[datasets]] with [[datasets.subsets]] and image_dir."
    if data.reg_data_dir and not data.train_data_dir:
        yield "data.reg_data_dir: has no effect without data.train_data_dir; name the images to train there."
    for path, dataset in _tables(config):
        if not dataset.subsets:
            yield f"{path}.subsets: missing; add [[{path.partition('[')[0]}.subsets]] with image_dir."
        for s, subset in enumerate(dataset.subsets):
            if not subset.image_dir and not subset.metadata_file:
                yield f"{path}.subsets[{s}].image_dir: missing; name the folder of images."


def _has_date(value: object) -> bool:
    """TOML's dates and times, the one kind of value that has no counterpart in a network's config."""
    inner = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return isinstance(value, date | time) or any(_has_date(one) for one in inner)


def _base(config: BaseConfig) -> Iterator[str]:
    """A base, or a new network."""
    model = config.model
    if not (model.base or model.network):
        yield "model.base: missing; give a checkpoint file, a diffusers folder or a hub id."
    if not model.network:
        return
    if model.base:
        yield f"model.network: a new network excludes model.base, found {shown(model.base)}; keep one of them."
    for name, value in model.network.items():
        if _has_date(value):
            yield f"model.network.{name}: found {shown(value)}; a date means nothing to a network."
    if model.family == "auto":
        yield "model.network: which family shall make it? Set model.family."
    if model.init not in ("random", "pretrained"):  # a config that is written out has the default in it
        yield "model.init: all of a new network (model.network) starts anew; leave it out."
    if config.training.method != "full":
        yield (
            "model.network: its weights are random, so that there is nothing to adapt; set training.method = 'full', "
            f"found {shown(config.training.method)}."
        )


def _is_file_name(name: str) -> bool:
    """Whether a folder can have this name on every system: Windows refuses most."""
    plain = name.isprintable() and not set(name) & set(FORBIDDEN) and len(name.encode()) <= LONGEST_NAME
    reserved = re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE)
    return plain and reserved is None and not name.endswith((".", " ")) and not name.startswith(" ")


def _tables(config: BaseConfig) -> Iterator[tuple[str, DatasetSettings]]:
    """Every dataset table and its place."""
    yield from ((f"datasets[{d}]", dataset) for d, dataset in enumerate(config.datasets))
    yield from ((f"validation.datasets[{d}]", dataset) for d, dataset in enumerate(config.validation.datasets))


def _exclusions(config: BaseConfig) -> Iterator[str]:
    training = config.training
    if {"steps", "epochs"} <= training.model_fields_set and training.epochs:
        yield f"training.steps: {training.steps} excludes training.epochs = {training.epochs}; keep one of them."
    if not (training.unet or config.text_encoder_trains or config.embeddings.words):
        text = "optimizer.text_encoder_lr is 0" if training.text_encoder else "training.text_encoder is false too"
        yield f"training.unet: false, and {text}: nothing would train."
    if config.validation.split and config.validation.datasets:
        yield f"validation.split: {config.validation.split:g} excludes [[validation.datasets]]; keep one of them."
    if config.logging.wandb and find_spec("wandb") is None:
        yield "logging.wandb: the package wandb is not installed here; pip install wandb, or set this to false."
    if "" in config.preservation.words:
        yield "preservation.words: an empty word stands everywhere; name the subject as captions do."
    pairing = [n for n in config.noise.stages() if registry.find("noise", n).phase == "pair"]
    if len(pairing) > 1:
        yield f"noise.{pairing[1]}: excludes noise.{pairing[0]}; only one setting can pair noise with latents."


def _slider(config: BaseConfig) -> Iterator[str]:
    """What training by prompts excludes, and what its prompts lack."""
    slider = config.slider
    if not slider.asked:
        if slider != SliderSettings():
            yield "slider: there are no prompts; add [[slider.prompts]], [[slider.targets]] or slider.prompts_file."
        return
    without = "training by the prompts of [slider] has no images"
    tables = {"datasets": config.datasets, "validation.datasets": config.validation.datasets}
    yield from (f"{name}: {without}; remove [[{name}]], or [slider]." for name, found in tables.items() if found)
    folders = [n for n in ("train_data_dir", "reg_data_dir", "class_dir") if getattr(config.data, n)]
    yield from (f"data.{name}: {without}; leave it out." for name in folders)
    if config.validation.split:
        yield f"validation.split: {without} to hold out; leave it out."
    if config.preservation.asked:
        yield f"preservation: {without} to ask about; the neutral prompts of [slider] hold the rest to the base."
    for name in config.noise.stages():
        if registry.find("noise", name).phase == "pair":
            yield f"noise.{name}: it pairs noise with images, and {without}; turn it off."
    if config.training.method != "lora":
        yield (
            "training.method: 'full', but [slider] asks the base while it learns, which only adapters that can be "
            "switched off allow; write 'lora'."
        )
    if config.text_encoder_trains:
        yield "training.text_encoder: true, but [slider] teaches the network what to make of prompts, not their words."
    if config.embeddings.words:
        yield "embeddings.words: words that learn change what prompts say, and [slider] encodes its prompts once."
    yield from _prompts(config)


def _prompts(config: BaseConfig) -> Iterator[str]:
    for p, pair in enumerate(config.slider.prompts):
        if "target" not in pair.model_fields_set:
            yield f"slider.prompts[{p}].target: missing; name the prompt to change, or '' for every picture."
        elif not pair.teaches:
            yield (
                f"slider.prompts[{p}]: it teaches nothing, its target is the base's own answer; give a positive that "
                "is not the unconditional, and a guidance_scale above 0, or another neutral."
            )
    for t, target in enumerate(config.slider.targets):
        if not (target.positive.strip() or target.negative.strip()):
            yield f"slider.targets[{t}]: give a positive, a negative, or both."
        elif target.positive == target.negative:
            yield f"slider.targets[{t}]: positive and negative are the same, {shown(target.positive)}."
        elif not target.guidance_scale and all(neutral == target.target_class for neutral in target.neutrals or [""]):
            yield f"slider.targets[{t}].guidance_scale: 0 teaches nothing; give more."
    asked: dict[str, PromptPair | SliderTarget] = {
        **{f"slider.prompts[{i}]": one for i, one in enumerate(config.slider.prompts)},
        **{f"slider.targets[{i}]": one for i, one in enumerate(config.slider.targets)},
    }
    for name, one in asked.items():
        if not one.multiplier:
            yield f"{name}.multiplier: 0 switches the LoRA off, so that it learns nothing; give its strength."
        if min(one.size) < 8 or max(one.size) > 16384:
            yield f"{name}.resolution: found {shown(one.resolution)}, expected 8 to 16384."
        if one.dynamic_resolution and (one.size[0] != one.size[1] or one.size[0] < 64):
            yield f"{name}.dynamic_resolution: it is for one number from 64, found resolution {shown(one.resolution)}."


def _adapters(config: BaseConfig) -> Iterator[str]:
    """The settings of the kind of adapter alone."""
    yield from _starts(config)
    method, args = config.lora.method, config.lora.args
    own = registry.find("adapters", method).Settings
    if own is None:
        for name in args:
            yield f"lora.args.{name}: lora.method = {method!r} has no settings of its own; leave it out."
        return
    try:
        own.model_validate(args)
    except ValidationError as error:
        for one in error.errors():
            unknown = one["type"] == "extra_forbidden"
            wrong = f"unknown; {method} has {', '.join(own.model_fields)}." if unknown else (
                f"found {shown(one['input'])}; {one['msg'].removeprefix('Value error, ')}."
            )  # fmt: skip
            yield f"lora.args.{'.'.join(map(str, one['loc']))}: {wrong}"


def _starts(config: BaseConfig) -> Iterator[str]:
    lora = config.lora
    if lora.start == "zero":
        return
    if not _is_plain(config):
        yield f"lora.start: {lora.start!r} works with {_PLAIN} only, found {lora.method!r}."
    for name in ("max_norm", "rank_dropout", "module_dropout"):
        if getattr(lora, name):
            yield (
                f"lora.{name}: acts on the whole adapter, which with lora.start = {lora.start!r} holds a part of the "
                "layer's own weight; set it to 0."
            )


def _embeddings(config: BaseConfig) -> Iterator[str]:
    settings = config.embeddings
    for word, init in settings.words.items():
        if not _WORD.fullmatch(word):
            yield (
                f"embeddings.words.{word!r}: expected one word of letters, numbers, _ and -: it becomes the name of a "
                "file, by which other programs know it."
            )
        if not init.strip():
            yield f"embeddings.words.{word!r}: missing; name a word that its vectors begin as."
    folded = [word.lower() for word in settings.words]
    for word in sorted({one for one in folded if folded.count(one) > 1}):
        yield f"embeddings.words: {word!r} is there twice; text encoders make no difference between A and a."
    for word in settings.vectors.keys() - settings.words.keys():
        yield f"embeddings.vectors.{word!r}: there is no such word in embeddings.words."
    if settings.words and config.training.method == "full":
        yield (
            "embeddings.words: train alone or with a LoRA; with training.method = 'full' they are not supported. Set "
            "it to 'lora'."
        )


def _kernels(config: BaseConfig) -> Iterator[str]:
    if config.run.deterministic and config.performance.cudnn_benchmark == "on":
        yield (
            "performance.cudnn_benchmark: 'on' takes whichever algorithm is quickest, run.deterministic = true always "
            "the same one; use 'auto' or 'off', or run.deterministic = false."
        )


def _plugins(config: BaseConfig) -> Iterator[str]:
    for path, kind, name in (
        ("model.family", "models", config.model.family),
        ("model.prediction", "objectives", config.model.prediction),
    ):
        if name != "auto":
            try:
                registry.find(kind, name)
            except UserError as error:
                yield f"{path}: {error}"


def _ranges(config: BaseConfig) -> Iterator[str]:
    ends = [until for until, _ in config.schedule.pieces]
    if (config.schedule.name == "piecewise_constant") != bool(ends):
        yield "schedule.pieces: give [until, factor] pairs exactly when schedule.name = 'piecewise_constant'."
    if ends != sorted(set(ends)) or any(not 0 < until <= 1 for until in ends):
        yield f"schedule.pieces: found ends at {ends}, expected rising shares of the run, above 0 and at most 1."
    if any(factor < 0 for _, factor in config.schedule.pieces):
        yield "schedule.pieces: factors must be at least 0."
    t = config.timesteps
    if (t.distribution == "weights") != any(t.weights):
        yield "timesteps.weights: give weights above 0 exactly when timesteps.distribution = 'weights'."
    if config.timesteps.min >= config.timesteps.max:
        yield f"timesteps.min: {config.timesteps.min} must be below timesteps.max = {config.timesteps.max}."
    if not config.training.epochs and config.schedule.warmup >= config.training.steps:
        yield f"schedule.warmup: {config.schedule.warmup:g} must be below training.steps = {config.training.steps}."
    for path, dataset in _tables(config):
        options = effective(DatasetOptions, dataset, config.general)
        sides = (options.resolution,) * 2 if isinstance(options.resolution, int) else options.resolution
        if min(sides) < 8:
            yield f"{path}.resolution: found {options.resolution}, expected at least 8."
        if options.enable_bucket and options.min_bucket_reso > options.max_bucket_reso:
            low, high = options.min_bucket_reso, options.max_bucket_reso
            yield f"{path}.min_bucket_reso: {low} must not be above max_bucket_reso = {high}."


_PLAIN = f"lora.method = {METHODS[0]!r}"


def _is_plain(config: BaseConfig) -> bool:
    return bool(registry.find("adapters", config.lora.method).plain)


def _small_base(config: BaseConfig) -> Iterator[str]:
    small = config.training.base_precision
    if small != "same" and config.training.method == "full":
        yield f"training.base_precision: {small!r} is for a LoRA over a frozen base; a full fine-tune needs 'same'."
    if small != "same" and not _is_plain(config):
        yield f"training.base_precision: {small!r} works with {_PLAIN} only, found {config.lora.method!r}."


def _updates(config: BaseConfig) -> Iterator[str]:
    training = config.training
    if training.max_grad_value and training.max_grad_norm:
        yield (
            f"training.max_grad_value: {training.max_grad_value:g} takes the place of clipping by norm; set "
            f"training.max_grad_norm = 0, found {training.max_grad_norm:g}."
        )
    if training.weight_dtype != "fp32":
        yield from _needs(config, f"training.weight_dtype: {training.weight_dtype!r}", precision=("bf16",))
    if training.fused_backward:
        yield from _needs(config, "training.fused_backward: true", precision=("bf16", "fp32"))
        if training.gradient_accumulation > 1:
            yield (
                "training.fused_backward: true frees gradients at once, so nothing can be accumulated; set "
                f"training.gradient_accumulation = 1, found {training.gradient_accumulation}."
            )
        if training.max_grad_norm:
            yield (
                "training.fused_backward: true never has all gradients at once, so their norm cannot be limited; set "
                f"training.max_grad_norm = 0, found {training.max_grad_norm:g} (training.max_grad_value works)."
            )
    if config.lora.max_norm and not _is_plain(config):
        yield f"lora.max_norm: works with {_PLAIN} only, found {config.lora.method!r}."
    for block, (first, last) in config.optimizer.windows.items():
        comparable = (first < 1) == (last < 1) or not first
        if min(first, last) < 0 or (last and comparable and first >= last):
            yield f"optimizer.windows.{block!r}: found {[first, last]}, expected [from, until] with from below until."


def _needs(config: BaseConfig, setting: str, precision: tuple[str, ...]) -> Iterator[str]:
    """What the settings for full fine-tunes in little memory ask for."""
    if config.training.method != "full":
        yield f"{setting} is for training.method = 'full'; a LoRA's weights and gradients are small."
    elif config.training.precision not in precision:
        wanted = " or ".join(repr(one) for one in precision)
        yield f"{setting} needs training.precision = {wanted}, found {config.training.precision!r}."


def _finds_its_rate(config: BaseConfig) -> bool:
    """sd-scripts' Adafactor, unless it is told otherwise."""
    args = config.optimizer.args
    asked = args.get("relative_step", True) or args.get("warmup_init", False)
    return config.optimizer.name.lower() == "adafactor" and bool(asked)


def _text_encoder_notes(config: BaseConfig) -> Iterator[str]:
    if config.optimizer.text_encoder_lr and not config.training.text_encoder:
        yield "note: optimizer.text_encoder_lr has no effect without training.text_encoder = true."
    if config.training.text_encoder and not config.text_encoder_trains:
        yield (
            "note: optimizer.text_encoder_lr = 0: the text encoder does not train; leave it out to train it at "
            "optimizer.lr."
        )
    if config.training.text_encoder_until and not config.text_encoder_trains:
        yield "note: training.text_encoder_until has no effect on a text encoder that does not train."


def _preservation_notes(config: BaseConfig) -> Iterator[str]:
    settings = config.preservation
    idle = _chosen(settings) & {"weight"} if not settings.again else set()
    if not settings.asked:
        idle |= _chosen(settings) & {"share"}
    if not config.asks_base or config.training.method != "full":
        idle |= _chosen(settings) & {"copy_precision", "copy_place"}
    for name in sorted(idle):
        yield f"note: preservation.{name} has no effect on what is asked of the base here."


def _embeddings_notes(config: BaseConfig) -> Iterator[str]:
    settings = config.embeddings
    if not settings.words:
        for name in sorted(_chosen(settings) - {"words", "vectors"}):
            yield f"note: embeddings.{name} has no effect without embeddings.words."


def _chosen(section: BaseModel) -> set[str]:
    """What stands there and is not the default: a run's own config holds the defaults too."""
    usual = type(section)()
    return {name for name in section.model_fields_set if getattr(section, name) != getattr(usual, name)}


def notes(config: BaseConfig) -> list[str]:
    """Settings that have no effect, and what is worth knowing: printed before a run, never an error."""
    lines = []
    if config.training.method == "full" and _chosen(config.lora):
        lines.append("note: [lora] has no effect with training.method = 'full'.")
    if config.training.method == "full" and config.lora.max_norm:
        lines.append("note: lora.max_norm has no effect with training.method = 'full'.")
    if "conv_alpha" in _chosen(config.lora) and not config.lora.conv_rank:
        lines.append("note: lora.conv_alpha has no effect without lora.conv_rank.")
    if config.optimizer.name.lower() in OWN_RANDOMNESS:
        lines.append(
            f"note: optimizer.name = {config.optimizer.name!r} draws from a random stream that no checkpoint holds: a "
            "resumed run goes on, but not bit for bit."
        )
    lines += _text_encoder_notes(config)
    if _finds_its_rate(config):
        lines.append(
            "note: optimizer.name = 'adafactor' finds its own rate (relative_step), as in sd-scripts: learning rates "
            "have no effect, but for 0; schedule and windows multiply it. For a rate of your own: optimizer.args = { "
            "scale_parameter = false, relative_step = false, warmup_init = false }."
        )
    lines += _preservation_notes(config)
    lines += _embeddings_notes(config)
    if config.samples.every and not config.samples.prompts:
        lines.append("note: samples.every has no effect without samples.prompts.")
    if config.slider.asked and config.general.model_fields_set:
        lines.append("note: [general] has no effect on prompts of [slider]; it is for images.")
    if config.consistency.asked and config.samples.prompts and config.samples.sampler != "consistency":
        lines.append(
            "note: samples.sampler: only 'consistency' draws what [consistency] trains; write that, and "
            "samples.steps = 1 or 2."
        )
    if "decay" in _chosen(config.consistency) and config.consistency.target == "network":
        lines.append("note: consistency.decay has no effect with consistency.target = 'network'.")
    v, tables = config.validation, [*config.datasets, config.general]
    measured = v.split or v.datasets or any(table.validation_split for table in tables)
    if _chosen(v) - {"split", "seed"} and not measured:
        lines.append("note: [validation] has no effect without validation.split or [[validation.datasets]].")
    sizes = [effective(DatasetOptions, dataset, config.general).batch_size for dataset in config.datasets]
    for name, settings in config.noise.stages().items():
        plugin = registry.find("noise", name)
        remark = plugin.remark(settings, max(sizes, default=1), config.training.gradient_accumulation)
        if remark:
            lines.append(f"note: noise.{name}: {remark}.")
    return lines
