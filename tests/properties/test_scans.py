"""Scans of potentials whose barriers and bonds are known, and of the bundled model."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms

from blipcalc import BayesianCalculator, committee
from blipcalc.errors import ConfigurationError, OutOfRangeError, StructureError
from blipcalc.files.bundled import starting_structure
from blipcalc.properties import dihedral_scan, dimer_scan, distance_scan
from blipcalc.properties.fragments import side_of
from blipcalc.stats.estimate import Estimate

HEIGHTS = np.array([0.10, 0.12, 0.17])
#: H–O–O–H
FOUR = (2, 0, 1, 3)


class Torsion(Calculator):
    """h/2 (1 + cos(n (φ - φ0))) of one dihedral angle, and springs on all distances of bonded atoms."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, height, folds=1, shift=0.0, stiffness=20.0):
        super().__init__()
        self.height, self.folds, self.shift, self.stiffness = height, folds, np.deg2rad(shift), stiffness

    def energy(self, atoms):
        angle = np.deg2rad(atoms.get_dihedral(*FOUR)) - self.shift
        lengths = np.array([atoms.get_distance(*pair) for pair in ((0, 1), (0, 2), (1, 3), (0, 3), (1, 2))])
        springs = 0.5 * self.stiffness * ((lengths - [1.45, 0.97, 0.97, 1.9, 1.9]) ** 2).sum()
        return self.height / 2 * (1 + np.cos(self.folds * angle)) + springs

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = self.energy(self.atoms)
        if "forces" in properties:
            forces, h = np.zeros((4, 3)), 1e-5
            for i in range(4):
                for c in range(3):
                    values = []
                    for sign in (1, -1):
                        moved = self.atoms.copy()
                        moved.set_constraint()
                        moved.positions[i, c] += sign * h
                        values.append(self.energy(moved))
                    forces[i, c] = -(values[0] - values[1]) / (2 * h)
            self.results["forces"] = forces


def peroxide(*members):
    atoms = molecule("H2O2")
    atoms.calc = BayesianCalculator(committee(members), raw=True)
    return atoms


def test_barriers_of_a_cosine_scale_with_its_height():
    found = dihedral_scan(peroxide(*(Torsion(h) for h in HEIGHTS)), FOUR)
    assert found.period == 360
    assert np.allclose(found.barrier.draws / HEIGHTS, 1, rtol=1e-6)
    assert found.barrier.value == pytest.approx(HEIGHTS.mean(), rel=1e-6)
    assert found.barrier.std / found.barrier.value == pytest.approx(np.std(HEIGHTS, ddof=1) / HEIGHTS.mean())
    assert np.allclose(found.maximum_at.draws % 360, 0, atol=1e-6)
    assert np.allclose(found.minimum_at.draws % 360, 180, atol=1e-6)


def test_extremes_between_the_points_and_across_the_seam():
    shifts = np.array([2.0, 4.0, 9.0])
    members = [Torsion(0.1, shift=180 + s) for s in shifts]
    found = dihedral_scan(peroxide(*members), FOUR, np.arange(-170, 190, 20.0))
    assert np.allclose(found.maximum_at.draws - shifts, found.maximum_at.draws[0] - shifts[0], atol=0.05)
    assert np.ptp((found.maximum_at.draws - 180 - shifts) % 360) < 0.1
    assert found.maximum_at.std == pytest.approx(np.std(shifts, ddof=1), rel=0.02)
    assert np.allclose(found.barrier.draws, 0.1, rtol=1e-3)


def test_of_several_wells_alike_draws_stay_in_one():
    members = [Torsion(h, folds=3, shift=s) for h, s in zip(HEIGHTS, (0.0, 1.0, 2.0), strict=True)]
    found = dihedral_scan(peroxide(*members), FOUR, np.arange(-180, 180, 5.0))
    assert found.minimum_at.std == pytest.approx(1.0, rel=0.05)
    assert np.allclose(found.barrier.draws, HEIGHTS, rtol=1e-3)


def test_zeros():
    atoms = peroxide(*(Torsion(h, shift=s) for h, s in zip(HEIGHTS, (0, 20, 40), strict=True)))
    lowest, own, first, none = (dihedral_scan(atoms, FOUR, zero=zero) for zero in ("lowest", "own", "first", "none"))
    at = int(np.argmin(lowest.energies.value))
    assert lowest.relative.std[at] == 0
    assert lowest.relative.std[at - 9] > 0.001
    assert (own.relative.draws.min(axis=1) < 1e-3).all()
    assert (own.relative.draws >= -1e-12).all()
    assert lowest.relative.draws.min() < -1e-3  # control: a draw lies lower elsewhere
    assert first.relative.std[0] == 0
    assert np.array_equal(none.relative.draws, none.energies.draws)
    with pytest.raises(ConfigurationError, match="zero='minimum'"):
        dihedral_scan(atoms, FOUR, zero="minimum")


def test_a_relaxed_scan_lies_below_a_rigid_one():
    atoms = peroxide(*(Torsion(h) for h in HEIGHTS))
    atoms.set_distance(0, 1, 1.6)
    angles = np.arange(-180, 180, 45.0)
    rigid, relaxed = (dihedral_scan(atoms, FOUR, angles, relax=relax, fmax=0.005) for relax in (False, True))
    assert (relaxed.energies.value < rigid.energies.value - 0.01).all()
    for angle, one in zip(angles, relaxed.structures, strict=True):
        assert np.cos(np.deg2rad(one.get_dihedral(*FOUR) - angle)) == pytest.approx(1, abs=1e-6)
        assert not one.constraints
    assert np.allclose(relaxed.barrier.draws - relaxed.barrier.draws[0], HEIGHTS - HEIGHTS[0], atol=1e-5)


