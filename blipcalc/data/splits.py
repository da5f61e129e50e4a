"""Seeded splits of labelled structures into training, validation and calibration frames.

A frame is in one part only: a repeated frame (the same :func:`~blipcalc.data.labels.frame_hash`) is left out with a warning.
Each file is split alone, so that every part contains frames of it; files too small for that are pooled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms

from blipcalc.data.labels import frame_hash
from blipcalc.errors import DuplicateFramesWarning, EmptySplitError, warn_user


@dataclass(frozen=True)
class Split:
    """Disjoint parts of one or several data sets."""

    train: list[Atoms]
    validation: list[Atoms]
    calibration: list[Atoms]


def split_frames(frames: Sequence[Atoms], *, validation: float, calibration: float, seed: int) -> Split:
    """Shuffle with a seed and split off fractions for validation and calibration; the rest is for training.

    This is :func:`split_files` for frames of one origin, with the same treatment of duplicates, warnings and errors.
    """
    return split_files([("one set", frames)], validation=validation, calibration=calibration, seed=seed)


def split_files(
    files: Sequence[tuple[str, Sequence[Atoms]]], *, validation: float, calibration: float, seed: int
) -> Split:
    """Shuffle each file with the same seed and split off fractions for validation and calibration; the rest is for training.

    Files that cannot give a frame to every part are pooled and split together.

    Parameters
    ----------
    files : pairs of the name of a file, for messages, and all its frames
    validation, calibration : fractions in [0, 1), together below 1
    seed : of the shuffles; the split of a file depends on its number of frames, not on other files

    Returns
    -------
    the parts, file after file in the order given, then those of the pool

    Warns
    -----
    DuplicateFramesWarning : repeated frames, of the same or an earlier file, were left out

    Raises
    ------
    EmptySplitError : invalid fractions, or all files together leave no frame for training or validation, or none for
        calibration although a fraction was requested
    """
    if not (0 <= validation < 1 and 0 <= calibration < 1 and validation + calibration < 1):
        raise EmptySplitError(
            f"fractions validation={validation} and calibration={calibration} must lie in [0, 1) and leave some for training"
        )
    parts: tuple[list[Atoms], ...] = ([], [], [])
    pool: list[Atoms] = []
    for frames in _without_duplicates(files):
        sizes = _sizes(len(frames), validation, calibration)
        if _first_empty(sizes, calibration):
            pool += frames
        else:
            _deal(frames, sizes, seed, parts)
    _deal(pool, _sizes(len(pool), validation, calibration), seed, parts)
    empty = _first_empty([len(part) for part in parts], calibration)
    if empty:
        raise EmptySplitError(
            f"{sum(map(len, parts))} frames with validation={validation} and calibration={calibration} leave 0 frames for "
            f"{empty} (in {_named([name for name, _ in files])}); give more frames or other fractions"
        )
    return Split(*parts)


def _sizes(n: int, validation: float, calibration: float) -> tuple[int, int, int]:
    """Return the numbers of training, validation and calibration frames out of n."""
    n_validation, n_calibration = round(validation * n), round(calibration * n)
    return n - n_validation - n_calibration, n_validation, n_calibration


def _first_empty(sizes: Sequence[int], calibration: float) -> str | None:
    """Return the name of the first part that should have frames and has none."""
    wanted = {"training": True, "validation": True, "calibration": calibration > 0}
    return next((name for (name, want), n in zip(wanted.items(), sizes, strict=True) if want and n < 1), None)


def _deal(frames: Sequence[Atoms], sizes: Sequence[int], seed: int, parts: Sequence[list[Atoms]]) -> None:
    """Append the shuffled frames to the parts, ``sizes`` to each."""
    order = np.random.default_rng(seed).permutation(len(frames))
    for part, chosen in zip(parts, np.split(order, np.cumsum(sizes)[:-1]), strict=True):
        part += [frames[i] for i in chosen]


def _without_duplicates(files: Sequence[tuple[str, Sequence[Atoms]]]) -> list[list[Atoms]]:
    """Return the frames of each file without repeated ones, and warn of those."""
    places: dict[int, str] = {}
    kept: list[list[Atoms]] = []
    dropped = []
    for name, frames in files:
        kept.append([])
        for i, atoms in enumerate(frames):
            place, fingerprint = f"{name}, frame {i}", frame_hash(atoms)
            if fingerprint in places:
                dropped.append(f"{place} (as {places[fingerprint]})")
            else:
                places[fingerprint] = place
                kept[-1].append(atoms)
    if dropped:
        warn_user(
            f"{len(dropped)} of {len(dropped) + len(places)} frames are left out, so that none is both trained on and held out: "
            "the same elements, positions to 1e-6 Å, cell and pbc, whatever the labels, occur before, and the first one stays: "
            + _named(dropped, separator="; "),
            DuplicateFramesWarning,
        )
    return kept


def _named(names: Sequence[str], most: int = 10, separator: str = ", ") -> str:
    """Return the names in one line, with the number of those beyond ``most``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (separator.join(names[:most]) or "no file") + more
