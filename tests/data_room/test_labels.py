"""Labelled structures: four file formats give the same thing in the same units, and bad data get named errors."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import ase.db
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write

from blipcalc.data.labels import check_labels, frame_hash, labels, read_labelled
from blipcalc.errors import (
    CoincidentAtomsError,
    DataError,
    EmptyStructureError,
    MissingLabelsError,
    NonFiniteLabelsError,
    SingularCellError,
    UnknownKeyError,
)

ETHANOL = Path(__file__).parents[1] / "data" / "rmd17_ethanol_30.npz"
#: eV in a kcal/mol, from the definitions of the calorie, the elementary charge and Avogadro's number (SI 2019)
KCAL_PER_MOL = 4184.0 / (1.602176634e-19 * 6.02214076e23)
BOHR = 0.529177210903
FINGERPRINT = 1548166135582368565


def labelled(atoms: Atoms, energy: float, forces: np.ndarray) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def frames(n: int = 4, seed: int = 0, periodic: bool = False) -> list[Atoms]:
    """Rattled structures with labels of no physical meaning."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        atoms = bulk("NaCl", "rocksalt", a=5.6) if periodic else molecule("H2O")
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        made.append(labelled(atoms, float(rng.normal(-5, 1)), rng.normal(0, 1, (len(atoms), 3))))
    return made


@pytest.fixture(scope="module")
def ethanol() -> list[Atoms]:
    return read_labelled(ETHANOL, energy_unit="kcal/mol")


def same(first: list[Atoms], second: list[Atoms], rtol: float = 0.0, atol: float = 0.0) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.numbers.tolist() == b.numbers.tolist()
        assert a.pbc.tolist() == b.pbc.tolist()
        np.testing.assert_allclose(a.positions, b.positions, rtol=rtol, atol=atol)
        np.testing.assert_allclose(a.cell.array, b.cell.array, rtol=rtol, atol=atol)
        np.testing.assert_allclose(labels(a)[0], labels(b)[0], rtol=rtol, atol=atol)
        np.testing.assert_allclose(labels(a)[1], labels(b)[1], rtol=rtol, atol=atol)


# -- formats and units --------------------------------------------------------------------------------------------------


def test_npz_of_rmd17_in_its_own_units(ethanol):
    with np.load(ETHANOL, allow_pickle=False) as stored:
        raw = {name: stored[name] for name in stored.files}
    assert len(ethanol) == 30
    for k, atoms in enumerate(ethanol):
        energy, forces = labels(atoms)
        assert atoms.numbers.tolist() == raw["nuclear_charges"].tolist()
        assert not atoms.pbc.any()
        np.testing.assert_array_equal(atoms.positions, raw["coords"][k])
        np.testing.assert_allclose(energy, raw["energies"][k] * KCAL_PER_MOL, rtol=1e-8)
        np.testing.assert_allclose(forces, raw["forces"][k] * KCAL_PER_MOL, rtol=1e-8)
    # two C, one O and six H in PBE: total energies, not formation energies
    assert -4250 < labels(ethanol[0])[0] < -4150


@pytest.mark.parametrize("suffix", [".extxyz", ".xyz", ".traj", ".db"])
def test_formats_give_identical_structures(ethanol, tmp_path, suffix):
    path = tmp_path / f"ethanol{suffix}"
    if suffix == ".db":
        with ase.db.connect(path) as rows:
            for atoms in ethanol:
                rows.write(atoms)
    else:
        write(path, ethanol, format="traj" if suffix == ".traj" else "extxyz")
    text = suffix in (".extxyz", ".xyz")  # eight decimals
    same(read_labelled(path), ethanol, atol=1e-8 if text else 0.0, rtol=1e-12 if text else 0.0)


