"""A project whose runs take a fraction of a second: the smallest base that is still a Stable Diffusion."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image

from tests import tiny
from trainer.assembly import run as assembled
from trainer.assembly.run import PreparedRun
from trainer.batch import Batch
from trainer.config import reading
from trainer.journal.console import Console
from trainer.journal.run_dir import RunDir

CONFIG = """
[run]
name = "run"
device = "cpu"
[model]
base = "base"
[training]
steps = 6
preflight = false
[lora]
rank = 2
alpha = 1
[optimizer]
lr = 1e-3
[logging]
tensorboard = false
[general]
enable_bucket = true
min_bucket_reso = 8
max_bucket_reso = 48
bucket_reso_steps = 8
[[datasets]]
resolution = 16
batch_size = 2
[[datasets.subsets]]
image_dir = "photos"
"""
EVERY_STEP = ("save.every=1", "save.keep=100")
SAMPLES = "samples={prompts=['a cat'],width=16,height=16,steps=1,every=2}"


def make(folder: Path, images: int = 5) -> Path:
    """Base, captioned pictures of two shapes, and the config; returns the config."""
    shutil.copytree(_base(), folder / "base")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for index in range(images):
        size = (24, 12, 3) if index % 2 else (16, 16, 3)
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(folder / "photos" / f"{index}.png")
        (folder / "photos" / f"{index}.txt").write_text(f"a photo of a cat, number {index}")
    file = folder / "run.toml"
    file.write_text(CONFIG)
    return file


@functools.cache
def _base() -> Path:
    """One level, attention in the middle only: 12 modules for a LoRA, tensors large enough for 8-bit optimizers."""
    folder = Path(tempfile.mkdtemp(prefix="small-sd-"))
    tokenizer = tiny.word_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32,),
            norm_num_groups=8,
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=4,
            sample_size=16,
        )
        tiny.write_module(folder / "unet", unet)
        tiny.write_module(folder / "vae", vae)
        tiny.write_text_encoder(folder / "text_encoder", tiny.tiny_clip(tokenizer, 32, layers=1))
    tokenizer.save_pretrained(folder / "tokenizer")
    tiny.write_schedule(folder, "epsilon", False)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    }
    tiny.write_json(folder / "model_index.json", {**tiny.INDEX, **index})
    return folder


def training(file: Path, *overrides: str, resume: bool = False, given: Path | None = None) -> PreparedRun:
    found = assembled.training(reading.read(file, overrides), Console(quiet=True), resume=resume, given=given)
    assert found is not None
    return found


def stop_after(found: PreparedRun, micro_batches: int) -> None:
    """As Ctrl-C does, while the micro-batch with that number of this process is made."""
    real, made = found.loop.gradients.batch, 0

    def batch(index: int) -> Batch:
        nonlocal made
        made += 1
        if made == micro_batches:
            found.loop.control.stop_requested = True
        return real(index)

    found.loop.gradients.batch = batch


def run_dir(file: Path, name: str = "run") -> RunDir:
    return RunDir(file.parent / "output" / name)


def state_hash(checkpoint: Path) -> str:
    """Of everything that training changes: weights, optimizer, schedule and so on; not of the config."""
    values = json.loads((checkpoint / "state.json").read_bytes())
    del values["config"]
    digest = hashlib.sha256(json.dumps(values).encode())
    digest.update((checkpoint / "state.safetensors").read_bytes())
    return digest.hexdigest()


def losses(file: Path, name: str = "run") -> dict[int, float]:
    return {e["step"]: e["loss"] for e in run_dir(file, name).events() if e["event"] == "step"}
