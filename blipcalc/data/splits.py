"""Seeded splits of labelled structures into training, validation and calibration frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from blipcalc.errors import EmptySplitError


@dataclass(frozen=True)
class Split:
    """Disjoint parts of one data set."""

    train: list[Atoms]
    validation: list[Atoms]
    calibration: list[Atoms]


def split_frames(frames: Sequence[Atoms], *, validation: float, calibration: float, seed: int) -> Split:
    """Shuffle with a seed and cut off fractions for validation and calibration; the rest is for training.

    Raises :class:`EmptySplitError` where training or validation would get no frame, or calibration none although a
    fraction was asked for.
    """
    if not (0 <= validation < 1 and 0 <= calibration < 1 and validation + calibration < 1):
        raise EmptySplitError(
            f"fractions validation={validation} and calibration={calibration} must lie in [0, 1) and leave some for training"
        )
    order = np.random.default_rng(seed).permutation(len(frames))
    n_validation, n_calibration = round(validation * len(frames)), round(calibration * len(frames))
    n_train = len(frames) - n_validation - n_calibration
    for name, n, wanted in (
        ("training", n_train, True),
        ("validation", n_validation, True),
        ("calibration", n_calibration, calibration > 0),
    ):
        if wanted and n < 1:
            raise EmptySplitError(
                f"{len(frames)} frames with validation={validation} and calibration={calibration} leave {n} frames for "
                f"{name}; give more frames or other fractions"
            )
    pick = [[frames[i] for i in part] for part in np.split(order, [n_train, n_train + n_validation])]
    return Split(*pick)
