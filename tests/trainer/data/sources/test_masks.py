"""Masks by the names that other programs give them, and what becomes of those that are unclear."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer.data.conftest import Folder, Scan
from trainer.data.pictures import decode
from trainer.errors import UserError

IMAGES = {"a.png": (64, 64), "b.png": (64, 64)}
TEXTS = {"a.txt": "a", "b.txt": "b"}


def mask(path: Path, level: int = 255) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (64, 64), level).save(path)


@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "b.jpg"),  # sd-scripts, rembg
        ("a-masklabel.png", "b-masklabel.png"),  # OneTrainer
        ("a_mask.png", "b_mask.webp"),
        ("a_0_mask.png", "b_2_mask.png"),  # Segment Anything in A1111's web UI
        ("a/3.png", "b/0.png"),  # its own script
    ],
)
def test_names_of_other_programs(folder: Folder, scanned: Scan, tmp_path: Path, names: tuple[str, str]) -> None:
    folder("images", IMAGES, TEXTS)
    for name in names:
        mask(tmp_path / "masks" / name)
    found = scanned({"resolution": 64, "subsets": [{"image_dir": "images", "conditioning_data_dir": "masks"}]})
    assert [item.mask for item in found.items] == [str(tmp_path / "masks" / name) for name in names]
    assert found.notes == ()


def test_masks_beside_their_images_are_no_images(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    folder("images", IMAGES, TEXTS)
    for name in ("a-masklabel.png", "b-masklabel.png"):
        mask(tmp_path / "images" / name)
    table = {"resolution": 64, "subsets": [{"image_dir": "images"}]}
    plain = scanned(table)
    assert [Path(item.path).name for item in plain.items] == ["a.png", "b.png"]
    assert any("2 files are masks of images (OneTrainer's)" in note for note in plain.notes)
    table["subsets"] = [{"image_dir": "images", "conditioning_data_dir": "images"}]
    masked = scanned(table)
    assert [Path(item.mask).name for item in masked.items] == ["a-masklabel.png", "b-masklabel.png"]
    assert masked.notes == ()


def test_several_masks_of_an_image_are_named(folder: Folder, scanned: Scan, tmp_path: Path) -> None:
    folder("images", IMAGES, TEXTS)
    for name in ("a_0_mask.png", "a_1_mask.png", "b_0_mask.png", "other.png"):
        mask(tmp_path / "masks" / name)
    with pytest.raises(UserError, match=r"1 of 2 images have several masks in .*a_0_mask\.png, a_1_mask\.png"):
        scanned({"resolution": 64, "subsets": [{"image_dir": "images", "conditioning_data_dir": "masks"}]})
    (tmp_path / "masks" / "a_1_mask.png").unlink()
    found = scanned({"resolution": 64, "subsets": [{"image_dir": "images", "conditioning_data_dir": "masks"}]})
    assert any("1 masks belong to no image: other.png" in note for note in found.notes)


def test_of_a_cut_out_what_is_opaque_is_the_mask(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:, :4, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    assert np.array_equal(np.asarray(decode.load_mask(str(tmp_path / "cut.png"))), pixels[..., 3])
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    assert np.asarray(decode.load_mask(str(tmp_path / "opaque.png"))).min() == 200
