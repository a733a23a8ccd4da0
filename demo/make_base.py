"""Makes the demo's base model again, from nothing: `python -m demo.make_base`. Takes about 40 minutes on one CPU core.

The pictures are drawn here, the autoencoder is trained here, and everything else is an ordinary run of the trainer
with `demo/base.toml`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

from demo import architecture, paper, printed
from trainer.commands import training as commands
from trainer.commands.quiet import quiet
from trainer.files.atomic import write_folder

HERE = Path(__file__).parent
SHIPPED = HERE / "base"
SEED = 0
PICTURES = 12_000
SHEETS = 6_000


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--work", type=Path, default=Path("output/demo-base"), help="where everything is written")
    options.add_argument("--vae", type=Path, help="take this autoencoder's folder instead of training one")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="overrides of demo/base.toml")
    asked = options.parse_args()
    quiet()
    draw_images(asked.work / "images")
    architecture.write(asked.work / "architecture")
    make_vae(asked.work / "architecture" / "vae", asked.vae)
    shutil.copyfile(HERE / "base.toml", asked.work / "base.toml")
    commands.train(asked.work / "base.toml", asked.set, resume=False)
    made = asked.work / "runs" / "base" / "base"
    print(f"The base model is {made}. Copy it to {SHIPPED} to ship it.")


def draw_images(folder: Path, count: int = PICTURES) -> None:
    """Writes <number>.png and <number>.txt, as anyone's training folder looks."""

    def fill(temporary: Path) -> None:
        for index in range(count):
            drawing = printed.draw(SEED, index)
            drawing.image.save(temporary / f"{index:05d}.png")
            (temporary / f"{index:05d}.txt").write_text(drawing.caption + "\n", encoding="utf-8")

    write_folder(folder, fill)


def make_vae(target: Path, ready: Path | None) -> None:
    """Trains the autoencoder, or copies one that is ready, to `target`."""
    if ready is not None:
        shutil.copytree(ready, target, dirs_exist_ok=True)
        return
    import torch

    from demo import vae

    images = [printed.draw(SEED, index).image for index in range(PICTURES)]
    images += [paper.draw(SEED, index) for index in range(SHEETS)]
    started = time.monotonic()

    def report(step: int, loss: float) -> None:
        print(f"autoencoder: step {step}, loss {loss:.4f}, {time.monotonic() - started:.0f} s", flush=True)

    trained = vae.train(vae.to_pixels(images), vae.VaeRecipe(), report)
    trained.to(torch.float16).save_pretrained(target)


if __name__ == "__main__":
    main()
