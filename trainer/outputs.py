"""What a run does between its steps: draws samples, saves results and checkpoints."""

from __future__ import annotations

from accelerate import Accelerator

from trainer import sampling
from trainer.config import Samples
from trainer.events import Sample, Save, Sink
from trainer.loop import Periodic
from trainer.protocols import Family
from trainer.results import Result
from trainer.resume import Keeper
from trainer.run_dir import RunDir
from trainer.sampling import Request


def requests(settings: Samples) -> list[Request]:
    """The pictures that the config asks for, each with a seed of its own."""
    s = settings
    return [
        Request(prompt, s.seed + i, s.negative, s.width, s.height, s.steps, s.guidance)
        for i, prompt in enumerate(s.prompts)
    ]


def samples(settings: Samples, run_dir: RunDir, family: Family, emit: Sink, accelerator: Accelerator) -> Periodic:
    """Draws `[samples]` every N steps and at the end, on the main process."""
    wanted = requests(settings)

    def act(step: int) -> None:
        if accelerator.is_main_process:
            with accelerator.autocast():
                pictures = sampling.draw(family, wanted)
            files = [run_dir.sample(step, index) for index in range(len(wanted))]
            for picture, file in zip(pictures, files, strict=True):
                sampling.save(picture, file)
            names = [file.relative_to(run_dir.path).as_posix() for file in files]
            emit(Sample(step, files=names, prompts=[r.prompt for r in wanted]))

    on = bool(wanted)
    return Periodic(act, settings.every if on else 0, at_start=on and settings.at_start, at_end=on)


def saves(
    every: int, steps: int, run_dir: RunDir, result: Result, keeper: Keeper, emit: Sink, accelerator: Accelerator
) -> Periodic:
    """Saves the result (under its final name after the last of `steps`) and a checkpoint."""

    def act(step: int) -> None:
        if accelerator.is_main_process:
            file = result.save(run_dir.result(None if step == steps else step), step)
            emit(Save(step, file=file.relative_to(run_dir.path).as_posix()))
        keeper.save(step)

    return Periodic(act, every, at_end=True, name="save")
