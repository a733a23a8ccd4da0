"""The caption that a sample is trained with: properties of every option, and examples worked out by hand."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import randomness
from trainer.config.schema.data import SubsetOptions
from trainer.data.captions.pipeline import Moment, Streams, final_caption, possible


def streams(seed: int) -> Streams:
    return lambda purpose: randomness.python_random(seed, purpose)


def draw(written: str | tuple[str, ...], seed: int = 0, moment: Moment | None = None, **options: Any) -> str:
    alternatives = (written,) if isinstance(written, str) else written
    return final_caption(alternatives, SubsetOptions(**options), streams(seed), moment or Moment())


def many(written: str | tuple[str, ...], count: int = 400, **options: Any) -> Counter[str]:
    return Counter(draw(written, seed, **options) for seed in range(count))


TAG = st.text(st.sampled_from("abcdefg -_"), min_size=1, max_size=6).map(str.strip).filter(bool)
TAGS = st.lists(TAG, min_size=1, max_size=8)
SEED = st.integers(0, 2**40)
SEPARATOR = st.sampled_from([",", ";", "|", ". ", ",,"])


@given(TAGS, st.integers(0, 9), SEED, SEPARATOR)
def test_shuffling_permutes_and_kept_tags_stay(found: list[str], keep: int, seed: int, separator: str) -> None:
    text = draw(separator.join(found), seed, shuffle_caption=True, keep_tokens=keep, caption_separator=separator)
    shown = [tag.strip() for tag in text.split(separator)]
    assert shown[:keep] == found[:keep]
    assert Counter(shown) == Counter(found)


@given(TAGS, TAGS, TAGS, SEED, st.floats(0, 1))
def test_marked_tags_stay(front: list[str], middle: list[str], end: list[str], seed: int, rate: float) -> None:
    text = "|||".join(", ".join(part) for part in (front, middle, end))
    options = {"keep_tokens_separator": "|||", "shuffle_caption": True, "caption_tag_dropout_rate": rate}
    shown = draw(text, seed, keep_tokens=5, **options).split(", ")
    assert shown[: len(front)] == front
    assert shown[len(shown) - len(end) :] == end
    assert not Counter(shown[len(front) : len(shown) - len(end)]) - Counter(middle)


@given(TAGS, SEED, st.booleans(), st.integers(0, 3), st.floats(0, 1), st.floats(0, 1))
def test_the_trigger_is_first_once_and_survives(
    found: list[str], seed: int, shuffle: bool, keep: int, tag_rate: float, rate: float
) -> None:
    options = {"shuffle_caption": shuffle, "keep_tokens": keep, "caption_tag_dropout_rate": tag_rate}
    for written in (found, [*found, "ohwx"], ["ohwx", *found]):
        shown = draw(", ".join(written), seed, trigger="ohwx", caption_dropout_rate=rate, **options).split(", ")
        assert shown[0] == "ohwx"
        assert shown.count("ohwx") == 1


@given(TAGS, SEED, SEPARATOR)
def test_without_dropout_nothing_is_lost_or_changed(found: list[str], seed: int, separator: str) -> None:
    text = separator.join(found)
    assert draw(text, seed, caption_separator=separator, keep_tokens=2) == text
    dropping = draw(text, seed, caption_separator=separator, caption_tag_dropout_rate=0.0, tag_weights={"zz": 0.0})
    assert [tag.strip() for tag in dropping.split(separator)] == found


@given(TAGS, SEED, st.integers(0, 4), st.integers(1, 20), st.integers(0, 25))
def test_warm_up_shows_the_first_tags(found: list[str], seed: int, least: int, length: int, step: int) -> None:
    options = {"token_warmup_min": least, "token_warmup_step": length}
    shown = draw(", ".join(found), seed, Moment(0, step, 100), **options)
    tags = shown.split(", ") if shown else []
    assert tags == found[: len(tags)]
    if step >= length or least >= len(found):
        assert tags == found
    else:
        assert len(tags) == step * (len(found) - least) // length + least


def test_warm_up_by_hand() -> None:
    # 9 tags, at least 1, over 8 steps: one more each step. A share of 0.08 of 100 steps is the same 8.
    text = ", ".join("abcdefghi")
    for length in (8, 0.08):
        options = {"token_warmup_min": 1, "token_warmup_step": length}
        counts = [len(draw(text, 0, Moment(0, step, 100), **options).split(", ")) for step in range(10)]
        assert counts == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9]


@given(SEED, st.lists(TAGS, min_size=1, max_size=3), st.booleans(), st.floats(0, 1))
def test_what_is_foreseen_is_all_that_comes(seed: int, written: list[list[str]], wildcard: bool, rate: float) -> None:
    texts = tuple(", ".join(tags) + " {x|y|}" for tags in written)
    options = SubsetOptions(enable_wildcard=wildcard, caption_dropout_rate=rate, caption_prefix="p", trigger="t")
    assert final_caption(texts, options, streams(seed), Moment()) in possible(texts, options)


def test_dropout_is_as_frequent_as_asked() -> None:
    drawn = many("a cat", 4000, caption_dropout_rate=0.3)
    assert drawn.keys() == {"", "a cat"}
    # Standard deviation of the share: sqrt(0.3 * 0.7 / 4000) = 0.0072.
    assert abs(drawn[""] / 4000 - 0.3) < 0.03
    assert possible(("a cat",), SubsetOptions(caption_dropout_rate=0.3)) == {"", "a cat"}


def test_dropout_by_epoch_counts_from_one() -> None:
    shown = [draw("a", 0, Moment(epoch), caption_dropout_every_n_epochs=3) for epoch in range(7)]
    assert shown == ["a", "a", "", "a", "a", "", "a"]


def test_tag_dropout_and_weights() -> None:
    counts: Counter[str] = Counter()
    for seed in range(3000):
        text = draw("k, a, b, c", seed, keep_tokens=1, caption_tag_dropout_rate=0.25, tag_weights={"b": 1, "c": 0.1})
        counts.update(text.split(", "))
    assert counts["k"] == counts["b"] == 3000
    assert abs(counts["a"] / 3000 - 0.75) < 0.03
    assert abs(counts["c"] / 3000 - 0.1) < 0.03


def test_every_order_of_shuffled_tags_is_equally_frequent() -> None:
    drawn = many("x, a, b, c", 3000, shuffle_caption=True, keep_tokens=1)
    assert len(drawn) == 6
    assert all(abs(count / 3000 - 1 / 6) < 0.035 for count in drawn.values())


def test_wildcards() -> None:
    drawn = many("{a|b|c d} of {{x|y}} and {e|}", 900, enable_wildcard=True)
    assert drawn.keys() == {f"{first} of {{x|y}} and {last}" for first in ("a", "b", "c d") for last in ("e", "")}
    assert min(drawn.values()) > 100
    assert draw("{a|b}") == "{a|b}"
    assert draw("unclosed {a|b", enable_wildcard=True) == "unclosed {a|b"


def test_alternatives_are_drawn_evenly_and_carry_prefix_and_suffix() -> None:
    drawn = many(("one", "two"), 1000, caption_prefix="by me,", caption_suffix="end")
    assert drawn.keys() == {"by me, one end", "by me, two end"}
    assert abs(drawn["by me, one end"] / 1000 - 0.5) < 0.07


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("a|||b, c", {"keep_tokens_separator": "|||"}, "a, b, c"),  # the mark never reaches the model
        ("a;b ;c", {"caption_separator": ";", "caption_tag_dropout_rate": 0.0}, "a;b ;c"),
        ("a;b;c", {"caption_separator": ";", "tag_weights": {"b": 0}}, "a; c"),  # joined by its own separator
        ("red;;;blue, x", {"secondary_separator": ";;;"}, "red,blue, x"),
        ("red;;;blue, x", {"secondary_separator": ";;;", "tag_weights": {"red": 0}}, "red,blue, x"),  # one tag
        ("a, , b", {"tag_weights": {"x": 0}}, "a, b"),
        ("", {"trigger": "ohwx"}, "ohwx"),
        ("a cat", {"trigger": "ohwx", "caption_dropout_rate": 1.0}, "ohwx"),
        ("a, ohwx, b", {"trigger": "ohwx"}, "ohwx, a, b"),
        ("ohwx man", {"trigger": "ohwx"}, "ohwx, ohwx man"),
        ("a cat", {"caption_prefix": "p", "trigger": "ohwx"}, "ohwx, p a cat"),
    ],
)
def test_by_hand(text: str, options: dict[str, Any], expected: str) -> None:
    assert draw(text, **options) == expected


def test_one_option_moves_no_draw_of_another() -> None:
    text = "a, b, c, d, e, f"
    for seed in range(50):
        shuffled = draw(text, seed, shuffle_caption=True)
        assert draw(text, seed, shuffle_caption=True, caption_dropout_rate=0.5) in ("", shuffled)
        assert draw(text, seed, shuffle_caption=True, trigger="t") == f"t, {shuffled}"


def test_captions_that_cannot_be_foreseen_are_not_listed() -> None:
    assert possible(("a, b",), SubsetOptions(shuffle_caption=True, caption_dropout_rate=0.1)) == {""}
    assert possible(("{a|b|c|d|e|f|g|h|i}{a|b|c|d|e|f|g|h|i}",), SubsetOptions(enable_wildcard=True)) == set()


def test_the_same_streams_give_the_same_caption() -> None:
    options = {"shuffle_caption": True, "caption_tag_dropout_rate": 0.3, "enable_wildcard": True}
    once, again = (many(("{a|b}, c, d", "e, f, g"), 100, **options) for _ in range(2))
    assert once == again and len(once) > 20
