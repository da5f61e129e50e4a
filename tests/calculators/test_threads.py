"""One calculator in many threads gives each of them the results of its own structure, bit for bit."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.reference_on_demand import ReferenceOnDemand
from blipcalc.calculators.single_draw import SingleDraw
from blipcalc.calculators.snapshot import SnapshotCalculator, snapshot
from blipcalc.calculators.weighted_baseline import BaselineFallback
from blipcalc.core.predictor_contract import Need
from blipcalc.posteriors.blip import BlipPosterior, bayesianize
from blipcalc.predictor import BayesianPredictor

THREADS = 8


class Spring(Calculator):
    """k r² / 2 for every atom."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, k):
        super().__init__()
        self.k = k

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        r = self.atoms.positions
        self.results = {"energy": 0.5 * self.k * float((r**2).sum()), "forces": -self.k * r}


def springs(cls=BayesianCalculator):
    return cls(committee([Spring(k) for k in (1.0, 1.5, 2.0)]), raw=True)


KINDS = {
    "bayesian": (BayesianCalculator, springs),
    "combined": (CombinedCalculator, lambda cls: cls(springs(), Spring(0.3))),
    "fallback": (
        BaselineFallback,
        lambda cls: cls(springs(), Spring(0.3), sigma_baseline_eV=1.0, shifts={"H": 0.0, "O": 0.0}),
    ),
    "on demand": (ReferenceOnDemand, lambda cls: cls(springs(), Spring(0.3))),
    "single draw": (SingleDraw, lambda cls: cls(springs(), 1)),
}


def slow(cls):
    """The same calculator, which lets other threads run as soon as it has its results."""

    def calculate(self, *args, **kwargs):
        cls.calculate(self, *args, **kwargs)
        time.sleep(1e-4)

    return type(f"Slow{cls.__name__}", (cls,), {"calculate": calculate})


def waters():
    structures = []
    for seed in range(THREADS):
        rng = np.random.default_rng(seed)
        structures.append(Atoms("OH2", positions=rng.normal(scale=1.0, size=(3, 3)) + 3 * np.eye(3)))
    return structures


@contextlib.contextmanager
def quick_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def in_threads(ask, n_calls):
    """[ask(k) called so many times by thread k], all at once."""
    with quick_switches(), ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda k: [ask(k) for _ in range(n_calls)], range(THREADS)))


