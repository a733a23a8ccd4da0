"""Tells by its content which program a file is of, and reads it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from trainer.config.foreign import diffusers_scripts, files, kohya_ss, lora_easy, lora_metadata
from trainer.config.foreign.ai_toolkit import reader as ai_toolkit
from trainer.config.foreign.onetrainer import reader as onetrainer
from trainer.config.foreign.sd_scripts import reader as sd_scripts
from trainer.config.foreign.shell.commands import MARKER, command, holds_command
from trainer.config.foreign.translate import Source
from trainer.config.keys import keys
from trainer.errors import UserError
from trainer.files import ordinary

_IMAGES = ("general", "datasets")  # the tables of a dataset file
_JSON = (("a kohya_ss config", kohya_ss), ("an ai-toolkit job", ai_toolkit), ("a OneTrainer config", onetrainer))
Reader = Callable[[str], Source]  # takes the name of the script that the file is for


def recognise(path: Path, *, script: str = "", folder: Path | None = None) -> Source:
    """The file, read. script: which of sd-scripts' scripts it is for; folder: where its relative paths start, if not
    beside it. Raises UserError for a file of no kind that is known, and for one of ours."""
    what, read = _known(path, folder or path.parent)
    if read is None:
        raise UserError(f"{path}: {what}.")
    return read(script)


def kind_of(path: Path) -> str:
    """What a file is, such as "an sd-scripts training config"; "" where it is of no other program that is known."""
    try:
        what, read = _known(path, path.parent)
    except UserError:
        return ""
    return what if read is not None else ""


def _known(path: Path, folder: Path) -> tuple[str, Reader | None]:
    """(what it is, how it is read); without a reader, why it is not one to import. Raises UserError where there is
    nothing to read."""
    if (header := files.header(path)) is not None:
        return "a finished LoRA", lambda _: lora_metadata.source(header, path, folder)
    text = _text(path)
    if (content := _json(text)) is not None:
        found = [(what, one) for what, one in _JSON if isinstance(content, Mapping) and one.is_one(content)]
        if not found:
            return "this JSON is of no trainer that is known", None
        return found[0][0], lambda _: found[0][1].source(content, folder)
    if (table := _toml(text)) is not None:
        return _of_toml(table, path.name, folder)
    if MARKER.search(text) and (read := _of_command(text, folder)) is not None:
        return "a training command", read
    if (job := _yaml(text)) is not None and ai_toolkit.is_one(job):
        return "an ai-toolkit job", lambda _: ai_toolkit.source(job, folder)
    return "not understood: it is no config, preset, job or training command that is known, nor a finished LoRA", None


def _of_command(text: str, folder: Path) -> Reader | None:
    def read(_script: str) -> Source:
        found = command(text)
        assert found is not None
        return (diffusers_scripts if "text_to_image" in found.script else sd_scripts).of_command(found, folder)

    return read if holds_command(text) else None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(path: Path) -> str:
    try:
        return ordinary.text(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: it is neither a text nor a .safetensors file.") from None


def _toml(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


class _Loader(yaml.SafeLoader):
    """YAML's safe types; 1e-4 is a number, as ai-toolkit reads it, and as YAML 1.2 has it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def _yaml(text: str) -> Any:
    """The content of a YAML text that holds tables, else None."""
    try:
        content = yaml.load(text, Loader=_Loader)  # a SafeLoader: plain values only
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _of_toml(content: Mapping[str, Any], name: str, folder: Path) -> tuple[str, Reader | None]:
    if content and set(content) <= {*_IMAGES}:
        return f"a dataset file is read as it is: name it in a config, [data] config = {name!r}", None
    if lora_easy.is_one(content):
        return lora_easy.WHAT, lambda _: lora_easy.source(content, folder)
    flat = sd_scripts.flattened(content)
    ours, theirs = _ours_in(content), sum(name in sd_scripts.KEYS for name in flat)
    if theirs <= 2 * ours:
        return "it is a config of this trainer already" if ours else "this TOML is of no trainer that is known", None
    what = "an sd-scripts training config"
    return what, lambda script: sd_scripts.source(flat, folder, script=script, what=what)


def _ours_in(content: Mapping[str, Any]) -> int:
    """How many of its keys are ours, each in its table."""
    known = {key for key, _ in keys()}
    tables = {name: values for name, values in content.items() if isinstance(values, Mapping) and name not in _IMAGES}
    return sum(f"{table}.{name}" in known for table, values in tables.items() for name in values)
