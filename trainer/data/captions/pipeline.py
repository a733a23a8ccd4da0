"""Turns what is written about an image into the caption that one sample is trained with, in kohya's order.

Alternatives -> prefix and suffix -> dropout -> wildcards -> kept tags, warm-up, shuffle, tag dropout -> secondary
separator -> trigger word. The functions are pure: all randomness comes from the streams that are passed in, one for
each purpose, so that switching one option on moves no draw of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from trainer.config.schema.data import SubsetOptions
from trainer.data.captions import tags, wildcards

Streams = Callable[[str], Random]  # the stream of this sample for a purpose
ENUMERATED = 64  # captions of one image that are worth encoding ahead


@dataclass(frozen=True, slots=True)
class Moment:
    """When a caption is shown."""

    epoch: int = 0  # from 0
    step: int = 0  # optimizer steps done
    steps: int = 0  # of the whole training; 0 when unknown


def final_caption(written: Sequence[str], options: SubsetOptions, streams: Streams, moment: Moment) -> str:
    """The training caption of one sample. `written`: the alternatives, one of which is drawn."""
    if is_dropped(options, streams, moment):
        return options.trigger
    text = written[0] if len(written) == 1 else streams("alternative").choice(written)
    text = affixed(text, options)
    if options.enable_wildcard:
        text = wildcards.expand(text, streams("wildcard").choice)
    return _finished(_arranged(text, options, streams, moment), options)


def is_dropped(options: SubsetOptions, streams: Streams, moment: Moment) -> bool:
    """Whether this sample trains without its caption: by chance, or because it is the epoch for it (counted from 1)."""
    every = options.caption_dropout_every_n_epochs
    if every and (moment.epoch + 1) % every == 0:
        return True
    rate = options.caption_dropout_rate
    return rate > 0 and streams("dropout").random() < rate


def affixed(text: str, options: SubsetOptions) -> str:
    """With prefix and suffix, joined by one blank."""
    return " ".join(part for part in (options.caption_prefix, text, options.caption_suffix) if part)


def moves_tags(options: SubsetOptions) -> bool:
    """Whether tags are shuffled or lost, so that a caption is hardly ever the same twice."""
    return bool(
        options.shuffle_caption
        or options.token_warmup_step > 0
        or options.caption_tag_dropout_rate > 0
        or options.tag_weights
    )


def _arranged(text: str, options: SubsetOptions, streams: Streams, moment: Moment) -> str:
    mark = options.keep_tokens_separator
    if not moves_tags(options) and not (mark and mark in text):
        return text
    parts = tags.split(text, options.caption_separator, options.keep_tokens, mark)
    flexible = parts.flexible[: _warmed_up(len(parts.flexible), options, moment)]
    if options.shuffle_caption:
        streams("shuffle").shuffle(flexible)
    flexible = _with_dropout(flexible, options, streams)
    return tags.join([*parts.fixed, *flexible, *parts.suffix], options.caption_separator)


def _warmed_up(count: int, options: SubsetOptions, moment: Moment) -> int:
    """How many of `count` tags are shown: from `token_warmup_min`, rising evenly, to all at `token_warmup_step`."""
    length = options.token_warmup_step
    steps = math.floor(length * moment.steps) if length < 1 else length
    if moment.step >= steps:
        return count
    return min(count, math.floor(moment.step * (count - options.token_warmup_min) / steps) + options.token_warmup_min)


def _with_dropout(flexible: list[str], options: SubsetOptions, streams: Streams) -> list[str]:
    if not options.caption_tag_dropout_rate and not options.tag_weights:
        return flexible
    random = streams("tags")
    usual = 1 - options.caption_tag_dropout_rate
    return [tag for tag in flexible if random.random() < options.tag_weights.get(tag, usual)]


def _finished(text: str, options: SubsetOptions) -> str:
    if options.secondary_separator:
        text = text.replace(options.secondary_separator, options.caption_separator)
    if not options.trigger:
        return text
    return tags.put_first(options.trigger, text, options.caption_separator)


def varies(written: Sequence[str], options: SubsetOptions) -> bool:
    """Whether an image's caption is not the same every time."""
    return bool(
        len(written) > 1
        or options.enable_wildcard
        or options.caption_dropout_rate
        or options.caption_dropout_every_n_epochs
        or moves_tags(options)
    )


def possible(written: Sequence[str], options: SubsetOptions) -> set[str]:
    """The captions that `final_caption` can return, as far as they can be foreseen.

    Not those of a caption whose tags move or whose wildcards have more than `ENUMERATED` outcomes.
    """
    found: set[str] = set()
    if options.caption_dropout_rate > 0 or options.caption_dropout_every_n_epochs:
        found.add(options.trigger)
    if moves_tags(options):
        return found
    for one in written:
        text = affixed(one, options)
        outcomes = wildcards.outcomes(text, ENUMERATED) if options.enable_wildcard else [text]
        found |= {_finished(_arranged(outcome, options, _never, Moment()), options) for outcome in outcomes}
    return found


def foreseen(written: Sequence[str], options: SubsetOptions) -> bool:
    """Whether `possible` returns everything that `final_caption` can."""
    if moves_tags(options):
        return False
    return not options.enable_wildcard or all(wildcards.outcomes(affixed(w, options), ENUMERATED) for w in written)


def _never(purpose: str) -> Random:
    raise AssertionError(f"a caption that can be foreseen drew from {purpose!r}")
