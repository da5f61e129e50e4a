"""Compute differences of energies with error bars: reaction, adsorption and vacancy energies.

    ΔE = Σ_s c_s E(s),   ΔE_k = Σ_s c_s E_k(s)

| symbol | variable |
|---|---|
| c_s, s | the pairs in ``terms`` |
| k | a draw |

All energies of draw k come from the same potential, so that errors shared by the structures cancel draw by draw.  Error bars of
total energies added in quadrature would instead grow with the number of spectator atoms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from blipcalc.core.validate import check_structure
from blipcalc.errors import ConfigurationError, IncomparableError, StructureError
from blipcalc.properties.comparable import surfaces_of
from blipcalc.properties.property_tables import table_of
from blipcalc.properties.relaxed_energies import relaxed_copy, relaxed_energies
from blipcalc.settings import number, several, switch, whole
from blipcalc.stats.estimate import Estimate

#: tolerance of the balance of each element, for rounded coefficients
UNBALANCED = 1e-6


@dataclass(frozen=True)
class EnergyDifference:
    """Sum of energies with coefficients.

    energy : the sum, eV
    energies : (S,) eV of its terms; their error bars are correlated
    coefficients : (S,)
    structures : as evaluated, relaxed if requested, without calculators
    name : of the difference
    """

    energy: Estimate
    energies: Estimate
    coefficients: tuple[float, ...]
    structures: tuple[Atoms, ...]
    name: str = "energy difference"

    def table(self) -> str:
        """Return the difference and its terms as text."""
        rows = {self.name: self.energy}
        for s, (factor, atoms) in enumerate(zip(self.coefficients, self.structures, strict=True)):
            rows[f"{factor:+.6g} × E({atoms.get_chemical_formula()})"] = self.energies[s]
        return table_of(f"{self.name}: terms are subtracted draw by draw", rows)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return {
            "name": self.name,
            "energy": self.energy.to_dict(),
            "energies": self.energies.to_dict(),
            "coefficients": list(self.coefficients),
            "formulas": [atoms.get_chemical_formula() for atoms in self.structures],
        }


def energy_difference(
    terms: Sequence[tuple[float, Atoms]],
    *,
    relax: bool = False,
    second_order: bool = False,
    balanced: bool = True,
    fmax: float = 0.01,
    steps: int = 500,
    name: str = "energy difference",
) -> EnergyDifference:
    """Return a sum of energies with coefficients, with its error bar.

    Parameters
    ----------
    terms : (coefficient, structure), with the same calculator
    relax : relax every structure on the driving potential, with its constraints; exact at first order for the draws
    second_order : with ``relax``, add the energy that a draw gains in its per-draw minimum
        (:mod:`blipcalc.properties.relaxed_energies`)
    balanced : refuse a sum in which elements do not cancel, whose value depends on reference energies
    fmax, steps : of the relaxations, eV/Å

    Raises
    ------
    IncomparableError : calculators that differ, noise per row, or a sum that is not balanced
    NotConvergedError, NotAMinimumError : from relaxations; ConfigurationError : other arguments

    Examples
    --------
    >>> reaction = energy_difference([(1, products), (-1, reactants)], relax=True)
    >>> str(reaction.energy), reaction.energy.interval()
    """
    coefficients, structures = _terms(terms)
    surfaces = surfaces_of(*structures)
    if switch("balanced", balanced):
        _check_balance(coefficients, structures)
    relax, second_order = switch("relax", relax), switch("second_order", second_order)
    if second_order and not relax:
        raise ConfigurationError("second_order=True: what a draw gains in its own minimum; expected relax=True with it")
    if relax:
        structures = [relaxed_copy(surfaces, atoms, fmax=fmax, steps=steps) for atoms in structures]
    value, draws = relaxed_energies(surfaces, structures, second_order=second_order)
    energies = surfaces.estimate(value, draws, "eV", structures[0], of="energy")
    kept = []
    for atoms in structures:
        atoms = atoms.copy()
        atoms.calc = None
        kept.append(atoms)
    return EnergyDifference(
        energies.relative().map(lambda e: e @ np.array(coefficients)), energies, tuple(coefficients), tuple(kept), name
    )


def adsorption_energy(together: Atoms, surface: Atoms, molecule: Atoms, **settings: Any) -> EnergyDifference:
    """Return E(surface with adsorbate) - E(surface) - E(adsorbate), negative for binding.

    settings, errors : as in :func:`energy_difference`
    """
    terms = [(1.0, together), (-1.0, surface), (-1.0, molecule)]
    return energy_difference(terms, **({"name": "adsorption energy"} | settings))


def vacancy_energy(crystal: Atoms, index: int = 0, **settings: Any) -> EnergyDifference:
    """Return the vacancy formation energy of a crystal of one element, at constant cell: E(N - 1) - (N - 1)/N · E(N).

    crystal : of N atoms, large enough that the vacancy does not interact with its images
    index : of the removed atom
    settings, errors : as in :func:`energy_difference`

    raises : StructureError for one atom, or for several elements, since the energy per removed atom is then undefined
    """
    check_structure(crystal)
    n = len(crystal)
    if n < 2 or len(set(crystal.numbers)) != 1:
        raise StructureError(
            f"expected two atoms or more of one element, got {crystal.get_chemical_formula()}; of a compound, say where the "
            "atom goes: energy_difference([(1, defect), (-1, crystal), (1, reservoir)])"
        )
    index = whole("index", index, 0)
    if index >= n:
        raise StructureError(f"index={index}; expected one of the {n} atoms")
    defect = crystal.copy()
    try:
        del defect[index]
    except RuntimeError as error:
        raise StructureError(f"atom {index} cannot be taken out: {error}") from None
    defect.calc = crystal.calc
    return energy_difference([(1.0, defect), (-(n - 1) / n, crystal)], **({"name": "vacancy energy"} | settings))


def _terms(terms: object) -> tuple[list[float], list[Atoms]]:
    what = "a list [(coefficient, Atoms), …]"
    pairs = [several("terms", pair, what) for pair in several("terms", terms, what)]
    if not pairs or any(len(pair) != 2 or not isinstance(pair[1], Atoms) for pair in pairs):
        raise ConfigurationError(f"terms={pairs!r}; expected {what}")
    return [number("coefficient", factor) for factor, _ in pairs], [atoms for _, atoms in pairs]


def _check_balance(coefficients: Sequence[float], structures: Sequence[Atoms]) -> None:
    left: dict[str, float] = defaultdict(float)
    for factor, atoms in zip(coefficients, structures, strict=True):
        for symbol in atoms.symbols:
            left[symbol] += factor
    over = {
        symbol: round(count, 6) for symbol, count in left.items() if abs(count) > UNBALANCED * sum(map(len, structures))
    }
    if over:
        raise IncomparableError(
            f"expected as many atoms with plus as with minus, left over are {over}; add the missing terms, or pass "
            "balanced=False if a sum that depends on reference energies is meant"
        )
