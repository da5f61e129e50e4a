"""Who is who: two predictors or calculators are the same by what they declare, or else by their numbers on a probe."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import BaseCalculator, Calculator, all_changes
from ase.calculators.mixing import SumCalculator
from ase.calculators.morse import MorsePotential

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.calculators.reference_on_demand import ReferenceOnDemand
from blipcalc.calculators.single_draw import SingleDraw
from blipcalc.calculators.weighted_baseline import BaselineFallback
from blipcalc.core.identity import network_identity
from blipcalc.core.prediction import Calibration, SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.core.signature import Signature, difference, probe_of, same, signature_of
from blipcalc.errors import DrawsError, StructureError
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.predictor import BayesianPredictor


class Spring(Calculator):
    """k r² / 2 about the origin, k in an attribute that no parameter names."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, k, scatter=0.0, seed=0, **parameters):
        super().__init__(**parameters)
        self.k, self.scatter, self.calls = k, scatter, 0
        self._rng = np.random.default_rng(seed)

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        r = self.atoms.positions
        k = self.k * (1 + self.scatter * self._rng.standard_normal())
        self.results = {"energy": 0.5 * k * float((r**2).sum()), "forces": -k * r}


class Springs(Predictor):
    """Three draws; how far they lie apart is no parameter."""

    species, n_draws, surface, has_stress, has_energies, heads = None, 3, "mean", False, False, "none"

    def __init__(self, spread):
        self.spread = spread

    def __call__(self, structures, need=Need()):
        found = []
        for atoms in structures:
            k = 1.0 + self.spread * np.array([-1.0, 0.0, 1.0])
            energy = 0.5 * k * (atoms.positions**2).sum()
            forces = -k[:, None, None] * atoms.positions
            found.append(
                summarize(atoms.numbers, SampleArrays(energy=energy, forces=forces), keep_samples=need.samples)
            )
        return found


def model(spread=0.1):
    return BayesianCalculator(Springs(spread), raw=True)


def springs(*ks, calibration=None):
    return BayesianCalculator(committee([Spring(k) for k in ks], calibration), raw=calibration is None)


def calibration(scale=1.0):
    return Calibration("mean", 2, 0, "", {1: scale, 8: scale}, 1.0, {}, {}, 1, {}, "")


SHIFTS = {"H": 0.0, "O": 0.0}
#: {what: (how it is made, another of the kind that is a different one)}
KINDS = {
    "a calculator of somebody else": (lambda: Spring(1.0), lambda: Spring(1.1)),
    "its parameters": (lambda: Spring(1.0, label="a"), lambda: MorsePotential()),
    "ASE's sum": (
        lambda: SumCalculator([Spring(1.0), Spring(2.0)]),
        lambda: SumCalculator([Spring(1.0), Spring(2.1)]),
    ),
    "a predictor": (lambda: Springs(0.1), lambda: Springs(0.2)),
    "the calculator around it": (lambda: model(0.1), lambda: model(0.2)),
    "members": (lambda: springs(1.0, 2.0), lambda: springs(1.0, 2.1)),
    "calibration": (
        lambda: springs(1.0, 2.0, calibration=calibration()),
        lambda: springs(1.0, 2.0, calibration=calibration(2.0)),
    ),
    "an exact part": (
        lambda: CombinedCalculator(model(), Spring(0.1)),
        lambda: CombinedCalculator(model(), Spring(5.0)),
    ),
    "a baseline": (
        lambda: BaselineFallback(model(), Spring(1.0), sigma_baseline_eV=1.0, shifts=SHIFTS),
        lambda: BaselineFallback(model(), Spring(1.2), sigma_baseline_eV=1.0, shifts=SHIFTS),
    ),
    "the error of a baseline": (
        lambda: BaselineFallback(model(), Spring(1.0), sigma_baseline_eV=1.0, shifts=SHIFTS),
        lambda: BaselineFallback(model(), Spring(1.0), sigma_baseline_eV=2.0, shifts=SHIFTS),
    ),
    "the model beside a reference": (
        lambda: ReferenceOnDemand(model(0.1), Spring(1.0)),
        lambda: ReferenceOnDemand(model(0.2), Spring(1.0)),
    ),
    "a draw": (lambda: SingleDraw(model(), 1), lambda: SingleDraw(model(), 2)),
    "the draws behind a draw": (lambda: SingleDraw(model(0.1), 1), lambda: SingleDraw(model(0.2), 1)),
}


