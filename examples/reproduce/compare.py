"""The same training cost for every posterior: what is each worth, on the data and outside of it?

    python examples/reproduce/compare.py DATA_FOLDER --train mixture ensemble     # any number at a time, side by side
    python examples/reproduce/compare.py DATA_FOLDER                              # what is missing, then the tables
    python examples/reproduce/compare.py DATA_FOLDER --model rmd17                # one model file, and one σ per element on it

Seven rMD17 molecules, 850 training frames each, PaiNN preset ``small`` (32 features, 2 interactions). Epochs are chosen so
that a row costs about seven minutes of one CPU core; the column ``min`` is what it took, by the trainer's own clock. Rows that
start from the deterministic network count its minutes too. Models and figures are kept in ``--folder``.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import torch

import blipcalc
from blipcalc.calibration.coverage import atom_coverage
from blipcalc.calibration.evaluation import evaluate_residuals
from blipcalc.calibration.fit import calibrate, fit_calibration
from blipcalc.calibration.residuals import collect
from blipcalc.data.labels import read_labelled
from blipcalc.files.bundled import MOLECULES
from blipcalc.models.painn import PaiNNConfig
from blipcalc.posteriors.stored import feasible_draws
from blipcalc.predictor import BayesianPredictor
from blipcalc.training.config import DataConfig
from blipcalc.training.prepare import prepare

SIZES = PaiNNConfig.small().model_dump()
DATA = {"energy_unit": "kcal/mol"}
NOISE = {"epochs": 20}
MAE = {"compile": True}
SINGLE = {"posterior": "blip", "surface": "centre"}
MIXTURE = {"posterior": "mixture", "members": 2, "surface": "centre"}
SPECIES = {"inputs": "species"}


def from_network(blip, **stages):
    """A BLIP on the trained deterministic network, whose weights stay."""
    return {
        "start": "deterministic",
        "model": SINGLE | {"posterior_settings": blip},
        "training": {"epochs": 0},
        **stages,
    }


def mixture(blip):
    """Two networks of half the epochs, then noise for both together; the networks are shared by these rows."""
    return {"folder": "mixture", "model": MIXTURE | {"posterior_settings": blip}, "warm": MAE | {"epochs": 28},
            "training": {"epochs": 0}, "noise": NOISE}  # fmt: skip


#: row -> settings of ``blipcalc.train``
ROWS = {
    "deterministic": {"model": {"posterior": "point"}, "training": MAE | {"epochs": 60}},
    "untrained noise": from_network({"alpha": "constant", "alpha_initial": 3e-3}),
    "BLIP, constant α": from_network({"alpha": "constant"}, noise=NOISE),
    "BLIP, species": from_network(SPECIES, noise=NOISE),
    "BLIP, neighbourhood": from_network({}, noise=NOISE),
    "BLIP, last block": from_network({"where": "last"}, noise=NOISE),
    "BLIP, ELBO": {"model": SINGLE | {"posterior_settings": SPECIES}, "warm": MAE | {"epochs": 30}, "training": {"epochs": 11}},
    "BLIP, ELBO, λ × 10": {"model": SINGLE | {"posterior_settings": SPECIES}, "warm": MAE | {"epochs": 30},
                           "training": {"epochs": 11, "kl_weight": 0.03}},
    "BLIP, CRPS": {"model": SINGLE | {"posterior_settings": SPECIES}, "warm": MAE | {"epochs": 30},
                   "training": {"objective": "crps", "train_draws": 2, "epochs": 6}},
    "BLIP, paper (local)": {"model": SINGLE | {"posterior_settings": {"mode": "local", "bound": "paper", "alpha_prior": 0.1,
                                                        "alpha_initial": 0.01, "detach": True, "inputs": "species"}},
                            "training": {"epochs": 18}},
    "mixture, constant α": mixture({"alpha": "constant"}),
    "mixture, species": mixture(SPECIES),
    "mixture, neighbourhood": mixture({}),
    "ensemble of 4": {"model": {"posterior": "ensemble", "members": 4}, "training": MAE | {"epochs": 15}},
}  # fmt: skip


def slug(row):
    return "".join(c if c.isalnum() else "-" for c in row.replace("α", "alpha").replace("λ", "lambda"))


def train_row(row, data, folder):
    """The model file of a row, trained where it is not there yet."""
    output = folder / f"{slug(row)}.blip"
    if not output.exists():
        settings = json.loads(json.dumps(ROWS[row]))
        if start := settings.pop("start", None):
            settings["start"] = train_row(start, data, folder)
        settings["folder"] = folder / "runs" / settings.pop("folder", slug(row))
        settings["model"] = {"architecture": "painn", "sizes": SIZES} | settings["model"]
        blipcalc.train(sorted((data / "rmd17").glob("*_train_01.npz")), output, data=DATA, **settings)
    return output


class Frames:
    """Labelled frames: for calibration, for the test, and from outside."""

    def __init__(self, data, every):
        train_files = sorted((data / "rmd17").glob("*_train_01.npz"))
        self.calibration = prepare(train_files, DataConfig(**DATA)).split.calibration
        self.test, self.outside = [], {}
        for name in MOLECULES:
            test = read_labelled(data / "rmd17" / f"rmd17_{name}_test_01.npz", energy_unit="kcal/mol")
            self.test += test[1::every]  # [::every] has served to choose models before
        self.outside["acetylacetone"] = read_labelled(data / "acac" / "test_MD_300K.xyz")[::10]
        for atoms in read_labelled(Path(__file__).with_name("foreign.xyz")):
            if atoms.info["kind"] != "check":
                self.outside.setdefault(atoms.info["kind"], []).append(atoms)


def residuals_of(model, frames, constant=False):
    """Calibrated residuals of the test frames and of each set from outside; ``constant`` takes one σ per element."""
    if constant:
        predictor = BayesianPredictor.load(model, dtype="float32")

        def raw(part):
            r = collect(predictor, part)
            unit = np.broadcast_to(np.eye(3), (len(r.species), 3, 3)).copy()
            return dataclasses.replace(r, forces_cov=unit, energy_var=np.ones(r.n_frames))

        of = raw(frames.calibration)
        constants = fit_calibration(
            of, surface=of.surface, n_draws=of.n_draws, seed=0, model_hash=model.hash, frames_hash="-"
        )
        return raw(frames.test).apply(constants), {k: raw(v).apply(constants) for k, v in frames.outside.items()}
    n_draws = feasible_draws(model.posterior)
    if model.posterior.is_random and model.calibration(model.surface, n_draws, 0) is None:
        model = calibrate(model, frames.calibration, n_draws=[16], surfaces=[model.surface], dtype="float32")
    predictor = BayesianPredictor.load(model, n_draws=n_draws, dtype="float32")
    return collect(predictor, frames.test), {k: collect(predictor, v) for k, v in frames.outside.items()}


def figures(model, frames, constant=False):
    """All figures of one row, as plain values."""
    test, outside = residuals_of(model, frames, constant)
    result = evaluate_residuals(test)
    limit = None if test.calibration is None else test.calibration.halt_limit(0.5)
    found = result.to_dict() | {"minutes": minutes(model), "outside": {}, "molecules": {}}
    for name, part in outside.items():
        f = evaluate_residuals(test, foreign=part).foreign
        worst = np.array([part.force_norm[part.frame == k].max() for k in range(part.n_frames)])
        sigma = np.array([part.atom_std[part.frame == k].max() for k in range(part.n_frames)])
        wrong, halted = worst > 0.5, np.zeros(len(sigma), bool) if limit is None else ~(sigma <= limit)
        found["outside"][name] = {
            "frames": part.n_frames, "forces_mae": f.forces_mae, "auroc": f.auroc, "zms": f.forces_zms,
            "wrong": int(wrong.sum()), "wrong_halted": int((wrong & halted).sum()), "halted": int(halted.sum()),
        }  # fmt: skip
    if test.calibration is not None:
        for row in atom_coverage(test, [0.95]):
            if row.kind == "composition":
                found["molecules"][row.group] = row.observed
    return found


def minutes(model):
    """Training time, with that of the network it started from."""
    start = model.training.get("start")
    before = 0.0 if start is None else minutes(blipcalc.load(start))
    return before + model.training.get("wall_seconds", 0) / 60


def table(rows):
    """Two Markdown tables."""
    lines = [
        "| | min | E MAE | F MAE | NLL | CRPS | 95 % covers (molecules) | Spearman / ceiling |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, f in rows.items():
        e, v = f["energy"], f["forces"]
        head = f"| {name} | {f['minutes']:.1f} | {1e3 * e['mae']:.1f} | {1e3 * v['mae']:.1f} |"
        if not f["molecules"]:
            lines.append(f"{head} | | | |")
            continue
        pooled = next(c for c in v["coverage"] if c["kind"] == "all" and c["level"] == 0.95)
        low, high = min(f["molecules"].values()), max(f["molecules"].values())
        rank = "0" if v["spearman"] is None else f"{v['spearman']:.2f} / {v['spearman_ceiling']:.2f}"
        lines.append(
            f"{head} {v['nll']:.2f} | {1e3 * v['crps']:.1f} | {pooled['observed']:.3f} ({low:.2f}–{high:.2f}) | {rank} |"
        )
    sets = list(next(iter(rows.values()))["outside"])
    lines += ["", "| | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
    for name, f in rows.items():
        if f["molecules"]:
            cells = (
                f"{o['auroc']:.2f}; {o['zms']:.0f}; {o['wrong_halted']} of {o['wrong']}" for o in f["outside"].values()
            )
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--folder", type=Path, default=Path("runs/compare"))
    parser.add_argument("--train", nargs="*", help="train these rows and stop")
    parser.add_argument("--model", help="a model file or bundled model instead of the rows")
    parser.add_argument("--every", type=int, default=8, help="take every n-th test frame")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.train is not None:
        for row in arguments.train:
            train_row(row, arguments.data, arguments.folder)
        return
    frames, rows = Frames(arguments.data, arguments.every), {}
    if arguments.model:
        model = blipcalc.load(arguments.model)
        rows[arguments.model] = figures(model, frames)
        rows[f"{arguments.model}, constant σ per element"] = figures(model, frames, constant=True)
    for row in () if arguments.model else ROWS:
        kept = arguments.folder / f"{slug(row)}.json"
        model = blipcalc.load(train_row(row, arguments.data, arguments.folder))
        if not kept.exists():
            kept.write_text(json.dumps(figures(model, frames)))
        rows[row] = json.loads(kept.read_text())
        if row == "deterministic":
            rows["constant σ per element"] = figures(model, frames, constant=True)
    for name, f in rows.items():
        print(name, json.dumps({"molecules": f["molecules"], "outside": f["outside"]}))
    print(table(rows))


if __name__ == "__main__":
    main()
