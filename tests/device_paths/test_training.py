"""Every path of a training on the simulated card: nothing mixes devices, and the bits are those of the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.device_paths.card_runs import PICTURES, QUESTIONS, end_state, project, train_on_card, train_on_cpu
from tests.reliability import small

FULL = "training.method='full'"
BF16 = "training.precision='bf16'"
FUSED = ("training.fused_backward=true", "training.max_grad_norm=0")
PATHS: dict[str, tuple[str, ...]] = {
    "lora": (),
    "dora": ("lora.method='dora'",),
    "loha": ("lora.method='loha'",),
    "lokr": ("lora.method='lokr'",),
    "locon, dropouts, limit": (
        "lora={conv_rank=2,dropout=0.1,rank_dropout=0.1,module_dropout=0.1,max_norm=0.1}",
        "optimizer.lora_plus=4",
    ),
    "text encoder until": ("training.text_encoder=true", "training.text_encoder_until=1"),
    "text encoder alone": ("training.text_encoder=true", "training.unet=false"),
    "new words alone, measured and drawn": (
        "embeddings={words={ohwx='a'},keep_norm=true}",
        "training.unet=false",
        "general.caption_prefix='ohwx'",
        PICTURES,
        QUESTIONS,
    ),
    "new words beside a LoRA, bf16": (
        "embeddings={words={ohwx='a'},vectors={ohwx=2}}", "general.caption_prefix='ohwx'", BF16, "ema={decay=0.9}",
    ),
    "adapters that begin as a part of the weights": ("lora={start='pissa',rslora=true}", PICTURES),
    "full": (FULL, "training.text_encoder=true"),
    "full, bf16 weights": (FULL, BF16, "training.weight_dtype='bf16'"),
    "full, fused backward": (FULL, *FUSED),
    "bf16": (BF16, "training.text_encoder=true"),
    "base in 4 bits": ("training.base_precision='4bit'", BF16),
    "accumulation": ("training.gradient_accumulation=2",),
    "clipped by value": ("training.max_grad_value=0.001", "training.max_grad_norm=0"),
    "recomputation, selective": ("training.gradient_checkpointing='selective'",),
    "recomputation, full": ("training.gradient_checkpointing='full'", "training.text_encoder=true"),
    "recomputation, auto": ("training.gradient_checkpointing='auto'",),
    "preflight": ("training.preflight=true",),
    "channels last": ("performance.channels_last=true",),
    "deterministic": ("run.deterministic=true",),
    "average": ("ema={decay=0.9}", PICTURES),
    "average on the cpu": ("ema={decay=0.9,device='cpu'}", PICTURES, QUESTIONS),
    "average on the cpu, full": ("ema={decay=0.9,device='cpu'}", FULL, "save={every=1,full='both'}"),
    "schedule-free": ("optimizer.name='schedulefreeadamw'", PICTURES),
    "8-bit optimizer": ("optimizer.name='adamw8bit'", "lora.rank=64"),
    "an optimizer that is undone": ("optimizer={name='adabelief',lr=0.01}",),
    "validation": (QUESTIONS, PICTURES),
    "validation, bf16, text encoder": (QUESTIONS, BF16, "training.text_encoder=true"),
    "losses": ("loss={kind='huber',weighting='min_snr',v_like=0.1}", "timesteps={distribution='beta',stratified=true}"),
    "flow": ("model.prediction='flow'", "loss={kind='smooth_l1',weighting='soft_min_snr'}"),
    "zero terminal snr": ("model.prediction='v'", "model.zero_terminal_snr='on'", "loss.scale_v_like_noise=true"),
    "prompts instead of images": (
        "datasets=[]",
        "training.gradient_checkpointing='full'",
        "training.preflight=true",
        "noise.offset=0.1",
        "slider={denoising_steps=3,targets=[{target_class='a cat',positive='big',negative='small',resolution=16}]}",
    ),
    "long weighted captions": ("model.weighted_captions=true", "model.max_tokens=150", "model.clip_skip=1"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what a deterministic run sets for its process


@pytest.mark.parametrize("overrides", PATHS.values(), ids=PATHS)
def test_a_training_gives_the_bits_of_the_cpu(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    file = project(tmp_path / "a project")
    train_on_card(file, "training.steps=2", *overrides)
    train_on_cpu(file, "training.steps=2", *overrides)
    assert small.losses(file, "card") == small.losses(file, "cpu")
    assert end_state(file, "card") == end_state(file, "cpu")


@pytest.mark.parametrize(
    ("base", "overrides"),
    [
        ("sd1", ()),
        ("sd2-v", (BF16, PICTURES)),
        ("sdxl", (QUESTIONS, PICTURES)),
        ("sdxl", (BF16, "training.text_encoder=true", "training.gradient_checkpointing='full'")),
    ],
)
def test_every_family_gives_the_bits_of_the_cpu(tmp_path: Path, base: str, overrides: tuple[str, ...]) -> None:
    file = project(tmp_path / "a project", base)
    train_on_card(file, "training.steps=1", *overrides)
    train_on_cpu(file, "training.steps=1", *overrides)
    assert end_state(file, "card") == end_state(file, "cpu")


def test_a_base_of_8_bits_trains(tmp_path: Path) -> None:
    """bitsandbytes multiplies in float16 on a card, and in another precision on a CPU."""
    file = project(tmp_path / "a project")
    train_on_card(file, "training.base_precision='8bit'", "training.steps=2")
    assert all(0 < loss < 10 for loss in small.losses(file, "card").values())


@pytest.mark.parametrize(("base", "overrides"), [("", (FULL, "ema.decay=0.9")), ("sdxl", ()), ("", (QUESTIONS,))])
def test_float16_trains_with_its_scaler(tmp_path: Path, base: str, overrides: tuple[str, ...]) -> None:
    """A CPU refuses it, so there are no bits to compare."""
    file = project(tmp_path / "a project", base)
    train_on_card(file, "training.precision='fp16'", "training.steps=2", *overrides)
    assert all(0 < loss < 10 for loss in small.losses(file, "card").values())
    again = train_on_card(file, "training.precision='fp16'", "training.steps=3", *overrides, resume=True)
    assert again.record.launched
    assert max(small.losses(file, "card")) == 3
