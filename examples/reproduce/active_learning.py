"""Which frames to label next: 3BPA at 600 and 1200 K for a model of 300 K, without testing on what was chosen.

    python examples/reproduce/active_learning.py DATA_FOLDER                   # all, then the table
    python examples/reproduce/active_learning.py DATA_FOLDER --seeds 1         # one of the seeds: work can be shared
    python examples/reproduce/active_learning.py DATA_FOLDER --preset paper --device cuda

The protocol of Willow, …, Myung, arXiv 2510.03046, section 2.4, but for its leak: there the chosen frames stayed in the test
set.  Here half of the frames of each temperature are the pool, the other half the test.  A baseline ensemble of networks with
heads (nll_jef), trained on 450 + 50 frames at 300 K, ranks the pools once; n frames of each temperature join the training, every
tenth of them the validation; the networks go on from the baseline.

The baseline of a seed is a part of its own of the ten networks ``ensemble-jef`` of ``posteriors.py 3bpa`` (train them first), so
seeds are independent in networks, pools, and luck.  ``none`` goes on with the old frames alone for as many epochs, which are 3 to
14 % fewer steps: what it gains is not owed to any choice.  Results are in ``runs/active-PRESET``, one file for each training;
stop it and call it again: it goes on.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.io import write
from posteriors import SETS, recipes, train_row

import blipcalc
from blipcalc.calibration.residuals import collect
from blipcalc.core.predictor_contract import Need
from blipcalc.data.labels import read_labelled
from blipcalc.files.safetensors_file import write_atomically
from blipcalc.learning.acquisition import CRITERIA, choose
from blipcalc.model_file.model_file import load, save_model
from blipcalc.posteriors.ensemble import EnsemblePosterior
from blipcalc.predictor import BayesianPredictor

BUDGETS = (10, 20, 40)
TEMPERATURES = ("600 K", "1200 K")
BATCH = 8
#: networks of a baseline
MEMBERS = 3
#: epochs after the choice
PRESETS = {"quick": 6, "paper": 5000}


def halves(frames, rng):
    """Pool and test: a random half each."""
    order = rng.permutation(len(frames))
    return [frames[i] for i in order[::2]], [frames[i] for i in order[1::2]]


def acquired(criterion, n, pools, known, samples, seed):
    """The n frames of every pool that a criterion wants, pool after pool."""
    chosen = []
    for name, pool in pools.items():
        rng = np.random.default_rng([seed, len(chosen)])
        picked = choose(criterion, n, pool, known=known, samples=samples[name], rng=rng)
        chosen += [pool[i] for i in picked]
    return chosen


def part_of(model, members):
    """An ensemble of these members of another."""
    own = {name: value[members] for name, value in model.posterior.members.items()}
    return replace(model, posterior=EnsemblePosterior(own), calibrations=())


def errors(model, tests):
    """{test: (RMSE of energies in meV, of forces in meV/Å)} of the mean of an ensemble."""
    predictor = BayesianPredictor.load(model, n_draws=model.posterior.n_members, calibrated=False, dtype="float32")
    found = {}
    for name, frames in tests.items():
        r = collect(predictor, frames)
        found[name] = [1e3 * float(np.sqrt(np.square(x).mean())) for x in (r.energy_error, r.force_error)]
    return found


class Experiment:
    """One seed: its baseline, its pools and tests."""

    def __init__(self, seed, source, folder, preset, device):
        data, self.epochs = SETS["3bpa"], PRESETS[preset]
        self.seed, self.source, self.folder = seed, source, folder / f"seed-{seed}"
        self.train = source / data.train
        epochs = data.epochs[preset]
        rows, models = recipes(data, preset, epochs, device), Path("runs") / f"3bpa-{preset}-{epochs}"
        self.settings = rows["ensemble-jef"]["training"]
        whole = load(train_row("ensemble-jef", rows, data, source, models))
        members = range(MEMBERS * seed, MEMBERS * (seed + 1))
        if members[-1] >= whole.posterior.n_members:
            raise SystemExit(f"seed {seed} has no baseline of its own among {whole.posterior.n_members} networks")
        self.baseline = part_of(whole, list(members))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.start = self.folder / "baseline.blip"
        if not self.start.exists():
            save_model(self.baseline, self.start)
        rng = np.random.default_rng(seed)
        frames = {name: data.tests[name].read(source) for name in TEMPERATURES}
        split = {name: halves(frames[name], rng) for name in TEMPERATURES}
        self.pools = {name: pool for name, (pool, _) in split.items()}
        self.tests = {"300 K": data.tests["300 K"].read(source)} | {name: test for name, (_, test) in split.items()}
        self.known = read_labelled(self.train)
        self._samples = None

    @property
    def samples(self):
        """What the baseline says of the pools; they are ranked once."""
        if self._samples is None:
            n = self.baseline.posterior.n_members
            predictor = BayesianPredictor.load(self.baseline, n_draws=n, calibrated=False, dtype="float32")
            need = Need(forces=True, variance=True, samples=True)
            self._samples = {
                name: [p.samples for k in range(0, len(pool), BATCH) for p in predictor(pool[k : k + BATCH], need)]
                for name, pool in self.pools.items()
            }
        return self._samples

    def result(self, criterion, n):
        """Errors after n more frames of each temperature by a criterion; those of the baseline for n = 0."""
        path = self.folder / f"{criterion}-{n}.json"
        if path.exists():
            return json.loads(path.read_text())
        model = self.baseline if criterion == "baseline" else self._trained(criterion, n)
        write_atomically(path, json.dumps(errors(model, self.tests)).encode())
        return json.loads(path.read_text())

    def _trained(self, criterion, n):
        files = [self.train]
        if criterion != "none":
            new = self.folder / f"{criterion}-{n}.xyz"
            write(new, acquired(criterion, n, self.pools, self.known, self.samples, self.seed), format="extxyz")
            files.append(new)
        # one file each: the old frames are split as before, and every tenth of the new ones selects
        return blipcalc.train(
            files,
            self.folder / f"{criterion}-{n}.blip",
            data={"validation": SETS["3bpa"].validation, "calibration": 0.0},
            model={"posterior": "ensemble"},
            training=self.settings
            | {
                "epochs": self.epochs,
                "seed": self.seed,
                "variance_warmup": 0.0,
                "learning_rate": 0.5 * self.settings["learning_rate"],
                "warmup_steps": 50,
            },
            start=self.start,
            folder=self.folder / "runs" / f"{criterion}-{n}",
        )


def table(results):
    """Means over seeds, with their standard deviations: energies meV / forces meV/Å."""
    tests = list(next(iter(results.values()))[0])
    lines = ["| frames of each temperature, by | " + " | ".join(tests) + " |", "|---" * (len(tests) + 1) + "|"]
    for (criterion, n), found in results.items():
        cells = []
        for test in tests:
            values = np.array([row[test] for row in found])
            spreads = values.std(axis=0, ddof=1) if len(found) > 1 else [None, None]
            pairs = zip(values.mean(axis=0), spreads, strict=True)
            cells.append(" / ".join(f"{m:.1f}" if s is None else f"{m:.1f} ± {s:.1f}" for m, s in pairs))
        lines.append(f"| {n}, {criterion} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds 3bpa")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--budgets", nargs="*", type=int, default=list(BUDGETS))
    arguments = parser.parse_args()
    folder = Path("runs") / f"active-{arguments.preset}"
    experiments = [Experiment(s, arguments.data, folder, arguments.preset, arguments.device) for s in arguments.seeds]
    wanted = [
        ("baseline", 0),
        ("none", 0),
        *((name, n) for n in arguments.budgets for name in CRITERIA),
    ]
    results = {key: [experiment.result(*key) for experiment in experiments] for key in wanted}
    text = table(results)
    if len(experiments) > 1:
        (folder / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
