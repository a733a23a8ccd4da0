"""A consistency step, against formulas that are written out here and functions that are consistent exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.training.test_step import ALPHAS, PAIRING, batch, chain, example, streams
from trainer import registry
from trainer.batch import Batch, NoiseSchedule
from trainer.training.consistency import ConsistencyStep, Distance, Growth, neighbours
from trainer.training.noise import NoiseChain, gaussian
from trainer.training.step import StepResult
from trainer.training.timesteps import TimestepSampler

SCHEDULES = {"velocity": NoiseSchedule.discrete(ALPHAS), "flow": NoiseSchedule(1000)}
BLIND = [name for name in PAIRING if not registry.find("noise", name).network]
INTERVALS = 4


def step(name: str, network: Callable[..., Tensor], noise: NoiseChain | None = None, **others: Any) -> ConsistencyStep:
    schedule = SCHEDULES[name]
    made = ConsistencyStep(
        network=network,
        teaching=nullcontext,
        encode_images=lambda pixels: pixels,
        objective=registry.find("objectives", name)(schedule),
        noise=noise or chain(),
        timesteps=TimestepSampler(high=1000, continuous=schedule.continuous),
        growth=Growth(INTERVALS, INTERVALS, 10),
        distance=Distance("l2"),
        by_interval=False,
    )
    return replace(made, **others)


class Linear(nn.Module):
    """A network with one weight."""

    def __init__(self, weight: float = 0.7) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.asked: list[tuple[Tensor, Tensor, bool, float]] = []  # input, time, with gradients, dropout's draw

    def forward(self, noisy: Tensor, timesteps: Tensor, *_: object) -> Tensor:
        self.asked.append((noisy.detach(), timesteps, torch.is_grad_enabled(), float(torch.rand(()))))
        return self.weight * noisy * timesteps.view(-1, 1, 1, 1) / 1000


@pytest.mark.parametrize(
    ("begin", "end", "steps", "stay", "expected"),
    [(10, 1280, 80, 10, [10, 20, 40, 80, 160, 320, 640, 1280]), (3, 20, 8, 2, [3, 6, 12, 20]), (5, 5, 9, 9, [5])],
)
def test_intervals_double_in_equal_parts_of_the_run(
    begin: int, end: int, steps: int, stay: int, expected: list[int]
) -> None:
    """By hand: floor(80 / (log2(128) + 1)) = 10 and floor(8 / (log2(6) + 1)) = 2."""
    growth = Growth(begin, end, steps)
    assert growth.stay == stay
    assert [growth.intervals(k) for k in range(0, steps, stay)] == expected
    assert growth.intervals(stay - 1) == begin and growth.intervals(10 * steps) == end


def test_drawn_times_lie_in_their_interval() -> None:
    flow = neighbours(SCHEDULES["flow"], torch.tensor([0.0, 249.9, 250.0, 999.99, 1000.0]), INTERVALS)
    assert flow.lower.tolist() == [0, 0, 250, 750, 750] and flow.upper.tolist() == [250, 250, 500, 1000, 1000]
    assert flow.is_first.tolist() == [True, True, False, False, False]
    assert flow.interval.tolist() == [0.25] * 5
    whole = neighbours(SCHEDULES["velocity"], torch.tensor([0, 249, 250, 999]), INTERVALS)
    assert whole.lower.tolist() == [0, 0, 250, 749] and whole.upper.tolist() == [250, 250, 500, 999]
    assert whole.upper.dtype == torch.long
    assert whole.interval.tolist() == pytest.approx([250 / 999, 250 / 999, 250 / 999, 250 / 999])


def test_every_interval_of_discrete_timesteps_has_a_length() -> None:
    """As many intervals as there can be."""
    found = neighbours(SCHEDULES["velocity"], torch.arange(1000), 999)
    assert bool((found.upper - found.lower == 1).all()) and set(found.upper.tolist()) == set(range(1, 1000))


@pytest.mark.parametrize("kind", ["l2", "pseudo_huber"])
def test_distances_are_those_of_the_papers(kind: Any) -> None:
    one, other = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    found = Distance(kind, 0.3)(one, other)
    numbers = one[0].numel()
    squared = (one - other).flatten(1).double().norm(dim=1) ** 2
    c = 0.3 * numbers**0.5
    whole = squared / numbers if kind == "l2" else ((squared + c**2).sqrt() - c) / numbers**0.5
    torch.testing.assert_close(found.double(), whole, rtol=1e-5, atol=1e-7)
    assert Distance(kind)(one, one).tolist() == [0, 0, 0]


def written_out(name: str, weight: Tensor, data: Batch, kind: str, *, by_interval: bool) -> Tensor:
    """The loss of `Linear`, sample by sample, with times that are counted here."""
    assert data.latents is not None
    noise = gaussian(data.latents, streams().generator("noise"))
    drawn = torch.rand(len(data), generator=streams().on_cpu("timesteps"), dtype=torch.float64) * 1000
    found = []
    for clean, n, time, own in zip(data.latents, noise, drawn.tolist(), data.weights, strict=True):
        index = int(time) * INTERVALS // 1000

        def picture(i: int, w: Tensor, clean: Tensor = clean, n: Tensor = n) -> Tensor:
            if name == "flow":
                t = i / INTERVALS
                x = (1 - t) * clean + t * n
                return x if i == 0 else x - t * (w * x * t)
            whole = round(i * 999 / INTERVALS)
            a, s = ALPHAS[whole] ** 0.5, (1 - ALPHAS[whole]) ** 0.5
            x = a * clean + s * n
            return x if i == 0 else a * x - s * (w * x * whole / 1000)

        squared = ((picture(index + 1, weight) - picture(index, weight.detach())) ** 2).mean()
        loss = squared if kind == "l2" else (squared + 0.05**2).sqrt() - 0.05
        ends = [i / INTERVALS if name == "flow" else round(i * 999 / INTERVALS) / 999 for i in (index, index + 1)]
        found.append(loss * own / ((ends[1] - ends[0]) if by_interval else 1))
    return torch.stack(found).mean()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("kind", "by_interval"), [("l2", False), ("pseudo_huber", True)])
def test_loss_and_gradient_are_the_written_out_ones(name: str, kind: Any, by_interval: bool) -> None:
    network = Linear()
    data = replace(batch(8), weights=torch.linspace(0.5, 2, 8))
    found = step(name, network, distance=Distance(kind, 0.05), by_interval=by_interval)(data, streams())
    weight = network.weight.detach().clone().requires_grad_()
    expected = written_out(name, weight, data, kind, by_interval=by_interval)
    torch.testing.assert_close(found.loss, expected, rtol=1e-5, atol=1e-7)
    found.loss.backward()
    expected.backward()
    assert network.weight.grad is not None and weight.grad is not None
    torch.testing.assert_close(network.weight.grad, weight.grad, rtol=1e-4, atol=1e-7)


def test_the_lower_time_is_asked_first_without_gradients_and_with_the_same_dropout() -> None:
    network = Linear()
    step("flow", network)(batch(), streams())
    (_, lower, learns, one), (_, upper, learns_too, other) = network.asked
    assert bool((lower < upper).all()) and (learns, learns_too) == (False, True)
    assert one == other


def test_the_one_who_teaches_gives_the_target() -> None:
    """Other weights there, and the network's own again at the upper time."""
    network = Linear()

    @contextmanager
    def teaching() -> Iterator[None]:
        with torch.no_grad():
            network.weight.mul_(0)
        yield
        with torch.no_grad():
            network.weight.fill_(0.7)

    data = batch(8)
    found = step("flow", network, teaching=teaching)(data, streams()).per_sample
    (lower_input, *_), (upper_input, upper, *_) = network.asked
    t = upper.view(-1, 1, 1, 1) / 1000
    expected = ((upper_input - t * (0.7 * upper_input * t) - lower_input) ** 2).flatten(1).mean(1)
    torch.testing.assert_close(found, expected)


