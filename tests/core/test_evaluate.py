"""Model × draws: three strategies agree, forces and stress are derivatives, and spreads obey the symmetries."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms

from blipcalc import testing
from blipcalc.core.contracts import Draws, check_draws
from blipcalc.core.evaluate import Evaluator, evaluate
from blipcalc.core.graph import Graph
from blipcalc.core.prediction import sample_arrays, summarize
from blipcalc.errors import ConfigurationError, DrawsError, NonFiniteError
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.stats.spread import covariance

K = 8
PBC = [tuple(bool(i & bit) for bit in (1, 2, 4)) for i in range(8)]


@pytest.fixture(scope="module")
def blip(make_blip):
    return make_blip()


@pytest.fixture(scope="module")
def draws(blip, draw):
    return draw(blip, K)


def graph_of(model, *structures):
    graphs = [Graph.from_atoms(atoms, model.cutoff) for atoms in structures]
    return graphs[0] if len(graphs) == 1 else Graph.collate(graphs)


def predict(model, draws, atoms, **settings):
    graph = graph_of(model, atoms)
    return summarize(atoms.numbers, sample_arrays(evaluate(model, draws, graph, **settings), graph)[0])


def difference(a, b):
    """Largest difference relative to the largest value, at least one."""
    a, b = (np.asarray(x, dtype=float) for x in (a, b))
    return np.abs(a - b).max() / max(1.0, np.abs(b).max())


def assert_same_samples(a, b, tolerance=1e-12):
    for name in a._fields:
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert torch.equal(one.isnan(), other.isnan()), name
            assert difference(one.nan_to_num(), other.nan_to_num()) <= tolerance, name


# --- strategies ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["painn", "schnet", "visnet"])
def test_loop_vmap_and_chunks_agree(make_blip, draw, molecule, crystal, name):
    model = make_blip(name, vectors=True)
    draws = draw(model, 5)
    graph = graph_of(model, molecule, crystal)
    loop = evaluate(model, draws, graph, stress=True, strategy="loop")
    assert loop.energy.shape == (5, 2)
    assert loop.forces.shape == (5, 9, 3)
    assert loop.stress.shape == (5, 2, 3, 3)
    assert loop.energies.shape == (5, 9)
    assert loop.energy.std(0).min() > 1e-3
    for strategy in ("loop", "vmap", "auto"):
        for chunk in (None, 1, 2, 3, 4, 5, 9):
            assert_same_samples(evaluate(model, draws, graph, stress=True, strategy=strategy, chunk=chunk), loop)
    energies_alone = evaluate(model, draws, graph, forces=False)
    assert energies_alone.forces is None
    assert energies_alone.stress is None
    assert difference(energies_alone.energy, loop.energy) <= 1e-12
    assert torch.equal(evaluate(model, draws, graph, forces=False, stress=True).stress[:, 1], loop.stress[:, 1]) or (
        difference(evaluate(model, draws, graph, forces=False, stress=True).stress[:, 1], loop.stress[:, 1]) < 1e-12
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_agrees_with_the_loop(blip, draws, molecule, crystal):
    evaluator = Evaluator(blip, strategy="compiled")
    for structures in ((crystal,), (molecule, crystal)):
        graph = graph_of(blip, *structures)
        loop = evaluate(blip, draws, graph, stress=True, strategy="loop")
        assert_same_samples(evaluator(draws, graph, stress=True), loop, 1e-11)


def test_repeated_calls_are_equal_bit_for_bit(blip, draws, crystal):
    evaluator, graph = Evaluator(blip), graph_of(blip, crystal)
    first = evaluator(draws, graph)
    for _ in range(3):
        again = evaluator(draws, graph)
        assert torch.equal(first.energy, again.energy)
        assert torch.equal(first.forces, again.forces)


def test_evaluation_leaves_no_trace_in_the_model(blip, draws, molecule):
    before = copy.deepcopy(dict((*blip.named_parameters(), *blip.named_buffers())))
    evaluate(blip, draws, graph_of(blip, molecule))
    after = dict((*blip.named_parameters(), *blip.named_buffers()))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(p.grad is None for p in blip.parameters())


def test_strategies_that_are_refused(make_blip, blip):
    local = make_blip(mode="local")
    for strategy in ("vmap", "compiled"):
        with pytest.raises(ConfigurationError, match="supports_vmap=False"):
            Evaluator(local, strategy=strategy)
    assert Evaluator(local).strategy == "loop"
    assert Evaluator(blip).strategy == "vmap"
    with pytest.raises(ConfigurationError, match="unknown strategy 'jit'"):
        Evaluator(blip, strategy="jit")
    with pytest.raises(ConfigurationError, match="≥ 1"):
        Evaluator(blip, chunk=0)


def test_draws_that_do_not_fit_are_refused(blip, draws):
    check_draws(blip, draws)
    name, value = next(iter(draws.overrides.items()))
    with pytest.raises(DrawsError, match="no parameter or buffer 'backbone"):
        check_draws(blip, Draws(K, {"backbone.readout_otter.weight": value}))
    with pytest.raises(DrawsError, match="takes shape"):
        check_draws(blip, Draws(K, {name: value[..., :1]}))
    with pytest.raises(DrawsError, match="takes shape"):
        check_draws(blip, Draws(K, {"backbone.readout_outer.bias": torch.zeros(K, 2)}))
    with pytest.raises(DrawsError, match="leading axis of K=7"):
        Draws(7, {name: value})
    with pytest.raises(DrawsError, match="at least one"):
        Draws(0)


def test_evaluate_refuses_draws_that_do_not_fit(blip, draws, molecule):
    name, value = next(iter(draws.overrides.items()))
    with pytest.raises(DrawsError):
        evaluate(blip, Draws(K, {name.replace("noise", "nose"): value}), graph_of(blip, molecule))


# --- forces and stress are derivatives -------------------------------------------------------------------------------


def moved_by(atoms, step):
    """Central differences: (n, 3, 2) structures, flat."""
    moved = [atoms.copy() for _ in range(6 * len(atoms))]
    for structure, (a, i, end) in zip(moved, np.ndindex(len(atoms), 3, 2), strict=True):
        structure.positions[a, i] += (step, -step)[end]
    return moved


def energies(model, draws, structures):
    """(K, len(structures)) eV."""
    return evaluate(model, draws, graph_of(model, *structures), forces=False).energy.numpy()


@pytest.mark.parametrize("structure", ["molecule", "crystal"])
def test_forces_by_differences_mean_draws_and_variance(blip, draws, structure, request):
    atoms = request.getfixturevalue(structure)
    samples = evaluate(blip, draws, graph_of(blip, atoms))
    forces, energy = samples.forces.numpy(), samples.energy[:, 0].numpy()
    centred = energy - energy.mean()
    cov = np.einsum("k,kni->ni", centred, forces - forces.mean(0)) / (K - 1)
    exact = {"draws": forces, "mean": forces.mean(0), "variance": 2 * cov}
    errors = {name: [] for name in exact}
    for step in (1e-3, 1e-4, 1e-5):
        ends = energies(blip, draws, moved_by(atoms, step)).reshape(K, len(atoms), 3, 2)
        slope = {"draws": ends, "mean": ends.mean(0), "variance": ends.var(axis=0, ddof=1)}
        for name, value in slope.items():
            errors[name].append(np.abs((value[..., 1] - value[..., 0]) / (2 * step) - exact[name]).max())
    assert np.abs(cov).max() > 1e-3
    assert {name: min(e) <= 1e-6 for name, e in errors.items()} == dict.fromkeys(exact, True), errors
    # control: with divisor K instead of K - 1 the covariance is not the derivative
    ends = energies(blip, draws, moved_by(atoms, 1e-4)).reshape(K, len(atoms), 3, 2).var(axis=0, ddof=0)
    assert np.abs((ends[..., 1] - ends[..., 0]) / 2e-4 - 2 * cov).max() > 1e-4


def loop_work(model, draws, atoms, n=800):
    """∮ F · dr over a smooth closed path, for the mean and for every draw (eV), and ∮ |F · dr|.

    The trapezoidal rule on a periodic integrand converges faster than any power of n.
    """
    rng = np.random.default_rng(5)
    amplitude = rng.normal(scale=0.04, size=(2, 2, *atoms.positions.shape))
    angle = 2 * np.pi * np.arange(n) / n
    waves = np.stack([[np.cos(m * angle), np.sin(m * angle)] for m in (1, 2)])
    slopes = np.stack([[-m * np.sin(m * angle), m * np.cos(m * angle)] for m in (1, 2)])
    path = atoms.positions + np.einsum("mct,mcai->tai", waves, amplitude)
    velocity = np.einsum("mct,mcai->tai", slopes, amplitude)
    structures = [Atoms(atoms.numbers, positions=p) for p in path]
    forces = evaluate(model, draws, graph_of(model, *structures)).forces.numpy()
    power = np.einsum("ktai,tai->kt", forces.reshape(draws.n, n, len(atoms), 3), velocity) * (2 * np.pi / n)
    return power.mean(0).sum(), power.sum(1), np.abs(power.mean(0)).sum()


def test_no_work_on_a_closed_path(blip, draws, ammonia):
    mean, every, size = loop_work(blip, draws, ammonia)
    assert size > 0.1
    assert abs(mean) <= 1e-10
    assert np.abs(every).max() <= 1e-10


def test_detached_alpha_does_work_on_a_closed_path(make_blip, draws, ammonia):
    """Control: α held fixed in the derivative, and the force is no gradient."""
    mean, every, _ = loop_work(make_blip(detach=True), draws, ammonia, n=200)
    assert abs(mean) > 1e-7
    assert np.abs(every).max() > 1e-6


def test_stress_by_differences_of_the_mean_energy(blip, draws, crystal):
    exact = evaluate(blip, draws, graph_of(blip, crystal), stress=True).stress[:, 0].numpy()
    np.testing.assert_array_equal(exact, exact.swapaxes(1, 2))
    voigt = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    errors = []
    for step in (1e-3, 1e-4, 1e-5):
        strained = []
        for i, j in voigt:
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * step
            strain[j, i] += 0.5 * step
            for sign in (1, -1):
                strained.append(crystal.copy())
                strained[-1].set_cell(crystal.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
        ends = energies(blip, draws, strained).reshape(K, 6, 2)
        slope = (ends[..., 0] - ends[..., 1]) / (2 * step * crystal.get_volume())
        errors.append(np.abs(slope.mean(0) - [exact.mean(0)[i, j] for i, j in voigt]).max())
    assert min(errors) <= 1e-7 + 1e-5 * np.abs(exact).max(), errors
    assert np.abs(exact.mean(0)).min() > 1e-5


def test_stress_needs_a_volume(blip, draws, molecule, crystal):
    samples = evaluate(blip, draws, graph_of(blip, molecule, crystal), stress=True)
    assert samples.stress[:, 0].isnan().all()
    assert samples.stress[:, 1].isfinite().all()


# --- symmetries of means and spreads ---------------------------------------------------------------------------------


def assert_prediction(got, expected, *, turn=None, order=slice(None), tolerance=1e-10):
    turn = np.eye(3) if turn is None else turn
    assert difference(got.energy, expected.energy) <= tolerance
    assert difference(got.energy_var, expected.energy_var) <= tolerance
    assert difference(got.forces, (expected.forces @ turn.T)[order]) <= tolerance
    assert difference(got.forces_cov, (turn @ expected.forces_cov @ turn.T)[order]) <= tolerance
    assert difference(got.atom_var, expected.atom_var[order]) <= tolerance


@pytest.mark.parametrize("pbc", PBC, ids=str)
def test_invariances_of_means_and_spreads(blip, draws, crystal, pbc):
    rng = np.random.default_rng(11)
    crystal.pbc = pbc
    reference = predict(blip, draws, crystal)
    assert reference.energy_var > 1e-4
    moved = crystal.copy()
    moved.positions += rng.normal(size=3) + (rng.integers(-2, 3, size=(4, 3)) * crystal.pbc) @ crystal.cell.array
    assert_prediction(predict(blip, draws, moved), reference)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    moved.set_cell(moved.cell.array @ turn.T)
    moved.positions = moved.positions @ turn.T
    assert_prediction(predict(blip, draws, moved), reference, turn=turn)
    order = rng.permutation(4)
    assert_prediction(predict(blip, draws, moved[order]), reference, turn=turn, order=order)
    # control: without the rotation of Σ the comparison fails
    with pytest.raises(AssertionError):
        assert_prediction(predict(blip, draws, moved), reference)


def test_doubling_the_cell_doubles_the_energy_std(blip, draws, crystal):
    single = predict(blip, draws, crystal)
    for repeat in ((2, 1, 1), (1, 2, 2)):
        n = int(np.prod(repeat))
        cells = predict(blip, draws, crystal.repeat(repeat))
        assert difference(cells.energy, n * single.energy) <= 1e-10
        assert np.sqrt(cells.energy_var) == pytest.approx(n * np.sqrt(single.energy_var), rel=1e-10)
        np.testing.assert_allclose(cells.atom_std, np.tile(single.atom_std, n), rtol=1e-9)


def test_a_batch_gives_what_its_structures_give_alone(blip, draws, molecule, crystal, ammonia):
    structures = [molecule, crystal, ammonia]
    graph = graph_of(blip, *structures)
    parts = sample_arrays(evaluate(blip, draws, graph), graph)
    for atoms, part in zip(structures, parts, strict=True):
        together, alone = summarize(atoms.numbers, part), predict(blip, draws, atoms)
        assert together.forces.shape == (len(atoms), 3)
        assert_prediction(together, alone, tolerance=1e-12)


def test_float32_agrees_with_float64(blip, draws, molecule, crystal):
    single = copy.deepcopy(blip).float()
    for atoms in (molecule, crystal):
        assert_prediction(predict(single, draws, atoms), predict(blip, draws, atoms), tolerance=1e-4)
        samples = evaluate(single, draws, graph_of(single, atoms), stress=True)
        assert {x.dtype for x in samples if x is not None} == {torch.float64}


def test_float32_keeps_the_digits_of_total_energies(make_backbone, molecule):
    model = make_backbone()
    model.energies.set({1: -13.587222780835477, 7: -2043.6337461234567}, 1.0, model.species)
    energy = predict(model, Draws(1), molecule).energy
    assert predict(copy.deepcopy(model).float(), Draws(1), molecule).energy == pytest.approx(energy, abs=1e-5)


# --- the reduction ---------------------------------------------------------------------------------------------------


def test_spreads_are_those_of_the_samples(blip, draws, crystal):
    graph = graph_of(blip, crystal)
    samples = evaluate(blip, draws, graph, stress=True)
    (part,) = sample_arrays(samples, graph)
    prediction = summarize(crystal.numbers, part, keep_samples=True)
    assert prediction.energy_var == pytest.approx(np.var(part.energy, ddof=1), rel=1e-12)
    assert prediction.energy == pytest.approx(part.energy.mean(), rel=1e-14)
    for i in range(4):
        np.testing.assert_allclose(prediction.forces_cov[i], np.cov(part.forces[:, i].T), rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(prediction.atom_var, part.forces.var(axis=0, ddof=1).mean(-1), rtol=1e-12)
    np.testing.assert_allclose(prediction.stress_var, part.stress.var(axis=0, ddof=1), rtol=1e-10)
    np.testing.assert_allclose(prediction.energies.sum(), prediction.energy, rtol=1e-12)
    np.testing.assert_array_equal(prediction.forces_cov, covariance(part.forces))
    assert prediction.samples is part


def test_one_draw_has_no_variance(blip, draws, molecule):
    prediction = predict(blip, draws[:1], molecule)
    assert prediction.n_draws == 1
    for name in ("energy_var", "forces_cov", "forces_var", "atom_var", "atom_std", "stress_var"):
        assert getattr(prediction, name) is None, name


def test_variance_keeps_its_digits_under_a_large_common_energy(blip, draws, molecule):
    deep = copy.deepcopy(blip)
    deep.backbone.energies.set({1: -1e6, 7: -2e6}, 1.0, deep.species)
    assert predict(deep, draws, molecule).energy_var == pytest.approx(
        predict(blip, draws, molecule).energy_var, rel=1e-6
    )


@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_weights_that_are_not_numbers_are_named(blip, draws, molecule, strategy):
    broken = {n: v.clone() for n, v in draws.overrides.items()}
    broken["backbone.readout_outer.weight_noise"][3] = torch.nan
    with pytest.raises(NonFiniteError, match=r"draws \[3\]"):
        predict(blip, Draws(K, broken), molecule, strategy=strategy)
    bad = copy.deepcopy(blip)
    with torch.no_grad():
        bad.backbone.embedding.weight[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"draws \[0, 1, 2"):
        predict(bad, draws, molecule, strategy=strategy)


def test_a_draw_does_not_know_the_others(blip, draws, molecule):
    """One bad draw spoils no other, and draw k alone is draw k among K."""
    graph = graph_of(blip, molecule)
    together = evaluate(blip, draws, graph)
    for k in (0, 5):
        alone = evaluate(blip, draws[k : k + 1], graph)
        assert difference(alone.forces[0], together.forces[k]) <= 1e-12
    broken = {n: v.clone() for n, v in draws.overrides.items()}
    broken["backbone.readout_outer.weight_noise"][3] = torch.nan
    spoilt = evaluate(blip, Draws(K, broken), graph)
    healthy = [k for k in range(K) if k != 3]
    assert difference(spoilt.forces[healthy], together.forces[healthy]) <= 1e-12


def test_posterior_of_the_model_fits_the_model(make_blip, draw):
    for settings in ({}, {"mode": "local"}, {"vectors": True}, {"where": "last"}):
        model = make_blip(**settings)
        check_draws(model, draw(model, 2))
        check_draws(model, BlipPosterior(model.slot_shapes()).centre())


def test_structures_are_the_ones_of_the_contract_suite(molecule, crystal):
    """All eight patterns above start from a cell whose images are neighbours of each other."""
    assert crystal == testing.default_structures((1, 7))[1]
    assert (np.linalg.norm(crystal.cell.array, axis=1) < 4.0).all()
