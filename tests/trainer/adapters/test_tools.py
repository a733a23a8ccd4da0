"""Combining, resizing, extracting and merging LoRA files: identities of the changes they make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from plugins.adapters._kind import MAGNITUDE
from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import tiny_sd, tiny_sdxl
from tests.trainer.adapters.test_kinds import SIZES, adapted, prediction
from trainer.adapters import injection, low_rank, naming, tools
from trainer.adapters.naming import Weighted
from trainer.adapters.weights import apply, delta, rank, scale
from trainer.batch import DOWN, UP, AdapterWeights
from trainer.errors import UserError


def random_module(size: int, shape: tuple[int, ...], seed: int, alpha: float = 3.0) -> AdapterWeights:
    stream = torch.Generator().manual_seed(seed)
    down = torch.randn(size, *shape[1:], generator=stream)
    up = torch.randn(shape[0], size, *(1,) * (len(shape) - 2), generator=stream)
    return AdapterWeights({DOWN: down, UP: up}, alpha)


SHAPES = {"linear": (24, 16), "one": (8, 12, 1, 1), "wide": (8, 12, 3, 3)}


def modules(size: int, seed: int) -> dict[str, AdapterWeights]:
    return {name: random_module(size, shape, seed + i) for i, (name, shape) in enumerate(SHAPES.items())}


def close(found: AdapterWeights, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(delta(found), wanted, atol=1e-4, rtol=1e-4)


def test_concatenation_is_the_weighted_sum() -> None:
    one, two = modules(2, 0), modules(3, 10)
    del two["one"]
    joined = tools.concatenate([Weighted(one, 0.5, "a"), Weighted(two, -2.0, "b")])
    for name, found in joined.items():
        wanted = 0.5 * delta(one[name]) - (2.0 * delta(two[name]) if name in two else 0)
        close(found, wanted)
    assert [rank(joined[name]) for name in SHAPES] == [5, 2, 5]


def test_combining_at_full_rank_is_the_sum_too_and_less_is_the_nearest() -> None:
    files = [Weighted(modules(2, 0), 1.0, "a"), Weighted(modules(3, 10), 0.7, "b")]
    whole = tools.combine(files, 5)
    assert whole.kept == pytest.approx(1, abs=1e-5)
    less = tools.combine(files, 3, conv_rank=2)
    assert [rank(less.modules[name]) for name in SHAPES] == [3, 3, 2]
    for name, found in less.modules.items():
        change = sum(f.strength * delta(f.modules[name]) for f in files)
        assert isinstance(change, torch.Tensor)
        values = torch.linalg.svdvals(change.flatten(1))
        missing = float((change - delta(found)).norm())
        assert missing == pytest.approx(float(values[rank(found) :].norm()), rel=1e-3)


def test_resizing_up_is_exact_and_down_is_the_nearest() -> None:
    before = modules(6, 3)
    up = tools.resize(Weighted(before, 1.0, "file"), 12)
    for name, found in up.modules.items():
        close(found, delta(before[name]))
        assert scale(found) == 1
    down = tools.resize(Weighted(before, 1.0, "file"), 2)
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


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr"])
def test_putting_a_file_into_a_base_acts_like_the_adapters(tmp_path: Path, method: str) -> None:
    folder = tiny_sd(tmp_path / "b")
    family = adapted(StableDiffusion, folder, method)
    base = StableDiffusion.load(str(folder))
    tools.put_into(base, injection.weights(family), 1.0, "file")
    torch.testing.assert_close(prediction(base), prediction(family), atol=2e-5, rtol=1e-3)
    tools.put_into(StableDiffusion.load(str(folder)), injection.weights(family), 0.5, "file")


def test_strength_scales_what_is_put_into_a_base(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    family = adapted(StableDiffusion, folder)
    base = StableDiffusion.load(str(folder))
    tools.put_into(base, injection.weights(family), 0.5, "file")
    with injection.scaled(family, 0.5):
        torch.testing.assert_close(prediction(base), prediction(family), atol=2e-5, rtol=1e-3)


def test_an_applied_lora_leaves_no_trace(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    family = adapted(StableDiffusion, folder)
    base = StableDiffusion.load(str(folder))
    before = prediction(base)
    with tools.applied(base, injection.weights(family), 1.0, "file"):
        torch.testing.assert_close(prediction(base), prediction(family), atol=2e-5, rtol=1e-3)
    assert torch.equal(prediction(base), before)


def test_a_file_for_another_model_changes_nothing(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    base = StableDiffusion.load(str(folder))
    before = prediction(base)
    good = injection.weights(adapted(StableDiffusion, folder))
    with pytest.raises(UserError, match="another model"):
        tools.put_into(base, {**good, "lora_unet_input_blocks_99": next(iter(good.values()))}, 1.0, "x")
    key = next(iter(good))
    with pytest.raises(UserError, match=key):
        tools.put_into(base, {**good, key: random_module(2, (7, 9), 0)}, 1.0, "x")
    assert torch.equal(prediction(base), before)


def test_what_cannot_be_joined_is_refused_with_the_file(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    plain = Weighted(injection.weights(adapted(StableDiffusion, folder)), 1.0, "plain")
    hada = Weighted(injection.weights(adapted(StableDiffusion, folder, "loha")), 1.0, "hada")
    dora = Weighted(injection.weights(adapted(StableDiffusion, folder, "dora")), 1.0, "dora")
    with pytest.raises(UserError, match=r"hada.*give a rank"):
        tools.concatenate([plain, hada])
    for join in (tools.concatenate, lambda files: tools.combine(files, 2)):
        with pytest.raises(UserError, match=r"dora.*merge it into a base"):
            join([plain, dora])
    dotted = Weighted({"transformer.block.x": random_module(2, (4, 4), 0)}, 1.0, "dotted")
    with pytest.raises(UserError, match="dotted"):
        tools.concatenate([plain, dotted])
    other = Weighted({"linear": random_module(2, (5, 4), 0)}, 1.0, "other")
    with pytest.raises(UserError, match="different models"):
        tools.concatenate([Weighted(modules(2, 0), 1.0, "a"), other])


def test_canonical_names_are_kohyas(tmp_path: Path) -> None:
    family = adapted(StableDiffusion, tiny_sd(tmp_path / "b"), **{**SIZES, "conv_rank": 0})
    dotted = {f"{a.part}.{a.module}": a.weights for a in injection.adapters(family)}
    assert naming.canonical(family, dotted).keys() == injection.weights(family).keys()


@pytest.mark.parametrize("dora", [False, True])
def test_an_adapter_from_a_file_goes_into_weights_on_another_device(dora: bool) -> None:
    tensors = {DOWN: torch.ones(2, 6), UP: torch.ones(4, 2)} | ({MAGNITUDE: torch.ones(4, 1)} if dora else {})
    changed = apply(AdapterWeights(tensors, 1.0), torch.empty(4, 6, dtype=torch.bfloat16, device="meta"))
    assert (changed.device.type, changed.dtype, changed.shape) == ("meta", torch.float32, (4, 6))


def test_two_names_of_one_layer_add_up(tmp_path: Path) -> None:
    """kohya's and the original block names, with either prefix of the text encoder, with dots."""
    folder = tiny_sd(tmp_path / "b")
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    names = (
        "lora_unet_" + layer.replace(".", "_"),
        f"unet.{layer}",
        "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_q",
    )
    parts = {name: random_module(2, (64, 64), seed) for seed, name in enumerate(names)}
    base, plain = StableDiffusion.load(str(folder)), StableDiffusion.load(str(folder))
    assert tools.put_into(base, parts, 0.5, "file").layers == 1
    wanted = plain.unet.get_parameter(f"{layer}.weight") + 0.5 * sum(delta(one) for one in parts.values())
    torch.testing.assert_close(base.unet.get_parameter(f"{layer}.weight"), wanted, atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_left_out_only_when_asked(tmp_path: Path) -> None:
    folder = tiny_sd(tmp_path / "b")
    base = StableDiffusion.load(str(folder))
    good = injection.weights(adapted(StableDiffusion, folder))
    stranger = {"lora_unet_nothing": random_module(2, (4, 4), 0)}
    with pytest.raises(UserError, match="lora_unet_nothing"):
        tools.put_into(base, {**good, **stranger}, 1.0, "file")
    placed = tools.put_into(base, {**good, **stranger}, 1.0, "file", partial=True)
    assert placed.left_out == ("lora_unet_nothing",) and placed.layers == len(good)
    with pytest.raises(UserError, match="no module of it fits"):
        tools.put_into(base, stranger, 1.0, "file", partial=True)


def test_layers_beyond_kohyas_selection_are_applied(tmp_path: Path) -> None:
    """OneTrainer's text projection, LyCORIS' time embedding and normalisations."""
    base = StableDiffusionXL.load(str(tiny_sdxl(tmp_path / "b")))
    shapes = {
        "lora_te2_text_projection": base.parts["text_encoder_2"].text_projection.weight.shape,
        "lora_unet_time_embed_0": base.unet.time_embedding.linear_1.weight.shape,
        "lora_unet_label_emb_0_2": base.unet.add_embedding.linear_2.weight.shape,
    }
    parts = {name: random_module(2, tuple(shape), 0) for name, shape in shapes.items()}
    norm = base.unet.conv_norm_out
    parts["lora_unet_out_0"] = AdapterWeights({"w_norm": torch.ones(32), "b_norm": torch.full((32,), 2.0)}, 1.0)
    before = (norm.weight.clone(), norm.bias.clone())
    assert tools.put_into(base, parts, 1.0, "file").layers == 4
    assert torch.equal(norm.weight, before[0] + 1) and torch.equal(norm.bias, before[1] + 2)


@pytest.mark.parametrize("along", [0, 1])
def test_a_square_layers_magnitudes_have_the_axis_of_their_shape(along: int) -> None:
    weight = torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    shape = [1, 1, 1, 1]
    shape[along] = 8
    module = random_module(2, (8, 8, 3, 3), 1)
    magnitude = torch.rand(shape, generator=torch.Generator().manual_seed(2)) + 0.5
    turned = apply(AdapterWeights({**module.tensors, MAGNITUDE: magnitude}, 3.0), weight)
    lengths = turned.transpose(0, along).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, magnitude.flatten(), atol=1e-5, rtol=1e-4)


