"""What inputs are given to; each target takes a source of choices, a tool box and an empty folder, and gives all its numbers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet
from fuzz_inputs import NUMBERS, ODD, Source, damaged, generator, often, one, settings, structure
from fuzz_published import averages, properties, relaxations
from typer.testing import CliRunner

from blipcalc import BayesianCalculator, committee, load
from blipcalc.calibration.fit import calibrate
from blipcalc.cli.main import app
from blipcalc.core.prediction import Calibration
from blipcalc.data.labels import read_labelled
from blipcalc.files.checksums import forget_sums
from blipcalc.files.json_file import write_json
from blipcalc.io import read, write
from blipcalc.md.run_md import run_md
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import save_model
from blipcalc.models.build import build_model
from blipcalc.monitor.criteria import AtomFraction, EnergyStdPerAtom
from blipcalc.monitor.decisions import Decision
from blipcalc.monitor.events import EventLog, read_events
from blipcalc.monitor.fault_checks import TooClose
from blipcalc.monitor.fit_limits import check_reference
from blipcalc.monitor.history import History
from blipcalc.monitor.limits import LIMITS, Limits, fit_limits
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.monitor.run_criteria import ConsecutiveBreaches, HaltRatio, InstantThreshold, SmoothedThreshold
from blipcalc.posteriors.blip import BlipPosterior, bayesianize
from blipcalc.predictor import BayesianPredictor
from blipcalc.training.config import ModelConfig, NoiseConfig, TrainConfig

ELEMENTS = (1, 6, 8)
SHAPES = {
    "energy": lambda n: (), "energy_std": lambda n: (), "forces": lambda n: (n, 3), "energies": lambda n: (n,),
    "atom_std": lambda n: (n,), "forces_var": lambda n: (n, 3), "stress": lambda n: (6,), "stress_std": lambda n: (6,),
}  # fmt: skip


class Wells(Calculator):
    """Springs to a lattice of points; cheap."""

    implemented_properties = ("energy", "forces")

    def __init__(self, stiffness: float) -> None:
        super().__init__()
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        d = self.atoms.positions - np.arange(len(self.atoms))[:, None]
        self.results = {"energy": 0.5 * self.stiffness * (d**2).sum(), "forces": -self.stiffness * d}


class Tools:
    """Small models, calculators and whole files, made once."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        sizes = {"features": 4, "interactions": 1, "n_radial": 3, "cutoff": 3.0}
        network = bayesianize(build_model("painn", sizes, ELEMENTS), alpha_initial=0.03).double()
        self.posterior = BlipPosterior(network.slot_shapes())
        self.model = Model(network, self.posterior)
        how = {"n_draws": 2, "strategy": "vmap"}
        predictors = [BayesianPredictor(network, self.posterior, surface=s, dtype=d, **how)
                      for s, d in (("mean", "float64"), ("centre", "float64"), ("mean", "float32"))]  # fmt: skip
        self.calculators = [BayesianCalculator(p, raw=True) for p in predictors]
        self.calculators.append(BayesianCalculator(committee([Wells(1.0), Wells(1.5)]), raw=True))
        self.calibration = Calibration(
            surface="mean", n_draws=2, seed=0, model_hash=self.model.hash, scale=dict.fromkeys(ELEMENTS, 1.0), scale_energy=1.0,
            q_atom={z: {0.95: 2.0} for z in ELEMENTS}, q_frame={0.95: 3.0}, n_frames=50, n_atoms=dict.fromkeys(ELEMENTS, 50),
            frames_hash="f",
        )  # fmt: skip
        self.calibrated = BayesianPredictor(network, self.posterior, calibration=self.calibration, **how)
        self.frames = [self.sound(np.random.default_rng(k)) for k in range(12)]
        self.limits = fit_limits(
            {"ratio": np.random.default_rng(0).uniform(0.1, 0.5, (40, 200))}, 100.0, self.calibration,
            {"H": 2.0, "C": 2.0, "O": 2.0}, tolerance=0.5, rate_per_ns=100.0, confidence=0.8, criteria=("trip", "smoothed"),
        )  # fmt: skip
        self.folder = folder
        self.files = self._files()

    def sound(self, rng: np.random.Generator) -> Atoms:
        """A labelled structure without a fault."""
        atoms = Atoms("CH3O", positions=[[0, 0, 0], [1.1, 0, 0], [0, 1.1, 0], [0, 0, 1.1], [-1.2, 0, 0]])
        atoms.rattle(0.05, rng=rng)
        atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=rng.normal(size=(5, 3)))
        return atoms

    def _files(self) -> dict[str, bytes]:
        at, frames = self.folder, self.frames
        for name in ("a.xyz", "a.traj", "a.db"):
            write(at / name, frames[:3])
        arrays = {"R": np.stack([a.positions for a in frames]), "E": np.zeros(12), "F": np.zeros((12, 5, 3))}
        np.savez(at / "a.npz", z=frames[0].numbers, **arrays)
        save_model(self.model.with_calibrations(self.calibration), at / "a.blip")
        self.limits.save(at / "limits.json")
        dynamics, history, log = VelocityVerlet(frames[0], units.fs), History(), EventLog(at / "events.jsonl")
        for step in range(5):
            row = {name: 0.1 * step for name, kind in History.columns.items() if kind is float}
            history.append(step=step, worst_atom=0, breached=False, **row)
            log.write("halt", Decision(True, (0,), 1.0, 0.5, "eV/Å", "why", step), frames[0], dynamics)
        history.save_csv(at / "history.csv")
        forget_sums(log.path)  # a damaged file is to be read, not refused by its checksums
        return {path.name: path.read_bytes() for path in sorted(at.iterdir()) if path.is_file()}


