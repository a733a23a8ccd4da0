"""DoRA, LoHa and LoKr, ranks by block, dropouts, other formats: on SD 1.x, SD 2.x and SDXL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from lycoris import kohya
from safetensors.torch import load_file, save_file

from plugins.adapters._kind import MAGNITUDE
from plugins.models import _lora_reader
from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import tiny_sd, tiny_sdxl
from trainer.adapters import header, injection, lora_file, weights
from trainer.adapters.weights import apply, delta
from trainer.batch import AdapterWeights, Geometry
from trainer.errors import UserError

METHODS = ("lora", "dora", "loha", "lokr")
BASES: dict[str, tuple[Any, Any, Any]] = {
    "sd1": (StableDiffusion, tiny_sd, StableDiffusionPipeline),
    "sd2": (StableDiffusion, lambda folder: tiny_sd(folder, version=2), StableDiffusionPipeline),
    "sdxl": (StableDiffusionXL, tiny_sdxl, StableDiffusionXLPipeline),
}
SIZES = {"rank": 4, "alpha": 2.0, "conv_rank": 2, "conv_alpha": 3.0}


@pytest.fixture(params=list(BASES))
def base(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Any]:
    kind, make, pipeline = BASES[request.param]
    return kind, make(tmp_path / "base"), pipeline


def prediction(family: Any) -> torch.Tensor:
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    geometry = Geometry(*(torch.full((2, 2), 32) for _ in range(3)))
    return family.predict(noisy, torch.tensor([10, 700]), family.encode_text(["a red cat", "two"]), geometry)


def adapted(kind: Any, folder: Path, method: str = "lora", **settings: Any) -> Any:
    """A model whose adapters do something."""
    family = kind.load(str(folder))
    stream = torch.Generator().manual_seed(11)
    for adapter in injection.inject(family, list(family.parts), method=method, seed=1, **{**SIZES, **settings}):
        for tensor in adapter.weights.tensors.values():
            tensor.data += 0.1 * torch.randn(tensor.shape, generator=stream)
    return family


@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_adapter_changes_nothing(base: tuple[Any, Path, Any], method: str) -> None:
    kind, folder, _ = base
    family = kind.load(str(folder))
    before = prediction(family)
    added = injection.inject(family, list(family.parts), method=method, seed=1, **SIZES)
    # DoRA divides each row by its own length, which rounds.
    assert method == "dora" or not any(injection.delta_w(adapter).any() for adapter in added)
    # The CPU's matrix products round by where their operands lie in memory, which an injection moves.
    torch.testing.assert_close(prediction(family), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_file_makes_the_change_that_the_layers_make(
    base: tuple[Any, Path, Any], tmp_path: Path, method: str
) -> None:
    """Formulas of our own on the tensors of the file, against peft's layers in the model."""
    kind, folder, _ = base
    family = adapted(kind, folder, method)
    injection.save(family, tmp_path / "a.safetensors", dtype=torch.float32, metadata={})
    modules = lora_file.read(tmp_path / "a.safetensors").modules
    plain = kind.load(str(folder))
    for adapter in injection.adapters(family):
        weight = plain.parts[adapter.part].get_parameter(f"{adapter.module}.weight")
        weight.data = apply(modules[adapter.key], weight.data)
    torch.testing.assert_close(prediction(plain), prediction(family), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_file_to_ours_is_exact_and_merging_keeps_the_output(
    base: tuple[Any, Path, Any], tmp_path: Path, method: str
) -> None:
    kind, folder, _ = base
    family = adapted(kind, folder, method)
    injection.save(family, tmp_path / "a.safetensors", dtype=torch.float32, metadata={})
    again = kind.load(str(folder))
    injection.inject(again, list(again.parts), method=method, seed=9, **{**SIZES, "alpha": 7.0, "conv_alpha": 5.0})
    injection.load_into(again, lora_file.read(tmp_path / "a.safetensors").modules, "file")
    assert torch.equal(prediction(again), prediction(family))
    for ours, theirs in zip(injection.adapters(family), injection.adapters(again), strict=True):
        assert torch.equal(injection.delta_w(ours), injection.delta_w(theirs))
    wanted = prediction(family)
    injection.merge(family)
    torch.testing.assert_close(prediction(family), wanted, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_tensor_names_are_those_of_lycoris(base: tuple[Any, Path, Any], tmp_path: Path, method: str) -> None:
    kind, folder, _ = base
    injection.save(adapted(kind, folder, method), tmp_path / "a.safetensors", dtype=torch.float32, metadata={})
    ends = {name.partition(".")[2] for name in load_file(tmp_path / "a.safetensors")}
    low_rank = {"lora_down.weight", "lora_up.weight", "alpha"}
    hadamard = {f"hada_w{n}_{x}" for n in (1, 2) for x in "ab"} | {"alpha"}
    kronecker = {"lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "alpha"}
    expected = {"lora": low_rank, "dora": low_rank | {"dora_scale"}, "loha": hadamard, "lokr": kronecker}[method]
    assert ends <= expected if method == "lokr" else ends == expected


def test_doras_magnitudes_have_one_number_per_input(base: tuple[Any, Path, Any]) -> None:
    """(1, in[, 1, 1]), the form that all readers but diffusers read right."""
    kind, folder, _ = base
    for adapter in injection.adapters(adapted(kind, folder, "dora")):
        weight = adapter.base.weight
        assert adapter.weights.tensors[MAGNITUDE].shape == (1, weight.shape[1], *(1,) * (weight.ndim - 2))
        lengths = apply(adapter.weights, weight).transpose(0, 1).flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, adapter.weights.tensors[MAGNITUDE].abs().flatten(), atol=1e-5, rtol=1e-4)


def test_a_magnitude_per_input_is_read_too() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    factors = {"lora_down.weight": torch.ones(2, 4), "lora_up.weight": torch.ones(6, 2)}
    turned = apply(AdapterWeights({**factors, MAGNITUDE: torch.full((1, 4), 2.0)}, 2.0), weight)
    torch.testing.assert_close(turned.norm(dim=0), torch.full((4,), 2.0))


def test_loha_and_lokr_are_products_of_their_factors() -> None:
    stream = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=stream)

    hada = {"hada_w1_a": draw(6, 2), "hada_w1_b": draw(2, 4), "hada_w2_a": draw(6, 2), "hada_w2_b": draw(2, 4)}
    expected = (hada["hada_w1_a"] @ hada["hada_w1_b"]) * (hada["hada_w2_a"] @ hada["hada_w2_b"]) * (5 / 2)
    torch.testing.assert_close(delta(AdapterWeights(hada, 5.0)), expected)
    whole = {"lokr_w1": draw(2, 2), "lokr_w2": draw(3, 2)}
    blocks = delta(AdapterWeights(whole, 5.0)).reshape(2, 3, 2, 2)
    torch.testing.assert_close(blocks[1, :, 0, :], whole["lokr_w1"][1, 0] * whole["lokr_w2"])
    split = {"lokr_w1": whole["lokr_w1"], "lokr_w2_a": draw(3, 1), "lokr_w2_b": draw(1, 2)}
    product = split["lokr_w2_a"] @ split["lokr_w2_b"]
    blocks = delta(AdapterWeights(split, 5.0)).reshape(2, 3, 2, 2)
    torch.testing.assert_close(blocks[0, :, 1, :], 5.0 * split["lokr_w1"][0, 1] * product)


LOKR: dict[str, dict[str, Any]] = {
    "factor": {"factor": 4},
    "both": {"decompose_both": True},
    "whole": {"full_matrix": True},
    "all": {"factor": 4, "decompose_both": True, "full_matrix": True},
}


@pytest.mark.parametrize("name", LOKR)
def test_lokr_splits_as_lycoris_does(tmp_path: Path, name: str) -> None:
    """Names and shapes of all tensors, against LyCORIS' own modules."""
    base, size = tiny_sd(tmp_path / "base"), 1 if name == "both" else 4
    family = adapted(StableDiffusion, base, "lokr", args=LOKR[name], rank=size, conv_rank=size)
    theirs = kohya.create_network(
        1.0, size, 2.0, None, family.parts["text_encoder"], StableDiffusion.load(str(base)).unet,
        algo="lokr", preset="attn-mlp", **LOKR[name],
    )  # fmt: skip
    shapes = {f"{m.lora_name}.{n}": tuple(p.shape) for m in theirs.unet_loras for n, p in m.named_parameters()}
    shapes = {name: shape for name, shape in shapes.items() if "time_embedding" not in name}  # no adapter here
    injection.save(family, tmp_path / "a.safetensors", dtype=torch.float32, metadata={})
    ours = {n: tuple(t.shape) for n, t in load_file(tmp_path / "a.safetensors").items() if "alpha" not in n}
    assert shapes and {n: ours.get(n) for n in shapes} == shapes
    modules = lora_file.read(tmp_path / "a.safetensors").modules
    plain = StableDiffusion.load(str(base))
    for adapter in injection.adapters(family):
        weight = plain.parts[adapter.part].get_parameter(f"{adapter.module}.weight")
        weight.data = apply(modules[adapter.key], weight.data)
    torch.testing.assert_close(prediction(plain), prediction(family), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("method", ["lora", "lokr"])
def test_rank_stabilised_adapters_are_scaled_by_the_root(tmp_path: Path, method: str) -> None:
    """In the layers, in the file as any reader scales it, and in the header."""
    base = tiny_sd(tmp_path / "base")
    family = adapted(StableDiffusion, base, method, by_root=True, rank=16, conv_rank=0, ranks={"unet.mid_block": 4})
    for adapter in injection.adapters(family):
        size = weights.rank(adapter.weights)
        wanted = 2.0 / size**0.5 if size else 1.0
        assert adapter.layer.scaling["default"] == pytest.approx(wanted)
        assert weights.scale(adapter.weights) == pytest.approx(wanted)
    told = header.sizes(injection.weights(family))
    assert told["ss_network_alpha"] == "Dynamic" if method == "lora" else True
    if method == "lora":
        one = adapted(StableDiffusion, base, by_root=True, rank=16, conv_rank=0)
        assert header.sizes(injection.weights(one)) == {"ss_network_dim": "16", "ss_network_alpha": "8.0"}


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [
        ({"exclude": [r".*\.ff\..*"]}, lambda name: ".ff." not in name),
        ({"exclude": [r"unet\.(down|mid)_.*"]}, lambda name: name.startswith("unet.up_")),
        ({"exclude": [".*"], "include": [r".*attn2\.to_[qk]"]}, lambda n: "attn2.to_q" in n or "attn2.to_k" in n),
        ({"layers": ["attn1"], "exclude": [r".*to_v"]}, lambda n: "attn1" in n and "to_v" not in n),
    ],
)
def test_patterns_choose_layers(tmp_path: Path, chosen: dict[str, Any], kept: Any) -> None:
    base = tiny_sd(tmp_path / "base")
    everything, some = StableDiffusion.load(str(base)), StableDiffusion.load(str(base))
    for family, settings in ((everything, {}), (some, chosen)):
        injection.inject(family, ["unet"], rank=4, alpha=4.0, **settings)
    names = [f"unet.{adapter.module}" for adapter in injection.adapters(everything)]
    assert [f"unet.{a.module}" for a in injection.adapters(some)] == [n for n in names if kept(n)] != names


def test_diffusers_reads_all_modules_with_our_change(base: tuple[Any, Path, Any], tmp_path: Path) -> None:
    kind, folder, pipeline = base
    family = adapted(kind, folder)
    injection.save(family, tmp_path / "a.safetensors", dtype=torch.float32, metadata={})
    pipe = pipeline.from_pretrained(folder)
    pipe.load_lora_weights(tmp_path / "a.safetensors")
    count = 0
    for adapter in injection.adapters(family):
        layer = getattr(pipe, adapter.part).get_submodule(adapter.module)
        name = layer.active_adapters[0]
        assert torch.equal(layer.get_delta_weight(name), injection.delta_w(adapter)) or torch.allclose(
            layer.get_delta_weight(name), injection.delta_w(adapter), atol=1e-7
        )
        count += 1
    peft_layers = [m for part in family.parts for m in getattr(pipe, part).modules() if hasattr(m, "lora_A")]
    assert count == len(peft_layers) > 100


@pytest.mark.parametrize("method", ["dora", "loha", "lokr"])
def test_what_diffusers_makes_of_other_kinds_is_as_the_docs_say(tmp_path: Path, method: str) -> None:
    """It drops DoRA's lengths and refuses LoHa and LoKr; so the proof after saving does not ask it."""
    family = adapted(StableDiffusion, tiny_sd(tmp_path / "b"), method, layers=["attn1", "self_attn"])
    injection.save(family, tmp_path / "a.safetensors", dtype=torch.float32, metadata={})
    assert family.read_lora(tmp_path / "a.safetensors") is None

    def load() -> dict[str, AdapterWeights]:
        return _lora_reader.read(tmp_path / "a.safetensors", dict(family.parts), family._pipeline_of)

    if method == "dora":
        assert all(MAGNITUDE not in found.tensors for found in load().values()) and load()
    else:
        with pytest.raises(ValueError, match="not been correctly renamed"):
            load()


def test_formats_of_diffusers_and_peft_are_read(base: tuple[Any, Path, Any], tmp_path: Path) -> None:
    kind, folder, pipeline = base
    family = adapted(kind, folder, conv_rank=0)
    pipe = pipeline.from_pretrained(folder)
    injection.save(family, tmp_path / "ours.safetensors", dtype=torch.float32, metadata={})
    pipe.load_lora_weights(tmp_path / "ours.safetensors", adapter_name="default")
    from peft.utils import get_peft_model_state_dict

    states = {part: get_peft_model_state_dict(getattr(pipe, part)) for part in family.parts}
    arguments = {f"{part}_lora_layers": state for part, state in states.items()}
    metadata = {f"{part}_lora_adapter_metadata": {"r": 4, "lora_alpha": 2.0} for part in states}
    pipeline.save_lora_weights(tmp_path / "d", **arguments, **metadata)
    dotted = {f"{part}.{name}": t for part, state in states.items() for name, t in state.items()}
    header = {
        "lora_adapter_metadata": json.dumps({f"{p}.{k}": v for p in states for k, v in {"lora_alpha": 2.0}.items()})
    }
    save_file(dotted, tmp_path / "peft.safetensors", header)
    for file in (tmp_path / "d" / "pytorch_lora_weights.safetensors", tmp_path / "peft.safetensors"):
        again = kind.load(str(folder))
        injection.inject(again, list(again.parts), seed=9, **{**SIZES, "conv_rank": 0})
        injection.load_into(again, lora_file.read(file).modules, "file")
        assert torch.equal(prediction(again), prediction(family))


def test_sdxl_loras_with_diffusers_block_names_are_read(tmp_path: Path) -> None:
    folder = tiny_sdxl(tmp_path / "base")
    family = adapted(StableDiffusionXL, folder)
    renamed = {
        (f"lora_unet_{a.module.replace('.', '_')}" if a.part == "unet" else a.key): a.weights
        for a in injection.adapters(family)
    }
    assert any("down_blocks" in name for name in renamed)
    lora_file.write(tmp_path / "a.safetensors", renamed, dtype=torch.float32, metadata={})
    again = StableDiffusionXL.load(str(folder))
    injection.inject(again, list(again.parts), seed=9, **SIZES)
    injection.load_into(again, lora_file.read(tmp_path / "a.safetensors").modules, "file")
    assert torch.equal(prediction(again), prediction(family))


def test_a_lora_of_another_rank_is_refused_with_the_reason(tmp_path: Path) -> None:
    family = adapted(StableDiffusion, tiny_sd(tmp_path / "sd"))
    other = StableDiffusion.load(str(tmp_path / "sd"))
    injection.inject(other, list(other.parts), seed=0, **{**SIZES, "rank": 8})
    before = prediction(other)
    with pytest.raises(UserError, match=r"another rank or shape, such as .* \[4, .*expected \[8,"):
        injection.load_into(other, injection.weights(family), "file")
    assert torch.equal(prediction(other), before)


def test_layers_can_be_chosen_by_words_of_their_names(base: tuple[Any, Path, Any]) -> None:
    kind, folder, _ = base
    family = kind.load(str(folder))
    made = injection.inject(family, list(family.parts), seed=0, layers=["attn1", "self_attn"], **SIZES)
    assert {a.part for a in made} == set(family.parts)
    assert all("attn1" in a.module or "self_attn" in a.module for a in made)
    with pytest.raises(UserError, match=r"among the layers of lora\.layers = \['attn9'\]"):
        injection.inject(kind.load(str(folder)), ["unet"], seed=0, layers=["attn9"], **SIZES)


def test_blocks_can_have_other_ranks_or_none(base: tuple[Any, Path, Any]) -> None:
    kind, folder, _ = base
    family = kind.load(str(folder))
    ranks = {"unet.down_blocks": 8, "unet.down_blocks.1.resnets": 0, "text_encoder": 2}
    made = injection.inject(family, list(family.parts), seed=0, ranks=ranks, **SIZES)
    for adapter in made:
        name = f"{adapter.part}.{adapter.module}"
        wide = adapter.base.weight.ndim == 4 and adapter.base.weight.shape[-1] == 3
        rank = 8 if name.startswith("unet.down_blocks") else 2 if name.startswith("text_encoder.") else 2 if wide else 4
        assert not name.startswith("unet.down_blocks.1.resnets")
        assert weights.rank(adapter.weights) == rank
        assert weights.scale(adapter.weights) == pytest.approx(1.5 if wide else 0.5)
    assert any(a.module.startswith("down_blocks.0.resnets") for a in made)
    with pytest.raises(UserError, match=r"unet\.down_block\b"):
        injection.inject(kind.load(str(folder)), ["unet"], seed=0, ranks={"unet.down_block": 4}, **SIZES)


def test_rank_dropout_keeps_the_mean_and_whole_ranks(tmp_path: Path) -> None:
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "b")))
    adapter = injection.inject(family, ["unet"], rank=64, alpha=64, rank_dropout=0.25, seed=0)[3]
    down = adapter.layer.lora_A["default"]
    inputs = torch.ones(500, 7, down.in_features)
    down.weight.data.fill_(1 / down.in_features)
    torch.manual_seed(0)
    out = down.train()(inputs)  # (500, 7, 64)
    assert bool(((out == 0) | ((out - 1 / 0.75).abs() < 1e-4)).all())
    assert torch.equal(out[:, :1].expand_as(out), out), "one mask per sample and rank, for all positions"
    assert 0.73 < float((out[:, 0] > 0).float().mean()) < 0.77
    assert torch.equal(down.eval()(inputs), torch.ones(500, 7, 64))


