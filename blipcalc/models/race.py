"""RACE: a restratified equivariant message-passing network; every layer adds one stratum of the energy.

    A⁰_i = embed[Z_i],    a_i = W A⁰_i                                                        (a depends on Z_i alone)
    M_i  = 1/n̄ · W_down Σ_j (W_up A)_j ‖ (W_up A)_j ⊗ Y(r̂_ij)  ⊙ R(r_ij)
    A_i ← W_skip[Z_i] A_i + W_prod (a_i ⊗ M_i),    E_i = Σ_layers W_2 SiLU(W_1 A_i|_0e)

| symbol | variable |
|---|---|
| Y | ``couplings``, harmonics contracted with coupling coefficients |
| R, an MLP on Bessel functions with envelope | ``radial`` of a layer |
| n̄ | ``neighbors``, mean number of pairs per atom |
| ‖, concatenation; ⊗, of each channel with the harmonics | ``paths`` of a layer |

Source: Willow, …, Myung, arXiv 2510.03046 (v2), figures 1c and S1.  Where its text, figures and published code disagree, the
choice here is: readouts from the post-residual A, with the product inside the trunk (figures and both codes, against
equation 16); messages divided by n̄ in total, √n̄ before and after the linear map (both codes, not in the text); readout width 64
without bias (the PyTorch code).  Initial weights are those of e3nn, with the scale in the weights instead of a separate factor,
so learning rates are those of a plain network.

``a ⊗ M`` followed by a linear map is exactly a matrix per element, W'_Z = Σ_f a_f(Z) W_f: it is computed in that form.
Options beyond the paper, off in its presets: ``gate``, a nonlinearity of the trunk (Weiler et al. 2018, as in NequIP), and
``correlation``, which adds to M_i its products with itself (Batatia et al. 2022, as in MACE): the paper's layers are chains
of pairs, which resolve angles at i only by walks through other atoms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from blipcalc.core.contracts import Heads, ModelOutput, Role
from blipcalc.core.graph import GraphTensors
from blipcalc.errors import ConfigurationError
from blipcalc.models.heads import with_noise
from blipcalc.models.potential import Potential
from blipcalc.models.race_config import RaceConfig
from blipcalc.nn.contraction import SymmetricContraction, check_channels, products_fingerprint, reached_by_products
from blipcalc.nn.irreps import (
    Couplings,
    Features,
    IrrepsGate,
    IrrepsLinear,
    coupling,
    degree,
    fingerprint,
    parse_irreps,
    paths,
    species_linear,
    unit_linear,
)
from blipcalc.nn.radial import BesselBasis, polynomial_envelope
from blipcalc.nn.scatter import gather_rows, segment_sum

#: factor that gives SiLU of a standard normal number a second moment of one (e3nn's ``normalize2mom``)
SILU_GAIN = 1.6791767
#: pairs per atom, before the training frames set it
NEIGHBORS = 16.0


class Layer(nn.Module):
    """One interaction: messages, product with the element, residual, readout.

    Parameters
    ----------
    config : sizes of the network
    n_species : S
    inputs : channels per irrep with parameters
    outputs : channels per irrep of the outputs
    carried : irreps of the messages that are computed, those that are not zero and reach an energy
    wanted : the same for the outputs
    """

    def __init__(
        self,
        config: RaceConfig,
        n_species: int,
        inputs: dict[str, int],
        outputs: dict[str, int],
        carried: Sequence[str],
        wanted: Sequence[str],
    ) -> None:
        super().__init__()
        hidden = parse_irreps(config.hidden)
        self.sent = {ir: hidden[ir] for ir in inputs if ir in hidden}
        self.carried, self.wanted = sorted(carried), sorted(wanted)
        received = {ir: n for ir, n in hidden.items() if ir in outputs or ir in carried}
        #: (irrep, None, same irrep): the message alone; (irrep, l, irrep): its product with the harmonics of that degree
        self.paths: list[tuple[str, int | None, str]] = [(ir, None, ir) for ir in self.sent if ir in received]
        self.paths += paths(list(self.sent), list(received), config.l_max)
        self.up = IrrepsLinear(inputs, self.sent)
        widths = [config.n_radial, config.radial_width, config.radial_width, sum(self.gate_sizes)]
        self.radial = nn.ModuleList(unit_linear(a, b) for a, b in pairwise(widths))
        messages = {ir: sum(self.sent[start] for start, _, end in self.paths if end == ir) for ir in received}
        self.down = IrrepsLinear({ir: n for ir, n in messages.items() if n}, received)
        self.skip = _matrices({ir: (n_species, inputs[ir], n) for ir, n in outputs.items() if ir in inputs}, fan=1)
        self.contraction = None
        if config.correlation > 1:
            self.contraction = SymmetricContraction(carried, wanted, hidden["0e"], n_species, config.correlation)
        received_or_made = {*self.down.outputs, *(self.contraction.outputs if self.contraction else ())}
        products = [ir for ir in outputs if config.layout == "torch" or ir in received_or_made]
        self.product = _matrices(
            {ir: (config.embedding, outputs[ir], outputs[ir]) for ir in products}, fan=config.embedding
        )
        self.gates = None
        if config.nonlinearity == "gate":
            self.gates = IrrepsGate(outputs)
        self.readout_inner = unit_linear(outputs["0e"], config.readout_width)
        self.readout_outer = unit_linear(config.readout_width, config.heads.n_outputs, bias=config.readout_bias)
        self.quadrupole = None
        if config.heads.has_quadrupole and "2e" in wanted:
            self.quadrupole = unit_linear(outputs["2e"], 1)
        with torch.no_grad():  # variances start as those of the labels, isotropic
            self.readout_outer.weight[1:] = 0.0
            if self.quadrupole is not None:
                self.quadrupole.weight.zero_()

    @property
    def gate_sizes(self) -> list[int]:
        """Number of channels of each path."""
        return [self.sent[start] for start, _, _ in self.paths]

    def forward(
        self,
        x: Features,
        stratum: Tensor,
        one_hot: Tensor,
        radial: Tensor,
        couplings: dict[tuple[int, int, int], Tensor],
        edge_index: Tensor,
        neighbors: Tensor,
    ) -> tuple[Features, tuple[Tensor, Tensor, Tensor]]:
        """Return A of the next layer and the readout.

        A (N, 2l + 1, C) per irrep, a (S, F), one_hot (N, S), radial (E, B)
        """
        sums = self.down(self._messages(self.up(x), self._gates(radial), couplings, edge_index, len(one_hot)))
        messages = {ir: value / neighbors.to(radial.dtype) for ir, value in sums.items()}
        if self.contraction is not None:
            for ir, value in self.contraction(messages, one_hot).items():
                messages[ir] = messages[ir] + value if ir in messages else value
        out: Features = {}
        for ir in self.wanted:
            parts, weights = [], []
            if ir in messages:
                parts.append(messages[ir])
                weights.append(torch.einsum("sf,fcd->scd", stratum, self.product[ir]))
            if ir in x:
                parts.append(x[ir])
                weights.append(self.skip[ir])
            out[ir] = species_linear(torch.cat(parts, dim=-1), torch.cat(weights, dim=1), one_hot)
        out = out if self.gates is None else self.gates(out)
        return out, self._read(out)

    def _gates(self, radial: Tensor) -> tuple[Tensor, ...]:
        """Return the gates (E, C) of every path from the radial basis (E, B)."""
        first, second, last = self.radial
        hidden = normal_silu(second(normal_silu(first(radial))))
        return last(hidden).split(self.gate_sizes, dim=-1)

    def _messages(
        self,
        x: Features,
        gates: Sequence[Tensor],
        couplings: dict[tuple[int, int, int], Tensor],
        edge_index: Tensor,
        n: int,
    ) -> Features:
        """Return the sums over neighbours of all paths into each irrep: (N, 2l + 1, channels of all its paths)."""
        source, target = edge_index
        gathered = {ir: gather_rows(value, source) for ir, value in x.items()}
        parts: dict[str, list[Tensor]] = {}
        for (start, l_sh, end), gate in zip(self.paths, gates, strict=True):
            if end not in self.carried:
                continue
            if start not in gathered:  # it is zero, but has a matrix
                parts.setdefault(end, []).append(gate.new_zeros(n, 2 * degree(end) + 1, gate.shape[-1]))
                continue
            message = gathered[start]
            if l_sh:  # the harmonic of degree 0 is 1
                message = couplings[degree(start), l_sh, degree(end)] @ message
            parts.setdefault(end, []).append(segment_sum(message * gate[:, None, :], target, n))
        return {ir: torch.cat(values, dim=-1) for ir, values in parts.items()}

    def _read(self, x: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs (N, n), the features (N, W) that they are linear in, and (N, 5) of a tensor for force covariances."""
        features = normal_silu(self.readout_inner(x["0e"][:, 0]))
        tensor = features.new_zeros(len(features), 5) if self.quadrupole is None else self.quadrupole(x["2e"])[..., 0]
        return self.readout_outer(features), features, tensor


