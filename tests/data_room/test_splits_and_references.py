"""Seeded splits, reference energies and the scale of a data set."""

from __future__ import annotations

import os
import re
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from blipcalc.data.labels import frame_hash, read_labelled
from blipcalc.data.references import fit_references, force_rms
from blipcalc.data.splits import DuplicateFramesWarning, Split, split_files, split_frames
from blipcalc.errors import EmptySplitError


def numbered(n: int, first: int = 0) -> list[Atoms]:
    """Molecules that all differ: the bond grows with the number."""
    made = [molecule("H2") for _ in range(n)]
    for k, atoms in enumerate(made, first):
        atoms.info["k"] = k
        atoms.positions[0, 2] += 1e-3 * k
    return made


def numbers(frames: list[Atoms]) -> list[int]:
    return [atoms.info["k"] for atoms in frames]


def numbers_of_parts(split: Split) -> tuple[list[int], list[int], list[int]]:
    return numbers(split.train), numbers(split.validation), numbers(split.calibration)


FRAMES = numbered(200)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(
    n=st.integers(2, 200),
    validation=st.floats(0.01, 0.9),
    calibration=st.floats(0, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_are_disjoint_and_exhaustive(n, validation, calibration, seed):
    frames = FRAMES[:n]
    try:
        split = split_frames(frames, validation=validation, calibration=calibration, seed=seed)
    except EmptySplitError:
        sizes = (round(validation * n), round(calibration * n))
        assert (
            validation + calibration >= 1 or 0 in sizes[:1] or (calibration > 0 and sizes[1] == 0) or n - sum(sizes) < 1
        )
        return
    parts = [numbers(split.train), numbers(split.validation), numbers(split.calibration)]
    assert sorted(chain(*parts)) == list(range(n))
    assert [len(p) for p in parts[1:]] == [round(validation * n), round(calibration * n)]
    assert all(frames[k] is atoms for k, atoms in zip(parts[0], split.train, strict=True))


def test_a_seed_gives_one_split_and_another_seed_another():
    def split(seed):
        parts = split_frames(FRAMES, validation=0.1, calibration=0.1, seed=seed)
        return numbers(parts.train), numbers(parts.validation), numbers(parts.calibration)

    assert split(3) == split(3)
    assert split(3) != split(4)
    assert split(3)[0] != sorted(split(3)[0])  # shuffled


def test_a_split_leaves_the_global_random_stream_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    split_frames(FRAMES, validation=0.1, calibration=0.1, seed=0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize(
    ("n", "validation", "calibration", "part"),
    [
        (0, 0.1, 0.0, "training"),
        (1, 0.1, 0.0, "validation"),
        (4, 0.1, 0.1, "validation"),
        (3, 0.5, 0.4, "training"),
        (10, 0.0, 0.0, "validation"),
        (10, 0.2, 0.01, "calibration"),
    ],
)
def test_an_empty_part_is_refused_by_name(n, validation, calibration, part):
    with pytest.raises(EmptySplitError, match=rf"{n} frames with .* for {part}"):
        split_frames(FRAMES[:n], validation=validation, calibration=calibration, seed=0)


@pytest.mark.parametrize(
    ("validation", "calibration"),
    [(0.5, 0.5), (0.9, 0.9), (1.0, 0.0), (0.0, 1.0), (0.5, -0.2), (-0.2, 0.5), (1.5, -0.7), (float("nan"), 0.1)],
)
def test_fractions_that_are_none_or_leave_nothing_for_training_are_refused_by_name(validation, calibration):
    said = f"validation={validation} and calibration={calibration} must lie in [0, 1) and leave some for training"
    with pytest.raises(EmptySplitError, match=re.escape(said)):
        split_frames(FRAMES, validation=validation, calibration=calibration, seed=0)


@pytest.mark.parametrize(
    ("n", "validation", "calibration", "seed", "expected"),
    [
        (30, 0.2, 0.4, 0, ([3, 29, 8, 0, 19, 12], [20, 13, 7, 5, 17, 14, 22, 9, 27, 24, 1, 15])),
        (12, 0.1, 0.1, 7, ([9], [11])),
        (
            200,
            0.05,
            0.1,
            0,
            (
                [32, 56, 46, 58, 14, 73, 166, 185, 190, 115],
                [31, 104, 176, 77, 76, 7, 199, 69, 113, 127, 121, 78, 120, 59, 182, 29, 169, 184, 33, 95],
            ),
        ),
    ],
)
def test_a_seed_gives_the_same_split_in_every_version(n, validation, calibration, seed, expected):
    """A regression test: frames held out by a stored model must be found again."""
    split = split_frames(FRAMES[:n], validation=validation, calibration=calibration, seed=seed)
    assert numbers_of_parts(split)[1:] == expected
    np.testing.assert_array_equal(numbers(split.train), np.random.default_rng(seed).permutation(n)[: len(split.train)])


# -- several files ------------------------------------------------------------------------------------------------------


def test_large_files_are_split_one_by_one_whatever_stands_beside_them():
    first, second, small = FRAMES[:40], FRAMES[40:100], FRAMES[100:104]
    fractions = {"validation": 0.05, "calibration": 0.1, "seed": 5}
    alone = [numbers_of_parts(split_frames(frames, **fractions)) for frames in (first, second)]
    together = numbers_of_parts(split_files([("a", first), ("b", second)], **fractions))
    assert together == tuple(x + y for x, y in zip(*alone, strict=True))
    with_small = numbers_of_parts(split_files([("a", first), ("s", small), ("b", second)], **fractions))
    for part, more in zip(together, with_small, strict=True):
        assert more[: len(part)] == part
    assert sorted(chain(*with_small)) == list(range(104))


def test_small_files_are_pooled():
    files = [(f"{k}.xyz", FRAMES[5 * k : 5 * k + 5]) for k in range(3)]
    fractions = {"validation": 0.05, "calibration": 0.1, "seed": 0}
    parts = numbers_of_parts(split_files(files, **fractions))
    assert [len(part) for part in parts] == [12, 1, 2]
    assert sorted(chain(*parts)) == list(range(15))
    assert parts == numbers_of_parts(split_frames(FRAMES[:15], **fractions))


def test_a_pool_that_fills_no_held_out_part_is_trained_on_where_larger_files_fill_them():
    parts = numbers_of_parts(
        split_files([("large", FRAMES[:50]), ("tiny", FRAMES[50:52])], validation=0.1, calibration=0.1, seed=0)
    )
    assert [len(part) for part in parts] == [42, 5, 5]
    assert {50, 51} < set(parts[0])


def test_files_that_are_too_small_even_together_are_refused_by_name():
    files = [(f"{k}.xyz", FRAMES[2 * k : 2 * k + 2]) for k in range(2)]
    with pytest.raises(EmptySplitError, match=r"4 frames with .* for validation \(in 0\.xyz, 1\.xyz\)"):
        split_files(files, validation=0.05, calibration=0.1, seed=0)
    many = [(f"{k}.xyz", FRAMES[k : k + 1]) for k in range(14)]
    with pytest.raises(EmptySplitError, match=r"for validation \(in 0\.xyz, .*9\.xyz and 4 more\)"):
        split_files(many, validation=0.01, calibration=0.1, seed=0)
    with pytest.raises(EmptySplitError, match=r"0 frames with .* for training"):
        split_files([], validation=0.1, calibration=0.1, seed=0)


# -- duplicates ---------------------------------------------------------------------------------------------------------


def test_a_frame_that_occurs_twice_in_a_file_is_in_one_part_once():
    doubled = FRAMES[:40] + numbered(40)  # equal, not the same objects
    with pytest.warns(DuplicateFramesWarning, match=r"40 of 80 frames are left out.*frame 40 \(as .*frame 0\)"):
        split = split_frames(doubled, validation=0.2, calibration=0.2, seed=1)
    expected = split_frames(FRAMES[:40], validation=0.2, calibration=0.2, seed=1)
    assert numbers_of_parts(split) == numbers_of_parts(expected)
    assert all(atoms is FRAMES[atoms.info["k"]] for atoms in split.train)  # the first one stays


@pytest.mark.parametrize("seed", range(5))
def test_a_frame_that_occurs_in_several_files_is_in_one_part_once(seed):
    files = [("a.xyz", numbered(30)), ("b.xyz", numbered(30, first=20)), ("c.xyz", numbered(5, first=48))]
    with pytest.warns(DuplicateFramesWarning) as caught:
        split = split_files(files, validation=0.2, calibration=0.3, seed=seed)
    said = str(caught[0].message)
    assert len(caught) == 1
    assert "12 of 65 frames" in said
    assert "b.xyz, frame 0 (as a.xyz, frame 20)" in said
    assert said.endswith(" and 2 more")
    parts = [{frame_hash(atoms) for atoms in part} for part in (split.train, split.validation, split.calibration)]
    assert len(parts[0] | parts[1] | parts[2]) == sum(map(len, parts)) == 53
    assert sorted(chain(*numbers_of_parts(split))) == list(range(53))


def test_the_same_file_twice_is_the_file_once():
    files = [("a.xyz", FRAMES[:20]), ("a.xyz", FRAMES[:20])]
    with pytest.warns(DuplicateFramesWarning, match="20 of 40"):
        split = split_files(files, validation=0.1, calibration=0.1, seed=0)
    assert numbers_of_parts(split) == numbers_of_parts(
        split_frames(FRAMES[:20], validation=0.1, calibration=0.1, seed=0)
    )


def test_duplicates_that_leave_too_few_frames_are_refused():
    with pytest.warns(DuplicateFramesWarning), pytest.raises(EmptySplitError, match=r"1 frames with .* for validation"):
        split_frames(numbered(1) * 20, validation=0.1, calibration=0.1, seed=0)


def test_frames_without_duplicates_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_files([("a", FRAMES[:100]), ("b", FRAMES[100:])], validation=0.1, calibration=0.1, seed=0)


# -- references ---------------------------------------------------------------------------------------------------------

E0 = {1: -13.6, 6: -1027.3, 7: -1482.1, 8: -2038.5}


def with_energy(name: str, energy: float | None = None, forces: float = 0.0) -> Atoms:
    atoms = molecule(name)
    energy = sum(E0[int(z)] for z in atoms.numbers) if energy is None else energy
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.full((len(atoms), 3), forces))
    return atoms


def test_references_are_recovered_exactly_where_compositions_determine_them():
    frames = [with_energy(name) for name in ("H2O", "CH4", "CO2", "NH3", "HCN", "CH3OH", "C2H6")]
    found = fit_references(frames)
    assert list(found) == [1, 6, 7, 8]
    for z, energy in E0.items():
        assert abs(found[z] - energy) < 1e-9


def test_one_composition_gives_every_element_the_mean_energy_per_atom():
    frames = [with_energy("CH3CH2OH") for _ in range(3)]
    total = 6 * E0[1] + 2 * E0[6] + E0[8]
    assert fit_references(frames) == pytest.approx(dict.fromkeys((1, 6, 8), total / 9), rel=1e-14)


@pytest.mark.data
def test_references_of_3bpa_are_those_of_the_paper():
    """-654.0901 eV for H, C, N and O alike (RACE, methods)."""
    found = fit_references(read_labelled(Path(os.environ["BLIPCALC_DATA"]) / "3bpa" / "botnet" / "train_300K.xyz"))
    assert set(found) == {1, 6, 7, 8}
    np.testing.assert_allclose(list(found.values()), -654.0901, atol=5e-5)


def test_references_are_least_squares_of_noisy_energies():
    rng = np.random.default_rng(0)
    names = ["H2O", "CH4", "CO2", "CH3OH"] * 25
    frames = []
    for name in names:
        atoms = with_energy(name)
        atoms.calc.results["energy"] += float(rng.normal(0, 0.1))
        frames.append(atoms)
    found = fit_references(frames)
    residuals = np.array([a.calc.results["energy"] - sum(found[int(z)] for z in a.numbers) for a in frames])
    counts = np.array([[np.count_nonzero(a.numbers == z) for z in found] for a in frames])
    np.testing.assert_allclose(counts.T @ residuals, 0.0, atol=1e-7)  # normal equations
    assert 0.07 < residuals.std() < 0.13


def test_force_rms_is_over_components_of_all_frames():
    frames = [with_energy("H2O", forces=1.0), with_energy("CH3CH2OH", forces=2.0)]
    expected = np.sqrt((3 * 1.0 + 9 * 4.0) / 12)
    np.testing.assert_allclose(force_rms(frames), expected, rtol=1e-14)
    one = with_energy("H2O")
    one.calc.results["forces"] = np.arange(9.0).reshape(3, 3)
    np.testing.assert_allclose(force_rms([one]), np.sqrt((np.arange(9.0) ** 2).mean()), rtol=1e-14)


def test_force_rms_of_vanishing_forces_is_a_scale_that_can_be_divided_by():
    assert force_rms([with_energy("H2O")]) == 1e-3
