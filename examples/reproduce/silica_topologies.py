"""The bundled silica model, zeolite by zeolite: accuracy, coverage, and whether it knows a topology that it never saw.

    python examples/reproduce/silica_frames.py DATA_FOLDER/si_zeo22 runs/silica-frames
    python examples/reproduce/silica_topologies.py runs/silica-frames --index ::4

Centre surface, K = 16, float32.  Coverage is of bounds on single atoms.  AUROC of a frame against the test frames of the six
topologies that were seen, by the largest σ, the mean σ, σ of the energy per atom, the same of the two networks alone, without
the noise of each, and the largest latent distance; beside them the true errors, which is what the others are after.
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
from silica_frames import SEEN, UNSEEN

from blipcalc import BayesianCalculator
from blipcalc.calibration.residuals import Residuals, collect
from blipcalc.core.predictor_contract import Need
from blipcalc.stats.ranks import auroc

LEVEL = 0.95


def between_networks(predictor, frames: list) -> tuple[np.ndarray, np.ndarray]:
    """(S,) by how much two networks differ: largest over atoms, eV/Å; energy per atom, eV.  Draw k is of network k mod 2."""
    forces, energies = [], []
    for atoms in frames:
        (found,) = predictor([atoms], Need(samples=True))
        first, second = ((found.samples.forces[k::2].mean(axis=0), found.samples.energy[k::2].mean()) for k in (0, 1))
        forces.append(np.linalg.norm(first[0] - second[0], axis=1).max())
        energies.append(abs(first[1] - second[1]) / len(atoms))
    return np.array(forces), np.array(energies)


def scores(predictor, frames: list, residuals: Residuals) -> dict[str, np.ndarray]:
    """(S,) of each frame, larger where it is worse."""
    sigma = np.sqrt(np.trace(residuals.forces_cov, axis1=1, axis2=2) / 3)
    error = np.linalg.norm(residuals.force_error, axis=1)
    edges = np.cumsum(residuals.n_atoms)[:-1]
    forces, energies = between_networks(predictor, frames)
    return {
        "largest σ": np.array([s.max() for s in np.split(sigma, edges)]),
        "mean σ": np.array([s.mean() for s in np.split(sigma, edges)]),
        "σ of the energy": np.sqrt(residuals.energy_var) / residuals.n_atoms,
        "two networks, forces": forces,
        "two networks, energy": energies,
        "latent distance": np.array([predictor.latent_distances([atoms])[0].max() for atoms in frames]),
        "largest error": np.array([e.max() for e in np.split(error, edges)]),
        "error of the energy": np.abs(residuals.energy_error) / residuals.n_atoms,
    }


def figures(predictor, residuals: Residuals) -> list[str]:
    """Of one set of frames."""
    sigma = np.sqrt(np.trace(residuals.forces_cov, axis1=1, axis2=2) / 3)
    error = np.linalg.norm(residuals.force_error, axis=1)
    bound = predictor.calibration.atom_quantile(residuals.species, LEVEL) * sigma
    energy = np.abs(residuals.energy_error / residuals.n_atoms)
    z2 = (residuals.force_error**2).mean(axis=1) / sigma**2
    return [
        f"{1000 * energy.mean():.2f}",
        f"{1000 * np.abs(residuals.force_error).mean():.1f}",
        f"{(error <= bound).mean():.3f}",
        f"{z2.mean():.2f}",
        f"{1000 * sigma.mean():.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--index", default=":")
    parser.add_argument("--model", default="silica")
    arguments = parser.parse_args()
    predictor = BayesianCalculator(arguments.model, n_draws=16, surface="centre", dtype="float32").predictor
    print("| zeolite | frames | energy MAE, meV/atom | force MAE, meV/Å | 95 % covers | mean z² | mean σ, meV/Å |")
    print("|---|---|---|---|---|---|---|")
    found = {}
    for topology in SEEN + UNSEEN:
        frames = ase.io.read(arguments.folder / f"test_{topology}.extxyz", arguments.index)
        residuals = collect(predictor, frames)
        found[topology] = scores(predictor, frames, residuals)
        name = topology if topology in SEEN else f"**{topology}**, never seen"
        print(f"| {name} | {len(frames)} | " + " | ".join(figures(predictor, residuals)) + " |", flush=True)
    print()
    for name in found[SEEN[0]]:
        known = np.concatenate([found[topology][name] for topology in SEEN])
        print(f"AUROC, {name}: " + ", ".join(f"{t} {auroc(known, found[t][name]):.2f}" for t in UNSEEN))


if __name__ == "__main__":
    main()
