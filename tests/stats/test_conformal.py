"""Conformal quantiles: order statistics, coverage laws, and what goes wrong without frames or without elements."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from blipcalc.stats.conformal import (
    confident_count,
    conformal_quantile,
    coverage_law,
    coverage_limits,
    frame_maximum,
    frame_weighted_quantile,
    minimum_count,
    one_per_frame,
    subsampled_quantile,
)


def norms(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Norms of standard Gaussian 3-vectors."""
    return np.sqrt(rng.chisquare(3, size=shape))


def framed_norms(rng: np.random.Generator, frames: int, atoms: int = 64) -> np.ndarray:
    """(frames, atoms) norm scores with a log-normal factor of log-sd 0.3 per frame."""
    return norms(rng, frames, atoms) * np.exp(0.3 * rng.standard_normal((frames, 1)))


@pytest.mark.parametrize(
    ("n", "level", "rank"),
    [(19, 0.95, 19), (99, 0.95, 95), (100, 0.95, 96), (99, 0.07, 7), (9, 0.9, 9), (999, 0.68, 680)],
)
def test_quantile_is_the_right_order_statistic(n, level, rank):
    scores = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert conformal_quantile(scores, level) == rank


@pytest.mark.parametrize(("level", "least"), [(0.5, 1), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999), (0.68, 3)])
def test_too_few_scores_promise_nothing(level, least):
    assert minimum_count(level) == least
    assert conformal_quantile(np.arange(least), level) == least - 1
    assert conformal_quantile(np.arange(least - 1), level) == np.inf


@pytest.mark.parametrize(("level", "count"), [(0.9, 29), (0.95, 59), (0.99, 299), (0.999, 2995)])
def test_count_for_a_confident_statement(level, count):
    assert confident_count(level) == count
    assert 1 - level**count >= 0.95 > 1 - level ** (count - 1)


