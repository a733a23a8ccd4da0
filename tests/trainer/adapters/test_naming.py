"""LoRA files that call a layer by other names, or by two: one module each, without a base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.full_size import family
from tests.trainer.adapters.test_tools import close, random_module
from trainer.adapters import inspection, lora_file, naming, tools
from trainer.adapters.naming import Weighted
from trainer.adapters.weights import delta
from trainer.errors import UserError

KOHYA = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"


def layers(model: Any) -> Iterator[tuple[str, str]]:
    for part in model.parts:
        for target in model.adapter_targets(part, conv=True):
            yield part, target


@pytest.mark.parametrize("version", ["sd1", "sd2", "sdxl"])
def test_every_name_that_a_family_reads_is_known_without_its_base(version: str) -> None:
    model = family(version)
    for part, target in layers(model):
        weight = model.parts[part].get_submodule(target).weight
        shape = [(4, weight.shape[1]), (weight.shape[0], 4)]
        names = [model.adapter_key(part, target), *model.adapter_aliases(part, target)]
        known = type(model).lora_names(dict.fromkeys(names, shape), sure=True)
        assert {known[name] for name in names} == {names[0]}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (KOHYA, "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q"),
        (KOHYA, "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
        (KOHYA, "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q"),
        (KOHYA, "lycoris_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te1_text_model_encoder_layers_0_mlp_fc1"),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", "text_encoder.text_model.encoder.layers.0.mlp.fc1"),
        ("lora_te2_text_projection", "text_encoder_2.text_projection"),
    ],
)
def test_two_files_with_two_names_of_one_layer_give_one_module(one: str, other: str) -> None:
    first, second = random_module(2, (64, 48), 0), random_module(3, (64, 48), 1)
    files = [Weighted({one: first}, 0.5, "a"), Weighted({other: second}, 2.0, "b")]
    wanted = 0.5 * delta(first) + 2 * delta(second)
    for made in (tools.concatenate(files), tools.combine(files, 5).modules):
        assert list(made) == [one]
        close(made[one], wanted)


def test_two_names_within_one_file_are_one_module_when_it_is_resized() -> None:
    first, second = random_module(2, (64, 48, 1, 1), 0), random_module(2, (64, 48), 1)
    names = {KOHYA: first, "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": second}
    made = tools.resize(Weighted(names, 1.0, "file"), 4).modules
    assert list(made) == [KOHYA] and made[KOHYA].down.ndim == 4
    torch.testing.assert_close(
        delta(made[KOHYA]).flatten(1), delta(first).flatten(1) + delta(second), atol=1e-5, rtol=1e-4
    )


def test_files_of_two_families_and_names_of_unknown_depth_are_refused() -> None:
    one = Weighted({KOHYA: random_module(2, (8, 8), 0)}, 1.0, "one", {"ss_base_model_version": "sd_v1"})
    other = Weighted({KOHYA: random_module(2, (8, 8), 0)}, 1.0, "other", {"ss_base_model_version": "sdxl_base_v1-0"})
    with pytest.raises(UserError, match=r"different models \(one is for sd, other is for sdxl\)"):
        naming.unified([one, other])
    names = ("lora_unet_up_blocks_1_attentions_0_proj_in", "lora_unet_output_blocks_3_1_proj_in")
    with pytest.raises(UserError, match=r"output_blocks_3_1_proj_in.*merge BASE"):
        naming.unified([Weighted({n: random_module(2, (8, 8), 0) for n in names}, 1.0, "file")])
    wide = naming.unified([Weighted({n: random_module(2, (640, 640), 0) for n in names}, 1.0, "file")])
    assert list(wide[0].modules) == [names[0]]


def test_inspect_tells_of_two_names_of_one_layer(tmp_path: Path) -> None:
    names = (KOHYA, KOHYA.replace("down_blocks_1_attentions_0", "input_blocks_4_1"))
    both = {name: random_module(2, (8, 8), seed) for seed, name in enumerate(names)}
    lora_file.write(tmp_path / "a.safetensors", both, dtype=torch.float32, metadata={})
    found = inspection.inspect(tmp_path / "a.safetensors")
    assert found.doubled == (" = ".join(both),) and found.modules == 2
