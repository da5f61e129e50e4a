"""Model files: every posterior comes back bit for bit, and a file that is not exactly right is refused by name (F17)."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from ase.build import molecule
from safetensors.torch import save
from torch import Tensor, nn

from blipcalc.core.contracts import Draws
from blipcalc.core.prediction import Calibration
from blipcalc.errors import (
    CalibrationError,
    ChangedRandomStreamError,
    DamagedFileError,
    ModelFileError,
    NonFiniteWeightsError,
    SchemaError,
)
from blipcalc.files.safetensors_file import read_sealed, tensors_hash, write_sealed
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import find_model, load, model_info, save_model
from blipcalc.models.build import build_model
from blipcalc.models.painn import PaiNNConfig
from blipcalc.posteriors.blip import BlipConfig, BlipPosterior, bayesianize
from blipcalc.posteriors.ensemble import EnsemblePosterior, MixturePosterior, stack_members
from blipcalc.posteriors.gaussian import GaussianPosterior
from blipcalc.posteriors.last_layer import LastLayerPosterior, flat, last_weights
from blipcalc.posteriors.point import PointPosterior
from blipcalc.posteriors.pops import PopsPosterior
from blipcalc.predictor import BayesianPredictor

ROOT = Path(__file__).parents[2]
SPECIES = (1, 6, 8)


def network(seed: int, features: int = 4) -> nn.Module:
    """A PaiNN of some hundred weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model("painn", {"features": features, "interactions": 1, "n_radial": 6}, SPECIES)
    model.energies.set({1: -13.6, 6: -1027.0, 8: -2038.5}, 0.7, SPECIES)
    return model


def blip(seed: int, **settings: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1000)
        return bayesianize(network(seed), BlipConfig(**settings))


def weights(models: list[nn.Module]) -> dict[str, Tensor]:
    return stack_members([dict(m.named_parameters()) for m in models])


def make(posterior: str) -> Model:
    """A model of each posterior, with provenance and frames."""
    rest = {
        "training": {"command": "train", "seed": 3, "wall_time_s": 1.5, "versions": {"torch": torch.__version__}},
        "frames": torch.tensor([1, -(2**62), 3]),
    }
    if posterior == "point":
        return Model(network(0), PointPosterior(), **rest)
    if posterior == "ensemble":
        return Model(network(0), EnsemblePosterior(weights([network(k) for k in range(3)])), **rest)
    model = blip(0)
    noise = BlipPosterior(model.slot_shapes())
    if posterior == "blip":
        return Model(model, noise, surface="centre", **rest)
    if posterior == "local":
        model = blip(0, mode="local", bound="paper", alpha_prior=1.0)
        return Model(model, BlipPosterior(model.slot_shapes()), **rest)
    return Model(model, MixturePosterior(weights([blip(k) for k in range(2)]), noise), **rest)


def calibration(model: Model, **changes: object) -> Calibration:
    values = {
        "surface": "mean",
        "n_draws": 2,
        "seed": 0,
        "model_hash": model.hash,
        "scale": {1: 1.1, 6: 1.3, 8: 0.1 + 0.2},
        "scale_energy": 2.0,
        "q_atom": {1: {0.9: 2.1, 0.95: 3.0}, 6: {0.9: 2.2, 0.95: 3.3}},
        "q_frame": {0.95: 4.0},
        "n_frames": 50,
        "n_atoms": {1: 300, 6: 100, 8: 50},
        "n_element_frames": {1: 50, 6: 50, 8: 50},
        "frames_hash": "ab" * 32,
    }
    return Calibration(**(values | changes))


POSTERIORS = ("point", "blip", "local", "ensemble", "mixture")


@pytest.fixture(scope="module", params=POSTERIORS)
def stored(request, tmp_path_factory) -> tuple[Model, Path]:
    model = make(request.param)
    path = tmp_path_factory.mktemp(request.param) / "model.blip"
    save_model(model, path)
    return model, path


def predict(model: Model, n_draws: int = 2, seed: int = 5, surface: str = "mean") -> tuple[np.ndarray, ...]:
    n_draws = n_draws if model.posterior.is_random else 1
    predictor = BayesianPredictor.load(model, n_draws=n_draws, seed=seed, surface=surface, strategy="loop")
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, rng=np.random.default_rng(0))
    found = predictor([atoms])[0]
    parts = (found.energy, found.forces, found.energy_var, found.forces_cov)
    return tuple(np.asarray(part) for part in parts if part is not None)


# -- round trip ---------------------------------------------------------------------------------------------------------


def test_predictions_come_back_bit_for_bit(stored):
    model, path = stored
    again = load(path)
    for before, after in zip(predict(model), predict(again), strict=True):
        assert np.array_equal(before, after)
        assert np.isfinite(after).all()
    assert len(predict(again)) == (4 if model.posterior.is_random else 2)


def test_another_seed_gives_other_draws_where_noise_is_drawn(stored):
    """Positive control: the comparison above can fail."""
    model, _ = stored
    noisy = isinstance(model.posterior, (BlipPosterior, MixturePosterior))
    assert np.array_equal(predict(model, seed=5)[1], predict(model, seed=6)[1]) == (not noisy)


