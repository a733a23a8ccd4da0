"""Settings given as options are told as what they are here."""

from __future__ import annotations

import pytest

from trainer.commands.options import refuse_settings
from trainer.errors import UserError

OWN = ("--set", "--resume", "--help")


def told(*words: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        refuse_settings(words, OWN)
    return caught.value.problems


@pytest.mark.parametrize(
    ("words", "instead"),
    [
        (("--learning_rate", "1e-4"), "--set optimizer.lr=1e-4"),
        (("--learning_rate=1e-4",), "--set optimizer.lr=1e-4"),
        (("--network-dim", "16"), "--set lora.rank=16"),
        (("--network_train_unet_only",), "--set training.text_encoder=false"),
        (("--min_snr_gamma", "5"), "--set loss.weighting=min_snr --set loss.gamma=5"),
        (("--resolution", "512,768"), "--set general.resolution=512,768"),
        (("--lr", "1e-4"), "--set optimizer.lr=1e-4"),
        (("--noise.oversampling.k=64",), "--set noise.oversampling.k=64"),
        (("--train_data_dir", "photos"), "--set data.train_data_dir=photos"),
        (("--optimizer_args", "weight_decay=0.1"), "python launch.py import FILE"),
        (("--xformers",), "no setting here"),
        (("--config_file", "it.toml"), "train it.toml"),
    ],
)
def test_an_option_of_others_is_a_setting_here(words: tuple[str, ...], instead: str) -> None:
    (problem,) = told("my.toml", *words)
    assert problem.startswith(words[0].partition("=")[0]) and instead in problem


def test_all_are_told_at_once_and_the_commands_own_stay() -> None:
    assert len(told("my.toml", "--resume", "--unet_lr", "1e-4", "--set", "lora.rank=4", "--network_alpha", "1")) == 2


@pytest.mark.parametrize("words", [("--resume",), ("--set", "--learning_rate=1"), ("--nobodys", "1"), ("-o", "x")])
def test_what_is_no_setting_is_left_to_the_command(words: tuple[str, ...]) -> None:
    refuse_settings(("my.toml", *words), OWN)
