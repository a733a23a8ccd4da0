"""Sizes and pixels of image files, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.data.conftest import picture
from trainer.data import images
from trainer.data.images import BrokenImageError

TRUNCATABLE = ("png", "jpg", "webp", "bmp", "gif", "avif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["jpg", "webp", "png"])
def test_exif_orientation_in_size_and_pixels(tmp_path: Path, orientation: int, format: str) -> None:
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:12, :20] = 255  # one white corner, top left
    # What a camera stores for each orientation so that it is shown upright (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[images.ORIENTATION] = orientation
    path = tmp_path / f"a.{format}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=100)
    assert images.size_of(str(path)) == (40, 24)
    shown = np.asarray(images.load(str(path))).astype(int)
    assert shown.shape == (24, 40, 3)
    assert np.abs(shown - upright).mean() < 3


@pytest.mark.parametrize("format", TRUNCATABLE)
def test_a_truncated_file_is_named_when_decoded(tmp_path: Path, format: str) -> None:
    whole = tmp_path / f"whole.{format}"
    picture(128, 96).save(whole)
    images.load(str(whole))
    cut = tmp_path / f"cut.{format}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(BrokenImageError, match=rf"cut\.{format}: "):
        images.load(str(cut))


@pytest.mark.parametrize("format", ["png", "jpg", "webp"])
def test_a_truncated_file_is_named_from_the_header_alone(tmp_path: Path, format: str) -> None:
    whole = tmp_path / f"whole.{format}"
    picture(128, 96).save(whole)
    assert images.size_of(str(whole)) == (128, 96)
    cut = tmp_path / f"cut.{format}"
    cut.write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(BrokenImageError, match=rf"cut\.{format}: "):
        images.size_of(str(cut))


def test_empty_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    with pytest.raises(BrokenImageError, match=r"empty\.png: the file is empty"):
        images.size_of(str(tmp_path / "empty.png"))
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(BrokenImageError, match=r"text\.png: not an image"):
        images.size_of(str(tmp_path / "text.png"))
    with pytest.raises(BrokenImageError, match=r"gone\.png: cannot be read: No such file"):
        images.size_of(str(tmp_path / "gone.png"))


def test_transparency_shows_the_background(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (0, 0, 8, 16))
    rgba.save(tmp_path / "a.png")
    shown = np.asarray(images.load(str(tmp_path / "a.png"), background=(10, 20, 30)))
    assert (shown[:, :8] == (0, 0, 255)).all()
    assert (shown[:, 8:] == (10, 20, 30)).all()


def test_resize_and_crop_equals_resizing_the_whole_first() -> None:
    image = picture(300, 200)
    for resized, corner, target in [((150, 100), (11, 0), (128, 100)), ((450, 300), (60, 20), (256, 256))]:
        filter = Image.Resampling.BOX if resized[0] < 300 else Image.Resampling.LANCZOS
        left, top = corner
        whole = image.resize(resized, filter).crop((left, top, left + target[0], top + target[1]))
        got = images.resize_and_crop(image, resized, corner, target)
        # Pillow holds a box in float32, which moves single values by rounding.
        assert np.abs(got.astype(int) - np.asarray(whole).astype(int)).max() <= 1


def test_shrinking_by_a_whole_number_averages_areas() -> None:
    image = picture(120, 80)
    got = images.resize_and_crop(image, (60, 40), (0, 0), (60, 40)).astype(float)
    expected = np.asarray(image).astype(float).reshape(40, 2, 60, 2, 3).mean((1, 3))
    assert np.abs(got - expected).max() <= 1.01


def test_a_thread_of_a_picture_costs_little() -> None:
    pixels = images.resize_and_crop(picture(1, 10_000), (256, 2_560_000), (0, 1_279_488), (256, 1024))
    assert pixels.shape == (1024, 256, 3)


def test_tensor_range_and_layout() -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0, 1] = (255, 0, 51)
    tensor = images.to_tensor(pixels)
    assert tensor.shape == (3, 2, 3) and tensor.dtype == torch.float32
    assert tensor[:, 0, 1].tolist() == pytest.approx([1.0, -1.0, 0.4 - 1.0])
    assert tensor[:, 1, 2].tolist() == [-1.0, -1.0, -1.0]
