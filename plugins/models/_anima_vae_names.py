"""The names of Qwen-Image's VAE in its original file (Wan's layout), which ComfyUI and sd-scripts read."""

from __future__ import annotations

import re

_RESIDUAL = {"0": "norm1", "2": "conv1", "3": "norm2", "6": "conv2"}
_TURNED = {new: old for old, new in _RESIDUAL.items()}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_ENDS = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}
_OUTER = {"conv1": "quant_conv", "conv2": "post_quant_conv"}


def to_diffusers(name: str, resnets: int) -> str:
    """Original -> diffusers'. resnets: of each level of the decoder, behind which stands what enlarges."""
    side, _, rest = name.partition(".")
    if side in _OUTER:
        return f"{_OUTER[side]}.{rest}"
    for old, new in _ENDS.items():
        if rest.startswith(f"{old}."):
            return f"{side}.{new}{rest.removeprefix(old)}"
    kind, number, inner = rest.split(".", 2)
    if kind == "middle":
        return f"{side}.mid_block.{_MIDDLE[number]}.{_block(inner)}"
    if side == "encoder":
        return f"encoder.down_blocks.{number}.{_block(inner)}"
    level, place = divmod(int(number), resnets + 1)
    where = f"resnets.{place}" if place < resnets else "upsamplers.0"
    return f"decoder.up_blocks.{level}.{where}.{_block(inner)}"


def to_original(name: str, resnets: int) -> str:
    """The way back."""
    head, _, tail = name.partition(".")
    for old, new in _OUTER.items():
        if head == new:
            return f"{old}.{tail}"
    for old, new in _ENDS.items():
        if tail.startswith(f"{new}."):
            return f"{head}.{old}{tail.removeprefix(new)}"
    if found := re.fullmatch(r"mid_block\.(\w+\.\d)\.(.+)", tail):
        number = next(old for old, new in _MIDDLE.items() if new == found[1])
        return f"{head}.middle.{number}.{_unblock(found[2])}"
    if found := re.fullmatch(r"down_blocks\.(\d+)\.(.+)", tail):
        return f"encoder.downsamples.{found[1]}.{_unblock(found[2])}"
    found = re.fullmatch(r"up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.(.+)", tail)
    assert found is not None, name
    place = int(found[3]) if found[2] == "resnets" else resnets
    return f"decoder.upsamples.{int(found[1]) * (resnets + 1) + place}.{_unblock(found[4])}"


def _block(inner: str) -> str:
    """residual.2.weight -> conv1.weight; what enlarges or attends keeps its names."""
    if inner.startswith("residual."):
        _, number, leaf = inner.split(".")
        return f"{_RESIDUAL[number]}.{leaf}"
    return inner.replace("shortcut.", "conv_shortcut.")


def _unblock(inner: str) -> str:
    first, _, leaf = inner.partition(".")
    if first in _TURNED:
        return f"residual.{_TURNED[first]}.{leaf}"
    return inner.replace("conv_shortcut.", "shortcut.")
