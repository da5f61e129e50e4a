"""One small file of every kind that the package writes and reads again, and how each is read."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from pydantic import BaseModel

from blipcalc import io
from blipcalc.averages.average import AVERAGES
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calibration.evaluation import EVALUATION
from blipcalc.core.prediction import Calibration, SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.errors import BlipcalcError
from blipcalc.files.json_file import read_json, write_json
from blipcalc.files.run_folder import NEWEST, Checkpoints, State
from blipcalc.files.safetensors_file import read_sealed
from blipcalc.md.run_md import EVENTS, HISTORY, SUMMARY, TRAJECTORY, run_md
from blipcalc.md.summary import StoredCheckpoint, read_summary
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load, save_model
from blipcalc.models.build import build_model
from blipcalc.monitor.decisions import Decision
from blipcalc.monitor.events import EventLog, events_of
from blipcalc.monitor.history import History
from blipcalc.monitor.limits import Limits, fit_limits
from blipcalc.posteriors.point import PointPosterior
from blipcalc.relaxation.relax import relax
from blipcalc.relaxation.result import RELAXATION
from blipcalc.report.reliability import StoredEvaluation
from blipcalc.settings import checked
from blipcalc.stats.estimate import Estimate
from blipcalc.training.logs import RunLog
from blipcalc.training.run_identity import StoredTraining


class Kind(NamedTuple):
    """A kind of file: those that may be damaged, and how it is read."""

    files: tuple[Path, ...]
    read: Callable[[], Any]


class Springs(Predictor):
    """Three draws of springs to the starting places, which has all results that a calculator can have."""

    species, n_draws, surface, has_stress, has_energies, heads = None, 3, "mean", False, False, "none"

    def __init__(self, home, calibration):
        self.home, self.calibration = home, calibration

    def __call__(self, structures, need=Need()):
        found = []
        for atoms in structures:
            d = atoms.positions - self.home
            stiffness = 5.0 * (1.0 + 0.1 * np.array([-1.0, 0.0, 1.0]))
            samples = SampleArrays(energy=stiffness * 0.5 * (d**2).sum(), forces=-stiffness[:, None, None] * d)
            found.append(self.calibration.apply(summarize(atoms.numbers, samples, keep_samples=True)))
        return found


def calibration_of(model_hash: str = "ab" * 32, elements=(7, 8)) -> Calibration:
    """Some constants."""
    return Calibration(
        surface="mean",
        n_draws=3,
        seed=0,
        model_hash=model_hash,
        scale=dict.fromkeys(elements, 1.25),
        scale_energy=1.5,
        q_atom={z: {0.9: 2.0, 0.95: 2.5} for z in elements},
        q_frame={0.95: 4.0},
        n_frames=70,
        n_atoms=dict.fromkeys(elements, 280),
        frames_hash="cd" * 32,
        n_element_frames=dict.fromkeys(elements, 70),
    )


def plain(value: Any) -> Any:
    """Whatever a file gave, so that two of them are equal where all bits are."""
    if isinstance(value, Atoms):
        calc = None if value.calc is None else plain(value.calc.results)
        samples = getattr(value.calc, "samples", None)
        parts = (value.arrays, value.info, value.cell.array, value.pbc, [c.todict() for c in value.constraints])
        return [plain(part) for part in (*parts, calc, samples)]
    if isinstance(value, Estimate | SampleArrays):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Model):
        return [plain(value.calibrations), plain(value.training), value.hash, plain(value.frames.numpy())]
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    if is_dataclass(value):
        return plain(asdict(value))
    if isinstance(value, torch.Tensor):
        return plain(value.numpy())
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.shape, value.tobytes() if value.dtype != object else repr(value.tolist())]
    if isinstance(value, dict):
        return {repr(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return repr(value)


def damage(kind: Kind, changes: Iterator[tuple[Path, bytes]], fault: type[Exception] = BlipcalcError) -> Counter[str]:
    """How often a changed file is ``refused`` with a named error, reads the ``same``, reads otherwise (``silent``), or ends in
    an error without a name (``raw: …``).
    """
    whole, before = {path: path.read_bytes() for path in kind.files}, plain(kind.read())
    found: Counter[str] = Counter()
    for path, content in changes:
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome = "same" if plain(kind.read()) == before else "silent"
        except fault:
            outcome = "refused"
        except Exception as error:
            outcome = f"raw: {type(error).__name__}: {error}"
        found[outcome] += 1
        for name, content in whole.items():  # a reader may have changed another
            if name == path or name.read_bytes() != content:
                name.write_bytes(content)
    assert plain(kind.read()) == before
    return found


def flips(kind: Kind, n: int, seed: int = 0) -> Iterator[tuple[Path, bytes]]:
    """So many random bits, each flipped by itself, over all files of a kind."""
    whole = {path: path.read_bytes() for path in kind.files}
    sizes = [len(content) for content in whole.values()]
    rng = np.random.default_rng(seed)
    for _ in range(n):
        path = kind.files[rng.choice(len(sizes), p=np.array(sizes) / sum(sizes))]
        content = bytearray(whole[path])
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        yield path, bytes(content)


def ends(kind: Kind, n: int, seed: int = 1) -> Iterator[tuple[Path, bytes]]:
    """So many files that end too early."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        path = kind.files[int(rng.integers(len(kind.files)))]
        content = path.read_bytes()
        yield path, content[: int(rng.integers(len(content)))]


