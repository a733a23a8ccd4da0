"""The config's errors, each with the control that it stands beside."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trainer.assembly import readiness
from trainer.config import reading
from trainer.errors import UserError
from ui.draft.config import Draft, parse_toml
from ui.draft.fields import DATASET, FOLDER, HELD_OUT, all_fields, noise_headlines

LINE = re.compile(r"(?P<key>[A-Za-z_][\w.\[\]-]*(?:\.'[^']*')?): (?P<text>.*)", re.DOTALL)


@dataclass(frozen=True)
class ConfigProblem:
    """One line of the config's check."""

    key: str  # as the check wrote it: datasets[0].subsets[1].image_dir
    text: str
    control: str  # key of the control to mark, "" where there is none
    entry: tuple[int, int] | None = None  # the dataset and folder (places in the draft) that must be selected to see it

    def visible(self, draft: Draft) -> bool:
        """Whether its control shows the place that is meant."""
        return bool(self.control) and (self.entry is None or self.entry == (draft.dataset, draft.folder))


def problems(draft: Draft, text: str) -> list[ConfigProblem]:
    """Everything that is wrong with a config's text by itself; instant."""
    config, lines = reading.validate(parse_toml(text, draft.file or "config"))
    if config is not None:
        lines = readiness.of_file(config)
    return [_located(line, draft) for line in lines]


def problems_of_files(draft: Draft, text: str, directory: Path) -> list[ConfigProblem]:
    """What is wrong with the base, the folders and the other files of a config that is right by itself, in the lines of
    `check`; looks at the disk. directory: what its paths are relative to."""
    try:
        config = reading.parse(text, directory=directory)
        readiness.refuse(config, readiness.of_material, readiness.of_results)
    except UserError as error:
        return [_located(line.removeprefix("config: "), draft) for line in error.problems]
    return []


def _located(line: str, draft: Draft) -> ConfigProblem:
    match = LINE.fullmatch(line)
    if match is None:
        return ConfigProblem("", line, "")
    key, text = match["key"], match["text"]
    control = _control_of(key)
    if not control.startswith(DATASET):
        return ConfigProblem(key, text, control)
    return ConfigProblem(key, text, control, _entry_of(key, control, draft))


def _control_of(key: str) -> str:
    """The nearest control to a dotted key: its own, its plugin's main one, or that of what encloses it."""
    if key == "datasets" or re.fullmatch(r"(validation\.)?datasets\[\d+\](\.subsets)?", key):
        return f"{FOLDER}.image_dir"
    plain = re.sub(r"\[\d+\]", "[]", key).replace(f"{HELD_OUT}[]", DATASET)
    while plain:
        for candidate in (plain, noise_headlines().get(plain, "")):
            if candidate in all_fields():
                return candidate
        plain = plain[:-2] if plain.endswith("[]") else plain.rpartition(".")[0]
    return ""


def _entry_of(key: str, control: str, draft: Draft) -> tuple[int, int]:
    """The places in the draft of the dataset and folder that a key names."""
    numbers = [int(n) for n in re.findall(r"\[(\d+)\]", key)]
    held_out = key.startswith(HELD_OUT)
    kind = [place for place, dataset in enumerate(draft.datasets) if dataset.held_out == held_out]
    dataset = kind[numbers[0]] if numbers and numbers[0] < len(kind) else 0
    if control.startswith(FOLDER):
        return dataset, numbers[1] if len(numbers) > 1 else 0
    return dataset, draft.folder  # an option of the dataset shows with any of its folders
