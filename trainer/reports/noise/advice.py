"""Says in plain words what the noise report's numbers mean for this dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.reports.html import Mood
from trainer.reports.noise.comparison import Compared, NoiseReport, value_with_pull
from trainer.reports.noise.effect import Effect
from trainer.reports.noise.shift import REFERENCE_PULL, SignalSchedule

REFERENCE = "the authors' nearest of 64 at 4x32x32"
REFERENCE_NUMBERS = 4 * 32 * 32
STRONG = 1.4  # times the reference: above what the authors used themselves, but for their largest pools
WEAK = 0.6
ALIKE = 0.3  # of the latents' energy in common
FEW = 50  # images
USUAL_RMS = (0.3, 3.0)  # of latents


@dataclass(frozen=True)
class Advice:
    head: str
    text: str
    mood: Mood = ""


def advice(report: NoiseReport) -> list[Advice]:
    """What a person should know before they choose, the most important first."""
    found = [
        _odd(report),
        _unmeasured(report) or _own(report),
        _equal(report),
        _few(report),
        _alike(report),
        _last_timestep(report),
        _size(report),
    ]
    return [*(one for one in found if one is not None), *_costs(report)]


def _unmeasured(report: NoiseReport) -> Advice | None:
    """What the run uses and this page cannot measure."""
    if not report.unmeasured:
        return None
    return Advice(
        "Not measured here: what the network chooses",
        f"{'; '.join(report.unmeasured)}. The choice changes while it learns, so no table says how the noise leans.",
    )


def headline(report: NoiseReport) -> str:
    """One sentence for the top of the page and the terminal."""
    if report.unmeasured:
        return "This run's network chooses its noise; below is what pairing it with your images would do instead."
    if report.configured is None:
        return "This run uses plain noise; below is what pairing it with your images would do."
    stage, s = report.configured
    t = len(report.schedule) // 2
    whole = stage.acts_to - stage.acts_from >= report.timesteps - 1
    told = report.schedule.told
    span = f"{told(stage.acts_from)} to {told(stage.acts_to)}"
    where = "" if whole else f" It acts at timesteps {span}, about, and nowhere else."
    return (
        f"With {stage.name} at {stage.label(s)} your images train as if they were less noisy than they are: "
        f"t = {told(t)} trains as t = {acts(report.schedule, s.effect, t)} would with plain noise, which is "
        f"{_in_words(s.strength)}.{where} In numbers: the noise leans {s.effect.alignment_sigma:.2f} sigma towards "
        f"each image, {_times(s.strength)} {REFERENCE}."
    )


def _in_words(strength: float) -> str:
    return "strong" if strength > STRONG else "weak" if strength < WEAK else "about what the authors used"


def _times(strength: float) -> str:
    return f"{strength:.1f} times the pull of" if strength >= 0.95 else f"{strength:.2f} of the pull of"


def acts(schedule: SignalSchedule, found: Effect, t: int) -> str:
    """What a timestep acts as, in the unit that is told."""
    return schedule.told(schedule.acts_as(t, found.pull, found.scale))


def _odd(report: NoiseReport) -> Advice | None:
    """Latents that no VAE in order makes of pictures."""
    if USUAL_RMS[0] <= report.latent_rms <= USUAL_RMS[1]:
        return None
    return Advice(
        f"Latents of an unusual size: {report.latent_rms:.2g}",
        "Stable Diffusion's have about 1. Is it the right VAE, with the right scaling factor? Noise hides latents that "
        "are too small at every timestep, whatever is paired with them.",
        "caution",
    )


def _own(report: NoiseReport) -> Advice:
    if report.configured is None:
        example = next((f"noise.{s.name} = {s.settings[-1].value}" for s in report.stages if s.settings), "")
        return Advice(
            "Plain noise",
            f"Nothing is paired in this run, and nothing below happens to it. A key such as {example} switches pairing "
            f"on; {_honest()}",
        )
    stage, s = report.configured
    label = f"{stage.name}, {stage.label(s)}"
    if s.strength > STRONG:
        return Advice(
            f"{label}: strong here",
            f"It pulls {s.strength:.1f} times as hard as {REFERENCE}: {_why(report, s.strength)}. In the tests "
            "with intervals that we know (below), such pulls made samples worse, never clearly better. A smaller value "
            "is the safer one.",
            "caution",
        )
    if s.strength < WEAK:
        return Advice(
            f"{label}: weak here",
            f"It pulls {s.strength:.2f} times as hard as {REFERENCE}: {_why(report, s.strength)}. Do not expect much "
            "of it, in either direction.",
        )
    return Advice(f"{label}: as strong as published", f"It pulls {s.strength:.2f} times as hard as {REFERENCE}.")


def _why(report: NoiseReport, strength: float) -> str:
    """Where the strength comes from: the pull is the lean over the length of what sets an image apart."""
    by_size = (REFERENCE_NUMBERS / report.dimension) ** 0.5
    if (by_size > 1) == (strength > 1):
        first = (
            f"a latent here holds {report.dimension:,} numbers, theirs 4,096, and the pull falls with the square root"
        )
    else:
        first = (
            f"its settings do that, for the {report.dimension:,} numbers of a latent alone would make it {by_size:.1f}"
        )
    reasons = [first]
    if not 0.7 < report.latent_rms < 1.4:
        reasons.append(f"the numbers have a size of {report.latent_rms:.2g} instead of 1")
    if report.common_share > ALIKE:
        reasons.append(f"{100 * report.common_share:.0f} % of their energy is common to all images")
    return "; ".join(reasons)


def _honest() -> str:
    return "whether it helps is open, see what is known below."


def _equal(report: NoiseReport) -> Advice | None:
    """Which value is as strong here as the published one."""
    said = []
    for stage in report.stages:
        measured = [(s.value, s.effect.pull) for s in stage.settings if isinstance(s.value, int)]
        if measured:
            said.append(f"{stage.name}: {as_strong(stage.headline, measured)}")
    if not said:
        return None
    return Advice("As strong here as published", f"The setting that pulls as hard as {REFERENCE}: {'; '.join(said)}.")


def as_strong(headline: str, measured: Sequence[tuple[int, float]]) -> str:
    """In words, the value that pulls like the reference; measured: (value, pull), ascending."""
    if not measured:
        return "a smaller value"
    least, most = measured[0][0], measured[-1][0]
    value = value_with_pull(measured, REFERENCE_PULL)
    if value is None:
        return f"none up to {headline} = {most}, the largest that was measured"
    if value > 0.85 * least:  # what was measured is not sharper than that
        return f"{headline} = {max(least, round(value))}"
    if least <= 2:
        return f"none, {headline} = {least} is stronger already"
    return f"less than {headline} = {least}, the smallest that was measured"


def _few(report: NoiseReport) -> Advice | None:
    """Small sets: the noise can say which image it belongs to."""
    images, own = report.total_images, report.configured
    if images == 1:
        return Advice(
            "A single image",
            "All noise leans towards the same image: the drift of the mean noise is the whole lean, and drawn images "
            "start from noise without it.",
            "caution" if own is not None else "",
        )
    enough = math.log(images)
    tells = own is not None and (own[1].information or 0) >= enough
    said = [line for stage in report.stages if (line := _telling(stage, enough))]
    if not said or not (tells or images <= FEW):
        return None
    return Advice(
        f"A small set: {images} images",
        f"Telling {images} images apart takes ln {images} = {enough:.1f} nats, and noise holds at least that much "
        f"about its image from these values on: {'; '.join(said)}. A network can then learn to read the picture off "
        "the noise, which does not work when images are drawn. The risk is memorising; it was reasoned, not measured.",
        "caution" if tells else "",
    )


def _telling(stage: Compared, nats: float) -> str:
    """The first value whose noise may hold so much, and the last that holds half of it at most."""
    known = [s for s in stage.settings if s.information is not None]
    telling = next((s for s in known if (s.information or 0) >= nats), None)
    if telling is None:
        return ""
    below = [s for s in known if (s.information or 0) <= nats / 2]
    keep = f", while {stage.label(below[-1])} stays below half of it" if below else ""
    holds = telling.information or 0
    told = "which one it is" if math.isinf(holds) else f"{holds:.1f} nats"
    return f"{stage.name} from {stage.label(telling)} ({told}){keep}"


def _alike(report: NoiseReport) -> Advice | None:
    """Sets with a common look: the noise drifts towards it."""
    if report.common_share < ALIKE:
        return None
    drifting = [
        f"{stage.name} at {stage.label(s)}: {s.effect.drift_sigma:.1f} sigma"
        for stage in report.stages
        if (s := stage.configured or (stage.settings[-1] if stage.settings else None)) is not None
    ]
    return Advice(
        f"Images that look alike: {100 * report.common_share:.0f} % of the latents' energy is the same in all of them",
        "So what pairing mostly puts into the noise is that common look, and the mean noise drifts towards it "
        f"({'; '.join(drifting)}). A stage that gives out the noises of a pool, each once, has no drift. In the test "
        "below, the drift cost the trained style.",
    )


def _last_timestep(report: NoiseReport) -> Advice | None:
    """Zero-terminal schedules and flow: what pairing adds at the end is the only image there."""
    strongest = report.configured or next(((s, s.settings[-1]) for s in report.stages if s.settings), None)
    if not report.pure_noise_at_the_end or strongest is None:
        return None
    stage, s = strongest
    if s.configured and stage.acts_to < report.timesteps - 1:
        told = f"Pairing is kept out of it: it ends at timestep {report.schedule.told(stage.acts_to)}."
        return Advice("The last timestep is pure noise in this run", told, "good")
    mood: Mood = "caution" if s.configured else ""
    if report.schedule.flow:
        return Advice(
            "Drawing starts from pure noise, which pairing never shows",
            f"At time 1 plain noise is all there is. {stage.name} at {stage.label(s)} puts "
            f"{s.effect.alignment_sigma:.1f} sigma of the image back, whatever the resolution, so that the noisiest "
            f"input of the training is that of time {s.flow_time:.3f}: the first step of drawing is made from an input "
            "that was never trained. This is where pairing can do the most harm; a stage's timesteps setting can keep "
            "it out of there.",
            mood,
        )
    return Advice(
        "The last timestep is pure noise in this run",
        f"With plain noise nothing of the image is left there. {stage.name} at {stage.label(s)} puts "
        f"{s.effect.alignment_sigma:.1f} sigma of it back (flow: t = 1 acts as {s.flow_time:.3f}), whatever the "
        "resolution, while drawing still starts from pure noise. This is where pairing can do the most harm; a stage's "
        "timesteps setting can keep it out of there.",
        mood,
    )


def _size(report: NoiseReport) -> Advice | None:
    """Large latents: hardly anything happens."""
    strongest = max(
        ((stage, s) for stage in report.stages for s in stage.settings),
        key=lambda one: one[1].effect.pull,
        default=None,
    )
    if strongest is None or strongest[1].strength >= WEAK:
        return None
    stage, s = strongest
    t = len(report.schedule) // 2
    return Advice(
        f"Large latents: {report.dimension:,} numbers",
        f"Even {stage.name} at {stage.label(s)} makes t = {report.schedule.told(t)} act as "
        f"{acts(report.schedule, s.effect, t)}. Twice as many pixels on a side halve the pull, "
        "and no number of candidates makes up for it: doubling the pull takes "
        "about the fourth power of the value. Expect next to no difference, good or bad.",
    )


def _costs(report: NoiseReport) -> list[Advice]:
    if report.configured is None:
        return []
    _, s = report.configured
    return [
        Advice(
            "What it costs",
            f"{s.milliseconds:.2g} ms for a micro-batch of {report.batch_size} on {report.device}, next to "
            f"{report.plain_milliseconds:.2g} ms for the plain noise itself.",
        )
    ]


KNOWN = (
    "Known exactly: given the image, choosing the nearest of k changes two numbers of the noise, its part along the "
    "image and its length. The network's input is that of a somewhat less noisy timestep, with a target changed to "
    "match. The tables above say by how much.",
    "Published: the authors report better FID for pairing, among others 11.45 to 10.38 for fine-tuning Stable "
    "Diffusion 1.4 with the nearest of 64, at batch size 512 (arXiv 2505.18521), from single runs. We know of no "
    "published measurement for a LoRA.",
    "Measured by this project, on a tiny model whose latents hold 256 numbers (4 seeds in pairs, 1,618 images, 200 "
    "steps): the training loss fell from .214 with plain noise to .173 with the nearest of 64 and .158 with "
    "assignment, while the loss on held-out images with plain noise rose from .210 to .224 and .231, and fewer samples "
    "were recognised. A control that chooses nothing, but gives the noise the same mean and variance, did the same as "
    "choosing, within the intervals, in 13 of 14 measures.",
    "Measured by this project too (docs/evidence.md): a small flow from scratch on 3 x 32 x 32 numbers, 3 seeds. "
    "The nearest of 64 made the samples worse, and so did the control that chooses nothing; the nearest of 4 and "
    "assignment drew a little better in 5 steps and not in more; plain noise at timesteps as noisy did as well or "
    "better. A LoRA at 4 x 32 x 32 drew worse with 64, too.",
    "Not known: what pairing does to a LoRA at real sizes, where its pull is 7 to 14 times smaller; with few images; "
    "in long training with large batches, where the papers report their gains.",
)
LOSS = (
    "A lower training loss under pairing is no evidence of better images: the inputs have become easier. Compare the "
    "loss on held-out images, which is always measured with plain noise ([validation]), and samples of the same seeds."
)
