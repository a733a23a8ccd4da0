"""sd-scripts' keys arrive as what its own scripts would do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from plugins.models._original_names import unet_names
from plugins.models._unet import adapter_targets
from tests import full_size
from trainer.config.foreign.outcome import Outcome
from trainer.config.foreign.sd_scripts import blocks, reader
from trainer.config.foreign.sd_scripts.table import KEYS, READ_BY
from trainer.config.foreign.translate import translate
from trainer.config.keys import keys as schema_keys
from trainer.errors import UserError

LORA = {"network_module": "networks.lora", "learning_rate": 1e-4, "network_dim": 8, "network_alpha": 8}


def ours(given: dict[str, Any], script: str = "", folder: Path = Path()) -> dict[str, Any]:
    found = translate(reader.source(given, folder, script=script, what="a test"))
    return {key: setting.value for key, setting in found.settings.items()}


def outcome(name: str, given: dict[str, Any], script: str = "") -> Outcome:
    found = translate(reader.source(given, Path(), script=script, what="a test"))
    return next(entry.outcome for entry in found.entries if entry.name == name)


def test_every_row_leads_to_a_key_of_the_schema() -> None:
    known = {path for path, _ in schema_keys()}
    ours = {key for name in KEYS for key in KEYS[name].ours}
    assert {key if key in known else key.rpartition(".")[0] for key in ours} <= known
    assert set(READ_BY) <= set(KEYS)


@pytest.mark.parametrize(
    ("given", "network", "text"),
    [
        ({}, 1e-4, 1e-4),
        ({"unet_lr": 2e-4}, 2e-4, 1e-4),
        ({"text_encoder_lr": 5e-5}, 1e-4, 5e-5),
        ({"text_encoder_lr": [5e-5, 1e-5]}, 1e-4, 5e-5),  # networks.lora takes the first
        ({"text_encoder_lr": 0}, 1e-4, 0),
        ({"unet_lr": 0}, 0, 1e-4),
        ({"network_train_unet_only": True}, 1e-4, 0),
        ({"network_train_text_encoder_only": True, "text_encoder_lr": 3e-5}, 0, 3e-5),
    ],
)
def test_rates_of_a_lora(given: dict[str, Any], network: float, text: float) -> None:
    found = ours({**LORA, **given})
    assert (found["training.unet"], found["training.text_encoder"]) == (network > 0, text > 0)
    assert found["optimizer.lr"] == (network or text)
    assert found.get("optimizer.text_encoder_lr", 0) == text


@pytest.mark.parametrize(
    ("script", "given", "expected"),
    [
        ("train_db.py", {}, {"training.text_encoder": True, "optimizer.text_encoder_lr": 1e-5}),
        ("train_db.py", {"stop_text_encoder_training": -1}, {"training.text_encoder": False}),
        ("train_db.py", {"stop_text_encoder_training": 30}, {"training.text_encoder_until": 30}),
        ("fine_tune.py", {"in_json": "m.json"}, {"training.text_encoder": False}),
        ("fine_tune.py", {"train_text_encoder": True, "learning_rate_te": 1e-6}, {"optimizer.text_encoder_lr": 1e-6}),
        ("sdxl_train.py", {"learning_rate_te1": 1e-6}, {"training.text_encoder": False, "model.family": "sdxl"}),
        (
            "sdxl_train.py",
            {"train_text_encoder": True, "learning_rate_te1": 1e-6, "learning_rate_te2": 0},
            {"optimizer.rates.text_encoder": 1e-6, "optimizer.rates.text_encoder_2": 0.0},
        ),
    ],
)
def test_text_encoders_of_full_fine_tunes(script: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = ours({"learning_rate": 1e-5, "train_data_dir": "x", **given}, script)
    assert found["training.method"] == "full" and "lora.alpha" not in found
    assert {key: found.get(key) for key in expected} == expected


def test_a_file_says_by_its_keys_which_script_it_is_for() -> None:
    assert reader.script_of(LORA) == "train_network.py"
    assert reader.script_of({"learning_rate_te1": 1e-6}) == "sdxl_train.py"
    assert reader.script_of({"stop_text_encoder_training": -1}) == "train_db.py"
    with pytest.raises(UserError, match="--script"):
        reader.script_of({"learning_rate": 1e-6})


@pytest.mark.parametrize(
    ("value", "expected"),
    [("512", 512), ("512,768", [512, 768]), ("1024,1024", 1024), (768, 768), ([640, 512], [640, 512])],
)
def test_sizes(value: Any, expected: Any) -> None:
    assert ours({**LORA, "resolution": value})["general.resolution"] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": 100}, {"name": "constant", "warmup": 100}),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": 0.1, "lr_scheduler_num_cycles": 3}, {"warmup": 0.1}),
        ({"lr_scheduler": "cosine", "lr_warmup_steps": "5%"}, {"warmup": 0.05}),
        ({"lr_scheduler": "cosine_with_restarts", "lr_scheduler_num_cycles": 3}, {"cycles": 3}),
        (
            {"lr_scheduler": "cosine_with_min_lr", "lr_scheduler_min_lr_ratio": 0.1},
            {"name": "cosine", "minimum": 0.1, "cycles": 1},
        ),
        ({"lr_scheduler": "polynomial", "lr_scheduler_power": 2}, {"name": "polynomial", "power": 2}),
        (
            {
                "lr_scheduler": "piecewise_constant",
                "lr_scheduler_args": ["step_rules='1:100,0.1:150,0.01'"],
                "max_train_steps": 200,
            },
            {"name": "piecewise_constant", "pieces": [[0.5, 1.0], [0.75, 0.1], [1.0, 0.01]]},
        ),
    ],
)
def test_schedules(given: dict[str, Any], expected: dict[str, Any]) -> None:
    found = ours({**LORA, **given})
    assert {key: found.get(f"schedule.{key}") for key in expected} == expected
    assert found.get("schedule.cycles", 1) == expected.get("cycles", 1)


def test_cosine_falls_as_it_does_there() -> None:
    """transformers' cosine_with_min_lr, which sd-scripts hands half its number of cycles."""
    from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup as theirs

    from trainer.optim.schedules import Shape

    found = ours({**LORA, "lr_scheduler": "cosine_with_min_lr", "lr_scheduler_num_cycles": 3,
                  "lr_scheduler_min_lr_ratio": 0.2})  # fmt: skip
    shape = Shape("cosine", cycles=found["schedule.cycles"], minimum=found["schedule.minimum"])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    schedule = theirs(optimizer, 0, 50, num_cycles=1.5, min_lr_rate=0.2)
    for step in range(50):
        assert schedule.get_last_lr()[0] == pytest.approx(shape.factor(step, 50), abs=1e-6)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", ["inverse_sqrt", "magic"])
