"""What is settled before torch is imported: how its threads wait, and that libraries compile nothing meanwhile."""

from __future__ import annotations

import os

WAITING = "OMP_WAIT_POLICY"
COMPILING = "TORCHDYNAMO_DISABLE"


def settle() -> None:
    """For a process that is about to import torch; what the user has set stays.

    Threads sleep while they wait for each other. Where other programs need the processors too, those that wait in a
    loop, as they do else, take most of the time there is: on a busy machine a tiny run of 60 steps took 41 s and 39 CPU
    seconds this way; the other way it had not come to its end after 11 minutes and 212 CPU seconds.

    bitsandbytes compiles what a CPU does in place of its kernels when it is imported, and peft imports it: that alone
    loads torch's compiler, 1.6 CPU seconds of every start.
    """
    os.environ.setdefault(WAITING, "PASSIVE")
    os.environ.setdefault(COMPILING, "1")


def allow_compiling() -> None:
    """Before something is compiled on purpose: else it would silently stay as it is."""
    os.environ.pop(COMPILING, None)