def test_module_dropout_skips_whole_adapters_while_training(tmp_path: Path) -> None:
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "b")))
    adapter = injection.inject(family, ["unet"], rank=4, alpha=4, module_dropout=0.5, seed=0)[3]
    adapter.weights.up.data.fill_(1)
    inputs = torch.rand(2, 3, adapter.layer.in_features)
    with_it = adapter.layer(inputs)
    torch.manual_seed(0)
    adapter.layer.train()
    outs = [adapter.layer(inputs) for _ in range(200)]
    without = adapter.base(inputs)
    kept = sum(torch.equal(out, with_it) for out in outs)
    assert 70 < kept < 130
    assert all(torch.equal(out, with_it) or torch.equal(out, without) for out in outs)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"method": "lorax"}, "lora.method"),
        ({"method": "dora", "rank_dropout": 0.1}, "rank_dropout"),
        ({"method": "lokr", "dropout": 0.1}, "lora.dropout"),
    ],
)
def test_impossible_settings_are_named(tmp_path: Path, settings: dict[str, Any], what: str) -> None:
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "b")))
    with pytest.raises(UserError, match=what):
        injection.inject(family, ["unet"], seed=0, **{**SIZES, **settings})


def test_what_diffusers_would_read_differently_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = adapted(StableDiffusion, tiny_sd(tmp_path / "b"))
    theirs = family.read_lora
    key = next(iter(injection.weights(family)))

    def wrong(path: Path) -> Any:
        return {n: AdapterWeights(m.tensors, m.alpha * 2) for n, m in theirs(path).items()}

    monkeypatch.setattr(family, "read_lora", wrong)
    with pytest.raises(UserError, match=key):
        injection.save(family, tmp_path / "a.safetensors", dtype=torch.float32, metadata={})
    assert not (tmp_path / "a.safetensors").exists()


