"""Tokenizers: CLIP's ids from the list of merges, where they are looked for, chunks, padding."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from plugins.models import _text, _tokenizer
from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import byte_tokenizer, tiny_sd, tiny_sdxl
from trainer.errors import UserError

# OpenAI's merges that these captions need, by their line; the ids are those of OpenAI's own tokenizer.
MERGES = {
    4: "a r", 5: "e r", 10: "s t", 11: "o r", 13: "o n</w>", 14: "a l", 17: "i t", 19: "t o</w>", 24: "a t</w>",
    27: "o f</w>", 32: "e l", 33: "s t</w>", 46: "ð Ł", 51: "v e</w>", 56: "' s</w>", 59: "b e", 65: "m a", 70: "i r",
    73: "i t</w>", 94: "h o", 117: "c e</w>", 129: "w or", 154: "q u", 156: "ðŁ ĺ", 184: "it y</w>", 190: "a f",
    201: "' t</w>", 218: "l d</w>", 229: "p i", 236: "! !</w>", 244: "t e</w>", 299: "c ar", 304: "p ho", 314: "el l",
    335: "d on</w>", 416: "st o", 437: "be st</w>", 490: "wor ld</w>", 510: "st er", 565: "g ir", 585: "n a",
    613: "pho to</w>", 698: "l a</w>", 1099: "gir l</w>", 1179: "sto p</w>", 1182: "al ity</w>", 1651: "e ce</w>",
    1849: ") ,</w>", 1856: "c at</w>", 2000: "ell o</w>", 2242: "pi ece</w>", 2515: "qu ality</w>", 2794: "h ello</w>",
    2959: "c af", 3654: "Ã ©</w>", 4022: "ma ster", 6822: "ðŁĺ Ģ</w>", 11554: "master piece</w>", 14792: "caf Ã©</w>",
    18765: "æ ľ", 20747: "Ã ł</w>", 21753: "æ Ĺ", 35177: "Ã ¯", 38609: "æĹ ¥", 44437: "car te</w>",
}  # fmt: skip
CAPTIONS = {
    "a photo of a cat": [320, 1125, 539, 320, 2368],
    "Hello,  WORLD!! it's 1girl": [3306, 267, 1002, 748, 585, 568, 272, 1611],
    "(masterpiece:1.2), best quality": [263, 12066, 281, 272, 269, 273, 2361, 949, 3027],
    "café à la carte, naïve": [15304, 21259, 1210, 44949, 267, 1097, 35689, 563],
    "日本 😀": [39121, 19277, 361, 7334],
    "don't [stop]": [847, 713, 314, 1691, 316],
    "!": [256],
}
BEGIN, END = 49406, 49407


def merges_file() -> str:
    """A list of the real length; lines that no caption here needs join control characters, which never occur."""
    control = [chr(256 + n) for n in range(32)]
    pairs = [(a, b) for a in control for b in control]
    filler = [*pairs, *(("".join(pair), c) for pair in pairs for c in control)]
    filler += [("".join(pair), c) for pair in filler[1024:] for c in control[:1]]
    unused = iter(filler)
    lines = [MERGES[n] if n in MERGES else " ".join(next(unused)) for n in range(49408 - 512 - 2)]
    return "\n".join(["#version: 0.2", *lines, "more than is used"])


def ids_of(tokenizer: Any, captions: list[str], chunks: int = 1) -> torch.Tensor:
    return _text.tokens(tokenizer, captions, 77, _text.TextSettings(chunks=chunks)).ids


@pytest.fixture
def open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed open_clip package that must not be imported."""
    package = tmp_path / "site" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('open_clip must not be imported')")
    (package / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(merges_file().encode()))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return package


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tokenizer, "_from_hub", lambda: None)
    monkeypatch.setattr(_tokenizer, "_from_open_clip", lambda: None)


@pytest.mark.parametrize("zero_padding", [False, True])
def test_ids_are_clips(open_clip: Path, zero_padding: bool) -> None:
    found = _tokenizer.find("", "tokenizer", None, zero_padding=zero_padding)
    assert len(found) == 49408
    for caption, ids in CAPTIONS.items():
        expected = [BEGIN, *ids, END]
        padded = ids_of(found, [caption])[0, 0].tolist()
        assert padded == expected + [0 if zero_padding else END] * (77 - len(expected)), caption


