"""New words for CLIP's text encoders: tokenizers that read them, and the vectors that stand for them.

A caption's word becomes as many tokens as it has vectors. Encoders are given negative numbers for them: some of CLIP's
configs look for the end mark as the greatest number of all, and would find the word.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import AddedToken, Regex, normalizers
from torch import Tensor, nn
from torch.nn import functional

from plugins.models._modules import Network
from trainer.batch import NewWord
from trainer.errors import UserError

_STAND_INS = 0xF0000  # where Unicode's private planes begin: letters that no caption has


class Vectors(nn.Module):
    """Those of the new words of one encoder, (n, E) float32 each, in the order of their tokens."""

    def __init__(self, given: Mapping[str, Tensor], usual_length: float) -> None:
        """usual_length: of the vocabulary's own vectors."""
        super().__init__()
        self.usual_length = usual_length
        for name, tensor in given.items():
            self.register_parameter(f"<{name}>", nn.Parameter(tensor, requires_grad=False))

    @property
    def rows(self) -> Tensor:
        return torch.cat(list(self.parameters()))


class Vocabulary(nn.Embedding):
    """An encoder's own vectors, and those of new words: -1 is the first, -2 the second."""

    def __init__(self, own: nn.Embedding, new: Vectors) -> None:
        super().__init__(own.num_embeddings, own.embedding_dim, _weight=own.weight.detach(), _freeze=True)
        self.weight = own.weight
        self._new = (new,)  # in a tuple it is no part of the encoder, whose weights are saved as they were

    @property
    def learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self._new[0].parameters())

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, E). The new vectors have a gradient, of zeros where none is asked for."""
        known = super().forward(ids.clamp(min=0))
        new = functional.embedding((-1 - ids).clamp(min=0), self._new[0].rows)
        return torch.where((ids < 0)[..., None], new.to(known.dtype), known)


@dataclass(frozen=True)
class NewWords:
    """By text encoder."""

    tokenizers: Mapping[str, Any]  # that read the new words
    known: Mapping[str, int]  # how many tokens there were before
    vectors: nn.ModuleDict

    def marked(self, part: str, ids: Tensor) -> Tensor:
        """As the encoder takes them."""
        return torch.where(ids >= self.known[part], self.known[part] - 1 - ids, ids)


def learned(encoders: Mapping[str, Network], tokenizers: Mapping[str, Any], words: Sequence[NewWord]) -> NewWords:
    """Gives the encoders vectors for the words. tokenizers: by encoder; they stay as they are. Raises UserError."""
    problems = [line for word in words for part in encoders for line in _misfits(word, part, encoders[part])]
    problems += [line for tokenizer in tokenizers.values() for line in _problems(tokenizer, words)]
    if problems:
        raise UserError(dict.fromkeys(problems))
    made = {}
    for part, encoder in encoders.items():
        inner: Network = getattr(encoder, "text_model", encoder)
        own: nn.Embedding = inner.embeddings.token_embedding
        made[part] = Vectors(
            {word.name: _first(word, part, own, tokenizers[part]) for word in words},
            0.0 if own.weight.is_meta else float(own.weight.detach().float().norm(dim=1).median()),
        )
        inner.embeddings.token_embedding = Vocabulary(own, made[part])
    readers = {part: reader(tokenizer, words) for part, tokenizer in tokenizers.items()}
    return NewWords(readers, {part: len(t) for part, t in tokenizers.items()}, nn.ModuleDict(made))


def learns(encoder: Network) -> bool:
    """Whether new words of an encoder train."""
    inner: Network = getattr(encoder, "text_model", encoder)
    found = inner.embeddings.token_embedding
    return isinstance(found, Vocabulary) and found.learns


def reader(tokenizer: Any, words: Sequence[NewWord]) -> Any:
    """A tokenizer that makes of each word as many new tokens as it has vectors, of all else what it made before.

    A word is one between anything but letters, numbers and underscores, in upper or lower case. Raises UserError.
    """
    if problems := [*_problems(tokenizer, words)]:
        raise UserError(problems)
    made = copy.deepcopy(tokenizer)
    steps = [step for step in (made.backend_tokenizer.normalizer,) if step is not None]
    letters = (chr(number) for number in range(_STAND_INS, _STAND_INS + sum(_count(w, tokenizer) for w in words)))
    tokens = {word.name: "".join(next(letters) for _ in range(_count(word, tokenizer))) for word in words}
    for name in sorted(tokens, key=len, reverse=True):  # one may begin with another
        steps.append(normalizers.Replace(Regex(rf"(?i)(?<!\w){re.escape(name)}(?!\w)"), tokens[name]))
    made.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    made.add_tokens([AddedToken(token, normalized=True, special=False) for token in "".join(tokens.values())])
    return made


def _count(word: NewWord, tokenizer: Any) -> int:
    given = next(iter(word.given.values()), None)
    return len(given) if given is not None else word.vectors or len(_ids(tokenizer, word.init))


def _ids(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return found


def _problems(tokenizer: Any, words: Sequence[NewWord]) -> Iterator[str]:
    """What is wrong with words and what they begin with, as this tokenizer sees it."""
    for word in words:
        own = _ids(tokenizer, word.name)
        if len(own) == 1 and own[0] != tokenizer.unk_token_id:
            yield (
                f"embeddings.words: {word.name!r} is a word of this base's vocabulary already, with a meaning; take "
                "one that it lacks, such as one with a number at its end."
            )
        if word.given:
            continue
        first = _ids(tokenizer, word.init)
        if not first or (tokenizer.unk_token_id in first and tokenizer.unk_token_id != tokenizer.eos_token_id):
            yield (
                f"embeddings.words: {word.name!r} shall begin as {word.init!r}, which is no word of this base's "
                "vocabulary; name a word that it knows."
            )
        elif word.vectors and len(first) not in (1, word.vectors):
            yield (
                f"embeddings.vectors: {word.vectors} for {word.name!r}, but its first words {word.init!r} are "
                f"{len(first)} tokens; give words of one token or of {word.vectors}, or leave this out to have "
                f"{len(first)} vectors."
            )
        room = int(tokenizer.model_max_length) - 2
        if _count(word, tokenizer) > room:
            yield f"embeddings.vectors: {_count(word, tokenizer)} for {word.name!r}, but a caption has {room} tokens."


def _misfits(word: NewWord, part: str, encoder: Network) -> Iterator[str]:
    width = encoder.config.hidden_size
    if word.given and (part not in word.given or word.given[part].shape[-1] != width):
        found = "none" if part not in word.given else f"{word.given[part].shape[-1]} numbers"
        yield f"{word.name}: its vectors are for another base: {part} has {width} numbers a token, found {found}."


def _first(word: NewWord, part: str, own: nn.Embedding, tokenizer: Any) -> Tensor:
    """(n, E) float32: vectors that are given, or copies of the vocabulary's."""
    if word.given:
        return word.given[part].detach().float().clone()
    ids = _ids(tokenizer, word.init)
    rows = own.weight.detach()[torch.tensor(ids if len(ids) > 1 else ids * _count(word, tokenizer))]
    return rows.float().clone()
