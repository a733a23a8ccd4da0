"""What every section of the config file is made of: keys with type, bounds, default and help text."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from trainer.config.intervals import Interval


class Section(BaseModel):
    """A table of the file: unknown keys are errors, and no value is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


# What must be at a path. "base": a file or a folder, else it is a hub id; "made": the run makes it.
Wanted = Literal["file", "folder", "either", "base", "made"]


def key(
    default: Any,
    help: str,
    *,
    basic: bool = False,
    unit: str = "",
    path: Wanted | Literal[""] = "",
    models_own: bool = False,
    **bounds: Any,
) -> Any:
    """A config key. `basic`: shown first in the UI; `path`: what must be there; relative to the file it stands in, made
    absolute when it is read; `models_own`: where it is not written a model may have its own, so what is written out
    leaves it out too. Its names in other trainers stand in trainer.config.foreign."""
    extra: dict[str, Any] = {"basic": basic, "unit": unit, "path": path, "models_own": models_own}
    if isinstance(default, (list, dict)):
        return Field(default_factory=default.copy, description=help, json_schema_extra=extra, **bounds)
    return Field(default, description=help, json_schema_extra=extra, **bounds)


def extra(field: FieldInfo) -> dict[str, Any]:
    """What `key` was told about a field beyond pydantic's own."""
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}


def left_to_the_model(section: BaseModel) -> frozenset[str]:
    """The keys of a section that were not written and that a model may have its own for."""
    fields = type(section).model_fields
    return frozenset(n for n, field in fields.items() if extra(field).get("models_own")) - section.model_fields_set


Values = TypeVar("Values", bound=BaseModel)


def changed(values: Values, **others: Any) -> Values:
    """The same values with some others, checked as if they had been read: pydantic's own copy checks nothing.

    Raises pydantic.ValidationError when they do not fit together.
    """
    found = type(values).model_validate(dict(values) | others)
    found.model_fields_set.intersection_update(values.model_fields_set | others.keys())
    return found


def _to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Size = Annotated[tuple[int, int], BeforeValidator(_to_tuple)]


FloatPair = Annotated[tuple[float, float], BeforeValidator(_to_tuple)]


def _interval(value: int | str) -> int | str:
    Interval.parse(value)
    return value


Every = Annotated[Annotated[int, Field(ge=0)] | str, AfterValidator(_interval)]  # read by trainer.config.intervals
