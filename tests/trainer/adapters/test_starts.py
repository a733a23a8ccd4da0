"""PiSSA and OLoRA: the base at first, peft's own first values, and files for the base as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from plugins.models.sd import StableDiffusion
from tests.tiny import tiny_sd
from trainer.adapters import injection, lora_file, tools
from trainer.adapters.quantise import quantise
from trainer.adapters.starts import Starts
from trainer.batch import Geometry
from trainer.config import reading
from trainer.errors import UserError

SIZES = {"rank": 4, "alpha": 2.0, "conv_rank": 2, "conv_alpha": 3.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd(tmp_path_factory.mktemp("starts") / "base")


def prediction(family: Any) -> Tensor:
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    geometry = Geometry(*(torch.full((2, 2), 32) for _ in range(3)))
    found: Tensor = family.predict(noisy, torch.tensor([10, 700]), family.encode_text(["a red cat", "two"]), geometry)
    return found


def started(base: Path, start: str, moved: float = 0.0) -> Any:
    family = StableDiffusion.load(str(base))
    stream = torch.Generator().manual_seed(5)
    for adapter in injection.inject(family, list(family.parts), seed=1, start=start, **SIZES):
        for tensor in adapter.weights.tensors.values():
            tensor.data += moved * torch.randn(tensor.shape, generator=stream)
    return family


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_at_first_it_is_the_base_and_all_factors_learn(base: Path, start: str) -> None:
    family = started(base, start)
    torch.testing.assert_close(prediction(family), prediction(StableDiffusion.load(str(base))), atol=1e-5, rtol=0)
    prediction(family).square().mean().backward()
    assert all(bool(a.weights.down.grad.any() and a.weights.up.grad.any()) for a in injection.adapters(family))
    names = [name for part in family.parts.values() for name, p in part.named_parameters() if p.requires_grad]
    assert names and not any("start" in name for name in names)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_the_first_values_are_pefts(base: Path, start: str) -> None:
    """Of its own layer over the same weight, up to the signs of singular vectors; with so many that none is guessed."""
    family = StableDiffusion.load(str(base))
    for adapter in injection.inject(family, ["unet"], start=start, rank=16, alpha=8.0)[::17]:
        weight = adapter.base.weight.detach().flatten(1)
        holder = nn.Sequential(nn.Linear(weight.shape[1], weight.shape[0], bias=False))
        holder[0].weight.data = weight.clone()
        size = len(adapter.weights.down)
        config = LoraConfig(
            r=size, lora_alpha=adapter.weights.alpha, target_modules=["0"], init_lora_weights=start  # type: ignore[arg-type]
        )  # fmt: skip
        theirs: Any = inject_adapter_in_model(config, holder)[0]  # type: ignore[index]
        pairs = (adapter.weights.up.flatten(1), theirs.lora_B["default"].weight)
        ours = adapter.weights.up.flatten(1) @ adapter.weights.down.flatten(1)
        torch.testing.assert_close(*(pair.detach().norm(dim=0) for pair in pairs), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            ours, theirs.lora_B["default"].weight @ theirs.lora_A["default"].weight, rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_file_makes_the_trained_weights_of_the_base_as_it_was(
    base: Path, tmp_path: Path, start: str, dtype: torch.dtype
) -> None:
    """By our reader on a fresh base; diffusers' proves the file when it is written."""
    family = started(base, start, moved=0.01)
    injection.save(family, tmp_path / "a.safetensors", dtype=dtype, metadata={})
    modules = lora_file.read(tmp_path / "a.safetensors").modules
    plain = StableDiffusion.load(str(base))
    before = prediction(plain)
    tools.put_into(plain, modules, 1.0, "file")
    change = (prediction(family) - before).abs().max()
    assert (prediction(plain) - prediction(family)).abs().max() < (2e-3 if dtype == torch.float16 else 1e-4) * change
    assert {len(m.down) for m in modules.values()} <= {2 * SIZES["rank"], 2 * SIZES["conv_rank"]}
    with injection.scaled(family, 0.0):
        assert torch.equal(prediction(family), before)
    trained = prediction(family).detach()
    injection.merge(family)
    torch.testing.assert_close(prediction(family), trained, atol=2e-5, rtol=1e-3)


def test_a_base_in_few_bits_stays_as_it_is(base: Path) -> None:
    """What adapters begin as is a part of what the bits mean."""
    family = StableDiffusion.load(str(base))
    quantise(family.parts["unet"], 4, torch.device("cpu"), torch.float32)
    before = {n: p.detach().clone() for n, p in family.parts["unet"].named_parameters()}
    added = injection.inject(family, ["unet"], seed=1, start="pissa", rank=16, alpha=4.0)
    live = {n.replace(".base_layer", ""): p for n, p in family.parts["unet"].named_parameters()}
    assert all(torch.equal(live[name], tensor) for name, tensor in before.items())
    for adapter in added[::17]:
        assert injection.delta_w(adapter).abs().max() < 1e-6
        weight = dequantize_module_weight(adapter.base).float().flatten(1)
        part = (adapter.weights.up.flatten(1) @ adapter.weights.down.flatten(1)) / 4
        left = torch.linalg.svdvals(weight - part.detach())
        torch.testing.assert_close(left[0], torch.linalg.svdvals(weight)[16], rtol=1e-3, atol=1e-5)


def test_what_it_began_as_is_kept_and_brought_back(base: Path) -> None:
    one, other = started(base, "pissa", moved=0.01), started(base, "olora")
    Starts(injection.layers(other)).load_state_dict(
        {name: tensor.clone() for name, tensor in Starts(injection.layers(one)).state_dict().items()}
    )
    injection_weights = {a.key: a.weights for a in injection.adapters(one)}
    for adapter in injection.adapters(other):
        for leaf, tensor in adapter.weights.tensors.items():
            tensor.data.copy_(injection_weights[adapter.key].tensors[leaf])
    assert torch.equal(prediction(one), prediction(other))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("method='loha'", "lora.start: 'pissa' works with lora.method = 'lora' only"),
        ("max_norm=1.0", "lora.max_norm: acts on the whole adapter"),
        ("module_dropout=0.1", "lora.module_dropout: acts on the whole adapter"),
    ],
)
def test_what_does_not_go_with_it_is_told(tmp_path: Path, settings: str, told: str) -> None:
    (tmp_path / "run.toml").write_text('[run]\nname = "a"\n[model]\nbase = "b/c"\n[data]\ntrain_data_dir = "."\n')
    with pytest.raises(UserError) as error:
        reading.read(tmp_path / "run.toml", [f"lora={{start='pissa',{settings}}}"])
    assert told in " ".join(error.value.problems)
