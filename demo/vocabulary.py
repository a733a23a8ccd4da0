"""Makes the demo's tokenizer: CLIP's kind of byte-pair encoding, with a vocabulary so small that it fits the captions.

Every word of a caption is one token; any other word is spelt in pieces. Saved in CLIP's own files, so that whatever
reads Stable Diffusion's tokenizer reads this one.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from demo import colours
from demo.printed import DIGITS, LETTERS, STYLES

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 16  # tokens in a prompt, with start and end
WORD_END = "</w>"


def words() -> list[str]:
    """Every word of every caption, in the tokenizer's lower case."""
    letters = [letter.lower() for letter in LETTERS]
    return sorted({"a", "an", "on", "digit", "letter", "handwritten", *STYLES, *DIGITS, *letters, *colours.NAMED})


def merges(of: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909) until every word is one token."""
    pieces = {word: [*word[:-1], word[-1] + WORD_END] for word in of}
    learnt = []
    while pairs := Counter(pair for parts in pieces.values() for pair in pairwise(parts)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learnt.append(best)
        pieces = {word: _merge(parts, best) for word, parts in pieces.items()}
    return learnt


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def build() -> Any:
    """The tokenizer, a `transformers.CLIPTokenizer`."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    kind: Any = CLIPTokenizer
    learnt = merges(words())
    characters = sorted(ByteLevel.alphabet())
    tokens = [*characters, *(c + WORD_END for c in characters), *(a + b for a, b in learnt), START, END]
    return kind(
        vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))},
        merges=learnt,
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=LENGTH,
    )


def save(folder: Path) -> int:
    """Writes the tokenizer and returns the number of its tokens."""
    tokenizer = build()
    tokenizer.save_pretrained(folder)
    return len(tokenizer)
