"""``BayesianCalculator``: a predictor as an ASE calculator, with ASE's names, units and Voigt order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.data import chemical_symbols
from ase.outputs import Properties, all_outputs

from blipcalc.adapters.ase_results import Vouching, changes
from blipcalc.core.contracts import Surface
from blipcalc.core.demanded import demanded
from blipcalc.core.domain import Domain
from blipcalc.core.evaluate import Strategy
from blipcalc.core.identity import Identity
from blipcalc.core.one_at_a_time import AnswersOneAtATime, one_at_a_time
from blipcalc.core.prediction import Calibration, Prediction, SampleArrays
from blipcalc.core.predictor_contract import Need, Predictor, predictions
from blipcalc.core.signature import probe_of, signature_of
from blipcalc.core.validate import check_arrays
from blipcalc.errors import ConfigurationError, EmptyStructureError, StructureError, UncalibratedWarning, warn_user
from blipcalc.model_file.model import Model
from blipcalc.predictor import BayesianPredictor
from blipcalc.settings import switch

VARIANCES = (
    *("energy_var", "energy_std", "forces_var", "forces_std", "atom_var", "atom_std"),
    *("stress_var", "stress_std", "pressure_var", "pressure_std"),
)
#: distance of each atom from the training data in the network's features; no variance enters
DISTANCE = "latent_distance"
#: energies of the draws less that of the driving potential; they reweight a run to each draw
DEVIATIONS = "draw_deviations"
#: properties that this package adds to ASE's and carries through files
CARRIED = (*VARIANCES, DEVIATIONS, DISTANCE, "weight", "from_reference")
NEEDS_FORCES = ("forces", "forces_var", "forces_std", "atom_var", "atom_std")
NEEDS_STRESS = ("stress", "stress_var", "stress_std", "pressure_var", "pressure_std")
#: variances of a single draw, from mean-variance heads
OF_HEADS = {"none": (), "energy": VARIANCES[:2], "joint": VARIANCES[:6]}


class BayesianCalculator(AnswersOneAtATime, Calculator):
    """Energies, forces and their variances from a Bayesian potential, an ensemble, or any predictor.

    | key in ``results`` | shape, unit | meaning |
    |---|---|---|
    | ``energy``, ``free_energy`` | eV | posterior mean |
    | ``energies`` | (n,) eV | per-atom partition, where the model has one |
    | ``forces`` | (n, 3) eV/Å | exact gradient of that energy for the fixed draws |
    | ``stress`` | (6,) eV/Å³ | Voigt, ASE's sign; periodic structures only |
    | ``energy_var``, ``energy_std`` | eV², eV | total variance and its root |
    | ``forces_var``, ``forces_std`` | (n, 3) (eV/Å)², eV/Å | of each component |
    | ``atom_var``, ``atom_std`` | (n,) (eV/Å)², eV/Å | tr Σ_i / 3 and its root: rotation-invariant, what monitors read |
    | ``stress_var``, ``stress_std`` | (6,) | posterior values: no stress labels, no calibration |
    | ``pressure_var``, ``pressure_std`` | (eV/Å³)², eV/Å³ | of -tr σ / 3, likewise |
    | ``draw_deviations`` | (K,) eV | E_k - E of the draws, posterior values; unchanged by exact parts |
    | ``latent_distance`` | (n,) | distance from the training data (:mod:`blipcalc.core.domain`), where the model has a domain |

    The draws are made once, at construction: the same seed gives the same numbers, bit for bit.  Everything else, such as
    covariances and uncalibrated values, is in :attr:`prediction`.

    Parameters
    ----------
    source : name of a bundled model (``"rmd17"``), path of a model file, a loaded model, or any predictor
    n_draws : K, 16 by default
    seed : of the draws, 0 by default
    surface : the driving potential: ``mean`` over the draws, or ``centre``, the network at the mean weights; None takes the
        recommendation of the model file
    device : None takes ``cuda`` where there is one, else ``cpu``
    dtype : of the network, ``float64`` (default) or ``float32``; results are always float64
    raw : give posterior values without calibration; with a calibration, elements that it does not cover get NaN
    strategy, chunk : how draws are evaluated, see :class:`~blipcalc.core.evaluate.Evaluator`

    These settings make a predictor from a model; a predictor given as ``source`` keeps its own.

    Raises
    ------
    ModelFileError, ConfigurationError, DrawsError : on construction
    StructureError or a subclass : for a structure that cannot be evaluated; no old results remain

    Examples
    --------
    >>> atoms.calc = BayesianCalculator("rmd17")
    >>> atoms.get_forces(), atoms.calc.get_property("atom_std", atoms)
    """

    name = "blipcalc"
    implemented_properties: list[str] = [  # noqa: RUF012 - as ASE has it
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        *VARIANCES,
        DEVIATIONS,
        DISTANCE,
    ]

    def __init__(
        self,
        source: str | Path | Model | Predictor,
        *,
        n_draws: int | None = None,
        seed: int | None = None,
        surface: Surface | None = None,
        device: str | None = None,
        dtype: str | None = None,
        raw: bool = False,
        strategy: Strategy | None = None,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        raw = switch("raw", raw)
        settings = {"n_draws": n_draws, "seed": seed, "surface": surface, "device": device, "dtype": dtype}
        settings |= {"strategy": strategy, "chunk": chunk}
        given = {name: value for name, value in settings.items() if value is not None}
        if isinstance(source, (str, Path, Model)):
            self.predictor: Predictor = BayesianPredictor.load(
                source,
                n_draws=n_draws,
                seed=0 if seed is None else seed,
                surface=surface,
                calibrated=not raw,
                device=("cuda" if torch.cuda.is_available() else "cpu") if device is None else device,
                dtype="float64" if dtype is None else dtype,
                strategy="auto" if strategy is None else strategy,
                chunk=chunk,
            )
        elif isinstance(source, type) or not isinstance(source, Predictor):
            raise ConfigurationError(
                f"expected a model name, a path, a model or a predictor, got {source!r}; ASE calculators go into "
                "blipcalc.committee([...]) first, predictors derive from blipcalc.core.predictor_contract.Predictor"
            )
        else:
            if raw and source.calibration is not None:
                given["raw"] = raw
            if given:
                raise ConfigurationError(f"{', '.join(given)}: a predictor that is given has its own; set them there")
            self.predictor = source
        self.parameters.update(
            source=str(source) if isinstance(source, (str, Path)) else type(source).__name__,
            n_draws=self.predictor.n_draws,
            seed=self.predictor.seed,
            surface=self.predictor.surface,
            dtype=str(self.predictor.dtype).removeprefix("torch."),
            raw=raw,
        )
        self.prediction: Prediction | None = None
        self._source: str | None = None
        left_out = set()
        if self.predictor.n_draws < 2:
            left_out |= {*VARIANCES, DEVIATIONS} - set(OF_HEADS[self.predictor.heads])
        has_variance = not left_out >= set(VARIANCES)
        if has_variance and self.calibration is None and not raw:
            remedy = "run 'blipcalc calibrate'" if isinstance(source, (str, Path, Model)) else "give it a calibration"
            if "forces_var" in left_out:
                remedy = "its head gives a variance of the energy alone, which is not calibrated; train with nll_jef"
            warn_user(
                f"no calibration for surface={self.predictor.surface!r}, n_draws={self.predictor.n_draws}, "
                f"seed={self.parameters['seed']}: variances are raw posterior values; {remedy}, or pass raw=True if that "
                "is meant",
                UncalibratedWarning,
            )
        if not self.predictor.has_stress:
            left_out |= set(NEEDS_STRESS)
        if not self.predictor.has_energies:
            left_out.add("energies")
        if self.domain is None:
            left_out.add(DISTANCE)
        self.implemented_properties = [key for key in type(self).implemented_properties if key not in left_out]

    def __repr__(self) -> str:
        p, species = self.parameters, self.predictor.species
        elements = "any element" if species is None else ", ".join(chemical_symbols[z] for z in species)
        kind = "raw" if self.predictor.calibration is None else "calibrated"
        drawn = f"surface {p['surface']}, K = {p['n_draws']}, seed {p['seed']}"
        return f"BayesianCalculator({p['source']}; {elements}; {drawn}; {p['dtype']}; {kind})"

    @property
    def bayesian(self) -> BayesianCalculator:
        """This calculator; see :class:`WithBayesian`."""
        return self

    @property
    def identity(self) -> Identity:
        """The identity of the predictor: results are predictions under other names."""
        return Identity("BayesianCalculator", (self.predictor,))

    def source(self, atoms: Atoms) -> str:
        """Return a SHA-256 that identifies the draws; equal calculators give equal ones.

        atoms : structure near which a predictor without an identity is evaluated to identify it; the first call decides
        """
        if self._source is None:
            self._source = str(signature_of(self.predictor, probe_of(atoms)))
        return self._source

    @property
    def calibration(self) -> Calibration | None:
        """The calibration applied to the variances, or None."""
        return self.predictor.calibration

    @property
    def domain(self) -> Domain | None:
        """The domain of the model's training data, or None where the model has none."""
        return self.predictor.domain

    def set(self, **settings: object) -> dict[str, object]:
        """Refuse any setting: the draws are made once, at construction."""
        if settings:
            raise ConfigurationError(
                f"{', '.join(settings)}: settings are fixed at construction; make another BayesianCalculator"
            )
        return {}

    @one_at_a_time
    def reset(self) -> None:
        """Clear all results."""
        super().reset()
        self.prediction = None

    @one_at_a_time
    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute the requested properties; for an unchanged structure keep those that are known."""
        structure = self._structure(atoms)
        self._check_arrays(structure)
        known = {} if system_changes or self.prediction is None else self.results
        asked = set(properties) | set(known)
        if asked & set(NEEDS_STRESS) and len(structure) and not structure.pbc.all():
            raise PropertyNotImplementedError(
                f"stress needs a cell that is periodic in three directions; pbc is {structure.pbc.tolist()}"
            )
        prediction = self.prediction if known and set(properties) <= {DISTANCE} else None
        self.results, self.prediction = {}, None
        super().calculate(atoms, list(properties), list(system_changes))
        own = self._structure(self.atoms)
        if len(own) == 0:
            raise EmptyStructureError("expected at least one atom, got an empty Atoms object")
        need = Need(
            forces=bool(asked & {*NEEDS_FORCES, *NEEDS_STRESS}),
            stress=bool(asked & set(NEEDS_STRESS)),
            variance=bool(asked & {*VARIANCES, DEVIATIONS}),
        )
        if prediction is None:
            (prediction,) = predictions(self.predictor, [own], need)
        results = results_of(prediction)
        if DISTANCE in asked:
            results[DISTANCE] = known[DISTANCE] if DISTANCE in known else self.predictor.latent_distances([own])[0]
        self.prediction, self.results = prediction, results

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what has changed since the last results, including entries of ``info`` that committee members read."""
        self._check_arrays(atoms)  # ASE compares arrays without looking at their type
        return super().check_state(atoms, tol) or self.changes(self.atoms, atoms)

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """Return ``["info"]`` where results for ``info`` of ``seen`` do not hold for ``atoms``, as the predictor decides."""
        return changes(seen, atoms, [self.predictor] if isinstance(self.predictor, Vouching) else [])

    def _check_arrays(self, atoms: Atoms) -> None:
        try:
            check_arrays(atoms)
        except StructureError:
            self.results, self.prediction = {}, None
            raise

    def _structure(self, atoms: Atoms | None) -> Atoms:
        """Return the given structure, or for None the one of the last request."""
        structure = self.atoms if atoms is None else atoms
        if structure is None:
            raise EmptyStructureError(
                "expected an Atoms object, got None; give atoms, or attach the calculator to some"
            )
        return structure

    def get_uncertainty(self, atoms: Atoms | None = None) -> np.ndarray:
        """Return (n,) ``atom_std``, eV/Å."""
        return self.get_property("atom_std", atoms)

    def get_samples(self, atoms: Atoms | None = None) -> SampleArrays:
        """Evaluate energy, forces and, for periodic structures, stress of every draw anew; posterior values."""
        structure = self._structure(atoms)
        need = Need(stress=bool(self.predictor.has_stress and structure.pbc.all()), samples=True)
        return demanded(self.predictor([structure], need)[0].samples, "the samples of the draws")

    def export_properties(self) -> Properties:
        """Return only the properties that ASE knows: ``Atoms.get_properties`` and socket clients raise on any other."""
        return standard(self.results)


