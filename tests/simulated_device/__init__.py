"""A CUDA card that is not there: every value is real and computed on the CPU, and what a card would refuse is refused.

Inside `simulated_card` tensors are tagged as lying on the device or in the host's memory, and torch.cuda answers. It
raises where a card would: operands on two devices, a generator of another device, numpy of a device tensor, a copy to
the host that is read (or whose source is changed) before anybody waited for it, memory that runs out at a chosen
allocation or beyond a chosen size. It records who made the host wait, counts kernels and keeps the number of bytes.

What it cannot show, so that a card has to:
- kernels: whether one exists for a type or a shape, what it gives, how long it takes; a count is of torch's operations,
  each of which launches one kernel or more;
- numerics: CUDA's lists of what autocast casts (the CPU's are used), TF32, cuDNN's and attention's choice of
  algorithms, determinism;
- real asynchrony: races between streams (all are one queue here), and whether a wait costs anything;
- memory as CUDA's allocator gives it: blocks, fragments, workspaces, caches, and what fused kernels do not keep;
- torch.compile and bitsandbytes' paged memory, which look for a card by themselves, and several processes.
"""

from tests.simulated_device.card import Card, EarlyReadError, Record, TwoDevicesError, Wait
from tests.simulated_device.simulation import simulated_card

__all__ = ["Card", "EarlyReadError", "Record", "TwoDevicesError", "Wait", "simulated_card"]
