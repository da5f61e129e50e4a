"""Snapshots: results of a calculator, stored with the structure and carried through ASE's own files."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_properties, compare_atoms
from ase.outputs import Properties

from blipcalc.adapters.ase_results import ELECTRONS, PREFIX, changes
from blipcalc.calculators.bayesian import CARRIED, bayesian_of, standard
from blipcalc.core.dropped_by_ase import KEPT
from blipcalc.core.one_at_a_time import Lockable
from blipcalc.core.prediction import SampleArrays

PROVENANCE = ("calibrated", "surface", "n_draws", "seed")
#: key of the fingerprint of the structure that the annotations belong to
FINGERPRINT = f"{PREFIX}fingerprint"


class SnapshotCalculator(Calculator):
    """Stored results of one structure; unlike ``SinglePointCalculator`` it takes every key.

    Requests change nothing, so threads need no lock.

    Parameters
    ----------
    atoms : the structure that the results belong to
    results : {key: value}
    provenance : calibrated, surface, n_draws, seed; kept in ``parameters``
    samples : the draws, where they were stored

    Raises
    ------
    PropertyNotImplementedError : a key that is not stored, or a structure that has changed
    """

    name = "frozen"

    def __init__(
        self,
        atoms: Atoms,
        results: Mapping[str, Any],
        provenance: Mapping[str, Any] | None = None,
        samples: SampleArrays | None = None,
    ) -> None:
        super().__init__()
        self.atoms, self.samples = atoms.copy(), samples
        self.results = {key: np.array(value) if np.ndim(value) else value for key, value in results.items()}
        self.implemented_properties = list(self.results)
        self.parameters.update(provenance or {})

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what differs from the stored structure, including total charge and spin in ``info``.

        NaN equals NaN: a broken frame is still the same frame.
        """
        return _changes(self.atoms, atoms, tol) or changes(self.atoms, atoms)

    def changes(self, seen: Atoms | None, atoms: Atoms) -> list[str]:
        """Return ``["info"]`` where total charge or spin in ``info`` differ between two structures, else nothing."""
        return changes(seen, atoms)

    def calculate(
        self, atoms: Atoms | None = None, properties: Sequence[str] = (), system_changes: Sequence[str] = ()
    ) -> None:
        """Do nothing for the stored structure; refuse any other."""
        changes = [] if atoms is None else self.check_state(atoms)
        if changes:
            raise PropertyNotImplementedError(
                f"these results belong to another structure ({', '.join(changes)} changed); attach a calculator"
            )

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a copy of a stored result; with ``allow_calculation=False`` None instead of an error."""
        try:
            self.calculate(atoms)
            if name not in self.results:
                raise PropertyNotImplementedError(f"no {name!r} was stored; there is {', '.join(self.results)}")
        except PropertyNotImplementedError:
            if allow_calculation:
                raise
            return None
        value = self.results[name]
        return value.copy() if isinstance(value, np.ndarray) else value

    def export_properties(self) -> Properties:
        """Return only the properties that ASE knows."""
        return standard(self.results)


def snapshot(atoms: Atoms, source: Calculator | None = None, *, compute: Sequence[str] = ()) -> Atoms:
    """Return a copy of a structure with its calculator's current results; only the keys in ``compute`` are computed.

    Results of an earlier structure are left out.

    source : calculator that gives the uncertainties, by default ``atoms.calc`` (ASE's sums of calculators drop those of their
        parts)
    compute : keys to compute first where they are not known, ``("forces", "atom_std")``: a calculator shared by many images
        knows only the last one
    """
    copy, source = atoms.copy(), source or atoms.calc
    with _held(atoms.calc, source):
        for key in compute:
            (source if key in CARRIED else atoms.calc).get_property(key, atoms)
        results = {**_current(atoms, atoms.calc, all_properties), **_current(atoms, source, CARRIED)}
    if results:
        samples = source.samples if isinstance(source, SnapshotCalculator) else None
        copy.calc = SnapshotCalculator(copy, results, _provenance(source), samples)
    return copy


def annotations(atoms: Atoms, source: Calculator | None = None) -> dict[str, Any]:
    """Return the current results that ASE's files would drop, under prefixed names; arrays keep their shape."""
    source = source or atoms.calc
    with _held(source):
        kept = _current(atoms, source, CARRIED)
    if not kept:
        return {}
    found = {PREFIX + key: value for key, value in {**kept, **_provenance(source)}.items() if value is not None}
    return {**found, FINGERPRINT: fingerprint(atoms)}