@pytest.mark.parametrize("suffix", [".extxyz", ".traj", ".db"])
def test_formats_keep_cell_and_periodicity(tmp_path, suffix):
    made = frames(periodic=True)
    path = tmp_path / f"salt{suffix}"
    if suffix == ".db":
        with ase.db.connect(path) as rows:
            for atoms in made:
                rows.write(atoms)
    else:
        write(path, made)
    same(read_labelled(path), made, atol=1e-8)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("eV", 1.0),
        ("meV", 1e-3),
        ("kcal/mol", 0.0433641153),
        ("kJ/mol", 0.0103642697),
        ("Hartree", 27.211386246),
        ("Rydberg", 13.605693123),
    ],
)
@pytest.mark.parametrize(("length", "angstrom"), [("Angstrom", 1.0), ("Bohr", BOHR), ("nm", 10.0)])
@pytest.mark.parametrize("suffix", [".npz", ".extxyz"])
def test_units_are_converted_once_and_everywhere(tmp_path, unit, factor, length, angstrom, suffix):
    made = frames(3, periodic=suffix == ".extxyz")
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":
        np.savez(
            path,
            z=made[0].numbers,
            R=np.array([a.positions for a in made]),
            E=np.array([labels(a)[0] for a in made]),
            F=np.array([labels(a)[1] for a in made]),
        )
    else:
        write(path, made)
    for before, after in zip(made, read_labelled(path, energy_unit=unit, length_unit=length), strict=True):
        np.testing.assert_allclose(after.positions, before.positions * angstrom, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(after.cell.array, before.cell.array * angstrom, rtol=1e-6)
        np.testing.assert_allclose(labels(after)[0], labels(before)[0] * factor, rtol=1e-6)
        np.testing.assert_allclose(labels(after)[1], labels(before)[1] * factor / angstrom, rtol=1e-6, atol=1e-7)


def test_reading_does_not_convert_twice(ethanol, tmp_path):
    write(tmp_path / "once.traj", ethanol)
    same(read_labelled(tmp_path / "once.traj"), ethanol)


@pytest.mark.parametrize(
    ("index", "expected"),
    [(":", range(30)), ("5", [5]), ("-1", [29]), (":4", range(4)), ("::10", [0, 10, 20]), ("-2:", [28, 29])],
)
def test_an_index_picks_the_same_frames_of_every_format(ethanol, tmp_path, index, expected):
    write(tmp_path / "x.traj", ethanol)
    wanted = [ethanol[k] for k in expected]
    same(read_labelled(ETHANOL, energy_unit="kcal/mol", index=index), wanted)
    same(read_labelled(tmp_path / "x.traj", index=index), wanted)


def test_npz_with_numbers_per_frame(tmp_path):
    made = frames(3)
    numbers = np.array([[8, 1, 1], [1, 8, 1], [1, 1, 8]])
    np.savez(
        tmp_path / "x.npz",
        Z=numbers,
        positions=np.array([a.positions for a in made]),
        energy=np.array([[labels(a)[0]] for a in made]),
        forces=np.array([labels(a)[1] for a in made]),
    )
    found = read_labelled(tmp_path / "x.npz")
    assert [a.numbers.tolist() for a in found] == numbers.tolist()
    assert [labels(a)[0] for a in found] == [labels(a)[0] for a in made]


def test_custom_keys(tmp_path):
    made = frames(3)
    plain = []
    for atoms in made:
        copy = atoms.copy()
        copy.info["REF_energy"], copy.arrays["REF_forces"] = labels(atoms)
        plain.append(copy)
    write(tmp_path / "x.extxyz", plain)
    keys = {"energy_key": "REF_energy", "forces_key": "REF_forces"}
    same(read_labelled(tmp_path / "x.extxyz", **keys), made, atol=1e-8)
    np.savez(
        tmp_path / "x.npz",
        z=made[0].numbers,
        R=np.array([a.positions for a in made]),
        REF_energy=np.array([labels(a)[0] for a in made]),
        REF_forces=np.array([labels(a)[1] for a in made]),
        E=np.zeros(3),
        F=np.zeros((3, 3, 3)),
    )
    same(read_labelled(tmp_path / "x.npz", **keys), made)


def test_custom_keys_win_over_labels_of_another_level_of_theory(tmp_path):
    made = frames(2)
    for atoms in made:
        atoms.info["dft_energy"] = 1.0
        atoms.arrays["dft_forces"] = np.full((3, 3), 2.0)
    write(tmp_path / "x.extxyz", made)
    found = read_labelled(tmp_path / "x.extxyz", energy_key="dft_energy", forces_key="dft_forces")
    assert [labels(a)[0] for a in found] == [1.0, 1.0]
    assert (labels(found[0])[1] == 2.0).all()


def database(path: Path, made: list[Atoms], pairs: dict[str, str], data: dict[str, str]) -> None:
    """Rows without calculators; labels under names of ``key_value_pairs`` and ``data``."""
    with ase.db.connect(path) as rows:
        for atoms in made:
            both = dict(zip(("energy", "forces"), labels(atoms), strict=True))
            rows.write(
                atoms.copy(),
                key_value_pairs={name: both[what] for name, what in pairs.items()} | {"config": "water"},
                data={name: both[what] for name, what in data.items()} | {"notes": {"by": "hand"}},
            )


@pytest.mark.parametrize("suffix", [".db", ".json"])
@pytest.mark.parametrize("energy_in", ["pairs", "data"])
def test_custom_keys_of_a_database_are_found_in_its_pairs_and_its_data(tmp_path, suffix, energy_in):
    made = frames(4)
    energy, forces = {"dft_energy": "energy"}, {"dft_forces": "forces"}
    pairs, data = (energy, forces) if energy_in == "pairs" else ({}, energy | forces)
    database(tmp_path / f"x{suffix}", made, pairs, data)
    found = read_labelled(tmp_path / f"x{suffix}", energy_key="dft_energy", forces_key="dft_forces")
    same(found, made, rtol=1e-14)
    assert [atoms.info["config"] for atoms in found] == ["water"] * 4
    picked = read_labelled(tmp_path / f"x{suffix}", energy_key="dft_energy", forces_key="dft_forces", index="1::2")
    same(picked, made[1::2], rtol=1e-14)


def test_plain_labels_in_the_data_of_a_database_are_found(tmp_path):
    made = frames(3)
    database(tmp_path / "x.db", made, {}, {"energy": "energy", "forces": "forces"})
    same(read_labelled(tmp_path / "x.db"), made)


def test_custom_keys_of_a_database_win_over_those_of_its_calculator(tmp_path):
    atoms = frames(1)[0]
    with ase.db.connect(tmp_path / "x.db") as rows:
        rows.write(atoms, key_value_pairs={"dft_energy": 1.0}, data={"dft_forces": np.full((3, 3), 2.0)})
    keys = {"energy_key": "dft_energy", "forces_key": "dft_forces"}
    energy, forces = labels(read_labelled(tmp_path / "x.db", **keys)[0])
    assert energy == 1.0
    assert (forces == 2.0).all()
    same(read_labelled(tmp_path / "x.db"), [atoms])


def test_unknown_keys_of_a_database_are_refused_and_the_known_ones_named(tmp_path):
    database(tmp_path / "x.db", frames(2), {"dft_energy": "energy"}, {"dft_forces": "forces"})
    with pytest.raises(UnknownKeyError, match=r"x\.db, frame 0: .*'nonsense'.* config, dft_energy, dft_forces, notes"):
        read_labelled(tmp_path / "x.db", energy_key="dft_energy", forces_key="nonsense")


def test_labels_of_fixed_atoms_are_not_zeroed():
    atoms = frames(1)[0]
    atoms.set_constraint(FixAtoms([0]))
    assert (labels(atoms)[1] == atoms.calc.results["forces"]).all()
    assert (atoms.get_forces()[0] == 0).all()


# -- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["energy", "forces", "positions"])
def test_non_finite_labels_are_refused_with_file_and_frame(tmp_path, what, value):
    made = frames(4)
    data = {
        "z": made[0].numbers,
        "positions": np.array([a.positions for a in made]),
        "energy": np.array([labels(a)[0] for a in made]),
        "forces": np.array([labels(a)[1] for a in made]),
    }
    data[what].reshape(4, -1)[2, 0] = value
    np.savez(tmp_path / "bad.npz", **data)
    with pytest.raises(NonFiniteLabelsError, match=rf"bad\.npz, frame 2: {what}"):
        read_labelled(tmp_path / "bad.npz")


def test_missing_forces_are_refused(tmp_path):
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0)
    write(tmp_path / "x.traj", [frames(1)[0], atoms])
    with pytest.raises(MissingLabelsError, match=r"frame 1: .*forces"):
        read_labelled(tmp_path / "x.traj")


