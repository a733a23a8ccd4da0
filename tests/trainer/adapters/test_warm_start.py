"""Adapters that go on from a file: as the file has them, whatever program wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plugins.adapters._kind import MAGNITUDE
from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import tiny_sd, tiny_sdxl
from tests.trainer.adapters.test_kinds import adapted, prediction
from tests.trainer.adapters.test_tools import random_module
from trainer.adapters import injection, lora_file, tools, warm_start, weights
from trainer.adapters.lora_file import LoraFile
from trainer.adapters.warm_start import Wanted, WarmStart
from trainer.adapters.weights import delta
from trainer.batch import UP, AdapterWeights
from trainer.errors import UserError

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = "lora_unet_" + LAYER.replace(".", "_")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_sd(tmp_path_factory.mktemp("warm") / "base"))


def begin(folder: str, modules: dict[str, AdapterWeights], **asked: Any) -> tuple[Any, WarmStart]:
    """A base that goes on from a file with these modules, UNet alone, and what it took."""
    family = StableDiffusion.load(folder)
    file = LoraFile(modules)
    told = warm_start.told(file)
    wanted = Wanted(
        **{"parts": ["unet"], "method": told.get("method", "lora"), "alphas": (1, 1), "freeze": True, **asked}
    )
    start = warm_start.begin(family, Path("file.safetensors"), file, wanted)
    if start.waiting:
        tools.put_into(family, start.waiting, 1.0, "file")
    injection.inject(family, list(wanted.parts), rank=3, alpha=3.0, method=wanted.method, like=start.trained)
    return family, start


def placed(folder: str, modules: dict[str, AdapterWeights]) -> Any:
    family = StableDiffusion.load(folder)
    tools.put_into(family, modules, 1.0, "file")
    return family


def test_each_layer_goes_on_with_its_own_rank_and_alpha(folder: str) -> None:
    modules = {
        KEY: random_module(2, (64, 64), 0, alpha=1.0),
        KEY.replace("to_q", "to_k"): random_module(5, (64, 64), 1, alpha=7.0),
        "lora_unet_time_embed_0": random_module(3, (128, 32), 2),  # no layer of kohya's selection
        "lora_unet_down_blocks_0_resnets_0_conv1": random_module(4, (32, 32, 3, 3), 3),
    }
    family, _ = begin(folder, modules)
    live = injection.weights(family)
    assert {n: (weights.rank(m), m.alpha) for n, m in live.items()} == {
        n.replace("time_embed_0", "time_embedding_linear_1"): (weights.rank(m), m.alpha) for n, m in modules.items()
    }
    torch.testing.assert_close(prediction(family), prediction(placed(folder, modules)), atol=2e-5, rtol=1e-3)
    told = warm_start.told(LoraFile(modules))
    assert (told["method"], told["conv_rank"], told["conv_alpha"]) == ("lora", 4, 3.0)


@pytest.mark.parametrize(
    "factors",
    [
        {"lokr_w1": (4, 4), "lokr_w2": (16, 16)},
        {"lokr_w1_a": (8, 2), "lokr_w1_b": (2, 8), "lokr_w2_a": (8, 2), "lokr_w2_b": (2, 8)},
        {"lokr_w1": (2, 2), "lokr_w2_a": (32, 3), "lokr_w2_b": (3, 32)},
        {"hada_w1_a": (64, 3), "hada_w1_b": (3, 64), "hada_w2_a": (64, 3), "hada_w2_b": (3, 64)},
    ],
)
def test_forms_of_lycoris_go_on_as_they_are(folder: str, factors: dict[str, tuple[int, ...]]) -> None:
    stream = torch.Generator().manual_seed(0)
    tensors = {name: 0.2 * torch.randn(shape, generator=stream) for name, shape in factors.items()}
    family, _ = begin(folder, {KEY: AdapterWeights(tensors, 2.0)})
    (adapter,) = injection.adapters(family)
    assert adapter.weights.tensors.keys() == tensors.keys()
    assert all(torch.equal(tensors[name], live.detach()) for name, live in adapter.weights.tensors.items())
    expected = prediction(placed(folder, {KEY: AdapterWeights(tensors, 2.0)}))
    torch.testing.assert_close(prediction(family), expected, atol=2e-5, rtol=1e-3)
    prediction(family).square().sum().backward()
    assert all(isinstance(t, nn.Parameter) and t.grad is not None for t in adapter.weights.tensors.values())


@pytest.mark.parametrize("axis", [0, 1])
def test_magnitudes_keep_their_axis(folder: str, axis: int) -> None:
    shape = [1, 1]
    shape[axis] = 64
    magnitude = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + 0.5
    module = AdapterWeights({**random_module(2, (64, 64), 0).tensors, MAGNITUDE: magnitude}, 1.0)
    family, _ = begin(folder, {KEY: module})
    torch.testing.assert_close(prediction(family), prediction(placed(folder, {KEY: module})), atol=2e-5, rtol=1e-3)
    assert torch.equal(injection.weights(family)[KEY].tensors[MAGNITUDE], magnitude)


@pytest.mark.parametrize("freeze", [True, False])
def test_what_does_not_train_acts_and_is_saved_or_is_left_out(folder: str, tmp_path: Path, freeze: bool) -> None:
    source = adapted(StableDiffusion, Path(folder), conv_rank=0)
    modules = injection.weights(source)
    text = {name for name in modules if name.startswith("lora_te_")}
    family, start = begin(folder, modules, freeze=freeze)
    assert start.trained.keys() == modules.keys() - text and (start.waiting.keys() == text) is freeze
    assert f"{len(text)} of text_encoder" in start.notes[0] and ("saved" in start.notes[0]) is freeze
    kept = {name: m for name, m in modules.items() if freeze or name not in text}
    torch.testing.assert_close(prediction(family), prediction(placed(folder, kept)), atol=2e-5, rtol=1e-3)
    injection.save(family, tmp_path / "a.safetensors", dtype=torch.float32, metadata={}, others=start.waiting)
    saved = lora_file.read(tmp_path / "a.safetensors").modules
    assert saved.keys() == kept.keys()
    assert all(torch.equal(saved[n].tensors[leaf], t) for n, m in kept.items() for leaf, t in m.tensors.items())


def test_a_kind_that_cannot_train_waits_and_alone_it_is_refused(folder: str) -> None:
    norm = {"lora_unet_conv_norm_out": AdapterWeights({"w_norm": torch.ones(32), "b_norm": torch.ones(32)}, 1.0)}
    _, start = begin(folder, {KEY: random_module(2, (64, 64), 0), **norm})
    assert start.waiting.keys() == norm.keys()
    with pytest.raises(UserError, match=r"nothing in it can be trained on \(it is a norm difference\).*merge BASE"):
        begin(folder, norm)
    with pytest.raises(UserError, match=r"adapts unet only, and this run trains text_encoder"):
        begin(folder, {KEY: random_module(2, (64, 64), 0)}, parts=["text_encoder"])
    with pytest.raises(UserError, match=r"are LoRA, this run's are DoRA"):
        begin(folder, {KEY: random_module(2, (64, 64), 0)}, method="dora")


def test_a_part_without_modules_begins_anew(folder: str) -> None:
    family, start = begin(folder, {KEY: random_module(2, (64, 64), 0)}, parts=["unet", "text_encoder"])
    live = injection.weights(family)
    assert "nothing for text_encoder, which begins anew" in start.notes[0]
    assert len(live) == 13 and {weights.rank(m) for n, m in live.items() if n.startswith("lora_te_")} == {3}


def test_another_alpha_keeps_the_change(folder: str) -> None:
    module = random_module(2, (64, 64), 0, alpha=1.0)
    family, start = begin(folder, {KEY: module}, alphas=(4.0, 1.0))
    (adapter,) = injection.adapters(family)
    assert adapter.weights.alpha == 4.0 and torch.equal(adapter.weights.up.detach(), module.tensors[UP] / 4)
    torch.testing.assert_close(injection.delta_w(adapter), delta(module))
    assert "their change stays" in start.notes[-1]


def test_two_names_of_one_layer_go_on_as_one(folder: str) -> None:
    one, other = random_module(2, (64, 64), 0), random_module(3, (64, 64), 1)
    family, _ = begin(folder, {KEY: one, f"unet.{LAYER}": other})
    (adapter,) = injection.adapters(family)
    torch.testing.assert_close(injection.delta_w(adapter), delta(one) + delta(other), atol=1e-5, rtol=1e-4)


def test_a_file_of_another_family_is_refused_with_the_reason(folder: str, tmp_path: Path) -> None:
    xl = adapted(StableDiffusionXL, tiny_sdxl(tmp_path / "xl"), conv_rank=0)
    file = LoraFile(injection.weights(xl), {"ss_base_model_version": xl.base_version})
    with pytest.raises(UserError, match=r"do not fit the base; it was made for sdxl_base_v1-0, this base is sd_v1"):
        warm_start.begin(StableDiffusion.load(folder), Path("xl"), file, Wanted(["unet"], "lora", (1, 1), True))
