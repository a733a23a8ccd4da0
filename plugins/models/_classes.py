"""The classes of a class-conditional network: their names, and the numbers by which it knows them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.errors import UserError

KEY = "id2label"  # of model_index.json, as diffusers' DiTPipeline has it


@dataclass(frozen=True)
class Classes:
    """Names in the order of their numbers; the number after the last one stands for no class, where there is one."""

    names: tuple[str, ...] = ()
    none: bool = True

    @classmethod
    def stored(cls, index: Mapping[str, object], count: int) -> Classes:
        """Of a base with `count` embeddings, by what its model_index.json tells; else they are called by number."""
        told = index.get(KEY)
        names = tuple(str(told[str(i)]) for i in range(len(told)) if str(i) in told) if isinstance(told, dict) else ()
        if names and len(names) in (count, count - 1):
            return cls(names, len(names) == count - 1)
        return cls(tuple(map(str, range(count))), none=False)

    def as_index(self) -> dict[str, str]:
        return {str(number): name for number, name in enumerate(self.names)}

    def numbers(self, captions: Sequence[str]) -> Tensor:
        """(B,) long. Raises UserError for captions that name no class."""
        if problems := dict.fromkeys(line for caption in captions if (line := self.problem(caption))):
            raise UserError(problems)
        known = {name: number for number, name in enumerate(self.names)}
        return torch.tensor([known.get(caption.strip(), len(self.names)) for caption in captions])

    def problem(self, caption: str) -> str:
        """Why a caption names no class; "" where it does, or where it is empty and means none of them."""
        name = caption.strip()
        if name in self.names or (not name and self.none):
            return ""
        near = difflib.get_close_matches(name, self.names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"They are {', '.join(self.names[:12])}{self._more}."
        what = f"the caption {name!r} is none of the network's classes" if name else "this network needs a class"
        return f"{what}. {hint} A caption is the name of a class and nothing else."

    @property
    def _more(self) -> str:
        return ", ..." if len(self.names) > 12 else ""
