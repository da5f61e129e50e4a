"""A flipped bit, or an end that is missing, in any file that the package reads again: refused by name, or nothing has changed.

What reads the same may do so: a changed layout of JSON, an unused page of a database, a checksum that is cut off.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load as load_tensors

from blipcalc import io
from blipcalc.errors import CheckpointWarning
from blipcalc.files.checksums import sums_of
from blipcalc.files.run_folder import NEWEST, PREVIOUS, last_checkpoint
from blipcalc.monitor.limits import Limits

KINDS = (
    "limits", "summary of a run", "relaxation", "thermal averages", "evaluation", "model with calibrations",
    "checkpoint of MD", "checkpoint of training", "history", "events", "trajectory of a run", "frames as text",
    "draws of frames", "database", "log of a training",
)  # fmt: skip
#: share of the flips that must be refused; most of a small database is empty
LEAST_REFUSED = {"database": 0.1}


def test_every_kind_is_here(written):
    assert set(written) == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_no_flip_and_no_missing_end_is_silent(written, damaged, name):
    kind = written[name]
    found = damaged.of(kind, damaged.flips(kind, 150)) + damaged.of(kind, damaged.ends(kind, 30))
    assert set(found) <= {"refused", "same"}, found
    assert found["refused"] > LEAST_REFUSED.get(name, 0.7) * found.total()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", KINDS)
def test_no_flip_of_ten_thousand_is_silent(written, damaged, name, record_property):
    kind = written[name]
    found = damaged.of(kind, damaged.flips(kind, 10_000, seed=2))
    record_property("flips", dict(found))
    print(f"{name}: {sum(path.stat().st_size for path in kind.files)} bytes, {dict(found)}")
    assert set(found) <= {"refused", "same"}, found
    assert found["refused"] > LEAST_REFUSED.get(name, 0.7) * found.total()


# -- positive controls: the same harness on the same content without its seal ------------------------------------------


def test_limits_without_a_seal_change_in_silence(written, damaged, tmp_path):
    path = tmp_path / "limits.json"
    said = json.loads(written["limits"].files[0].read_text())
    path.write_text(json.dumps({key: said[key] for key in said if key not in ("kind", "sha256")}, indent=1))
    kind = damaged.kind((path,), lambda: Limits.model_validate_json(path.read_bytes()))
    assert damaged.of(kind, damaged.flips(kind, 300), ValueError)["silent"] > 10


@pytest.mark.parametrize("name", ["history", "events", "trajectory of a run", "frames as text", "log of a training"])
def test_files_without_their_sums_change_in_silence(written, damaged, name):
    path, sums = written[name].files
    kept = sums.read_bytes()
    sums.unlink()
    try:
        kind = damaged.kind((path,), written[name].read)
        assert damaged.of(kind, damaged.flips(kind, 150))["silent"] > 5
    finally:
        sums.write_bytes(kept)


def test_a_database_without_seals_changes_in_silence(written, damaged, tmp_path):
    path = tmp_path / "frames.db"
    shutil.copy(written["database"].files[0], path)
    io.connect(path).metadata = {}
    kind = damaged.kind((path,), lambda: io.read(path))
    assert damaged.of(kind, damaged.flips(kind, 300))["silent"] > 5


def test_tensors_without_hashes_change_in_silence(written, damaged):
    (path,) = written["checkpoint of MD"].files
    kind = damaged.kind((path,), lambda: load_tensors(path.read_bytes()))
    assert damaged.of(kind, damaged.flips(kind, 300), Exception)["silent"] > 5


# -- the documented way on ----------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(written):
    (path,) = written["checkpoint of MD"].files
    assert (path.parent / PREVIOUS).exists()
    step, content = last_checkpoint(path.parent)[1]["step"], path.read_bytes()
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.warns(CheckpointWarning, match="passed over"):
            assert last_checkpoint(path.parent)[1]["step"] < step
    finally:
        path.write_bytes(content)
    assert last_checkpoint(path.parent)[1]["step"] == step
    assert path.name == NEWEST


def test_a_row_of_a_database_that_is_gone_is_missed(written, tmp_path):
    path = tmp_path / "frames.db"
    shutil.copy(written["database"].files[0], path)
    io.write(path, io.read(path, 0), append=True)
    assert len(io.read(path)) == 4
    io.connect(path).delete([2])
    with pytest.raises(io.BlipcalcError, match=r"rows 2 \(1 of 4 that blipcalc wrote\).*write those to a new file"):
        io.read(path)
    shutil.copy(written["database"].files[0], path)
    io.connect(path).write(io.read(path, 0))  # of somebody else: read, and not vouched for
    assert len(io.read(path)) == 4
    assert np.array_equal(io.read(path, 3).positions, io.read(path, 0).positions)
    assert not sums_of(path).exists()
