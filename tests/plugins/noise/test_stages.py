"""What all noise stages share: the order of phases, any shape and precision, use without the trainer."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from torch import Tensor

from plugins.noise.assignment import assign_candidates
from tests.cards import AnyCard
from tests.plugins.noise.laws import seeded
from tests.simulated_device import simulated_card
from trainer import registry
from trainer.batch import NoiseContext, NoiseDraw
from trainer.protocols import PHASES
from trainer.training.noise import NoiseChain, Streams

ON: dict[str, dict[str, object]] = {name: registry.find("noise", name).example for name in registry.names("noise")}
PAIRING = [name for name in ON if registry.find("noise", name).phase == "pair"]
UNLIKE = [name for name in PAIRING if registry.find("noise", name).network or registry.find("noise", name).repeats]
OTHERS = [name for name in ON if name not in PAIRING]
STREAMS = Streams(seed=1, step=2, micro_batch=0, rank=0, device=torch.device("cpu"))


def chain(*names: str) -> NoiseChain:
    plugins = {name: registry.find("noise", name) for name in names}
    return NoiseChain({name: p(p.Settings.model_validate(ON[name])) for name, p in plugins.items()})


def loss(noise: Tensor) -> Tensor:
    """Stands for a network's: some number of each sample's noise."""
    return noise.flatten(1)[:, 0].float()


def drawn(clean: Tensor, *names: str) -> NoiseDraw:
    images = [f"image {index}" for index in range(len(clean))]
    captions = ["a cat", "a dog", "a cat"] * len(clean)
    at = torch.full((len(clean),), 500)
    return chain(*names).draw(clean, at, STREAMS, captions=captions[: len(clean)], images=images, losses=loss)


def latents(*shape: int) -> Tensor:
    return torch.randn(shape, generator=seeded(1))


@pytest.mark.parametrize("name", ON)
def test_a_stage_that_is_off_by_default_is_on_with_these_settings(name: str) -> None:
    plugin = registry.find("noise", name)
    assert plugin.active(plugin.Settings.model_validate(ON[name]))
    assert not plugin.active(plugin.Settings.model_validate({plugin.headline: 0}))
    assert plugin.phase in PHASES
    assert plugin.headline in plugin.Settings.model_fields


@pytest.mark.parametrize("name", ON)
def test_settings_tell_what_a_form_needs(name: str) -> None:
    for key, field in registry.find("noise", name).Settings.model_fields.items():
        assert field.description, key
        assert isinstance(field.json_schema_extra, dict)
        assert set(field.json_schema_extra) == {"basic", "unit"}


@pytest.mark.parametrize("pairing", PAIRING)
def test_the_order_in_the_file_does_not_matter(pairing: str) -> None:
    clean = latents(4, 4, 8, 8)
    first = drawn(clean, pairing, *OTHERS)
    for order in permutations([pairing, *OTHERS]):
        draw = drawn(clean, *order)
        assert torch.equal(draw.target, first.target)
        assert torch.equal(draw.mixed, first.mixed)


@pytest.mark.parametrize("name", OTHERS)
def test_each_stage_adds_to_the_pairing_and_leaves_its_choice_as_it_is(name: str) -> None:
    """Shaping comes after pairing, so the pairing of a run does not depend on what else is on."""
    clean = latents(4, 4, 8, 8)
    alone, both = drawn(clean, "oversampling"), drawn(clean, "oversampling", name)
    stage = chain(name).stages[name]
    again = stage(alone, NoiseContext(clean, torch.full((4,), 500), STREAMS.generator(f"noise.{name}")))
    assert torch.equal(both.target, again.target)
    assert torch.equal(both.mixed, again.mixed)


@pytest.mark.parametrize("names", [*((name,) for name in ON), ("oversampling", *OTHERS), ("assignment", *OTHERS)])
@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 4, 8, 8), (2, 4, 3, 8, 8), (1, 16, 3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_any_shape_and_precision_of_latents(names: tuple[str, ...], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    draw = drawn(latents(*shape).to(dtype), *names)
    for noise in (draw.target, draw.mixed):
        assert (noise.shape, noise.dtype) == (shape, torch.float32)
        assert bool(noise.isfinite().all())
    assert (draw.target is draw.mixed) == ("perturbation" not in names)


@pytest.mark.parametrize("name", ON)
def test_autocast_changes_nothing(name: str) -> None:
    """Other trainers call the stages inside it; rounded inner products would break the laws."""
    clean = latents(4, 4, 8, 8)
    alone = drawn(clean, name)
    with torch.autocast("cpu", torch.bfloat16):
        inside = drawn(clean, name)
    assert torch.equal(inside.mixed, alone.mixed)
    assert torch.equal(inside.target, alone.target)


def test_autocast_does_not_round_joint_candidates() -> None:
    clean = latents(4, 4, 8, 8)
    alone = assign_candidates(clean, 4, generator=seeded(1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(assign_candidates(clean, 4, generator=seeded(1)), alone)


@pytest.mark.parametrize("name", ON)
def test_a_stage_draws_from_its_own_stream_only(name: str) -> None:
    clean = latents(4, 4, 8, 8)
    state = torch.random.get_rng_state()
    first = drawn(clean, name)
    torch.randn(7)
    assert torch.equal(first.mixed, drawn(clean, name).mixed)
    torch.random.set_rng_state(state)
    drawn(clean, name)
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_selected_noise_is_both_mixed_in_and_the_target() -> None:
    clean = latents(64, 4, 4, 4)
    plain = drawn(clean).target
    along = clean.flatten(1) / clean.flatten(1).norm(dim=1, keepdim=True)
    for name in PAIRING:
        draw = drawn(clean, name)
        assert draw.target is draw.mixed
        assert not torch.equal(draw.target, plain)
        for noise in (draw.target, draw.mixed) if name not in UNLIKE else ():
            assert float((noise.flatten(1) * along).sum(dim=1).mean()) > 0.8, name


def test_the_plain_functions_work_without_the_trainer() -> None:
    code = """
