"""Resampling of whole frames: intervals that hold, and how many points the atoms of a frame are worth."""

from __future__ import annotations

import numpy as np
import pytest

from blipcalc.stats.bootstrap import effective_sample_size, frame_bootstrap, frame_layout
from blipcalc.stats.spread import spread


def framed_scores(rng: np.random.Generator, frames: int = 200, atoms: int = 100) -> tuple[np.ndarray, np.ndarray]:
    """Scores |N(0, 1)| exp(u / 2) with one u per frame, and the labels of the frames."""
    common = np.exp(0.5 * rng.standard_normal((frames, 1)))
    return (np.abs(rng.standard_normal((frames, atoms))) * common).ravel(), np.repeat(np.arange(frames), atoms)


def test_layout_of_unsorted_frames():
    layout = frame_layout(["b", "a", "b", "c", "a"], 5)
    rows = [set(layout.order[s : s + c].tolist()) for s, c in zip(layout.starts, layout.counts, strict=True)]
    assert rows == [{1, 4}, {0, 2}, {3}]


@pytest.mark.parametrize(("frames", "n"), [([1, 2], 3), ([], 0), ([[1], [2]], 2)])
def test_labels_must_match_the_rows(frames, n):
    with pytest.raises(ValueError, match=f"n={n} rows"):
        frame_layout(frames, n)


def test_resamples_are_whole_frames():
    values, frames = np.array([5.0, 1.0, 5.0, 2.0, 1.0, 1.0]), np.array([7, 3, 7, 5, 3, 3])
    seen = []
    frame_bootstrap(values, frames, lambda rows: seen.append(tuple(sorted(rows))) or 0.0, np.random.default_rng(0), 300)
    parts = {3: (1.0, 1.0, 1.0), 5: (2.0,), 7: (5.0, 5.0)}
    allowed = {tuple(sorted(parts[a] + parts[b] + parts[c])) for a in parts for b in parts for c in parts}
    assert set(seen) == allowed


@pytest.mark.chance(2)
def test_rows_may_carry_several_columns(chance):
    rng = chance.rng()
    rows, frames = rng.normal(size=(60, 2)) + np.array([10.0, 5.0]), np.repeat(np.arange(12), 5)
    low, high = frame_bootstrap(rows, frames, lambda r: r[:, 0].mean() / r[:, 1].mean(), rng, 400)
    assert low < rows[:, 0].mean() / rows[:, 1].mean() < high
    # one value of 60: (1 + 2²) / 5² of a variance, twelve frames
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(5 / 25 / 60), rel=0.8)


@pytest.mark.chance(2)
def test_interval_holds_where_the_one_over_atoms_does_not(chance):
    repeats, hits, hits_of_atoms = chance.times(150), 0, 0
    rng = chance.rng()
    for _ in range(repeats):
        common = rng.standard_normal((40, 1))
        values, frames = (common + rng.standard_normal((40, 20))).ravel(), np.repeat(np.arange(40), 20)
        low, high = frame_bootstrap(values, frames, np.mean, rng, 200)
        hits += low < 0 < high
        low, high = frame_bootstrap(values, np.arange(values.size), np.mean, rng, 100)
        hits_of_atoms += low < 0 < high
    assert hits >= chance.counts(repeats, 0.93)[0]  # 40 frames make it a little too narrow
    assert hits_of_atoms < chance.counts(repeats, 0.93)[0]  # atoms taken as independent: overconfident


@pytest.mark.chance(1)
def test_width_is_that_of_the_frame_means(chance):
    rng = chance.rng()
    values, frames = framed_scores(rng, frames=100, atoms=10)
    low, high = frame_bootstrap(values, frames, np.mean, rng, chance.times(2000))
    error = np.sqrt(spread(values.reshape(100, 10).mean(axis=1))[1] / 100)
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.15)


@pytest.mark.chance(2)
def test_twenty_thousand_atoms_are_worth_about_1160_points(chance):
    found = []
    for key in range(chance.times(30)):
        rng = chance.rng(key)
        scores, frames = framed_scores(rng)
        above = scores > np.quantile(scores, 0.95)
        found.append(effective_sample_size(above, frames, rng, 300))
    assert np.mean(found) == pytest.approx(1160, rel=0.3)
    assert effective_sample_size(above, np.arange(above.size), rng, 300) == pytest.approx(20_000, rel=0.5)


@pytest.mark.chance(2)
def test_effective_size_of_the_two_ends(chance):
    rng = chance.rng()
    frames = np.repeat(np.arange(300), 10)
    copies = np.repeat(rng.standard_normal(300), 10)
    assert effective_sample_size(copies, frames, rng) == pytest.approx(300, rel=0.35)
    alone = rng.standard_normal(3000)
    assert effective_sample_size(alone, frames, rng) == pytest.approx(3000, rel=0.6)
    assert np.isnan(effective_sample_size(np.ones(3000), frames, rng))


@pytest.mark.chance(1)
def test_few_frames_are_not_worth_more_than_they_are(chance):
    # copies of F frame values: n (F - 1) / (n - 1) exactly; without the factor F / (F - 1) it would be 4
    values = np.repeat([1.0, 2.0, 4.0, 8.0], 1000)
    found = effective_sample_size(values, np.repeat(np.arange(4), 1000), chance.rng(), chance.times(10_000))
    assert found == pytest.approx(4000 * 3 / 3999, rel=0.05)


@pytest.mark.chance(1)
def test_effective_size_matches_the_design_effect(chance):
    rng = chance.rng()
    frames = np.repeat(np.arange(4000), 5)
    values = np.repeat(rng.standard_normal(4000), 5) + rng.standard_normal(20_000)
    assert effective_sample_size(values, frames, rng) == pytest.approx(20_000 / (1 + 4 * 0.5), rel=0.25)


def test_one_frame_cannot_be_resampled():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="got 1 and"):
        frame_bootstrap([1.0, 2.0], [0, 0], np.mean, rng)
    with pytest.raises(ValueError, match="got 1 and"):
        effective_sample_size([1.0, 2.0], [0, 0], rng)
    with pytest.raises(ValueError, match="confidence"):
        frame_bootstrap([1.0, 2.0], [0, 1], np.mean, rng, 10, confidence=95)
    with pytest.raises(ValueError, match="shape"):
        effective_sample_size(np.ones((4, 3)), np.arange(4), rng)
