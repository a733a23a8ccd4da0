"""What keys of ai-toolkit come to that mean something together: rates, schedules, adapters, timesteps, prompts."""

from __future__ import annotations

from typing import Any

from trainer.config.foreign.ai_toolkit import words
from trainer.config.foreign.outcome import Outcome, carried, changed, missing, unneeded
from trainer.config.foreign.values import Values

PRECISIONS = dict.fromkeys(("fp32", "float32", "float"), "fp32") | dict.fromkeys(("fp16", "float16", "half"), "fp16")
PRECISIONS |= dict.fromkeys(("bf16", "bfloat16"), "bf16")
SLICES = 50  # of the range of timesteps
_SETS_ITS_EPS = {"eps": 1e-6}  # what ai-toolkit hands every optimizer of Adam's kind

# Its name -> ours, what it sets unasked.
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "adam": ("adam", _SETS_ITS_EPS),
    "adamw": ("adamw", _SETS_ITS_EPS),
    "adam8bit": ("adam8bit", _SETS_ITS_EPS),
    "adamw8bit": ("adamw8bit", _SETS_ITS_EPS),
    "adam8": ("adam8bit", _SETS_ITS_EPS),
    "adamw8": ("adamw8bit", _SETS_ITS_EPS),
    "ademamix8bit": ("ademamix8bit", _SETS_ITS_EPS),
    "lion8bit": ("lion8bit", {}),
    "lion": ("pytorch_optimizer.Lion", {}),
    "adagrad": ("adagrad", {}),
    "prodigy": ("prodigy", _SETS_ITS_EPS),
    "dadaptation": ("dadaptadam", _SETS_ITS_EPS),
    "dadaptationadam": ("dadaptlion", {}),
    "dadaptationlion": ("dadaptlion", {}),
    "adafactor": (
        "transformers.optimization.Adafactor",
        {"relative_step": False, "scale_parameter": False, "warmup_init": False},
    ),
}
_FINDING = ("prodigy", "dadaptation")  # find their own rate: below 0.1 it becomes 1
_RENAMED = {"decouple": "weight_decouple", "use_bias_correction": "bias_correction"}


def is_lora(values: Values) -> bool:
    """Without network{} and embedding{} all weights train."""
    return bool(values.context.tables.get("network")) or words.trains(values)


def optimizer(values: Values, name: str) -> Outcome:
    found = values.text(name).lower()
    known = OPTIMIZERS.get(found)
    if known is None:
        return missing(f"there is no optimizer {found} here")
    given = values.under("train.optimizer_params.")
    args = {f"optimizer.args.{k}": v for k, v in known[1].items() if k not in given}
    return carried({"optimizer.name": known[0], **args})


def argument(values: Values, name: str) -> Outcome:
    key = name.rpartition(".")[2]
    renamed = _RENAMED if values.text("train.optimizer").lower().startswith(_FINDING) else {}
    return carried({f"optimizer.args.{renamed.get(key, key)}": values[name]})


def rates(values: Values) -> dict[str, Any]:
    usual = values.number("train.lr") or 0.0

    def rate(name: str) -> float:
        own = values.number(name)
        found = usual if own is None else own
        finds = values.text("train.optimizer").lower().startswith(_FINDING)
        return 1.0 if finds and found < 0.1 else found

    alone = words.trains(values) and not values.context.tables.get("network")
    network = rate("train.unet_lr") if values.flag("train.train_unet") and not alone else 0.0
    text = rate("train.text_encoder_lr") if values.flag("train.train_text_encoder") and not alone else 0.0
    sets = {"training.unet": network > 0, "training.text_encoder": text > 0, "optimizer.lr": network or text or usual}
    return sets | ({"optimizer.text_encoder_lr": text} if text else {})


def schedule(values: Values, name: str) -> Outcome | str:
    found = values.text(name)
    if found in ("constant", "cosine"):
        return found
    if found == "cosine_with_restarts":
        return changed({"schedule.name": "cosine"}, "it starts anew only behind the end of the run, unless told T_0")
    if found == "constant_with_warmup":
        steps = int(values.under("train.lr_scheduler_params.").get("num_warmup_steps", 1000))
        return changed({"schedule.name": "constant", "schedule.warmup": steps}, "a constant rate with a warm-up")
    return missing(f"there is no schedule {found} here (its linear rises from a third)")


def schedule_argument(values: Values, name: str) -> Outcome:
    key = name.rpartition(".")[2]
    if key == "num_warmup_steps":
        return carried({"schedule.warmup": values.whole(name)})
    return missing("an argument of torch's schedule that has no counterpart here")


def kind(values: Values, name: str) -> Outcome:
    """network.type."""
    found = values.text(name).lower()
    if found in ("lora", "locon", "dora"):
        method = {"lora.method": "dora" if found == "dora" else "lora"}
        return changed(method, "linear layers outside of the transformers get no adapter here unless conv is set")
    return carried({"lora.method": "lokr"}) if found == "lokr" else missing(f"there is no {found} here")


