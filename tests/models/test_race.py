"""RACE: sizes of the paper, the folded product, what is zero and what reaches no energy, and its start from data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule

from blipcalc.core.graph import Graph
from blipcalc.errors import ConfigurationError
from blipcalc.models.race import Race
from blipcalc.models.race_config import RaceConfig
from blipcalc.nn.irreps import fingerprint, parse_irreps, species_linear
from blipcalc.nn.radial import polynomial_envelope
from blipcalc.posteriors.blip import bayesianize

SPECIES = [1, 6, 7, 8, 9]
#: parameters of the paper's sizes in the layouts of its two published codes (methods of the paper, counted by hand): name,
#: elements, torch, jax
COUNTS = [
    ("qm9", 5, 17_640_896, 16_057_637),
    ("psb3", 3, 9_534_464, 8_737_637),
    ("rmd17", 3, 24_120_512, 22_012_965),
    ("bpa", 4, 23_596_352, 20_964_517),
    ("obn25", 2, 705_664, 657_381),
]
JAX = {"layout": "jax", "readout_width": 32, "readout_bias": True}
BOTH = "+".join(f"4x{degree}{parity}" for degree in range(3) for parity in "eo")


def race(seed=0, species=(1, 6, 8), **settings) -> Race:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Race(RaceConfig(**(RaceConfig.small().model_dump() | settings)), species).double()


@pytest.fixture
def graph():
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return Graph.from_atoms(atoms, RaceConfig.small().cutoff).tensors(torch.float64)


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "n_species", "in_torch", "in_jax"), COUNTS)
def test_paper_sizes_have_the_parameters_of_the_published_codes(name, n_species, in_torch, in_jax):
    config = getattr(RaceConfig, name)()
    for layout, expected in (({"layout": "torch"}, in_torch), (JAX, in_jax)):
        model = Race(RaceConfig(**(config.model_dump() | layout)), SPECIES[:n_species])
        assert n_parameters(model) == expected


def test_envelope_of_the_paper():
    x = torch.linspace(0, 1, 101, dtype=torch.float64, requires_grad=True)
    u = polynomial_envelope(3.0 * x, 3.0, p=2)
    torch.testing.assert_close(u, (1 - x) ** 3 * (1 + 3 * x), rtol=1e-12, atol=1e-14)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope[:-1].sum(), x)
    assert float(u[0].detach()) == 1.0
    assert abs(float(u[-1].detach())) + abs(float(slope[-2].detach())) < 2e-3
    assert abs(float(curvature[-2])) < 0.3


def test_folded_product_is_the_outer_product():
    """A linear map on all products of channels of a with channels of M, against one matrix per element."""
    generator = torch.Generator().manual_seed(0)
    n, f, c = 6, 5, 4
    a, m = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((3, f), (n, 3, c)))
    weights = torch.randn(f, c, c, dtype=torch.float64, generator=generator)
    rows = torch.tensor([0, 2, 1, 1, 0, 2])
    outer = torch.einsum("nf,nmc->nmfc", a[rows], m).flatten(2)
    expected = outer @ weights.flatten(0, 1)
    folded = torch.einsum("sf,fcd->scd", a, weights)
    one_hot = torch.nn.functional.one_hot(rows, 3).double()
    torch.testing.assert_close(species_linear(m, folded, one_hot), expected, rtol=1e-12, atol=1e-12)


def test_layer_one_reaches_natural_parity_only_and_no_pseudoscalar_comes_early():
    model = race(hidden=BOTH, layers=4, layout="torch")
    assert model.layers[0].wanted == ["0e", "1o", "2e"]
    assert "0o" not in model.layers[1].wanted
    assert "0o" not in model.layers[-1].wanted


@pytest.mark.parametrize("nonlinearity", ["none", "gate"])
def test_what_is_left_out_is_zero_or_reaches_no_energy(graph, nonlinearity):
    """A network that computes every irrep of every layer gives the same energies."""
    model = race(hidden=BOTH, layers=3, layout="torch", nonlinearity=nonlinearity)
    expected = model(graph)
    seen = []
    for layer in model.layers:
        layer.carried = layer.wanted = sorted(layer.down.outputs)
        layer.register_forward_hook(lambda _, inputs, found: seen.append(found[0]))
    found = model(graph)
    torch.testing.assert_close(found.energies, expected.energies, rtol=1e-13, atol=1e-13)
    assert {ir for ir, value in seen[1].items() if not value.any()} == {"0o"}
    assert len(seen[1]) == 6


@pytest.mark.parametrize("correlation", [1, 2, 3])
def test_lean_network_is_the_torch_layout_without_what_does_not_act(graph, correlation):
    whole, lean = (
        race(hidden=BOTH, layers=2, layout=layout, correlation=correlation, seed=seed)
        for layout, seed in (("torch", 0), ("lean", 1))
    )
    assert n_parameters(lean) < n_parameters(whole)
    shapes = {name: p.shape for name, p in whole.named_parameters()}
    assert {name for name, p in lean.named_parameters()} < set(shapes)
    used = torch.autograd.grad(whole(graph).energy.sum(), list(whole.parameters()), allow_unused=True)
    idle = {name for (name, _), g in zip(whole.named_parameters(), used, strict=True) if g is None or not g.any()}
    assert {name for name in shapes if name not in dict(lean.named_parameters())} <= idle
    used = torch.autograd.grad(lean(graph).energy.sum(), list(lean.parameters()), allow_unused=True)
    assert all(g is not None and g.any() for g in used)


def test_one_layer_without_harmonics_is_a_sum_of_pair_terms():
    """Energy of one layer from scalars: E_i = f(Z_i, Σ_j g(r_ij, Z_j)), here against its formula."""
    model = race(hidden="4x0e", embedding=3, layers=1, l_max=0)
    atoms = molecule("H2O")
    graph = Graph.from_atoms(atoms, model.cutoff).tensors(torch.float64)
    (layer,) = model.layers
    distances = atoms.get_all_distances()
    rows = model.table(graph.species)

    def gates(r):
        x = torch.tensor([r / model.cutoff], dtype=torch.float64)
        bessel = 2**0.5 * torch.sin(torch.arange(1, 9, dtype=torch.float64) * torch.pi * x) / x
        hidden = bessel * (1 - x) ** 3 * (1 + 3 * x)
        first, second, last = (linear.weight for linear in layer.radial)
        for weight in (first, second):
            hidden = 1.6791767 * torch.nn.functional.silu(weight @ hidden)
        return (last @ hidden).view(2, 4)

    total = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        message = torch.zeros(2, 4, dtype=torch.float64)
        for j in range(3):
            if j != i:
                message += gates(distances[i, j]) * (layer.up.blocks["0e"].weight @ model.embedding[rows[j]])
        down = layer.down.blocks["0e"].weight @ message.flatten() / model.neighbors
        a = model.embedding[rows[i]] @ model.stratum
        product = torch.einsum("f,fcd,c->d", a, layer.product["0e"], down)
        scalars = product + model.embedding[rows[i]] @ layer.skip["0e"][rows[i]]
        hidden = 1.6791767 * torch.nn.functional.silu(layer.readout_inner.weight @ scalars)
        total = total + (layer.readout_outer.weight @ hidden)[0]
    torch.testing.assert_close(model(graph).energy[0], total, rtol=1e-12, atol=1e-12)


def test_mean_number_of_neighbours_comes_from_the_data_unless_it_is_given():
    references = {1: -1.0, 6: -2.0, 8: -3.0}
    free, given = race(neighbors=None), race(neighbors=9.0)
    for model in (free, given):
        model.set_statistics(references, 0.5, 12.5)
        assert float(model.energies.scale) == 0.5
    assert (float(free.neighbors), float(given.neighbors)) == (12.5, 9.0)


@pytest.mark.parametrize("correlation", [1, 2, 3])
def test_outputs_of_a_fresh_network_are_of_order_one(graph, correlation):
    models = [race(seed=seed, hidden="32x0e+32x1o", correlation=correlation) for seed in range(5)]
    outputs = [float(model(graph).energies.detach().std()) for model in models]
    assert 0.2 < np.mean(outputs) < 5.0


def test_irreps_that_are_none_are_refused():
    with pytest.raises(ConfigurationError, match="irreps"):
        race(hidden="8x1o")


@pytest.mark.parametrize("correlation", [1, 2])
def test_roles_stay_when_layers_become_variational(correlation):
    model = race(correlation=correlation)
    before = model.layer_roles()
    assert bayesianize(model).backbone.layer_roles() == before


def test_products_of_messages_reach_further_and_need_all_messages():
    """Squares of all messages are scalars, also at the end; a pseudovector times a vector comes one layer before its messages."""
    plain, products = (race(hidden=BOTH, layers=3, l_max=1, correlation=order).layers for order in (1, 2))
    assert [layer.carried for layer in plain] == [["0e", "1o"], ["0e", "1o"], ["0e"]]
    assert [layer.carried for layer in products] == [
        ["0e", "1o"],
        ["0e", "1e", "1o", "2e", "2o"],
        sorted(parse_irreps(BOTH)),
    ]
    assert [layer.wanted for layer in products] == [["0e", "1o", "2e"], sorted(parse_irreps(BOTH)), ["0e"]]


def test_what_products_leave_out_is_zero_or_reaches_no_energy(graph):
    model = race(hidden=BOTH, layers=3, l_max=1, layout="torch", correlation=2)
    expected, received = model(graph), []
    for layer in model.layers:
        layer.carried = sorted(layer.down.outputs)
        layer.wanted = sorted({*layer.skip, *layer.down.outputs, *layer.contraction.outputs})
        layer.down.register_forward_hook(lambda _, inputs, x: received.append(x))
    torch.testing.assert_close(model(graph).energies, expected.energies, rtol=1e-13, atol=1e-13)
    for layer, messages in zip(model.layers, received, strict=True):
        assert {ir for ir, value in messages.items() if value.any()} == set(layer.contraction.inputs)
    assert "0o" in received[1]
    assert not received[1]["0o"].any()


ENVIRONMENTS = {  # four hydrogen atoms on a circle around carbon, in steps of 45°
    "reference": (0, 1, 2, 5),
    "turned": (1, 2, 3, 6),
    "mirrored": (0, 7, 6, 3),
    # the same distances from carbon
    "other angles": (0, 2, 4, 6),
    # and the same six angles: once each 45°, 135°, 90°, 180°, and again 45°, 135°
    "same angles": (0, 1, 3, 4),
}


def energy_at_the_centre(model, steps):
    turns = 2 * np.pi / 8 * np.array(steps)
    ring = np.stack([np.cos(turns), np.sin(turns), 0 * turns], axis=1) * 1.1
    atoms = Atoms("CH4", positions=[[0, 0, 0], *ring])
    atoms.rotate(50, (1, 2, 3))
    return float(model(Graph.from_atoms(atoms, model.cutoff).tensors(torch.float64)).energies[0].detach())


@pytest.mark.parametrize(
    ("correlation", "told_apart"), [(1, set()), (2, {"other angles"}), (3, {"other angles", "same angles"})]
)
def test_order_of_correlation_is_how_many_neighbours_a_layer_sees_at_a_time(correlation, told_apart):
    """Pairs: distances. Triples: angles. Quadruples: also how the angles are arranged (a homometric pair on the circle)."""
    angles = {
        name: sorted(min(abs(a - b), 8 - abs(a - b)) for a in steps for b in steps if a < b)
        for name, steps in ENVIRONMENTS.items()
    }
    assert angles["same angles"] == angles["reference"] != angles["other angles"]
    model = race(layers=1, correlation=correlation, species=(1, 6))
    found = {name: energy_at_the_centre(model, steps) for name, steps in ENVIRONMENTS.items()}
    shifts = {name: abs(value - found["reference"]) for name, value in found.items()}
    assert {name for name, shift in shifts.items() if shift > 1e-7} == told_apart
    assert all(shift < 1e-13 for name, shift in shifts.items() if name not in told_apart)


def test_products_add_one_weight_per_element_path_and_channel():
    """Symmetric products of 0e + 1o + 2e: 3, 2, 3 of two and 5, 5, 6 of three; the last layer gives scalars alone."""
    plain, products = race(), race(correlation=3)
    added = {n: p.shape for n, p in products.named_parameters() if n not in dict(plain.named_parameters())}
    first = {f"layers.0.contraction.weights.{ir}": (3, n, 8) for ir, n in (("0e", 8), ("1o", 7), ("2e", 9))}
    last = {"layers.1.contraction.weights.0e": (3, 8, 8)}
    # the last layer receives what it does not give
    received = {n: s for n, s in added.items() if n.startswith("layers.1.down") and not n.endswith("0e.weight")}
    assert added == first | last | received
    assert sorted(received) == ["layers.1.down.blocks.1o.weight", "layers.1.down.blocks.2e.weight"]


def test_products_are_off_by_default_and_their_bases_are_conventions():
    assert RaceConfig().model_dump(exclude_defaults=True) == {}
    plain, products = race(), race(correlation=2)
    assert plain.conventions() == {"couplings": fingerprint(2)}
    assert products.conventions() == plain.conventions() | {"products": pytest.approx(11.686415891957951, rel=1e-10)}


def test_products_take_equal_channels():
    with pytest.raises(ConfigurationError, match="8x0e\\+4x1o"):
        race(hidden="8x0e+4x1o", correlation=2)
