"""The loss of each sample from prediction and target."""

from __future__ import annotations

from torch import Tensor


def per_sample(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Squared error in float32, times the mask, averaged over everything but the batch: (B, C, h, w) -> (B,).

    A mask (B, 1, h, w) scales the error of each cell; the mean still counts every cell (as kohya's sd-scripts does).
    """
    error = (prediction.float() - target.float()) ** 2
    if mask is not None:
        error = error * mask
    return error.flatten(1).mean(1)


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """(B,), (B,) -> scalar. Divides by B, not by the weights' sum: a weight is a strength, not a share."""
    return (losses * weights).mean()
