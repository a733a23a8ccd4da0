"""What the settings of the noise stages share: strictness, help texts, names and the window of timesteps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

if TYPE_CHECKING:
    from torch import Tensor

Metric = Literal["euclidean", "cosine"]
Precision = Literal["float32", "float16"]
ALL_TIMESTEPS = (0, 1000)


class StageSettings(BaseModel):
    """Unknown keys are errors, and no value is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, validate_default=False)


def setting(default: Any, help: str, *, basic: bool = False, unit: str = "", **bounds: Any) -> Any:
    """A setting with its help text. `basic`: shown first in a form."""
    extra: dict[str, Any] = {"basic": basic, "unit": unit}
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _rising(window: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= window[0] < window[1] <= ALL_TIMESTEPS[1]:
        raise ValueError(f"must be [lo, hi] with 0 <= lo < hi <= 1000, found {list(window)}")
    return window


Window: TypeAlias = Annotated[tuple[int, int], BeforeValidator(_to_tuple), AfterValidator(_rising)]

WINDOW_HELP = "Act only where lo <= timestep < hi; the other samples keep plain noise."


def inside(window: tuple[int, int], timesteps: Tensor) -> Tensor | None:
    """Which samples a stage acts on, (B,) bool; None means all of them."""
    if window == ALL_TIMESTEPS:
        return None
    return (timesteps >= window[0]) & (timesteps < window[1])
