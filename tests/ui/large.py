"""A very long run and a very large dataset, as files."""

from __future__ import annotations

import colorsys
import io
import json
import math
from pathlib import Path

from PIL import Image

CONFIG = """
[run]
name = "large"
[model]
base = "base"
[[datasets]]
resolution = 512
enable_bucket = true
[[datasets.subsets]]
image_dir = "photos"
"""
SIZES = ((640, 480), (480, 640), (512, 512), (800, 400))


def write_run(folder: Path, name: str, lines: int) -> Path:
    """A finished run with so many lines of metrics, as the trainer writes them."""
    run = folder / "output" / name
    run.mkdir(parents=True)
    (run / "config.toml").write_text(f'[run]\nname = "{name}"\n', encoding="utf-8")
    with (run / "metrics.jsonl").open("w", encoding="utf-8") as file:

        def tell(event: str, step: int, **about: object) -> None:
            file.write(json.dumps({"event": event, "step": step, "time": 1e9 + step / 4, **about}) + "\n")

        tell("start", 0, steps=lines, images=100, trainable=1000, device="cpu")
        for step in range(1, lines - 1):
            loss = 0.1 + 0.3 * math.exp(-step / 20_000) + 0.05 * math.sin(step * 12.9898)
            bins = {f"{b}-{b + 249}": loss * (1 + b / 1000) for b in (0, 250, 500, 750)} if step % 50 == 0 else None
            more = {"loss_by_timestep": bins} if bins else {}
            tell(
                "step", step, loss=loss, lr={"unet": 1e-4, "text_encoder": 5e-5}, grad_norm=1.0 + loss,
                images_per_second=4.0 + loss, epoch=step / 100, memory=8_000_000_000, **more,
            )  # fmt: skip
        tell("stop", lines - 1, reason="done", seconds=25_000.0)
    return run


def write_images(folder: Path, count: int) -> None:
    """So many JPEGs of four shapes with a caption each."""
    folder.mkdir(parents=True)
    made = {}
    for index in range(count):
        colour = tuple(round(255 * part) for part in colorsys.hsv_to_rgb(index % 97 / 97, 0.6, 0.9))
        key = (index % 97, index % len(SIZES))
        if key not in made:
            buffer = io.BytesIO()
            Image.radial_gradient("L").convert("RGB").resize(SIZES[key[1]]).point(
                [min(255, value * channel // 200) for channel in colour for value in range(256)]
            ).save(buffer, "JPEG", quality=85)
            made[key] = buffer.getvalue()
        # A comment at the end makes every file another one.
        (folder / f"{index:05d}.jpg").write_bytes(made[key] + b"%d" % index)
        (folder / f"{index:05d}.txt").write_text(f"picture {index}, tag {index % 7}, gradient\n", encoding="utf-8")