def test_schedules_that_are_not_here(name: str) -> None:
    assert outcome("lr_scheduler", {**LORA, "lr_scheduler": name}).kind == "missing"


def test_arguments_of_optimizers() -> None:
    found = ours(
        {**LORA, "optimizer_type": "Prodigy", "optimizer_args": ["decouple=True", "d_coef=0.5", "betas=0.9,0.99"]}
    )
    assert found["optimizer.name"] == "prodigy"
    assert "optimizer.args.decouple" not in found and found["optimizer.args.d_coef"] == 0.5  # it always is, here
    assert found["optimizer.args.betas"] == [0.9, 0.99]
    adafactor = ours({**LORA, "optimizer_type": "AdaFactor", "optimizer_args": ["scale_parameter=False"]})
    assert adafactor["optimizer.name"] == "adafactor"  # which has the relative step of sd-scripts unasked
    assert adafactor["optimizer.args.scale_parameter"] is False
    assert outcome("optimizer_type", {**LORA, "optimizer_type": "DAdaptAdanIP"}).kind == "missing"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], {"lora.method": "lora", "lora.conv_rank": 8, "lora.conv_alpha": 8}),
        (
            ["algo=loha", "conv_dim=4", "conv_alpha=1"],
            {"lora.method": "loha", "lora.conv_rank": 4, "lora.conv_alpha": 1},
        ),
        (["algo=locon", "preset=attn-mlp"], {"lora.method": "lora", "lora.conv_rank": None}),
        (["algo=lora", "dora_wd=True", "preset=attn-mlp"], {"lora.method": "dora"}),
        (["algo=lokr", "rs_lora=True", "preset=attn-mlp"], {"lora.alpha": 8 * 8**0.5}),
    ],
)
def test_lycoris(args: list[str], expected: dict[str, Any]) -> None:
    found = ours({**LORA, "network_module": "lycoris.kohya", "network_args": args})
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("network_module", {"network_module": "networks.dylora"}),
        ("network_args.algo", {"network_module": "lycoris.kohya", "network_args": ["algo=ia3"]}),
        ("network_args.preset", {"network_module": "lycoris.kohya", "network_args": ["preset=unet-convblock-only"]}),
        ("network_args.spell", {"network_args": ["spell=1"]}),
        ("min_snr_gamma", {"min_snr_gamma": 5, "debiased_estimation_loss": True}),
        ("network_args.loraplus_unet_lr_ratio", {"network_args": ["loraplus_unet_lr_ratio=4"]}),
    ],
)
def test_what_has_no_counterpart(name: str, given: dict[str, Any]) -> None:
    found = outcome(name, {**LORA, **given})
    assert found.kind == "missing" and not found.harmless and found.why


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["algo=lokr", "factor=8", "decompose_both=True"], {"lora.args.factor": 8, "lora.args.decompose_both": True}),
        (["algo=lokr", "full_matrix=True", "factor=-1"], {"lora.args.full_matrix": True, "lora.args.factor": None}),
        (["algo=loha", "factor=8"], {"lora.args.factor": None}),
        (["preset=attn-only"], {"lora.layers": ["attn1", "attn2", "self_attn"], "training.text_encoder": True}),
        (["preset=unet-only"], {"training.text_encoder": False, "lora.conv_rank": 8}),
        (["preset=unet-transformer-only"], {"training.text_encoder": False, "lora.conv_rank": None}),
    ],
)
def test_lycoris_splits_and_presets(arguments: list[str], expected: dict[str, Any]) -> None:
    found = ours({**LORA, "network_module": "lycoris.kohya", "network_dim": 8, "network_args": arguments})
    assert {key: found.get(key) for key in expected} == expected


