"""Networks with mean-variance heads, trained: they find the noise of their labels, and come out of a file calibrated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from blipcalc import BayesianCalculator
from blipcalc.calibration.fit import calibrate
from blipcalc.core.contracts import Draws
from blipcalc.core.evaluate import evaluate
from blipcalc.core.graph import Graph
from blipcalc.errors import CalibrationError, ConfigurationError
from blipcalc.model_file.model_file import load, save_model
from blipcalc.posteriors.stored import n_networks
from blipcalc.training.train import train

JOINT = {"heads": {"predict": "joint"}}
FIT = {
    "epochs": 120,
    "batch_size": 10,
    "learning_rate": 5e-3,
    "warmup_steps": 20,
    "energy_weight": 1.0,
    "dtype": "float64",
}


def force_std(model, frames):
    """Root mean variance of a force component, as the heads say it, eV/Å."""
    traces = []
    for atoms in frames:
        covariance = evaluate(model, Draws(1), Graph.from_atoms(atoms, model.cutoff)).forces_cov[0]
        traces.append(covariance.diagonal(dim1=-2, dim2=-1).mean())
    return float(np.mean(traces)) ** 0.5


@pytest.mark.chance(2)
@pytest.mark.parametrize("objective", ["nll_jef", "mse"])
def test_heads_find_the_noise_of_the_labels(small, no_events, tmp_path, objective, chance):
    """Forces with noise of 0.4 eV/Å; only a likelihood of forces can say so (mse is the control)."""
    noise, frames = 0.4, small.pairs(chance.times(120), chance.seed(), noise=0.4)
    validation = small.pairs(20, seed=chance.seed(1))
    folder = tmp_path / f"stage {chance.stage}"
    run = small.build(folder, frames, validation, sizes=JOINT, objective=objective, **FIT | {"seed": chance.seed(2)})
    start = force_std(run.model, frames[:20])
    run.fit()
    errors = []
    for atoms in small.pairs(chance.times(20), seed=chance.seed(3), noise=0.4):
        samples = evaluate(run.model, Draws(1), Graph.from_atoms(atoms, run.model.cutoff))
        errors.append(((samples.forces[0].numpy() - atoms.get_forces()) ** 2).mean())
    error = np.sqrt(np.mean(errors))
    assert error < 1.5 * noise  # it learnt more than nothing
    said = force_std(run.model, frames[:20])
    if objective == "nll_jef":
        assert said == pytest.approx(error, rel=0.2)
    else:
        assert said == pytest.approx(start, rel=0.2)  # nobody asked


def test_beta_and_resumption(small, no_events, tmp_path):
    """A run that is stopped and goes on is the run that was not, through the end of the warm-up."""
    settings = {"objective": "nll_jef", "beta": 0.5, "variance_warmup": 0.5, "epochs": 4, "sizes": JOINT}
    data = small.pairs(12), small.pairs(4, seed=1)
    whole = small.build(tmp_path / "a", *data, **settings)
    whole.fit()
    broken = small.build(tmp_path / "b", *data, **settings)
    broken.config = broken.config.model_copy(update={"patience": 1})
    epochs = iter([False, False, True])
    broken._out_of_patience = lambda: next(epochs)
    broken.fit()
    again = small.build(tmp_path / "b", *data, **settings)
    again.fit()
    for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert (a == b).all(), name
    assert whole.log.path.read_text() == again.log.path.read_text()


def test_objectives_need_their_heads(small, no_events, tmp_path):
    for objective, sizes in (("nll_jef", {}), ("nll_e", {}), ("nll_jef", {"heads": {"predict": "energy"}})):
        with pytest.raises(ConfigurationError, match="heads"):
            small.build(tmp_path, small.pairs(4), small.pairs(2, seed=1), sizes=sizes, objective=objective)


@pytest.mark.parametrize(("posterior", "members", "n_draws"), [("point", 2, 1), ("ensemble", 2, 2)])
def test_from_files_to_a_calibrated_calculator(small, no_events, tmp_path, posterior, members, n_draws):
    """The objective brings its heads; the file keeps them; a single network is calibrated for one draw."""
    data = {"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0}
    settings = {"posterior": posterior, "members": members, "sizes": small.SIZES}
    training = {"epochs": 2, "objective": "nll_jef", "batch_size": 4}
    train(small.ETHANOL, tmp_path / "a.blip", data=data, model=settings, training=training, folder=tmp_path / "run")
    model = load(tmp_path / "a.blip")
    assert model.network.heads == "joint"
    frames = small.pairs(12, names=("CH3CH2OH",), seed=3)
    model = calibrate(model, frames, n_draws=[n_draws], surfaces=["mean"])
    save_model(model, tmp_path / "b.blip")
    atoms = frames[0].copy()
    atoms.calc = BayesianCalculator(load(tmp_path / "b.blip"), n_draws=n_draws)
    assert atoms.calc.calibration.n_draws == n_draws
    atoms.get_forces()
    std = atoms.calc.get_property("atom_std", atoms)
    assert (std > 0).all()
    p = atoms.calc.prediction
    scale = np.array([p.calibration.scale[z] for z in atoms.numbers])[:, None, None]
    np.testing.assert_allclose(p.forces_cov, scale * p.raw.forces_cov)
    np.testing.assert_allclose(p.forces_cov_aleatoric, scale * p.raw.forces_cov_aleatoric)
    assert (np.trace(p.forces_cov_epistemic, axis1=1, axis2=2) > 0).any() == (posterior == "ensemble")


def test_a_point_estimate_with_a_head_for_energies_alone_has_no_force_errors(small, no_events, tmp_path):
    training = {"epochs": 1, "objective": "nll_e", "batch_size": 4}
    model = train(
        small.ETHANOL,
        tmp_path / "a.blip",
        data={"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0},
        model={"posterior": "point", "sizes": small.SIZES},
        training=training,
        folder=tmp_path / "run",
    )
    assert model.network.heads == "energy"
    with pytest.raises(CalibrationError, match="nll_jef"):
        calibrate(model, small.pairs(12, names=("CH3CH2OH",), seed=3))


def test_heads_that_nobody_trains_are_refused(small, tmp_path):
    sizes = small.SIZES | {"heads": {"predict": "joint"}}
    with pytest.raises(ConfigurationError, match="does not train"):
        train(small.ETHANOL, tmp_path / "a.blip", model={"posterior": "point", "sizes": sizes}, training={"epochs": 1})


def joint(small, tmp_path, name, **settings):
    data = {"energy_unit": "kcal/mol", "validation": 0.2, "calibration": 0.0}
    training = {"epochs": 3, "objective": "nll_jef", "batch_size": 4} | settings.pop("training", {})
    return train(
        small.ETHANOL, tmp_path / f"{name}.blip", data=data, training=training, folder=tmp_path / name, **settings
    )


def test_every_member_speaks_in_its_own_unit(small, no_events, tmp_path):
    """What residuals a member had when it turned to variances belongs to its weights."""
    model = joint(small, tmp_path, "e", model={"posterior": "ensemble", "members": 2, "sizes": small.SIZES})
    units = model.posterior.members["noise_unit"]
    assert units.shape == (2, 2)
    assert not (units[0] == units[1]).any()
    assert (load(tmp_path / "e.blip").posterior.members["noise_unit"] == units).all()


def test_fine_tuning_keeps_the_unit_that_heads_were_trained_in(small, no_events, tmp_path):
    point = {"posterior": "point", "sizes": small.SIZES}
    first = joint(small, tmp_path, "a", model=point)
    tuning = {"epochs": 1, "learning_rate": 1e-9, "final_learning_rate": 1e-10, "variance_warmup": 0.0}
    second = joint(small, tmp_path, "b", model={"posterior": "point"}, start=tmp_path / "a.blip", training=tuning)
    assert (first.network.noise_unit == second.network.noise_unit).all()
    assert not (first.network.noise_unit == 1.0).any()
    frames = small.ethanol(3)
    assert force_std(second.network, frames) == pytest.approx(force_std(first.network, frames), rel=1e-4)


def test_each_network_starts_from_its_own(small, no_events, tmp_path):
    """An ensemble goes on as an ensemble, or becomes a mixture whose networks are its members; it is not one network."""
    first = joint(small, tmp_path, "e", model={"posterior": "ensemble", "members": 3, "sizes": small.SIZES})
    start = {"start": tmp_path / "e.blip"}
    still = {
        "epochs": 1,
        "learning_rate": 1e-12,
        "final_learning_rate": 1e-13,
        "variance_warmup": 0.0,
        "ema_decay": 0.0,
    }
    again = joint(small, tmp_path, "f", model={"posterior": "ensemble"}, training=still, **start)
    moved = joint(small, tmp_path, "g", model={"posterior": "ensemble"}, training={"epochs": 1}, **start)
    noise = {"model": {"posterior": "mixture"}, "training": {"epochs": 0}, "noise": {"epochs": 1, "batch_size": 4}}
    mixture = joint(small, tmp_path, "m", **noise, **start)
    assert n_networks(again.posterior) == n_networks(mixture.posterior) == 3
    for name, value in first.posterior.members.items():
        torch.testing.assert_close(again.posterior.members[name], value, rtol=1e-5, atol=1e-7)
        assert (mixture.posterior.members[f"backbone.{name}"] == value).all(), name
    # the control: three that learn on do not stay
    assert any((moved.posterior.members[name] != value).any() for name, value in first.posterior.members.items())
    for model, match in (({"posterior": "point"}, "ensemble of 3"), ({"posterior": "mixture", "members": 2}, "of 2")):
        with pytest.raises(ConfigurationError, match=match):
            joint(small, tmp_path, "no", model=model, **start)
    with pytest.raises(ConfigurationError, match="stay what they started from"):
        joint(small, tmp_path, "no", model={"posterior": "ensemble"}, training={"epochs": 0}, **start)


def test_settings_of_heads_join_what_the_objective_brings(small, no_events, tmp_path):
    sizes = small.SIZES | {"heads": {"covariance": "paper"}}
    model = joint(small, tmp_path, "a", model={"posterior": "point", "sizes": sizes})
    assert (model.network.heads, model.network.config.heads.covariance) == ("joint", "paper")
