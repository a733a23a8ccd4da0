"""What is cached leaves the device, comes back while it is used, and gives its memory back when nothing will use it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from plugins.models._latent_diffusion import LatentDiffusion
from plugins.models.sd import StableDiffusion
from tests.cards import NEEDS_CUDA, Real
from tests.tiny import tiny_sd
from tests.trainer import runs
from trainer.assembly.run import PreparedRun, preflight
from trainer.config import reading
from trainer.device import placement
from trainer.device.placement import Placement
from trainer.journal.console import Console

AT_HOME = torch.device("cpu", 1)  # tensors take it for the CPU, but it can be told from the device of the run
SAMPLES = "samples={prompts=['a cat'],width=32,height=32,steps=1,every=2}"
WORK = {"encode_text": "text_encoder", "encode_images": "vae", "decode_latents": "vae", "predict": "unet"}


class Places:
    """Where each part was moved last, the most parts that were there together, and every use of a part that was not
    where it has to be."""

    def __init__(self) -> None:
        self.at: dict[str, torch.device] = {}
        self.moves: list[tuple[str, ...]] = []
        self.strangers: list[str] = []

    @property
    def there(self) -> set[str]:
        return {name for name, device in self.at.items() if device == torch.device("cpu")}


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    seen = Places()
    monkeypatch.setattr(placement, "HOME", AT_HOME)
    move = LatentDiffusion.to

    def to(self: Any, device: Any, dtype: Any, only: Collection[str] | None = None) -> None:
        names = sorted(only if only is not None else [*self.parts, "vae"])
        seen.at |= dict.fromkeys(names, torch.device(device))
        if names:
            seen.moves.append((torch.device(device).type + str(torch.device(device).index or ""), *names))
        move(self, device, dtype, only)

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def work(self: Any, *given: Any) -> Any:
            if WORK[name] not in seen.there:
                seen.strangers.append(f"{name} without its part")
            return real(self, *given)

        return work

    monkeypatch.setattr(LatentDiffusion, "to", to)
    for kind, name in [(LatentDiffusion, "encode_images"), (LatentDiffusion, "decode_latents")]:
        monkeypatch.setattr(kind, name, watched(name, getattr(kind, name)))
    for name in ("encode_text", "predict"):
        monkeypatch.setattr(StableDiffusion, name, watched(name, getattr(StableDiffusion, name)))
    yield seen
    assert seen.strangers == []


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return runs.make_project(tmp_path)


def on_meta(found: PreparedRun) -> set[str]:
    parts = {**found.family.parts, "vae": found.family.vae}
    return {name for name, part in parts.items() if any(p.is_meta for p in part.parameters())}


def test_a_cached_lora_run_keeps_nothing_but_the_unet(project: Path, places: Places) -> None:
    found = runs.training(project)
    assert on_meta(found) == {"text_encoder", "vae"}
    assert all(
        p.is_meta for name in on_meta(found) for p in {**found.family.parts, "vae": found.family.vae}[name].parameters()
    )
    assert places.there == {"unet"}
    assert found.run() == "done"


def test_images_and_captions_are_encoded_before_the_unet_comes(project: Path, places: Places) -> None:
    runs.training(project, "validation={split=0.4}")
    assert places.moves == [
        ("cpu1", "text_encoder", "vae"),
        ("cpu", "vae"), ("cpu1", "vae"), ("cpu", "text_encoder"), ("cpu1", "text_encoder"),
        ("cpu", "vae"), ("cpu", "text_encoder"), ("cpu1", "text_encoder", "vae"),  # the held-out images
        ("cpu", "unet"),
        ("meta", "text_encoder", "vae"),
    ]  # fmt: skip


def test_a_full_disk_cache_brings_no_encoder_to_the_device(project: Path, places: Places) -> None:
    runs.training(project, "data={cache_to_disk=true}")
    places.moves.clear()
    runs.training(project, "data={cache_to_disk=true}", "run.name='again'")
    assert places.moves == [("cpu1", "text_encoder", "vae"), ("cpu", "unet"), ("meta", "text_encoder", "vae")]


def test_samples_bring_the_encoders_and_send_them_off_again(project: Path, places: Places) -> None:
    found = runs.training(project, SAMPLES)
    assert on_meta(found) == set()
    assert places.there == {"unet"}
    places.moves.clear()
    assert found.run() == "done"
    assert places.moves == [("cpu", "text_encoder", "vae"), ("cpu1", "text_encoder", "vae")] * 2
    assert len(list((project.parent / "output" / "run" / "samples").glob("step-*.png"))) == 2


@pytest.mark.parametrize(
    ("settings", "staying"),
    [
        ("training.text_encoder=true", {"unet", "text_encoder"}),
        ("data.cache_text=false", {"unet", "text_encoder"}),
        ("data.cache_latents=false", {"unet", "vae"}),
        ("general.shuffle_caption=true", {"unet", "text_encoder"}),  # each caption is new
        ("general={enable_wildcard=true,caption_suffix='{a|b|c}'}", {"unet"}),  # three captions, known before
        ("general={enable_wildcard=true,caption_suffix='{a|b|c|d|e}{a|b|c|d|e}{a|b|c|d|e}'}", {"unet", "text_encoder"}),
    ],
)
def test_what_steps_need_stays(project: Path, places: Places, settings: str, staying: set[str]) -> None:
    found = runs.training(project, settings)
    assert places.there == staying
    assert set(found.loop.network.parts) == staying - {"vae"}  # type: ignore[arg-type, unused-ignore]
    assert found.run() == "done"


def test_a_full_fine_tune_keeps_what_it_saves(project: Path, places: Places) -> None:
    found = runs.training(project, "training.method='full'")
    assert places.there == {"unet"}
    assert on_meta(found) == set()
    found.run()
    saved = StableDiffusion.load(str(project.parent / "output" / "run" / "run"))
    assert torch.equal(next(saved.vae.parameters()).half(), next(found.family.vae.parameters()).half())


def test_a_preflight_encodes_its_batch_before_the_unet_comes(project: Path, places: Places) -> None:
    assert "preflight" in preflight(reading.read(project, []), Console(quiet=True))[0]
    assert places.moves[-1] == ("cpu", "unet")
    assert ("cpu", "vae") in places.moves and ("cpu", "text_encoder") in places.moves


def test_small_base_precision_leaves_encoders_that_rest_alone(project: Path, places: Places) -> None:
    found = runs.training(project, "training.base_precision='8bit'", "training.precision='bf16'", SAMPLES)
    kinds = {type(m).__name__ for m in found.family.parts["text_encoder"].modules()}
    assert "Linear8bitLt" not in kinds
    assert "Linear8bitLt" in {type(m).__name__ for m in found.family.parts["unet"].modules()}


def test_using_what_was_released_is_an_error(tmp_path: Path) -> None:
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "base")))
    held = Placement(family, torch.device("cpu"), torch.float32, ["vae"])
    held.release()
    with pytest.raises(AssertionError, match="vae"), held.used("vae"):
        pass


def test_uses_may_lie_within_each_other(tmp_path: Path, places: Places) -> None:
    family = StableDiffusion.load(str(tiny_sd(tmp_path / "base")))
    held = Placement(family, torch.device("cpu"), torch.float32, ["vae", "text_encoder"])
    with held.used("vae"):
        with held.used("vae", "text_encoder"):
            assert places.there == {"vae", "text_encoder"}
        assert places.there == {"vae"}
    assert places.there == set()
    with held.held():
        with held.used("vae"):
            pass
        assert places.there == {"vae"}
    assert places.there == set()


@pytest.mark.gpu
@NEEDS_CUDA
def test_the_gpu_holds_the_unet_alone(project: Path) -> None:
    before = Real().allocated()
    found = runs.training(project, SAMPLES, "run.device='cuda'", "training.precision='bf16'")
    devices = {name: next(part.parameters()).device.type for name, part in found.family.parts.items()}
    assert devices == {"unet": "cuda", "text_encoder": "cpu"}
    assert next(found.family.vae.parameters()).device.type == "cpu"
    unet = sum(p.numel() * p.element_size() for p in found.family.parts["unet"].parameters())
    held = Real().allocated() - before
    assert unet <= held < 1.2 * unet + 2**20
    found.run()
    assert next(found.family.vae.parameters()).device.type == "cpu"
