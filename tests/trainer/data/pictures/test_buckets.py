"""Buckets against counts checked in sd-scripts, examples worked out by hand, and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.dataset import crop_ltrb
from trainer.data.pictures import buckets

SIDES = st.integers(1, 6000)
SETS = st.builds(
    lambda side, step, shortest, longest: (side * step, step, min(shortest, side) * step, max(longest, side) * step),
    st.integers(1, 24),
    st.sampled_from([8, 16, 32, 64]),
    st.integers(1, 24),
    st.integers(1, 40),
)


@pytest.mark.parametrize(("side", "longest", "count"), [(512, 1024, 17), (1024, 2048, 41), (1024, 1024, 25)])
def test_counts_of_kohyas_sets(side: int, longest: int, count: int) -> None:
    assert len(buckets.resolutions(side * side, 256, longest, 64)) == count


def test_the_set_for_512_by_hand() -> None:
    # 512 * 512 = 262,144. width 256 -> height 1024; 320 -> 819 -> 768; 384 -> 682 -> 640; 448 -> 585 -> 576;
    # 512 -> 512; 576 -> 455 -> 448; 640 -> 409 -> 384; 704 -> 372 -> 320; ... 832 -> 315 -> 256; up to 1024.
    tall = [(256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576)]
    wide = [(height, width) for width, height in tall]
    assert buckets.resolutions(512 * 512, 256, 1024, 64) == sorted([*tall, *wide, (512, 512)])


@pytest.mark.parametrize(
    ("image", "target", "resized", "corner"),
    [
        # 3:2 at 512: the nearest of the set is 640/384 = 1.667 (0.167 off) against 576/448 = 1.286 (0.214 off).
        ((3000, 2000), (640, 384), (640, 427), (0, 21)),
        ((512, 512), (512, 512), (512, 512), (0, 0)),
        # 4:3 = 1.333: 576/448 = 1.286 wins; the image is wider, so its height is matched: 448 / 768 * 1024 = 597.3.
        ((1024, 768), (576, 448), (597, 448), (10, 0)),
        ((100, 4000), (256, 1024), (256, 10240), (0, 4608)),
    ],
)
def test_hand_worked_fits(
    image: buckets.Size, target: buckets.Size, resized: buckets.Size, corner: tuple[int, int]
) -> None:
    sizes = buckets.resolutions(512 * 512, 256, 1024, 64)
    fit = buckets.fit(image, buckets.choose(image, sizes))
    assert (fit.target, fit.resized, fit.corner) == (target, resized, corner)


def test_an_exact_size_wins_over_an_earlier_one_of_the_same_aspect() -> None:
    assert buckets.choose((64, 64), [(32, 32), (64, 64)]) == (64, 64)
    assert buckets.choose((128, 128), [(32, 32), (64, 64)]) == (32, 32)


@given(SETS)
def test_a_set_keeps_its_limits(numbers: tuple[int, int, int, int]) -> None:
    side, step, shortest, longest = numbers
    sizes = buckets.resolutions(side * side, shortest, longest, step)
    assert sizes == sorted(set(sizes))
    assert (side, side) in sizes
    for width, height in sizes:
        assert width % step == 0 and height % step == 0
        assert shortest <= min(width, height) and max(width, height) <= longest
        assert width * height <= side * side
        assert (height, width) in sizes


@given(SETS, SIDES, SIDES)
def test_a_fit_covers_and_crops_within(numbers: tuple[int, int, int, int], width: int, height: int) -> None:
    side, step, shortest, longest = numbers
    sizes = buckets.resolutions(side * side, shortest, longest, step)
    fit = buckets.fit((width, height), buckets.choose((width, height), sizes))
    assert fit.target in sizes
    for axis in (0, 1):
        trim = fit.resized[axis] - fit.target[axis]
        assert trim >= 0
        assert fit.corner[axis] == trim // 2
    # Covering is tight: one side needs no cropping.
    assert fit.resized[0] == fit.target[0] or fit.resized[1] == fit.target[1]


@given(SIDES, SIDES, st.sampled_from([256 * 256, 512 * 512, 1024 * 1024]), st.sampled_from([8, 32, 64]))
def test_no_upscale_never_enlarges(width: int, height: int, area: int, step: int) -> None:
    fit = buckets.shrink_only((width, height), area, step)
    assert fit.target[0] % step == 0 and fit.target[1] % step == 0
    assert fit.target[0] <= fit.resized[0] and fit.target[1] <= fit.resized[1]
    assert fit.target[0] <= width and fit.target[1] <= height
    if width * height <= area:
        assert fit.resized == (width, height)


def test_no_upscale_by_hand() -> None:
    # 1000 x 700 = 700,000 > 262,144: width sqrt(262144 * 1.4286) = 612.0 -> 576 -> height 403 -> 384: 1.5;
    # height 428.4 -> 384 -> width 549 -> 512: 1.333. 1.5 is off by 0.071, 1.333 by 0.095, so the width decides.
    fit = buckets.shrink_only((1000, 700), 512 * 512, 64)
    assert (fit.resized, fit.target, fit.corner) == ((576, 403), (576, 384), (0, 9))
    small = buckets.shrink_only((300, 200), 512 * 512, 64)
    assert (small.resized, small.target, small.corner) == ((300, 200), (256, 192), (22, 4))


def test_crop_numbers_for_sdxl_by_hand() -> None:
    # The image (2.0) is wider than the target (1.0): width 1024, height 512, centred: top 256.
    assert crop_ltrb((2000, 1000), (1024, 1024)) == (0, 256, 1024, 768)
    # The target (1.75) is wider than the image (1.5): height 768 -> width 1152, left (1344 - 1152) // 2 = 96.
    assert crop_ltrb((3000, 2000), (1344, 768)) == (96, 0, 1248, 768)
    assert crop_ltrb((512, 512), (1024, 1024)) == (0, 0, 1024, 1024)
