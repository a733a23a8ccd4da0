"""The demo's tokenizer and captions fit each other."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, CLIPTokenizer

from demo import handwriting, printed, vocabulary


def test_every_caption_is_one_token_a_word():
    tokenizer = vocabulary.build()
    captions = {printed.draw(0, index).caption for index in range(500)}
    captions |= {handwriting.caption(digit) for digit in range(10)}
    for caption in captions:
        ids = tokenizer(caption).input_ids
        assert len(ids) == len(caption.split()) + 2 <= vocabulary.LENGTH, caption
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == caption.lower()


def test_different_words_have_different_tokens():
    tokenizer = vocabulary.build()
    assert len({tokenizer(word).input_ids[1] for word in vocabulary.words()}) == len(vocabulary.words())


def test_other_words_are_spelt_rather_than_lost():
    tokenizer = vocabulary.build()
    ids = tokenizer("a cat, 7 é").input_ids
    assert tokenizer.eos_token_id not in ids[:-1]
    assert tokenizer("cat").input_ids != tokenizer("act").input_ids


@pytest.mark.parametrize("kind", [CLIPTokenizer, AutoTokenizer])
def test_the_saved_folder_loads_and_agrees(kind, tmp_path):
    count = vocabulary.save(tmp_path)
    loaded = kind.from_pretrained(tmp_path, local_files_only=True)
    assert len(loaded) == count
    assert loaded.model_max_length == vocabulary.LENGTH
    text = "a bold red digit seven on white"
    assert loaded(text).input_ids == vocabulary.build()(text).input_ids


def test_merges_make_words_whole_and_nothing_else():
    learnt = vocabulary.merges(["aaa", "aab"])
    assert ["".join(pair) for pair in learnt][-1] in {"aaa</w>", "aab</w>"}
    assert len(learnt) == len(set(learnt))
