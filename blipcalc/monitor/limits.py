"""Fit limits with a stated rate of false alarms to a reference run without labels.

A reference run is trusted MD at the state of interest, so that any halt in it is a false alarm.  Many short replicas count as
one long run.

| step | how |
|---|---|
| R_t of every check | :class:`~blipcalc.monitor.run_criteria.HaltRatio` |
| memory of ln R | statistical inefficiency g, not below 1 ps |
| maxima over independent blocks of 2 g or more | limits of the criteria with a threshold; never quantiles of single checks |
| budget | the requested rate is divided among the criteria, and the error probability too (Bonferroni) |

The limit is the lowest one whose rate of exceedances is below the budget at the requested confidence; a run too short for that
raises an error that states the length needed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from ase.data import atomic_numbers
from pydantic import AfterValidator, Field, PlainValidator, SerializeAsAny, model_validator

from blipcalc.core.domain import Domain
from blipcalc.core.prediction import Calibration
from blipcalc.errors import BlipcalcError, ConfigurationError, LimitsError
from blipcalc.files.json_file import Kind, read_json, write_json
from blipcalc.monitor.block_maxima import NS, PS, ReferenceBlocks
from blipcalc.monitor.decisions import CriterionFunction
from blipcalc.monitor.fitted_criterion import DISTANCE, RATIO, Budget, FittedCriterion, Passed, Watch
from blipcalc.monitor.run_criteria import HaltRatio
from blipcalc.registries import CRITERIA
from blipcalc.settings import AtLeastOne, Fraction, Positive, Settings, checked, number
from blipcalc.stats.rates import exposure_needed, rate_of_level
from blipcalc.stats.shift import Shifted

#: most expected halts in a block: a maximum per block cannot count more than one
MOST_PER_BLOCK = 0.5
#: kind of file that holds limits
LIMITS = Kind("limits", "make limits anew with 'blipcalc check'", LimitsError)


def _symbol(symbol: str) -> str:
    """Return an element's symbol; raises ``ValueError`` for anything else."""
    if atomic_numbers.get(symbol, 0) < 1:
        raise ValueError("expected the symbol of an element")
    return symbol


def _fitted(value: Any) -> FittedCriterion:
    """Return the criterion that a mapping from a file describes, by its name."""
    if isinstance(value, FittedCriterion):
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ValueError("expected a criterion with its name")
    try:
        package = value.get("package")
        kind = CRITERIA.get(value["name"], package if isinstance(package, str) else "")
        return checked(kind, value, f"criterion {value['name']!r}")
    except BlipcalcError as error:
        raise ValueError(str(error)) from None


Fitted = Annotated[SerializeAsAny[FittedCriterion], PlainValidator(_fitted)]
Symbol = Annotated[str, AfterValidator(_symbol)]


class Identity(Settings):
    """Identity of the calibrated predictor for which limits were fitted."""

    model_hash: str
    surface: str
    n_draws: int
    seed: int
    frames_hash: str

    @classmethod
    def of_calibration(cls, calibration: Calibration) -> Self:
        """Return the identity of the predictor with this calibration."""
        return cls(**{name: getattr(calibration, name) for name in cls.model_fields})


