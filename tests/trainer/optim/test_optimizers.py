"""Every kind of optimizer trains a toy task, is saved and restored, and wrong names and arguments are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

from trainer.errors import UserError
from trainer.optim import optimizers, other_names, schedules
from trainer.optim.parameters import Group
from trainer.optim.schedules import Shape
from trainer.run import checkpoint

NAMES = {
    "torch.optim.Adam": 1e-2, "SGDNesterov": 1e-2, "SGDNesterov8bit": 1e-2,
    **dict.fromkeys((
        "adamw", "adam", "sgd", "rmsprop", "adagrad", "adadelta", "adamax", "nadam", "radam", "asgd", "rprop",
        "adafactor", "adam8bit", "adamw8bit", "adamw32bit", "adagrad8bit", "rmsprop8bit", "lamb8bit",
        "pagedadam8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit", "ademamix", "ademamix8bit",
        "pagedademamix8bit", "adopt", "stableadamw", "adamwschedulefree", "radamschedulefree", "sgdschedulefree",
        "soap", "lamb", "adabelief", "adan", "madgrad", "mars", "tiger", "yogi", "adamp",
        "shampoo", "muon", "adamuon", "normuon",
    ), 1e-2),
    **dict.fromkeys(("lion", "lion8bit", "pagedlion8bit", "came"), 1e-3),
    "prodigy": 1.0, "dadaptadan": 0.3,
}  # fmt: skip
ARGS: dict[str, dict[str, object]] = {}


def task() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 256), nn.Tanh(), nn.Linear(256, 16))  # 4,096 weights: 8-bit states are used
    x = torch.randn(64, 16)
    return model, x, x.roll(1, 1)


def steps(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor, count: int
) -> list[float]:
    losses = []
    for _ in range(count):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def make(name: str, model: nn.Module) -> torch.optim.Optimizer:
    group = Group("unet", "unet", NAMES[name], list(model.parameters()))
    return optimizers.build(name, optimizers.split(name, [group]), ARGS.get(name, {}))


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_and_continues_bit_for_bit_after_a_checkpoint(name: str, tmp_path: Path) -> None:
    model, x, y = task()
    optimizer = make(name, model)
    if hasattr(optimizer, "train"):
        optimizer.train()
    losses = steps(model, optimizer, x, y, 30)
    assert losses[-1] < losses[0] * 0.98
    state = checkpoint.State(30, dict(model.named_parameters()), optimizer.state_dict(), {}, {}, {})
    checkpoint.save(tmp_path / "step-000030", state)
    went_on = steps(model, optimizer, x, y, 5)
    again, x, y = task()
    other = make(name, again)
    if hasattr(other, "train"):
        other.train()
    loaded = checkpoint.load(tmp_path / "step-000030")
    checkpoint.restore_weights(dict(again.named_parameters()), loaded.weights)
    other.load_state_dict(dict(loaded.optimizer))
    assert steps(again, other, x, y, 5) == went_on


def test_unknown_names_and_arguments_are_named() -> None:
    group = [Group("unet", "unet", 1e-3, [nn.Parameter(torch.zeros(2))])]
    for name, args, expected in (
        ("adamv", {}, r"optimizer\.name: found 'adamv'"),
        ("nowhere.Adam", {}, "cannot import 'nowhere'"),
        ("torch.optim.Adamm", {}, "has no class 'Adamm'"),
        ("adamw", {"weigth_decay": 0.1}, r"optimizer\.args\.weigth_decay: AdamW has no such argument"),
        ("lbfgs", {}, r"optimizer\.name: LBFGS asks for several passes"),
        ("AdaHessian", {}, r"optimizer\.name: AdaHessian needs second derivatives"),
        ("SophiaH", {}, "needs second derivatives"),
        ("torch.optim.SparseAdam", {}, "needs sparse gradients"),
        ("sgd8bit", {}, r"optimizer\.args: SGD8bit refused .*momentum"),
        ("sgd8bit", {"momentum": 0.9, "nesterov": True}, r"optimizer\.args\.nesterov: SGD8bit has no such argument"),
        ("prodigy", {"d_ceof": 2.0}, r"optimizer\.args\.d_ceof: Prodigy has no .*Did you mean 'd_coef'"),
        ("prodigy", {"decouple": False}, r"optimizer\.args\.decouple: found False; here it is always True"),
        ("prodigy", {"slice_p": 11}, r"optimizer\.args\.slice_p: found 11"),
        ("dadaptadam", {"decouple": True, "weight_decouple": True}, "the same as weight_decouple"),
        ("muon", {"betas": (0.5, 0.6)}, r"optimizer\.args\.betas"),
        ("DAdaptation", {}, "dadaptadam is the published one"),
        ("PRODIGY_PLUS_SCHEDULE_FREE", {}, "not here"),
        ("adamw", {"betas": 3}, r"optimizer\.args\.betas: found 3, expected 2 numbers"),
        ("adamw", {"betas": [0.9, 2.0]}, r"optimizer\.args: AdamW refused"),
    ):
        with pytest.raises(UserError, match=expected):
            optimizers.build(name, optimizers.split(name, group), args)


PLACES = (optimizers._own, optimizers._torch, optimizers._bitsandbytes, optimizers._pytorch_optimizer)
OFFERED = sorted({*other_names.KNOWN, *(name for place in PLACES for name in place())})


@pytest.mark.parametrize("name", OFFERED)
def test_no_optimizer_swallows_a_nonsense_argument(name: str) -> None:
    """Also where a class takes any argument: what nothing reads is named, or the name itself is refused."""
    groups = optimizers.split(name, [Group("unet", "unet", 1e-3, [nn.Parameter(torch.ones(4, 4))])])
    with pytest.raises(UserError, match=r"optimizer\.args\.nonsense|optimizer\.name|optimizer\.args: \w+ refused"):
        optimizers.build(name, groups, {"nonsense": 1})


def test_arguments_that_a_class_reads_without_naming_them_reach_it() -> None:
    group = [Group("unet", "unet", 1e-3, [nn.Parameter(torch.ones(4, 4))])]
    assert optimizers.build("pytorch_optimizer.Lion", group, {"use_gc": True}).param_groups[0]["use_gc"] is True
    assert optimizers.build("schedulefreeadamw", group, {"use_palm": True}).param_groups[0]["use_palm"] is True


def test_names_of_arguments_in_other_programs() -> None:
    group = [Group("unet", "unet", 1.0, [nn.Parameter(torch.ones(4, 4))])]
    prodigy = {"use_bias_correction": True, "decouple": True, "d_coef": 2.0, "fsdp_in_use": False, "slice_p": 1}
    found = optimizers.build("Prodigy", group, prodigy).param_groups[0]
    assert (found["bias_correction"], found["weight_decouple"], found["d_coef"]) == (True, True, 2.0)
    assert optimizers.build("DAdaptAdam", group, {"decouple": True}).param_groups[0]["weight_decouple"] is True
    assert optimizers.build("DAdaptLion", group, {}).param_groups[0]["betas"] == (0.9, 0.99)
    assert optimizers.build("DAdaptSGD", group, {"log_every": 5}).param_groups[0]["momentum"] == 0


def lora_up(name: str, rate: float, args: dict[str, object], count: int) -> float:
    """The RMS of a LoRA's second factor, which begins at zero, after so many steps on noisy batches."""
    torch.manual_seed(0)
    down, up = nn.Parameter(torch.empty(4, 64)), nn.Parameter(torch.zeros(640, 4))
    nn.init.kaiming_uniform_(down, a=5**0.5)
    groups = optimizers.split(name, [Group("unet", "unet", rate, [down, up])])
    optimizer = optimizers.build(name, groups, args)
    getattr(optimizer, "train", lambda: None)()
    true = torch.randn(64, 640) * 0.1
    for _ in range(count):
        x = torch.randn(4, 64)
        nn.functional.mse_loss(x @ down.T @ up.T, x @ true + torch.randn(4, 640)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(up.detach().square().mean().sqrt())


USUAL = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
# By sd-scripts' and OneTrainer's names, at the rates that people use.
CUSTOMARY: dict[str, tuple[float, dict[str, object]]] = {
    **dict.fromkeys((
        "AdamW", "AdamW8bit", "PagedAdamW", "PagedAdamW8bit", "PagedAdamW32bit", "Lion", "Lion8bit", "PagedLion8bit",
        "AdEMAMix8bit", "PagedAdEMAMix8bit", "ADAM", "ADAM_8BIT", "ADAMW", "ADAMW_8BIT", "AdEMAMix", "AdEMAMix_8BIT",
        "ADOPT", "LAMB", "LAMB_8BIT", "LION", "LION_8BIT", "RMSPROP", "RMSPROP_8BIT", "MUON", "ADABELIEF", "TIGER",
        "AIDA",
    ), (1e-4, {})),
    **dict.fromkeys(("AdaFactor", "ADAFACTOR"), (1e-4, {})), "Adafactor": (1e-4, USUAL), "CAME": (5e-5, {}),
    **dict.fromkeys(("ADAGRAD", "ADAGRAD_8BIT", "YOGI"), (3e-3, {})),
    **dict.fromkeys(("SGDNesterov", "SGDNesterov8bit", "SGD"), (0.1, {})),
    **dict.fromkeys(("SGD_8BIT", "LARS", "LARS_8BIT"), (0.1, {"momentum": 0.9})),
    **dict.fromkeys(("AdamWScheduleFree", "RAdamScheduleFree", "SCHEDULE_FREE_ADAMW"), (2.5e-3, {})),
    **dict.fromkeys(("SGDScheduleFree", "SCHEDULE_FREE_SGD"), (1.0, {})),
}  # fmt: skip


@pytest.mark.parametrize("name", CUSTOMARY)
def test_a_lora_that_begins_at_zero_moves_as_with_adamw(name: str) -> None:
    moved, adamw = lora_up(name, *CUSTOMARY[name], 20), lora_up("adamw", 1e-4, {}, 20)
    assert adamw / 30 < moved < adamw * 30


@pytest.mark.parametrize(
    "name", ["Prodigy", "PRODIGY", "DAdaptAdam", "DADAPT_ADAM", "DAdaptAdan", "DADAPT_ADAN", "DAdaptLion"]
)
def test_a_step_size_that_is_found_grows_until_a_lora_moves(name: str) -> None:
    assert lora_up(name, 1.0, {}, 300) > lora_up("adamw", 1e-4, {}, 20) / 30


def one_step(name: str, args: dict[str, object], count: int = 3) -> torch.Tensor:
    """A weight after some steps of given gradients."""
    stream = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(6, 4, generator=stream))
    optimizer = optimizers.build(name, [Group("unet", "unet", 1e-2, [weight])], args)
    for _ in range(count):
        weight.grad = torch.randn(6, 4, generator=stream)
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize(
    ("args", "theirs"),
    [
        ({}, {}),
        (USUAL, {**USUAL, "lr": 1e-2}),
        ({"relative_step": False, "warmup_init": True}, {"warmup_init": True}),  # as sd-scripts puts it right
        ({"scale_parameter": False, "beta1": 0.9, "weight_decay": 0.1}, {"scale_parameter": False, "beta1": 0.9,
                                                                        "weight_decay": 0.1}),
    ],
)  # fmt: skip
def test_adafactor_is_the_class_of_sd_scripts(args: dict[str, object], theirs: dict[str, object]) -> None:
    stream = torch.Generator().manual_seed(1)
    weight = nn.Parameter(torch.randn(6, 4, generator=stream))
    original = transformers.optimization.Adafactor([weight], **theirs)
    for _ in range(3):
        weight.grad = torch.randn(6, 4, generator=stream)
        original.step()
    assert torch.allclose(one_step("AdaFactor", args), weight.detach(), rtol=1e-6, atol=1e-8)


