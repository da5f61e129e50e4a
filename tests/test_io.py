"""Uncertainties through files: what ASE drops, kept."""

from __future__ import annotations

import copy
import pickle

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError, all_properties
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian
from ase.io.extxyz import per_atom_properties, per_config_properties
from scaled_emt import ScaledEMT

from blipcalc import io
from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import VARIANCES, BayesianCalculator
from blipcalc.calculators.snapshot import SnapshotCalculator, annotate, annotations, clear_annotations, snapshot
from blipcalc.errors import DataError

SUFFIXES = (".traj", ".extxyz", ".xyz", ".db")
EXACT = (".traj", ".db")


def evaluated(atoms, seed=0, raw=True, stress=True):
    atoms.rattle(0.05, seed=seed)
    atoms.calc = BayesianCalculator(committee([ScaledEMT(f) for f in (0.9, 1.0, 1.17)]), raw=raw)
    if stress and atoms.pbc.all():
        atoms.get_stress()
    atoms.get_forces()
    atoms.calc.get_property("atom_std", atoms)
    return atoms


def copper(seed=0):
    return evaluated(bulk("Cu", cubic=True), seed)


def water(seed=0):
    atoms = molecule("H2O")
    atoms.set_momenta(np.random.default_rng(seed).normal(size=(3, 3)))
    return evaluated(atoms, seed)


