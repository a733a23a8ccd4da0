"""Reads the settings of an sd-scripts run: a flat set of keys, what it is for, and the files that it names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.config.foreign import accelerate, files
from trainer.config.foreign.outcome import Outcome, changed, unneeded
from trainer.config.foreign.sd_scripts import anima
from trainer.config.foreign.sd_scripts.table import INVERSION, KEYS, LECO, LORA, SCRIPTS, SECRETS
from trainer.config.foreign.shell.commands import Command
from trainer.config.foreign.translate import Source
from trainer.config.foreign.values import NOTHING, Context
from trainer.errors import UserError

PROGRAM = "sd-scripts"
DATASET_FILE = "dataset_config"
LISTS = ("network_args", "optimizer_args", "lr_scheduler_args")  # of texts such as "weight_decay=0.1"
_OF_LORA = ("network_module", "network_dim", "network_alpha", "unet_lr", "network_train_unet_only")
_TELLING = {
    "sdxl_train.py": ("learning_rate_te1", "learning_rate_te2", "block_lr", "fused_optimizer_groups"),
    INVERSION[0]: ("token_string",),
    "train_db.py": ("stop_text_encoder_training", "no_token_padding"),
    "fine_tune.py": ("in_json", "train_text_encoder", "learning_rate_te"),
}
_OTHER_MODELS = ("flux", "sd3", "lumina", "hunyuan", "controlnet", "control_net")


def flattened(content: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a training TOML: tables of any name are only for the reader's eye, as sd-scripts takes them."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= value if isinstance(value, Mapping) and name not in LISTS else {name: value}
    return found


def expanded(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument in a list of arguments as a key of its own: optimizer_args.weight_decay."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in LISTS or value in NOTHING:
            found[name] = value
            continue
        for key, argument in _arguments(name, value).items():
            found[f"{name}.{key}"] = argument
    return found


def expanded_names(given: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Names of keys as `expanded` calls them."""
    return [key for name in names for key in expanded({name: given[name]} if name in given else {})]