def test_missing_labels_are_refused(tmp_path):
    write(tmp_path / "x.extxyz", [molecule("H2O")])
    with pytest.raises(MissingLabelsError, match="energy"):
        read_labelled(tmp_path / "x.extxyz")
    with pytest.raises(MissingLabelsError, match="no calculator"):
        labels(molecule("H2O"))


@pytest.mark.parametrize("name", ["energy_key", "forces_key"])
def test_unknown_keys_are_refused_and_the_known_ones_named(tmp_path, name):
    atoms = frames(1)[0]
    atoms.info["dft_energy"] = 1.0
    write(tmp_path / "x.extxyz", atoms)
    with pytest.raises(UnknownKeyError, match=r"'nonsense'.*dft_energy"):
        read_labelled(tmp_path / "x.extxyz", **{name: "nonsense"})
    with pytest.raises(UnknownKeyError, match=r"nonsense; .*old_indices"):
        read_labelled(ETHANOL, **{name: "nonsense"})


def test_an_npz_of_something_else_is_refused_and_names_what_it_holds(tmp_path):
    np.savez(tmp_path / "x.npz", apples=np.ones(3))
    with pytest.raises(UnknownKeyError, match="apples"):
        read_labelled(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("unit", "near"),
    [
        ("kcal/mole", "kcal/mol"),
        ("hartree", "Hartree"),
        ("kJ/Mol", "kJ/mol"),
        ("ev", "eV"),
    ],
)
def test_a_wrong_unit_is_refused_with_the_nearest_one(unit, near):
    with pytest.raises(DataError, match=f"{unit!r}; did you mean {near!r}"):
        read_labelled(ETHANOL, energy_unit=unit)


