"""Sealed files: what is written comes back bit for bit, every damage is noticed, and a failing write keeps the old file."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from blipcalc.errors import BlipcalcError, DamagedFileError, ModelFileError, NonFiniteWeightsError, SchemaError
from blipcalc.files import safetensors_file as sealed
from blipcalc.files.safetensors_file import read_manifest, read_sealed, tensors_hash, write_atomically, write_sealed

ROOT = Path(__file__).parents[2]


def tensors() -> dict[str, torch.Tensor]:
    """A few tensors of every kind that files hold, one of them with a stride, one empty, one without axes."""
    generator = torch.Generator().manual_seed(0)
    return {
        "a/weight": torch.randn(5, 3, generator=generator).T,
        "a/bias": torch.randn(3, generator=generator, dtype=torch.float64),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 4),
        "flags": torch.tensor([True, False, True]),
        "frames": torch.randint(-(2**62), 2**62, (6,), generator=generator),
    }


def manifest() -> dict:
    return {"kind": "test", "numbers": [1, 2.5, None], "text": "Ångström", "nested": {"b": 1, "a": True}}


@pytest.fixture
def path(tmp_path) -> Path:
    write_sealed(tmp_path / "good.blip", tensors(), manifest())
    return tmp_path / "good.blip"


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix == ".tmp")


# -- round trip ---------------------------------------------------------------------------------------------------------


def test_round_trip_is_bit_for_bit(path):
    found, text = read_sealed(path)
    assert text == manifest() == read_manifest(path)
    assert found.keys() == tensors().keys()
    for name, value in tensors().items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def test_it_is_a_plain_safetensors_file_and_the_same_content_gives_the_same_bytes(path, tmp_path):
    content = path.read_bytes()
    assert load(content).keys() == tensors().keys()
    write_sealed(tmp_path / "again.blip", dict(reversed(tensors().items())), dict(reversed(manifest().items())))
    again, _ = read_sealed(tmp_path / "again.blip")
    assert tensors_hash(again) == tensors_hash(tensors())
    assert len((tmp_path / "again.blip").read_bytes()) == len(content)


def test_tensors_that_share_memory_are_kept_apart(tmp_path):
    base = torch.arange(6.0)
    write_sealed(tmp_path / "views.blip", {"whole": base, "half": base[:3], "reshaped": base.view(2, 3)}, {})
    found, _ = read_sealed(tmp_path / "views.blip")
    assert torch.equal(found["half"], base[:3])
    assert torch.equal(found["reshaped"], base.view(2, 3))


def test_a_manifest_with_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_sealed(tmp_path / "nan.blip", {}, {"cutoff": float("nan")})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"count": torch.tensor(8)},
        lambda t: t | {"count": torch.tensor(7, dtype=torch.int32)},
        lambda t: t | {"count": torch.tensor([7])},
        lambda t: {("b/bias" if name == "a/bias" else name): value for name, value in t.items()},
        lambda t: t | {"a/bias": t["a/bias"].flip(0)},
        lambda t: t | {"a/weight": t["a/weight"].reshape(5, 3)},
        lambda t: {name: value for name, value in t.items() if name != "empty"},
        lambda t: t | {"a/weight": torch.where(t["a/weight"] == 0, t["a/weight"], t["a/weight"]) * (1 + 2**-23)},
    ],
    ids=["value", "dtype", "axes", "name", "order", "shape", "missing empty", "last bit"],
)
def test_the_hash_sees_every_kind_of_change(change):
    assert tensors_hash(change(tensors())) != tensors_hash(tensors())


def test_the_hash_does_not_see_order_or_memory_layout():
    other = {name: value.clone(memory_format=torch.contiguous_format) for name, value in reversed(tensors().items())}
    assert tensors_hash(other) == tensors_hash(tensors())


def test_the_hash_keeps_the_sign_of_zero():
    assert tensors_hash({"x": torch.tensor([0.0])}) != tensors_hash({"x": torch.tensor([-0.0])})


# -- damage -------------------------------------------------------------------------------------------------------------


def test_every_truncation_is_refused(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError):
            read_sealed(path)
    path.write_bytes(content)
    read_sealed(path)


def test_a_flipped_bit_in_any_byte_is_refused(path):
    content = path.read_bytes()
    bits = np.random.default_rng(0).integers(0, 8, len(content))
    for position, bit in enumerate(bits.tolist()):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError):
            read_sealed(path)
    path.write_bytes(content)
    read_sealed(path)


def test_every_bit_of_the_hashes_and_of_the_length_is_guarded(path):
    content = path.read_bytes()
    where = [*range(8)]
    for key in (b"manifest_sha256", b"tensors_sha256"):
        start = content.index(key) + len(key) + 3
        where += range(start, start + 64, 3)
    for position in where:
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(ModelFileError):
                read_sealed(path)


def test_without_hashes_the_same_flips_would_pass_in_silence(path):
    """Positive control: safetensors alone does not see a flipped bit of a value."""
    plain = save({"x": torch.arange(8.0)})
    damaged = bytearray(plain)
    damaged[-2] ^= 1
    assert not torch.equal(load(bytes(damaged))["x"], torch.arange(8.0))


def test_inserted_appended_and_swapped_bytes_are_refused(path):
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(200):
        at = int(rng.integers(0, len(content) + 1))
        path.write_bytes(content[:at] + rng.bytes(int(rng.integers(1, 9))) + content[at:])
        with pytest.raises(ModelFileError):
            read_sealed(path)
    for _ in range(200):
        at, length = int(rng.integers(0, len(content))), int(rng.integers(1, 64))
        patch = rng.bytes(len(content[at : at + length]))
        if patch != content[at : at + length]:
            path.write_bytes(content[:at] + patch + content[at + length :])
            with pytest.raises(ModelFileError):
                read_sealed(path)


def test_the_manifest_alone_is_checked_too(path):
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    at = content.index(b"test")
    path.write_bytes(content[:at] + b"best" + content[at + 4 :])
    with pytest.raises(DamagedFileError, match="manifest"):
        read_manifest(path)
    path.write_bytes(content[: 8 + length])  # tensors cut off: the manifest is still whole
    assert read_manifest(path) == manifest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_non_finite_tensors_are_refused_by_name(tmp_path, value, dtype):
    write_sealed(tmp_path / "x.blip", {"fine": torch.ones(2), "bad": torch.tensor([1.0, value], dtype=dtype)}, {})
    with pytest.raises(NonFiniteWeightsError, match="'bad'"):
        read_sealed(tmp_path / "x.blip")


@pytest.mark.parametrize("value", [1.0, float("nan")], ids=["finite", "nan"])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int8, torch.int16], ids=str
)
def test_tensors_of_other_kinds_are_refused_by_name(tmp_path, value, dtype):
    """Some of them have no test for NaN, and none of them is in a model."""
    odd = torch.tensor([2.0, value]).nan_to_num(0.0 if not (dtype.is_floating_point or dtype.is_complex) else value)
    write_sealed(tmp_path / "x.blip", {"fine": torch.ones(2), "bad": odd.to(dtype)}, {})
    with pytest.raises(SchemaError, match=rf"x\.blip.*'bad': {dtype}"):
        read_sealed(tmp_path / "x.blip")


def test_refusals_say_what_is_wrong(path, tmp_path):
    content = path.read_bytes()
    cases = {
        "no such file": (None, ModelFileError),
        "truncated": (b"\x01\x02", DamagedFileError),
        "header of 105906176 bytes": (struct.pack("<Q", 101 * 2**20) + b"{}", DamagedFileError),
        "ends within its header": (content[:100], DamagedFileError),
        "it is damaged": (content[:-1] + bytes([content[-1] ^ 1]), DamagedFileError),
        "no blipcalc file": (save({"x": torch.ones(2)}), SchemaError),
    }
    for text, (damaged, error) in cases.items():
        target = tmp_path / "case.blip"
        if damaged is not None:
            target.write_bytes(damaged)
        with pytest.raises(error, match=text) as caught:
            read_sealed(target)
        assert "case.blip" in str(caught.value)
        assert isinstance(caught.value, BlipcalcError)
        target.unlink(missing_ok=True)


def test_an_announced_header_is_not_allocated(tmp_path):
    """A file of a few bytes that announces an exbyte costs nothing."""
    for length in (101 * 2**20, 2**40, 2**63 - 1, 2**64 - 1):
        (tmp_path / "big.blip").write_bytes(struct.pack("<Q", length) + b"{}")
        start = time.perf_counter()
        with pytest.raises(DamagedFileError, match=str(length)):
            read_sealed(tmp_path / "big.blip")
        assert time.perf_counter() - start < 1.0


def test_pipes_folders_and_broken_links_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.blip")
    (tmp_path / "folder.blip").mkdir()
    (tmp_path / "link.blip").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.blip").symlink_to(tmp_path / "circle.blip")
    for name in ("pipe", "folder", "link", "circle"):
        with pytest.raises(ModelFileError, match="no such file"):
            read_sealed(tmp_path / f"{name}.blip")


def test_a_link_to_a_file_reads_as_the_file(path, tmp_path):
    (tmp_path / "link.blip").symlink_to(path)
    assert read_manifest(tmp_path / "link.blip") == manifest()


def _metadata_file(path: Path, metadata: object) -> Path:
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        [],
        {"manifest": "{}"},
        {"manifest": 5, "manifest_sha256": "x", "tensors_sha256": "y"},
        "manifest manifest_sha256 tensors_sha256",
        5,
        ["manifest", "manifest_sha256", "tensors_sha256"],
    ],
    ids=repr,
)
def test_metadata_of_another_kind_is_refused(tmp_path, metadata):
    with pytest.raises(SchemaError, match=r"x\.blip is no blipcalc file"):
        read_manifest(_metadata_file(tmp_path / "x.blip", metadata))


@pytest.mark.parametrize("header", ["[1, 2, 3]", "null", "5", '"__metadata__"', "true"])
def test_a_header_that_is_no_object_is_refused(tmp_path, header):
    (tmp_path / "x.blip").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    for reader in (read_manifest, read_sealed):
        with pytest.raises(SchemaError, match=r"x\.blip: the header is .*, expected an object"):
            reader(tmp_path / "x.blip")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[1, 2]", SchemaError),
        ("5", SchemaError),
        ('{"a": 1, "a": 2}', DamagedFileError),
        ("not json", DamagedFileError),
        ("", DamagedFileError),
        ("[" * 100_000, DamagedFileError),
    ],
    ids=lambda t: t[:16] if isinstance(t, str) else t.__name__,
)
def test_manifest_text_that_is_no_object_is_refused_though_its_hash_is_right(tmp_path, text, error):
    metadata = {"manifest": text, "manifest_sha256": sealed.text_hash(text), "tensors_sha256": tensors_hash({})}
    with pytest.raises(error, match=r"x\.blip.*manifest"):
        read_manifest(_metadata_file(tmp_path / "x.blip", metadata))


# -- writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["fsync", "replace", "open"])
def test_a_failing_write_keeps_the_old_file_and_leaves_nothing_behind(path, monkeypatch, step):
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path if step == "open" else sealed.os, step, fail)
        with pytest.raises(OSError, match="No space left"):
            write_sealed(path, {"new": torch.ones(3)}, {"new": 1})
    assert path.read_bytes() == before
    assert read_manifest(path) == manifest()
    assert leftovers(path.parent) == []


class _FullDisk:
    """A stream that takes half of what it is given and then fails."""

    def __init__(self, stream):
        self.stream = stream

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stream.close()

    def fileno(self):
        return self.stream.fileno()

    def write(self, content):
        self.stream.write(content[: len(content) // 2])
        self.stream.flush()
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_during_the_write_leaves_nothing_behind(path, monkeypatch, error):
    before = path.read_bytes()

    def interrupt(*args):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(sealed.os, "fsync", interrupt)
        with pytest.raises(error):
            write_sealed(path, tensors(), {})
    assert path.read_bytes() == before
    assert leftovers(path.parent) == []


def test_a_disk_that_fills_up_keeps_the_old_file(path, monkeypatch):
    before = path.read_bytes()
    real, opened = Path.open, []

    def full(where, mode):
        assert (where.parent, mode) == (path.parent, "wb")
        assert where != path
        opened.append(where)
        return _FullDisk(real(where, mode))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(OSError, match="No space left"):
            write_sealed(path, tensors(), {})
    assert len(opened) == 1
    assert path.read_bytes() == before
    assert leftovers(path.parent) == []


def test_order_of_a_write_is_file_sync_rename_folder_sync(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_sync(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def record_replace(source, target):
        assert Path(source).parent == Path(target).parent  # a rename across file systems is no rename
        calls.append("rename")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(sealed.os, "fsync", record_sync)
        patch.setattr(sealed.os, "replace", record_replace)
        write_atomically(tmp_path / "deep" / "er" / "x", b"content")
    assert calls == ["file", "rename", "folder"]
    assert (tmp_path / "deep" / "er" / "x").read_bytes() == b"content"


IN_PLACE = """
import sys
n = 0
while True:
    n += 1
    with open(sys.argv[1], "wb") as stream:
        for part in range(8):
            stream.write(bytes([n % 256]) * 20000)
            stream.flush()
    if n == 3:
        print("ready", flush=True)