class Damage(NamedTuple):
    """What tests of damage take."""

    of: Callable[..., Counter[str]]
    flips: Callable[..., Iterator[tuple[Path, bytes]]]
    ends: Callable[..., Iterator[tuple[Path, bytes]]]
    kind: type[Kind]


@pytest.fixture(scope="session")
def damaged() -> Damage:
    """Flips, missing ends, and what comes of them."""
    return Damage(damage, flips, ends, Kind)


def cube(calibration: Calibration) -> Atoms:
    """Eight atoms on springs."""
    atoms = Atoms("N4O4", positions=np.argwhere(np.ones((2, 2, 2))) * 3.0)
    atoms.calc = BayesianCalculator(Springs(atoms.positions.copy(), calibration))
    return atoms


def _limits() -> Limits:
    rng = np.random.default_rng(0)
    replicas = [np.exp(rng.normal(-3.0, 0.1, 4000)) for _ in range(40)]
    settings = {"tolerance": 40.0, "rate_per_ns": 20.0, "criteria": ["trip", "smoothed"]}
    return fit_limits({"ratio": replicas}, 5.0, calibration_of(), {"N": 2.5, "O": 5.0}, **settings)


def _history(path: Path) -> dict[str, np.ndarray]:
    rows = History()
    rows.load_csv(path, last_step=sys.maxsize)
    return rows.to_dict()


def _estimates(path: Path) -> dict[str, Any]:
    said = read_json(path, RELAXATION)
    return {name: Estimate.from_dict(said.pop(name)) for name in ("energy", "positions")} | said


def _evaluation(path: Path) -> StoredEvaluation:
    return checked(StoredEvaluation, read_json(path, EVALUATION), "evaluation")


