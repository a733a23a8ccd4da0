"""What the estimate of memory counts with counts right."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.device.live_memory import LiveMemory, peak

MB = 2**20


def matrix() -> torch.Tensor:
    return torch.empty(512, 512, device="meta")  # 1 MB


def test_what_was_freed_does_not_count() -> None:
    with LiveMemory() as memory:
        one = matrix()
        two = one + 1
        del one
        assert memory.now == MB
        three = two.view(-1)  # shares its bytes
        four = two * 2
        assert memory.now == 2 * MB
        del two, three, four
        assert memory.now == 0
    assert memory.peak == 2 * MB


def test_weights_that_are_there_cost_nothing_and_gradients_do() -> None:
    layer = nn.Linear(512, 512, bias=False, device="meta")
    given = matrix()
    # The result is gone when its sum is known; then comes the weight's gradient.
    found = peak(lambda: layer(given).sum(), [layer.weight, given], None)
    assert MB <= found <= MB + 4096


def test_checkpointing_keeps_the_ends_of_blocks_alone() -> None:
    layers = nn.Sequential(*(nn.Sequential(nn.Linear(512, 512), nn.GELU(), nn.GELU()) for _ in range(8))).to("meta")
    layers.requires_grad_(False)
    given = matrix().requires_grad_()
    known = [given, *layers.parameters()]

    def light() -> torch.Tensor:
        states = given
        for block in layers:
            states = checkpoint(block, states, use_reentrant=False)  # type: ignore[assignment]
        return states.sum()

    plain = peak(lambda: layers(given).sum(), known, None)
    assert 8 * 2 * MB <= plain <= (8 * 2 + 2) * MB  # what both activations of each block saw
    assert 8 * MB <= peak(light, known, None) <= (8 + 2 + 3) * MB


def test_attention_keeps_no_matrix_of_all_pairs() -> None:
    def attend() -> torch.Tensor:
        query = torch.empty(1, 1, 4096, 64, device="meta", requires_grad=True)  # 1 MB
        return nn.functional.scaled_dot_product_attention(query, query, query).sum()

    assert peak(attend, [], None) < 8 * MB  # the matrix would take 64


def test_autocast_halves_what_a_linear_layer_returns() -> None:
    layer = nn.Linear(512, 512, bias=False, device="meta").requires_grad_(False)
    given = matrix().bfloat16().requires_grad_()
    dtypes = []
    peak(lambda: dtypes.append(layer(given).dtype), [], torch.bfloat16)
    peak(lambda: dtypes.append(nn.functional.group_norm(given[None], 2).dtype), [], torch.bfloat16)
    assert dtypes == [torch.bfloat16, torch.float32]


def test_dropout_keeps_a_byte_for_each_number() -> None:
    given = matrix().requires_grad_()  # 1 MB
    dropout = nn.Dropout(0.1)
    assert peak(lambda: dropout(given).sum(), [given], None) == MB + MB // 4 + 1024  # the sum and its gradient
    dropout.eval()
    assert peak(lambda: dropout(given).sum(), [given], None) <= MB + 1024
