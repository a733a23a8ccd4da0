"""Compares what the pairing noise stages would do to a dataset's own latents, over a range of settings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from pydantic import BaseModel

from trainer import registry
from trainer.batch import NoiseDraw
from trainer.protocols import NoiseStage, Objective
from trainer.randomness import generator
from trainer.reports.noise.cost import milliseconds, peak_bytes
from trainer.reports.noise.effect import Effect, FlatLatents, acting_timesteps, effect, paired_together
from trainer.reports.noise.shift import REFERENCE_PULL, SignalSchedule, flow_time
from trainer.reports.noise.sweep import swept
from trainer.training.noise import gaussian

DRAWS = 4096  # per setting
MOST_NUMBERS = {"cpu": 2**26, "cuda": 2**30}  # drawn per setting: seconds each
FEWEST_DRAWS = 512

Progress = Callable[[int, int], None]  # (done, total)


@dataclass(frozen=True)
class ReportRequest:
    """What of a run the report depends on."""

    objective: Objective
    objective_name: str
    stages: Mapping[str, BaseModel]  # the settings of every stage that is on, by plugin name
    batch_size: int
    accumulation: int = 1
    sizes: tuple[tuple[tuple[int, int], int], ...] = ()  # ((width, height) in pixels, images) of all the data
    draws: int = DRAWS
    seed: int = 0


@dataclass(frozen=True)
class Setting:
    """One value of a stage's headline setting, measured."""

    value: Any
    together: int  # samples that are paired at once; 0 = each for itself
    effect: Effect
    snr_multiplier: Mapping[int, float | None]  # by timestep; None where plain noise leaves no signal
    acts_as: Mapping[int, float]  # by timestep: the plain timestep with the same signal-to-noise ratio
    flow_time: float  # what flow matching's last time, 1, acts as
    information: float | None  # nats about the image in its noise, at most
    milliseconds: float  # added to the noise of one micro-batch
    extra_bytes: int | None  # beyond plain noise, for one call
    configured: bool  # the run's own setting

    @property
    def strength(self) -> float:
        """Its pull in units of the authors' nearest of 64 at 4 x 32 x 32."""
        return self.effect.pull / REFERENCE_PULL


@dataclass(frozen=True)
class Compared:
    """One stage over its settings, weakest first."""

    name: str  # of the plugin
    headline: str
    settings: tuple[Setting, ...]
    acts_from: int = 0  # the timesteps at which the run's setting acts
    acts_to: int = 0

    @property
    def configured(self) -> Setting | None:
        return next((s for s in self.settings if s.configured), None)

    def label(self, setting: Setting) -> str:
        return f"{self.headline} = {setting.value}"


@dataclass(frozen=True)
class NoiseReport:
    images: int  # whose latents were looked at
    sizes: tuple[tuple[tuple[int, int], int], ...]  # ((width, height) in pixels, images) of all data, this one first
    shape: tuple[int, ...]  # of a latent, (C, h, w)
    latent_rms: float
    common_share: float  # how much of the latents' energy all images have in common, 0..1
    batch_size: int
    device: str
    objective: str
    timesteps: int
    pure_noise_at_the_end: bool
    plain_milliseconds: float  # plain noise of one micro-batch
    stages: tuple[Compared, ...]  # the run's own first, then those that pair each sample for itself
    schedule: SignalSchedule
    unmeasured: tuple[str, ...] = ()  # what is known of the run's stages whose choice is the network's

    @property
    def dimension(self) -> int:
        return math.prod(self.shape)

    @property
    def total_images(self) -> int:
        """Of the dataset, all sizes."""
        return sum(count for _, count in self.sizes) or self.images

    @property
    def configured(self) -> tuple[Compared, Setting] | None:
        """The stage and setting that the run is going to use; None for plain noise."""
        return next(((stage, s) for stage in self.stages if (s := stage.configured) is not None), None)

    def as_dict(self) -> dict[str, Any]:
        """For noise-report.json: each stage under its plugin's name, by the value of its setting; angles: how noisy the
        input of each timestep is (SignalSchedule)."""
        head = {
            name: getattr(self, name)
            for name in (
                "images", "total_images", "latent_rms", "common_share", "batch_size", "device", "objective",
                "timesteps", "pure_noise_at_the_end", "plain_milliseconds",
            )
        }  # fmt: skip
        stages = {
            stage.name: {str(s.value): _setting_dict(s, self.schedule) for s in stage.settings} for stage in self.stages
        }
        sizes = {f"{width}x{height}": count for (width, height), count in self.sizes}
        angles = [round(angle, 6) for angle in self.schedule.angles.tolist()]
        return {"format": 1, "shape": list(self.shape), "sizes": sizes, **head, "angles": angles, **stages}


def _setting_dict(s: Setting, schedule: SignalSchedule) -> dict[str, Any]:
    return {
        **asdict(s.effect),
        "snr_multiplier": {schedule.told(t): value for t, value in s.snr_multiplier.items()},
        "equivalent_timestep": {schedule.told(t): schedule.place(value) for t, value in s.acts_as.items()},
        "flow_time": s.flow_time,
        "information_nats": None if s.information is None or math.isinf(s.information) else s.information,
        "milliseconds": s.milliseconds,
        "extra_bytes": s.extra_bytes,
        "strength": s.strength,
        "configured": s.configured,
    }