def test_infinite_scores_rank_and_nan_does_not():
    assert conformal_quantile([1.0, np.inf, 2.0], 0.5) == 2.0
    assert conformal_quantile([1.0, np.inf, np.inf], 0.75) == np.inf
    for call in (
        lambda s: conformal_quantile(s, 0.5),
        lambda s: one_per_frame(s, [0, 1], np.random.default_rng(0)),
        lambda s: frame_weighted_quantile(s, [0, 1], 0.5),
        lambda s: subsampled_quantile(s, [0, 1], 0.5, np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
            call([1.0, np.nan])


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.1, np.nan])
def test_levels_are_fractions(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_quantile([1.0], level)
    with pytest.raises(ValueError, match="between 0 and 1"):
        minimum_count(level)


@pytest.mark.parametrize(("n", "low", "high"), [(100, 0.901, 0.984), (1000, 0.936, 0.963), (10_000, 0.946, 0.954)])
def test_law_of_the_true_coverage(n, low, high):
    a, b = coverage_law(n, 0.95)
    assert (a, b) == (n + 1 - int((n + 1) * 0.05), int((n + 1) * 0.05))
    assert beta.ppf([0.025, 0.975], a, b) == pytest.approx([low, high], abs=0.001)


def test_limits_of_the_table_are_wider_than_binomial_ones():
    assert coverage_limits(1000, 1000, 0.95) == pytest.approx((0.923, 0.973), abs=1e-9)
    assert coverage_limits(10**6, 1000, 0.95) == pytest.approx((0.931, 0.967), abs=1e-9)
    with pytest.raises(ValueError, match="at least 99"):
        coverage_limits(98, 1000, 0.99)


@pytest.mark.chance(4)
def test_coverage_follows_its_law_and_overconfidence_leaves_the_limits(chance):
    rng = chance.rng()
    repeats, n = chance.times(2000), 100
    quantiles = np.array([conformal_quantile(row, 0.95) for row in norms(rng, repeats, n)])
    covered = (norms(rng, repeats, n) <= quantiles[:, None]).mean(axis=1)
    a, b = coverage_law(n, 0.95)
    assert covered.mean() == pytest.approx(a / (a + b), abs=chance.sigmas * covered.std() / np.sqrt(repeats))
    low, high = coverage_limits(n, n, 0.95)
    inside = ((covered >= low) & (covered <= high)).sum()
    assert inside >= chance.counts(repeats, 0.99)[0]
    overconfident = (1.5 * norms(rng, repeats, n) <= quantiles[:, None]).mean(axis=1)
    assert np.mean(overconfident < low) > 0.8
    narrow = np.mean(np.abs(covered - 0.95) <= 2.576 * np.sqrt(0.95 * 0.05 / n))
    assert narrow < 0.97  # binomial limits reject good models


@pytest.mark.chance(3)
def test_limits_at_a_thousand_frames(chance):
    rng = chance.rng()
    low, high = coverage_limits(1000, 1000, 0.95, 1 - chance.p)
    quantile = conformal_quantile(norms(rng, 1000), 0.95)
    assert low <= np.mean(norms(rng, 1000) <= quantile) <= high
    assert np.mean(1.6 * norms(rng, 1000) <= quantile) < low  # sigma 60 % too small
    assert np.mean(norms(rng, 1000) / 2 <= quantile) > high  # sigma twice as large


@pytest.mark.chance(6)
def test_one_atom_per_frame_is_uniform(chance):
    frames = np.array([4, 2, 4, 2, 4, 9])
    rng, n = chance.rng(), chance.times(6000)
    picked = np.array([one_per_frame(np.zeros(6), frames, rng) for _ in range(n)])
    assert np.array_equal(frames[picked], np.tile([2, 4, 9], (n, 1)))
    for times, share in zip(
        np.bincount(picked.ravel(), minlength=6), [1 / 3, 1 / 2, 1 / 3, 1 / 2, 1 / 3, 1], strict=True
    ):
        low, high = chance.counts(n, share)
        assert low <= times <= high


def test_frame_maximum():
    assert frame_maximum([1.0, 5.0, 3.0, 2.0], [8, 3, 8, 3]).tolist() == [5.0, 3.0]
    assert np.isnan(frame_maximum([1.0, np.nan, 3.0], [0, 0, 1])).tolist() == [True, False]


@pytest.mark.chance(1)
def test_subsampled_quantile_between_its_two_ends(chance):
    rng = chance.rng()
    scores = framed_norms(rng, 150, 20).ravel()
    frames = np.repeat(np.arange(150), 20)
    once = [subsampled_quantile(scores, frames, 0.9, np.random.default_rng(s), repeats=1) for s in range(5)]
    same = [conformal_quantile(scores[one_per_frame(scores, frames, np.random.default_rng(s))], 0.9) for s in range(5)]
    assert once == same
    many = subsampled_quantile(scores, frames, 0.9, rng, repeats=3000)
    assert many == pytest.approx(frame_weighted_quantile(scores, frames, 0.9), rel=0.02)
    assert subsampled_quantile(scores, frames, 0.999, rng) == frame_weighted_quantile(scores, frames, 0.999) == np.inf
    with pytest.raises(ValueError, match="repeat"):
        subsampled_quantile(scores, frames, 0.9, rng, repeats=0)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_weighted_quantile_of_lone_atoms_is_the_plain_one(level):
    scores = np.random.default_rng(4).normal(size=99)
    assert frame_weighted_quantile(scores, np.arange(99), level) == conformal_quantile(scores, level)
    tripled = np.repeat(scores, 3)
    assert frame_weighted_quantile(tripled, np.repeat(np.arange(99), 3), level) == conformal_quantile(scores, level)


@pytest.mark.chance(3)
def test_few_frames_are_covered_by_frames_not_by_atoms(chance):
    rng, n = chance.rng(), chance.times(800)
    frames = np.repeat(np.arange(20), 50)
    by_frame, by_atom = [], []
    for _ in range(n):
        common = np.exp(rng.standard_normal((21, 1)))
        scores = norms(rng, 21, 50) * common
        known, new = scores[:20].ravel(), scores[20]
        by_frame.append(np.mean(new <= subsampled_quantile(known, frames, 0.9, rng, repeats=30)))
        by_atom.append(np.mean(new <= conformal_quantile(known, 0.9)))
    assert np.mean(by_frame) >= 0.9 - chance.sigmas * np.std(by_frame) / np.sqrt(n)
    # 1000 atoms promise more than 20 frames hold: on the same frames, one by one
    lost = np.subtract(by_frame, by_atom)
    assert lost.mean() > chance.sigmas * lost.std() / np.sqrt(n)


@pytest.mark.chance(5)
def test_atom_quantile_does_not_cover_a_frame(chance):
    rng = chance.rng()
    frames = np.repeat(np.arange(500), 64)
    atom, whole = [], []
    for _ in range(chance.times(8)):
        scores = framed_norms(rng, 500).ravel()
        atom.append(subsampled_quantile(scores, frames, 0.95, rng, repeats=20))
        whole.append(conformal_quantile(frame_maximum(scores, frames), 0.95))
    q_atom, q_frame = np.mean(atom), np.mean(whole)
    assert q_atom == pytest.approx(3.44, rel=0.05)
    assert q_frame == pytest.approx(5.97, rel=0.05)
    new = framed_norms(rng, chance.times(4000))
    assert np.mean(new <= q_atom) == pytest.approx(0.95, abs=0.015)
    assert np.mean(new.max(axis=1) <= q_atom) == pytest.approx(0.52, abs=0.1)
    assert np.mean(new.max(axis=1) <= q_frame) == pytest.approx(0.955, abs=0.02)


@pytest.mark.chance(1)
def test_independent_atoms_violate_somewhere(chance):
    new = norms(chance.rng(), chance.times(10_000), 50)
    quantile = conformal_quantile(norms(chance.rng(1), chance.times(100_000)), 0.95)
    assert np.mean(new.max(axis=1) > quantile) == pytest.approx(0.92, abs=0.02)


@pytest.mark.chance(6)
def test_one_quantile_per_element(chance):
    rng, n = chance.rng(), chance.times(50_000)
    bad = rng.random((2, n)) < 0.1
    known, new = norms(rng, 2, n) * np.where(bad, 2.0, 1.0)  # one element's sigma is too small by a factor 2
    pooled = new <= conformal_quantile(known, 0.95)
    assert pooled.mean() == pytest.approx(0.95, abs=0.01)
    assert pooled[~bad[1]].mean() == pytest.approx(0.992, abs=0.005)
    assert pooled[bad[1]].mean() == pytest.approx(0.594, abs=0.03)  # the flaw that pooling hides
    for element in (False, True):
        own = conformal_quantile(known[bad[0] == element], 0.95)
        low, high = coverage_limits(int((bad[0] == element).sum()), int((bad[1] == element).sum()), 0.95, 1 - chance.p)
        assert low <= np.mean(new[bad[1] == element] <= own) <= high
        assert not low <= pooled[bad[1] == element].mean() <= high
