"""A limit with a stated rate of false alarms, a run that is guarded by it, and the same run gone on with.

Two minutes of computing are far too few for a real rate: three replicas of two picoseconds can carry 230 false alarms per
nanosecond, for one criterion, with 75 % confidence.  0.1 per nanosecond takes 30 ns of replicas, or 175 ns for all four.
"""

from pathlib import Path

from blipcalc import BayesianCalculator, read, run_md
from blipcalc.errors import LimitsError
from blipcalc.files.bundled import starting_structure
from blipcalc.monitor import check_reference
from blipcalc.monitor.events import read_events
from blipcalc.report.page import write_report

FOLDER = Path("runs/guarded")
CHECK_FS = 20.0


def ethanol():
    atoms = starting_structure("ethanol")
    atoms.calc = BayesianCalculator("rmd17", n_draws=8, surface="centre", dtype="float32", strategy="traced")
    return atoms


replicas = []
for seed in range(3):
    folder = FOLDER / f"replica-{seed}"
    run_md(ethanol(), time_ps=2.1, timestep_fs=1.0, seed=seed, tolerance=5.0, every=20, write_every=20, folder=folder)
    replicas.append(read(folder / "trajectory.traj"))

predictor = ethanol().calc.predictor
settings = {"interval_fs": CHECK_FS, "tolerance": 0.5, "criteria": ["trip"], "confidence": 0.75}
try:
    check_reference(predictor, replicas, rate_per_ns=0.1, **settings)
except LimitsError as error:
    print("refused:", error)
limits = check_reference(predictor, replicas, rate_per_ns=230, **settings)
limits.save(FOLDER / "limits.json")
trip = limits["trip"].limit
print(f"halt at R > {trip.value:.3g}: {trip.rate:.3g} false alarms per ns expected, {trip.interval}")

for time_ps in (0.2, 0.4):  # the second call goes on where the first ended
    summary, monitor = run_md(
        ethanol(),
        time_ps=time_ps,
        timestep_fs=1.0,
        limits=FOLDER / "limits.json",
        self_test=True,
        folder=FOLDER / "guarded",
    )
    print(summary.status, f"{summary.time_ps:g} ps", summary.reason or "")

hot, _ = run_md(ethanol(), time_ps=5.0, timestep_fs=1.0, temperature_K=3000.0, limits=limits, folder=FOLDER / "hot")
print(hot.status, f"{hot.time_ps:g} ps:", hot.reason)
print(read_events(FOLDER / "hot" / "events.jsonl")[-1])
print("look at", write_report(FOLDER / "hot", model="rmd17", limits=limits))
