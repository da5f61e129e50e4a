"""Differences draw by draw, held against members evaluated and relaxed one by one."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms, FixBondLength
from ase.optimize import BFGS
from scaled_emt import ScaledEMT

from blipcalc import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.errors import ConfigurationError, IncomparableError, NotAMinimumError, NotConvergedError, StructureError
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.predictor import BayesianPredictor
from blipcalc.properties import adsorption_energy, energy_difference, vacancy_energy
from blipcalc.properties.relaxed_energies import relaxed_copy, relaxed_energies
from blipcalc.stats.estimate import Estimate


def crystal(morse, n=2):
    atoms = bulk("Cu", "fcc", a=3.55, cubic=True).repeat(n)
    atoms.calc = morse.calculator
    return atoms


def test_a_vacancy_is_the_difference_of_every_member(morse):
    atoms = crystal(morse)
    found = vacancy_energy(atoms, 3)
    for k, make in enumerate(morse.members):
        defect = atoms.copy()
        del defect[3]
        energies = [make().get_potential_energy(one) for one in (defect, atoms)]
        assert found.energy.draws[k] == pytest.approx(energies[0] - 31 / 32 * energies[1], abs=1e-10)
    assert found.energy.value == pytest.approx(found.energy.draws.mean())
    assert found.energy.value > 0


def test_of_pair_forces_a_vacancy_costs_the_energy_of_an_atom(argon, lj):
    cube = bulk("Ar", "fcc", a=5.26, cubic=True).repeat(2)
    cube.calc = lj.calculator
    found, one = vacancy_energy(cube), energy_difference([(1, argon)], balanced=False)
    assert np.allclose(found.energy.draws, -one.energy.draws, rtol=1e-10)
    assert np.ptp(found.energy.draws[:2] / lj.epsilon[:2]) > 1e-3  # of two σ


def test_quadrature_would_be_wrong(morse):
    found = vacancy_energy(crystal(morse))
    stds = np.array([found.energies[s].std for s in range(2)])
    quadrature = np.sqrt((np.array(found.coefficients) ** 2 * stds**2).sum())
    assert quadrature > 5 * found.energy.std
    independent = found.energies.draws[[0, 1, 2], 0] - 31 / 32 * found.energies.draws[[1, 2, 0], 1]
    assert np.std(independent) > 5 * found.energy.std  # control: pairing other draws loses the correlation


def members_apart(t):
    """Functions that make three Morse members whose parameters differ in proportion to t."""
    return [
        lambda p=p: MorsePotential(epsilon=0.3, rho0=6 + 0.3 * t * p, r0=2.55 + 0.02 * t * p * p, rcut1=1.6, rcut2=2.2)
        for p in (-1, 0, 1)
    ]


def test_what_relaxation_on_one_surface_neglects_is_of_second_and_third_order():
    """Half the distance between the draws: a quarter and an eighth of the error, against members relaxed one by one."""
    errors = {}
    for t in (1.0, 0.5):
        members = members_apart(t)
        atoms = bulk("Cu", "fcc", a=3.55).repeat((3, 2, 1))
        atoms.calc = BayesianCalculator(committee([make() for make in members]), raw=True)
        first = vacancy_energy(atoms, relax=True, fmax=1e-4)
        second = vacancy_energy(atoms, relax=True, second_order=True, fmax=1e-4)
        exact = []
        for make in members:
            energies = []
            for one in first.structures:
                own = one.copy()
                own.calc = make()
                assert BFGS(own, logfile=None).run(fmax=1e-6, steps=300)
                energies.append(own.get_potential_energy())
            exact.append(energies[0] - 5 / 6 * energies[1])
        errors[t] = [np.abs(one.energy.draws - exact).max() for one in (first, second)]
    assert errors[1.0][0] > 1e-5
    assert 3 < errors[1.0][0] / errors[0.5][0] < 5.5
    assert 5.5 < errors[1.0][1] / errors[0.5][1] < 14
    assert errors[1.0][1] < 0.3 * errors[1.0][0]


FACTORS = np.array([0.95, 1.0, 1.05])


def scaled_emt():
    return BayesianCalculator(committee([ScaledEMT(f) for f in FACTORS]), raw=True)


def test_large_structures_are_minima_too(morse, monkeypatch):
    """Beyond so many atoms free motions come without a matrix, unless a Hessian is to be inverted."""
    atoms = crystal(morse, 1)
    atoms.rattle(0.05, seed=0)
    surfaces = Surfaces(atoms.calc)
    moved = relaxed_copy(surfaces, atoms, fmax=1e-3)
    (value,), draws = relaxed_energies(surfaces, [moved], second_order=True)
    monkeypatch.setattr("blipcalc.relaxation.coordinates.MOST_ATOMS", 3)
    (again,), others = relaxed_energies(surfaces, [moved], second_order=True)
    assert again == pytest.approx(value, abs=1e-10)
    assert np.allclose(others, draws, atol=1e-10)


def test_adsorption_of_members_that_scale():
    calculator = scaled_emt()
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0)
    slab.set_constraint(FixAtoms(indices=[a.index for a in slab if a.tag == 3]))
    both = slab.copy()
    add_adsorbate(both, "O", 1.3, "fcc")
    alone = Atoms("O")
    for atoms in (slab, both, alone):
        atoms.calc = calculator
    found = adsorption_energy(both, slab, alone, relax=True, second_order=True, fmax=0.02)
    assert np.allclose(found.energy.draws, FACTORS * found.energy.value, atol=1e-5)
    assert found.energy.value < -1
    assert np.allclose(found.structures[0].positions[:4], both.positions[:4])  # fixed
    assert not np.allclose(found.structures[0].positions[-1], both.positions[-1], atol=1e-3)


def test_calculators_made_apart_are_the_same_with_the_same_draws(make_blip, molecule):
    network = make_blip("painn")
    posterior = BlipPosterior(network.slot_shapes())

    def calculator(**settings):
        return BayesianCalculator(BayesianPredictor(network, posterior, n_draws=3, **settings), raw=True)

    one, other = molecule.copy(), molecule.copy()
    other.rattle(0.05, seed=1)
    one.calc, other.calc = calculator(seed=0), calculator(seed=0)
    apart = energy_difference([(1, other), (-1, one)])
    other.calc = one.calc
    assert np.array_equal(apart.energy.draws, energy_difference([(1, other), (-1, one)]).energy.draws)
    for settings in ({"seed": 1}, {"seed": 0, "surface": "centre"}, {"seed": 0, "dtype": "float32"}):
        other.calc = calculator(**settings)
        with pytest.raises(IncomparableError, match="structures 0 and 1"):
            energy_difference([(1, other), (-1, one)])


def test_committees_that_only_look_alike_are_refused(morse):
    """Kinds and parameters are the same; a factor in a class of one's own shows in the numbers alone."""
    one, other = bulk("Cu"), bulk("Cu")
    one.calc, other.calc = scaled_emt(), BayesianCalculator(committee([ScaledEMT(f) for f in 2 * FACTORS]), raw=True)
    with pytest.raises(IncomparableError, match="attach one calculator"):
        energy_difference([(1, one), (-1, other)])
    other.calc = scaled_emt()  # made apart, and alike
    assert energy_difference([(1, one), (-1, other)]).energy.std == 0
    members = [ScaledEMT(f) for f in FACTORS]
    one.calc, other.calc = (BayesianCalculator(committee(members), raw=True) for _ in range(2))
    assert energy_difference([(1, one), (-1, other)]).energy.std == 0


