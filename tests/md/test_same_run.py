"""A run folder goes on under the calculator and the momenta that its run began with, and under no others."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from blipcalc import read, run_md
from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.reference_on_demand import ReferenceOnDemand
from blipcalc.calculators.weighted_baseline import BaselineFallback
from blipcalc.core.prediction import SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.errors import CheckpointWarning, ConfigurationError
from blipcalc.md.restart import identity
from blipcalc.md.run_files import SUMMARY, TRAJECTORY

HOME = 3.0 * np.argwhere(np.ones((2, 2, 2)))


class Spring(Calculator):
    """k r² / 2 about the starting places; neither k nor the scatter of it is a parameter."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, k, scatter=0.0, seed=0):
        super().__init__()
        self.k, self.scatter, self.rng, self.calls = k, scatter, np.random.default_rng(seed), 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        d = self.atoms.positions - HOME
        k = self.k * (1 + self.scatter * self.rng.standard_normal())
        self.results = {"energy": 0.5 * k * float((d**2).sum()), "forces": -k * d}


class Springs(Predictor):
    """Three draws."""

    species, n_draws, surface, has_stress, has_energies, heads = None, 3, "mean", False, False, "none"

    def __init__(self, k=5.0):
        self.k = k

    def __call__(self, structures, need=Need()):
        found = []
        for atoms in structures:
            d, k = atoms.positions - HOME, self.k * np.array([0.9, 1.0, 1.1])
            samples = SampleArrays(energy=0.5 * k * (d**2).sum(), forces=-k[:, None, None] * d)
            found.append(summarize(atoms.numbers, samples, keep_samples=need.samples))
        return found


def model(k=5.0):
    return BayesianCalculator(Springs(k), raw=True)


def members(k):
    return BayesianCalculator(committee([Spring(4.5), Spring(k)]), raw=True)


CALCULATORS = {
    "predictor": model,
    "members": members,
    "exact part": lambda k: CombinedCalculator(model(), Spring(k)),
    "baseline": lambda k: BaselineFallback(model(), Spring(k), sigma_baseline_eV=1.0, shifts={"N": 0.0}),
    "model beside a reference": lambda k: ReferenceOnDemand(model(k), Spring(1.0)),
}


def go(folder, calculator, time_ps=0.01, momenta=None, **settings):
    atoms = Atoms("N8", positions=HOME)
    atoms.calc = calculator
    if momenta is not None:
        atoms.set_momenta(momenta)
    summary, _ = run_md(
        atoms, folder=folder, time_ps=time_ps, timestep_fs=1.0, threshold=1e6, write_every=5, progress=False, **settings
    )
    return summary


@pytest.mark.parametrize("what", CALCULATORS)
def test_a_folder_does_not_go_on_under_another_potential(tmp_path, what):
    make = CALCULATORS[what]
    go(tmp_path, make(5.0))
    before = (tmp_path / TRAJECTORY).read_bytes()
    with pytest.raises(ConfigurationError, match="another calculator"):
        go(tmp_path, make(5.5), time_ps=0.02)
    assert (tmp_path / TRAJECTORY).read_bytes() == before
    assert go(tmp_path, make(5.0), time_ps=0.02).steps == 20  # the same, made anew, goes on


def test_a_reference_is_not_evaluated_to_be_known(tmp_path):
    reference = Spring(1.0)
    for time_ps in (0.01, 0.02):
        go(tmp_path, ReferenceOnDemand(model(), reference), time_ps=time_ps)
    assert reference.calls == 0


def test_a_calculator_that_scatters_goes_on_and_is_named(tmp_path):
    """Its numbers are never the same twice: that is said, and is no other calculator."""

    def scattering(seed, k=1.0):
        return CombinedCalculator(model(), Spring(k, scatter=1e-2, seed=seed))

    go(tmp_path, scattering(0))
    with pytest.raises(ConfigurationError, match="another calculator"):
        go(tmp_path, scattering(1, k=2.0), time_ps=0.02)
    with pytest.warns(CheckpointWarning, match=r"not deterministic.*Spring"):
        assert go(tmp_path, scattering(1), time_ps=0.02).steps == 20


def test_momenta_that_were_given_belong_to_a_run(tmp_path):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 8, 3))
    go(tmp_path / "one", model(), momenta=one)
    go(tmp_path / "other", model(), momenta=other)
    last = [read(tmp_path / name / TRAJECTORY)[-1].positions for name in ("one", "other")]
    assert not np.allclose(*last, atol=1e-3)
    with pytest.raises(ConfigurationError, match="momenta"):
        go(tmp_path / "one", model(), momenta=other)
    with pytest.raises(ConfigurationError, match="momenta"):
        go(tmp_path / "one", model())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert go(tmp_path / "one", model(), momenta=one, time_ps=0.02).steps == 20


def test_momenta_that_a_run_draws_follow_from_its_seed(tmp_path):
    go(tmp_path / "parts", model())
    go(tmp_path / "parts", model(), time_ps=0.02)
    go(tmp_path / "whole", model(), time_ps=0.02)
    parts, whole = (read(tmp_path / name / TRAJECTORY) for name in ("parts", "whole"))
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(parts, whole, strict=True))
    with pytest.raises(ConfigurationError, match="seed"):
        go(tmp_path / "parts", model(), seed=1)


def test_a_run_says_which_calculator_it_had(tmp_path):
    go(tmp_path / "a", CombinedCalculator(model(), Spring(0.1)))
    go(tmp_path / "b", CombinedCalculator(model(), Spring(0.2)))
    a, b = (json.loads((tmp_path / name / SUMMARY).read_text())["run"] for name in "ab")
    assert a["identity"] == b["identity"]  # all that is declared
    assert a["probe"]["/1 Spring"]["energy"] != b["probe"]["/1 Spring"]["energy"]


def eight():
    atoms = Atoms("N8", positions=HOME)
    atoms.calc = model()
    return atoms


@pytest.mark.parametrize("change", ["charge in info", "initial charges", "magnetic moments"])
def test_another_electronic_state_is_another_run(change):
    one = eight()
    other = eight()
    if change == "charge in info":
        other.info["charge"] = 1
    elif change == "initial charges":
        other.set_initial_charges([1.0] + [0.0] * 7)
    else:
        other.set_initial_magnetic_moments([1.0] + [0.0] * 7)
    assert identity(one).name == identity(eight()).name
    assert identity(one).name != identity(other).name
