"""Mean-variance heads: their numbers, how they turn, their floor, how they add up, and how they join the spread of draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from blipcalc import BayesianCalculator
from blipcalc.core.contracts import Draws
from blipcalc.core.evaluate import evaluate
from blipcalc.core.graph import Graph
from blipcalc.core.prediction import SampleArrays, summarize
from blipcalc.core.predictor_contract import Need
from blipcalc.errors import ConfigurationError
from blipcalc.models.build import build_model
from blipcalc.models.heads import HeadsConfig, lower_triangle
from blipcalc.models.race import Race
from blipcalc.models.race_config import RaceConfig
from blipcalc.nn.symmetric import bounded, gaussian_terms, symmetric_exp, symmetric_traceless
from blipcalc.posteriors.ensemble import EnsemblePosterior, stack_members
from blipcalc.posteriors.point import PointPosterior
from blipcalc.predictor import BayesianPredictor
from blipcalc.registries import MODELS
from blipcalc.testing.comparisons import perturbed

NAMES = ("painn", "race")


def network(name, predict="joint", seed=0, sizes=None, **heads):
    """A small network with weights of the heads that say something."""
    sizes = MODELS[name].Config.small().model_dump() | {"heads": {"predict": predict, **heads}} | (sizes or {})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(name, sizes, [1, 6, 8]).double()
    model.energies.set({1: 0.0, 6: 0.0, 8: 0.0}, 0.8, model.species)
    return perturbed(model, seed=seed + 1)


def ethanol(seed=0):
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.1, seed=seed)
    return atoms


def noise(model, atoms):
    samples = evaluate(model, Draws(1), Graph.from_atoms(atoms, model.cutoff))
    return samples.energy_var[0].numpy(), None if samples.forces_cov is None else samples.forces_cov[0].numpy()


def rotation(seed=0):
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return q * np.linalg.det(q)


def turned(atoms, r):
    copy = atoms.copy()
    copy.positions = copy.positions @ r.T
    return copy


def symmetric(n, size, seed=0):
    a = torch.randn(n, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    a = a + a.transpose(-1, -2)
    return size * a / a.square().sum(dim=(-2, -1), keepdim=True).sqrt()


@pytest.mark.parametrize("size", [0.0, 1e-8, 0.5, 4.0])
def test_exponential_of_symmetric_matrices(size):
    q = symmetric(20, size)
    torch.testing.assert_close(symmetric_exp(q), torch.linalg.matrix_exp(q), rtol=1e-12, atol=1e-13)
    assert torch.autograd.gradcheck(symmetric_exp, (q[:3].requires_grad_(),))


def test_bound_and_traceless_part():
    assert float(bounded(symmetric(5, 1e6), 4.0).square().sum((-2, -1)).max()) == pytest.approx(16.0, rel=1e-9)
    torch.testing.assert_close(bounded(symmetric(5, 1e-4), 4.0), symmetric(5, 1e-4), rtol=1e-8, atol=0)
    a, b = symmetric(4, 1.0), symmetric(4, 1.0, seed=1)
    q = symmetric_traceless(a, b)
    torch.testing.assert_close(q, q.transpose(-1, -2))
    assert float(q.diagonal(dim1=-2, dim2=-1).sum(-1).abs().max()) < 1e-14


def test_gaussian_terms_against_inverse_and_determinant():
    covariance = torch.linalg.matrix_exp(symmetric(6, 2.0))
    residual = torch.randn(6, 3, dtype=torch.float64)
    square, logdet = gaussian_terms(residual, covariance)
    expected = torch.einsum("ni,nij,nj->n", residual, torch.linalg.inv(covariance), residual)
    torch.testing.assert_close(square, expected)
    torch.testing.assert_close(logdet, torch.linalg.det(covariance).log())


def test_eight_heads_add_what_the_paper_has():
    for preset in (RaceConfig.obn25(), RaceConfig.psb3()):
        heads = HeadsConfig(predict="joint", covariance="paper")
        counts = [
            sum(p.numel() for p in Race(preset.model_copy(update=update), [5, 7]).parameters())
            for update in ({}, {"heads": heads})
        ]
        assert heads.n_outputs == 8
        assert counts[1] - counts[0] == 2240


def test_order_of_the_triangle():
    factor = lower_triangle(torch.tensor([[0.0, 0.0, 0.0, 4.0, 5.0, 6.0]]))[0]
    assert factor.tolist() == [[1, 0, 0], [6, 1, 0], [5, 4, 1]]


@pytest.mark.parametrize("name", NAMES)
def test_without_heads_nothing_changes(name):
    """Energies of a network with heads are those of the same weights without."""
    atoms = ethanol()
    sizes = {"layout": "torch"} if name == "race" else {}  # which has all parameters with or without heads
    plain, joint = network(name, "none", sizes=sizes), network(name, sizes=sizes)
    weights = dict(joint.named_parameters())
    with torch.no_grad():
        for key, value in plain.named_parameters():
            value.copy_(weights[key][: value.shape[0]] if "readout_outer" in key else weights[key])
    graph = Graph.from_atoms(atoms, plain.cutoff)
    a, b = (evaluate(model, Draws(1), graph) for model in (plain, joint))
    assert a.energy_var is a.forces_cov is None
    torch.testing.assert_close(a.forces, b.forces, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_covariances_turn_with_the_molecule(name):
    model, atoms, r = network(name), ethanol(), rotation()
    energy_var, covariance = noise(model, atoms)
    for matrix in (r, -r):
        found = noise(model, turned(atoms, matrix))
        np.testing.assert_allclose(found[0], energy_var, rtol=1e-10)
        np.testing.assert_allclose(found[1], matrix @ covariance @ matrix.T, rtol=1e-9, atol=1e-12)
    eigenvalues = np.linalg.eigvalsh(covariance)
    assert (eigenvalues > 0).all()
    assert (eigenvalues[:, 2] / eigenvalues[:, 0]).max() > 1.05  # not all of them balls, which turn trivially


@pytest.mark.parametrize("name", NAMES)
def test_triangle_of_the_paper_stands_in_the_laboratory(name):
    """The control: its Mahalanobis square of one and the same error depends on how the molecule lies."""
    model, atoms, r = network(name, covariance="paper"), ethanol(), rotation()
    before, after = noise(model, atoms)[1], noise(model, turned(atoms, r))[1]
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-12)
    error = np.random.default_rng(0).normal(size=(len(atoms), 3))
    squares = [np.einsum("ni,nij,nj->n", e, np.linalg.inv(c), e) for e, c in ((error, before), (error @ r.T, after))]
    assert np.abs(squares[0] / squares[1] - 1).max() > 0.05


@pytest.mark.parametrize("covariance", ["equivariant", "paper"])
def test_no_standard_deviation_falls_below_the_floor(covariance):
    """Also with heads that say zero; the published floor of 1e-3 (eV/Å)² is 31.6 meV/Å."""
    floor = 1e-3**0.5 / 0.8
    model = network("painn", covariance=covariance, floor=floor)
    with torch.no_grad():
        model.readout_outer.bias[1:] = -100.0
    lowest = np.sqrt(np.linalg.eigvalsh(noise(model, ethanol())[1])).min()
    assert lowest >= 0.0316
    assert lowest == pytest.approx(0.0316, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_energy_variance_adds_up_over_atoms(name):
    """Replicated cells: σ_E grows with √N, and not at all with the pooling of the published code."""
    crystal = bulk("C", "diamond", a=3.6, cubic=True)
    for pooling, ratio in (("sum", 2.0), ("mean", 1.0)):
        model = network(name, pooling=pooling)
        small, large = noise(model, crystal)[0], noise(model, crystal * (2, 1, 1))[0]
        np.testing.assert_allclose(large / small, ratio, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strategy", ["vmap", "traced"])
def test_heads_of_many_draws_by_every_strategy(name, strategy):
    members = stack_members([dict(network(name, seed=seed).named_parameters()) for seed in (0, 10, 20)])
    model, draws = network(name), Draws(3, members)
    for atoms in (ethanol(), ethanol(1)):
        graph = Graph.from_atoms(atoms, model.cutoff)
        loop, other = (evaluate(model, draws, graph, strategy=s) for s in ("loop", strategy))
        for key in ("energy", "forces", "energy_var", "forces_cov"):
            torch.testing.assert_close(getattr(other, key), getattr(loop, key), rtol=1e-10, atol=1e-11)
        assert loop.energy_var.shape == (3, 1)
        assert loop.energy_var.std() > 0


@pytest.mark.chance(12)
def test_total_variance_is_that_of_the_mixture(chance):
    """Moments of a mixture of Gaussians, sampled by brute force."""
    rng = chance.rng()
    k, n, per = 6, 2, chance.times(200_000)
    means, energies = rng.normal(size=(k, n, 3)), rng.normal(size=k)
    factors = rng.normal(size=(k, n, 3, 3)) * 0.5
    covariances, variances = factors @ factors.swapaxes(-1, -2), rng.uniform(0.1, 1.0, k)
    p = summarize(np.array([1, 8]), SampleArrays(energies, means, energy_var=variances, forces_cov=covariances))
    samples = means[:, None] + np.einsum("knij,ksnj->ksni", factors, rng.normal(size=(k, per, n, 3)))
    flat = samples.reshape(-1, n, 3)
    # the spread of the K draws is an unbiased estimate, divisor K - 1; the mixture itself has divisor K
    biased = p.forces_cov_epistemic * (k - 1) / k + p.forces_cov_aleatoric
    for i in range(n):
        np.testing.assert_allclose(biased[i], np.cov(flat[:, i].T), atol=0.06)
    np.testing.assert_allclose(p.forces_cov_aleatoric, covariances.mean(0), rtol=1e-12)
    assert p.energy_var_aleatoric == pytest.approx(variances.mean())
    assert p.energy_var_epistemic == pytest.approx(energies.var(ddof=1))


@pytest.mark.parametrize(("predict", "there"), [("none", 0), ("energy", 2), ("joint", 6)])
def test_one_draw_has_the_variances_of_its_heads(predict, there):
    atoms = ethanol()
    predictor = BayesianPredictor(network("painn", predict), PointPosterior(), n_draws=1)
    atoms.calc = BayesianCalculator(predictor, raw=True)
    found = [key for key in atoms.calc.implemented_properties if key.endswith(("_var", "_std"))]
    assert len(found) == there
    atoms.get_forces()
    for key in found:
        assert np.all(atoms.calc.get_property(key, atoms) > 0)
    if predict == "joint":
        prediction = atoms.calc.prediction
        np.testing.assert_array_equal(prediction.forces_cov_epistemic, 0.0)
        assert prediction.energy_var_epistemic == 0.0


def test_ensemble_keeps_epistemic_and_aleatoric_parts_apart():
    members = stack_members([dict(network("painn", seed=seed).named_parameters()) for seed in (0, 10, 20)])
    predictor = BayesianPredictor(network("painn"), EnsemblePosterior(members), n_draws=3)
    (p,) = predictor([ethanol()], Need(samples=True))
    (bare,) = BayesianPredictor(
        network("painn", "none"),
        EnsemblePosterior({n: v[:, :1] if "readout_outer" in n else v for n, v in members.items() if "quad" not in n}),
        n_draws=3,
    )([ethanol()])
    np.testing.assert_allclose(p.forces_cov_epistemic, bare.forces_cov, rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(p.forces_cov_aleatoric, p.samples.forces_cov.mean(0))
    np.testing.assert_allclose(p.atom_std**2, np.trace(p.forces_cov, axis1=1, axis2=2) / 3)


def test_energy_alone_needs_no_forces():
    predictor = BayesianPredictor(network("painn"), PointPosterior(), n_draws=1)
    (p,) = predictor([ethanol()], Need(forces=False))
    assert p.forces_cov is None
    assert p.energy_var > 0


def test_equivariant_covariances_need_tensors():
    with pytest.raises(ConfigurationError, match="2e"):
        Race(RaceConfig(hidden="8x0e+8x1o", heads=HeadsConfig(predict="joint")), [1])
    with pytest.raises(ConfigurationError, match="no layer reaches 2e"):
        Race(RaceConfig(hidden="8x0e+8x1o+8x2e", layers=1, l_max=1, heads=HeadsConfig(predict="joint")), [1])
    Race(RaceConfig(hidden="8x0e+8x1o", heads=HeadsConfig(predict="joint", covariance="paper")), [1])


def test_an_isolated_atom_is_isotropic():
    for name in NAMES:
        covariance = noise(network(name), Atoms("C"))[1][0]
        np.testing.assert_allclose(covariance, covariance[0, 0] * np.eye(3), atol=1e-14)
