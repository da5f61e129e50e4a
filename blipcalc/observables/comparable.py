"""When energies of draw k at two structures may be subtracted: both must come from the same draw.

Draws of weights, and of noise on weights, are functions of the surroundings of an atom, the same in every structure: two copies
of a cell have twice the energy of one, draw by draw.  Noise per row (``bayesianize(..., mode="local")``) belongs to the rows of
one structure; another structure, or another order of its pairs, has other noise, and nothing cancels in a difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from ase import Atoms
from torch import Tensor

from blipcalc.adapters.committee import CommitteePredictor
from blipcalc.core.contracts import Predictor
from blipcalc.errors import IncomparableError
from blipcalc.predictor import BayesianPredictor
from blipcalc.surfaces import Surfaces

#: end of the name of the slot with the seed of noise per row
ROW_NOISE = "noise_seed"


def surfaces_of(*structures: Atoms) -> Surfaces:
    """The surfaces behind the calculators of some structures, which must be the same.

    Calculators made apart are the same where their draws and weights are equal to the last bit; members of committees, and exact
    parts of a :class:`~blipcalc.combined.CombinedCalculator`, where they are the same objects.

    raises : IncomparableError for calculators that differ, or draws of noise per row; ConfigurationError, DrawsError as for
        :class:`~blipcalc.surfaces.Surfaces`
    """
    found = [Surfaces(atoms.calc) for atoms in structures]
    for i, (one, other) in enumerate(pairwise(found)):
        if not _same(one, other):
            raise IncomparableError(
                f"structures {i} and {i + 1} have calculators with other draws, weights, calibrations or exact parts; "
                "attach one calculator to all of them"
            )
    predictor = found[0].predictor
    if isinstance(predictor, BayesianPredictor) and any(
        name.rpartition(".")[2] == ROW_NOISE for name in predictor.draws.overrides
    ):
        raise IncomparableError(
            "this model was made with mode='local': its noise belongs to the rows of one structure, and does not cancel "
            "between two; derived quantities take a model with mode='frozen'"
        )
    return found[0]


def _same(one: Surfaces, other: Surfaces) -> bool:
    if len(one.exact) != len(other.exact) or any(a is not b for a, b in zip(one.exact, other.exact, strict=True)):
        return False
    return one.calculator is other.calculator or _same_draws(one.predictor, other.predictor)


def _same_draws(one: Predictor, other: Predictor) -> bool:
    if one is other:
        return True
    if isinstance(one, CommitteePredictor) and isinstance(other, CommitteePredictor):
        members = one.calculators, other.calculators
        equal = len(members[0]) == len(members[1]) and all(a is b for a, b in zip(*members, strict=True))
        return equal and one.calibration == other.calibration
    if not (isinstance(one, BayesianPredictor) and isinstance(other, BayesianPredictor)):
        return False
    return (
        (one.n_draws, one.surface, one.dtype, one.calibration)
        == (other.n_draws, other.surface, other.dtype, other.calibration)
        and _equal(one.draws.overrides, other.draws.overrides)
        and _equal(one.model.state_dict(), other.model.state_dict())
    )


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name].cpu(), other[name].cpu()) for name in one)
