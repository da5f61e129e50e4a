"""Training in one or several processes under torchrun; gradients are averaged over processes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor


class _Sum(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


@dataclass(frozen=True)
class Processes:
    """Rank of this process and number of processes."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> Processes:
        """Join the group that torchrun describes in the environment (read, never written); without one a single process."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls(0, 1, torch.device(device))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        chosen = torch.device("cuda", local) if device.startswith("cuda") else torch.device(device)
        if not dist.is_initialized():
            # the first process may fit noise for hours while the others wait
            dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(days=7))
        return cls(dist.get_rank(), world, chosen)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Return the average over the elements of all processes, differentiable and equal in all of them.

        The gradient in each process is ``world`` times its share, so that the average over processes is the gradient.
        """
        if self.world == 1:
            return values.mean()
        count = torch.tensor(float(values.numel()), dtype=values.dtype, device=values.device)
        dist.all_reduce(count)
        return _Sum.apply(values.sum()) / count

    def sum_of_means(self, terms: Tensor) -> Tensor:
        """Return Σ sum/count over the rows (sum, count) of terms (T, 2), each taken over all processes; () and differentiable."""
        total = terms if self.world == 1 else _Sum.apply(terms)
        return (total[:, 0] / total[:, 1]).sum()

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its mean over processes, in one reduction of a flat tensor.

        This replaces ``DistributedDataParallel``, whose hooks on ``forward`` miss the forces, which are derivatives taken inside
        the step; also, a forces-only loss leaves parameters without a gradient.
        """
        if self.world == 1:
            return
        parameters = list(parameters)
        flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in parameters])
        dist.all_reduce(flat)
        flat /= self.world
        for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = part.view_as(p)

    def as_first(self, values: dict[str, float]) -> dict[str, float]:
        """Return the figures of the first process in every process, so that all of them decide alike."""
        if self.world == 1:
            return values
        shared = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.broadcast(shared, src=0)
        return dict(zip(values, shared.tolist(), strict=True))

    @torch.no_grad()
    def weights_as_first(self, parameters: Iterable[Tensor]) -> None:
        """Copy the weights of the first process to all processes, in place."""
        if self.world > 1:
            for parameter in parameters:
                dist.broadcast(parameter, src=0)

    def leave(self) -> None:
        """Leave the group once all processes have arrived."""
        if self.world > 1 and dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()
