"""Compiled blocks: near to eager ones, exactly resumed, and given up with a word where the compiler fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.reliability import small
from trainer.assembly.run import PreparedRun
from trainer.device import beforehand
from trainer.device.compilation import Compiled, compilers_reason, difference, obstacle

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


def trained(found: PreparedRun) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in found.loop.network.named_parameters() if p.requires_grad}


def notices(project: Path, name: str) -> list[str]:
    return [e["message"] for e in small.run_dir(project, name).events() if e["event"] == "notice"]


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
    told = notices(project, "compiled")
    assert len([line for line in told if line.startswith("performance.compile: the compiler failed")]) == 1
    assert small.losses(project, "eager") == small.losses(project, "compiled")


class Doubling(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def test_what_holds_compilers_back_at_the_start_does_not_reach_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(beforehand.COMPILING, "1")
    network = torch.nn.Sequential(Doubling())
    network._repeated_blocks = ["Doubling"]
    calls: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        calls.append(len(inputs))
        return graph.forward

    monkeypatch.setattr(torch._dynamo.backends.registry, "_default_backend", backend)
    Compiled([network])
    network(torch.ones(1, 2))
    assert len(calls) == 1


def test_other_errors_are_not_taken_for_the_compilers(project: Path) -> None:
    assert compilers_reason(RuntimeError("shapes")) == ""
    wrapped = torch._dynamo.exc.TorchDynamoException("outer")
    wrapped.__cause__ = OSError("no room left")
    assert compilers_reason(wrapped) == "OSError: no room left"
    found = small.training(project, *COMPILED)
    found.loop.gradients.batch = lambda index: (_ for _ in ()).throw(ValueError("a bug"))
    with pytest.raises(ValueError, match="a bug"):
        found.run()


def test_compiled_blocks_learn_the_same_and_a_resumed_run_too(project: Path) -> None:
    # Pairs only: torch 2.13 for CPUs errs at batches of one, and is found out.
    (project.parent / "photos" / "4.png").unlink()
    for number in (1, 3):
        (project.parent / "photos" / f"{number}.png").unlink()
    settings = (*COMPILED, *small.EVERY_STEP)
    eager = small.training(project, f"training.steps={STEPS}", CALM, "run.name='eager'")
    eager.run()
    whole = small.training(project, *settings, "run.name='whole'")
    assert whole.loop.gradients.compiled is not None
    assert whole.loop.gradients.compiled.blocks
    whole.run()
    for name, value in trained(eager).items():
        torch.testing.assert_close(value, trained(whole)[name], rtol=1e-3, atol=1e-5)
    if obstacle():
        assert [line for line in notices(project, "whole") if obstacle() in line]
    assert bool(whole.loop.gradients.compiled.blocks) == (not obstacle())
    resumed = small.training(
        project, *settings, "run.name='resumed'", given=small.run_dir(project, "whole").checkpoint(1)
    )
    resumed.run()
    states = {small.state_hash(small.run_dir(project, n).checkpoint(STEPS)) for n in ("whole", "resumed")}
    assert len(states) == 1


def test_a_compiler_that_errs_is_found_out_at_the_size_where_it_does(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled gradients are spoiled at one of the sizes, as a compiler's bug does it."""
    found = small.training(project, *COMPILED, "training.steps=5")
    real, spoiled = found.loop.gradients.eager, []

    def gradients(finished: int) -> Any:
        results = real(finished)
        compiled = found.loop.gradients.compiled
        assert compiled is not None
        if finished == 2 and compiled.blocks and compiled.blocks[0]._compiled_call_impl is not None:
            spoiled.append(finished)
            for weight in found.loop.network.parameters():
                if weight.grad is not None:
                    weight.grad.mul_(1.1)
        return results

    monkeypatch.setattr(found.loop.gradients, "eager", gradients)
    monkeypatch.setattr(found.loop.gradients.compiled, "_compared", Forgetful())
    assert found.run() == "done"
    (told,) = notices(project, "run")
    assert (obstacle() or "off the eager ones at a batch of ") in told


class Forgetful(set[object]):
    """Takes every size for a new one."""

    def __contains__(self, size: object) -> bool:
        return False


def test_how_far_gradients_are_apart() -> None:
    expected = [torch.tensor([3.0]), torch.tensor([0.0, 4.0])]
    assert difference([torch.tensor([3.0]), torch.tensor([0.3, 4.4])], expected) == pytest.approx(0.1)
    assert difference(expected, expected) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_blocks_are_compiled(project: Path) -> None:
    found = small.training(project, *COMPILED, "run.device='cuda'", "training.precision='bf16'")
    found.run()
    assert found.loop.gradients.compiled is not None
    assert found.loop.gradients.compiled.blocks


def test_gradients_that_are_not_finite_say_nothing_about_the_compiler() -> None:
    """float16's first steps overflow, compiled or not."""
    part = torch.nn.Module()
    part.block = torch.nn.Linear(2, 2)
    part._repeated_blocks = ["Linear"]  # type: ignore[assignment]
    compiled, sizes = Compiled([part]), ("2x4x8x8",)
    infinite = [torch.tensor([1.0, float("inf")])]
    assert compiled.doubt(infinite, infinite, sizes) == ""
    assert compiled.is_new(sizes)
    assert compiled.doubt([torch.ones(2)], [torch.ones(2)], sizes) == ""
    assert not compiled.is_new(sizes)
    assert "off the eager ones" in compiled.doubt([torch.tensor([float("nan")])], [torch.ones(1)], sizes)


def test_several_processes_do_not_compare(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each comparison exchanges gradients, which the processes do in step or not at all."""
    found = small.training(project, *COMPILED)
    assert found.loop.gradients.compiled is not None
    monkeypatch.setattr(type(found.loop.accelerator), "num_processes", property(lambda _: 2))
    monkeypatch.setattr(found.loop.gradients.compiled, "is_new", lambda sizes: True)
    assert found.loop.gradients.doubt(0, found.loop.gradients.compiled, ("2x4x8x8",)) == ""
