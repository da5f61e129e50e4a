"""Numbers are those of a clean process, whatever the process is set to, and what it is set to stays."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator

import blipcalc
from blipcalc import BayesianCalculator
from blipcalc.errors import TrainingWarning, warn_user
from blipcalc.models.build import build_model
from blipcalc.posteriors.point import PointPosterior
from blipcalc.predictor import BayesianPredictor
from blipcalc.process import plain_state
from blipcalc.registries import MODELS
from blipcalc.training import logs

SIZES = {
    "painn": {"features": 8, "interactions": 2, "n_radial": 6, "cutoff": 4.0},
    "race": {"hidden": "4x0e+4x1o", "layers": 2, "cutoff": 4.0},
    "schnet": {"features": 8, "filters": 8, "interactions": 1, "n_radial": 6, "cutoff": 4.0},
    "visnet": {"features": 8, "layers": 2, "heads": 2, "n_radial": 6, "cutoff": 4.0},
}
POSTERIORS = {
    "point": {"posterior": "point"},
    "blip": {"posterior": "blip"},
    "local": {"posterior": "blip", "posterior_settings": {"mode": "local"}},
    "ensemble": {"posterior": "ensemble"},
    "vectorised": {"posterior": "ensemble", "vectorised": True},
    "mixture": {"posterior": "mixture"},
    "swag": {"posterior": "swag", "posterior_settings": {"start": 0.0}},
    "ivon": {"posterior": "ivon", "posterior_settings": {"ess": 1e4}},
    "laplace": {"posterior": "laplace"},
    "laplace-all": {"posterior": "laplace-all"},
    "laplace-kron": {"posterior": "laplace-kron"},
    "llpr": {"posterior": "llpr"},
    "pops": {"posterior": "pops"},
    "heads": {"posterior": "point", "sizes": SIZES["painn"] | {"heads": {"predict": "joint"}}},  # under nll_jef
}


@contextlib.contextmanager
def set_to(set_it, value, before):
    set_it(value)
    try:
        yield
    finally:
        set_it(before)


@contextlib.contextmanager
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


#: states that a process may be in, as contexts
STATES = {
    "default float64": lambda: set_to(torch.set_default_dtype, torch.float64, torch.float32),
    "default bfloat16": lambda: set_to(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": lambda: set_to(torch.set_default_device, "meta", None),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "deterministic": lambda: set_to(torch.use_deterministic_algorithms, True, False),
    "warnings": warnings_are_errors,
    "numpy raises": lambda: np.errstate(all="raise"),
    "another number of threads": lambda: set_to(
        torch.set_num_threads, 3 - min(2, torch.get_num_threads()), torch.get_num_threads()
    ),
}
#: like another; or two threads that share a core wait for each other
SLOW = {"default bfloat16", "another number of threads"}
#: rounding in another order
ROUNDED = {"another number of threads", "deterministic"}


def state():
    """What the process is set to."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "inference": torch.is_inference_mode_enabled(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "warnings": list(warnings.filters),
        "numpy": np.geterr(),
        "random": torch.random.get_rng_state().tolist() if torch.get_default_device().type == "cpu" else None,
    }


@contextlib.contextmanager
def in_state(name):
    """The state of that name; it must be as it was at the end."""
    with STATES[name]():
        before = state()
        yield
        after = state()
    assert after == before


