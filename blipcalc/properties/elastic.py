"""Compute elastic constants with error bars, with ions relaxed or clamped, at the lattice of every draw or a shared one.

    C = (1/V) [H_εε - H_εu H_uu⁺ H_uε] + stress terms,   derived moduli draw by draw

| symbol | variable | meaning |
|---|---|---|
| H | ``matrix``, ``second`` | second derivatives in q = (u, e) of :mod:`blipcalc.core.curvature` |
| V | | volume |
| C | ``tensor`` | stress–strain coefficients ∂σ_i/∂e_j, Voigt order, engineering shears |

**Derivatives** of the driving potential are by automatic differentiation if available; those of the draws are central differences
of forces and stresses.

**Lattices.**  At a shared lattice draws are under pressure, and a pressure changes C by C′ δp, which is of the same order as the
difference between draws.  So every draw is relaxed to its per-draw minimum (:mod:`blipcalc.relaxation.start_of_draws`), where its
stress is zero and C is unique; the only error there is that of finite differences.  At a shared lattice C is the stress–strain
coefficient (Wallace 1967), symmetric under hydrostatic stress; its symmetric part is returned.

**Ions.**  For draws X = -H_uu⁺ L, L = H_uε, is found by conjugate gradients preconditioned with the driving potential's Hessian,
and enters in the stationary form H_εε + Xᵀ L + Lᵀ X + Xᵀ H_uu X, whose error is the square of that of X.

Source: Wu, Vanderbilt, Hamann, Phys. Rev. B 72, 035105 (2005), eq. 21; Wallace, Phys. Rev. 162, 776 (1967).
"""

from __future__ import annotations

import ase.units
import numpy as np
from ase import Atoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.core.demanded import demanded
from blipcalc.core.differenced import STEP
from blipcalc.errors import ConfigurationError, NotAMinimumError, NotConvergedError, StructureError
from blipcalc.properties.comparable import surfaces_of
from blipcalc.properties.elastic_moduli import ElasticConstants
from blipcalc.properties.relaxed_energies import relaxed_copy
from blipcalc.relaxation.conjugate_gradients import conjugate_gradients
from blipcalc.relaxation.coordinates import free_motion
from blipcalc.relaxation.linear_response import Inverse
from blipcalc.relaxation.start_of_draws import motions, own_minima, settled
from blipcalc.settings import switch
from blipcalc.stats.estimate import Estimate

#: strain of each side of a central difference
STRAIN = 5e-4
#: error of the relaxation of ions, as a fraction of the largest element of H_εε
MISSING = 1e-5
#: most iterations for the response of ions
STEPS = 30


def elastic_constants(
    atoms: Atoms, *, clamped: bool = False, shared_lattice: bool = False, fmax: float = 0.01, steps: int = 500
) -> ElasticConstants:
    """Return the elastic tensor of a crystal, with those of every draw.

    Parameters
    ----------
    atoms : a crystal, periodic in three directions, with its calculator; a copy is relaxed on the driving potential, with its
        cell unless ``shared_lattice``
    clamped : ions follow the strain, without further relaxation
    shared_lattice : evaluate all draws at the given cell, under pressure, instead of at their own; positions are their own in
        either case
    fmax, steps : of the relaxation, eV/Å; Newton steps follow it

    Raises
    ------
    StructureError : not a crystal; NotAMinimumError : a soft mode; NotConvergedError : relaxations, or draws too far apart
    ConfigurationError : arguments, constraints, or a calculator without stress; IncomparableError : noise per row

    Examples
    --------
    >>> elastic = elastic_constants(atoms)
    >>> str(elastic.tensor[0, 0]), str(elastic.bulk_modulus), elastic.stable
    """
    surfaces = surfaces_of(atoms)
    clamped, shared_lattice = switch("clamped", clamped), switch("shared_lattice", shared_lattice)
    _check(surfaces, atoms)
    start = relaxed_copy(surfaces, atoms, cell=not shared_lattice, fmax=fmax, steps=steps)
    free = motions(surfaces, start, strains=not shared_lattice)
    minimum = settled(surfaces, start, free)
    matrix = surfaces.hessian(minimum, strain=True).matrix()
    n = 3 * len(atoms)
    ions = None if clamped else Inverse(matrix[:n, :n], free_motion(minimum, np.zeros((1, n)), dense=True)).of_minimum()
    value = _driving_tensor(surfaces, minimum, matrix, ions)
    own = own_minima(surfaces, minimum, free, matrix)
    draws = _draw_tensors(surfaces, own, ions)

    def estimate(value: np.ndarray, draws: np.ndarray, unit: str) -> Estimate:
        return surfaces.estimate(value, draws, unit, atoms, of="forces")

    return ElasticConstants(
        estimate(value / ase.units.GPa, draws / ase.units.GPa, "GPa"),
        estimate(minimum.cell.array, np.stack([moved.cell.array for moved in own]), "Å"),
        clamped,
        shared_lattice,
    )


def _check(surfaces: Surfaces, atoms: Atoms) -> None:
    if not atoms.pbc.all():
        raise StructureError(f"expected a crystal, periodic in three directions; pbc is {atoms.pbc.tolist()}")
    if atoms.constraints:
        names = ", ".join(type(c).__name__ for c in atoms.constraints)
        raise ConfigurationError(f"a crystal under strain has no fixed atoms; remove the constraints ({names})")
    if "stress" not in surfaces.calculator.implemented_properties:
        raise ConfigurationError("elastic constants take a calculator with stress, this one gives none")