def normal_silu(x: Tensor) -> Tensor:
    """Return SiLU, scaled to a second moment of one for a standard normal number (e3nn's ``normalize2mom``)."""
    return SILU_GAIN * nn.functional.silu(x)


def _matrices(shapes: dict[str, tuple[int, int, int]], *, fan: int) -> nn.ParameterDict:
    """Return matrices (n, C, C') per irrep; ``fan``: number of the n that are summed, for weights that keep the variance."""
    start = {ir: torch.randn(shape) * (fan * shape[1]) ** -0.5 for ir, shape in shapes.items()}
    return nn.ParameterDict({ir: nn.Parameter(value) for ir, value in start.items()})


class Race(Potential):
    """A restratified equivariant message-passing network.

    Parameters
    ----------
    config : sizes
    species : known atomic numbers
    """

    Config = RaceConfig
    config: RaceConfig
    neighbors: Tensor
    tensors: Tensor

    def __init__(self, config: RaceConfig, species: Sequence[int]) -> None:
        super().__init__(config, species)
        self.embedding = nn.Parameter(torch.randn(len(self.species), config.embedding))
        self.stratum = nn.Parameter(torch.randn(config.embedding, config.embedding) * config.embedding**-0.5)
        self.basis = BesselBasis(1.0, config.n_radial)
        hidden, inputs = parse_irreps(config.hidden), {"0e": config.embedding}
        layers: list[Layer] = []
        if config.heads.has_quadrupole and "2e" not in hidden:
            raise ConfigurationError(
                f"equivariant force covariances take 2e among the hidden irreps, got {config.hidden!r}; add some, or take "
                "heads.covariance='paper'"
            )
        check_channels(hidden, config.correlation)
        reached = _wanted(hidden, config)
        if config.heads.has_quadrupole and not any("2e" in wanted for _, wanted in reached):
            raise ConfigurationError(
                f"no layer reaches 2e with layers={config.layers}, l_max={config.l_max}, so force covariances would be balls; "
                "raise one of them, or take heads.covariance='paper'"
            )
        for carried, wanted in reached:
            lean = config.layout == "lean"
            outputs = {ir: n for ir, n in hidden.items() if ir in wanted} if lean else hidden
            layers.append(Layer(config, len(self.species), inputs, outputs, carried, wanted))
            inputs = outputs
        self.layers = nn.ModuleList(layers)
        used = {(degree(a), l_sh, degree(b)) for layer in layers for a, l_sh, b in layer.paths if l_sh}
        self.couplings = Couplings(list(used), config.l_max)
        self.register_buffer("tensors", coupling(1, 1, 2).permute(2, 0, 1).contiguous(), persistent=False)
        # stored by name, since a Bayesian network has other classes there
        self._linear = tuple(name for name, module in self.named_modules() if isinstance(module, nn.Linear))
        self.register_buffer("neighbors", torch.tensor(config.neighbors or NEIGHBORS, dtype=torch.float32))

    def set_statistics(self, references: Mapping[int, float], scale: float, neighbors: float) -> None:
        """Set reference energies (eV per element), scale (eV), and pairs per atom, unless the settings give these."""
        super().set_statistics(references, scale, neighbors)
        if self.config.neighbors is None:
            self.neighbors.fill_(neighbors)

    @property
    def heads(self) -> Heads:
        """Variances that the network itself gives."""
        return self.config.heads.predict

    def conventions(self) -> dict[str, float]:
        """Return conventions that the weights rely on: fingerprints of harmonics, couplings and bases of products."""
        found = {"couplings": fingerprint(self.config.l_max)}
        if self.config.correlation > 1:
            found["products"] = products_fingerprint(list(parse_irreps(self.config.hidden)), self.config.correlation)
        return found

    def last_layers(self) -> tuple[str, ...]:
        """Return the layers whose first outputs sum to the energy, one per stratum."""
        return tuple(f"layers.{i}.readout_outer" for i in range(len(self.layers)))

    def layer_roles(self) -> dict[str, Role]:
        """Return the role of each linear layer."""
        kinds: dict[str, Role] = {"radial": "edge", "readout_inner": "node", "readout_outer": "node"}
        return {name: kinds.get(name.split(".")[2], "vector") for name in self._linear}

    def forward(self, graph: GraphTensors) -> ModelOutput:
        """Compute the energies of a graph."""
        rows = self.table(graph.species)
        distances = torch.linalg.vector_norm(graph.vectors, dim=-1)
        unit = graph.vectors / distances[:, None]
        radial = self.basis(distances / self.cutoff) * polynomial_envelope(distances, self.cutoff, p=2)[:, None]
        couplings = self.couplings(unit)
        # not nn.functional.one_hot, which reads the values and so cannot be traced
        one_hot = (rows[:, None] == torch.arange(len(self.species), device=rows.device)).to(unit.dtype)
        stratum = self.embedding @ self.stratum
        x: Features = {"0e": (one_hot @ self.embedding)[:, None, :]}
        read = []
        for layer in self.layers:
            x, outputs_of_layer = layer(x, stratum, one_hot, radial, couplings, graph.edge_index, self.neighbors)
            read.append(outputs_of_layer)
        outputs, features, tensors = zip(*read, strict=True)
        output = self.energies(sum(outputs)[:, 0], rows, graph, features=torch.cat(features, dim=-1))
        # variances are averages over layers, whereas energies are sums
        raw, quadrupole = (sum(values) / len(read) for values in (outputs, tensors))
        quadrupole = torch.einsum("nm,mij->nij", quadrupole.double(), self.tensors.double())
        return with_noise(
            output, self.config.heads, raw[:, 1:], quadrupole, graph, self.energies.scale, self.noise_unit
        )


def _wanted(hidden: dict[str, int], config: RaceConfig) -> list[tuple[list[str], list[str]]]:
    """Return the irreps of messages and outputs of every layer that are not zero and reach an energy."""
    arriving, reached = {"0e"}, []
    for _ in range(config.layers):
        ends = {end for _, _, end in paths(sorted(arriving & set(hidden)), list(hidden), config.l_max)}
        arriving = ends | reached_by_products(sorted(ends), list(hidden), config.correlation) | (arriving & set(hidden))
        reached.append((ends, arriving))
    wanted: list[tuple[list[str], list[str]]] = []
    read = {"0e", "2e"} if config.heads.has_quadrupole else {"0e"}
    needed = set(read)
    for ends, here in reversed(reached):
        # the square of any message contributes to the scalars, which are always needed
        used = needed if config.correlation == 1 else set(hidden)
        wanted.insert(0, (sorted(ends & used), sorted(here & needed)))
        needed = read | {ir for ir in hidden if ir in needed or paths([ir], sorted(used), config.l_max)}
    return wanted
