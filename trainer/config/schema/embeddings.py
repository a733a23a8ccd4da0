"""[embeddings]: new words that the text encoders learn."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainer.config.schema.base import Section, key


class EmbeddingsSettings(Section):
    """Textual inversion: the vectors of new words train, alone or together with a LoRA (pivotal tuning)."""

    words: dict[str, str] = key(
        {},
        "New words, and what their vectors begin as: { 'ohwx' = 'woman' }. Captions and prompts name them as any word. "
        "For families with CLIP text encoders; with training.unet and training.text_encoder false they train alone.",
    )
    vectors: dict[str, Annotated[int, Field(ge=1, le=75)]] = key(
        {}, "Vectors (tokens) of a word, e.g. { 'ohwx' = 4 }; else as many as what it begins as has tokens."
    )
    lr: float | None = key(None, "Learning rate of the vectors; not set = optimizer.lr.", gt=0, le=100)
    until: float | None = key(
        None,
        "The vectors stop learning after so many steps; below 1 a share of the run; not set = never.",
        gt=0,
        unit="steps",
    )
    keep_norm: bool = key(
        False,
        "After each step each vector gets the usual length of the vocabulary's vectors, as OneTrainer's "
        "preserve_embedding_norm does.",
    )
    bundle: bool = key(
        True,
        "Also put the vectors into the LoRA's file, where A1111, Forge, ComfyUI and OneTrainer find them; diffusers "
        "refuses such a file. They always lie beside it in files of their own.",
    )
