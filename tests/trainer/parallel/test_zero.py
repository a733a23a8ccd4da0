"""Optimizer states that two processes share (DeepSpeed's ZeRO): the same training as with whole copies."""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from torch import Tensor, nn
from torch.optim import Optimizer

from tests.reliability import forks
from tests.trainer import runs
from tests.trainer.parallel.test_sharding import close, files, folder
from tests.trainer.parallel.two_processes import train
from trainer.assembly.processes import accelerator_for
from trainer.assembly.zero import ELEMENTWISE, RELEASE
from trainer.config import reading
from trainer.errors import UserError
from trainer.journal.run_dir import RunDir
from trainer.optim import optimizers
from trainer.optim.parameters import Group
from trainer.parallel.zero import WholeStates, Zero
from trainer.training.loop import Loop

ROOT = Path(__file__).parents[3]
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true"}
STAGES = {stage: ZERO | {"ACCELERATE_DEEPSPEED_ZERO_STAGE": stage} for stage in ("1", "2")}
EVERYTHING = (
    "training.method='full'",
    "training.text_encoder=true",
    "training.gradient_accumulation=2",
    "training.max_grad_norm=0.5",
    "optimizer={name='sgd',lr=0.1,args={momentum=0.9}}",
    "ema.decay=0.9",
    "save.every=2",
    "validation={split=0.4,every=2,draws=1}",
    "samples={prompts=['a cat'],every=2,steps=2,width=32,height=32}",
)


@pytest.fixture(scope="module")
def deepspeed() -> None:
    """Without DeepSpeed the tests are skipped, but not where CI=true: there it must be installed."""
    try:
        importlib.import_module("deepspeed")  # here, so that forked processes have it already
    except ImportError:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail("DeepSpeed is not installed")
        pytest.skip("DeepSpeed is not installed")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.make_project(tmp_path_factory.mktemp("zero") / "p")


def together(
    project: Path, *overrides: str, environment: Mapping[str, str] | None = None, nan_at: int = -1
) -> list[dict[str, Any]]:
    """What two processes saw that train together. nan_at: the backward pass of the second one that gets no number."""

    def spoil(loop: Loop) -> None:
        backward, calls = loop.gradients.processes.backward, iter(range(100))

        def spoiled(loss: Tensor, *, last: bool) -> None:
            bad = next(calls) == nan_at and loop.accelerator.process_index == 1
            backward(loss * math.nan if bad else loss, last=last)

        loop.gradients.processes.backward = spoiled  # type: ignore[method-assign]

    def one() -> dict[str, Any]:
        os.environ |= environment or {}
        return train(project, *overrides, prepare=spoil)

    return forks.ranks(2, one)


@pytest.fixture(scope="module")
def by_stage(project: Path, deepspeed: None) -> dict[str, RunDir]:
    """The same full fine-tune with everything that reads or writes weights: with whole copies ("0"), and by ZeRO."""
    for stage in ("0", "1", "2"):
        ranks = together(project, f"run.name='stage-{stage}'", *EVERYTHING, environment=STAGES.get(stage))
        assert ranks[0]["weights"] == ranks[1]["weights"]
        numbers = [rank["states"] for rank in ranks]
        assert numbers[0] == numbers[1]
        if stage == "0":
            whole = numbers[0]
        else:
            assert 0.5 <= numbers[0] / whole < 0.51, "each process holds half of the states"
    return {stage: folder(project, f"stage-{stage}") for stage in ("0", "1", "2")}


@pytest.mark.parametrize("stage", ["1", "2"])
def test_a_run_by_zero_writes_what_a_run_of_copies_writes(by_stage: dict[str, RunDir], stage: str) -> None:
    copies, split = files(by_stage["0"]), files(by_stage[stage])
    assert split.keys() == copies.keys()
    assert any(name.endswith("unet/diffusion_pytorch_model.safetensors") for name in copies), "the model's folder"
    for name, file in copies.items():
        if name.endswith(".safetensors"):
            close(split[name], file, 1e-5 if "checkpoints" in name else 1e-4)  # results are float16


