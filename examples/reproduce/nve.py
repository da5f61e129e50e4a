"""Energy conservation of the mean surface: drift, the dt² law, and resampled noise as the control that must heat.

    python examples/reproduce/nve.py --time-ps 10 --parts float64 --output runs/nve.json    # parts one by one, or all

Drift is the least-squares slope of the total energy per atom, meV/atom/ps, with an error from blocks of 1 ps.  Noise that is
drawn anew at every call heats by dE/dt = Σ_i tr Σ_i Δt / (2 m_i).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from ase import units
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from tqdm import tqdm

from blipcalc import BayesianCalculator, load
from blipcalc.core.contracts import place_draws
from blipcalc.core.predictor_contract import Need
from blipcalc.files.bundled import starting_structure
from blipcalc.predictor import BayesianPredictor


class Resampled(BayesianPredictor):
    """The control: other draws at every call."""

    def __call__(self, structures, need=Need()):
        """Predictions from fresh draws."""
        self.draws = place_draws(self.model, self.posterior.draw(self.n_draws, generator=self.generator))
        return super().__call__(structures, need)


def drift(energies, time_ps, n_atoms):
    """Slope and its standard error, meV/atom/ps; rms fluctuation around it, meV/atom."""
    e = 1000 * (np.array(energies) - energies[0]) / n_atoms
    slope, offset = np.polyfit(time_ps, e, 1)
    blocks = np.array_split(e - slope * time_ps - offset, max(4, round(time_ps[-1])))
    scatter = np.std([b.mean() for b in blocks], ddof=1)
    error = scatter * np.sqrt(12 / len(blocks)) / time_ps[-1]
    return float(slope), float(error), float(np.std(e - slope * time_ps - offset))


def run(calculator, molecule, time_ps, timestep_fs, seed):
    """NVE from 300 K: drift, and the heating that resampling the draws would cause, meV/atom/ps."""
    atoms = starting_structure(molecule)
    atoms.calc = calculator
    rng = np.random.default_rng(seed)
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    Stationary(atoms)
    ZeroRotation(atoms)
    dynamics = VelocityVerlet(atoms, timestep_fs * units.fs)
    energies, heating = [], []
    for _ in tqdm(dynamics.irun(round(1000 * time_ps / timestep_fs)), desc=f"{molecule} {timestep_fs} fs"):
        energies.append(atoms.get_potential_energy() + atoms.get_kinetic_energy())
        raw = atoms.calc.prediction.raw or atoms.calc.prediction
        if raw.atom_var is not None:
            # of the mean of K draws: 1/K of the trace of the covariance
            trace = 3 * raw.atom_var / raw.n_draws
            heating.append(float((trace / (2 * atoms.get_masses())).sum()) * timestep_fs * units.fs)
    n = len(atoms)
    time = np.arange(len(energies)) * timestep_fs / 1000  # ps
    per_ps = 1000 * units.fs  # ASE's time units in a picosecond
    return drift(energies, time, n), 1000 * float(np.mean(heating)) * per_ps / n


def drift_of(dtype):
    """A part: drift of the mean surface in one precision."""

    def part(arguments):
        calculator = mean_surface(arguments, dtype)
        (slope, error, rms), _ = run(calculator, arguments.molecule, arguments.time_ps, 0.5, 0)
        return {"slope": slope, "error": error, "rms": rms, "ps": arguments.time_ps}

    return part


def timestep_law(arguments):
    """Rms fluctuation of the energy for three timesteps, meV/atom, and its ratios per doubling: 4 expected."""
    calculator = mean_surface(arguments, "float64")
    rms = {dt: run(calculator, arguments.molecule, 0.5, dt, 0)[0][2] for dt in (0.25, 0.5, 1.0)}
    return {"rms": rms, "ratios": [rms[0.5] / rms[0.25], rms[1.0] / rms[0.5]]}


def resampled(arguments):
    """The control: heating under draws that change at every call, measured and predicted."""
    stored = load(arguments.model)
    control = Resampled(stored.network, stored.posterior, n_draws=arguments.n_draws, surface="mean")
    control.posterior, control.generator = stored.posterior, torch.Generator().manual_seed(1)
    time_ps = min(2.0, arguments.time_ps)
    (slope, error, _), predicted = run(BayesianCalculator(control, raw=True), arguments.molecule, time_ps, 0.5, 0)
    return {"measured": slope, "error": error, "predicted": predicted, "ps": time_ps}


#: parts by name; slopes in meV/atom/ps
PARTS = {
    "float64": drift_of("float64"),
    "float32": drift_of("float32"),
    "timestep": timestep_law,
    "resampled": resampled,
}


def mean_surface(arguments, dtype):
    return BayesianCalculator(
        arguments.model, n_draws=arguments.n_draws, surface="mean", dtype=dtype, strategy=arguments.strategy
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rmd17")
    parser.add_argument("--molecule", default="ethanol")
    parser.add_argument("--time-ps", type=float, default=10.0)
    parser.add_argument("--n-draws", type=int, default=8)
    parser.add_argument("--strategy", default="traced")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("runs/nve.json"), help="parts that are there already stay")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.parts:
        figures = PARTS[name](arguments)
        print(name, json.dumps(figures), flush=True)
        kept = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        arguments.output.write_text(json.dumps({**kept, name: figures}, indent=1))


if __name__ == "__main__":
    main()
