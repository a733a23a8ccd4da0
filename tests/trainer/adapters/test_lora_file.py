"""kohya's LoRA format on disk: round trips, what other programs make of it, and bad files."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from plugins.models.sd import StableDiffusion
from tests.tiny import tiny_sd
from tests.trainer.adapters.test_injection import both, randomise
from trainer.adapters import injection, lora_file
from trainer.adapters.weights import delta, is_zero, scale
from trainer.errors import UserError


@pytest.fixture
def trained(tmp_path: Path) -> tuple[StableDiffusion, Path]:
    """A tiny model with a LoRA (LoCon) whose alphas differ from its ranks, and the folder of its base."""
    base = tiny_sd(tmp_path / "base")
    family = StableDiffusion.load(str(base))
    randomise(both(family))
    return family, base


def save(family: StableDiffusion, path: Path, dtype: torch.dtype = torch.float32) -> Path:
    lora_file.write(path, injection.weights(family), dtype=dtype, metadata={"ss_network_dim": "4"})
    return path


@pytest.mark.parametrize("version", [1, 2])
def test_diffusers_makes_the_same_change_of_every_weight(tmp_path: Path, version: int) -> None:
    base = tiny_sd(tmp_path / "base", version=version)
    family = StableDiffusion.load(str(base))
    randomise(both(family))
    pipe = StableDiffusionPipeline.from_pretrained(base)
    plain = {("unet", k): v.clone() for k, v in pipe.unet.state_dict().items()}
    plain |= {("text_encoder", k): v.clone() for k, v in pipe.text_encoder.state_dict().items()}
    pipe.load_lora_weights(save(family, tmp_path / "a.safetensors"))
    pipe.fuse_lora()
    for adapter in injection.adapters(family):
        fused = getattr(pipe, adapter.part).get_submodule(adapter.module).base_layer.weight
        change = fused - plain[adapter.part, f"{adapter.module}.weight"]
        torch.testing.assert_close(change, injection.delta_w(adapter), atol=2e-7, rtol=1e-5)
    assert len(pipe.unet.peft_config) == 1


def test_ours_to_file_to_ours_is_exact(trained: tuple[StableDiffusion, Path], tmp_path: Path) -> None:
    family, base = trained
    path = save(family, tmp_path / "a.safetensors")
    other = StableDiffusion.load(str(base))
    both(other, seed=99, alpha=1.0, conv_alpha=1.0)
    injection.load_into(other, lora_file.read(path).modules, str(path))
    for ours, theirs in zip(injection.adapters(family), injection.adapters(other), strict=True):
        assert ours.key == theirs.key
        assert torch.equal(injection.delta_w(ours), injection.delta_w(theirs))
        assert ours.layer.scaling == theirs.layer.scaling


def test_names_and_shapes_are_kohyas(trained: tuple[StableDiffusion, Path], tmp_path: Path) -> None:
    tensors = load_file(save(trained[0], tmp_path / "a.safetensors", torch.float16))
    expected = {
        # 1x1 convolutions and linear layers have rank 4, 3x3 convolutions rank 2; the tiny UNet is 32 and 64 wide.
        "lora_unet_down_blocks_0_attentions_0_proj_in": ([4, 32, 1, 1], [32, 4, 1, 1]),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": ([4, 32], [32, 4]),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0": ([4, 32], [32, 4]),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_0_proj": ([4, 32], [256, 4]),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_ff_net_2": ([4, 128], [32, 4]),
        "lora_unet_down_blocks_0_resnets_0_conv1": ([2, 32, 3, 3], [32, 2, 1, 1]),
        "lora_unet_down_blocks_0_resnets_0_time_emb_proj": ([4, 128], [32, 4]),
        "lora_unet_down_blocks_1_resnets_0_conv_shortcut": ([4, 32, 1, 1], [64, 4, 1, 1]),
        "lora_unet_down_blocks_0_downsamplers_0_conv": ([2, 32, 3, 3], [32, 2, 1, 1]),
        "lora_unet_up_blocks_0_upsamplers_0_conv": ([2, 64, 3, 3], [64, 2, 1, 1]),
        "lora_unet_mid_block_attentions_0_proj_out": ([4, 64, 1, 1], [64, 4, 1, 1]),
        "lora_te_text_model_encoder_layers_1_self_attn_out_proj": ([4, 64], [64, 4]),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": ([4, 64], [128, 4]),
    }
    for name, (down, up) in expected.items():
        assert list(tensors[f"{name}.lora_down.weight"].shape) == down, name
        assert list(tensors[f"{name}.lora_up.weight"].shape) == up, name
        assert tensors[f"{name}.lora_up.weight"].dtype == torch.float16
        assert tensors[f"{name}.alpha"].shape == ()
        assert float(tensors[f"{name}.alpha"]) == (3.0 if down[-1] == 3 else 2.0)
    assert not any("conv_in" in k or "conv_out" in k or "time_embedding" in k or "embeddings" in k for k in tensors)


def test_hashes_are_those_of_the_file_behind_its_header(trained: tuple[StableDiffusion, Path], tmp_path: Path) -> None:
    path = save(trained[0], tmp_path / "a.safetensors")
    content = path.read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["sshs_model_hash"] == hashlib.sha256(content[8 + header :]).hexdigest()
    assert len(metadata["sshs_legacy_hash"]) == 8
    assert metadata["ss_network_dim"] == "4"


def test_nan_is_never_written_and_the_older_file_stays(trained: tuple[StableDiffusion, Path], tmp_path: Path) -> None:
    family, _ = trained
    path = save(family, tmp_path / "a.safetensors")
    before = path.read_bytes()
    adapter = injection.adapters(family)[5]
    adapter.weights.up.data[0] = float("nan")
    with pytest.raises(UserError, match=adapter.key):
        save(family, path)
    adapter.weights.up.data[0] = 1e6  # infinite in half precision only
    with pytest.raises(UserError, match="overflows"):
        save(family, path, torch.float16)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.safetensors"]


def test_a_missing_alpha_means_the_rank(tmp_path: Path) -> None:
    save_file(
        {"m.lora_down.weight": torch.ones(4, 8), "m.lora_up.weight": torch.ones(8, 4)}, tmp_path / "a.safetensors"
    )
    assert scale(lora_file.read(tmp_path / "a.safetensors").modules["m"]) == 1


def bad_files(folder: Path) -> dict[str, Path]:
    """Files that are no LoRA, by what is wrong with them."""
    good = folder / "good.safetensors"
    save_file({"m.lora_down.weight": torch.ones(4, 8), "m.lora_up.weight": torch.ones(8, 4)}, good)
    content = good.read_bytes()
    header = json.dumps({"m.alpha": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    raw = {
        "truncated": content[:-20],
        "empty": b"",
        "text": b"this is not a model\n" * 10,
        "liar": struct.pack("<Q", len(header)) + header + b"\0" * 16,
        "header too long": struct.pack("<Q", 2**40) + content[8:],
        "deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    }
    files = {name: folder / f"{name}.safetensors" for name in raw}
    for name, file in files.items():
        file.write_bytes(raw[name])
    down = torch.ones(4, 8)
    tensors = {
        "half a module": {"m.lora_down.weight": down},
        "mismatched ranks": {"m.lora_down.weight": down, "m.lora_up.weight": torch.ones(8, 5)},
        "a checkpoint": {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(4, 4, 3, 3)},
    }
    for name, content_of in tensors.items():
        files[name] = folder / f"{name}.safetensors"
        save_file(content_of, files[name])
    return files


def test_bad_files_are_named_and_explained(tmp_path: Path) -> None:
    for name, file in bad_files(tmp_path).items():
        with pytest.raises(UserError) as caught:
            lora_file.read(file)
        assert str(file) in str(caught.value), name
    with pytest.raises(UserError, match="there is no such file"):
        lora_file.read(tmp_path / "nothing.safetensors")


class _Canary:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
def test_a_pickle_that_runs_code_does_not_run(tmp_path: Path, suffix: str) -> None:
    canary = tmp_path / "canary"
    torch.save({"m.lora_down.weight": _Canary(canary)}, tmp_path / f"evil{suffix}")
    with pytest.raises(UserError, match="evil"):
        lora_file.read(tmp_path / f"evil{suffix}")
    assert not canary.exists()


LAYERS = ("unet.mid_block.attentions.0.to_q", "unet.mid_block.attentions.0.to_k")


@pytest.mark.parametrize(
    ("told", "scales"),
    [
        ({"lora_alpha": 2.0}, (0.5, 0.5)),
        ({"lora_alpha": 2.0, "use_rslora": True}, (1.0, 1.0)),
        ({"lora_alpha": 2.0, "alpha_pattern": {"to_k": 8.0}}, (0.5, 2.0)),
        ({"lora_alpha": 2.0, "alpha_pattern": {r"mid_block.*\.to_(q|k)": 1.0}}, (0.25, 0.25)),
        ({"lora_alpha": 2.0, "alpha_pattern": {"o_q": 8.0}}, (0.5, 0.5)),
    ],
)
def test_pefts_config_scales_as_peft_does(told: dict[str, Any], scales: tuple[float, float], tmp_path: Path) -> None:
    down, up = torch.randn(4, 6), torch.randn(5, 4)
    tensors = {f"{n}.lora_{end}.weight": t for n in LAYERS for end, t in (("A", down), ("B", up.clone()))}
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in told.items()})}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, tmp_path / "a.safetensors", header)
    modules = lora_file.read(tmp_path / "a.safetensors").modules
    for name, wanted in zip(LAYERS, scales, strict=True):
        torch.testing.assert_close(delta(modules[name]), wanted * up @ down)


def test_a_stored_alpha_of_zero_changes_nothing(tmp_path: Path) -> None:
    tensors = {"m.lora_down.weight": torch.randn(4, 6), "m.lora_up.weight": torch.randn(5, 4)}
    save_file({**tensors, "m.alpha": torch.tensor(0.0)}, tmp_path / "a.safetensors")
    (weights,) = lora_file.read(tmp_path / "a.safetensors").modules.values()
    assert not delta(weights).any() and is_zero(weights)
    with pytest.raises(UserError, match="nothing was learned"):
        lora_file.write(tmp_path / "b.safetensors", {"m": weights}, dtype=torch.float32, metadata={})
