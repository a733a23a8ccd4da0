"""A valid value for every key of the config that is not its default, made from the schema."""

from __future__ import annotations

from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from trainer.config import keys as config_keys
from ui.draft.fields import Field, all_fields

# Lists whose members depend on each other.
PAIRS = {"timesteps": [10, 900], "resolution": [96, 64], "face_crop_aug_range": [1.5, 2.5], "weights": [1.0, 2.5, 1.0]}


def schema() -> dict[str, FieldInfo]:
    return dict(config_keys.keys())


def another(field: Field) -> Any:
    """A value that the schema accepts for this key alone, as it stands in TOML."""
    if field.kind in ("switch", "presence"):
        return not field.default
    if field.kind == "choice":
        return next(c for c in field.choices if c not in ("", field.default))
    if field.kind == "text":
        return 'a "b" ü, c '.strip() if field.is_path else ' a "b" ü, c '
    if field.kind == "lines":
        return ["a photo of a cat", "two, words"]
    if field.kind == "list":
        return PAIRS.get(field.name) or [member(field, 1), member(field, 2)]
    if field.kind == "table":
        return {"a tag": member(field, 1), "b": member(field, 2)}
    return number(schema()[field.key])


def member(field: Field, place: int) -> int | float:
    """A member of a list or table of whole numbers, or of shares."""
    return place if "int" in str(schema()[field.key].annotation) else place / 4


def number(info: FieldInfo) -> int | float:
    """Near the default and inside the bounds."""
    bounds = list(info.metadata)
    for branch in get_args(info.annotation):
        bounds += [b for part in getattr(branch, "__metadata__", ()) for b in getattr(part, "metadata", [part])]
    default = info.get_default(call_default_factory=True) or 0
    whole = float not in (info.annotation, *get_args(info.annotation))
    for step in (2, 1, -1, 0.5, -0.5, 0.25, -0.25):
        value = default + step if not whole or isinstance(step, int) else None
        if value is not None and all(inside(value, bound) for bound in bounds):
            return value
    raise AssertionError(f"no number for {info}")


def inside(value: float, bound: Any) -> bool:
    tests = {
        Ge: lambda b: value >= b.ge,
        Gt: lambda b: value > b.gt,
        Le: lambda b: value <= b.le,
        Lt: lambda b: value < b.lt,
    }
    return all(test(bound) for kind, test in tests.items() if isinstance(bound, kind))


def every_value() -> dict[str, Any]:
    return {key: another(field) for key, field in all_fields().items()}
