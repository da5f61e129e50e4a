"""Compute the barrier of each draw at its own stationary points or on its own path, to check shared images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ase import Atoms

from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.errors import NoBarrierError, NotStationaryError
from blipcalc.properties.neb import Band
from blipcalc.properties.path_profile import Barrier, OwnBarriers, lengths_and_tangents, spline, top_of
from blipcalc.relaxation.rigid_motions import check_rigid, complement, free_coordinates, rigid_motions_of, symmetric
from blipcalc.relaxation.stationary_points import settled

#: eV/Å, largest force component at a stationary point
REST = 1e-3


def own_points(surfaces: Surfaces, found: Barrier, project: bool) -> OwnBarriers:
    """Return barriers of every draw and of the driving potential, each from per-draw minima and saddle.

    raises : NotStationaryError if one of them is not reached, or is not a minimum or a saddle
    """
    highest = int(found.energies.value.argmax())
    first, top, last = (
        _at_rest(surfaces, found.images[i], below, project) for i, below in ((0, 0), (highest, 1), (-1, 0))
    )
    values = np.array([top[0] - first[0], last[0] - first[0]])
    draws = np.array([top[1] - first[1], last[1] - first[1]]).T
    return _barriers(found, values, draws, ("converged",) * surfaces.n_draws, "points")


def _at_rest(surfaces: Surfaces, image: Atoms, below: int, project: bool) -> tuple[float, np.ndarray]:
    """Return energies of the driving potential and (K,) of the draws, each at its own stationary point.

    below : number of negative curvatures: 0 for a minimum, 1 for a saddle
    """
    free = free_coordinates(image)
    axes = np.eye(free.size)[free]

    def hessian(atoms: Atoms) -> np.ndarray:
        return symmetric(surfaces.hessian(atoms).product(axes)[:, free])

    near = hessian(image)
    motions = rigid_motions_of(image, free) if project else np.zeros((len(near), 0))
    check_rigid(near, motions)
    basis = complement(motions)
    (rest,) = settled(surfaces.driving_forces, [image], near, free, basis, fmax=REST)
    there = hessian(rest)
    down = int((np.linalg.eigvalsh(basis.T @ there @ basis) < 0).sum())
    if down != below:
        raise NotStationaryError(
            f"expected a {'saddle' if below else 'minimum'} of the driving surface with {below} ways down, got one with {down}; "
            "take more images or a smaller fmax, or reoptimize='paths'"
        )
    own = settled(surfaces.forces_of_each, [rest] * surfaces.n_draws, there, free, basis, fmax=REST)
    return float(surfaces([rest], forces=False)[0].driving.energy), np.asarray(surfaces.each(own).energy)


def own_paths(surfaces: Surfaces, found: Barrier, band: Band, relax_ends: bool) -> OwnBarriers:
    """Return barriers with a band for every draw, started from the shared images."""
    values = np.array([found.forward.value, found.reaction.value])
    rows, status = zip(*(_of_draw(surfaces, k, found, band, relax_ends) for k in range(surfaces.n_draws)), strict=True)
    return _barriers(found, values, np.array(rows), status, "paths")


def _of_draw(surfaces: Surfaces, k: int, found: Barrier, band: Band, relax_ends: bool) -> tuple[Sequence[float], str]:
    calculator = surfaces.single(k)
    path = [image.copy() for image in found.images]
    for image in path:
        image.calc = calculator
    try:
        residual, _ = band.run(path, relax_ends)
    except NoBarrierError:
        return (np.nan, np.nan), "no barrier"
    bare = [image.copy() for image in path]
    lengths, tangents = lengths_and_tangents(bare)
    energies = np.array([calculator.get_property("energy", image) for image in bare])
    forces = [calculator.get_property("forces", image) for image in bare]
    slopes = np.array([-(f * t).sum() for f, t in zip(forces, tangents, strict=True)])
    energies -= energies[0]
    try:
        top = top_of(lengths, energies, slopes, climbing=band.climb and band.steps > 0)
    except NoBarrierError:
        return (np.nan, energies[-1]), "no barrier"
    forward = float(spline(lengths, energies, slopes)(top))
    return (forward, energies[-1]), "converged" if residual <= band.fmax else "not converged"


def _barriers(found: Barrier, values: np.ndarray, draws: np.ndarray, status: Sequence[str], how: str) -> OwnBarriers:
    """Return the barriers from forward barriers and reaction energies of the driving potential (2,) and of the draws (K, 2)."""
    both = replace(found.forward, value=values, draws=draws, note="each draw on its own")
    return OwnBarriers(both[0], both[0] - both[1], both[1], tuple(status), how)