def test_everything_else_comes_back_too(stored):
    model, path = stored
    again = load(path)
    assert again.hash == model.hash
    assert type(again.posterior) is type(model.posterior)
    assert type(again.network) is type(model.network)
    assert (again.surface, again.training) == (model.surface, model.training)
    assert torch.equal(again.frames, model.frames)
    assert again.network.species == SPECIES
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name
    for name, value in getattr(model.posterior, "members", {}).items():
        assert torch.equal(value, again.posterior.members[name]), name


def test_loading_and_saving_again_gives_the_same_tensors_and_manifest(stored, tmp_path):
    _, path = stored
    save_model(load(path), tmp_path / "again.blip")
    (first, text), (second, again) = read_sealed(path), read_sealed(tmp_path / "again.blip")
    assert tensors_hash(first) == tensors_hash(second)
    assert text == again


def test_loading_leaves_the_global_random_stream_alone(stored):
    _, path = stored
    before = torch.get_rng_state()
    load(path)
    assert torch.equal(before, torch.get_rng_state())


def test_info_reads_the_manifest_alone(stored):
    model, path = stored
    info = model_info(path)
    assert (info["posterior"], info["architecture"]) == (model.posterior.name, "painn")
    assert info["species"] == list(SPECIES)
    assert info["model_hash"] == model.hash
    assert json.loads(json.dumps(info)) == info


def test_saving_changes_nothing_in_the_model(tmp_path):
    model = make("blip")
    before = copy.deepcopy(model.network.state_dict())
    save_model(model, tmp_path / "x.blip")
    assert all(torch.equal(before[n], v) for n, v in model.network.state_dict().items())


def test_calibrations_come_back_exactly(tmp_path):
    model = make("blip")
    first, other = calibration(model), calibration(model, surface="centre", n_draws=8)
    model = model.with_calibrations(first, other)
    save_model(model, tmp_path / "x.blip")
    again = load(tmp_path / "x.blip")
    assert again.calibrations == (first, other)
    assert again.calibration("mean", 2, 0) == first
    assert again.calibration("mean", 3, 0) is None
    newer = calibration(model, scale_energy=7.0)
    assert again.with_calibrations(newer).calibrations == (other, newer)


def test_the_hash_of_a_model_sees_weights_architecture_and_posterior_but_not_calibrations(tmp_path):
    model = make("blip")
    assert model.with_calibrations(calibration(model)).hash == model.hash
    assert replace(model, surface="mean", training={}).hash == model.hash
    assert make("point").hash != model.hash
    local = blip(0, mode="local")  # the same weights under another kind of noise
    assert tensors_hash(local.state_dict()) == tensors_hash(model.network.state_dict())
    assert Model(local, BlipPosterior(local.slot_shapes())).hash != model.hash
    other = make("blip")
    with torch.no_grad():
        next(other.network.parameters())[0, 0] += 1e-6
    assert other.hash != model.hash


def test_a_bare_name_is_looked_up_and_a_path_is_a_path(tmp_path):
    assert find_model(tmp_path / "x") == tmp_path / "x"
    assert find_model("x.blip") == Path("x.blip")


def test_a_missing_file_is_refused_by_name(tmp_path):
    for source in (tmp_path / "nothing.blip", str(tmp_path / "nothing.blip"), "nothing.blip"):
        with pytest.raises(ModelFileError, match="no such file"):
            load(source)


def test_a_model_that_could_not_be_loaded_again_is_not_written(tmp_path):
    model = make("point")
    with torch.no_grad():
        next(model.network.parameters())[0, 0] = float("nan")
    save_model(make("point"), tmp_path / "old.blip")
    before = (tmp_path / "old.blip").read_bytes()
    for name in ("nan", "old"):
        with pytest.raises(NonFiniteWeightsError, match=rf"{name}\.blip not written: .* hold NaN"):
            save_model(model, tmp_path / f"{name}.blip")
    assert os.listdir(tmp_path) == ["old.blip"]
    assert (tmp_path / "old.blip").read_bytes() == before


