"""Frequencies with error bars against closed forms, and against ASE."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.constraints import FixAtoms, FixBondLength, FixCartesian, FixCom
from ase.optimize import BFGS
from ase.thermochemistry import HarmonicThermo, IdealGasThermo
from ase.units import _amu, _e, _hbar, invcm, kB, m
from ase.vibrations import Vibrations as AseVibrations
from scaled_emt import ScaledEMT
from scipy.optimize import brentq

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.errors import ConfigurationError, ImaginaryModesError, NotStationaryError
from blipcalc.files.bundled import starting_structure
from blipcalc.properties.normal_modes import Modes, matched
from blipcalc.properties.vibrations import vibrations

#: cm⁻¹ of √(1 eV/Å²/u)
CM = _hbar * m / np.sqrt(_e * _amu) / invcm
K = np.array([9.0, 10.0, 12.0])


def reduced(atoms, i=0, j=1):
    a, b = atoms.get_masses()[[i, j]]
    return a * b / (a + b)


@pytest.fixture
def dimer():
    return Atoms("CO", [[0.3, 0, 0], [0.3, 0.7, 0.9]])


# --- one bond -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["own", "shared"])
def test_a_spring_is_exact_on_every_draw(toys, dimer, at):
    length = dimer.get_distance(0, 1)
    dimer.calc = toys.calculator([toys.springs({(0, 1): (k, length)}) for k in K])
    found = vibrations(dimer, at=at)
    assert found.frequencies.value.shape == (1,)
    expected = CM * np.sqrt(K / reduced(dimer))
    assert np.allclose(found.frequencies.draws[:, 0], expected, rtol=1e-6)
    assert found.frequencies.value[0] == pytest.approx(CM * np.sqrt(K.mean() / reduced(dimer)), rel=1e-6)
    assert found.frequencies.std[0] == pytest.approx(expected.std(ddof=1), rel=1e-5)
    # a root is concave: the mean of the draws lies below
    assert found.frequencies.bias[0] == pytest.approx(
        expected.mean() - CM * np.sqrt(K.mean() / reduced(dimer)), abs=1e-3
    )
    assert found.frequencies.bias[0] < -1


def lennard_jones(epsilon, sigma):
    def potential(r):
        s = (sigma / r) ** 6
        return 4 * epsilon * (s**2 - s), 4 * epsilon * (-12 * s**2 + 6 * s) / r

    return potential


def lennard_jones_curvature(epsilon, sigma, r):
    s = (sigma / r) ** 6
    return 4 * epsilon * (156 * s**2 - 42 * s) / r**2


@pytest.fixture
def argon(toys):
    """Draws of ε and σ, the minimum of their mean, and a dimer there."""
    rng = np.random.default_rng(1)
    epsilon, sigma = 0.0104 * (1 + 0.1 * rng.normal(size=12)), 3.40 * (1 + 0.03 * rng.normal(size=12))
    slope = np.vectorize(lambda r: np.mean([lennard_jones(*p)(r)[1] for p in zip(epsilon, sigma, strict=True)]))
    r = brentq(slope, 3.5, 4.3)
    atoms = Atoms("Ar2", [[0, 0, 0], [r, 0, 0]])
    atoms.calc = toys.calculator([toys.pair(lennard_jones(*p)) for p in zip(epsilon, sigma, strict=True)])
    return atoms, epsilon, sigma, r


def test_a_lennard_jones_dimer_vibrates_where_each_draw_rests(argon):
    atoms, epsilon, sigma, _ = argon
    found = vibrations(atoms, fmax=1e-6)
    expected = CM * np.sqrt(57.146 * epsilon / sigma**2 / reduced(atoms))
    assert np.allclose(found.frequencies.draws[:, 0], expected, rtol=1e-4)
    assert found.frequencies.std[0] == pytest.approx(expected.std(ddof=1), rel=1e-3)
    distances = np.linalg.norm(found.positions[:, 1] - found.positions[:, 0], axis=1)
    assert np.allclose(distances, 2 ** (1 / 6) * sigma, atol=1e-5)
    assert np.allclose(found.potential.draws, -epsilon, rtol=1e-8)


def test_hessians_at_one_shared_point_leave_out_the_way_there(argon):
    atoms, epsilon, sigma, r = argon
    shared, own = vibrations(atoms, at="shared"), vibrations(atoms, fmax=1e-6)
    curvature = lennard_jones_curvature(epsilon, sigma, r)
    expected = CM * np.sign(curvature) * np.sqrt(np.abs(curvature) / reduced(atoms))
    assert np.allclose(shared.frequencies.draws[:, 0], expected, rtol=1e-4, atol=0.01)
    assert shared.frequencies.value[0] == pytest.approx(own.frequencies.value[0], rel=1e-4)
    # control: the formula for one shared point is several times too wide for this bond
    assert shared.frequencies.std[0] > 3 * own.frequencies.std[0]


def test_structures_of_the_draws_may_come_from_elsewhere_and_lie_anywhere(argon):
    atoms, _, sigma, _ = argon
    rest = 2 ** (1 / 6) * sigma
    turned = np.array([[[1, 2, 3], [1, 2, 3 + r]] for r in rest])
    found, own = vibrations(atoms, positions=turned), vibrations(atoms, fmax=1e-6)
    assert np.allclose(found.frequencies.draws, own.frequencies.draws, rtol=1e-4)
    assert found.overlaps.min() > 0.999
    with pytest.raises(ConfigurationError, match=r"\(12, 2, 3\)"):
        vibrations(atoms, positions=turned[:3])
    with pytest.raises(ConfigurationError, match="shared"):
        vibrations(atoms, positions=turned, at="shared")


@pytest.mark.chance(2)
def test_the_interval_holds_the_truth_as_often_as_it_says(toys, dimer, chance):
    """The truth is one more draw: of intervals from eight draws 90 % hold it; those of one error bar far fewer."""
    rng, n, length, held, naive = chance.rng(), chance.times(60), dimer.get_distance(0, 1), [], []
    for _ in range(n):
        constants = 10 * np.exp(0.05 * rng.normal(size=9))
        dimer.calc = toys.calculator([toys.springs({(0, 1): (k, length)}) for k in constants[:8]])
        found = vibrations(dimer, at="shared").frequencies[0]
        truth = CM * np.sqrt(constants[8] / reduced(dimer))
        held.append(found.holds(truth, 0.9))
        naive.append(abs(truth - found.value) < 1.0 * found.std)
    low, high = chance.counts(n, 0.9)
    assert low <= sum(held) <= high
    assert np.mean(naive) < 0.9  # control: 0.65 of them


def test_draws_much_stiffer_than_their_mean_are_reached(toys, dimer):
    """Steps with the curvature of the mean alone overshoot, and then run away, where a draw is more than twice as stiff."""
    constants, lengths = np.array([1.0, 2.0, 30.0]), dimer.get_distance(0, 1) * np.array([1.02, 0.99, 1.01])
    rest = constants @ lengths / constants.sum()
    dimer.set_distance(0, 1, rest)
    dimer.calc = toys.calculator([toys.springs({(0, 1): (k, r)}) for k, r in zip(constants, lengths, strict=True)])
    found = vibrations(dimer, fmax=1e-5)
    distances = np.linalg.norm(found.positions[:, 1] - found.positions[:, 0], axis=1)
    assert np.allclose(distances, lengths, atol=1e-5)
    assert np.allclose(found.frequencies.draws[:, 0], CM * np.sqrt(constants / reduced(dimer)), rtol=1e-5)


# --- which coordinates vibrate ------------------------------------------------------------------------------------------


def carbon_dioxide(toys):
    atoms = Atoms("OCO", [[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]])
    bonds = [{(0, 1): (k, 1.16), (1, 2): (k, 1.16), (0, 2): (k / 10, 2.32)} for k in 10 * K]
    atoms.calc = toys.calculator([toys.springs(b) for b in bonds])
    return atoms


def test_linear_molecules_have_one_more_mode(toys):
    atoms = carbon_dioxide(toys)
    atoms.rotate(33, (1, 2, 3))
    found = vibrations(atoms)
    o, c = atoms.get_masses()[:2]
    for j, curvature in {2: 1.2 / o, 3: 1 / o + 2 / c}.items():
        assert np.allclose(found.frequencies.draws[:, j], CM * np.sqrt(10 * K * curvature), rtol=1e-5)
    assert len(found.frequencies.value) == 4
    assert np.abs(found.frequencies.value[:2]).max() < 2  # bends cost nothing here


def triangle(toys, factors=(1.0, 1.0, 1.0)):
    atoms = Atoms("H3", [[0, 0, 0], [1, 0, 0], [0.5, np.sqrt(3) / 2, 0]])
    bonds = [{(0, 1): (k, 1.0), (1, 2): (k, 1.0), (0, 2): (k, 1.0)} for k in K * factors]
    atoms.calc = toys.calculator([toys.springs(b) for b in bonds])
    return atoms


def test_degenerate_modes_are_not_swapped(toys):
    atoms = triangle(toys)
    found = vibrations(atoms)
    mass = atoms.get_masses()[0]
    assert np.allclose(found.frequencies.draws[:, :2].T, CM * np.sqrt(1.5 * K / mass), rtol=1e-5)
    assert np.allclose(found.frequencies.draws[:, 2], CM * np.sqrt(3 * K / mass), rtol=1e-5)
    assert found.groups.tolist() == [0, 0, 1]
    assert found.overlaps.min() > 0.999


def test_rotations_of_the_molecule_change_nothing(toys):
    atoms = molecule("H2O")
    lengths = {(0, 1): 0.97, (0, 2): 0.97, (1, 2): 1.53}
    rng = np.random.default_rng(0)
    atoms.calc = toys.calculator(
        [
            toys.springs({p: (40 * rng.normal(1, 0.05), r * rng.normal(1, 0.01)) for p, r in lengths.items()})
            for _ in range(5)
        ]
    )
    BFGS(atoms, logfile=None).run(fmax=1e-4)
    found = vibrations(atoms)
    assert len(found.frequencies.value) == 3
    turned = atoms.copy()
    turned.calc = atoms.calc
    turned.rotate(71, (1, -2, 0.4))
    turned.translate([5, 1, -3])
    again = vibrations(turned)
    assert np.allclose(again.frequencies.draws, found.frequencies.draws, atol=0.05)
    assert found.frequencies.std.min() > 5


def test_modes_that_cross_are_followed_by_their_vectors(toys):
    """Two bonds far apart, one stiffer on this draw, the other on that: rising order would swap them."""
    atoms = Atoms("HClHCl", [[0, 0, 0], [1.3, 0, 0], [0, 0, 9], [1.3, 0, 9]])
    first, second = np.array([20.0, 22.0, 30.0]), np.array([21.0, 26.0, 22.0])
    atoms.calc = toys.calculator(
        [toys.springs({(0, 1): (a, 1.3), (2, 3): (b, 1.3)}) for a, b in zip(first, second, strict=True)]
    )
    found = vibrations(atoms).frequencies[-2:]
    root = CM / np.sqrt(reduced(atoms))
    low, high = sorted([first, second], key=np.mean)
    assert np.allclose(found.draws, root * np.sqrt(np.array([low, high]).T), rtol=1e-4)
    assert (found.draws[:, 0] > found.draws[:, 1]).any()  # control: sorted draws would be wrong here


def test_matching_of_groups_and_controls():
    vectors = np.eye(4)
    turned = np.eye(4)
    turned[1:3, 1:3] = [[0.6, -0.8], [0.8, 0.6]]
    driving, own = Modes(np.array([1.0, 5.0, 5.5, 9.0]), vectors), Modes(np.array([2.0, 4.0, 6.0, 8.0]), turned)
    order, overlap = matched(driving, own, 1.0)
    assert order.tolist() == [0, 1, 2, 3]
    assert np.allclose(overlap, 1)
    swapped = Modes(own.frequencies, turned[:, [3, 1, 2, 0]])
    assert matched(driving, swapped, 1.0)[0].tolist() == [3, 1, 2, 0]
    assert matched(driving, own, 0.1)[1].min() < 0.7  # without the group the pair is torn apart


def test_any_mixture_within_a_group_goes_by_frequency():
    rng = np.random.default_rng(2)
    driving = Modes(np.array([1.0, 1.1, 1.2, 1.3, 9.0, 9.1]), np.eye(6))
    for _ in range(50):
        vectors = np.zeros((6, 6))
        vectors[:4, :4], vectors[4:, 4:] = (
            np.linalg.qr(rng.normal(size=(4, 4)))[0],
            np.linalg.qr(rng.normal(size=(2, 2)))[0],
        )
        shuffled = rng.permutation(6)
        order, overlap = matched(driving, Modes(np.arange(6.0), vectors[:, shuffled]), 0.5)
        assert order[:4].tolist() == sorted(np.flatnonzero(shuffled < 4))
        assert order[4:].tolist() == sorted(np.flatnonzero(shuffled >= 4))
        assert np.allclose(overlap, 1)


# --- constraints ----------------------------------------------------------------------------------------------------------


def test_atoms_that_are_held(toys, dimer):
    length = dimer.get_distance(0, 1)
    dimer.calc = toys.calculator([toys.springs({(0, 1): (k, length)}) for k in K])
    dimer.set_constraint(FixAtoms([0]))
    found = vibrations(dimer)
    assert np.allclose(found.frequencies.draws[:, 0], CM * np.sqrt(K / dimer.get_masses()[1]), rtol=1e-5)
    assert found.frequencies.value.shape == (1,)
    assert not np.any(found.modes[:, 0])
    dimer.set_constraint(FixCartesian(0, (True, True, True)))
    assert np.allclose(vibrations(dimer).frequencies.draws, found.frequencies.draws)
    dimer.set_constraint(FixCom())
    assert np.allclose(vibrations(dimer).frequencies.draws[:, 0], CM * np.sqrt(K / reduced(dimer)), rtol=1e-5)
    dimer.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ConfigurationError, match="FixBondLength"):
        vibrations(dimer)
    dimer.set_constraint(FixAtoms([0, 1]))
    with pytest.raises(ConfigurationError, match="fixed"):
        vibrations(dimer)


def test_a_potential_that_is_fixed_in_space(toys):
    def well(h):
        return lambda x, y: (h * (x**2 - 1) ** 2 + 10 * y**2, 4 * h * x * (x**2 - 1), 20 * y)

    depths = np.array([0.4, 0.5, 0.7])
    atoms = Atoms("H", [[1.0, 0, 0]])
    atoms.calc = toys.calculator([toys.plane(well(h)) for h in depths])
    found = vibrations(atoms, project=False)
    assert np.allclose(found.frequencies.draws[:, 0], CM * np.sqrt(8 * depths / atoms.get_masses()[0]), rtol=1e-4)
    with pytest.raises(ConfigurationError, match="nothing vibrates"):
        vibrations(atoms)
    two = Atoms("H2", [[1.0, 0, 0], [1.0, 0, 0.8]])
    two.calc = toys.calculator(
        [lambda a, k=k: (k * (a.positions[:, 0] - 1) @ (a.positions[:, 0] - 1),
                         2 * k * (a.positions - 1) * [1, 0, 0]) for k in K]
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="project=False"):
        vibrations(two)
    # a saddle: the mode that leads down is imaginary on every draw
    atoms.positions[:] = 0
    saddle = vibrations(atoms, project=False)
    assert np.allclose(saddle.frequencies.draws[:, 0], -CM * np.sqrt(4 * depths / atoms.get_masses()[0]), rtol=1e-4)
    assert len(saddle.oscillators().energies.value) == 2


# --- thermodynamics -------------------------------------------------------------------------------------------------------


def test_energies_of_an_oscillator_on_every_draw(toys, dimer):
    length = dimer.get_distance(0, 1)
    dimer.calc = toys.calculator([toys.springs({(0, 1): (k, length)}) for k in K])
    found = vibrations(dimer)
    levels = invcm * CM * np.sqrt(K / reduced(dimer))
    t = 900.0
    x = levels / (kB * t)
    expected = {
        "zero_point_energy": (found.zero_point_energy(), levels / 2),
        "free": (found.free_energy(t), levels / 2 + kB * t * np.log(1 - np.exp(-x))),
        "entropy": (found.entropy(t), kB * (x / (np.exp(x) - 1) - np.log(1 - np.exp(-x)))),
        "capacity": (found.heat_capacity(t), kB * x**2 * np.exp(x) / (np.exp(x) - 1) ** 2),
    }
    for name, (estimate, values) in expected.items():
        assert np.allclose(estimate.draws, values, rtol=1e-5), name
        assert estimate.std == pytest.approx(values.std(ddof=1), rel=1e-4), name
    internal = found.oscillators().internal_energy(t)
    assert np.allclose(internal.draws, found.free_energy(t).draws + t * found.entropy(t).draws, rtol=1e-9)
    assert found.free_energy(0).value == pytest.approx(found.zero_point_energy().value)
    assert found.entropy(0).value == pytest.approx(0, abs=1e-12)
    assert found.heat_capacity(1e6).value == pytest.approx(kB, rel=1e-4)
    with pytest.raises(ConfigurationError, match="-1"):
        found.free_energy(-1)


def test_thermochemistry_of_ase_on_every_draw(toys, dimer):
    length = dimer.get_distance(0, 1)
    lengths = length * np.array([0.95, 1.0, 1.04])
    dimer.set_distance(0, 1, K @ lengths / K.sum())
    dimer.calc = toys.calculator([toys.springs({(0, 1): (k, r)}) for k, r in zip(K, lengths, strict=True)])
    found = vibrations(dimer)
    mapped = found.energies.map(lambda e: HarmonicThermo(e).get_helmholtz_energy(500, verbose=False))
    assert np.allclose(mapped.draws, found.free_energy(500).draws, rtol=1e-6)
    gas = found.gibbs_energy(298.15, symmetry_number=1)
    for k, r in enumerate(lengths):
        molecule_of_draw = Atoms("CO", [[0, 0, 0], [r, 0, 0]])
        one = IdealGasThermo(found.energies.draws[k], "linear", atoms=molecule_of_draw, symmetrynumber=1, spin=0)
        assert gas.draws[k] == pytest.approx(one.get_gibbs_energy(298.15, 101325, verbose=False), abs=2e-5)
    dimer.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigurationError, match="ideal gas"):
        vibrations(dimer).gibbs_energy(300)


def test_a_mode_that_is_imaginary_on_one_draw_is_refused_or_raised(toys):
    atoms = Atoms("H", [[0.0, 0, 0]])
    soft = np.array([2.0, 1.0, -0.5])
    atoms.calc = toys.calculator([toys.plane(lambda x, y, k=k: (k * x**2 + 5 * y**2, 2 * k * x, 10 * y)) for k in soft])
    found = vibrations(atoms, project=False)
    with pytest.raises(ImaginaryModesError, match="draw 2"):
        found.zero_point_energy()
    raised = found.zero_point_energy(floor_cm=50)
    assert raised.draws[2] == pytest.approx(
        0.5 * invcm * (50 + CM * (np.sqrt(10) + np.sqrt(50)) / np.sqrt(1.008)), rel=1e-3
    )


# --- against ASE, and what is refused ---------------------------------------------------------------------------------------


def test_the_driving_surface_is_that_of_ase(tmp_path):
    atoms = molecule("CH3OH")
    factors = np.array([0.9, 1.0, 1.1])
    atoms.calc = BayesianCalculator(committee([ScaledEMT(f) for f in factors]), raw=True)
    BFGS(atoms, logfile=None).run(fmax=1e-4)
    found = vibrations(atoms)
    reference = AseVibrations(atoms, name=str(tmp_path / "vib"), delta=1e-3)
    reference.run()

    def signed(frequencies):
        """Negative for imaginary, without the six that are next to zero."""
        values = frequencies.real - frequencies.imag
        return np.sort(values[np.argsort(np.abs(values))[6:]])

    expected = signed(reference.get_frequencies())
    assert np.allclose(found.frequencies.value, expected, rtol=1e-4, atol=0.5)
    assert np.allclose(signed(found.data().get_frequencies()), expected, rtol=1e-4, atol=0.5)
    assert np.allclose(found.frequencies.draws, np.sqrt(factors)[:, None] * found.frequencies.value, rtol=1e-4)
    assert np.allclose(signed(found.data(2).get_frequencies()), found.frequencies.draws[2], rtol=1e-3, atol=0.5)


def test_exact_parts_stiffen_every_draw_alike(toys, dimer):
    length = dimer.get_distance(0, 1)
    model = toys.calculator([toys.springs({(0, 1): (k, length)}) for k in K])
    extra = toys.calculator([toys.springs({(0, 1): (5.0, length)})]).predictor.calculators[0]
    found = vibrations(dimer, CombinedCalculator(model, extra))
    assert np.allclose(found.frequencies.draws[:, 0], CM * np.sqrt((K + 5) / reduced(dimer)), rtol=1e-6)


def test_what_is_no_stationary_point_is_refused(toys, dimer):
    length = dimer.get_distance(0, 1)
    dimer.calc = toys.calculator([toys.springs({(0, 1): (k, 1.2 * length)}) for k in K])
    with pytest.raises(NotStationaryError, match="relax it first"):
        vibrations(dimer)
    with pytest.raises(ConfigurationError, match="'middle'"):
        vibrations(dimer, at="middle")
    # one draw that only repels: it rests nowhere
    dimer.calc = toys.calculator(
        [toys.springs({(0, 1): (30.0, length)}), toys.springs({(0, 1): (30.0, length)}),
         toys.pair(lambda r: (0.1 / r, -0.1 / r**2)), toys.pair(lambda r: (-0.1 / r, 0.1 / r**2))]
    )  # fmt: skip
    with pytest.raises(NotStationaryError, match="surface"):
        vibrations(dimer)


def test_tables_and_dictionaries(toys):
    found = vibrations(triangle(toys))
    lines = found.table().splitlines()
    assert len(lines) == 4
    assert "±" in lines[1]
    stored = json.loads(json.dumps(found.to_dict()))
    assert np.allclose(stored["frequencies_cm"]["value"], found.frequencies.value)
    assert found.displacements.shape == (3,)


def test_ethanol_with_the_bundled_model():
    atoms = starting_structure("ethanol")
    atoms.calc = BayesianCalculator("rmd17", surface="centre", n_draws=8)
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=100)
    found = vibrations(atoms)
    values, std = found.frequencies.value, found.frequencies.std
    assert values.shape == (21,)
    assert (values > 0).all()
    assert (found.frequencies.draws > 0).all()
    assert 3400 < values[-1] < 3900
    assert ((values > 2700) & (values < 3200)).sum() == 5  # C-H
    assert (std > 0).all()
    assert std[-1] < 300
    assert 2.0 < found.zero_point_energy().value < 2.3
    assert found.frequencies.calibrated


def test_benzene_with_the_bundled_model_has_ten_pairs():
    """D6h: of 30 modes 10 are pairs, on every draw, for a network knows the symmetry of what it sees."""
    atoms = starting_structure("benzene")
    atoms.calc = BayesianCalculator("rmd17", surface="centre", n_draws=2, raw=True)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    found = vibrations(atoms)
    pairs = [np.flatnonzero(found.groups == g) for g in np.unique(found.groups)]
    assert sorted(map(len, pairs)) == [1] * 10 + [2] * 10
    for pair in pairs:
        assert np.ptp(found.frequencies.draws[:, pair], axis=1).max() < 0.5
    assert found.overlaps.min() > 0.95
    assert found.frequencies.std.max() > 1  # control: draws do differ
