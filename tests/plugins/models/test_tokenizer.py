"""Tokenizers: CLIP's ids from the list of merges, where they are looked for, chunks, padding."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
import unicodedata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from plugins.models import _text, _tokenizer
from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import byte_tokenizer, tiny_sd, tiny_sdxl
from trainer.errors import UserError

# The ids are those of OpenAI's own tokenizer.
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


@functools.cache
def installed_vocabulary() -> Path:
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.origin, "open_clip_torch is not installed; run: python launch.py setup"
    return Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz")


def ids_of(tokenizer: Any, captions: list[str], chunks: int = 1) -> torch.Tensor:
    return _text.tokens(tokenizer, captions, 77, _text.TextSettings(chunks=chunks)).ids


@pytest.fixture
def open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installed open_clip's vocabulary in a package that must not be imported: the real one needs torchvision."""
    vocabulary = installed_vocabulary()
    package = tmp_path / "site" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('open_clip must not be imported')")
    shutil.copy(vocabulary, package)
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


@pytest.fixture
def open_clips_own(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The tokenizer of the open_clip package itself, of which nothing else is imported."""
    repair = ModuleType("ftfy")  # not installed; all that it does to text that is not broken is this
    repair.fix_text = lambda text: unicodedata.normalize("NFC", text)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ftfy", repair)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    spec = importlib.util.spec_from_file_location(
        "open_clip_tokenizer", installed_vocabulary().with_name("tokenizer.py")
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


STRANGE = [
    "",
    " ",
    "a photo of a cat",
    "((masterpiece)), (best quality:1.3), [lowres], {8k}",
    "1girl, solo, looking_at_viewer, 20 years-old, 3.5mm f/1.8",
    "ohwx sks zwx_style v2.0",
    "Ünïcödé façade, jalapeño, Ærøskøbing, straße, İstanbul, ŁÓDŹ",
    "e\u0301 combining against \u00e9 composed",
    "日本の風景, 한국어, Привет мир, مرحبا, हिन्दी, ภาษาไทย",
    "😀👍🏽👩‍👩‍👧‍👦 🇩🇪 ❤️ flags and families",
    "it's we're they'll I've I'd he'S O'Neill ''quoted''",
    "tabs\tand\nnewlines\r\n   many   blanks",
    "!!! ... --- ___ ### $$$ @@@ ~~~ |a|b| <lora:name:0.8>",
    "½ ² ① Ⅷ 百 1234567890",
    "a" * 300,
    "word " * 500,
    "C:\\path\\file.png https://example.org/?q=1&r=2#top",
]


@pytest.mark.parametrize("caption", STRANGE, ids=range(len(STRANGE)))
def test_ids_equal_open_clips_own(open_clip: Path, open_clips_own: Any, caption: str) -> None:
    found = _tokenizer.find("", "tokenizer", None, zero_padding=False)
    assert found(caption, add_special_tokens=False).input_ids == open_clips_own.encode(caption)


def test_the_vocabulary_is_open_clips_own(open_clip: Path, open_clips_own: Any) -> None:
    found = _tokenizer.find("", "tokenizer", None, zero_padding=False)
    assert found.get_vocab() == {
        token.replace("<start_of_text>", "<|startoftext|>").replace("<end_of_text>", "<|endoftext|>"): number
        for token, number in open_clips_own.encoder.items()
    }


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
    assert three["hidden"].shape[1] == 227
    torch.testing.assert_close(three["hidden"][:, :76], one["hidden"][:, :76], atol=1e-6, rtol=1e-5)
    if "pooled" in one:
        torch.testing.assert_close(three["pooled"], one["pooled"], atol=1e-6, rtol=1e-5)


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
