"""bitsandbytes' optimizers without their wait for the device after every parameter.

Their own `step` calls torch.cuda.synchronize() behind each update: hundreds of times a step, in which the host can
launch nothing. What is asked of one stream is done in its order, so nothing needs it but paged states, which lie in
memory that the host may touch at any time: those wait as they do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

_MADE: dict[type[Any], type[Any]] = {}  # one for each of the library's


def without_waits(kind: type[Any]) -> type[Any]:
    """The class itself, or one of the same name and arguments whose step waits for nothing."""
    loaded = sys.modules.get("bitsandbytes.optim.optimizer")
    if loaded is None or not issubclass(kind, loaded.Optimizer8bit):
        return kind
    if kind not in _MADE:
        _MADE[kind] = _unwaiting(kind)
    return _MADE[kind]


def _unwaiting(kind: type[Any]) -> type[Any]:
    @torch.no_grad()
    def step(self: Any, closure: Callable[[], Any] | None = None) -> Any:
        if self.is_paged or closure is not None:
            return kind.step(self, closure)
        if not self.initialized:
            self.check_overrides()
            self.to_gpu()
            self.initialized = True
        for group_index, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    if not self.state[parameter]:
                        self.init_state(group, parameter, group_index, index)
                    self.update_step(group, parameter, group_index, index)
        return None

    members = {"step": step, "__doc__": kind.__doc__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), members)
