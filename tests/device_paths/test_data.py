"""Where the batches of a run on a card come from: caches in memory and on the disk, workers, live encoding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.device_paths.card_runs import ON_CARD, end_state, project, train_on_card, train_on_cpu
from tests.reliability import small
from tests.simulated_device import simulated_card

SOURCES: dict[str, tuple[str, ...]] = {
    "in memory, no workers": ("data.workers=0",),
    "on the disk": ("data={cache_to_disk=true,workers=3}",),
    "on the disk in bf16, fresh samples": ("data={cache_to_disk=true,cache_dtype='bf16',latent_sampling='fresh'}",),
    "one sample of each posterior": ("data={latent_sampling='once'}", "general.flip_aug=true"),
    "nothing kept": ("data={cache_latents=false,cache_text=false,latent_sampling='fresh'}",),
    "captions that change": ("general.caption_dropout_rate=0.5", "general.shuffle_caption=true"),
    "live text of a trained encoder": ("training.text_encoder=true", "data.cache_latents=false"),
    "crops": ("general.random_crop=true", "data.cache_latents=false"),
}


@pytest.mark.parametrize("overrides", SOURCES.values(), ids=SOURCES)
def test_every_source_gives_the_bits_of_the_cpu(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    file = project(tmp_path / "a project")
    train_on_card(file, "training.steps=3", *overrides)
    train_on_cpu(file, "training.steps=3", *overrides)
    assert small.losses(file, "card") == small.losses(file, "cpu")
    assert end_state(file, "card") == end_state(file, "cpu")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_page_locked_and_travel_without_a_wait(tmp_path: Path, workers: int) -> None:
    with simulated_card() as card:
        found = small.training(project(tmp_path / "a project"), ON_CARD, f"data.workers={workers}")
        batch = found.loop.gradients.batch(0)
        assert batch.latents is not None
        assert batch.text is not None
        tensors = [batch.latents, *batch.text.tensors.values(), batch.weights, batch.geometry.crop]
        assert all(tensor.is_pinned() for tensor in tensors)
        with card.recording() as seen:
            there = batch.to(torch.device("cuda"))
        assert seen.waits == []
        assert there.latents is not None
        assert there.latents.device.type == "cuda"


def test_what_rests_leaves_the_card(tmp_path: Path) -> None:
    """The VAE and the text encoder are needed for the caches alone; of what they held nothing is left there."""
    with simulated_card() as card:
        found = small.training(project(tmp_path / "a project"), ON_CARD)
        held = {name: next(part.parameters()).device.type for name, part in found.family.parts.items()}
        assert held == {"unet": "cuda", "text_encoder": "meta"}
        weights = sum(-(-p.nbytes // 512) * 512 for p in found.family.parts["unet"].parameters())
        buffers = sum(-(-b.nbytes // 512) * 512 for b in found.family.parts["unet"].buffers())
        assert weights <= card.allocated <= weights + buffers + 16 * 512
