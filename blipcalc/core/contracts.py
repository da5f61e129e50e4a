"""Contracts between models, posteriors and predictors.

A **model** maps a graph to energies. A **posterior** gives K **draws**, each a partial state-dict of the model, stacked along
a leading axis K. :func:`blipcalc.core.evaluate.evaluate` crosses the two.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from blipcalc.core.graph import GraphTensors
from blipcalc.errors import DrawsError
from blipcalc.settings import Settings

Role = Literal["node", "edge", "vector"]
Surface = Literal["mean", "centre"]
Heads = Literal["none", "energy", "joint"]
#: end of the name of the buffer that holds the unit of variances of heads; stored with the weights
NOISE_UNIT = "noise_unit"


class ModelOutput(NamedTuple):
    """Output of a model for a graph of S structures and N atoms.

    energy : (S,) eV, float64
    energies : (N,) eV, float64; their sum over a structure is its energy
    features : (N, F) invariant features before the readout, or None
    penalty : (terms, 2) terms that the model adds to a training loss, before their weight, as sums and counts, so that a batch
        spread over processes is averaged correctly (BLIP: the KL of nodes and of edges); None for none
    energy_var : (S,) eV², and forces_cov : (N, 3, 3) (eV/Å)², float64: label noise from mean-variance heads; or None
    """

    energy: Tensor
    energies: Tensor
    features: Tensor | None = None
    penalty: Tensor | None = None
    energy_var: Tensor | None = None
    forces_cov: Tensor | None = None


@runtime_checkable
class EnergyModel(Protocol):
    """An ``nn.Module`` that maps a graph to energies.

    cutoff : Å
    species : known atomic numbers
    supports_vmap : whether ``torch.func.vmap`` over its parameters and buffers works; declared, never tested
    energy_scale : eV, the unit of its network's outputs
    heads : variances that the model itself gives: ``none``, of the ``energy``, or ``joint``, of energy and forces
    """

    cutoff: float
    species: tuple[int, ...]

    @property
    def supports_vmap(self) -> bool:
        """Whether ``torch.func.vmap`` works over parameters and buffers; declared, never tested."""
        ...

    @property
    def energy_scale(self) -> float:
        """Unit of the network's outputs, eV."""
        ...

    @property
    def heads(self) -> Heads:
        """Variances that the model itself gives."""
        ...

    def layer_roles(self) -> dict[str, Role]:
        """Return {dotted name of a linear layer: role of its rows}: atoms, directed pairs, or vector components of atoms."""
        ...

    def last_layers(self) -> tuple[str, ...]:
        """Return dotted names of the last linear layers, in whose weights, taken jointly, the energy is linear.

        The energy is the sum of their first outputs.  Empty where there are none.
        """
        ...

    def forward(self, graph: GraphTensors) -> ModelOutput:
        """Compute the energies of a graph; the geometry enters through ``graph.vectors`` alone."""
        ...


if TYPE_CHECKING:

    class Network(torch.nn.Module, EnergyModel):
        """Type of a ``torch.nn.Module`` that fulfils the contract, with what training and model files need beside.

        Python has no intersection type, so this class exists for annotations; at run time it is ``torch.nn.Module``, and any
        module with the attributes will do.

        config : sizes of its layers, or settings of its noise
        """

        config: Settings

        def __call__(self, graph: GraphTensors) -> ModelOutput:
            """Compute the energies of a graph, as :meth:`forward`."""
            ...

        @abstractmethod
        def set_statistics(self, references: Mapping[int, float], scale: float, neighbors: float) -> None:
            """Set statistics of the training frames: reference energies (eV), scale (eV), mean number of pairs per atom."""

        @abstractmethod
        def set_noise_unit(self, energy: float, forces: float) -> None:
            """Set the units of energy and force variances of heads, in units of the scale."""

        @abstractmethod
        def conventions(self) -> dict[str, float]:
            """Return conventions beside the architecture that the weights rely on, as numbers for the model file."""

else:
    Network = torch.nn.Module


@dataclass(frozen=True)
class Draws:
    """K draws: parameters or buffers of a model to override, each (K, *shape); all other tensors are shared.

    n : K
    overrides : {parameter or buffer name: (K, *shape)}; empty for a point estimate
    linear : whether they are draws of the network linearised around its weights: E(θ) + ∂E/∂θ · (draw - θ)
    """

    n: int
    overrides: Mapping[str, Tensor] = field(default_factory=dict)
    linear: bool = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise DrawsError(f"expected at least one draw, got n={self.n}")
        for name, value in self.overrides.items():
            if value.shape[:1] != (self.n,):
                raise DrawsError(f"{name} has shape {tuple(value.shape)}; expected a leading axis of K={self.n} draws")

    def __getitem__(self, index: slice) -> Draws:
        """Return the draws of a slice of K."""
        n = len(range(*index.indices(self.n)))
        return Draws(n, {name: value[index] for name, value in self.overrides.items()}, self.linear)


class Posterior(Protocol):
    """Distribution over the weights of one model.

    is_random : whether draws differ; those of a point estimate do not
    """

    @property
    def is_random(self) -> bool:
        """Whether draws differ."""
        ...

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """Return K = ``n`` draws; raises :class:`DrawsError` where the posterior cannot give so many."""
        ...

    def centre(self) -> Draws:
        """Return the network at the mean weights; raises :class:`DrawsError` where there is none.

        A mixture returns its few networks, whose mean output is used.
        """
        ...


def check_draws(model: torch.nn.Module, draws: Draws) -> None:
    """Refuse draws whose names or shapes do not fit the model, with :class:`DrawsError`.

    ``functional_call`` silently ignores a misspelt name and broadcasts a wrong shape, so names and shapes are checked once, where
    model and posterior meet.  A buffer of size zero is an open slot (noise that is off by default): ``slot_shapes()`` of the
    model gives the shape that it takes.
    """
    known = {name: tuple(value.shape) for name, value in (*model.named_parameters(), *model.named_buffers())}
    if isinstance(model, HasSlots):
        known.update(model.slot_shapes())
    for name, value in draws.overrides.items():
        if name not in known:
            raise DrawsError(f"the model has no parameter or buffer {name!r}; it has {', '.join(list(known)[:6])}, …")
        if tuple(value.shape[1:]) != known[name]:
            raise DrawsError(
                f"{name} takes shape {known[name]}, but the draws carry {tuple(value.shape[1:])} behind their axis K"
            )


def place_draws(model: torch.nn.Module, draws: Draws) -> Draws:
    """Return checked draws on the device of the model, each in the dtype of the tensor it overrides; see :func:`check_draws`."""
    check_draws(model, draws)
    like = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    device = next(model.parameters()).device
    placed = {name: value.to(device, like[name].dtype) for name, value in draws.overrides.items()}
    return Draws(draws.n, placed, draws.linear)


@runtime_checkable
class HasSlots(Protocol):
    """A model around a backbone, with open slots for weight noise in its layers, off by default.

    backbone : the inner model; config : settings of the noise
    """

    backbone: Network
    config: Settings

    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {buffer name: shape that a draw puts there}."""
        ...