"""


def _kill_while_rewriting(script: str, target: Path, wait: float) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE, env=environment)
    with child:
        assert child.stdout.readline() == b"ready\n"
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL


def test_a_file_that_is_rewritten_is_readable_after_every_kill(tmp_path):
    """Twenty kills at random moments; the children run at once, since most of their time is the import of torch."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    forks = """
import os, sys, torch
from blipcalc.files.safetensors_file import write_sealed
for k in range(20):
    if os.fork() == 0:
        n = 0
        while True:
            n += 1
            write_sealed(f"{sys.argv[1]}/{k}/x.blip", {"x": torch.full((40000,), float(n))}, {"n": n})
            if n == 2:
                os.write(1, f"{k} {os.getpid()}\\n".encode())  # at once, whatever the other children write
for k in range(20):
    os.wait()
"""
    rng = np.random.default_rng(0)
    parent = subprocess.Popen(
        [sys.executable, "-c", forks, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    with parent:
        try:
            for _ in range(20):
                _, pid = parent.stdout.readline().split()
                time.sleep(float(rng.uniform(0, 0.05)))
                os.kill(int(pid), signal.SIGKILL)
        except BaseException:
            os.killpg(parent.pid, signal.SIGKILL)
            raise
    assert parent.returncode == 0
    torn = 0
    for k in range(20):
        found, text = read_sealed(tmp_path / str(k) / "x.blip")
        assert (found["x"] == text["n"]).all()
        torn += len(leftovers(tmp_path / str(k)))
        write_sealed(tmp_path / str(k) / "x.blip", {}, {})  # the next save clears away what the kill left
        assert leftovers(tmp_path / str(k)) == []
    # positive control: kills did hit writes in progress
    assert torn > 0


def test_what_others_write_at_this_moment_is_no_leftover(tmp_path):
    path, names = tmp_path / "x", (".x.1.2.tmp", ".x.mine.tmp", ".y.1.2.tmp")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with (tmp_path / names[0]).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_atomically(path, b"1")
        assert sorted(leftovers(tmp_path)) == sorted(names)
    write_atomically(path, b"2")
    assert leftovers(tmp_path) == sorted(names[1:])  # of another file, and of no name that we give


def test_many_threads_write_one_file(tmp_path):
    """None is taken for a leftover of another; the file is always that of one of them."""
    path, failed = tmp_path / "x", []

    def write(k):
        try:
            for _ in range(60):
                write_atomically(path, bytes([k]) * 5000)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        content = path.read_bytes() if path.exists() else b""
        assert len(set(content)) <= 1
        assert len(content) in (0, 5000)
    assert not failed
    assert leftovers(tmp_path) == []


def test_a_file_written_in_place_is_torn_by_a_kill(tmp_path):
    """Positive control of the test above: the same kills tear a file that is written in place."""
    torn = 0
    for k in range(12):
        _kill_while_rewriting(IN_PLACE, tmp_path / "x", 0.003 * k)
        content = (tmp_path / "x").read_bytes()
        torn += len(content) < 160_000
        if torn:
            return
    pytest.fail("no kill hit a write in progress")
