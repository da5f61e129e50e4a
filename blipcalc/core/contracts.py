"""What a model, a posterior and a predictor are to each other.

A **model** maps a graph to energies. A **posterior** gives K **draws**, each a partial state-dict of the model, stacked along
a leading axis K. :func:`blipcalc.core.evaluate.evaluate` crosses the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from blipcalc.core.graph import GraphTensors
from blipcalc.errors import DrawsError, ZeroVarianceError

if TYPE_CHECKING:
    from ase import Atoms

    from blipcalc.core.prediction import Prediction

Role = Literal["node", "edge", "vector"]
Surface = Literal["mean", "centre"]
Heads = Literal["none", "energy", "joint"]
#: end of the name of the buffer with the unit of variances of heads, which belongs to the weights that speak in it
NOISE_UNIT = "noise_unit"
#: a copy that tells equal draws: Å, standard deviation of each displacement; isotropic strain of a cell that repeats
DISPLACEMENT, STRAIN = 0.02, 0.01
#: of its energy, by which a copy differs where something acts on its atoms
ACTS = 1e-9


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
    supports_vmap: bool
    energy_scale: float
    heads: Heads

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

    is_random: bool

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """K = ``n`` draws; raises :class:`DrawsError` where it cannot give so many."""
        ...

    def centre(self) -> Draws:
        """The network without noise, or the few of a mixture, whose mean is the centre surface; raises
        :class:`DrawsError` where there is none.
        """
        ...


@dataclass(frozen=True)
class Need:
    """What a prediction must hold; nothing else is computed.

    forces, stress : derivatives of the energy
    variance : the spread over the draws
    samples : the draws themselves
    """

    forces: bool = True
    stress: bool = False
    variance: bool = True
    samples: bool = False


class Predictor(Protocol):
    """The one seam that the calculator knows.

    One that also has ``identity``, see :class:`~blipcalc.core.identity.Identified`, is known by it again; any other is asked for
    its numbers on a probe structure.

    species : atomic numbers that it knows; None where it cannot tell
    n_draws : K
    surface : which surface energy and forces are taken from
    has_stress, has_energies : whether it gives a stress, and energies of single atoms
    heads : which variances every single draw has already
    """

    species: tuple[int, ...] | None
    n_draws: int
    surface: Surface
    has_stress: bool
    has_energies: bool
    heads: Heads

    def __call__(self, structures: Sequence[Atoms], need: Need = ...) -> list[Prediction]:
        """Predictions in the order of the structures."""
        ...


def predictions(predictor: Predictor, structures: Sequence[Atoms], need: Need) -> list[Prediction]:
    """Predictions in the order of the structures, their variances refused where they say nothing.

    Where no draw differs in anything that was asked for, copies with displaced atoms and a strained cell tell equal draws from
    atoms without neighbours, and from minima that all draws share.

    raises : ZeroVarianceError, where variances are asked for and those of forces, or of the stress, are all exactly zero although
        they themselves are not, or that of the energy is zero although it changes with the structure; and as the predictor
    """
    found = predictor(structures, need)
    judged = list(found) if need.variance else []
    for one in judged:
        one.demand_spread()
    if judged and all(one.draws_agree for one in judged):
        copies = predictor([_copy(atoms) for atoms in structures], Need())
        for one, copy in zip(judged, copies, strict=True):
            copy.demand_spread()
            if copy.draws_agree and abs(copy.energy - one.energy) > ACTS * abs(one.energy):
                raise ZeroVarianceError(
                    f"the variance of the energy is exactly zero, although it changes by {copy.energy - one.energy:.3g} eV with "
                    f"the structure: all {one.n_draws} draws are the same; give members or weights that differ, or use one of "
                    "them without an error bar"
                )
    return found


def _copy(atoms: Atoms) -> Atoms:
    """A copy with displaced atoms and, where it repeats, a strained cell."""
    copy = atoms.copy()
    copy.set_constraint()
    if copy.pbc.any():
        copy.set_cell((1 + STRAIN) * copy.cell.array, scale_atoms=True)
    copy.positions += np.random.default_rng(0).normal(0.0, DISPLACEMENT, copy.positions.shape)
    return copy


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
    """A model with open slots for noise, off by default."""

    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """{buffer name: shape that a draw puts there}."""
        ...
