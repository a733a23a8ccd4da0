"""Compiles the repeated blocks of a network, and goes back to eager, saying why, where that fails."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.device.beforehand import allow_compiling

SHAPES = 256  # recompilations that are allowed: torch's own limit of 8 is hit by buckets and ranks
SAMPLE = 2**24  # numbers of gradients that are compared
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx", "triton")


class Compiled:
    """The blocks of some parts that occur many times (diffusers' `_repeated_blocks`), each compiled by itself: there is
    one graph for all of one kind, so that it takes seconds where a whole network takes minutes.

    Sizes are symbols from the start: buckets do not compile anew, and a resumed run gets the same kernels whichever
    bucket it meets first.
    """

    def __init__(self, parts: Iterable[nn.Module], *, exact: bool = True) -> None:
        """exact: the networks calculate in float32, so that rounding explains little."""
        self._compared: set[Hashable] = set()
        self._tolerance = 0.01 if exact else 0.05
        self.blocks = [block for part in parts for block in repeated_blocks(part)]
        if not self.blocks:
            return
        # Imported here: it takes seconds, and only those who compile need it.
        import torch._dynamo

        allow_compiling()
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
        for block in self.blocks:
            block.compile(dynamic=True)

    def is_new(self, shapes: Hashable) -> bool:
        """Whether the gradients of such sizes are still to be compared with eager ones: compilers have bugs that
        show at some sizes only, and a wrong gradient tells nobody."""
        return bool(self.blocks) and shapes not in self._compared

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, all blocks are eager."""
        calls = [block._compiled_call_impl for block in self.blocks]
        try:
            for block in self.blocks:
                block._compiled_call_impl = None
            yield
        finally:
            for block, call in zip(self.blocks, calls, strict=True):
                block._compiled_call_impl = call

    def doubt(self, found: Sequence[Tensor], expected: Sequence[Tensor], shapes: tuple[str, ...]) -> str:
        """Makes all blocks eager again and says why, if compiled gradients are not the eager ones up to rounding.

        Where the eager ones are not finite, as with float16 until its scaler has settled, these sizes stay new.
        """
        if not torch.stack([gradient.norm() for gradient in expected]).isfinite().all():
            return ""
        self._compared.add(shapes)
        apart = difference(found, expected)
        if apart <= self._tolerance:
            return ""
        return self._stop(f"its gradients were {apart:.1%} off the eager ones at a batch of {shapes[0]}")

    def give_up(self, error: BaseException) -> str:
        """Makes all blocks eager again and says why, if the compiler failed; an empty text for any other error."""
        reason = compilers_reason(error)
        if not reason or not self.blocks:
            return ""
        device = next((p.device.type for block in self.blocks for p in block.parameters()), "")
        return self._stop((obstacle() if device == "cpu" else "") or reason)

    def _stop(self, reason: str) -> str:
        for block in self.blocks:
            block._compiled_call_impl = None
        self.blocks = []
        return f"performance.compile: the compiler failed, so the run goes on without it ({reason})"


def sample_of(weights: Iterable[nn.Parameter]) -> list[Tensor]:
    """A copy of the first gradients, as many as are no burden."""
    sample: list[Tensor] = []
    for weight in weights:
        if weight.grad is not None and sum(t.numel() for t in sample) < SAMPLE:
            sample.append(weight.grad.detach().flatten()[:SAMPLE].float())
    return sample


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The length of the difference as a share of the length of what was expected."""
    apart = torch.stack([(a - b).norm() for a, b in zip(found, expected, strict=True)]).norm()
    return float(apart / torch.stack([b.norm() for b in expected]).norm().clamp(min=1e-30))


def repeated_blocks(part: nn.Module) -> list[nn.Module]:
    """The modules that a part's class names as repeated."""
    kinds = set(getattr(part, "_repeated_blocks", None) or ())
    return [module for module in part.modules() if type(module).__name__ in kinds]


def compilers_reason(error: BaseException) -> str:
    """The first line of the innermost error if a compiler raised it or any error around it, else an empty text."""
    chain = [error]
    while (following := chain[-1].__cause__ or chain[-1].__context__) is not None and following not in chain:
        chain.append(following)
    if not any(type(one).__module__.startswith(_COMPILERS) for one in chain):
        return ""
    inner = chain[-1]
    first = next((line.strip() for line in str(inner).splitlines() if line.strip()), "")
    return f"{type(inner).__name__}: {first}"[:300]


def obstacle() -> str:
    """Why torch cannot compile for a CPU here; an empty text where it can."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    if " " in torch.__file__:  # the paths of its headers stand in the compiler's command as they are
        return f"for a CPU torch compiles only where no space is in its path: {Path(torch.__file__).parent}"
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "no C++ compiler was found"
    return ""
