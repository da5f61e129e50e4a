"""Every model against the contract suite, and the suite against models that break one promise each."""

from __future__ import annotations

import pytest
import torch
import torch_geometric.nn.models as pyg
from torch import nn

from blipcalc import testing
from blipcalc.core.contracts import ModelOutput
from blipcalc.core.graph import Graph
from blipcalc.errors import ConfigurationError
from blipcalc.models.build import build_model, model_name
from blipcalc.models.readout import AtomicEnergies
from blipcalc.nn.species import SpeciesTable
from blipcalc.registries import MODELS


def small(name: str, species=(1, 6, 8), seed: int = 0, **config) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model(name, MODELS[name].Config.small().model_dump() | config, species)


class TestPaiNN(testing.ModelContract):
    def make_model(self, dtype):
        return small("painn").to(dtype)


class TestSchNet(testing.ModelContract):
    def make_model(self, dtype):
        return small("schnet").to(dtype)


class TestViSNet(testing.ModelContract):
    def make_model(self, dtype):
        return small("visnet").to(dtype)


class TestViSNetDegreeTwo(testing.ModelContract):
    def make_model(self, dtype):
        return small("visnet", lmax=2, features=16, layers=3).to(dtype)


class TestRace(testing.ModelContract):
    def make_model(self, dtype):
        return small("race").to(dtype)


class TestRaceBothParities(testing.ModelContract):
    """All that the paper's layout has, in small: both parities, parameters of what is zero, harmonics up to three."""

    def make_model(self, dtype):
        hidden = "+".join(f"4x{degree}{parity}" for degree in range(4) for parity in "eo")
        return small("race", hidden=hidden, l_max=3, layers=3, layout="torch").to(dtype)


class TestRaceGate(testing.ModelContract):
    def make_model(self, dtype):
        return small("race", nonlinearity="gate").to(dtype)


class TestRaceProducts(testing.ModelContract):
    def make_model(self, dtype):
        return small("race", correlation=3).to(dtype)


class TestRaceProductsBothParities(testing.ModelContract):
    def make_model(self, dtype):
        hidden = "+".join(f"4x{degree}{parity}" for degree in range(3) for parity in "eo")
        return small("race", hidden=hidden, correlation=2, nonlinearity="gate").to(dtype)


class PairModel(nn.Module):
    """A smooth pair potential that keeps every promise; each model below breaks one of them."""

    supports_vmap = True
    heads = "none"

    def __init__(self, cutoff: float = 4.0, species=(1, 6)) -> None:
        super().__init__()
        self.cutoff, self.species = cutoff, species
        self.table = SpeciesTable(species)
        self.shared = nn.Linear(2, 1)
        self.depth = nn.Parameter(torch.linspace(0.6, 1.1, len(species)))
        self.energies = AtomicEnergies(len(species))

    @property
    def energy_scale(self) -> float:
        return float(self.energies.scale)

    def layer_roles(self):
        return {"shared": "edge"}

    def last_layers(self):
        return ()

    def envelope(self, r):
        return torch.where(r < self.cutoff, (1 - (r / self.cutoff) ** 2) ** 3, torch.zeros_like(r))

    def pairs(self, vectors, graph, rows):
        source, target = graph.edge_index
        r = torch.linalg.vector_norm(vectors, dim=-1)
        features = torch.stack([self.depth[rows[source]] * self.depth[rows[target]] * torch.exp(-r), r], dim=-1)
        return torch.tanh(self.shared(features))[:, 0] * self.envelope(r)

    def per_atom(self, graph, rows):
        pairs = self.pairs(graph.vectors, graph, rows)
        return torch.zeros(len(rows), dtype=pairs.dtype).index_add(0, graph.edge_index[1], pairs)

    def forward(self, graph) -> ModelOutput:
        rows = self.table(graph.species)
        return self.energies(self.per_atom(graph, rows), rows, graph, features=None)


