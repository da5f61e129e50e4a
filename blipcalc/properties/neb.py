"""Optimise one of ASE's elastic bands: first its shape, then its climbing image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.mep import NEB
from ase.optimize import BFGS
from ase.optimize.optimize import Optimizer

from blipcalc.core.periodic import shortest
from blipcalc.errors import NoBarrierError

#: eV/Å, largest force on the band before its highest image climbs
ROUGH = 0.3
#: Å; minima that are closer are the same
ONE_MINIMUM = 0.02


@dataclass(frozen=True)
class Band:
    """Settings of the optimisation of a band; see :func:`~blipcalc.properties.barrier.barrier`."""

    climb: bool
    method: str
    spring: float
    fmax: float
    steps: int
    optimizer: type[Optimizer]
    align: bool
    attach: Callable[[Optimizer], object] | None = None
    logfile: str | None = None

    def run(self, images: list[Atoms], relax_ends: bool) -> tuple[float, int]:
        """Optimise images with calculators; return the largest remaining force, eV/Å, and the number of steps.

        raises : NoBarrierError if both ends relax to the same minimum
        """
        ends = 0.0
        if relax_ends and self.steps:
            for end in (images[0], images[-1]):
                BFGS(end, logfile=self.logfile).run(fmax=self.fmax, steps=self.steps)
                ends = max(ends, np.linalg.norm(end.get_forces(), axis=1).max())
            self._check_ends(images[0], images[-1])
        shared = len({id(image.calc) for image in images}) < len(images)
        neb = NEB(
            images, k=self.spring, method=self.method, allow_shared_calculator=shared,
            remove_rotation_and_translation=self.align,
        )  # fmt: skip
        optimizer = self.optimizer(neb, logfile=self.logfile)  # type: ignore[arg-type]  # ASE's types leave bands out
        if self.attach is not None:
            self.attach(optimizer)
        stages = [(False, max(ROUGH, self.fmax)), (True, self.fmax)] if self.climb else [(False, self.fmax)]
        for neb.climb, fmax in stages if self.steps else ():
            optimizer.run(fmax=fmax, steps=max(0, self.steps - optimizer.nsteps))
        left = np.linalg.norm(neb.get_forces(), axis=1).max()
        return float(max(left, ends)), optimizer.nsteps

    def _check_ends(self, first: Atoms, last: Atoms) -> None:
        there = last.copy()
        if self.align:
            minimize_rotation_and_translation(first, there)
        away = np.linalg.norm(shortest(there.positions - first.positions, first.cell, first.pbc), axis=1)
        if away.max() < ONE_MINIMUM:
            raise NoBarrierError(
                f"expected two minima, but both ends relax to structures that differ by {away.max():.2g} Å: there is no barrier "
                "between them"
            )
