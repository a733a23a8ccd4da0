"""The UNet's blocks that sd-scripts counts, 25 of SD 1.x and 2.x, 23 of SDXL, by the beginnings of their names here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Prefixes = tuple[str, ...]


def transformers(family: str) -> dict[int, Prefixes]:
    """The blocks that hold transformers, which every LoRA adapts, by number."""
    if family == "sdxl":
        down = {5: (1, 0), 6: (1, 1), 8: (2, 0), 9: (2, 1)}
        up = {13 + n: divmod(n, 3) for n in range(6)}
        middle = {11: ("unet.mid_block.attentions",)}
    else:
        down = {1 + 3 * level + n: (level, n) for level in range(3) for n in range(2)}
        up = {13 + 3 * level + n: (level, n) for level in range(1, 4) for n in range(3)}
        middle = {12: ("unet.mid_block.attentions",)}
    found: dict[int, Prefixes] = dict(middle)
    found |= {index: (f"unet.down_blocks.{level}.attentions.{n}",) for index, (level, n) in down.items()}
    found |= {index: (f"unet.up_blocks.{level}.attentions.{n}",) for index, (level, n) in up.items()}
    return dict(sorted(found.items()))


def convolutions(family: str) -> dict[int, Prefixes]:
    """The ResNets and samplers by number: adapted only with conv_dim."""
    levels = 3 if family == "sdxl" else 4
    found: dict[int, Prefixes] = {}
    # SDXL's first input block is a convolution of its own, which shifts its numbers by one.
    shift = 2 if family == "sdxl" else 1
    for level in range(levels):
        for n in range(2):
            found[shift + 3 * level + n] = (f"unet.down_blocks.{level}.resnets.{n}",)
        if level < levels - 1:
            found[shift + 3 * level + 2] = (f"unet.down_blocks.{level}.downsamplers",)
        for n in range(3):
            sampler = (f"unet.up_blocks.{level}.upsamplers",) if n == 2 and level < levels - 1 else ()
            found[13 + 3 * level + n] = (f"unet.up_blocks.{level}.resnets.{n}", *sampler)
    if family == "sdxl":
        found |= {10: ("unet.mid_block.resnets.0",), 12: ("unet.mid_block.resnets.1",)}
    else:
        found[12] = ("unet.mid_block.resnets",)
    return dict(sorted(found.items()))


def ends() -> dict[int, Prefixes]:
    """The rest of SDXL's UNet, for rates of a full fine-tune."""
    return {
        0: ("unet.time_embedding", "unet.add_embedding"),
        1: ("unet.conv_in",),
        22: ("unet.conv_norm_out", "unet.conv_out"),
    }


def wide(prefix: str) -> Prefixes:
    """The 3x3 convolutions of a ResNet or sampler."""
    if ".resnets" not in prefix:
        return (prefix,)
    if prefix.endswith(".resnets"):
        return tuple(name for n in range(2) for name in wide(f"{prefix}.{n}"))
    return (f"{prefix}.conv1", f"{prefix}.conv2")


def weights(family: str, down: str | None, middle: str | None, up: str | None, threshold: float) -> list[float] | None:
    """Factors of the learning rate for each block from down_lr_weight and its like; None where none is given.

    Raises ValueError for texts that are neither numbers nor a curve's name.
    """
    if down is None and middle is None and up is None:
        return None
    sides, middles = (9, 3) if family == "sdxl" else (12, 1)
    parts = [_side(down, sides, threshold), _numbers(middle, middles, threshold), _side(up, sides, threshold)]
    inner = [weight for part in parts for weight in part]
    return [1.0, *inner, 1.0] if family == "sdxl" else inner


def _side(text: str | None, length: int, threshold: float) -> list[float]:
    if text is None or "," in text:
        return _numbers(text, length, threshold)
    name, _, base = text.partition("+")
    steps = [n / (length - 1) for n in range(length)]
    curves: Mapping[str, Sequence[float]] = {
        "sine": [math.sin(math.pi * share / 2) for share in steps],
        "cosine": [math.sin(math.pi * share / 2) for share in reversed(steps)],
        "linear": steps,
        "reverse_linear": steps[::-1],
        "zeros": [0.0] * length,
    }
    if name not in curves:
        raise ValueError(f"found {text!r}, expected numbers with commas, or one of {', '.join(curves)}")
    return _above([weight + float(base or 0) for weight in curves[name]], threshold)


def _numbers(text: str | None, length: int, threshold: float) -> list[float]:
    """Too short lists are filled with ones, too long ones cut."""
    found = [] if text is None else [float(word) if word.strip() else 0.0 for word in text.split(",")]
    return _above((found + [1.0] * length)[:length], threshold)


def _above(found: Sequence[float], threshold: float) -> list[float]:
    return [weight if weight > threshold else 0.0 for weight in found]
