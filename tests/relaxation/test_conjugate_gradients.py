"""Conjugate gradients for many right-hand sides against a direct solution."""

import numpy as np
import pytest

from blipcalc.relaxation.conjugate_gradients import conjugate_gradients

R, F = 5, 12


@pytest.fixture
def matrices():
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(R, F, F))
    return roots @ roots.swapaxes(1, 2) + np.eye(F)


def products(matrices, seen):
    def product(rows, directions):
        seen.append(len(rows))
        return np.einsum("rij,rj->ri", matrices[rows], directions)

    return product


def test_every_row_is_solved_with_its_own_matrix(matrices):
    right, seen = np.random.default_rng(1).normal(size=(R, F)), []
    right[2] = 0.0  # has nothing to solve
    found = conjugate_gradients(products(matrices, seen), right, lambda square: 1e-24 * square, 100)
    exact = np.linalg.solve(matrices, right[..., None])[..., 0]
    assert found.solved.all()
    np.testing.assert_allclose(found.x, exact, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.rest, right - np.einsum("rij,rj->ri", matrices, found.x), atol=1e-10)
    assert seen[0] == R - 1  # solved rows are left alone
    lowest = np.linalg.eigvalsh(matrices)[:, 0]
    assert (found.softest >= lowest * (1 - 1e-9)).all()


def test_a_preconditioner_that_is_the_inverse_takes_one_step(matrices):
    matrices[:] = matrices[0]
    right, seen = np.random.default_rng(1).normal(size=(R, F)), []
    inverse = np.linalg.inv(matrices[0])
    found = conjugate_gradients(
        products(matrices, seen), right, lambda square: 1e-20 * square, 100, lambda r: r @ inverse
    )
    assert found.solved.all()
    assert len(seen) == 1
    np.testing.assert_allclose(found.x, right @ inverse, rtol=1e-9)


def test_control_a_saddle_and_too_few_steps_are_seen(matrices):
    right = np.random.default_rng(1).normal(size=(R, F))
    short = conjugate_gradients(products(matrices, []), right, lambda square: 1e-24 * square, 3)
    assert not short.solved.any()
    matrices[3] -= 30.0 * np.eye(F)
    found = conjugate_gradients(products(matrices, []), right, lambda square: 1e-24 * square, 100)
    assert np.flatnonzero(found.softest <= 0).tolist() == [3]
    assert not found.solved[3]
