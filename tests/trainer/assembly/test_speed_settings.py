"""Settings that are there for speed alone change no result, and attention runs without a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reliability import small
from tests.tiny import tiny_sd, tiny_sdxl
from trainer import registry
from trainer.batch import Geometry
from trainer.optim import optimizers
from trainer.optim.parameters import Group


@pytest.mark.parametrize("method", ["lora", "full"])
def test_channels_last_trains_the_same(tmp_path: Path, method: str) -> None:
    project = small.make(tmp_path / "a project")
    ends = []
    for on in ("false", "true"):
        settings = (f"performance.channels_last={on}", f"training.method='{method}'", "training.steps=3")
        # Large epsilon: Adam's first steps are otherwise the sign of gradients, of which rounding decides some.
        found = small.training(project, *settings, f"run.name='{on}'", "optimizer.args={eps=1e-2}")
        convolution = found.family.parts["unet"].get_submodule("conv_in")
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last) == (on == "true")
        assert found.run() == "done"
        ends.append({n: p.detach().clone() for n, p in found.loop.network.named_parameters() if p.requires_grad})
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_unet_asks_for_attention_without_a_mask(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask would keep GPUs from their quickest kernels."""
    family: Any = registry.find("models", kind).load(str({"sd": tiny_sd, "sdxl": tiny_sdxl}[kind](tmp_path / "base")))
    text = family.encode_text(["a cat", "two dogs"])
    masks = []
    real = torch.nn.functional.scaled_dot_product_attention

    def attention(*args: Any, attn_mask: Any = None, **given: Any) -> Any:
        masks.append(attn_mask if len(args) < 4 else args[3])
        return real(*args, attn_mask=attn_mask, **given)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    sizes = Geometry(*(torch.full((2, 2), 16, dtype=torch.long) for _ in range(3)))
    family.predict(torch.randn(2, 4, 8, 8), torch.tensor([1, 2]), text, sizes)
    assert len(masks) >= 4
    assert all(mask is None for mask in masks)


def test_adam_is_fused_unless_another_way_is_asked_for() -> None:
    def groups() -> list[Group]:
        return [Group("unet", "unet", 1e-3, [torch.nn.Parameter(torch.zeros(2))])]

    for name, args, fused in (
        ("adamw", {}, True),
        ("adam", {"amsgrad": True}, True),
        ("adamw", {"foreach": True}, None),
        ("adamw", {"fused": False}, False),
    ):
        assert optimizers.build(name, groups(), args).param_groups[0]["fused"] is fused
    assert optimizers.build("sgd", groups(), {}).param_groups[0]["fused"] is None
