"""Equations of state of ensembles whose members scale, and of members that are relaxed on their own."""

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.eos import EquationOfState as OfASE
from ase.optimize import BFGS
from ase.units import GPa

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.errors import ConfigurationError, NotAMinimumError, OutOfRangeError, StructureError, ZeroVarianceError
from blipcalc.properties import elastic_constants, equation_of_state
from blipcalc.stats.estimate import Estimate

#: relative spreads of ε and σ
SPREADS = 0.02, 0.005


def lennard_jones(epsilon):
    return LennardJones(epsilon=epsilon, sigma=3.4, rc=10.2, ro=6.8, smooth=True)


def spread_of(values):
    """Relative."""
    return np.ptp(values) / np.mean(values)


def test_of_lennard_jones_every_draw_scales(argon, lj):
    found = equation_of_state(argon)
    epsilon, sigma = lj.epsilon, lj.sigma
    assert spread_of(found.lattice_constant.draws / sigma) < 5e-5
    assert spread_of(found.energy.draws / epsilon) < 1e-5
    assert spread_of(found.bulk_modulus.draws * sigma**3 / epsilon) < 3e-3
    assert spread_of(found.bulk_modulus.draws / epsilon) > 0.02  # control: σ matters
    v_epsilon, v_sigma = SPREADS[0] ** 2, SPREADS[1] ** 2
    relative = found.bulk_modulus.std / found.bulk_modulus.value
    assert relative**2 == pytest.approx(v_epsilon + 9 * v_sigma, rel=0.05)
    assert found.lattice_constant.std / found.lattice_constant.value == pytest.approx(SPREADS[1], rel=0.01)
    assert found.energy.std / abs(found.energy.value) == pytest.approx(SPREADS[0], rel=0.01)


def test_the_surface_that_drives_is_that_of_ase(argon):
    found = equation_of_state(argon, eos="vinet")
    v0, e0, b0 = OfASE(found.volumes, found.energies.value, eos="vinet").fit()
    assert found.volume.value == pytest.approx(v0, rel=1e-6)
    assert found.energy.value == pytest.approx(e0, abs=1e-9)
    assert found.bulk_modulus.value == pytest.approx(b0 / GPa, rel=1e-5)
    assert found.scale.value == pytest.approx((v0 / argon.get_volume()) ** (1 / 3), rel=1e-6)


def test_two_cells_have_twice_the_energy_and_the_same_bulk_modulus(argon, lj):
    double = argon.repeat((2, 1, 1))
    double.calc = lj.calculator
    one, two = equation_of_state(argon), equation_of_state(double)
    assert np.allclose(two.energy.draws, 2 * one.energy.draws)
    assert two.energy.std == pytest.approx(2 * one.energy.std)
    assert two.energies[0].std == pytest.approx(2 * one.energies[0].std)
    assert np.allclose(two.bulk_modulus.draws, one.bulk_modulus.draws, rtol=1e-6)
    assert two.bulk_modulus.std == pytest.approx(one.bulk_modulus.std, rel=1e-5)
    assert two.lattice_constant is None  # a doubled primitive cell is not cubic


def skewed(calculator):
    """A hexagonal crystal in a cell so skewed that symmetry does not say where its second atom lies."""
    atoms = bulk("Cu", "hcp", a=2.4, c=4.0)
    atoms.calc = calculator
    cell = atoms.cell.array
    cell[2] += [0.3, 0.15, 0]
    atoms.set_cell(cell, scale_atoms=True)
    return atoms