def test_lora_plus() -> None:
    assert ours({**LORA, "network_args": ["loraplus_lr_ratio=4"]})["optimizer.lora_plus"] == 4
    only = {**LORA, "network_train_unet_only": True, "network_args": ["loraplus_unet_lr_ratio=4"]}
    assert ours(only)["optimizer.lora_plus"] == 4


def test_a_dataset_file_comes_before_the_keys_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "d.toml").write_text(
        '[general]\nkeep_tokens = 2\n[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "cats"\n'
    )
    given = {**LORA, "dataset_config": "sets/d.toml", "keep_tokens": 1, "shuffle_caption": True, "alpha_mask": True}
    found = ours(given, folder=tmp_path)
    assert found["general.keep_tokens"] == 2 and found["general.shuffle_caption"] is True
    subset = {"alpha_mask": True, "image_dir": str(tmp_path / "sets" / "cats")}
    assert found["datasets"] == [{"resolution": 64, "subsets": [subset]}]
    with pytest.raises(UserError, match=r"dataset_config: there is no file lost\.toml"):
        ours({**LORA, "dataset_config": "lost.toml"}, folder=tmp_path)


def test_transparency_of_folders_with_repeats(tmp_path: Path) -> None:
    (tmp_path / "train" / "10_my cat").mkdir(parents=True)
    found = ours({**LORA, "train_data_dir": "train", "alpha_mask": True}, folder=tmp_path)
    assert found["datasets"] == [
        {"subsets": [{"image_dir": "train/10_my cat", "num_repeats": 10, "class_tokens": "my cat", "alpha_mask": True}]}
    ]


def test_caches_and_augmentation() -> None:
    assert ours({**LORA, "cache_latents": True})["data.latent_sampling"] == "once"
    plain, cropped = ours(LORA), ours({**LORA, "random_crop": True})
    assert (plain["data.cache_latents"], plain["data.latent_sampling"]) == (True, "fresh")
    assert (cropped["data.cache_latents"], cropped["data.latent_sampling"]) == (False, "fresh")


# --- blocks


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def unet(request: pytest.FixtureRequest) -> tuple[str, UNet2DConditionModel]:
    return request.param, full_size.family("sdxl" if request.param == "sdxl" else "sd1").parts["unet"]


