"""Evaluation of a model for all draws; every prediction uses it.

    E_k(r) = E(r; θ ⊕ draw_k),    F_k = -∂E_k/∂r,    σ_k = (1/V) ∂E_k/∂ε,      k = 1 … K

Three strategies agree to rounding: a plain loop (the reference), ``vmap`` over the stacked draws, and kernels traced from it,
where geometry and all else that the draws share is computed once (:mod:`blipcalc.core.kernels`).  No strategy replaces another
silently: a model declares whether it supports ``vmap``, the caller chooses the rest, and a wrong kernel is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from blipcalc.core.contracts import Draws, Network, place_draws
from blipcalc.core.forces import forces_from_gradient, stress_from_gradient
from blipcalc.core.graph import Graph, GraphTensors
from blipcalc.core.kernels import Function, Kernels
from blipcalc.errors import ConfigurationError
from blipcalc.process import plain_state
from blipcalc.settings import whole

#: pairs times draws per pass on a CPU, beyond which caches overflow: 8 compiled draws for 9,856 pairs cost 4.8 deterministic
#: calls in passes of one draw, 9.0 in passes of four, 11.5 in one pass (tests/benchmarks/draw_cost.py --systems 192 --chunk 1, 4,
#: 8)
PAIRS = 4000
Strategy = Literal["auto", "loop", "vmap", "traced", "compiled"]


class Samples(NamedTuple):
    """Energies and derivatives of K draws, float64, on the device of the model.

    energy : (K, S) eV
    forces : (K, N, 3) eV/Å, or None where they were not requested
    stress : (K, S, 3, 3) eV/Å³, NaN for structures without a volume; None where it was not requested
    energies : (K, N) eV per atom
    energy_var : (K, S) eV², forces_cov : (K, N, 3, 3) (eV/Å)²: from the mean-variance heads of each draw; None without heads
    """

    energy: Tensor
    forces: Tensor | None
    stress: Tensor | None
    energies: Tensor
    energy_var: Tensor | None = None
    forces_cov: Tensor | None = None


class Evaluator:
    """A model prepared for repeated evaluation; compiled functions are kept between calls.

    Parameters
    ----------
    model : an EnergyModel; its parameters fix dtype and device
    strategy : ``loop``; ``vmap``; ``traced``, for many calls with the same atoms and draws (MD): one second at the first call,
        then about twice as fast; ``compiled``, the same through a C++ compiler, a minute or more at the first call, and
        again for second derivatives; or ``auto``: ``vmap`` where the model supports it, else ``loop``
    chunk : draws per pass, to bound memory; None: on a CPU up to :data:`PAIRS` pairs, elsewhere all at once
    """

    def __init__(self, model: Network, *, strategy: Strategy = "auto", chunk: int | None = None) -> None:
        if not isinstance(strategy, str):
            raise ConfigurationError(f"strategy={strategy!r}; known: auto, loop, vmap, traced, compiled")
        if strategy == "auto":
            strategy = "vmap" if model.supports_vmap else "loop"
        if strategy not in ("loop", "vmap", "traced", "compiled"):
            raise ConfigurationError(f"unknown strategy {strategy!r}; known: auto, loop, vmap, traced, compiled")
        if strategy != "loop" and not model.supports_vmap:
            raise ConfigurationError(f"{type(model).__name__} declares supports_vmap=False; use strategy='loop'")
        chunk = None if chunk is None else whole("chunk", chunk, 1, what="number of draws")
        self.model, self.strategy, self.chunk = model, strategy, chunk
        self.state = {n: p.detach() for n, p in (*model.named_parameters(), *model.named_buffers())}
        reference = next(model.parameters())
        self.dtype, self.device = reference.dtype, reference.device
        self._kernels: dict[object, Kernels] = {}

    def _comfortable(self, n: int, tensors: GraphTensors) -> int:
        """Return the default number of draws per pass: a divisor of ``n``, so that all passes have the same size."""
        if self.device.type != "cpu":
            return n
        most = max(1, PAIRS // max(1, tensors.vectors.shape[0]))
        return max(k for k in range(1, n + 1) if n % k == 0 and k <= most)

    def _function(self, *, linear: bool, single: bool, whole: bool) -> Function:
        """Return the gradient function of one network, or of many, for the strategy; ``whole``: one pass takes all draws."""
        plain = self._gradient_linear if linear else self._gradient
        if not single:
            plain = torch.func.vmap(plain, in_dims=(None, 0, None))
        if self.strategy not in ("traced", "compiled"):
            return plain
        return partial(self._kernels_of(("gradient", linear, single), plain), constant=whole)

    def _kernels_of(self, key: object, plain: Function) -> Kernels:
        if key not in self._kernels:
            self._kernels[key] = Kernels(plain, float(self.model.cutoff), compiled=self.strategy == "compiled")
        return self._kernels[key]

    @plain_state()
    def gradient(self, draw: Draws, graph: GraphTensors) -> Tensor:
        """Return ∂E/∂d of a single draw, (E, 3) eV/Å, without a kernel, which a single call would not repay."""
        return (self._gradient_linear if draw.linear else self._gradient)(self.state, single_draw(draw), graph)[0]

    @plain_state()
    def curvature(self, draw: Draws, graph: GraphTensors) -> Callable[[Tensor], Tensor]:
        """Return a function from directions (B, E, 3) to ∂²E/∂d² times each, (B, E, 3) eV/Å², of a single draw.

        Work that all directions share is done once, here.

        With ``compiled`` (tracing alone gains nothing) there is one kernel for each B and :func:`padded_number` of pairs.
        """
        energy, overrides = self._linear if draw.linear else self._energy, single_draw(draw)
        if self.strategy == "compiled":
            kernels = self._kernels_of(("curvature", draw.linear), partial(_along, energy))
            return lambda v: kernels(self.state, overrides, graph, v, constant=False)[0]
        if self.model.supports_vmap:
            return _products(energy, self.state, overrides, graph)
        with torch.enable_grad():
            vectors = graph.vectors.detach().requires_grad_()
            value = energy(vectors, self.state, overrides, graph)[0]
            (gradient,) = torch.autograd.grad(value, vectors, create_graph=True)
        return lambda v: torch.stack([torch.autograd.grad(gradient, vectors, one, retain_graph=True)[0] for one in v])

    def _energy(
        self, vectors: Tensor, state: Mapping[str, Tensor], overrides: Mapping[str, Tensor], graph: GraphTensors
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        values = self._values(vectors, {**state, **overrides}, graph)
        return values[0].sum(), values

    def _linear(
        self, vectors: Tensor, state: Mapping[str, Tensor], overrides: Mapping[str, Tensor], graph: GraphTensors
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return energy and values of the linearised network; variances of heads are those at the weights themselves."""
        at = {name: state[name] for name in overrides}
        away = {name: value - state[name] for name, value in overrides.items()}
        values, slopes = torch.func.jvp(lambda w: self._values(vectors, {**state, **w}, graph), (at,), (away,))[:2]
        values = (values[0] + slopes[0], values[1] + slopes[1], *values[2:])
        return values[0].sum(), values

    def _values(self, vectors: Tensor, state: dict[str, Tensor], graph: GraphTensors) -> tuple[Tensor, ...]:
        output = torch.func.functional_call(self.model, state, (graph._replace(vectors=vectors),), strict=False)
        noise = (value for value in (output.energy_var, output.forces_cov) if value is not None)
        return output.energy, output.energies, *noise

    def _gradient(
        self, state: Mapping[str, Tensor], overrides: Mapping[str, Tensor], graph: GraphTensors
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return torch.func.grad(self._energy, has_aux=True)(graph.vectors, state, overrides, graph)

    def _gradient_linear(
        self, state: Mapping[str, Tensor], overrides: Mapping[str, Tensor], graph: GraphTensors
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return torch.func.grad(self._linear, has_aux=True)(graph.vectors, state, overrides, graph)

    def _pass(
        self, draws: Draws, tensors: GraphTensors, *, gradient: bool, whole: bool
    ) -> tuple[list[Tensor], Tensor | None]:
        """Evaluate one chunk: values, (K, S) energy, (K, N) energies and those of heads, and the (K, E, 3) gradient."""
        if not gradient:
            energy = self._linear if draws.linear else self._energy
            outputs = [
                energy(tensors.vectors, self.state, single_draw(draws[k : k + 1]), tensors)[1] for k in range(draws.n)
            ]
            return _stacked(outputs), None
        n = draws.n if draws.overrides else 1
        if n == 1 or self.strategy == "loop":
            one = self._function(linear=draws.linear, single=True, whole=whole and n == 1)
            passes = [one(self.state, single_draw(draws[k : k + 1]), tensors) for k in range(n)]
            (g,), stacked = _stacked([(p[0],) for p in passes]), _stacked([p[1] for p in passes])
            return [value.expand(draws.n, *value.shape[1:]) for value in stacked], g.expand(draws.n, -1, -1)
        g, values = self._function(linear=draws.linear, single=False, whole=whole)(
            self.state, dict(draws.overrides), tensors
        )
        return list(values), g

    def __call__(self, draws: Draws, graph: Graph, *, forces: bool = True, stress: bool = False) -> Samples:
        """Return samples of all draws for one graph; the draws must have the device and dtype of the model."""
        return self._samples(draws, graph, forces=forces, stress=stress, chunk=self.chunk, whole=True)

    @plain_state()
    def _samples(
        self, draws: Draws, graph: Graph, *, forces: bool, stress: bool, chunk: int | None, whole: bool
    ) -> Samples:
        """Return samples of draws for one graph; ``whole``: one pass takes all draws, and every call brings the same draws."""
        graph = graph if graph.positions.device == self.device else graph.clone().to(str(self.device))
        vectors = graph.edge_vectors()
        tensors = graph.tensors(self.dtype, vectors.to(self.dtype))
        chunk = chunk or self._comfortable(draws.n, tensors)
        with torch.no_grad():
            chunks = [draws] if chunk >= draws.n else [draws[k : k + chunk] for k in range(0, draws.n, chunk)]
            whole = whole and len(chunks) == 1
            parts = [self._pass(part, tensors, gradient=forces or stress, whole=whole) for part in chunks]
            energy, energies, *noise = (torch.cat(values) for values in zip(*(p[0] for p in parts), strict=True))
            gradients = [gradient for _, gradient in parts if gradient is not None]
            gradient = torch.cat(gradients).double() if gradients else None
            of_forces = of_stress = None
            if gradient is not None and forces:
                of_forces = forces_from_gradient(gradient, graph.edge_index, len(graph.species))
            if gradient is not None and stress:
                of_stress = stress_from_gradient(gradient, vectors, graph)
            return Samples(energy, of_forces, of_stress, energies, *noise)

    def each(self, draws: Sequence[Draws], graphs: Sequence[Graph], *, stress: bool = False) -> list[Samples]:
        """Evaluate draw k on graph k alone; kernels take the draws in turn."""
        return [
            self._samples(one, graph, forces=True, stress=stress, chunk=1, whole=False)
            for one, graph in zip(draws, graphs, strict=True)
        ]


def single_draw(draw: Draws) -> dict[str, Tensor]:
    """Return the tensors of a set of one draw, without their leading axis."""
    return {name: value[0] for name, value in draw.overrides.items()}


def _products(
    energy: Callable[..., tuple[Tensor, tuple[Tensor, ...]]],
    state: Mapping[str, Tensor],
    overrides: Mapping[str, Tensor],
    graph: GraphTensors,
) -> Callable[[Tensor], Tensor]:
    """Return a function from directions to their products with the second derivatives.

    The gradient is built once, and differentiated again for each direction.
    """

    def slope(vectors: Tensor) -> Tensor:
        return torch.func.grad(energy, has_aux=True)(vectors, state, overrides, graph)[0]

    product = torch.func.vjp(slope, graph.vectors)[1]
    return lambda directions: torch.func.vmap(product)(directions)[0]


def _along(
    energy: Callable[..., tuple[Tensor, tuple[Tensor, ...]]],
    state: Mapping[str, Tensor],
    overrides: Mapping[str, Tensor],
    graph: GraphTensors,
    directions: Tensor,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the products of :func:`_products`, as a function for kernels."""
    return _products(energy, state, overrides, graph)(directions), ()


def _stacked(rows: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """Stack tuples of tensors, one per draw, into tensors with the draws in front."""
    return [torch.stack(values) for values in zip(*rows, strict=True)]


def evaluate(
    model: Network,
    draws: Draws,
    graph: Graph,
    *,
    forces: bool = True,
    stress: bool = False,
    strategy: Strategy = "auto",
    chunk: int | None = None,
) -> Samples:
    """Return energies, forces and stress of every draw; see :class:`Evaluator` for repeated calls.

    Examples
    --------
    >>> samples = evaluate(model, posterior.draw(16, generator=generator), graph)
    >>> samples.forces.shape        # (K, N, 3)
    """
    evaluator = Evaluator(model, strategy=strategy, chunk=chunk)
    return evaluator(place_draws(model, draws), graph, forces=forces, stress=stress)
