"""What a one-file checkpoint says about its prediction and noise schedule: empty tensors and metadata."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

V_MARK, ZERO_SNR_MARK = "v_pred", "ztsnr"  # empty tensors that v-prediction fine-tunes of SDXL carry
MARKS = (V_MARK, ZERO_SNR_MARK)
_STATED = ("modelspec.prediction_type", "prediction_type", "modelspec.predict_type")
_SPELLINGS = {
    "v_prediction": ("v", "vpred", "vprediction", "velocity", "vparam", "vparameterization"),
    "epsilon": ("epsilon", "eps", "noise", "epsilonprediction", "epsprediction"),
    "flow_prediction": ("flow", "flowprediction", "rectifiedflow", "flowmatching"),
}
_MODELSPEC = {"velocity": "v"}  # Stability's names of objectives, where they are others
_OF_THE_WHOLE = re.compile(r"(modelspec\.hash|sshs_|modelspec\.(sai_model_spec|date))")  # not true of a changed file


def stated_prediction(names: Collection[str], metadata: Mapping[str, str]) -> str | None:
    """diffusers' prediction_type by a file's names and metadata, in any spelling; None when nothing tells."""
    if V_MARK in names:
        return "v_prediction"
    for key in _STATED:
        said = re.sub(r"[^a-z]", "", metadata.get(key, "").lower())
        for prediction, spellings in _SPELLINGS.items():
            if said in spellings:
                return prediction
    if (flag := _flag(metadata.get("ss_v_parameterization"))) is not None:
        return "v_prediction" if flag else "epsilon"
    if metadata.get("ss_base_model_version", "").endswith("_v"):
        return "v_prediction"
    return "v_prediction" if metadata.get("modelspec.architecture", "").endswith("768-v") else None


def stated_zero_snr(names: Collection[str], metadata: Mapping[str, str]) -> bool:
    return ZERO_SNR_MARK in names or _flag(metadata.get("ss_zero_terminal_snr")) is True


def marks(scheduler: Mapping[str, Any], prediction: str) -> dict[str, Tensor]:
    """The empty tensors by which readers know a v-prediction or zero-terminal-SNR model."""
    names = [V_MARK] * (prediction == "velocity") + [ZERO_SNR_MARK] * bool(scheduler.get("rescale_betas_zero_snr"))
    return {name: torch.tensor([]) for name in names}


def told(
    names: Collection[str], metadata: Mapping[str, str], scheduler: Mapping[str, Any], prediction: str
) -> dict[str, str]:
    """The metadata of a base with what is true of the model now; hashes and dates of the old file left out.

    Epsilon, which readers assume, is said where the base's names or metadata said anything.
    """
    contradicting = {*_STATED, "ss_v_parameterization", "ss_zero_terminal_snr", "format"}
    kept = {k: v for k, v in metadata.items() if k not in contradicting and not _OF_THE_WHOLE.match(k)}
    for key, ending in (("ss_base_model_version", "_v"), ("modelspec.architecture", "-768-v")):
        if kept.get(key, "").endswith(ending) != (prediction == "velocity"):
            kept.pop(key, None)
    zero_snr = bool(scheduler.get("rescale_betas_zero_snr"))
    if prediction != "epsilon" or stated_prediction(names, metadata) is not None:
        kept["modelspec.prediction_type"] = _MODELSPEC.get(prediction, prediction)
    if zero_snr or "ss_zero_terminal_snr" in metadata:
        kept["ss_zero_terminal_snr"] = str(zero_snr)
    return kept


def _flag(text: str | None) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get((text or "").strip().lower())
