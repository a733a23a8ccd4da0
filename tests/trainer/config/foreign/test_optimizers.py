"""Every optimizer of the other trainers exists here, with every argument that their tables name."""

import pytest
import torch

from trainer.config.foreign.onetrainer import optimizer as onetrainer
from trainer.config.foreign.sd_scripts import optimizer as sd_scripts
from trainer.config.foreign.values import Context, Values
from trainer.optim import arguments, optimizers, other_names


def _class_of(name: str) -> type[torch.optim.Optimizer]:
    return optimizers._find(other_names.known(name).ours or other_names.plain(name))


@pytest.mark.parametrize("table", [sd_scripts.OPTIMIZERS, onetrainer.OPTIMIZERS], ids=["sd-scripts", "OneTrainer"])
def test_every_argument_has_its_place_in_the_class_here(table: dict[str, object]) -> None:
    for foreign, known in table.items():
        kind = _class_of(known.ours)  # type: ignore[attr-defined]
        names = arguments.accepted(kind)
        wanted = {*known.names.values(), *(known.args if hasattr(known, "args") else known.unasked)}  # type: ignore[attr-defined]
        assert names is None or wanted <= {*names}, (foreign, kind.__name__)


@pytest.mark.parametrize(
    ("name", "argument", "found"),
    [
        ("Prodigy", {"decouple": "True"}, {}),
        ("Prodigy", {"use_bias_correction": "True"}, {"optimizer.args.bias_correction": True}),
        ("Lion", {"decoupled_weight_decay": False}, {}),
        ("DAdaptAdam", {"decouple": "True"}, {"optimizer.args.weight_decouple": True}),
        ("AdamW", {"betas": "0.9,0.99"}, {"optimizer.args.betas": [0.9, 0.99]}),
    ],
)
def test_an_argument_has_the_name_of_the_class_here(
    name: str, argument: dict[str, object], found: dict[str, object]
) -> None:
    ((key, value),) = argument.items()
    values = Values({}, {"optimizer_type": name, f"optimizer_args.{key}": value}, Context())
    assert dict(sd_scripts.argument(values, f"optimizer_args.{key}").sets) == found


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("Prodigy", "decouple", "False"), ("Prodigy", "slice_p", "11"), ("Lion", "decoupled_weight_decay", "True")],
)
def test_what_the_class_here_cannot_do_is_missing(name: str, key: str, value: str) -> None:
    values = Values({}, {"optimizer_type": name, f"optimizer_args.{key}": value}, Context())
    assert sd_scripts.argument(values, f"optimizer_args.{key}").kind == "missing"
