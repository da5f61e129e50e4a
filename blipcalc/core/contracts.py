"""What a model, a posterior and a predictor are to each other.

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
#: end of the name of the buffer with the unit of variances of heads, which belongs to the weights that speak in it
NOISE_UNIT = "noise_unit"


class ModelOutput(NamedTuple):
    """What a model returns for a graph of S structures and N atoms.

    energy : (S,) eV, float64
    energies : (N,) eV, float64; their sum over a structure is its energy
    features : (N, F) invariant features before the readout, or None
    penalty : (terms, 2) what the model itself adds to a training loss, before its weight, as sums and counts, so that a batch
        spread over processes averages right (BLIP: the KL of nodes and of edges); None for nothing
    energy_var : (S,) eV², and forces_cov : (N, 3, 3) (eV/Å)², float64: the noise of labels, from mean-variance heads; or None
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
    species : atomic numbers that it knows
    supports_vmap : whether ``torch.func.vmap`` over its parameters and buffers works; declared, never probed
    energy_scale : eV, the unit of its network's outputs
    heads : which variances it gives itself: ``none``, of the ``energy``, or ``joint``, of energy and forces
    """

    cutoff: float
    species: tuple[int, ...]

    @property
    def supports_vmap(self) -> bool:
        """Declared, never probed."""
        ...

    @property
    def energy_scale(self) -> float:
        """EV."""
        ...

    @property
    def heads(self) -> Heads:
        """Variances of its own."""
        ...

    def layer_roles(self) -> dict[str, Role]:
        """Dotted name of every linear layer -> what its rows are: atoms, directed pairs, or vector components of atoms."""
        ...

    def last_layers(self) -> tuple[str, ...]:
        """Dotted names of the linear layers in whose weights, taken together, the energy is linear: their first outputs are
        added up to it.  Empty where there are none.
        """
        ...

    def forward(self, graph: GraphTensors) -> ModelOutput:
        """Energies of a graph; the geometry enters through ``graph.vectors`` alone."""
        ...


if TYPE_CHECKING:

    class Network(torch.nn.Module, EnergyModel):
        """A ``torch.nn.Module`` that keeps the contract, with what training and model files ask of it beside.

        Python has no type for "both", so this is one for annotations; when code runs it is ``torch.nn.Module`` itself, and any
        module will do that has the attributes.

        config : sizes of its layers, or settings of its noise
        """

        config: Settings

        def __call__(self, graph: GraphTensors) -> ModelOutput:
            """As :meth:`forward`."""
            ...

        @abstractmethod
        def set_statistics(self, references: Mapping[int, float], scale: float, neighbors: float) -> None:
            """Start from the training frames: reference energies (eV), scale (eV), mean number of pairs per atom."""

        @abstractmethod
        def set_noise_unit(self, energy: float, forces: float) -> None:
            """What variances of heads are multiples of, in units of the scale."""

        @abstractmethod
        def conventions(self) -> dict[str, float]:
            """What the meaning of the weights rests on beside the architecture, as numbers that a model file keeps."""

else:
    Network = torch.nn.Module


@dataclass(frozen=True)
class Draws:
    """K draws: parameters or buffers of a model to override, each (K, *shape); all others are shared.

    n : K
    overrides : {parameter or buffer name: (K, *shape)}; empty for a point estimate
    linear : they are draws of the network linearised around its weights: E(θ) + ∂E/∂θ · (draw - θ)
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
        """The draws of a slice of K."""
        n = len(range(*index.indices(self.n)))
        return Draws(n, {name: value[index] for name, value in self.overrides.items()}, self.linear)


class Posterior(Protocol):
    """A distribution over the networks of one model.

    is_random : whether draws differ; a point estimate is not random
    """

    @property
    def is_random(self) -> bool:
        """Whether draws differ."""
        ...

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """K = ``n`` draws; raises :class:`DrawsError` where it cannot give so many."""
        ...

    def centre(self) -> Draws:
        """The network without noise, or the few of a mixture, whose mean is the centre surface; raises
        :class:`DrawsError` where there is none.
        """
        ...


def check_draws(model: torch.nn.Module, draws: Draws) -> None:
    """Refuse draws whose names or shapes do not fit the model, with :class:`DrawsError`.

    ``functional_call`` ignores a misspelt name and broadcasts a wrong shape in silence, so this is checked once, where model
    and posterior meet.  A buffer of size zero is an open slot (noise that is off by default): the model names the shape that
    it takes in ``slot_shapes()``.
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
    """Draws that fit the model, on its device, each in the dtype of what it overrides; see :func:`check_draws`."""
    check_draws(model, draws)
    like = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    device = next(model.parameters()).device
    placed = {name: value.to(device, like[name].dtype) for name, value in draws.overrides.items()}
    return Draws(draws.n, placed, draws.linear)


@runtime_checkable
class HasSlots(Protocol):
    """A model around another one, with open slots for noise in its layers, off by default.

    backbone : the other one; config : settings of the noise
    """

    backbone: Network
    config: Settings

    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """{buffer name: shape that a draw puts there}."""
        ...
