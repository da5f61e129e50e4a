"""The noise that is fitted after training: errors of a known size are found again, weights are left alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from blipcalc.core.contracts import place_draws
from blipcalc.core.evaluate import evaluate
from blipcalc.core.graph import Graph
from blipcalc.errors import ConfigurationError, NonFiniteError, TrainingDataReusedError, TrainingWarning
from blipcalc.model_file.model_file import load
from blipcalc.models.build import build_model
from blipcalc.posteriors.blip import BlipConfig, BlipPosterior, bayesianize
from blipcalc.posteriors.ensemble import EnsemblePosterior, MixturePosterior, stack_members
from blipcalc.posteriors.point import PointPosterior
from blipcalc.training import train as run
from blipcalc.training.batches import labelled_graphs
from blipcalc.training.config import NoiseConfig
from blipcalc.training.noise import alpha_distribution, fit_noise
from blipcalc.training.train import train

#: most fits here are too short to fit
pytestmark = pytest.mark.filterwarnings("ignore:the noise fit ended")

SIZES = {"features": 16, "interactions": 2, "n_radial": 6, "cutoff": 4.0}
FIT = {"epochs": 40, "batch_size": 10, "learning_rate": 3e-3, "draws": 8}


def blip(seed: int, **settings: object):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_model("painn", SIZES, [1, 8])
        network.energies.set({1: 0.0, 8: 0.0}, 1.0, network.species)
        return bayesianize(network, BlipConfig(**({"alpha_initial": 1e-3} | settings)))


def mixture(seeds=(0, 1), **settings: object):
    networks = [blip(seed, **settings) for seed in seeds]
    noise = BlipPosterior(networks[0].slot_shapes())
    return networks[0], MixturePosterior(stack_members([dict(n.named_parameters()) for n in networks]), noise)


def hydrogens(n: int, seed: int) -> list[Atoms]:
    """A pair and a triangle of hydrogen in turn, every distance changed by up to a tenth."""
    rng = np.random.default_rng(seed)
    start = [
        Atoms("H2", positions=[[0, 0, 0.45], [0, 0, -0.45]]),
        Atoms("H3", positions=[[0, 0, 0.45], [0, 0, -0.45], [0, 0.78, 0]]),
    ]
    frames = [start[k % 2].copy() for k in range(n)]
    for atoms in frames:
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
    return frames


def centre(network, posterior, atoms: Atoms) -> np.ndarray:
    draws = place_draws(network, posterior.centre())
    return evaluate(network, draws, Graph.from_atoms(atoms, network.cutoff)).forces.mean(0).double().numpy()


def labelled(network, posterior, n: int, seed: int, sigma: dict[str, float]) -> list[Atoms]:
    """Frames whose labels are the centre's forces with Gaussian errors: ``sigma`` (eV/Å) by formula."""
    rng = np.random.default_rng(seed + 1000)
    frames = hydrogens(n, seed)
    for atoms in frames:
        forces = centre(network, posterior, atoms)
        forces += rng.normal(0, sigma[atoms.get_chemical_formula()], forces.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=forces)
    return frames


