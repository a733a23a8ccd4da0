"""Whatever call to the disk fails, and however: the old version or the new one is there, whole, and nothing counts
that is neither."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.reliability.artefacts import ARTEFACTS, Artefact
from tests.reliability.disk import Counter, Fails, watched
from trainer.files.atomic import PARTIAL, tidy

FAILURES = [
    pytest.param(how, for_good, id=f"{name}{', for good' if for_good else ''}")
    for name, how in {
        "no space": errno.ENOSPC, "input/output error": errno.EIO, "not permitted": errno.EACCES,
        "short write": "short",
    }.items()
    for for_good in (False, True)
    if (how, for_good) != ("short", True)
]  # fmt: skip


def leftovers(folder: Path, artefact: Artefact) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != artefact.name]


@pytest.mark.parametrize(("how", "for_good"), FAILURES)
@pytest.mark.parametrize("name", ARTEFACTS)
def test_the_nth_call_fails_until_none_does(tmp_path: Path, name: str, how: int | str, for_good: bool) -> None:
    artefact = ARTEFACTS[name]
    target = tmp_path / "deep" / artefact.name
    artefact.write(target, 1)
    for at in range(1, 1000):
        fails = Fails(at, how, for_good=for_good)
        failed = False
        with watched(tmp_path, fails):
            try:
                artefact.write(target, 2)
            except OSError:
                failed = True
        assert all(left.startswith(PARTIAL) for left in leftovers(target.parent, artefact))
        tidy(target.parent)
        assert leftovers(target.parent, artefact) == []
        found = artefact.version(target)
        assert found in (1, 2) if failed else found == 2
        if not fails.struck:
            break
        artefact.write(target, 1)
    assert at > 2
    assert not failed


@pytest.mark.parametrize("name", [name for name in ARTEFACTS if name != "sample"])
def test_a_disk_that_reports_what_it_did_not_write_is_found_out(tmp_path: Path, name: str) -> None:
    """Not for pictures, whose loss costs nothing."""
    artefact = ARTEFACTS[name]
    target = tmp_path / artefact.name
    artefact.write(target, 1)
    counter = Counter()
    with watched(tmp_path, counter):
        artefact.write(target, 1)
    writes = [at for at, (kind, _) in enumerate(counter.calls, 1) if kind == "write"]
    assert writes
    for at in writes:
        with watched(tmp_path, Fails(at, "lie")), pytest.raises(OSError, match="reads back"):
            artefact.write(target, 2)
        assert artefact.version(target) == 1
