# SPDX-License-Identifier: Apache-2.0
"""Processes that learn together, as torchrun starts them.

Every process draws its own share of each minibatch; DistributedDataParallel averages the
gradients, so all take the same step. The first process writes and tells.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from rl100_policy.core.errors import ConfigError

_CPU = torch.device("cpu")
_SEEDS_APART = 1_000_003
"""Between the seeds of two processes: far more than anybody's seeds are apart."""
_FREEING = 0.5
"""What gloo's threads are given after the last collective [s]."""


@dataclass(frozen=True)
class Processes:
    """One of some processes that learn together; alone by default, and then nothing is asked.

    Attributes:
        rank: Which one, from 0.
        count: How many there are.
        device: Where this one learns.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = _CPU

    @property
    def leads(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def seed(self, seed: int) -> int:
        """Seed of this process's minibatches; the first one's is the seed itself."""
        return seed + self.rank * _SEEDS_APART

    def share(self, total: int, name: str) -> int:
        """This process's part of a minibatch of ``total``.

        Raises:
            ConfigError: If the processes cannot share it equally; names the setting ``name``.
        """
        if total % self.count:
            raise ConfigError(
                f"{self.count} processes cannot share {name}={total} equally; set it to a "
                f"multiple of {self.count}, or start another number of processes"
            )
        return total // self.count

    def parallel(self, objective: nn.Module) -> nn.Module:
        """The objective with its gradient averaged over all processes."""
        if self.count == 1:
            return objective
        # heads whose weight is zero get no gradient; buffers are constants
        return DistributedDataParallel(
            objective, find_unused_parameters=True, forward_sync_buffers=False
        )

    def means(self, row: Mapping[str, float]) -> dict[str, float]:
        """Every number of a row, its mean over the processes."""
        if self.count == 1:
            return dict(row)
        numbers = torch.tensor(list(row.values()), dtype=torch.float64, device=self.device)
        distributed.all_reduce(numbers)
        return dict(zip(row, (numbers / self.count).tolist(), strict=True))

    def decide(self, *, yes: bool) -> bool:
        """What the first process says."""
        if self.count == 1:
            return yes
        answer = torch.tensor([yes], device=self.device)
        distributed.broadcast(answer, src=0)
        return bool(answer.item())

    def gather(self, each: Tensor) -> list[Tensor]:
        """A tensor of equal shape from every process, in order of rank, on the CPU."""
        if self.count == 1:
            return [each]
        mine = each.to(self.device)
        found = [torch.empty_like(mine) for _ in range(self.count)]
        distributed.all_gather(found, mine)
        return [tensor.cpu() for tensor in found]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()


ALONE = Processes()


def require_connected(processes: Processes) -> None:
    """Raises ConfigError if torchrun started several processes that do not know each other."""
    started = _started()
    if started > 1 and processes.count == 1:
        raise ConfigError(
            f"torchrun started {started} processes, and each would do the whole run in the same "
            "folder; several of them learn by -m rl100_learner.parallel, anything else is started "
            "without torchrun"
        )


def _started() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Which of the processes of this machine this is, as torchrun says; 0 without it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def connected(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun started, for as long as the context lasts; alone without it.

    GPUs talk by nccl, CPUs by gloo.
    """
    if _started() == 1:
        yield Processes(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
        # Gloo's threads live on, and need the interpreter to free the tensors of the last
        # collective; one that asks for it while Python (before 3.14) ends aborts the process.
        time.sleep(_FREEING)
