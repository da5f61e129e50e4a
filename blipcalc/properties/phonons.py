"""Compute phonons with error bars: force constants of the driving potential and of every draw, bands, free energies.

The atoms of one cell of a supercell are displaced, for all draws in one batch; the rest follows by translation.  Force constants
are exact if the predictor is differentiable, else central differences of forces.  The cell is the given one, and internal
coordinates of each draw are relaxed in it.  For frequencies at zero pressure, give each draw its own cell by ``structures``: a
shared cell strains the draws.

Frequencies of draws are matched to those of the driving potential point by point, by the overlap of their vectors
(:mod:`blipcalc.properties.normal_modes`).  Long-range electrostatics, and so the LO-TO splitting, is not included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.dft.kpoints import BandPath, monkhorst_pack
from ase.spectrum.band_structure import BandStructure
from ase.units import invcm

from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.properties.force_constants import Images, dynamical, nearest_images, with_sum_rules
from blipcalc.properties.harmonic_thermochemistry import Oscillators, oscillators
from blipcalc.properties.normal_modes import Modes, matched, modes_of
from blipcalc.relaxation.rigid_motions import complement, rigid_motions_of
from blipcalc.relaxation.stationary_points import at_rest, check_near_rest
from blipcalc.settings import number, numbers, several, whole
from blipcalc.stats.estimate import Estimate, with_error

#: cm⁻¹, below which a frequency is that of a translation, and left out of sums
STILL = 0.5
#: default Monkhorst-Pack points along a periodic direction: an even number leaves out Γ
POINTS = 8


@dataclass(frozen=True)
class Bands:
    """Phonon frequencies along a path of Q points.

    path : of ASE
    frequencies : (Q, 3n) cm⁻¹, rising for the driving potential; negative stands for imaginary
    overlaps : (K, Q, 3n) overlap of the mode of draw k with the matched degenerate group of the driving potential, 0 to 1
    """

    path: BandPath
    frequencies: Estimate
    overlaps: np.ndarray = field(repr=False)

    def to_ase(self) -> BandStructure:
        """Return the bands of the driving potential as ASE's object, in eV."""
        return BandStructure(self.path, energies=self.frequencies.value[None] * invcm)

    def table(self) -> str:
        """Return text with the frequencies in cm⁻¹ at each named point of the path."""
        axis, ticks, names = self.path.get_linear_kpoint_axis()
        rows, f = [], self.frequencies
        for name, tick in zip(names, ticks, strict=True):
            i = int(np.abs(axis - tick).argmin())
            pairs = zip(f.value[i], f.std[i], strict=True)
            rows.append(f"{name:>3}  " + "  ".join(f"{with_error(float(v), float(s)):>16}" for v, s in pairs))
        return "\n".join(rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return {
            "path": self.path.path,
            "points": self.path.kpts.tolist(),
            "frequencies_cm": self.frequencies.to_dict(),
            "overlaps": self.overlaps.tolist(),
        }


@dataclass(frozen=True)
class Phonons:
    """Force constants of a crystal of n atoms in its cell, with N cells in the supercell and K draws.

    atoms : one cell, relaxed on the driving potential
    supercell : numbers of cells
    constants : (N, 3n, 3n) eV/Å², rows: atoms of the first cell, cells in ASE's order; draws : (K, N, 3n, 3n)
    calibration_factor, calibrated : of the spread, see :class:`~blipcalc.stats.estimate.Estimate`
    degenerate_cm : frequencies that are closer count as degenerate
    """

    atoms: Atoms
    supercell: tuple[int, int, int]
    constants: np.ndarray = field(repr=False)
    draws: np.ndarray = field(repr=False)
    calibration_factor: float
    calibrated: bool
    degenerate_cm: float = 2.0

    @cached_property
    def _images(self) -> Images:
        return nearest_images(self.atoms, self.supercell)

    def modes(self, q: np.ndarray) -> tuple[Modes, Modes]:
        """Return modes at points (Q, 3) in reciprocal cell vectors: (Q, 3n) of the driving potential, (K, Q, 3n) of the draws."""
        points = np.atleast_2d(numbers("q", q, "points of three numbers"))
        if points.ndim != 2 or points.shape[1] != 3:
            raise ConfigurationError(f"expected points of three numbers, got the shape {points.shape}")
        masses = self.atoms.get_masses()
        waves = [dynamical(c, self._images, masses, points) for c in (self.constants, self.draws)]
        return modes_of(waves[0]), modes_of(waves[1])

    def at(self, q: np.ndarray) -> tuple[Estimate, np.ndarray]:
        """Return matched frequencies (Q, 3n) cm⁻¹ at points (Q, 3) in reciprocal cell vectors, and overlaps (K, Q, 3n)."""
        driving, own = self.modes(q)
        draws, overlaps = np.empty_like(own.frequencies), np.empty_like(own.frequencies)
        for k, i in np.ndindex(*draws.shape[:2]):
            here = Modes(own.frequencies[k, i], own.vectors[k, i])
            order, overlaps[k, i] = matched(Modes(driving.frequencies[i], driving.vectors[i]), here, self.degenerate_cm)
            draws[k, i] = here.frequencies[order]
        return self._estimate(driving.frequencies, draws), overlaps

    def bands(self, path: BandPath | str | None = None, *, n_points: int = 100) -> Bands:
        """Return bands along a path: one of ASE, a string such as ``"GXWKGL"``, or ASE's default for the lattice."""
        along = path
        if not isinstance(along, BandPath):
            along = self.atoms.cell.bandpath(along, npoints=whole("n_points", n_points, 2), pbc=self.atoms.pbc)
        return Bands(along, *self.at(along.kpts))

    def oscillators(self, mesh: Sequence[int] | None = None, *, floor_cm: float | None = None) -> Oscillators:
        """Return the thermochemistry per cell of all modes on a Monkhorst-Pack mesh, without translations.

        mesh : three numbers of points, by default 8 along periodic directions
        floor_cm : lower frequencies are raised to it, in cm⁻¹

        raises : ImaginaryModesError for a mode that is imaginary only on a draw; ConfigurationError for one that is imaginary on
            the driving potential
        """
        points = monkhorst_pack([POINTS if p else 1 for p in self.atoms.pbc] if mesh is None else list(mesh))
        driving, own = self.modes(points)
        frequencies = self._estimate(driving.frequencies.reshape(-1), own.frequencies.reshape(self.draws.shape[0], -1))
        if frequencies.value.min() < -STILL:
            raise ConfigurationError(
                f"expected a stable crystal, got {frequencies.value.min():.1f} cm⁻¹ on the driving surface; relax it further, or "
                "take a larger supercell"
            )
        return oscillators(frequencies[frequencies.value > STILL], floor_cm, 1 / len(points))

    def zero_point_energy(self, mesh: Sequence[int] | None = None, *, floor_cm: float | None = None) -> Estimate:
        """Return the zero-point energy per cell, eV."""
        return self.oscillators(mesh, floor_cm=floor_cm).zero_point_energy()

    def free_energy(
        self, temperature_K: float, mesh: Sequence[int] | None = None, *, floor_cm: float | None = None
    ) -> Estimate:
        """Return the Helmholtz free energy of the phonons per cell, eV, with zero-point energy, without potential energy."""
        return self.oscillators(mesh, floor_cm=floor_cm).free_energy(temperature_K)

    def density(
        self, frequencies_cm: np.ndarray, mesh: Sequence[int] | None = None, *, width_cm: float = 10.0
    ) -> Estimate:
        """Return the density of states (F,) per cm⁻¹ and cell, with integral 3n, as Gaussians of width ``width_cm``."""
        width, at = number("width_cm", width_cm, above=0), numbers("frequencies_cm", frequencies_cm, "frequencies")
        points = monkhorst_pack([POINTS if p else 1 for p in self.atoms.pbc] if mesh is None else list(mesh))

        def of(values: np.ndarray) -> np.ndarray:
            away = (at[:, None] - values.reshape(-1)) / width
            return np.exp(-0.5 * away**2).sum(axis=1) / (np.sqrt(2 * np.pi) * width * len(points))

        driving, own = self.modes(points)
        return self._estimate(of(driving.frequencies), [of(f) for f in own.frequencies], "cm")

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return {
            "supercell": list(self.supercell),
            "constants": self.constants.tolist(),
            "draws": self.draws.tolist(),
            "widening": self.calibration_factor,
            "calibrated": self.calibrated,
        }

    def _estimate(self, value: np.ndarray, draws: object, unit: str = "cm^-1") -> Estimate:
        return Estimate(value, np.asarray(draws), unit, self.calibration_factor, self.calibrated, "harmonic")


def phonons(
    atoms: Atoms,
    calculator: Calculator | None = None,
    *,
    supercell: Sequence[int] = (3, 3, 3),
    structures: Sequence[Atoms] | None = None,
    fmax: float = 1e-3,
    degenerate_cm: float = 2.0,
) -> Phonons:
    """Return the force constants of a relaxed crystal, with error bars.

    atoms : one cell, relaxed on the driving potential, without constraints
    calculator : None takes that of the atoms
    supercell : numbers of cells, 1 along directions that are not periodic; exact if longer than twice the range of the forces
    structures : K cells of the same atoms, one for each draw, with relaxed cells; None: the given cell, in which internal
        coordinates of each draw are relaxed here
    fmax : eV/Å, largest force component at a stationary point
    degenerate_cm : frequencies that are closer count as degenerate

    raises : ConfigurationError for a structure that is not periodic or has constraints, or an impossible supercell; DrawsError
        for another number of structures; NotStationaryError as :func:`~blipcalc.properties.vibrations.vibrations`

    Examples
    --------
    >>> found = phonons(atoms, BayesianCalculator("silica.blip"), supercell=(3, 3, 3))
    >>> found.bands("GXWKGL").frequencies.std, found.free_energy(300)
    """
    size, fmax = _size(atoms, supercell), number("fmax", fmax, above=0)
    degenerate_cm = number("degenerate_cm", degenerate_cm)
    surfaces = Surfaces(atoms.calc if calculator is None else calculator)
    start = atoms.copy()
    start.calc = None
    if structures is None:
        start, own = _at_rest(surfaces, start, fmax)
    else:
        own = several("structures", structures, "structures, one for each draw")
        alike = [isinstance(s, Atoms) and s.numbers.tolist() == start.numbers.tolist() for s in own]
        if len(own) != surfaces.n_draws or not all(alike):
            raise DrawsError(f"expected {surfaces.n_draws} structures of {start.symbols}, one for each draw")
    moved = np.eye(3 * len(start), 3 * len(start) * int(np.prod(size)))
    driving = surfaces.hessian(start * size).product(moved)
    draws = surfaces.hessians([one * size for one in own], moved)
    return Phonons(
        start, size, _constants(driving, size), _constants(draws, size), surfaces.calibration_factor(start, "forces"),
        surfaces.bayesian.calibration is not None, degenerate_cm,
    )  # fmt: skip


def _size(atoms: Atoms, supercell: Sequence[int]) -> tuple[int, int, int]:
    given = several("supercell", supercell, "three numbers of cells")
    size = tuple(whole("supercell", number_of, 1) for number_of in given)
    if len(size) != 3 or not atoms.pbc.any() or any(s > 1 and not p for s, p in zip(size, atoms.pbc, strict=True)):
        raise ConfigurationError(
            f"expected three numbers of cells, 1 where nothing repeats, got supercell={size} with pbc={atoms.pbc.tolist()}"
        )
    if atoms.constraints:
        raise ConfigurationError("waves move all atoms alike: expected no constraints; take them off")
    return size


def _at_rest(surfaces: Surfaces, start: Atoms, fmax: float) -> tuple[Atoms, list[Atoms]]:
    """Return the stationary points of the driving potential and of the draws, in the same cell."""
    free = np.ones(3 * len(start), dtype=bool)
    check_near_rest(surfaces, start, free)
    basis = complement(rigid_motions_of(start, free))
    return at_rest(surfaces, start, surfaces.hessian(start).matrix(), free, basis, fmax)


def _constants(rows: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Return force constants (…, N, 3n, 3n) from rows of a Hessian (…, 3n, 3nN)."""
    n = rows.shape[-2]
    return with_sum_rules(rows.reshape(*rows.shape[:-1], -1, n).swapaxes(-2, -3), size)
