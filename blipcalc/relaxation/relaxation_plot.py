"""Draw a relaxed structure, with an ellipse around every atom that contains its position with a probability of 95 %."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors

from blipcalc.files.picture import finished
from blipcalc.relaxation.bonds import bonded_pairs
from blipcalc.relaxation.result import Relaxed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: 95 % quantile of χ² with two degrees of freedom, for the projection on a plane
CHI2 = 5.991
#: Å, half axis of the largest ellipse as drawn
LARGEST = 0.4
#: fraction of a cell vector; atoms up to so far below a face are not wrapped
WRAP = 0.02


def plot_relaxed(relaxed: Relaxed, path: str | Path | None = None, title: str = "") -> Figure:
    """Draw a relaxed structure, a molecule from its widest side and a crystal along its shortest cell vector.

    Ellipses are enlarged by a round factor, stated in the title; bonds across a face of the cell are drawn as two halves.

    raises : ConfigurationError for a relaxation without error bars
    """
    from matplotlib.figure import Figure  # heavy, and not needed to relax
    from matplotlib.patches import Circle, Ellipse

    atoms, covariances = relaxed.atoms, relaxed.position_cov
    crystal = bool(atoms.pbc.all())
    axes3 = along_a_vector(atoms.cell.array) if crystal else widest_side(atoms.positions)
    places = atoms.get_positions(wrap=True, eps=WRAP) if crystal else atoms.positions
    centre = places.mean(axis=0)
    at = (places - centre) @ axes3.T
    flat = np.einsum("ai,nij,bj->nab", axes3[:2], covariances, axes3[:2])
    half = np.sqrt(CHI2 * np.linalg.eigvalsh(flat)[:, -1].max())
    enlarged = round_factor(LARGEST / half) if half > 0 else 1.0

    span = np.ptp(at[:, :2], axis=0) + 2.0
    figure = Figure(figsize=(7.0, float(np.clip(7.0 * span[1] / span[0], 3.0, 8.0))), layout="constrained")
    axes = figure.add_subplot()
    if crystal:
        for edge in (cell_edges(atoms.cell.array) - centre) @ axes3.T:
            axes.plot(*edge[:, :2].T, color="#aaaaaa", lw=0.8, ls="--", zorder=0)
    for i, j, _, shift in zip(*bonded_pairs(atoms), strict=True):
        way = (atoms.positions[j] + shift @ atoms.cell.array - atoms.positions[i]) @ axes3.T
        for end, sign in ((i, 0.5), (j, -0.5)):
            axes.plot(*np.array([at[end], at[end] + sign * way])[:, :2].T, color="#888888", lw=2.0, zorder=1)
    for k in np.argsort(at[:, 2]):  # front atoms last
        radius = (0.2 if crystal else 0.35) * covalent_radii[atoms.numbers[k]]
        colour = jmol_colors[atoms.numbers[k]]
        axes.add_patch(Circle(at[k, :2], radius, fc=colour, ec="#444444", lw=0.6, alpha=0.5, zorder=2))
        values, vectors = np.linalg.eigh(flat[k])
        width, height = 2 * enlarged * np.sqrt(CHI2 * np.maximum(values, 0.0))
        angle = float(np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0])))
        axes.add_patch(Ellipse(at[k, :2], width, height, angle=angle, fill=False, ec="#7b1e14", lw=1.4, zorder=3))
        if not crystal:
            axes.annotate(f"{atoms.symbols[k]}{k}", at[k, :2], ha="center", va="center", fontsize=7, zorder=4)
    axes.set(xlabel="Å", ylabel="Å", aspect="equal")
    axes.margins(0.12)
    axes.autoscale_view()
    size = f"95 % of where each atom may be, {enlarged:g} × enlarged; largest half axis {half:.2g} Å"
    figure.suptitle(f"{title}\n{size}" if title else size, fontsize=10)
    return finished(figure, path)


def along_a_vector(cell: np.ndarray) -> np.ndarray:
    """Return right-handed axes as rows (3, 3); the last is along the shortest cell vector, the first near the longest."""
    by_length = cell[np.argsort(np.linalg.norm(cell, axis=1), kind="stable")]
    towards = by_length[0] / np.linalg.norm(by_length[0])
    across = by_length[2] - (by_length[2] @ towards) * towards
    across /= np.linalg.norm(across)
    return np.array([across, np.cross(towards, across), towards])


def cell_edges(cell: np.ndarray) -> np.ndarray:
    """Return the ends of the edges of a cell (12, 2, 3), Å."""
    corners = np.array(list(np.ndindex(2, 2, 2)))
    return np.array([(a, b) for a in corners for b in corners if (b - a).sum() == 1 and (b >= a).all()]) @ cell


def widest_side(positions: np.ndarray) -> np.ndarray:
    """Return right-handed axes as rows (3, 3); the structure is widest along the first and thinnest along the last."""
    _, _, rows = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=True)
    return rows * np.sign(np.linalg.det(rows))


def round_factor(factor: float) -> float:
    """Return the largest of 1, 2, 5, 10, 20, … not above the factor, at least 1."""
    power = 10.0 ** np.floor(np.log10(max(factor, 1.0)))
    return float(max(step * power for step in (1, 2, 5) if step * power <= max(factor, 1.0)))
