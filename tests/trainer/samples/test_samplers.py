"""Samplers follow the model's own schedule and prediction: with a perfect network each ends at the clean latent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from tests.tiny import tiny_sd
from trainer import registry
from trainer.config.schema.samples import Sampler
from trainer.errors import UserError
from trainer.samples import drawing, samplers
from trainer.samples.prompts import Request

NAMES = [name for name in get_args(Sampler) if not samplers.missing(name, ())]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bases")


def family(bases: Path, prediction: str, zero_snr: bool) -> Any:
    folder = tiny_sd(bases / f"{prediction}-{zero_snr}", prediction=prediction, zero_snr=zero_snr)
    return registry.find("models", "sd").load(str(folder))


def perfect(model: Any, clean: torch.Tensor, seen: list[float]) -> Any:
    """A UNet for data that consists of one latent: its exact epsilon or v at any x_t (timesteps between two are
    interpolated in log sigma, as the samplers that visit them do)."""
    abar = model.schedule.alphas_cumprod.double().clamp(min=2.0**-24)
    log_sigma = ((1 - abar) / abar).sqrt().log()

    def forward(sample: torch.Tensor, timestep: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        t = float(timestep)
        seen.append(t)
        low, share = int(t), t - int(t)
        sigma = (log_sigma[low] * (1 - share) + log_sigma[min(low + 1, 999)] * share).exp()
        alpha, sigma = 1 / (1 + sigma**2).sqrt(), sigma / (1 + sigma**2).sqrt()
        noise = (sample.double() - alpha * clean) / sigma
        answer = noise if model.prediction == "epsilon" else alpha * noise - sigma * clean
        return SimpleNamespace(sample=answer.float()) if kwargs.get("return_dict", True) else (answer.float(),)

    return forward


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("prediction", "zero_snr"), [("epsilon", False), ("v_prediction", False), ("v_prediction", True)]
)
def test_a_perfect_network_leads_to_the_clean_latent(
    bases: Path, monkeypatch: pytest.MonkeyPatch, name: str, prediction: str, zero_snr: bool
) -> None:
    model = family(bases, prediction, zero_snr)
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    seen: list[float] = []
    monkeypatch.setattr(model.unet, "forward", perfect(model, clean.double(), seen))
    drawn: list[torch.Tensor] = []
    monkeypatch.setattr(model, "decode_latents", lambda latents: drawn.append(latents) or torch.zeros(1, 3, 32, 32))
    drawing.draw(model, [Request("a cat", 1, "", 32, 32, 25, 1.0, name)])
    # What is left is the noise of the last timestep that was visited, and the samplers' own rounding.
    assert (drawn[0] - clean).abs().mean() < 0.06
    if zero_snr:
        assert max(seen) == 999  # the only timestep without any image in it


@pytest.mark.parametrize("name", sorted({n.removeprefix("k_") for n in NAMES}))
@pytest.mark.parametrize("zero_snr", [False, True])
def test_the_schedule_is_the_models(bases: Path, name: str, zero_snr: bool) -> None:
    model = family(bases, "v_prediction", zero_snr)
    made = samplers.named(name, model.pipeline().scheduler, model.schedule)
    expected = model.schedule.alphas_cumprod.clamp(min=samplers.LEAST_SIGNAL if name != "ddim" else 0)
    torch.testing.assert_close(made.alphas_cumprod, expected, rtol=2e-4, atol=1e-9)
    assert made.config["prediction_type"] == "v_prediction"


def test_betas_give_the_schedule_back() -> None:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    found = torch.tensor(samplers.betas((1 - betas).cumprod(0)), dtype=torch.float64)
    torch.testing.assert_close(found, betas)


def test_a_sampler_that_a_model_has_not_is_told_before_anything_is_drawn(bases: Path) -> None:
    model = family(bases, "epsilon", False)
    line = "samples.sampler: this model has no sampler 'dopri5'; there are ddim, ddpm, "
    (found,) = drawing.problems(model, [Request("a cat", 1, sampler="dopri5"), Request("a dog", 2, sampler="dopri5")])
    assert found.startswith(line)
    with pytest.raises(UserError, match="no sampler 'dopri5'"):
        drawing.draw(model, [Request("a cat", 1, sampler="dopri5", width=16, height=16, steps=1)])


def test_a_sampler_that_a_flow_passes_over_is_told(bases: Path) -> None:
    flow = family(bases, "flow_prediction", False)
    assert drawing.notes(flow, [Request("a cat", 1, sampler="euler_a"), Request("a dog", 2, sampler="euler")]) == [
        "samples.sampler = 'euler_a' has no effect: this flow is drawn in Euler steps."
    ]
    assert drawing.notes(flow, [Request("a cat", 1, unset=frozenset({"sampler"}))]) == []
    assert drawing.notes(family(bases, "epsilon", False), [Request("a cat", 1, sampler="euler_a")]) == []
