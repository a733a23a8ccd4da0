"""A checkpoint gives back exactly what was saved, and a damaged one is never loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainer.errors import RunError
from trainer.run import checkpoint


def state(step: int = 3) -> checkpoint.State:
    parameter = torch.nn.Parameter(torch.randn(5, generator=torch.Generator().manual_seed(step)))
    optimizer = torch.optim.AdamW([{"params": [parameter], "lr": 0.1, "name": "unet"}])
    parameter.grad = torch.ones(5)
    optimizer.step()
    return checkpoint.State(
        step, {"unet.w": parameter.detach()}, optimizer.state_dict(), {"last_epoch": 3}, {}, {"a": [1]}
    )


def test_round_trip(tmp_path: Path) -> None:
    saved = state()
    checkpoint.save(tmp_path / "step-000003", saved)
    loaded = checkpoint.load(tmp_path / "step-000003")
    assert torch.equal(loaded.weights["unet.w"], saved.weights["unet.w"])
    assert loaded.optimizer["param_groups"] == saved.optimizer["param_groups"]
    for name, value in saved.optimizer["state"][0].items():
        assert torch.equal(loaded.optimizer["state"][0][name], value)
    assert (loaded.step, loaded.schedule, loaded.scaler, loaded.config) == (3, {"last_epoch": 3}, {}, {"a": [1]})


@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damage_is_found_and_the_one_before_is_taken(tmp_path: Path, file: str, damage: str) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path / f"step-{step:06d}", state(step))
    path = tmp_path / "step-000002" / file
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flip" else content[:-3])
    said: list[str] = []
    found = checkpoint.load_newest(tmp_path, said.append)
    assert found is not None
    assert found.step == 1
    assert "step-000002" in said[0]
    with pytest.raises(RunError):
        checkpoint.load(tmp_path / "step-000002")


def test_weights_of_another_config_are_refused() -> None:
    with pytest.raises(RunError, match="other weights"):
        checkpoint.restore_weights({"a": torch.zeros(1)}, {"b": torch.zeros(1)})
    with pytest.raises(RunError, match="shape"):
        checkpoint.restore_weights({"a": torch.zeros(1)}, {"a": torch.zeros(2)})
