"""Training by several processes, started by torchrun: which one this is, and what they tell each other.

A batch is split among the processes, and each one computes the loss of the whole batch from everybody's outputs: what is
learnt does not depend on how many there are, except that batch norm in train mode sees a share of the batch only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from hashret.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together: number `rank` of `count`. One alone talks to nobody."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that logs, validates and writes."""
        return self.rank == 0

    def check(self, batch_size: int) -> None:
        """UsageError unless a batch can be split evenly."""
        if batch_size % self.count:
            raise UsageError(
                f"a batch of {batch_size} pictures cannot be split evenly among {self.count} processes; change "
                "--classes-per-batch, --pictures-per-class or --batch-size"
            )

    def gather(self, share: Tensor) -> Tensor:
        """Everybody's rows, in order of rank; gradients flow into this process's own.

        They are to be added up over all processes (`add_gradients`), as each one has those of its own rows only.
        """
        if self.count == 1:
            return share
        import torch
        from torch import distributed

        shares = [torch.empty_like(share) for _ in range(self.count)]
        distributed.all_gather(shares, share.detach().contiguous())
        shares[self.rank] = share
        return torch.cat(shares)

    def add_gradients(self, network: nn.Module) -> None:
        """Replace the gradients of the network by their sum over all processes, in one message."""
        if self.count == 1:
            return
        import torch
        from torch import distributed

        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        if not gradients:
            return
        total = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(total)
        for gradient, summed in zip(gradients, torch.split(total, [each.numel() for each in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        if self.count == 1:
            return flag
        flags: list[Any] = [None] * self.count
        from torch import distributed

        distributed.all_gather_object(flags, flag)
        return any(flags)

    def from_first(self, value: _T) -> _T:
        """The first process's value, a plain object."""
        if self.count == 1:
            return value
        from torch import distributed

        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started this one with, connected for the length of the block; alone without torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(distributed.get_rank(), count)
    finally:
        distributed.destroy_process_group()
