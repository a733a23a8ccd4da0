"""Pixel space: against diffusers used directly, against flows with a known path, and through whole runs."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from PIL import Image
from safetensors.torch import load_file

from plugins.bases.pixel import PixelBaseReader
from plugins.models._dopri5 import Dopri5
from plugins.models._flow_sampler import TimeFlowSampler
from plugins.models._pixel_network import KEYS
from plugins.models._pixel_pipeline import PixelPipeline
from plugins.models.pixel import Pixel
from tests.trainer import runs
from trainer import registry
from trainer.assembly import readiness
from trainer.assembly import run as assembled
from trainer.assembly.memory import estimate
from trainer.assembly.model import open_family
from trainer.commands import reports
from trainer.config import reading
from trainer.errors import UserError
from trainer.journal.console import Console
from trainer.samples import drawing
from trainer.samples.prompts import Request

SMALL = {"sample_size": 8, "block_out_channels": [8, 16], "layers_per_block": 1, "attention_resolutions": [4],
         "norm_num_groups": 4}  # fmt: skip
CLASSES = ("cat", "dog")
CPU = torch.device("cpu")


def made(classes: tuple[str, ...] = (), prediction: str = "auto", **others: object) -> Pixel:
    torch.manual_seed(0)
    return Pixel.create({**SMALL, **others}, classes, prediction=prediction)


def saved(family: Pixel, folder: Path) -> Path:
    family.save(folder, torch.float32)
    return folder


def draw(family: Pixel, seeds: list[int], **asked: Any) -> list[Image.Image]:
    """Of the first class, if there is any."""
    prompt = family.classes.names[0] if family.classes.names else ""
    requests = [Request(prompt, seed, unset=frozenset({"width", "height", "guidance"}), **asked) for seed in seeds]
    return drawing.draw(family, requests)  # type: ignore[arg-type]


def test_every_key_of_diffusers_network_is_known() -> None:
    theirs = set(inspect.signature(UNet2DModel.__init__).parameters) - {"self"}
    assert set(KEYS) == theirs - {"out_channels", "class_embed_type", "num_class_embeds", "num_train_timesteps"}


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ({}, "model.network.sample_size: missing; give the side of the pictures in pixels, such as 32."),
        ({"sample_size": 9}, "model.network.sample_size: found 9, expected a multiple of 2, as 2 levels need."),
        ({"sample_size": "8"}, "model.network.sample_size: found '8', expected a whole number."),
        ({"sample_size": 8, "drop_out": 0.1}, "model.network.drop_out: unknown key. Did you mean 'dropout'?"),
        ({"sample_size": 8, "in_channels": 4}, "model.network.in_channels: found 4, expected 3 (colour) or 1 (grey)."),
        ({"sample_size": 8, "attention_resolutions": [5]}, "model.network.attention_resolutions: 5 is the side of no "
         "level; there are 8, 4."),
        ({"sample_size": 8, "beta_schedule": "cosine"}, "model.network.beta_schedule: found 'cosine', expected one of "
         "linear, scaled_linear, squaredcos_cap_v2."),
        ({"sample_size": 8, "block_out_channels": []}, "model.network.block_out_channels: found [], expected a width "
         "for each level, such as [128, 256, 256]."),
    ],
)  # fmt: skip
def test_a_wrong_network_is_refused_before_torch_is_needed(network: dict[str, object], told: str) -> None:
    asked = {key: value for key, value in SMALL.items() if key == "block_out_channels"} | network
    for make in (PixelBaseReader.of_new, Pixel.create):
        with pytest.raises(UserError) as error:
            make(asked, ())  # type: ignore[operator]
        assert told in error.value.problems


def test_the_usual_network_is_ddpms_for_small_pictures() -> None:
    unet = Pixel.create({"sample_size": 32}, (), outline=True).unet
    assert [type(block).__name__ for block in unet.down_blocks] == [
        "DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"
    ]  # fmt: skip
    assert 35.5e6 < sum(p.numel() for p in unet.parameters()) < 36e6  # the paper: 35.7 million


@pytest.mark.parametrize("prediction", ["epsilon", "velocity", "flow"])
@pytest.mark.parametrize("classes", [(), CLASSES], ids=["plain", "classes"])
def test_what_was_saved_is_the_network_that_diffusers_reads(
    tmp_path: Path, prediction: str, classes: tuple[str, ...]
) -> None:
    family = made(classes, prediction)
    folder = saved(family, tmp_path / "m")
    theirs = UNet2DModel.from_pretrained(folder, subfolder="unet")
    noisy, times = torch.randn(3, 3, 8, 8), family.schedule.at(torch.tensor([0.1, 0.5, 0.99], dtype=torch.float64))
    text = family.encode_text(["dog", "cat", ""] if classes else ["a", "b", "c"])
    assert set(text.tensors) == ({"class"} if classes else set())
    labels = {"class_labels": torch.tensor([1, 0, 2])} if classes else {}
    expected = theirs(noisy, times, **labels).sample
    again = Pixel.load(str(folder))
    for one in (family, again):
        assert torch.equal(one.predict(noisy, times, text, None), expected)  # type: ignore[arg-type]
    assert (again.prediction, again.classes) == (family.prediction, family.classes)
    assert again.schedule.continuous == (prediction == "flow")
    outline = registry.find("bases", "pixel").outline(str(folder))
    assert (outline.family, outline.size_multiple, outline.reads_captions) == ("pixel", 2, bool(classes))
    assert set(outline.names["unet"]) == set(family.unet.state_dict())


@pytest.mark.parametrize("prediction", ["epsilon", "velocity"])
def test_ancestral_samples_are_those_of_diffusers_pipeline(tmp_path: Path, prediction: str) -> None:
    family = made((), prediction)
    pipeline = DDPMPipeline.from_pretrained(saved(family, tmp_path / "m"))
    pipeline.set_progress_bar_config(disable=True)
    streams = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    theirs = pipeline(batch_size=2, generator=streams, num_inference_steps=5, output_type="np").images
    ours = np.stack([np.asarray(picture) for picture in draw(family, [3, 4], sampler="ddpm", steps=5)])
    assert np.abs(ours - theirs * 255).max() < 0.51  # of a grey level: theirs are not rounded yet
    assert ours.std() > 20


def test_a_grey_network_sees_the_luma_and_draws_grey() -> None:
    family = made(in_channels=1)
    pixels = torch.rand(2, 3, 8, 8) * 2 - 1
    red, green, blue = pixels.unbind(1)
    torch.testing.assert_close(family.encode_images(pixels)[:, 0], 0.299 * red + 0.587 * green + 0.114 * blue)
    grey = torch.rand(2, 1, 8, 8)
    assert torch.equal(family.decode_latents(grey), grey.repeat(1, 3, 1, 1))
    assert np.ptp(np.asarray(draw(family, [1], steps=2)[0]), axis=2).max() == 0


def test_a_caption_is_the_name_of_a_class(tmp_path: Path) -> None:
    family = Pixel.load(str(saved(made(CLASSES), tmp_path / "m")))
    assert family.encode_text([" dog", "cat", ""])["class"].tolist() == [[1], [0], [2]]
    with pytest.raises(UserError, match=r"the caption 'dogs' is none of the network's classes. Did you mean 'dog'\?"):
        family.encode_text(["cat", "dogs"])
    asked = [Request("dog", 1), Request("a cat", 2)]
    assert [line.split(": ")[1][:24] for line in drawing.problems(family, asked)] == ["'a cat' cannot be drawn"]  # type: ignore[arg-type]


def test_classes_of_a_base_that_has_no_names_are_numbers(tmp_path: Path) -> None:
    folder = saved(made(CLASSES), tmp_path / "m")
    index = json.loads((folder / "model_index.json").read_text())
    del index["id2label"]
    (folder / "model_index.json").write_text(json.dumps(index))
    family = Pixel.load(str(folder))
    assert family.classes.names == ("0", "1", "2")
    with pytest.raises(UserError, match="this network needs a class"):
        family.encode_text([""])


def test_guidance_goes_away_from_the_negative_class() -> None:
    seen = []

    def ask(x: torch.Tensor, times: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        assert labels is not None
        seen.append(labels.tolist())
        return labels.float().view(-1, 1, 1, 1).expand_as(x)

    pipeline = PixelPipeline(ask, 1, TimeFlowSampler(num_train_timesteps=1000), CPU, 1000.0)
    asked = {"class_labels": torch.tensor([2]), "negative_class_labels": torch.tensor([1])}
    size = {"width": 4, "height": 4, "num_inference_steps": 1}
    start = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for strength, answer in ((1.0, 2.0), (3.0, 4.0), (0.5, 1.5)):
        stream = torch.Generator().manual_seed(0)
        drawn = pipeline(generator=[stream], **size, **asked, guidance_scale=strength).images  # type: ignore[arg-type]
        torch.testing.assert_close(drawn, start - answer)
    assert seen == [[2], [2], [1], [2], [1]]


def gaussian_path(x: torch.Tensor, timesteps: torch.Tensor, _: object, scale: float = 0.25) -> torch.Tensor:
    """The exact velocity of the flow from N(0, 1) at time 1 to N(0, scale^2) at time 0."""
    time = (timesteps / 1000).view(-1, 1, 1, 1)
    return x * (time - (1 - time) * scale**2) / (time**2 + (1 - time) ** 2 * scale**2)


def solved(scheduler: Any, steps: int = 1) -> tuple[torch.Tensor, int]:
    """The error of a path whose end is known, and how often the network was asked."""
    pipeline = PixelPipeline(gaussian_path, 3, scheduler, CPU, 1000.0)
    streams = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    found = pipeline(generator=streams, width=4, height=4, num_inference_steps=steps)
    starts = [torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    return (found.images - 0.25 * torch.cat(starts)).abs().max(), found.evaluations


def test_euler_comes_nearer_with_more_steps_and_dopri5_is_there() -> None:
    errors = {n: solved(TimeFlowSampler(num_train_timesteps=1000), n) for n in (8, 16, 32, 64)}
    assert [asked for _, asked in errors.values()] == [8, 16, 32, 64]
    ratios = [float(errors[n][0] / errors[2 * n][0]) for n in (16, 32)]
    assert all(1.6 < ratio < 2.6 for ratio in ratios), ratios  # an order of one
    error, asked = solved(Dopri5())
    assert error < 1e-4 and 20 < asked < 200
    rough, fewer = solved(Dopri5(tolerance=1e-2))
    assert rough > error and fewer < asked


def test_dopri5_is_for_flows_and_its_evaluations_stand_in_the_file(tmp_path: Path) -> None:
    picture = draw(made((), "flow"), [1], sampler="dopri5")[0]
    assert int(picture.info["evaluations"]) >= 8
    drawing.save(picture, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as again:
        assert again.info["evaluations"] == picture.info["evaluations"]
    (line,) = drawing.problems(made(), [Request("", 1, sampler="dopri5")])  # type: ignore[arg-type]
    assert line.startswith("samples.sampler: this model has no sampler 'dopri5'")


CONFIG = """
[run]
name = "run"
device = "cpu"
[model]
family = "pixel"
[model.network]
sample_size = 8
block_out_channels = [8, 16]
layers_per_block = 1
attention_resolutions = [4]
norm_num_groups = 4
dropout = 0.1
[training]
method = "full"
steps = 4
preflight = false
[ema]
decay = 0.5
[optimizer]
name = "adamw"
lr = 1e-3
[save]
dtype = "fp32"
[logging]
tensorboard = false
[data]
class_dir = "photos"
[general]
resolution = 8
batch_size = 3
"""
CONDITIONAL = ("model.classes='photos'", "general.caption_dropout_rate=0.3", "samples.prompts=['cat', 'dog', '']")


def project(folder: Path) -> Path:
    random = np.random.default_rng(0)
    for index in range(6):
        place = folder / "photos" / CLASSES[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place / f"{index}.png")
    file = folder / "run.toml"
    file.write_text(CONFIG)
    return file


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
def test_a_run_goes_on_bit_for_bit_and_measures_draws_and_saves(tmp_path: Path, prediction: str) -> None:
    config = project(tmp_path)
    asked = [*CONDITIONAL, f"model.prediction={prediction}", "noise.oversampling=8", "samples.steps=2",
             "validation.split=0.2", "validation.every=2", "save.every=2"]  # fmt: skip
    runs.train(config, *asked)
    whole = load_file(tmp_path / "output" / "run" / "run" / "unet" / "diffusion_pytorch_model.safetensors")
    folder = tmp_path / "output" / "run"
    assert len(list((folder / "samples").glob("step-000004-*.png"))) == 3
    with Image.open(folder / "samples" / "step-000004-00.png") as picture:
        assert picture.size == (8, 8)
    kinds = [json.loads(line)["event"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert kinds.count("validation") >= 2
    halfway = next((folder / "checkpoints").glob("*2"))
    found = assembled.training(reading.read(config, [*asked, "run.name=again"]), Console(quiet=True), given=halfway)
    assert found is not None and found.loop.start.step == 2
    found.run()
    resumed = load_file(tmp_path / "output" / "again" / "again" / "unet" / "diffusion_pytorch_model.safetensors")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())
    first = runs.training(config, *asked, "run.name=new").family
    assert not all(torch.equal(t, whole[n]) for n, t in first.parts["unet"].state_dict().items())


def losses(config: Path, name: str, *asked: str) -> list[float]:
    """Of a run of two steps."""
    runs.train(config, "training.steps=2", f"run.name={name}", *asked)
    lines = (config.parent / "output" / name / "metrics.jsonl").read_text().splitlines()
    return [told["loss"] for told in map(json.loads, lines) if told["event"] == "step"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A project, and what it loses in its first steps with plain noise."""
    config = project(tmp_path_factory.mktemp("plain"))
    return config, losses(config, "plain")


