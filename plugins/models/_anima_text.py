"""Anima's captions: Qwen3's states of them, and T5's ids; the conditioner makes of both what the transformer reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from plugins.models import _hub
from plugins.models._anima_config import TOKENS
from plugins.models._anima_files import PROGRAMS, TOKENIZERS, Source
from plugins.models._modules import Network
from trainer.batch import TextStates, sent
from trainer.errors import UserError

_HUB = {"tokenizer": "Qwen/Qwen3-0.6B", "t5_tokenizer": "google-t5/t5-base"}
_HUB_FILES = ("tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json")
_FILES = ("tokenizer.json", "vocab.json")
# No mask but the causal one, which attention knows itself: making one reads numbers, which meta tensors have not.
_CAUSAL = {"full_attention": None}


def find(source: Source, asked: str, vocabularies: Mapping[str, int]) -> dict[str, Any]:
    """Both tokenizers by their folders' names. vocabularies: how many ids the networks know. Raises UserError that
    lists where it was looked for.

    In this order: the folder `asked` for with a folder for each, the places beside the base, ComfyUI's and sd-scripts'
    own copies above it, the hub (its cache first).
    """
    return {name: find_one(name, source, asked, vocabularies[name]) for name in TOKENIZERS}


def find_one(name: str, source: Source, asked: str, vocabulary: int) -> Any:
    """One of them; vocabulary: how many ids its network knows."""
    places = [Path(asked) / name] if asked else source.tokenizers(name)
    folder = next((place for place in places if _holds_tokenizer(place)), None) or (None if asked else _from_hub(name))
    if folder is None:
        looked = ", ".join(map(str, places))
        more = "" if asked else f", and for {_HUB[name]} on the hub and in its cache"
        raise UserError(
            f"model.tokenizer: {name} was found nowhere (looked in {looked}{more}). Name a folder with the folders "
            f"{' and '.join(TOKENIZERS)}: Qwen3's vocab.json and merges.txt, and T5's tokenizer.json, as ComfyUI has "
            f"them in {' and '.join(PROGRAMS[n][0] for n in TOKENIZERS)}."
        )
    found = load(folder)
    if len(found) > vocabulary:
        raise UserError(
            f"{folder}: the tokenizer has {len(found)} tokens but the network only {vocabulary}; they do not belong "
            "together"
        )
    return found


def load(folder: Path) -> Any:
    """Raises UserError."""
    kind: Any = PreTrainedTokenizerFast if (folder / "tokenizer.json").is_file() else Qwen2Tokenizer
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust library behind it raises plain Exception for broken files
        raise UserError(f"{folder}: the tokenizer cannot be read ({error})") from error


def _holds_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _FILES)


def _from_hub(name: str) -> Path | None:
    for cached in (True, False):
        try:
            folder = _hub.snapshot(_HUB[name], _HUB_FILES, cached=cached)
        except (OSError, ValueError):  # not in the cache; then: no network, or told to stay offline
            continue
        if _holds_tokenizer(folder):
            return folder
    return None


def encode(encoder: Network, tokenizers: Mapping[str, Any], captions: Sequence[str]) -> TextStates:
    """hidden (B, T, E) float32, Qwen3's last states; words (B, W) long, T5's ids; and the mask of each.

    Captions are encoded one by one without any padding, so that the states of one depend on no other. One without
    tokens has a single state of zeros: attention to it gives the zeros that a mask without any token means.
    """
    return TextStates.cat([_encoded(encoder, tokenizers, caption) for caption in captions])


def _encoded(encoder: Network, tokenizers: Mapping[str, Any], caption: str) -> TextStates:
    ids, words = (_ids(tokenizers[name], caption) for name in TOKENIZERS)
    if ids.shape[1]:
        given = sent(ids, encoder.device)
        hidden = encoder(input_ids=given, attention_mask=_CAUSAL, use_cache=False).last_hidden_state.float()
    else:
        hidden = torch.zeros(1, 1, encoder.config.hidden_size, device=encoder.device)
    words = sent(words, encoder.device)
    mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=encoder.device)
    return TextStates({"hidden": hidden, "hidden_mask": mask, "words": words, "words_mask": torch.ones_like(words)})


def _ids(tokenizer: Any, caption: str) -> Tensor:
    """(1, T) long; empty where there is nothing to read."""
    found = tokenizer(caption, truncation=True, max_length=TOKENS).input_ids
    return torch.tensor([found], dtype=torch.long)


def recipe(tokenizers: Mapping[str, Any]) -> str:
    """What decides the states of a caption besides weights."""
    told = [hashlib.sha256(t.backend_tokenizer.to_str().encode()).hexdigest() for t in tokenizers.values()]
    return f"{TOKENS} {' '.join(told)}"
