"""Second derivatives of a surface, held against central differences of forces and stresses."""

from functools import partial

import numpy as np
import pytest
import torch

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.core.contracts import Draws, place_draws
from blipcalc.core.curvature import Curvature
from blipcalc.core.deformation import displaced
from blipcalc.core.differenced import Differenced
from blipcalc.core.evaluate import Evaluator
from blipcalc.core.graph import Graph
from blipcalc.core.kernels import Kernels
from blipcalc.core.predictor_contract import Need
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.predictor import BayesianPredictor


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def predictor(make_blip):
    def make(name="painn", surface="mean", **settings):
        network = make_blip(name)
        posterior = BlipPosterior(network.slot_shapes())
        return BayesianPredictor(network, posterior, n_draws=3, surface=surface, **settings)

    return make


@pytest.mark.parametrize("name", ["painn", "schnet", "visnet"])
@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_the_matrix_of_a_molecule_is_the_derivative_of_its_forces(predictor, molecule, name, surface):
    model, atoms, h, m = predictor(name, surface), molecule, 2e-5, 3 * len(molecule)
    found = model.curvature(atoms).matrix()

    def forces(q):
        return model([displaced(atoms, q)], Need(variance=False))[0].forces.ravel()

    expected = np.array([-(forces(h * v) - forces(-h * v)) / (2 * h) for v in np.eye(m)])
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()
    assert np.array_equal(found, found.T)


def test_translations_have_no_curvature(predictor, molecule):
    matrix = predictor().curvature(molecule).matrix()
    for axis in range(3):
        along = np.tile(np.eye(3)[axis], len(molecule))
        assert np.abs(matrix @ along).max() < 1e-10 * np.abs(matrix).max()


@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_strains_of_a_crystal(predictor, crystal, surface, monkeypatch):
    monkeypatch.setattr("blipcalc.core.differenced.STEP", 1e-4)
    model, atoms = predictor(surface=surface), crystal
    found = model.curvature(atoms, strain=True).matrix()
    calculator = BayesianCalculator(model, raw=True)
    surfaces = Surfaces(calculator)
    expected = Differenced(partial(surfaces.slope_at, atoms), 3 * len(atoms) + 6).matrix()
    assert found.shape == (3 * len(atoms) + 6,) * 2
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_products_are_those_of_the_matrix(predictor, crystal, rng):
    curvature = predictor().curvature(crystal, strain=True)
    directions = rng.normal(size=(7, curvature.size))
    assert np.allclose(curvature.product(directions), directions @ curvature.matrix(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairs", [1, 400, 10**6])
@pytest.mark.parametrize("name", ["painn", "visnet"])
def test_passes_of_any_size_give_the_same(predictor, crystal, name, pairs, monkeypatch):
    curvature = predictor(name).curvature(crystal, strain=True)
    expected = curvature.matrix()
    monkeypatch.setattr("blipcalc.core.curvature.PAIRS", pairs)
    assert np.abs(curvature.matrix() - expected).max() < 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_kernels_of_second_derivatives(predictor, molecule, crystal, surface, monkeypatch):
    """As compiled ones, but only traced; structures of nearly the same pairs share one."""
    made = []

    def traced(function, cutoff, *, compiled):
        made.append(Kernels(function, cutoff, compiled=False))
        return made[-1]

    monkeypatch.setattr("blipcalc.core.evaluate.Kernels", traced)
    kernels, plain = predictor(surface=surface, strategy="compiled"), predictor(surface=surface)
    for atoms, strain in ((molecule, False), (crystal, True)):
        found, expected = (one.curvature(atoms, strain=strain).matrix() for one in (kernels, plain))
        assert np.abs(found - expected).max() < 1e-10 * np.abs(expected).max()
        kernels.curvature(atoms, strain=strain).product(np.eye(len(expected))[:1])
    assert len(made) == 1
    assert len(made[0]._kernels) == 2


def test_products_are_the_same_in_any_number(predictor, crystal, rng):
    curvature = predictor().curvature(crystal, strain=True)
    directions = rng.normal(size=(2 * curvature.size + 1, curvature.size))
    together = curvature.product(directions)
    alone = np.concatenate([curvature.product(v[None]) for v in directions[-3:]])
    assert np.abs(together[-3:] - alone).max() < 1e-12 * np.abs(together).max()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("surface", ["mean", "centre"])
def test_compiled_second_derivatives(predictor, molecule, crystal, surface):
    compiled, plain = predictor(surface=surface, strategy="compiled"), predictor(surface=surface)
    for atoms, strain in ((molecule, False), (crystal, True)):
        found, expected = (one.curvature(atoms, strain=strain).matrix() for one in (compiled, plain))
        assert np.abs(found - expected).max() < 1e-10 * np.abs(expected).max()
    structures = [crystal.copy() for _ in range(3)]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.02, seed=k)
    for one, other in zip(compiled.curvatures(structures), plain.curvatures(structures), strict=True):
        assert np.abs(one.matrix() - other.matrix()).max() < 1e-10 * np.abs(other.matrix()).max()


def test_the_hessian_of_a_linearised_network(make_blip, molecule, rng):
    network = make_blip("painn")
    names = [name for name, _ in network.named_parameters()][-4:]
    state = dict(network.named_parameters())
    moved = {name: torch.stack([state[name].detach() * (1 + 0.1 * k) for k in (0, 1)]) for name in names}
    evaluator = Evaluator(network)
    draws, graph = place_draws(network, Draws(2, moved, linear=True)), Graph.from_atoms(molecule, network.cutoff)
    found = Curvature(evaluator, draws, graph).matrix()
    h, expected = 2e-5, []
    for v in np.eye(3 * len(molecule)):
        sides = [
            evaluator(draws, Graph.from_atoms(displaced(molecule, sign * h * v), network.cutoff)).forces.mean(0)
            for sign in (1, -1)
        ]
        expected.append((sides[1] - sides[0]).ravel().numpy() / (2 * h))
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()


def test_the_hessian_of_a_mean_surface_is_the_mean_of_the_hessians(make_blip, molecule):
    network = make_blip("painn")
    posterior = BlipPosterior(network.slot_shapes())
    mean = BayesianPredictor(network, posterior, n_draws=3)
    one = BayesianPredictor(network, posterior, n_draws=3)
    matrices = []
    for k in range(3):
        one.draws = Draws(1, {name: value[k : k + 1] for name, value in mean.draws.overrides.items()})
        matrices.append(one.curvature(molecule).matrix())
    assert np.allclose(np.mean(matrices, axis=0), mean.curvature(molecule).matrix(), rtol=1e-10, atol=1e-10)
    assert np.abs(matrices[0] - matrices[1]).max() > 1e-6  # control: they differ


@pytest.mark.parametrize("strategy", ["loop", "vmap", "traced"])
def test_each_draw_on_its_own_structure_is_the_diagonal_of_all_on_all(predictor, crystal, strategy):
    model = predictor(strategy=strategy)
    structures = [crystal.copy() for _ in range(3)]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.02, seed=k)
        atoms.set_cell(atoms.cell.array * (1 + 0.01 * k), scale_atoms=True)
    own = model.each(structures, stress=True)
    crossed = model(structures, Need(stress=True, samples=True))
    for k in range(3):
        samples = crossed[k].samples
        assert own[k].energy[0] == pytest.approx(samples.energy[k], abs=1e-10)
        assert np.allclose(own[k].forces[0], samples.forces[k], atol=1e-9)
        assert np.allclose(own[k].stress[0], samples.stress[k], atol=1e-10)
    assert abs(crossed[0].samples.energy[1] - own[0].energy[0]) > 1e-8  # control: draws differ
