"""A study as its TOML file describes it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trainer.errors import UserError

Settings = dict[str, Any]  # dotted keys of the config -> values


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Measure(_Strict):
    """A number of a finished run.

    `run` holds commands of the product, one after the other, in the config's folder; `read` is a JSON file and the
    dotted path of the number in it. In both, {config}, {run}, {name} and {seed} stand for the config's file and the
    run's folder, name and seed. Without `read` the number is the last held-out loss.
    """

    title: str
    run: list[list[str]] = []
    read: str = ""
    lower_is_better: bool = True


class Study(_Strict):
    """What is compared: every arm is the config with some settings changed, trained once with each seed."""

    title: str
    config: str  # relative to the study's file
    seeds: list[int] = Field(min_length=1)
    baseline: str  # the arm that the others are compared with
    arms: dict[str, Settings] = Field(min_length=2)
    measures: dict[str, Measure] = Field(min_length=1)
    settings: Settings = {}  # of all arms
    scales: dict[str, Settings] = {}  # more settings of all arms, chosen when the study is started

    @model_validator(mode="after")
    def _known_baseline(self) -> Study:
        if self.baseline not in self.arms:
            raise ValueError(f"baseline = {self.baseline!r} is not one of the arms: {', '.join(self.arms)}")
        return self


@dataclass(frozen=True)
class Cell:
    """One training."""

    arm: str
    seed: int
    name: str  # of its run
    settings: Settings


@dataclass(frozen=True)
class Plan:
    study: Study
    config: Path
    output: Path  # the folder of the runs and of the results
    cells: Sequence[Cell]

    def of(self, arm: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.arm == arm]


def read(file: Path, scale: str = "") -> Plan:
    """Raises UserError for a file that is not a study, or has no such scale."""
    file = file.resolve()
    study = _parsed(file)
    if scale and scale not in study.scales:
        raise UserError(f"--scale {scale}: {file.name} has {', '.join(study.scales) or 'no scales'}.")
    config = file.parent / study.config
    if not config.is_file():
        raise UserError(f"{file.name}: config: there is no file {config}.")
    output = file.parent / "output" / "-".join(filter(None, (file.stem, scale)))
    return Plan(study, config, output, list(_cells(study, scale, output)))


def _cells(study: Study, scale: str, output: Path) -> Iterator[Cell]:
    # Seed by seed: a study that is stopped early has whole pairs.
    for seed in study.seeds:
        for arm, own in study.arms.items():
            name = f"{''.join(c if c.isalnum() else '-' for c in arm)}-{seed}"
            common = {"run.output_dir": str(output.resolve()), "run.name": name, "run.seed": seed}
            yield Cell(arm, seed, name, {**study.settings, **study.scales.get(scale, {}), **own, **common})


def _parsed(file: Path) -> Study:
    try:
        values: Mapping[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
        return Study.model_validate(values)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid TOML: {error}.") from error
    except ValidationError as error:
        raise UserError(
            f"{file.name}: {'.'.join(map(str, one['loc'])) or 'the study'}: {one['msg']}" for one in error.errors()
        ) from error
