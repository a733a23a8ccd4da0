"""Files of LyCORIS' own modules make the changes here that LyCORIS makes: every kind that it writes, both families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris import kohya as lycoris
from lycoris.functional import tucker_weight_from_conv
from lycoris.modules.tlora import TLoraModule
from safetensors.torch import save_file
from torch import nn

from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import tiny_sd, tiny_sdxl
from trainer.adapters import lora_file, tools
from trainer.adapters.weights import change
from trainer.batch import AdapterWeights

FAMILIES: dict[str, tuple[Any, Any]] = {"sd": (StableDiffusion, tiny_sd), "sdxl": (StableDiffusionXL, tiny_sdxl)}
# Its preset "full" finds diffusers' time embedding by class and by name, and then stumbles over the name it gave twice.
FULL = {**lycoris.PRESET["full"]}
FULL["unet_target_module"] = [name for name in FULL["unet_target_module"] if name != "TimestepEmbedding"]
CASES: dict[str, dict[str, Any]] = {
    "lora": {"algo": "lora"},
    "lora tucker": {"algo": "lora", "use_tucker": True},
    "lora rslora": {"algo": "lora", "rs_lora": True},
    "dora by inputs": {"algo": "lora", "dora_wd": True, "wd_on_output": False},
    "dora by outputs": {"algo": "lora", "dora_wd": True, "wd_on_output": True},
    "loha": {"algo": "loha"},
    "loha tucker": {"algo": "loha", "use_tucker": True},
    "loha dora": {"algo": "loha", "dora_wd": True, "wd_on_output": False},
    "lokr": {"algo": "lokr"},
    "lokr factor": {"algo": "lokr", "factor": 4},
    "lokr both": {"algo": "lokr", "decompose_both": True, "network_dim": 1},
    "lokr tucker": {"algo": "lokr", "use_tucker": True, "network_dim": 1},
    "lokr full matrix": {"algo": "lokr", "full_matrix": True},
    "lokr unbalanced": {"algo": "lokr", "unbalanced_factorization": True, "factor": 4},
    "lokr dora": {"algo": "lokr", "dora_wd": True, "wd_on_output": True},
    "full": {"algo": "full"},
    "norm": {"algo": "lora", "train_norm": True},
    "glora": {"algo": "glora"},
    "oft": {"algo": "diag-oft"},
    "oft limited": {"algo": "diag-oft", "constraint": 0.001, "rescaled": True},
    "boft": {"algo": "boft", "rescaled": True},
    "ia3": {"algo": "ia3"},
}


@pytest.fixture(autouse=True)
def preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lycoris.PRESET, "full", FULL)


def network(family: Any, settings: dict[str, Any]) -> Any:
    """LyCORIS' adapters on a family's networks, with values that change something."""
    encoders = list(family.components.text_encoders.values())
    encoder = encoders if len(encoders) > 1 else encoders[0]
    arguments = {"preset": "full", "network_dim": 4, **settings}
    made = lycoris.create_network(1.0, arguments.pop("network_dim"), 2.0, None, encoder, family.unet, **arguments)
    stream = torch.Generator().manual_seed(5)
    for module in (*made.unet_loras, *made.text_encoder_loras):
        for parameter in module.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=stream)
        if hasattr(module, "is_diff"):  # the full kind's state is told as of a module in use, which holds the sum
            module.weight.data += module.org_weight
            if module.bias is not None:
                module.bias.data += module.org_bias[0]
            module.is_diff = False
    return made


def trained(module: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The layer's weight and bias as LyCORIS trains with them; its merging scales LoHa and LoKr twice (4.1.3)."""
    if not hasattr(module, "get_weight"):
        return module.get_merged_weight(multiplier=1.0, shape=module.shape)
    whole = module.org_weight + module.get_weight(module.shape)
    return (module.apply_weight_decompose(whole) if module.wd else whole), None


def of_layer(module: Any, layer: nn.Module) -> AdapterWeights:
    """What a file of LyCORIS holds for one of its modules."""
    tensors = {name: t.detach().clone() for name, t in module.state_dict().items()}
    alpha = float(tensors.pop("alpha"))
    return AdapterWeights(tensors, alpha)


@torch.no_grad()
def test_t_lora_is_what_lycoris_makes_of_its_file() -> None:
    layer = nn.Linear(24, 16)
    module = TLoraModule("x", layer, lora_dim=4, alpha=2.0)
    for parameter in module.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    wanted, _ = module.get_diff_weight()
    torch.testing.assert_close(change(of_layer(module, layer), layer.weight), wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_gloras_middle_is_lycoris_tucker_form() -> None:
    stream = torch.Generator().manual_seed(0)
    shapes = {"a1": (8, 2, 1, 1), "a2": (2, 8, 1, 1), "b1": (6, 2, 1, 1), "b2": (2, 8, 1, 1), "bm": (2, 2, 3, 3)}
    t = {f"{name}.weight": torch.randn(shape, generator=stream) for name, shape in shapes.items()}
    base = torch.randn(6, 8, 3, 3, generator=stream)
    with_middle, without = (
        change(AdapterWeights({n: x for n, x in t.items() if keep or n != "bm.weight"}, 2.0), base)
        for keep, t in ((True, t), (False, {**t, "b2.weight": torch.zeros(2, 8, 3, 3)}))
    )
    wanted = tucker_weight_from_conv(t["b1.weight"], t["b2.weight"], t["bm.weight"])
    torch.testing.assert_close(with_middle - without, wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_further_entries_of_an_extraction_add_to_the_product() -> None:
    """LyCORIS' extraction keeps the largest leftovers as a sparse matrix: bias_indices, bias_values, bias_size."""
    tensors = {"lora_down.weight": torch.ones(2, 8), "lora_up.weight": torch.ones(6, 2)}
    leftover = torch.zeros(6, 8)
    leftover[1, 5], leftover[4, 0] = 3.0, -2.0
    sparse = leftover.to_sparse().coalesce()
    tensors |= {"bias_indices": sparse.indices(), "bias_values": sparse.values(), "bias_size": torch.tensor([6, 8])}
    found = change(AdapterWeights(tensors, 2.0), torch.zeros(6, 8))
    torch.testing.assert_close(found, torch.full((6, 8), 2.0) + leftover)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", FAMILIES)
@torch.no_grad()
def test_the_change_is_that_of_lycoris(tmp_path: Path, version: str, case: str) -> None:
    kind, make = FAMILIES[version]
    folder = str(make(tmp_path / "base"))
    theirs, ours = kind.load(folder), kind.load(folder)
    made = network(theirs, CASES[case])
    modules = (*made.unet_loras, *made.text_encoder_loras)
    tensors = {f"{m.lora_name}.{name}": t.detach().clone() for m in modules for name, t in m.state_dict().items()}
    save_file(tensors, tmp_path / "a.safetensors")
    wanted = {id(m.org_module[0]): trained(m) for m in modules}
    file = lora_file.read(tmp_path / "a.safetensors")
    assert tools.put_into(ours, file.modules, 1.0, "file").layers == len(wanted) == len(file.modules) > 100
    for part, root in theirs.parts.items():
        for name, layer in root.named_modules():
            own = ours.parts[part].get_submodule(name)
            if id(layer) in wanted:
                weight, bias = wanted[id(layer)]
                torch.testing.assert_close(own.weight, weight.reshape(own.weight.shape), atol=2e-5, rtol=1e-4)
                if bias is not None:
                    torch.testing.assert_close(own.bias, bias, atol=1e-6, rtol=1e-5)
            elif isinstance(layer, (nn.Linear, nn.Conv2d)):
                assert torch.equal(own.weight, layer.weight)
