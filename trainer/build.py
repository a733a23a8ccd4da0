"""The composition root: the one place that turns a whole config into objects."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.optim import Optimizer

from trainer import environment, lora, optimizers, outputs, parameters, prompts, registry, schedules, validation_set
from trainer.advice import memory_advice, slowness_hint
from trainer.batch import TextStates
from trainer.config import BaseConfig
from trainer.config_checks import notes
from trainer.config_io import looks_like_path
from trainer.console import Console
from trainer.control import Control, StopRequestedError
from trainer.data import holdout
from trainer.data.cache import Latents, MemoryLatents, TextCache
from trainer.data.dataset import Dataset
from trainer.data.holdout import Split
from trainer.data.loader import Loader
from trainer.data.on_demand import OnDemandLatents
from trainer.data.plan import Plan
from trainer.data.scan import scan
from trainer.determinism import set_deterministic
from trainer.ema import Averages
from trainer.errors import RunError, UserError
from trainer.events import Error, Notice, Sink, Start
from trainer.facts import metadata_of, model_metadata_of
from trainer.guards import FiniteSteps, StepTimes
from trainer.holder import holder_of, in_use
from trainer.loop import Loop, Pace, Periodic
from trainer.losses import Loss
from trainer.network import Network
from trainer.noise import NoiseChain
from trainer.noise_pool import NoisePool, Place
from trainer.parameters import Group, Rates
from trainer.preflight import attempt, describe, largest
from trainer.protocols import Family, Objective
from trainer.reports import noise_warning
from trainer.reports.noise_shift import Schedule
from trainer.results import DTYPES, AveragedResult, FullResult, LoraResult, Result
from trainer.resume import Keeper, Stateful, may_start
from trainer.run_dir import RunDir
from trainer.run_folder import RunFolder
from trainer.schedules import Shape
from trainer.step import TrainingStep
from trainer.stream import global_index
from trainer.timesteps import Timesteps
from trainer.validator import Validator


@dataclass
class Training:
    """A run that is ready to start; nothing is written before `run`."""

    loop: Loop
    family: Family
    loader: Loader
    folder: RunFolder
    console: Console
    keeper: Keeper
    advice: str  # what to change when the device's memory runs out
    notices: list[str] = field(default_factory=list)  # told first

    def run(self) -> str:
        """Returns "done" or "stopped"."""
        steps, done = self.loop.pace.steps, self.loop.start.step
        with (
            self.folder.opened(),
            self.loop.control.listening(),
            self.console.progress("training", steps, "steps", start=done) as self.folder.lines.update,
        ):
            try:
                self.keeper.begin(done)
                for line in [*self.folder.changes, *self.notices]:
                    self.loop.emit(Notice(done, message=line))
                return self.loop.run()
            except torch.OutOfMemoryError as error:
                failed = memory_ran_out(self.loop.start.device, self.advice)
                self.loop.emit(Error(done, message=str(failed)))
                raise failed from error
            except (RunError, UserError) as error:
                self.loop.emit(Error(done, message=str(error)))
                raise


def train(config: BaseConfig, console: Console, *, resume: bool = False, given: Path | None = None) -> str:
    """Builds a run and trains; returns "done" or "stopped". A stop is answered while caches are filled, too."""
    control = Control(run_dir_of(config).control)
    control.forget_earlier()
    with control.listening():
        console.interrupt = control.raise_if_stopped
        try:
            found = training(config, console, resume=resume, given=given, control=control)
        except StopRequestedError:
            console.say("stopped before the first step; what is in the disk cache stays, the rest begins anew")
            return "stopped"
        finally:
            console.interrupt = lambda: None
        return "done" if found is None else found.run()


def preflight(config: BaseConfig, console: Console) -> list[str]:
    """Takes one step with the largest batch and tells what it took; writes nothing."""
    found = training(config, console, trial=True)
    assert found is not None
    return found.notices


def run_dir_of(config: BaseConfig) -> RunDir:
    return RunDir(Path(config.run.output_dir) / config.run.name)


def training(
    config: BaseConfig,
    console: Console,
    *,
    resume: bool = False,
    given: Path | None = None,
    control: Control | None = None,
    trial: bool = False,
) -> Training | None:
    """Everything from config to a loop that can run. None when the run is done already. Raises UserError.

    given: the checkpoint to resume from, if not the newest; trial: for a preflight alone, without any caching.
    Nothing is written before the data and the model are known to be good.
    """
    run_dir = run_dir_of(config)
    if not trial and (pid := holder_of(run_dir)) is not None:
        raise in_use(run_dir.path, pid)
    if not trial and not may_start(run_dir, config, resume=resume, given=given):
        console.say(f"{run_dir.path}: this run is done already; change run.name to train again.")
        return None
    for line in notes(config):
        console.say(line)
    set_deterministic(config.run.deterministic)
    wanted = prompts.requests(config.samples)
    accelerator = accelerator_for(config)
    family = open_family(config)
    for line in family.notes:
        console.say(f"note: {line}")
    split = split_of(config, scan_data(config, console, family), family.latent_factor)
    for line in held_out_lines(config, split):
        console.say(line)
    dataset = split.training
    rates = prepare_parts(config, family)
    family.to(accelerator.device, DTYPES[config.training.precision])
    plan = Plan(dataset, config.run.seed)
    pace = pace_of(config, plan, accelerator.num_processes)
    loader = make_loader(config, console, accelerator, family, plan, pace, on_demand=trial)
    groups = parameters.groups(family.parts, Rates(rates, config.optimizer.rates, config.optimizer.lora_plus))
    modules = Network(family)
    if config.training.gradient_checkpointing:
        modules.enable_gradient_checkpointing()
    network, optimizer = accelerator.prepare(
        modules, optimizers.build(config.optimizer.name, groups, config.optimizer.args)
    )
    schedule = schedules.build(
        optimizer,
        Shape(**config.schedule.model_dump()),
        total=pace.steps,
        until=[last_step(config, family, group, pace) for group in groups],
    )
    finite = FiniteSteps()
    weights = dict(parameters.trainable(family.parts))
    averages = Averages(weights, optimizer, config.ema.decay, config.ema.every, on_cpu=config.ema.device == "cpu")
    extra: dict[str, Stateful] = {"finite": finite, "averages": averages}
    keeper = Keeper(run_dir, config, accelerator, weights, optimizer, schedule, extra)
    done = keeper.restore(console.say, [g.lr for g in groups], given) if resume or given else 0
    trained = result_of(config, family, dataset, pace, accelerator.num_processes)
    result = AveragedResult(trained, averages.applied)
    made_from = {
        "processes": accelerator.num_processes,
        "base": environment.fingerprint(Path(config.model.base)),
        "dataset": environment.fingerprint_of_images(dataset),
    }
    if done and given is None:
        refuse_other_base(run_dir, made_from)
    folder = RunFolder(run_dir, config, accelerator, console, made_from)
    emit = folder.emit
    control = control or Control(run_dir.control)
    validator = None if trial else validator_of(config, accelerator, family, split, run_dir, result, emit, done)
    loop = Loop(
        accelerator=accelerator,
        network=network,
        step=TrainingStep(
            predict=network,
            encode_images=family.encode_images,
            objective=objective_of(config, family),
            noise=noise_chain(config, loader, pace, accelerator),
            timesteps=timesteps_of(config),
            loss=Loss(**config.loss.model_dump()),
        ),
        batch=loader.batch,
        optimizer=optimizer,
        schedule=schedule,
        pace=pace,
        emit=emit,
        periodic=[
            *(
                averaged(one, averages)
                for one in (
                    outputs.Samples(wanted, run_dir, family, emit, accelerator, control).periodic(
                        outputs.schedule(config.samples.every, pace, accelerator), at_start=config.samples.at_start
                    ),
                    *(
                        outputs.validations(validator, config.validation.every, pace, keeper, control)
                        if validator is not None
                        else ()
                    ),
                )
            ),
            outputs.saves(
                outputs.schedule(config.save.every, pace, accelerator),
                lambda step: step >= pace.steps or control.ended,
                run_dir,
                result,
                keeper,
                emit,
                accelerator,
            ),
        ],
        saver=keeper,
        control=control,
        averages=averages,
        start=_start(done, pace, dataset, groups, accelerator),
        finite=finite,
        times=StepTimes(slowness_hint(config, accelerator.device.type)),
    )
    found = Training(loop, family, loader, folder, console, keeper, memory_advice(config))
    if (config.training.preflight or trial) and done < pace.steps:
        console.interrupt()
        spare = None if done else optimizers.build(config.optimizer.name, groups, config.optimizer.args)
        found.notices.append(tried(found, plan, spare))
    return found


def refuse_other_base(run_dir: RunDir, made_from: Mapping[str, object]) -> None:
    began_with = environment.read(run_dir.environment).get("base")
    if began_with and began_with != made_from["base"]:
        raise UserError(
            f"model.base: its files are not those that the run in {run_dir.path} began with. Bring them back, or "
            "change run.name to start another run."
        )


def tried(found: Training, plan: Plan, optimizer: Optimizer | None) -> str:
    """What a step with the largest batch took, as a line."""
    loop = found.loop
    try:
        trial = attempt(loop, plan, optimizer)
    except torch.OutOfMemoryError as error:
        raise memory_ran_out(loop.start.device, found.advice, describe(plan, largest(plan))) from error
    return trial.line(loop.pace.steps - loop.start.step)


def memory_ran_out(device: str, advice: str, batch: str = "") -> RunError:
    where = f" in a first step with the largest batch ({batch})" if batch else ""
    return RunError(f"the memory of {device} ran out{where}. What saves most: {advice}.")


def averaged(periodic: Periodic, averages: Averages) -> Periodic:
    """The same action, done with the averaged weights where there are any."""

    def act(step: int) -> None:
        with averages.applied():
            periodic.act(step)

    return replace(periodic, act=act)


def summary(config: BaseConfig) -> list[str]:
    """What would train, for `check`: reads headers and captions, loads no weights."""
    scanned = scan(config.datasets, config.general, config.data, config_dir=Path.cwd())
    split = split_of(config, scanned, scanned.rendering.cell)
    dataset = split.training
    plan = Plan(dataset, config.run.seed)
    pace = pace_of(config, plan, 1)
    pictures = prompts.requests(config.samples)
    sizes = Counter(item.target for item in dataset.items)
    return [
        *dataset.notes,
        *held_out_lines(config, split),
        *(f"{skipped.path}: skipped: {skipped.reason}" for skipped in dataset.skipped),
        *(f"bucket {width}x{height}: {count} images" for (width, height), count in sorted(sizes.items())),
        f"{len(dataset.items)} images, {plan.samples_per_epoch} samples in {plan.batches_per_epoch} batches per epoch",
        f"{pace.steps} steps, {pace.steps * pace.accumulation / plan.batches_per_epoch:.1f} epochs",
        *([f"{len(pictures)} samples each time"] if pictures else ()),
        *noise_warning.warnings_before_encoding(config.noise.stages(), dataset, accumulation=pace.accumulation),
    ]


def accelerator_for(config: BaseConfig) -> Accelerator:
    precision = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}[config.training.precision]
    cpu = config.run.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if cpu and precision == "fp16":
        raise UserError("training.precision: fp16 needs a GPU; use bf16 or fp32 on a CPU.")
    if config.run.device in ("cuda", "mps") and cpu:
        raise UserError(f"run.device: found {config.run.device!r}, but torch sees no such device here; use 'auto'.")
    # accelerate keeps the first precision for the life of the process; here one process may train several runs.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=cpu, mixed_precision=precision, gradient_accumulation_steps=config.training.gradient_accumulation
    )


def open_family(config: BaseConfig) -> Family:
    """Loads the base by the family that was asked for, or the one that recognises it."""
    base = config.model.base
    if looks_like_path(base) and not Path(base).exists():
        raise UserError(
            f"model.base: there is no such base: {base}. Is the path right? It is relative to the config file."
        )
    torch.manual_seed(config.run.seed)  # random weights (model.init) are drawn from torch's global stream
    try:
        return _family_class(config).load(
            base,
            prediction=config.model.prediction,
            init=config.model.init,
            tokenizer=config.model.tokenizer,
            vae=config.model.vae,
            clip_skip=config.model.clip_skip,
            max_tokens=config.model.max_tokens,
            weighted_captions=config.model.weighted_captions,
        )
    except UserError as error:
        raise UserError(p if p.startswith("model.") else f"model.base: {p}" for p in error.problems) from error


def _family_class(config: BaseConfig) -> type[Family]:
    if config.model.family != "auto":
        return registry.find("models", config.model.family)
    for name in registry.names("models"):
        if registry.find("models", name).recognises(config.model.base):
            return registry.find("models", name)
    families = registry.names("models")
    told = [what for name in families if (what := registry.find("models", name).describes(config.model.base))]
    what = f"it is {told[0]}" if told else "it is none of the models that the families know"
    raise UserError(
        f"model.base: {config.model.base} cannot be trained: {what}. There are the families {', '.join(families)}; "
        "expected a checkpoint in one file, a diffusers folder (with a model_index.json) or a hub id."
    )


def objective_of(config: BaseConfig, family: Family) -> Objective:
    name = family.prediction if config.model.prediction == "auto" else config.model.prediction
    return registry.find("objectives", name)(family.alphas_cumprod)


def timesteps_of(config: BaseConfig) -> Timesteps:
    settings = config.timesteps.model_dump()
    return Timesteps(low=settings.pop("min"), high=settings.pop("max"), **settings)


def noise_chain(config: BaseConfig, loader: Loader, pace: Pace, accelerator: Accelerator) -> NoiseChain:
    """All stages that are on; one that pairs beyond its micro-batch gets a pool that looks ahead in the loader."""
    chain = NoiseChain({n: registry.find("noise", n)(settings) for n, settings in config.noise.stages().items()})
    for name, stage in chain.stages.items():
        pool = getattr(stage, "pool", "batch")
        if stage.phase != "pair" or pool == "batch":
            continue
        if not config.data.cache_latents:
            raise UserError(f"noise.{name}.pool: pairing beyond the micro-batch needs data.cache_latents = true.")

        def clean(place: Place) -> Tensor:
            index = global_index(place[0], place[1], pace.accumulation, place[2], accelerator.num_processes)
            latents = loader.batch(index).latents
            assert latents is not None
            return latents.to(accelerator.device).float()

        chain.pool = NoisePool(
            name,
            stage,
            size=pool if isinstance(pool, int) else 0,
            clean=clean,
            timesteps=timesteps_of(config),
            accumulation=pace.accumulation,
            ranks=accelerator.num_processes,
            batch_size=max(group.batch_size for group in loader.dataset.groups),
        )
    return chain


def prepare_parts(config: BaseConfig, family: Family) -> dict[str, float]:
    """Injects adapters or unfreezes weights; returns the learning rate of each part that trains."""
    training, rate = config.training, config.optimizer.lr
    rates = {name: rate for name in family.parts if training.unet and name not in family.text_parts}
    if training.text_encoder:
        rates |= dict.fromkeys(family.text_parts, config.optimizer.text_encoder_lr or rate)
    if training.method == "lora":
        settings = config.lora
        lora.inject(
            family,
            list(rates),
            rank=settings.rank,
            alpha=settings.alpha,
            conv_rank=settings.conv_rank,
            conv_alpha=settings.conv_alpha,
            dropout=settings.dropout,
            rank_dropout=settings.rank_dropout,
            module_dropout=settings.module_dropout,
            method=settings.method,
            ranks=settings.ranks,
            seed=config.run.seed,
        )
        if settings.init_from:
            lora.init_from(family, Path(settings.init_from))
    else:
        for name in rates:
            parameters.unfreeze(family.parts[name])
    for parameter in family.unused_parameters():
        parameter.requires_grad_(False)
    return rates


def scan_data(config: BaseConfig, console: Console, family: Family) -> Dataset:
    dataset = scan(
        config.datasets, config.general, config.data, config_dir=Path.cwd(), size_multiple=family.latent_factor
    )
    for line in dataset.notes:
        console.say(line)
    for skipped in dataset.skipped:
        console.say(f"{skipped.path}: skipped: {skipped.reason}")
    return dataset


def split_of(config: BaseConfig, dataset: Dataset, size_multiple: int) -> Split:
    """What trains and what is held out to measure with; nothing is, unless the config asks for it."""
    settings = config.validation
    if not settings.datasets:
        return holdout.split(dataset, settings)
    return holdout.own_images(
        dataset, settings, config.general, config.data, config_dir=Path.cwd(), size_multiple=size_multiple
    )


def held_out_lines(config: BaseConfig, split: Split) -> list[str]:
    count = len(split.held_out.items)
    if not count:
        return []
    measured = min(count, config.validation.images or count)
    some = f" ({measured} of them are measured)" if measured < count else ""
    return [f"validation: {count} images are held out{some}, {len(split.training.items)} train"]


def validator_of(
    config: BaseConfig,
    accelerator: Accelerator,
    family: Family,
    split: Split,
    run_dir: RunDir,
    result: Result,
    emit: Sink,
    done: int,
) -> Validator | None:
    """None when nothing is held out."""
    if not split.held_out.items:
        return None
    objective, settings = objective_of(config, family), config.validation

    def encode_text(captions: Sequence[str]) -> TextStates:
        with torch.no_grad(), accelerator.autocast():
            return family.encode_text(captions)

    questions = validation_set.make(
        split,
        settings,
        objective=objective.diffusers_name,
        schedule=len(family.alphas_cumprod),
        encode_images=lambda pixels: family.encode_images(pixels.to(accelerator.device)),
        encode_text=None if config.training.text_encoder else encode_text,
    )
    return Validator(
        questions,
        family,
        objective,
        accelerator,
        run_dir,
        result,
        emit,
        without=partial(lora.scaled, family, 0.0) if config.training.method == "lora" else None,
        patience=settings.early_stop,
        keep_best=settings.keep_best,
        start=done,
    )


def last_step(config: BaseConfig, family: Family, group: Group, pace: Pace) -> int:
    """After how many steps a group of parameters stops training."""
    until = config.training.text_encoder_until
    if not until or group.part not in family.text_parts:
        return pace.steps
    return round(until * pace.steps) if until < 1 else int(until)


def make_loader(
    config: BaseConfig,
    console: Console,
    accelerator: Accelerator,
    family: Family,
    plan: Plan,
    pace: Pace,
    *,
    on_demand: bool = False,
) -> Loader:
    """Fills the caches that the config asks for; `on_demand`: gives the same without filling them."""
    make = partial(
        Loader,
        plan.dataset,
        plan,
        config.run.seed,
        batches_per_step=pace.accumulation * accelerator.num_processes,
        steps=pace.steps,
    )
    latents: Latents | None = None
    texts = None

    def encode_images(pixels: Tensor) -> Tensor:
        return family.encode_images(pixels.to(accelerator.device))

    if config.data.cache_latents and on_demand:
        latents = OnDemandLatents(plan.dataset, encode_images)
    elif config.data.cache_latents:
        with torch.no_grad(), console.progress("encoding images", len(plan.dataset.items), "images") as update:
            latents = MemoryLatents.encode(plan.dataset, encode_images, on_progress=lambda done, _: update(done, ""))
        for line in noise_warnings(config, family, plan.dataset, latents, pace):
            console.say(line)
    if config.data.cache_text and not config.training.text_encoder:
        # Under autocast, as in the network: cached states equal live ones.
        def encode(captions: Sequence[str]) -> TextStates:
            with torch.no_grad(), accelerator.autocast():
                return family.encode_text(captions)

        texts = TextCache(encode)
        captions = set() if on_demand else make().possible_captions()
        with console.progress("encoding captions", len(captions), "captions") as update:
            texts.prepare(captions, on_progress=lambda done, _: update(done, ""))
    return make(latents=latents, texts=texts)


def noise_warnings(config: BaseConfig, family: Family, dataset: Dataset, latents: Latents, pace: Pace) -> list[str]:
    """Where pairing noise shifts this data's signal-to-noise ratio strongly."""
    schedule = Schedule.of(objective_of(config, family), len(family.alphas_cumprod))
    stages = config.noise.stages()
    return noise_warning.warnings(stages, dataset, latents.read, accumulation=pace.accumulation, schedule=schedule)


def pace_of(config: BaseConfig, plan: Plan, processes: int) -> Pace:
    training = config.training
    per_step = training.gradient_accumulation * processes
    steps = math.ceil(training.epochs * plan.batches_per_epoch / per_step) if training.epochs else training.steps
    return Pace(
        steps=steps,
        accumulation=training.gradient_accumulation,
        batches_per_epoch=plan.batches_per_epoch,
        max_grad_norm=training.max_grad_norm,
        log_every=config.logging.every,
        seed=config.run.seed,
    )


def result_of(config: BaseConfig, family: Family, dataset: Dataset, pace: Pace, processes: int) -> Result:
    dtype = DTYPES[config.save.dtype]
    if config.training.method == "full":
        facts = model_metadata_of(config, family, dataset)
        return FullResult(family, dtype, config.save.full, facts)
    return LoraResult(family, dtype, metadata_of(config, family, dataset, pace, processes))


def _start(done: int, pace: Pace, dataset: Dataset, groups: Sequence[Group], accelerator: Accelerator) -> Start:
    return Start(
        done,
        steps=pace.steps,
        images=len(dataset.items),
        trainable=sum(p.numel() for group in groups for p in group.parameters),
        device=str(accelerator.device),
        resumed=done > 0,
    )
