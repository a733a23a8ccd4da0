"""Splits the optimizer's states and the gradients between processes by DeepSpeed (ZeRO, stages 1 and 2)."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from trainer.optim.update import Update

BUCKET = 2**26  # numbers that are exchanged at once: 256 MB


class Zero:
    """Each process has the whole network, but a part of the optimizer's states and, in stage 2, of the gradients
    (Rajbhandari et al. 2020, arXiv 1910.02054)."""

    sharded = True

    def __init__(self, accelerator: Accelerator, *, stage: int, max_norm: float) -> None:
        """max_norm: to which gradients are clipped; 0 = not at all."""
        self._accelerator, self._stage, self._max_norm = accelerator, stage, max_norm

    @property
    def described(self) -> str:
        parts = "optimizer states" if self._stage == 1 else "gradients and optimizer states"
        count = self._accelerator.num_processes
        return f"{count} processes, each with a part of the {parts} (DeepSpeed's ZeRO, stage {self._stage})"

    def wrap(self, network: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        # With autocast inside its forward pass: DeepSpeed switches off what is around it.
        ready = self._accelerator.prepare_model(network, device_placement=False, evaluation_mode=True)
        groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
        self._engine = _engine(ready, optimizer, self._accelerator.device, self._config())
        self._optimizer = WholeStates(self._engine, optimizer, groups)
        return self._engine, self._optimizer

    def accumulating(self) -> AbstractContextManager[None]:
        """DeepSpeed knows the last micro-batch by itself, see `backward`."""
        return nullcontext()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss / self._accelerator.gradient_accumulation_steps)

    def own_update(self) -> Update:
        return ZeroUpdate(self._engine, self._optimizer, self._accelerator.device)

    def whole(self) -> AbstractContextManager[None]:
        return nullcontext()

    def whole_on_host(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _config(self) -> dict[str, Any]:
        """Without DeepSpeed's own mixed precision: weights stay what they are, and autocast does the rest."""
        return {
            "train_micro_batch_size_per_gpu": 1,  # the loop makes batches and divides losses
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self._max_norm,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {
                "stage": self._stage,
                "overlap_comm": False,
                "memory_efficient_linear": False,  # it replaces torch's linear layer for the whole process
                "reduce_bucket_size": BUCKET,
            },
        }


def _engine(network: nn.Module, optimizer: Optimizer, device: torch.device, config: Mapping[str, Any]) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "`torch.distributed.all_gather_into_tensor`", FutureWarning)  # DeepSpeed's calls
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would be compiled now; torch's own serves
    engine, *_ = deepspeed.initialize(model=network, optimizer=optimizer, config=dict(config), dist_init_required=False)
    return engine