class Plain(BaseCalculator):
    """A constant force along x; of ASE's smallest kind of calculator."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, force):
        super().__init__()
        self.force = force

    def calculate(self, atoms, properties, system_changes):
        forces = np.zeros((len(atoms), 3))
        forces[:, 0] = self.force
        self.results = {"energy": -self.force * atoms.positions[:, 0].sum(), "forces": forces}


KINDS["ASE's smallest kind"] = (lambda: Plain(1.0), lambda: Plain(2.0))
KINDS["such a one beside a model"] = (
    lambda: CombinedCalculator(model(), Plain(1.0)),
    lambda: CombinedCalculator(model(), Plain(2.0)),
)


@pytest.fixture
def water():
    return Atoms("OH2", positions=[[0.1, 0, 0], [0.9, 0.1, 0], [0, 1.0, 0.2]])


@pytest.mark.parametrize("kind", KINDS)
def test_alike_is_the_same_and_another_is_another(kind, water):
    make, make_other = KINDS[kind]
    probe = probe_of(water)
    one, alike, other = make(), make(), make_other()
    assert same(one, alike, probe)
    assert str(signature_of(one, probe)) == str(signature_of(alike, probe))
    assert not same(one, other, probe)
    assert str(signature_of(one, probe)) != str(signature_of(other, probe))
    assert difference(signature_of(one, probe), signature_of(other, probe)).other


class Scaled(CombinedCalculator):
    """A class derived from one that declares its identity, with a setting that this one does not know of."""

    def __init__(self, factor, *parts):
        super().__init__(*parts)
        self.factor = factor

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results = {key: value * self.factor for key, value in self.results.items()}


def test_a_derived_class_does_not_inherit_an_identity(water):
    probe = probe_of(water)
    assert same(Scaled(1.0, model(), Spring(0.1)), Scaled(1.0, model(), Spring(0.1)), probe)
    assert not same(Scaled(1.0, model(), Spring(0.1)), Scaled(2.0, model(), Spring(0.1)), probe)


def test_where_an_object_lies_in_memory_is_no_part_of_it(water):
    """Parameters may hold objects, whose text names their place."""
    probe = probe_of(water)
    one, alike = (Spring(1.0, helper=type("Helper", (), {})()) for _ in range(2))
    assert repr(one.parameters) != repr(alike.parameters)
    assert same(one, alike, probe)


def test_a_probe_shows_what_a_symmetric_structure_hides():
    """At their minimum, springs of any strength give the same energy and forces."""
    atoms = Atoms("Ar", positions=[[0, 0, 0]])
    assert same(Spring(1.0), Spring(2.0), atoms)
    assert not same(Spring(1.0), Spring(2.0), probe_of(atoms))
    assert np.array_equal(probe_of(atoms).positions, probe_of(atoms).positions)


def test_a_reference_on_demand_is_not_asked(water):
    """Its class and parameters are all that is known of it."""
    reference = Spring(1.0, label="pbe")
    calculator = ReferenceOnDemand(model(), reference)
    signature = signature_of(calculator, probe_of(water))
    assert reference.calls == 0
    assert not any(part.split()[-1] == "Spring" for part in signature.numbers)
    other = ReferenceOnDemand(model(), MorsePotential())
    assert difference(signature, signature_of(other, probe_of(water))).other


def test_numbers_that_scatter_are_the_same_and_said_to_scatter(water):
    """As far as the calculator itself scatters; another one is beyond that."""
    probe, others = probe_of(water), 0
    for seed in range(20):
        noisy, stiff = Spring(1.0, scatter=1e-2, seed=seed), Spring(2.0, scatter=1e-2, seed=seed)
        then, now = signature_of(noisy, probe), signature_of(noisy, probe)
        assert difference(then, now).other  # control: without asking again
        found = difference(then, now, lambda noisy=noisy: signature_of(noisy, probe))
        others += found.other
        assert "Spring" in found.reason
        assert difference(then, signature_of(stiff, probe), lambda stiff=stiff: signature_of(stiff, probe)).other
    assert others <= 1


def test_rounding_is_no_difference(water):
    """Threads and machines add in other orders; float32 has seven digits."""
    probe = probe_of(water)
    assert same(Spring(1.0), Spring(1.0 + 1e-6), probe)
    assert not same(Spring(1.0), Spring(1.0 + 1e-4), probe)


def test_numbers_that_are_not_finite_and_refusals(water):
    probe = probe_of(water)
    assert same(Spring(np.nan), Spring(np.nan), probe)
    assert not same(Spring(np.nan), Spring(1.0), probe)

    class Refusing(Spring):
        def calculate(self, *args, **kwargs):
            raise StructureError("not this one")

    assert same(Refusing(1.0), Refusing(2.0), probe)  # nothing but the class is known
    assert signature_of(Refusing(1.0), probe).numbers == {"Refusing": {}}
    assert difference(Signature("a"), Signature("b")).other


def predictor(network, **settings):
    return BayesianPredictor(network, BlipPosterior(network.slot_shapes()), **({"n_draws": 2} | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 1},
        {"n_draws": 3},
        {"surface": "centre"},
        {"dtype": "float32"},
        {"calibration": calibration()},
    ],
)
def test_settings_of_a_network_belong_to_it(make_blip, molecule, settings):
    network, probe = make_blip("painn"), probe_of(molecule)
    assert same(predictor(network), predictor(network), probe)
    assert not same(predictor(network), predictor(network, **settings), probe)
    single = [predictor(network).single(k) for k in (0, 1)]
    assert not same(*single, probe)
    assert same(single[0], predictor(network).single(0), probe)
    # it declares who it is, and is not asked
    assert signature_of(predictor(network), probe).numbers == {}


def test_weights_and_settings_of_a_network_are_its_identity(make_backbone):
    network = make_backbone("painn")
    other = copy.deepcopy(network)
    assert network_identity(network) == network_identity(other)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-12
    assert network_identity(network) != network_identity(other)
    wider = make_backbone("painn", cutoff=4.1)
    wider.load_state_dict(network.state_dict())
    assert network_identity(network) != network_identity(wider)  # the same tensors, another network


@pytest.mark.parametrize(
    ("make", "make_other"), [(lambda: model(0.1), lambda: model(0.2)), (lambda: springs(1, 2), lambda: springs(1, 3))]
)
def test_draws_of_two_predictors_of_one_class_are_not_combined(make, make_other, water):
    one, alike, other = (Surfaces(calculator()).energies([water]) for calculator in (make, make, make_other))
    assert float((one - alike).std[0]) == 0.0
    with pytest.raises(DrawsError, match="K and draws"):
        one - other


def test_one_calculator_has_one_source_whatever_the_structure(water):
    """What is worked out on several structures is combined."""
    calculator = model()
    other = Atoms("O", positions=[[0.3, 0, 0]])
    found = Surfaces(calculator).energies([water]) - Surfaces(calculator).energies([other])
    assert found.std[0] > 0


def test_a_crystal_and_its_constraints(water):
    atoms = bulk("Cu", cubic=True)
    probe = probe_of(atoms)
    assert np.array_equal(probe.cell.array, atoms.cell.array)
    assert np.abs(probe.positions - atoms.positions).max() < 0.1
    assert not atoms.constraints
