"""Observables by the names that a user types; see :mod:`blipcalc.averages.observables` for what there is."""

from __future__ import annotations

import math
from collections.abc import Callable
from difflib import get_close_matches

from ase import Atoms
from numpy.typing import ArrayLike

from blipcalc.averages.diffusion import Displacement
from blipcalc.averages.observables import (
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

NAMES = (
    "energy",
    "energy_per_atom",
    "volume",
    "density",
    "distance",
    "angle",
    "distribution",
    "rdf",
    "msd",
    "diffusion",
)
Given = str | Observable | Displacement | Callable[[Atoms], ArrayLike]


def named(observable: Given) -> Observable | Displacement:
    """An observable from its name, from itself, or from a function of a structure.

    raises : ConfigurationError for a name that is none, or what stands behind its colons
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
    extra = _numbers(settings, observable)
    if (name in NAMES[:4] and rest) or (settings and name in NAMES[:6]):
        raise ConfigurationError(f"observable {observable!r}: nothing is expected behind the last colon")
    match name:
        case "energy" | "energy_per_atom":
            return energy(per_atom=name == "energy_per_atom")
        case "volume":
            return volume()
        case "density":
            return density()
        case "distance":
            return distance(*_atoms(what, 2, observable))
        case "angle":
            return angle(*_atoms(what, 3, observable))
        case "distribution" if len(extra) in (0, 2, 3):
            return distribution(*_atoms(what, 2, observable), *extra)
        case "rdf" if what.count("-") == 1 and len(extra) < 3:
            return rdf(*what.split("-"), *extra)
        case "msd" | "diffusion" if len(extra) < 2:
            return Displacement(what or "all", *extra, is_diffusion=name == "diffusion")
        case "distribution" | "rdf" | "msd" | "diffusion":
            raise ConfigurationError(
                f"observable {observable!r}; expected distribution:i,j[:low,high[,bins]], rdf:A-B[:r_max[,bins]], "
                "msd:A[:lag_ps] or diffusion:A[:lag_ps]"
            )
    near = get_close_matches(name, NAMES, n=1, cutoff=0.0)
    raise ConfigurationError(f"no observable {name!r}; did you mean {near[0]!r}? Known: {', '.join(NAMES)}")


def _atoms(text: str, n: int, what: str) -> tuple[int, ...]:
    """``"0,1"`` -> (0, 1)."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != n:
        raise ConfigurationError(f"observable {what!r}: expected {n} atoms counted from 0, with commas in between")
    return found


def _numbers(text: str, what: str) -> list[float]:
    """``"6.0,120"`` -> [6.0, 120.0]; nothing for no text."""
    try:
        found = [float(part) for part in text.split(",")] if text else []
    except ValueError:
        found = [math.nan]
    if not all(map(math.isfinite, found)):
        raise ConfigurationError(f"observable {what!r}: expected numbers behind the last colon, got {text!r}")
    return found
