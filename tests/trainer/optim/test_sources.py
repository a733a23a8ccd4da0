"""What the libraries' sources tell of optimizers is what their classes tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trainer.optim import arguments, optimizers, sources

REAL: dict[str, Callable[[], dict[str, type[Any]]]] = {
    "torch": optimizers._torch,
    "bitsandbytes": optimizers._bitsandbytes,
    "pytorch_optimizer": optimizers._pytorch_optimizer,
}


@pytest.mark.parametrize("library", REAL)
def test_every_class_is_listed_with_its_arguments(library: str) -> None:
    listed, real = sources.listed(library), REAL[library]()
    own = {name for name, kind in real.items() if kind.__module__.startswith(library)}
    assert own and own <= listed.keys()
    told = {name: found for name in own if (found := sources.accepted(listed[name])) is not None}
    assert told == {name: arguments.accepted(real[name]) for name in told}


def test_torchs_list_is_torchs_alone() -> None:
    assert sources.listed("torch").keys() == optimizers._torch().keys()


@pytest.mark.parametrize("name", sources.OWN)
def test_our_own_are_known(name: str) -> None:
    found = sources._find(name)
    assert found is not None
    assert sources.accepted(found) == arguments.accepted(optimizers._own()[name])


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("adamw", {"weight_decay": 0.1}, ""),
        ("AdamW8bit", {"weight_decay": 0.1}, ""),
        ("ADAMW_8BIT", {}, ""),
        ("prodigy", {"decouple": True, "d_coef": 2}, ""),
        ("my.own.Class", {"anything": 1}, ""),
        ("sgd8bit", {"momentum": 0.9, "nesterov": False}, ""),
        ("sgd8bit", {"momentum": 0.9, "nesterov": True}, "optimizer.args.nesterov: SGD8bit has no such argument"),
        ("prodigy", {"decouple": False}, "optimizer.args.decouple: found False; here it is always True."),
        ("sophiah", {}, "optimizer.name: SophiaH needs second derivatives"),
        ("DAdaptation", {}, "optimizer.name: 'DAdaptation' is an algorithm that is not here"),
        ("muon", {}, ""),
        ("AdamW8bits", {}, "optimizer.name: found 'AdamW8bits', expected an optimizer of torch.optim (adadelta, "),
    ],
)
def test_problems(name: str, args: dict[str, Any], expected: str) -> None:
    found = sources.problems(name, args)
    assert [line[: len(expected)] for line in found] == ([expected] if expected else [])


def test_a_mistyped_name_is_told_with_the_nearest() -> None:
    assert sources.problems("AdamW8bits", {})[0].endswith(" Did you mean 'adamw8bit'?")