def test_schedules_multiply_adafactors_own_rate() -> None:
    """A group outside its window has the rate 0, whatever rate it would find."""
    weight = nn.Parameter(torch.ones(6, 4))
    optimizer = optimizers.build("adafactor", [Group("unet", "unet", 1e-2, [weight])], {})
    schedule = schedules.build(optimizer, Shape(), total=4, during=[range(1, 4)])
    for moves in (False, True):
        before = weight.detach().clone()
        weight.grad = torch.ones(6, 4)
        optimizer.step()
        schedule.step()
        assert torch.equal(weight, before) is not moves


def test_muon_gets_matrices_and_the_rest_apart() -> None:
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((4, 4), (4,), (4, 2, 3, 3))]
    halves = optimizers.split("Muon", [Group("unet", "unet", 1e-3, weights)])
    assert [(g.name, len(g.parameters), g.options) for g in halves] == [
        ("unet", 2, {"use_muon": True}),
        ("unet vectors", 1, {"use_muon": False}),
    ]
    assert optimizers.split("adamw", halves) == halves


def built(name: str, args: dict[str, object]) -> dict[str, object]:
    return dict(
        optimizers.build(name, [Group("unet", "unet", 1e-3, [nn.Parameter(torch.zeros(2, 2))])], args).param_groups[0]
    )


@pytest.mark.parametrize(
    ("name", "args", "wanted"),
    [
        ("adamw", {"betas": "0.9,0.99", "weight_decay": "1e-2"}, {"betas": (0.9, 0.99), "weight_decay": 0.01}),
        ("adamw", {"betas": "(0.9, 0.99)", "amsgrad": "True"}, {"betas": (0.9, 0.99), "amsgrad": True}),
        ("prodigy", {"safeguard_warmup": "False", "d_coef": "2"}, {"safeguard_warmup": False, "d_coef": 2}),
        ("adafactor", {"relative_step": "false", "eps": "1e-30,1e-3"}, {"relative_step": False, "eps": (1e-30, 1e-3)}),
    ],
)
def test_arguments_in_quotes_mean_what_they_say(name: str, args: dict[str, object], wanted: dict[str, object]) -> None:
    found = built(name, args)
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"betas": [0.9]}, r"betas: found \[0\.9\], expected 2 numbers such as \[0\.9, 0\.999\]"),
        ({"amsgrad": "maybe"}, "amsgrad: found 'maybe', expected true or false"),
        ({"eps": "small"}, "eps: found 'small', expected a number"),
    ],
)
def test_values_of_another_form_are_named_before_the_first_step(args: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        built("adamw", args)
