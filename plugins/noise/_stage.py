"""What every noise stage is made of: the defaults of all that a stage may say about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainer.batch import NoiseContext, NoiseDraw
    from trainer.protocols import Phase

    from ._moments import Moments
    from ._settings import StageSettings

Pool = int | Literal["batch", "step"]


class Stage:
    """Base of the stages. What a stage overrides is told in trainer.protocols.NoiseStage, whose defaults stand here.

    A stage gives `Settings`, `headline`, `phase`, `example`, `active` and `__call__`.
    """

    Settings: ClassVar[type[StageSettings]]
    headline: ClassVar[str]
    phase: ClassVar[Phase]
    example: ClassVar[dict[str, object]]
    sweep: ClassVar[tuple[int, ...]] = ()
    network: ClassVar[bool] = False
    repeats: ClassVar[bool] = False
    remembers: ClassVar[bool] = False
    pool: Pool = 0

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @classmethod
    def active(cls, settings: Any) -> bool:
        raise NotImplementedError

    @classmethod
    def metadata(cls, settings: Any) -> dict[str, object]:
        return {f"ss_noise_{cls.__module__.rpartition('.')[2]}": settings.model_dump_json()}

    @classmethod
    def remark(cls, settings: Any, batch_size: int, accumulation: int) -> str | None:
        return None

    @classmethod
    def remark_on(cls, settings: Any, captions: Sequence[str]) -> str | None:
        return None

    @classmethod
    def information(cls, settings: Any, together: int) -> float | None:
        return None

    @classmethod
    def moments(cls, settings: Any, dim: int, rms: float) -> Moments | None:
        return None

    def state_dict(self) -> Mapping[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def __call__(self, draw: NoiseDraw, context: NoiseContext) -> NoiseDraw:
        raise NotImplementedError
