"""Every posterior on one network and one data set, beside the tables of Willow, …, Myung, arXiv 2510.03046.

    python examples/reproduce/posteriors.py DATA_FOLDER 3bpa                          # all rows, then the tables
    python examples/reproduce/posteriors.py DATA_FOLDER 3bpa --rows point swag        # these rows only: work can be shared
    python examples/reproduce/posteriors.py DATA_FOLDER 3bpa --rows ensemble --member 3
    python examples/reproduce/posteriors.py DATA_FOLDER ethanol --preset paper --device cuda

| set | training frames | calibrated on | tested on |
|---|---|---|---|
| 3bpa | 450 + 50 at 300 K | half of the other frames at 300 K | the other half; 600 K; 1200 K |
| an rMD17 molecule | 950 + 50 | 100 of the test file | 500 others; acetylacetone |
| ammonia | 64 + 14 near the minimum | half of the MD frames of ``ammonia.xyz`` | the other half; inverted; stretched; hot |

Presets: ``quick``, a small RACE (2 layers, 32 channels of degrees 0 to 2), minutes of a CPU core for each network; ``paper``, the
sizes, epochs and batches of the paper with its effective learning rate, days of a GPU.  On a CPU set OMP_NUM_THREADS=1 and share
the rows among processes, those that others start from (point, mve-jef, painn) first.  Stop it and call it again: it goes on.  All
is in ``runs/SET-PRESET-EPOCHS``, the tables in its ``tables.md``.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import blipcalc
from blipcalc.calibration.comparison import compare_models
from blipcalc.calibration.fit import calibrate
from blipcalc.data.labels import read_labelled
from blipcalc.files.safetensors_file import write_atomically
from blipcalc.model_file.model_file import load, save_model
from blipcalc.models.race_config import RaceConfig
from blipcalc.report.plots import comparison_plot
from blipcalc.stats.bootstrap import frame_bootstrap
from blipcalc.stats.conformal import frame_maximum
from blipcalc.stats.ranks import auroc

HERE, KCAL = Path(__file__).parent, "kcal/mol"
#: K, but for ensembles, which have as many draws as networks
DRAWS = 16


@dataclass(frozen=True)
class Frames:
    """Labelled frames of one file, energies in ``unit``: a slice, and of one kind where they carry kinds.

    energies : False where they are of another level of theory and say nothing
    """

    file: str
    index: str = ":"
    kind: str | None = None
    unit: str = "eV"
    energies: bool = True

    def read(self, folder):
        """The frames; ``folder`` is that of the data, but for files that lie beside this script."""
        path = HERE / self.file.removeprefix("./") if self.file.startswith("./") else folder / self.file
        frames = read_labelled(path, energy_unit=self.unit)
        frames = [atoms for atoms in frames if self.kind in (None, atoms.info.get("kind"))]
        return frames[slice(*(int(part) if part else None for part in self.index.split(":")))]


@dataclass(frozen=True)
class DataSet:
    """What is trained on, calibrated on, and tested; the first of the tests is of the kind that was trained on.

    members : of the ensembles under mae and nll_e, and of that under nll_jef
    """

    train: str
    validation: float
    calibration: Frames
    tests: dict[str, Frames]
    paper: RaceConfig
    unit: str = "eV"
    keys: dict[str, str] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=lambda: {"quick": 60, "paper": 10_000})
    members: tuple[int, int] = (4, 4)
    paper_batch: int = 5


def molecule(name, neighbors):
    test = f"rmd17/rmd17_{name}_test_01.npz"
    return DataSet(
        train=f"rmd17/rmd17_{name}_train_01.npz",
        validation=0.05,
        calibration=Frames(test, "5::10", unit=KCAL),
        tests={
            "test": Frames(test, "::2", unit=KCAL),
            "acetylacetone": Frames("acac/test_MD_300K.xyz", "::20", energies=False),
        },
        paper=RaceConfig.rmd17().model_copy(update={"neighbors": neighbors}),
        unit=KCAL,
    )


UNSEEN = "3bpa/derived/mixedT_300K_not_in_train.xyz"
#: mean numbers of pairs per atom of the paper
NEIGHBORS = {"aspirin": 21, "ethanol": 9, "malonaldehyde": 9, "salicylic": 16, "uracil": 16}
SETS = {
    "3bpa": DataSet(
        train="3bpa/botnet/train_300K.xyz",
        validation=0.1,
        calibration=Frames(UNSEEN, "1::2"),
        tests={
            "300 K": Frames(UNSEEN, "::2"),
            "600 K": Frames("3bpa/derived/mixedT_600K.xyz"),
            "1200 K": Frames("3bpa/derived/mixedT_1200K.xyz"),
        },
        paper=RaceConfig.bpa(),
        epochs={"quick": 40, "paper": 5000},
        members=(4, 10),
        paper_batch=2,
    ),
    "ammonia": DataSet(
        train="ammonia/ammonia_initial78.npz",
        keys={"energy_key": "E_eV", "forces_key": "F_eV_per_A"},
        validation=14 / 78,
        calibration=Frames("./ammonia.xyz", "1::2", "md"),
        tests={
            "md": Frames("./ammonia.xyz", "::2", "md"),
            "inverted": Frames("./ammonia.xyz", kind="inverted"),
            "stretched": Frames("./ammonia.xyz", kind="stretched"),
            "hot": Frames("./ammonia.xyz", kind="hot"),
        },
        paper=RaceConfig.rmd17(),
        epochs={"quick": 150, "paper": 10_000},
        members=(5, 10),
    ),
} | {name: molecule(name, n) for name, n in NEIGHBORS.items()}


def recipes(data, preset, epochs, device):
    """{row: settings of ``blipcalc.train``}; ``start`` names another row."""
    small = preset == "quick"
    race = {"architecture": "race", "sizes": {"layers": 2} if small else data.paper.model_dump(exclude={"heads"})}
    painn = {"architecture": "painn", "sizes": {"features": 64, "interactions": 2} if small else {}}
    stage = {"epochs": epochs, "device": device, "compile": True, "batch_size": 5 if small else data.paper_batch}
    adam = stage | {"learning_rate": 2e-3 if small else 1e-4}
    mae, nll_e, nll_jef = adam, adam | {"objective": "nll_e"}, adam | {"objective": "nll_jef"}
    kept, noise = {"epochs": 0, "device": device}, {"epochs": 60, "device": device}
    few, many = data.members

    def trained(posterior, training, network=race, **model):
        return {"model": network | {"posterior": posterior} | model, "training": training}

    def fitted(posterior, start, **more):
        return {"start": start, "model": {"posterior": posterior} | more.pop("model", {}), "training": kept} | more

    return {
        "point": trained("point", mae),
        "mve-e": trained("point", nll_e),
        "mve-jef": trained("point", nll_jef),
        "ensemble": trained("ensemble", mae, members=few),
        "ensemble-e": trained("ensemble", nll_e, members=few),
        "ensemble-jef": trained("ensemble", nll_jef, members=many),
        "swag": trained("swag", mae),
        "swag-jef": trained("swag", nll_jef),
        "ivon": trained("ivon", stage),
        "laplace": fitted("laplace", "point"),
        "laplace-all": fitted("laplace-all", "point"),
        "laplace-kron": fitted("laplace-kron", "point"),
        "llpr": fitted("llpr", "point"),
        "llpr-jef": fitted("llpr", "mve-jef"),
        "pops": fitted("pops", "point"),
        "blip": fitted("blip", "point", noise=noise),
        "blip-jef": fitted("blip", "mve-jef", noise=noise),
        "mixture": trained("mixture", kept) | {"warm": mae, "noise": noise},
        # as many epochs in all as the networks of ensemble-jef have together
        "blip-jef-long": trained("blip", kept) | {"warm": nll_jef | {"epochs": many * epochs}, "noise": noise},
        "mixture-jef-long": trained("mixture", kept)
        | {"warm": nll_jef | {"epochs": many * epochs // 2}, "noise": noise},
        "painn": trained("point", mae, painn),
        "painn-blip": fitted("blip", "painn", noise=noise),
    }


def train_row(row, rows, data, source, folder, member=None):
    """The calibrated model file of a row, made where it is not there yet; None where only a member was trained."""
    trained, output = folder / "trained" / f"{row}.blip", folder / f"{row}.blip"
    if output.exists():
        return output
    if not trained.exists():
        settings = json.loads(json.dumps(rows[row]))
        if "start" in settings:
            train_row(settings["start"], rows, data, source, folder)
            settings["start"] = folder / "trained" / f"{settings['start']}.blip"
        model = blipcalc.train(
            source / data.train,
            trained,
            data={"energy_unit": data.unit, "validation": data.validation, "calibration": 0.0} | data.keys,
            folder=folder / "runs" / row,
            only_member=member,
            **settings,
        )
        if model is None:
            return None
    model = load(trained)
    if model.posterior.name != "point" or model.network.heads == "joint":  # else there is nothing to calibrate
        frames = data.calibration.read(source)
        model = calibrate(model, frames, n_draws=[DRAWS], surfaces=[model.surface], dtype="float32")
    save_model(model, output)
    return output


def measured(row, path, data, source, folder):
    """{test: cells and figures} of a row, and its reliability before and after calibration as a plot; kept once known."""
    kept = folder / "figures" / f"{row}.json"
    if kept.exists() and kept.stat().st_mtime > path.stat().st_mtime:
        return json.loads(kept.read_text())
    model, found = {row: load(path)}, {}
    for test, frames in data.tests.items():
        (found[test],) = compare_models(model, frames.read(source), n_draws=DRAWS, dtype="float32")
    inside = next(iter(found.values())).residuals
    figures = {test: table_row(found[test], inside, frames.energies) for test, frames in data.tests.items()}
    kept.parent.mkdir(exist_ok=True)
    states = ({test: getattr(c, kind) for test, c in found.items()} for kind in ("residuals", "posterior_residuals"))
    after, before = states
    comparison_plot(after, kept.with_suffix(".png"), before)
    write_atomically(kept, json.dumps(figures, indent=1).encode())
    return figures


def tables(rows, data):
    """Markdown of :func:`measured`, one table for each test."""
    text, first = [], next(iter(data.tests))
    for test in data.tests:
        text += [
            f"| {test} | K | train, min | ms per frame | E RMSE (shifted), meV | F RMSE, meV/Å | F MAE | NLL | CRPS | "
            f"95 % covers | CE_E: raw, calibrated, isotonic | CE_F | Spearman / ceiling | mean z² | AUROC against {first} |",
            "|---" * 15 + "|",
            *(f"| {row} | " + " | ".join(figures[test]["cells"]) + " |" for row, figures in rows.items()),
            "",
        ]
    return "\n".join(text)


def table_row(row, inside, has_energies):
    """Figures of one model on one test, those with ± with half of their 68 % bootstrap interval over frames, and as cells."""
    e, f, r = row.evaluation, row.evaluation.forces, row.residuals
    rng = np.random.default_rng(0)

    def rmse(values, frame):
        squares = np.square(values).reshape(len(frame), -1).mean(axis=1)
        low, high = frame_bootstrap(squares, frame, lambda x: np.sqrt(x.mean()), rng, confidence=0.68)
        return 1e3 * np.sqrt(squares.mean()), 500 * (high - low)

    energy, forces = rmse(r.energy_error, np.arange(r.n_frames)), rmse(r.force_error, r.frame)
    found = area_under_curve(r, inside, rng) if e.has_variances and r is not inside else None
    covered = next((c.observed for c in f.coverage if c.kind == "all" and c.level == 0.95), np.nan)
    cells = [str(e.n_draws), f"{row.minutes:.1f}", f"{row.ms_per_frame:.1f}"]
    shifted = f" ({1e3 * e.energy_rmse_shifted:.1f})"
    cells += ["{:.1f} ± {:.1f}".format(*energy) + shifted if has_energies else "", "{:.1f} ± {:.1f}".format(*forces)]
    cells.append(f"{1e3 * f.mae:.1f}")
    cells += [number(f.nll, ".2f"), number(1e3 * f.crps, ".1f"), number(covered, ".3f")]
    for errors, wanted in ((row.energy_ce, has_energies), (row.forces_ce, True)):
        cells.append(", ".join(number(x, ".4f") for x in errors).strip(", ") if wanted else "")
    cells += [f"{f.spearman:.2f} / {f.spearman_ceiling:.2f}" if e.has_variances else "", number(f.zms, ".2f")]
    cells += ["{:.3f} ± {:.3f}".format(*found) if found else ""]
    return row.to_dict() | {"cells": cells, "energy_rmse": energy, "forces_rmse": forces, "auroc": found}


def area_under_curve(outside, inside, rng):
    """AUROC of the largest atom_std of a frame, and half of its 68 % interval."""
    scores = [frame_maximum(r.atom_std, r.frame) for r in (outside, inside)]
    values = np.column_stack([np.concatenate(scores), np.repeat([1.0, 0.0], [len(s) for s in scores])])
    values = values[np.isfinite(values[:, 0])]

    def area(rows):
        return auroc(rows[rows[:, 1] == 0, 0], rows[rows[:, 1] == 1, 0])

    low, high = frame_bootstrap(values, np.arange(len(values)), area, rng, confidence=0.68)
    return float(area(values)), (high - low) / 2


def number(value, form):
    return "" if np.isnan(value) else format(value, form)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds rmd17, 3bpa, acac")
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--preset", choices=("quick", "paper"), default="quick")
    parser.add_argument("--epochs", type=int, help="of each network; default: those of the preset")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", nargs="*", default=[], help="these only")
    parser.add_argument("--member", type=int, help="train this network only, of a row of several")
    parser.add_argument("--without", nargs="*", default=[], help="rows to leave out of the tables")
    arguments = parser.parse_args()
    data = SETS[arguments.set]
    epochs = arguments.epochs or data.epochs[arguments.preset]
    folder = Path("runs") / f"{arguments.set}-{arguments.preset}-{epochs}"
    rows = recipes(data, arguments.preset, epochs, arguments.device)
    (folder / "trained").mkdir(parents=True, exist_ok=True)
    wanted = arguments.rows or [row for row in rows if row not in arguments.without]
    figures = {}
    for row in wanted:
        path = train_row(row, rows, data, arguments.data, folder, arguments.member)
        if path is not None:
            figures[row] = measured(row, path, data, arguments.data, folder)
    if not arguments.rows:
        (folder / "tables.md").write_text(tables(figures, data))
    print(tables(figures, data))


if __name__ == "__main__":
    main()