def one_point(name: str, data: Tensor) -> Callable[..., Tensor]:
    """The exact answer where all pictures are one: its consistency function gives that picture everywhere."""
    objective = registry.find("objectives", name)(SCHEDULES[name])

    def predict(noisy: Tensor, timesteps: Tensor, *_: object) -> Tensor:
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in objective.signal_and_noise(timesteps))
        noise = (noisy - alpha * data) / sigma.clamp(min=1e-9)
        target: Tensor = objective.target(data.expand_as(noisy), noise, timesteps)
        return target

    return predict


def taken(name: str, network: Callable[..., Tensor], data: Batch, **others: Any) -> StepResult:
    return step(name, network, **others)(data, streams())


def test_the_consistency_function_of_one_picture_has_no_loss() -> None:
    """Exact for a flow, whose first time is the picture itself; the first of discrete times has a little noise."""
    point = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    data = batch(8, latents=point.expand(8, -1, -1, -1))
    assert float(taken("flow", one_point("flow", point), data).loss) < 1e-10
    whole = taken("velocity", one_point("velocity", point), data)
    first = whole.timesteps == 250
    assert float(whole.per_sample[~first].max()) < 1e-10 and float(whole.per_sample[first].max()) < 2e-3
    other = taken("flow", one_point("flow", point), batch(8))
    at_the_first = other.timesteps == 250  # a wrong picture that never changes is seen where the input is the answer
    assert float(other.per_sample[at_the_first].min()) > 1 and float(other.per_sample[~at_the_first].max()) < 1e-10


