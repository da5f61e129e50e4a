"""What calibrates energies?  Errors of total energies, and of their differences between frames of one composition, over σ.

    python examples/reproduce/energy_differences.py rmd17 $DATA/rmd17/rmd17_*_test_01.npz --energy-unit kcal/mol --index ::33
    python examples/reproduce/energy_differences.py silica runs/silica-frames/test_{abw,bct,dft,edi,gis,nab}.extxyz --index ::6
    python examples/reproduce/energy_differences.py silica runs/silica-frames/test_{cha,sod}.extxyz --index ::6

Centre surface, K = 16, float32.  Of each file: the mean squared error of the total energy over the variance of the draws, and the
same of energies less the mean of the file, on the surface that drives, on every draw and in the labels.  Its root is the factor
that would make the spread right: ``scale_energy`` of the calibration is about the first, differences take that of the forces.
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np

from blipcalc import BayesianCalculator
from blipcalc.core.predictor_contract import Need
from blipcalc.data.labels import read_labelled


def factors(errors: np.ndarray, draws: np.ndarray) -> tuple[float, float]:
    """Of totals and of differences, from (S,) errors and (S, K) draws, both in eV."""
    totals = (errors**2).mean() / draws.var(axis=1, ddof=1).mean()
    less, own = errors - errors.mean(), draws - draws.mean(axis=0)
    differences = (less**2).sum() / own.var(axis=1, ddof=1).sum()
    return float(np.sqrt(totals)), float(np.sqrt(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("files", type=Path, nargs="+", help="one composition each")
    parser.add_argument("--index", default=":")
    parser.add_argument("--energy-unit", default="eV")
    arguments = parser.parse_args()
    predictor = BayesianCalculator(arguments.model, n_draws=16, surface="centre", dtype="float32").predictor
    found = []
    print("| file | frames | factor, total energies | factor, differences |\n|---|---|---|---|")
    for path in arguments.files:
        frames = read_labelled(path, energy_unit=arguments.energy_unit)[ase.io.formats.string2index(arguments.index)]
        predictions = [predictor([atoms], Need(forces=False, samples=True))[0] for atoms in frames]
        errors = np.array([p.energy - a.get_potential_energy() for p, a in zip(predictions, frames, strict=True)])
        found.append(factors(errors, np.array([p.samples.energy for p in predictions])))
        print(f"| {path.stem} | {len(frames)} | {found[-1][0]:.2f} | {found[-1][1]:.2f} |", flush=True)
    totals, differences = np.sqrt(np.mean(np.square(found), axis=0))
    calibration = predictor.calibration
    of = {name: calibration.calibration_factor(predictor.species, name) for name in ("energy", "forces")}
    print(f"| all, root mean square | | {totals:.2f} | {differences:.2f} |")
    print(f"| the calibration has | | {of['energy']:.2f} (energies) | {of['forces']:.2f} (forces) |")


if __name__ == "__main__":
    main()