def test_very_long_captions_are_cut_or_chunked(open_clip: Path) -> None:
    found = _tokenizer.find("", "tokenizer", None, zero_padding=False)
    caption = "a photo of a cat " * 40  # 200 tokens
    assert ids_of(found, [caption])[0, 0].tolist() == [BEGIN, *([320, 1125, 539, 320, 2368] * 15), END]
    chunks = ids_of(found, [caption], 3)
    assert chunks.shape == (1, 3, 77)
    inner = chunks[0, :, 1:-1].flatten().tolist()
    assert inner[:200] == [320, 1125, 539, 320, 2368] * 40 and set(inner[200:]) == {END}
    assert chunks[0, :, 0].tolist() == [BEGIN] * 3 and chunks[0, :, -1].tolist() == [END] * 3


def test_chunks_of_an_encoder_that_pads_with_zero_end_where_the_caption_does() -> None:
    tokenizer = byte_tokenizer(zero_padding=True)
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    assert end != padding
    full, short, empty = ids_of(tokenizer, ["b" * 100, "b" * 10, ""], 3)
    assert full[0, -1] == end, "a full chunk ends with the end mark"
    assert full[1, -1] == padding and end in full[1].tolist()
    assert full[2, 1] == end and set(full[2, 2:].tolist()) == {padding}, "an empty chunk begins with the end mark"
    assert short[0, -1] == padding and short[1, 1] == end
    assert empty[0, 1] == end and empty[1, 1] == end


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_three_chunks_give_225_states_that_begin_as_one_chunk_does(make: object, tmp_path: Path) -> None:
    folder = make(tmp_path / "b")  # type: ignore[operator]
    kind = StableDiffusionXL if make is tiny_sdxl else StableDiffusion
    one = kind.load(str(folder)).encode_text(["cat " * 20])
    three = kind.load(str(folder), max_tokens=225).encode_text(["cat " * 20])
    assert three.hidden.shape[1] == 227
    torch.testing.assert_close(three.hidden[:, :76], one.hidden[:, :76], atol=1e-6, rtol=1e-5)
    if one.pooled is not None:
        torch.testing.assert_close(three.pooled, one.pooled, atol=1e-6, rtol=1e-5)


def test_only_whole_chunks_can_be_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="max_tokens"):
        StableDiffusion.load(str(tiny_sd(tmp_path / "b")), max_tokens=100)


def test_joined_chunks_keep_the_first_begin_and_the_last_end() -> None:
    hidden = torch.arange(2 * 3 * 5).float().reshape(6, 5, 1)  # two captions, three chunks, five tokens
    joined = _text.join(hidden, 3)[..., 0]
    assert joined[0].tolist() == [0, 1, 2, 3, 6, 7, 8, 11, 12, 13, 14]
    assert joined[1].tolist() == [15, 16, 17, 18, 21, 22, 23, 26, 27, 28, 29]


def test_an_exclamation_mark_is_no_padding(tmp_path: Path) -> None:
    """Also where the folder's tokenizer registered its padding, "!", as a special token."""
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "b", version=2)))
    vocabulary = family.tokenizer.get_vocab()
    ids = ids_of(family.tokenizer, ["a!"])[0, 0].tolist()
    assert ids[2] == vocabulary["!</w>"] != family.tokenizer.pad_token_id == vocabulary["!"]
    assert ids[-1] == vocabulary["!"]


def test_the_places_are_searched_in_order(open_clip: Path, tmp_path: Path) -> None:
    asked, beside = tmp_path / "asked", tmp_path / "beside"
    byte_tokenizer().save_pretrained(asked)
    byte_tokenizer(zero_padding=True).save_pretrained(beside)
    assert _tokenizer.find(str(asked), "tokenizer", beside, zero_padding=False).pad_token != "!"
    assert _tokenizer.find("", "tokenizer", beside, zero_padding=False).pad_token == "!"
    assert len(_tokenizer.find("", "tokenizer", tmp_path / "none", zero_padding=False)) == 49408


def test_one_folder_serves_both_encoders_of_sdxl(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path / "t")
    first = _tokenizer.find(str(tmp_path / "t"), "tokenizer", None, zero_padding=False)
    second = _tokenizer.find(str(tmp_path / "t"), "tokenizer_2", None, zero_padding=True)
    assert first.pad_token_id == first.eos_token_id
    assert second.pad_token_id == 0


@pytest.mark.usefixtures("nowhere")
def test_without_any_tokenizer_the_four_places_are_listed(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        _tokenizer.find("", "tokenizer", tmp_path, zero_padding=False)
    for place in ("model.tokenizer", "beside the base", "hub", "open_clip"):
        assert place in str(caught.value)


def test_broken_tokenizers_are_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=str(tmp_path)):
        _tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="nothing"):
        _tokenizer.load(tmp_path / "nothing")
