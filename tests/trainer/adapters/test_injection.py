"""LoRA on a live family: what it changes and what it must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from plugins.models.sd import StableDiffusion
from tests.tiny import tiny_sd
from trainer.adapters import injection
from trainer.adapters import peft_layers as lora_peft
from trainer.adapters.weights import rank
from trainer.batch import Geometry, TextStates
from trainer.errors import UserError

GEOMETRY = Geometry(*(torch.zeros(2, 2, dtype=torch.long) for _ in range(3)))


@pytest.fixture
def family(tmp_path: Path) -> StableDiffusion:
    return StableDiffusion.load(str(tiny_sd(tmp_path / "base")))


def prediction(family: StableDiffusion, text: TextStates | None = None) -> torch.Tensor:
    stream = torch.Generator().manual_seed(3)
    noisy = torch.randn(2, 4, 8, 8, generator=stream)
    states = text or family.encode_text(["a red cat", "two"])
    return family.predict(noisy, torch.tensor([10, 700]), states, GEOMETRY)


def both(family: StableDiffusion, **settings: object) -> list[injection.Adapter]:
    chosen = {"rank": 4, "alpha": 2.0, "conv_rank": 2, "conv_alpha": 3.0, "seed": 1, **settings}
    return injection.inject(family, ["unet", "text_encoder"], **chosen)  # type: ignore[arg-type]


def randomise(adapters: list[injection.Adapter], size: float = 0.1) -> None:
    stream = torch.Generator().manual_seed(11)
    for adapter in adapters:
        up = adapter.weights.up
        up.data = size * torch.randn(up.shape, generator=stream)


def test_a_fresh_lora_leaves_the_output_bit_equal(family: StableDiffusion) -> None:
    before = prediction(family)
    both(family)
    assert torch.equal(prediction(family), before)


def test_only_adapters_train_and_in_float32_over_a_frozen_bfloat16_base(family: StableDiffusion) -> None:
    adapters = both(family)
    family.to("cpu", torch.bfloat16)
    trained = {id(p) for a in adapters for p in (a.weights.down, a.weights.up)}
    for part in family.parts.values():
        for parameter in part.parameters():
            assert parameter.requires_grad == (id(parameter) in trained)
            assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_reach_every_adapter_under_autocast(family: StableDiffusion, dtype: torch.dtype) -> None:
    adapters = both(family)
    family.to("cpu", dtype)
    with torch.autocast("cpu", dtype=dtype):
        loss = prediction(family).float().square().mean()
    loss.backward()
    assert all(a.weights.up.grad is not None and a.weights.up.grad.abs().sum() > 0 for a in adapters)


def test_the_change_of_the_output_is_that_of_the_changed_weights(family: StableDiffusion) -> None:
    adapters = both(family)
    randomise(adapters)
    with torch.no_grad():
        adapted = prediction(family)
        for adapter in adapters:
            weight = adapter.base.weight
            assert injection.delta_w(adapter).shape == weight.shape
            weight += injection.delta_w(adapter)
        with injection.scaled(family, 0):
            by_weights = prediction(family)
    torch.testing.assert_close(adapted, by_weights, atol=1e-5, rtol=1e-4)


def test_ranks_and_alphas_follow_kohyas_rule(family: StableDiffusion) -> None:
    for adapter in both(family):
        wide = adapter.base.weight.ndim == 4 and adapter.base.weight.shape[-1] == 3
        assert (rank(adapter.weights), adapter.weights.alpha) == ((2, 3.0) if wide else (4, 2.0)), adapter.key


def test_peft_gets_one_pattern_for_each_size(family: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """It tries every pattern on every layer: with one for each layer SDXL took half a minute."""
    configs = []
    real = lora_peft.inject_adapter_in_model

    def inject(config: Any, *given: Any, **named: Any) -> Any:
        configs.append(config)
        return real(config, *given, **named)

    monkeypatch.setattr(lora_peft, "inject_adapter_in_model", inject)
    adapters = injection.inject(
        family, ["unet"], rank=4, alpha=2.0, conv_rank=3, conv_alpha=1.0, ranks={"unet.mid_block.attentions": 2}
    )
    assert len(configs[0].rank_pattern) == len(configs[0].alpha_pattern) == 3
    sizes = {(rank(a.weights), a.weights.alpha, "mid_block.attentions" in a.module) for a in adapters}
    assert sizes == {(4, 2.0, False), (3, 1.0, False), (2, 1.0, True)}


def test_the_start_depends_on_the_seed_and_nothing_else(tmp_path: Path) -> None:
    base = str(tiny_sd(tmp_path / "base"))

    def downs(global_seed: int, **settings: object) -> dict[str, torch.Tensor]:
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        made = both(StableDiffusion.load(base), **settings)
        assert torch.equal(torch.get_rng_state(), state), "injecting must not advance torch's random state"
        return {a.key: a.weights.down.detach() for a in made}

    first, again, other = downs(0, seed=1), downs(5, seed=1), downs(0, seed=2)
    without_conv = downs(0, seed=1, conv_rank=0)
    assert all(torch.equal(first[k], again[k]) and not torch.equal(first[k], other[k]) for k in first)
    assert without_conv and all(torch.equal(first[k], v) for k, v in without_conv.items())


def test_the_start_is_kaiming_uniform_with_a_sqrt_5(family: StableDiffusion) -> None:
    for adapter in both(family, rank=64):
        down = adapter.weights.down
        bound = down[0].numel() ** -0.5  # kaiming: sqrt(6 / (1 + a^2) / fan_in) with a^2 = 5
        assert down.abs().max() <= bound
        assert down.numel() < 1000 or down.abs().max() > 0.95 * bound


def test_scaling_is_linear_and_leaves_no_trace(family: StableDiffusion) -> None:
    base = prediction(family)
    randomise(both(family))
    whole = prediction(family)
    with injection.scaled(family, 0):
        assert torch.equal(prediction(family), base)
    with injection.scaled(family, 0.5):
        half = prediction(family)
    assert not torch.equal(half, whole) and not torch.equal(half, base)
    assert torch.equal(prediction(family), whole)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_scaling_thaws_no_adapter_that_does_not_train(family: StableDiffusion, strength: float) -> None:
    frozen, *others = both(family)
    for weight in frozen.layer.lora_A.parameters():
        weight.requires_grad_(False)
    before = [[w.requires_grad for w in one.layer.parameters()] for one in (frozen, *others)]
    with injection.scaled(family, strength):
        prediction(family)
    assert [[w.requires_grad for w in one.layer.parameters()] for one in (frozen, *others)] == before


def test_merging_keeps_the_output_and_takes_the_adapters_out(family: StableDiffusion) -> None:
    names = set(family.unet.state_dict())
    randomise(both(family))
    adapted = prediction(family)
    injection.merge(family)
    assert injection.adapters(family) == []
    assert set(family.unet.state_dict()) == names
    torch.testing.assert_close(prediction(family), adapted, atol=1e-5, rtol=1e-4)


def test_the_parts_stay_the_same_objects(family: StableDiffusion) -> None:
    unet = family.parts["unet"]
    both(family)
    assert family.parts["unet"] is unet is family.unet


def test_targets_are_the_same_with_adapters_in_place(family: StableDiffusion) -> None:
    before = {part: family.adapter_targets(part, conv=True) for part in family.parts}
    both(family)
    assert {part: family.adapter_targets(part, conv=True) for part in family.parts} == before


def test_loading_reports_everything_that_does_not_fit(family: StableDiffusion, tmp_path: Path) -> None:
    both(family)
    narrow = StableDiffusion.load(str(tiny_sd(tmp_path / "other")))
    wanted = injection.weights(family)
    both(narrow, rank=2, conv_rank=0)
    with pytest.raises(UserError) as caught:
        injection.load_into(narrow, wanted, "old.safetensors")
    text = str(caught.value)
    assert "old.safetensors" in text and "31 modules of the file are not in this setting" in text
    assert "another rank or shape" in text
