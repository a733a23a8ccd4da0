"""A mistake in the config is told before any library that takes seconds is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from trainer import __version__

ROOT = Path(__file__).resolve().parents[3]
# Together they take most of the time from the command to the first step.
HEAVY = (
    *("PIL", "accelerate", "bitsandbytes", "diffusers", "gradio", "huggingface_hub", "numpy", "peft"),
    *("pytorch_optimizer", "safetensors", "scipy", "sympy", "tensorboard", "torch", "transformers"),
)
TELL = f"""
import json, sys
from trainer.__main__ import main
sys.argv = ["trainer", *sys.argv[1:]]
try:
    main()
finally:
    print(json.dumps(sorted(set({HEAVY!r}) & sys.modules.keys())))
"""
GOOD = '[model]\nbase = "base"\n[[datasets]]\nresolution = 64\n[[datasets.subsets]]\nimage_dir = "photos"\n'


def run_alone(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, whose last line is the list of heavy modules that were imported."""
    command, found = [sys.executable, "-P", "-c", TELL, *arguments], {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True, check=False)


def heavy_after(folder: Path, *arguments: str) -> tuple[int, list[str], str]:
    """(exit code, heavy modules that were imported, stderr)"""
    ran = run_alone(folder, *arguments)
    return ran.returncode, json.loads(ran.stdout.splitlines()[-1]), ran.stderr


@pytest.mark.parametrize("command", ["train", "check", "cache", "noise", "sample"])
def test_a_mistyped_key_is_told_at_once(tmp_path: Path, command: str) -> None:
    (tmp_path / "run.toml").write_text(GOOD)
    code, heavy, told = heavy_after(tmp_path, command, "run.toml", "--set", "noise.oversampling.metrik='cosine'")
    assert (code, heavy) == (2, [])
    assert told == "run.toml: noise.oversampling.metrik: unknown key. Did you mean 'metric'?\n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("general.min_bucket_reso=128", "datasets[0].min_bucket_reso: 128 exceeds the resolution 64"),
        ("model.base='none.safetensors'", "model.base: there is no file or folder 'none.safetensors' (relative to "),
        ("model.base='page.safetensors'", "model.base: {folder}/page.safetensors: not a sound safetensors file of 6 "),
        ("datasets[0].subsets[0].image_dir='none'", "datasets[0].subsets[0].image_dir: there is no folder 'none' (rel"),
        ("optimizer.name='adamv'", "optimizer.name: found 'adamv', expected an optimizer of torch.optim (adadelta, "),
        ("optimizer.args.weigth_decay=1", "optimizer.args.weigth_decay: AdamW has no such argument"),
        ("optimizer.rates.text_encoder_2=1", "optimizer.rates.'text_encoder_2': nothing in this base is called so"),
        ("samples.prompts='none.txt'", "samples.prompts: there is no file 'none.txt' (relative to "),
        ("run.output_dir='run.toml'", "run.output_dir: nothing can be put into 'run.toml' (relative to "),
        ("run.name='1'", "{folder}/photos/1.png: the file is empty (0 bytes) (data.skip_broken = true"),
    ],
)
def test_what_cannot_train_is_told_before_libraries_are_loaded(tmp_path: Path, change: str, expected: str) -> None:
    (tmp_path / "run.toml").write_text(GOOD)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/model_index.json").write_text('{"unet": ["a", "b"], "text_encoder": ["a", "b"]}')
    (tmp_path / "page.safetensors").write_text("<html>")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/1.png").touch()
    asked = ("--set", "general.enable_bucket=true", "--set", change)
    code, heavy, told = heavy_after(tmp_path, "train", "run.toml", *asked)
    assert (code, set(heavy) - {"PIL"}) == (2, set())
    assert expected.format(folder=tmp_path) in told


def test_the_list_of_modules_would_show_them(tmp_path: Path) -> None:
    assert heavy_after(tmp_path, "inspect", "nothing.safetensors")[1] != []


def test_the_version_is_told_without_libraries(tmp_path: Path) -> None:
    ran = run_alone(tmp_path, "--version")
    assert ran.returncode == 0
    said, heavy = ran.stdout.splitlines()
    assert said.startswith(f"Immiscible Trainer {__version__} (Python 3.")
    assert f"torch {metadata.version('torch')}" in said
    assert json.loads(heavy) == []
