"""The contract of predictors: what is asked of them, what they answer, and when their variances say nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from ase import Atoms

from blipcalc.core.contracts import Heads, Surface
from blipcalc.core.domain import Domain
from blipcalc.core.prediction import Calibration, Prediction
from blipcalc.errors import ConfigurationError, ZeroVarianceError

#: a copy that tells equal draws: Å, standard deviation of each displacement; isotropic strain of a cell that repeats
DISPLACEMENT, STRAIN = 0.02, 0.01
#: of its energy, by which a copy differs where something acts on its atoms
ACTS = 1e-9


@dataclass(frozen=True)
class Need:
    """What a prediction must hold; nothing else is computed.

    forces, stress : derivatives of the energy
    variance : the spread over the draws
    samples : the draws themselves
    """

    forces: bool = True
    stress: bool = False
    variance: bool = True
    samples: bool = False


@runtime_checkable
class Predictor(Protocol):
    """The one seam that the calculator knows.  A predictor derives from it and says what differs from these defaults.

    One that also has ``identity``, see :class:`~blipcalc.core.identity.Identified`, is known by it again; any other is asked for
    its numbers on a probe structure.

    n_draws : K
    seed : of the draws; None where they have none
    surface : which surface energy and forces are taken from
    species : atomic numbers that it knows; None where it cannot tell
    has_stress, has_energies : whether it gives a stress, and energies of single atoms
    heads : which variances every single draw has already
    calibration : the constants that it applies to variances, or None
    domain : where the data of its model were, or None
    device, dtype : that it computes with
    """

    n_draws: int
    seed: int | None = None
    surface: Surface = "mean"
    species: tuple[int, ...] | None = None
    has_stress: bool = False
    has_energies: bool = False
    heads: Heads = "none"
    calibration: Calibration | None = None
    domain: Domain | None = None
    device: object = "cpu"
    dtype: object = "float64"

    def __call__(self, structures: Sequence[Atoms], need: Need = ...) -> list[Prediction]:
        """Predictions in the order of the structures."""
        ...

    def latent_distances(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """(n,) of each structure: how far its atoms lie from the data, where there is a domain.

        raises : ConfigurationError without one
        """
        raise ConfigurationError(f"{type(self).__name__} does not say where the data of its model were")


def predictions(predictor: Predictor, structures: Sequence[Atoms], need: Need) -> list[Prediction]:
    """Predictions in the order of the structures, their variances refused where they say nothing.

    Where no draw differs in anything that was asked for, copies with displaced atoms and a strained cell tell equal draws from
    atoms without neighbours, and from minima that all draws share.

    raises : ZeroVarianceError, where variances are asked for and those of forces, or of the stress, are all exactly zero although
        they themselves are not, or that of the energy is zero although it changes with the structure; and as the predictor
    """
    found = predictor(structures, need)
    judged = list(found) if need.variance else []
    for one in judged:
        one.demand_spread()
    if judged and all(one.draws_agree for one in judged):
        copies = predictor([_copy(atoms) for atoms in structures], Need())
        for one, copy in zip(judged, copies, strict=True):
            copy.demand_spread()
            if copy.draws_agree and abs(copy.energy - one.energy) > ACTS * abs(one.energy):
                raise ZeroVarianceError(
                    f"the variance of the energy is exactly zero, although it changes by {copy.energy - one.energy:.3g} eV with "
                    f"the structure: all {one.n_draws} draws are the same; give members or weights that differ, or use one of "
                    "them without an error bar"
                )
    return found


def _copy(atoms: Atoms) -> Atoms:
    """A copy with displaced atoms and, where it repeats, a strained cell."""
    copy = atoms.copy()
    copy.set_constraint()
    if copy.pbc.any():
        copy.set_cell((1 + STRAIN) * copy.cell.array, scale_atoms=True)
    copy.positions += np.random.default_rng(0).normal(0.0, DISPLACEMENT, copy.positions.shape)
    return copy