def structures(source: Source, tools: Tools, folder: Path) -> Any:
    """Any structure, by a calculator that has seen others; results have their shapes, and none outlives a failure."""
    atoms, calc = structure(source), one(source, tools.calculators)
    found = {}
    keys = tuple(SHAPES) if atoms.pbc.all() or often(source, 10) else tuple(SHAPES)[:6]
    for key in {one(source, keys) for _ in range(2)}:
        try:
            found[key] = calc.get_property(key, atoms)
        except Exception:
            assert calc.results == {} or key not in calc.implemented_properties or "stress" in key, "stale results"
            raise
        assert np.shape(found[key]) == SHAPES[key](len(atoms)), f"{key} of shape {np.shape(found[key])}"
    if often(source, 5):
        found["again"] = calc.get_property("forces", atoms, allow_calculation=bool(source.whole(0, 1)))
        found["again"] = 0.0 if found["again"] is None else found["again"]
    return found


def batches(source: Source, tools: Tools, folder: Path) -> Any:
    """Several structures in one call of a predictor."""
    predictor = one(source, tools.calculators).predictor
    return [[p.energy, p.forces] for p in predictor([structure(source) for _ in range(source.whole(0, 3))])]


def files_of_structures(source: Source, tools: Tools, folder: Path) -> Any:
    """Structures written and read again."""
    frames = [structure(source) for _ in range(source.whole(1, 2))]
    for atoms in frames:
        atoms.calc = one(source, tools.calculators) if often(source, 30) else None
    name = one(source, ("x.traj", "x.xyz", "x.extxyz", "x.db", "x.txt"))
    write(folder / name, frames)
    if often(source, 20):
        write(folder / name, frames, append=True)
    return len(read(folder / name))


def settings_of_calculator(source: Source, tools: Tools, folder: Path) -> Any:
    """The calculator and its predictor."""
    sound = {
        "n_draws": 2,
        "seed": 0,
        "surface": "mean",
        "device": "cpu",
        "dtype": "float64",
        "raw": True,
        "chunk": None,
    }
    sound["strategy"] = "vmap"
    model = tools.model if often(source, 95) else one(source, ODD)
    calc = BayesianCalculator(model, **settings(source, sound))
    atoms = tools.frames[0].copy()
    return {
        key: calc.get_property(key, atoms)
        for key in ("energy", "forces", "atom_std")
        if key in calc.implemented_properties
    }


def _criteria(source: Source) -> Any:
    ratio = HaltRatio({"H": 2.0, "C": 2.0, "O": 2.0}, 0.5)
    odd = one(source, ODD)
    return one(source, (
        lambda: [InstantThreshold(ratio, 1.0)], lambda: [SmoothedThreshold(ratio, 3, 1.0)],
        lambda: [ConsecutiveBreaches(InstantThreshold(ratio, 1.0), odd)],
        lambda: [AtomFraction(0.1, odd)], lambda: [EnergyStdPerAtom(odd)], lambda: odd,
    ))()  # fmt: skip


