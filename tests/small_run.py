"""Small training runs that tests build in this process, in a process that is killed, and in several processes.

As a script: ``small_run.py killed FOLDER`` trains in forks that each kill themselves at one place;
``small_run.py peers FOLDER`` trains under torchrun.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from torch import nn

from blipcalc.data.labels import read_labelled
from blipcalc.data.references import fit_references, force_rms
from blipcalc.files import run_folder
from blipcalc.models.build import build_model
from blipcalc.posteriors.blip import BlipConfig, BlipPosterior, bayesianize
from blipcalc.posteriors.point import PointPosterior
from blipcalc.training import logs
from blipcalc.training.batches import labelled_graphs
from blipcalc.training.config import TrainConfig
from blipcalc.training.distributed import Processes
from blipcalc.training.trainer import Trainer

ETHANOL = Path(__file__).parent / "data" / "rmd17_ethanol_30.npz"
SIZES = {"features": 8, "interactions": 1, "n_radial": 6, "cutoff": 4.0}
RUN = {"epochs": 5, "batch_size": 4, "warmup_steps": 2, "learning_rate": 5e-3, "seed": 7, "inference_rate": 3.0}


def pairs(n: int, seed: int = 0, noise: float = 0.0, names: tuple[str, ...] = ("H2O",)) -> list[Atoms]:
    """Rattled molecules under a Morse energy between all pairs (eV), with Gaussian noise on the force labels (eV/Å)."""
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(n):
        atoms = molecule(names[k % len(names)])
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        i, j = np.triu_indices(len(atoms), 1)
        step = atoms.positions[j] - atoms.positions[i]
        r = np.linalg.norm(step, axis=1)
        decay = np.exp(-1.5 * (r - 1.0))
        slope = (3.0 * (decay - decay**2))[:, None] * step / r[:, None]
        forces = np.zeros_like(atoms.positions)
        np.add.at(forces, i, slope)
        np.add.at(forces, j, -slope)
        forces += rng.normal(0, noise, forces.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=float((1.0 - decay).dot(1.0 - decay)), forces=forces)
        frames.append(atoms)
    return frames


def ethanol(n: int) -> list[Atoms]:
    return read_labelled(ETHANOL, energy_unit="kcal/mol", index=f":{n}")


def network(frames: list[Atoms], blip: dict | None = None, seed: int = 0, **sizes: object) -> nn.Module:
    """A PaiNN, or a BLIP on it, with the reference energies and the scale of these frames."""
    species = sorted({int(z) for atoms in frames for z in atoms.numbers})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model("painn", SIZES | sizes, species)
        model.energies.set(fit_references(frames), force_rms(frames), species)
        return model if blip is None else bayesianize(model, BlipConfig(**blip))


def build(
    folder: Path,
    frames: list[Atoms],
    validation: list[Atoms],
    blip: dict | None = None,
    sizes: dict | None = None,
    **run: object,
) -> Trainer:
    """A run that is a function of its arguments alone."""
    model = network(frames, blip, **(sizes or {}))
    posterior = PointPosterior() if blip is None else BlipPosterior(model.slot_shapes())
    graphs = labelled_graphs(frames, model.cutoff), labelled_graphs(validation, model.cutoff)
    return Trainer(model, posterior, *graphs, TrainConfig(**(RUN | run)), folder)


def resumable(folder: Path, **run: object) -> Trainer:
    """The run that is killed and resumed: three steps an epoch."""
    return build(folder, pairs(12), pairs(4, seed=1), {}, **run)


def without_events() -> SimpleNamespace:
    """Stands in for ``importlib`` where TensorBoard is not installed."""
    return SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))


def die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_at_call(function: Callable, n: int) -> Callable:
    """The function, until its n-th call kills the process."""
    calls = 0

    def counted(*args: object, **kwargs: object):
        nonlocal calls
        calls += 1
        return die() if calls == n else function(*args, **kwargs)

    return counted


def _in_step(n: int) -> Callable:
    def arm() -> None:
        Trainer._train_step = die_at_call(Trainer._train_step, n)

    return arm


def _in_save(n: int) -> Callable:
    """Between the renaming of the last checkpoint and the writing of the new one."""

    def arm() -> None:
        run_folder.write_sealed = die_at_call(run_folder.write_sealed, n)

    return arm


def _after_row(n: int) -> Callable:
    """After the row of the log, before the checkpoint."""

    def arm() -> None:
        Trainer._save = die_at_call(Trainer._save, n)

    return arm


#: where each run is killed; three steps an epoch
KILLS: dict[str, Callable] = {
    "in the first epoch": _in_step(2),
    "in the third epoch": _in_step(8),
    "at the first step of an epoch": _in_step(10),
    "between two files": _in_save(3),
    "before the first file": _in_save(1),
    "between log and file": _after_row(4),
    "before the first save": _after_row(1),
}


def killed(folder: Path) -> None:
    """Every kill in a fork of this process."""
    for name, arm in KILLS.items():
        if (child := os.fork()) == 0:
            arm()
            resumable(folder / name).fit()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL


#: runs whose weights must not depend on the number of processes; float64, where rounding does not hide a fault
PEERS: dict[str, dict] = {
    "equal": {"frames": pairs(8), "blip": {}},
    "unequal": {"frames": pairs(8, names=("H2O", "CH4")), "blip": None},
    "nll": {"frames": pairs(8), "blip": None, "objective": "gaussian_nll"},
    "unequal nll": {"frames": pairs(8, names=("H2O", "CH4")), "blip": None, "objective": "gaussian_nll"},
    "unequal crps": {
        "frames": pairs(8, names=("H2O", "CH4")),
        "blip": {},
        "objective": "crps",
        "train_draws": 2,
        "kl_weight": 0.0,
    },
    "unequal blip": {"frames": pairs(8, names=("H2O", "CH4")), "blip": {}},
}


class Staying(Processes):
    """A process that stays in its group after a run, for the next one."""

    def leave(self) -> None:
        pass


def peer(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """Weights after a few steps of one of :data:`PEERS`."""
    run = dict(PEERS[name])
    made = build(folder / name, run.pop("frames"), pairs(2, seed=1), run.pop("blip"), epochs=2, dtype="float64", **run)
    made.processes = Staying(made.processes.rank, made.processes.world, made.processes.device)
    made.fit()
    return {n: p.detach().clone() for n, p in made.descent.parameters.items()}


def undecided(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    """A run whose validation differs by rounding from process to process, on a plateau: who stops, and at which weights?"""
    made = build(
        folder / "undecided", pairs(8), pairs(2, seed=1), epochs=9, patience=2, learning_rate=1e-12,
        final_learning_rate=0.0, warmup_steps=0,
    )  # fmt: skip
    made.processes = Staying(made.processes.rank, made.processes.world, made.processes.device)
    calls = iter(range(100))
    made._validate = lambda: {"score": 1.0 + 1e-7 * (-1) ** (rank + 1) * next(calls)}
    made.fit()
    return {n: p.detach().clone() for n, p in made.descent.parameters.items()} | {"epoch": torch.tensor(made.epoch)}


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[2])
    logs.importlib = without_events()
    if command == "killed":
        killed(folder)
        return
    rank = int(os.environ["RANK"])
    found = {name: peer(name, folder) for name in PEERS} | {"undecided": undecided(folder, rank)}
    torch.save(found, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
