"""Picture of a relaxed structure: every atom with the ellipse that holds its place with a probability of 95 %."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from blipcalc.relaxation.bonds import bonded_pairs
from blipcalc.relaxation.result import Relaxed
from blipcalc.sealed import write_atomically

#: quantile of χ² with two degrees of freedom: a plane is what one looks at
CHI2 = 5.991
#: Å, half axis of the largest ellipse when it is drawn
LARGEST = 0.4


def plot_relaxed(relaxed: Relaxed, path: str | Path, title: str = "") -> None:
    """Draw a relaxed structure from its widest side, as a PNG; ellipses are enlarged by a round number, which the title says.

    raises : ConfigurationError for a relaxation without error bars
    """
    from matplotlib.figure import Figure  # heavy, and not needed to relax
    from matplotlib.patches import Circle, Ellipse

    atoms, covariances = relaxed.atoms, relaxed.position_cov
    axes3 = widest_side(atoms.positions)
    at = (atoms.positions - atoms.positions.mean(axis=0)) @ axes3.T
    flat = np.einsum("ai,nij,bj->nab", axes3[:2], covariances, axes3[:2])
    half = np.sqrt(CHI2 * np.linalg.eigvalsh(flat)[:, -1].max())
    enlarged = round_factor(LARGEST / half) if half > 0 else 1.0

    span = np.ptp(at[:, :2], axis=0) + 2.0
    figure = Figure(figsize=(7.0, float(np.clip(7.0 * span[1] / span[0], 3.0, 8.0))), layout="constrained")
    axes = figure.add_subplot()
    for i, j, _, shift in zip(*bonded_pairs(atoms), strict=True):
        if not shift.any():  # across a face of the cell it would be a line through the picture
            axes.plot(*at[[i, j], :2].T, color="#888888", lw=2.0, zorder=1)
    for k in np.argsort(at[:, 2]):  # those in front last
        radius = 0.35 * covalent_radii[atoms.numbers[k]]
        colour = jmol_colors[atoms.numbers[k]]
        axes.add_patch(Circle(at[k, :2], radius, fc=colour, ec="#444444", lw=0.6, alpha=0.5, zorder=2))
        values, vectors = np.linalg.eigh(flat[k])
        width, height = 2 * enlarged * np.sqrt(CHI2 * np.maximum(values, 0.0))
        angle = float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])))
        axes.add_patch(Ellipse(at[k, :2], width, height, angle=angle, fill=False, ec="#7b1e14", lw=1.4, zorder=3))
        axes.annotate(f"{atoms.symbols[k]}{k}", at[k, :2], ha="center", va="center", fontsize=7, zorder=4)
    axes.set(xlabel="Å", ylabel="Å", aspect="equal")
    axes.margins(0.12)
    axes.autoscale_view()
    size = f"95 % of where each atom may be, {enlarged:g} × enlarged; largest half axis {half:.2g} Å"
    figure.suptitle(f"{title}\n{size}" if title else size, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(Path(path), buffer.getvalue())


def widest_side(positions: np.ndarray) -> np.ndarray:
    """(3, 3) right-handed axes, rows; the structure is widest along the first and thinnest along the last."""
    _, _, rows = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=True)
    return rows * np.sign(np.linalg.det(rows))


def round_factor(factor: float) -> float:
    """The nearest of 1, 2, 5, 10, 20, … below, at least 1."""
    power = 10.0 ** np.floor(np.log10(max(factor, 1.0)))
    return float(max(step * power for step in (1, 2, 5) if step * power <= max(factor, 1.0)))
