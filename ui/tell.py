"""Shows the trainer's own errors to the person at the page, instead of a traceback."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gradio as gr

from trainer.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def told(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function; its UserError becomes a message in the page."""
    try:
        return function(*args, **kwargs)
    except UserError as error:
        raise gr.Error(str(error), duration=12, title="That does not work", print_exception=False) from error
