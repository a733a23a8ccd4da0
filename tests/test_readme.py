"""What the README shows is true: its commands exist, its TOML is valid, its lines for other trainers run in a loop."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

import plugins.noise
from trainer.__main__ import app
from trainer.config import reading

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.DOTALL)
    assert found
    return found.group(1)


def test_the_commands_it_shows_exist() -> None:
    known = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    known |= {"test", "setup"}
    shown = set(re.findall(r"python launch\.py (\w+)", README))
    assert {"demo", "test", "train"} <= shown
    assert shown <= known


def test_the_config_it_shows_is_valid() -> None:
    assert reading.parse(block("toml"), directory=ROOT).noise.stages()


FOLDERS = "trainer|plugins|ui|demo|tests|docs|configs|package|studies"


@pytest.mark.parametrize(
    "page", [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_the_files_a_page_shows_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [page.parent / name for name in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text)]
    paths = [ROOT / name for name in re.findall(rf"(?<![\w/.])((?:{FOLDERS})/[\w./-]+)", text)]
    made = [ROOT / line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split()]
    named = {Path(str(path).rstrip(".")) for path in [*links, *paths]}
    assert [str(path) for path in named if path not in made and not path.exists()] == []


def test_its_lines_for_other_trainers_train_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "immiscible_trainer", plugins)  # tests/test_installed.py has the real one
    monkeypatch.setitem(sys.modules, "immiscible_trainer.noise", plugins.noise)
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
