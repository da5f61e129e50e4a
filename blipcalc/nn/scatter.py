"""Gathering of atom rows at pairs, and sums of rows over the pairs of an atom or the atoms of a structure."""

from __future__ import annotations

from torch import Tensor


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Return rows of x at an index: y_r = x_{index_r}.

    The gradient of ``x[index]`` in float32 is summed in a varying order with several threads (torch 2.13, CPU: atomic
    additions); this one repeats bit for bit, at the same cost.

    x (n, …), index (R,) in 0 … n - 1 -> (R, …)
    """
    return x.index_select(0, index)


def segment_sum(x: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum rows of x by their index: y_a = Σ_{r: index_r = a} x_r.

    The accumulator is made *from x*, so that under ``vmap`` it has the axis of the draws whenever x has.  An accumulator
    without that axis (``torch.zeros(n, …)``) is expanded by ``vmap`` with stride zero, and ``torch.compile`` (measured with
    torch 2.13 on CPU) then silently adds all draws into one buffer.

    x (R, …), index (R,) in 0 … n - 1 -> (n, …)
    """
    return x.new_zeros(n, *x.shape[1:]).index_add(0, index, x)
