"""Make observables from the names that a user types, ``name:atoms or elements:numbers``.

A named observable is a function of its :class:`Arguments`, registered in :data:`~blipcalc.registries.OBSERVABLES`; the first line
of its docstring is its help in ``blipcalc average --help``.  For their values see :mod:`blipcalc.averages.observables`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ase import Atoms
from numpy.typing import ArrayLike

from blipcalc.averages.diffusion import Displacement
from blipcalc.averages.observables import (
    BINS,
    R_MAX,
    Observable,
    angle,
    density,
    distance,
    distribution,
    energy,
    rdf,
    volume,
)
from blipcalc.errors import ConfigurationError
from blipcalc.registries import OBSERVABLES
from blipcalc.settings import whole

Given = str | Observable | Displacement | Callable[[Atoms], ArrayLike]


@dataclass(frozen=True)
class Arguments:
    """Text after the name of an observable, split at colons.

    text : the whole text with the name, for messages; usage : expected form
    what : between the first and the second colon; settings : after the second colon
    """

    text: str
    usage: str
    what: str = ""
    settings: str = ""

    def refused(self, why: str) -> ConfigurationError:
        """Return the error of unusable arguments."""
        return ConfigurationError(f"observable {self.text!r}: {why}; expected {self.usage}")

    def none(self) -> None:
        """Raise ConfigurationError for any text after the name."""
        if self.what or self.settings:
            raise self.refused("nothing is expected behind its name")

    def atoms(self, n: int) -> tuple[int, ...]:
        """Return n indices of atoms: ``"0,1"`` -> (0, 1)."""
        try:
            found = tuple(int(part) for part in self.what.split(","))
        except ValueError:
            found = ()
        if len(found) != n:
            raise self.refused(f"expected {n} atoms counted from 0, with commas in between, got {self.what!r}")
        return found

    def elements(self) -> tuple[str, str]:
        """Return two elements: ``"O-H"`` -> ("O", "H")."""
        a, dash, b = self.what.partition("-")
        if not dash or "-" in b:
            raise self.refused(f"expected two elements with a dash in between, got {self.what!r}")
        return a, b

    def numbers(self, *how_many: int) -> list[float]:
        """Return numbers, as many as are allowed: ``"6.0,120"`` -> [6.0, 120.0]; an empty list for no text."""
        try:
            found = [float(part) for part in self.settings.split(",")] if self.settings else []
        except ValueError:
            found = [math.nan]
        if not all(map(math.isfinite, found)):
            raise self.refused(f"expected numbers behind the last colon, got {self.settings!r}")
        if len(found) not in how_many:
            allowed = " or ".join(map(str, how_many))
            raise self.refused(
                f"expected {allowed} numbers behind the last colon, got {len(found)}"
                if how_many != (0,)
                else "nothing is expected behind the last colon"
            )
        return found

    def number_or_none(self) -> float | None:
        """Return a number: ``"2.0"`` -> 2.0; None for no text."""
        found = self.numbers(0, 1)
        return found[0] if found else None


def named(observable: Given) -> Observable | Displacement:
    """Return an observable from its name, an observable unchanged, or one from a function of a structure.

    raises : ConfigurationError for an unknown name, or for unusable text after its colons
    """
    if isinstance(observable, (Observable, Displacement)):
        return observable
    if not isinstance(observable, str):
        if not callable(observable):
            raise ConfigurationError(
                f"observable={observable!r}; expected a name such as 'rdf:O-O', or a function of a structure"
            )
        return Observable(getattr(observable, "__name__", "observable"), "", observable)
    name, _, rest = observable.partition(":")
    what, _, settings = rest.partition(":")
    return OBSERVABLES[name](Arguments(observable, OBSERVABLES.words(name).replace("`", ""), what, settings))


def named_energy(arguments: Arguments) -> Observable:
    """``energy``, eV: potential energy; on draw k that of draw k."""
    arguments.none()
    return energy()


def named_energy_per_atom(arguments: Arguments) -> Observable:
    """``energy_per_atom``, eV: the same over the number of atoms."""
    arguments.none()
    return energy(per_atom=True)


def named_volume(arguments: Arguments) -> Observable:
    """``volume``, Å³: of the cell."""
    arguments.none()
    return volume()


def named_density(arguments: Arguments) -> Observable:
    """``density``, g/cm³: mass over volume."""
    arguments.none()
    return density()


def named_distance(arguments: Arguments) -> Observable:
    """``distance:i,j``, Å: of two atoms from 0 on, nearest images."""
    arguments.numbers(0)
    return distance(*arguments.atoms(2))


def named_angle(arguments: Arguments) -> Observable:
    """``angle:i,j,k``, °: at atom j."""
    arguments.numbers(0)
    return angle(*arguments.atoms(3))


def named_distribution(arguments: Arguments) -> Observable:
    """``distribution:i,j[:low,high[,bins]]``, 1/Å: probability density of a distance."""
    return distribution(*arguments.atoms(2), *arguments.numbers(0, 2, 3))


def named_rdf(arguments: Arguments) -> Observable:
    """``rdf:A-B[:r_max[,bins]]``: radial distribution function of two elements."""
    given = arguments.numbers(0, 1, 2)
    r_max, bins = [*given, *[R_MAX, BINS][len(given) :]]
    return rdf(*arguments.elements(), r_max, whole("bins", bins, 1, what="number of bins"))


def named_msd(arguments: Arguments) -> Displacement:
    """``msd:A[:lag_ps]``, Å²: mean square displacement of an element, or ``all``."""
    return Displacement(arguments.what or "all", arguments.number_or_none())


def named_diffusion(arguments: Arguments) -> Displacement:
    """``diffusion:A[:lag_ps]``, Å²/ps: diffusion coefficient of an element, or ``all``."""
    return Displacement(arguments.what or "all", arguments.number_or_none(), is_diffusion=True)
