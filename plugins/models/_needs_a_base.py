"""Why most families make no new network; without torch, for those who read headers."""

from __future__ import annotations


def needs_a_base(family: str) -> str:
    """The line about model.network."""
    return (
        f"{family!r} has a text encoder and a VAE, which are never made anew. Name a model.base, and with model.init "
        "the parts that start with random weights."
    )