def waters(n, seed=0):
    """Rattled water molecules with the forces of a spring between all pairs, labelled."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = molecule("H2O")
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        r = atoms.positions[:, None] - atoms.positions[None]
        length = np.linalg.norm(r, axis=-1) + np.eye(3)
        pull = (2.0 * (length - 1.0) * (1 - np.eye(3)))[..., None] * r / length[..., None]
        atoms.calc = SinglePointCalculator(
            atoms, energy=float(0.5 * ((length - 1.0) ** 2).sum()), forces=-2.0 * pull.sum(axis=1)
        )
        frames.append(atoms)
    return frames


@pytest.fixture(autouse=True)
def no_events(monkeypatch):
    """As if TensorBoard were not installed; its import takes longer than the runs."""
    monkeypatch.setattr(logs, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "water.extxyz"
    blipcalc.write(path, waters(20))
    return path


def trained(data, folder, model, **training):
    """A network of some hundred weights, trained for a few steps."""
    training = {
        "epochs": 3,
        "batch_size": 8,
        "warmup_steps": 0,
        "learning_rate": 5e-3,
        "validation_draws": 2,
    } | training
    model = {"sizes": SIZES[model.get("architecture", "painn")]} | model
    noise = {"epochs": 1, "batch_size": 8, "warmup_steps": 0}
    return blipcalc.train(
        data, folder / "a.blip", model=model, training=training, noise=noise if model["posterior"] == "mixture" else None,
        folder=folder / "run", data={"validation": 0.2},
    )  # fmt: skip


def numbers(calculator, *keys):
    atoms = waters(1, seed=5)[0]
    atoms.calc = calculator
    return [np.asarray(calculator.get_property(key, atoms)) for key in keys]


def everything(model, data, folder):
    """Load, calculate, train, relax, run MD: all numbers."""
    found = {}
    for dtype in ("float32", "float64"):
        strategy = "traced" if dtype == "float32" else None
        calculator = BayesianCalculator(str(model), n_draws=2, raw=True, dtype=dtype, surface="mean", strategy=strategy)
        keys = ("energy", "forces", "energies", "atom_std", "energy_std", "latent_distance")
        found |= {f"{dtype} {k}": v for k, v in zip(keys, numbers(calculator, *keys), strict=True)}
    atoms = waters(1, seed=6)[0]
    atoms.calc = BayesianCalculator(str(model), n_draws=2, raw=True, dtype="float32")
    blipcalc.run_md(atoms, time_ps=0.005, folder=folder / "md", progress=False, threshold=1e6, seed=1)
    found |= {"md positions": atoms.positions, "md momenta": atoms.get_momenta()}
    atoms = waters(1, seed=6)[0]
    atoms.calc = BayesianCalculator(str(model), n_draws=2, raw=True)
    relaxed = blipcalc.relax(atoms, fmax=0.2, steps=50, error_bars=None)
    found |= {"minimum": relaxed.atoms.positions, "its energy": np.array(relaxed.atoms.get_potential_energy())}
    new = trained(data, folder, {"posterior": "blip"}, epochs=1)
    found |= {name: value.numpy() for name, value in new.network.state_dict().items()}
    return found


@pytest.fixture(scope="module")
def clean(data, tmp_path_factory):
    """A model, and what comes of it in a clean process."""
    folder = tmp_path_factory.mktemp("clean")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None)))
        trained(data, folder / "model", {"posterior": "blip"}, epochs=15)
        return folder / "model" / "a.blip", everything(folder / "model" / "a.blip", data, folder)


@pytest.mark.filterwarnings("ignore::blipcalc.errors.TrainingWarning")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in STATES]
)
def test_all_numbers_are_those_of_a_clean_process(clean, data, tmp_path, name):
    model, expected = clean
    with in_state(name):
        found = everything(model, data, tmp_path)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        if name in ROUNDED:
            np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-4, err_msg=key)
        else:
            np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_the_walk_over_states_sees_a_change():
    """Control: each state is one that the process is not in, and a change that stays is noticed."""
    for name, enter in STATES.items():
        before = state()
        with enter():
            assert state() != before, name
    with pytest.raises(AssertionError), in_state("no grad"):
        torch.set_grad_enabled(True)


def test_control_torch_alone_does_depend_on_the_state():
    """What a network would be, and would say, without anything that guards it."""
    with in_state("default float64"):
        assert torch.nn.Linear(3, 3, device="meta").weight.dtype == torch.float64
        with plain_state():
            assert torch.nn.Linear(3, 3, device="meta").weight.dtype == torch.float32
    a = torch.ones(3, 3)
    with in_state("autocast"):
        assert (a @ a).dtype == torch.bfloat16
        with plain_state():
            assert (a @ a).dtype == torch.float32


def test_tensors_of_no_particular_dtype():
    with in_state("default float64"), plain_state():
        made = [
            torch.zeros(2),
            torch.full((2,), 1.0),
            torch.tensor(0.5),
            torch.tensor([[0.5]]),
            torch.linspace(0, 1, 3),
        ]
        assert {value.dtype for value in made} == {torch.float32}
        # these have a dtype, or a kind, of their own
        assert torch.full((2,), 1).dtype == torch.arange(3).dtype == torch.tensor([1, 2]).dtype == torch.int64
        own = [torch.zeros(2, dtype=torch.float64), torch.tensor(np.ones(2)), torch.tensor(np.float64(1.0))]
        assert {value.dtype for value in own} == {torch.float64}


def network_of(name):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        return build_model(name, SIZES[name], (1, 8))


def evaluated(name):
    """Weights and buffers of a network, and what it says in float32 and float64."""
    network, found = network_of(name), {}
    for dtype in ("float32", "float64"):
        predictor = BayesianPredictor(network, PointPosterior(), n_draws=1, dtype=dtype)
        prediction = predictor(waters(2))[1]
        found |= {f"{dtype} energy": np.array(prediction.energy), f"{dtype} forces": prediction.forces}
    return found | {key: value.numpy() for key, value in network.state_dict().items()}


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model(name):
    """Also where a process imports it in that state."""
    assert SIZES.keys() == set(MODELS.names())
    expected = evaluated(name)
    for ambient in ("default float64", "autocast"):
        with in_state(ambient):
            found = evaluated(name)
        for key, value in expected.items():
            assert found[key].dtype == value.dtype, (ambient, key)
            np.testing.assert_array_equal(found[key], value, err_msg=f"{ambient}: {key}")


@pytest.mark.filterwarnings("ignore::blipcalc.errors.TrainingWarning")
@pytest.mark.parametrize("name", POSTERIORS)
def test_every_posterior(data, tmp_path, name):
    """Trained, fitted, written and read: the hash of a model stands for every weight, and its draws follow from it."""
    objective = {"objective": "nll_jef" if name == "heads" else "mae"}
    clean = trained(data, tmp_path / "clean", POSTERIORS[name], **objective)
    with in_state("default float64"), in_state("autocast"):
        model = trained(data, tmp_path / "other", POSTERIORS[name], **objective)
        draws = model.posterior.draw(2 if model.posterior.is_random else 1, generator=torch.Generator().manual_seed(0))
    assert model.hash == clean.hash
    assert model.training["posterior_fit"] == clean.training["posterior_fit"]
    expected = clean.posterior.draw(draws.n, generator=torch.Generator().manual_seed(0))
    for key, value in expected.overrides.items():
        assert draws.overrides[key].dtype == value.dtype
        assert torch.equal(draws.overrides[key], value), key


SCRIPT = """
import sys, warnings
{first}
import torch
import blipcalc
from blipcalc.models.build import build_model
from blipcalc.registries import MODELS
with torch.random.fork_rng(devices=[]):
    for name in MODELS.names():
        torch.default_generator.manual_seed(0)
        tensors = build_model(name, {{}}, [1, 6, 8]).state_dict().values()
        sys.stdout.write(f"{{name}} {{[float(value.double().sum()) for value in tensors]}} {{[t.dtype for t in tensors]}}\\n")
sys.stdout.write(blipcalc.load("rmd17").hash)
"""


def said_by_a_process(first):
    found = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(first=first)], capture_output=True, text=True, timeout=300
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.parametrize(
    "first",
    [
        "import torch; torch.set_default_dtype(torch.float64); torch.set_default_device('meta')",
        "warnings.simplefilter('error')",
    ],
    ids=["dtype and device", "warnings"],
)
def test_a_process_that_is_so_from_its_start(first):
    """Packages that are imported late make constants at their import, and warn."""
    assert said_by_a_process(first) == said_by_a_process("")


def test_a_warning_points_at_the_line_of_the_user():
    """At once, and through a decorator of this package."""
    for warn in (warn_user, plain_state()(lambda *said: warn_user(*said))):
        with pytest.warns(TrainingWarning, match="so it is") as seen:
            warn("so it is", TrainingWarning)
        assert Path(seen[0].filename) == Path(__file__)
    assert Path(blipcalc.__file__).parent not in Path(__file__).parents  # the control: this file is none of the package
