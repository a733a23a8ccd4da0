"""Weights that two processes share (FSDP): the same training as with whole copies, and everything that is written."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from PIL import Image
from safetensors.torch import load_file
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer

from tests.reliability import forks
from tests.tiny import tiny_sd
from tests.trainer import runs
from tests.trainer.parallel.two_processes import train
from trainer import registry
from trainer.assembly.fsdp import SHARDABLE
from trainer.assembly.processes import accelerator_for
from trainer.assembly.run import training
from trainer.config import reading
from trainer.errors import UserError
from trainer.journal.run_dir import RunDir
from trainer.optim import optimizers
from trainer.optim.optimizers import shared_out
from trainer.optim.parameters import Group
from trainer.optim.sharded_tensor import joined_as, local, shared_as, whole
from trainer.parallel.sharding import UNIT, units
from trainer.run import checkpoint
from trainer.run.checkpoint import State

ROOT = Path(__file__).parents[3]
FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
EVERYTHING = (
    "training.method='full'",
    "training.text_encoder=true",
    "training.gradient_accumulation=2",
    "optimizer={name='sgd',lr=0.1,args={momentum=0.9}}",
    "ema.decay=0.9",
    "save.every=2",
    "validation={split=0.4,every=2,draws=1}",
    "samples={prompts=['a cat'],every=2,steps=2,width=32,height=32}",
)


def together(project: Path, *overrides: str, environment: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """What two processes saw that train together."""

    def one() -> dict[str, Any]:
        os.environ |= environment or {}
        return train(project, *overrides)

    return forks.ranks(2, one)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.make_project(tmp_path_factory.mktemp("sharding") / "p")


def folder(project: Path, name: str) -> RunDir:
    return RunDir(project.parent / "output" / name)


def close(one: Path, other: Path, tolerance: float) -> None:
    """Two files of tensors hold the same, up to rounding."""
    found, expected = load_file(one), load_file(other)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name].float(), tensor.float(), rtol=tolerance, atol=tolerance, msg=name)


def files(run: RunDir) -> dict[str, Path]:
    """Everything in a run's folder, by its path without the run's name."""
    name = run.path.name
    return {f.relative_to(run.path).as_posix().removeprefix(name): f for f in run.path.rglob("*") if f.is_file()}


@pytest.fixture(scope="module")
def copies_and_shards(project: Path) -> tuple[RunDir, RunDir]:
    """The same full fine-tune with everything that reads or writes weights: with whole copies, and with shards."""
    ranks = together(project, "run.name='copies'", *EVERYTHING)
    assert [rank["sharded"] for rank in ranks] == [False, False]
    ranks = together(project, "run.name='shards'", *EVERYTHING, environment=FSDP)
    assert [rank["sharded"] for rank in ranks] == [True, True]
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert sum(rank["held"] for rank in ranks) == 1, "together they hold every number once"
    assert max(rank["held"] for rank in ranks) < 0.51
    return folder(project, "copies"), folder(project, "shards")


def test_a_sharded_run_writes_what_a_run_of_copies_writes(copies_and_shards: tuple[RunDir, RunDir]) -> None:
    copies, shards = (files(run) for run in copies_and_shards)
    assert shards.keys() == copies.keys()
    assert "2 processes, each with the whole network (DDP)" in copies["log.txt"].read_text()
    assert "2 processes, each with a part of the weights, gradients and" in shards["log.txt"].read_text()
    assert any(name.endswith("unet/diffusion_pytorch_model.safetensors") for name in copies), "the model's folder"
    for name, file in copies.items():
        if name.endswith(".safetensors"):
            close(shards[name], file, 1e-6 if "checkpoints" in name else 1e-4)  # results are float16
        if name.endswith("config.json"):
            assert shards[name].read_bytes() == file.read_bytes(), name
        if name.endswith(".png") and "sheet" not in name:
            one, other = (np.asarray(Image.open(f), dtype=np.int16) for f in (shards[name], file))
            assert np.abs(one - other).max() <= 1, "both draw with whole, averaged weights"


def test_a_sharded_run_logs_and_measures_the_same(copies_and_shards: tuple[RunDir, RunDir]) -> None:
    copies, shards = ([e for e in run.events() if e["event"] in ("step", "validation")] for run in copies_and_shards)
    assert [e["event"] for e in shards] == [e["event"] for e in copies]
    assert {e["event"] for e in shards} == {"step", "validation"}
    for one, other in zip(shards, copies, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one.get("grad_norm", 0) == pytest.approx(other.get("grad_norm", 0), rel=1e-4)


def test_a_sharded_run_goes_on_bit_for_bit_and_with_one_process(
    project: Path, copies_and_shards: tuple[RunDir, RunDir]
) -> None:
    half = ("run.name='half'", *EVERYTHING)
    together(project, *half, "training.steps=2", environment=FSDP)
    together(project, *half, "--resume", environment=FSDP)
    (end,) = (f for n, f in files(folder(project, "half")).items() if n == "checkpoints/step-000004/state.safetensors")
    assert end.read_bytes() == (copies_and_shards[1].checkpoint(4) / end.name).read_bytes()

    # Each process draws noise of its own, so that one alone goes on with the same batches but not the same noise.
    alone = runs.training(
        project, "noise.oversampling=8", *half, "training.steps=6", "training.gradient_accumulation=4", resume=True
    )
    assert alone.loop.start.step == 4
    saved = load_file(end)
    for name, weight in alone.keeper._weights.items():
        assert torch.equal(weight, saved[f"weights/{name}"])
    alone.run()
    assert folder(project, "half").checkpoint(6).is_dir()


def test_a_run_of_one_process_goes_on_sharded(project: Path) -> None:
    settings = ("run.name='begun'", "training.method='full'", "ema.decay=0.9")
    runs.train(project, "noise.oversampling=8", *settings, "training.steps=2", "training.gradient_accumulation=2")
    ranks = together(project, *settings, "--resume", environment=FSDP)
    assert all(rank["sharded"] for rank in ranks) and ranks[0]["weights"] == ranks[1]["weights"]
    assert (folder(project, "begun").checkpoint(4)).is_dir()


def test_adapters_are_whole_in_each_process_and_learn_from_both(project: Path) -> None:
    settings = ("training.text_encoder=true", "optimizer={name='sgd',lr=0.1}", "lora.max_norm=1.0", "save.dtype='fp32'")
    for name, environment in (("lora-copies", {}), ("lora-shards", FSDP)):
        ranks = together(project, f"run.name='{name}'", *settings, environment=environment)
        assert ranks[0]["weights"] == ranks[1]["weights"]
    assert 0.5 <= ranks[0]["held"] < 0.6, "the frozen weights are split, the adapters are not"
    copies, shards = folder(project, "lora-copies"), folder(project, "lora-shards")
    close(shards.result(None).with_suffix(".safetensors"), copies.result(None).with_suffix(".safetensors"), 1e-6)


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 5, 3), nn.SiLU(), nn.Flatten(), nn.Linear(5 * 16, 7), nn.SiLU(), nn.Linear(7, 1)
    return nn.Sequential(*layers)  # five rows do not split evenly


def optimizer_of(name: str, part: nn.Module) -> Optimizer:
    groups = optimizers.split(name, [Group("g", "unet", 1e-2, list(part.parameters()))])
    return optimizers.build(name, groups, {})


def learn(part: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        ((part(images) - images.mean((1, 2, 3)).unsqueeze(1)) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def alike(part: nn.Module, plain: nn.Module) -> None:
    for one, other in zip(part.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(whole(one), other.detach(), rtol=1e-5, atol=1e-6)


def compare(name: str) -> None:
    """Three steps, then two with a new optimizer that takes over the states as a checkpoint has them: whole."""
    plain, split = network(), network()
    fully_shard(split, mesh=init_device_mesh("cpu", (2,)))
    learn(plain, optimizer_plain := optimizer_of(name, plain), range(3))
    learn(split, optimizer_split := optimizer_of(name, split), range(3))
    alike(split, plain)
    pairs = zip(plain.parameters(), network().parameters(), strict=True)
    assert max(float((p - q).detach().abs().max()) for p, q in pairs) > 1e-4
    again = optimizer_of(name, split)
    again.load_state_dict(shared_out(copy.deepcopy(optimizer_plain.state_dict()), again))
    saved = checkpoint.stage(State(3, {}, optimizer_split.state_dict(), {}, {}, {}))
    expected = checkpoint.stage(State(3, {}, optimizer_plain.state_dict(), {}, {}, {}))
    assert saved.values == expected.values
    for key, tensor in expected.tensors.items():
        torch.testing.assert_close(saved.tensors[key], tensor, rtol=1e-5, atol=1e-6)
    learn(plain, optimizer_plain, range(3, 5))
    learn(split, again, range(3, 5))
    alike(split, plain)


@pytest.mark.parametrize("name", SHARDABLE)
def test_each_optimizer_that_is_accepted_does_to_split_weights_what_it_does_to_whole_ones(name: str) -> None:
    def one() -> None:
        torch.set_num_threads(1)
        distributed.init_process_group("gloo")
        compare(name)

    forks.ranks(2, one)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["training={fused_backward=true,method='full',max_grad_norm=0}"],
            "training.fused_backward: true works in one",
        ),
        (
            ["training={weight_dtype='bf16',method='full',precision='bf16'}"],
            "training.weight_dtype: 'bf16'",
        ),
        (["training.base_precision='8bit'"], "training.base_precision: '8bit'"),
        (["training.gradient_checkpointing='auto'"], "training.gradient_checkpointing: 'auto'"),
        (["performance.channels_last=true"], "performance.channels_last: true"),
        (["performance.compile=true"], "performance.compile: true"),
        (["training.method='full'", "optimizer.name='prodigy'"], "optimizer.name: 'prodigy'; use one of adam, adamw"),
    ],
)
def test_what_cannot_be_sharded_is_refused_by_name(
    project: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], told: str
) -> None:
    config = reading.read(project, settings)
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    accelerator_for(config)  # one process shares with nobody
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    with pytest.raises(UserError) as refused:
        accelerator_for(config)
    assert any(problem.startswith(told) for problem in refused.value.problems), refused.value.problems


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("FSDP_VERSION", "1", "fsdp_version: found 1, expected 2"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "training.gradient_checkpointing"),
        ("FSDP_RESHARD_AFTER_FORWARD", "FULL_SHARD", "fsdp_config"),
    ],
)
def test_settings_of_accelerate_that_are_not_followed_are_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    for name, usual in (FSDP | {variable: value}).items():
        monkeypatch.setenv(name, usual)
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    with pytest.raises(UserError, match=told):
        accelerator_for(reading.read(project))


def test_accelerates_launcher_makes_of_the_example_what_is_accepted(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(ROOT / "configs" / "accelerate" / "fsdp.yaml")
    arguments = launch_command_parser().parse_args(["--config_file", file, "--module", "trainer"])
    arguments, _, _ = _validate_launch_command(arguments)
    for name, value in prepare_multi_gpu_env(arguments).items():
        if name.startswith(("FSDP_", "ACCELERATE_USE")):
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    accelerator_for(reading.read(project, ["training.method='full'"]))


def test_units_hold_each_weight_at_most_once_and_leave_little_to_the_part(tmp_path: Path) -> None:
    tiny_sd(tmp_path / "base")
    part = registry.find("models", "sd").load(str(tmp_path / "base")).parts["unet"]
    found = units(part, set())
    assert len(found) > 5
    weights = [p for unit in found for p in unit.parameters()]
    assert len(weights) == len(set(weights))
    assert not any(isinstance(unit, (nn.ModuleList, nn.ModuleDict)) for unit in found), "nobody calls those"
    total = sum(p.numel() for p in part.parameters())
    assert all(sum(p.numel() for p in unit.parameters()) <= min(UNIT, total // 4) for unit in found)
    assert sum(p.numel() for p in weights) > 0.8 * total


def test_plain_tensors_pass_as_they_are() -> None:
    tensor = torch.arange(6.0).view(2, 3)
    for made in (local(tensor), whole(tensor), shared_as(tensor, tensor), joined_as(tensor, tensor)):
        assert made.data_ptr() == tensor.data_ptr() and torch.equal(made, tensor)


def test_a_single_process_is_never_sharded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    found = training(reading.read(project, ["run.name='single'"]), runs.Console(quiet=True))
    assert found is not None and not found.loop.gradients.processes.sharded
