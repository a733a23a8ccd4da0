"""LoRA_Easy_Training_Scripts: what the program makes of its tables before sd-scripts sees them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from trainer.config.foreign import lora_easy
from trainer.config.foreign.outcome import Outcome
from trainer.config.foreign.translate import Translation, translate
from trainer.errors import UserError

LEAST = '[general_args.args]\npretrained_model_name_or_path = "base"\nseed = 0\n[network_args.args]\nnetwork_dim = 4\n'


def read(more: str = "") -> Translation:
    return translate(lora_easy.source(tomllib.loads(LEAST + more), Path()))


def ours(more: str = "") -> dict[str, object]:
    return {key: setting.value for key, setting in read(more).settings.items()}


def outcome(more: str, name: str) -> Outcome:
    return next(entry.outcome for entry in read(more).entries if entry.name.endswith(name))


def test_it_is_told_from_the_flat_form() -> None:
    assert lora_easy.is_one(tomllib.loads(LEAST))
    assert not lora_easy.is_one(tomllib.loads("[network_args]\nnetwork_dim = 4\n"))
    assert not lora_easy.is_one({}) and not lora_easy.is_one({"subsets": [{"image_dir": "x"}]})


def test_a_zero_is_left_out_there() -> None:
    assert "run.seed" not in ours() and outcome("", ".seed").kind == "unneeded"
    assert ours("[optimizer_args.args]\nmax_grad_norm = 0\n")["training.max_grad_norm"] == 1.0


def test_the_arguments_of_the_network_choose_its_kind() -> None:
    assert ours()["lora.method"] == "lora"
    assert ours('[network_args.args.network_args]\nalgo = "loha"\n')["lora.method"] == "loha"
    assert outcome("[network_args.args.network_args]\nunit = 4\n", ".unit").kind == "missing"
    assert outcome("fa = true\n", ".fa").kind == "missing"


def test_rates_of_blocks_are_lists() -> None:
    halves = ", ".join(["0.5"] * 12)
    more = f"[network_args.args.network_args]\ndown_lr_weight = [{halves}]\nmid_lr_weight = 1.0\n"
    more += f"up_lr_weight = [{halves}]\n[optimizer_args.args]\nunet_lr = 1e-4\n"
    found = ours(more)
    rates = [value for key, value in found.items() if key.startswith("optimizer.rates.")]
    assert rates and set(rates) <= {5e-5, 1e-4} and 5e-5 in rates


def test_words_for_yes_and_no_and_the_replaced_name() -> None:
    found = ours(
        '[optimizer_args.args]\noptimizer_type = "DAdaptAdam"\n'
        '[optimizer_args.args.optimizer_args]\ndecouple = "true"\n'
        '[saving_args.args]\neasy_name = "cats"\noutput_name = "${replace}-1"\n'
    )
    assert found["optimizer.args.weight_decouple"] is True and found["run.name"] == "cats-1"


def test_a_warm_up_is_a_share_of_the_run() -> None:
    assert ours('[optimizer_args.args]\nlr_scheduler = "cosine"\nwarmup_ratio = 0.05\n')["schedule.warmup"] == 0.05


def test_empty_options_of_a_folder_are_not_set() -> None:
    found = ours('[[subsets]]\nname = "one"\nimage_dir = "a"\nkeep_tokens = 0\nflip_aug = false\nnum_repeats = 3\n')
    assert found["datasets"] == [{"subsets": [{"image_dir": "a", "num_repeats": 3}]}]


def test_sdxl_is_the_family() -> None:
    assert "model.family" not in ours()
    text = LEAST.replace("seed = 0", "sdxl = true")
    found = translate(lora_easy.source(tomllib.loads(text), Path()))
    assert found.settings["model.family"].value == "sdxl"


@pytest.mark.parametrize("name", ["Compass", "LPFAdamW", "RMSProp"])
def test_its_own_optimizers_are_missing(name: str) -> None:
    assert outcome(f'[optimizer_args.args]\noptimizer_type = "{name}"\n', "optimizer_type").kind == "missing"


@pytest.mark.parametrize(
    ("more", "told"),
    [('[train_mode]\ntrain_mode = "textual_inversion"\n', "textual"), ("[flux_args.args]\nae = ''\n", "flux")],
)
def test_what_is_not_trained_here(more: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        read(more)