@pytest.mark.parametrize("is_locked", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_thread_gets_results_of_its_structure(kind, is_locked):
    """The control without a lock gives results of other structures."""
    cls, make = KINDS[kind]
    calculator, structures = make(slow(cls)), waters()
    keys = ("energy", "forces", "atom_std")
    expected = [[calculator.get_property(key, atoms) for key in keys] for atoms in structures]
    if not is_locked:
        calculator.lock = contextlib.nullcontext()

    def is_right(k):
        try:
            found = [calculator.get_property(key, structures[k]) for key in keys]
        except Exception:  # what a calculator without a lock does is not known
            return False
        return all(np.array_equal(one, other) for one, other in zip(found, expected[k], strict=True))

    right = [one for row in in_threads(is_right, 12) for one in row]
    assert all(right) == is_locked


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_snapshot_holds_results_of_its_structure(is_locked):
    """It reads several results, between which no other thread may ask."""
    calculator, structures = springs(slow(BayesianCalculator)), waters()
    energies = [calculator.get_property("energy", atoms) for atoms in structures]
    if not is_locked:
        calculator.lock = contextlib.nullcontext()
    for atoms in structures:
        atoms.calc = calculator

    def is_right(k):
        try:
            frame = snapshot(structures[k], compute=("energy", "atom_std"))
            return frame.calc.results["energy"] == energies[k] and "atom_std" in frame.calc.results
        except Exception:
            return False

    right = [one for row in in_threads(is_right, 12) for one in row]
    assert all(right) == is_locked


def test_frozen_results_are_those_of_their_structure_in_any_thread():
    structures = waters()
    frozen = SnapshotCalculator(structures[0], {"energy": 1.0, "forces": np.ones((3, 3))})

    def is_right(k):
        if k == 0:
            return np.array_equal(frozen.get_property("forces", structures[0]), np.ones((3, 3)))
        with pytest.raises(PropertyNotImplementedError):
            frozen.get_property("forces", structures[k])
        return True

    assert all(one for row in in_threads(is_right, 50) for one in row)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_have_locks_of_their_own(kind):
    cls, make = KINDS[kind]
    calculator, (atoms, *_) = make(cls), waters()
    energy = calculator.get_property("energy", atoms)
    for clone in (copy.deepcopy(calculator), pickle.loads(pickle.dumps(calculator)), copy.copy(calculator)):
        assert clone.lock is not calculator.lock
        with calculator.lock:
            assert clone.get_property("energy", atoms) == energy


@pytest.fixture(scope="module")
def tiny(make_backbone):
    """A BLIP that answers in a few milliseconds."""
    backbone = make_backbone("schnet", features=4, filters=4, interactions=1, n_radial=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return bayesianize(backbone, alpha_initial=0.03).double()


def predictor_of(network, **settings):
    return BayesianPredictor(network, BlipPosterior(network.slot_shapes()), n_draws=2, **settings)


def shaken(atoms, n):
    structures = []
    for seed in range(n):
        structures.append(atoms.copy())
        structures[-1].positions += np.random.default_rng(seed).normal(scale=0.05, size=atoms.positions.shape)
    return structures


def of_the_process():
    """What a calculator must leave as it is."""
    return (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),  # noqa: NPY002
        dict(os.environ),
        os.getcwd(),
    )


KEYS = ("forces", "energy", "atom_std")


def serial(calculator, atoms, key):
    """What a key can be: an energy on its own and one that came with forces differ in their last bits."""
    found = []
    for first in KEYS:
        calculator.reset()
        calculator.get_property(first, atoms)
        found.append(calculator.get_property(key, atoms))
    return found


def wrong_calls(network, molecule, n_calls, is_locked=True, strategy="traced"):
    """How many of 8 × n_calls differ in any bit from the serial result; float32 and float64 in turn."""
    calculators = [
        BayesianCalculator(predictor_of(network, dtype=dtype, strategy=strategy), raw=True)
        for dtype in ("float32", "float64")
    ]
    structures = shaken(molecule, THREADS)
    expected = [[[serial(calc, atoms, key) for key in KEYS] for atoms in structures] for calc in calculators]
    assert not np.array_equal(expected[0][0][0][0], expected[1][0][0][0])
    before = of_the_process()
    if not is_locked:
        for calc in calculators:
            calc.lock = contextlib.nullcontext()

    def count(k):
        rng, wrong = np.random.default_rng(k), 0
        for _ in range(n_calls):
            which, key = rng.integers(2), rng.integers(len(KEYS))
            try:
                found = calculators[which].get_property(KEYS[key], structures[k])
                wrong += not any(np.array_equal(found, one) for one in expected[which][k][key])
            except Exception:
                wrong += 1
        return wrong

    total = sum(row[0] for row in in_threads(count, 1))
    assert of_the_process() == before
    return total


def test_networks_of_two_dtypes_in_eight_threads(tiny, molecule):
    assert wrong_calls(tiny, molecule, 10, strategy="vmap") == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_eighty_thousand_calls_from_eight_threads(tiny, molecule):
    """Bit-equal to the serial result, and the process as it was; the control without a lock is wrong somewhere."""
    assert wrong_calls(tiny, molecule, 10_000) == 0
    assert sum(wrong_calls(tiny, molecule, 1000, is_locked=False) for _ in range(3)) > 0


def test_single_draws_and_hessians_share_the_lock_of_their_network(tiny, molecule):
    """They swap the weights of one module: the results of each are those it gives alone."""
    predictor = predictor_of(tiny)
    singles = [predictor.single(k) for k in range(2)]
    hessian = predictor.curvature(molecule)
    directions = np.eye(hessian.size)[:2]
    asks = [
        *(lambda one=one: one([molecule], Need(variance=False))[0].forces for one in singles),
        lambda: predictor([molecule])[0].forces,
        lambda: hessian.product(directions),
    ]
    expected = [ask() for ask in asks]
    assert not np.array_equal(expected[0], expected[1])
    found = in_threads(lambda k: np.array_equal(asks[k % 4](), expected[k % 4]), 10)
    assert all(one for row in found for one in row)
    # no chance: while one of them is at work, none of the others is
    assert all(one.lock is predictor.lock for one in singles)
    with ThreadPoolExecutor(1) as pool:
        with predictor.lock:
            waiting = pool.submit(hessian.product, directions)
            time.sleep(0.05)
            assert not waiting.done()
        waiting.result(timeout=60)
