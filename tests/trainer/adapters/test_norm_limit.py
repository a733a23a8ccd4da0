"""Adapters that grew too long are shrunk to the limit, by the rule of kohya's sd-scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.reliability import small
from trainer.adapters import injection
from trainer.adapters.norm_limit import NormLimit
from trainer.adapters.weights import delta
from trainer.batch import DOWN, UP, AdapterWeights

LIMIT = 1.0


def adapters() -> list[AdapterWeights]:
    """Of two shapes, with different scales, from far below the limit to far above it."""
    stream = torch.Generator().manual_seed(0)
    made = []
    for size, alpha in ((0.01, 4.0), (0.3, 4.0), (1.0, 1.0), (0.0, 2.0)):
        for down, up in (((4, 6), (5, 4)), ((4, 3, 3, 3), (8, 4, 1, 1))):
            factors = {DOWN: torch.randn(down, generator=stream), UP: size * torch.randn(up, generator=stream)}
            made.append(AdapterWeights(factors, alpha))
    return made


def test_equal_to_the_rule_written_out() -> None:
    """Norm of scale * up @ down, ratio = min(norm, limit) / norm, both factors times its root."""
    limited, kept = adapters(), adapters()
    count = NormLimit(limited, LIMIT)()
    norms = [float(delta(one).norm()) for one in kept]
    assert int(count) == sum(norm > LIMIT for norm in norms)
    assert 0 < int(count) < len(norms)
    for one, old, norm in zip(limited, kept, norms, strict=True):
        root = (min(norm, LIMIT) / norm) ** 0.5 if norm else 1.0
        for name in (DOWN, UP):
            torch.testing.assert_close(one.tensors[name], old.tensors[name] * root)
        if norm <= LIMIT:
            assert torch.equal(one.up, old.up)
        else:
            assert float(delta(one).norm()) == pytest.approx(LIMIT, rel=1e-5)


def test_norms_are_those_of_the_changes() -> None:
    found = torch.cat(NormLimit(adapters(), LIMIT).norms()).sort().values
    torch.testing.assert_close(found, torch.stack([delta(one).norm() for one in adapters()]).sort().values)


def test_a_run_keeps_its_adapters_short_and_tells_how_many_were_not(tmp_path: Path) -> None:
    limit = 1e-3
    project = small.make(tmp_path / "a project")
    free = small.training(project, "run.name='free'", "optimizer.lr=1e-2")
    free.run()
    found = small.training(project, f"lora.max_norm={limit}", "optimizer.lr=1e-2")
    found.run()
    lengths = [float(injection.delta_w(adapter).norm()) for adapter in injection.adapters(free.family)]
    assert max(lengths) > 2 * limit
    for adapter in injection.adapters(found.family):
        assert float(injection.delta_w(adapter).norm()) <= limit * (1 + 1e-4)
    events = [e for e in small.run_dir(project).events() if e["event"] == "step"]
    assert any(e["shrunk"] for e in events)
    assert all(e["shrunk"] is None for e in small.run_dir(project, "free").events() if e["event"] == "step")
