"""Traced and compiled kernels equal the loop for every kind of draw, and say so by name where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from blipcalc.core import kernels
from blipcalc.core.compiled import check_equal
from blipcalc.core.contracts import Draws, place_draws
from blipcalc.core.evaluate import PAIRS, Evaluator
from blipcalc.core.graph import Graph, GraphTensors
from blipcalc.core.kernels import KEPT, Kernels
from blipcalc.errors import CompilationError
from blipcalc.posteriors.blip import BlipPosterior
from blipcalc.posteriors.ensemble import MixturePosterior


def graphs_of(model, *groups):
    return [Graph.collate([Graph.from_atoms(atoms, model.cutoff) for atoms in group]) for group in groups]


def assert_equal(a, b, tolerance=1e-12):
    for name in a._fields:
        one, other = getattr(a, name), getattr(b, name)
        if one is other is None:
            continue
        assert torch.equal(one.isnan(), other.isnan()), name
        assert (one - other).nan_to_num().abs().max() <= tolerance * max(1.0, other.nan_to_num().abs().max()), name


@pytest.fixture(
    params=["traced", pytest.param("compiled", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def strategy(request):
    return request.param


def assert_equals_loop(model, draws, graphs, evaluator, tolerance=1e-12):
    draws = place_draws(model, draws)
    loop = Evaluator(model, strategy="loop")
    for graph in graphs:
        assert_equal(evaluator(draws, graph, stress=True), loop(draws, graph, stress=True), tolerance)
    return evaluator


def members_of(*models):
    states = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}


@pytest.mark.parametrize("name", ["painn", "schnet", "visnet"])
def test_a_point_estimate_and_an_ensemble(make_backbone, molecule, crystal, name, strategy):
    model = make_backbone(name)
    graphs = graphs_of(model, (molecule,), (crystal,))
    evaluator = Evaluator(model, strategy=strategy)
    assert_equals_loop(model, Draws(1), graphs, evaluator)
    members = Draws(3, members_of(*(make_backbone(name, seed) for seed in (0, 1, 2))))
    assert_equals_loop(model, members, graphs, evaluator)


def test_noise_for_every_number_of_draws(make_blip, draw, molecule, crystal, strategy):
    model = make_blip(vectors=True)
    (graph,) = graphs_of(model, (molecule, crystal))
    evaluator = Evaluator(model, strategy=strategy)
    for k in range(1, 9) if strategy == "traced" else (1, 2, 8):
        assert_equals_loop(model, draw(model, k), [graph], evaluator)


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_chunks_of_draws_share_a_kernel_per_shape(make_blip, draw, molecule, crystal, strategy, chunk):
    models = [make_blip(seed=seed) for seed in (0, 1)]
    posterior = MixturePosterior(members_of(*models), BlipPosterior(models[0].slot_shapes()))
    graphs = graphs_of(models[0], (molecule, crystal))
    evaluator = Evaluator(models[0], strategy=strategy, chunk=chunk)
    for seed in (0, 1):
        draws = posterior.draw(4, generator=torch.Generator().manual_seed(seed))
        assert_equals_loop(models[0], draws, graphs, evaluator)
    assert sum(len(kernels._kernels) for kernels in evaluator._kernels.values()) == (2 if chunk == 3 else 1)


@pytest.mark.parametrize(("pairs", "passes"), [(PAIRS // 12, 1), (PAIRS // 5, 3), (PAIRS // 2, 6), (2 * PAIRS, 12)])
def test_passes_are_alike_and_small_enough_for_the_caches(make_blip, pairs, passes):
    graph = tensors()._replace(vectors=torch.empty(pairs, 3))
    assert Evaluator(make_blip())._comfortable(12, graph) == 12 // passes


def test_a_mixture_and_its_centre_on_graphs_of_many_sizes(make_blip, molecule, crystal, ammonia, strategy):
    models = [make_blip(seed=seed) for seed in (0, 1)]
    posterior = MixturePosterior(members_of(*models), BlipPosterior(models[0].slot_shapes()))
    pair, alone = Atoms("N2", positions=[[0, 0, 0], [0, 0, 1.1]]), Atoms("N", positions=[[0, 0, 0]])
    graphs = graphs_of(
        models[0], (molecule,), (crystal,), (ammonia,), (molecule,), (pair,), (alone,), (molecule, crystal, ammonia)
    )
    noisy = posterior.draw(4, generator=torch.Generator().manual_seed(0))
    evaluator = Evaluator(models[0], strategy=strategy)
    assert_equals_loop(models[0], noisy, graphs, evaluator)
    assert_equals_loop(models[0], posterior.centre(), graphs, evaluator)


def test_float32_and_a_moving_crystal(make_blip, draw, crystal, strategy):
    model = make_blip().float()
    rng, frames = np.random.default_rng(0), []
    for _ in range(4):
        crystal.rattle(0.1, rng=rng)
        frames.append((crystal.copy(),))
    graphs = graphs_of(model, *frames)
    assert len({graph.edge_index.shape[1] for graph in graphs}) > 1
    assert_equals_loop(model, draw(model, 3), graphs, Evaluator(model, strategy=strategy), tolerance=1e-4)


def tensors(n_atoms=3):
    source, target = torch.triu_indices(n_atoms, n_atoms, 1)
    vectors = torch.randn(len(source), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    species, batch = torch.ones(n_atoms, dtype=torch.int64), torch.zeros(n_atoms, dtype=torch.int64)
    return GraphTensors(vectors, torch.stack([source, target]), species, batch, 1)


def squares(state, overrides, graph):
    scale = state["scale"] * 2.0
    return graph.vectors**2 * scale, (graph.species.sum() * scale, graph.species * scale)


STATE = {"scale": torch.tensor(3.0, dtype=torch.float64)}


def test_each_new_kernel_is_compared_once(monkeypatch):
    compared = []
    monkeypatch.setattr(kernels, "check_equal", lambda *args, **about: compared.append(check_equal(*args, **about)))
    function = Kernels(squares, 4.0, compiled=False)
    for n_atoms in (3, 4, 7, 3, 4, 7):
        graph = tensors(n_atoms)
        assert torch.equal(function(STATE, {}, graph)[0], 6 * graph.vectors**2)
    assert len(compared) == 3


def test_only_so_many_kernels_are_kept():
    function = Kernels(squares, 4.0, compiled=False)
    for n_atoms in range(3, 3 + KEPT + 5):
        function(STATE, {}, tensors(n_atoms))
    assert len(function._kernels) == KEPT


def test_directions_are_an_input():
    def along(state, overrides, graph, directions):
        return directions * graph.vectors * state["scale"], ()

    function, graph = Kernels(along, 4.0, compiled=False), tensors(7)
    assert graph.vectors.shape[0] % 2  # control: pairs are added, and directions of nothing with them
    for n in (2, 3, 2):
        directions = torch.randn(
            n, *graph.vectors.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(n)
        )
        expected = along(STATE, {}, graph, directions)[0]
        assert torch.allclose(function(STATE, {}, graph, directions)[0], expected, atol=1e-10)
    assert len(function._kernels) == 2


def test_other_draws_get_a_kernel_of_their_own():
    def shifted(state, overrides, graph):
        return graph.vectors * overrides["a"], (graph.vectors.sum(), graph.vectors.sum(0))

    function, graph = Kernels(shifted, 4.0, compiled=False), tensors()
    for value in (2.0, 5.0):
        overrides = {"a": torch.tensor(value, dtype=torch.float64)}
        assert torch.equal(function(STATE, overrides, graph)[0], value * graph.vectors)
    overrides["a"].fill_(7.0)  # changed in place: another version of the same tensor
    assert torch.equal(function(STATE, overrides, graph)[0], 7.0 * graph.vectors)


def test_weights_changed_in_place_get_a_kernel_of_their_own():
    function, graph, state = Kernels(squares, 4.0, compiled=False), tensors(), {"scale": STATE["scale"].clone()}
    for value in (3.0, 5.0):
        state["scale"].fill_(value)
        assert torch.equal(function(state, {}, graph)[0], 2 * value * graph.vectors**2)


def test_constants_are_folded_and_never_written_to():
    def in_place(state, overrides, graph):
        accumulator = torch.zeros(3, dtype=torch.float64)
        accumulator.add_(graph.vectors.sum(0))
        return graph.vectors * accumulator, (accumulator.sum(), accumulator)

    function = Kernels(in_place, 4.0, compiled=False)
    for graph in (tensors(), tensors()._replace(vectors=tensors().vectors + 1.0)):
        assert torch.equal(function(STATE, {}, graph)[0], in_place(STATE, {}, graph)[0])


def test_a_wrong_kernel_is_an_error(monkeypatch):
    monkeypatch.setattr(kernels, "fold_constants", lambda module: lambda *args: [2 * x for x in module(*args)])
    function = Kernels(squares, 4.0, compiled=False)
    for _ in range(2):  # it is not kept either
        with pytest.raises(CompilationError, match="differs from the plain function: derivatives"):
            function(STATE, {}, tensors())


@pytest.mark.parametrize("share", [0.9, 0.998, 0.99998])
def test_rounding_of_small_forces_is_no_difference(make_backbone, share):
    model = make_backbone("painn").float()
    pair = Atoms("NN", positions=[[0, 0, 0], [0, 0, share * model.cutoff]])
    assert_equals_loop(model, Draws(1), graphs_of(model, (pair,)), Evaluator(model, strategy="traced"), tolerance=1e-4)


def test_a_function_that_branches_on_values_is_never_frozen():
    def branches(state, overrides, graph):
        return graph.vectors * (2.0 if graph.vectors.sum() > 0 else 1.0), (graph.vectors.sum(), graph.vectors)

    with pytest.raises(RuntimeError, match=r"data-dependent|tracing tensor|control flow"):
        Kernels(branches, 4.0, compiled=False)(STATE, {}, tensors())


@pytest.mark.slow
def test_a_missing_compiler_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(CompilationError, match=r"needs a C\+\+ compiler"),
    ):
        Kernels(squares, 4.0, compiled=True)(STATE, {}, tensors())
