"""SWAG and IVON from the trainer to a calibrated calculator, and across a stop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blipcalc import BayesianCalculator
from blipcalc.errors import ConfigurationError, SchemaError
from blipcalc.files.safetensors_file import read_sealed, write_sealed
from blipcalc.model_file.model_file import load
from blipcalc.posteriors.ivon import Ivon
from blipcalc.posteriors.swag import Swag
from blipcalc.training.train import train
from blipcalc.training.trainer import Trainer

SETTINGS = {"swag": {"start": 0.3, "rank": 3}, "ivon": {"ess": 1e4}}
METHODS = {"swag": Swag(SETTINGS["swag"]), "ivon": Ivon(SETTINGS["ivon"])}


def run(small, folder, method, **settings):
    """A run of six epochs under a method."""
    plain = small.build(folder, small.pairs(12), small.pairs(4, seed=1), epochs=6, **settings)
    return Trainer(plain.model, plain.posterior, plain.train, plain.validation, plain.config, folder, METHODS[method])


def equal(a, b):
    parts = [(getattr(a, part), getattr(b, part)) for part in ("mean", "std", "deviations")]
    return all(torch.equal(x[name], y[name]) for x, y in parts for name in x)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_stops_and_goes_on_is_the_run_that_does_not(small, no_events, tmp_path, method):
    whole = run(small, tmp_path / "a", method)
    whole.fit()
    broken = run(small, tmp_path / "b", method)
    epochs = iter([False] * 4 + [True])
    broken._out_of_patience = lambda: next(epochs)
    broken.fit()
    again = run(small, tmp_path / "b", method)
    again.fit()
    once, twice = whole.descent.posterior, again.descent.posterior
    assert equal(once, twice)
    # draws take their random numbers in the order of the parameters, whatever the order in a checkpoint
    for a, b in (
        (whole.descent.posterior.mean, again.descent.posterior.mean),
        (whole.descent.posterior.std, again.descent.posterior.std),
    ):
        assert list(a) == list(b) == [name for name, _ in whole.model.named_parameters()]
    for (name, p), q in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(p, q), name
        torch.testing.assert_close(p, once.mean[name].to(p))


def test_a_run_belongs_to_its_method(small, no_events, tmp_path):
    run(small, tmp_path, "swag").fit()
    with pytest.raises(ConfigurationError, match="another folder"):
        run(small, tmp_path, "ivon").fit()


def test_swag_takes_its_snapshots_at_a_constant_rate(small, no_events, tmp_path):
    trainer = run(small, tmp_path, "swag")
    trainer.fit()
    rates = np.genfromtxt(tmp_path / "log.csv", delimiter=",", names=True)["lr"]
    assert trainer.descent.online.count == 5  # epochs 2 to 6 of 6, after 0.3 of them
    np.testing.assert_allclose(rates[2:], 0.2 * trainer.config.learning_rate)
    assert trainer.descent.posterior.rank == 3


@pytest.mark.parametrize("posterior", METHODS)
def test_from_files_to_error_bars(small, no_events, tmp_path, posterior):
    model = train(
        small.ETHANOL,
        tmp_path / "a.blip",
        data={"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0},
        model={"posterior": posterior, "sizes": small.SIZES, "posterior_settings": SETTINGS[posterior]},
        training={"epochs": 8, "batch_size": 4},
        folder=tmp_path / "run",
    )
    assert (model.posterior.name, model.surface) == (posterior, "centre")
    loaded = load(tmp_path / "a.blip")
    assert loaded.hash == model.hash
    assert equal(loaded.posterior, model.posterior)
    atoms = small.ethanol(1)[0].copy()
    atoms.calc = BayesianCalculator(loaded, n_draws=8, raw=True)
    assert (atoms.calc.get_property("atom_std", atoms) > 0).all()
    tensors, manifest = read_sealed(tmp_path / "a.blip")
    first = next(name for name in tensors if name.startswith("posterior/std"))
    write_sealed(tmp_path / "b.blip", {n: v for n, v in tensors.items() if n != first}, manifest)
    with pytest.raises(SchemaError):
        load(tmp_path / "b.blip")


@pytest.mark.parametrize("posterior", METHODS)
def test_they_need_epochs(small, tmp_path, posterior):
    with pytest.raises(ConfigurationError, match="--epochs"):
        train(
            small.ETHANOL,
            tmp_path / "a.blip",
            model={"posterior": posterior},
            training={"epochs": 0},
            warm={"epochs": 5},
        )


def test_too_few_snapshots_are_refused_before_training(small, tmp_path):
    for training in ({"epochs": 4}, {"epochs": 40, "patience": 3}):
        with pytest.raises(ConfigurationError, match="snapshots"):
            train(small.ETHANOL, tmp_path / "a.blip", model={"posterior": "swag"}, training=training)


def test_ivon_sees_whole_gradients(small, no_events, tmp_path):
    """Its estimate of curvature is made of them: a small clip_norm, under which Adam goes another way, changes nothing."""
    rates = {"clip_norm": 1e-3}, {"clip_norm": 1e3}
    ends = []
    for method in ("ivon", "swag"):
        pair = [run(small, tmp_path / f"{method}-{i}", method, **rate) for i, rate in enumerate(rates)]
        for trainer in pair:
            trainer.fit()
        ends.append([t.descent.posterior for t in pair])
    assert equal(*ends[0])
    assert not equal(*ends[1])


def test_ivon_weighs_the_data_by_the_likelihood_of_the_objective(small, no_events, tmp_path):
    method = Ivon()
    for objective, per_component in (("mae", 1 / 0.02), ("mse", 0.5 / 0.02**2), ("gaussian_nll", 1.0)):
        plain = small.build(tmp_path / objective, small.pairs(12), small.pairs(4, seed=1), objective=objective)
        parts = plain.model, plain.posterior, plain.train, plain.validation, plain.config, plain.folder
        components = 3 * sum(graph.num_nodes for graph in plain.train)
        assert Trainer(*parts, method).descent.online.ess == pytest.approx(components * per_component)
