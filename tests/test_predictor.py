"""The predictor: it leaves its caller's model and process alone, and the same question has the same answer, bit for bit."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from ase import Atoms

from blipcalc.core.predictor_contract import Need
from blipcalc.errors import (
    CoincidentAtomsError,
    ConfigurationError,
    DrawsError,
    EmptyStructureError,
    NonFiniteError,
    SingularCellError,
    UnknownElementError,
)
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.posteriors.point import PointPosterior
from blipcalc.predictor import BayesianPredictor

EVERYTHING = Need(stress=True, samples=True)


@pytest.fixture(scope="module")
def blip(make_blip):
    return make_blip()


@pytest.fixture
def make_predictor(blip):
    def make(model=blip, **settings):
        return BayesianPredictor(model, BlipPosterior(model.slot_shapes()), **({"n_draws": 4} | settings))

    return make


def assert_equal(a, b):
    """Bit for bit."""
    assert a.energy == b.energy
    assert a.energy_var == b.energy_var
    assert np.array_equal(a.forces, b.forces)
    assert (a.forces_cov is None) == (b.forces_cov is None)
    assert a.forces_cov is None or np.array_equal(a.forces_cov, b.forces_cov)


def shaken(atoms, seed, scale=0.05):
    moved = atoms.copy()
    moved.positions += np.random.default_rng(seed).normal(scale=scale, size=moved.positions.shape)
    return moved


def test_the_model_of_the_caller_is_left_alone(make_blip, make_predictor, molecule):
    model = make_blip().train()
    before = copy.deepcopy(model.state_dict())
    for dtype in ("float32", "float64"):
        predictor = make_predictor(model, dtype=dtype)
        (prediction,) = predictor([molecule])
        assert prediction.forces.dtype == prediction.forces_cov.dtype == np.float64
        assert next(predictor.model.parameters()).dtype == getattr(torch, dtype)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.training
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_training_on_does_not_change_a_predictor(make_blip, make_predictor, molecule):
    model = make_blip()
    predictor = make_predictor(model)
    (before,) = predictor([molecule])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1
    assert_equal(predictor([molecule])[0], before)
    # control: a predictor made now sees the new weights
    assert make_predictor(model)([molecule])[0].energy != before.energy


def test_the_process_is_left_alone(make_predictor, molecule):
    before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    make_predictor(dtype="float32")([molecule])
    make_predictor()([molecule], EVERYTHING)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == before[1:]
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_seed_is_a_surface(make_predictor, molecule, crystal, dtype):
    one, two, other = (make_predictor(dtype=dtype, seed=seed) for seed in (3, 3, 4))
    for atoms in (molecule, crystal):
        (first,) = one([atoms], EVERYTHING)
        assert_equal(first, two([atoms], EVERYTHING)[0])
        assert first.energy != other([atoms])[0].energy
    more = make_predictor(dtype=dtype, seed=3, n_draws=7)
    (few,), (many,) = one([molecule], EVERYTHING), more([molecule], EVERYTHING)
    np.testing.assert_allclose(many.samples.energy[:4], few.samples.energy, rtol=1e-6 if dtype == "float32" else 1e-13)


def test_copies_and_pickles_predict_the_same(make_predictor, molecule):
    predictor = make_predictor()
    (expected,) = predictor([molecule])
    for clone in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert_equal(clone([molecule])[0], expected)


def test_threads_give_the_serial_result(make_predictor, molecule, crystal):
    """Eight threads on two predictors of different dtype, in mixed order, against the same calls one by one."""
    predictors = [make_predictor(dtype="float64"), make_predictor(dtype="float32", seed=1)]
    structures = [shaken(atoms, seed) for seed in range(6) for atoms in (molecule, crystal)]
    calls = [(p, s) for s in range(len(structures)) for p in range(2)]
    expected = {(p, s): predictors[p]([structures[s]], EVERYTHING)[0] for p, s in calls}
    many = [calls[i] for i in np.random.default_rng(0).integers(len(calls), size=8 * 16)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda call: predictors[call[0]]([structures[call[1]]], EVERYTHING)[0], many))
    for call, result in zip(many, results, strict=True):
        assert_equal(result, expected[call])
    assert torch.get_default_dtype() == torch.float32
    assert len({e.energy for e in expected.values()}) == len(calls)


@pytest.mark.parametrize("structure", ["molecule", "crystal"])
def test_a_reused_neighbour_list_changes_no_bit(make_predictor, structure, request):
    atoms = request.getfixturevalue(structure)
    predictor = make_predictor()
    rng = np.random.default_rng(2)
    for _ in range(30):
        atoms.positions += rng.normal(scale=0.03, size=atoms.positions.shape)
        assert_equal(predictor([atoms], EVERYTHING)[0], make_predictor()([atoms], EVERYTHING)[0])
    assert 1 <= predictor._neighbors[1].n_searches < 10


def test_the_neighbour_list_follows_cell_pbc_and_other_structures(make_predictor, molecule, crystal):
    predictor = make_predictor()
    strained = crystal.copy()
    strained.set_cell(crystal.cell.array * 1.01, scale_atoms=True)
    wire = crystal.copy()
    wire.pbc = [False, False, True]
    jumped = shaken(crystal, 0, scale=1.0)
    for atoms in (crystal, strained, wire, molecule, crystal, jumped, crystal[:2], crystal[[1, 0, 2, 3]]):
        assert_equal(predictor([atoms], EVERYTHING)[0], make_predictor()([atoms], EVERYTHING)[0])


def test_a_batch_keeps_its_order(make_predictor, molecule, crystal, ammonia):
    predictor = make_predictor()
    structures = [molecule, crystal, ammonia, molecule]
    for atoms, prediction in zip(structures, predictor(structures), strict=True):
        (alone,) = predictor([atoms])
        assert prediction.species.tolist() == atoms.numbers.tolist()
        assert prediction.energy == pytest.approx(alone.energy, rel=1e-12)
        np.testing.assert_allclose(prediction.forces, alone.forces, rtol=0, atol=1e-12)
        np.testing.assert_allclose(prediction.forces_cov, alone.forces_cov, rtol=0, atol=1e-12)


def damaged(atoms, what):
    atoms = atoms.copy()
    if what == "unknown":
        atoms.numbers[1] = 79
    elif what == "nan":
        atoms.positions[2, 1] = np.nan
    elif what == "infinite":
        atoms.positions[0, 0] = np.inf
    elif what == "coincident":
        atoms.positions[1] = atoms.positions[0]
    elif what == "singular":
        atoms.pbc = True
    return atoms[:0] if what == "empty" else atoms


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("unknown", UnknownElementError, "knows H, N, .*holds Au"),
        ("nan", NonFiniteError, r"atoms \[2\]"),
        ("infinite", NonFiniteError, r"atoms \[0\]"),
        ("coincident", CoincidentAtomsError, "atoms 0 and 1"),
        ("empty", EmptyStructureError, "at least one atom"),
        ("singular", SingularCellError, "independent cell vectors"),
    ],
)
def test_what_cannot_be_predicted_is_named(make_predictor, molecule, what, error, message):
    predictor = make_predictor()
    (before,) = predictor([molecule])
    bad = damaged(molecule, what)
    for structures in ([bad], [molecule, bad]):
        with pytest.raises(error, match=message):
            predictor(structures)
    # the lock is free again, and the refused structure has left nothing behind
    assert_equal(predictor([molecule])[0], before)


def test_settings_that_are_refused(blip, make_predictor):
    with pytest.raises(ConfigurationError, match="surface='median'"):
        make_predictor(surface="median")
    with pytest.raises(DrawsError, match="n=1"):
        BayesianPredictor(blip, PointPosterior(), n_draws=4)
    with pytest.raises(DrawsError, match="no parameter or buffer"):
        BayesianPredictor(blip.backbone, BlipPosterior(blip.slot_shapes()))


def test_only_what_is_needed_is_there(make_predictor, crystal, molecule):
    predictor = make_predictor()
    (energies,) = predictor([crystal], Need(forces=False))
    assert energies.forces is None
    assert energies.forces_cov is None
    assert energies.energy_var > 0
    (everything,) = predictor([crystal], EVERYTHING)
    assert everything.stress.shape == everything.stress_var.shape == (6,)
    assert everything.samples.forces.shape == (4, 4, 3)
    assert everything.energy == pytest.approx(energies.energy, rel=1e-13)
    assert predictor([molecule], EVERYTHING)[0].stress is None
    assert predictor([crystal])[0].samples is None


def test_centre_surface_is_the_network_without_noise(blip, make_predictor, molecule):
    centre, mean = make_predictor(surface="centre"), make_predictor()
    network = BayesianPredictor(blip, PointPosterior(), n_draws=1)
    (on_centre,), (on_mean,), (plain,) = (p([molecule]) for p in (centre, mean, network))
    assert on_centre.energy == plain.energy
    assert np.array_equal(on_centre.forces, plain.forces)
    assert abs(on_centre.energy - on_mean.energy) > 1e-6
    assert on_centre.energy_var == on_mean.energy_var
    assert np.array_equal(on_centre.forces_cov, on_mean.forces_cov)
    (without,) = centre([molecule], Need(variance=False))
    assert without.energy_var is None
    assert np.array_equal(without.forces, on_centre.forces)


def test_forces_first_and_a_variance_afterwards_evaluate_the_centre_once(
    make_predictor, molecule, crystal, monkeypatch
):
    """As MD with a monitor does; anything that changed, or was not asked for before, is evaluated anew."""
    predictor = make_predictor(surface="centre")
    evaluated, evaluate = [], predictor._evaluator

    def counted(draws, graph, **wanted):
        evaluated.append(draws.n)
        return evaluate(draws, graph, **wanted)

    monkeypatch.setattr(predictor, "_evaluator", counted)
    (plain,) = predictor([molecule], Need(forces=True, variance=False))
    (both,) = predictor([molecule], Need(forces=True, variance=True))
    assert evaluated == [1, 4]
    assert np.array_equal(plain.forces, both.forces)
    assert_equal(both, make_predictor(surface="centre")([molecule])[0])
    both.forces[:] = 0.0  # what is handed out is the caller's
    assert np.array_equal(predictor([molecule])[0].forces, plain.forces)
    moved = molecule.copy()
    moved.positions[0, 0] += 1e-12
    for structures in ([moved], [crystal], [crystal, molecule], [molecule]):
        evaluated.clear()
        predictor(structures, Need(forces=True, variance=False))
        assert evaluated == [1], structures
    squeezed = crystal.copy()
    predictor([crystal], Need(forces=True, variance=False))
    for need in (Need(forces=True, variance=False, stress=True), Need(forces=True, variance=False)):
        squeezed.set_cell(crystal.cell.array * 1.001)
        evaluated.clear()
        predictor([crystal], need)
        predictor([squeezed], need)
        assert evaluated == [1, 1]


def test_no_structures_no_predictions(make_predictor):
    assert make_predictor()([]) == []


def test_one_atom(make_predictor):
    (prediction,) = make_predictor()([Atoms("N", positions=[[0.0, 0.0, 0.0]])])
    assert np.isfinite(prediction.energy)
    assert prediction.energy_var > 0
    assert (prediction.forces == 0).all()
    assert (prediction.atom_std == 0).all()