def test_parameters_without_gradient_are_those_that_the_family_names(base: tuple[Any, Path, Any]) -> None:
    kind, folder, _ = base
    family = kind.load(str(folder))
    for part in family.parts.values():
        part.requires_grad_(True)
    prediction(family).square().mean().backward()
    idle = {id(p) for p in family.unused_parameters()}
    found = {id(p) for part in family.parts.values() for p in part.parameters() if p.grad is None}
    assert found == idle


def test_diffusers_scales_blocks_of_other_ranks_as_trained(base: tuple[Any, Path, Any], tmp_path: Path) -> None:
    kind, folder, pipeline = base
    last = [name for name in kind.load(str(folder)).parts if name.startswith("text")][-1]
    family = adapted(kind, folder, ranks={"unet.down_blocks.1": 8, "unet.mid_block": 2, f"{last}.encoder.layers.0": 2}
                     if kind is StableDiffusion else {"unet.down_blocks.1": 8, "unet.mid_block": 2})  # fmt: skip
    injection.save(family, tmp_path / "a.safetensors", dtype=torch.float32, metadata={})
    pipe = pipeline.from_pretrained(folder)
    pipe.load_lora_weights(tmp_path / "a.safetensors")
    for adapter in injection.adapters(family):
        layer = getattr(pipe, adapter.part).get_submodule(adapter.module)
        torch.testing.assert_close(
            layer.get_delta_weight(layer.active_adapters[0]), injection.delta_w(adapter), atol=1e-6, rtol=1e-5
        )
