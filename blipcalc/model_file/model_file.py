"""Model file ``name.blip``: one sealed safetensors file with a complete trained model.

Tensors: ``model/<name>`` parameters and buffers of the network, ``members/<name>`` stacked (M, *shape) parameters of an
ensemble or a mixture, ``posterior/<name>`` further tensors of the posterior, ``domain/<Z>/centre`` and ``root`` (lower
triangle, row by row, float32) of the ellipsoids of the training features, ``frames`` the 64-bit fingerprints of the training
frames.  The manifest holds the rest.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blipcalc.core.contracts import Network
from blipcalc.core.domain import Domain
from blipcalc.core.prediction import Calibration
from blipcalc.errors import (
    ChangedFileError,
    ChangedRandomStreamError,
    ConfigurationError,
    DrawsError,
    ModelFileError,
    NonFiniteWeightsError,
    SchemaError,
)
from blipcalc.files.bundled import bundle_path
from blipcalc.files.locks import adding
from blipcalc.files.safetensors_file import DTYPES, read_manifest, read_sealed, tensors_hash, write_sealed
from blipcalc.model_file.manifest import SCHEMA, Manifest, StoredCalibration, StoredDomain, Units, validated
from blipcalc.model_file.merge import put_together
from blipcalc.model_file.model import Loaded, Model, architecture_of, backbone_of, tensors_of
from blipcalc.models.build import build_model, model_name
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.stored import StoredPosterior
from blipcalc.process import plain_state
from blipcalc.registries import MODELS, POSTERIORS
from blipcalc.stats.ellipsoid import Ellipsoid

#: draws whose hash is stored, to detect a changed random stream
WITNESS_DRAWS, WITNESS_SEED = 2, 0


@plain_state()
def save_model(model: Model, path: str | Path) -> None:
    """Write a model file; an older file of that name stays until the new one is complete.

    Additions by other processes since the model was read, such as calibrations of another (surface, K, seed), are kept; so are
    calibrations of the same network in a file that the model was not read from.

    Raises
    ------
    NonFiniteWeightsError : NaN or infinite weights; nothing is written
    ChangedFileError : the file now holds another model than was read, or a change that contradicts one of this model
    FileBusyError : another process writes to the file
    """
    with adding(path):
        whole = _with_changes_of_others(model, Path(path))
        _write(whole, path)
        place = Path(path).resolve()
        # the next save starts from this one; the file is compared again where others added something
        seal = _seal(place) if whole is model else ""
        object.__setattr__(model, "loaded", Loaded(place, seal, replace(model, loaded=None)))


def _with_changes_of_others(model: Model, path: Path) -> Model:
    """Return the model with the changes that other processes made to the file."""
    own = model.loaded if model.loaded is not None and model.loaded.path == path.resolve() else None
    if not path.is_file() or (own is not None and _seal(path) == own.seal):
        return model
    if own is None:  # the file is replaced: its entries on another network are useless
        if _hash_in(path) != model.hash:
            return model
        kept = [c for c in load(path).calibrations if model.calibration(c.surface, c.n_draws, c.seed) is None]
        return model.with_calibrations(*kept)
    stored = load(path)
    if stored.hash != own.content.hash:
        raise ChangedFileError(
            f"{path} holds another model than when it was loaded (hash {stored.hash[:12]}…, then {own.content.hash[:12]}…); save "
            "under another name"
        )
    return put_together(path, own.content, model, stored)


def _hash_in(path: Path) -> str | None:
    """Return the hash of the model in a file; None where no model can be read."""
    try:
        return validated(path, read_manifest(path)).model_hash
    except ModelFileError:
        return None


def _seal(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(model: Model, path: str | Path) -> None:
    manifest = Manifest(
        schema_version=SCHEMA,
        **architecture_of(model),
        packages=_packages(model),
        conventions=backbone_of(model.network).conventions(),
        species=list(model.network.species),
        cutoff=model.network.cutoff,
        units=Units(),
        surface=model.surface,
        model_hash=model.hash,
        draws_hash=_draws_hash(model.posterior),
        training=model.training,
        calibrations=[StoredCalibration.of(_plain(c)) for c in model.calibrations],
        domain=None if model.domain is None else StoredDomain(**_of_domain(model.domain)),
    )
    tensors = tensors_of(model) | _domain_tensors(model.domain) | {"frames": model.frames}
    bad = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if bad:
        raise NonFiniteWeightsError(f"{path} not written: {', '.join(bad[:4])} hold NaN or infinity")
    odd = {name: str(value.dtype) for name, value in tensors.items() if value.dtype not in DTYPES}
    if odd:
        raise SchemaError(
            f"{path} not written: {odd}; weights are kept in float32 or float64, convert the network first"
        )
    write_sealed(path, tensors, manifest.model_dump(mode="json"))


@plain_state()
def load(source: str | Path) -> Model:
    """Read a model file, or a bundled model by its name.

    Raises
    ------
    DamagedFileError, SchemaError, NonFiniteWeightsError, ChangedRandomStreamError : subclasses of ModelFileError
    """
    path = find_model(source)
    seal = _seal(path) if path.is_file() else ""
    tensors, raw = read_sealed(path)
    manifest = validated(path, raw)
    model = _rebuild(path, manifest, tensors)
    if {model.hash, *(stored.model_hash for stored in manifest.calibrations)} != {manifest.model_hash}:
        raise SchemaError(f"{path}: weights, manifest and calibrations do not belong together (model hash differs)")
    model = replace(model, calibrations=tuple(stored.calibration() for stored in manifest.calibrations))
    if _draws_hash(model.posterior) != manifest.draws_hash:
        raise ChangedRandomStreamError(
            f"{path}: seed {WITNESS_SEED} gives other draws than when the model was saved, so its calibrations do not hold; "
            "use the torch version named in its manifest, or calibrate and save it again"
        )
    return replace(model, loaded=Loaded(path.resolve(), seal, model))


def model_info(source: str | Path) -> dict[str, Any]:
    """Return the validated manifest of a model file, without reading its tensors."""
    path = find_model(source)
    return validated(path, read_manifest(path)).model_dump(mode="json")


def bundled_models() -> list[str]:
    """Return the names of the models in the package."""
    return sorted(path.stem for path in bundle_path("").glob("*.blip"))


def find_model(source: str | Path) -> Path:
    """Return the path unchanged; look up a name without folder or suffix among the bundled models."""
    path = Path(source)
    if path.suffix == ".blip" or path.is_file() or path.parent != Path("."):
        return path
    if str(source) in bundled_models():
        return bundle_path(f"{source}.blip")
    raise ModelFileError(
        f"no file {source!s}, and no bundled model of that name; bundled: {', '.join(bundled_models())}"
    )


def _packages(model: Model) -> dict[str, str]:
    """Return the distributions that provide architecture and posterior, where they are not our own."""
    found = {
        "architecture": MODELS.package(model_name(backbone_of(model.network))),
        "posterior": POSTERIORS.package(model.posterior.name),
    }
    return {kind: package for kind, package in found.items() if package}


def _plain(calibration: Calibration) -> dict[str, Any]:
    return {name: getattr(calibration, name) for name in StoredCalibration.model_fields}


def _of_domain(domain: Domain) -> dict[str, Any]:
    return {name: getattr(domain, name) for name in StoredDomain.model_fields}


def _domain_tensors(domain: Domain | None) -> dict[str, Tensor]:
    found = {}
    for z, ellipsoid in ({} if domain is None else domain.ellipsoids).items():
        lower = ellipsoid.root[np.tril_indices(len(ellipsoid.centre))]
        found[f"domain/{z}/centre"] = torch.from_numpy(ellipsoid.centre).double()
        found[f"domain/{z}/root"] = torch.from_numpy(lower).float()
    return found


def _domain(path: Path, stored: StoredDomain | None, tensors: dict[str, Tensor]) -> Domain | None:
    """Return the domain from its stored parts, after a check of shapes."""
    if (stored is None) != (not tensors):
        raise SchemaError(f"{path}: the manifest and the tensors do not agree on whether there is a domain")
    if stored is None:
        return None
    ellipsoids = {}
    for z in sorted({name.split("/")[0] for name in tensors}):
        centre, lower = tensors.pop(f"{z}/centre", None), tensors.pop(f"{z}/root", None)
        size = -1 if centre is None or centre.ndim != 1 else len(centre)
        is_known = z.isdigit() and int(z) in stored.n_atoms
        if not is_known or centre is None or lower is None or lower.shape != (size * (size + 1) // 2,):
            raise SchemaError(f"{path}: the domain of Z = {z} lacks a part, or its parts do not fit each other")
        root = np.zeros((size, size))
        root[np.tril_indices(size)] = lower.double().numpy()
        ellipsoids[int(z)] = Ellipsoid(centre.double().numpy(), root)
    if tensors or len({len(e.centre) for e in ellipsoids.values()}) > 1:
        raise SchemaError(f"{path}: the domain holds more than a centre and a root for each element, or several sizes")
    return Domain(ellipsoids, **stored.model_dump())


def _draws_hash(posterior: StoredPosterior) -> str | None:
    """Return the hash of random numbers from a fixed seed; None where draws need no random numbers."""
    numbers = posterior.random_numbers(WITNESS_DRAWS, torch.Generator().manual_seed(WITNESS_SEED))
    return tensors_hash(numbers) if numbers else None


def _rebuild(path: Path, manifest: Manifest, tensors: dict[str, Tensor]) -> Model:
    """Return the model from a validated manifest and verified tensors."""
    made_with = manifest.packages
    try:
        MODELS.get(manifest.architecture, made_with.get("architecture", ""))
        method = POSTERIORS.get(manifest.posterior, made_with.get("posterior", ""))(manifest.posterior_config)
        with torch.random.fork_rng(devices=[]):  # new weights are overwritten, the user's random stream must not change
            network = build_model(manifest.architecture, manifest.architecture_config, manifest.species)
            network = method.network(network)
    except (ValueError, RuntimeError) as error:
        raise SchemaError(f"{path}: cannot build {manifest.architecture!r}: {error}") from None
    if (network.cutoff, list(network.species)) != (manifest.cutoff, manifest.species):
        raise SchemaError(
            f"{path}: the manifest says cutoff {manifest.cutoff} Å and elements {manifest.species}, its network "
            f"{network.cutoff} Å and {list(network.species)}"
        )
    _check_conventions(path, manifest.conventions, backbone_of(network).conventions())
    frames = tensors.pop("frames", None)
    if frames is None or frames.ndim != 1 or frames.dtype != torch.int64:
        raise SchemaError(f"{path}: expected the fingerprints of the training frames as one axis of int64")
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "members": {}, "posterior": {}, "domain": {}}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind not in parts:
            raise SchemaError(f"{path}: no model file holds a tensor {name!r}")
        parts[kind][rest] = value
    counts = {tuple(value.shape[:1]) for value in parts["members"].values()}
    if len(counts) > 1 or counts & {(), (0,)}:
        raise SchemaError(f"{path}: its members differ in number, or there are none")
    _load_state(path, network, parts["model"], parts["members"])
    return Model(
        network=network,
        posterior=_posterior(path, method, network, parts["members"], parts["posterior"]),
        surface=manifest.surface,
        training=manifest.training,
        frames=frames,
        domain=_domain(path, manifest.domain, parts["domain"]),
    )


def _check_conventions(path: Path, stored: dict[str, float], own: dict[str, float]) -> None:
    """Raise :class:`SchemaError` for weights trained under other conventions."""
    if stored.keys() != own.keys() or not all(math.isclose(stored[k], own[k], rel_tol=1e-9) for k in own):
        raise SchemaError(
            f"{path}: its weights were trained under the conventions {stored}, this installation has {own} (coupling "
            "coefficients and harmonics of e3nn); use the version of e3nn that the file was made with"
        )


def _load_state(path: Path, network: Network, state: dict[str, Tensor], members: dict[str, Tensor]) -> None:
    """Fill the network strictly: every name, shape and dtype must match; member 0 replaces stacked parameters."""
    state = state | {name: value[0] for name, value in members.items()}
    weights = {value.dtype for name, value in state.items() if name in dict(network.named_parameters())}
    if weights == {torch.float64}:
        network.double()
    expected = {name: (tuple(v.shape), v.dtype) for name, v in network.state_dict().items()}
    found = {name: (tuple(v.shape), v.dtype) for name, v in state.items()}
    if expected != found:
        wrong = sorted(set(expected.items()) ^ set(found.items()), key=str)[:3]
        raise SchemaError(f"{path}: stored tensors do not fit the architecture, for example {wrong}")
    network.load_state_dict(state)


def _posterior(
    path: Path, method: PosteriorMethod, network: Network, members: dict[str, Tensor], beside: dict[str, Tensor]
) -> StoredPosterior:
    try:
        return method.restore(network, members, beside)
    except (ConfigurationError, DrawsError) as error:
        raise SchemaError(f"{path}: posterior {method.name!r}: {error}") from None