@pytest.mark.parametrize("posterior", ["point", "blip", "ensemble"])
def test_a_float64_model_comes_back_in_float64(tmp_path, posterior):
    model = make(posterior)
    members = {n: v.double() for n, v in getattr(model.posterior, "members", {}).items()}
    model = replace(
        model, network=model.network.double(), posterior=EnsemblePosterior(members) if members else model.posterior
    )
    save_model(model, tmp_path / "x.blip")
    again = load(tmp_path / "x.blip")
    assert {p.dtype for p in again.network.parameters()} == {torch.float64}
    assert again.hash == model.hash
    for before, after in zip(predict(model), predict(again), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_in_half_precision_is_not_written(tmp_path, dtype):
    """It would be refused when it is read."""
    with pytest.raises(ValueError, match="float16"):
        save_model(Model(network(0).to(dtype), PointPosterior()), tmp_path / "half.blip")
    assert os.listdir(tmp_path) == []


def test_a_calibration_of_another_model_is_refused():
    model, other = make("blip"), make("local")
    with pytest.raises(CalibrationError, match="belongs to model"):
        other.with_calibrations(calibration(model))
    with pytest.raises(CalibrationError, match="belongs to model"):
        replace(model, calibrations=(calibration(model), calibration(other)))


# -- damage -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A small calibrated BLIP."""
    model = make("blip")
    path = tmp_path_factory.mktemp("good") / "good.blip"
    save_model(model.with_calibrations(calibration(model)), path)
    return path


def test_truncation_at_random_bytes_is_refused(good, tmp_path):
    content = good.read_bytes()
    rng = np.random.default_rng(0)
    cuts = {0, 1, 7, 8, 9, len(content) - 1, *rng.integers(0, len(content), 250).tolist()}
    for cut in sorted(cuts):
        (tmp_path / "cut.blip").write_bytes(content[:cut])
        with pytest.raises(ModelFileError):
            load(tmp_path / "cut.blip")


def test_a_flipped_bit_in_every_single_byte_is_refused(tmp_path):
    path = tmp_path / "point.blip"
    save_model(Model(network(0), PointPosterior()), path)
    content = path.read_bytes()
    assert len(content) < 10_000
    bits = np.random.default_rng(1).integers(0, 8, len(content)).tolist()
    errors: dict[str, int] = {}
    for position, bit in enumerate(bits):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError) as caught:
            load(path)
        errors[type(caught.value).__name__] = errors.get(type(caught.value).__name__, 0) + 1
    assert errors["DamagedFileError"] > 0.95 * len(content)
    path.write_bytes(content)
    load(path)


def test_a_changed_random_stream_is_noticed(good, monkeypatch):
    """Another generator than the one that the file was saved with, as a new version of torch might bring."""
    load(good)
    real = BlipPosterior.draw

    def other(self, n, *, generator):
        torch.rand(1, generator=generator)
        return real(self, n, generator=generator)

    monkeypatch.setattr(BlipPosterior, "draw", other)
    with pytest.raises(ChangedRandomStreamError, match="seed 0"):
        load(good)


@pytest.mark.parametrize("name", ["swag", "llpr", "pops"])
def test_what_is_around_a_network_is_witnessed_by_its_random_numbers_alone(tmp_path, monkeypatch, name):
    """Matrix products have other last digits on another machine; a file made here must open there, if its stream is the same."""
    network = build_model("painn", {"features": 8, "interactions": 1}, (1, 8))
    mean = {key: value.detach() for key, value in network.named_parameters()}
    if name == "swag":
        deviations = {key: torch.randn(3, *value.shape) for key, value in mean.items()}
        posterior = GaussianPosterior("swag", mean, {k: torch.ones_like(v) for k, v in mean.items()}, deviations)
    else:
        weights = last_weights(network)
        axes = torch.eye(len(flat(weights)), dtype=torch.float64)
        posterior = LastLayerPosterior(weights, axes, "llpr")
        if name == "pops":
            posterior = PopsPosterior(weights, axes, -axes.diagonal(), axes.diagonal())
    save_model(Model(network, posterior), tmp_path / "a.blip")
    kind, real = type(posterior), type(posterior).draw

    def rounded_otherwise(self, n, *, generator):
        drawn = real(self, n, generator=generator)
        return replace(drawn, overrides={key: value * (1 + 1e-15) for key, value in drawn.overrides.items()})

    monkeypatch.setattr(kind, "draw", rounded_otherwise)
    load(tmp_path / "a.blip")
    numbers = kind.numbers
    monkeypatch.setattr(kind, "numbers", lambda self, generator: {k: -v for k, v in numbers(self, generator).items()})
    with pytest.raises(ChangedRandomStreamError):
        load(tmp_path / "a.blip")


# -- poisoned files (F17) -----------------------------------------------------------------------------------------------


class Good(NamedTuple):
    """A good file in parts."""

    tensors: dict[str, Tensor]
    manifest: dict[str, Any]
    content: bytes


class Poison(NamedTuple):
    """How to make a file from a good one, and how it is refused."""

    make: Callable[[Good], bytes]
    error: type[ModelFileError] = ModelFileError


