"""Every kind of pixel becomes 8-bit sRGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.trainer.data.conftest import picture
from trainer.data.pictures import decode

Array = np.ndarray


def loaded(path: Path, background: decode.Colour = decode.WHITE) -> Array:
    return np.asarray(decode.load(str(path), background).rgb).astype(int)


def test_transparency_shows_the_background_and_is_kept(tmp_path: Path) -> None:
    rgba = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (0, 0, 8, 16))
    rgba.paste((0, 0, 200, 128), (0, 0, 8, 1))
    rgba.save(tmp_path / "a.png")
    found = decode.load(str(tmp_path / "a.png"), (10, 20, 30))
    shown = np.asarray(found.rgb)
    assert (shown[1:, :8] == (0, 0, 255)).all()
    assert (shown[:, 8:] == (10, 20, 30)).all()
    # 128 / 255 of (0, 0, 200) over the background.
    assert np.abs(shown[0, 0].astype(int) - (5, 10, 115)).max() <= 1
    assert found.alpha is not None
    assert np.asarray(found.alpha)[0, [0, 8]].tolist() == [128, 0]


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(1, (4, 0, 8, 8))
    image.save(tmp_path / "a.png", transparency=0)
    shown = loaded(tmp_path / "a.png", (1, 2, 3))
    assert (shown[:, :4] == (1, 2, 3)).all() and (shown[:, 4:] == (0, 255, 0)).all()


def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert (loaded(tmp_path / "a.png")[..., 1] == np.arange(256).reshape(16, 16)).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_modes_of_png(tmp_path: Path, mode: str) -> None:
    grey = np.where(np.indices((8, 8)).sum(0) % 2, 255, 0).astype(np.uint8)
    Image.fromarray(grey).convert("RGB").convert(mode).save(tmp_path / "a.png")
    assert (loaded(tmp_path / "a.png") == grey[..., None]).all()


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(loaded(tmp_path / "a.jpg") - (255, 0, 0)).max() <= 3


def test_a_colour_profile_is_followed(tmp_path: Path) -> None:
    image = picture(16, 16)
    lab_like = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    image.save(tmp_path / "unfit.png", icc_profile=lab_like)
    assert (loaded(tmp_path / "unfit.png") == np.asarray(image)).all()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "srgb.png", icc_profile=srgb)
    assert (loaded(tmp_path / "srgb.png") == np.asarray(image)).all()
    image.save(tmp_path / "wide.png", icc_profile=_swapped_primaries(srgb))
    # The profile says that its red is what sRGB calls green, and the other way round.
    assert np.abs(loaded(tmp_path / "wide.png")[..., [1, 0, 2]] - np.asarray(image)).max() <= 2
    image.save(tmp_path / "broken.png", icc_profile=b"not a profile")
    assert (loaded(tmp_path / "broken.png") == np.asarray(image)).all()


def _swapped_primaries(profile: bytes) -> bytes:
    """The profile with the colours of red and green exchanged, under another name."""
    changed = bytearray(profile)
    tags = {}
    for entry in range(int.from_bytes(changed[128:132], "big")):
        place = 132 + 12 * entry
        tags[bytes(changed[place : place + 4])] = place
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    changed[red : red + 4], changed[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(changed).replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be"))


@pytest.mark.parametrize("format", ["gif", "webp", "png"])
def test_the_first_frame_of_an_animation(tmp_path: Path, format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#ff0000", "#00ff00")]
    frames[0].save(tmp_path / f"a.{format}", save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(loaded(tmp_path / f"a.{format}") - (255, 0, 0)).max() <= 1


def test_an_extension_may_lie(tmp_path: Path) -> None:
    image = picture(16, 16)
    image.save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert (loaded(tmp_path / "a.jpg") == np.asarray(image)).all()


def test_masks_are_the_red_channel(tmp_path: Path) -> None:
    image = picture(16, 16)
    image.save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(decode.load_mask(str(tmp_path / "a.png"))), np.asarray(image)[..., 0])
