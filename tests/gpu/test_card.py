"""What only a card shows: its arithmetic, its memory, its asynchrony, a run that moves to it and away from it.

What the simulated card shows as well is tested on both, so that each test's own arithmetic was seen to work.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.cards import NEEDS_CUDA, AnyCard, Real, clear_workspaces
from tests.reliability import small
from tests.tiny import tiny_unet
from trainer.adapters.quantise import Bits, quantise
from trainer.device.checkpointing import LEVELS, Level, set_level
from trainer.device.determinism import set_deterministic
from trainer.device.late import Late
from trainer.device.live_memory import HIGHER, LOWER
from trainer.errors import RunError
from trainer.optim import finite_update, optimizers
from trainer.optim.parameters import Group

CUDA = torch.device("cuda")


def step_of(unet: nn.Module, level: Level) -> list[Tensor]:
    """Gradients of one step at that level."""
    set_level([unet], level)
    stream = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 32, 32, generator=stream).to(CUDA)
    text = torch.randn(2, 16, 64, generator=stream).to(CUDA)
    unet.zero_grad()
    unet(noisy, torch.tensor([3, 700], device=CUDA), text).sample.square().mean().backward()
    return [p.grad.clone() for p in unet.parameters() if p.grad is not None]


def test_each_level_of_recomputation_needs_less_memory_and_gives_the_same_gradients(any_card: AnyCard) -> None:
    torch.manual_seed(0)
    unet = tiny_unet().to(CUDA)
    unet.train()
    step_of(unet, "off")  # libraries take their workspaces once
    gradients, peaks = {}, []
    for level in LEVELS:
        with any_card.peak() as most:
            gradients[level] = step_of(unet, level)
        peaks += most
    assert peaks[0] > 1.1 * peaks[1] > 1.21 * peaks[2]
    for level in LEVELS[1:]:
        assert len(gradients[level]) == len(gradients["off"]) > 50
        for found, expected in zip(gradients[level], gradients["off"], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("bits", "near", "size"), [(8, 0.03, 0.55), (4, 0.15, 0.3)])
def test_small_weights_are_small_and_near_in_both_directions(
    any_card: AnyCard, bits: Bits, near: float, size: float
) -> None:
    width = 1024 if isinstance(any_card, Real) else 256
    torch.manual_seed(0)
    layer = nn.Linear(width, width, bias=False).requires_grad_(False)
    root = nn.Sequential(layer).train()
    weight = layer.weight.detach().clone()
    given = torch.randn(64, width)
    expected, back = given @ weight.T, torch.ones(64, width) @ weight
    before = any_card.allocated()
    assert quantise(root, bits, CUDA, torch.bfloat16) == 1
    assert any_card.allocated() - before <= size * 2 * weight.numel()
    there = given.to(CUDA, torch.bfloat16).requires_grad_()
    found = root(there)
    found.sum().backward()
    assert there.grad is not None
    for ours, exact in ((found, expected), (there.grad, back)):
        assert float((ours.detach().float().cpu() - exact).norm() / exact.norm()) < near


def test_the_fused_optimizer_skips_a_step_that_is_not_finite(any_card: AnyCard) -> None:
    weight = nn.Parameter(torch.ones(300, 7))
    optimizer = optimizers.build("adamw", [Group("unet", "unet", 1e-2, [weight])], {})
    weight.data = weight.data.to(CUDA)
    update = finite_update.choose(optimizer, scaled=False, small=True, device=CUDA)
    states = []
    for bad in (False, True, False):
        weight.grad = torch.ones_like(weight)
        if bad:
            weight.grad[3, 2] = torch.nan
        with any_card.waits() as waits:
            update.apply(weight.grad.isfinite().all())
        assert waits == []
        update.settle(not bad)
        states.append(weight.detach().clone())
    assert torch.equal(states[0], states[1])
    assert bool(states[2].isfinite().all()) and not torch.equal(states[1], states[2])


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("name", [*LOWER, *HIGHER])
def test_autocast_casts_as_the_estimate_of_memory_says(name: str) -> None:
    x = torch.randn(1, 8, 16, 16, device=CUDA)
    more = {
        "linear": lambda t: (torch.randn(4, 16, device=CUDA),),
        "conv2d": lambda t: (torch.randn(4, 8, 3, 3, device=CUDA),),
        "scaled_dot_product_attention": lambda t: (t, t),
        "group_norm": lambda t: (4,),
        "layer_norm": lambda t: ((16,),),
        "softmax": lambda t: (-1,),
    }
    given = x if name in LOWER else x.bfloat16()
    with torch.autocast("cuda", torch.bfloat16):
        found = getattr(functional, name)(given, *more[name](given))
    assert found.dtype == (torch.bfloat16 if name in LOWER else torch.float32)


def queue(seconds: float = 0.2) -> torch.cuda.Event:
    """Work for the card, and an event behind it."""
    turn = torch.randn(4096, 4096, device=CUDA) / 64
    work = turn
    for _ in range(max(8, int(seconds * 300))):  # 0.14 TFLOP each: 2 ms and more on any card
        work = work @ turn
    end = torch.cuda.Event()
    end.record()
    return end


@pytest.mark.gpu
@NEEDS_CUDA
def test_late_numbers_are_right_and_wait_for_nothing_later() -> None:
    Late(torch.ones(3, device=CUDA)).read()
    queue().synchronize()
    queue()  # they stand behind work, too
    late = Late(torch.arange(3.0, device=CUDA) * 2)
    end = queue(1.0)
    assert late.read()[0] == [0, 2, 4]
    assert not end.query()


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_and_convolution_repeat_their_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    heads = torch.randn(2, 8, 1024, 64, device=CUDA, dtype=dtype)
    picture, kernel = torch.randn(2, 320, 32, 32, device=CUDA, dtype=dtype), torch.randn(320, 320, 3, 3, device=CUDA)
    ends = []
    try:
        set_deterministic(True)
        for _ in range(3):
            a, b, k = (t.detach().clone().requires_grad_() for t in (heads, picture, kernel.to(dtype)))
            functional.scaled_dot_product_attention(a, a, a).float().square().sum().backward()
            functional.conv2d(b, k, padding=1).float().square().sum().backward()
            ends.append([t.grad.clone() for t in (a, b, k) if t.grad is not None])
    finally:
        set_deterministic(False)
    assert all(torch.equal(x, y) for end in ends[1:] for x, y in zip(ends[0], end, strict=True))


@pytest.fixture
def full() -> Iterator[None]:
    """A card that gives nothing more than it has given."""
    clear_workspaces()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.0)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@NEEDS_CUDA
def test_memory_that_really_runs_out_is_told_and_writes_nothing(tmp_path: Path, full: None) -> None:
    file = small.make(tmp_path / "a project")
    with pytest.raises(RunError, match=r"the memory of .* ran out .*What saves most"):
        small.training(file, "run.device='cuda'", "training.preflight=true")
    assert not (file.parent / "output").exists()
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert small.training(file, "run.device='cuda'", "training.preflight=true").run() == "done"


@pytest.mark.parametrize("order", [("cuda", "cpu"), ("cpu", "cuda")])
@pytest.mark.parametrize("overrides", [(), ("training.method='full'", "ema.decay=0.9")])
def test_a_run_moves_with_all_its_numbers(
    any_card: AnyCard, tmp_path: Path, order: tuple[str, str], overrides: tuple[str, ...]
) -> None:
    """A card draws other noise, so that later losses are others; what was learnt before is the same to the bit."""
    file = small.make(tmp_path / "a project")
    found = small.training(file, f"run.device='{order[0]}'", *overrides)
    small.stop_after(found, 2)
    assert found.run() == "stopped"
    before = _numbers(found)
    resumed = small.training(file, f"run.device='{order[1]}'", *overrides, resume=True)
    assert {p.device.type for p in resumed.loop.network.parameters() if p.requires_grad} == {order[1]}
    after = _numbers(resumed)
    assert len(before) == len(after) > 20
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert resumed.run() == "done"
    assert all(0 < loss < 10 for loss in small.losses(file).values())
    assert max(small.losses(file)) == 6


def _numbers(found) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """Weights and the optimizer's states."""
    weights = [p for p in found.loop.network.parameters() if p.requires_grad]
    states = found.loop.end.optimizer.state_dict()["state"]
    return [t.detach().cpu().clone() for t in [*weights, *(v for s in states.values() for v in s.values())]]
