"""Thermal averages of a stored run: what the draws differ by, apart from what the run was too short for.

The centre surface drives; the energies of the eight draws are kept with every frame that is written, and weights on the frames
say what each draw would have given.  What remembers for too long for three picoseconds is refused.
"""

from pathlib import Path

from blipcalc import BayesianCalculator, average, run_md
from blipcalc.errors import SamplingError
from blipcalc.files.bundled import starting_structure

FOLDER = Path("runs/average")

atoms = starting_structure("ethanol")
atoms.calc = BayesianCalculator("rmd17", surface="centre", n_draws=8, dtype="float32", strategy="traced")
settings = {
    "time_ps": 3.0,
    "timestep_fs": 1.0,
    "friction_per_fs": 0.05,
    "tolerance": 1.0,
    "every": 20,
    "write_every": 20,
}
summary, _ = run_md(atoms, folder=FOLDER, seed=1, progress=False, **settings)
print(summary.status, f"{summary.time_ps:g} ps, {summary.temperature_K:.0f} K")

for observable in ("energy", "distance:0,1", "distance:0,2", "angle:1,0,2"):
    try:
        found = average(FOLDER, observable)
    except SamplingError as error:
        print(f"{observable:13s} refused: {error}")
        continue
    sampling = found.sampling
    print(
        f"{observable:13s} {found.value:.4f} {found.estimate.unit}: model error {found.model_error:.2g} "
        f"(noise {found.noise:.1g}), sampling error {found.sampling_error:.2g}; {sampling.method}, "
        f"{sampling.n_independent:.0f} independent frames of {sampling.n_frames}"
    )

average(FOLDER, "distribution:0,1:1.2,1.9,35").plot(FOLDER / "distribution.png")
print("look at", FOLDER / "distribution.png")
