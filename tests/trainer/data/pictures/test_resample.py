"""Resizing against exact areas and against resizing the whole picture first."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.trainer.data.conftest import picture
from trainer.data.pictures.resample import resize_and_crop


def exact_area(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """By repeating every pixel until each new one covers whole pixels. (H, W, 3) -> (height, width, 3)."""
    tall = pixels.astype(float).repeat(height, 0).repeat(width, 1)
    return tall.reshape(height, pixels.shape[0], width, pixels.shape[1], -1).mean((1, 3))


@pytest.mark.parametrize("size", [(12, 8), (17, 13), (23, 16), (24, 1), (1, 1), (7, 15)])
def test_shrinking_averages_areas_exactly(size: tuple[int, int]) -> None:
    image = picture(24, 16)
    got = resize_and_crop(image, size, (0, 0), size).astype(float)
    assert np.abs(got - exact_area(np.asarray(image), *size)).max() <= 0.501


def test_crop_while_shrinking_equals_crop_afterwards() -> None:
    image = picture(300, 200)
    whole = resize_and_crop(image, (151, 101), (0, 0), (151, 101))
    part = resize_and_crop(image, (151, 101), (11, 3), (128, 64))
    assert np.array_equal(part, whole[3:67, 11:139])


@pytest.mark.parametrize(
    ("interpolation", "filter"),
    [
        ("", Image.Resampling.LANCZOS),
        ("lanczos", Image.Resampling.LANCZOS),
        ("bicubic", Image.Resampling.BICUBIC),
        ("linear", Image.Resampling.BILINEAR),
        ("area", Image.Resampling.BILINEAR),
    ],
)
def test_enlarging_equals_pillow_then_crop(interpolation: str, filter: Image.Resampling) -> None:
    image = picture(90, 60)
    whole = image.resize((450, 300), filter).crop((60, 20, 316, 276))
    got = resize_and_crop(image, (450, 300), (60, 20), (256, 256), interpolation)
    # Pillow holds a box in float32, which moves single values by rounding.
    assert np.abs(got.astype(int) - np.asarray(whole).astype(int)).max() <= 1


def test_interpolation_may_be_forced_when_shrinking() -> None:
    image = picture(120, 80)
    got = resize_and_crop(image, (60, 40), (0, 0), (60, 40), "nearest")
    assert {tuple(p) for p in got.reshape(-1, 3)} <= {tuple(p) for p in np.asarray(image).reshape(-1, 3)}


def test_the_same_size_is_only_cropped() -> None:
    image = picture(64, 48)
    assert np.array_equal(resize_and_crop(image, (64, 48), (8, 4), (32, 40)), np.asarray(image)[4:44, 8:40])


def test_masks_have_one_channel() -> None:
    mask = picture(64, 48).getchannel("R")
    assert resize_and_crop(mask, (32, 24), (0, 0), (32, 16)).shape == (16, 32)
    assert resize_and_crop(mask, (96, 72), (0, 0), (96, 72)).shape == (72, 96)


def test_a_thread_of_a_picture_costs_little() -> None:
    pixels = resize_and_crop(picture(1, 10_000), (256, 2_560_000), (0, 1_279_488), (256, 1024))
    assert pixels.shape == (1024, 256, 3)