def _arguments(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    words = value.split() if isinstance(value, str) else list(value)
    pairs = [str(word).strip().partition("=") for word in words]
    wrong = [word for word, (_, equals, _) in zip(words, pairs, strict=True) if not equals]
    if wrong:
        raise UserError(f"{name}: found {wrong[0]!r}, expected name=value.")
    return {key.strip().strip("\"'"): text.strip().strip("\"'") for key, _, text in pairs}


def of_command(command: Command, folder: Path) -> Source:
    """A command line, with the file that it names by --config_file beneath it."""
    given = {_whole(name): value for name, value in command.arguments.items()}
    for name in LISTS:
        if isinstance(given.get(name), str):
            given[name] = [given[name]]
    name = command.script.replace("\\", "/").rpartition("/")[2]
    told: dict[str, Outcome] = {"script": _script(name), **accelerate.told(command.launcher)}
    extra = {"script": name, **accelerate.values(command.launcher)}
    if (config := given.pop("config_file", None)) is not None:
        given = {**_config_file(str(config), folder), **given}
        told["config_file"], extra["config_file"] = changed({}, "its keys stand in this file"), config
    found = source(given, folder, script=name, what=f"a command line of {name}")
    return replace(found, raw={**extra, **found.given}, told=told)


def _whole(name: str) -> str:
    """An argument may be shortened to what no other begins with."""
    longer = [key for key in KEYS if key.startswith(name) and "." not in key]
    return longer[0] if name not in KEYS and len(longer) == 1 else name


def _script(name: str) -> Outcome:
    sets = _implied(name)
    return changed(sets, "") if sets else unneeded("a LoRA of SD 1.x or 2.x")


def _implied(script: str) -> dict[str, Any]:
    """What follows from the script that a file is for."""
    prefix = script.partition("_")[0]
    family = {"model.family": prefix} if prefix in ("sdxl", "anima") else {}
    if script in LECO:
        return family | {"training.text_encoder": False}  # its LoRA is the UNet's
    if script in INVERSION:
        return family | {"training.unet": False, "training.text_encoder": False}
    return family | ({} if script in LORA else {"training.method": "full"})


def _config_file(name: str, folder: Path) -> dict[str, Any]:
    for spelling in (name, f"{name}.toml"):
        if (path := files.found(folder, spelling)) is not None and path.is_file():
            return flattened(files.tables(path, "config_file"))
    raise UserError(f"config_file: there is no file {name} (looked in {folder} and above).")


def source(
    given: Mapping[str, Any],
    folder: Path,
    *,
    script: str = "",
    what: str,
    images: Mapping[str, Any] | None = None,
    **more: Any,
) -> Source:
    """A run by its keys. script: which of its scripts it is for, "" to find out; images: the tables of a dataset file,
    where they are known without one. Raises UserError."""
    values = expanded(given)
    name = script.replace("\\", "/").rpartition("/")[2] or script_of(values)
    if name not in SCRIPTS:
        raise UserError(_not_ours(name))
    named = {"network_weights": _weights} | ({DATASET_FILE: _dataset} if images is None else {})
    tables = {key: found for key, read in named.items() if (found := read(values, folder)) is not None}
    if images is not None:
        tables[DATASET_FILE] = dict(images)
    context = Context(folder, name, _family(values, name, script), tables)
    return Source(PROGRAM, what, KEYS, values, context, secrets=SECRETS, implied=_implied(name), **more)


def _not_ours(name: str) -> str:
    if any(model in name for model in _OTHER_MODELS):
        return f"{name}: it trains what is not here; SD 1.x, 2.x, SDXL and Anima are."
    return f"--script {name}: expected one of {', '.join(SCRIPTS)}."


def script_of(values: Mapping[str, Any]) -> str:
    """Which of the scripts a file is for, by the keys that only one of them has. Raises UserError."""
    if values.get("prompts_file") not in NOTHING:
        return LECO[0]
    if found := anima.script_of(values):
        return found
    if any(values.get(key) not in NOTHING for key in _OF_LORA):
        return LORA[0]
    for script, keys in _TELLING.items():
        if any(values.get(key) not in NOTHING for key in keys):
            return script
    raise UserError(
        "this full fine-tune may be for train_db.py, fine_tune.py or sdxl_train.py, which treat the text encoder in "
        "different ways: say which with --script, for example --script sdxl_train.py."
    )


def _family(values: Mapping[str, Any], script: str, said: str) -> str:
    """Where script or file tell it: a file alone does not say whether its LoRA is for SDXL."""
    if "sdxl" in script or values.get("sdxl"):
        return "sdxl"
    if script in anima.SCRIPTS:
        return "anima"
    return "sd" if said or script in ("train_db.py", "fine_tune.py") or values.get("v2") is True else ""


def _dataset(values: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """The dataset file's tables, its folders relative to the run's file as they were to their own."""
    name = values.get("dataset_config")
    if name in NOTHING:
        return None
    path = files.found(folder, str(name))
    if path is None:
        raise UserError(
            f"dataset_config: there is no file {name} (looked in {folder} and above). Its tables are taken over: "
            "put it there, or write the path where it is now."
        )
    found = files.tables(path, "dataset_config")
    if strange := set(found) - {"general", "datasets"}:
        raise UserError(f"dataset_config: {path} holds {sorted(strange)[0]!r}, expected [general] and [[datasets]].")
    if path.parent.resolve() != folder.resolve():
        _move(found, path.parent)
    return found


def _move(content: dict[str, Any], folder: Path) -> None:
    for table in content.get("datasets", []):
        for subset in table.get("subsets", []):
            for key in ("image_dir", "metadata_file", "conditioning_data_dir"):
                if isinstance(subset.get(key), str) and subset[key] and files.is_relative(subset[key]):
                    subset[key] = str(folder / subset[key])


def _weights(values: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """Rank and alpha of network_weights, where it is a LoRA of one rank that lies here."""
    path = files.found(folder, str(values.get("network_weights") or ""))
    content = files.header(path) if path is not None and path.is_file() else None
    if content is None:
        return None
    shapes = {k: v.get("shape", []) for k, v in content.items() if k.endswith("lora_down.weight")}
    narrow = {shape[0] for shape in shapes.values() if len(shape) == 2 or shape[2:] == [1, 1]}
    wide = {shape[0] for shape in shapes.values() if len(shape) == 4 and shape[2:] != [1, 1]}
    alpha = content.get("__metadata__", {}).get("ss_network_alpha")
    if len(narrow) != 1 or len(wide) > 1 or alpha in NOTHING:
        return None
    return {"network_dim": narrow.pop(), "network_alpha": alpha, "conv_dim": wide.pop() if wide else 0}
