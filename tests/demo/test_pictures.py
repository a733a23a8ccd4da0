"""What the demo draws and reads: printed characters, paper, handwriting, and the judge of digits."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pytest
from PIL import Image, ImageOps

from demo import colours, handwriting, judge, paper, printed


@lru_cache
def digits() -> tuple[handwriting.Handwriting, handwriting.Handwriting]:
    return handwriting.load()


@lru_cache
def the_judge() -> judge.Judge:
    return judge.Judge(digits()[0], printed_count=300)


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.tobytes() == second.tobytes()


@pytest.mark.parametrize("draw", [lambda s, i: printed.draw(s, i).image, paper.draw])
def test_a_drawing_depends_on_seed_and_index_alone(draw):
    assert same(draw(3, 7), draw(3, 7))
    assert not same(draw(3, 7), draw(4, 7))
    assert not same(draw(3, 7), draw(3, 8))


def test_captions_say_what_is_drawn():
    drawings = [printed.draw(0, index) for index in range(250)]
    pattern = re.compile(r"^an? (\w+) (?:(\w+) )?(digit|letter) (\w+)(?: on (\w+))?$")
    for drawing in drawings:
        found = pattern.match(drawing.caption)
        assert found, drawing.caption
        style, ink, kind, name, ground = found.groups()
        assert style in printed.STYLES
        assert {ink, ground} - {None} <= set(colours.NAMED)
        assert (kind == "digit") == (drawing.label >= 0)
        assert name == printed.DIGITS[drawing.label] if kind == "digit" else name in printed.LETTERS
    assert {d.label for d in drawings} == set(range(-1, 10))


def corners(captioned: str) -> list[float]:
    drawings = (printed.draw(1, index) for index in range(600))
    return [colours.brightness(d.image.getpixel((0, 0))) for d in drawings if re.search(captioned, d.caption)]


def test_grounds_are_as_named_and_white_if_not_named():
    assert min(corners(r"^(?!.* on )")) > 0.9
    assert max(corners(" on black$")) < 0.15


def test_ink_is_as_named_and_black_if_not_named():
    def ink(drawing: printed.Drawing) -> tuple[int, ...]:
        pixels = np.asarray(drawing.image).reshape(-1, 3)
        return tuple(pixels[pixels.sum(axis=1).argmin()])

    bold = [d for d in (printed.draw(1, i) for i in range(300)) if d.caption.startswith("a bold")]
    assert max(max(ink(d)) for d in bold if re.match(r"a bold (digit|letter) \w+$", d.caption)) < 60
    for red, green, blue in (ink(d) for d in bold if re.match(r"a bold red (digit|letter) \w+$", d.caption)):
        assert red > 120 > max(green, blue)


def test_every_character_stands_out_from_its_ground():
    for drawing in (printed.draw(2, index) for index in range(200)):
        shades = np.asarray(drawing.image.convert("L"), dtype=float)
        assert np.ptp(shades) > 30, drawing.caption


def test_a_tenth_of_every_digit_is_held_out_and_no_picture_is_in_both_parts():
    train, heldout = digits()
    assert len(train) + len(heldout) == 1797
    shares = np.bincount(heldout.labels) / (np.bincount(heldout.labels) + np.bincount(train.labels))
    assert np.all(np.abs(shares - 0.1) < 0.01)
    assert not {i.tobytes() for i in train.images} & {i.tobytes() for i in heldout.images}


def test_handwriting_is_ink_on_paper():
    image = np.asarray(handwriting.render(np.pad(np.full((4, 4), 16.0), 2)), dtype=float)
    assert np.allclose(image[0, 0], handwriting.PAPER, atol=1)
    assert np.allclose(image[16, 16], handwriting.INK, atol=1)


def test_the_judge_reads_real_digits_it_has_not_seen():
    heldout = digits()[1]
    verdict = the_judge()(heldout.images, heldout.labels)
    assert verdict.share_recognised > 0.95
    assert verdict.handwritten.mean() > 0.97


def test_the_judge_reads_noise_no_better_than_chance():
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(300)]
    assert the_judge()(noise, [i % 10 for i in range(300)]).share_recognised < 0.2


def test_the_judge_does_not_take_print_for_handwriting():
    drawings = [printed.draw(9, index) for index in range(300)]
    verdict = the_judge()([d.image for d in drawings], [d.label for d in drawings])
    assert verdict.handwritten.mean() < 0.05
    assert verdict.share_both <= verdict.handwritten.mean()


def test_the_judge_is_blind_to_colours():
    image = digits()[1].images[0]
    other = ImageOps.invert(image)
    assert np.allclose(judge.ink_maps([image], 8), judge.ink_maps([other], 8), atol=0.01)