def annotate(atoms: Atoms, source: Calculator | None = None) -> None:
    """Put :func:`annotations` into ``atoms.info``, where ASE's ``.traj`` writer keeps them, and remove older ones.

    Where the calculator holds no uncertainties, annotations from a file stay as long as the structure is unchanged.
    """
    current = annotations(atoms, source)
    if current:
        clear_annotations(atoms)
        atoms.info.update(current)
    else:
        clear_stale_annotations(atoms)


def clear_annotations(atoms: Atoms) -> None:
    """Remove all annotations; what files keep of the structure itself stays."""
    for place in (atoms.info, atoms.arrays):
        for key in [key for key in place if str(key).startswith(PREFIX) and key != KEPT]:
            del place[key]


def clear_stale_annotations(atoms: Atoms) -> None:
    """Remove annotations of another structure, such as one whose positions, cell or elements have changed since."""
    noted = atoms.info.get(FINGERPRINT)
    # text files keep eight decimals of a position
    if noted is not None and not np.isclose(noted, fingerprint(atoms), rtol=0.0, atol=1e-6, equal_nan=True):
        clear_annotations(atoms)


def fingerprint(atoms: Atoms) -> float:
    """Return one number for elements, positions, cell, periodicity, charges and spins.

    It is a sum with fixed random weights, of unit mean square.

    It changes smoothly, so that a structure rounded by a file is still recognised.
    """
    electrons = [value if isinstance(value := atoms.info.get(key, 0.0), (int, float)) else 0.0 for key in ELECTRONS]
    of_atoms = (atoms.get_initial_charges(), atoms.get_initial_magnetic_moments())
    parts = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, electrons, *of_atoms)
    values = np.concatenate([np.ravel(part).astype(np.float64) for part in parts])
    weights = np.random.default_rng(0).standard_normal(len(values))
    return float(weights @ values / np.sqrt(len(values)))


def _changes(before: Atoms | None, after: Atoms, tol: float = 1e-15) -> list[str]:
    """Compare structures as ASE does, with NaN equal to NaN."""
    values: dict[str, Callable[[Atoms], Any]] = {"positions": lambda a: a.positions, "cell": lambda a: a.cell.array}
    return [
        change
        for change in compare_atoms(before, after, tol=tol)
        if before is None
        or change not in values
        or not np.array_equal(values[change](before), values[change](after), equal_nan=True)
    ]


@contextlib.contextmanager
def _held(*calculators: Calculator | None) -> Iterator[None]:
    """Hold the locks of calculators, so that their results stay those of one structure."""
    with contextlib.ExitStack() as held:
        for calculator in calculators:
            if isinstance(calculator, Lockable):
                held.enter_context(calculator.lock)
        yield


def _current(atoms: Atoms, calc: Calculator | None, keys: Sequence[str]) -> dict[str, Any]:
    """Return those results of a calculator that belong to exactly this structure."""
    if calc is None or _changes(calc.atoms, atoms) or changes(calc.atoms, atoms, [calc]):
        return {}
    return {key: calc.results[key] for key in keys if calc.results.get(key) is not None}


def _provenance(calc: Calculator) -> dict[str, Any]:
    part = bayesian_of(calc)
    if part is not None:
        predictor = part.predictor
        values = (part.calibration is not None, predictor.surface, predictor.n_draws, part.parameters.get("seed"))
        return dict(zip(PROVENANCE, values, strict=True))
    return dict(calc.parameters) if isinstance(calc, SnapshotCalculator) else {}
