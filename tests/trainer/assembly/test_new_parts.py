"""model.init: which parts start anew, and that none of them stays random without a word."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.reliability import small
from tests.tiny import tiny_sd, tiny_sdxl
from trainer import registry
from trainer.assembly.model import open_family
from trainer.config import reading
from trainer.errors import UserError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


@pytest.mark.parametrize(("name", "make"), [("sd", tiny_sd), ("sdxl", tiny_sdxl)])
def test_a_new_unet_stands_under_the_pretrained_text_encoders(tmp_path: Path, name: str, make: object) -> None:
    base = str(make(tmp_path / "base"))  # type: ignore[operator]
    kind = registry.find("models", name)
    old, new = kind.load(base), kind.load(base, init=["unet"])
    for part, module in old.parts.items():
        alike = [torch.equal(a, b) for a, b in zip(module.parameters(), new.parts[part].parameters(), strict=True)]
        assert all(alike) is (part != "unet")


@pytest.mark.parametrize("init", ["'unet'", "['unet']"])
def test_the_papers_recipe(project: Path, init: str) -> None:
    config = reading.read(project, ("training.method='full'", f"model.init={init}"))
    assert open_family(config).parts.keys() == {"unet", "text_encoder"}


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("model.init='random'", "training.method='full'"), "model.init: 'text_encoder' would start from random"),
        (("model.init='unet'",), "model.init: 'unet' would start from random"),  # a LoRA over noise
        (("model.init='unet'", "training={method='full',unet=false,text_encoder=true}"), "'unet' would start from"),
        (
            ("model.init='random'", "training={method='full',text_encoder=true}", "optimizer.text_encoder_lr=0.0"),
            "'text_encoder' would start from random",
        ),
        (("model.init=['unte']", "training.method='full'"), "there is no part 'unte'"),
    ],
)
def test_a_new_part_that_does_not_train_is_an_error(project: Path, overrides: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        open_family(reading.read(project, overrides))


def test_all_parts_may_be_new_where_all_train(project: Path) -> None:
    open_family(reading.read(project, ("model.init='random'", "training={method='full',text_encoder=true}")))
