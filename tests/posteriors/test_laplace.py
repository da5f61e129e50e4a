"""Laplace over all weights: derivatives against differences, predictions of the linearised network against its exact variance."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from blipcalc import BayesianCalculator
from blipcalc.calibration.fit import calibrate
from blipcalc.core.contracts import Draws, place_draws
from blipcalc.core.evaluate import evaluate
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load, save_model
from blipcalc.posteriors.gauss_newton import curvature
from blipcalc.posteriors.gaussian import GaussianPosterior, stack_shape
from blipcalc.posteriors.laplace import LaplaceAll, LaplaceKron, laplace_over_all
from blipcalc.training.batches import labelled_graphs
from blipcalc.training.train import train

NAMES = {"diagonal": "laplace-all", "kronecker": "laplace-kron"}
METHODS = {"diagonal": LaplaceAll(), "kronecker": LaplaceKron()}
STRUCTURES = {name: method.structure for name, method in METHODS.items()}
both = pytest.mark.parametrize("structure", NAMES)


@pytest.fixture(scope="module")
def case(small):
    """A small network in float64 and its labelled graphs."""
    frames = small.pairs(12, noise=0.1)
    model = small.network(frames).double()
    return model, labelled_graphs(frames, model.cutoff)


def jacobian(model, graph):
    """{parameter: (1 + 3n, size)} by central differences in the weights."""
    found = {}
    for name, p in model.named_parameters():
        columns = []
        for k in range(p.numel()):
            step = torch.zeros(p.numel(), dtype=torch.float64)
            step[k] = 1e-5
            step = step.view(p.shape)
            both = torch.stack([p.detach() + step, p.detach() - step])
            s = evaluate(model, Draws(2, {name: both}), graph)
            rows = torch.cat([s.energy, s.forces.flatten(1)], dim=1)
            columns.append((rows[0] - rows[1]) / 2e-5)
        found[name] = torch.stack(columns, dim=1)
    return found


@pytest.fixture(scope="module")
def exact(case):
    """Derivatives of the first two structures by all weights, by differences."""
    model, graphs = case
    return [jacobian(model, graph) for graph in graphs[:2]]


def test_curvature_is_the_sum_of_squared_derivatives(case, exact):
    model, graphs = case
    found = curvature(model, graphs[:2], STRUCTURES["diagonal"])
    for name, p in model.named_parameters():
        energy = sum(j[name][0].square() for j in exact).view(p.shape)
        forces = sum(j[name][1:].square().sum(dim=0) for j in exact).view(p.shape)
        torch.testing.assert_close(found.energy[name][0], energy, rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(found.forces[name][0], forces, rtol=1e-5, atol=1e-8)
    assert found.n == (2, 18)


def marginals(matrix, shape):
    """Partial traces (m, m) and (n, n) of a (mn, mn) matrix over weights of a matrix."""
    _, m, n = stack_shape(shape)
    four = matrix.view(m, n, m, n)
    return torch.einsum("injn->ij", four), torch.einsum("mimj->ij", four)


def test_the_kronecker_product_has_the_partial_traces_of_the_gauss_newton_matrix(case, exact):
    """Of all outputs, energies and forces over their noise, by differences; a vector's block is the matrix itself."""
    model, graphs = case
    noise_energy, noise_forces = 0.3, 0.7
    found = curvature(model, graphs[:2], STRUCTURES["kronecker"])
    names, apart = dict(model.named_parameters()), 0.0
    for name, p in names.items():
        rows = [torch.cat([j[name][:1] / noise_energy, j[name][1:] / noise_forces]) for j in exact]
        full = torch.cat(rows).T @ torch.cat(rows)
        block = found.block(name, noise_energy, noise_forces)
        axes = torch.kron(block.left[0], block.right[0])
        ours = axes @ block.values.flatten().diag() @ axes.T
        size = float(full.trace())
        for a, b in zip(marginals(ours, p.shape), marginals(full, p.shape), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * size + 1e-12)
        if p.ndim < 2:
            torch.testing.assert_close(ours, full, rtol=0, atol=1e-6 * size + 1e-12)
        else:
            apart = max(apart, float((ours - full).norm() / full.norm()))
    assert {p.ndim for p in names.values()} == {1, 2}
    assert apart > 0.1  # the control: matrices are approximated, so that the traces have something to say
    assert found.n == (2, 18)