def test_relaxed_ions_are_exact_at_first_order(morse):
    """Held against members that are relaxed on their own at every volume."""
    atoms = skewed(morse.calculator)
    settings = {"volumes": np.linspace(19.0, 25.0, 6), "relax_ions": True, "fmax": 1e-3}
    first = equation_of_state(atoms, **settings)
    second = equation_of_state(atoms, second_order=True, **settings)
    clamped = equation_of_state(atoms, volumes=settings["volumes"])
    own = []
    for make in morse.members:
        energies = []
        for volume in first.volumes:
            moved = atoms.copy()
            moved.set_cell(moved.cell.array * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
            moved.calc = make()
            assert BFGS(moved, logfile=None).run(fmax=1e-4, steps=300)
            energies.append(moved.get_potential_energy())
        own.append(energies)
    errors = [np.abs(one.energies.draws - own).max() for one in (clamped, first, second)]
    assert errors[1] < 0.1 * errors[0]
    assert errors[2] < 0.3 * errors[1]
    exact = [OfASE(first.volumes, e, eos="birchmurnaghan").fit()[2] / GPa for e in own]
    assert np.allclose(second.bulk_modulus.draws, exact, rtol=2e-3)


def test_the_shape_of_a_cell_relaxes_at_its_volume(morse):
    atoms = bulk("Cu", "hcp", a=2.5, c=4.3)  # an axis too long by 5 %
    atoms.calc = morse.calculator
    volumes = np.linspace(20.5, 25.0, 5)
    stiff, free = (equation_of_state(atoms, volumes=volumes, relax_shape=shape, fmax=2e-3) for shape in (False, True))
    assert np.allclose(free.volumes, volumes, rtol=1e-4)
    assert (free.energies.value < stiff.energies.value - 1e-3).all()
    assert free.lattice_constant is None


def test_exact_parts_belong_to_every_draw(argon, lj):
    """ε_k and an exact ε₀ of one σ: everything scales with their sum."""
    epsilon = np.array([0.010, 0.011, 0.013])
    members = [lennard_jones(e) for e in epsilon]
    argon.calc = CombinedCalculator(BayesianCalculator(committee(members), raw=True), lennard_jones(0.02))
    found, elastic = equation_of_state(argon), elastic_constants(argon)
    for quantity in (found.energy, found.bulk_modulus, elastic.tensor[0, 0], elastic.tensor[3, 3]):
        assert np.allclose(quantity.draws / quantity.value, (epsilon + 0.02) / (epsilon + 0.02).mean(), rtol=3e-5)


def test_a_range_that_is_too_narrow_is_refused(argon):
    with pytest.raises(OutOfRangeError, match=r"of 5 lie outside: draw \d at .*start near"):
        equation_of_state(argon, strain=0.002)


def test_energies_without_a_minimum_are_refused(argon):
    argon.set_cell(argon.cell.array * 1.15, scale_atoms=True)
    with pytest.raises((OutOfRangeError, NotAMinimumError), match=r"start near|no minimum"):
        equation_of_state(argon)


def test_arguments_are_checked(argon, lj):
    for settings, match in [
        ({"points": 4}, "points=4"),
        ({"strain": 0}, "strain=0"),
        ({"volumes": [30.0, 31, 32, 32]}, "five different volumes"),
        ({"eos": "quadratic"}, "expected one of"),
        ({"second_order": True}, "relax_ions=True"),
    ]:
        with pytest.raises(ConfigurationError, match=match):
            equation_of_state(argon, **settings)
    argon.pbc = (True, True, False)
    with pytest.raises(StructureError, match="periodic in three"):
        equation_of_state(argon)


def test_tables_and_dictionaries(argon):
    found = equation_of_state(argon)
    assert "bulk modulus" in found.table()
    assert "K = 4 draws; error bars: posterior spread, uncalibrated" in found.table()
    stored = json.loads(json.dumps(found.to_dict()))
    again = Estimate.from_dict(stored["bulk modulus"])
    assert again.unit == "GPa"
    assert np.array_equal(again.draws, found.bulk_modulus.draws)


def test_members_alike_are_refused(morse):
    """Their spread is zero, and no error bar."""
    atoms = bulk("Cu", "fcc", a=3.6)
    atoms.calc = BayesianCalculator(committee([morse.members[1](), morse.members[1]()]), raw=True)
    with pytest.raises(ZeroVarianceError):
        equation_of_state(atoms)
