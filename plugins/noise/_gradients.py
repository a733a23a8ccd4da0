"""torch.no_grad for files that the config's schema reads: they import torch only when they make noise."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def without_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """As a decorator: nothing that the function computes is remembered for a backward pass."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        import torch

        with torch.no_grad():
            return function(*args, **kwargs)

    return called
