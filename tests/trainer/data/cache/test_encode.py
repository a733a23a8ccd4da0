"""Images go through the VAE in portions that fit beside it on a small card."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.trainer.data.conftest import Folder, Scan
from trainer.data.cache import encode
from trainer.data.cache.encode import Variant
from trainer.data.cache.memory import MemoryLatents


@pytest.mark.parametrize(
    ("width", "height", "images"), [(512, 512, 4), (1024, 1024, 1), (832, 1216, 1), (2048, 2048, 1), (64, 64, 256)]
)
def test_a_million_pixels_at_once(width: int, height: int, images: int) -> None:
    assert encode.together(width, height) == images


def test_portions_change_no_order(folder: Folder, scanned: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    folder("photos", {f"{n}.png": (64, 64) for n in range(7)})
    dataset = scanned({"resolution": 64, "subsets": [{"image_dir": "photos", "class_tokens": "a"}]})
    counts: list[int] = []

    def encoder(pixels: Tensor) -> Tensor:
        counts.append(len(pixels))
        return pixels[:, :, ::8, ::8]

    whole = MemoryLatents.encode(dataset, encoder, batch_size=5)
    monkeypatch.setattr(encode, "PIXELS", 2 * 64 * 64 + 1)
    parts = MemoryLatents.encode(dataset, encoder, batch_size=5)
    assert counts == [5, 2, 2, 2, 1, 2]
    for item in range(7):
        assert torch.equal(whole.read(Variant(item)).mean, parts.read(Variant(item)).mean)
