"""A limit with a stated rate of false halts, a run that is guarded by it, and the same run gone on with.

A minute of reference is far too short for a real rate: 100 false halts per nanosecond is what four replicas of a picosecond and a
half each can carry.  For 0.1 per nanosecond it takes 120 ns of replicas, or 30 with the trip channel alone.
"""

from pathlib import Path

from blipcalc import BayesianCalculator, check_reference, closest_distances, read, run_md
from blipcalc.bundle import starting_structure
from blipcalc.errors import LimitsError
from blipcalc.monitor.events import read_events
from blipcalc.monitor.faults import KineticJump, Leap, TooClose

FOLDER = Path("runs/guarded")
CHECK_FS = 10.0


def ethanol():
    atoms = starting_structure("ethanol")
    atoms.calc = BayesianCalculator("rmd17", n_draws=8, surface="centre", dtype="float32", strategy="traced")
    return atoms


replicas = []
for seed in range(4):
    folder = FOLDER / f"replica-{seed}"
    run_md(ethanol(), time_ps=1.5, timestep_fs=1.0, seed=seed, tolerance=5.0, every=10, write_every=10, folder=folder)
    replicas.append(read(folder / "trajectory.traj"))

predictor = ethanol().calc.predictor
settings = {"interval_fs": CHECK_FS, "tolerance": 0.5, "channels": ["trip", "smoothed"]}
try:
    check_reference(predictor, replicas, rate_per_ns=0.1, **settings)
except LimitsError as error:
    print("refused:", error)
limits = check_reference(predictor, replicas, rate_per_ns=2500, **settings)
limits.save(FOLDER / "limits.json")
print(
    f"halt at R > {limits.trip.value:.3g}: {limits.trip.rate:.3g} false halts per ns expected, {limits.trip.interval}"
)

closest = closest_distances([frame for frames in replicas for frame in frames])
for time_ps, temperature in ((0.5, 300.0), (1.0, 300.0)):  # the second call goes on where the first ended
    summary, monitor = run_md(
        ethanol(),
        time_ps=time_ps,
        timestep_fs=1.0,
        temperature_K=temperature,
        limits=FOLDER / "limits.json",
        faults=[Leap(), KineticJump(), TooClose({pair: 0.9 * distance for pair, distance in closest.items()})],
        self_test=True,
        folder=FOLDER / "guarded",
    )
    print(summary.status, f"{summary.time_ps:g} ps", summary.reason or "")

hot, _ = run_md(ethanol(), time_ps=5.0, timestep_fs=1.0, temperature_K=3000.0, limits=limits, folder=FOLDER / "hot")
print(hot.status, f"{hot.time_ps:g} ps:", hot.reason)
print(read_events(FOLDER / "hot" / "events.jsonl")[-1])