def test_a_wrong_length_unit_is_refused():
    with pytest.raises(DataError, match="did you mean 'Bohr'"):
        read_labelled(ETHANOL, length_unit="bohr")
    with pytest.raises(DataError, match="known: Angstrom"):
        read_labelled(ETHANOL, length_unit="furlong")


def test_a_missing_file_and_an_empty_index_are_refused(tmp_path, ethanol):
    with pytest.raises(DataError, match=r"no such data file: .*nothing\.npz"):
        read_labelled(tmp_path / "nothing.npz")
    with pytest.raises(DataError, match=r"no frames for index '40:'"):
        read_labelled(ETHANOL, energy_unit="kcal/mol", index="40:")
    write(tmp_path / "x.traj", ethanol)
    with pytest.raises(DataError, match="no frames"):
        read_labelled(tmp_path / "x.traj", index="40:")


class Bomb:
    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return Path.mkdir, (self.sentinel,)


def test_an_npz_of_objects_is_never_unpickled(tmp_path):
    made = frames(2)
    np.savez(
        tmp_path / "x.npz",
        z=made[0].numbers,
        R=np.array([a.positions for a in made]),
        E=np.array([Bomb(tmp_path / "sentinel")] * 2, dtype=object),
        F=np.array([labels(a)[1] for a in made]),
    )
    with pytest.raises(DataError, match=r"x\.npz cannot be read"):
        read_labelled(tmp_path / "x.npz")
    assert not (tmp_path / "sentinel").exists()
    with np.load(tmp_path / "x.npz", allow_pickle=True) as stored:  # positive control
        assert stored["E"] is not None
    assert (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", "objects"], ids=["empty", "torn", "objects"])
def test_an_unreadable_npz_is_refused_by_name(tmp_path, content):
    path = tmp_path / "x.npz"
    if content == "objects":
        np.savez(path, z=np.array([None]), R=np.zeros((1, 1, 3)), E=np.zeros(1), F=np.zeros((1, 1, 3)))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.npz cannot be read"):
        read_labelled(path)
    gc.collect()  # a file that was left open would warn here


def test_a_file_of_unknown_format_is_refused_by_name(tmp_path):
    (tmp_path / "x.unknown").write_text("hello")
    with pytest.raises(DataError, match=r"x\.unknown cannot be read"):
        read_labelled(tmp_path / "x.unknown")


def test_arrays_of_different_length_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "x.npz", z=[1], R=np.zeros((3, 1, 3)), E=np.zeros(2), F=np.zeros((3, 1, 3)))
    with pytest.raises(DataError, match=r"x\.npz cannot be read"):
        read_labelled(tmp_path / "x.npz")


