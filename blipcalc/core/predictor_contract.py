"""Contract of predictors: requested properties, predictions, and the check of variances that are zero for all draws."""

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

#: of the copy that reveals equal draws: standard deviation of each displacement, Å; isotropic strain of a periodic cell
DISPLACEMENT, STRAIN = 0.02, 0.01
#: relative change of energy above which something acts on the atoms of the copy
ACTS = 1e-9


@dataclass(frozen=True)
class Need:
    """Requested properties of a prediction; nothing else is computed.

    forces, stress : derivatives of the energy
    variance : the spread over the draws
    samples : the values of every draw
    """

    forces: bool = True
    stress: bool = False
    variance: bool = True
    samples: bool = False


@runtime_checkable
class Predictor(Protocol):
    """Base class of predictors, which calculators evaluate; a subclass overrides the defaults that differ.

    A predictor with ``identity`` (see :class:`~blipcalc.core.identity.Identified`) is recognised by it; any other is recognised
    by its numbers on a probe structure.

    n_draws : K
    seed : of the draws; None for draws without a seed
    surface : the driving potential, which gives energy and forces: ``mean`` or ``centre``
    species : known atomic numbers; None where these are not declared
    has_stress, has_energies : whether it gives a stress, and energies of single atoms
    heads : variances that every single draw has
    calibration : applied to variances, or None
    domain : of the model's training data, or None
    device, dtype : of the computation
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
        """Return predictions in the order of the structures."""
        ...

    def latent_distances(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return (n,) of each structure: distance of its atoms from the training data.

        raises : ConfigurationError without a domain
        """
        raise ConfigurationError(f"{type(self).__name__} does not say where the data of its model were")


def predictions(predictor: Predictor, structures: Sequence[Atoms], need: Need) -> list[Prediction]:
    """Return predictions in the order of the structures, and refuse variances that are zero because all draws are equal.

    Where the draws agree in every requested property, copies with displaced atoms and a strained cell distinguish equal draws
    from atoms without neighbours and from minima that all draws share.

    raises : ZeroVarianceError, where variances are requested and those of forces, or of the stress, are all exactly zero although
        the values are not, or that of the energy is zero although the energy changes with the structure; errors of the predictor
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
    """Return a copy with displaced atoms and, where it is periodic, a strained cell."""
    copy = atoms.copy()
    copy.set_constraint()
    if copy.pbc.any():
        copy.set_cell((1 + STRAIN) * copy.cell.array, scale_atoms=True)
    copy.positions += np.random.default_rng(0).normal(0.0, DISPLACEMENT, copy.positions.shape)
    return copy
