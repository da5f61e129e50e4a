"""Compute harmonic frequencies with error bars: normal modes of the driving potential and of every draw.

    ω_k = frequencies of H_k(x_k),   g_k(x_k) = 0

| symbol | variable | meaning |
|---|---|---|
| H_k, g_k | ``hessians`` | second and first derivatives of draw k |
| x_k | ``positions`` | stationary point of draw k |

The stationary point of a draw differs from that of the driving potential by δx_k = -H̄⁻¹ g_k(x̄) at first order, which changes
its frequencies by ∂³E δx_k, of the same order as the spread itself.  H_k can be evaluated at three places:

| ``at`` | where | error |
|---|---|---|
| ``"own"`` | x_k, found by a few quasi-Newton steps | rounding only |
| ``"own"``, ``positions=`` | x_k as relaxed elsewhere | that of the relaxation |
| ``"shared"`` | x̄ for all | neglects ∂³E δx_k: spread and bias are those of the curvature only, wrong for stiff bonds |

Translations, rotations and constrained coordinates are projected out at each structure.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from ase import Atoms
from ase.build import minimize_rotation_and_translation
from ase.calculators.calculator import Calculator

from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.errors import ConfigurationError, NotStationaryError
from blipcalc.properties.normal_modes import Modes, labels, matched, modes_of
from blipcalc.properties.spectrum import Vibrations
from blipcalc.relaxation.rigid_motions import check_rigid, complement, free_coordinates, rigid_motions_of, symmetric
from blipcalc.relaxation.stationary_points import at_rest, check_near_rest
from blipcalc.settings import choice, number, numbers, switch


def vibrations(
    atoms: Atoms,
    calculator: Calculator | None = None,
    *,
    at: Literal["own", "shared"] = "own",
    positions: np.ndarray | None = None,
    project: bool = True,
    fmax: float = 1e-3,
    degenerate_cm: float = 2.0,
) -> Vibrations:
    """Return harmonic frequencies of a relaxed structure, a minimum or a saddle, with error bars.

    atoms : relaxed on the driving potential; FixAtoms, FixCartesian and FixCom are respected
    calculator : None takes that of the atoms
    at : structure of the Hessians of the draws, see :mod:`blipcalc.properties.vibrations`
    positions : (K, n, 3) Å, stationary point of each draw, from a relaxation elsewhere; None: found here
    project : project out rigid motions; False for atoms in a potential that is fixed in space
    fmax : eV/Å, largest force component at a stationary point, of the draws and then also of the driving potential
    degenerate_cm : frequencies that are closer count as degenerate

    raises : NotStationaryError for a structure that is not relaxed, or a draw without a stationary point nearby;
        ConfigurationError for other constraints, contradictory settings, or a potential that depends on rigid motions;
        DrawsError for fewer than two draws

    Examples
    --------
    >>> BFGS(atoms).run(fmax=0.01)
    >>> found = vibrations(atoms)
    >>> found.frequencies[-1], found.zero_point_energy(), found.free_energy(300)
    """
    if choice("at", at, ("own", "shared")) == "shared" and positions is not None:
        raise ConfigurationError("positions= are where each draw rests; at='shared' takes all at one structure")
    degenerate_cm, fmax = number("degenerate_cm", degenerate_cm), number("fmax", fmax, above=0)
    surfaces, free = Surfaces(atoms.calc if calculator is None else calculator), free_coordinates(atoms)
    start, axes = atoms.copy(), np.eye(free.size)[free]
    start.calc = None
    check_near_rest(surfaces, start, free)
    hessian = symmetric(surfaces.hessian(start).product(axes)[:, free])
    motions = rigid_motions_of(start, free) if switch("project", project) else np.zeros((int(free.sum()), 0))
    check_rigid(hessian, motions)
    if at == "shared":
        structures = [start] * surfaces.n_draws
    elif positions is not None:
        structures = _placed(start, positions, surfaces.n_draws, turn=bool(motions.shape[1] > 4 and free.all()))
    else:
        start, structures = at_rest(surfaces, start, hessian, free, complement(motions), fmax)
        hessian = symmetric(surfaces.hessian(start).product(axes)[:, free])
    hessians = symmetric(surfaces.hessians(structures, axes)[:, :, free])
    driving = _modes(start, hessian, free, motions.shape[1])
    own = [_modes(one, h, free, motions.shape[1]) for one, h in zip(structures, hessians, strict=True)]
    orders, overlaps = zip(*(matched(driving, modes, degenerate_cm) for modes in own), strict=True)
    draws = np.stack([modes.frequencies[order] for modes, order in zip(own, orders, strict=True)])
    vectors = np.zeros((len(driving.frequencies), free.size))
    vectors[:, free] = driving.vectors.T
    return Vibrations(
        atoms=start,
        frequencies=surfaces.estimate(
            driving.frequencies, draws, "cm^-1", start, of="forces", note=f"harmonic, at={at}"
        ),
        modes=vectors.reshape(-1, len(start), 3),
        overlaps=np.array(overlaps),
        groups=labels(driving.frequencies, degenerate_cm),
        potential=surfaces.estimate(
            surfaces([start], forces=False)[0].driving.energy,
            surfaces.each(structures).energy,
            "eV",
            start,
            of="energy",
        ),
        positions=np.array([one.positions for one in structures]),
        hessian=hessian,
        hessians=hessians,
        free=free,
        at=at,
    )


def _modes(atoms: Atoms, hessian: np.ndarray, free: np.ndarray, n_rigid: int) -> Modes:
    """Return the modes of a potential at its structure; raises NotStationaryError for another number of rigid motions."""
    root = np.sqrt(np.repeat(atoms.get_masses(), 3)[free])
    motions = rigid_motions_of(atoms, free) if n_rigid else np.zeros((len(root), 0))
    if motions.shape[1] != n_rigid:
        raise NotStationaryError(
            f"expected {n_rigid} rigid motions as on the driving surface, got {motions.shape[1]} at the structure of a draw: "
            "one of the two is linear, the other bent; take at='shared'"
        )
    return modes_of(hessian / np.outer(root, root), complement(motions, root))


def _placed(atoms: Atoms, positions: np.ndarray, n_draws: int, *, turn: bool) -> list[Atoms]:
    """Return the structures of the draws, rotated onto the driving one if rotations are free, as overlaps require."""
    given = numbers("positions", positions, f"those of {n_draws} draws")
    if given.shape != (n_draws, len(atoms), 3):
        raise ConfigurationError(f"expected positions of the shape {(n_draws, len(atoms), 3)}, got {given.shape}")
    structures = []
    for row in given:
        one = atoms.copy()
        one.positions = row
        if turn:
            minimize_rotation_and_translation(atoms, one)
        structures.append(one)
    return structures