@pytest.mark.parametrize("stage", ["1", "2"])
def test_a_run_by_zero_logs_and_measures_the_same(by_stage: dict[str, RunDir], stage: str) -> None:
    copies, split = ([e for e in by_stage[s].events() if e["event"] in ("step", "validation")] for s in ("0", stage))
    assert {e["event"] for e in split} == {"step", "validation"}
    for one, other in zip(split, copies, strict=True):
        assert one["event"] == other["event"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one.get("grad_norm", 0) == pytest.approx(other.get("grad_norm", 0), rel=1e-4)
        assert one["event"] != "step" or one["grad_norm"] > 0.5, "clipping has something to do"


def test_a_run_by_zero_goes_on_bit_for_bit_and_with_one_process(project: Path, by_stage: dict[str, RunDir]) -> None:
    half = ("run.name='half'", *EVERYTHING, "samples.prompts=[]", "validation.every=0")
    together(project, *half, "training.steps=2", environment=STAGES["2"])
    together(project, *half, "--resume", "training.preflight=true", environment=STAGES["2"])
    end = folder(project, "half").checkpoint(4) / "state.safetensors"
    assert end.read_bytes() == (by_stage["2"].checkpoint(4) / end.name).read_bytes(), "nor does the trial step show"

    # Each process draws noise of its own, so that one alone goes on with the same batches but not the same noise.
    alone = runs.training(
        project, "noise.oversampling=8", *half, "training.steps=6", "training.gradient_accumulation=4", resume=True
    )
    assert alone.loop.start.step == 4
    alone.run()
    assert folder(project, "half").checkpoint(6).is_dir()


def test_a_run_of_one_process_goes_on_by_zero(project: Path, deepspeed: None) -> None:
    settings = ("run.name='begun'", "training.text_encoder=true", "ema.decay=0.9")
    runs.train(project, "noise.oversampling=8", *settings, "training.steps=2", "training.gradient_accumulation=2")
    ranks = together(project, *settings, "--resume", environment=STAGES["1"])
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert (folder(project, "begun").checkpoint(4)).is_dir()


def test_adapters_learn_alike_and_a_nan_in_one_process_is_a_step_of_none(project: Path, deepspeed: None) -> None:
    settings = (
        *("training.text_encoder=true", "training.gradient_checkpointing='full'", "training.precision='bf16'"),
        *("save.dtype='fp32'", "optimizer={name='sgd',lr=1.0}", "lora.max_norm=1e-3"),
    )
    ends, losses = [], []
    for name, environment in (("lora-copies", {}), ("lora-zero", STAGES["2"])):
        told = together(project, f"run.name='{name}'", *settings, environment=environment, nan_at=2)
        assert told[0]["weights"] == told[1]["weights"]
        events = list(folder(project, name).events())
        norms = [float(e["grad_norm"]) for e in events if e["event"] == "step"]
        assert [math.isfinite(norm) for norm in norms] == [True, True, False, True]
        losses.append([e["loss"] for e in events if e["event"] == "step" and e["step"] != 3])
        assert any(e["event"] == "notice" and "step 3" in e["message"] for e in events)
        assert any(e.get("shrunk") for e in events), "what the limit does to the weights stays"
        ends.append(folder(project, name).result(None).with_suffix(".safetensors"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6), "both calculate in bfloat16"
    close(ends[1], ends[0], 1e-6)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3))


def optimizer_of(name: str, network: nn.Module) -> Optimizer:
    weights = list(network.parameters())
    return optimizers.build(name, [Group("a", "", 0.01, weights[:3]), Group("b", "", 0.02, weights[3:])], {})


def losses(predict: nn.Module, steps: range) -> Callable[[int], Tensor]:
    inputs = torch.randn(100, 4, 3, generator=torch.Generator().manual_seed(1))
    return lambda index: (predict(inputs[index]) - 1).square().mean()


def plainly(network: nn.Module, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        loss = losses(network, steps)
        ((loss(2 * step) + loss(2 * step + 1)) / 2).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()


def by_zero(accelerator: Accelerator, zero: Zero, predict: nn.Module, steps: range) -> None:
    update = zero.own_update()
    for step in steps:
        zero.backward(losses(predict, steps)(2 * step + accelerator.process_index), last=True)
        update.take()


def alike(found: Any, expected: Any) -> None:
    """Nested containers of tensors are the same, up to rounding."""
    if isinstance(expected, Mapping):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            alike(found[key], value)
    elif isinstance(expected, (list, tuple)):
        for one, other in zip(found, expected, strict=True):
            alike(one, other)
    elif isinstance(expected, Tensor):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    else:
        assert found == expected


def compare(name: str, stage: int) -> None:
    """An optimizer does the same alone and by ZeRO, saves the same, and each goes on from what the other saved."""
    accelerator = Accelerator(cpu=True)
    plain, split = network(), network()
    optimizer = optimizer_of(name, plain)
    zero = Zero(accelerator, stage=stage, max_norm=0.1)
    predict, whole = zero.wrap(split, optimizer_of(name, split))
    assert isinstance(whole, WholeStates)
    plainly(plain, optimizer, range(3))
    by_zero(accelerator, zero, predict, range(3))
    saved, expected = copy.deepcopy(whole.state_dict()), copy.deepcopy(optimizer.state_dict())
    alike(dict(split.named_parameters()), dict(plain.named_parameters()))
    if accelerator.is_main_process:
        alike(saved, expected)

    other = network()
    other.load_state_dict(plain.state_dict())
    zero = Zero(accelerator, stage=stage, max_norm=0.1)
    predict, whole = zero.wrap(other, optimizer_of(name, other))
    whole.load_state_dict(expected)
    again = whole.state_dict()
    if accelerator.is_main_process:
        alike(again, expected)
        continued = network()
        continued.load_state_dict(split.state_dict())
        optimizer_on = optimizer_of(name, continued)
        optimizer_on.load_state_dict(saved)
        plainly(continued, optimizer_on, range(3, 5))
    plainly(plain, optimizer, range(3, 5))
    by_zero(accelerator, zero, predict, range(3, 5))
    alike(dict(other.named_parameters()), dict(plain.named_parameters()))
    if accelerator.is_main_process:
        alike(dict(continued.named_parameters()), dict(plain.named_parameters()))


def test_each_optimizer_that_is_accepted_does_and_saves_what_it_does_alone(
    deepspeed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.parallel.zero.BUCKET", 10)  # below most weights

    def one() -> None:
        torch.set_num_threads(1)
        for number, name in enumerate(ELEMENTWISE):
            compare(name, stage=1 + number % 2)

    forks.ranks(2, one)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["training={fused_backward=true,method='full',max_grad_norm=0}"],
            "training.fused_backward: true works in one",
        ),
        (["training={weight_dtype='bf16',method='full',precision='bf16'}"], "training.weight_dtype: 'bf16'"),
        (["training.base_precision='8bit'"], "training.base_precision: '8bit'"),
        (["training.gradient_checkpointing='auto'"], "training.gradient_checkpointing: 'auto'"),
        (["training={max_grad_value=1.0,max_grad_norm=0}"], "training.max_grad_value"),
        (["performance.channels_last=true"], "performance.channels_last: true"),
        (["performance.compile=true"], "performance.compile: true"),
        (["optimizer.name='adafactor'"], "optimizer.name: 'adafactor'; use one of adam, adamw"),
        (["optimizer.name='adamw8bit'"], "optimizer.name: 'adamw8bit'"),
        (["optimizer.name='prodigy'"], "optimizer.name: 'prodigy'"),
    ],
)
def test_what_does_not_work_by_zero_is_refused_by_name(
    project: Path, monkeypatch: pytest.MonkeyPatch, settings: list[str], told: str
) -> None:
    config = reading.read(project, settings)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    accelerator_for(config)  # one process shares with nobody
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    with pytest.raises(UserError) as refused:
        accelerator_for(config)
    assert any(problem.startswith(told) for problem in refused.value.problems), refused.value.problems


