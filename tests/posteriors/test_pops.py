"""POPS where its answers are known: a straight line, which no weights bend to the parabola that it is fitted to.

Energies x² of points on a line and forces -2x, and the model w₁ x + w₀ with forces -w₁: labels without noise, a likelihood that
is surer with every one of them, and errors that stay.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.posteriors.laplace import last_layer_laplace
from blipcalc.posteriors.last_layer import Gram, LastLayerPosterior, flat
from blipcalc.posteriors.pops import PopsPosterior, corrections, pops


def line_on_parabola(n):
    """The Laplace posterior of the best line, and the labels as POPS takes them: rows (2, n), residuals (n,), noise."""
    x = torch.linspace(-0.8, 1.0, n, dtype=torch.float64)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    energy, forces = torch.stack([x, one]), torch.stack([-one, zero])
    rows, values = torch.cat([energy, forces], dim=1), torch.cat([x**2, -2 * x])
    best = torch.linalg.lstsq(rows.T, values).solution
    weights = {"last.weight": best[None, :1], "last.bias": best[1:]}
    errors = [values[:n] - energy.T @ best, values[n:] - forces.T @ best]
    sse = [float(error.square().sum()) for error in errors]
    posterior, found = last_layer_laplace(weights, Gram(energy @ energy.T, forces @ forces.T, *sse, n, n))
    noise = found["noise_energy"], found["noise_forces"]
    return posterior, list(zip((energy, forces), errors, noise, strict=True))


def envelope(posterior, rows):
    """Least and largest change (n,) of what depends on the weights by rows (P, n), over the box: interval arithmetic."""
    along = posterior.axes.T @ rows
    ends = torch.stack([along * posterior.low[:, None], along * posterior.high[:, None]])
    return ends.amin(dim=0).sum(dim=0), ends.amax(dim=0).sum(dim=0)


def test_corrections_meet_their_labels_by_the_shortest_way_and_lie_in_the_box():
    posterior, labels = line_on_parabola(40)
    box = pops(posterior, labels)
    precision = torch.linalg.inv(posterior.factor @ posterior.factor.T)
    reached = []
    for rows, errors, _ in labels:
        found = corrections(posterior.factor, rows, errors, 0.0)
        torch.testing.assert_close((rows * found).sum(dim=0), errors, rtol=1e-12, atol=1e-12)
        # at the least of δᵀ A δ under xᵀδ = r, A δ is along x
        along = precision @ found
        cosine = (along * rows).sum(dim=0).abs() / (along.norm(dim=0) * rows.norm(dim=0))
        torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=1e-10, atol=0)
        reached.append(box.axes.T @ found)
    reached = torch.cat(reached, dim=1)
    # the smallest such box: it ends where they end; along their principal axes
    torch.testing.assert_close(reached.amin(dim=1), box.low, rtol=0, atol=1e-12)
    torch.testing.assert_close(reached.amax(dim=1), box.high, rtol=0, atol=1e-12)
    second = reached @ reached.T
    torch.testing.assert_close(second, second.diagonal().diag(), rtol=0, atol=1e-10 * float(second.max()))
    torch.testing.assert_close(box.axes.T @ box.axes, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-12)
    # ŵ is in it, but not its middle
    assert (box.low < 0).all()
    assert (box.high > 0).all()
    assert float(((box.low + box.high) / (box.high - box.low)).abs().max()) > 0.1


def test_the_box_reaches_every_label_of_a_misspecified_model_and_laplace_does_not():
    posterior, labels = line_on_parabola(400)
    box, covered = pops(posterior, labels), []
    for rows, errors, _ in labels:
        low, high = envelope(box, rows)
        assert (low <= errors + 1e-12).all()
        assert (errors - 1e-12 <= high).all()
        std = (posterior.factor.T @ rows).norm(dim=0)
        covered.append(errors.abs() <= 1.96 * std)
    assert float(torch.cat(covered).double().mean()) < 0.3


def test_the_box_does_not_narrow_with_more_labels_and_laplace_does():
    spread = {}
    for n in (100, 10_000):
        posterior, labels = line_on_parabola(n)
        box, rows = pops(posterior, labels), labels[0][0]
        uniform = (box.high - box.low) / math.sqrt(12)
        stds = [(uniform[:, None] * (box.axes.T @ rows)).norm(dim=0), (posterior.factor.T @ rows).norm(dim=0)]
        spread[n] = [float(std.mean()) for std in stds]
    of_box, of_laplace = (spread[10_000][k] / spread[100][k] for k in range(2))
    assert of_box == pytest.approx(1.0, abs=0.05)
    assert of_laplace == pytest.approx(0.1, rel=0.05)


@pytest.mark.chance(4)
def test_draws_are_uniform_in_the_box_and_do_not_know_their_number(chance):
    posterior, labels = line_on_parabola(40)
    box, k = pops(posterior, labels), chance.times(5000)
    seed = chance.seed()
    draws = box.draw(k, generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([draws.overrides["last.weight"][:, 0], draws.overrides["last.bias"]], dim=1)
    inside = (rows - flat(box.weights)) @ box.axes
    unit = (inside - box.low) / (box.high - box.low)
    for axis in unit.T:
        assert stats.kstest(axis.numpy(), "uniform").pvalue > chance.p
    assert abs(float(torch.corrcoef(unit.T)[0, 1])) < chance.sigmas / math.sqrt(k)
    few = box.draw(3, generator=torch.Generator().manual_seed(seed))
    for key, value in few.overrides.items():
        assert torch.equal(value, draws.overrides[key][:3])
    assert not box.centre().overrides
    with pytest.raises(DrawsError, match="at least one"):
        box.draw(0, generator=torch.Generator())


def test_labels_that_the_weights_hardly_move_are_left_out():
    """The force on an atom without neighbours, or one that vanishes by symmetry but for the last digits of the positions."""
    posterior, labels = line_on_parabola(40)
    box = pops(posterior, labels)
    rows, errors, noise = labels[1]
    nothing = torch.tensor([[0.0, 1e-17, 1e-3], [0.0, -1e-17, 0.0]], dtype=torch.float64)
    more = torch.cat([rows, nothing], dim=1), torch.cat([errors, torch.tensor([5.0, -5.0, 0.1])]), noise
    again = pops(posterior, [labels[0], more])
    for key, value in box.tensors().items():
        assert torch.equal(again.tensors()[key], value)
    with pytest.raises(ConfigurationError, match="no label"):
        pops(posterior, [(nothing, torch.ones(3, dtype=torch.float64), noise)])
    with pytest.raises(ConfigurationError, match="no label"):
        pops(posterior, [(rows, 0 * errors, noise)])


@pytest.mark.peers
def test_the_box_is_that_of_popsregression():
    """The package of its authors on its own data: noise-free, a polynomial of too low a degree."""
    POPSRegression = pytest.importorskip("popsregression").POPSRegression
    x = np.linspace(-10, 10, 60)
    design, values = np.vander(x / 10, 5), x * np.sin(x)
    settings = {"leverage_percentile": 0.0, "resample_density": 4000.0}
    theirs = POPSRegression(posterior="ensemble", **settings).fit(design, values)
    rows, errors = torch.tensor(design.T), torch.tensor(values - design @ theirs.coef_)
    weights = {"last.weight": torch.tensor(theirs.coef_)[None]}
    factor = torch.linalg.cholesky(torch.tensor(theirs.sigma_))
    noise = theirs.alpha_**-0.5
    ours = corrections(factor, rows, errors, 0.0)
    np.testing.assert_allclose(ours, theirs.posterior_samples_, rtol=1e-6, atol=1e-6 * float(ours.abs().max()))
    box = pops(LastLayerPosterior(weights, factor, "laplace"), [(rows, errors, noise)])
    samples = POPSRegression(**settings).fit(design, values).posterior_samples_
    inside = box.axes.T.numpy() @ samples
    width = (box.high - box.low).numpy()
    for ends, bound in ((inside.min(axis=1), box.low), (inside.max(axis=1), box.high)):
        np.testing.assert_allclose((ends - bound.numpy()) / width, 0.0, atol=1e-4)
    assert isinstance(box, PopsPosterior)
