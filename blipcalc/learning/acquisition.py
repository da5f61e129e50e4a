"""Choose structures to label next, by pure functions from samples of K draws to indices.

| name | score of a structure |
|---|---|
| ``bald_energy`` | BALD of its energy |
| ``bald_forces`` | mean over atoms of BALD of their forces |
| ``bald_both`` | half of the budget by each |
| ``max_variance`` | mean over atoms of the total force variance |
| ``farthest_point`` | distance to labelled and chosen structures, between sorted pair distances |
| ``random`` | |

BALD needs networks with mean-variance heads.  Protocol and comparators are those of Willow, …, Myung, arXiv 2510.03046, section
2.4; the reduction of atomic forces to one number is not given there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from blipcalc.core.demanded import demanded
from blipcalc.core.prediction import SampleArrays, summarize
from blipcalc.errors import ConfigurationError
from blipcalc.stats.information import bald, bald_vector

Array = np.ndarray


#: names of the table above
CRITERIA = ("bald_energy", "bald_forces", "bald_both", "max_variance", "farthest_point", "random")


def choose(
    criterion: str,
    n: int,
    pool: Sequence[Atoms],
    *,
    known: Sequence[Atoms] = (),
    samples: Sequence[SampleArrays] | None = None,
    rng: np.random.Generator | None = None,
) -> Array:
    """Return the indices of n structures of the pool by one of :data:`CRITERIA`, the highest score first.

    known : labelled structures, for ``farthest_point``; samples : of the pool, in its order, for all criteria that use the model;
    rng : for ``random``
    raises : ConfigurationError for an unknown name, a missing argument, or more structures than there are
    """
    if criterion == "farthest_point":
        return farthest_point(pool, known, n)
    if criterion == "random":
        if rng is None:
            raise ConfigurationError("criterion='random' takes rng, a numpy.random.Generator")
        return random(len(pool), n, rng)
    if criterion not in CRITERIA:
        raise ConfigurationError(f"criterion={criterion!r}; expected one of {', '.join(CRITERIA)}")
    if samples is None or len(samples) != len(pool):
        raise ConfigurationError(
            f"criterion={criterion!r} takes samples of all {len(pool)} structures of the pool, got "
            f"{'none' if samples is None else len(samples)}"
        )
    if criterion == "bald_both":
        return bald_both(samples, n)
    return highest(
        {"bald_energy": bald_energy, "bald_forces": bald_forces, "max_variance": max_variance}[criterion](samples), n
    )


def bald_energy(samples: Sequence[SampleArrays]) -> Array:
    """Return the BALD scores (S,) of energies, nats."""
    _check_heads(samples)
    return np.array([bald(s.energy, demanded(s.energy_var, "variances of the energy")) for s in samples])


def bald_forces(samples: Sequence[SampleArrays], *, pool: str = "mean") -> Array:
    """Return the BALD scores (S,) of forces, nats; ``pool`` over atoms: ``mean``, or ``max``."""
    if pool not in ("mean", "max"):
        raise ConfigurationError(f"pool={pool!r}; expected 'mean' or 'max'")
    _check_heads(samples)
    scores = [
        bald_vector(demanded(s.forces, "forces"), demanded(s.forces_cov, "covariances of the forces")) for s in samples
    ]
    return np.array([getattr(score, pool)() for score in scores])


def max_variance(samples: Sequence[SampleArrays]) -> Array:
    """Return the mean over atoms of the total variance of a force component (S,), (eV/Å)²."""
    found = [summarize(np.zeros(demanded(s.forces, "forces").shape[1], int), s).atom_var for s in samples]
    return np.array([demanded(variance, "variances of the forces").mean() for variance in found])


def highest(scores: Array, n: int) -> Array:
    """Return the indices of the n highest scores, highest first; ties in the order of the structures."""
    _check_budget(n, len(scores))
    return np.argsort(-np.asarray(scores), kind="stable")[:n]


def bald_both(samples: Sequence[SampleArrays], n: int) -> Array:
    """Return n indices, half by BALD of the energy, half by that of the forces, without duplicates."""
    _check_budget(n, len(samples))
    orders = [np.argsort(-scores, kind="stable") for scores in (bald_energy(samples), bald_forces(samples))]
    chosen: list[int] = []
    for order, budget in zip(orders, (n - n // 2, n // 2), strict=True):
        chosen += [int(i) for i in order if int(i) not in chosen][:budget]
    return np.array(chosen)


def farthest_point(pool: Sequence[Atoms], known: Sequence[Atoms], n: int) -> Array:
    """Return the indices of n structures of the pool, each the farthest from all known and previously chosen ones.

    Descriptor: all pair distances, sorted, Å; so pool and known must have one composition and no periodic cell.
    """
    _check_budget(n, len(pool))
    formulas = {atoms.get_chemical_formula() for atoms in (*pool, *known)}
    if len(formulas) > 1:
        raise ConfigurationError(
            f"farthest_point compares structures of one composition, got {', '.join(sorted(formulas))}"
        )
    points = np.stack([_sorted_distances(atoms) for atoms in pool])
    nearest = np.full(len(pool), np.inf)
    for atoms in known:
        nearest = np.minimum(nearest, np.linalg.norm(points - _sorted_distances(atoms), axis=1))
    chosen: list[int] = []
    for _ in range(n):
        # without known structures, the first is the one farthest from the mean
        distance = np.linalg.norm(points - points.mean(axis=0), axis=1) if np.isinf(nearest).all() else nearest
        chosen.append(int(np.argmax(distance)))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
        nearest[chosen] = -1.0
    return np.array(chosen)


def random(n_pool: int, n: int, rng: np.random.Generator) -> Array:
    """Return n random indices."""
    _check_budget(n, n_pool)
    return rng.permutation(n_pool)[:n]


def _sorted_distances(atoms: Atoms) -> Array:
    if atoms.pbc.any():
        raise ConfigurationError("farthest_point takes molecules; periodic structures have no finite list of pairs")
    i, j = np.triu_indices(len(atoms), 1)
    return np.sort(np.linalg.norm(atoms.positions[i] - atoms.positions[j], axis=1))


def _check_budget(n: int, n_pool: int) -> None:
    if not 1 <= n <= n_pool:
        raise ConfigurationError(f"cannot choose {n} of {n_pool} structures")


def _check_heads(samples: Sequence[SampleArrays]) -> None:
    for i, s in enumerate(samples):
        if s.energy_var is None or s.forces_cov is None:
            raise ConfigurationError(
                f"structure {i} has no variances of single draws: BALD takes networks with heads (objective nll_jef)"
            )
        if len(s.energy) < 2:
            raise ConfigurationError("BALD takes two draws or more")