def settings_of_monitor(source: Source, tools: Tools, folder: Path) -> Any:
    """A monitor on a short run."""
    atoms = tools.frames[0].copy()
    predictor = tools.calibrated if often(source, 70) else one(source, tools.calculators).predictor
    atoms.calc = BayesianCalculator(predictor, raw=predictor.calibration is None)
    rule = one(source, ("tolerance", "threshold", "limits", "criteria"))
    given = {"tolerance": 0.5, "threshold": 0.3, "limits": tools.limits, "criteria": None}[rule]
    sound = {rule: _criteria(source) if rule == "criteria" else given, "every": None, "level": 0.95, "on_breach": None,
             "record_to": None, "self_test": False, "annotate": False}  # fmt: skip
    if often(source, 20):
        sound["fault_checks"] = [TooClose({"C-H": 0.5})] if often(source, 70) else one(source, ODD)
    chosen = settings(source, sound)
    for name in ("record_to", "events"):
        if isinstance(chosen.get(name), str):
            chosen[name] = folder / chosen[name]
    dynamics = VelocityVerlet(atoms, units.fs)
    monitor = UncertaintyMonitor(dynamics, **chosen)
    dynamics.run(2)
    return monitor.history.to_dict()["max_atom_std"]


RUN = {
    "time_ps": 0.002, "temperature_K": 300.0, "seed": 0, "checkpoint_every": 2, "write_every": 1, "ensemble": "langevin",
    "timestep_fs": 1.0, "friction_per_fs": 0.01, "damping_fs": 100.0, "pressure_GPa": 0.0, "pressure_damping_fs": 100.0,
    "threshold": 5.0, "every": 1,
}  # fmt: skip


def runs(source: Source, tools: Tools, folder: Path) -> Any:
    """run_md: settings, structures, a folder that is gone on with."""
    chosen = settings(
        source, RUN | {"ensemble": one(source, ("nve", "langevin", "baoab", "bussi", "nose-hoover", "npt"))}
    )
    steps = [chosen["time_ps"], chosen["timestep_fs"]]
    if all(isinstance(v, Real) and v > 0 for v in steps) and 50 < 1000 * steps[0] / steps[1] < 1e12:
        chosen["time_ps"] = 0.002  # a run as long as it was asked for is no fault
        chosen["timestep_fs"] = 1.0
    atoms = structure(source) if often(source, 40) else tools.frames[0].copy()
    atoms.calc = one(source, tools.calculators)
    in_folder = {"folder": folder / "run"} if often(source, 25) else {}
    for _ in range(2 if in_folder else 1):
        again = atoms.copy()
        again.calc = atoms.calc
        summary, monitor = run_md(again, progress=False, **in_folder, **chosen)
    assert summary.status in ("finished", "halted"), summary.status
    if summary.status == "halted":
        assert summary.reason
        return None
    return [monitor.history["max_atom_std"], monitor.history["energy"], again.positions]


def settings_of_limits(source: Source, tools: Tools, folder: Path) -> Any:
    """Limits from references."""
    sound = {"interval_fs": 100.0, "tolerance": 0.5, "rate_per_ns": 100.0, "level": 0.95, "confidence": 0.8,
             "criteria": ("trip",), "index": ":"}  # fmt: skip
    replicas: Any = [tools.frames * 2, [structure(source) for _ in range(2)] if often(source, 20) else tools.frames[:6]]
    if often(source, 10):
        replicas = one(source, ODD)
    if often(source, 60):
        rng = generator(source)
        series = [rng.uniform(0.1, 1.0, source.whole(0, 200)) for _ in range(source.whole(0, 5))]
        if series and len(series[0]) and often(source, 20):
            series[0][0] = one(source, NUMBERS)
        sound.pop("index")
        chosen = settings(source, sound)
        interval = chosen.pop("interval_fs")
        return json.loads(
            fit_limits({"ratio": series}, interval, tools.calibration, {"H": 2.0}, **chosen).model_dump_json()
        )
    return check_reference(tools.calibrated, replicas, **settings(source, sound)).tolerance


def settings_of_training(source: Source, tools: Tools, folder: Path) -> Any:
    """Settings of training, and of calibration."""
    kind = one(source, (TrainConfig, ModelConfig, NoiseConfig))
    if often(source, 90):
        given = {name: one(source, ODD) for name in (one(source, (*kind.model_fields, "epoch")) for _ in range(2))}
        return kind.of(given if often(source, 95) else one(source, ODD)).model_dump()
    chosen = settings(source, {"n_draws": (2,), "seed": 0, "device": "cpu", "dtype": "float64"})
    frames = tools.frames if often(source, 80) else [structure(source) for _ in range(3)]
    return [c.scale_energy for c in calibrate(tools.model, frames, **chosen).calibrations]


READERS: dict[str, Callable[[Path], Any]] = {
    "a.xyz": read, "a.traj": read, "a.db": read, "a.npz": read_labelled, "a.blip": load, "limits.json": Limits.load,
    "events.jsonl": read_events,
}  # fmt: skip


