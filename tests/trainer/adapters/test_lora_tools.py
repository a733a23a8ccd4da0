"""Combining, resizing, extracting and merging LoRA files: identities of the changes they make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plugins.models.sd import StableDiffusion
from tests.tiny import tiny_sd
from tests.trainer.adapters.test_lora_kinds import SIZES, adapted, prediction
from trainer import lora
from trainer.adapters import lora_tools, low_rank
from trainer.adapters.adapter_weights import DOWN, MAGNITUDE, UP, AdapterWeights, apply, delta
from trainer.adapters.lora_tools import Weighted
from trainer.errors import UserError


def random_module(rank: int, shape: tuple[int, ...], seed: int, alpha: float = 3.0) -> AdapterWeights:
    stream = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *shape[1:], generator=stream)
    up = torch.randn(shape[0], rank, *(1,) * (len(shape) - 2), generator=stream)
    return AdapterWeights({DOWN: down, UP: up}, alpha)


SHAPES = {"linear": (24, 16), "one": (8, 12, 1, 1), "wide": (8, 12, 3, 3)}


def modules(rank: int, seed: int) -> dict[str, AdapterWeights]:
    return {name: random_module(rank, shape, seed + i) for i, (name, shape) in enumerate(SHAPES.items())}


def close(found: AdapterWeights, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(delta(found), wanted, atol=1e-4, rtol=1e-4)


def test_concatenation_is_the_weighted_sum() -> None:
    one, two = modules(2, 0), modules(3, 10)
    del two["one"]
    joined = lora_tools.concatenate([Weighted(one, 0.5, "a"), Weighted(two, -2.0, "b")])
    for name, found in joined.items():
        wanted = 0.5 * delta(one[name]) - (2.0 * delta(two[name]) if name in two else 0)
        close(found, wanted)
    assert [joined[name].rank for name in SHAPES] == [5, 2, 5]


def test_combining_at_full_rank_is_the_sum_too_and_less_is_the_nearest() -> None:
    files = [Weighted(modules(2, 0), 1.0, "a"), Weighted(modules(3, 10), 0.7, "b")]
    whole = lora_tools.combine(files, 5)
    assert whole.kept == pytest.approx(1, abs=1e-5)
    less = lora_tools.combine(files, 3, conv_rank=2)
    assert [less.modules[name].rank for name in SHAPES] == [3, 3, 2]
    for name, found in less.modules.items():
        change = sum(f.strength * delta(f.modules[name]) for f in files)
        assert isinstance(change, torch.Tensor)
        values = torch.linalg.svdvals(change.flatten(1))
        missing = float((change - delta(found)).norm())
        assert missing == pytest.approx(float(values[found.rank :].norm()), rel=1e-3)


def test_resizing_up_is_exact_and_down_is_the_nearest() -> None:
    before = modules(6, 3)
    up = lora_tools.resize(before, 12)
    for name, found in up.modules.items():
        close(found, delta(before[name]))
        assert found.scale == 1
    down = lora_tools.resize(before, 2)
    assert 0 < down.kept < 1
    for name, found in down.modules.items():
        values = torch.linalg.svdvals(delta(before[name]).flatten(1))
        assert float((delta(before[name]) - delta(found)).norm()) == pytest.approx(float(values[2:].norm()), rel=1e-3)


def test_the_random_search_finds_the_largest_directions() -> None:
    stream = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(400, 300, generator=stream))
    right, _ = torch.linalg.qr(torch.randn(500, 300, generator=stream))
    values = 1 / torch.arange(1, 301).float()
    matrix = (left * values) @ right.T
    _, found, _ = low_rank.top_singular(matrix, 16)
    torch.testing.assert_close(found, values[:16], rtol=1e-3, atol=0)
    again = low_rank.from_change(matrix, 16)
    missing = float((matrix - delta(again)).norm())
    assert missing == pytest.approx(float(values[16:].norm()), rel=1e-3)


def test_extraction_gives_back_what_was_merged(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    tuned = adapted(StableDiffusion, folder)
    wanted = prediction(tuned)
    lora.merge(tuned)
    base = StableDiffusion.load(str(folder))
    found = lora_tools.extract(tuned, base, base.parts, rank=4, conv_rank=2)
    assert found.kept == pytest.approx(1, abs=1e-4)
    assert lora_tools.put_into(base, found.modules, 1.0, "extracted") == len(found.modules) == 127
    torch.testing.assert_close(prediction(base), wanted, atol=1e-4, rtol=1e-3)


def test_extraction_from_equal_or_different_models_is_refused(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    one, two = StableDiffusion.load(str(folder)), StableDiffusion.load(str(folder))
    with pytest.raises(UserError, match="the same"):
        lora_tools.extract(one, two, ["unet"], rank=4)
    other = StableDiffusion.load(str(tiny_sd(tmp_path / "o", width=32)))
    with pytest.raises(UserError, match="two different architectures"):
        lora_tools.extract(other, one, ["unet"], rank=4)


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
def test_putting_a_file_into_a_base_acts_like_the_adapters(tmp_path: Path, method: str) -> None:
    folder = tiny_sd(tmp_path / "b")
    family = adapted(StableDiffusion, folder, method)
    base = StableDiffusion.load(str(folder))
    lora_tools.put_into(base, lora.weights(family), 1.0, "file")
    torch.testing.assert_close(prediction(base), prediction(family), atol=2e-5, rtol=1e-3)
    lora_tools.put_into(StableDiffusion.load(str(folder)), lora.weights(family), 0.5, "file")


def test_strength_scales_what_is_put_into_a_base(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    family = adapted(StableDiffusion, folder)
    base = StableDiffusion.load(str(folder))
    lora_tools.put_into(base, lora.weights(family), 0.5, "file")
    with lora.scaled(family, 0.5):
        torch.testing.assert_close(prediction(base), prediction(family), atol=2e-5, rtol=1e-3)


def test_an_applied_lora_leaves_no_trace(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    family = adapted(StableDiffusion, folder)
    base = StableDiffusion.load(str(folder))
    before = prediction(base)
    with lora_tools.applied(base, lora.weights(family), 1.0, "file"):
        torch.testing.assert_close(prediction(base), prediction(family), atol=2e-5, rtol=1e-3)
    assert torch.equal(prediction(base), before)


def test_a_file_for_another_model_changes_nothing(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    base = StableDiffusion.load(str(folder))
    before = prediction(base)
    good = lora.weights(adapted(StableDiffusion, folder))
    with pytest.raises(UserError, match="another model"):
        lora_tools.put_into(base, {**good, "lora_unet_input_blocks_99": next(iter(good.values()))}, 1.0, "x")
    key = next(iter(good))
    with pytest.raises(UserError, match=key):
        lora_tools.put_into(base, {**good, key: random_module(2, (7, 9), 0)}, 1.0, "x")
    assert torch.equal(prediction(base), before)


def test_what_cannot_be_joined_is_refused_with_the_file(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    plain = Weighted(lora.weights(adapted(StableDiffusion, folder)), 1.0, "plain")
    hada = Weighted(lora.weights(adapted(StableDiffusion, folder, "loha")), 1.0, "hada")
    dora = Weighted(lora.weights(adapted(StableDiffusion, folder, "dora")), 1.0, "dora")
    with pytest.raises(UserError, match=r"hada.*give a rank"):
        lora_tools.concatenate([plain, hada])
    for join in (lora_tools.concatenate, lambda files: lora_tools.combine(files, 2)):
        with pytest.raises(UserError, match=r"dora.*merge it into a base"):
            join([plain, dora])
    dotted = Weighted({"unet.mid_block.x": random_module(2, (4, 4), 0)}, 1.0, "dotted")
    with pytest.raises(UserError, match="dotted"):
        lora_tools.concatenate([plain, dotted])
    other = Weighted({"linear": random_module(2, (5, 4), 0)}, 1.0, "other")
    with pytest.raises(UserError, match="different models"):
        lora_tools.concatenate([Weighted(modules(2, 0), 1.0, "a"), other])


def test_canonical_names_are_kohyas(tmp_path: Path) -> None:
    family = adapted(StableDiffusion, tiny_sd(tmp_path / "b"), **{**SIZES, "conv_rank": 0})
    dotted = {f"{a.part}.{a.module}": a.weights for a in lora.adapters(family)}
    assert lora_tools.canonical(family, dotted).keys() == lora.weights(family).keys()


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_from_a_file_goes_into_weights_on_another_device(dora: bool) -> None:
    tensors = {DOWN: torch.ones(2, 6), UP: torch.ones(4, 2)} | ({MAGNITUDE: torch.ones(4, 1)} if dora else {})
    changed = apply(AdapterWeights(tensors, 1.0), torch.empty(4, 6, dtype=torch.bfloat16, device="meta"))
    assert (changed.device.type, changed.dtype, changed.shape) == ("meta", torch.float32, (4, 6))
