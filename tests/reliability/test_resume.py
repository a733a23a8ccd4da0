"""A run that was stopped and resumed equals the uninterrupted one, every bit of everything that training changes.

By induction: the checkpoint of a step k of an uninterrupted run is resumed, one step is taken, and what is saved then
must be the checkpoint of step k + 1. Equal checkpoints have equal weights, optimizers, schedules and averages. The
first cases do so at every step, the others at two, within an epoch and at the end of one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability import small
from tests.reliability.forks import forked, ranks

ROOT = Path(__file__).parents[2]
STEPS = 6

CASES = {
    "lora": (),
    "lora, three epochs' borders inside accumulation": ("training.gradient_accumulation=2",),
    "noise oversampling, caption dropout, shuffled captions": (
        "noise.oversampling=8", "general.caption_dropout_rate=0.5", "general.shuffle_caption=true",
    ),
    "noise that images keep": ("noise={fixed='own'}", "general.flip_aug=true"),
    "noise that images exchange": ("noise={coupled=1}", "run.seed=3"),
    "noise that the network chooses, dropout": ("noise={explore=2}", "lora.dropout=0.5"),
    "noise assignment by caption": (
        "noise={assignment={pool='step',by='caption'}}", "general.caption_dropout_rate=0.5",
    ),
    "noise assignment over samples ahead": ("noise={assignment={pool=4}}",),
    "dropout inside the adapters": ("lora.dropout=0.5",),
    "images encoded anew, mirrored, other colours": (
        "data.cache_latents=false", "general.flip_aug=true", "general.color_aug=true",
    ),
    "full": ("training.method='full'",),
    "full with text encoder, cosine with warm-up": (
        "training.method='full'", "training.text_encoder=true", "schedule={name='cosine',warmup=2}",
    ),
    "held to the base by words in every second step": (
        "preservation={words={cat='dog'},share=0.5}", "lora.dropout=0.5",
    ),
    "full, held to a frozen copy": (
        "training.method='full'", "general.custom_attributes={diff_output_preservation=true}",
        "preservation={words={cat='dog'}}",
    ),
    "prompts instead of images": (
        "datasets=[]", "noise.offset=0.1", "lora.dropout=0.5", "training.gradient_accumulation=2",
        "slider={denoising_steps=3,targets=[{target_class='a cat',positive='big',negative='small',resolution=16}]}",
    ),
    "bfloat16 base": ("training.precision='bf16'", "training.gradient_checkpointing=true"),
    "full in bfloat16 with random rounding": (
        "training.method='full'", "training.precision='bf16'", "training.weight_dtype='bf16'", "optimizer.lr=1e-4",
    ),
    "full in bfloat16, updated in the backward pass": (
        "training.method='full'", "training.precision='bf16'", "training.weight_dtype='bf16'",
        "training.fused_backward=true", "training.max_grad_norm=0", "optimizer.name='adafactor'",
    ),
    "full, updated in the backward pass": (
        "training.method='full'", "training.fused_backward=true", "training.max_grad_norm=0",
        "training.max_grad_value=0.01",
    ),
    "every second block recomputed, channels last": (
        "training.method='full'", "training.gradient_checkpointing='selective'", "performance.channels_last=true",
    ),
    "averages": ("ema={decay=0.9}",),
    "averages now and then": ("ema={decay=0.9,every=2,device='cpu'}",),
    "clipping by value, adapters of limited length": (
        "training.max_grad_norm=0", "training.max_grad_value=1e-3", "lora.max_norm=1e-3",
    ),
    "parts that learn for some of the time": (
        "training.text_encoder=true", "optimizer.windows={text_encoder=[0,3],'unet.mid_block'=[0.5,0]}",
    ),
    "new words alone, averaged, of the usual length": (
        "embeddings={words={ohwx='a'},keep_norm=true,until=4}", "training.unet=false", "ema={decay=0.9}",
        "general.caption_prefix='ohwx'",
    ),
    "new words and a LoRA of both networks": (
        "embeddings={words={ohwx='a'},vectors={ohwx=2},lr=1e-2}", "training.text_encoder=true",
        "general.caption_prefix='ohwx'", "training.gradient_accumulation=2",
    ),
    "adapters that begin as a part of the weights": ("lora.start='pissa'",),
    "sgd with momentum": ("optimizer={name='sgd',lr=0.1,args={momentum=0.9}}",),
    "8-bit adam": ("optimizer.name='adamw8bit'", "lora.rank=128"),
    "8-bit lion": ("optimizer={name='lion8bit',lr=1e-4}", "lora.rank=128"),
    "prodigy": ("optimizer={name='prodigy',lr=1.0}",),
    "adafactor": ("optimizer.name='adafactor'",),
    "schedule-free": ("optimizer.name='adamwschedulefree'",),
}  # fmt: skip
AT_EVERY_STEP = list(CASES)[:2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


def one_step_from(project: Path, step: int, *overrides: str) -> tuple[str, dict[int, float]]:
    """Resumes the whole run's checkpoint under another name and takes one step."""
    name = f"from-{step}"
    given = small.run_dir(project, "whole").checkpoint(step)
    found = small.training(project, *overrides, f"run.name='{name}'", given=given)
    assert found.loop.start.step == step
    small.stop_after(found, 1)
    assert found.run() == ("stopped" if step + 1 < STEPS else "done")
    return small.state_hash(small.run_dir(project, name).checkpoint(step + 1)), small.losses(project, name)


