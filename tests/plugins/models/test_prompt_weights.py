"""A1111's prompt weights: the marks, and what they do to the states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plugins.models._prompt_weights import parse
from plugins.models.sd import StableDiffusion
from plugins.models.sdxl import StableDiffusionXL
from tests.tiny import tiny_sd, tiny_sdxl


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("(masterpiece:1.2), best [quality]", [("masterpiece", 1.2), (", best ", 1), ("quality", 1 / 1.1)]),
        ("((a)) b", [("a", 1.21), (" b", 1)]),
        ("a (b (c:0.5) d:2)", [("a ", 1), ("b ", 2), ("c", 1), (" d", 2)]),
        ("(open", [("open", 1.1)]),
        (r"smile \(mouth\)", [("smile (mouth)", 1)]),
        ("a:b) x 16:9", [("a:b) x 16:9", 1)]),
        ("", []),
    ],
)
def test_marks_are_read_as_a1111_reads_them(caption: str, expected: list[tuple[str, float]]) -> None:
    found = parse(caption)
    assert [f.text for f in found] == [text for text, _ in expected]
    assert [f.weight for f in found] == pytest.approx([weight for _, weight in expected])


@given(st.text(alphabet="ab ,:1.", max_size=40))
def test_captions_without_brackets_are_one_fragment(caption: str) -> None:
    assert "".join(f.text for f in parse(caption)) == caption
    assert all(f.weight == 1 for f in parse(caption))


@given(st.text(alphabet="ab()[]\\:1.5 ", max_size=40))
def test_any_caption_can_be_read(caption: str) -> None:
    assert all(isinstance(f.weight, float) for f in parse(caption))


@pytest.mark.parametrize("kind", [StableDiffusion, StableDiffusionXL])
def test_weights_multiply_the_states_of_their_words(kind: type, tmp_path: Path) -> None:
    folder = str((tiny_sd if kind is StableDiffusion else tiny_sdxl)(tmp_path / "b"))
    plain, weighted = kind.load(folder), kind.load(folder, weighted_captions=True)  # type: ignore[attr-defined]
    before = plain.encode_text(["ab cd"])
    same = weighted.encode_text(["ab cd"])
    torch.testing.assert_close(same["hidden"], before["hidden"])
    after = weighted.encode_text(["ab (cd:1.5)"])
    factors = torch.ones(77)
    factors[3:5] = 1.5  # one token a byte: begin, a, b, c, d
    torch.testing.assert_close(after["hidden"], before["hidden"] * factors[:, None])
    if "pooled" in before:
        torch.testing.assert_close(after["pooled"], before["pooled"])


def test_weights_follow_their_words_through_the_chunks(tmp_path: Path) -> None:
    folder = str(tiny_sd(tmp_path / "b"))
    settings = {"max_tokens": 150}
    plain = StableDiffusion.load(folder, **settings)  # type: ignore[arg-type]
    weighted = StableDiffusion.load(folder, weighted_captions=True, **settings)  # type: ignore[arg-type]
    before = plain.encode_text(["a" * 100 + " b"])["hidden"]
    after = weighted.encode_text(["a" * 100 + " (b:2)"])["hidden"]
    factors = torch.ones(152)
    factors[101] = 2
    torch.testing.assert_close(after, before * factors[:, None])
