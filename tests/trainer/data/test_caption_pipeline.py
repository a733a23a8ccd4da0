"""The caption that a sample is trained with."""

from __future__ import annotations

from random import Random

from trainer.config import SubsetOptions
from trainer.data.caption_pipeline import final_caption, possible


def test_dropout_is_as_frequent_as_asked() -> None:
    random = Random(0)
    options = SubsetOptions(caption_dropout_rate=0.3)
    drawn = [final_caption(("a cat",), options, random) for _ in range(4000)]
    assert set(drawn) == {"", "a cat"} == possible(("a cat",), options)
    # Standard deviation of the share: sqrt(0.3 * 0.7 / 4000) = 0.0072.
    assert abs(drawn.count("") / 4000 - 0.3) < 0.03


def test_without_dropout_the_caption_is_kept() -> None:
    options = SubsetOptions()
    assert {final_caption(("a cat",), options, Random(s)) for s in range(50)} == {"a cat"}
    assert possible(("a cat",), options) == {"a cat"}
    assert final_caption(("a cat",), SubsetOptions(caption_dropout_rate=1.0), Random(1)) == ""
