"""The bundled models: what they promise, on the frames that they were not trained on."""

import os
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import thermalize_momenta
from ase.units import GPa, fs

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calibration.evaluation import evaluate_residuals
from blipcalc.calibration.residuals import collect, seen_in_training
from blipcalc.data.labels import read_labelled
from blipcalc.errors import ConfigurationError
from blipcalc.files.bundled import MOLECULES, ZEOLITES, bundle_path, starting_structure
from blipcalc.md.run_md import run_md
from blipcalc.model_file.model_file import bundled_models, load, model_info
from blipcalc.predictor import BayesianPredictor
from blipcalc.relaxation.relax import relax


@pytest.fixture(scope="module")
def model():
    return load("rmd17")


@pytest.mark.parametrize(("name", "species", "most"), [("rmd17", [1, 6, 7, 8], 7000), ("silica", [8, 14], 2000)])
def test_they_are_small_and_say_where_they_come_from(name, species, most):
    assert name in bundled_models()
    assert bundle_path(f"{name}.blip").stat().st_size <= 5_000_000
    manifest = model_info(name)
    assert manifest["species"] == species
    assert {"command", "wall_seconds", "machine", "versions", "n_train"} <= set(manifest["training"])
    assert manifest["training"]["n_train"] <= most
    assert {(c["surface"], c["n_draws"]) for c in manifest["calibrations"]} >= {
        (s, k) for s in ("mean", "centre") for k in (8, 16, 32)
    }


@pytest.mark.parametrize("molecule", MOLECULES)
def test_starting_structures_are_calm(model, molecule):
    atoms = starting_structure(molecule)
    atoms.calc = BayesianCalculator(model, n_draws=8)
    assert np.abs(atoms.get_forces()).max() < 6.0
    limit = atoms.calc.calibration.halt_limit(0.5)
    assert atoms.calc.get_property("atom_std", atoms).max() < limit


def test_a_stretched_bond_is_more_uncertain(model):
    atoms = starting_structure("ethanol")
    atoms.calc = BayesianCalculator(model, n_draws=8)
    calm = atoms.calc.get_property("atom_std", atoms).max()
    atoms.set_distance(0, 1, 1.6 * atoms.get_distance(0, 1), fix=0)
    assert atoms.calc.get_property("atom_std", atoms).max() > 3 * calm


def test_short_md_stays_at_its_temperature(model):
    rng = np.random.default_rng(0)
    atoms = starting_structure("ethanol")
    atoms.calc = BayesianCalculator(model, n_draws=8, surface="centre", dtype="float32")
    thermalize_momenta(atoms, temperature_K=300, rng=rng)
    dynamics = Langevin(atoms, 0.5 * fs, temperature_K=300, friction=0.02 / fs, fixcm=False, rng=rng)
    temperatures = [atoms.get_temperature() for _ in dynamics.irun(300)]
    assert 150 < np.mean(temperatures) < 450


@pytest.mark.data
def test_accuracy_and_coverage_on_the_test_sets(model):
    """25 meV/Å on the mean of the seven molecules, and 95 % coverage inside its limits, pooled."""
    folder = Path(os.environ["BLIPCALC_DATA"]) / "rmd17"
    predictor = BayesianPredictor.load(model, n_draws=16, surface="centre", dtype="float32")
    tests = [read_labelled(folder / f"rmd17_{name}_test_01.npz", energy_unit="kcal/mol")[::10] for name in MOLECULES]
    frames = [atoms for test in tests for atoms in test]
    assert not seen_in_training(frames, model.frames.tolist())
    residuals = collect(predictor, frames)
    molecule = np.repeat(np.arange(len(tests)), [len(test) for test in tests])[residuals.frame]
    errors = [np.abs(residuals.force_error[molecule == m]).mean() for m in range(len(tests))]
    assert np.mean(errors) <= 0.025
    evaluation = evaluate_residuals(residuals)
    (pooled,) = [c for c in evaluation.forces.coverage if c.kind == "all" and c.level == 0.95]
    assert pooled.inside, pooled


def test_the_bundled_model_knows_where_its_data_were():
    """Own molecules are near, stretched and foreign ones are far; no variance is asked."""
    predictor = BayesianPredictor.load("rmd17", n_draws=8)
    near = max(d.max() for d in predictor.latent_distances([starting_structure(m) for m in ("ethanol", "benzene")]))
    frames = ase.io.read(Path(__file__).parents[1] / "examples" / "reproduce" / "foreign.xyz", ":")
    far = [d.max() for d in predictor.latent_distances([a for a in frames if a.info["kind"] == "stretched"])]
    assert near < 2.5 < 3.0 < min(far)
    assert predictor.domain.n_frames == 6300
    assert 0.95 < predictor.domain.closest["C-H"] < 1.05


@pytest.mark.parametrize("zeolite", ZEOLITES)
def test_zeolites_are_silica_in_cells(zeolite):
    atoms = starting_structure(zeolite)
    counts = {symbol: atoms.get_chemical_symbols().count(symbol) for symbol in ("Si", "O")}
    assert counts["O"] == 2 * counts["Si"] == len(atoms) - counts["Si"]
    assert atoms.pbc.all()
    assert 12 < atoms.get_volume() / len(atoms) < 24
    distances = atoms.get_all_distances(mic=True)[atoms.numbers == 14][:, atoms.numbers == 8]
    assert ((np.sort(distances, axis=1)[:, :4] > 1.5) & (np.sort(distances, axis=1)[:, :4] < 1.75)).all()


@pytest.fixture(scope="module")
def silica():
    return load("silica")


@pytest.mark.parametrize("zeolite", ZEOLITES)
def test_zeolites_are_calm(silica, zeolite):
    atoms = starting_structure(zeolite)
    atoms.calc = BayesianCalculator(silica, n_draws=8)
    assert np.abs(atoms.get_forces()).max() < 3.0
    assert np.abs(atoms.get_stress()).max() < 10 * GPa
    assert atoms.calc.get_property("atom_std", atoms).max() < atoms.calc.calibration.halt_limit(1.0)


def test_a_zeolite_and_its_cell_with_error_bars(silica):
    atoms = starting_structure("edi")
    atoms.rattle(0.02, seed=0)
    atoms.calc = BayesianCalculator(silica, n_draws=8)
    before = atoms.cell.cellpar()
    relaxed = relax(atoms, cell=True, fmax=0.02)
    assert relaxed.descent.done
    lengths = relaxed.cell_parameters()[:3]
    assert np.abs(lengths.value - before[:3]).max() < 0.3
    assert ((lengths.std > 1e-4) & (lengths.std < 0.1)).all()
    assert np.abs(atoms.get_stress()).max() < 0.2 * GPa
    (bond,) = relaxed.mean_bonds()
    assert 1.60 < bond.value < 1.65  # PBE
    assert "no calibration" in relaxed.table()


def test_a_zeolite_under_constant_pressure(silica):
    atoms = starting_structure("edi")
    atoms.calc = BayesianCalculator(silica, n_draws=8, dtype="float32", strategy="traced")
    volume = atoms.get_volume()
    summary, _ = run_md(
        atoms, time_ps=0.1, timestep_fs=1.0, ensemble="npt-cell", tolerance=2.0, every=20, progress=False
    )
    assert summary.status == "finished"
    assert 0 < abs(atoms.get_volume() / volume - 1) < 0.1


def test_another_name_is_refused():
    with pytest.raises(ConfigurationError, match=r"there are aspirin, .*sod"):
        starting_structure("water")
