"""Labels by density-functional theory and MD that finds frames for them: what ``foreign_labels`` and ``ammonia_labels`` share."""

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from pyscf import dft, gto
from tblite.ase import TBLite


class NotConvergedError(RuntimeError):
    """No self-consistent field was found for a frame."""


def label(atoms, xc, dispersion=None):
    """Energy (eV) and forces (eV/Å) of density-fitted RKS in def2-SVP, plus those of an ASE calculator, as a stored result."""
    spec = [(symbol, tuple(r)) for symbol, r in zip(atoms.symbols, atoms.positions, strict=True)]
    field = dft.RKS(gto.M(atom=spec, basis="def2-svp", unit="Angstrom", verbose=0)).density_fit()
    field.xc, field.grids.level, field.conv_tol = xc, 4, 1e-9
    energy = field.kernel() * units.Hartree
    if not field.converged:
        raise NotConvergedError(f"no self-consistent field for {atoms.info}")
    gradient = field.nuc_grad_method()
    gradient.grid_response = True
    forces = -gradient.kernel() * units.Hartree / units.Bohr
    if dispersion is not None:
        energy += dispersion.get_potential_energy(atoms)
        forces += dispersion.get_forces(atoms)
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def hot(atoms, temperature, n, rng, steps=200):
    """``n`` frames of GFN2-xTB Langevin MD, 100 fs apart after 200 fs."""
    atoms = atoms.copy()
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    dynamics = Langevin(
        atoms, 0.5 * units.fs, temperature_K=temperature, friction=0.02 / units.fs, fixcm=False, rng=rng
    )
    frames = []
    dynamics.run(2 * steps)
    for _ in range(n):
        dynamics.run(steps)
        frames.append(Atoms(atoms.numbers, atoms.positions))
    return frames


def n_kept(output, frames):
    """How many of the frames the file holds already; one that holds others is refused."""
    kept = read(output, ":") if output.exists() else []
    for old, atoms in zip(kept, frames, strict=False):
        if not np.allclose(old.positions, atoms.positions, atol=1e-7):
            raise SystemExit(f"{output} holds other structures; remove it to begin anew")
    return len(kept)
