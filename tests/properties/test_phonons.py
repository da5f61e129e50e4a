"""Phonons with error bars against chains of springs, and against ASE."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.phonons import Phonons as AsePhonons
from ase.units import _amu, _e, _hbar, invcm, kB, m
from scaled_emt import ScaledEMT

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.errors import ConfigurationError, DrawsError, ImaginaryModesError
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.predictor import BayesianPredictor
from blipcalc.properties.force_constants import cells_of, nearest_images, with_sum_rules
from blipcalc.properties.phonons import phonons
from blipcalc.properties.property_plots import plot_bands

CM = _hbar * m / np.sqrt(_e * _amu) / invcm
K = np.array([4.0, 5.0, 7.0])
A = 2.5


@pytest.fixture
def chain(toys):
    atoms = Atoms("Al", cell=[A, 12, 12], pbc=(True, False, False), positions=[[0.1, 6, 6]])
    atoms.calc = toys.calculator([toys.chain([k], A) for k in K])
    return atoms


@pytest.fixture
def two_masses(toys):
    atoms = Atoms("NaCl", cell=[2 * A, 12, 12], pbc=(True, False, False), positions=[[0, 6, 6], [A, 6, 6]])
    atoms.calc = toys.calculator([toys.chain([k], A) for k in K])
    return atoms


Q = np.column_stack([np.linspace(0, 0.5, 11), np.zeros(11), np.zeros(11)])


@pytest.mark.parametrize("cells", [3, 4, 5])
def test_a_chain_of_springs_disperses_as_it_must(chain, cells):
    found, overlaps = phonons(chain, supercell=(cells, 1, 1)).at(Q)
    mass = chain.get_masses()[0]

    def omega(k):
        return CM * 2 * np.sqrt(k / mass) * np.abs(np.sin(np.pi * Q[:, 0]))

    for k in range(3):
        assert np.allclose(found.draws[k].T, omega(K[k]), atol=2e-3)
    assert np.allclose(found.value.T, omega(K.mean()), atol=2e-3)
    assert np.allclose(found.std[1:, 0], np.std([omega(k) for k in K], axis=0, ddof=1)[1:], rtol=1e-4)
    assert overlaps.min() > 0.999  # three polarisations of one frequency: any mixture of them is as good


def test_two_atoms_in_the_cell_make_two_branches(two_masses):
    found, _ = phonons(two_masses, supercell=(3, 1, 1)).at(Q)
    a, b = two_masses.get_masses()
    inverse = 1 / a + 1 / b
    root = np.sqrt(inverse**2 - 4 * np.sin(np.pi * Q[:, 0]) ** 2 / (a * b))
    for k in range(3):
        for branch, sign in ((0, -1), (3, 1)):
            expected = CM * np.sqrt(np.maximum(K[k] * (inverse + sign * root), 0))
            assert np.allclose(found.draws[k, :, branch], expected, atol=0.01)


def test_a_supercell_that_is_too_small_is_not_right(chain, two_masses):
    """Control: with one atom alone the waves are lost; with two their images share what both neighbours do."""
    small, _ = phonons(chain, supercell=(1, 1, 1)).at(Q)
    assert np.abs(small.value).max() < 0.01
    both, _ = phonons(two_masses, supercell=(1, 1, 1)).at(Q)
    assert np.allclose(both.value, phonons(two_masses, supercell=(4, 1, 1)).at(Q)[0].value, atol=0.01)


def test_energies_on_a_mesh_are_those_of_the_closed_form(chain):
    found = phonons(chain, supercell=(3, 1, 1))
    q = (np.arange(8) + 0.5) / 8 - 0.5
    levels = 2 * invcm * CM * np.sqrt(K[:, None] / chain.get_masses()[0]) * np.abs(np.sin(np.pi * q))
    assert np.allclose(found.zero_point_energy().draws, 1.5 * levels.mean(axis=1), rtol=1e-4)
    t = 200.0
    free = 3 * (levels / 2 + kB * t * np.log(1 - np.exp(-levels / (kB * t)))).mean(axis=1)
    assert np.allclose(found.free_energy(t).draws, free, rtol=1e-4)
    assert found.free_energy(t).std == pytest.approx(free.std(ddof=1), rel=1e-3)
    # the integral: 2/π of the top
    top = 2 * invcm * CM * np.sqrt(K.mean() / chain.get_masses()[0])
    assert found.zero_point_energy((64, 1, 1)).value == pytest.approx(1.5 * top * 2 / np.pi, rel=1e-3)
    # with Γ in the mesh its translations are left out
    assert len(found.oscillators((3, 1, 1)).energies.value) == 6
    at = np.linspace(-100, 600, 1001)
    density = found.density(at)
    assert np.trapezoid(density.value, at) == pytest.approx(3, rel=1e-3)
    assert density.std.max() > 0


def test_unstable_crystals_and_draws(toys, chain):
    chain.calc = toys.calculator([toys.chain([k], A) for k in (-4.0, -5.0)])
    with pytest.raises(ConfigurationError, match="stable"):
        phonons(chain, supercell=(3, 1, 1)).zero_point_energy()
    chain.calc = toys.calculator([toys.chain([k], A) for k in (-4.0, 5.0)])
    with pytest.raises(ImaginaryModesError, match="draw 0"):
        phonons(chain, supercell=(3, 1, 1)).zero_point_energy()


FACTORS = np.array([0.8, 1.0, 1.2])


def test_the_driving_surface_is_that_of_ase(tmp_path):
    atoms = bulk("Al", a=4.0)
    calculator = BayesianCalculator(committee([ScaledEMT(f) for f in FACTORS]), raw=True)
    found = phonons(atoms, calculator, supercell=(3, 3, 3))
    theirs = AsePhonons(atoms, EMT(), supercell=(3, 3, 3), delta=1e-3, name=str(tmp_path / "phonon"))
    theirs.run()
    theirs.read(acoustic=True)
    held = cells_of((3, 3, 3)) / 3  # points that the supercell itself holds
    reference = theirs.band_structure(held, verbose=False) / invcm
    estimate, _ = found.at(held)
    assert np.allclose(estimate.value[1:], reference[1:], atol=0.05)
    assert np.allclose(estimate.draws[:, 1:], np.sqrt(FACTORS)[:, None, None] * reference[1:], atol=0.1)
    assert np.abs(estimate.value[0]).max() < 0.01  # the acoustic sum rule, at Γ
    bands = found.bands("GXWKGL", n_points=20)
    assert bands.frequencies.value.shape == (20, 3)
    assert bands.to_ase().energies.shape == (1, 20, 3)
    json.dumps([bands.to_dict(), found.to_dict()])
    assert [line.split()[0] for line in bands.table().splitlines()] == list("GXWKGL")
    plot_bands(bands, tmp_path / "bands.png", title="aluminium")
    assert (tmp_path / "bands.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_between_held_points_symmetry_is_kept():
    atoms = bulk("Al", a=4.0)
    calculator = BayesianCalculator(committee([ScaledEMT(f) for f in FACTORS]), raw=True)
    found = phonons(atoms, calculator, supercell=(2, 2, 2))
    points = [[0.17, 0, 0.17], [0, 0.17, 0.17], [0.17, 0.17, 0]]  # Δ, three directions of a cubic crystal
    value = found.at(np.array(points))[0].value
    assert np.allclose(value[0], value[1:], atol=0.01)
    assert value[0, 1] == pytest.approx(value[0, 0], abs=0.01)  # transverse pair


def test_images_share_what_is_equally_near():
    images = nearest_images(bulk("NaCl", "rocksalt", a=5.6), (2, 2, 2))
    totals = np.array([images.weight[images.member == m].sum(axis=0) for m in range(8)])
    assert np.allclose(totals, 1)
    reverse = {tuple(cell): w for cell, w in zip(images.cells, images.weight, strict=True)}
    assert all(np.allclose(w, reverse[tuple(-cell)].T) for cell, w in zip(images.cells, images.weight, strict=True))


@pytest.mark.parametrize("supercell", [(2, 3, 1), (4, 1, 1)])
def test_sum_rules_of_noisy_constants(supercell):
    """What differences leave: symmetric at every point, and three translations without frequency at Γ."""
    cells = int(np.prod(supercell))
    noisy = np.random.default_rng(0).normal(size=(2, cells, 6, 6))
    found = with_sum_rules(noisy, supercell)
    translations = np.tile(np.eye(3), (2, 1))
    assert np.abs(found.sum(axis=1) @ translations).max() < 1e-12
    opposite = np.ravel_multi_index((-cells_of(supercell) % np.array(supercell)).T, supercell)
    assert np.abs(found - found[:, opposite].swapaxes(2, 3)).max() < 1e-12
    assert np.allclose(with_sum_rules(found, supercell), found, atol=1e-12)  # and what has both is left as it is


def lennard_jones(sigma):
    return LennardJones(sigma=sigma, epsilon=0.0104, rc=2.5 * sigma, smooth=False)


def test_each_draw_in_its_own_cell():
    """ω ∝ √ε / σ where every draw has its own lattice; in a shared cell the spread is many times that."""
    sigma = np.array([3.38, 3.40, 3.42])
    atoms = bulk("Ar", a=1.5496 * 3.40)
    calculator = BayesianCalculator(committee([lennard_jones(s) for s in sigma]), raw=True)
    own = []
    for s in sigma:
        cell = atoms.copy()
        cell.set_cell(atoms.cell.array * s / 3.40, scale_atoms=True)
        own.append(cell)
    q = np.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.0]])
    relaxed, _ = phonons(atoms, calculator, supercell=(3, 3, 3), structures=own).at(q)
    shared, _ = phonons(atoms, calculator, supercell=(3, 3, 3)).at(q)
    assert np.allclose(relaxed.draws * sigma[:, None, None], relaxed.draws[1] * sigma[1], rtol=1e-3)
    assert (shared.std > 5 * relaxed.std).all()
    with pytest.raises(DrawsError, match="3 structures"):
        phonons(atoms, calculator, structures=own[:2])


def test_internal_coordinates_rest_where_each_draw_has_them(toys):
    """A chain of long and short springs: each draw holds its own dimerisation."""
    atoms = Atoms("C2", cell=[2 * A, 12, 12], pbc=(True, False, False), positions=[[0, 6, 6], [A, 6, 6]])

    def quartic(shift):
        def function(atoms):
            n = len(atoms)
            stretch = np.roll(atoms.positions, -1, axis=0) - atoms.positions
            stretch[-1] += atoms.cell.array[0]
            stretch[:, 0] -= A + shift * np.tile([1, -1], n // 2)
            square = (stretch**2).sum(axis=1, keepdims=True)
            pull = 5 * stretch + 40 * square * stretch
            energy = (2.5 * square + 10 * square**2).sum()
            return energy, np.roll(pull, 1, axis=0) - pull

        return function

    shifts = np.array([-0.1, 0.0, 0.1])
    calculator = toys.calculator([quartic(s) for s in shifts])
    found, _ = phonons(atoms, calculator, supercell=(3, 1, 1), fmax=1e-6).at(Q)
    assert np.allclose(found.draws, found.draws[1], atol=0.05)  # at its own rest each is the same chain
    assert found.value[-1, -1] > 1.02 * found.draws[1, -1, -1]  # their mean is another, stiffer one


def test_networks_are_differentiated(make_blip):
    network = make_blip("painn")
    predictor = BayesianPredictor(network, BlipPosterior(network.slot_shapes()), n_draws=2)
    atoms = bulk("N", "fcc", a=3.0)
    surfaces = Surfaces(BayesianCalculator(predictor, raw=True))
    found = phonons(atoms, surfaces.calculator, supercell=(2, 2, 2))
    assert np.allclose(found.constants, found.draws.mean(axis=0), atol=1e-10)
    gamma = surfaces.hessian(atoms).matrix()
    assert np.allclose(found.constants.sum(axis=0), gamma, atol=1e-8)


def test_what_has_no_phonons_is_refused(chain):
    with pytest.raises(ConfigurationError, match="supercell"):
        phonons(chain, supercell=(3, 3, 3))
    with pytest.raises(ConfigurationError, match="three numbers"):
        phonons(chain, supercell=(3,))
    held = chain.copy()
    held.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigurationError, match="constraints"):
        phonons(held, chain.calc, supercell=(3, 1, 1))
    with pytest.raises(ConfigurationError, match="width_cm"):
        phonons(chain, supercell=(3, 1, 1)).density(np.zeros(3), width_cm=0)