@pytest.mark.parametrize("index", ["abc", "1.5", "::0"])
def test_a_senseless_index_is_refused_by_name(index):
    with pytest.raises(DataError, match=re.escape(f"index {index!r}")):
        read_labelled(ETHANOL, energy_unit="kcal/mol", index=index)


def test_an_index_beyond_the_end_is_refused_by_name(tmp_path, ethanol):
    write(tmp_path / "x.traj", ethanol)
    for path in (tmp_path / "x.traj", ETHANOL):
        with pytest.raises(DataError, match=rf"{path.name}.*'99'"):
            read_labelled(path, energy_unit="kcal/mol", index="99")


def test_forces_of_another_shape_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", z=[1, 1], R=np.arange(12.0).reshape(2, 2, 3), E=np.zeros(2), F=np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match=r"x\.npz"):
        read_labelled(tmp_path / "x.npz")
    atoms = molecule("H2O")
    atoms.calc = SinglePointCalculator(atoms, energy=0.0)
    atoms.calc.results["forces"] = np.zeros((2, 3))
    with pytest.raises(DataError, match=r"forces of shape \(2, 3\), expected \(3, 3\)"):
        check_labels([atoms], "here")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("bulk", "is 'bulk', expected numbers"),
        (True, "is .*True.*, expected numbers"),
        (np.arange(3.0), r"has shape \(3,\), expected one number"),
    ],
)
def test_an_energy_key_of_something_else_is_refused_with_file_and_frame(tmp_path, value, said):
    made = frames(2)
    for atoms in made:
        atoms.info["kind"] = 1.0
    made[1].info["kind"] = value
    write(tmp_path / "x.extxyz", made)
    with pytest.raises(DataError, match=rf"x\.extxyz, frame 1: energy under 'kind' {said}") as caught:
        read_labelled(tmp_path / "x.extxyz", energy_key="kind")
    assert "key" in str(caught.value)


def test_forces_that_are_text_or_uneven_are_refused_with_file_and_frame(tmp_path):
    for k, value in enumerate(["none", [[0.0, 0.0, 0.0], [1.0]]]):
        path = tmp_path / f"{k}.db"
        with ase.db.connect(path) as rows:
            rows.write(frames(1)[0], data={"dft_forces": value})
        with pytest.raises(DataError, match=rf"{k}\.db, frame 0: forces under 'dft_forces' is .*, expected numbers"):
            read_labelled(path, forces_key="dft_forces")


def test_an_energy_that_is_text_under_its_own_name_is_refused(tmp_path):
    write(tmp_path / "x.extxyz", frames(1))
    content = (tmp_path / "x.extxyz").read_text()
    (tmp_path / "x.extxyz").write_text(re.sub(r"energy=\S+", "energy=unknown", content))
    with pytest.raises(DataError, match=r"x\.extxyz, frame 0: energy under 'energy' is 'unknown'"):
        read_labelled(tmp_path / "x.extxyz")


def test_an_npz_key_of_text_is_refused_by_name(tmp_path):
    made = frames(2)
    arrays = {"z": made[0].numbers, "R": [a.positions for a in made], "F": [labels(a)[1] for a in made]}
    np.savez(tmp_path / "x.npz", **arrays, kind=np.array(["a", "b"]))
    with pytest.raises(DataError, match=r"x\.npz: energy under 'kind' is .*, expected numbers"):
        read_labelled(tmp_path / "x.npz", energy_key="kind")


# -- structures that no model can take ----------------------------------------------------------------------------------


def padded(path: Path, padding: int) -> Path:
    """Water, and OH padded with one atom of the atomic number ``padding``."""
    numbers = np.array([[8, 1, 1], [8, 1, padding]])
    positions = np.stack([molecule("H2O").positions] * 2)
    positions -= positions[:, :1]  # oxygen stands where the padding is
    positions[1, 2] = 0.0
    np.savez(path, z=numbers, R=positions, E=np.zeros(2), F=np.zeros((2, 3, 3)))
    return path


@pytest.mark.parametrize("number", [0, -1, 119])
def test_atoms_without_an_element_are_refused_with_file_and_frame(tmp_path, number):
    said = rf"x\.npz, frame 1: expected atomic numbers from 1 to 118, got {number} for atom 2 .*padding"
    with pytest.raises(DataError, match=said):
        read_labelled(padded(tmp_path / "x.npz", number))


