"""The demo's run: the shipped base, what is measured, what is written."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from demo import comparison, evaluation, handwriting, run, summary
from demo.evaluation import Evaluation
from demo.handwriting import Handwriting
from demo.judge import Judge, Verdict
from demo.picture import before_after
from demo.summary import Trained

MEGABYTE = 1_000_000
KEYS = {"heldout_loss_before", "heldout_loss_after", "recognised_before", "recognised_after", "seconds"}


@lru_cache
def digits() -> tuple[Handwriting, Handwriting]:
    return handwriting.load()


def few(of: Handwriting, count: int) -> Handwriting:
    return Handwriting(of.images[:count], of.labels[:count])


def measured(recognised: float, loss: float) -> Evaluation:
    count = 10 * evaluation.PER_DIGIT
    right = np.arange(count) < recognised * count
    images = tuple(Image.new("RGB", (32, 32), (i % 256, 0, 0)) for i in range(count))
    return Evaluation(images, Verdict(right, np.ones(count, bool)), np.full(50, loss))


def test_the_shipped_base_is_small_and_complete():
    files = [path for path in run.BASE.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12 * MEGABYTE
    assert {"model_index.json", "unet", "vae", "text_encoder", "tokenizer", "scheduler"} <= {
        path.relative_to(run.BASE).parts[0] for path in files
    }
    assert all(path.suffix in {".json", ".txt", ".safetensors"} for path in files)


def test_the_shipped_autoencoder_shows_handwriting_it_never_saw():
    from diffusers import AutoencoderKL

    from demo import vae

    model = AutoencoderKL.from_pretrained(run.BASE / "vae", dtype=torch.float32, local_files_only=True)
    pixels = vae.to_pixels(list(digits()[1].images[:40]))
    assert vae.psnr(vae.reconstruct(model, pixels), pixels) > 24


def test_the_shipped_base_draws_what_its_captions_say():
    """A judge of printed digits reads most of them; chance would be a tenth."""
    from diffusers import StableDiffusionPipeline
    from sklearn.svm import SVC

    from demo import printed
    from demo.judge import ink_maps

    drawings = [d for d in (printed.draw(77, i) for i in range(800)) if d.label >= 0]
    reader = SVC(gamma="scale", C=10).fit(ink_maps([d.image for d in drawings], 8), [d.label for d in drawings])
    pipeline = StableDiffusionPipeline.from_pretrained(run.BASE, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [f"a bold digit {name}" for name in printed.DIGITS] * 2
    latents = torch.randn(len(prompts), 4, 16, 16, generator=torch.Generator().manual_seed(0))
    images = pipeline(prompts, num_inference_steps=15, guidance_scale=3.0, latents=latents, width=32, height=32).images
    assert (reader.predict(ink_maps(images, 8)) == [i % 10 for i in range(len(prompts))]).mean() > 0.7


def test_the_whole_way_with_two_steps(tmp_path, monkeypatch):
    """Trains for two steps on twenty pictures, loads the file in diffusers and writes everything."""
    monkeypatch.setattr(evaluation, "PER_DIGIT", 1)
    monkeypatch.setattr(evaluation, "STEPS", 2)
    train, heldout = few(digits()[0], 20), few(digits()[1], 6)
    run.prepare(tmp_path, train)
    judge = Judge(digits()[0], printed_count=50)
    before = evaluation.evaluate(tmp_path / "base", None, heldout, judge)
    overrides = ["training.steps=2", "schedule.warmup=0", "samples.steps=1", "datasets[0].batch_size=4"]
    after = run.trained(tmp_path, run.NAME, overrides, heldout, judge)
    again = run.trained(tmp_path, run.NAME, overrides, heldout, judge)
    assert after.lora.stat().st_size > 0
    assert len(after.evaluation.images) == 10
    assert len(after.evaluation.losses) == 6
    assert not np.array_equal(after.evaluation.losses, before.losses)
    assert np.array_equal(after.evaluation.losses, again.evaluation.losses)


def test_the_measured_loss_is_that_of_plain_noise():
    """A perfect model has none, one that predicts nothing has the mean square of the velocity."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(run.BASE, dtype=torch.float32, local_files_only=True)
    heldout = few(digits()[1], 20)
    losses = evaluation.heldout_losses(pipeline, heldout)
    assert losses.shape == (20,)
    assert np.array_equal(losses, evaluation.heldout_losses(pipeline, heldout))
    with torch.no_grad():
        for parameter in pipeline.unet.conv_out.parameters():
            parameter.zero_()
    # alpha^2 + sigma^2 = 1, noise and latents have about unit variance.
    assert evaluation.heldout_losses(pipeline, heldout).mean() == pytest.approx(1, abs=0.35)


def test_the_report_has_the_promised_keys():
    found = {"demo": Trained(Path("x"), 3.0, measured(0.9, 0.1))}
    report = summary.report_of(measured(0.3, 0.5), found, 12.0)
    assert set(report) >= KEYS
    assert report["recognised_before"] == pytest.approx(0.3)
    assert report["recognised_after"] == pytest.approx(0.9)
    assert report["heldout_loss_before"] == pytest.approx(0.5)
    assert "plain" not in report
    assert json.loads(json.dumps(report)) == report
    text = "\n".join(summary.lines(report, Path("out")))
    assert "30%" in text
    assert "90%" in text
    assert text.count("python launch.py") == 3


def test_the_report_of_a_comparison_says_what_was_seen():
    found = {
        "demo": Trained(Path("x"), 3.0, measured(0.9, 0.12)),
        "plain": Trained(Path("y"), 3.0, measured(0.95, 0.1)),
    }
    report = summary.report_of(measured(0.3, 0.5), found, 12.0)
    difference = report["plain"]["oversampling_minus_plain"]
    assert difference["loss"]["mean"] == pytest.approx(0.02)
    assert difference["recognised"]["mean"] == pytest.approx(-0.05)
    assert "+0.0200" in "\n".join(summary.lines(report, Path("out")))


def test_a_paired_difference_has_the_usual_interval():
    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 1, 4000), rng.normal(0, 1, 4000)
    found = comparison.paired(first, second)
    assert found.mean == pytest.approx(1, abs=0.1)
    assert found.half_width == pytest.approx(1.96 * math.sqrt(2 / 4000), rel=0.05)
    assert comparison.paired(first, first) == comparison.Difference(0.0, 0.0)


def test_the_picture_shows_base_above_and_lora_below():
    count = 10 * evaluation.PER_DIGIT
    red, blue = [Image.new("RGB", (32, 32), c) for c in ((255, 0, 0), (0, 0, 255))]
    picture = before_after([red] * count, [blue] * count, "")
    pixels = np.asarray(picture)
    red_rows = np.flatnonzero((pixels == (255, 0, 0)).all(-1).any(1))
    blue_rows = np.flatnonzero((pixels == (0, 0, 255)).all(-1).any(1))
    assert red_rows.max() < blue_rows.min()
    assert (pixels == (255, 0, 0)).all(-1).sum() == (pixels == (0, 0, 255)).all(-1).sum() > 0