def _kohya_number(family: str, name: str, original: str) -> int:
    """Which block sd-scripts counts a layer to, by its name: networks/lora.py for SD, sdxl_train.py for SDXL."""
    if family == "sdxl":
        side, number = original.split(".")[:2]
        return {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}[side] + int(number)
    if name.startswith("mid_block"):
        return 12
    side, level, kind, n = name.split(".")[:4]
    place = 3 * int(level) + (2 if "sampler" in kind else int(n))
    return place + {"down_blocks": 1, "up_blocks": 13}[side]


def test_blocks_have_sd_scripts_numbers(unet: tuple[str, UNet2DConditionModel]) -> None:
    family, network = unet
    names = unet_names(network.config)
    tables = {False: blocks.transformers(family), True: blocks.convolutions(family)}
    for conv in (False, True):
        for layer in adapter_targets(network, conv=conv):
            is_conv = "attentions" not in layer
            expected = _kohya_number(family, layer, str(names.to_original(layer)))
            mine = [n for n, prefixes in tables[is_conv].items() if f"unet.{layer}".startswith(prefixes)]
            assert mine == [expected], layer
    modules = {f"unet.{name}" for name, _ in network.named_modules()}
    assert {prefix for table in tables.values() for found in table.values() for prefix in found} <= modules


def test_rates_and_ranks_of_blocks() -> None:
    weights = ",".join(["1", "0"] + ["1"] * 10)  # the first number is conv_in's, which no LoRA adapts
    given = {
        **LORA,
        "network_train_unet_only": True,
        "network_args": [f"down_lr_weight={weights}", "mid_lr_weight=0.5"],
    }
    found = ours(given)
    assert found["lora.ranks.unet.down_blocks.0.attentions.0"] == 0
    assert found["optimizer.rates.unet.mid_block.attentions"] == pytest.approx(5e-5)
    assert not any("up_blocks" in key for key in found)


def test_ranks_of_blocks_keep_their_alpha_in_proportion() -> None:
    dims, alphas = ",".join(["4"] * 25), ",".join(["2"] * 25)
    base = {**LORA, "network_train_unet_only": True}
    found = ours({**base, "network_args": [f"block_dims={dims}", f"block_alphas={alphas}"]})
    assert found["lora.ranks.unet.mid_block.attentions"] == 4 and found["lora.rank"] == 8 and found["lora.alpha"] == 4
    uneven = {**base, "network_args": [f"block_dims={dims.replace('4', '2', 5)}", f"block_alphas={alphas}"]}
    assert outcome("network_args.block_dims", uneven).kind == "missing"


def test_curves_of_block_weights() -> None:
    assert blocks.weights("sd", "linear+0.5", None, "zeros", 0.0) == pytest.approx(
        [0.5 + n / 11 for n in range(12)] + [1.0] + [0.0] * 12
    )
    assert blocks.weights("sdxl", None, "1,2", None, 0.0) == [1.0] * 11 + [2.0, 1.0] + [1.0] * 10
    with pytest.raises(ValueError, match="expected numbers"):
        blocks.weights("sd", "wave", None, None, 0.0)


def test_a_warm_up_of_the_whole_run_is_not_one_step() -> None:
    with pytest.raises(UserError, match=r"lr_warmup_steps: found 1\.0, expected a whole number of steps"):
        ours({**LORA, "lr_scheduler": "linear", "lr_warmup_steps": 1.0})


@pytest.mark.parametrize(("script", "family"), [("", None), ("sdxl_train_leco.py", "sdxl")])
def test_leco_trains_by_its_file_of_prompts(script: str, family: str | None) -> None:
    """By `prompts_file` alone it is known; its defaults are its parser's, and nothing of images is taken over."""
    given = {"prompts_file": "p.toml", "learning_rate": 1e-4, "unet_lr": 2e-4, "max_train_steps": 500, "resolution": 1}
    found = ours(given, script)
    assert (found["slider.prompts_file"], found["slider.denoising_steps"], found["slider.denoising_guidance"]) == (
        "p.toml", 40, 3.0,
    )  # fmt: skip
    assert (found["lora.rank"], found["lora.alpha"], found["optimizer.lr"]) == (4, 1.0, 2e-4)
    assert (found["training.steps"], found["training.text_encoder"]) == (500, False)
    assert found.get("model.family") == family
    assert not [key for key in found if key.startswith(("general.", "data.", "datasets"))]
    assert outcome("resolution", given, script).why.endswith("does not read it")
