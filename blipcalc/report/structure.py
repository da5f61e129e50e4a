"""Draw a structure in three dimensions, coloured by uncertainty: a still picture, and data for the script that rotates it."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from blipcalc.report.frames import Frame
from blipcalc.report.html import escape

#: most atoms that are drawn: those nearest to the worst one
MOST_ATOMS = 400
#: factor on the sum of covalent radii below which atoms are bonded
BOND = 1.25
#: radius of a ball as a fraction of the covalent radius, and the smallest radius, Å
BALL, SMALLEST_BALL = 0.55, 0.22
#: size of the still picture, px
WIDTH, HEIGHT = 800, 400
COLOURS, UNKNOWN, MARK = "YlOrRd", "#b0b0b0", "#2a7de1"
HINT = "drag or use the arrow keys to turn; double click to turn back; point at an atom for its number"


def structure_view(frame: Frame, worst: int) -> str:
    """Return HTML of a rotatable structure and its colour bar.

    frame : with finite positions
    worst : index of the marked atom, around which a periodic structure is wrapped
    """
    data = view_data(frame, worst)
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return "\n".join(
        [
            '<div class="structure">',
            _still(data),
            "<output></output>",
            f'<script type="application/json">{text}</script>',
            "</div>",
            _bar(frame, data["shown"]),
        ]
    )


def view_data(frame: Frame, worst: int) -> dict[str, Any]:
    """Return data for the script: atoms on principal axes, Å from their mean position; bonds as pairs of atoms.

    shown : indices in the frame
    """
    shown, at = _around(frame, worst)
    low, high = _range(frame.atom_std[shown])
    numbers = frame.atoms.numbers[shown]
    balls = np.maximum(BALL * covalent_radii[numbers], SMALLEST_BALL)
    symbols = np.array(frame.atoms.get_chemical_symbols())[shown]
    atoms = []
    for place, ball, symbol, index in zip(at, balls, symbols, shown, strict=True):
        std = float(frame.atom_std[index])
        colour, ink = _colour(std, low, high)
        said = f"atom_std {std:.4g} eV/Å" if math.isfinite(std) else "atom_std not known"
        atoms.append(
            {
                "at": [round(float(x), 3) for x in place],
                "r": round(float(ball), 3),
                "symbol": str(symbol),
                "color": colour,
                "ink": ink,
                "says": f"{symbol}, atom {index}: {said}",
            }
        )
    reach = float(np.linalg.norm(at, axis=1).max()) + 0.6
    return {
        "atoms": atoms,
        "bonds": _bonds(at, numbers),
        "worst": int(np.flatnonzero(shown == worst)[0]),
        "shown": shown.tolist(),
        "reach": round(reach, 3),
        "width": WIDTH,
        "height": HEIGHT,
        "mark": MARK,
        "hint": HINT,
        "label": f"structure at step {frame.step}, {symbols[shown == worst][0]}, atom {worst}, marked",
    }


def _around(frame: Frame, worst: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the drawn atoms and their positions: the nearest images to the worst atom, on principal axes."""
    atoms = frame.atoms
    everyone = np.arange(len(atoms))
    away = atoms.get_distances(worst, everyone, mic=bool(atoms.pbc.any()), vector=True)
    nearest = np.argsort(np.linalg.norm(away, axis=1), kind="stable")[:MOST_ATOMS]
    shown = np.sort(nearest)
    at = away[shown] - away[shown].mean(axis=0)
    axes = np.linalg.svd(at, full_matrices=True)[2]
    axes[2] *= np.linalg.det(axes)  # a rotation, not a reflection
    return shown, at @ axes.T


def _bonds(at: np.ndarray, numbers: np.ndarray) -> list[list[int]]:
    """Return pairs nearer than :data:`BOND` times the sum of their covalent radii, each once."""
    radii = BOND * covalent_radii[numbers]
    i, j = neighbor_list("ij", Atoms(numbers, positions=at), list(radii))
    return [[int(a), int(b)] for a, b in zip(i, j, strict=True) if a < b]


def _range(std: np.ndarray) -> tuple[float, float]:
    """Return the range of the colours; NaN without a finite value."""
    known = std[np.isfinite(std)]
    return (float(known.min()), float(known.max())) if known.size else (math.nan, math.nan)


def _colour(std: float, low: float, high: float) -> tuple[str, str]:
    """Return the colours of a ball and of the letter on it."""
    if not math.isfinite(std):
        return UNKNOWN, "#000000"
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    share = (std - low) / (high - low) if high > low else 0.5
    return to_hex(colormaps[COLOURS](share)), "#ffffff" if share > 0.6 else "#000000"


def _still(data: dict[str, Any]) -> str:
    """Return the picture of the structure before any rotation."""
    scale = min(WIDTH, HEIGHT) / (2 * data["reach"])
    at = np.array([atom["at"] for atom in data["atoms"]])
    x, y = WIDTH / 2 + scale * at[:, 0], HEIGHT / 2 - scale * at[:, 1]
    place = np.stack([x, y, scale * at[:, 2]], axis=1)
    radius = scale * np.array([atom["r"] for atom in data["atoms"]])
    parts = [(at[[i, j], 2].mean(), _line(place[[i, j]], radius[[i, j]])) for i, j in data["bonds"]]
    for k, atom in enumerate(data["atoms"]):
        parts.append((at[k, 2], _ball(x[k], y[k], scale * atom["r"], atom, k == data["worst"])))
    parts.sort(key=lambda part: part[0])
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(data["label"])}">'
    return "\n".join([head, *(drawn for _, drawn in parts), "</svg>"])


def _line(ends: np.ndarray, radii: np.ndarray) -> str:
    """Return a bond between two balls (2, 3), shortened so that it covers neither."""
    share = 0.9 * radii / max(float(np.linalg.norm(ends[1] - ends[0])), 1e-9)
    if share.sum() >= 1:
        return ""
    (x1, y1, _), (x2, y2, _) = ends + share[:, None] * (ends[::-1] - ends)
    width = max(2.0, 0.35 * float(radii.min()))
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#8a8a8a" stroke-width="{width:.1f}" '
        'stroke-linecap="round"/>'
    )


def _ball(x: float, y: float, r: float, atom: dict[str, Any], is_worst: bool) -> str:
    size = max(8.0, min(15.0, r))
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r + 5:.1f}" fill="none" stroke="{MARK}" stroke-width="3"/>'
    return (
        f'<g><title>{escape(atom["says"])}</title><circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{atom["color"]}" '
        f'stroke="#555"/><text x="{x:.1f}" y="{y:.1f}" font-size="{size:.0f}" text-anchor="middle" '
        f'dominant-baseline="central" fill="{atom["ink"]}">{escape(atom["symbol"])}</text>'
        f"{ring if is_worst else ''}</g>"
    )


def _bar(frame: Frame, shown: list[int]) -> str:
    """Return the colour bar of the drawn atoms; empty without a known uncertainty."""
    low, high = _range(frame.atom_std[shown])
    if not math.isfinite(low):
        return ""
    steps = 32
    cells = [
        f'<rect x="{k}" y="0" width="1.05" height="1" fill="{_colour(k / (steps - 1), 0.0, 1.0)[0]}"/>'
        for k in range(steps)
    ]
    drawn = f'<svg viewBox="0 0 {steps} 1" preserveAspectRatio="none" role="img" aria-label="colour bar">'
    ends = [f"<span>{escape(text)}</span>" for text in (f"atom_std {low:.3g}", f"{high:.3g} eV/Å")]
    return f'<div class="bar">{ends[0]}{drawn}{"".join(cells)}</svg>{ends[1]}</div>'
