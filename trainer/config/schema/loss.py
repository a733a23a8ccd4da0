"""[timesteps] and [loss]: which timesteps are trained, and what counts as an error."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.config.schema.base import Section, key


class TimestepsSettings(Section):
    min: int = key(0, "Lowest timestep that is trained.", ge=0, lt=1000)
    max: int = key(1000, "Timesteps below this one are trained.", gt=0, le=1000)
    distribution: Literal["uniform", "logit_normal", "sigmoid", "beta", "weights"] = key(
        "uniform",
        "How often each timestep is drawn. sigmoid is logit_normal with mean 0.",
    )
    mean: float = key(0.0, "logit_normal: the centre; above 0 noisier.")
    std: float = key(1.0, "logit_normal and sigmoid: the width.", gt=0)
    alpha: float = key(1.0, "beta: first parameter; larger is noisier.", gt=0)
    beta: float = key(1.0, "beta: second parameter; larger is cleaner.", gt=0)
    weights: list[Annotated[float, Field(ge=0)]] = key(
        [], "weights: relative frequency of equal slices of the range, clean to noisy, e.g. [1, 2, 1]."
    )
    shift: float = key(
        1.0,
        "Moves all draws towards noise (above 1) or image (below 1).",
        gt=0,
    )
    stratified: bool = key(False, "One draw in each of batch_size equal slices: less variance from step to step.")


class LossSettings(Section):
    kind: Literal["l2", "l1", "huber", "smooth_l1"] = key("l2", "Error of each latent cell.")
    huber_c: float = key(0.1, "huber and smooth_l1: where the error turns linear.", gt=0)
    huber_scale: float = key(1.0, "Factor of huber_c (not for the snr schedule).", gt=0)
    huber_schedule: Literal["constant", "exponential", "snr"] = key("snr", "How huber_c depends on the timestep.")
    weighting: Literal["none", "min_snr", "soft_min_snr", "debiased", "p2"] = key(
        "none",
        "Weight of each timestep in the loss.",
    )
    normalize_masked_area: bool = key(
        False, "Divides a masked loss by the mask's mean, so that a small area teaches as much as a whole picture."
    )
    gamma: float = key(5.0, "Strength of min_snr, soft_min_snr (about 5) or p2 (about 1).", gt=0)
    scale_v_like_noise: bool = key(False, "v-prediction: weights as if the noise were predicted.")
    v_like: float = key(0.0, "epsilon: adds this much of v-prediction's weighting.", ge=0)
