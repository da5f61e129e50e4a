"""Table of the known elements."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SpeciesTable(nn.Module):
    """Map from atomic numbers to consecutive rows 0 … len(species) - 1."""

    rows: Tensor

    def __init__(self, species: Sequence[int]) -> None:
        super().__init__()
        rows = torch.full((119,), -1, dtype=torch.int64)
        rows[torch.as_tensor(list(species), dtype=torch.int64)] = torch.arange(len(species))
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, numbers: Tensor) -> Tensor:
        """Return the rows (N,) of atomic numbers (N,)."""
        return self.rows[numbers]
