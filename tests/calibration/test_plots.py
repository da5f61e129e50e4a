"""Plots are written, whatever is missing, and leave no trace in the process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blipcalc.calibration.coverage import atom_coverage
from blipcalc.report import plots
from blipcalc.report.plots import _weighted_distribution, comparison_plot, error_against_sigma_plot, reliability_plot

PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def cases(residuals, fitted, joined):
    rng = np.random.default_rng(0)
    raw, calibration = residuals(rng, 60), fitted(residuals(rng, 100, (6, 1)))
    many = residuals(rng, 500)
    return {
        "raw": raw,
        "an unknown element": raw.apply(calibration),
        "nothing calibrated": residuals(rng, 5, (8,)).apply(calibration),
        "many": many.apply(fitted(many)),
        "few": joined(residuals(rng, 1, (6,)), residuals(rng, 1, (8,))),
    }


@pytest.mark.parametrize("name", ["raw", "an unknown element", "nothing calibrated", "many", "few"])
def test_plots_are_written(cases, tmp_path, name):
    found = cases[name]
    for plot in (reliability_plot, error_against_sigma_plot):
        path = plot(found, tmp_path / f"{plot.__name__}.png")
        assert path.read_bytes()[:4] == PNG
    with_limits = reliability_plot(found, tmp_path / "limits.svg", atom_coverage(found, (0.68, 0.95)))
    assert with_limits.read_text().startswith("<?xml")


def test_distribution_weighs_frames_alike():
    ratio, frame = np.array([1.0, 2.0, 3.0, 4.0, 10.0]), np.array([0, 0, 0, 0, 1])
    np.testing.assert_allclose(
        _weighted_distribution(ratio, frame, np.array([0.5, 2.0, 4.5, np.inf])), [0, 0.25, 0.5, 1]
    )


def test_no_global_state_changes(cases, tmp_path):
    import matplotlib
    from matplotlib._pylab_helpers import Gcf

    before = dict(matplotlib.rcParams), Gcf.get_all_fig_managers()
    reliability_plot(cases["raw"], tmp_path / "a.png")
    error_against_sigma_plot(cases["raw"], tmp_path / "b.png")
    assert (dict(matplotlib.rcParams), Gcf.get_all_fig_managers()) == before


def test_before_and_after_stand_beside_each_other(cases, tmp_path, monkeypatch):
    """Solid after, dashed before; a model without variances has no line; σ that is right lies on the diagonal."""
    drawn = {}
    monkeypatch.setattr(plots, "_saved", lambda figure, path: drawn.update(figure=figure) or path)
    right = cases["raw"]
    cov = np.broadcast_to(1e-8 * np.eye(3), right.forces_cov.shape)
    tight, none = replace(right, forces_cov=cov), replace(right, forces_cov=np.full_like(cov, np.nan))
    comparison_plot({"b": none}, tmp_path / "c.png")  # nothing to draw, and no complaint
    comparison_plot({"a": right, "b": none}, tmp_path / "c.png", {"a": tight, "b": none})
    lines = drawn["figure"].axes[1].lines[1:]
    assert [line.get_linestyle() for line in lines] == ["-", "--"]
    assert lines[0].get_color() == lines[1].get_color()
    levels, overconfident = lines[1].get_data()
    assert overconfident.max() < 0.05
    noisy = cases["many"]
    exact = replace(noisy, force_error=np.random.default_rng(0).normal(size=noisy.force_error.shape),
                    forces_cov=np.broadcast_to(np.eye(3), noisy.forces_cov.shape))  # fmt: skip
    comparison_plot({"a": exact}, tmp_path / "c.png")
    np.testing.assert_allclose(drawn["figure"].axes[1].lines[1].get_ydata(), levels, atol=0.03)
