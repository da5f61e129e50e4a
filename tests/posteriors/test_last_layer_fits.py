"""Posteriors over the last layers, where everything is known: a network with fixed features is a linear model.

Exact: the posterior of Bayesian linear regression on energies and forces, its evidence, the variance of any prediction, and what
the box of POPS reaches.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase.build import molecule

from blipcalc import BayesianCalculator
from blipcalc.core.contracts import Draws, place_draws
from blipcalc.core.evaluate import evaluate
from blipcalc.core.graph import Graph
from blipcalc.errors import ConfigurationError, SchemaError
from blipcalc.files.safetensors_file import read_sealed, write_sealed
from blipcalc.model_file.model_file import load, save_model
from blipcalc.models.build import build_model
from blipcalc.posteriors.blip import bayesianize
from blipcalc.posteriors.laplace import Laplace, last_layer_laplace
from blipcalc.posteriors.last_layer import flat, last_weights, with_rows
from blipcalc.posteriors.last_layer_jacobians import accumulate, jacobians
from blipcalc.posteriors.llpr import Llpr, best_alpha, llpr, rescaled
from blipcalc.posteriors.pops import LEVERAGE, Pops
from blipcalc.training.train import train

SIZES = {
    "painn": {"features": 8, "interactions": 1, "n_radial": 6, "cutoff": 4.0},
    "race": {"hidden": "4x0e+4x1o", "l_max": 1, "embedding": 4, "layers": 2, "readout_width": 4, "radial_width": 8},
}
NOISE = 0.05, 0.2  # eV, eV/Å


def network(name="painn", **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(name, SIZES[name] | changes, [1, 8]).double()
    model.energies.set({1: -1.0, 8: -2.0}, 0.5, model.species)
    return model


def labelled(model, n, seed=0, noise=NOISE, truth=None):
    """Frames whose labels are those of the same network with other last weights, plus noise; and those weights."""
    rng, frames = np.random.default_rng(seed), []
    weights = last_weights(model)
    generator = torch.Generator().manual_seed(99)
    truth = torch.randn(len(flat(weights)), dtype=torch.float64, generator=generator) if truth is None else truth
    draws = place_draws(model, with_rows(weights, truth[None]))
    for _ in range(n):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(0, 0.15, atoms.positions.shape)
        samples = evaluate(model, draws, Graph.from_atoms(atoms, model.cutoff))
        atoms.info["labels"] = (
            samples.energy[0, 0] + noise[0] * rng.normal(),
            samples.forces[0].numpy() + noise[1] * rng.normal(size=atoms.positions.shape),
        )
        frames.append(atoms)
    graphs = []
    for atoms in frames:
        graph = Graph.from_atoms(atoms, model.cutoff)
        graph.vectors = graph.edge_vectors()
        energy, forces = atoms.info["labels"]
        graph.energy, graph.forces = torch.tensor([float(energy)], dtype=torch.float64), torch.as_tensor(forces)
        graphs.append(graph)
    return graphs, truth


def design(model, graphs):
    """Rows of energies and of force components, and the labels less what does not depend on w: by autograd, one by one."""
    weights = last_weights(model)
    rows = []

    def outputs(w, graph):
        draws = {k: v[0] for k, v in with_rows(weights, w[None]).overrides.items()}

        def energy(vectors):
            state = dict(model.named_parameters()) | draws
            return torch.func.functional_call(model, state, (graph.tensors(torch.float64, vectors),)).energy.sum()

        vectors = graph.edge_vectors()
        gradient = torch.func.grad(energy)(vectors)
        forces = torch.zeros(graph.num_nodes, 3, dtype=torch.float64)
        forces = forces.index_add(0, graph.edge_index[1], gradient).index_add(0, graph.edge_index[0], -gradient)
        return energy(vectors)[None], forces.flatten()

    zero = torch.zeros(len(flat(weights)), dtype=torch.float64)
    for graph in graphs:
        e, f = torch.func.jacfwd(lambda w, graph=graph: outputs(w, graph))(zero)
        e0, f0 = outputs(zero, graph)
        rows.append((e, f, graph.energy - e0, graph.forces.flatten() - f0))
    return [torch.cat([row[i] for row in rows]).detach() for i in range(4)]


@pytest.mark.parametrize("name", SIZES)
def test_jacobians_are_those_of_autograd(name):
    model = network(name)
    graphs, _ = labelled(model, 3)
    energy, forces, _, _ = design(model, graphs)
    found = [of_structure for _, _, of_structure in jacobians(model, graphs)]
    torch.testing.assert_close(torch.cat([phi.T for phi, _ in found]), energy, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(torch.cat([j.flatten(1).T for _, j in found]), forces, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", SIZES)
def test_laplace_is_bayesian_linear_regression(name):
    """Precision, evidence and its maximum, against the textbook on the whole design matrix."""
    model = network(name)
    graphs, truth = labelled(model, 60)
    e, f, ye, yf = design(model, graphs)
    gram = accumulate(jacobians(model, graphs))
    sigma_e, sigma_f, tau = (torch.tensor(x, dtype=torch.float64) for x in (0.1, 0.3, 2.0))
    precision = e.T @ e / sigma_e**2 + f.T @ f / sigma_f**2 + tau * torch.eye(e.shape[1], dtype=torch.float64)
    torch.testing.assert_close(gram.precision(sigma_e, sigma_f, tau), precision, rtol=1e-9, atol=1e-8)
    # the evidence at the mode of the posterior is that of the labels: N(0, A A^T / tau + noise)
    mode = torch.linalg.solve(precision, e.T @ ye / sigma_e**2 + f.T @ yf / sigma_f**2)
    at_mode = with_rows(last_weights(model), mode[None]).overrides
    with torch.no_grad():
        for key, value in at_mode.items():
            dict(model.named_parameters())[key].copy_(value[0])
    gram = accumulate(jacobians(model, graphs))
    a, y = torch.cat([e, f]), torch.cat([ye, yf])
    noise = torch.cat([sigma_e.expand(len(e)), sigma_f.expand(len(f))])
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(len(y), dtype=y.dtype), a @ a.T / tau + noise.square().diag()
    )
    assert float(gram.log_evidence(mode, sigma_e, sigma_f, tau)) == pytest.approx(float(exact.log_prob(y)), rel=1e-8)
    posterior, found = last_layer_laplace(last_weights(model), gram)
    # the truth lies within the posterior, and noise is found again: a chi-square of 60, and of 540, degrees of freedom
    assert found["noise_energy"] == pytest.approx(NOISE[0], rel=4 / math.sqrt(2 * 60))
    assert found["noise_forces"] == pytest.approx(NOISE[1], rel=4 / math.sqrt(2 * 540))
    assert found["prior_precision"] != 1.0
    z = torch.linalg.solve(posterior.factor, truth - flat(posterior.weights))
    assert 0.2 < float(z.square().mean()) < 3.0
    for k in range(3):  # a maximum
        for factor in (0.95, 1.05):
            values = [found[key] * (factor if i == k else 1.0) for i, key in enumerate(list(found)[:3])]
            moved = gram.log_evidence(flat(posterior.weights), *(torch.tensor(v, dtype=torch.float64) for v in values))
            assert float(moved) < found["log_evidence"]


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.chance(40)
def test_draws_have_the_exact_variance_and_their_middle_is_the_network(name, chance):
    model = network(name)
    graphs, _ = labelled(model, 40)
    posterior, _ = Laplace().fit(model, {}, {"train": graphs})
    k = chance.times(4000)
    test = graphs[0]
    e, f, _, _ = design(model, [test])
    covariance = posterior.factor @ posterior.factor.T
    exact_e, exact_f = float(e @ covariance @ e.T), (f @ covariance @ f.T).diagonal()
    draws = place_draws(model, posterior.draw(k, generator=torch.Generator().manual_seed(chance.seed())))
    samples = evaluate(model, draws, test)
    error = chance.sigmas * math.sqrt(2 / k)
    assert float(samples.energy.var()) == pytest.approx(exact_e, rel=error)
    np.testing.assert_allclose(samples.forces.flatten(1).var(dim=0), exact_f, rtol=error)
    centre = evaluate(model, posterior.centre(), test)
    middle = samples.energy.mean() - centre.energy[0, 0]
    assert abs(float(middle)) < chance.sigmas * math.sqrt(exact_e / k)


def test_llpr_has_unit_mean_square_on_the_frames_it_is_scaled_on():
    model = network()
    train_graphs, truth = labelled(model, 40)
    held_out, _ = labelled(model, 20, seed=1, truth=truth)
    posterior, figures = Llpr().fit(model, {}, {"train": train_graphs, "validation": held_out})
    _, f, _, yf = design(model, held_out)
    covariance = posterior.factor @ posterior.factor.T
    z2 = (yf - f @ flat(posterior.weights)).square() / (f @ covariance @ f.T).diagonal()
    assert float(z2.mean()) == pytest.approx(1.0, rel=1e-8)
    plain = llpr(last_weights(model), accumulate(jacobians(model, train_graphs)))
    torch.testing.assert_close(rescaled(plain, figures["alpha"]).factor, posterior.factor)
    assert best_alpha(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 4.0])) == pytest.approx(2.0)
    # the force on an atom without neighbours is zero and cannot vary
    assert best_alpha(torch.tensor([2.0, 4.0, 0.0]), torch.tensor([1.0, 4.0, 0.0])) == pytest.approx(2.0)
    with pytest.raises(ConfigurationError, match="no validation frame"):
        best_alpha(torch.zeros(2), torch.zeros(2))


@pytest.mark.parametrize("name", SIZES)
def test_the_box_of_pops_reaches_every_label_that_a_network_is_fitted_to(name):
    model = network(name)
    graphs, _ = labelled(model, 20)
    posterior, figures = Pops().fit(model, {}, {"train": graphs})
    e, f, ye, yf = design(model, graphs)
    rows, y = torch.cat([e, f]), torch.cat([ye, yf])
    along = rows @ posterior.axes
    ends = torch.stack([along * posterior.low, along * posterior.high])
    middle = rows @ flat(posterior.weights)
    reached = (middle + ends.amin(dim=0).sum(dim=1) <= y + 1e-9) & (y <= middle + ends.amax(dim=0).sum(dim=1) + 1e-9)
    noise = torch.tensor([figures["noise_energy"]] * len(e) + [figures["noise_forces"]] * len(f), dtype=torch.float64)
    scaled = rows / noise[:, None]
    precision = scaled.T @ scaled + figures["prior_precision"] * torch.eye(rows.shape[1], dtype=torch.float64)
    leverage = (scaled * torch.linalg.solve(precision, scaled.T).T).sum(dim=1)
    kept = leverage > LEVERAGE * rows.shape[1] / len(rows)
    assert int((~kept).sum()) <= 2  # of 200
    assert reached[kept].all()
    # a draw is a network with such weights
    draws = posterior.draw(4, generator=torch.Generator().manual_seed(0))
    samples = evaluate(model, place_draws(model, draws), graphs[0])
    middle = evaluate(model, posterior.centre(), graphs[0])
    away = samples.forces.flatten(1) - middle.forces.flatten(1)
    generator = torch.Generator().manual_seed(0)
    uniform = torch.stack([posterior.numbers(generator)["weights"] for _ in range(4)])
    inside = posterior.low + (posterior.high - posterior.low) * uniform
    torch.testing.assert_close(away, inside @ along[len(e) : len(e) + away.shape[1]].T, rtol=1e-8, atol=1e-8)


def test_draws_are_repeatable_and_do_not_know_their_number():
    model = network()
    posterior, _ = Laplace().fit(model, {}, {"train": labelled(model, 20)[0]})
    a, b = (posterior.draw(k, generator=torch.Generator().manual_seed(3)) for k in (2, 5))
    for key, value in a.overrides.items():
        assert torch.equal(value, b.overrides[key][:2])
    assert isinstance(posterior.centre(), Draws)


def test_heads_for_variances_stay_as_they_are():
    """Only the row of the energy is drawn."""
    model = network(heads={"predict": "joint"})
    posterior, _ = Laplace().fit(model, {}, {"train": labelled(model, 20)[0]})
    draws = posterior.draw(3, generator=torch.Generator().manual_seed(0))
    weight = draws.overrides["readout_outer.weight"]
    assert torch.equal(weight[:, 1:], model.readout_outer.weight[1:].expand(3, -1, -1))
    assert not torch.equal(weight[0, 0], weight[1, 0])
    samples = evaluate(model, place_draws(model, draws), labelled(model, 1)[0][0])
    assert torch.equal(samples.energy_var[0], samples.energy_var[1])


def test_a_network_without_last_layers_is_refused():
    with pytest.raises(ConfigurationError, match="last layers"):
        last_weights(bayesianize(network()))


def test_too_few_data_are_named():
    model = network()
    gram = accumulate(jacobians(model, labelled(model, 1)[0]))
    with pytest.raises(ConfigurationError, match="singular"):
        llpr(last_weights(model), gram.__class__(0 * gram.energy, 0 * gram.forces, 1.0, 1.0, 1, 1))


@pytest.mark.parametrize("name", ["laplace", "llpr", "pops"])
def test_from_files_through_a_model_file_to_error_bars(small, no_events, tmp_path, name):
    settings = {
        "data": {"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0},
        "training": {"epochs": 2, "batch_size": 4},
        "folder": tmp_path / "run",
    }
    point = train(small.ETHANOL, tmp_path / "p.blip", model={"posterior": "point", "sizes": small.SIZES}, **settings)
    # a trained network is fitted without another step
    settings |= {"training": {"epochs": 0}, "folder": tmp_path / "again"}
    made = train(small.ETHANOL, tmp_path / "a.blip", model={"posterior": name}, start=tmp_path / "p.blip", **settings)
    assert made.training["posterior_fit"]
    for (key, a), b in zip(point.network.named_parameters(), made.network.parameters(), strict=True):
        assert torch.equal(a, b), key
    loaded = load(tmp_path / "a.blip")
    assert (loaded.hash, loaded.surface, loaded.posterior.name) == (made.hash, "centre", name)
    assert type(loaded.posterior) is type(made.posterior)
    kept = made.posterior.tensors()
    for key, value in loaded.posterior.tensors().items():
        assert torch.equal(value, kept[key])
    atoms = small.ethanol(1)[0].copy()
    atoms.calc = BayesianCalculator(loaded, raw=True)
    assert (atoms.calc.get_property("atom_std", atoms) > 0).all()
    bare = atoms.copy()
    bare.calc = BayesianCalculator(point, raw=True)
    np.testing.assert_allclose(atoms.get_forces(), bare.get_forces(), atol=1e-12)
    save_model(loaded, tmp_path / "b.blip")
    tensors, manifest = read_sealed(tmp_path / "b.blip")
    some = f"posterior/{next(iter(kept))}"
    for change in ({some: tensors[some][:-1]}, {"posterior/other": torch.ones(2)}):
        write_sealed(tmp_path / "c.blip", tensors | change, manifest)
        with pytest.raises(SchemaError):
            load(tmp_path / "c.blip")