@pytest.mark.parametrize("stage", registry.names("noise"))
def test_every_noise_stage_trains_in_pixel_space(plain: tuple[Path, list[float]], stage: str) -> None:
    config, without = plain
    example = registry.find("noise", stage).example
    found = losses(config, stage, *(f"noise.{stage}.{key}={json.dumps(value)}" for key, value in example.items()))
    assert len(found) == 2 and all(map(math.isfinite, found)) and found != without


def test_pictures_without_captions_train_a_network_without_classes(tmp_path: Path) -> None:
    config = project(tmp_path)
    plain = ("data.class_dir=''", "training.steps=1", f"datasets=[{{subsets=[{{image_dir='{tmp_path}/photos/cat'}}]}}]")
    runs.train(config, *plain)
    with pytest.raises(UserError, match=r"none of the 3 images in .* has a caption"):
        runs.training(config, *plain, *CONDITIONAL, "run.name=other")


def test_the_noise_report_measures_pictures(tmp_path: Path) -> None:
    reports.noise(project(tmp_path), ["noise.oversampling=4", "model.prediction=flow"], images=6)
    report = json.loads((tmp_path / "output" / "run" / "noise-report.json").read_text())
    assert "[3, 8, 8]" in json.dumps(report) or "3x8x8" in json.dumps(report)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["training.method=lora"], "model.network: its weights are random, so that there is nothing to adapt"),
        (["model.base=photos"], "model.network: a new network excludes model.base"),
        (["model.family=auto"], "model.network: which family shall make it?"),
        (["model.family=sd"], "model.network: 'sd' has a text encoder and a VAE, which are never made anew"),
        (["save.full=both"], "save.full: found 'both', but no program reads models of 'pixel' as one file"),
        (["training.text_encoder=true"], "training.text_encoder: true, but this model has no text encoder"),
        (["general.resolution=9"], "resolution: 9 is not a multiple of 2 pixels"),
        (["model.classes=['cat']"], "the caption 'dog' is none of the network's classes"),
        (["model.classes=['cat', 'cat']"], "model.classes: 'cat' stands there more than once"),
        (["model.classes=nowhere"], "model.classes: there is no file or folder 'nowhere'"),
        ([*CONDITIONAL, "samples.prompts=['bird']"], "samples.prompts: 'bird' cannot be drawn"),
        (["data.class_dir=photos/cat"], "data.class_dir: 'photos/cat' (relative to"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(tmp_path: Path, changes: list[str], told: str) -> None:
    config = project(tmp_path)
    with pytest.raises(UserError) as error:
        read = reading.read(config, changes)
        readiness.refuse(read, readiness.of_material)
        runs.training(config, *changes)
    assert any(told in problem for problem in error.value.problems), error.value.problems
    assert not (tmp_path / "output").exists()


def test_a_lora_over_a_base_in_pixel_space_is_found_again(tmp_path: Path) -> None:
    config = project(tmp_path)
    saved(made(CLASSES), tmp_path / "base")
    text = config.read_text()
    start, end = text.index("[model.network]"), text.index("[training]")
    config.write_text((text[:start] + text[end:]).replace('family = "pixel"', 'base = "base"'))
    done = runs.train(config, "training.method=lora", "ema.decay=0", "lora.rank=2", "lora.conv_rank=2",
                      "training.steps=2", "noise.oversampling=4")  # fmt: skip
    assert done.family.name == "pixel"
    file = tmp_path / "output" / "run" / "run.safetensors"
    assert any("attentions_0_to_q.lora_up" in name for name in load_file(file))
    runs.training(config, "training.method=lora", "ema.decay=0", f"lora.init_from={file}", "run.name=next")


def test_memory_is_counted_for_a_network_of_classes(tmp_path: Path) -> None:
    read = reading.read(project(tmp_path), ["model.classes=['cat', 'dog']"])
    assert estimate(read, open_family(read, outline=True), batch=(3, 8, 8)).operations > 0