import sys
sys.modules["trainer"] = None
import torch
from plugins.noise.assignment import assign, assign_candidates
from plugins.noise.matched import matched_to
from plugins.noise.offset import offset_like
from plugins.noise.oversampling import nearest_of
from plugins.noise.perturbation import PLUGIN
from plugins.noise.pyramid import pyramid_like
g, x = torch.Generator().manual_seed(1), torch.ones(2, 3, 4, 4)
noise = nearest_of(x, 4, generator=g)
for made in (noise, assign(x, noise), assign_candidates(x, 2, generator=g), matched_to(x, noise, 4),
             noise + offset_like(noise, g), pyramid_like(noise, iterations=2, discount=0.3, generator=g)):
    assert made.shape == x.shape
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize("name", ON)
def test_on_a_card_the_noise_is_made_there_and_only_what_is_assigned_waits(any_card: AnyCard, name: str) -> None:
    clean, at = latents(4, 4, 8, 8).cuda(), torch.full((4,), 500, device="cuda")
    streams = Streams(seed=1, step=2, micro_batch=0, rank=0, device=torch.device("cuda"))
    stages = chain(name)
    given = {"captions": list("abcd"), "images": list("abcd"), "losses": loss}
    stages.draw(clean, at, streams, **given)  # type: ignore[arg-type]  # tables are copied once
    with any_card.waits() as waits:
        draw = stages.draw(clean, at, streams, **given)  # type: ignore[arg-type]
    assert bool(waits) == (name in ("assignment", "coupled"))
    assert draw.target.is_cuda
    assert draw.mixed.is_cuda


# At batch 1 on a card, beside the draws. A step of SDXL launches some 17,000.
KERNELS = {
    "assignment": 13, "coupled": 10, "explore": 4, "fixed": 0, "matched": 26, "offset": 8, "oversampling": 29,
    "perturbation": 2, "pyramid": 8,
}  # fmt: skip


@pytest.mark.parametrize("name", ON)
def test_no_stage_launches_more_than_it_needs_and_none_changes_what_it_is_given(name: str) -> None:
    with simulated_card() as card:
        clean = latents(1, 4, 8, 8).to("cuda")
        streams = replace(STREAMS, device=clean.device)
        with card.recording() as seen:
            chain(name).draw(clean, torch.full((1,), 500).cuda(), streams, captions=["a"], images=["b"], losses=loss)
        assert seen.launched == KERNELS[name], seen.kernels
    if registry.find("noise", name).network:
        return
    plain = latents(2, 4, 8, 8)
    before, given = plain.clone(), NoiseDraw(plain, plain)
    context = NoiseContext(latents(2, 4, 8, 8), torch.full((2,), 500), seeded(3), ("a", "b"), ("c", "d"), 0)
    (stage,) = chain(name).stages.values()
    stage(given, context)
    assert torch.equal(plain, before)
