"""Through every file and back: arrays, info, constraints and the rest of a structure come back equal, or the write is refused."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCartesianParametricRelations,
    FixCom,
    FixConstraint,
    FixedLine,
    FixedMode,
    FixedPlane,
    FixInternals,
    FixLinearTriatomic,
    FixScaled,
    FixSubsetCom,
    FixSymmetry,
    Hookean,
    MirrorForce,
    MirrorTorque,
)

from blipcalc import io
from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.snapshot import clear_annotations
from blipcalc.cli.options import structure_of
from blipcalc.core.constraints import content_of
from blipcalc.core.dropped_by_ase import KEPT, put_back
from blipcalc.data.labels import read_labelled
from blipcalc.errors import ConfigurationError, DataError
from blipcalc.md.restart import identity
from blipcalc.md.run_md import run_md

FORMATS = pytest.mark.parametrize("suffix", [".traj", ".extxyz", ".xyz", ".db"])
RNG = np.random.default_rng(0)

ARRAYS = {
    "REF_forces": RNG.normal(size=(4, 3)),
    "number": RNG.normal(size=4),
    "whole": np.arange(4),
    "many_whole": np.arange(12).reshape(4, 3),
    "yes": np.array([True, False, True, False]),
    "many_yes": np.ones((4, 2), dtype=bool),
    "words": np.array(["a", "bcd", "e", "f"]),
    "words with spaces": np.array(["a b", "", '"', "T"]),
    "words_in_columns": np.array([["a", "b"]] * 4),
    "one_column": RNG.normal(size=(4, 1)),
    "tensor": RNG.normal(size=(4, 3, 3)),
    "complex": np.ones(4) * 1j,
    "single": np.ones(4, dtype=np.float32),
    "tiny": np.full(4, 1e-12),
    "broken": np.array([np.nan, np.inf, 1.0, -np.inf]),
    "nothing": np.zeros((4, 0)),
    # names that mean something else to readers
    "forces": np.ones((4, 3)),
    "charge": np.ones(4),
    "magmoms": np.ones(4),
    "energies": np.ones(4),
    "pos": np.ones((4, 3)),
    "move_mask": np.ones(4, dtype=bool),
    "name with = and \n": np.ones(4),
    # ASE's own
    "masses": np.full(4, 3.5),
    "tags": np.arange(4),
    "momenta": RNG.normal(size=(4, 3)),
    "initial_charges": np.full(4, 0.5),
    "initial_magmoms": np.arange(4.0),
}
INFO = {
    "word": "x", "number_in_words": "001", "letter": "T", "empty": "", "quotes": 'he said "a b" \\n', "lines": "a\nb",
    "equation": "a, b c=d", "unicode": "é", "number": 1.25, "whole": 3, "yes": True, "none": None, "nan": float("nan"),
    "complex": 1 + 2j, "numpy": np.float64(0.1), "numpy_whole": np.int64(3), "list": [1, 2], "list_of_numbers": [1.5, 2.5],
    "list_of_words": ["a", "b"], "no_list": [], "ragged": [[1], [1, 2]], "dict": {"a": 1, "b": [1, 2]}, "dict_of_whole": {1: "a"},
    "nested": {"a": {"b": np.arange(3)}}, "array": np.arange(3.0), "matrix": np.arange(9.0).reshape(3, 3) + 0.1,
    "whole_matrix": np.arange(6).reshape(2, 3), "deep": np.zeros((2, 2, 2)), "words": np.array(["a", "b"]),
    "energy": -3.0, "stress": np.arange(6.0), "virial": np.arange(9.0).reshape(3, 3), "pbc": "mine", "REF_energy": -31.7,
    "key with spaces": 1, 7: "a number for a key", "step": 3,
}  # fmt: skip


def crystal():
    return bulk("Cu", cubic=True)


def equal(found, expected):
    """The same values in the same kind of container; numpy's numbers are numbers."""
    if isinstance(expected, np.ndarray):
        assert isinstance(found, np.ndarray)
        assert (found.shape, found.dtype.kind) == (expected.shape, expected.dtype.kind)
        return np.array_equal(found, expected, equal_nan=expected.dtype.kind in "fc")
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(equal(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(equal, found, expected))
    if isinstance(expected, float) and expected != expected:
        return found != found
    return isinstance(found, (bool, np.bool_)) == isinstance(expected, (bool, np.bool_)) and bool(found == expected)


def through(path, atoms):
    """After one round, and after a second one."""
    io.write(path, atoms)
    once = io.read(path, 0)
    io.write(path, once)
    twice = io.read(path, 0)
    return once, twice


@FORMATS
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(tmp_path, suffix, name):
    atoms = crystal()
    atoms.arrays[name] = ARRAYS[name]
    for back in through(tmp_path / f"x{suffix}", atoms):
        found, is_text = back.arrays[name], "xyz" in suffix
        if is_text and ARRAYS[name].dtype.kind == "f":
            assert found.shape == ARRAYS[name].shape
            np.testing.assert_allclose(found, ARRAYS[name], rtol=0, atol=5e-9)
            assert name != "tiny" or np.array_equal(found, ARRAYS[name])
        else:
            assert equal(found, ARRAYS[name])
        assert back.calc is None
        assert not [key for key in back.info if "blip" in str(key)]


@FORMATS
@pytest.mark.parametrize("key", INFO)
def test_info_comes_back(tmp_path, suffix, key):
    atoms = crystal()
    atoms.info[key] = INFO[key]
    for back in through(tmp_path / f"x{suffix}", atoms):
        assert list(back.info) == [key]
        assert equal(back.info[key], INFO[key]), back.info[key]
        assert back.calc is None


@FORMATS
def test_all_of_it_at_once_beside_results(tmp_path, suffix):
    atoms = crystal()
    atoms.arrays.update({name: values for name, values in ARRAYS.items() if name != "broken"})
    atoms.info.update(INFO)
    atoms.set_celldisp([1.0, 2.0, 3.0])
    atoms.set_constraint([FixAtoms([0]), Hookean(1, 2, 5.0, rt=2.0)])
    atoms.calc = Springs()
    atoms.get_forces(apply_constraint=False)
    before = {name: values.copy() for name, values in atoms.arrays.items()}, dict(atoms.info)
    back = through(tmp_path / f"x{suffix}", atoms)[1]
    assert set(back.arrays) == set(atoms.arrays)
    assert set(back.info) == set(INFO)
    assert all(equal(back.info[key], value) for key, value in INFO.items())
    assert back.get_celldisp().ravel().tolist() == [1.0, 2.0, 3.0]
    assert contents(back) == contents(atoms)
    np.testing.assert_allclose(
        back.get_forces(apply_constraint=False), atoms.get_forces(apply_constraint=False), rtol=0, atol=5e-9
    )
    # the structure that was written is as it was
    assert all(np.array_equal(atoms.arrays[name], values) for name, values in before[0].items())
    assert list(atoms.info) == list(before[1])
    assert len(atoms.constraints) == 2


@FORMATS
def test_magnetic_moments_of_three_components(tmp_path, suffix):
    atoms = crystal()
    atoms.set_initial_magnetic_moments(np.arange(12.0).reshape(4, 3))
    for back in through(tmp_path / f"x{suffix}", atoms):
        assert np.array_equal(back.get_initial_magnetic_moments(), np.arange(12.0).reshape(4, 3))


CONSTRAINTS = {
    "FixAtoms": lambda a: FixAtoms([0, 2]),
    "two FixAtoms": lambda a: [FixAtoms([0]), FixAtoms([1])],
    "FixCartesian": lambda a: FixCartesian([0], (True, False, True)),
    "FixBondLengths": lambda a: FixBondLengths([[0, 1], [2, 3]]),
    "FixInternals": lambda a: FixInternals(
        bonds=[[2.5, [0, 1]]], angles_deg=[[60.0, [0, 1, 2]]], dihedrals_deg=[[70.0, [0, 1, 2, 3]]]
    ),
    "FixLinearTriatomic": lambda a: FixLinearTriatomic([(0, 1, 2)]),
    "Hookean": lambda a: [Hookean(0, 1, 5.0, rt=2.0), Hookean(0, (1.0, 2.0, 3.0), 1.0, rt=0.1), Hookean(1, (0, 0, 1, -7), 2.0)],
    "FixCom": lambda a: FixCom(),
    "FixSubsetCom": lambda a: FixSubsetCom([0, 1]),
    "FixedPlane": lambda a: FixedPlane(1, (0, 0, 1)),
    "FixedLine": lambda a: FixedLine([1, 2], (0, 1, 0)),
    "FixScaled": lambda a: FixScaled(0, (1, 0, 1)),
    "FixedMode": lambda a: FixedMode(np.eye(4, 3) * [[1], [0], [0], [0]]),
    "ExternalForce": lambda a: ExternalForce(0, 1, 0.3),
    "MirrorForce": lambda a: MirrorForce(0, 1),
    "MirrorTorque": lambda a: MirrorTorque(0, 1, 2, 3),
    "parametric": lambda a: FixCartesianParametricRelations.from_expressions([0, 1], ["x"], ["x", "0", "0", "0", "x", "0"]),
    "mixed": lambda a: [FixAtoms([3]), FixedPlane(1, (0, 0, 1)), FixCom()],
}  # fmt: skip


def contents(atoms):
    return [content_of(constraint) for constraint in atoms.constraints]


@FORMATS
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_come_back(tmp_path, suffix, name):
    atoms = crystal()
    atoms.set_constraint(CONSTRAINTS[name](atoms))
    for back in through(tmp_path / f"x{suffix}", atoms):
        assert contents(back) == contents(atoms)
        assert [type(c) for c in back.constraints] == [type(c) for c in atoms.constraints]


@FORMATS
def test_symmetry_comes_back(tmp_path, suffix):
    pytest.importorskip("spglib")
    atoms = crystal()
    atoms.set_constraint(FixSymmetry(atoms))
    for back in through(tmp_path / f"x{suffix}", atoms):
        assert contents(back) == contents(atoms)
        forces = RNG.normal(size=(4, 3))
        back.constraints[0].adjust_forces(back, forces)
        np.testing.assert_allclose(forces, 0.0, atol=1e-12)  # every site of fcc has inversion


class Own(FixConstraint):
    """A user's constraint, which says nothing of itself."""

    def __init__(self, height, index=0):
        self.height, self.index = height, index

    def get_removed_dof(self, atoms):
        return 1

    def adjust_positions(self, atoms, new):
        new[self.index, 2] = self.height

    def adjust_forces(self, atoms, forces):
        forces[self.index, 2] = 0.0


@FORMATS
def test_what_cannot_be_kept_is_refused_by_name(tmp_path, suffix):
    path, atoms = tmp_path / f"x{suffix}", crystal()
    atoms.set_constraint(Own(1.0))
    with pytest.raises(DataError, match="frame 1: a constraint Own cannot be kept"):
        io.write(path, [crystal(), atoms])
    for value in ({1, 2}, b"x", object(), lambda: None):
        wrong = crystal()
        wrong.info["mine"] = value
        with pytest.raises(DataError, match=r"frame 0: info\['mine'\] holds a"):
            io.write(path, wrong)
    assert not list(tmp_path.iterdir())


@FORMATS
def test_ases_own_reader_and_writer_on_the_way(tmp_path, suffix):
    """What ASE reads holds the text, from which everything comes back when it is written again."""
    atoms = crystal()
    atoms.arrays["REF_forces"], atoms.info["letter"] = ARRAYS["REF_forces"], "T"
    atoms.set_constraint(FixedPlane(1, (0, 0, 1)))
    io.write(tmp_path / f"x{suffix}", atoms)
    read = ase.io.read(tmp_path / f"x{suffix}")
    np.testing.assert_allclose(read.positions, atoms.positions, atol=1e-8)
    if suffix == ".db":
        return  # ASE leaves the data of a row behind
    assert KEPT in read.info
    io.write(tmp_path / "y.traj", read)
    back = io.read(tmp_path / "y.traj", 0)
    np.testing.assert_allclose(back.arrays["REF_forces"], ARRAYS["REF_forces"], atol=5e-9)
    assert contents(back) == contents(atoms)
    assert back.info == {"letter": "T"}
    read.set_constraint()
    del read[0]
    with pytest.raises(DataError, match="4 atoms, the structure has 3"):
        io.write(tmp_path / "z.traj", read) if suffix == ".traj" else io.write(tmp_path / "z.traj", _with_text(read))


def _with_text(atoms):
    """Text keeps the array in a column; one that only the text holds."""
    one = crystal()
    one.arrays["tensor"] = ARRAYS["tensor"]
    from blipcalc.core.dropped_by_ase import set_aside

    set_aside(one, ".extxyz")
    atoms.info[KEPT] = one.info[KEPT]
    return atoms


def test_structures_of_ases_builders_are_written(tmp_path):
    from ase.spacegroup import crystal as symmetric

    slab = fcc111("Cu", (2, 2, 3), vacuum=8)
    salt = symmetric(["Na", "Cl"], [(0, 0, 0), (0.5, 0.5, 0.5)], spacegroup=225, cellpar=[5.64] * 3 + [90] * 3)
    for suffix in (".traj", ".extxyz", ".db"):
        io.write(tmp_path / f"x{suffix}", [slab, salt])
        one, two = io.read(tmp_path / f"x{suffix}")
        assert one.info["adsorbate_info"].keys() == slab.info["adsorbate_info"].keys()
        assert np.array_equal(two.arrays["spacegroup_kinds"], salt.arrays["spacegroup_kinds"])
        assert two.info["spacegroup"]["number"] == 225


class Springs(Calculator):
    """Pair springs between all atoms."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, k=1.0):
        super().__init__()
        self.k = k
        self.parameters.update(k=k)

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        d = self.atoms.positions[:, None] - self.atoms.positions[None]
        r = np.linalg.norm(d, axis=-1) + np.eye(len(d))
        x = (r - 2.5) * (1 - np.eye(len(d)))
        self.results = {"energy": 0.25 * self.k * float((x**2).sum()), "forces": -self.k * (x / r)[..., None] * d}
        self.results["forces"] = self.results["forces"].sum(axis=1)


def molecule():
    atoms = Atoms("Ar4", [[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [0, 0, 2.5]])
    atoms.calc = BayesianCalculator(committee([Springs(k) for k in (0.9, 1.0, 1.1)]), raw=True)
    return atoms


@pytest.mark.parametrize("suffix", [".extxyz", ".traj"])
def test_md_with_constraints_writes_frames_that_come_back(tmp_path, suffix):
    atoms = molecule()
    atoms.set_constraint([FixAtoms([0]), FixBondLengths([[1, 2]]), FixedPlane(3, (0, 0, 1))])
    atoms.arrays["REF_forces"] = ARRAYS["REF_forces"]
    summary, _ = run_md(
        atoms, time_ps=0.004, timestep_fs=1.0, temperature_K=30.0, threshold=5.0, ensemble="nve", write_every=2,
        trajectory=tmp_path / f"run{suffix}", progress=False,
    )  # fmt: skip
    assert summary.status == "finished"
    frames = io.read(tmp_path / f"run{suffix}")
    assert [frame.info["step"] for frame in frames] == [0, 2, 4]
    for frame in frames:
        assert contents(frame) == contents(atoms)
        np.testing.assert_allclose(frame.arrays["REF_forces"], ARRAYS["REF_forces"], atol=5e-9)
        assert frame.calc.get_property("atom_std", frame).shape == (4,)


# -- identities of runs


def held(constraint):
    atoms = molecule()
    atoms.set_constraint(constraint)
    return identity(atoms).name


def test_every_constraint_has_an_identity():
    pytest.importorskip("spglib")
    atoms = crystal()
    found = [held(make(atoms)) for make in CONSTRAINTS.values()] + [held(FixSymmetry(atoms))]
    assert len(set(found)) == len(found)
    assert found == [held(make(atoms)) for make in CONSTRAINTS.values()] + [held(FixSymmetry(atoms))]
    moved = crystal()
    moved.rattle(0.1, seed=0)
    assert held(FixSymmetry(moved)) != held(FixSymmetry(atoms))
    assert held(FixSymmetry(atoms, symprec=0.02)) != held(FixSymmetry(atoms))


def test_a_constraint_that_says_nothing_is_told_by_what_it_holds():
    assert held(Own(1.0)) == held(Own(1.0))
    assert len({held(Own(1.0)), held(Own(1.0 + 1e-12)), held(Own(1.0, 1)), held(Own(np.arange(3)))}) == 4
    with pytest.raises(ConfigurationError, match="constraint Own holds a function"):
        held(Own(lambda: 1.0))


def test_md_keeps_a_symmetry_and_goes_on_with_it(tmp_path):
    """ASE does not say how many freedoms FixSymmetry holds: they are counted."""
    pytest.importorskip("spglib")
    calc, ends = molecule().calc, []
    for times in ((0.004,), (0.002, 0.004)):
        for time_ps in times:
            atoms = crystal()
            atoms.set_constraint(FixSymmetry(crystal()))
            atoms.calc = calc
            run_md(
                atoms, time_ps=time_ps, timestep_fs=1.0, threshold=50.0, folder=tmp_path / str(times), progress=False
            )
        ends.append(atoms)
    np.testing.assert_array_equal(ends[0].positions, ends[1].positions)


def test_md_that_writes_refuses_a_constraint_that_no_file_holds(tmp_path):
    atoms = molecule()
    atoms.set_constraint(Own(0.0))
    settings = {"time_ps": 0.002, "timestep_fs": 1.0, "temperature_K": 30.0, "threshold": 5.0, "progress": False}
    assert run_md(atoms, **settings)[0].status == "finished"
    with pytest.raises(DataError, match="constraint Own cannot be kept"):
        run_md(atoms, **settings, folder=tmp_path / "run")


# -- readers of other rooms


@pytest.mark.parametrize("suffix", [".traj", ".db", ".xyz"])
def test_every_reader_gives_back_what_was_kept(tmp_path, suffix):
    """Labels under the user's names, and constraints that the format cannot hold."""
    path, atoms = tmp_path / f"frames{suffix}", molecule()
    atoms.calc = None
    atoms.arrays["REF_forces"] = np.arange(3.0 * len(atoms)).reshape(-1, 3)
    atoms.info["REF_energy"] = -31.7
    atoms.set_constraint(FixCartesian(0, (True, False, False)))
    io.write(path, atoms)
    (frame,) = read_labelled(path, energy_key="REF_energy", forces_key="REF_forces")
    assert frame.get_potential_energy() == pytest.approx(-31.7)
    np.testing.assert_allclose(frame.get_forces(apply_constraint=False), atoms.arrays["REF_forces"], atol=1e-7)
    if suffix != ".db":
        assert [type(held) for held in structure_of(path).constraints] == [FixCartesian]


def test_notes_that_go_leave_what_was_kept(tmp_path):
    atoms = molecule()
    atoms.arrays["REF_forces"] = np.ones((len(atoms), 3))
    io.write(tmp_path / "frame.traj", atoms)
    frame = ase.io.read(tmp_path / "frame.traj")
    clear_annotations(frame)
    put_back(frame)
    np.testing.assert_array_equal(frame.arrays["REF_forces"], 1.0)
