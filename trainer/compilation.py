"""Compiles the repeated blocks of a network, and goes back to eager, saying why, where that fails."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

SHAPES = 256  # recompilations that are allowed: torch's own limit of 8 is hit by buckets and ranks
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch.fx", "triton")


class Compiled:
    """The blocks of some parts that occur many times (diffusers' `_repeated_blocks`), each compiled by itself: there is
    one graph for all of one kind, so that it takes seconds where a whole network takes minutes.

    Sizes are symbols from the start: buckets do not compile anew, and a resumed run gets the same kernels whichever
    bucket it meets first.
    """

    def __init__(self, parts: Iterable[nn.Module], backend: str = "inductor") -> None:
        self.blocks = [block for part in parts for block in repeated_blocks(part)]
        if not self.blocks:
            return
        # Imported here: it takes seconds, and only those who compile need it.
        import torch._dynamo

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)
        for block in self.blocks:
            block.compile(backend=backend, dynamic=True)

    def give_up(self, error: BaseException) -> str:
        """Makes all blocks eager again and says why, if the compiler failed; an empty text for any other error."""
        reason = compilers_reason(error)
        if not reason or not self.blocks:
            return ""
        for block in self.blocks:
            block._compiled_call_impl = None
        self.blocks = []
        return f"performance.compile: the compiler failed, so the run goes on without it ({reason})"


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


def has_compiler() -> bool:
    """Whether there is what torch's CPU compiler needs."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return bool(get_cpp_compiler()) and not torch.backends.mps.is_available()
    except InvalidCxxCompiler:
        return False
