"""A key of another trainer's, typed here, is answered with ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.config import reading
from trainer.config.foreign.names import WORDS, counterparts, names_of
from trainer.config.keys import keys as schema_keys
from trainer.errors import UserError

KNOWN = {path for path, _ in schema_keys()}


def told(line: str) -> str:
    with pytest.raises(UserError) as error:
        reading.parse(f'model.base = "b"\n{line}\n[[datasets.subsets]]\n', directory=Path())
    return next(p for p in error.value.problems if "unknown key" in p)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("network_dim = 8", "Did you mean 'lora.rank'?"),
        ("[lora]\nnetwork_dim = 8", "It is called 'rank' here."),
        ("min_snr_gamma = 5", "Did you mean 'loss.weighting'?"),
        ("mixed_precision = 'bf16'", "Did you mean 'training.precision'?"),
        ("lr = 1", "Did you mean 'optimizer.lr'?"),
        ("resolution = 512", "Did you mean 'general.resolution'?"),
        ("[training]\nxformers = true", "It is a key of sd-scripts, not needed here (attention always runs"),
        ("[training]\nbase_weights = 'a'", "It is a key of sd-scripts, without a counterpart here (merge"),
        ("offset_noise_weight = 0.1", "Did you mean 'noise.offset.strength'?"),
        ("snr_gamma = 5", "Did you mean 'loss.weighting'?"),
    ],
)
def test_it_is_answered_with_ours(typed: str, expected: str) -> None:
    assert expected in told(typed)


def test_every_name_leads_somewhere() -> None:
    for name, one in counterparts().items():
        assert name and all(key in KNOWN or key.rpartition(".")[0] in KNOWN for key in one.ours), one
    assert set(WORDS.values()) <= KNOWN


def test_names_of_our_keys() -> None:
    assert "network_dim" in names_of("lora.rank") and "lora_rank" in names_of("lora.rank")
    assert names_of("datasets[].subsets[].num_repeats") == names_of("general.num_repeats") != ()
    assert "k_noise_sampling" in names_of("noise.oversampling.k")
