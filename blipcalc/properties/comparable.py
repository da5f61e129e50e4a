"""Check that energies of draw k at different structures come from the same draw, so that they can be subtracted.

Draws of weights and weight noise give an energy that depends only on the environment of an atom, in every structure: two copies
of a cell have twice the energy of one, draw by draw.  Noise per row (``bayesianize(..., mode="local")``) belongs to the rows of
one structure; another structure, or another order of its pairs, has other noise, and nothing cancels in a difference.
"""

from __future__ import annotations

from itertools import pairwise

from ase import Atoms

from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.core.signature import probe_of, same
from blipcalc.errors import IncomparableError
from blipcalc.predictor import BayesianPredictor

#: last part of the name of the override with the seed of noise per row
ROW_NOISE = "noise_seed"


def surfaces_of(*structures: Atoms) -> Surfaces:
    """Return the driving potential and draws of several structures, whose calculators must be equal.

    Separate calculators are equal if draws and weights agree to the last bit, and members of committees and exact parts agree in
    their results on a probe structure (:mod:`blipcalc.core.signature`).

    raises : IncomparableError for calculators that differ, or draws of noise per row; ConfigurationError, DrawsError as for
        :class:`~blipcalc.calculators.draw_surfaces.Surfaces`
    """
    found = [Surfaces(atoms.calc) for atoms in structures]
    for i, (one, other) in enumerate(pairwise(found)):
        if not same(one.calculator, other.calculator, probe_of(structures[0])):
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