def same(results, expected, exact):
    assert set(results) == set(expected)
    for key, value in expected.items():
        if exact:
            assert np.array_equal(results[key], value, equal_nan=True), key
        else:
            tolerance = 1e-8 if not key.endswith("_var") else 1e-7
            np.testing.assert_allclose(results[key], value, rtol=0, atol=tolerance, err_msg=key)
        assert np.shape(results[key]) == np.shape(value), key


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("make", [copper, water, lambda seed: evaluated(Atoms("Cu"), seed)])
def test_round_trip(tmp_path, suffix, make):
    frames = [make(seed) for seed in (0, 1)]
    path = tmp_path / f"x{suffix}"
    io.write(path, frames)
    back = io.read(path)
    assert len(back) == 2
    for atoms, read in zip(frames, back, strict=True):
        same(read.calc.results, atoms.calc.results, exact=suffix in EXACT)
        of_stress = {"stress_var", "stress_std", "pressure_var", "pressure_std"}
        assert set(VARIANCES) - set(read.calc.results) == (set() if atoms.pbc.all() else of_stress)
        for key in atoms.calc.results:
            assert np.array_equal(read.calc.get_property(key, read), read.calc.results[key])
        assert read.calc.parameters == {"calibrated": False, "surface": "mean", "n_draws": 3}
        assert not [key for key in (*read.info, *read.arrays) if "blip" in key]
        assert np.array_equal(read.pbc, atoms.pbc)
        assert read.has("momenta") == atoms.has("momenta")
        np.testing.assert_allclose(read.positions, atoms.positions, rtol=0, atol=0 if suffix in EXACT else 5e-9)
        read.get_forces()
        read.get_potential_energy(force_consistent=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_what_was_read_changes_nothing(tmp_path, suffix):
    io.write(tmp_path / f"a{suffix}", copper())
    first = io.read(tmp_path / f"a{suffix}")
    io.write(tmp_path / f"b{suffix}", first)
    same(io.read(tmp_path / f"b{suffix}", 0).calc.results, first[0].calc.results, exact=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nan_survives(tmp_path, suffix):
    atoms = water()
    atoms.calc.results["atom_std"][1] = np.nan
    atoms.calc.results["forces_std"][1] = np.inf
    io.write(tmp_path / f"x{suffix}", atoms)
    read = io.read(tmp_path / f"x{suffix}", -1)
    assert np.isnan(read.calc.get_property("atom_std", read)[1])
    assert np.isinf(read.calc.get_property("forces_std", read)[1]).all()


@pytest.mark.parametrize("suffix", [".traj", ".extxyz"])
def test_a_frame_that_broke_can_be_read_back(tmp_path, suffix):
    atoms = water()
    results = dict(atoms.calc.results)
    atoms.positions[0] = np.nan
    atoms.calc = SnapshotCalculator(atoms, results)
    io.write(tmp_path / f"x{suffix}", atoms)
    read = io.read(tmp_path / f"x{suffix}", 0)
    assert np.isnan(read.positions[0]).all()
    assert np.isfinite(read.calc.get_property("atom_std", read)).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("constraint", [FixAtoms([0, 2]), FixCartesian([0, 2], (True, True, True))])
def test_constraints_do_not_touch_what_is_stored(tmp_path, suffix, constraint):
    atoms = copper()
    atoms.set_constraint(constraint)
    stored = atoms.calc.results["forces"].copy()
    io.write(tmp_path / f"x{suffix}", atoms)
    read = io.read(tmp_path / f"x{suffix}", 0)
    assert read.constraints
    assert (read.get_forces()[[0, 2]] == 0).all()
    np.testing.assert_allclose(read.get_forces(apply_constraint=False), stored, rtol=0, atol=5e-9)
    np.testing.assert_allclose(
        read.calc.get_property("forces_std"), atoms.calc.results["forces_std"], rtol=0, atol=5e-9
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_append_and_index(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    frames = [water(seed) for seed in range(5)]
    for atoms in frames:
        io.write(path, atoms, append=True)
    io.write(path, frames[:2], append=True)
    back = io.read(path)
    assert len(back) == 7
    for atoms, read in zip([*frames, *frames[:2]], back, strict=True):
        same(read.calc.results, atoms.calc.results, exact=suffix in EXACT)
    assert isinstance(io.read(path, -1), Atoms)
    assert isinstance(io.read(path, "0"), Atoms)
    last = io.read(path, "-2:")
    assert len(last) == 2
    assert np.array_equal(last[0].calc.results["atom_std"], back[0].calc.results["atom_std"])
    io.write(path, frames[0])
    assert len(io.read(path)) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_samples_beside_the_file(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    frames = [copper(seed) for seed in range(3)]
    io.write(path, frames[0])
    io.write(path, frames[1:], append=True, samples=True)
    io.write(path, frames[0], append=True, samples=True)
    back = io.read(path)
    assert back[0].calc.samples is None
    for atoms, read in zip([frames[1], frames[2], frames[0]], back[1:], strict=True):
        samples = read.calc.samples
        assert samples.forces.shape == (3, 4, 3)
        assert samples.stress.shape == (3, 6)
        np.testing.assert_allclose(samples.forces.mean(0), atoms.get_forces(), atol=1e-12)
        assert samples.energies is None
    again = tmp_path / "again.traj"
    io.write(again, back[1], samples=True)
    assert np.array_equal(io.read(again, 0).calc.samples.energy, back[1].calc.samples.energy)
    atoms = bulk("Cu")
    atoms.calc = EMT()
    atoms.get_forces()
    with pytest.raises(DataError, match="no samples"):
        io.write(tmp_path / "none.traj", atoms, samples=True)
    assert not (tmp_path / "none.traj").exists()


def test_ases_own_reader_reads_the_files(tmp_path):
    atoms = copper()
    for suffix in (".traj", ".extxyz", ".db"):
        io.write(tmp_path / f"x{suffix}", atoms)
        read = ase.io.read(tmp_path / f"x{suffix}")
        np.testing.assert_allclose(read.get_forces(), atoms.get_forces(), rtol=0, atol=5e-9)
        np.testing.assert_allclose(read.get_stress(), atoms.get_stress(), rtol=0, atol=1e-15)
        assert read.get_potential_energy() == atoms.get_potential_energy()
    assert np.array_equal(ase.io.read(tmp_path / "x.traj").info["blip_forces_std"], atoms.calc.results["forces_std"])
    assert ase.io.read(tmp_path / "x.extxyz").arrays["blip_forces_std"].shape == (4, 3)


def test_what_ases_reader_read_is_not_lost_when_written_again(tmp_path):
    atoms = copper()
    for suffix in (".traj", ".extxyz"):
        io.write(tmp_path / f"a{suffix}", atoms)
        io.write(tmp_path / f"b{suffix}", ase.io.read(tmp_path / f"a{suffix}"))
        read = io.read(tmp_path / f"b{suffix}", 0)
        np.testing.assert_allclose(
            read.calc.get_property("atom_std"), atoms.calc.results["atom_std"], rtol=0, atol=5e-9
        )


def test_files_of_others_are_read_as_ase_reads_them(tmp_path):
    atoms = bulk("Cu")
    atoms.calc = EMT()
    atoms.get_forces()
    ase.io.write(tmp_path / "x.extxyz", atoms)
    (read,) = io.read(tmp_path / "x.extxyz")
    assert isinstance(read.calc, SinglePointCalculator)
    ase.io.write(tmp_path / "bare.traj", bulk("Cu"))
    assert io.read(tmp_path / "bare.traj", 0).calc is None


def test_positive_control_ase_alone_drops_them(tmp_path):
    atoms = copper()
    for name in ("x.traj", "x.extxyz"):
        ase.io.write(tmp_path / name, atoms)
        read = ase.io.read(tmp_path / name)
        assert "atom_std" not in read.calc.results
        assert not read.info
    with pytest.raises(AssertionError):
        SinglePointCalculator(atoms, **atoms.calc.results)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_results_of_another_structure_are_not_written(tmp_path, suffix):
    atoms = copper()
    atoms.positions[0, 0] += 0.1
    io.write(tmp_path / f"x{suffix}", atoms)
    read = io.read(tmp_path / f"x{suffix}", 0)
    assert read.calc is None
    assert "blip_atom_std" not in read.info


@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
def test_a_failing_frame_leaves_files_as_they_were(tmp_path, suffix, monkeypatch):
    good, bad = water(0), water(1)
    path = tmp_path / f"x{suffix}"
    if suffix == ".extxyz":
        bad.info["loose"] = {1, 2}
        expected = pytest.raises(DataError, match=r"frame 1: info\['loose'\] holds a set")
    else:
        original = ase.io.trajectory.TrajectoryWriter.write

        def fail(self, atoms=None, **kwargs):
            if atoms.info.get("bad"):
                raise OSError("no space left")
            return original(self, atoms, **kwargs)

        bad.info["bad"] = True
        monkeypatch.setattr(ase.io.trajectory.TrajectoryWriter, "write", fail)
        expected = pytest.raises(OSError)
    with expected:
        io.write(path, [good, bad])
    assert not list(tmp_path.iterdir())
    io.write(path, good)
    before = path.read_bytes()
    for append in (False, True):
        with expected:
            io.write(path, [good, bad], append=append)
        assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_refusals(tmp_path):
    with pytest.raises(DataError, match="known suffixes"):
        io.write(tmp_path / "x.cif", water())
    with pytest.raises(DataError, match="at least one frame"):
        io.write(tmp_path / "x.traj", [])
    with pytest.raises(DataError, match="no such file"):
        io.read(tmp_path / "x.traj")
    with pytest.raises(DataError, match="known suffixes"):
        io.read(tmp_path / "x.cif")


def test_snapshot_is_frozen():
    atoms = copper()
    results = {key: np.copy(value) for key, value in atoms.calc.results.items()}
    frame = snapshot(atoms)
    atoms.positions += 1
    atoms.calc.results["forces"][:] = 0
    same(frame.calc.results, results, exact=True)
    frame.calc.get_property("forces", frame)[:] = 0  # a copy
    assert np.array_equal(frame.get_forces(), results["forces"])
    assert frame.get_properties(["energy"])["energy"] == results["energy"]
    for clone in (copy.deepcopy(frame), pickle.loads(pickle.dumps(frame))):
        assert np.array_equal(clone.calc.get_property("atom_std", clone), results["atom_std"])
    with pytest.raises(PropertyNotImplementedError, match="dipole"):
        frame.get_dipole_moment()
    frame.positions[0] += 0.1
    with pytest.raises(PropertyNotImplementedError, match="positions changed"):
        frame.get_forces()
    assert frame.calc.get_property("forces", frame, allow_calculation=False) is None
    assert np.array_equal(frame.calc.get_property("forces"), results["forces"])


def test_snapshot_of_what_was_never_evaluated():
    atoms = bulk("Cu")
    assert snapshot(atoms).calc is None
    atoms.calc = EMT()
    assert snapshot(atoms).calc is None
    atoms.get_potential_energy()
    assert snapshot(atoms).get_potential_energy() == atoms.get_potential_energy()


def test_annotations_for_ases_own_writer(tmp_path):
    atoms = copper()
    atoms.info["mine"] = 1
    annotate(atoms)
    assert set(annotations(atoms)) == set(atoms.info) - {"mine"}
    ase.io.write(tmp_path / "x.traj", atoms)
    same(io.read(tmp_path / "x.traj", 0).calc.results, atoms.calc.results, exact=True)
    clear_annotations(atoms)
    assert atoms.info == {"mine": 1}


def test_annotations_of_another_structure_are_dropped(tmp_path):
    atoms = copper()
    annotate(atoms)
    ase.io.write(tmp_path / "x.traj", atoms)
    for change in ("positions", "cell", "numbers", "pbc"):
        again = ase.io.read(tmp_path / "x.traj")
        again.calc = None
        again.positions[0, 0] += 1e-3 * (change == "positions")
        again.cell[0, 0] += 1e-3 * (change == "cell")
        again.numbers[0] += change == "numbers"
        again.pbc[0] ^= change == "pbc"
        ase.io.write(tmp_path / "y.traj", again)
        assert io.read(tmp_path / "y.traj", 0).calc is None, change
        io.write(tmp_path / "z.traj", again)
        assert not [key for key in ase.io.read(tmp_path / "z.traj").info if key.startswith("blip_")], change


def test_annotations_survive_the_rounding_of_text(tmp_path):
    atoms = copper()
    io.write(tmp_path / "x.xyz", atoms)
    ase.io.write(tmp_path / "y.xyz", ase.io.read(tmp_path / "x.xyz"))
    kept = io.read(tmp_path / "y.xyz", 0)
    assert kept.calc.get_property("atom_std") == pytest.approx(atoms.calc.results["atom_std"], abs=1e-8)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_users_info_survives(tmp_path, suffix):
    atoms = copper()
    atoms.info.update(label="run 7", count=3, weights=np.arange(3.0))
    io.write(tmp_path / f"x{suffix}", atoms)
    info = io.read(tmp_path / f"x{suffix}", 0).info
    assert (info["label"], info["count"], info["weights"].tolist()) == ("run 7", 3, [0.0, 1.0, 2.0])


def test_ases_lists_are_left_alone(tmp_path):
    before = [list(names) for names in (all_properties, per_atom_properties, per_config_properties)]
    implemented = list(EMT.implemented_properties)
    for suffix in SUFFIXES:
        io.write(tmp_path / f"x{suffix}", copper())
        io.read(tmp_path / f"x{suffix}")
    assert before == [list(names) for names in (all_properties, per_atom_properties, per_config_properties)]
    assert implemented == EMT.implemented_properties