def lokr(values: Values) -> dict[str, Any]:
    """How LoKr splits a layer."""
    if values.text("network.type").lower() != "lokr":
        return {}
    factor = values.whole("network.lokr_factor") or -1
    found: dict[str, Any] = {"lora.args.full_matrix": values.flag("network.lokr_full_rank")}
    return found | ({"lora.args.factor": factor} if factor > 0 else {})


def sizes(values: Values) -> dict[str, Any]:
    if not is_lora(values):
        return {}
    rank = values.whole("network.rank") or values.whole("network.linear") or 4
    alpha = values.number("network.linear_alpha")
    usual = values.number("network.alpha")
    found = {"lora.rank": rank, "lora.alpha": alpha if alpha is not None else 1.0 if usual is None else usual}
    if conv := values.whole("network.conv"):
        found |= {"lora.conv_rank": conv, "lora.conv_alpha": values.number("network.conv_alpha") or float(conv)}
    return found


def timesteps(values: Values, name: str) -> Outcome:
    """train.content_or_style: cubic sampling towards noise or image."""
    found = values.text(name)
    if found == "balanced":
        return unneeded("every timestep is drawn as often")
    shares = [((n + 1) / SLICES) ** (1 / 3) - (n / SLICES) ** (1 / 3) for n in range(SLICES)]
    if found not in ("content", "style"):
        return missing(f"there is no {found} here")
    weights = [round(share, 4) for share in (shares if found == "style" else shares[::-1])]
    sets = {"timesteps.distribution": "weights", "timesteps.weights": weights}
    return changed(sets, f"told as the weights of {SLICES} slices")


def denoising(values: Values, name: str) -> Outcome:
    """min_denoising_steps and max_denoising_steps count from noise."""
    found = values.whole(name) or 0
    if name.endswith("min_denoising_steps"):
        return changed({"timesteps.max": 1000 - found}, "counted from the image here") if found else unneeded("all")
    return changed({"timesteps.min": 999 - found}, "counted from the image here") if found < 999 else unneeded("all")


def scheduler(values: Values, name: str) -> Outcome:
    """train.noise_scheduler."""
    found = values.text(name)
    if found == "flowmatch":
        return missing(
            "SD and SDXL predict noise or velocity; model.prediction = 'flow' is for bases that were made so"
        )
    return unneeded("how noise is added is the base's")


def loss(values: Values, name: str) -> Outcome | str:
    found = values.text(name)
    names = {"mse": "l2", "mae": "l1"}
    return names[found] if found in names else missing(f"there is no loss {found} here")


def noise(values: Values) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if offset := values.number("train.noise_offset"):
        found["noise.offset.strength"] = offset
    if (candidates := values.whole("train.optimal_noise_pairing_samples") or 1) > 1:
        found["noise.oversampling.k"] = candidates
    return found


def accumulation(values: Values) -> dict[str, Any]:
    steps = values.whole("train.gradient_accumulation_steps") or 1
    return {"training.gradient_accumulation": max(1, values.whole("train.gradient_accumulation") or 1, steps)}


def average(values: Values) -> dict[str, Any]:
    if not values.flag("train.ema_config.use_ema"):
        return {}
    decay = values.number("train.ema_config.ema_decay")
    return {"ema.decay": 0.999 if decay is None else decay}


def prompts(values: Values) -> list[Any]:
    """A list of texts, of tables with a prompt, or both."""
    listed = [*values.words("sample.prompts"), *values.words("sample.samples")]
    return [] if values.flag("train.disable_sampling") else listed


def samples(values: Values) -> dict[str, Any]:
    found = prompts(values)
    if not found:
        return {}
    trigger = values.text("trigger_word") or words.trigger(values)
    seed = values.whole("sample.seed") or 0
    walks = values.flag("sample.walk_seed")
    told = [_prompt(one, trigger, seed + n if walks else seed) for n, one in enumerate(found)]
    return {
        "samples.prompts": told,
        "samples.every": values.whole("sample.sample_every") or 0,
        "samples.at_start": not values.flag("train.skip_first_sample"),
        "samples.width": values.whole("sample.width"),
        "samples.height": values.whole("sample.height"),
        "samples.steps": values.whole("sample.sample_steps"),
        "samples.guidance": values.number("sample.guidance_scale"),
        "samples.negative": values.text("sample.neg") if values["sample.neg"] not in (None, False) else "",
        "samples.seed": seed,
    }


def _prompt(one: Any, trigger: str, seed: int) -> str:
    """With kohya's flags, and the trigger in its place."""
    about = one if isinstance(one, dict) else {"prompt": one}
    text = " ".join(str(about.get("prompt", "")).replace("[trigger]", trigger).split())
    flags = {
        "n": about.get("neg"),
        "w": about.get("width"),
        "h": about.get("height"),
        "d": about.get("seed", seed),
        "s": about.get("sample_steps"),
        "l": about.get("guidance_scale"),
    }
    return text + "".join(f" --{flag} {value}" for flag, value in flags.items() if value not in (None, ""))
