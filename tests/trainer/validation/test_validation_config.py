"""[validation] and [samples] in the config file: read, checked, written back."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import reading
from trainer.config.checks import notes
from trainer.config.schema.whole import Config
from trainer.errors import UserError

RUN = '[model]\nbase = "owner/name"\n[[datasets]]\n[[datasets.subsets]]\nimage_dir = "photos"\n'
OWN = '[[validation.datasets]]\nresolution = 768\n[[validation.datasets.subsets]]\nimage_dir = "others"\n'


def read(text: str, folder: Path) -> Config:
    return reading.parse(RUN + text, directory=folder)


def problems(text: str, folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read(text, folder)
    return str(error.value)


def test_datasets_of_their_own_survive_being_written(tmp_path: Path) -> None:
    config = read(f"[validation]\nevery = '15m'\n{OWN}[general]\nresolution = 512\n", tmp_path)
    again = reading.parse(reading.to_toml(config), directory=tmp_path / "elsewhere")
    assert again == config
    (table,) = again.validation.datasets
    assert table.subsets[0].image_dir == str(tmp_path / "others")
    # What was not written stays unwritten: [general] still counts for it.
    assert table.model_fields_set == {"resolution", "subsets"}


def test_mistakes_are_named_at_their_place(tmp_path: Path) -> None:
    told = problems(OWN.replace("image_dir", "image_dri") + "[validation]\nsplit = 2\n", tmp_path)
    assert "validation.datasets[0].subsets[0].image_dri: unknown key" in told
    assert "Did you mean 'image_dir'" in told
    assert "validation.datasets[0].subsets[0].image_dir: missing" in told
    assert "validation.split: found 2, expected less than 1" in told


def test_a_split_and_datasets_exclude_each_other(tmp_path: Path) -> None:
    assert "validation.split: 0.1 excludes [[validation.datasets]]" in problems(
        f"[validation]\nsplit = 0.1\n{OWN}", tmp_path
    )


@pytest.mark.parametrize("key", ["validation.every", "samples.every", "save.every"])
def test_intervals_are_checked(tmp_path: Path, key: str) -> None:
    section, name = key.split(".")
    told = problems(f'[{section}]\n{name} = "soon"\n', tmp_path)
    assert f"{key}: found 'soon', expected a number of steps, or a text such as '15m', '2h', '1 epoch'" in told
    assert f"{key}: found -1, expected at least 0" in problems(f"[{section}]\n{name} = -1\n", tmp_path)
    assert read(f'[{section}]\n{name} = "2 epochs"\n', tmp_path) is not None


def test_a_prompt_file_is_found_beside_the_config(tmp_path: Path) -> None:
    assert read('[samples]\nprompts = "p.txt"\n', tmp_path).samples.prompts == str(tmp_path / "p.txt")
    assert read('[samples]\nprompts = ["p.txt"]\n', tmp_path).samples.prompts == ["p.txt"]


def test_settings_without_effect_are_told(tmp_path: Path) -> None:
    without = "note: [validation] has no effect"
    assert any(line.startswith(without) for line in notes(read("[validation]\ndraws = 8\n", tmp_path)))
    for text in ("[validation]\nsplit = 0.1\ndraws = 8\n", f"[validation]\ndraws = 8\n{OWN}"):
        assert not any(line.startswith(without) for line in notes(read(text, tmp_path)))
    kohya = reading.parse(
        RUN.replace("[[datasets]]", "[validation]\ndraws = 8\n[[datasets]]\nvalidation_split = 0.1"), directory=tmp_path
    )
    assert not any(line.startswith(without) for line in notes(kohya))


def test_kohyas_names_are_recognised(tmp_path: Path) -> None:
    told = problems("[validation]\nvalidate_every_n_steps = 5\n[samples]\nsample_sampler = 'ddim'\n", tmp_path)
    assert "It is called 'every' here" in told
    assert "It is called 'sampler' here" in told