def z2(network, posterior, frames: list[Atoms], n_draws: int = 64) -> dict[str, float]:
    """Mean squared z-score of the raw draws, by formula."""
    draws = place_draws(network, posterior.draw(n_draws, generator=torch.Generator().manual_seed(99)))
    found: dict[str, list[float]] = {}
    for atoms in frames:
        forces = evaluate(network, draws, Graph.from_atoms(atoms, network.cutoff)).forces.double().numpy()
        variance = forces.var(axis=0, ddof=1).mean(axis=1)
        error = atoms.get_forces() - centre(network, posterior, atoms)
        found.setdefault(atoms.get_chemical_formula(), []).append(float(((error**2).mean(axis=1) / variance).mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


def fitted(network, posterior, frames, folder=None, **settings):
    graphs = labelled_graphs(frames, network.cutoff)
    return fit_noise(network, posterior, graphs, NoiseConfig(**(FIT | settings)), folder)


SIGMA = {"H2": 0.002, "H3": 0.03}
#: least and largest z² of a molecule after a fit; over six seeds 0.6 to 1.1, and 0.66 to 0.75 for the small errors of the pair
RIGHT = 0.45, 1.7


@pytest.mark.chance(5)
@pytest.mark.parametrize("members", [1, 2])
def test_errors_of_a_known_size_are_found_again(members, chance, tmp_path):
    """Fifteen times smaller errors in the pair than in the triangle: neighbours tell, and held-out z² comes out near 1."""
    seed = chance.seed()
    network, posterior = mixture((seed, seed)) if members == 2 else (blip(seed), None)
    posterior = posterior or BlipPosterior(network.slot_shapes())
    held_out = labelled(network, posterior, chance.times(120), chance.seed(1), SIGMA)
    before = z2(network, posterior, held_out)
    frames = labelled(network, posterior, chance.times(120), chance.seed(2), SIGMA)
    folder = tmp_path / f"stage {chance.stage}"
    after_fit, figures = fitted(network, posterior, frames, folder, seed=chance.seed(3))
    after = z2(network, after_fit, held_out)
    assert not all(RIGHT[0] ** 2 < v < RIGHT[1] ** 2 for v in before.values())
    assert all(RIGHT[0] < v < RIGHT[1] for v in after.values()), (before, after)
    assert 0.6 < figures["mean_z2"] < 1.7
    rows = (folder / "log.csv").read_text().splitlines()
    assert rows[0] == "epoch,nll,mean_z2"
    assert len(rows) == 1 + FIT["epochs"]


@pytest.mark.chance(2)
def test_atoms_whose_forces_vanish_are_not_counted(chance):
    """Three single atoms for each of the others: with a z² of 0 each they would bring the mean down to a quarter."""
    network = blip(chance.seed())
    posterior = BlipPosterior(network.slot_shapes())
    frames = labelled(network, posterior, 40, chance.seed(1), SIGMA)
    alone = [Atoms("H", [[0, 0, 0.1 * k]]) for k in range(300)]
    for atoms in alone:
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=np.zeros((1, 3)))
    settings = {"epochs": 1, "learning_rate": 1e-9, "draws": 128}  # as good as no step at all
    _, plain = fitted(network, posterior, frames, **settings)
    _, mixed = fitted(network, posterior, [*frames, *alone], **settings)
    assert mixed["mean_z2"] == pytest.approx(plain["mean_z2"], rel=0.3)
    assert mixed["nll"] == pytest.approx(plain["nll"], rel=0.3)


@pytest.mark.chance(1)
def test_species_alone_cannot_tell_the_molecules_apart(chance):
    """Control for the test above: by species and length, hydrogen has one α in both."""
    network = blip(chance.seed(), inputs="species")
    posterior = BlipPosterior(network.slot_shapes())
    frames = labelled(network, posterior, chance.times(120), chance.seed(2), SIGMA)
    fit, _ = fitted(network, posterior, frames, seed=chance.seed(3))
    after = z2(network, fit, labelled(network, posterior, chance.times(60), chance.seed(1), SIGMA))
    assert not all(RIGHT[0] < v < RIGHT[1] for v in after.values()), after


@pytest.mark.chance(1)
def test_noise_goes_where_the_members_already_disagree_enough(chance):
    """Labels as far from the mean as the members are: what they disagree about needs no noise on top."""
    network, posterior = mixture((chance.seed(), chance.seed(1)))
    frames = hydrogens(60, chance.seed(2))
    one = PointPosterior()
    for atoms in frames:
        network.load_state_dict({**network.state_dict(), **{n: v[0] for n, v in posterior.members.items()}})
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=centre(network, one, atoms))
    graph = Graph.from_atoms(frames[0], network.cutoff).tensors(torch.float32)
    before = torch.cat([a.reshape(-1) for a in network.inference(graph)]).detach()
    fitted(network, posterior, frames, seed=chance.seed(3))
    after = torch.cat([a.reshape(-1) for a in network.inference(graph)]).detach()
    assert after.median() < before.median() / 3


