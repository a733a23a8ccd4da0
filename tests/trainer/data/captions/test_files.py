"""Which caption file belongs to an image, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.data.captions import files as captions
from trainer.errors import UserError


def test_empty_extension_accepts_txt_and_caption() -> None:
    assert captions.find("a.png", {"a.png", "a.txt"}, "") == ["a.txt"]
    assert captions.find("a.png", {"a.png", "a.caption"}, "") == ["a.caption"]
    assert captions.find("a.png", {"a.txt", "a.caption"}, "") == ["a.txt", "a.caption"]
    assert captions.find("a.png", {"b.txt", "a.png.txt"}, "") == []


@pytest.mark.parametrize("extension", [".tags", "tags"])
def test_a_set_extension_is_the_only_one(extension: str) -> None:
    assert captions.find("a.png", {"a.txt", "a.tags"}, extension) == ["a.tags"]
    assert captions.find("a.png", {"a.txt"}, extension) == []


def test_face_numbers_at_the_end_of_the_stem_are_ignored() -> None:
    assert captions.find("me_at_sea_10_20_30_40.png", {"me_at_sea.txt"}, "") == ["me_at_sea.txt"]
    assert captions.find("me_10_20_30.png", {"me.txt"}, "") == []
    both = {"x_1_2_3_4.txt", "x.txt"}
    assert captions.find("x_1_2_3_4.png", both, "") == ["x_1_2_3_4.txt"]


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfun caf\xc3\xa9\r\n\r\n second \r\n")
    assert captions.read_agreeing(tmp_path, ["a.txt"]) == ["un café", "second"]


def test_not_utf8_names_the_file_and_the_byte(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("un café".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.txt: not UTF-8 \(byte 6 is 0xe9\)"):
        captions.read(tmp_path / "a.txt")


def test_two_files_must_agree(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat")
    (tmp_path / "a.caption").write_text("a cat\n")
    assert captions.read_agreeing(tmp_path, ["a.txt", "a.caption"]) == ["a cat"]
    (tmp_path / "a.caption").write_text("a dog")
    with pytest.raises(UserError, match=r"a\.txt and .*a\.caption say different things"):
        captions.read_agreeing(tmp_path, ["a.txt", "a.caption"])
