"""BLIP: every draw is one smooth, symmetric, conservative surface, and noise sits where it was asked for."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from pydantic import ValidationError

from blipcalc import testing
from blipcalc.core.contracts import Draws
from blipcalc.core.evaluate import evaluate
from blipcalc.core.forces import forces_from_gradient
from blipcalc.core.graph import Graph
from blipcalc.core.prediction import Calibration
from blipcalc.errors import BlipcalcError, ConfigurationError, DrawsError
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load, save_model
from blipcalc.posteriors.blip import BlipConfig, BlipModel, BlipPosterior, bayesianize
from blipcalc.posteriors.variational import VariationalLinear, kl_divergence
from blipcalc.predictor import BayesianPredictor

NETWORKS = ["painn", "schnet", "visnet"]


def samples(model, draws, atoms, **settings):
    graph = atoms if isinstance(atoms, Graph) else Graph.from_atoms(atoms, model.cutoff)
    return evaluate(model, draws, graph, **settings)


def close(a, b, tolerance=1e-12):
    scale = max(1.0, float(b.abs().max()))
    torch.testing.assert_close(a, b, rtol=0.0, atol=tolerance * scale)


# --- no noise, and noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("settings", [{}, {"mode": "local"}, {"vectors": True}, {"where": "last"}], ids=str)
def test_without_draws_a_blip_is_its_backbone_bit_for_bit(make_backbone, molecule, name, settings):
    backbone = make_backbone(name)
    model = bayesianize(copy.deepcopy(backbone), **settings).double()
    graph = Graph.from_atoms(molecule, backbone.cutoff)
    noisy_free, plain = model(graph.tensors(torch.float64)), backbone(graph.tensors(torch.float64))
    assert plain.penalty is None
    for field in ("energy", "energies", "features"):
        assert torch.equal(getattr(noisy_free, field), getattr(plain, field))
    mine, theirs = samples(model, Draws(1), molecule), samples(backbone, Draws(1), molecule)
    assert torch.equal(mine.forces, theirs.forces)
    state = model.state_dict()
    assert all(torch.equal(state[f"backbone.{n}"], value) for n, value in backbone.state_dict().items())
    assert {n.split(".")[0] for n in state} == {"backbone", "inference"}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("mode", ["frozen", "local"])
@pytest.mark.parametrize("where", ["all", "node", "edge", "last"])
def test_draws_differ(make_blip, draw, molecule, name, mode, where):
    model = make_blip(name, mode=mode, where=where).eval()
    spread = samples(model, draw(model, 6), molecule)
    assert spread.energy.std() > 1e-4
    assert (spread.forces.std(0) > 1e-5).any(dim=-1).all()


def test_alpha_near_zero_gives_the_backbone_back(make_backbone, draw, molecule):
    backbone = make_backbone()
    model = bayesianize(copy.deepcopy(backbone), alpha_initial=1e-20).double()
    noisy, plain = samples(model, draw(model, 4), molecule), samples(backbone, Draws(1), molecule)
    torch.testing.assert_close(noisy.energy, plain.energy.expand(4, -1), rtol=0, atol=1e-8)
    model = bayesianize(copy.deepcopy(backbone), alpha_initial=1e-4).double()
    assert (samples(model, draw(model, 4), molecule).energy - plain.energy).abs().min() > 1e-6


# --- one draw is one potential: the suite that every model passes, run on a frozen draw ------------------------------


class FrozenDraw(testing.ModelContract):
    """The noise of one draw sits in the slots, so that the surface of a draw is tested like any potential."""

    name, settings = "painn", {}

    @pytest.fixture(autouse=True)
    def _makers(self, make_blip, draw, baked):
        self.makers = make_blip, draw, baked

    def make_model(self, dtype):
        make_blip, draw, baked = self.makers
        model = make_blip(self.name, **self.settings)
        frozen = baked(model, draw(model, 3), 2).to(dtype)
        assert all(m.weight_noise.numel() for m in frozen.modules() if isinstance(m, VariationalLinear))
        return frozen

    def model(self):
        return self.make_model(torch.float64)

    def test_precision(self):
        self._each(testing.check_precision)

    def test_layer_roles(self):
        """Roles are those of the backbone, checked there; here: they still name modules that exist."""
        model = self.make_model(torch.float64)
        assert all(model.get_submodule(name) is not None for name in model.layer_roles())


class TestFrozenDraw(FrozenDraw):
    pass


class TestFrozenDrawWithVectors(FrozenDraw):
    settings = {"vectors": True}


class TestFrozenDrawOfSpeciesAlone(FrozenDraw):
    settings = {"inputs": "species"}


class TestFrozenDrawOfSchNet(FrozenDraw):
    name = "schnet"


class TestFrozenDrawOfViSNet(FrozenDraw):
    name = "visnet"
    settings = {"vectors": True}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_draw_keeps_the_symmetries(make_blip, draw, molecule, name):
    model = make_blip(name, vectors=True)
    draws = draw(model, 4)
    rng = np.random.default_rng(3)
    reference = samples(model, draws, molecule)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    order = rng.permutation(len(molecule))
    moved = molecule.copy()
    moved.positions = moved.positions @ turn.T + rng.normal(size=3)
    moved = moved[order]
    after = samples(model, draws, moved)
    close(after.energy, reference.energy, 1e-10)
    close(after.forces, (reference.forces @ torch.from_numpy(turn.T))[:, order], 1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_order_of_pairs_and_of_structures_does_not_matter(make_blip, draw, molecule, crystal, name):
    model = make_blip(name)
    draws = draw(model, 4)
    graphs = [Graph.from_atoms(a, model.cutoff) for a in (molecule, crystal)]
    there, back = samples(model, draws, Graph.collate(graphs)), samples(model, draws, Graph.collate(graphs[::-1]))
    n = len(molecule)
    close(there.energy, back.energy.flip(1))
    close(there.forces, torch.cat([back.forces[:, -n:], back.forces[:, :-n]], dim=1))
    shuffled = graphs[1].clone()
    order = torch.randperm(shuffled.num_edges, generator=torch.Generator().manual_seed(0))
    shuffled.edge_index, shuffled.shifts = shuffled.edge_index[:, order], shuffled.shifts[order]
    close(samples(model, draws, shuffled).energy, there.energy[:, 1:])
    close(samples(model, draws, shuffled).forces, there.forces[:, n:])


def swapped(ammonia):
    """NH3 slightly bent, and the same with two H exchanged."""
    ammonia.positions += np.random.default_rng(0).normal(scale=0.05, size=(4, 3))
    other = ammonia.copy()
    other.positions[[1, 2]] = other.positions[[2, 1]]
    return ammonia, other


def test_swapping_identical_atoms_changes_no_draw(make_blip, draw, ammonia):
    model = make_blip()
    draws = draw(model, 8)
    one, other = (samples(model, draws, atoms).energy for atoms in swapped(ammonia))
    assert (one - other).abs().max() < 1e-13


def test_local_noise_labels_identical_atoms(make_blip, draw, ammonia):
    """Control: what the test above would see, had noise been kept per atom."""
    model = make_blip(mode="local")
    draws = draw(model, 8)
    one, other = (samples(model, draws, atoms).energy for atoms in swapped(ammonia))
    assert (one - other).abs().min() > 1e-4


# --- which layers ----------------------------------------------------------------------------------------------------


def test_layers_of_ammonia_are_labelled_by_construction(make_blip, ammonia):
    model = make_blip()
    assert Graph.from_atoms(ammonia, model.cutoff).num_edges == 3 * len(ammonia) == 12
    roles = model.layer_roles()
    assert {n for n, r in roles.items() if r == "vector"} == {
        f"backbone.updates.{i}.mix_{w}" for i in (0, 1) for w in "uv"
    }
    assert {n for n, r in roles.items() if r == "edge"} == {f"backbone.messages.{i}.filter" for i in (0, 1)}
    assert len(roles) == 16
    assert model.edge_layers == ["messages.0.filter", "messages.1.filter"]
    assert model.inference.n_edge == 2
    assert model.inference.n_node == len(model.node_layers) == 10
    assert all(type(model.backbone.updates[i].mix_u) is torch.nn.Linear for i in (0, 1))
    shapes = {n: tuple(model.backbone.get_submodule(n).weight.shape) for n in model.roles}
    assert model.slot_shapes() == {f"backbone.{n}.weight_noise": shape for n, shape in shapes.items()}


BLOCK = ("messages.{i}.inner", "messages.{i}.outer", "updates.{i}.inner", "updates.{i}.outer")
READOUT = ("readout_inner", "readout_outer")


def block(i, *names):
    return {name.format(i=i) for name in names}


@pytest.mark.parametrize("where", ["node", "edge"])
def test_conversion_is_silent(make_backbone, where):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bayesianize(make_backbone(), where=where)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"where": "edge"}, block(0, "messages.{i}.filter") | block(1, "messages.{i}.filter")),
        ({"where": "node"}, block(0, *BLOCK) | block(1, *BLOCK) | set(READOUT)),
        ({"where": "last"}, block(1, *BLOCK, "messages.{i}.filter") | set(READOUT)),
        (
            {"where": "last", "vectors": True},
            block(1, *BLOCK, "messages.{i}.filter", "updates.{i}.mix_u", "updates.{i}.mix_v") | set(READOUT),
        ),
    ],
    ids=["edge", "node", "last", "last and vectors"],
)
def test_where_chooses_what_it_says_in_painn(make_backbone, draw, settings, expected):
    model = bayesianize(make_backbone(), **settings)
    assert set(model.roles) == expected
    assert {n for n, m in model.backbone.named_modules() if isinstance(m, VariationalLinear)} == expected
    assert set(draw(model, 2).overrides) == {f"backbone.{n}.weight_noise" for n in expected}


def test_where_last_chooses_the_last_block_and_readout_of_schnet(make_backbone):
    last = {f"interactions.1.{part}" for part in ("conv.lin1", "conv.lin2", "conv.nn.0", "conv.nn.2", "lin")}
    assert set(bayesianize(make_backbone("schnet"), where="last").roles) == last | set(READOUT)


def test_where_last_chooses_the_last_block_and_readout_of_visnet(make_backbone):
    roles = set(bayesianize(make_backbone("visnet"), where="last").roles)
    last = {f"layers.1.{part}_proj" for part in ("q", "k", "v", "o", "dk", "dv", "s")}
    assert roles == last | {f"readout.{part}" for part in ("inner", "outer", "last_inner", "last_outer")}


@pytest.mark.parametrize("name", NETWORKS)
def test_all_scalar_layers_and_with_vectors_all_layers(make_backbone, name):
    roles = make_backbone(name).layer_roles()
    scalar = {n for n, role in roles.items() if role != "vector"}
    assert set(bayesianize(make_backbone(name)).roles) == scalar
    assert set(bayesianize(make_backbone(name), vectors=True).roles) == set(roles)


def test_refusals_of_the_conversion(make_backbone):
    with pytest.raises(ConfigurationError, match="BLIP already"):
        bayesianize(bayesianize(make_backbone()))
    backbone = make_backbone()
    backbone.layer_roles = lambda: {"updates.0.mix_u": "vector"}
    with pytest.raises(ConfigurationError, match="chooses no layer"):
        bayesianize(backbone)


# --- draws -----------------------------------------------------------------------------------------------------------


def test_draw_k_is_the_same_whatever_k_is(make_blip, draw):
    for model in (make_blip(), make_blip(mode="local")):
        few, many = draw(model, 3, seed=5), draw(model, 8, seed=5)
        other = draw(model, 3, seed=6)
        for name, value in few.overrides.items():
            assert torch.equal(value, many.overrides[name][:3])
            assert not torch.equal(value, other.overrides[name])
            assert len({tuple(v.reshape(-1)[:4].tolist()) for v in many.overrides[name]}) == 8


@pytest.mark.chance(2)
def test_noise_is_standard_normal(make_blip, draw, chance):
    noise = torch.cat([v.reshape(-1) for v in draw(make_blip(), chance.times(20), chance.seed()).overrides.values()])
    error = chance.sigmas / len(noise) ** 0.5
    assert abs(noise.mean()) < error
    assert abs(noise.var() - 1) < error * 2**0.5


def test_a_draw_is_one_surface_for_all_systems(make_blip, draw, molecule, crystal):
    model = make_blip()
    draws = draw(model, 4)
    alone = samples(model, draws, molecule)
    rebuilt = samples(make_blip(), draw(make_blip(), 4), molecule)
    assert torch.equal(alone.energy, rebuilt.energy)
    assert torch.equal(alone.forces, rebuilt.forces)
    batch = Graph.collate([Graph.from_atoms(a, model.cutoff) for a in (crystal, molecule, crystal)])
    close(samples(model, draws, batch).energy[:, 1:2], alone.energy)
    # more atoms and more pairs elsewhere in the same structure
    far = molecule.copy()
    far.positions += 20.0
    two = samples(model, draws, molecule + far)
    close(two.energy, 2 * alone.energy)
    close(two.forces, torch.cat([alone.forces, alone.forces], dim=1))


def test_local_noise_depends_on_the_batch(make_blip, draw, molecule, crystal):
    """Control for the test above."""
    model = make_blip(mode="local")
    draws = draw(model, 4)
    batch = Graph.collate([Graph.from_atoms(a, model.cutoff) for a in (crystal, molecule)])
    alone = samples(model, draws, molecule).energy
    assert (samples(model, draws, batch).energy[:, 1:] - alone).abs().max() > 1e-3
    assert torch.equal(samples(model, draws, molecule).energy, alone)


def test_posterior_refuses_no_draws_and_has_a_centre(make_blip):
    posterior = BlipPosterior(make_blip().slot_shapes())
    with pytest.raises(DrawsError, match="at least one"):
        posterior.draw(0, generator=torch.Generator())
    centre = posterior.centre()
    assert centre.n == 1
    assert not centre.overrides


# --- α and the geometry ----------------------------------------------------------------------------------------------


def force_error(model, draws, atoms, k, steps=(1e-4, 3e-5, 1e-5)):
    """Largest difference of the force of draw k from central differences, at the best step, eV/Å."""
    forces = samples(model, draws, atoms).forces[k].numpy()
    errors = []
    for step in steps:
        moved = [atoms.copy() for _ in range(6 * len(atoms))]
        for structure, (a, i, end) in zip(moved, np.ndindex(len(atoms), 3, 2), strict=True):
            structure.positions[a, i] += (step, -step)[end]
        batch = Graph.collate([Graph.from_atoms(a, model.cutoff) for a in moved])
        energy = samples(model, draws[k : k + 1], batch, forces=False).energy.numpy().reshape(len(atoms), 3, 2)
        errors.append(np.abs((energy[..., 1] - energy[..., 0]) / (2 * step) - forces).max())
    return min(errors)


@pytest.mark.parametrize("inputs", ["species", "neighbourhood"])
def test_live_alpha_is_in_the_force(make_blip, draw, molecule, inputs):
    model = make_blip(inputs=inputs)
    assert force_error(model, draw(model, 2), molecule, 1) < 1e-7
    vectors = Graph.from_atoms(molecule, model.cutoff).edge_vectors().requires_grad_()
    graph = Graph.from_atoms(molecule, model.cutoff).tensors(torch.float64, vectors)
    alphas = model.inference(graph)
    (slope,) = torch.autograd.grad(alphas.edge.sum(), vectors, retain_graph=True)
    assert (slope.norm(dim=-1) > 1e-8).all()
    (slope,) = torch.autograd.grad(alphas.node.sum(), vectors, allow_unused=True)
    assert (slope is None) == (inputs == "species")
    assert slope is None or (slope.norm(dim=-1) > 1e-8).all()


def test_detached_alpha_gives_the_force_at_fixed_alpha(make_blip, draw, molecule):
    live, detached = make_blip(), make_blip(detach=True)
    draws = draw(live, 2)
    graph = Graph.from_atoms(molecule, live.cutoff)
    vectors = graph.edge_vectors().requires_grad_()
    alphas = live.inference(graph.tensors(torch.float64))
    slots = {f"{n}.alpha": alphas.node[:, k].detach() for k, n in enumerate(live.node_layers)}
    slots |= {f"{n}.alpha": alphas.edge[:, k].detach() for k, n in enumerate(live.edge_layers)}
    slots |= {name.removeprefix("backbone."): value[1] for name, value in draws.overrides.items()}
    energy = torch.func.functional_call(live.backbone, slots, (graph.tensors(torch.float64, vectors),)).energy.sum()
    by_hand = forces_from_gradient(torch.autograd.grad(energy, vectors)[0], graph.edge_index, len(molecule))
    ours, full = samples(detached, draws, molecule), samples(live, draws, molecule)
    close(ours.forces[1], by_hand)
    assert torch.equal(ours.energy, full.energy)
    assert (ours.forces - full.forces).abs().max() > 1e-4
    # control: the detached force is not the gradient of its energy, and the difference test sees it
    assert force_error(detached, draws, molecule, 1) > 1e-4


def test_penalty_pulls_on_every_atom_and_every_pair(make_blip, molecule, crystal):
    model = make_blip()
    graph = Graph.collate([Graph.from_atoms(a, model.cutoff) for a in (molecule, crystal)])
    assert graph.num_edges > 2 * len(graph.species)
    seen = []

    def keep(module, inputs, alphas):
        for a in alphas:
            a.retain_grad()
        seen.append(alphas)

    hook = model.inference.register_forward_hook(keep)
    terms = model(graph.tensors(torch.float64)).penalty
    penalty = (terms[:, 0] / terms[:, 1]).sum()
    hook.remove()
    penalty.backward()
    (alphas,) = seen
    assert alphas.node.shape == (len(graph.species), 10)
    assert alphas.edge.shape == (graph.num_edges, 2)
    prior = model.config.alpha_prior
    for a in alphas:
        assert a.grad.abs().min() > 0
        torch.testing.assert_close(a.grad, 0.5 * (1 / prior - 1 / a) / a.numel(), rtol=1e-10, atol=1e-15)
    expected = sum(kl_divergence(a, prior).mean() for a in alphas)
    torch.testing.assert_close(penalty, expected, rtol=1e-14, atol=0)
    assert model.inference.edge[0].weight.grad.abs().max() > 0


def test_penalty_of_an_isolated_atom_is_finite(make_blip, draw):
    model = make_blip()
    atom = Atoms("N", positions=[[0.0, 0.0, 0.0]])
    output = model(Graph.from_atoms(atom, model.cutoff).tensors(torch.float64))
    output.penalty.sum().backward()
    assert torch.isfinite(output.penalty).all()
    result = samples(model, draw(model, 3), atom)
    assert torch.isfinite(result.energy).all()
    assert (result.forces == 0).all()


def test_alpha_follows_distance_and_species_alone(make_blip, molecule):
    """With the inputs of the paper α of a pair is a function of its length, α of an atom of its element."""
    model = make_blip(inputs="species")
    graph = Graph.from_atoms(molecule, model.cutoff)
    alphas = model.inference(graph.tensors(torch.float64))
    for z in set(molecule.numbers.tolist()):
        rows = alphas.node[graph.species == z]
        torch.testing.assert_close(rows, rows[:1].expand_as(rows), rtol=1e-14, atol=0)
    lengths = graph.edge_vectors().norm(dim=-1)
    one_direction = torch.zeros(len(lengths), 3, dtype=torch.float64)
    one_direction[:, 2] = lengths
    turned = model.inference(graph.tensors(torch.float64, one_direction))
    torch.testing.assert_close(turned.edge, alphas.edge, rtol=1e-14, atol=0)
    assert alphas.edge.std(0).min() > 1e-4


def test_alpha_of_a_neighbourhood_knows_the_neighbours_and_nothing_else(make_blip, ammonia):
    """Two H of one ammonia alike by symmetry have one α; H2 and far-away atoms are told apart and left alone."""
    model = make_blip()
    assert make_blip(inputs="species").inference.neighbourhood is None

    def node(atoms):
        return model.inference(Graph.from_atoms(atoms, model.cutoff).tensors(torch.float64)).node

    alone = node(ammonia)
    assert (alone[1:] - alone[1]).abs().max() < 1e-8
    hydrogen = Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]])
    assert (node(hydrogen)[0] - alone[1]).abs().min() > 1e-6
    far = hydrogen.copy()
    far.translate([model.cutoff + 3.0, 0, 0])
    both = node(ammonia + far)
    assert torch.equal(both[:4], alone)
    near = hydrogen.copy()
    near.translate([2.5, 0, 0])
    assert (node(ammonia + near)[:4] - alone).abs().max() > 1e-6


# --- the cutoff ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "power"), [("painn", 3), ("schnet", 2), ("visnet", 2)])
def test_noise_vanishes_at_the_cutoff_like_the_envelope(make_blip, draw, name, power):
    """The spread of the interaction of two atoms falls like (c - r)^power: 3 for the polynomial, 2 for the cosine."""
    model = make_blip(name)
    draws = draw(model, 8)
    gaps = np.array([0.04, 0.02, 0.01])
    pairs = [Atoms("NH", positions=[[0, 0, 0], [0, 0, model.cutoff + gap]]) for gap in (*(-gaps), 0.01)]
    batch = Graph.collate([Graph.from_atoms(a, model.cutoff) for a in pairs])
    energy = samples(model, draws, batch, forces=False).energy.numpy()
    std = (energy[:, :-1] - energy[:, -1:]).std(axis=0, ddof=1)
    assert (std > 1e-13).all()
    order = np.log2(std[:-1] / std[1:])
    np.testing.assert_allclose(order, power, atol=0.15)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("k", [0, 1])
def test_draws_are_continuous_at_the_cutoff(make_blip, draw, baked, name, k):
    model = make_blip(name)
    testing.check_cutoff(baked(model, draw(model, 2), k))


def test_continuity_is_seen_to_break(make_blip, draw, baked, monkeypatch):
    """Control: a filter without its envelope carries noise over the cutoff."""
    model = baked(make_blip(), draw(make_blip(), 1))
    monkeypatch.setattr("blipcalc.models.painn.polynomial_envelope", lambda r, cutoff: torch.ones_like(r))
    with pytest.raises(AssertionError, match="jump"):
        testing.check_cutoff(model)


# --- bounds, presets and controls ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", ["smooth", "paper"])
def test_alpha_starts_where_it_is_told_and_stays_inside_its_bound(make_blip, make_backbone, crystal, bound):
    prior = 0.05 if bound == "smooth" else 1.0
    fresh = bayesianize(make_backbone(), bound=bound, alpha_initial=0.03, alpha_prior=prior).double()
    graph = Graph.from_atoms(crystal, fresh.cutoff).tensors(torch.float64)
    for a in fresh.inference(graph):
        torch.testing.assert_close(a, torch.full_like(a, 0.03), rtol=0.2, atol=0)
    top = 0.1 if bound == "smooth" else 4.0
    wild = make_blip(perturb=0.7, bound=bound, alpha_initial=0.03, alpha_prior=prior)
    a = torch.cat([a.reshape(-1) for a in wild.inference(graph)])
    assert (a > 0).all()
    assert (a <= top * (1 + 1e-12)).all()
    assert a.max() > 0.9 * top
    assert a.min() < 0.1 * top


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha_prior": 0.2}, "alpha_prior=0.2 must lie well inside"),
        ({"alpha_initial": 0.095}, "alpha_initial=0.095 must lie well inside"),
        ({"alpha_max": 0.01}, "must lie well inside"),
        ({"bound": "paper", "alpha_prior": 4.0}, "must lie well inside"),
        ({"alpha_prior": 0.0}, "greater than 0"),
        ({"alpha_initial": -0.1}, "greater than 0"),
        ({"mode": "local", "vectors": True}, "breaks equivariance"),
        ({"alpha_intial": 0.01}, "alpha_intial"),
        ({"where": "first"}, "where"),
    ],
    ids=str,
)
def test_configuration_refuses(settings, message):
    with pytest.raises(ValidationError, match=message):
        BlipConfig(**settings)


def test_paper_preset(make_backbone, molecule):
    config = BlipConfig.paper()
    assert (config.mode, config.bound, config.detach, config.vectors) == ("local", "paper", True, False)
    assert (config.where, config.alpha_prior, config.width, config.inputs) == ("all", 1.0, 64, "species")
    model = bayesianize(make_backbone(), config).double()
    assert not model.supports_vmap
    vectors = Graph.from_atoms(molecule, model.cutoff).edge_vectors().requires_grad_()
    alphas = model.inference(Graph.from_atoms(molecule, model.cutoff).tensors(torch.float64, vectors))
    assert torch.autograd.grad(alphas.edge.sum(), vectors, allow_unused=True)[0] is None


def test_constant_alpha_is_the_same_everywhere(make_blip, draw, molecule):
    model = make_blip(alpha="constant", perturb=0.0)
    graph = Graph.from_atoms(molecule, model.cutoff).tensors(torch.float64)
    for a in model.inference(graph):
        torch.testing.assert_close(a, torch.full_like(a, 0.03), rtol=1e-7, atol=0)
    trained = make_blip(alpha="constant", perturb=0.5)
    for a in trained.inference(graph):
        assert torch.equal(a, a[:1].expand_as(a))
    # without a dependence on the geometry, detached and live are one
    detached = make_blip(alpha="constant", perturb=0.5, detach=True)
    draws = draw(trained, 2)
    assert torch.equal(samples(trained, draws, molecule).forces, samples(detached, draws, molecule).forces)


# --- a calibration belongs to one model ------------------------------------------------------------------------------


def model_and_calibration(make_blip):
    """The same weights as a frozen and as a local model, and a calibration that was fitted in local mode."""
    frozen, local = make_blip().float(), make_blip(mode="local").float()
    local.load_state_dict(frozen.state_dict())
    models = [Model(m, BlipPosterior(m.slot_shapes())) for m in (frozen, local)]
    calibration = Calibration(
        surface="mean",
        n_draws=4,
        seed=0,
        model_hash=models[1].hash,
        scale={1: 2.0, 7: 2.0},
        scale_energy=2.0,
        q_atom={1: {0.95: 2.0}},
        q_frame={0.95: 3.0},
        n_frames=10,
        n_atoms={1: 30, 7: 10},
        frames_hash="0" * 64,
    )
    return *models, calibration


def test_the_hash_of_a_model_knows_the_mode(make_blip):
    frozen, local, _ = model_and_calibration(make_blip)
    assert frozen.hash != local.hash
    again = model_and_calibration(make_blip)
    assert (frozen.hash, local.hash) == (again[0].hash, again[1].hash)


def test_a_calibration_comes_back_with_its_own_model(make_blip, tmp_path):
    _, local, calibration = model_and_calibration(make_blip)
    save_model(local.with_calibrations(calibration), tmp_path / "local.blip")
    stored = load(tmp_path / "local.blip").calibration("mean", 4, 0)
    assert stored == calibration
    assert stored.model_hash == local.hash


def test_a_calibration_fitted_with_local_noise_is_refused_for_frozen_noise(make_blip, tmp_path):
    frozen, _, calibration = model_and_calibration(make_blip)
    path = tmp_path / "frozen.blip"

    def smuggle():
        save_model(frozen.with_calibrations(calibration), path)
        return BayesianPredictor.load(path, n_draws=4)

    with pytest.raises(BlipcalcError):
        smuggle()


def test_conversion_keeps_the_dtype_of_the_backbone(make_backbone, molecule):
    model = bayesianize(make_backbone())
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    model(Graph.from_atoms(molecule, model.cutoff).tensors(torch.float64))


def test_blip_is_an_energy_model(make_blip):
    model = make_blip()
    assert isinstance(model, BlipModel)
    assert model.energy_scale == model.backbone.energy_scale == 1.0
    assert (model.cutoff, model.species) == (model.backbone.cutoff, (1, 7))
