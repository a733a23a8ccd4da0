"""Every key of the config's schema, by its dotted path."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from trainer.config.schema.base import Section, extra
from trainer.config.schema.whole import Config


def keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every (dotted path, field) of the schema, depth first; list items are written as `datasets[]`."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path, field
        for child in tables(field):
            listed = (
                "[]" if issubclass(child, Section) and field.annotation is not child and "list" in str(field) else ""
            )
            yield from keys(child, f"{path}{listed}.")


@cache
def defaults() -> dict[str, Any]:
    return {key: field.get_default(call_default_factory=True) for key, field in keys()}


@cache
def paths() -> frozenset[str]:
    """Keys whose values are paths."""
    return frozenset(key for key, field in keys() if extra(field).get("path"))


def tables(field: Any) -> list[type[BaseModel]]:
    """The models that a field may hold."""
    inner = [a for a in (field.annotation, *_flatten(field.annotation)) if isinstance(a, type)]
    return [a for a in inner if issubclass(a, BaseModel)]


def _flatten(annotation: Any) -> Iterator[Any]:
    for argument in get_args(annotation):
        yield argument
        yield from _flatten(argument)
