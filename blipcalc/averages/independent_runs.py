"""Run MD on every draw, for model errors if reweighting fails, and for the full model error of dynamical quantities.

    ⟨A⟩_k from a separate run for every k,   noise² = mean_k s_k²

| symbol | meaning |
|---|---|
| s_k | sampling error of ⟨A⟩_k: the runs are independent, so that it fully adds to the spread |

A folder holds ``driving`` and ``draw-000``, ``draw-001``, …, each a run folder of :func:`~blipcalc.md.run_md.run_md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from blipcalc.averages.observables import Array
from blipcalc.averages.reweighted_average import Thermal, cut, independent_frames
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.errors import DataError, SamplingError
from blipcalc.md.run_md import MDSummary, run_md
from blipcalc.settings import path_of
from blipcalc.stats.series import jackknife

DRIVING, DRAW = "driving", "draw-"


def independent_runs(
    atoms: Atoms, folder: str | Path, *, draws: Iterable[int] | None = None, seed: int = 0, **settings: Any
) -> dict[str, MDSummary]:
    """Run the same monitored MD on the driving potential and on every draw, each in its own folder; return the summaries.

    The same call again continues unfinished runs, as :func:`~blipcalc.md.run_md.run_md` does.

    Parameters
    ----------
    atoms : with a BayesianCalculator, or a CombinedCalculator around one; not modified
    folder : of all runs
    draws : indices of draws; None: all K
    seed : of momenta and thermostat; the run of draw k has seed + 1 + k
    settings : of :func:`~blipcalc.md.run_md.run_md`

    Returns
    -------
    {name of the folder: summary of the run}

    Raises
    ------
    ConfigurationError, DrawsError : a calculator that cannot evaluate single draws; no such draw
    """
    folder, surfaces, found = path_of("folder", folder), Surfaces(atoms.calc), {}
    for k in (-1, *(range(surfaces.n_draws) if draws is None else draws)):
        name, start = DRIVING if k == -1 else f"{DRAW}{k:03d}", atoms.copy()
        start.calc = atoms.calc if k == -1 else surfaces.single(k)
        found[name], _ = run_md(start, folder=folder / name, seed=seed + 1 + k, **settings)
    return found


def drawn_runs(folder: Path) -> list[Path]:
    """Return the folders of :func:`independent_runs`, that of the driving potential first; empty for any other folder.

    raises : DataError for fewer than two draws
    """
    if not (folder / DRIVING).is_dir():
        return []
    found = sorted(folder.glob(f"{DRAW}*"))
    if len(found) < 2:
        raise DataError(f"{folder}: expected runs of two draws or more beside {DRIVING}, got {len(found)}")
    return [folder / DRIVING, *found]


def _mean_of(values: Array, rows: Array) -> Array:
    return values[rows].mean(axis=0)


def over_runs(runs: Iterable[Path], values_of: Callable[[Path], tuple[Array, ...]]) -> Thermal:
    """Return averages over runs, the first on the driving potential.

    values_of : a run folder -> (T, …) of each replica
    raises : SamplingError if one of them has fewer than 20 independent frames
    """
    means, errors, sizes, memories, frames = [], [], [], [], 0
    for run in runs:
        values = values_of(run)
        try:
            g, n_independent = independent_frames(values)
        except SamplingError as error:
            raise SamplingError(f"{run}: {error}") from None
        together = np.concatenate(values)
        means.append(together.mean(axis=0))
        errors.append(jackknife(partial(_mean_of, together), cut(values, g)))
        sizes.append(n_independent)
        memories.append(g)
        frames += len(together)
    return Thermal(
        value=means[0],
        draws=np.array(means[1:]),
        sampling_error=errors[0],
        noise=np.sqrt(np.mean(np.square(errors[1:]), axis=0)),
        method="independent runs",
        n_frames=frames,
        inefficiency=max(memories),
        n_independent=min(sizes),
        n_eff=np.array(sizes[1:]),
        spread_h=None,
        next_term=None,
    )