@pytest.mark.parametrize("case", CASES)
def test_a_step_follows_from_the_checkpoint_before_it(project: Path, case: str) -> None:
    overrides = CASES[case]
    small.training(project, *overrides, *small.EVERY_STEP, "run.name='whole'").run()
    whole, losses = small.run_dir(project, "whole"), small.losses(project, "whole")
    hashes = [small.state_hash(whole.checkpoint(step)) for step in range(1, STEPS + 1)]
    assert len(set(hashes)) == STEPS
    for step in range(1, STEPS) if case in AT_EVERY_STEP else (3, 5):
        state, seen = one_step_from(project, step, *overrides)
        assert state == hashes[step], step
        assert seen == {step + 1: losses[step + 1]}


def test_two_processes_resume_bit_for_bit(project: Path) -> None:
    def whole() -> None:
        small.training(project, *small.EVERY_STEP, "run.name='whole'", "training.gradient_accumulation=2").run()

    def resumed() -> dict[int, float]:
        given = small.run_dir(project, "whole").checkpoint(2)
        found = small.training(project, "run.name='resumed'", "training.gradient_accumulation=2", given=given)
        found.run()
        return small.losses(project, "resumed") if found.loop.accelerator.is_main_process else {}

    ranks(2, whole)
    losses = ranks(2, resumed)[0]
    first, second = small.run_dir(project, "whole"), small.run_dir(project, "resumed")
    assert small.state_hash(first.checkpoint(STEPS)) == small.state_hash(second.checkpoint(STEPS))
    assert losses == {step: loss for step, loss in small.losses(project, "whole").items() if step > 2}


def test_previews_measurements_and_saves_change_nothing(project: Path) -> None:
    # Holding images out changes what trains, so that the measuring of them is what differs.
    quiet = ("validation={split=0.3,every='1h',images=1,training_images=0,draws=1}", "run.name='quiet'")
    busy = (
        "samples={prompts=['a cat','a dog'],width=16,height=16,steps=2,every=1,at_start=true}",
        "validation={split=0.3,every=1,images=2,training_images=2,draws=2}",
        "save.every=1",
        "training.preflight=true",
        "run.name='busy'",
    )
    for overrides in (quiet, busy):
        small.training(project, "lora.dropout=0.5", *overrides).run()
    states = {small.state_hash(small.run_dir(project, name).checkpoint(STEPS)) for name in ("quiet", "busy")}
    assert len(states) == 1
    assert small.losses(project, "quiet") == small.losses(project, "busy")


def test_the_command_line_resumes_in_a_new_process_to_the_same_file(project: Path) -> None:
    def file(name: str) -> bytes:
        return (project.parent / "output" / name / f"{name}.safetensors").read_bytes()

    small.training(project, "run.name='aaaaa'").run()
    stopped = small.training(project, "run.name='bbbbb'")
    small.stop_after(stopped, 3)
    assert stopped.run() == "stopped"
    command = [sys.executable, "-m", "trainer", "train", str(project), "--resume", "--set", "run.name='bbbbb'"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "goes on after step 3" in done.stdout
    one, other = file("aaaaa"), file("bbbbb")
    behind_header = 8 + int.from_bytes(one[:8], "little"), 8 + int.from_bytes(other[:8], "little")
    assert one[behind_header[0] :] == other[behind_header[1] :]


def test_forked_processes_train_as_their_parent_does(project: Path) -> None:
    """What the tests beside this one rely on."""
    small.training(project, "run.name='here'").run()
    forked(lambda: small.training(project, "run.name='there'").run()).returned()
    here, there = (small.run_dir(project, name).checkpoint(STEPS) for name in ("here", "there"))
    assert small.state_hash(here) == small.state_hash(there)


def test_neither_workers_nor_the_place_of_the_cache_change_anything(project: Path) -> None:
    settings = ("general.flip_aug=true", "general.shuffle_caption=true", "general.caption_dropout_rate=0.3")
    for name, data in {
        "none": "{workers=0}",
        "one": "{workers=1}",
        "four": "{workers=4}",
        "disk": "{workers=2,cache_to_disk=true,cache_dir='cache'}",
        "warm disk": "{workers=3,cache_to_disk=true,cache_dir='cache'}",
    }.items():
        small.training(project, *settings, f"data={data}", f"run.name='{name}'").run()
    names = ("none", "one", "four", "disk", "warm disk")
    assert len({small.state_hash(small.run_dir(project, name).checkpoint(STEPS)) for name in names}) == 1