def test_linear_draws_are_the_tangent_of_the_network(case):
    """Energy and forces at θ + δ of the linearised network, by differences; every strategy gives them."""
    model, graphs = case
    generator = torch.Generator().manual_seed(0)
    away = {
        n: 0.1 * torch.randn(3, *p.shape, generator=generator, dtype=torch.float64) for n, p in model.named_parameters()
    }
    theta = {n: p.detach() for n, p in model.named_parameters()}
    linear = Draws(3, {n: theta[n] + away[n] for n in theta}, linear=True)
    loop, vmap, traced = (evaluate(model, linear, graphs[0], strategy=s) for s in ("loop", "vmap", "traced"))
    for key in ("energy", "forces", "energies"):
        torch.testing.assert_close(getattr(vmap, key), getattr(loop, key), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(getattr(traced, key), getattr(loop, key), rtol=1e-10, atol=1e-10)
    h = 1e-5
    up, down = (
        evaluate(model, Draws(3, {n: theta[n] + sign * h * away[n] for n in theta}), graphs[0]) for sign in (1, -1)
    )
    centre = evaluate(model, Draws(1), graphs[0])
    for key in ("energy", "forces"):
        expected = getattr(centre, key) + (getattr(up, key) - getattr(down, key)) / (2 * h)
        torch.testing.assert_close(getattr(loop, key), expected, rtol=1e-6, atol=1e-7)
    # the control: the network itself is elsewhere
    itself = evaluate(model, Draws(3, linear.overrides), graphs[0])
    assert float((itself.energy - loop.energy).abs().max()) > 1e-3
    assert linear[:2].linear
    assert place_draws(model, linear).linear


def precision(c, name, noise_energy, noise_forces, prior):
    """(P, P) of one tensor of weights, from sums over the data and written out."""
    sums = [e / noise_energy**2 + f / noise_forces**2 for e, f in zip(c.energy[name], c.forces[name], strict=True)]
    matrix = sums[0].flatten().diag() if len(sums) == 1 else torch.kron(sums[0][0], sums[1][0]) / sums[0][0].trace()
    return matrix + prior * torch.eye(len(matrix), dtype=matrix.dtype)


@both
@pytest.mark.chance(80)
def test_draws_have_the_variance_of_the_linear_model_and_its_mean_is_the_network(case, exact, structure, chance):
    model, graphs = case
    posterior, found = METHODS[structure].fit(model, {}, {"train": graphs})
    c = curvature(model, graphs, STRUCTURES[structure])
    best = [found[key] for key in ("noise_energy", "noise_forces", "prior_precision")]
    variance = sum((j @ precision(c, n, *best).inverse() * j).sum(dim=1) for n, j in exact[0].items())
    k = chance.times(3000)
    draws = place_draws(model, posterior.draw(k, generator=torch.Generator().manual_seed(chance.seed())))
    s = evaluate(model, draws, graphs[0])
    rows = torch.cat([s.energy, s.forces.flatten(1)], dim=1)
    np.testing.assert_allclose(rows.var(dim=0), variance, rtol=chance.sigmas * math.sqrt(2 / k))
    centre = evaluate(model, Draws(1), graphs[0])
    middle = torch.cat([centre.energy, centre.forces.flatten(1)], dim=1)[0]
    np.testing.assert_allclose((rows.mean(dim=0) - middle) / variance.sqrt(), 0.0, atol=chance.sigmas / math.sqrt(k))


@both
def test_hyper_parameters_are_tuned(case, structure):
    """A maximum of the evidence, away from where published code left them; noise near the residuals of the network."""
    model, graphs = case
    c = curvature(model, graphs, STRUCTURES[structure])
    mode = {n: p.detach() for n, p in model.named_parameters()}
    posterior, found = laplace_over_all(NAMES[structure], c, mode)
    assert isinstance(posterior, GaussianPosterior)
    assert (posterior.name, posterior.linear) == (NAMES[structure], True)
    for key in ("noise_energy", "noise_forces", "prior_precision"):
        assert abs(math.log(found[key])) > 0.01
    theta = torch.cat([p.reshape(-1) for p in mode.values()])

    def evidence(noise_energy, noise_forces, prior):
        """By a multivariate Gaussian, as the textbook has it."""
        total = -0.5 * prior * float(theta.square().sum()) + 0.5 * len(theta) * math.log(prior)
        for sse, n, noise in zip(c.sse, c.n, (noise_energy, noise_forces), strict=True):
            total += -0.5 * sse / noise**2 - 0.5 * n * math.log(2 * math.pi * noise**2)
        return total - 0.5 * sum(float(precision(c, n, noise_energy, noise_forces, prior).logdet()) for n in mode)

    best = [found[key] for key in ("noise_energy", "noise_forces", "prior_precision")]
    assert evidence(*best) == pytest.approx(found["log_evidence"], rel=1e-9)
    assert evidence(*best) > evidence(*(math.sqrt(sse / n) for sse, n in zip(c.sse, c.n, strict=True)), 1.0) + 1.0
    for k in range(3):
        for factor in (0.97, 1.03):
            assert evidence(*(x * (factor if i == k else 1.0) for i, x in enumerate(best))) < evidence(*best)


@both
def test_from_files_to_error_bars(small, no_events, tmp_path, structure):
    settings = {"data": {"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0}}
    point = train(
        small.ETHANOL,
        tmp_path / "p.blip",
        model={"posterior": "point", "sizes": small.SIZES},
        training={"epochs": 2, "batch_size": 4},
        folder=tmp_path / "run",
        **settings,
    )
    made = train(
        small.ETHANOL,
        tmp_path / "a.blip",
        model={"posterior": NAMES[structure]},
        training={"epochs": 0},
        start=tmp_path / "p.blip",
        folder=tmp_path / "again",
        **settings,
    )
    loaded = load(tmp_path / "a.blip")
    assert (loaded.hash, loaded.posterior.name, loaded.posterior.linear) == (made.hash, NAMES[structure], True)
    atoms = small.ethanol(1)[0].copy()
    atoms.calc = BayesianCalculator(loaded, n_draws=8, raw=True)
    assert (atoms.calc.get_property("atom_std", atoms) > 0).all()
    calibrated = calibrate(loaded, small.pairs(12, names=("CH3CH2OH",), seed=3), n_draws=(8,), surfaces=["centre"])
    scaled = atoms.copy()
    scaled.calc = BayesianCalculator(calibrated, n_draws=8)
    ratio = scaled.calc.get_property("atom_std", scaled) / atoms.calc.get_property("atom_std", atoms)
    scale = calibrated.calibrations[0].scale
    np.testing.assert_allclose(ratio, [math.sqrt(scale[int(z)]) for z in atoms.numbers], rtol=1e-9)
    bare = atoms.copy()
    bare.calc = BayesianCalculator(point, raw=True)
    np.testing.assert_allclose(atoms.get_forces(), bare.get_forces(), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@both
def test_a_file_gives_the_same_draws(case, tmp_path, structure, dtype):
    model, graphs = copy.deepcopy(case[0]).to(dtype), case[1]
    posterior, _ = METHODS[structure].fit(model, {}, {"train": graphs[:3]})
    save_model(Model(model, posterior), tmp_path / "a.blip")
    again = load(tmp_path / "a.blip").posterior
    a, b = (p.draw(3, generator=torch.Generator().manual_seed(5)) for p in (posterior, again))
    assert a.overrides.keys() == b.overrides.keys() == dict(model.named_parameters()).keys()
    for name, value in a.overrides.items():
        assert torch.equal(value, b.overrides[name]), name
    assert b.linear