def test_weights_stay_and_the_network_holds_the_first_member():
    network, posterior = mixture((0, 1))
    frames = labelled(network, posterior, 20, 0, SIGMA)
    before = copy.deepcopy(dict(posterior.members))
    result, _ = fitted(network, posterior, frames, epochs=2)
    assert posterior.members.keys() == result.members.keys()
    for name, value in result.members.items():
        assert torch.equal(posterior.members[name], before[name])  # the old posterior is left alone
        assert torch.equal(value, before[name]) == ("inference." not in name)
        assert torch.equal(dict(network.named_parameters())[name], value[0])
        assert value.dtype == before[name].dtype
        assert not value.requires_grad


def test_the_same_seed_gives_the_same_noise():
    results = []
    for seed in (3, 3, 4):
        network, posterior = mixture((0, 1))
        frames = labelled(network, posterior, 20, 0, SIGMA)
        results.append(fitted(network, posterior, frames, epochs=2, seed=seed)[0].members["inference.node.2.bias"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_fit_that_ends_far_from_its_errors_says_so():
    network, posterior = mixture((0, 1))
    frames = labelled(network, posterior, 20, 0, SIGMA)
    with pytest.warns(TrainingWarning, match="mean squared z-score"):
        fitted(network, posterior, frames, epochs=1, learning_rate=1e-9)


@pytest.mark.parametrize(("n_frames", "epochs"), [(10, 300), (50, 60), (149, 22), (350, 20), (10**4, 20)])
def test_small_data_get_enough_steps(n_frames, epochs):
    assert NoiseConfig(batch_size=10).epochs_for(n_frames) == epochs
    assert NoiseConfig(batch_size=10, epochs=3).epochs_for(n_frames) == 3


def test_refusals():
    network, posterior = mixture((0, 1))
    with pytest.raises(ConfigurationError, match="got none"):
        fitted(network, posterior, [])
    with pytest.raises(ConfigurationError, match="'ensemble' has no noise"):
        fitted(network, EnsemblePosterior(dict(posterior.members)), [])
    frames = labelled(network, posterior, 10, 0, SIGMA)
    frames[0].calc.results["forces"] = np.full((len(frames[0]), 3), 1e30)
    graphs = labelled_graphs(frames, network.cutoff)
    with pytest.raises(NonFiniteError, match="learning_rate"):
        fit_noise(network, posterior, graphs, NoiseConfig(epochs=1, learning_rate=1e-2, dtype="float32"))


def test_training_ends_with_the_noise_of_all_members_together(small, no_events, tmp_path):
    """Trained without a step of noise, then fitted; the file says so, and assembling again repeats it."""
    data = small.ETHANOL
    settings = {
        "data": {"energy_unit": "kcal/mol", "validation": 0.4},
        "model": {"posterior": "mixture", "sizes": small.SIZES},
        "warm": {"epochs": 1, "batch_size": 5},
        "training": {"epochs": 0},
        "noise": {"epochs": 2, "batch_size": 4},
        "folder": tmp_path / "run",
    }
    model = train(data, tmp_path / "a.blip", **settings)
    assert model.training["noise"]["epochs"] == 2
    assert model.training["noise_fit"].keys() == {"nll", "mean_z2", "seconds"}
    again = train(data, tmp_path / "b.blip", **settings)
    assert again.hash == model.hash
    bias = model.posterior.members["inference.node.2.bias"]
    assert not torch.equal(bias[0], bias[1])
    with pytest.raises(ConfigurationError, match="no noise to fit"):
        train(data, tmp_path / "c.blip", model={"posterior": "point"}, noise={"epochs": 1}, data=settings["data"])


def test_a_trained_network_gets_error_bars_and_keeps_its_weights(small, no_events, tmp_path):
    """From a deterministic file to a calibratable one without a step on its weights; two copies of it are refused."""
    data = {"energy_unit": "kcal/mol", "validation": 0.4}
    settings = {"data": data, "folder": tmp_path / "bars"}
    point = {"posterior": "point", "sizes": small.SIZES}
    once = {"epochs": 1, "batch_size": 5}
    train(small.ETHANOL, tmp_path / "point.blip", model=point, training=once, data=data, folder=tmp_path / "point")
    bars = {"start": tmp_path / "point.blip", "training": {"epochs": 0}, "noise": {"epochs": 2, "batch_size": 4}}
    model = train(small.ETHANOL, tmp_path / "bars.blip", model={"posterior": "blip"}, **bars, **settings)
    assert (model.surface, model.posterior.name) == ("centre", "blip")
    before = dict(load(tmp_path / "point.blip").network.named_parameters())
    after = dict(model.network.backbone.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert max(q[1] for q in model.training["alpha"]["layers"].values()) != pytest.approx(BlipConfig().alpha_initial)
    with pytest.raises(ConfigurationError, match="stay what they started from"):
        train(small.ETHANOL, tmp_path / "two.blip", model={"posterior": "mixture"}, **bars, **settings)


def test_frames_that_the_start_was_trained_on_measure_no_error(small, no_events, tmp_path):
    """Another split of the same file would calibrate, or fit the noise, on training frames; the hashes of both are kept."""
    data = {"energy_unit": "kcal/mol", "validation": 0.4, "calibration": 0.2}
    point = {"posterior": "point", "sizes": small.SIZES}
    once = {"epochs": 1, "batch_size": 5}
    start = train(small.ETHANOL, tmp_path / "p.blip", model=point, training=once, data=data, folder=tmp_path / "p")
    bars = {"start": tmp_path / "p.blip", "training": {"epochs": 0}, "noise": {"epochs": 1, "batch_size": 4}}
    for changed, use in (({"split_seed": 1}, "calibrate"), ({"split_seed": 1, "calibration": 0.0}, "fit the noise")):
        with pytest.raises(TrainingDataReusedError, match=f"would {use} are among"):
            train(
                small.ETHANOL, tmp_path / "x.blip", model={"posterior": "blip"}, data=data | changed, folder=tmp_path / "x",
                **bars,
            )  # fmt: skip
    assert not (tmp_path / "x.blip").exists()
    model = train(
        small.ETHANOL, tmp_path / "y.blip", model={"posterior": "blip"}, data=data, folder=tmp_path / "y", **bars
    )
    assert set(start.frames.tolist()) <= set(model.frames.tolist())
    # through one more network: its weights saw, from its own start, what is its validation now
    other = data | {"split_seed": 1, "calibration": 0.0}
    model = {"posterior": "point"}
    train(small.ETHANOL, tmp_path / "q.blip", model=model, training=once, data=other, folder=tmp_path / "q",
          start=tmp_path / "p.blip")  # fmt: skip
    with pytest.raises(TrainingDataReusedError, match="would fit the noise"):
        train(
            small.ETHANOL, tmp_path / "z.blip", model={"posterior": "blip"}, data=other, folder=tmp_path / "z",
            **bars | {"start": tmp_path / "q.blip"},
        )  # fmt: skip
    with pytest.raises(ConfigurationError, match="name another output"):
        train(small.ETHANOL, tmp_path / "p.blip", model=model, training=once, data=data, start=tmp_path / "p.blip")


def test_the_start_decides_the_architecture(small, no_events, tmp_path):
    data = {"energy_unit": "kcal/mol", "validation": 0.4}
    point = {"posterior": "point", "sizes": small.SIZES}
    once = {"epochs": 1, "batch_size": 5}
    train(small.ETHANOL, tmp_path / "p.blip", model=point, training=once, data=data, folder=tmp_path / "p")
    start = {"start": tmp_path / "p.blip", "training": once, "data": data, "folder": tmp_path / "q"}
    for other in ({"architecture": "schnet"}, {"sizes": {"features": 64}}):
        with pytest.raises(ConfigurationError, match="leave them out"):
            train(small.ETHANOL, tmp_path / "q.blip", model={"posterior": "point", **other}, **start)
    model = train(small.ETHANOL, tmp_path / "q.blip", model={"posterior": "point"}, **start)
    assert model.training["model"]["architecture"] == "painn"
    assert model.training["model"]["sizes"]["features"] == small.SIZES["features"]


def test_a_run_folder_belongs_to_one_network(small, no_events, tmp_path):
    """The cutoff, the noise and the weights it starts from are part of what a checkpoint belongs to."""
    data = {"energy_unit": "kcal/mol", "validation": 0.4}
    model = {"posterior": "blip", "sizes": small.SIZES}
    stages = {"training": {"epochs": 1, "batch_size": 5}, "warm": {"epochs": 1, "batch_size": 5}}
    folder = {"data": data, "folder": tmp_path / "run"}
    train(small.ETHANOL, tmp_path / "a.blip", model=model, **stages, **folder)
    others = [
        {"model": model | {"sizes": small.SIZES | {"cutoff": 3.0}}},
        {"model": model | {"posterior_settings": {"alpha_prior": 0.03}}},
        {"model": model, "warm": {"epochs": 2, "batch_size": 5}},
    ]
    again = train(small.ETHANOL, tmp_path / "b.blip", model=model, **stages, **folder)
    assert again.hash == load(tmp_path / "a.blip").hash
    for other in others:
        with pytest.raises(ConfigurationError, match="another network"):
            train(small.ETHANOL, tmp_path / "b.blip", **({"model": model} | stages | other), **folder)


def test_random_weights_are_not_written(small, tmp_path):
    with pytest.raises(ConfigurationError, match="would stay random"):
        train(
            small.ETHANOL, tmp_path / "a.blip", model={"posterior": "blip"}, training={"epochs": 0}, noise={"epochs": 1}
        )


def test_without_settings_a_mixture_gets_the_recipe(small, no_events, monkeypatch, tmp_path):
    """100 epochs without noise, then the noise; seen by what the stages are asked for."""
    asked = {}

    def members(numbers, plan, prepared, folder):
        asked.update(vars(plan))
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train_members", members)
    with pytest.raises(KeyboardInterrupt):
        train(small.ETHANOL, tmp_path / "x.blip", data={"energy_unit": "kcal/mol"})
    assert (asked["model"].posterior, asked["model"].method.settings.inputs) == ("mixture", "neighbourhood")
    assert (asked["warm"].epochs, asked["training"].epochs) == (100, 0)
    assert asked["noise"] == NoiseConfig()
    with pytest.raises(KeyboardInterrupt):
        train(small.ETHANOL, tmp_path / "x.blip", data={"energy_unit": "kcal/mol"}, warm={"batch_size": 5})
    assert (asked["warm"].epochs, asked["warm"].batch_size, asked["training"].epochs) == (100, 5, 0)
    with pytest.raises(KeyboardInterrupt):
        train(small.ETHANOL, tmp_path / "x.blip", data={"energy_unit": "kcal/mol"}, model={"posterior": "point"})
    assert (asked["warm"], asked["training"].epochs) == (None, 200)


def test_learned_alpha_is_told_by_layer():
    """Quantiles over rows: constant α has one value everywhere; a bound that is reached is counted."""
    network, posterior = mixture((0, 1), alpha="constant", alpha_initial=0.01)
    graphs = labelled_graphs(labelled(network, posterior, 4, 0, SIGMA), network.cutoff)
    found = alpha_distribution(network, posterior, graphs)
    assert list(found["layers"]) == network.node_layers + network.edge_layers
    np.testing.assert_allclose(list(found["layers"].values()), 0.01, rtol=1e-3)
    assert found["near_bound"] == 0.0
    level = posterior.members["inference.level"]
    level[0, :] = 20.0  # the first member at the bound, the second where it was
    found = alpha_distribution(network, posterior, graphs)
    assert found["near_bound"] == pytest.approx(0.5)
    np.testing.assert_allclose([[q[0], q[2]] for q in found["layers"].values()], [[0.01, 0.1]] * 12, rtol=1e-3)