def test_ghost_atoms_of_a_text_file_are_refused_with_file_and_frame(tmp_path):
    good, ghost = frames(1)[0], labelled(Atoms("HX", [[0, 0, 0], [0, 0, 1]]), 0.0, np.zeros((2, 3)))
    write(tmp_path / "x.extxyz", [good, ghost])
    with pytest.raises(DataError, match=r"x\.extxyz, frame 1: .*got 0 for atom 1"):
        read_labelled(tmp_path / "x.extxyz")


def test_coincident_atoms_are_refused_with_file_and_frame(tmp_path):
    with pytest.raises(CoincidentAtomsError, match=r"x\.npz, frame 1: atoms 0 and 2"):
        read_labelled(padded(tmp_path / "x.npz", 1))


def test_atoms_that_coincide_through_the_cell_are_refused(tmp_path):
    made = frames(3, periodic=True)
    made[2].positions[1] = made[2].positions[0] + made[2].cell[0] - made[2].cell[2]
    labelled(made[2], 0.0, np.zeros((2, 3)))
    write(tmp_path / "x.traj", made)
    with pytest.raises(CoincidentAtomsError, match=r"x\.traj, frame 2: atoms 0 and 1"):
        read_labelled(tmp_path / "x.traj")
    for atoms in made:
        atoms.pbc = False
    check_labels(made, "here")


def test_empty_frames_and_singular_cells_are_refused_with_their_frame():
    empty = labelled(Atoms(), 0.0, np.zeros((0, 3)))
    with pytest.raises(EmptyStructureError, match="here, frame 1: "):
        check_labels([frames(1)[0], empty], "here")
    flat = frames(1)[0]
    flat.pbc = True
    with pytest.raises(SingularCellError, match="here, frame 0: "):
        check_labels([flat], "here")


# -- fingerprints -------------------------------------------------------------------------------------------------------


def test_a_frame_has_one_fingerprint_whatever_its_labels(ethanol):
    first = ethanol[0]
    relabelled = labelled(first.copy(), 0.0, np.zeros((9, 3)))
    assert frame_hash(first) == frame_hash(relabelled) == frame_hash(first.copy())
    assert len({frame_hash(a) for a in ethanol}) == 30


def test_the_fingerprint_is_the_same_in_every_process_and_version():
    """A regression test: fingerprints are stored in model files."""
    atoms = Atoms("HO", positions=[[0, 0, 0], [0.5, -0.25, 1e-6]], cell=[1, 2, 3], pbc=[True, False, True])
    assert frame_hash(atoms) == FINGERPRINT
    assert -(2**63) <= frame_hash(atoms) < 2**63


@pytest.mark.parametrize("axis", range(3))
def test_a_small_shift_of_one_atom_changes_the_fingerprint(ethanol, axis):
    moved = ethanol[0].copy()
    moved.positions[4, axis] += 1e-5
    assert frame_hash(moved) != frame_hash(ethanol[0])


def test_rounding_of_text_files_does_not_change_the_fingerprint(ethanol, tmp_path):
    write(tmp_path / "x.extxyz", ethanol)
    again = read_labelled(tmp_path / "x.extxyz")
    equal = [frame_hash(a) == frame_hash(b) for a, b in zip(ethanol, again, strict=True)]
    # eight decimals against a grid of 1e-6: about 27 · 1e-8 / 1e-6 of the frames lie on an edge
    assert sum(equal) >= 25


def test_minus_zero_is_zero():
    first, second = molecule("H2"), molecule("H2")
    first.positions[:, :2], second.positions[:, :2] = 0.0, -0.0
    assert frame_hash(first) == frame_hash(second)
    second.positions[0, 0] = -1e-9
    assert frame_hash(first) == frame_hash(second)


def test_elements_cell_and_periodicity_change_the_fingerprint():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    others = [atoms.copy() for _ in range(4)]
    others[0].numbers[0] = 19
    others[1].cell[0, 0] += 1e-5
    others[2].pbc = [True, True, False]
    others[3] = atoms[[1, 0]]
    assert len({frame_hash(a) for a in [atoms, *others]}) == 5
