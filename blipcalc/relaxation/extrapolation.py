"""Check for extrapolation: structures outside the domain of the model, for which its error bars are not reliable."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from blipcalc.calculators.bayesian import DISTANCE

#: latent distance beyond which a structure is out of domain: 10 ps of ethanol at 300 K stay below
#: (examples/reproduce/guard_rmd17.py, limit for 20 halts per ns)
FAR = 4.0
#: most atoms listed in a note
NAMED = 6


def far_atoms(atoms: Atoms, where: str = "") -> tuple[str, ...]:
    """Return a note on atoms out of domain, or nothing; atoms with their calculator.

    where : words before the note
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
