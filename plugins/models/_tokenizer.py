"""Loads a tokenizer, turns captions into ids, and writes it so that every tool can read it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from plugins.models._diffusers_folder import write_json
from trainer.errors import UserError
from trainer.tensor_file import read_json

_FILES = ("tokenizer.json", "vocab.json")


def load(folder: Path) -> Any:
    """The tokenizer in a folder: CLIP's, or whatever its tokenizer.json describes. Raises UserError."""
    if not any((folder / name).is_file() for name in _FILES):
        raise UserError(f"{folder}: no tokenizer (looked for {' and '.join(_FILES)})")
    settings = folder / "tokenizer_config.json"
    named = str(read_json(settings).get("tokenizer_class", "")) if settings.is_file() else ""
    kind = CLIPTokenizer if named.startswith("CLIP") or not named else PreTrainedTokenizerFast
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust library behind it raises plain Exception for broken files
        raise UserError(f"{folder}: the tokenizer cannot be read ({error})") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"{folder}: the tokenizer has no padding token; set pad_token in tokenizer_config.json")
    return tokenizer


def check(tokenizer: Any, vocabulary: int, where: str) -> None:
    """Raises UserError when the tokenizer knows ids that a text encoder with `vocabulary` embeddings does not."""
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens but the text encoder only {vocabulary}; "
            "they do not belong together"
        )


def ids(tokenizer: Any, captions: Sequence[str], positions: int) -> Tensor:
    """(B, T) long: every caption padded or cut to T, the smaller of the tokenizer's length and `positions`."""
    length = min(int(tokenizer.model_max_length), positions)
    encoded = tokenizer(list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return encoded.input_ids


def class_name(tokenizer: Any) -> str:
    """The class that model_index.json names, one that transformers 4 has too."""
    return "CLIPTokenizer" if isinstance(tokenizer, CLIPTokenizer) else "PreTrainedTokenizerFast"


def save(tokenizer: Any, folder: Path) -> None:
    """Writes the tokenizer; a byte-pair one also as vocab.json and merges.txt, which older tools need."""
    tokenizer.save_pretrained(folder)
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if model.get("type") == "BPE" and not (folder / "merges.txt").exists():
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        write_json(folder / "vocab.json", model["vocab"])
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
