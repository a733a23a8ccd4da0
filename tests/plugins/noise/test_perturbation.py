"""Input perturbation against kohya's formula: the mixed noise changes, the target does not."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from plugins.noise.perturbation import PLUGIN
from tests.plugins.noise.laws import seeded
from trainer.batch import NoiseContext, NoiseDraw


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 4, 8, 8), (2, 4, 3, 8, 8), (3, 7)])
@pytest.mark.parametrize("random_strength", [False, True])
def test_the_formula_is_kohyas(shape: tuple[int, ...], random_strength: bool) -> None:
    plain = torch.randn(shape, generator=seeded(1))
    before = plain.clone()
    stage = PLUGIN(PLUGIN.Settings(gamma=0.1, random_strength=random_strength))
    draw = stage(NoiseDraw(plain, plain), NoiseContext(torch.zeros(shape), torch.zeros(shape[0]), seeded(2)))
    generator = seeded(2)
    strength = torch.rand(1, generator=generator) * 0.1 if random_strength else 0.1
    assert torch.equal(draw.mixed, plain + strength * torch.randn(shape, generator=generator))
    assert draw.target is plain
    assert torch.equal(plain, before)


def test_the_mixed_noise_gains_variance_and_stays_correlated_with_the_target() -> None:
    plain = torch.randn(100, 4, 16, 16, generator=seeded(1))
    clean = torch.randn(plain.shape, generator=seeded(3))
    context = NoiseContext(clean, torch.zeros(100), seeded(2))
    draw = PLUGIN(PLUGIN.Settings(gamma=0.5))(NoiseDraw(plain, plain), context)
    assert float(draw.mixed.var()) == pytest.approx(1.25, abs=0.02)
    assert float((draw.mixed * draw.target).mean()) == pytest.approx(1, abs=0.02)
    assert float((draw.mixed * clean).mean()) == pytest.approx(0, abs=0.02)


def test_settings() -> None:
    assert not PLUGIN.active(PLUGIN.Settings())
    assert PLUGIN.active(PLUGIN.Settings(gamma=0.1))
    for wrong in ({"gamma": -0.1}, {"gamma": "a little"}, {"ip_noise_gamma": 0.1}):
        with pytest.raises(ValidationError):
            PLUGIN.Settings.model_validate(wrong)