def noises(name: str, asked: Linear, data: Batch) -> list[Tensor]:
    """The noise in what the network was given at either time, where there is any."""
    objective = registry.find("objectives", name)(SCHEDULES[name])
    found = []
    for noisy, times, *_ in asked.asked:
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in objective.signal_and_noise(times))
        found.append((noisy - alpha * data.latents) / sigma)
    return found


@pytest.mark.parametrize("stage", ["", *BLIND])
def test_both_times_have_the_selected_noise(stage: str) -> None:
    """Bit for bit what the chain gives; noise of another sample at the lower time is seen at once."""
    data, noise = batch(8), example(stage) if stage else chain()
    network = Linear()
    made = step("flow", network, noise, growth=Growth(50, 50, 10))
    result = made(data, streams())
    assert data.latents is not None
    again = example(stage) if stage else chain()
    drawn = again.draw(data.latents, result.timesteps, streams(), captions=data.captions, images=data.images).mixed
    plain = gaussian(data.latents, streams().generator("noise"))
    assert torch.equal(drawn, plain) == (not stage)
    for found in noises("flow", network, data):
        torch.testing.assert_close(found, drawn, rtol=1e-3, atol=1e-3)

    class Planted:
        """An objective that mixes in the plain noise at the first call, which is the lower time's."""

        def __init__(self, own: Any) -> None:
            self.own, self.calls = own, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.own, name)

        def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
            self.calls += 1
            taken: Tensor = self.own.noisy(clean, plain.roll(1, 0) if self.calls == 1 else noise, timesteps)
            return taken

    wrong = Linear()
    step("flow", wrong, example(stage) if stage else chain(), growth=made.growth, objective=Planted(made.objective))(
        data, streams()
    )
    lower, upper = noises("flow", wrong, data)
    torch.testing.assert_close(upper, drawn, rtol=1e-3, atol=1e-3)
    assert float((lower - drawn).abs().mean()) > 0.5


def test_an_image_that_is_no_number_is_told() -> None:
    pixels = torch.zeros(3, 3, 8, 8)
    pixels[1, 0, 0, 0] = float("nan")
    data = replace(batch(), latents=None, pixels=pixels)
    found = step("flow", Linear())(data, streams())
    assert found.sound is not None and found.sound.tolist() == [True, False, True]
    assert step("flow", Linear())(batch(), streams()).sound is None


def test_a_mask_takes_cells_out_of_the_comparison() -> None:
    mask = torch.ones(3, 1, 8, 8)
    mask[..., 4:] = 0
    data = batch()
    whole = taken("flow", Linear(), data).per_sample
    half = taken("flow", Linear(), replace(data, mask=mask)).per_sample
    other = taken("flow", Linear(), replace(data, mask=1 - mask)).per_sample
    torch.testing.assert_close(half + other, whole)
    assert bool((half < whole).all())
