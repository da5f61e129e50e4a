"""Moving degrees of freedom in molecular dynamics, and their temperature.

    f = 3N - c - s,        T = 2 K / (f k_B)

| symbol | meaning |
|---|---|
| c | constrained momenta: 3N less the rank of the projection that constraints apply to momenta |
| s | independent rigid motions whose momenta the run conserves |
| K | kinetic energy, less that of the conserved momenta |

A rigid motion is v_i = a + ω × (r_i - o): translations, rotations, and their combinations.  Its momentum Σ_i p_i · v_i is
conserved where three conditions hold:

1. the integrator adds no random momenta: NVE and global thermostats, not Langevin;
2. constraints do not change the momenta m_i v_i of the motion;
3. forces do no work on the motion, Σ_i F_i · v_i = 0.

Conditions 2 and 3 are measured at the structure and at displaced copies of it, before a run of the package; where another
program moves the atoms, rigid motions without momentum count as conserved.  Examples under a global thermostat: a
free molecule has f = 3N - 6, a crystal 3N - 3, atoms in an external field 3N, a molecule with one fixed atom 3N - 3 - 3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from ase.md.andersen import Andersen
from ase.md.langevin import Langevin
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.md import MolecularDynamics

from blipcalc.errors import ConfigurationError, StructureError

#: Å, standard deviation of each coordinate of a displaced copy
DISPLACEMENT = 0.02
#: largest number of displaced copies; each excludes at least one of six motions, or is the last
MOST_PROBES = 7
#: work on a motion, relative to that of forces of one sign, below which it counts as none; single precision gives 1e-6
NO_WORK = 1e-5
#: eV/Å; smaller forces, as of a relaxed structure, are rounding
SMALLEST_FORCE = 0.1
#: relative change of momenta by a constraint below which it counts as none; iterative constraints stop at 1e-13
UNCHANGED = 1e-7


@dataclass(frozen=True)
class DegreesOfFreedom:
    """Number of moving degrees of freedom, and the conserved rigid motions.

    number : f
    n_held : c
    motions : (k, 6) coefficients (a, ω) of the conserved rigid motions; ω in 1/Å
    origin : (3,) o, Å
    """

    number: int
    n_held: int
    motions: np.ndarray
    origin: np.ndarray

    def temperature_K(self, atoms: Atoms) -> float:  # K is the unit
        """Return the kinetic temperature, K; NaN without momenta or where nothing moves."""
        if self.number < 1 or not atoms.has("momenta"):
            return float("nan")
        return 2.0 * self.kinetic_energy(atoms) / (self.number * units.kB)

    def kinetic_energy(self, atoms: Atoms) -> float:
        """Return the kinetic energy of the moving degrees of freedom, eV."""
        if not len(self.motions):
            return float(atoms.get_kinetic_energy())
        momenta = self.moving(atoms, atoms.get_momenta())
        return float(0.5 * (momenta**2 / atoms.get_masses()[:, None]).sum())

    def moving(self, atoms: Atoms, momenta: np.ndarray) -> np.ndarray:
        """Return the momenta (N, 3) less those of the conserved motions."""
        if not len(self.motions):
            return momenta
        fields = rigid_motions(self.motions, atoms.positions, self.origin)
        return momenta - _projection(fields, atoms.get_masses(), momenta)


def degrees_of_freedom(atoms: Atoms, *, random_momenta: bool) -> DegreesOfFreedom:
    """Count the moving degrees of freedom of a structure with its calculator.

    random_momenta : whether the integrator adds random momenta, so that none is conserved and no force is evaluated
    """
    origin, rank = atoms.positions.mean(axis=0), _rank_of_constraints(atoms)
    motions = np.empty((0, 6)) if random_momenta else _conserved(atoms, origin)
    return _counted(atoms, rank, motions, origin)


def degrees_of_dynamics(dynamics: MolecularDynamics) -> DegreesOfFreedom:
    """Count the moving degrees of freedom of a current ASE run, without evaluating forces.

    Where the integrator adds no random momenta, rigid motions without momentum count as conserved.
    """
    atoms = dynamics.atoms
    random_momenta = isinstance(dynamics, (Langevin, Andersen)) or (
        isinstance(dynamics, LangevinBAOAB) and dynamics.temperature_K is not None
    )
    origin, rank = atoms.positions.mean(axis=0), _rank_of_constraints(atoms)
    motions = np.empty((0, 6)) if random_momenta else _at_rest(_allowed(atoms, origin), atoms, origin)
    return _counted(atoms, rank, motions, origin)


def thermalize(atoms: Atoms, temperature_K: float, degrees: DegreesOfFreedom, rng: np.random.Generator) -> None:
    """Draw momenta from the canonical distribution of the moving degrees of freedom.

    A projection orthogonal in the metric of the masses keeps a Maxwell-Boltzmann distribution, so nothing is scaled.
    """
    masses = atoms.get_masses()[:, None]
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * np.sqrt(masses * units.kB * temperature_K))
    remove_conserved(atoms, degrees)


def remove_conserved(atoms: Atoms, degrees: DegreesOfFreedom) -> None:
    """Set the momenta of the conserved motions to zero."""
    atoms.set_momenta(degrees.moving(atoms, atoms.get_momenta()))


def redraw(atoms: Atoms, rng: np.random.Generator) -> None:
    """Give momenta new random directions, with the same kinetic energy and the same momenta of all rigid motions."""
    origin = atoms.positions.mean(axis=0)
    rigid = DegreesOfFreedom(0, 0, _allowed(atoms, origin), origin)
    masses = atoms.get_masses()[:, None]
    old = atoms.get_momenta()
    kept = old - rigid.moving(atoms, old)
    new = _apply_constraints(atoms, rng.standard_normal(old.shape) * np.sqrt(masses))
    new = rigid.moving(atoms, new)
    wanted, thermal = (float(((p**2) / masses).sum()) for p in (old - kept, new))
    atoms.set_momenta(kept + new * np.sqrt(wanted / thermal) if thermal > 0 else old)


def depends_on_positions(atoms: Atoms) -> bool:
    """Return whether the constrained momenta change as atoms move, as for fixed bond lengths."""
    momenta = np.random.default_rng(0).standard_normal((len(atoms), 3))
    one, two = (_apply_constraints(moved, momenta) for moved in _displaced(atoms, 2))
    return bool(np.abs(two - one).max() > UNCHANGED)


def check_constraints(atoms: Atoms) -> None:
    """Raise an error for constraints that are no projection of momenta, orthogonal in the metric of the masses.

    raises : ConfigurationError, since MD of ASE samples with such constraints at a wrong temperature
    """
    if not atoms.constraints:
        return
    held, masses = _copy(atoms), atoms.get_masses()[:, None]
    one, two = np.random.default_rng(0).standard_normal((2, len(atoms), 3)) * np.sqrt(masses)
    first, second = (_apply_constraints(held, momenta) for momenta in (one, two))
    held.set_momenta(np.zeros_like(one))
    at_rest = np.abs(held.get_momenta()).max()
    twice = np.abs(_apply_constraints(held, first) - first).max()
    skew = abs((first * two / masses).sum() - (second * one / masses).sum())
    if max(at_rest, twice, skew) > UNCHANGED * len(atoms) * masses.max():
        names = ", ".join(type(constraint).__name__ for constraint in atoms.constraints)
        raise ConfigurationError(
            f"constraints {names}: MD of ASE has no right temperature with them, since they are no orthogonal projection of "
            f"momenta (they change momenta of atoms at rest by {at_rest:.1e}, twice: {twice:.1e}, asymmetry {skew:.1e}); "
            "expected constraints that share no atoms, and none that adds forces to momenta"
        )


def rigid_motions(motions: np.ndarray, positions: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return the velocities a + ω × (r - o) of motions (k, 6), (k, N, 3)."""
    return motions[:, None, :3] + np.cross(motions[:, None, 3:], positions - origin)


