"""Measures noise settings on a config's own images, in a process of its own.

`python -m ui.work.noise_work CONFIG FOLDER` writes the noise report into the run's folder, and into FOLDER pictures of
a latent and of its noise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import registry
from trainer.commands import reports
from trainer.config import reading
from trainer.errors import UserError
from trainer.files.atomic import write_folder

if TYPE_CHECKING:
    from torch import Generator, Tensor

IMAGES = 64  # that are measured at most
NUMBERS = 2**26  # drawn for an average
SIDE = 192  # pixels of a picture


def main(arguments: list[str]) -> int:
    config, folder = Path(arguments[0]), Path(arguments[1])
    latents = folder.with_suffix(".safetensors")
    latents.parent.mkdir(parents=True, exist_ok=True)
    try:
        reports.noise(config, [], images=IMAGES, keep=latents)
        write_folder(folder, lambda place: draw(config, latents, place))
    except UserError as error:
        print(*error.problems, sep="\n", flush=True)
        return 2
    finally:
        latents.unlink(missing_ok=True)
    return 0


def draw(config: Path, latents: Path, folder: Path) -> None:
    """latent.png, plain.png, chosen.png, and the averages of many chosen and of many plain noises."""
    import torch
    from safetensors.torch import load_file

    kept = load_file(latents)["latents"]  # (n, C, h, w)
    clean = kept[kept.flatten(1).std(dim=1).argmax()][None]
    stages = reading.read(config).noise.stages()
    plugins = {name: registry.find("noise", name) for name in stages}
    pairing = {n: s for n, s in stages.items() if plugins[n].phase == "pair" and not plugins[n].network}
    stream = torch.Generator().manual_seed(0)
    plain = torch.randn(clean.shape, generator=stream)
    save(clean, folder / "latent.png")
    save(plain, folder / "plain.png")
    for name, settings in pairing.items():
        stage = registry.find("noise", name)(settings)
        save(chosen(stage, clean, plain, stream), folder / "chosen.png")
        count = max(1, min(4096, NUMBERS // clean.numel()))
        total, plain_total = torch.zeros_like(clean), torch.zeros_like(clean)
        for _ in range(count):
            one = torch.randn(clean.shape, generator=stream)
            plain_total += one
            total += chosen(stage, clean, one, stream)
        save(total, folder / f"average-chosen-{count}.png")
        save(plain_total, folder / f"average-plain-{count}.png")


def chosen(stage: object, clean: Tensor, plain: Tensor, stream: Generator) -> Tensor:
    """What a pairing stage makes of a plain draw for one latent."""
    from torch import zeros

    from trainer.batch import NoiseContext, NoiseDraw

    context = NoiseContext(clean, zeros(1).long(), stream, captions=("",), images=("image",))
    made: Tensor = stage(NoiseDraw(plain, plain), context).target  # type: ignore[operator]
    return made


def save(latent: Tensor, file: Path) -> None:
    """The first three channels as colours, stretched to their range."""
    from PIL import Image

    planes = latent[0, :3] if latent.shape[1] >= 3 else latent[0, :1].expand(3, -1, -1)
    low, high = planes.flatten(1).quantile(0.01, dim=1), planes.flatten(1).quantile(0.99, dim=1)
    shown = ((planes - low[:, None, None]) / (high - low).clamp(min=1e-6)[:, None, None]).clamp(0, 1)
    pixels = (shown.permute(1, 2, 0) * 255).round().byte().numpy()
    factor = max(1, SIDE // max(pixels.shape[:2]))
    size = (pixels.shape[1] * factor, pixels.shape[0] * factor)
    Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).save(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
