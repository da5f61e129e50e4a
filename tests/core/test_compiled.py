"""The compiled strategy equals the loop for every kind of draw, and says so by name where it cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from blipcalc.bayes.blip import BlipPosterior
from blipcalc.bayes.ensemble import MixturePosterior
from blipcalc.core import compiled
from blipcalc.core.compiled import Compiled, check_equal
from blipcalc.core.contracts import Draws
from blipcalc.core.evaluate import Evaluator
from blipcalc.core.graph import Graph, GraphTensors
from blipcalc.errors import CompilationError


def graphs_of(model, *groups):
    return [Graph.collate([Graph.from_atoms(atoms, model.cutoff) for atoms in group]) for group in groups]


def assert_equal(a, b, tolerance=1e-12):
    for name in a._fields:
        one, other = getattr(a, name), getattr(b, name)
        assert torch.equal(one.isnan(), other.isnan()), name
        assert (one - other).nan_to_num().abs().max() <= tolerance * max(1.0, other.nan_to_num().abs().max()), name


def assert_compiled_equals_loop(model, draws, graphs, tolerance=1e-12, evaluator=None):
    evaluator = evaluator or Evaluator(model, strategy="compiled")
    loop = Evaluator(model, strategy="loop")
    for graph in graphs:
        assert_equal(evaluator(draws, graph, stress=True), loop(draws, graph, stress=True), tolerance)
    return evaluator


def members_of(*models):
    states = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["painn", "schnet", "visnet"])
def test_a_point_estimate_and_an_ensemble(make_backbone, molecule, crystal, name):
    model = make_backbone(name)
    graphs = graphs_of(model, (molecule,), (crystal,))
    assert_compiled_equals_loop(model, Draws(1), graphs)
    members = Draws(3, members_of(*(make_backbone(name, seed) for seed in (0, 1, 2))))
    assert_compiled_equals_loop(model, members, graphs)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_noise_for_every_number_of_draws(make_blip, draw, molecule, crystal):
    model = make_blip(vectors=True)
    (graph,) = graphs_of(model, (molecule, crystal))
    evaluator = None
    for k in (1, 2, 3, 8):
        evaluator = assert_compiled_equals_loop(model, draw(model, k), [graph], evaluator=evaluator)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_mixture_and_its_centre_on_graphs_of_many_sizes(make_blip, molecule, crystal, ammonia):
    models = [make_blip(seed=seed) for seed in (0, 1)]
    posterior = MixturePosterior(members_of(*models), BlipPosterior(models[0].slot_shapes()))
    pair, alone = Atoms("N2", positions=[[0, 0, 0], [0, 0, 1.1]]), Atoms("N", positions=[[0, 0, 0]])
    graphs = graphs_of(
        models[0], (molecule,), (crystal,), (ammonia,), (molecule,), (pair,), (alone,), (molecule, crystal, ammonia)
    )
    noisy = posterior.draw(4, generator=torch.Generator().manual_seed(0))
    evaluator = assert_compiled_equals_loop(models[0], noisy, graphs)
    assert_compiled_equals_loop(models[0], posterior.centre(), graphs, evaluator=evaluator)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_float32_and_a_moving_crystal(make_blip, draw, crystal):
    model = make_blip().float()
    rng, frames = np.random.default_rng(0), []
    for _ in range(4):
        crystal.rattle(0.1, rng=rng)
        frames.append((crystal.copy(),))
    graphs = graphs_of(model, *frames)
    assert len({graph.edge_index.shape[1] for graph in graphs}) > 1
    draws = draw(model, 3)
    draws = Draws(3, {name: value.float() for name, value in draws.overrides.items()})
    assert_compiled_equals_loop(model, draws, graphs, tolerance=1e-4)


def tensors(n_atoms=3):
    source, target = torch.triu_indices(n_atoms, n_atoms, 1)
    vectors = torch.randn(len(source), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    species, batch = torch.ones(n_atoms, dtype=torch.int64), torch.zeros(n_atoms, dtype=torch.int64)
    return GraphTensors(vectors, torch.stack([source, target]), species, batch, 1)


def squares(state, overrides, graph):
    return graph.vectors**2, (graph.vectors.sum(),)


def test_each_new_kernel_is_compared_once(monkeypatch):
    compared = []
    monkeypatch.setattr(compiled, "lookup_backend", lambda name: lambda module, inputs: module)
    monkeypatch.setattr(compiled, "check_equal", lambda *args: compared.append(check_equal(*args)))
    function = Compiled(squares)
    for n_atoms in (3, 4, 5, 3):
        graph = tensors(n_atoms)
        assert torch.equal(function({}, {}, graph)[0], graph.vectors**2)
    assert len(compared) == 1


def test_a_wrong_kernel_is_an_error(monkeypatch):
    def wrong(module, inputs):
        return lambda *args: [2 * value for value in module(*args)]

    monkeypatch.setattr(compiled, "lookup_backend", lambda name: wrong)
    with pytest.raises(CompilationError, match="differs from the plain one"):
        Compiled(squares)({}, {}, tensors())


def test_differences_that_are_found():
    one = torch.tensor([1.0, 2.0])
    check_equal((one, (one,)), (one, (one + 1e-9,)), 1e-8)
    check_equal(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]), 1e-8)
    for other in (torch.tensor([1.0, 2.1]), torch.tensor([1.0, torch.nan]), torch.tensor([0.0, 0.0])):
        with pytest.raises(CompilationError):
            check_equal((one,), (other,), 1e-8)


def test_a_function_that_cannot_be_compiled_is_an_error():
    def branches(state, overrides, graph):
        return graph.vectors * (2.0 if graph.vectors.sum() > 0 else 1.0)

    with pytest.raises(CompilationError, match="use strategy='vmap'"):
        Compiled(branches)({}, {}, tensors())


def test_a_missing_compiler_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(CompilationError, match=r"needs a C\+\+ compiler"),
    ):
        Compiled(squares)({}, {}, tensors())