class IndexDependent(PairModel):
    def per_atom(self, graph, rows):
        return super().per_atom(graph, rows) * (1 + 1e-6 * torch.arange(len(rows)))


class BatchDependent(PairModel):
    def per_atom(self, graph, rows):
        return super().per_atom(graph, rows) * (1 + 1e-6 * graph.batch)


class Directed(PairModel):
    def pairs(self, vectors, graph, rows):
        return super().pairs(vectors, graph, rows) * (1 + 1e-6 * vectors[:, 2] ** 2)


class Handed(PairModel):
    """Turns with the structure, but tells left from right: a triple product of weighted neighbour sums."""

    def per_atom(self, graph, rows):
        source, target = graph.edge_index
        r = torch.linalg.vector_norm(graph.vectors, dim=-1)
        sums = []
        for power in (1, 2, 3):
            weights = self.envelope(r) ** power * self.depth[rows[source]]
            zero = torch.zeros(len(rows), 3, dtype=r.dtype)
            sums.append(zero.index_add(0, target, weights[:, None] * graph.vectors))
        return super().per_atom(graph, rows) + (torch.linalg.cross(sums[0], sums[1]) * sums[2]).sum(-1)


class HardCutoff(PairModel):
    def envelope(self, r):
        return torch.ones_like(r)


class KinkedCutoff(PairModel):
    """The energy is continuous at the cutoff, the forces are not."""

    def envelope(self, r):
        return torch.where(r < self.cutoff, 1 - r / self.cutoff, torch.zeros_like(r))


class FlatStep(PairModel):
    """Every pair adds a constant: forces are right, the energy jumps."""

    def pairs(self, vectors, graph, rows):
        return super().pairs(vectors, graph, rows) + 1e-6


class DetachedGeometry(PairModel):
    """A part of the energy that autograd does not see."""

    def envelope(self, r):
        return super().envelope(r.detach())


class NoSelfPairs(PairModel):
    def pairs(self, vectors, graph, rows):
        return super().pairs(vectors, graph, rows) * (graph.edge_index[0] != graph.edge_index[1])


class MeanField(PairModel):
    """Atoms that know how many others there are."""

    def per_atom(self, graph, rows):
        return super().per_atom(graph, rows) + 1e-3 / torch.bincount(graph.batch)[graph.batch]


class SingleInside(PairModel):
    """Claims float64, computes in float32: its finite differences are noise."""

    def pairs(self, vectors, graph, rows):
        return super().pairs(vectors, graph, rows).float().to(vectors.dtype)


class CusplikeNorm(PairModel):
    """The plain norm of a vector that vanishes by symmetry has no second derivative."""

    def per_atom(self, graph, rows):
        weighted = graph.vectors * self.pairs(graph.vectors, graph, rows)[:, None]
        sums = torch.zeros(len(rows), 3, dtype=weighted.dtype).index_add(0, graph.edge_index[1], weighted)
        return super().per_atom(graph, rows) + torch.norm(sums, dim=-1)


