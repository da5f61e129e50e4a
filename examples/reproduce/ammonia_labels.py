"""Ammonia where MD takes it and the 78 published geometries do not reach, labelled afresh at their level of theory.

    pip install pyscf tblite dftd3
    python examples/reproduce/ammonia_labels.py DATA_FOLDER/ammonia --output examples/reproduce/ammonia.xyz

- check: published frames, from the lowest to the highest; the differences from the published labels are printed
- md: GFN2-xTB MD at 300 K, 100 fs apart, its displacements put on the published minimum: GFN2-xTB's own pyramid is 0.06 Å
  flatter, as flat as the flattest published geometry
- inverted: from the pyramid to the planar molecule, N–H lengths relaxed; each point with two rattled copies.  The path
  beyond the plane is the mirror image of this one
- stretched: published frames, one N–H bond drawn out by 20–60 %, or all three by 20–40 %
- hot: GFN2-xTB MD at 1,000, 1,500 and 2,000 K

BP86-D3/def2-SVP as published: the local part of P86 is VWN5, D3 has zero damping.  With PZ81, which libxc's "bp86" takes, forces
differ by 13 to 14 meV/Å from the published ones, with VWN5 by 1.  Closed-shell labels hold for these stretches: from the
minimum, RKS turns unstable towards UKS between 80 and 100 % for one bond, between 60 and 70 % for all three.

Density-fitted RKS, grid level 4; energies in eV above the published minimum (``info["zero"]``, eV, is what was taken off:
the mean difference of the check frames from the published energies), forces in eV/Å.  Kept frames are not computed again.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read, write
from ase.optimize import BFGS
from dftd3.ase import DFTD3
from labels_pyscf import hot, label, n_kept
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import minimize_scalar
from tblite.ase import TBLite
from tqdm import tqdm

from blipcalc.data.labels import read_labelled

FUNCTIONAL, DAMPING = "b88,p86vwn", "d3zero"


def dispersion(damping):
    return DFTD3(method="bp", damping=damping)


def pyramid(height, length):
    """Threefold symmetric NH3: nitrogen ``height`` (Å) above the plane of the hydrogens, N–H of ``length`` (Å)."""
    angles = 2 * np.pi * np.arange(3) / 3
    radius = np.sqrt(length**2 - height**2)
    hydrogens = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(3, -height)], axis=1)
    return Atoms("NH3", [[0, 0, 0], *hydrogens])


def inversion(minimum, n=10):
    """The umbrella path from the planar molecule to 0.36 Å of height, where the published geometries begin."""
    calculator = TBLite(method="GFN2-xTB", verbosity=0)

    def relaxed(height):
        return minimize_scalar(
            lambda length: calculator.get_potential_energy(pyramid(height, length)),
            bounds=(0.9, 1.2),
            method="bounded",
            options={"xatol": 1e-5},
        ).x

    bonds = minimum.positions[1:] - minimum.positions[0]
    normal = np.cross(bonds[1] - bonds[0], bonds[2] - bonds[0])
    height = abs(bonds[0] @ normal) / np.linalg.norm(normal)
    # GFN2-xTB knows how bonds change along the path; their length at the minimum is known from the reference itself
    scale = np.linalg.norm(bonds, axis=1).mean() / relaxed(height)
    return [pyramid(h, scale * relaxed(h)) for h in np.linspace(0, 0.36, n)]


def around(minimum, frames):
    """GFN2-xTB frames with their displacements from its own minimum put on this one."""
    own = Atoms(minimum.numbers, minimum.positions, calculator=TBLite(method="GFN2-xTB", verbosity=0))
    BFGS(own, logfile=None).run(fmax=1e-3)
    home, shift = own.positions - own.positions.mean(axis=0), minimum.positions - own.positions
    moved = []
    for atoms in frames:
        centred = atoms.positions - atoms.positions.mean(axis=0)
        turn, _ = orthogonal_procrustes(centred, home)  # a reflection where the molecule has inverted
        moved.append(Atoms(atoms.numbers, centred @ turn + shift))
    return moved


def rattled(atoms, rng, sigma=0.04):
    return Atoms(atoms.numbers, atoms.positions + rng.normal(scale=sigma, size=atoms.positions.shape))


def stretch(atoms, hydrogens, factor):
    """The frame with the bonds to these hydrogens ``factor`` times as long."""
    drawn = Atoms(atoms.numbers, atoms.positions)
    drawn.positions[hydrogens] += (factor - 1) * (drawn.positions[hydrogens] - drawn.positions[0])
    return drawn


def structures(published, rng):
    """All frames to label, each with what it is in ``info``; those to check come first, as they give the zero of energy."""

    def named(kind, frames, **info):
        for k, atoms in enumerate(frames):
            atoms.info.update(kind=kind, number=k, **info)
            yield atoms

    by_energy = sorted(published, key=lambda atoms: atoms.get_potential_energy())
    minimum = by_energy[0]
    checks = []
    for i in np.linspace(0, len(published) - 1, 8).round().astype(int):
        checks.append(by_energy[i].copy())
        checks[-1].arrays["published"] = by_energy[i].get_forces()
        checks[-1].info["published_energy"] = by_energy[i].get_potential_energy()
    yield from named("check", checks)
    yield from named("md", around(minimum, hot(minimum, 300, 60, rng)))
    path = inversion(minimum)
    yield from named("inverted", path)
    yield from named("inverted", [rattled(atoms, rng) for atoms in path for _ in range(2)], rattled=True)
    bases = [published[i] for i in rng.permutation(len(published))[:30]]
    one = [
        stretch(a, [1 + k % 3], f) for k, (a, f) in enumerate(zip(bases[:20], np.linspace(1.2, 1.6, 20), strict=True))
    ]
    yield from named("stretched", one, bonds=1)
    three = [stretch(a, [1, 2, 3], f) for a, f in zip(bases[20:], np.linspace(1.2, 1.4, 10), strict=True)]
    yield from named("stretched", three, bonds=3)
    for temperature, n in ((1000, 14), (1500, 13), (2000, 13)):
        yield from named("hot", hot(minimum, temperature, n, rng), temperature_K=temperature)


def above(atoms, zero):
    """The labelled frame with its energy above ``zero`` (eV), which it remembers."""
    atoms.calc.results["energy"] -= zero
    atoms.info["zero"] = zero
    return atoms


def label_all(frames, output):
    done = n_kept(output, frames)
    bar = tqdm(initial=done, total=len(frames))
    if done == 0:
        checks = [atoms for atoms in frames if atoms.info["kind"] == "check"]
        for atoms in checks:
            label(atoms, FUNCTIONAL, dispersion(DAMPING))
            bar.update()
        zero = np.mean([atoms.get_potential_energy() - atoms.info["published_energy"] for atoms in checks])
        write(output, [above(atoms, zero) for atoms in checks])
        done = len(checks)
    zero = read(output, 0).info["zero"]
    for atoms in frames[done:]:
        write(output, above(label(atoms, FUNCTIONAL, dispersion(DAMPING)), zero), append=True)
        bar.update()
    bar.close()


def compare_dampings(checks):
    """Print how the check frames differ from their published labels, with each D3 in place of the one they have."""
    for damping in (None, "d3bj", "d3zero"):
        energies, forces = [], []
        for atoms in checks:
            energy = atoms.get_potential_energy() - atoms.info["published_energy"]
            force = atoms.get_forces() - atoms.arrays["published"]
            for sign, d3 in ((-1, DAMPING), (1, damping)):
                if d3 is not None:
                    energy += sign * dispersion(d3).get_potential_energy(atoms)
                    force = force + sign * dispersion(d3).get_forces(atoms)
            energies.append(energy)
            forces.append(force)
        spread, mean, largest = np.std(energies, ddof=1), np.abs(forces).mean(), np.abs(forces).max()
        print(
            f"{damping or 'no D3'}{' (used)' if damping == DAMPING else ''}: energies {1e3 * spread:.2f} meV (standard "
            f"deviation), forces {1e3 * mean:.1f} meV/Å (mean absolute), {1e3 * largest:.1f} at most"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the published geometries")
    parser.add_argument("--output", type=Path, default=Path("examples/reproduce/ammonia.xyz"))
    parser.add_argument(
        "--published",
        type=Path,
        help="also write the published frames here, as extxyz, in their order: 64 for training, 14 for validation",
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    published = read_labelled(arguments.folder / "ammonia_initial78.npz", energy_key="E_eV", forces_key="F_eV_per_A")
    if arguments.published:
        arguments.published.parent.mkdir(parents=True, exist_ok=True)
        write(arguments.published, published)
    frames = list(structures(published, np.random.default_rng(arguments.seed)))
    label_all(frames, arguments.output)
    labelled = read(arguments.output, ":")
    compare_dampings([atoms for atoms in labelled if atoms.info["kind"] == "check"])
    print(f"zero of energy: {labelled[0].info['zero']:.5f} eV")
    for kind in dict.fromkeys(atoms.info["kind"] for atoms in labelled):
        energies, forces = zip(
            *((a.get_potential_energy(), np.abs(a.get_forces()).max()) for a in labelled if a.info["kind"] == kind),
            strict=True,
        )
        print(
            f"{kind}: {len(energies)} frames, {min(energies):.3f} to {max(energies):.3f} eV, |F| up to {max(forces):.1f} eV/Å"
        )


if __name__ == "__main__":
    main()
