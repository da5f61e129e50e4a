"""``demo``: MD of a molecule at 300 K, then heated until the monitor halts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.files.bundled import starting_structure
from blipcalc.files.json_file import Kind, write_json
from blipcalc.md.run_md import run_md

#: of the ramp after the quiet part: K/ps, and where it ends
HEATING_RATE, HOTTEST_K = 150.0, 4300.0
QUIET_K = 300.0
#: steps between checks of the variance
EVERY = 25
#: as a file
DEMO = Kind("summary of a demo", "run 'blipcalc demo' again")


def run_demo(molecule: str, model: str, folder: Path, *, time_ps: float, tolerance: float, seed: int) -> dict[str, Any]:
    """Run MD at 300 K, heat the molecule under the same limit, and write trajectory, summary and plot.

    Returns the summary.
    """
    folder.mkdir(parents=True, exist_ok=True)
    atoms = starting_structure(molecule)
    atoms.calc = BayesianCalculator(model, surface="centre", dtype="float32", strategy="traced")
    # traced: the first step comes after a second; compilation would take a minute or two before it
    end_ps = time_ps + (HOTTEST_K - QUIET_K) / HEATING_RATE
    run, monitor = run_md(
        atoms,
        time_ps=end_ps,
        temperature_K=[(0.0, QUIET_K), (time_ps, QUIET_K), (end_ps, HOTTEST_K)],
        timestep_fs=1.0,
        seed=seed,
        tolerance=tolerance,
        every=EVERY,
        trajectory=folder / "trajectory.traj",
        write_every=4 * EVERY,
    )
    time, largest = monitor.history["time_fs"] / 1000.0, monitor.history["max_atom_std"]
    quiet = time <= time_ps
    summary = {
        "molecule": molecule,
        "model": model,
        "tolerance_eV_per_A": tolerance,
        "limit_on_atom_std_eV_per_A": run.limit,
        "quiet": {
            "temperature_K": QUIET_K,
            "time_ps": min(time_ps, run.time_ps),
            "ran_through": run.time_ps > time_ps,
            "mean_temperature_K": float(monitor.history["temperature_K"][quiet].mean()),
            "max_atom_std_eV_per_A": float(largest[quiet].max()),
        },
        "heated": {
            "rate_K_per_ps": HEATING_RATE,
            "status": run.status,
            "halted_at_ps": run.time_ps if run.status == "halted" else None,
            "reason": run.reason,
        },
        "ms_per_step": 1000.0 * run.wall_seconds / max(run.steps, 1),
        "wall_seconds": run.wall_seconds,
    }
    write_json(folder / "summary.json", DEMO, summary)
    monitor.plot(folder / "uncertainty.png", title=f"{molecule}: {QUIET_K:.0f} K, heated from {time_ps:g} ps on")
    return summary
