"""What `model.network` says of a new network in pixel space: diffusers' UNet2DModel by its own keys, and two more."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainer.errors import UserError

WHERE = "model.network"
CHANNELS = (1, 3)  # grey or colour
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")  # diffusers' names
TIMESTEPS = 1000
# The network that DDPM had for 32 x 32 pixels (Ho et al. 2020, arXiv 2006.11239, appendix B), without its dropout.
USUAL: dict[str, Any] = {"in_channels": 3, "block_out_channels": [128, 256, 256, 256], "layers_per_block": 2}
ATTENTION = (16,)  # sides at which it attends
# UNet2DModel's keys, with the kind of their values; the classes are counted, and the timesteps need no embedding.
KEYS: dict[str, tuple[type, ...]] = {
    "sample_size": (int,),
    "in_channels": (int,),
    "block_out_channels": (list,),
    "layers_per_block": (int,),
    "dropout": (float, int),
    "attention_head_dim": (int,),
    "norm_num_groups": (int,),
    "attn_norm_num_groups": (int,),
    "norm_eps": (float,),
    "act_fn": (str,),
    "down_block_types": (list,),
    "up_block_types": (list,),
    "mid_block_type": (str,),
    "mid_block_scale_factor": (float, int),
    "add_attention": (bool,),
    "resnet_time_scale_shift": (str,),
    "downsample_type": (str,),
    "upsample_type": (str,),
    "downsample_padding": (int,),
    "time_embedding_type": (str,),
    "time_embedding_dim": (int,),
    "flip_sin_to_cos": (bool,),
    "freq_shift": (int,),
    "center_input_sample": (bool,),
}
OWN: dict[str, tuple[type, ...]] = {"attention_resolutions": (list,), "beta_schedule": (str,)}
_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", list: "a list"}


@dataclass(frozen=True)
class Asked:
    """A new network, as the config describes it."""

    config: Mapping[str, Any]  # of UNet2DModel
    classes: tuple[str, ...]  # none: it is unconditional
    beta_schedule: str


def asked(network: Mapping[str, Any], classes: Sequence[str]) -> Asked:
    """Raises UserError with everything that is wrong."""
    if problems := [*_problems(network)]:
        raise UserError(f"{WHERE}.{problem}" for problem in problems)
    own = {**USUAL, **{key: value for key, value in network.items() if key in KEYS}}
    own["out_channels"] = own["in_channels"]
    sides = network.get("attention_resolutions", ATTENTION)
    levels = [own["sample_size"] // 2**level for level in range(len(own["block_out_channels"]))]
    down = ["AttnDownBlock2D" if side in sides else "DownBlock2D" for side in levels]
    up = ["AttnUpBlock2D" if side in sides else "UpBlock2D" for side in reversed(levels)]
    return Asked(
        {
            "down_block_types": down,
            "up_block_types": up,
            **own,
            **({"num_class_embeds": len(classes) + 1} if classes else {}),  # the last one is for no class
        },
        tuple(classes),
        network.get("beta_schedule", BETAS[0]),
    )


def _problems(network: Mapping[str, Any]) -> Iterator[str]:
    """Each begins with the key."""
    known = KEYS | OWN
    for key, value in network.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f". Did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}."
            yield f"{key}: unknown key{hint}"
        elif type(value) not in known[key]:
            yield f"{key}: found {value!r}, expected {' or '.join(_WORDS[kind] for kind in known[key])}."
    if "sample_size" not in network:
        yield "sample_size: missing; give the side of the pictures in pixels, such as 32."
    if any(type(network.get(key, kinds[0]())) not in kinds for key, kinds in known.items()):
        return  # what follows reads the values
    yield from _values(network)


def _values(network: Mapping[str, Any]) -> Iterator[str]:
    channels = {**USUAL, **network}
    if channels["in_channels"] not in CHANNELS:
        yield f"in_channels: found {channels['in_channels']}, expected 3 (colour) or 1 (grey)."
    widths = channels["block_out_channels"]
    if not widths or any(type(width) is not int or width < 1 for width in widths):
        yield f"block_out_channels: found {widths}, expected a width for each level, such as [128, 256, 256]."
        return
    side, levels = network.get("sample_size", 2 ** len(widths)), len(widths)
    if side < 1 or side % 2 ** (levels - 1):
        yield f"sample_size: found {side}, expected a multiple of {2 ** (levels - 1)}, as {levels} levels need."
    sides = [side // 2**level for level in range(levels)]
    if strange := [one for one in network.get("attention_resolutions", ()) if one not in sides]:
        yield f"attention_resolutions: {strange[0]!r} is the side of no level; there are {', '.join(map(str, sides))}."
    if "attention_resolutions" in network and {"down_block_types", "up_block_types"} & network.keys():
        yield "attention_resolutions: excludes down_block_types and up_block_types; keep one of them."
    if network.get("beta_schedule", BETAS[0]) not in BETAS:
        yield f"beta_schedule: found {network['beta_schedule']!r}, expected one of {', '.join(BETAS)}."
    if network.get("time_embedding_type", "positional") != "positional":
        yield "time_embedding_type: expected 'positional'; other embeddings belong to schedules not trained here."


def size_multiple(config: Mapping[str, Any]) -> int:
    """Pixels that the sides of pictures must divide by."""
    return int(2 ** (len(config["block_out_channels"]) - 1))
