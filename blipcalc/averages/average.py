"""Compute thermal averages of a stored run, with separate model error and sampling error.

Averages on each of K draws are obtained from one run on the driving potential by reweighting its frames
(:mod:`blipcalc.stats.reweighting`), or, if the draws differ too much for that, from a run on each draw
(:mod:`blipcalc.averages.independent_runs`).

Weights use the draws of the posterior without calibration.  The calibration factor is applied to the spread of the result, as
for every :class:`~blipcalc.stats.estimate.Estimate`; to first order this equals calibrated draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from blipcalc.averages.collect import collect
from blipcalc.averages.diffusion import INITIAL_ONLY, Displacement
from blipcalc.averages.independent_runs import drawn_runs, over_runs
from blipcalc.averages.named_observables import Given, named
from blipcalc.averages.observables import Array, Axis
from blipcalc.averages.reweighted_average import Choice, Thermal, thermal_average
from blipcalc.averages.stored_run import Stored, stored_run
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.errors import ConfigurationError, DataError
from blipcalc.files.json_file import Kind
from blipcalc.files.picture import finished
from blipcalc.settings import whole
from blipcalc.stats.estimate import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: kind of file that holds averages
AVERAGES = Kind("thermal averages", "run 'blipcalc average --json' again")
#: observables that include the offset of each draw's total energy
TOTALS = ("energy", "energy_per_atom")


@dataclass(frozen=True)
class ThermalAverage:
    """Thermal average with its errors.

    name : of the observable
    estimate : on the driving potential and on each draw; its ``std`` is the model error
    sampling : sampling error, noise of the model error, N_eff, …
    temperature_K : of the run
    axis : of an array; None for a number
    """

    name: str
    estimate: Estimate
    sampling: Thermal
    temperature_K: float
    axis: Axis | None = None

    @property
    def value(self) -> Array:
        """Return the average on the driving potential."""
        return self.estimate.value

    @property
    def model_error(self) -> Array:
        """Return the spread of the averages of the draws, times the calibration factor."""
        return self.estimate.std

    @property
    def sampling_error(self) -> Array:
        """Return the standard error of the value."""
        return self.sampling.sampling_error

    @property
    def noise(self) -> Array:
        """Return the model error expected from sampling alone; a model error that is not much larger needs a longer run."""
        return self.estimate.calibration_factor * self.sampling.noise

    @property
    def n_eff(self) -> float:
        """Return the smallest number of effective independent frames of all draws."""
        return float(self.sampling.n_eff.min())

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        s = self.sampling
        plain = {name: None if value is None else np.asarray(value).tolist() for name, value in vars(s).items()}
        axis = None if self.axis is None else {**vars(self.axis), "values": self.axis.values.tolist()}
        left_out = ("value", "draws")
        return {
            "observable": self.name,
            "temperature_K": self.temperature_K,
            "estimate": self.estimate.to_dict(),
            "model_error": self.model_error.tolist(),
            "axis": axis,
            "sampling": {name: value for name, value in plain.items() if name not in left_out},
        }

    def plot(self, path: str | Path | None = None, *, level: float = 0.95) -> Figure:
        """Draw the value, a band each for model error and sampling error, and the draws.

        level : of the band of the model error; that of the sampling error is ± two standard errors

        raises : ConfigurationError for an average that is not a curve
        """
        from matplotlib.figure import Figure  # heavy, and not needed to average

        if self.axis is None or self.value.ndim != 1:
            raise ConfigurationError(f"{self.name} is no curve but of shape {self.value.shape}; nothing to draw")
        x, estimate, twice = self.axis.values, self.estimate, 2.0 * self.sampling_error
        figure = Figure(figsize=(7.0, 4.0), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(x, estimate.draws.T, lw=0.5, color="#9aa5b1", alpha=0.6)
        for low, high, color, alpha, label in (
            (*estimate.interval(level), "#1f4e79", 0.25, f"model error, {level:.0%}"),
            (self.value - twice, self.value + twice, "#b03a2e", 0.35, "sampling, ± 2 s.e."),
        ):
            axes.fill_between(x, low, high, color=color, alpha=alpha, lw=0, label=label)
        axes.plot(
            x, self.value, lw=1.2, color="#102a43", label=f"K = {estimate.n_draws} draws, {self.temperature_K:g} K"
        )
        name = f"{self.name} ({estimate.unit})" if estimate.unit else self.name
        axes.set(xlabel=f"{self.axis.name} ({self.axis.unit})", ylabel=name, xlim=(x[0], x[-1]))
        axes.set_ylim(bottom=min(0.0, float(np.min(self.value))))
        axes.legend(frameon=False, fontsize=8)
        return finished(figure, path)


def average(
    run: str | Path | Sequence[str | Path] | Sequence[Atoms],
    observable: Given,
    *,
    method: Choice = "auto",
    temperature_K: float | None = None,
    calculator: Calculator | None = None,
    discard: float = 0.1,
    batch: int = 16,
) -> ThermalAverage:
    """Return the average of an observable over a stored run, with its model error and its sampling error.

    Parameters
    ----------
    run : folder of ``run_md`` or of :func:`~blipcalc.averages.independent_runs.independent_runs`, trajectory with uncertainties,
        frames from :func:`blipcalc.read`, or several folders or trajectories as replicas of one run
    observable : a name of :mod:`blipcalc.averages.observables`, such as ``"rdf:O-O"``, or a function of a structure that returns
        a number or an array
    method : ``reweight``: direct weights; ``cea``: cumulant expansion of first order; ``auto``: direct weights if every
        draw has N_eff ≥ 100, else the expansion.  Not used for independent runs
    temperature_K : of runs without a stored temperature
    calculator : that of the run, to evaluate frames without energies of the draws
    discard : initial fraction of the run that is left out as equilibration
    batch : structures per evaluation of the calculator

    Raises
    ------
    SamplingError : too few independent frames, too few effective ones, or an expansion that does not converge
    ConfigurationError : no temperature, or a different one; a run at constant energy
    DataError : frames without energies of the draws, and no calculator

    Examples
    --------
    >>> found = blipcalc.average("runs/water", "rdf:O-O")
    >>> found.value, found.model_error, found.sampling_error
    """
    chosen, batch = named(observable), whole("batch", batch, 1, what="number of structures")
    runs = drawn_runs(Path(run)) if isinstance(run, (str, Path)) else []
    if runs:
        return _of_runs(runs, chosen, temperature_K, discard)
    stored = stored_run(run, temperature_K)
    series, axis, frame = collect(stored, chosen, discard=discard, calculator=calculator, batch=batch)
    thermal = thermal_average(series, stored.temperature_K, method)
    note = f"{thermal.method}; {INITIAL_ONLY}" if isinstance(chosen, Displacement) else thermal.method
    calibration_factor = _calibration_factor(stored, calculator, frame, chosen.name)
    return _result(chosen.name, chosen.unit, thermal, calibration_factor, note, stored.temperature_K, axis)


def _of_runs(runs: Sequence[Path], chosen: Any, temperature_K: float | None, discard: float) -> ThermalAverage:
    """Return the average over runs on the driving potential and on each draw."""
    found: list[tuple[Stored, Axis | None, Atoms]] = []

    def values_of(run: Path) -> tuple[Array, ...]:
        stored = stored_run(run, temperature_K)
        series, axis, frame = collect(stored, chosen, discard=discard, with_draws=False)
        before = found[0][1] if found else axis
        if axis is not None and before is not None and not np.array_equal(axis.values, before.values):
            raise DataError(
                f"{run} is shorter or longer than {runs[0]}, so that its {axis.name}s are others; say the longest lag, as "
                f"{chosen.name}:2.0 does in ps"
            )
        found.append((stored, axis, frame))
        return series.values

    thermal = over_runs(runs, values_of)
    stored, axis, frame = found[0]
    temperatures = {other.temperature_K for other, _, _ in found}
    if len(temperatures) > 1:
        raise ConfigurationError(f"{runs[0].parent}: expected runs at one temperature, got {sorted(temperatures)} K")
    calibration_factor = _calibration_factor(stored, None, frame, chosen.name)
    return _result(chosen.name, chosen.unit, thermal, calibration_factor, thermal.method, stored.temperature_K, axis)


def _result(
    name: str,
    unit: str,
    thermal: Thermal,
    calibration_factor: float | None,
    note: str,
    temperature_K: float,
    axis: Axis | None,
) -> ThermalAverage:
    estimate = Estimate(
        thermal.value,
        thermal.draws,
        unit,
        1.0 if calibration_factor is None else calibration_factor,
        calibration_factor is not None,
        note,
    )
    return ThermalAverage(name, estimate, thermal, temperature_K, axis)


def _calibration_factor(stored: Stored, calculator: Calculator | None, frame: Atoms, name: str) -> float | None:
    """Return the calibration factor; None without a calibration.

    It is that of forces except for total energies, since weights depend on differences of energies.
    """
    calibration = stored.calibration if calculator is None else Surfaces(calculator).bayesian.calibration
    if calibration is None:
        return None
    return calibration.calibration_factor(frame.numbers, "energy" if name in TOTALS else "forces")
