"""[consistency]: a network that goes from noise to a picture in one or two steps, trained without another one."""

from __future__ import annotations

from typing import Literal

from trainer.config.schema.base import Section, key


class ConsistencySettings(Section):
    """Consistency training (Song et al. 2023) in its improved form (Song and Dhariwal 2023)."""

    target: Literal["off", "network", "average"] = key(
        "off",
        "What the network learns to agree with, at the next lower time: its own answer (improved consistency "
        "training), or that of an average of its weights. off = ordinary training.",
    )
    decay: float = key(
        0.999, "average: how much of it stays in each step; as for ema.decay it rises to this value.", gt=0, lt=1
    )
    begin: int = key(10, "Intervals between times at the start; they double again and again.", ge=1, le=100_000)
    end: int = key(640, "Intervals between times at the end of the run.", ge=1, le=100_000)
    distance: Literal["pseudo_huber", "l2"] = key("pseudo_huber", "Distance between the two answers.")
    huber_c: float = key(
        0.00054, "pseudo_huber: where the distance turns linear, as a root mean square over a picture's numbers.", gt=0
    )
    weighting: Literal["interval", "none"] = key(
        "interval", "interval: divides by the time between the two, so that shorter intervals do not teach less."
    )

    @property
    def asked(self) -> bool:
        return self.target != "off"