def report(latents: FlatLatents, asked: ReportRequest, on_progress: Progress | None = None) -> NoiseReport:
    """Measures every pairing stage that names values to compare, and the one that the run uses."""
    schedule = SignalSchedule.of(asked.objective)
    plans = _all_plans(asked, len(latents))
    measured: dict[str, list[Setting]] = {}
    spans: dict[str, tuple[int, int]] = {}
    for done, plan in enumerate(plans):
        found, span = _measured(plan, latents, asked, schedule)
        measured.setdefault(plan.name, []).append(found)
        if plan.configured:
            spans[plan.name] = span
        if on_progress is not None:
            on_progress(done + 1, len(plans))
    device = latents.x.device
    return NoiseReport(
        images=len(latents),
        sizes=asked.sizes,
        shape=latents.shape,
        latent_rms=latents.rms,
        common_share=latents.common_share,
        batch_size=asked.batch_size,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        objective=asked.objective_name,
        timesteps=len(schedule),
        pure_noise_at_the_end=schedule.ends_in_pure_noise,
        plain_milliseconds=_plain_milliseconds(latents, asked.batch_size),
        stages=tuple(
            Compared(name, registry.find("noise", name).headline, tuple(measured[name]), *spans.get(name, (0, 0)))
            for name in sorted(measured, key=lambda name: (name not in spans, measured[name][0].together > 0, name))
        ),
        schedule=schedule,
        unmeasured=tuple(_unmeasured(asked)),
    )


def _unmeasured(asked: ReportRequest) -> Iterator[str]:
    for name, settings in asked.stages.items():
        plugin = registry.find("noise", name)
        if plugin.network:
            nats = plugin.information(settings, asked.batch_size)
            told = "" if nats is None else f", and its noise holds at most {nats:.2f} nats about its image"
            cost = plugin.remark(settings, asked.batch_size, asked.accumulation)
            yield f"noise.{name}: {cost}{told}"


def settings_of(asked: ReportRequest, images: int) -> int:
    """How many settings a report measures."""
    return len(_all_plans(asked, images))


@dataclass(frozen=True)
class _Plan:
    """A stage with one of its settings, to be measured."""

    name: str
    plugin: type[NoiseStage]
    settings: BaseModel
    value: Any
    together: int
    configured: bool


def _all_plans(asked: ReportRequest, images: int) -> list[_Plan]:
    return [plan for name in registry.names("noise") for plan in _plans(name, asked, images)]


def _plans(name: str, asked: ReportRequest, images: int) -> list[_Plan]:
    """The values of a pairing stage that are compared, as far as there are images for them, and the run's own."""
    plugin = registry.find("noise", name)
    own = asked.stages.get(name)
    if plugin.phase != "pair" or plugin.network:
        return []
    found: dict[Any, _Plan] = {}
    for value, settings in swept(plugin, plugin.Settings() if own is None else own):
        together = paired_together(plugin(settings), asked.batch_size, asked.accumulation)
        found[value] = _Plan(name, plugin, settings, value, together, False)
    if own is not None:
        # A pool that is named rather than counted stands at its number.
        together = paired_together(plugin(own), asked.batch_size, asked.accumulation)
        value = getattr(own, plugin.headline)
        key = together if together and not isinstance(value, int) else value
        found[key] = _Plan(name, plugin, own, key, together, True)
    ordered = sorted(found.values(), key=lambda plan: (not isinstance(plan.value, int | float), plan.value))
    return [plan for plan in ordered if max(1, plan.together) <= images]


def _measured(
    plan: _Plan, latents: FlatLatents, asked: ReportRequest, schedule: SignalSchedule
) -> tuple[Setting, tuple[int, int]]:
    """The setting, and the first and last timestep at which it acts."""
    stage, device = plan.plugin(plan.settings), latents.x.device
    acts = acting_timesteps(stage, len(schedule), device) or [len(schedule) - 1]
    t = acts[len(acts) // 2]
    found = effect(
        stage, latents, draws=draws_for(latents, asked.draws), timestep=t, together=plan.together, seed=asked.seed
    )
    pull, scale = found.pull, found.scale
    batch = plan.together or asked.batch_size
    stream = generator(asked.seed, "noise report cost", device=device)
    context = latents.context(torch.arange(batch) % len(latents), t, stream)
    plain = gaussian(context.clean, stream)

    def call() -> torch.Tensor:
        return stage(NoiseDraw(plain, plain), context).target

    setting = Setting(
        value=plan.value,
        together=plan.together,
        effect=found,
        snr_multiplier={t: schedule.snr_multiplier(t, pull, scale) for t in schedule.landmarks},
        acts_as={t: schedule.acts_as(t, pull, scale) for t in schedule.landmarks},
        flow_time=flow_time(pull, scale),
        information=plan.plugin.information(plan.settings, plan.together),
        milliseconds=milliseconds(call, device) * asked.batch_size / batch,
        extra_bytes=peak_bytes(call, device),
        configured=plan.configured,
    )
    return setting, (acts[0], acts[-1])


def value_with_pull(measured: Sequence[tuple[int, float]], pull: float) -> float | None:
    """Between ascending (value, its pull): linear over the logarithm of the value, where value 1 pulls nothing."""
    x, y = 0.0, 0.0
    for value, found in measured:
        if found >= pull:
            return 2.0 ** (x + (pull - y) / max(1e-12, found - y) * (math.log2(value) - x))
        x, y = math.log2(value), found
    return None


def draws_for(latents: FlatLatents, wanted: int) -> int:
    """Fewer where latents are so large that it would take long, and where the averages are sharper anyway."""
    most = MOST_NUMBERS.get(latents.x.device.type, MOST_NUMBERS["cpu"]) // latents.dimension
    return min(wanted, max(FEWEST_DRAWS, most))


def _plain_milliseconds(latents: FlatLatents, batch_size: int) -> float:
    like = latents.x.new_empty((batch_size, *latents.shape))
    stream = generator(0, "noise report cost", device=like.device)
    return milliseconds(lambda: gaussian(like, stream), like.device)
