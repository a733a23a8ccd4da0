"""From a dataset's size options to the fit of each image; finds options that cannot work."""

from __future__ import annotations

from collections.abc import Callable

from trainer.config.schema.data import DatasetOptions
from trainer.data.dataset import Size
from trainer.data.pictures import buckets
from trainer.data.pictures.buckets import Fit
from trainer.errors import UserError


def problems(where: str, options: DatasetOptions, multiple: int) -> list[str]:
    """What is wrong with the sizes of a dataset at `where`, whose sides must be multiples of `multiple` pixels."""
    resolution = resolution_of(options)
    if min(resolution) < multiple:
        return [f"{where}.resolution: {options.resolution} is too small; sides must be at least {multiple} pixels"]
    return (
        _bucket_problems(where, options, multiple)
        if options.enable_bucket
        else _fixed_problems(where, options, multiple)
    )


def _fixed_problems(where: str, options: DatasetOptions, multiple: int) -> list[str]:
    resolution = resolution_of(options)
    near = [max(multiple, round(side / multiple) * multiple) for side in resolution]
    if near == list(resolution):
        return []
    return [
        f"{where}.resolution: {options.resolution} is not a multiple of {multiple} pixels, as this base needs. "
        f"The nearest that is: {near[0] if near[0] == near[1] else near}"
    ]


def _bucket_problems(where: str, options: DatasetOptions, multiple: int) -> list[str]:
    resolution, step = resolution_of(options), options.bucket_reso_steps
    against = f"the resolution {options.resolution}"
    found = []
    if step % multiple:
        found.append(f"{where}.bucket_reso_steps: {step} is not a multiple of {multiple} pixels, as this base needs")
    if step > min(resolution):
        return [
            *found,
            f"{where}.bucket_reso_steps: {step} is larger than {against}",
        ]  # what follows from it is not told
    shortest, longest = limits(options)
    if not options.bucket_no_upscale and shortest > min(resolution):
        found.append(f"{where}.min_bucket_reso: {options.min_bucket_reso} exceeds {against}")
    if not options.bucket_no_upscale and longest < max(resolution):
        found.append(f"{where}.max_bucket_reso: {options.max_bucket_reso} is below {against}")
    return found


def fitter(options: DatasetOptions) -> Callable[[Size], Fit]:
    """What turns the size of an image into its fit, for one dataset. It raises UserError for one that cannot train."""
    width, height = resolution_of(options)
    if not options.enable_bucket:
        return lambda size: buckets.fit(size, (width, height))
    if options.bucket_no_upscale:
        return lambda size: _shrunk(size, width * height, options.bucket_reso_steps)
    sizes = buckets.resolutions(width * height, *limits(options), options.bucket_reso_steps)
    return lambda size: buckets.fit(size, buckets.choose(size, sizes))


def _shrunk(size: Size, area: int, step: int) -> Fit:
    fit = buckets.shrink_only(size, area, step)
    if not min(fit.target):
        raise UserError(
            f"is {size[0]} x {size[1]}; with bucket_no_upscale no side may end up below bucket_reso_steps = {step}"
        )
    return fit


def resolution_of(options: DatasetOptions) -> Size:
    value = options.resolution
    return (value, value) if isinstance(value, int) else value


def limits(options: DatasetOptions) -> tuple[int, int]:
    """(shortest, longest) side of a bucket, snapped outwards to the step. Limits that were left at their defaults give
    way to a resolution beyond them."""
    resolution, step = resolution_of(options), options.bucket_reso_steps
    shortest, longest = options.min_bucket_reso, options.max_bucket_reso
    if "min_bucket_reso" not in options.model_fields_set:
        shortest = min(shortest, *resolution)
    if "max_bucket_reso" not in options.model_fields_set:
        longest = max(longest, *resolution)
    return max(step, shortest // step * step), -(-longest // step) * step