def test_exact_parts_must_be_the_same(morse):
    part = MorsePotential(epsilon=0.1, r0=2.5, rcut1=1.4, rcut2=1.8)
    one, other = bulk("Cu"), bulk("Cu")
    one.calc = CombinedCalculator(morse.calculator, part)
    other.calc = CombinedCalculator(morse.calculator, part)
    assert energy_difference([(1, one), (-1, other)]).energy.value == 0
    other.calc = morse.calculator
    with pytest.raises(IncomparableError, match="exact parts"):
        energy_difference([(1, one), (-1, other)])


def test_frozen_noise_is_extensive_and_noise_per_row_is_refused(make_blip, crystal):
    """Two copies of a cell have twice the energy in every draw; noise per row knows nothing of that."""
    double = crystal.repeat((2, 1, 1))

    def attach(mode):
        network = make_blip("painn", mode=mode)
        predictor = BayesianPredictor(network, BlipPosterior(network.slot_shapes()), n_draws=4)
        crystal.calc = double.calc = BayesianCalculator(predictor, raw=True)

    attach("frozen")
    found = energy_difference([(1, double), (-2, crystal)])
    assert np.abs(found.energy.draws).max() < 1e-9
    assert found.energies[0].std == pytest.approx(2 * found.energies[1].std)
    attach("local")
    with pytest.raises(IncomparableError, match="mode='local'"):
        energy_difference([(1, double), (-2, crystal)])
    samples = [crystal.calc.get_samples(atoms).energy for atoms in (double, crystal)]
    assert np.abs(samples[0] - 2 * samples[1]).max() > 1e-6  # control: what is refused


def test_sums_must_balance(morse):
    atoms = crystal(morse, 1)
    with pytest.raises(IncomparableError, match=r"left over are {'Cu': 4.0}"):
        energy_difference([(1, atoms)])
    alone = energy_difference([(1, atoms)], balanced=False)
    assert alone.energy.value == pytest.approx(atoms.get_potential_energy())


def test_arguments_are_checked(morse):
    atoms = crystal(morse, 1)
    for terms in ([], [atoms], [(1, atoms, 2)], [(1, "Cu")], 3):
        with pytest.raises(ConfigurationError, match=r"Atoms"):
            energy_difference(terms)
    with pytest.raises(ConfigurationError, match="relax=True"):
        energy_difference([(1, atoms), (-1, atoms)], second_order=True)
    with pytest.raises(ConfigurationError, match="coefficient=nan"):
        energy_difference([(np.nan, atoms)])
    with pytest.raises(StructureError, match="index=4"):
        vacancy_energy(atoms, 4)
    atoms.symbols[0] = "Au"
    with pytest.raises(StructureError, match="say where the atom goes"):
        vacancy_energy(atoms)


def test_relaxations_that_fail_are_named(morse):
    atoms = crystal(morse, 1)
    atoms.rattle(0.1, seed=0)
    with pytest.raises(NotConvergedError, match="Cu4 was not relaxed: not there after 1 steps"):
        energy_difference([(1, atoms), (-1, atoms)], relax=True, steps=1)
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ConfigurationError, match="got FixBondLength"):
        energy_difference([(1, atoms), (-1, atoms)], relax=True, second_order=True)
    row = Atoms("Cu3", positions=[[0, 0, 0], [2.5, 0, 0], [5, 0, 0]])
    row.calc = morse.calculator
    with pytest.raises(NotAMinimumError, match="lowest curvature"):
        energy_difference([(1, row), (-1, row)], relax=True, second_order=True)


def test_tables_and_dictionaries(morse):
    found = vacancy_energy(crystal(morse))
    assert "vacancy energy" in found.table()
    assert "-0.96875 × E(Cu32)" in found.table()
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["formulas"] == ["Cu31", "Cu32"]
    assert np.array_equal(Estimate.from_dict(stored["energy"]).draws, found.energy.draws)
