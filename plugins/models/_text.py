"""Captions to text states: chunks of 75 tokens, weighted words and the layer that is used, as kohya does them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plugins.models import _new_words, _prompt_weights
from plugins.models._modules import Network
from trainer.batch import sent
from trainer.errors import UserError

_SHARE = 75  # tokens of a caption in one chunk of CLIP's 77
_MARKS = 2  # begin and end


@dataclass(frozen=True)
class TextSettings:
    clip_skip: int = 0  # 0 or 1 = the last layer, n = the n-th from the end (SD 1.x and 2.x)
    chunks: int = 1  # of as many tokens as the tokenizer has positions, less two: 75, 150, 225 for CLIP

    weighted: bool = False  # whether "(word:1.3)" weights a word, as in A1111's web UI

    @classmethod
    def of(cls, clip_skip: int, max_tokens: int, weighted: bool) -> TextSettings:
        """max_tokens: kohya's 75, 150 or 225. Raises UserError for another number."""
        if max_tokens < _SHARE or max_tokens % _SHARE:
            raise UserError(f"model.max_tokens: {max_tokens}; expected 75, 150 or 225 (whole chunks of {_SHARE})")
        return cls(clip_skip, max_tokens // _SHARE, weighted)


def room(tokenizer: Any, max_tokens: int) -> int:
    """Tokens of a caption that are read: `max_tokens` are whole chunks, each with begin and end beside its share."""
    positions = min(int(tokenizer.model_max_length), _SHARE + _MARKS)
    return max_tokens // _SHARE * (positions - _MARKS)


@dataclass(frozen=True)
class Encoded:
    hidden: Tensor  # (B, T, E) float32
    pooled: Tensor | None  # (B, P) float32, where the encoder has a projection


@dataclass(frozen=True)
class Tokens:
    ids: Tensor  # (B, chunks, T) long
    weights: Tensor | None = None  # (B, chunks * (T - 2) + 2), of each joined state


def tokens(tokenizer: Any, captions: Sequence[str], positions: int, settings: TextSettings) -> Tokens:
    """Captions as ids, with T the smaller of the tokenizer's length and `positions`.

    Longer captions are cut. With several chunks each has a begin mark, its share of the caption and a last token:
    padding where the tokenizer pads with its end mark; otherwise (OpenCLIP) the end mark when the chunk is full, and
    an empty chunk begins with the end mark.
    """
    length = min(int(tokenizer.model_max_length), positions)
    total = settings.chunks * (length - 2) + 2
    if settings.weighted:
        whole, weights = _weighted(tokenizer, captions, total)
        return Tokens(_split(whole, settings.chunks, tokenizer), weights)
    given = list(captions)
    encoded = tokenizer(given, padding="max_length", truncation=True, max_length=total, return_tensors="pt")
    return Tokens(_split(encoded.input_ids, settings.chunks, tokenizer))


def _weighted(tokenizer: Any, captions: Sequence[str], total: int) -> tuple[Tensor, Tensor]:
    """(ids, weights), both (B, total), of captions with A1111's marks; marks and padding weigh 1."""
    begin, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    rows, weights = [], []
    for caption in captions:
        words, factors = [], []
        for fragment in _prompt_weights.parse(caption):
            found = tokenizer(fragment.text, add_special_tokens=False).input_ids
            words += found
            factors += [fragment.weight] * len(found)
        words, factors = words[: total - 2], factors[: total - 2]
        rest = total - 2 - len(words)
        rows.append([begin, *words, end, *[padding] * rest])
        weights.append([1.0, *factors, 1.0, *[1.0] * rest])
    return torch.tensor(rows), torch.tensor(weights)


def _split(whole: Tensor, chunks: int, tokenizer: Any) -> Tensor:
    """(B, chunks * share + 2) -> (B, chunks, share + 2)."""
    if chunks == 1:
        return whole[:, None, :]
    share = (whole.shape[1] - 2) // chunks
    first, last = whole[:, :1], whole[:, -1:]
    parts = [torch.cat([first, whole[:, 1 + n * share : 1 + (n + 1) * share], last], dim=1) for n in range(chunks)]
    split = torch.stack(parts, dim=1)
    return split if tokenizer.pad_token_id == tokenizer.eos_token_id else _end_marks(split, tokenizer)


def _end_marks(split: Tensor, tokenizer: Any) -> Tensor:
    """The end marks that chunks need when padding is another token. split: (B, chunks, T)."""
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    marked = split.clone()
    full = (split[..., -2] != end) & (split[..., -2] != padding)
    marked[..., -1] = torch.where(full, end, split[..., -1])
    empty = split[..., 1] == padding
    marked[..., 1] = torch.where(empty, end, split[..., 1])
    return marked


def encode(encoder: Network, given: Tokens, *, layer_from_end: int, final_norm: bool) -> Encoded:
    """Encodes each chunk by itself, joins the states to begin + all shares + last, and weights them.

    layer_from_end: 1 = after the last layer, 2 = after the last but one, ...; final_norm: apply the final layer norm to
    it. The pooled states are those of the first chunk. A frozen encoder takes one caption at a time: how a batch is put
    together changes the last bits, and cached states must equal live ones.
    """
    if torch.is_grad_enabled() and _trains(encoder):
        encoded = _encode(encoder, given.ids, layer_from_end, final_norm)
    else:
        with torch.no_grad():
            each = [_encode(encoder, one, layer_from_end, final_norm) for one in given.ids.split(1)]
        pooled = [e.pooled for e in each if e.pooled is not None]
        encoded = Encoded(torch.cat([e.hidden for e in each]), torch.cat(pooled) if pooled else None)
    if given.weights is None:
        return encoded
    return Encoded(encoded.hidden * sent(given.weights, encoded.hidden.device)[..., None], encoded.pooled)


def _trains(encoder: Network) -> bool:
    return _new_words.learns(encoder) or any(parameter.requires_grad for parameter in encoder.parameters())


def _encode(encoder: Network, chunked: Tensor, layer_from_end: int, final_norm: bool) -> Encoded:
    count, chunks, length = chunked.shape
    flat = sent(chunked.reshape(count * chunks, length), encoder.device)
    out = encoder(flat, output_hidden_states=layer_from_end > 1)
    if layer_from_end == 1 and final_norm:
        hidden = out.last_hidden_state
    else:
        hidden = out.hidden_states[-layer_from_end]
        hidden = final_layer_norm(encoder)(hidden) if final_norm else hidden
    pooled = getattr(out, "text_embeds", None)
    first = None if pooled is None else pooled[::chunks].float()
    return Encoded(join(hidden.float(), chunks), first)


def join(hidden: Tensor, chunks: int) -> Tensor:
    """(B * chunks, T, E) -> (B, chunks * (T - 2) + 2, E): begin of the first chunk, all shares, last of the last."""
    if chunks == 1:
        return hidden
    apart = hidden.unflatten(0, (-1, chunks))  # (B, chunks, T, E)
    shares = apart[:, :, 1:-1].flatten(1, 2)
    return torch.cat([apart[:, 0, :1], shares, apart[:, -1, -1:]], dim=1)


def final_layer_norm(encoder: Network) -> Network:
    """transformers 5 has it at the top, in encoders with a projection inside `text_model`."""
    inner: Network = getattr(encoder, "text_model", encoder)
    return inner.final_layer_norm


def check_skip(clip_skip: int, encoder: Network, where: str) -> None:
    """Raises UserError when there are fewer layers than are to be skipped."""
    layers = encoder.config.num_hidden_layers
    if clip_skip > layers:
        raise UserError(f"{where}: clip_skip = {clip_skip}, but the text encoder has only {layers} layers")
