"""Observables of single frames: geometry, densities, the ideal gas; names that a user types."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from blipcalc.averages.diffusion import Displacement
from blipcalc.averages.named_observables import named
from blipcalc.errors import ConfigurationError, DataError


def gas(n, cell, rng, symbols=None):
    return Atoms(symbols or f"Ar{n}", scaled_positions=rng.uniform(size=(n, 3)), cell=cell, pbc=True)


@pytest.mark.chance(35)
@pytest.mark.parametrize(
    "cell", [[11.0, 12.0, 13.0], [[11.0, 0, 0], [4.0, 12.0, 0], [3.0, -2.0, 13.0]]], ids=["box", "triclinic"]
)
def test_an_ideal_gas_has_no_structure(cell, chance):
    """g = 1 within Poisson errors, beyond half of the cell too, and counts N - 1 others in all."""
    rng, n, frames = chance.rng(), 30, chance.times(400)
    observable = named("rdf:Ar-Ar:7.0,35")
    found = np.array([observable.function(gas(n, cell, rng)) for _ in range(frames)])
    edges = np.linspace(0, 7.0, 36)
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    volume = abs(np.linalg.det(np.diag(cell) if np.ndim(cell) == 1 else np.array(cell)))
    expected = frames * n * (n - 1) / 2 * shells / volume  # pairs in a shell, of all frames
    z = (found.mean(axis=0) - 1) * np.sqrt(expected)
    many = expected > 100  # where Poisson is nearly Gaussian
    assert np.abs(z[many]).max() < chance.sigmas
    assert np.mean(np.square(z[many])) == pytest.approx(1.0, abs=chance.sigmas * np.sqrt(2 / many.sum()))
    inside = (n - 1) / volume * (found.mean(axis=0) * shells).sum()
    assert inside == pytest.approx((n - 1) * shells.sum() / volume, rel=0.01)


def test_a_radial_distribution_counts_pairs():
    """Of a whole cluster in a wide cell it integrates to N - 1; cut at 4 Å, to the pairs that are closer."""
    cluster = gas(20, [8.0] * 3, np.random.default_rng(1))
    cluster.set_cell([60.0] * 3)
    distances = cluster.get_all_distances()[~np.eye(20, dtype=bool)]
    for r_max in (4.0, 14.0):
        shells = 4 / 3 * np.pi * np.diff(np.linspace(0, r_max, 201) ** 3)
        neighbours = 19 / 60.0**3 * (named(f"rdf:Ar-Ar:{r_max},200").function(cluster) * shells).sum()
        assert neighbours == pytest.approx((distances < r_max).sum() / 20)
    assert neighbours == pytest.approx(19)


def test_shells_of_a_crystal_and_of_two_elements():
    """12 neighbours of an fcc atom; 6 chlorines around a sodium, whichever comes first."""
    copper = bulk("Cu", cubic=True)
    g = named("rdf:Cu-Cu:3.0,300")
    shells = 4 / 3 * np.pi * np.diff(np.linspace(0, 3.0, 301) ** 3)
    assert 3 / copper.get_volume() * (g.function(copper) * shells).sum() == pytest.approx(12)
    salt = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    one, other = (named(f"rdf:{pair}:3.0,300") for pair in ("Na-Cl", "Cl-Na"))
    np.testing.assert_allclose(one.function(salt), other.function(salt))
    assert 4 / salt.get_volume() * (one.function(salt) * shells).sum() == pytest.approx(6)


def test_geometry_and_density():
    water = molecule("H2O")
    assert named("distance:0,1").function(water) == pytest.approx(water.get_distance(0, 1))
    assert named("angle:1,0,2").function(water) == pytest.approx(water.get_angle(1, 0, 2))
    across = Atoms("H2", positions=[[0.2, 0, 0], [9.5, 0, 0]], cell=[10.0] * 3, pbc=True)
    assert named("distance:0,1").function(across) == pytest.approx(0.7)
    density = named("distribution:0,1:0.0,2.0,20").function(across)
    assert density.sum() * 0.1 == pytest.approx(1.0)
    assert density[7] + density[6] == pytest.approx(10.0)
    copper = bulk("Cu", a=3.615)
    assert named("density").function(copper) == pytest.approx(8.935, rel=1e-3)
    assert named("volume").function(copper) == pytest.approx(3.615**3 / 4)


def test_energies_are_those_of_each_surface(frames_of):
    (frame,) = frames_of(np.zeros((1, 2, 3)), [-3.0], [[0.1, -0.2]])
    assert named("energy").function(frame) == -3.0
    assert named("energy_per_atom").function(frame) == -1.5
    rows = np.array([0.1, -0.2])
    np.testing.assert_allclose(named("energy").on_draws(-3.0, rows, 2), [-2.9, -3.2])
    np.testing.assert_allclose(named("energy_per_atom").on_draws(-1.5, rows, 2), [-1.45, -1.6])
    with pytest.raises(DataError, match="no energy"):
        named("energy").function(molecule("H2O"))


def test_names():
    assert named("msd:O:2.5") == Displacement("O", 2.5)
    assert named("diffusion") == Displacement("all", is_diffusion=True)
    given = named("volume")
    assert named(given) is given
    assert named(len).name == "len"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("energie", "did you mean 'energy'"),
        ("distance:0", "expected 2 atoms"),
        ("distance:a,b", "expected 2 atoms"),
        ("angle:0,1,2:3", "nothing is expected"),
        ("density:O", "nothing is expected"),
        ("rdf:O", "rdf:A-B"),
        ("rdf:O-Xx", "symbols of two elements"),
        ("rdf:O-O:six", "expected numbers"),
        ("rdf:O-O:-1", "high=-1"),
        ("distribution:0,1:2,1", "high=1"),
        ("msd:Zz", "symbol of an element"),
        (3, "expected a name"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(ConfigurationError, match=message):
        named(name)


def test_frames_that_do_not_fit():
    water = molecule("H2O")
    for name, message in [
        ("volume", "periodic"),
        ("density", "periodic"),
        ("rdf:O-H", "for molecules: distribution"),
        ("distance:0,3", "frame of 3"),
        ("distance:1,1", "expected two"),
        ("angle:0,-1,2", "counted from 0"),
    ]:
        with pytest.raises(DataError, match=message):
            named(name).function(water)
    water.set_cell([9.0] * 3)
    water.pbc = True
    with pytest.raises(DataError, match="no such pair"):
        named("rdf:O-O").function(water)