def test_what_no_lora_can_hold_is_refused_and_never_lost() -> None:
    plain = random_module(2, (6, 4), 0)
    biased = AdapterWeights({**plain.tensors, "diff_b": torch.ones(6)}, 2.0)
    norm = AdapterWeights({"w_norm": torch.ones(6), "b_norm": torch.ones(6)}, 1.0)
    for odd in (biased, norm):
        for join in (tools.concatenate, lambda files: tools.combine(files, 2)):
            with pytest.raises(UserError, match=r"odd.*bias or a normalisation.*merge it into a base"):
                join([Weighted({"x": plain}, 1.0, "plain"), Weighted({"x": odd}, 1.0, "odd")])
        with pytest.raises(UserError, match=r"only plain LoRAs can be resized"):
            tools.resize(Weighted({"x": odd}, 1.0, "odd"), 1)
    whole = tools.combine([Weighted({"x": AdapterWeights({"diff": torch.eye(4)}, 1.0)}, 0.5, "full")], 4)
    close(whole.modules["x"], 0.5 * torch.eye(4))


def test_what_is_not_finite_is_not_approximated() -> None:
    broken = modules(4, 1)
    broken["wide"].tensors[UP][0, 0] = float("nan")
    for file in (Weighted(broken, 1.0, "a file"), Weighted(modules(4, 1), float("nan"), "a file")):
        with pytest.raises(UserError, match=r"a file: (1 modules hold NaN or infinity, such as wide|its strength)"):
            tools.combine([file], 2)
    with pytest.raises(UserError, match="a file: 1 modules hold NaN or infinity, such as wide"):
        tools.resize(Weighted(broken, 1.0, "a file"), 2)
