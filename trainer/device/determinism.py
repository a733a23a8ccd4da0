"""Makes CUDA give the same bits every time, or lets it be fast."""

from __future__ import annotations

import os

import torch

from trainer.errors import UserError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_FIXED = (":4096:8", ":16:8")


def set_deterministic(on: bool) -> None:
    """For the whole process, before CUDA is used. Raises UserError when it is too late for that.

    Strict: an operation without a deterministic algorithm is an error, because torch's mere warnings leave the
    memory-efficient attention as it is (pytorch issue 91979).
    """
    if on and torch.cuda.is_available() and os.environ.get(_WORKSPACE) not in _FIXED:
        if torch.cuda.is_initialized():
            raise UserError(
                f"run.deterministic: this process has used CUDA already; set {_WORKSPACE}={_FIXED[0]} in its "
                "environment before it starts."
            )
        os.environ[_WORKSPACE] = _FIXED[0]
    torch.use_deterministic_algorithms(on)
    torch.backends.cudnn.deterministic = on
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.enable_cudnn_sdp(not on)  # has no deterministic backward; on Hopper it is the first choice
    # Filling new memory with NaN finds programming errors, not differences between runs, and takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
