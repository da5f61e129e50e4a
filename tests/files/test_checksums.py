"""Damaged files are found, byte by byte and bit by bit, and what comes before the damage is kept."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from ase import Atoms
from ase.io import iread
from ase.io.trajectory import TrajectoryWriter

from blipcalc.errors import DamagedFileError, DataError
from blipcalc.files.checksums import _known_bytes, add_sums, cut, inspect, repair, sums_of, verify
from blipcalc.io import read, write


def chain(n=3, k=0):
    return Atoms(f"Cu{n}", positions=np.arange(3 * n).reshape(n, 3) * 1.5 + 0.01 * k, info={"step": k})


def grown(path, n_frames, n_atoms=3):
    """A file that was made as run folders make them: frame by frame."""
    for k in range(n_frames):
        write(path, chain(n_atoms, k), append=True, checksums=True)
    return path


def steps(path):
    return [frame.info["step"] for frame in iread(path, ":")]


def flipped(content, bit):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("suffix", [".traj", ".xyz"])
def test_every_flipped_bit_of_a_small_file_is_found_and_the_frames_before_it_are_kept(tmp_path, suffix):
    path = grown(tmp_path / f"run{suffix}", 3, n_atoms=1)
    whole, sums = path.read_bytes(), sums_of(path).read_bytes()
    assert inspect(path).is_whole
    parts = inspect(path).parts
    for bit in range(8 * len(whole)):
        path.write_bytes(flipped(whole, bit))
        found = inspect(path)
        assert not found.is_whole, bit
        hit = next(p.number for p in parts if bit // 8 < p.stop)
        assert found.n_good == (hit if found.damaged else 3)
    # one bit of every byte, put right
    for byte in range(0, len(whole), 7):
        path.write_bytes(flipped(whole, 8 * byte + byte % 8))
        with pytest.raises(DamagedFileError, match="blipcalc repair"):
            read(path)
        n_good = repair(path).n_good
        assert sums_of(path).exists() == path.exists() == bool(n_good)
        assert not n_good or (steps(path) == list(range(n_good)) and inspect(path).is_whole)
        sums_of(path).write_bytes(sums)


def test_every_truncation_is_found(tmp_path):
    path = grown(tmp_path / "run.traj", 3)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert not inspect(path).is_whole, size
    parts = inspect(path).parts
    path.write_bytes(whole[: parts[1].stop + 5])
    repair(path)
    assert steps(path) == [0, 1]


def test_damaged_sums_are_found_or_vouch_for_less(tmp_path):
    path = grown(tmp_path / "run.traj", 3)
    sums = sums_of(path)
    whole = sums.read_bytes()
    for bit in range(8 * len(whole)):
        sums.write_bytes(flipped(whole, bit))
        found = inspect(path)
        assert not found.is_whole or found.n_beyond > 0, bit
        assert not found.damaged


def test_a_large_file_random_flips(tmp_path):
    path = grown(tmp_path / "run.traj", 120, n_atoms=40)  # the table of places is made anew at 1 and at 42
    assert [p.number for p in inspect(path).parts if p.index] == [1, 42]
    whole, parts = path.read_bytes(), inspect(path).parts
    rng = np.random.default_rng(0)
    for bit in rng.integers(0, 8 * len(whole), 500):
        path.write_bytes(flipped(whole, int(bit)))
        found = inspect(path)
        assert not found.is_whole
        assert found.n_good in (next(p.number for p in parts if bit // 8 < p.stop), len(parts))


def test_a_cut_file_is_the_file_of_then(tmp_path):
    """Bit for bit, wherever a new table was begun in between, and it can be added to."""
    for n in (1, 2, 41, 42, 43, 44, 90):
        path, shorter = grown(tmp_path / f"{n}.traj", 90), grown(tmp_path / f"{n}-then.traj", n)
        cut(path, n)
        assert path.read_bytes() == shorter.read_bytes()
        assert sums_of(path).read_bytes() == sums_of(shorter).read_bytes()
        write(path, chain(3, n), append=True)
        assert steps(path) == list(range(n + 1))
        assert inspect(path).is_whole
    cut(path, 0)
    assert not path.exists()
    assert not sums_of(path).exists()


def test_what_was_added_behind_the_sums_is_not_vouched_for_and_is_no_damage(tmp_path):
    path = grown(tmp_path / "run.traj", 3)
    with TrajectoryWriter(path, "a") as writer:
        writer.write(chain(3, 3))
        writer.write(chain(3, 4))
    found = inspect(path)
    assert found.is_whole
    assert found.n_beyond > 0
    assert len(read(path)) == 5
    add_sums(path)
    assert inspect(path).n_beyond == 0
    assert len(inspect(path).parts) == 5
    # a line of sums that was cut short is one that is not there
    sums = sums_of(path)
    sums.write_bytes(sums.read_bytes()[:-9])
    assert inspect(path).is_whole
    add_sums(path)
    assert len(inspect(path).parts) == 5


def test_without_sums_nothing_is_said(tmp_path):
    """The control: the same flip in a file without sums goes by unnoticed."""
    path = tmp_path / "run.traj"
    write(path, [chain(3, k) for k in range(3)])
    assert not sums_of(path).exists()
    before = read(path)[1].positions
    whole = path.read_bytes()
    at = whole.find(before.tobytes())
    path.write_bytes(flipped(whole, 8 * at + 52))
    assert not np.array_equal(read(path)[1].positions, before)
    verify(path)
    with pytest.raises(DamagedFileError, match="nothing can be said"):
        inspect(path)


def test_a_file_that_is_written_anew_loses_its_old_sums(tmp_path):
    path = grown(tmp_path / "run.xyz", 3)
    write(path, chain(3, 7))
    assert not sums_of(path).exists()
    assert steps(path) == [7]
    with pytest.raises(DataError, match="database"):
        write(tmp_path / "a.db", chain(), checksums=True)


def test_a_file_that_grows_meanwhile_is_not_called_damaged(tmp_path):
    path = grown(tmp_path / "run.traj", 3)
    done = threading.Event()

    def write_on():
        for k in range(3, 150):
            write(path, chain(3, k), append=True)
        done.set()

    writer = threading.Thread(target=write_on)
    writer.start()
    looks = 0
    while not done.is_set():
        assert inspect(path).is_whole
        looks += 1
    writer.join()
    assert looks > 10
    assert inspect(path).n_beyond == 0


def test_a_cut_that_is_killed_on_its_way_leaves_a_file_that_reads(tmp_path, monkeypatch):
    """After every single write of it."""
    whole = grown(tmp_path / "run.traj", 90).read_bytes()
    for last in range(4):
        path = tmp_path / f"{last}.traj"
        path.write_bytes(whole)
        sums_of(path).write_bytes(sums_of(tmp_path / "run.traj").read_bytes())
        known = list(_known_bytes(inspect(path).parts[:30]))
        parts = inspect(path).parts[:30]
        sums_of(path).write_text("".join(part.line() for part in parts))
        with path.open("r+b") as file:
            for at, expected in known[:last]:
                file.seek(at)
                file.write(expected)
        assert inspect(path).is_whole
        assert steps(path)[:30] == list(range(30))
        cut(path, 30)
        assert path.read_bytes() == grown(tmp_path / f"{last}-then.traj", 30).read_bytes()


def test_what_was_set_aside_is_never_overwritten(tmp_path):
    path = grown(tmp_path / "run.traj", 6)
    kept = []
    for part in (4, 2):
        content = bytearray(path.read_bytes())
        content[inspect(path).parts[part].start + 20] ^= 1
        path.write_bytes(bytes(content))
        kept.append(bytes(content))
        assert repair(path).n_good == part
    assert (tmp_path / "run.traj.damaged").read_bytes() == kept[0]
    assert (tmp_path / "run.traj.damaged.2").read_bytes() == kept[1]
    assert steps(path) == [0, 1]
