"""Finds CLIP's tokenizer, loads it, and writes it so that every tool can read it."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from plugins.models import _hub
from plugins.models._diffusers_folder import write_json
from trainer.errors import UserError
from trainer.files.tensor_file import read_json

_FILES = ("tokenizer.json", "vocab.json")
_HUB = "openai/clip-vit-large-patch14"
_HUB_FILES = ("vocab.json", "merges.txt", "tokenizer*.json", "special_tokens_map.json")
_WORDS = 49_408  # of CLIP's vocabulary
_POSITIONS = 77
_PAD_WITH_ZERO = "!"  # OpenCLIP pads with id 0, whose token is this


def find(asked: str, part: str, beside: Path | None, *, zero_padding: bool) -> Any:
    """The tokenizer of a part ("tokenizer", "tokenizer_2"). Raises UserError that lists where it was looked for.

    In this order: the folder `asked` for (or its subfolder of the part's name), the folder `beside` the base, the hub
    (its cache first), the vocabulary of an installed open_clip package. `zero_padding`: for the last two, and for a
    folder that serves several parts, pad with id 0 as OpenCLIP does, instead of with the end mark.
    """
    if asked:
        folder = Path(asked)
        own = _holds_tokenizer(folder / part)
        return load(folder / part if own else folder, zero_padding=zero_padding and not own)
    if beside is not None and _holds_tokenizer(beside):
        return load(beside)
    words = _from_hub() or _from_open_clip()
    if words is None:
        looked = f"beside the base ({beside})" if beside else "beside the base"
        raise UserError(
            f"no tokenizer: looked in model.tokenizer (empty), {looked}, for {_HUB} on the hub and in its cache, "
            "and for an installed open_clip package. Set model.tokenizer to a folder with vocab.json and merges.txt, "
            "or run: pip install --no-deps open_clip_torch"
        )
    return _clip(*words, _POSITIONS, _PAD_WITH_ZERO if zero_padding else "")


def load(folder: Path, *, zero_padding: bool = False) -> Any:
    """The tokenizer in a folder: CLIP's, or whatever its tokenizer.json describes. Raises UserError."""
    if not _holds_tokenizer(folder):
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
    if not isinstance(tokenizer, CLIPTokenizer):
        return tokenizer
    model = _model(tokenizer)
    padding = _PAD_WITH_ZERO if zero_padding and _PAD_WITH_ZERO in model["vocab"] else tokenizer.pad_token
    return _clip(model["vocab"], model["merges"], int(tokenizer.model_max_length), padding)


def check(tokenizer: Any, vocabulary: int, where: str) -> None:
    """Raises UserError when the tokenizer knows ids that a text encoder with `vocabulary` embeddings does not."""
    if len(tokenizer) > vocabulary:
        raise UserError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens but the text encoder only {vocabulary}; "
            "they do not belong together"
        )


def class_name(tokenizer: Any) -> str:
    """The class that model_index.json names, one that transformers 4 has too."""
    return "CLIPTokenizer" if isinstance(tokenizer, CLIPTokenizer) else "PreTrainedTokenizerFast"


def save(tokenizer: Any, folder: Path) -> None:
    """Writes the tokenizer; a byte-pair one also as vocab.json and merges.txt, which older tools need."""
    tokenizer.save_pretrained(folder)
    model = _model(tokenizer)
    if model.get("type") == "BPE" and not (folder / "merges.txt").exists():
        write_json(folder / "vocab.json", model["vocab"])
        lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


def _holds_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _FILES)


def _model(tokenizer: Any) -> dict[str, Any]:
    """Vocabulary and merges (as pairs) of a tokenizer."""
    model: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pairs = [tuple(p.split(" ")) if isinstance(p, str) else tuple(p) for p in model.get("merges", [])]
    return {**model, "merges": pairs}


def _clip(vocabulary: dict[str, int], merges: list[tuple[str, ...]], positions: int, padding: str) -> CLIPTokenizer:
    """CLIP's tokenizer. The padding token is set afterwards: given to the constructor it would become a special token,
    and every "!" in a caption would turn into padding (id 0 instead of 256, which the models were trained with)."""
    pairs: Any = merges  # annotated as lines, but pairs are what its Rust model takes
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=positions)
    if padding:
        tokenizer.pad_token = padding
    return tokenizer


def _from_hub() -> tuple[dict[str, int], list[tuple[str, ...]]] | None:
    for cached in (True, False):
        try:
            model = _model(CLIPTokenizer.from_pretrained(_hub.snapshot(_HUB, _HUB_FILES, cached=cached)))
        except (OSError, ValueError):  # not in the cache; then: no network, or told to stay offline
            continue
        if len(model["vocab"]) == _WORDS:
            return model["vocab"], model["merges"]
    return None


def _from_open_clip() -> tuple[dict[str, int], list[tuple[str, ...]]] | None:
    """CLIP's vocabulary from an installed open_clip, which is not imported: it would ask for torchvision."""
    spec = importlib.util.find_spec("open_clip")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "bpe_simple_vocab_16e6.txt.gz"
        if path.is_file():
            return vocabulary_of(gzip.decompress(path.read_bytes()).decode("utf-8"))
    return None


def vocabulary_of(text: str) -> tuple[dict[str, int], list[tuple[str, ...]]]:
    """(vocabulary, merges) from OpenAI's list of merges: 256 bytes, the same at a word's end, the merges, two marks."""
    count = _WORDS - 2 * 256 - 2
    merges = [tuple(line.split()) for line in text.split("\n")[1 : count + 1]]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in visible] + [chr(256 + n) for n in range(256 - len(visible))]
    joined = ["".join(pair) for pair in merges]
    words = [*letters, *(letter + "</w>" for letter in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}, merges