def reseal(path: Path) -> None:
    """Seal what can be sealed of damaged limits, so that it is their schema that has to find the damage."""
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(path.read_bytes())
        if isinstance(said, dict):
            write_json(path, LIMITS, {key: value for key, value in said.items() if key not in ("kind", "sha256")})


def files(source: Source, tools: Tools, folder: Path) -> Any:
    """Damaged files, by their own reader or by that of others."""
    name = one(source, sorted(tools.files))
    path = folder / (name if often(source, 90) else one(source, sorted(tools.files)))
    path.write_bytes(damaged(source, tools.files[name]))
    if path.name == "limits.json":
        reseal(path)
    if path.name == "history.csv":
        history = History()
        history.load_csv(path, last_step=3)
        return len(history)
    if path.suffix in (".xyz", ".traj", ".db") and often(source, 60):
        return [
            [atoms.positions, atoms.calc.results["energy"], atoms.calc.results["forces"]]
            for atoms in read_labelled(path)
        ]
    found = READERS[path.name](path)
    if isinstance(found, Limits):
        return [found["trip"].limit.value, found["smoothed"].limit.value, found.tolerance, found.interval_fs]
    if isinstance(found, Model):
        return BayesianCalculator(found, n_draws=2, raw=True).get_property("forces", tools.frames[0].copy())
    return len(found) if isinstance(found, list) else None


WORDS = (
    "", "x", "-1", "0", "1", "1e999", "nan", "0.003", ":", "::0", "a.xyz", "a.traj", "a.npz", "a.db", "a.blip", "limits.json",
    "none.xyz", "rmd18", "float16", "mean", "centre", "trip", "--", "é", "blip", "llpr", "pops", "model.x=1", "warm.batch_size=0",
)  # fmt: skip
#: {command: (sound words, options to add)}
COMMANDS = {
    "info": ("a.blip", "--json"),
    "md": (
        "a.xyz --time-ps 0.002 --model a.blip --folder run --n-draws 2 --tolerance 5 --strategy vmap",
        "--every --timestep-fs --temperature-K --ensemble --limits --dtype --device --seed --md-seed",
    ),
    "check": (
        "a.blip a.traj --tolerance 0.5 --interval-fs 100 --n-draws 2 -o out.json",
        "--rate --confidence --level --criteria --index --surface --dtype",
    ),
    "calibrate": ("a.blip a.npz --n-draws 2 -o out.blip", "--index --energy-unit --energy-key --dtype --device"),
    "evaluate": ("a.blip a.xyz --n-draws 2 -o out", "--index --surface --energy-unit --foreign --dtype --device"),
    "train": (
        "a.npz -o out.blip --warm-epochs 0 --noise-epochs 0",
        "--posterior --members --set --start --epochs --architecture --only-member --device",
    ),
    "relax": (
        "a.xyz --model a.blip --folder run --n-draws 2 --steps 3 --strategy vmap",
        "--optimizer --fmax --z --cell --pressure-GPa --error-bars --tolerance --outside --surface --dtype --device",
    ),
    "average": (
        "a.traj --observable distance:0,1 --temperature-K 300 --model a.blip --n-draws 2",
        "--observable --method --discard --json --plot --surface --dtype",
    ),
}


def command_lines(source: Source, tools: Tools, folder: Path) -> Any:
    """Commands with words where others belong, on files of which one may be damaged."""
    for name, content in tools.files.items():
        (folder / name).write_bytes(damaged(source, content) if often(source, 10) else content)
    command = one(source, sorted(COMMANDS))
    words, options = COMMANDS[command]
    words, options = words.split(), options.split()
    if often(source, 60):
        words[source.whole(0, len(words) - 1)] = one(source, WORDS)
    if often(source, 60):
        words += [one(source, options), one(source, WORDS)]
    here = {*tools.files, "run", "out", "out.json", "out.blip", "none.xyz"}
    at = [str(folder / word) if word in here else word for word in words]
    with contextlib.chdir(folder):  # a word may become the name of an output
        result = CliRunner().invoke(app, [command, *at])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 2, 3, 4, 5, 6), result.exit_code
    assert result.output.strip() or result.exit_code == 0, "no message"
    return None


#: target: share of the inputs, per thousand
TARGETS: dict[Callable[[Source, Tools, Path], Any], int] = {
    structures: 450, batches: 50, files_of_structures: 80, settings_of_calculator: 40, settings_of_monitor: 60, runs: 60,
    settings_of_limits: 40, settings_of_training: 60, files: 150, command_lines: 10, relaxations: 20, properties: 20,
    averages: 20,
}  # fmt: skip