class Limits(Settings):
    """Limits on R_t for one calibrated predictor, one tolerance and one interval between checks."""

    identity: Identity
    tolerance: Positive = Field(description="ε_tol, eV/Å, a norm")
    level: Fraction = Field(description="of the quantiles")
    quantiles: dict[Symbol, Positive] = Field(description="{symbol: q_atom}", min_length=1)
    rate_per_ns: Positive = Field(description="largest rate of false alarms that all criteria together may have")
    confidence: Fraction = Field(description="that the true rate is not higher")
    interval_fs: Positive = Field(description="between checks")
    inefficiency_ps: Positive = Field(description="g of ln R, not below 1 ps")
    block_ps: Positive
    n_replicas: AtLeastOne
    reference_ns: Positive = Field(description="in whole blocks")
    at_tolerance: Passed = Field(description="how often R passes 1 in the reference run")
    criteria: tuple[Fitted, ...] = Field(description="as they are fitted; a run halts by any", min_length=1)
    frames: Shifted | None = Field(
        default=None, description="quantile of the largest score of a frame, as in the reference run"
    )
    notes: tuple[str, ...] = Field(default=(), description="what was left out, and why")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({criterion.name for criterion in self.criteria}) < len(self.criteria):
            raise ValueError("expected every criterion once")
        if self.at_tolerance.value <= 0:
            raise ValueError("expected a limit > 0 on R")
        return self

    def __contains__(self, name: str) -> bool:
        """Return whether there is a criterion of this name."""
        return any(criterion.name == name for criterion in self.criteria)

    def __getitem__(self, name: str) -> FittedCriterion:
        """Return the criterion of a name; raises :class:`KeyError` if there is none."""
        for criterion in self.criteria:
            if criterion.name == name:
                return criterion
        raise KeyError(name)

    @property
    def hash(self) -> str:
        """Return the SHA-256 hash by which a checkpoint identifies the limits."""
        return hashlib.sha256(self.model_dump_json(exclude_none=True).encode()).hexdigest()

    @property
    def expected_rate(self) -> float:
        """Return the expected rate of false alarms per ns: the sum over the criteria, an upper bound."""
        return sum(criterion.expected_rate for criterion in self.criteria)

    @property
    def watch(self) -> Watch:
        """Return the ratio, the interval and the memory that the criteria of a run need."""
        return Watch(HaltRatio(self.quantiles, self.tolerance), self.interval_fs, self.inefficiency_ps)

    def rules(self) -> tuple[CriterionFunction, ...]:
        """Return the criteria for a run, without memory of earlier readings."""
        return tuple(criterion.criterion(self.watch) for criterion in self.criteria)

    def ratio_limit(self) -> float | None:
        """Return the largest R that passes every criterion with a limit on R; None if no criterion has one."""
        return min((x for c in self.criteria if (x := c.ratio_limit()) is not None), default=None)

    def every(self, timestep_fs: float, asked: int | None = None) -> int:
        """Return the steps between checks; raises :class:`LimitsError` if no whole number of steps, or not ``asked``, fits."""
        steps = self.interval_fs / timestep_fs
        if round(steps) < 1 or abs(steps - round(steps)) > 1e-6 * steps:
            raise LimitsError(
                f"these limits are for a check every {self.interval_fs:g} fs, which is not a whole number of steps of "
                f"{timestep_fs:g} fs; choose another timestep, or make limits from a reference run checked otherwise"
            )
        if asked not in (None, round(steps)):
            raise LimitsError(
                f"these limits are for a check every {self.interval_fs:g} fs, every={round(steps)} here, not {asked}; leave "
                "every= out"
            )
        return round(steps)

    def check_identity(self, calibration: Calibration | None, domain: Domain | None = None) -> None:
        """Raise :class:`LimitsError` for a predictor other than the one of these limits."""
        if calibration is None:
            raise LimitsError("these limits are for a calibrated calculator, and this one has no calibration")
        now = Identity.of_calibration(calibration)
        other = [
            f"{name} is {getattr(now, name)!r}, expected {getattr(self.identity, name)!r}"
            for name in Identity.model_fields
            if getattr(now, name) != getattr(self.identity, name)
        ]
        other += filter(None, (criterion.refusal(domain) for criterion in self.criteria))
        if other:
            raise LimitsError(f"these limits belong to another calculator: {'; '.join(other)}; run 'blipcalc check'")

    def save(self, path: str | Path) -> None:
        """Write the limits as sealed JSON."""
        write_json(path, LIMITS, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the limits in a file of :meth:`save`.

        raises : LimitsError for a file without limits, or with impossible ones; DamagedFileError for a file changed after it was
            written
        """
        return checked(cls, read_json(path, LIMITS), f"{path} holds no limits", error=LimitsError)


def fit_limits(
    series: Mapping[str, Sequence[np.ndarray]],
    interval_fs: float,
    calibration: Calibration,
    quantiles: dict[str, float],
    *,
    tolerance: float,
    level: float = 0.95,
    rate_per_ns: float = 0.1,
    confidence: float = 0.95,
    criteria: Sequence[str] | None = None,
    domain_hash: str | None = None,
    frames: Shifted | None = None,
) -> Limits:
    """Return the limits fitted to the signals of a reference run.

    Parameters
    ----------
    series : {signal: values (checks,) for each replica}: ``ratio``, R_t, and the other signals of the criteria
    interval_fs : between checks, as in the runs to be guarded
    calibration, quantiles, tolerance, level : from which R was computed
    rate_per_ns : requested rate of false alarms, of all criteria together
    confidence : that the true rate is not higher, if the guarded runs sample the same distribution as the reference run
    criteria : names; None: those of blipcalc with a signal in ``series``; fewer criteria need a shorter reference run
    domain_hash : of the domain from which latent distances are measured
    frames : conformal quantile of labelled frames, reweighted to the reference run, stored with the limits

    Raises
    ------
    ConfigurationError : impossible settings
    LimitsError : R that is not finite, identical replicas, replicas shorter than twice their memory, a run too short for the
        rate, or a rate too high for independent blocks
    """
    check_settings(interval_fs, rate_per_ns, confidence, tolerance, level)
    chosen = chosen_criteria(criteria, has_domain=DISTANCE.name in series)
    needed = {RATIO.name, *(criterion.signal.name for criterion in chosen.values())}
    missing = sorted(needed - set(series))
    if missing:
        raise ConfigurationError(
            f"criteria {', '.join(chosen)} read {', '.join(missing)}; series has {', '.join(series)}"
        )
    reference = ReferenceBlocks.of({name: values for name, values in series.items() if name in needed}, interval_fs)
    notes = list(reference.notes)
    for name, criterion in list(chosen.items()):
        if lack := criterion.lacks(reference):
            del chosen[name]
            notes.append(f"no {name}: {lack}")
    if not chosen:
        raise LimitsError(f"no criterion is left: {notes[-1]}; give more reference, or other criteria")
    budget = Budget(rate_per_ns / len(chosen), 1 - (1 - confidence) / len(chosen))
    if budget.rate_per_ns * reference.block_ns > MOST_PER_BLOCK:
        raise LimitsError(
            f"{rate_per_ns:g} false alarms per ns is one in every few memories of {reference.memory_ps:.2g} ps, which no limit "
            f"can mean; ask for {MOST_PER_BLOCK / reference.block_ns * len(chosen):.2g} per ns or fewer"
        )
    found = [criterion.fit(reference, budget, domain_hash) for criterion in chosen.values()]
    fitted = [one for one in found if one is not None]
    maxima, block_ns = reference.maxima(RATIO.name)
    if len(fitted) < len(found):
        raise LimitsError(_too_short(len(maxima) * block_ns, rate_per_ns, budget, list(chosen)))
    return Limits(
        identity=Identity.of_calibration(calibration),
        tolerance=tolerance,
        level=level,
        quantiles=quantiles,
        rate_per_ns=rate_per_ns,
        confidence=confidence,
        interval_fs=interval_fs,
        inefficiency_ps=reference.memory_ps,
        block_ps=block_ns * NS / PS,
        n_replicas=reference.n_replicas,
        reference_ns=len(maxima) * block_ns,
        at_tolerance=rate_of_level(maxima, block_ns, 1.0, confidence, NS / interval_fs),
        criteria=tuple(c.model_copy(update={"package": CRITERIA.package(c.name)}) for c in fitted),
        frames=frames,
        notes=tuple(notes),
    )


def _too_short(reference_ns: float, rate: float, budget: Budget, criteria: Sequence[str]) -> str:
    needed = exposure_needed(budget.rate_per_ns, budget.confidence)
    carried = rate * needed / reference_ns
    alone = exposure_needed(rate, 1 - (1 - budget.confidence) * len(criteria))
    return (
        f"{reference_ns:.3g} ns of reference cannot carry {rate:g} false alarms per ns: {needed:.3g} ns are needed for criteria "
        f"{', '.join(criteria)} ({alone:.3g} ns for one of them alone). Run more replicas, or ask for {carried:.2g} per ns or "
        "more"
    )


def check_settings(interval_fs: float, rate: float, confidence: float, tolerance: float, level: float) -> None:
    """Raise :class:`ConfigurationError` for impossible settings."""
    for name, value in (
        ("interval_fs", interval_fs),
        ("rate_per_ns", rate),
        ("tolerance", tolerance),
        ("level", level),
    ):
        number(name, value, above=0.0)
    if not 1e-6 <= number("confidence", confidence) < 1:
        raise ConfigurationError(f"confidence={confidence}; expected a number from 1e-6 to 1, below 1")


def chosen_criteria(names: Sequence[str] | None, *, has_domain: bool) -> dict[str, type[FittedCriterion]]:
    """Return {name: class} of the named criteria; None: those of blipcalc, on the latent distance only for a model with a domain.

    raises : ConfigurationError for an unknown name, or for a criterion that needs a domain if there is none
    """
    if names is None:
        ours = {name: CRITERIA[name] for name in CRITERIA.own}
        return {name: found for name, found in ours.items() if has_domain or not found.signal.needs_domain}
    if not (isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names)):
        raise ConfigurationError(f"criteria={names!r}; expected some of {', '.join(CRITERIA.names())}")
    chosen = {name: CRITERIA[name] for name in names}
    if not has_domain and any(found.signal.needs_domain for found in chosen.values()):
        raise ConfigurationError(
            "a criterion on the latent distance takes a model that says where its data were; 'blipcalc domain' adds it to its "
            "file"
        )
    return chosen
