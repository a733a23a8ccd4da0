"""Samples see their prompts as training sees captions, whatever the text settings are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.tiny import tiny_sd, tiny_sdxl
from trainer import registry
from trainer.samples import drawing
from trainer.samples.prompts import Request

BASES: dict[str, tuple[str, Any]] = {
    "sd1": ("sd", tiny_sd),
    "sd2": ("sd", lambda folder: tiny_sd(folder, version=2)),
    "sdxl": ("sdxl", tiny_sdxl),
}
LONG = " ".join(["red"] * 60)  # bytes: more than two chunks
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clip skip": {"clip_skip": 2},
    "weights": {"weighted_captions": True},
    "long": {"max_tokens": 225},
    "all": {"clip_skip": 2, "weighted_captions": True, "max_tokens": 150},
}
PROMPTS, NEGATIVES = ["a (red:1.9) cat", LONG], ["a [blue] dog", ""]


def seen(family: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What the UNet is given of the text while two pictures are drawn, the negative prompts first."""
    found: dict[str, torch.Tensor] = {}

    def forward(sample: torch.Tensor, timestep: Any, encoder_hidden_states: torch.Tensor, **rest: Any) -> Any:
        found["hidden"] = encoder_hidden_states
        if (added := rest.get("added_cond_kwargs")) is not None:
            found["pooled"] = added["text_embeds"]
        return SimpleNamespace(sample=sample) if rest.get("return_dict", True) else (sample,)

    monkeypatch.setattr(family.unet, "forward", forward)
    pairs = zip(PROMPTS, NEGATIVES, strict=True)
    drawing.draw(family, [Request(prompt, 1, negative, 32, 32, 1, 5.0) for prompt, negative in pairs])
    return found


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("base", BASES)
def test_prompts_go_the_way_of_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, settings: str
) -> None:
    name, make = BASES[base]
    family = registry.find("models", name).load(str(make(tmp_path / "base")), **SETTINGS[settings])
    with torch.no_grad():
        expected = family.encode_text([*NEGATIVES, *PROMPTS])
    found = seen(family, monkeypatch)
    assert found.keys() == expected.tensors.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
