"""What a file is: another trainer's, ours, a dataset's, or nothing that can be imported."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.config.importing.cases import CASES
from trainer.config import reading
from trainer.config.foreign.recognise import kind_of, recognise
from trainer.errors import UserError

OURS = '[model]\nbase = "base"\n[lora]\nrank = 4\nalpha = 4\n[training]\nsteps = 8\nmax_grad_norm = 1.0\n'
DATASET = '[general]\nshuffle_caption = true\n[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "a"\n'


def written(folder: Path, text: str, name: str = "it.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize("name", CASES)
def test_a_run_of_another_trainers_file_says_how_it_is_imported(name: str, tmp_path: Path) -> None:
    file = CASES[name].write(tmp_path)
    with pytest.raises(UserError) as caught:
        reading.read(file, ["training.steps=2"])
    (problem,) = caught.value.problems
    assert problem == f"{file}: this is {kind_of(file)}, not a config of ours: python launch.py import {file}"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OURS, "a config of this trainer already"),
        (DATASET, "[data] config = 'it.toml'"),
        ('[project]\nname = "x"\n', "of no trainer that is known"),
        ('{"a": 1}', "of no trainer that is known"),
        ("just words", "not understood"),
        ("", "of no trainer that is known"),
    ],
)
def test_what_is_not_another_trainers_is_named_and_not_imported(text: str, told: str, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    assert kind_of(file) == ""
    with pytest.raises(UserError, match=r"it\.toml") as caught:
        recognise(file)
    assert told in str(caught.value)


def test_an_own_file_with_a_few_of_their_keys_stays_ours(tmp_path: Path) -> None:
    file = written(tmp_path, f"{OURS}network_dim = 4\nlearning_rate = 1e-4\n")
    with pytest.raises(UserError) as caught:
        reading.read(file)
    assert len(caught.value.problems) == 3 and "lora.rank" in caught.value.problems[0]


def test_a_file_that_is_not_there_or_a_folder_is_of_no_kind(tmp_path: Path) -> None:
    assert kind_of(tmp_path / "none.toml") == kind_of(tmp_path) == ""
