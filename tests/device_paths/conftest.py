"""What the runs on the card and on the CPU that are held against each other have in common."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def alike(pictures_are_encoded_together: None) -> None:
    """Rounding as on a card."""