@pytest.fixture
def asked(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], Accelerator]:
    """An accelerator of one of two processes that are asked for ZeRO."""
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda _: 2))
    monkeypatch.setattr(importlib.metadata, "version", lambda _: f"{RELEASE}.1")
    config = reading.read(project, ["training.max_grad_norm=2.0"])

    def accelerator(environment: Mapping[str, str]) -> Accelerator:
        for name, value in (ZERO | dict(environment)).items():
            monkeypatch.setenv(name, value)
        return accelerator_for(config)

    return accelerator


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("DEEPSPEED_ZERO_STAGE", "0", "zero_stage .*: 0 .*ddp.yaml"),
        ("DEEPSPEED_ZERO_STAGE", "3", "zero_stage .*: 3 .*fsdp.yaml"),
        ("DEEPSPEED_ZERO_STAGE", "4", "zero_stage .*: 4 is not known"),
        ("DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu", "offload_optimizer_device: cpu"),
        ("DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme", "offload_param_device: nvme"),
        ("DEEPSPEED_CONFIG_FILE", "mine.json", "deepspeed_config_file: mine.json"),
        ("DEEPSPEED_MOE_LAYER_CLS_NAMES", "Moe", "deepspeed_moe_layer_cls_names: Moe"),
        ("GRADIENT_ACCUMULATION_STEPS", "4", "gradient_accumulation_steps: found 4, but training"),
        ("GRADIENT_CLIPPING", "1.0", "gradient_clipping: found 1.0, but training.max_grad_norm is 2.0"),
    ],
)
def test_settings_of_accelerate_that_are_not_followed_are_refused(
    asked: Callable[[Mapping[str, str]], Accelerator], variable: str, value: str, told: str
) -> None:
    with pytest.raises(UserError, match=told):
        asked({f"ACCELERATE_{variable}": value})


def test_settings_of_accelerate_that_say_the_same_are_accepted(
    asked: Callable[[Mapping[str, str]], Accelerator],
) -> None:
    asked(
        {
            "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1",
            "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
            "ACCELERATE_GRADIENT_CLIPPING": "2.0",
        }
    )


def test_another_deepspeed_or_none_is_told(
    asked: Callable[[Mapping[str, str]], Accelerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.20.0")
    with pytest.raises(UserError, match=r"found 0\.20\.0.*pip install deepspeed"):
        asked({})

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"pip install deepspeed.*fsdp\.yaml"):
        asked({})


def test_accelerates_launcher_makes_of_the_example_what_is_accepted(
    asked: Callable[[Mapping[str, str]], Accelerator],
) -> None:
    file = str(ROOT / "configs" / "accelerate" / "zero2.yaml")
    arguments = launch_command_parser().parse_args(["--config_file", file, "--module", "trainer"])
    arguments, _, _ = _validate_launch_command(arguments)
    arguments.deepspeed_fields_from_accelerate_config = ""
    _, environment = prepare_deepspeed_cmd_env(arguments)
    assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "2"
    asked({name: value for name, value in environment.items() if name.startswith("ACCELERATE_")})
