"""How gradients become changes of the weights: clipping, windows of the run; which settings exclude each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.reliability import small
from tests.trainer.config.test_reading import GOOD, parse, problems
from trainer.config.checks import notes


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


def test_clipping_by_value(project: Path) -> None:
    """SGD's change is the rate times the gradient, so no number changes by more than the rate times the limit."""
    settings = ("optimizer={name='sgd',lr=1.0}", "training.steps=1", "training.max_grad_norm=0")
    largest = {}
    for name, limit in (("free", 0.0), ("clipped", 1e-4)):
        found = small.training(project, *settings, f"training.max_grad_value={limit}", f"run.name='{name}'")
        weights = [p for p in found.loop.network.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in weights]
        found.run()
        largest[name] = max(float((p - q).detach().abs().max()) for p, q in zip(weights, before, strict=True))
        norms = [e["grad_norm"] for e in small.run_dir(project, name).events() if e["event"] == "step"]
        assert norms[0] > 1e-4  # told as it was before clipping
    assert largest["free"] > 2e-4
    assert largest["clipped"] == pytest.approx(1e-4, rel=1e-3)


def test_a_block_outside_its_window_stays_bit_for_bit(project: Path) -> None:
    found = small.training(project, "optimizer={lr=1e-2,windows={'unet.mid_block'=[2,4]}}", "training.steps=6")
    weights = {n: p for n, p in found.loop.network.named_parameters() if p.requires_grad}
    inside = {n for n in weights if ".mid_block." in n}
    assert len(inside) > 0
    changed = []
    with found.folder.opened():
        for step in range(6):
            before = {n: p.detach().clone() for n, p in weights.items()}
            found.loop.take_step(step)
            changed.append(any(not torch.equal(weights[n], before[n]) for n in inside))
    assert changed == [False, False, True, True, False, False]


def test_a_save_before_anything_was_learned_does_not_end_the_run(project: Path) -> None:
    found = small.training(project, "optimizer.windows={unet=[3,0]}", "save={every=2,keep=9}", "training.steps=5")
    assert found.run() == "done"
    events = list(small.run_dir(project).events())
    assert [e["file"] for e in events if e["event"] == "save"] == ["run-step000004.safetensors", "run.safetensors"]
    assert [e["step"] for e in events if "nothing was learned" in e.get("message", "")] == [2]
    assert small.run_dir(project).checkpoint(2).is_dir()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_text_encoder_at_rate_zero_is_frozen(project: Path, method: str) -> None:
    """As in sd-scripts: the same run as with a text encoder that does not train, and a note says so."""
    zero = ("training.text_encoder=true", "optimizer={lr=1e-3,text_encoder_lr=0.0}")
    assert any("text_encoder_lr = 0" in line for line in notes(parse(GOOD, *zero)))
    found = {}
    for name, settings in (("zero", zero), ("off", ("optimizer.lr=1e-3",))):
        ready = small.training(project, f"training.method='{method}'", f"run.name='{name}'", *settings)
        ready.run()
        found[name] = {n: p.detach() for n, p in ready.loop.network.named_parameters() if p.requires_grad}
    assert not any("text_encoder" in name for name in found["zero"])
    assert found["zero"].keys() == found["off"].keys()
    assert all(torch.equal(found["zero"][name], found["off"][name]) for name in found["off"])


def test_a_text_encoder_without_a_rate_of_its_own_trains_at_the_same_rate(project: Path) -> None:
    found = small.training(project, "training.text_encoder=true", "optimizer.lr=3e-4")
    assert {g["name"]: g["initial_lr"] for g in found.loop.gradients.optimizer.param_groups} == {
        "unet": 3e-4,
        "text_encoder": 3e-4,
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training={text_encoder=true,unet=false}\noptimizer.text_encoder_lr=0", "nothing would train"),
        ("training.text_encoder_until=0", "training.text_encoder_until: found 0, expected more than 0"),
        ("training.max_grad_value=0.5", "training.max_grad_value: 0.5 takes the place of clipping by norm"),
        ("training.weight_dtype='bf16'", "training.weight_dtype: 'bf16' is for training.method = 'full'"),
        (
            "training={weight_dtype='bf16',method='full'}",
            "training.weight_dtype: 'bf16' needs training.precision = 'bf16', found 'fp32'.",
        ),
        ("training.fused_backward=true", "training.fused_backward: true is for training.method = 'full'"),
        (
            "training={fused_backward=true,method='full'}",
            "training.fused_backward: true never has all gradients at once, so their norm cannot be limited",
        ),
        (
            "training={fused_backward=true,method='full',max_grad_norm=0,gradient_accumulation=2}",
            "training.fused_backward: true frees gradients at once, so nothing can be accumulated",
        ),
        (
            "training={fused_backward=true,method='full',max_grad_norm=0,precision='fp16'}",
            "training.fused_backward: true needs training.precision = 'bf16' or 'fp32', found 'fp16'.",
        ),
        ("lora={max_norm=1.0,method='loha'}", "lora.max_norm: works with lora.method = 'lora' only"),
        (
            "optimizer.windows={unet=[500,100]}",
            "optimizer.windows.'unet': found [500.0, 100.0], expected [from, until]",
        ),
        ("optimizer.windows={unet=[5]}", "optimizer.windows"),
    ],
)
def test_settings_that_exclude_each_other_are_named(override: str, expected: str) -> None:
    assert expected in problems(GOOD, *override.split("\n"))


def test_windows_are_read_back() -> None:
    assert parse(GOOD, "optimizer.windows={unet=[0.5,0]}").optimizer.windows == {"unet": (0.5, 0)}
