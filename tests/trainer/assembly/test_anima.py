"""Whole runs over Anima: a transformer with masked text, continuous time and three files, through the core as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from plugins.models.anima import Anima
from tests.tiny_anima import comfy_files, tiny_anima
from tests.trainer import runs
from trainer.adapters.inspection import inspect
from trainer.assembly.memory import estimate
from trainer.assembly.model import open_family
from trainer.batch import Batch
from trainer.config import reading
from trainer.errors import UserError

FILE = "comfy/models/diffusion_models/anima.safetensors"
STAGES = ("noise.oversampling=4", "noise.offset=0.05", "noise.pyramid=2", "noise.perturbation=0.1")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Over ComfyUI's three files, in a folder that is the current one; pictures of two shapes."""
    config = runs.make_project(tmp_path / "p", images=3)
    shutil.rmtree(tmp_path / "p" / "base")
    comfy_files(tmp_path / "p" / "comfy")
    config.write_text(config.read_text().replace('base = "base"', f'base = "{FILE}"'))
    monkeypatch.chdir(tmp_path / "p")
    return config


def test_a_lora_trains_stops_and_goes_on_as_if_it_had_not_stopped(project: Path) -> None:
    """With every stage of the noise, text from the disk, in bfloat16, recomputed, two sizes of pictures, samples."""
    settings = (
        *STAGES,
        "timesteps.distribution='logit_normal'",
        "timesteps.shift=3",
        "training.precision='bf16'",
        "training.gradient_checkpointing='full'",
        "data.cache_to_disk=true",
        "data.cache_dir='cache'",
        "training.steps=4",
        "save.every=2",
    )
    runs.train(project, *settings, "run.name='whole'", "samples.prompts=['a red cat']", "samples.steps=2",
               "samples.width=22", "samples.height=16")  # fmt: skip
    output = project.parent / "output"
    with Image.open(next((output / "whole").rglob("step-000004-00.png"))) as drawn:
        assert drawn.size == (20, 16)  # a patch is two cells of two pixels: 22 is rounded down
    found = inspect(output / "whole" / "whole.safetensors")
    assert (found.family, found.base_version, found.prediction, found.modules) == ("anima", "anima", "flow", 20)
    begun = runs.training(project, *settings, "run.name='parts'")
    real = begun.loop.gradients.batch

    def batch(index: int) -> Batch:
        begun.loop.control.stop_requested = index == 1
        return real(index)

    begun.loop.gradients.batch = batch
    assert begun.run() == "stopped"
    resumed = runs.train(project, *settings, "run.name='parts'", resume=True)
    assert resumed.loop.start.step == 2
    ours, theirs = (load_file(output / name / f"{name}.safetensors") for name in ("whole", "parts"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    assert any(bool(t.any()) for n, t in ours.items() if n.endswith("lora_up.weight"))


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("dora", "noise.assignment='batch'"),
        ("loha", "noise.explore=2"),
        ("lokr", "noise.matched=8"),
        ("lora", "noise.fixed='own'"),
        ("lora", "noise.coupled=4"),
    ],
)
def test_every_kind_of_adapter_and_every_stage_trains(project: Path, kind: str, stage: str) -> None:
    runs.train(project, f"lora.method='{kind}'", stage, "training.steps=2", "optimizer.lr=0.1", "save.dtype='fp32'")
    file = next((project.parent / "output").rglob("*.safetensors"))
    found = inspect(file)
    assert (found.family, found.modules) == ("anima", 20)
    weights = load_file(file)
    assert all(bool(w.isfinite().all()) for w in weights.values())
    ends = [w for name, w in weights.items() if name.endswith(ENDS[kind])]
    assert len(ends) == 20 and all(bool(w.any()) for w in ends), "begins at zero, and all of them learnt"


ENDS = {"lora": "lora_up.weight", "dora": "lora_up.weight", "loha": "hada_w2_a", "lokr": "lokr_w1"}


def test_a_full_fine_tune_writes_the_folder_and_the_file(project: Path) -> None:
    runs.train(project, "training.method='full'", "training.steps=2", "save.full='both'", "save.dtype='fp32'")
    output = project.parent / "output" / "run"
    before, folder = Anima.load(str(project.parent / FILE)), Anima.load(str(output / "run"))
    old, new = before.transformer.state_dict(), folder.transformer.state_dict()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert any(n.startswith("text_conditioner.") for n in changed) and "proj_out.weight" in changed
    file = load_file(output / "run.safetensors")
    assert file.keys() == load_file(project.parent / FILE).keys()
    for part in ("text_encoders", "vae"):
        shutil.copytree(project.parent / "comfy" / "models" / part, output / part)
    (output / "diffusion_models").mkdir()
    shutil.copy(output / "run.safetensors", output / "diffusion_models" / "new.safetensors")
    words = project.parent / "comfy" / "comfy" / "text_encoders"
    for name, place in (("tokenizer", "qwen25_tokenizer"), ("t5_tokenizer", "t5_tokenizer")):
        shutil.copytree(words / place, output / "diffusion_models" / name)
    again = Anima.load(str(output / "diffusion_models" / "new.safetensors"))
    assert all(torch.equal(new[n], t) for n, t in again.transformer.state_dict().items())
    with pytest.raises(
        UserError, match=r"save\.full: found 'file', but the one file of 'anima' does not hold text_enc"
    ):
        runs.training(
            project, "training.method='full'", "training.text_encoder=true", "save.full='file'", "run.name='other'"
        )


def test_memory_is_counted_without_weights(project: Path) -> None:
    tiny_anima(project.parent / "base")
    needs, draws = [], ("samples.prompts=['x']", "samples.width=32", "samples.height=32")
    for more in ((), ("training.method='full'",), ("datasets=[{resolution=64,subsets=[{image_dir='photos'}]}]",)):
        config = reading.read(project, ("model.base='base'", *draws, *more))
        needs.append(estimate(config, open_family(config, outline=True)))
    lora, full, large = needs
    assert full.optimizer > 5 * lora.optimizer and lora.sampling > 0
    assert large.operations > 1.5 * lora.operations and large.step > lora.step and large.caching > 2 * lora.caching
    assert lora.latent == 4 * 16 / 4


def test_a_base_is_told_from_its_header(project: Path) -> None:
    from trainer.assembly import headers

    tiny_anima(project.parent / "base")
    for base, multiple in (("base", 4), (FILE, 0)):
        config = reading.read(project, (f"model.base='{base}'", "lora.ranks={'transformer.transformer_blocks.0'=2}"))
        outline, problems = headers.of_base(config)
        assert problems == [] and outline is not None
        assert (outline.family, outline.size_multiple) == ("anima", multiple)
        assert list(headers.of_blocks(config, outline)) == []
        wrong = reading.read(project, (f"model.base='{base}'", "optimizer.rates={'transformer.blocks'=0.1}"))
        assert "transformer.transformer_blocks" in next(headers.of_blocks(wrong, outline))
        assert set(outline.names["transformer"]) == set(Anima.load(base).transformer.state_dict())


def test_the_saved_index_can_be_read_by_others(project: Path) -> None:
    family = Anima.load(str(project.parent / FILE))
    family.save(project.parent / "saved", torch.bfloat16)
    index = json.loads((project.parent / "saved" / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "CosmosTransformer3DModel"]
    assert inspect(project.parent / "saved").family == "anima"