def _driving_tensor(surfaces: Surfaces, atoms: Atoms, matrix: np.ndarray, ions: Inverse | None) -> np.ndarray:
    """Return the tensor (6, 6) of the driving potential, eV/Å³."""
    n = 3 * len(atoms)
    second, coupling = matrix[n:, n:], matrix[n:, :n]
    if ions is not None:
        second = second - ions(coupling) @ coupling.T
    return stress_strain(second / atoms.get_volume(), surfaces.calculator.get_property("stress", atoms))


def _draw_tensors(surfaces: Surfaces, structures: list[Atoms], ions: Inverse | None) -> np.ndarray:
    """Return the tensors (K, 6, 6), eV/Å³, of draw k at structure k.

    ions : approximate inverse of H_uu, or None for clamped ions
    """
    n, count = 3 * len(structures[0]), len(structures)
    directions = np.zeros((count, n + 6, 6))
    directions[:, n:] = STRAIN * np.eye(6)
    columns = _products(surfaces, structures, directions) / STRAIN
    second = 0.5 * (columns[:, n:] + columns[:, n:].swapaxes(1, 2))
    if ions is not None:
        second += _relaxation(surfaces, structures, ions, columns[:, :n], MISSING * np.abs(second).max())
    values = surfaces.each(structures, stress=True)
    rows = zip(second, structures, demanded(values.stress, "a stress"), strict=True)
    return np.stack([stress_strain(matrix / atoms.get_volume(), stress) for matrix, atoms, stress in rows])


def _relaxation(
    surfaces: Surfaces, structures: list[Atoms], ions: Inverse, coupling: np.ndarray, tolerance: float
) -> np.ndarray:
    """Return the relaxation terms (K, 6, 6) -L_kᵀ H_uu,k⁺ L_k of couplings L (K, 3n, 6), to a tolerance, all in eV.

    Conjugate gradients for all draws and strains in one batch, preconditioned with the Hessian of the driving potential.
    """
    shape = (len(structures), 6, coupling.shape[1])

    def product(rows: np.ndarray, directions: np.ndarray) -> np.ndarray:
        vectors = np.zeros((shape[0] * 6, shape[2]))
        vectors[rows] = directions
        bent = _bent(surfaces, structures, vectors.reshape(shape).swapaxes(1, 2))
        return bent.swapaxes(1, 2).reshape(vectors.shape)[rows]

    right = -coupling.swapaxes(1, 2).reshape(-1, shape[2])
    found = conjugate_gradients(product, right, lambda square: np.full_like(square, tolerance), STEPS, ions)
    if (soft := np.unique(np.flatnonzero(found.softest <= 0) // 6)).size:
        raise NotAMinimumError(
            f"ions of draws {soft.tolist()} are in no minimum: a curvature is not positive; train more, or take clamped=True"
        )
    if not found.solved.all():
        raise NotConvergedError(
            f"expected the response of ions to strain within {STEPS} iterations, {found.left.max():.3g} eV are missing; the "
            "Hessians of the draws differ too much from that of the surface that drives: train more, or take clamped=True"
        )
    response, rest = (values.reshape(shape).swapaxes(1, 2) for values in (found.x, found.rest))
    gained = coupling.swapaxes(1, 2) @ response - response.swapaxes(1, 2) @ rest
    return 0.5 * (gained + gained.swapaxes(1, 2))


def _bent(surfaces: Surfaces, structures: list[Atoms], vectors: np.ndarray) -> np.ndarray:
    """Return the products (K, 3n, 6) of H_uu,k with vectors (K, 3n, 6)."""
    n = vectors.shape[1]
    length = max(np.abs(vectors).max(), 1e-12)
    directions = np.zeros((len(structures), n + 6, 6))
    directions[:, :n] = vectors * (STEP / length)
    return _products(surfaces, structures, directions)[:, :n] * (length / STEP)


def _products(surfaces: Surfaces, structures: list[Atoms], directions: np.ndarray) -> np.ndarray:
    """Return the products (K, 3n + 6, B) of H_k with small directions (K, 3n + 6, B), by central differences of gradients."""
    columns = []
    for b in range(directions.shape[2]):
        forward, backward = (surfaces.slopes_at(structures, sign * directions[:, :, b]) for sign in (1, -1))
        columns.append((forward - backward) / 2)
    return np.stack(columns, axis=2)


def stress_strain(second: np.ndarray, stress: np.ndarray) -> np.ndarray:
    """Return ∂σ_i/∂e_j (6, 6), symmetrised, from second derivatives of energy over volume (6, 6) and the stress (6,).

    ∂σ = H ε / V - tr(ε) σ + ½ (ε σ + σ ε)
    """
    full = voigt_6_to_full_3x3_stress(stress)
    columns = []
    for j in range(6):
        e = 0.5 * voigt_6_to_full_3x3_stress(np.eye(6)[j]) if j > 2 else voigt_6_to_full_3x3_stress(np.eye(6)[j])
        columns.append(-np.trace(e) * full + 0.5 * (e @ full + full @ e))
    terms = np.stack([full_3x3_to_voigt_6_stress(column) for column in columns], axis=1)
    found = second + terms
    return 0.5 * (found + found.T)