def _projection(fields: np.ndarray, masses: np.ndarray, momenta: np.ndarray) -> np.ndarray:
    """Return the part of momenta (N, 3) along velocity fields (k, N, 3), projected orthogonally in the metric of the masses."""
    overlap = np.einsum("kni,lni,n->kl", fields, fields, masses)
    weights = np.linalg.pinv(overlap, rcond=1e-8, hermitian=True) @ np.einsum("kni,ni->k", fields, momenta)
    return masses[:, None] * np.einsum("k,kni->ni", weights, fields)


def _apply_constraints(atoms: Atoms, momenta: np.ndarray) -> np.ndarray:
    """Return momenta (N, 3) after all constraints of a structure, less what the constraints add at rest; the structure stays."""
    found, at_rest = np.array(momenta), np.zeros_like(momenta)
    for constraint in atoms.constraints:
        constraint.adjust_momenta(atoms, found)
        constraint.adjust_momenta(atoms, at_rest)
    return found - at_rest


def _rank_of_constraints(atoms: Atoms) -> int:
    """Return 3N - c, the trace of the projection that constraints apply to momenta."""
    n = len(atoms)
    if not atoms.constraints:
        return 3 * n
    held = _copy(atoms)
    trace = 0.0
    for i in range(3 * n):
        momenta = np.zeros((n, 3))
        momenta.flat[i] = 1.0
        trace += _apply_constraints(held, momenta).flat[i]
    return round(trace)