class Spring(Calculator):
    """½ k (r - r0)² of two atoms."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, k, r0):
        super().__init__()
        self.k, self.r0 = k, r0

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        way = self.atoms.positions[1] - self.atoms.positions[0]
        r = np.linalg.norm(way)
        force = self.k * (r - self.r0) * way / r
        self.results = {"energy": 0.5 * self.k * (r - self.r0) ** 2, "forces": np.array([force, -force])}


def test_a_harmonic_dimer():
    k, r0 = np.array([20.0, 25.0, 30.0]), np.array([1.0, 1.02, 1.05])
    calculator = BayesianCalculator(committee([Spring(*p) for p in zip(k, r0, strict=True)]), raw=True)
    found = dimer_scan("N2", np.linspace(0.8, 1.4, 13), calculator)
    assert np.allclose(found.minimum_at.draws, r0, atol=1e-9)
    assert found.minimum_at.value == pytest.approx((k * r0).sum() / k.sum())
    assert found.minimum_at.bias == pytest.approx(r0.mean() - (k * r0).sum() / k.sum())
    assert np.allclose(found.depth.draws, 0.5 * k * (1.4 - r0) ** 2)
    assert found.relative.std[-1] == 0
    assert [one.get_distance(0, 1) for one in found.structures] == pytest.approx(found.coordinate.tolist())
    with pytest.raises(OutOfRangeError, match="highest energy inside of"):
        _ = found.barrier
    short = dimer_scan("N2", np.linspace(0.8, 1.04, 5), calculator)
    with pytest.raises(OutOfRangeError, match="it lies at an end for 1 of 4: draw 2"):
        _ = short.minimum_at
    assert "minimum at" not in short.quantities()


def test_which_atoms_move():
    ethane = molecule("C2H6")
    assert side_of(ethane, 0, 1) == [1, 5, 6, 7]
    assert side_of(ethane, 1, 0) == [0, 2, 3, 4]
    with pytest.raises(StructureError, match="outside of rings"):
        side_of(molecule("C6H6"), 0, 1)


def test_what_does_not_fit_is_refused():
    atoms = peroxide(*(Torsion(h) for h in HEIGHTS))
    for indices, match in [((2, 0, 1), "4 indices"), ((2, 0, 1, 2), "all different"), ((2, 0, 1, 9), "has 4 atoms")]:
        with pytest.raises(StructureError, match=match):
            dihedral_scan(atoms, indices)
    with pytest.raises(StructureError, match="the last moves and the first stays"):
        dihedral_scan(atoms, FOUR, moving=[2])
    for angles in ([0, 10, 20], [0, 20, 10, 30], [0, 0, 10, 20], "round"):
        with pytest.raises(ConfigurationError, match="angles="):
            dihedral_scan(atoms, FOUR, angles)
    with pytest.raises(ConfigurationError, match="one turn"):
        dihedral_scan(atoms, FOUR, [0, 100, 200, 400])
    with pytest.raises(StructureError, match="two elements"):
        dimer_scan("N3", [1.0, 1.1, 1.2, 1.3], atoms.calc)
    with pytest.raises(ConfigurationError, match="distances=0"):
        dimer_scan("N2", [0.0, 1.1, 1.2, 1.3], atoms.calc)


def test_part_of_a_turn_is_not_periodic():
    atoms = peroxide(*(Torsion(h) for h in HEIGHTS))
    part = dihedral_scan(atoms, FOUR, np.arange(-60, 61, 10.0))
    assert part.period is None
    assert np.allclose(part.maximum_at.draws, 0, atol=1e-6)
    closed = dihedral_scan(atoms, FOUR, np.arange(0, 361, 20.0))
    assert closed.period == 360
    assert len(closed.coordinate) == 18


def test_a_hydroxyl_group_turns_in_the_bundled_model(tmp_path):
    ethanol = starting_structure("ethanol")
    ethanol.calc = BayesianCalculator("rmd17", surface="centre", n_draws=8)
    ethanol.set_constraint(FixAtoms([0]))
    scan = dihedral_scan(ethanol, (1, 0, 2, 8), np.arange(-180, 180, 20.0))
    assert side_of(ethanol, 0, 2) == [2, 8]
    fixed = [i for i in range(9) if i != 8]
    assert all(np.allclose(one.positions[fixed], ethanol.positions[fixed]) for one in scan.structures)
    assert 0.04 < scan.barrier.value < 0.2  # eV, rigid
    assert 0.0001 < scan.barrier.std < 0.01
    assert scan.barrier.calibrated
    alike = scan.energies.relative()
    total = np.sqrt(alike.std[0] ** 2 + alike.std[9] ** 2)
    assert scan.barrier.std < 0.5 * total  # what all points share cancels
    path = tmp_path / "torsion.png"
    scan.plot(path, title="ethanol")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "dihedral angle 20 °" in scan.table()
    stored = json.loads(json.dumps(scan.to_dict()))
    assert np.array_equal(Estimate.from_dict(stored["energies"]).draws, scan.energies.draws)


def test_a_bond_is_pulled_with_all_that_hangs_on_it():
    ethanol = starting_structure("ethanol")
    ethanol.calc = BayesianCalculator("rmd17", surface="centre", n_draws=4, raw=True)
    scan = distance_scan(ethanol, (0, 2), np.linspace(1.3, 1.6, 7))
    assert np.allclose([one.get_distance(2, 8) for one in scan.structures], ethanol.get_distance(2, 8))
    assert 1.35 < scan.minimum_at.value < 1.5
    assert isinstance(scan.structures[0], Atoms)
