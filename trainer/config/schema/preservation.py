"""[preservation]: what is kept of the base while something new is learned."""

from __future__ import annotations

from typing import Literal

from trainer.config.schema.base import Section, key


class PreservationSettings(Section):
    """Holds the network to what the base answers; images with prior_prediction do so, too."""

    words: dict[str, str] = key(
        {},
        "What is learned, and what it is one of: { 'ohwx' = 'woman' }. Each image is asked about once more with the "
        "word replaced, and there the answer has to stay the base's (differential output preservation).",
    )
    blank: bool = key(
        False,
        "Each image is asked about once more without any caption, and there the answer has to stay the base's.",
    )
    weight: float = key(1.0, "Weight of these second answers in the loss.", gt=0, le=1000)
    outside_mask: float = key(
        0.0,
        "Outside an image's loss mask the answer has to stay the base's, with this weight; 0 = nothing is asked there.",
        ge=0,
        le=1000,
    )
    share: float = key(
        1.0, "Share of the steps that do so, evenly; the weight is not raised in return. Fewer cost less.", gt=0, le=1
    )
    copy_precision: Literal["bf16", "fp16", "fp32"] = key(
        "bf16", "Full fine-tune: storage of the frozen copy of the base that is asked. A LoRA needs no copy."
    )
    copy_place: Literal["device", "host"] = key(
        "device", "Full fine-tune: where the copy lies. From the host's memory it comes anew each time it is asked."
    )

    @property
    def again(self) -> int:
        """Questions that are asked, and learned from, once more in a step."""
        return bool(self.words) + self.blank

    @property
    def asked(self) -> bool:
        return bool(self.again or self.outside_mask)
