"""[slider]: training by pairs of prompts, without any image."""

from __future__ import annotations

from typing import Literal

from trainer.config.schema.base import Section, Size, key


class _Asked(Section):
    """What pairs and targets have in common."""

    guidance_scale: float = key(
        1.0, "How far the target lies from the neutral answer, in differences of the two prompts.", ge=0, le=1000
    )
    resolution: int | Size = key(512, "Pixels of the pictures that are begun: one number or [width, height].")
    dynamic_resolution: bool = key(
        False, "Each side is drawn each time, in steps of 64, from half the resolution to all of it; for squares."
    )
    batch_size: int = key(1, "Pictures that are begun at once.", ge=1)
    dynamic_crops: bool = key(
        False, "SDXL: tell sizes and crops as of larger pictures, drawn each time, instead of whole ones."
    )
    multiplier: float = key(
        1.0, "Strength of the LoRA that is taught this; below 0 it is taught what it shall do at negative strength."
    )
    weight: float = key(1.0, "Weight in the loss.", gt=0, le=1000)

    @property
    def size(self) -> Size:
        """(width, height)"""
        return (self.resolution,) * 2 if isinstance(self.resolution, int) else self.resolution


class PromptPair(_Asked):
    """One [[slider.prompts]]: LECO's form."""

    target: str = key("", "The prompt whose answer is changed; '' is every picture's.")
    positive: str | None = key(None, "The concept; not set = target.")
    unconditional: str = key("", "What the concept is told apart from.")
    neutral: str | None = key(None, "The prompt whose answer the change begins at; not set = unconditional.")
    action: Literal["erase", "enhance"] = key("erase", "erase goes away from the concept, enhance towards it.")

    @property
    def concept(self) -> str:
        return self.target if self.positive is None else self.positive

    @property
    def start(self) -> str:
        return self.unconditional if self.neutral is None else self.neutral

    @property
    def guidance(self) -> float:
        """Below 0 away from the concept."""
        return self.guidance_scale if self.action == "enhance" else -self.guidance_scale

    @property
    def teaches(self) -> bool:
        """Whether the target is another than the base's own answer."""
        return self.start != self.target or (self.guidance_scale != 0 and self.concept != self.unconditional)

    @property
    def title(self) -> str:
        """For a person: what is done to which prompt."""
        at = "" if self.multiplier == 1 else f" at strength {self.multiplier:g}"
        return f"{self.action} {self.concept!r} (against {self.unconditional!r}) in {self.target!r}{at}"


class SliderTarget(_Asked):
    """One [[slider.targets]]: ai-toolkit's form, which works at positive and at negative strength."""

    target_class: str = key("", "The prompt whose answer is changed; '' is every picture's.")
    positive: str = key("", "What more strength brings.")
    negative: str = key("", "What less strength brings, the opposite.")
    neutrals: list[str] = key([], "Prompts whose answers the change begins at, each with pairs of its own; [] = ''.")

    @property
    def pairs(self) -> list[PromptPair]:
        """One for positive and one for negative strength. sd-scripts lists each twice, also as its mirror image: away
        from the one is towards the other."""
        once, back = self.multiplier, -self.multiplier
        ways: list[tuple[str, str, Literal["erase", "enhance"], float]]
        if self.positive and self.negative:
            ways = [
                (self.positive, self.negative, "enhance", once),
                (self.negative, self.positive, "enhance", back),
            ]
        elif self.negative:
            ways = [(self.negative, "", "erase", once), (self.negative, "", "enhance", back)]
        else:
            ways = [(self.positive, "", "enhance", once), (self.positive, "", "erase", back)]
        shared = {name: getattr(self, name) for name in _Asked.model_fields}
        return [
            PromptPair.model_validate(
                shared
                | {"target": self.target_class, "positive": one, "unconditional": other, "neutral": neutral}
                | {"action": action, "multiplier": strength}
            )
            for neutral in self.neutrals or [""]
            for one, other, action, strength in ways
        ]


class SliderSettings(Section):
    """Changes what the base makes of a prompt, by what it knows itself (LECO): needs prompts, and no images."""

    prompts_file: str = key("", "Takes pairs and targets from a file: sd-scripts' TOML, or LECO's YAML.", path="file")
    prompts: list[PromptPair] = key([], "Pairs of prompts; each is asked about once an epoch.")
    targets: list[SliderTarget] = key([], "Sliders with two ends, which are made into pairs.")
    denoising_steps: int = key(
        40, "Steps of the denoising that makes the pictures to ask about; a random part of them is done.", ge=2, le=1000
    )
    denoising_guidance: float = key(3.0, "Guidance scale of that denoising; 1 asks the network half as often.", ge=0)

    @property
    def asked(self) -> bool:
        return bool(self.prompts or self.targets)

    @property
    def pairs(self) -> list[PromptPair]:
        """Everything that is taught."""
        return [*self.prompts, *(pair for target in self.targets for pair in target.pairs)]

    @property
    def together(self) -> int:
        """Prompts that a step of the denoising asks about at once."""
        return 1 if self.denoising_guidance == 1 else 2

    @property
    def asks(self) -> float:
        """How often a step asks the base, on the average: once for each different prompt."""
        asked = [{p.start, *((p.concept, p.unconditional) if p.guidance else ())} for p in self.pairs]
        return sum(map(len, asked)) / len(asked)
