"""Structures that lie outside of the data of the model, where its error bars are not to be relied on."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from blipcalc.calculators.bayesian import DISTANCE

#: latent distance beyond which a structure lies outside of the data: 10 ps of ethanol at 300 K stay below
#: (examples/reproduce/guard_rmd17.py, limit for 20 halts per ns)
FAR = 4.0
#: atoms that are named
NAMED = 6


def far_atoms(atoms: Atoms, where: str = "") -> tuple[str, ...]:
    """What to say of atoms that are far, or nothing; atoms with their calculator.

    where : in words, before what is said
    """
    if DISTANCE not in atoms.calc.implemented_properties:
        return ()
    distance = atoms.calc.get_property(DISTANCE, atoms)
    far = np.flatnonzero(~(distance <= FAR))
    if not len(far):
        return ()
    named = ", ".join(f"{atoms.symbols[i]}{i}" for i in far[:NAMED]) + (", …" if len(far) > NAMED else "")
    return (
        f"{where}atoms {named} lie outside of the data of the model (latent distance up to {np.nanmax(distance):.3g}, {FAR:g} "
        "is far): error bars are not to be relied on",
    )
