"""Predictor of energies and forces from a model, draws of its posterior and a calibration."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import torch
from ase import Atoms

from blipcalc.core.contracts import Draws, Network, Posterior, Surface, place_draws
from blipcalc.core.curvature import Curvature
from blipcalc.core.demanded import demanded
from blipcalc.core.domain import Domain, latent_features
from blipcalc.core.evaluate import Evaluator, Strategy
from blipcalc.core.graph import Graph
from blipcalc.core.identity import Identity, network_identity
from blipcalc.core.neighbors import NeighborList
from blipcalc.core.one_at_a_time import WithLock
from blipcalc.core.prediction import Calibration, Prediction, SampleArrays, sample_arrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.core.validate import check_elements
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.files.safetensors_file import tensors_hash
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load
from blipcalc.posteriors.stored import feasible_draws
from blipcalc.process import plain_state
from blipcalc.settings import whole

#: largest number of draws; more would only fill the memory
MOST_DRAWS = 100_000
#: Å, skin of the neighbour list, which is reused until an atom has moved by half of it
SKIN = 1.0


class Computing(TypedDict, total=False):
    """Settings of the computation of a predictor, see :class:`BayesianPredictor`."""

    device: str | torch.device
    dtype: str | torch.dtype
    strategy: Strategy
    chunk: int | None


class BayesianPredictor(WithLock, Predictor):
    """Predictions of a model under K fixed draws of its posterior.

    The draws are made once, from the seed: fixed draws make a fixed, smooth, conservative surface.  Calls are evaluated one
    at a time, because ``functional_call`` swaps the parameters of the module while it runs.

    Parameters
    ----------
    model, posterior : an EnergyModel and its posterior
    n_draws : K
    seed : of the draws
    surface : the driving potential: ``mean`` over the K draws, or ``centre``, the network at the mean weights (or the mean
        over the few of a mixture), where draws are evaluated only for requested variances
    calibration : applied to the variances; None leaves posterior values
    domain : of the training data, for :meth:`latent_distances`
    device, dtype : of this predictor, ``float32`` or ``float64``; the given model is copied, never changed
    strategy, chunk : see :class:`~blipcalc.core.evaluate.Evaluator`

    Raises
    ------
    ConfigurationError : an invalid setting or an absent device; DrawsError : an invalid K
    """

    has_stress = has_energies = True
    seed: int
    species: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype

    @plain_state()
    def __init__(
        self,
        model: Network,
        posterior: Posterior,
        *,
        n_draws: int = 16,
        seed: int = 0,
        surface: Surface = "mean",
        calibration: Calibration | None = None,
        domain: Domain | None = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float64",
        strategy: Strategy = "auto",
        chunk: int | None = None,
    ) -> None:
        if not isinstance(surface, str) or surface not in ("mean", "centre"):
            raise ConfigurationError(f"surface={surface!r}; expected 'mean' or 'centre'")
        n_draws, seed = draws_of(n_draws), whole("seed", seed)
        self.n_draws, self.seed, self.surface, self.calibration = n_draws, seed, surface, calibration
        self.domain = domain
        self.device, self.dtype = device_of(device), dtype_of(dtype)
        self.model = copy.deepcopy(model).to(self.device, self.dtype).eval().requires_grad_(False)
        self.species, self.cutoff, self.heads = tuple(model.species), float(model.cutoff), model.heads
        self.draws = place_draws(self.model, posterior.draw(n_draws, generator=torch.Generator().manual_seed(seed)))
        self.centre = place_draws(self.model, posterior.centre()) if surface == "centre" else None
        self._strategy, self._chunk = strategy, chunk
        self._prepare()

    @plain_state()
    def _prepare(self) -> None:
        self._evaluator = Evaluator(self.model, strategy=self._strategy, chunk=self._chunk)
        self._neighbors: tuple[bytes, NeighborList] | None = None
        self._last: tuple[list[bytes], dict[str, bool], list[SampleArrays]] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Return the state for copies and worker processes, without what :meth:`_prepare` makes anew."""
        return {k: v for k, v in super().__getstate__().items() if k not in ("_evaluator", "_neighbors", "_last")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._prepare()

    @property
    def identity(self) -> Identity:
        """The identity from network, draws and calibration; the weights carry the dtype."""
        draws = [
            None if one is None else (one.n, one.linear, tensors_hash(one.overrides))
            for one in (self.draws, self.centre)
        ]
        domain = None if self.domain is None else self.domain.hash
        constants = None if self.calibration is None else self.calibration.constants
        settings = (type(self).__name__, self.surface, draws, constants, domain)
        return Identity(f"{settings!r} {network_identity(self.model)}")

    @classmethod
    def load(
        cls,
        source: str | Path | Model,
        *,
        n_draws: int | None = None,
        seed: int = 0,
        surface: Surface | None = None,
        calibrated: bool = True,
        **settings: Unpack[Computing],
    ) -> BayesianPredictor:
        """Make a predictor from a model file or the name of a bundled model, with the calibration that belongs to it.

        n_draws : None takes 16, or all members of a smaller ensemble
        surface : None takes the one that the model file recommends
        calibrated : False gives raw posterior values
        settings : ``device``, ``dtype``, ``strategy``, ``chunk``
        """
        stored = source if isinstance(source, Model) else load(source)
        surface = stored.surface if surface is None else surface
        if n_draws is None or not stored.posterior.is_random:
            n_draws = feasible_draws(stored.posterior)
        calibration = stored.calibration(surface, n_draws, seed) if calibrated else None
        return cls(
            stored.network,
            stored.posterior,
            n_draws=n_draws,
            seed=seed,
            surface=surface,
            calibration=calibration,
            domain=stored.domain,
            **settings,
        )

    @plain_state()
    def __call__(self, structures: Sequence[Atoms], need: Need = Need()) -> list[Prediction]:
        """Return predictions in the order of the structures, evaluated as one batch.

        Raises
        ------
        StructureError or a subclass : for a structure that cannot be evaluated
        """
        if not structures:
            return []
        with self.lock:
            graph = self._graph(structures)
            stress = need.stress and any(atoms.pbc.all() for atoms in structures)
            wanted = {"forces": need.forces or stress, "stress": stress}
            centre: Sequence[SampleArrays | None] = [None] * len(structures)
            draws: Sequence[SampleArrays | None] = [None] * len(structures)
            if self.centre is not None:
                centre = self._centre_samples(self.centre, structures, graph, wanted)
            if self.centre is None or need.variance:
                draws = sample_arrays(self._evaluator(self.draws, graph, **wanted), graph)
        predictions = [
            summarize(atoms.numbers, d, centre=c, keep_samples=need.samples)
            for atoms, d, c in zip(structures, draws, centre, strict=True)
        ]
        return predictions if self.calibration is None else [self.calibration.apply(p) for p in predictions]

    @plain_state()
    def latent_distances(self, structures: Sequence[Atoms]) -> list[np.ndarray]:
        """Return (n,) distances from the training data of the atoms of each structure, about 1 within the data.

        They use features of the network without weight noise; no variance enters.

        raises : ConfigurationError for a predictor without a domain; StructureError as for a call
        """
        if self.domain is None:
            raise ConfigurationError(
                "this model does not say where its data were; 'blipcalc domain' adds it to its file"
            )
        if not structures:
            return []
        with self.lock:
            features = latent_features(self.model, self._graph(structures))
        numbers = np.concatenate([atoms.numbers for atoms in structures])
        distance = self.domain.distance(numbers, demanded(features, "features of the network"))
        return np.split(distance, np.cumsum([len(atoms) for atoms in structures])[:-1])

    def single(self, k: int) -> BayesianPredictor:
        """Return a predictor of draw k alone, without calibration; both share the model and its lock.

        raises : DrawsError for a k outside 0 … K - 1
        """
        if not 0 <= k < self.n_draws:
            raise DrawsError(f"draw {k}; expected one of 0 to {self.n_draws - 1}")
        one = copy.copy(self)
        one.draws, one.centre, one.n_draws = self.draws[k : k + 1], None, 1
        one.surface, one.calibration, one._neighbors = "mean", None, None
        one.lock = self.lock
        return one

    @plain_state()
    def each(
        self, structures: Sequence[Atoms], *, stress: bool = False, which: Sequence[int] | None = None
    ) -> list[SampleArrays]:
        """Evaluate draw k on structure k alone, for K structures: samples of one draw each, posterior values.

        which : the draws, one for each structure, None for all in their order

        raises : DrawsError for another number of structures; StructureError as for a call
        """
        which = list(range(self.n_draws) if which is None else which)
        if len(structures) != len(which):
            raise DrawsError(f"expected one structure for each of {len(which)} draws, got {len(structures)}")
        with self.lock:
            graphs = [self._graph([atoms], fresh=True) for atoms in structures]
            samples = self._evaluator.each([self.draws[k : k + 1] for k in which], graphs, stress=stress)
        return [sample_arrays(one, graph)[0] for one, graph in zip(samples, graphs, strict=True)]

    @plain_state()
    def curvature(self, atoms: Atoms, *, strain: bool = False) -> Curvature:
        """Return second derivatives of the driving potential at one structure; raises StructureError as for a call."""
        with self.lock:
            graph = self._graph([atoms], fresh=True)
        draws = self.draws if self.centre is None else self.centre
        return Curvature(self._evaluator, draws, graph, strain=strain, lock=self.lock)

    @plain_state()
    def curvatures(self, structures: Sequence[Atoms]) -> list[Curvature]:
        """Return second derivatives of draw k at structure k, for K structures.

        raises : DrawsError for another number of structures; StructureError as for a call
        """
        self._check_number(structures)
        with self.lock:
            graphs = [self._graph([atoms], fresh=True) for atoms in structures]
        return [
            Curvature(self._evaluator, self.draws[k : k + 1], graph, lock=self.lock) for k, graph in enumerate(graphs)
        ]

    def _check_number(self, structures: Sequence[Atoms]) -> None:
        if len(structures) != self.n_draws:
            raise DrawsError(f"expected one structure for each of {self.n_draws} draws, got {len(structures)}")

    def _centre_samples(
        self, centre: Draws, structures: Sequence[Atoms], graph: Graph, wanted: dict[str, bool]
    ) -> list[SampleArrays]:
        """Evaluate the network at the mean weights.

        The result is kept for a single structure, since MD requests forces first and a variance later.
        """
        if len(structures) > 1:
            return sample_arrays(self._evaluator(centre, graph, **wanted), graph)
        (atoms,) = structures
        key = [np.asarray(a).tobytes() for a in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)]
        if self._last is None or self._last[0] != key or any(wanted[name] > self._last[1][name] for name in wanted):
            self._last = key, wanted, sample_arrays(self._evaluator(centre, graph, **wanted), graph)
        return self._last[2]

    def _graph(self, structures: Sequence[Atoms], *, fresh: bool = False) -> Graph:
        """Return the batch of the structures; a single structure reuses the last neighbour list, unless ``fresh``."""
        graphs, one = [], len(structures) == 1 and not fresh
        for atoms in structures:
            check_elements(atoms.numbers, self.species)
            graphs.append(Graph.from_atoms(atoms, self.cutoff, self._list_for(atoms) if one else None))
        return graphs[0] if len(graphs) == 1 else Graph.collate(graphs)

    def _list_for(self, atoms: Atoms) -> NeighborList:
        key = np.asarray(atoms.numbers).tobytes()
        if self._neighbors is None or self._neighbors[0] != key:
            self._neighbors = (key, NeighborList(self.cutoff, SKIN))
        return self._neighbors[1]


def draws_of(n_draws: object) -> int:
    """Return a checked number of draws; raises :class:`DrawsError`."""
    found = whole("n_draws", n_draws, 1, what="number of draws", error=DrawsError)
    if found > MOST_DRAWS:
        raise DrawsError(f"n_draws={found}; expected at most {MOST_DRAWS}")
    return found


def device_of(name: str | torch.device) -> torch.device:
    """Return the device of a name; raises :class:`ConfigurationError` where it cannot be used."""
    if not isinstance(name, (str, torch.device)):
        raise ConfigurationError(f"device={name!r}; expected a name such as 'cpu' or 'cuda:0'")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigurationError(f"device={name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def dtype_of(name: str | torch.dtype) -> torch.dtype:
    """Return ``float32`` or ``float64`` as a torch dtype, from its name or from the dtype."""
    known = {"float32": torch.float32, "float64": torch.float64}
    dtype = known.get(name) if isinstance(name, str) else name
    if not isinstance(dtype, torch.dtype) or dtype not in known.values():
        raise ConfigurationError(f"dtype={name!r}; expected 'float32' or 'float64'")
    return dtype
