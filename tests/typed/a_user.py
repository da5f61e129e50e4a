"""A user's code, with every name of the front door; nobody runs it: the test has a type checker read it."""

from pathlib import Path
from typing import assert_type

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.md.langevin import Langevin

import blipcalc
from blipcalc import (
    BayesianCalculator,
    Calibration,
    Estimate,
    Prediction,
    UncertaintyMonitor,
    average,
    calibrate,
    committee,
    evaluate,
    load,
    read,
    relax,
    run_md,
    train,
    write,
)
from blipcalc.adapters.committee import CommitteePredictor
from blipcalc.averages import independent_runs
from blipcalc.averages.average import ThermalAverage
from blipcalc.calibration.evaluation import Evaluation
from blipcalc.core.prediction import SampleArrays
from blipcalc.core.predictor_contract import Predictor
from blipcalc.md.summary import MDSummary
from blipcalc.model_file.model import Model
from blipcalc.monitor.decisions import Decision, Reading
from blipcalc.predictor import BayesianPredictor
from blipcalc.properties import (
    barrier,
    dimer_scan,
    elastic_constants,
    energy_difference,
    equation_of_state,
    phonons,
    vibrations,
)
from blipcalc.properties.elastic_moduli import ElasticConstants
from blipcalc.properties.energy_curves import Scan
from blipcalc.properties.energy_differences import EnergyDifference
from blipcalc.properties.equation_of_state import EquationOfState
from blipcalc.properties.path_profile import Barrier
from blipcalc.properties.phonons import Phonons
from blipcalc.properties.spectrum import Vibrations
from blipcalc.relaxation.result import Relaxed
from blipcalc.training.config import TrainConfig


def calculators(path: Path) -> BayesianCalculator:
    """From names, files, models and other calculators."""
    model = load(path)
    assert_type(model, Model)
    two = committee([EMT(), EMT()])
    assert_type(two, CommitteePredictor)
    assert_type(BayesianCalculator(two), BayesianCalculator)
    BayesianCalculator(model, n_draws=8, seed=1, surface="centre", dtype="float32", strategy="traced", raw=True)
    own = BayesianPredictor.load(model, n_draws=8, device="cpu", strategy="loop")
    assert_type(own, BayesianPredictor)
    return BayesianCalculator("rmd17")


def predictions(calculator: BayesianCalculator, predictor: Predictor, atoms: Atoms) -> None:
    """Means, error bars, draws."""
    assert_type(calculator.prediction, Prediction | None)
    assert_type(calculator.calibration, Calibration | None)
    (found,) = predictor([atoms])
    assert_type(found, Prediction)
    assert_type(found.energy, float)
    assert_type(found.energy_var, float | None)
    assert_type(calculator.get_samples(atoms), SampleArrays)
    if found.atom_std is not None:
        print(found.atom_std.max())


def files(path: Path) -> None:
    """Structures in and out."""
    assert_type(read(path), list[Atoms])
    assert_type(read(path, 0), Atoms)
    assert_type(read(str(path), "::10"), Atoms | list[Atoms])
    write(path, read(path), append=True, checksums=True)


def models(path: Path, frames: list[Atoms]) -> None:
    """Training, calibration, evaluation."""
    trained = train(
        path, "model.blip", training=TrainConfig(epochs=3, compile=False), model={"posterior": "blip"}, start=None
    )
    assert_type(trained, Model | None)
    if trained is None:
        return
    calibrated = calibrate(trained, frames, surfaces=("mean",), n_draws=(8, 16))
    assert_type(calibrated, Model)
    found = evaluate(BayesianPredictor.load(calibrated), frames, tolerance=0.5, seed=1)
    assert_type(found, Evaluation)
    constants = calibrated.calibration("mean", 16, 0)
    assert_type(constants, Calibration | None)


class Cautious:
    """A rule of one's own."""

    def __call__(self, reading: Reading) -> Decision:
        """Whether the largest error bar passes."""
        return Decision(
            reading.max_atom_std > 0.1, (reading.worst_atom,), reading.max_atom_std, 0.1, "eV/Å", "", reading.step
        )


def dynamics(atoms: Atoms) -> None:
    """MD under a guard, and what is averaged over it."""
    summary, monitor = run_md(
        atoms, time_ps=1.0, temperature_K=[(0.0, 300.0), (1.0, 600.0)], threshold={"H": 0.2}, every=5, folder="run"
    )
    assert_type(summary, MDSummary)
    assert_type(monitor, UncertaintyMonitor)
    assert_type(independent_runs(atoms, "runs", draws=range(3), time_ps=1.0), dict[str, MDSummary])
    watch = UncertaintyMonitor(Langevin(atoms, 1.0, temperature_K=300, friction=0.01), criteria=[Cautious()])
    assert_type(watch.decision, Decision | None)
    density = average("run", lambda frame: frame.get_volume(), temperature_K=300.0)
    assert_type(density, ThermalAverage)
    assert_type(density.estimate, Estimate)


def relaxations(atoms: Atoms) -> Estimate:
    """Minima with error bars, and numbers made of them."""
    relaxed = relax(atoms, fmax=0.01, cell="isotropic", error_bars="response")
    assert_type(relaxed, Relaxed)
    assert_type(relaxed.distance(0, 1), Estimate)
    assert_type(relaxed.bonds(), list[Estimate])
    twice = 2.0 - relaxed.energy / 3.0 + relaxed.energy[0]
    assert_type(twice, Estimate)
    lower, upper = twice.interval(0.9)
    assert_type(twice.map(np.sqrt, unit="√eV"), Estimate)
    print(f"{twice}: {lower} to {upper}, {float(twice.std)}")
    return twice


def properties(atoms: Atoms, calculator: BayesianCalculator) -> None:
    """One of each."""
    assert_type(vibrations(atoms, at="shared"), Vibrations)
    assert_type(phonons(atoms, supercell=(2, 2, 2)), Phonons)
    assert_type(barrier([atoms, atoms.copy()], calculator, reoptimize="points"), Barrier)
    assert_type(elastic_constants(atoms, clamped=True), ElasticConstants)
    assert_type(equation_of_state(atoms, points=7), EquationOfState)
    assert_type(energy_difference([(1.0, atoms), (-1.0, atoms)]), EnergyDifference)
    assert_type(dimer_scan("CuAu", np.linspace(2.0, 4.0, 9), calculator), Scan)


assert_type(blipcalc.__version__, str)