class Counting(PairModel):
    """A state that survives between calls: no two calls agree, and under vmap all copies share one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def per_atom(self, graph, rows):
        self.calls += 1
        return super().per_atom(graph, rows) * (1 + 1e-6 * self.calls)


class WrongRoles(PairModel):
    def layer_roles(self):
        return {"shared": "node"}


class ForgottenLayer(PairModel):
    def layer_roles(self):
        return {}


class TestPairModel(testing.ModelContract):
    def make_model(self, dtype):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return PairModel().to(dtype)


def _broken(cls):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = testing.perturbed(cls().double())
    molecule, crystal, *_ = testing.default_structures(model.species)
    return model, molecule, crystal


@pytest.mark.parametrize("cls", [IndexDependent, Directed, Handed])
def test_suite_sees_broken_symmetry(cls):
    model, molecule, crystal = _broken(cls)
    for atoms in (molecule, crystal):
        with pytest.raises(AssertionError, match=r"after a (permutation|rotation|reflection)"):
            testing.check_symmetries(model, atoms)


def test_suite_tells_handed_from_turned():
    model, molecule, _ = _broken(Handed)
    with pytest.raises(AssertionError, match="after a reflection"):
        testing.check_symmetries(model, molecule)


def test_suite_sees_a_dependence_on_the_batch():
    model, molecule, crystal = _broken(BatchDependent)
    with pytest.raises(AssertionError, match="in a batch"):
        testing.check_batch(model, [molecule, crystal])


@pytest.mark.parametrize(("cls", "what"), [(HardCutoff, "forces"), (KinkedCutoff, "forces"), (FlatStep, "energy")])
def test_suite_sees_a_jump_at_the_cutoff(cls, what):
    with pytest.raises(AssertionError, match=f"{what} jump"):
        testing.check_cutoff(_broken(cls)[0])


@pytest.mark.parametrize("cls", [DetachedGeometry, SingleInside])
def test_suite_sees_forces_that_are_no_gradient(cls):
    model, molecule, _ = _broken(cls)
    with pytest.raises(AssertionError, match="central differences"):
        testing.check_forces(model, molecule)


def test_suite_sees_stress_that_is_no_gradient():
    model, _, crystal = _broken(DetachedGeometry)
    with pytest.raises(AssertionError, match="central differences"):
        testing.check_stress(model, crystal)


def test_suite_sees_missing_images():
    with pytest.raises(AssertionError, match="repeated 2 times"):
        testing.check_supercell(_broken(NoSelfPairs)[0])


def test_suite_sees_energies_that_are_not_extensive():
    model = _broken(MeanField)[0]
    with pytest.raises(AssertionError, match="repeated 2 times"):
        testing.check_supercell(model)
    with pytest.raises(AssertionError, match="far atoms"):
        testing.check_isolated_atoms(model)


def test_suite_sees_a_false_claim_of_vmap():
    model, molecule, _ = _broken(Counting)
    with pytest.raises(AssertionError, match="under vmap"):
        testing.check_vmap(model, molecule)
    model.supports_vmap = False
    testing.check_vmap(model, molecule)


def test_suite_sees_an_unrepeatable_energy():
    model, molecule, _ = _broken(Counting)
    with pytest.raises(AssertionError, match="repeatable"):
        testing.check_protocol(model, molecule)


def test_suite_sees_a_norm_without_second_derivative():
    with pytest.raises(AssertionError, match="symmetric and isolated"):
        testing.check_force_training(*_broken(CusplikeNorm)[:2])


@pytest.mark.parametrize(("cls", "message"), [(WrongRoles, "declared 'node'"), (ForgottenLayer, "without a role")])
def test_suite_sees_wrong_roles(cls, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_layer_roles(*_broken(cls)[:2])


def test_visnet_with_a_bias_on_its_messages_jumps_at_the_cutoff():
    model = small("visnet").double()
    for layer in model.layers:
        layer.s_proj = nn.Linear(32, 64).double()
    with pytest.raises(AssertionError, match="jump"):
        testing.check_cutoff(testing.perturbed(model))


def _molecule_graph(model):
    atoms = testing.default_structures(model.species)[0]
    graph = Graph.from_atoms(atoms, model.cutoff)
    return graph, graph.tensors(torch.float64)


def test_schnet_equals_pyg():
    ours = testing.perturbed(small("schnet").double())
    graph, tensors = _molecule_graph(ours)

    def pairs(positions, batch):
        return graph.edge_index, graph.edge_vectors().norm(dim=-1)

    theirs = pyg.SchNet(32, 32, 2, 20, cutoff=5.0, interaction_graph=pairs).double()
    for mine, other in zip(ours.interactions, theirs.interactions, strict=True):
        other.conv.load_state_dict(mine.conv.state_dict())
        other.lin.load_state_dict(mine.lin.state_dict())
    theirs.lin1.load_state_dict(ours.readout_inner.state_dict())
    theirs.lin2.load_state_dict(ours.readout_outer.state_dict())
    theirs.embedding.weight.data[list(ours.species)] = ours.embedding.weight.data
    theirs.distance_expansion.load_state_dict(ours.basis.state_dict())
    expected = theirs(graph.species, graph.positions, graph.batch)[:, 0]
    torch.testing.assert_close(ours(tensors).energy, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lmax", [1, 2])
def test_visnet_equals_pyg_up_to_the_rounded_norm(lmax, monkeypatch):
    monkeypatch.setattr("blipcalc.models.visnet.NORM_EPSILON", 0.0)
    ours = testing.perturbed(small("visnet", lmax=lmax, layers=3).double())
    graph, tensors = _molecule_graph(ours)
    theirs = pyg.ViSNet(
        lmax=lmax, num_heads=4, num_layers=3, hidden_channels=32, num_rbf=16, max_z=3, cutoff=5.0
    ).double()
    body, heads = theirs.representation_model, theirs.output_model.output_network
    body.distance.forward = lambda positions, batch: (graph.edge_index, r, graph.edge_vectors())
    r = graph.edge_vectors().norm(dim=-1)
    for i, (mine, other) in enumerate(zip(ours.layers, body.vis_mp_layers, strict=True)):
        other.load_state_dict(mine.state_dict(), strict=False)
        other.s_proj.bias.data.zero_()
        if i < 2:
            for name, module in ours.edge_updates[i].named_children():
                getattr(other, name).load_state_dict(module.state_dict())
    copies = [
        (body.embedding, ours.embedding.own),
        (body.neighbor_embedding.embedding, ours.embedding.neighbors),
        (body.neighbor_embedding.distance_proj, ours.embedding.distance_proj),
        (body.neighbor_embedding.combine, ours.embedding.combine),
        (body.edge_embedding.edge_proj, ours.edge_proj),
        (body.out_norm, ours.out_norm),
        (heads[0].vec1_proj, ours.readout.mix_u),
        (heads[0].vec2_proj, ours.readout.mix_v),
        (heads[0].update_net[0], ours.readout.inner),
        (heads[0].update_net[2], ours.readout.outer),
        (heads[1].vec1_proj, ours.readout.last_mix),
        (heads[1].update_net[0], ours.readout.last_inner),
    ]
    for other, mine in copies:
        other.load_state_dict(mine.state_dict())
    heads[1].update_net[2].weight.data[0] = ours.readout.last_outer.weight.data[0]
    heads[1].update_net[2].bias.data[0] = ours.readout.last_outer.bias.data[0]
    body.distance_expansion.load_state_dict(ours.basis.state_dict())
    expected = theirs(ours.table(graph.species), graph.positions, graph.batch)[0][:, 0]
    torch.testing.assert_close(ours(tensors).energy, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["painn", "schnet", "visnet"])
def test_registry_builds_and_names(name):
    model = small(name)
    assert model_name(model) == name
    assert model.energy_scale == 1.0
    assert len({p.data_ptr() for p in model.state_dict().values()}) == len(model.state_dict())
    again = build_model(name, model.config.model_dump(), model.species)
    again.load_state_dict(model.state_dict())


@pytest.mark.parametrize(
    ("name", "config", "species", "message"),
    [
        ("visent", {}, [1], "did you mean 'visnet'"),
        ("PaiNN", {}, [1], "did you mean 'painn'"),
        ("schnet", {"cutof": 4.0}, [1], "did you mean 'cutoff'"),
        ("visnet", {"features": 30}, [1], "multiple of heads"),
        ("painn", {"cutoff": -1.0}, [1], "cutoff: Input should be greater"),
        ("painn", {}, [], "at least one element"),
    ],
)
def test_registry_refuses_by_name(name, config, species, message):
    with pytest.raises(ConfigurationError, match=message):
        build_model(name, config, species)


def test_registry_refuses_a_foreign_model():
    with pytest.raises(ConfigurationError, match="not a registered model"):
        model_name(PairModel())