def _allowed(atoms: Atoms, origin: np.ndarray) -> np.ndarray:
    """Return the rigid motions (k, 6) that constraints do not change; rotations in units of the size of the structure."""
    shift = atoms.positions - origin
    radius = np.sqrt((shift**2).sum() / len(atoms)) or 1.0
    motions = np.diag([1.0] * 3 + [1.0 / radius] * 3)
    if not atoms.constraints:
        return motions
    root, changed = np.sqrt(atoms.get_masses())[:, None], []
    for moved in _displaced(atoms, 6):  # several, since each gives one condition for a plane or a line
        momenta = root**2 * rigid_motions(motions, moved.positions, origin)
        changed.append([(_apply_constraints(moved, p) - p) / root for p in momenta])
    left, change, _ = np.linalg.svd(np.concatenate(changed, axis=1).reshape(6, -1), full_matrices=False)
    return left[:, change <= UNCHANGED * np.linalg.norm(momenta / root)].T @ motions


def _conserved(atoms: Atoms, origin: np.ndarray) -> np.ndarray:
    """Return the allowed rigid motions (k, 6) on which forces do no work."""
    motions = _allowed(atoms, origin)
    for moved in _displaced(atoms, MOST_PROBES):
        before, motions = len(motions), _without_work(motions, moved, origin)
        if len(motions) in (0, before):
            break
    # the structure itself comes last, so that its forces are known when the run begins
    return _without_work(motions, atoms, origin)


def _at_rest(motions: np.ndarray, atoms: Atoms, origin: np.ndarray) -> np.ndarray:
    """Return the rigid motions (k, 6) with zero momentum, to rounding."""
    fields, momenta = rigid_motions(motions, atoms.positions, origin), atoms.get_momenta()
    masses = atoms.get_masses()
    of_motion = np.abs(np.einsum("kni,ni->k", fields, momenta))
    # upper bound, reached when all momenta are along the motion
    most = np.sqrt(np.einsum("kni,kni,n->k", fields, fields, masses) * (momenta**2 / masses[:, None]).sum())
    return motions[of_motion <= 1e-6 * most]


def _counted(atoms: Atoms, rank: int, motions: np.ndarray, origin: np.ndarray) -> DegreesOfFreedom:
    """Count degrees of freedom without rigid motions that do not move atoms: a line has no rotation about itself."""
    n_independent = 0
    if len(motions):
        (moved,) = _displaced(atoms, 1)  # displaced, to break a symmetry of the structure
        fields = rigid_motions(motions, moved.positions, origin).reshape(len(motions), -1)
        n_independent = int(np.linalg.matrix_rank(fields, tol=1e-4 * np.sqrt(len(atoms))))
    return DegreesOfFreedom(rank - n_independent, 3 * len(atoms) - rank, motions, origin)


def _displaced(atoms: Atoms, n: int) -> Iterator[Atoms]:
    """Yield copies of a structure with its calculator, displaced as constraints allow."""
    rng = np.random.default_rng(0)
    for _ in range(n):
        moved = _copy(atoms)
        moved.set_positions(atoms.positions + rng.normal(0.0, DISPLACEMENT, (len(atoms), 3)))
        yield moved


def _copy(atoms: Atoms) -> Atoms:
    """Return a copy with the same calculator and copied constraints, since some constraints keep state."""
    copy = atoms.copy()
    copy.calc = atoms.calc
    return copy


def _without_work(motions: np.ndarray, atoms: Atoms, origin: np.ndarray) -> np.ndarray:
    """Return the motions (k, 6) on which the forces of a structure do no work; at most one less than before."""
    try:
        forces = atoms.get_forces(md=True)
    except StructureError:  # the run itself will raise it
        return motions[:0]
    if not np.isfinite(forces).all():
        return motions[:0]
    work = np.einsum("kni,ni->k", rigid_motions(motions, atoms.positions, origin), forces)
    size, n = np.linalg.norm(work), len(atoms)
    if size <= NO_WORK * np.sqrt(n) * max(np.linalg.norm(forces), SMALLEST_FORCE * np.sqrt(n)):
        return motions
    return np.linalg.svd(work[None, :] / size, full_matrices=True)[2][1:] @ motions
