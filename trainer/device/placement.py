"""Where the parts of a model are: on the device while they are used, in the host's memory or nowhere otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from trainer.protocols import Family

VAE = "vae"  # beside the names of `Family.parts`
HOME = torch.device("cpu")  # where parts rest
NOWHERE = torch.device("meta")  # shapes without memory


class Placement:
    """Keeps on the device what every step needs, and brings the rest there only while it is used.

    Parts that rest are those whose output is cached: text encoders and VAE need more memory than a LoRA and its
    optimizer.
    """

    def __init__(
        self, family: Family, device: torch.device, frozen_dtype: torch.dtype, resting: Iterable[str] = ()
    ) -> None:
        """Leaves everything where it is but gives what rests its precision. frozen_dtype: as in `Family.to`."""
        self.family = family
        self.device = device
        self._dtype = frozen_dtype
        self._resting = set(resting)
        self._there: set[str] = set()
        self._users: Counter[str] = Counter()
        self._holds = 0
        self._released = False
        family.to(HOME, frozen_dtype, self._resting)

    @property
    def staying(self) -> list[str]:
        """What every step needs, in the family's order."""
        return [name for name in (*self.family.parts, VAE) if name not in self._resting]

    @contextmanager
    def used(self, *names: str) -> Iterator[None]:
        """Inside, these are on the device; what rests leaves it afterwards."""
        self._bring(names)
        self._users.update(names)
        try:
            yield
        finally:
            self._users.subtract(names)
            self._send_off()

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is used inside stays on the device until the end: for many uses, or perhaps none."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._send_off()

    def keep(self, names: Iterable[str]) -> None:
        """These do not rest: steps need them after all."""
        self._resting -= set(names)

    def settle(self) -> None:
        """Brings what every step needs to the device."""
        self._bring(self.staying)

    def release(self) -> None:
        """Gives back the memory of what rests: nothing will use it again."""
        self.family.to(NOWHERE, self._dtype, self._resting)
        self._released = True

    def has(self, *names: str) -> bool:
        """Whether these can still be used."""
        return not (self._released and set(names) & self._resting)

    def _bring(self, names: Iterable[str]) -> None:
        missing = set(names) - self._there
        assert not (self._released and missing & self._resting), f"used after its release: {missing & self._resting}"
        if missing:
            try:
                self.family.to(self.device, self._dtype, missing)
            except torch.OutOfMemoryError:
                self.family.to(HOME, self._dtype, missing)  # not in part
                raise
            self._there |= missing

    def _send_off(self) -> None:
        idle = {name for name in self._there & self._resting if not self._users[name]}
        if self._holds or not idle:
            return
        self.family.to(HOME, self._dtype, idle)
        self._there -= idle
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