class WholeStates(Optimizer):
    """An optimizer over the network's own weights, whose steps DeepSpeed takes.

    DeepSpeed lays the weights of a group after one another, and gives each process an equal part of this line, over
    which it has the real optimizer work. What is saved and loaded is torch's own form: a state for each weight, whole.
    """

    def __init__(self, engine: Any, split: Optimizer, groups: list[dict[str, Any]]) -> None:
        """split: the real optimizer, in DeepSpeed's hands; groups: as they were before."""
        super().__init__(groups, split.defaults)
        self.split, self._engine, self._zero = split, engine, engine.optimizer

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        self._zero.refresh_fp32_params()  # weights may have been changed since the last step: loaded, limited, put back
        _copy_settings(self.param_groups, self.split.param_groups)
        self._engine.step()
        _copy_settings(self.split.param_groups, self.param_groups)

    def state_dict(self) -> dict[str, Any]:
        """In the host's memory, and on other processes than the first one without states. All have to ask for it."""
        numbers = {weight: number for number, weight in enumerate(self._weights())}
        states: dict[int, dict[str, Any]] = {}
        for group in range(len(self.param_groups)):
            states |= {numbers[weight]: state for weight, state in self._whole(group).items()}
        return {**super().state_dict(), "state": dict(sorted(states.items()))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Every process has all of it. Raises KeyError or ValueError when it is of another optimizer."""
        super().load_state_dict({**state_dict, "state": {}})
        states = {weight: state_dict["state"].get(number, {}) for number, weight in enumerate(self._weights())}
        parts = {group: self._part(group, states) for group in range(len(self.param_groups))}
        self._load_split({"state": parts, "param_groups": self.split.state_dict()["param_groups"]})

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Afterwards states and settings are as before; the weights are not."""
        _copy_settings(self.param_groups, self.split.param_groups)
        kept = self.split.state_dict()
        kept["state"] = {
            number: {name: v.to("cpu", copy=True) if isinstance(v, Tensor) else v for name, v in state.items()}
            for number, state in kept["state"].items()
        }
        yield
        self._load_split(kept)
        _copy_settings(self.split.param_groups, self.param_groups)

    def _load_split(self, state: dict[str, Any]) -> None:
        self.split.load_state_dict(state)
        self._zero._hp_optimizer_states_linked = False  # with the next step DeepSpeed finds the new tensors

    def _weights(self) -> list[nn.Parameter]:
        return [weight for group in self.param_groups for weight in group["params"]]

    def _line(self, group: int) -> list[tuple[nn.Parameter, int]]:
        """The weights of a group, and where each begins in the line."""
        zero = self._zero
        return list(zip(zero.round_robin_bit16_groups[group], zero.round_robin_bit16_offsets[group], strict=True))

    def _whole(self, group: int) -> dict[nn.Parameter, dict[str, Any]]:
        """The states of a group's weights, on the first process; empty before the first step."""
        part: Tensor = self._zero.single_partition_of_fp32_groups[group]
        first = distributed.get_rank() == 0
        found: dict[nn.Parameter, dict[str, Any]] = {}
        for name, value in self.split.state.get(part, {}).items():
            split = isinstance(value, Tensor) and value.shape == part.shape
            line = _gathered(value) if split else None
            for weight, start in self._line(group) if first else ():
                own = copy.deepcopy(value) if line is None else line[start : start + weight.numel()].view(weight.shape)
                found.setdefault(weight, {})[name] = own
        return found

    def _part(self, group: int, states: Mapping[nn.Parameter, Mapping[str, Any]]) -> dict[str, Any]:
        """This process's part of the states of a group; what is not a tensor of numbers for each weight, such as the
        count of steps, is the same for all of them."""
        part: Tensor = self._zero.single_partition_of_fp32_groups[group]
        began = distributed.get_rank() * part.numel()
        made: dict[str, Any] = {}
        for weight, start in self._line(group):
            own = slice(max(start - began, 0), max(start + weight.numel() - began, 0))  # may reach beyond the part
            inside = slice(max(began - start, 0), max(began + part.numel() - start, 0))  # of the weight
            for name, value in states[weight].items():
                if not (isinstance(value, Tensor) and value.ndim and value.shape == weight.shape):
                    made.setdefault(name, value)
                    continue
                made.setdefault(name, torch.zeros_like(part))[own].copy_(value.flatten()[inside])
        return made


def _copy_settings(source: list[dict[str, Any]], target: list[dict[str, Any]]) -> None:
    """Learning rates and whatever else optimizers keep in their groups."""
    for given, taken in zip(source, target, strict=True):
        taken.update({name: value for name, value in given.items() if name != "params"})


def _gathered(part: Tensor) -> Tensor:
    """The parts of all processes after one another, in the host's memory; empty on others than the first one."""
    ranks, first = distributed.get_world_size(), distributed.get_rank() == 0
    line = torch.empty((ranks, part.numel()) if first else (0,), dtype=part.dtype)
    for start in range(0, part.numel(), BUCKET // ranks):
        piece = part[start : start + BUCKET // ranks]
        together = piece.new_empty(ranks * piece.numel())
        distributed.all_gather_single(together, piece)
        if first:
            line[:, start : start + piece.numel()].copy_(together.view(ranks, -1))
    return line.flatten()


@dataclass
class ZeroUpdate:
    """DeepSpeed clips the gradients, and takes no step in any process when they are not finite in one."""

    engine: Any
    optimizer: WholeStates
    device: torch.device
    waits: bool = False
    in_backward: bool = False

    def take(self) -> Tensor:
        self.optimizer.step()
        norm = self.engine.get_global_grad_norm()  # a number or a tensor; infinite where the step was not taken
        return torch.as_tensor(norm, dtype=torch.float32, device=self.device)

    def settle(self, finite: bool) -> None:
        pass

    @contextmanager
    def trial(self, optimizer: Optimizer | None) -> Iterator[None]:
        """With the run's own optimizer: no other has parts of the weights."""
        with self.optimizer.undone():
            yield
            self.take()