@runtime_checkable
class WithBayesian(Protocol):
    """A calculator whose variances come from one Bayesian part: itself, or one of its parts.

    bayesian : the Bayesian part, with its calibration
    """

    @property
    def bayesian(self) -> BayesianCalculator:
        """The Bayesian part."""
        ...


@runtime_checkable
class Sampled(WithBayesian, Protocol):
    """A calculator that gives energy and forces of every draw."""

    def get_samples(self, atoms: Atoms | None = None) -> SampleArrays:
        """Return energy, forces and stress of every draw."""
        ...


def bayesian_of(calc: Calculator | None) -> BayesianCalculator | None:
    """Return the Bayesian part of a calculator, possibly the calculator itself; None where there is none."""
    return calc.bayesian if isinstance(calc, WithBayesian) else None


def standard(results: Mapping[str, Any]) -> Properties:
    """Return the results that ASE knows."""
    return Properties({key: value for key, value in results.items() if key in all_outputs})


def results_of(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as calculator results; absent quantities have no key."""
    results: dict[str, Any] = {"energy": prediction.energy, "free_energy": prediction.energy}
    for key in ("energies", "forces", "stress", DEVIATIONS):
        if getattr(prediction, key) is not None:
            results[key] = np.array(getattr(prediction, key))
    if prediction.without_spread:  # a request for a variance raises elsewhere
        results.pop(DEVIATIONS, None)
        return results
    for key in ("energy", "forces", "atom", "stress", "pressure"):
        variance = getattr(prediction, f"{key}_var")
        if variance is not None:
            results[f"{key}_var"] = variance
            results[f"{key}_std"] = float(np.sqrt(variance)) if np.ndim(variance) == 0 else np.sqrt(variance)
    return results
