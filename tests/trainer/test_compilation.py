"""Compiled blocks: near to eager ones, exactly resumed, and given up with a word where the compiler fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.reliability import small
from trainer.build import Training
from trainer.compilation import compilers_reason, has_compiler

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 3
# A large epsilon: Adam's first steps are otherwise the signs of gradients, of which rounding decides some.
CALM = "optimizer.args={eps=1e-2}"
COMPILED = ("performance.compile=true", f"training.steps={STEPS}", CALM)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return small.make(tmp_path / "a project")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def trained(found: Training) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in found.loop.network.named_parameters() if p.requires_grad}


def test_without_a_compiler_the_run_goes_on_as_if_eager_and_says_so_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(project.parent / "kernels"))
    ends = []
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}):
        for name, more in (("eager", ()), ("compiled", COMPILED)):
            found = small.training(project, f"training.steps={STEPS}", CALM, *more, f"run.name='{name}'")
            assert found.run() == "done"
            ends.append(trained(found))
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
    told = [e["message"] for e in small.run_dir(project, "compiled").events() if e["event"] == "notice"]
    assert len([line for line in told if line.startswith("performance.compile: the compiler failed")]) == 1
    assert small.losses(project, "eager") == small.losses(project, "compiled")


def test_other_errors_are_not_taken_for_the_compilers(project: Path) -> None:
    assert compilers_reason(RuntimeError("shapes")) == ""
    wrapped = torch._dynamo.exc.TorchDynamoException("outer")
    wrapped.__cause__ = OSError("no room left")
    assert compilers_reason(wrapped) == "OSError: no room left"
    found = small.training(project, *COMPILED)
    found.loop.batch = lambda index: (_ for _ in ()).throw(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        found.run()


@pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
def test_compiled_blocks_learn_the_same_and_a_resumed_run_too(project: Path) -> None:
    settings = (*COMPILED, *small.EVERY_STEP)
    eager = small.training(project, f"training.steps={STEPS}", CALM, "run.name='eager'")
    eager.run()
    whole = small.training(project, *settings, "run.name='whole'")
    assert whole.loop.compiled is not None
    assert whole.loop.compiled.blocks
    whole.run()
    assert not [e for e in small.run_dir(project, "whole").events() if e["event"] == "notice"]
    for name, value in trained(eager).items():
        torch.testing.assert_close(value, trained(whole)[name], rtol=1e-3, atol=1e-5)
    resumed = small.training(
        project, *settings, "run.name='resumed'", given=small.run_dir(project, "whole").checkpoint(1)
    )
    resumed.run()
    states = {small.state_hash(small.run_dir(project, n).checkpoint(STEPS)) for n in ("whole", "resumed")}
    assert len(states) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_blocks_are_compiled(project: Path) -> None:
    found = small.training(project, *COMPILED, "run.device='cuda'", "training.precision='bf16'")
    found.run()
    assert found.loop.compiled is not None
    assert found.loop.compiled.blocks
