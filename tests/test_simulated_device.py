"""The simulated card refuses, records and counts what a card would; each kind of fault is planted and caught."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.reliability import small
from tests.simulated_device import Card, EarlyReadError, TwoDevicesError, simulated_card
from tests.simulated_device.card import BLOCK
from trainer.batch import sent
from trainer.device.late import Late

CUDA = torch.device("cuda", 0)


@pytest.fixture
def card() -> Iterator[Card]:
    with simulated_card() as found:
        yield found


def there(*shape: int) -> Tensor:
    return torch.ones(shape, device="cuda")


def test_tensors_say_where_they_are(card: Card) -> None:
    host = torch.arange(4.0)
    device = host.to("cuda")
    made = [device + 1, device.view(2, 2), torch.zeros_like(device), device.new_empty(3), there(2), device.detach()]
    made += [copy.deepcopy(device), nn.Parameter(device), device.double(), torch.stack([device, device]), host.cuda()]
    assert {(t.device, t.is_cuda, t.get_device()) for t in made} == {(CUDA, True, 0)}
    back = [
        host,
        device.cpu(),
        device.to("cpu"),
        device.new_zeros(2, device="cpu"),
        torch.empty_like(device, device="cpu"),
    ]
    assert {(t.device.type, t.is_cuda, t.get_device()) for t in back} == {("cpu", False, -1)}
    assert torch.equal(device.cpu(), host)


def test_a_module_moves_with_its_gradients(card: Card) -> None:
    layer = nn.Linear(3, 2).to("cuda")
    layer(there(4, 3)).sum().backward()
    assert {p.grad.device for p in layer.parameters() if p.grad is not None} == {CUDA}
    layer.to("cpu")
    assert {p.device.type for p in layer.parameters()} == {"cpu"}


MIXED: dict[str, Callable[[], object]] = {
    "a sum": lambda: there(3) + torch.ones(3),
    "a product": lambda: nn.Linear(3, 2).to("cuda")(torch.ones(1, 3)),
    "a weight that stayed": lambda: nn.Linear(3, 2)(there(1, 3)),
    "a list": lambda: torch.cat([there(2), torch.ones(2)]),
    "numbers in a list": lambda: torch.stack([torch.ones((), device="cuda"), torch.ones(())]),
    "a host tensor that changes": lambda: torch.zeros(()).add_(there(1).sum()),
    "pairs of lists": lambda: torch._foreach_add_([there(2)], [torch.ones(2)]),
    "an index of the device into the host": lambda: torch.ones(4)[there(2).long()],
    "a number of the device with a host tensor": lambda: torch.ones(3) * there(1).sum(),
    "a gradient": lambda: setattr(nn.Parameter(there(2)), "grad", torch.ones(2)),
    "a generator of the host": lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    "a generator of the host in place": lambda: there(3).normal_(generator=torch.Generator()),
    "a generator of the device": lambda: torch.randn(3, generator=torch.Generator("cuda")),
}


@pytest.mark.parametrize("mistake", MIXED.values(), ids=MIXED)
def test_two_devices_are_refused(card: Card, mistake: Callable[[], object]) -> None:
    with pytest.raises(TwoDevicesError, match=r"tests/test_simulated_device.py:\d+"):
        mistake()


def test_two_devices_are_refused_in_a_backward_pass(card: Card) -> None:
    weight = nn.Parameter(there(3))
    weight.register_hook(lambda gradient: gradient * torch.ones(3))
    with pytest.raises(TwoDevicesError):
        weight.sum().backward()


def test_two_devices_are_refused_in_a_recomputation_and_in_threads(card: Card) -> None:
    calls: list[int] = []

    def forgetful(x: Tensor) -> Tensor:
        calls.append(1)
        return (x.sin() + torch.ones(3, device="cuda" if len(calls) == 1 else "cpu")).cos()

    found = checkpoint(forgetful, there(3).requires_grad_(), use_reentrant=False)
    with pytest.raises(TwoDevicesError):
        found.sum().backward()
    seen: list[BaseException] = []

    def work() -> None:
        try:
            there(3) + torch.ones(3)
        except TwoDevicesError as error:
            seen.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(calls) == 2
    assert len(seen) == 1


def test_numbers_of_the_host_are_operands(card: Card) -> None:
    """As on a card: they travel with the command."""
    with card.recording() as seen:
        found = there(3) * torch.tensor(2.0) + 1
        found.mul_(torch.tensor(0.5)).clamp_(max=torch.tensor(9.0))
    assert found.device == CUDA
    assert seen.waits == []


WAITS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool(x.any()),
    "if": lambda x: 1 if (x > 0).all() else 0,
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "copy_": lambda x: torch.empty(4).copy_(x),
    "copy_ without page-locked memory": lambda x: torch.empty(4).copy_(x, non_blocking=True),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "a mask": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "a mask that takes values": lambda x: x.__setitem__(x > 0, x * 2),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "unique": lambda x: x.unique(),
    "an index of the host": lambda x: x[torch.tensor([0, 2])],
    "a list as an index": lambda x: x[[0, 2]],
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
    "synchronize": lambda x: torch.cuda.synchronize(),
    "stream": lambda x: torch.cuda.current_stream().synchronize(),
    "event": lambda x: torch.cuda.Event().synchronize(),
    "to the device": lambda x: torch.ones(3).to("cuda"),
    "to the device, page-locked": lambda x: torch.ones(3).pin_memory().to("cuda"),
    "much to the device": lambda x: torch.ones(1 << 15).to("cuda", non_blocking=True),
    "numbers to the device": lambda x: torch.tensor([1.0], device="cuda"),
    "load_state_dict": lambda x: nn.ParameterList([x]).load_state_dict({"0": torch.ones(4)}),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_each_wait_is_recorded_with_its_line(card: Card, wait: Callable[[Tensor], object]) -> None:
    tensor = there(4)
    with card.recording() as seen:
        wait(tensor)
    assert [w.where.file for w in seen.waits] == ["tests/test_simulated_device.py"]
    assert seen.waits[0].where.function == "<lambda>"


NO_WAITS: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x @ x).softmax(0).where(x > 0, 0.0),
    "a number where a mask is": lambda x: x.__setitem__(x > 0, 1.0),
    "an index of the device": lambda x: x[x.long()],
    "page-locked to the device": lambda x: torch.ones(1 << 15).pin_memory().to("cuda", non_blocking=True),
    "little to the device": lambda x: torch.ones(3).to("cuda", non_blocking=True),
    "to page-locked memory": lambda x: torch.empty(4, pin_memory=True).copy_(x, non_blocking=True),
    "made there": lambda x: torch.full((3,), 1.0, device="cuda") + torch.arange(3, device="cuda"),
    "shapes": lambda x: (x.shape, x.numel(), x.dtype, len(x), x.device),
    "of the host": lambda x: torch.ones(3).sum().item(),
}


@pytest.mark.parametrize("work", NO_WAITS.values(), ids=NO_WAITS)
def test_nothing_else_is_taken_for_a_wait(card: Card, work: Callable[[Tensor], object]) -> None:
    tensor = there(4)
    with card.recording() as seen:
        work(tensor)
    assert seen.waits == []


def test_a_wait_of_the_product_is_told_by_its_line(card: Card) -> None:
    late = Late(there(3))
    with card.recording() as seen:
        assert late.read()[0] == [1, 1, 1]
    (wait,) = seen.waits
    assert (wait.what, wait.where.file, wait.where.function) == (
        "event.synchronize",
        "trainer/device/late.py",
        "read",
    )


EARLY: dict[str, Callable[[Tensor], object]] = {
    "tolist": lambda x: x.tolist(),
    "item": lambda x: x.sum().item(),
    "numpy": lambda x: x.numpy(),
    "numpy's way": lambda x: np.asarray(x),
    "arithmetic": lambda x: x + 1,
    "a view": lambda x: x.view(2, 2)[0].tolist(),
    "changing it": lambda x: x.zero_(),
}


@pytest.mark.parametrize("read", EARLY.values(), ids=EARLY)
def test_a_copy_that_is_read_too_early_is_refused(card: Card, read: Callable[[Tensor], object]) -> None:
    device, page_locked = there(4), torch.empty(4, pin_memory=True)
    page_locked.copy_(device, non_blocking=True)
    for copied in (device.to("cpu", non_blocking=True), page_locked):
        with pytest.raises(EarlyReadError, match=r"tests/test_simulated_device.py:\d+"):
            read(copied)


@pytest.mark.parametrize(
    "wait",
    [
        lambda: torch.cuda.synchronize(),
        lambda: torch.cuda.current_stream().synchronize(),
        lambda: torch.cuda.current_stream().record_event().synchronize(),
        lambda: there(1).item(),
    ],
)
def test_a_copy_can_be_read_after_a_wait(card: Card, wait: Callable[[], object]) -> None:
    copied = there(4).to("cpu", non_blocking=True)
    wait()
    assert copied.tolist() == [1, 1, 1, 1]


def test_an_event_that_was_recorded_before_the_copy_does_not_help(card: Card) -> None:
    device, event = there(4), torch.cuda.Event()
    event.record()
    copied = device.to("cpu", non_blocking=True)
    event.synchronize()
    with pytest.raises(EarlyReadError):
        copied.tolist()


def test_memory_that_a_copy_reads_must_not_change(card: Card) -> None:
    host = torch.ones(4).pin_memory()
    device = sent(host, "cuda")
    with pytest.raises(EarlyReadError):
        host.zero_()
    torch.cuda.synchronize()
    host.zero_()
    assert device.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("read", [lambda x: x.numpy(), np.asarray, lambda x: x.detach().numpy()])
def test_numpy_takes_no_device_tensor(card: Card, read: Callable[[Tensor], object]) -> None:
    with pytest.raises(TypeError, match="numpy"):
        read(there(2))


def test_a_device_tensor_cannot_be_page_locked(card: Card) -> None:
    with pytest.raises(RuntimeError, match="pin"):
        there(2).pin_memory()


def test_bytes_are_counted(card: Card) -> None:
    kept = there(256)  # two blocks
    del_me = kept + 1
    assert torch.cuda.memory_allocated() == card.allocated == 2 * 2 * BLOCK
    del del_me
    view = kept[:10]
    assert card.allocated == 2 * BLOCK
    assert torch.cuda.max_memory_allocated() == 4 * BLOCK
    torch.cuda.reset_peak_memory_stats()
    host = kept.cpu()
    del kept, view
    assert (card.allocated, card.peak, host.numel()) == (0, 2 * BLOCK, 256)


def test_memory_runs_out_at_the_chosen_allocation_and_beyond_the_size() -> None:
    with simulated_card(fails_at=3) as card:
        first, second = there(1), there(1)
        with pytest.raises(torch.OutOfMemoryError):
            first + second
        assert (first + second).tolist() == [2]
        assert card.allocations == 4
    with simulated_card(memory=4 * BLOCK):
        kept = there(256)
        with pytest.raises(torch.OutOfMemoryError):
            there(257)
        assert torch.cuda.mem_get_info() == (2 * BLOCK, 4 * BLOCK)
        del kept
        assert there(384).sum().item() == 384


def test_memory_runs_out_in_a_backward_pass() -> None:
    with simulated_card() as card:
        weight = nn.Parameter(there(8))
        loss = weight.sin().sum()
        card.fails_at = card.allocations + 2
        with pytest.raises(torch.OutOfMemoryError):
            loss.backward()


def test_kernels_are_counted_by_who_launches_them(card: Card) -> None:
    x = there(4, 4)
    with card.recording() as seen:
        y = (x.view(16) * 2).reshape(4, 4).t()  # one
        y.add_(1)  # two
        torch._foreach_mul_([x, y], 2)  # three
        torch.empty(3, device="cuda")
        torch.ones(3) + 1
    assert seen.launched == 3
    assert {place.file for _, place in seen.kernels} == {"tests/test_simulated_device.py"}
    assert {name for name, _ in seen.kernels} == {"mul", "add_", "_foreach_mul_"}


def test_backward_passes_are_counted(card: Card) -> None:
    weight = nn.Parameter(there(4))
    loss = (weight * weight.detach()).sum()
    with card.recording() as seen:
        loss.backward()
    assert [name for name, _ in seen.kernels] == ["ones_like", "mul"]


def test_records_within_records_add_up(card: Card) -> None:
    with card.recording() as outer:
        there(1).item()
        with card.recording() as inner:
            there(1).item()
    assert (len(inner.waits), len(outer.waits)) == (1, 2)


def test_autocast_and_its_scaler_work(card: Card) -> None:
    layer = nn.Linear(4, 4).to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert torch.is_autocast_enabled("cuda")
        assert layer(there(2, 4)).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled("cuda")
    scaler = torch.amp.GradScaler("cuda", init_scale=4.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    scaler.scale(layer(there(2, 4)).sum()).backward()
    assert layer.weight.grad is not None
    layer.weight.grad[0, 0] = torch.inf
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(layer.weight, before)
    assert scaler.get_scale() == 2


def test_there_is_one_card(card: Card) -> None:
    assert (torch.cuda.is_available(), torch.cuda.device_count()) == (True, 1)
    with pytest.raises(RuntimeError, match="ordinal"):
        torch.ones(1, device="cuda:1")


def test_what_a_program_keeps_from_one_card_to_the_next_is_on_it() -> None:
    with simulated_card():
        kept = there(256)
    with simulated_card() as card:
        assert (kept + there(256)).device == CUDA
        del kept
        assert card.allocated == 0


def test_afterwards_there_is_none() -> None:
    was = torch.cuda.is_available(), torch.Generator, torch.cuda.Event, torch.autograd._engine_run_backward
    with pytest.raises(ValueError, match="out"), simulated_card():
        raise ValueError("out")
    assert was == (torch.cuda.is_available(), torch.Generator, torch.cuda.Event, torch.autograd._engine_run_backward)
    assert torch.ones(2).device.type == "cpu"


@pytest.mark.usefixtures("pictures_are_encoded_together")
def test_a_run_on_it_gives_the_bits_of_the_cpu(tmp_path: Path) -> None:
    """All values are real: so what differs on a card comes from the card."""
    project = small.make(tmp_path / "a project")
    overrides = (
        "noise={assignment='batch',perturbation=0.1}",
        "training.steps=3",
        "ema.decay=0.9",
        "save.dtype='fp32'",
    )
    small.training(project, "run.name='host'", *overrides).run()
    with simulated_card():
        small.training(project, "run.name='device'", "run.device='cuda'", *overrides).run()
    assert small.losses(project, "host") == small.losses(project, "device")
    host, device = (load_file(small.run_dir(project, n).path / f"{n}.safetensors") for n in ("host", "device"))
    assert host.keys() == device.keys()
    assert all(torch.equal(host[name], device[name]) for name in host)
