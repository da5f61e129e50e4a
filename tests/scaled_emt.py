"""EMT times a factor: members of committees whose spread is known."""

from __future__ import annotations

from typing import Any

from ase.calculators.emt import EMT


class ScaledEMT(EMT):
    """EMT with all results times a factor.

    evaluations : how many there were
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.evaluations = factor, 0

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        """See ASE."""
        self.evaluations += 1
        super().calculate(*args, **kwargs)
        self.results = {key: value * self.factor for key, value in self.results.items()}
