"""What is brought to a bare machine."""

from __future__ import annotations

import zipfile
from pathlib import Path

from tests.gpu import bare


def test_one_library_for_cards_is_brought_and_listed(tmp_path: Path) -> None:
    wheel = tmp_path / "bitsandbytes-1-py3-none-any.whl"
    names = ["cuda118.so", "cuda130.so", "cuda132.so", "cpu.so", "rocm60.so"]
    record = "".join(f"bitsandbytes/libbitsandbytes_{name},sha256=x,1\n" for name in names)
    with zipfile.ZipFile(wheel, "w") as file:
        for name in names:
            file.writestr(f"bitsandbytes/libbitsandbytes_{name}", name)
        file.writestr("bitsandbytes/nn.py", "pass")
        file.writestr("bitsandbytes-1.dist-info/RECORD", f"bitsandbytes/nn.py,,\n{record}")
    bare.slim(wheel)
    with zipfile.ZipFile(wheel) as file:
        kept = [f"bitsandbytes/{name}" for name in bare.KEPT]
        assert sorted(file.namelist()) == sorted([*kept, "bitsandbytes/nn.py", "bitsandbytes-1.dist-info/RECORD"])
        assert file.read("bitsandbytes-1.dist-info/RECORD").decode().count("\n") == 3


def test_versions_are_those_that_are_pinned() -> None:
    pinned = (bare.ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert len([wheel for wheel in bare.WHEELS if wheel in pinned]) == 7
    names = [line.partition("==")[0] for line in pinned]
    assert [wheel for wheel in bare.WHEELS if wheel.partition("==")[0] in names and wheel not in pinned] == []
