"""Which layers a LoRA adapts and what they are called, at full size, against kohya's rules spelled out."""

from __future__ import annotations

from itertools import product

import pytest

from tests.full_size import family

ATTENTION = [f"attn{n}_to_{x}" for n in (1, 2) for x in ("q", "k", "v", "out_0")] + ["ff_net_0_proj", "ff_net_2"]


def transformer(stem: str, depth: int) -> set[str]:
    inner = {f"{stem}_transformer_blocks_{d}_{layer}" for d in range(depth) for layer in ATTENTION}
    return {f"{stem}_proj_in", f"{stem}_proj_out"} | inner


def sd_unet() -> set[str]:
    """SD 1.x and 2.x: diffusers' names; transformers of depth 1 at the three outer levels."""
    found = transformer("lora_unet_mid_block_attentions_0", 1)
    for block, layer in product((0, 1, 2), (0, 1)):
        found |= transformer(f"lora_unet_down_blocks_{block}_attentions_{layer}", 1)
    for block, layer in product((1, 2, 3), (0, 1, 2)):
        found |= transformer(f"lora_unet_up_blocks_{block}_attentions_{layer}", 1)
    return found


def sd_convolutions() -> set[str]:
    resnets = [f"down_blocks_{b}_resnets_{n}" for b, n in product(range(4), range(2))]
    resnets += [f"up_blocks_{b}_resnets_{n}" for b, n in product(range(4), range(3))]
    resnets += ["mid_block_resnets_0", "mid_block_resnets_1"]
    found = {f"lora_unet_{r}_{layer}" for r in resnets for layer in ("conv1", "conv2", "time_emb_proj")}
    shortcuts = ["down_blocks_1_resnets_0", "down_blocks_2_resnets_0"] + [r for r in resnets if r.startswith("up")]
    found |= {f"lora_unet_{r}_conv_shortcut" for r in shortcuts}
    found |= {f"lora_unet_down_blocks_{b}_downsamplers_0_conv" for b in range(3)}
    return found | {f"lora_unet_up_blocks_{b}_upsamplers_0_conv" for b in range(3)}


def sdxl_unet() -> set[str]:
    """SDXL: the original names; depth 2 at the second level, 10 at the third and in the middle."""
    found = transformer("lora_unet_middle_block_1", 10)
    for slot, depth in ((4, 2), (5, 2), (7, 10), (8, 10)):
        found |= transformer(f"lora_unet_input_blocks_{slot}_1", depth)
    for slot, depth in ((0, 10), (1, 10), (2, 10), (3, 2), (4, 2), (5, 2)):
        found |= transformer(f"lora_unet_output_blocks_{slot}_1", depth)
    return found


def sdxl_convolutions() -> set[str]:
    resnets = [f"input_blocks_{s}_0" for s in (1, 2, 4, 5, 7, 8)] + [f"output_blocks_{s}_0" for s in range(9)]
    resnets += ["middle_block_0", "middle_block_2"]
    found = {f"lora_unet_{r}_{layer}" for r in resnets for layer in ("in_layers_2", "out_layers_3", "emb_layers_1")}
    shortcuts = ["input_blocks_4_0", "input_blocks_7_0"] + [r for r in resnets if r.startswith("output")]
    found |= {f"lora_unet_{r}_skip_connection" for r in shortcuts}
    found |= {f"lora_unet_input_blocks_{s}_0_op" for s in (3, 6)}
    return found | {f"lora_unet_output_blocks_{s}_2_conv" for s in (2, 5)}


def text(prefix: str, layers: int) -> set[str]:
    inner = [*(f"self_attn_{x}_proj" for x in ("q", "k", "v", "out")), "mlp_fc1", "mlp_fc2"]
    return {f"{prefix}_text_model_encoder_layers_{n}_{layer}" for n in range(layers) for layer in inner}


def keys(version: str, part: str, *, conv: bool = False) -> set[str]:
    model = family(version)
    targets = model.adapter_targets(part, conv=conv)
    found = [model.adapter_key(part, target) for target in targets]
    assert len(set(found)) == len(found)
    return set(found)


@pytest.mark.parametrize(
    ("version", "unet", "convolutions", "counts"),
    [
        ("sd1", sd_unet(), sd_convolutions(), (192, 86)),
        ("sd2", sd_unet(), sd_convolutions(), (192, 86)),
        ("sdxl", sdxl_unet(), sdxl_convolutions(), (722, 66)),
    ],
)
def test_unet_modules_are_kohyas(version: str, unet: set[str], convolutions: set[str], counts: tuple[int, int]) -> None:
    assert (len(unet), len(convolutions)) == counts
    assert keys(version, "unet") == unet
    assert keys(version, "unet", conv=True) == unet | convolutions


@pytest.mark.parametrize(
    ("version", "part", "expected", "count"),
    [
        ("sd1", "text_encoder", text("lora_te", 12), 72),
        ("sd2", "text_encoder", text("lora_te", 23), 138),
        ("sdxl", "text_encoder", text("lora_te1", 12), 72),
        ("sdxl", "text_encoder_2", text("lora_te2", 32), 192),
    ],
)
def test_text_modules_are_kohyas(version: str, part: str, expected: set[str], count: int) -> None:
    assert len(expected) == count
    assert keys(version, part) == expected


def test_base_versions_are_kohyas() -> None:
    assert [family(v).base_version for v in ("sd1", "sd2", "sdxl")] == ["sd_v1", "sd_v2", "sdxl_base_v1-0"]
