"""The potential energy surfaces of the K draws and the driving potential of one calculator, for derived quantities.

All derived quantities are evaluated on these surfaces.  A barrier on draw k is a difference of two energies of draw k; a relaxed
bond of draw k lies in the minimum of draw k.  Exact parts of a :class:`~blipcalc.calculators.combined.CombinedCalculator` are
added to all surfaces alike.

Draws stay as the posterior gives them.  A calibration multiplies the spread of a derived quantity by the calibration factor
(:meth:`Surfaces.calibration_factor`): for quantities that forces determine (structures, curvatures, differences of energies) the
root of the force scale, averaged over atoms; for total energies the root of the energy scale.  Draws of a total energy contain an
offset common to all structures of one composition, which cancels in differences: the energy scale does not apply to those
(examples/reproduce/energy_differences.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from blipcalc.adapters.ase_results import ask
from blipcalc.calculators.bayesian import BayesianCalculator, bayesian_of
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.single_draw import SingleDraw
from blipcalc.core.deformation import deformation, displaced
from blipcalc.core.demanded import demanded
from blipcalc.core.differenced import Differenced
from blipcalc.core.prediction import Prediction, SampleArrays
from blipcalc.core.predictor_contract import Need, predictions
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.stats.estimate import ROUNDING, Estimate


class Values(NamedTuple):
    """Energy, forces and stress of a structure of n atoms, on one surface or on K.

    energy : () or (K,) eV; forces : (…, n, 3) eV/Å or None; stress : (…, 6) eV/Å³ in ASE's Voigt order, or None
    """

    energy: np.ndarray | np.float64
    forces: np.ndarray | None
    stress: np.ndarray | None

    def of(self, k: int) -> Values:
        """Return the values of structure k, or of draw k."""
        forces, stress = (None if values is None else values[k] for values in (self.forces, self.stress))
        return Values(np.asarray(self.energy)[k], forces, stress)


class Both(NamedTuple):
    """Values of the driving potential and of all draws."""

    driving: Values
    draws: Values


class Hessian(Protocol):
    """Second derivatives at one structure; coordinates as in :mod:`blipcalc.core.curvature`."""

    size: int

    def matrix(self) -> np.ndarray:
        """Return the Hessian, (size, size)."""
        ...

    def product(self, directions: np.ndarray) -> np.ndarray:
        """Return the Hessian times directions, (B, size) -> (B, size)."""
        ...


@runtime_checkable
class Pulling(Protocol):
    """An ASE constraint that adds an energy."""

    def adjust_potential_energy(self, atoms: Atoms) -> float:
        """Return the energy of the constraint, eV."""
        ...


@runtime_checkable
class Separate(Protocol):
    """A predictor that can evaluate every draw on a different structure."""

    def each(
        self, structures: Sequence[Atoms], *, stress: bool = False, which: Sequence[int] | None = None
    ) -> list[SampleArrays]:
        """Evaluate draw k on structure k."""
        ...


@runtime_checkable
class Differentiable(Protocol):
    """A predictor that gives second derivatives."""

    def curvature(self, atoms: Atoms, *, strain: bool = False) -> Hessian:
        """Return the second derivatives of the driving potential."""
        ...

    def curvatures(self, structures: Sequence[Atoms]) -> Sequence[Hessian]:
        """Return the second derivatives of draw k at structure k."""
        ...


class Surfaces:
    """The surfaces of all draws and the driving potential of a calculator.

    Parameters
    ----------
    calculator : a :class:`BayesianCalculator` of two draws or more, or a sum around one

    Raises
    ------
    ConfigurationError : another calculator; DrawsError : fewer than two draws, which have no spread
    """

    def __init__(self, calculator: Calculator | None) -> None:
        if not isinstance(calculator, (BayesianCalculator, CombinedCalculator)):
            raise ConfigurationError(
                f"expected a BayesianCalculator, or a CombinedCalculator around one, got {type(calculator).__name__}"
            )
        self.calculator = calculator
        self.bayesian: BayesianCalculator = calculator.bayesian
        parts = calculator.parts if isinstance(calculator, CombinedCalculator) else ()
        self.exact = tuple(part for part in parts if bayesian_of(part) is None)
        self.predictor = self.bayesian.predictor
        self.n_draws = self.predictor.n_draws
        if self.n_draws < 2:
            raise DrawsError(f"an error bar takes two draws or more, this calculator has {self.n_draws}")

    def __call__(self, structures: Sequence[Atoms], *, forces: bool = True, stress: bool = False) -> list[Both]:
        """Evaluate all surfaces at the structures, as one batch; constraints are ignored."""
        need = Need(forces=forces or stress, stress=stress, samples=True)
        found = []
        for atoms, prediction in zip(structures, predictions(self.predictor, list(structures), need), strict=True):
            extra = self._exact(atoms, forces=forces, stress=stress)
            driving = Values(np.float64(prediction.energy), prediction.forces, prediction.stress)
            samples = _samples(prediction)
            draws = Values(samples.energy, samples.forces, samples.stress)
            found.append(Both(_sum(driving, extra), _sum(draws, extra)))
        return found

    def each(self, structures: Sequence[Atoms], *, stress: bool = False, which: Sequence[int] | None = None) -> Values:
        """Evaluate draw k on structure k, for K structures of the same n atoms: (K,), (K, n, 3), (K, 6).

        which : the draws, one for each structure, None for all in their order
        """
        which = range(self.n_draws) if which is None else which
        if isinstance(self.predictor, Separate):
            rows = self.predictor.each(structures, stress=stress, which=which)
            own = [_of_draw(row, 0, stress=stress) for row in rows]
        else:  # evaluate all draws on all structures and keep the diagonal
            need = Need(stress=stress, samples=True)
            own = [
                _of_draw(_samples(p), k, stress=stress)
                for k, p in zip(which, self.predictor(list(structures), need), strict=True)
            ]
        own = [
            _sum(values, self._exact(atoms, forces=True, stress=stress))
            for values, atoms in zip(own, structures, strict=True)
        ]
        return Values(
            np.array([one.energy for one in own]),
            np.stack([demanded(one.forces, "forces") for one in own]),
            np.stack([demanded(one.stress, "a stress") for one in own]) if stress else None,
        )

    def forces_of_each(self, structures: Sequence[Atoms]) -> np.ndarray:
        """Return forces of draw k on structure k, (K, n, 3) eV/Å."""
        return demanded(self.each(structures).forces, "forces")

    def single(self, k: int) -> Calculator:
        """Return a calculator of draw k for MD and optimisers, with the variances of all draws; exact parts are added.

        raises : DrawsError where there is no draw k
        """
        one = SingleDraw(self.bayesian, k)
        return CombinedCalculator(one, *self.exact) if self.exact else one

    def driving_forces(self, structures: Sequence[Atoms]) -> np.ndarray:
        """Return forces of the driving potential alone, (S, n, 3) eV/Å; constraints are ignored."""
        return np.stack([self.calculator.get_property("forces", atoms) for atoms in structures])

    def energies(self, structures: Sequence[Atoms]) -> Estimate:
        """Return energies of structures with their error bars, (S,) eV."""
        found = self(structures, forces=False)
        return self.estimate(
            [both.driving.energy for both in found],
            np.stack([both.draws.energy for both in found], axis=1),
            "eV",
            structures[0],
            of="energy",
        )

    def estimate(
        self, value: object, draws: object, unit: str, atoms: Atoms, *, of: Literal["energy", "forces"], note: str = ""
    ) -> Estimate:
        """Return an estimate, with the calibration factor applied to its error bars.

        of : ``energy`` for total energies; ``forces`` for differences of energies and all else that forces determine

        raises : ZeroVarianceError where all draws are the same; any other error bar of zero may be right
        """
        found = Estimate(
            np.asarray(value, dtype=np.float64),
            np.asarray(draws, dtype=np.float64),
            unit,
            self.calibration_factor(atoms, of),
            self.bayesian.calibration is not None,
            note,
            self.bayesian.source(atoms),
            self.calibration_factor(atoms, "forces") if of == "energy" else None,
        )
        if not (found.std > ROUNDING * np.abs(found.value)).any():
            predictions(self.predictor, [atoms], Need(forces=False))
        return found

    def calibration_factor(self, atoms: Atoms, of: Literal["energy", "forces"]) -> float:
        """Return the calibration factor c: 1 without a calibration, NaN with an element that was never calibrated."""
        calibration = self.bayesian.calibration
        return 1.0 if calibration is None else calibration.calibration_factor(atoms.numbers, of)

    def hessian(self, atoms: Atoms, *, strain: bool = False) -> Hessian:
        """Return the Hessian of the driving potential.

        It comes from automatic differentiation, or from central differences of forces where the predictor or an exact part cannot
        be differentiated.
        """
        if isinstance(self.predictor, Differentiable) and not self.exact:
            return self.predictor.curvature(atoms, strain=strain)
        return Differenced(partial(self.slope_at, atoms.copy()), 3 * len(atoms) + (6 if strain else 0))

    def hessians(self, structures: Sequence[Atoms], directions: np.ndarray | None = None) -> np.ndarray:
        """Return the Hessian of draw k at structure k times directions (B, 3n), (K, B, 3n) eV/Å²; by default whole and symmetric.

        Computed by automatic differentiation or central differences, as in :meth:`hessian`.

        raises : DrawsError for another number of structures than K
        """
        if len(structures) != self.n_draws:
            raise DrawsError(f"expected one structure for each of {self.n_draws} draws, got {len(structures)}")
        size = 3 * len(structures[0])
        along = np.eye(size) if directions is None else np.asarray(directions, dtype=np.float64)
        if isinstance(self.predictor, Differentiable) and not self.exact:
            found = np.stack([one.product(along) for one in self.predictor.curvatures(structures)])
        else:
            found = Differenced(partial(self.slopes_at, structures), size).product(along).swapaxes(0, 1)
        return 0.5 * (found + found.swapaxes(1, 2)) if directions is None else found

    def slope_at(self, atoms: Atoms, q: np.ndarray) -> np.ndarray:
        """Return ∂E/∂q of the driving potential at displacement q from a structure, (3n,) or (3n + 6,), without constraints."""
        moved = displaced(atoms, q)
        forces = self.calculator.get_property("forces", moved)
        stress = self.calculator.get_property("stress", moved) if len(q) > 3 * len(atoms) else None
        return gradient_at(Values(np.float64(0.0), forces, stress), moved, q)

    def slopes_at(self, structures: Sequence[Atoms], q: np.ndarray) -> np.ndarray:
        """Return ∂E_k/∂q of draw k at displacement q from structure k, (K, 3n) or (K, 3n + 6); q one for all, or (K, …)."""
        rows = np.broadcast_to(q, (len(structures), q.shape[-1]))
        moved = [displaced(atoms, row) for atoms, row in zip(structures, rows, strict=True)]
        found = self.each(moved, stress=q.shape[-1] > 3 * len(moved[0]))
        forces, stress = demanded(found.forces, "forces"), [None] * len(moved) if found.stress is None else found.stress
        own = [Values(np.float64(0.0), *derivatives) for derivatives in zip(forces, stress, strict=True)]
        return np.array([gradient_at(*at) for at in zip(own, moved, rows, strict=True)])

    def _exact(self, atoms: Atoms, *, forces: bool, stress: bool) -> Values:
        if not self.exact:
            return Values(np.float64(0.0), None, None)

        def total(key: str) -> Any:
            return sum(ask(part, key, atoms, name="an exact part") for part in self.exact)

        with self.calculator.lock:
            # derivatives first, see ORDER in adapters/ase_results.py
            of_stress, of_forces = total("stress") if stress else None, total("forces") if forces else None
            return Values(np.float64(total("energy")), of_forces, of_stress)


def gradient(values: Values, atoms: Atoms, *, strain: bool = False, pressure: float = 0.0) -> np.ndarray:
    """Return the gradient, (…, 3n) or (…, 3n + 6): ∂E/∂u = -F and ∂(E + pV)/∂e = V (σ + p), in Voigt order."""
    forces = demanded(values.forces, "forces")
    du = -forces.reshape(*forces.shape[:-2], -1)
    if not strain:
        return du
    de = atoms.get_volume() * (demanded(values.stress, "a stress") + pressure * np.array([1, 1, 1, 0, 0, 0]))
    return np.concatenate([du, de], axis=-1)


def gradient_at(values: Values, moved: Atoms, q: np.ndarray) -> np.ndarray:
    """Return ∂E/∂q at q of one surface, (3n,) or (3n + 6,); ``moved`` is the structure that ``displaced`` makes of q.

    With D = 1 + ε:  ∂E/∂u = -F Dᵀ,  ∂E/∂D = V D⁻ᵀ σ.
    """
    d = deformation(q[3 * len(moved) :])
    du = -(demanded(values.forces, "forces") @ d.T).ravel()
    if len(q) == len(du):
        return du
    by_strain = moved.get_volume() * np.linalg.solve(
        d.T, voigt_6_to_full_3x3_stress(demanded(values.stress, "a stress"))
    )
    return np.concatenate([du, full_3x3_to_voigt_6_stress(by_strain)])


def constraint_energy(atoms: Atoms) -> float:
    """Return the energy that constraints such as ``Hookean`` add to every surface, eV.

    Constraints add their forces where ASE adjusts forces.
    """
    return float(sum(c.adjust_potential_energy(atoms) for c in atoms.constraints if isinstance(c, Pulling)))


def _sum(values: Values, extra: Values) -> Values:
    """Add two surfaces."""

    def added(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
        return one if one is None or other is None else one + other

    return Values(values.energy + extra.energy, added(values.forces, extra.forces), added(values.stress, extra.stress))


def _samples(prediction: Prediction) -> SampleArrays:
    return demanded(prediction.samples, "the samples of the draws")


def _of_draw(samples: SampleArrays, k: int, *, stress: bool) -> Values:
    return Values(
        samples.energy[k],
        demanded(samples.forces, "forces")[k],
        demanded(samples.stress, "a stress")[k] if stress else None,
    )
