"""Compute barriers with error bars: ASE's nudged elastic band on the driving potential, and all draws on its images.

The path is that of the driving potential; the barriers of all draws cost one more batch of evaluations
(:mod:`blipcalc.properties.path_profile`).  Two checks measure the error of a shared path: ``points``, with each draw at its own
minima and saddle, reached by quasi-Newton steps with the Hessians of the driving potential, and ``paths``, with a band for each
draw, started from the shared path.

Climbing images: Henkelman, Uberuaga and Jónsson 2000; tangents: Henkelman and Jónsson 2000; IDPP: Smidstrup and others 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.mep import NEB
from ase.optimize import FIRE
from ase.optimize.optimize import Optimizer

from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.core.validate import check_structure
from blipcalc.errors import ConfigurationError
from blipcalc.properties.barrier_per_draw import own_paths, own_points
from blipcalc.properties.neb import Band
from blipcalc.properties.path_profile import Barrier, lengths_and_tangents, spline, top_of
from blipcalc.relaxation.extrapolation import far_atoms
from blipcalc.relaxation.rigid_motions import free_coordinates
from blipcalc.settings import choice, number, several, switch, whole

#: methods of ASE's NEB
METHODS = ("improvedtangent", "aseneb", "eb", "spline", "string")


def barrier(
    images: Sequence[Atoms],
    calculator: Calculator | None = None,
    *,
    n_images: int = 5,
    climb: bool = True,
    fmax: float = 0.02,
    steps: int = 500,
    relax_ends: bool = True,
    reoptimize: Literal["points", "paths"] | bool = False,
    project: bool = True,
    method: str = "improvedtangent",
    spring: float = 0.1,
    interpolation: Literal["idpp", "linear"] = "idpp",
    optimizer: type[Optimizer] = FIRE,
    attach: Callable[[Optimizer], object] | None = None,
    logfile: str | None = None,
) -> Barrier:
    """Return the barrier between two minima with its error bar.

    images : two minima, between which a path is interpolated, or a path of three images or more; not modified
    calculator : of all images; None takes those of the images, or that of the first for all
    n_images : between the two minima
    climb : the highest image climbs to the saddle; else the maximum between images is used
    fmax, steps : eV/Å and number of steps at which the optimiser ends; 0 steps keep the given path.  With 0.05 eV/Å the error
        at a soft saddle is about a meV, as large as many error bars
    relax_ends : relax both ends first
    reoptimize : a check with each draw at its own ``points``, or on its own ``paths`` (as True)
    project : for ``points``, project out rigid motions; False for atoms in a potential that is fixed in space
    method, spring, optimizer : of ASE's NEB and its optimiser; interpolation : between two minima
    attach : function called with the optimiser before it runs, to attach observers
    logfile : of the optimisers, ``"-"`` for standard output

    Free molecules are kept aligned along the path.  The ``status`` shows whether the path converged.

    raises : NoBarrierError if an end is highest; ConfigurationError for images of different atoms or constraints, or impossible
        settings; NotStationaryError for ``points`` that are not found; DrawsError for fewer than two draws

    Examples
    --------
    >>> found = barrier([reactant, product], BayesianCalculator("rmd17"), reoptimize="points")
    >>> found.forward, found.reoptimized.forward, found.first_order_error
    """
    climb, relax_ends, project = switch("climb", climb), switch("relax_ends", relax_ends), switch("project", project)
    how = choice("reoptimize", reoptimize, ("points", "paths", True, False))
    choice("interpolation", interpolation, ("idpp", "linear"))
    choice("method", method, METHODS)
    fmax, spring = number("fmax", fmax, above=0), number("spring", spring, above=0)
    path, shared = _path(images, calculator, whole("n_images", n_images, 1), interpolation)
    surfaces = Surfaces(shared)
    align = len(path[0]) > 1 and not path[0].pbc.any() and not path[0].constraints
    band = Band(
        climb, method, spring, fmax, whole("steps", steps, 0), optimizer, align, attach, logfile
    )  # fmt: skip
    residual, n_steps = band.run(path, relax_ends)
    found = _measured(surfaces, path, residual, n_steps, climbing=climb and steps > 0, fmax=fmax)
    if how in ("paths", True):
        own = own_paths(surfaces, found, replace(band, attach=None), relax_ends)
    elif how == "points":
        own = own_points(surfaces, found, project)
    else:
        own = None
    return replace(found, reoptimized=own)


def _path(
    images: Sequence[Atoms], calculator: Calculator | None, n_images: int, interpolation: str
) -> tuple[list[Atoms], Calculator | None]:
    """Return copies of the images with calculators, interpolated if there are two, and the calculator that gives the draws."""
    given = several("images", images, "two minima, or a path")
    if not all(isinstance(image, Atoms) for image in given):
        raise ConfigurationError(f"expected images that are Atoms, got {[type(image).__name__ for image in given]}")
    for image in given:
        check_structure(image)
    if len(given) < 2:
        raise ConfigurationError(f"expected two minima or a path, got {len(given)} images")
    first = given[0]
    held = [np.flatnonzero(~free_coordinates(image)).tolist() for image in given]
    for number_of, image in enumerate(given):
        if image.numbers.tolist() != first.numbers.tolist() or held[number_of] != held[0]:
            raise ConfigurationError(
                f"expected the same atoms in the same order, held alike, got {image.symbols} with {len(held[number_of])} "
                f"coordinates held as image {number_of}, and {first.symbols} with {len(held[0])} as image 0"
            )
    fixed = np.array(held[0], dtype=int)
    if np.abs((given[-1].positions - first.positions).ravel()[fixed]).max(initial=0.0) > 1e-6:
        raise ConfigurationError(
            "atoms that are held lie elsewhere at the other end; start both ends from one structure"
        )
    shared = first.calc if calculator is None else calculator
    path = [image.copy() for image in given]
    if len(path) == 2:
        path = [path[0], *(path[0].copy() for _ in range(n_images)), path[1]]
        mic = bool(first.pbc.any())
        align = len(first) > 1 and not mic and not first.constraints
        neb = NEB(path, method="improvedtangent", remove_rotation_and_translation=align)
        neb.interpolate(method=interpolation, mic=mic, apply_constraint=False)
    own = [image.calc for image in given] if calculator is None and len(given) > 2 else [None] * len(path)
    for image, calc in zip(path, own, strict=True):
        image.calc = shared if calc is None else calc
    return path, shared


def _measured(
    surfaces: Surfaces, path: list[Atoms], residual: float, n_steps: int, *, climbing: bool, fmax: float
) -> Barrier:
    """Return the barrier from all draws on all images, evaluated as one batch."""
    bare = [image.copy() for image in path]
    lengths, tangents = lengths_and_tangents(bare)
    found = surfaces(bare)
    free = free_coordinates(bare[0]).reshape(-1, 3)
    driving = np.array([both.driving.energy for both in found])
    draws = np.array([both.draws.energy for both in found]).T
    driving_slopes = np.array([-(both.driving.forces * t).sum() for both, t in zip(found, tangents, strict=True)])
    own = np.array([-(both.draws.forces * t).sum(axis=(1, 2)) for both, t in zip(found, tangents, strict=True)]).T
    energies = surfaces.estimate(driving - driving[0], draws - draws[:, :1], "eV", bare[0], of="forces")
    slopes = surfaces.estimate(driving_slopes, own, "eV/Å", bare[0], of="forces")
    top = top_of(lengths, energies.value, slopes.value, climbing=climbing)

    def at_top(e: np.ndarray, g: np.ndarray) -> float:
        return float(spline(lengths, e, g)(top))

    forward = replace(
        energies,
        value=np.array(at_top(energies.value, slopes.value)),
        draws=np.array([at_top(e, g) for e, g in zip(energies.draws, slopes.draws, strict=True)]),
        note="all draws on the images of the driving surface",
    )
    reaction = replace(energies[-1], note=forward.note)
    std = [surfaces.calculator.get_property("atom_std", image)[free.any(axis=1)].max() for image in bare]
    status = "converged" if residual <= fmax else "not converged"
    return Barrier(
        tuple(bare), lengths, energies, slopes, top, forward, forward - reaction, reaction, np.array(std), status, residual,
        n_steps, notes=tuple(note for i, image in enumerate(path) for note in far_atoms(image, f"image {i}: ")),
    )  # fmt: skip