def _model(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_model(
            "schnet", {"features": 4, "filters": 4, "interactions": 1, "n_radial": 3, "cutoff": 3.0}, (7, 8)
        )
    model = Model(network, PointPosterior(), training={"command": "blipcalc train"}, frames=torch.arange(5))
    save_model(model.with_calibrations(calibration_of(model.hash)), folder / "model.blip")
    return folder / "model.blip"


@pytest.fixture(scope="session")
def limits() -> Limits:
    """Limits with two channels."""
    return _limits()


@pytest.fixture(scope="session")
def written(tmp_path_factory, limits) -> dict[str, Kind]:
    """{kind: its files and how they are read}."""
    folder = tmp_path_factory.mktemp("written")
    run, calibration = folder / "run", calibration_of()
    limits.save(folder / "limits.json")
    atoms = cube(calibration)
    run_md(
        atoms, time_ps=0.05, timestep_fs=1.0, tolerance=0.001, every=5, write_every=10, progress=False, folder=run,
        on_breach=["flag"], checkpoint_every=20,
    )  # fmt: skip
    relaxed = relax(cube(calibration), error_bars="relax")
    write_json(folder / "relaxation.json", RELAXATION, relaxed.to_dict())
    averages = [{"name": "energy", "estimate": relaxed.energy.to_dict()}]
    write_json(folder / "averages.json", AVERAGES, {"averages": averages})
    row = {"kind": "all", "group": "all", "level": 0.95, "observed": 0.94, "low": 0.9, "high": 0.98, "n_frames": 50}
    said = {"surface": "mean", "n_draws": 3, "forces": {"coverage": [row | {"inside": True}], "nll": 0.1}}
    write_json(folder / "evaluation.json", EVALUATION, said)
    frames = [cube(calibration) for _ in range(3)]
    for k, frame in enumerate(frames):
        frame.positions += 0.01 * np.random.default_rng(k).normal(size=frame.positions.shape)
        frame.info["step"] = k
        for key in ("forces", "atom_std"):
            frame.calc.get_property(key, frame)
    io.write(folder / "frames.db", frames)
    io.write(folder / "frames.traj", frames, samples=True, checksums=True)
    io.write(folder / "frames.xyz", frames, checksums=True)
    dynamics, events = VelocityVerlet(cube(calibration), units.fs), EventLog(folder / EVENTS)
    for step in range(4):
        decision = Decision(True, (step, 0), 0.1 + step, 0.05, "eV/Å", "force error bound is too large", step)
        events.write("warning", decision, dynamics.atoms, dynamics)
    log = RunLog(folder)
    for epoch in range(1, 6):
        log.write({"epoch": epoch, "loss": 1.0 / epoch, "score": 0.1 * epoch})
    log.close()
    figures = {"epoch": 3, "step": 30, "seconds": 1.5, "noise_units": (0.1, 0.2), "best": {"score": 0.5, "epoch": 2}}
    Checkpoints(folder / "training", "ef" * 32, {"epochs": 5}, set(), schema=StoredTraining).save(
        State({"model": {"w": torch.linspace(0, 1, 20)}}, figures)
    )
    model = _model(folder)

    def path_and_sums(path: Path) -> tuple[Path, Path]:
        return path, Path(f"{path}.sums")

    def checkpoint(path: Path, schema: type) -> Any:
        tensors, manifest = read_sealed(path)
        return [tensors, checked(schema, manifest, "checkpoint")]

    json_kinds = {
        "limits": (folder / "limits.json", lambda: Limits.load(folder / "limits.json")),
        "summary of a run": (run / SUMMARY, lambda: read_summary(run / SUMMARY)),
        "relaxation": (folder / "relaxation.json", lambda: _estimates(folder / "relaxation.json")),
        "thermal averages": (folder / "averages.json", lambda: read_json(folder / "averages.json", AVERAGES)),
        "evaluation": (folder / "evaluation.json", lambda: _evaluation(folder / "evaluation.json")),
    }
    kinds = {name: Kind((path,), read) for name, (path, read) in json_kinds.items()}
    kinds |= {
        "model with calibrations": Kind((model,), lambda: load(model)),
        "checkpoint of MD": Kind((run / NEWEST,), lambda: checkpoint(run / NEWEST, StoredCheckpoint)),
        "checkpoint of training": Kind(
            (folder / "training" / NEWEST,), lambda: checkpoint(folder / "training" / NEWEST, StoredTraining)
        ),
        "history": Kind(path_and_sums(run / HISTORY), lambda: _history(run / HISTORY)),
        "events": Kind(path_and_sums(folder / EVENTS), lambda: events_of(folder / EVENTS)),
        "trajectory of a run": Kind(path_and_sums(run / TRAJECTORY), lambda: io.read(run / TRAJECTORY)),
        "frames as text": Kind(path_and_sums(folder / "frames.xyz"), lambda: io.read(folder / "frames.xyz")),
        "draws of frames": Kind((folder / "frames.traj.samples.npz",), lambda: io.read(folder / "frames.traj")),
        "database": Kind((folder / "frames.db",), lambda: io.read(folder / "frames.db")),
        "log of a training": Kind(path_and_sums(folder / "log.csv"), lambda: RunLog(folder, active=False).rows()),
    }
    return kinds
