"""TOML to config and back, with overrides, and with all errors at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import BaseModel, ValidationError

from trainer.config import errors as config_errors
from trainer.config import prompts_file
from trainer.config.checks import problems_between
from trainer.config.dataset_file import TABLES, included
from trainer.config.paths import absolute, looks_like_path, near, prompt_with_files
from trainer.config.schema.base import extra, left_to_the_model
from trainer.config.schema.data import DatasetOptions, SubsetOptions
from trainer.config.schema.samples import SamplesSettings
from trainer.config.schema.whole import Config
from trainer.config.syntax import explained
from trainer.errors import UserError
from trainer.files import ordinary
from trainer.files.atomic import write_text

_FILES = ("data.config", prompts_file.KEY)
DEEPEST = 50  # levels of tables and lists

_SIGNS = re.compile(r"[\x00-\x1f]")  # what \n, \t and the like in a path of Windows become
_SINGLE = "a path in double quotes has / or \\\\ between its folders; in single quotes \\ is a plain sign."


def read(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The config of a TOML file with `--set` overrides applied; paths in it become absolute.

    Raises UserError with every problem of the file: syntax (line and column), unknown keys, types, bounds, exclusions.
    """
    try:
        text = ordinary.text(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such config file.{near(str(path.absolute()))}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name the config file, which ends in .toml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise _of_elsewhere(path) or UserError(
            f"{path}: the config file cannot be read ({error}). It must be a UTF-8 text."
        ) from None
    try:
        return parse(text, overrides, directory=path.resolve().parent, source=str(path), name=path.stem)
    except UserError as error:
        raise _of_elsewhere(path) or error from None


def _of_elsewhere(path: Path) -> UserError | None:
    """The one thing to say of a file of another trainer; None of any other."""
    from trainer.config.foreign.recognise import kind_of

    what = kind_of(path)
    return UserError(f"{path}: this is {what}, not a config of ours: python launch.py import {path}") if what else None


def parse(
    text: str, overrides: Sequence[str] = (), *, directory: Path, source: str = "config", name: str = "run"
) -> Config:
    """The config of a TOML text; `directory`: what its paths are relative to; `name`: the run's, if it gives none."""
    try:
        values: dict[str, Any] = tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
        raise UserError(explained(text, error, source)) from None
    # Files are taken in first, so that the other overrides reach their tables as well.
    first, rest = (
        [o for o in overrides if (o.partition("=")[0].strip() in _FILES) is wanted] for wanted in (True, False)
    )
    problems = [p for override in first for p in _override(values, override)]
    values, dataset_file, found = included(values, directory)
    values, pairs_file, wrong = prompts_file.included(values, directory)
    problems += [*found, *wrong]
    problems += [p for override in rest for p in _override(values, override)]
    if _is_deep(values):
        raise UserError(f"{source}: nested more than {DEEPEST} levels deep; no config needs that.")
    config, found = validate(values)
    of_files = {dataset_file: TABLES, pairs_file: tuple(f"slider.{table}" for table in prompts_file.TABLES)}
    problems += [_placed(problem, of_files) for problem in found]
    if config is not None:
        problems += _make_absolute(config, directory)
        problems += _make_prompts_absolute(config.samples, directory)
    if problems or config is None:
        raise UserError(f"{source}: {problem}" for problem in problems)
    if not config.run.name:
        config.run.name = name
    return config


def _placed(problem: str, of_files: Mapping[str, tuple[str, ...]]) -> str:
    """With the name of the file that brought the tables that the problem is in, if one did."""
    return next(
        (f"{problem} (in {file})" for file, tables in of_files.items() if file and problem.startswith(tables)), problem
    )


def _is_deep(values: dict[str, Any]) -> bool:
    """Whether copying or printing the values could exhaust Python's stack."""
    level: list[Any] = [values]
    for _ in range(DEEPEST):
        level = [
            child
            for value in level
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return False
    return True


def validate(values: dict[str, Any]) -> tuple[Config | None, list[str]]:
    """The config of a plain dict, or None, and every problem in it as "dotted.path: what is wrong"."""
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        problems, rest = config_errors.describe(error, values)
        # The rules between keys are checked on what remains, so that everything is reported at once.
        try:
            told = {line.partition(":")[0] for line in problems}
            more = problems_between(Config.model_validate(rest))
            return None, problems + [line for line in more if line.partition(":")[0] not in told]
        except ValidationError:
            return None, problems
    problems = problems_between(config)
    return (None if problems else config), problems


def _override(values: dict[str, Any], override: str) -> list[str]:
    """Applies one `a.b=value`; the value is TOML, or else plain text. Returns problems."""
    dotted, equals, text = override.partition("=")
    told = override if len(override) <= 80 else f"{override[:77]}..."
    if not equals or not dotted.strip():
        return [f"--set {told}: expected key=value, for example --set noise.oversampling=128."]
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except (ValueError, RecursionError):
        value = text
    place: Any = values
    steps = dotted.strip().replace("[", ".").replace("]", "").split(".")
    try:
        for step in steps[:-1]:
            place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
        place[int(steps[-1]) if isinstance(place, list) else steps[-1]] = value
    except (TypeError, AttributeError, ValueError, IndexError, KeyError):
        return [f"--set {told}: there is no place {config_errors.shown(dotted)} in this file."]
    return []


def _make_absolute(section: BaseModel, directory: Path, place: str = "") -> list[str]:
    """Returns a problem for each value that no path can have."""
    problems = []
    for name, field in type(section).model_fields.items():
        value, here = getattr(section, name), f"{place}{name}"
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, BaseModel):
                inside = f"{here}[{index}]." if isinstance(value, list) else f"{here}."
                problems += _make_absolute(child, directory, inside)
        # A default is made absolute too (output_dir), but an empty path stays empty.
        if extra(field).get("path") and value and isinstance(value, str):
            if _SIGNS.search(value):
                problems.append(f"{here}: found {config_errors.shown(value)}; {_SINGLE}")
                continue
            written = name in section.model_fields_set
            try:
                setattr(section, name, _absolute(value, directory, may_be_id=extra(field)["path"] == "base"))
            except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL, the home of nobody
                problems.append(f"{here}: found {config_errors.shown(value)}, which cannot be a path ({error}).")
            if not written:
                section.model_fields_set.discard(name)
    return problems


def _make_prompts_absolute(samples: SamplesSettings, directory: Path) -> list[str]:
    """The files that prompts name with flags; those in a file of prompts are relative to that."""
    if isinstance(samples.prompts, str) or not samples.prompts:
        return []
    try:
        samples.prompts = [prompt_with_files(prompt, directory) for prompt in samples.prompts]
    except (OSError, ValueError, RuntimeError) as error:
        return [f"samples.prompts: --i or --m names what cannot be a path ({error})."]
    return []


def _absolute(value: str, directory: Path, *, may_be_id: bool) -> str:
    found = absolute(value, directory)
    # A hub id looks like a relative path: it stays as it is when nothing lies there.
    return value if may_be_id and not Path(found).exists() and not looks_like_path(value) else found


def to_dict(config: Config) -> dict[str, Any]:
    """All resolved values as plain ones, but those that are left to the model; dataset tables hold only what was
    written, so that look-ups still work."""
    values: dict[str, Any] = {}
    for name in type(config).model_fields:
        section = getattr(config, name)
        if isinstance(section, list):
            values[name] = _written(section)
        else:
            unset = isinstance(section, (DatasetOptions, SubsetOptions))
            values[name] = section.model_dump(
                mode="json", exclude=left_to_the_model(section), exclude_unset=unset, exclude_none=True
            )
            values[name] |= {key: _written(child) for key, child in section if _is_tables(child)}
    if config.training.epochs:
        del values["training"]["steps"]  # the one excludes the other
    return {name: value for name, value in values.items() if value}


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], BaseModel)


def _written(tables: Sequence[BaseModel]) -> list[dict[str, Any]]:
    return [table.model_dump(mode="json", exclude_unset=True) for table in tables]


def to_toml(config: Config) -> str:
    return tomlkit.dumps(to_dict(config))


def write(config: Config, path: Path) -> None:
    write_text(path, to_toml(config))


def schema() -> dict[str, Any]:
    """The JSON schema for editors."""
    return Config.model_json_schema()
