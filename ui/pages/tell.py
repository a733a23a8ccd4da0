"""Shows the trainer's own errors to the person at the page, instead of a traceback."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gradio as gr

from trainer.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


TITLE = "That does not work"
SECONDS = 12.0  # that a message stays


def told(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Calls a function; its UserError becomes a message in the page."""
    try:
        return function(*args, **kwargs)
    except UserError as error:
        raise gr.Error(str(error), duration=SECONDS, title=TITLE, print_exception=False) from error


def refusal_html(error: UserError) -> str:
    """The error where it stays until something else is asked for."""
    lines = "".join(f"<li>{html.escape(problem)}</li>" for problem in error.problems)
    return f"<div class='bad-list' role='alert'><p><b>{TITLE}</b></p><ul>{lines}</ul></div>"


def warned(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
    """The same where something was written already that the page must be told all the same: None after an error."""
    try:
        return function(*args, **kwargs)
    except UserError as error:
        gr.Warning(str(error), duration=SECONDS, title=TITLE)
        return None