def resealed(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> bytes:
    """A file whose hashes are right."""
    text = json.dumps(manifest)
    return save(tensors, metadata=_seal(text, tensors))


def _seal(text: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    return {
        "manifest": text,
        "manifest_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "tensors_sha256": tensors_hash(tensors),
    }


def manifest_with(**changes: object) -> Callable[[Good], bytes]:
    return lambda good: resealed(good.tensors, good.manifest | changes)


def manifest_without(key: str) -> Callable[[Good], bytes]:
    return lambda good: resealed(good.tensors, {k: v for k, v in good.manifest.items() if k != key})


def calibration_with(**changes: object) -> Callable[[Good], bytes]:
    def build(good: Good) -> bytes:
        first = good.manifest["calibrations"][0] | changes
        return resealed(good.tensors, good.manifest | {"calibrations": [first]})

    return build


def weight(change: Callable[[Tensor], Tensor]) -> Callable[[Good], bytes]:
    """One weight tensor changed, hashes right; the hash of the model as it was."""

    def build(good: Good) -> bytes:
        name = "model/backbone.readout_inner.weight"
        return resealed(good.tensors | {name: change(good.tensors[name])}, good.manifest)

    return build


def rehashed(tensors: dict[str, Tensor], good: Good, **changes: object) -> bytes:
    """As an attacker or a faulty converter would: weights, calibrations and the hash of the model agree."""
    manifest = good.manifest | changes
    found = model_hash(tensors, manifest)
    calibrations = [stored | {"model_hash": found} for stored in manifest["calibrations"]]
    return resealed(tensors, manifest | {"model_hash": found, "calibrations": calibrations})


def model_hash(tensors: dict[str, Tensor], manifest: dict[str, Any]) -> str:
    """The hash of the model, from a file's parts alone: poison is often nothing that a model can be built from."""

    def without_defaults(name: str, config: type) -> dict[str, Any] | None:
        defaults = config().model_dump(mode="json")
        stored = manifest[name]
        return stored and {k: v for k, v in stored.items() if k not in defaults or v != defaults[k]}

    identity = {
        "tensors": tensors_hash({n: v for n, v in tensors.items() if n != "frames"}),
        "species": manifest["species"],
        "cutoff": manifest["cutoff"],
        "architecture": manifest["architecture"],
        "architecture_config": without_defaults("architecture_config", PaiNNConfig),
        "posterior": manifest["posterior"],
        "posterior_config": without_defaults("posterior_config", BlipConfig),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def raw(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def raw_tensors(entries: str) -> Callable[[Good], bytes]:
    """A hand-written header: these tensor entries, the metadata of the good file, 64 bytes of data."""

    def build(good: Good) -> bytes:
        metadata = json.dumps(_seal(json.dumps(good.manifest), {}))
        return raw(f'{{"__metadata__": {metadata}, {entries}}}'.encode(), bytes(64))

    return build


def tensor_entry(name: str, begin: int, end: int, shape: list[int], dtype: str = "F32") -> str:
    return f'"{name}": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [{begin}, {end}]}}'


class Bomb:
    """Leaves a folder behind where it is unpickled."""

    def __init__(self, sentinel: str) -> None:
        self.sentinel = sentinel

    def __reduce__(self):
        return os.mkdir, (self.sentinel,)


SENTINEL = "sentinel-of-a-poisoned-file"


def _stream(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _zip(name: str, content: bytes) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(name, content)

    return _stream(write)


def _tar(name: str) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode="w") as archive:
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"evil"))

    return _stream(write)


def bomb() -> Bomb:
    return Bomb(SENTINEL)


def _stacked(build: Callable[[Tensor], Tensor]) -> Callable[[Good], bytes]:
    """The weights as members of a mixture, one of them changed."""

    def make_file(good: Good) -> bytes:
        moved = {
            (n.replace("model/", "members/") if "weight" in n else n): (v[None] if "weight" in n else v)
            for n, v in good.tensors.items()
        }
        name = next(n for n in moved if n.startswith("members/"))
        return rehashed(moved | {name: build(moved[name])}, good, posterior="mixture")

    return make_file


def _header_twice(good: Good) -> bytes:
    """One key of the header twice, the second time with other offsets; safetensors alone would take the last."""
    (length,) = struct.unpack("<Q", good.content[:8])
    header = good.content[8 : 8 + length].rstrip()
    return raw(
        header[:-1] + b"," + tensor_entry("frames", 0, 24, [3], "I64").encode() + b"}", good.content[8 + length :]
    )


WRONG = SchemaError
POISONS: dict[str, Poison] = {
    # what other programs write
    "empty file": Poison(lambda g: b"", DamagedFileError),
    "one byte": Poison(lambda g: b"\x80", DamagedFileError),
    "eight zeros": Poison(lambda g: bytes(8), DamagedFileError),
    "a megabyte of zeros": Poison(lambda g: bytes(2**20), DamagedFileError),
    "noise": Poison(lambda g: np.random.default_rng(0).bytes(5000)),
    "plain text": Poison(lambda g: b"a model, honestly\n" * 100),
    "yaml tag": Poison(lambda g: f"!!python/object/apply:os.mkdir ['{SENTINEL}']\n".encode()),
    "json": Poison(lambda g: json.dumps(g.manifest).encode()),
    "html": Poison(lambda g: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    **{
        f"pickle protocol {protocol}": Poison(lambda g, p=protocol: pickle.dumps(bomb(), protocol=p))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "pickle behind a length": Poison(lambda g: raw(pickle.dumps(bomb()), pickle.dumps(bomb()))),
    "torch zip": Poison(lambda g: _stream(lambda s: torch.save({"model": bomb()}, s))),
    "torch legacy": Poison(lambda g: _stream(lambda s: torch.save(bomb(), s, _use_new_zipfile_serialization=False))),
    "torch zip, weights only": Poison(lambda g: _stream(lambda s: torch.save(g.tensors, s))),
    "npy of objects": Poison(lambda g: _stream(lambda s: np.save(s, np.array([bomb()], dtype=object)))),
    "npz of objects": Poison(lambda g: _stream(lambda s: np.savez(s, a=np.array([bomb()], dtype=object)))),
    "zip slip": Poison(lambda g: _zip(f"../../{SENTINEL}", b"evil")),
    "absolute zip": Poison(lambda g: _zip(f"/tmp/{SENTINEL}", b"evil")),
    "zip with the model in it": Poison(lambda g: _zip("model.blip", g.content)),
    "tar slip": Poison(lambda g: _tar(f"../../{SENTINEL}")),
    # headers
    "101 MB header": Poison(lambda g: struct.pack("<Q", 101 * 2**20) + g.content[8:], DamagedFileError),
    "header of 2**63": Poison(lambda g: struct.pack("<Q", 2**63) + g.content[8:], DamagedFileError),
    "header of 2**64 - 1": Poison(lambda g: b"\xff" * 8 + g.content[8:], DamagedFileError),
    "header one byte short": Poison(
        lambda g: struct.pack("<Q", struct.unpack("<Q", g.content[:8])[0] - 1) + g.content[8:], DamagedFileError
    ),
    "header is a list": Poison(lambda g: raw(b"[1, 2, 3]"), WRONG),
    "header is null": Poison(lambda g: raw(b"null"), WRONG),
    "header is no unicode": Poison(lambda g: raw(b'{"\xff\xfe": 1}'), DamagedFileError),
    "header nests deeply": Poison(lambda g: raw(b"[" * 200_000), DamagedFileError),
    "header names a tensor twice": Poison(_header_twice, DamagedFileError),
    "metadata twice": Poison(
        lambda g: raw(b'{"__metadata__": {"manifest": "{}"}, "__metadata__": {"manifest": "[]"}}'), DamagedFileError
    ),
    "safetensors without a manifest": Poison(lambda g: save(g.tensors), WRONG),
    "safetensors of someone else": Poison(lambda g: save(g.tensors, metadata={"format": "pt"}), WRONG),
    "metadata is a number": Poison(lambda g: raw(b'{"__metadata__": 5}'), WRONG),
    "manifest is a number": Poison(
        lambda g: raw(b'{"__metadata__": {"manifest": 1, "manifest_sha256": 2, "tensors_sha256": 3}}'), WRONG
    ),
    "manifest is no json": Poison(lambda g: save(g.tensors, metadata=_seal("{", g.tensors)), DamagedFileError),
    "manifest nests deeply": Poison(
        lambda g: save(g.tensors, metadata=_seal("[" * 200_000, g.tensors)), DamagedFileError
    ),
    "manifest names a key twice": Poison(
        lambda g: save(g.tensors, metadata=_seal('{"schema_version": 1, "schema_version": 2}', g.tensors)),
        DamagedFileError,
    ),
    "overlapping tensors": Poison(
        raw_tensors(f"{tensor_entry('a', 0, 40, [10])}, {tensor_entry('b', 24, 64, [10])}"), DamagedFileError
    ),
    "hole between tensors": Poison(
        raw_tensors(f"{tensor_entry('a', 0, 8, [2])}, {tensor_entry('b', 56, 64, [2])}"), DamagedFileError
    ),
    "tensor beyond the end": Poison(raw_tensors(tensor_entry("a", 0, 2**40, [2**38])), DamagedFileError),
    "tensor of negative length": Poison(raw_tensors(tensor_entry("a", 64, 0, [16])), DamagedFileError),
    "negative offset": Poison(raw_tensors(tensor_entry("a", -64, 0, [16])), DamagedFileError),
    "shape and length disagree": Poison(raw_tensors(tensor_entry("a", 0, 64, [17])), DamagedFileError),
    "shape overflows": Poison(raw_tensors(tensor_entry("a", 0, 64, [2**62, 4])), DamagedFileError),
    "unknown dtype": Poison(raw_tensors(tensor_entry("a", 0, 64, [16], "PY_OBJECT")), DamagedFileError),
    "bytes behind the last tensor": Poison(lambda g: g.content + b"PK\x03\x04 and more", DamagedFileError),
    # hashes
    "tensors of another file": Poison(
        lambda g: save(g.tensors | {"frames": torch.zeros(3)}, metadata=_seal(json.dumps(g.manifest), g.tensors)),
        DamagedFileError,
    ),
    "manifest of another file": Poison(
        lambda g: save(g.tensors, metadata=_seal("{}", g.tensors) | {"manifest": json.dumps(g.manifest)}),
        DamagedFileError,
    ),
    "weights of another model": Poison(weight(lambda w: w + 1.0), WRONG),
    "wrong model hash": Poison(manifest_with(model_hash="00" * 32), WRONG),
    "wrong hash of the draws": Poison(manifest_with(draws_hash="00" * 32), ChangedRandomStreamError),
    "no hash of the draws": Poison(manifest_with(draws_hash=None), ChangedRandomStreamError),
    # weights, hashes right
    "NaN weight": Poison(weight(lambda w: w * float("nan")), NonFiniteWeightsError),
    "infinite weight": Poison(weight(lambda w: w / 0.0), NonFiniteWeightsError),
    "wrong shape": Poison(weight(lambda w: w.T.contiguous()), WRONG),
    "shape that would broadcast": Poison(weight(lambda w: w[:1]), WRONG),
    "wrong dtype": Poison(weight(lambda w: w.double()), WRONG),
    "integer weights": Poison(weight(lambda w: w.to(torch.int32)), WRONG),
    "complex weights": Poison(weight(lambda w: w.to(torch.complex64)), WRONG),
    "half precision weights": Poison(weight(lambda w: w.half()), WRONG),
    "8 bit weights": Poison(weight(lambda w: w.to(torch.float8_e4m3fn)), WRONG),
    "a weight is missing": Poison(
        lambda g: rehashed({n: v for n, v in g.tensors.items() if "readout_inner.weight" not in n}, g), WRONG
    ),
    "an unknown weight": Poison(lambda g: rehashed(g.tensors | {"model/backbone.extra": torch.ones(2)}, g), WRONG),
    "a renamed weight": Poison(
        lambda g: rehashed({n.replace("readout_inner", "readout_inter"): v for n, v in g.tensors.items()}, g), WRONG
    ),
    "a tensor of no kind": Poison(lambda g: resealed(g.tensors | {"other/x": torch.ones(2)}, g.manifest), WRONG),
    "no frames": Poison(lambda g: resealed({n: v for n, v in g.tensors.items() if n != "frames"}, g.manifest), WRONG),
    "frames that are no fingerprints": Poison(
        lambda g: resealed(g.tensors | {"frames": torch.ones(2, 2)}, g.manifest), WRONG
    ),
    # posteriors
    "BLIP weights as a point": Poison(lambda g: rehashed(g.tensors, g, posterior="point"), WRONG),
    "BLIP weights as an ensemble": Poison(lambda g: rehashed(g.tensors, g, posterior="ensemble"), WRONG),
    "BLIP weights as a mixture": Poison(lambda g: rehashed(g.tensors, g, posterior="mixture"), WRONG),
    "BLIP weights without a BLIP": Poison(
        lambda g: rehashed(g.tensors, g, posterior="point", posterior_config=None), WRONG
    ),
    "unknown posterior": Poison(lambda g: rehashed(g.tensors, g, posterior="laplace"), WRONG),
    "members of different number": Poison(_stacked(lambda v: torch.cat([v, v])), WRONG),
    "members without an axis": Poison(_stacked(lambda v: v.sum()), WRONG),
    "no members": Poison(_stacked(lambda v: v[:0]), WRONG),
    "unknown BLIP setting": Poison(
        lambda g: rehashed(g.tensors, g, posterior_config=g.manifest["posterior_config"] | {"alfa": 1}), WRONG
    ),
    "negative alpha": Poison(
        lambda g: rehashed(g.tensors, g, posterior_config=g.manifest["posterior_config"] | {"alpha_max": -0.1}), WRONG
    ),
    "prior beyond the bound": Poison(
        lambda g: rehashed(g.tensors, g, posterior_config=g.manifest["posterior_config"] | {"alpha_prior": 9.0}), WRONG
    ),
    # manifest, hashes right
    **{
        f"schema version {value!r}": Poison(manifest_with(schema_version=value), WRONG)
        for value in (0, 2, -1, "1", None, [1])
    },
    **{
        f"no {key}": Poison(manifest_without(key), WRONG)
        for key in (
            "schema_version",
            "architecture",
            "posterior",
            "species",
            "units",
            "model_hash",
            "draws_hash",
            "training",
        )
    },
    "unknown key": Poison(manifest_with(colour="blue"), WRONG),
    "empty manifest": Poison(lambda g: resealed(g.tensors, {}), WRONG),
    "unknown architecture": Poison(manifest_with(architecture="mace"), WRONG),
    "architecture is a path": Poison(manifest_with(architecture="os.system"), WRONG),
    "architecture is a list": Poison(manifest_with(architecture=["painn"]), WRONG),
    "unknown size": Poison(lambda g: rehashed(g.tensors, g, architecture_config={"fetures": 4}), WRONG),
    "sizes of another model": Poison(
        lambda g: rehashed(g.tensors, g, architecture_config=g.manifest["architecture_config"] | {"features": 6}), WRONG
    ),
    "size beyond all memory": Poison(
        lambda g: rehashed(g.tensors, g, architecture_config=g.manifest["architecture_config"] | {"features": 10**14}),
        WRONG,
    ),
    "no species": Poison(manifest_with(species=[]), WRONG),
    "species beyond the table": Poison(manifest_with(species=[1, 6, 200]), WRONG),
    "negative species": Poison(manifest_with(species=[1, 6, -111]), WRONG),
    "other species": Poison(manifest_with(species=[1, 6, 7]), WRONG),
    "a species twice": Poison(manifest_with(species=[1, 6, 6]), WRONG),
    "species by name": Poison(manifest_with(species=["H", "C", "O"]), WRONG),
    "other units": Poison(manifest_with(units={"energy": "kcal/mol", "length": "Bohr"}), WRONG),
    "negative cutoff": Poison(manifest_with(cutoff=-5.0), WRONG),
    "another cutoff than the network": Poison(manifest_with(cutoff=3.0), WRONG),
    "unknown surface": Poison(manifest_with(surface="median"), WRONG),
    # calibrations, hashes right
    "negative energy scale": Poison(calibration_with(scale_energy=-1.0), WRONG),
    "zero energy scale": Poison(calibration_with(scale_energy=0.0), WRONG),
    "NaN energy scale": Poison(calibration_with(scale_energy=float("nan")), WRONG),
    "infinite energy scale": Poison(calibration_with(scale_energy=float("inf")), WRONG),
    "negative force scale": Poison(calibration_with(scale={"1": -1.0}), WRONG),
    "NaN force scale": Poison(calibration_with(scale={"1": float("nan")}), WRONG),
    "negative quantile": Poison(calibration_with(q_frame={"0.95": -1.0}), WRONG),
    "level above one": Poison(calibration_with(q_frame={"95": 3.0}), WRONG),
    "calibrated with no draw": Poison(calibration_with(n_draws=0), WRONG),
    "calibrated on no frames": Poison(calibration_with(n_frames=0), WRONG),
    "calibration of another model": Poison(calibration_with(model_hash="00" * 32), WRONG),
    "scale of an element by name": Poison(calibration_with(scale={"H": 1.0}), WRONG),
    "calibration with an unknown key": Poison(calibration_with(note="x"), WRONG),
}


@pytest.fixture(scope="module")
def parts(good) -> Good:
    tensors, manifest = read_sealed(good)
    return Good(tensors, manifest, good.read_bytes())


def test_the_tools_that_make_poison_can_make_a_good_file(parts, tmp_path):
    """Positive control: what is refused below is refused for its poison, not for the way it was made."""
    for content in (resealed(parts.tensors, parts.manifest), rehashed(parts.tensors, parts), manifest_with()(parts)):
        (tmp_path / "same.blip").write_bytes(content)
        assert load(tmp_path / "same.blip").hash == parts.manifest["model_hash"]
    (tmp_path / "same.blip").write_bytes(calibration_with()(parts))
    assert len(load(tmp_path / "same.blip").calibrations) == 1
    (tmp_path / "same.blip").write_bytes(_stacked(lambda v: v)(parts))
    assert load(tmp_path / "same.blip").posterior.name == "mixture"


#: refused because their parts, each of them valid, do not belong together
FOREIGN = {"weights of another model", "wrong model hash", "other species", "calibration of another model"}


@pytest.mark.parametrize("name", POISONS)
def test_poison_is_refused_by_name(parts, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "poison.blip"
    path.write_bytes(POISONS[name].make(parts))
    with pytest.raises(POISONS[name].error, match=r"poison\.blip") as caught:
        load(path)
    assert ("do not belong together" in str(caught.value)) == (name in FOREIGN)
    assert os.listdir(tmp_path) == ["poison.blip"]


def test_there_are_enough_poisons():
    assert len(POISONS) >= 120


def test_a_refusal_is_a_value_error_and_carries_no_foreign_traceback(parts, tmp_path):
    path = tmp_path / "poison.blip"
    for name in ("torch zip", "negative offset", "unknown architecture", "unknown key"):
        path.write_bytes(POISONS[name].make(parts))
        with pytest.raises(ValueError, match=r"poison\.blip") as caught:
            load(path)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None, name


def test_a_link_to_a_model_is_followed_and_a_link_to_poison_refused(good, tmp_path):
    (tmp_path / "good.blip").symlink_to(good)
    load(tmp_path / "good.blip")
    (tmp_path / "target").write_bytes(pickle.dumps(bomb()))
    (tmp_path / "poison.blip").symlink_to(tmp_path / "target")
    with pytest.raises(ModelFileError):
        load(tmp_path / "poison.blip")
    for device in ("/dev/zero", "/dev/null"):
        with pytest.raises(ModelFileError):
            load(device)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ModelFileError):
        load(tmp_path)


AUDIT = """
import os, sys
from pathlib import Path
import torch
from blipcalc.model_file.model_file import load, model_info
from blipcalc.errors import ModelFileError

good, folder = sys.argv[1:3]
load(good)  # what is imported late is imported now
from blipcalc.registries import MODELS
from blipcalc.registries import POSTERIORS
for registry in (MODELS, POSTERIORS):
    for name in registry.names():
        registry[name]
watched = ("pickle.find_class", "exec", "compile", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "os.mkdir",
           "ctypes.dlopen", "socket.connect", "os.rename", "os.remove", "marshal.loads", "code.__new__", "urllib.Request")
seen, armed = [], False


def hook(event, arguments):
    if armed and (event in watched or (event == "open" and len(arguments) > 1 and "w" in str(arguments[1]))):
        seen.append((event, str(arguments)[:120]))


sys.addaudithook(hook)
refused = loaded = 0
foreign = []
armed = True
for path in sorted(Path(folder).iterdir()):
    for reader in (load, model_info):
        try:
            reader(path)
            loaded += reader is load
        except ModelFileError:
            refused += reader is load
        except Exception as error:
            foreign.append((path.name, repr(error)[:120]))
armed = False
import pickle, json
armed = True
try:  # positive control: the hook sees an unpickling, and the sentinel works
    pickle.loads(Path(sys.argv[2], "bomb").read_bytes())
finally:
    armed = False
control = [event for event, _ in seen if event in ("pickle.find_class", "os.mkdir")]
of_readers = list(seen)
armed = True
try:  # whether torch itself would open the door in this environment
    torch.load(sys.argv[3])
except Exception:
    pass
armed = False
opened = "os.mkdir" in [event for event, _ in seen[len(of_readers):]]
print(json.dumps({"seen": of_readers, "refused": refused, "loaded": loaded, "foreign": foreign, "control": control,
                  "opened": opened}))
"""


@pytest.mark.parametrize(
    ("first", "guarded"),
    [
        pytest.param("", True, id="guard of torch"),
        pytest.param("", False, id="guard of torch disabled"),
        pytest.param("mace.calculators", False, id="after mace", marks=pytest.mark.peers),
    ],
)
def test_nothing_in_a_poisoned_file_is_ever_executed(parts, good, tmp_path, first, guarded):
    """Also where a variable of the environment, which MACE sets, lets ``torch.load`` unpickle whatever it is given.

    first : a package that is imported before all else
    """
    if first:
        pytest.importorskip(first.partition(".")[0])
    folder, work = tmp_path / "poisons", tmp_path / "work"
    folder.mkdir()
    work.mkdir()
    for k, poison in enumerate(POISONS.values()):
        (folder / f"{k:03d}.blip").write_bytes(poison.make(parts))
    (folder / "bomb").write_bytes(pickle.dumps(bomb()))
    (tmp_path / "bomb.pt").write_bytes(POISONS["torch zip"].make(parts))
    unguarded = {} if guarded or first else {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    before = f"import warnings; warnings.simplefilter('ignore'); import {first}\n" if first else ""
    found = subprocess.run(
        [sys.executable, "-c", before + AUDIT, str(good), str(folder), str(tmp_path / "bomb.pt")],
        cwd=work,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | unguarded,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout.splitlines()[-1])  # some packages print when they are imported
    assert [event for event, _ in report["seen"]] == ["pickle.find_class", "os.mkdir"] == report["control"]
    assert os.listdir(work) == [SENTINEL]
    assert (report["loaded"], report["foreign"]) == (0, [])
    assert report["refused"] == len(POISONS) + 1
    assert report["opened"] is not guarded  # control: the variable does what it says


def test_draws_of_a_loaded_model_fit_it(stored):
    from blipcalc.core.contracts import check_draws

    _, path = stored
    model = load(path)
    draws = model.posterior.draw(2 if model.posterior.is_random else 1, generator=torch.Generator().manual_seed(0))
    assert isinstance(draws, Draws)
    check_draws(model.network, draws)


def test_resealing_needs_the_right_hash_of_the_model(parts, tmp_path):
    """A weight that is changed together with both hashes of the file is still found by the hash of the model."""
    name = "model/backbone.readout_inner.weight"
    write_sealed(tmp_path / "x.blip", parts.tensors | {name: parts.tensors[name] * 1.001}, parts.manifest)
    read_sealed(tmp_path / "x.blip")
    with pytest.raises(SchemaError, match="do not belong together"):
        load(tmp_path / "x.blip")


def race_model(**settings) -> Model:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden": "4x0e+4x1o", "embedding": 4, "layers": 1, "radial_width": 4}
        model = build_model("race", sizes | settings, SPECIES)
    model.set_statistics({1: -13.6, 6: -1027.0, 8: -2038.5}, 0.7, 11.5)
    return Model(model, PointPosterior())


@pytest.mark.parametrize("settings", [{}, {"correlation": 3}], ids=["pairs", "products"])
def test_conventions_of_couplings_are_stored_and_checked(tmp_path, settings):
    """Weights of an equivariant network mean nothing under other signs of the coupling coefficients."""
    path, model = tmp_path / "race.blip", race_model(**settings)
    save_model(model, path)
    assert model_info(path)["conventions"] == model.network.conventions() != {}
    loaded = load(path)
    assert (loaded.hash, float(loaded.network.neighbors)) == (model.hash, 11.5)
    tensors, manifest = read_sealed(path)
    changed = [manifest["conventions"] | {key: value + 0.1} for key, value in manifest["conventions"].items()]
    for conventions in (*changed, {}):
        write_sealed(path, tensors, manifest | {"conventions": conventions})
        with pytest.raises(SchemaError, match="conventions"):
            load(path)
