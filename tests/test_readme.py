"""What the README shows is true: its commands exist, its TOML is valid, its lines for other trainers run in a loop."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from torch import nn

from trainer import config_io
from trainer.__main__ import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found.group(1)


def test_the_commands_it_shows_exist() -> None:
    known = {command.callback.__name__ for command in app.registered_commands if command.callback} | {"test", "setup"}
    shown = set(re.findall(r"python launch\.py (\w+)", README))
    assert {"demo", "test", "train"} <= shown
    assert shown <= known


def test_the_config_it_shows_is_valid() -> None:
    assert config_io.parse(block("toml"), directory=ROOT).noise.stages()


def test_the_files_it_shows_exist() -> None:
    assert [path for path in re.findall(r"\]\(([\w./-]+)\)|`(tests/[\w/]+\.py)`", README) if not any(
        (ROOT / name).exists() for name in path if name
    )] == []  # fmt: skip


def test_its_lines_for_other_trainers_train_a_network() -> None:
    scheduler = DDPMScheduler(prediction_type="epsilon")
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    network = nn.Conv2d(4, 4, 3, padding=1)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    losses = []
    for step in range(60):
        names = {
            "latents": latents,
            "generator": torch.Generator().manual_seed(step),
            "scheduler": scheduler,
            "timesteps": torch.randint(500, 1000, (4,), generator=torch.Generator().manual_seed(step)),
            "torch": torch,
        }
        first, _, second = block("python").partition("# a loop in the style of sd-scripts, over whole batches\n")
        exec(first, names)
        loss = nn.functional.mse_loss(network(names["noisy"]), names["noise"])
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    exec(second, names)
    assert names["noise"].shape == latents.shape


def test_the_noise_functions_need_no_trainer(tmp_path: Path) -> None:
    """Another program has only the folder plugins/ on its path."""
    (tmp_path / "plugins").symlink_to(ROOT / "plugins")
    code = (
        "import sys, torch\n"
        "from plugins.noise.oversampling import nearest_of\n"
        "from plugins.noise.assignment import assign\n"
        "x = torch.randn(3, 4, 8, 8)\n"
        "n = nearest_of(x, 64, generator=torch.Generator().manual_seed(0))\n"
        "assert assign(x, n).shape == x.shape\n"
        "assert not any(m.split('.')[0] == 'trainer' for m in sys.modules), 'the trainer was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
