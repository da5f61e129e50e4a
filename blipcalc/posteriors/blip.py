"""BLIP: adaptive variational dropout for message-passing potentials.

A small inference network (:mod:`blipcalc.posteriors.inference`) sets the relative variance α of the weight noise for every node
and edge row of every Bayesian layer; layers and noise are in :mod:`blipcalc.posteriors.variational`.

Source: Coscia, de Haan, Welling, arXiv 2508.14022 (2025), eqs. 5–9.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from blipcalc.core.contracts import Draws, Heads, ModelOutput, Network, Role
from blipcalc.core.graph import GraphTensors
from blipcalc.errors import ConfigurationError, DrawsError
from blipcalc.posteriors.inference import Alphas, BlipConfig, InferenceNetwork
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.stored import OneNetwork, StoredPosterior, refuse_more, refuse_none
from blipcalc.posteriors.variational import VariationalLinear, kl_divergence
from blipcalc.process import plain_state


class BlipModel(Network):
    """A backbone with variational layers, and the inference network that sets their weight noise.

    It fulfils the :class:`~blipcalc.core.contracts.EnergyModel` contract; without draws it equals the backbone, bit for bit.
    """

    config: BlipConfig
    noise_seed: Tensor

    def __init__(self, backbone: Network, config: BlipConfig) -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        self.cutoff, self.species = backbone.cutoff, backbone.species
        self.roles = _chosen_layers(backbone, config)
        self.weight_shapes: dict[str, tuple[int, ...]] = {}
        for name in self.roles:
            layer = backbone.get_submodule(name)
            if not isinstance(layer, nn.Linear):
                raise ConfigurationError(f"{name} is no linear layer, but {type(layer).__name__}, and takes no noise")
            self.weight_shapes[name] = tuple(layer.weight.shape)
            _replace(backbone, name, VariationalLinear(layer))
        self.node_layers = [name for name, role in self.roles.items() if role != "edge"]
        self.edge_layers = [name for name, role in self.roles.items() if role == "edge"]
        self.inference = InferenceNetwork(
            config, self.species, self.cutoff, len(self.node_layers), len(self.edge_layers)
        )
        like = next(backbone.parameters())
        self.inference.to(like.device, like.dtype)
        if config.mode == "local":
            self.register_buffer("noise_seed", torch.empty(0, dtype=torch.int64), persistent=False)

    @property
    def supports_vmap(self) -> bool:
        """Whether ``vmap`` works: yes for frozen noise, part of the state; no for local noise, drawn inside the call."""
        return self.backbone.supports_vmap and self.config.mode == "frozen"

    @property
    def energy_scale(self) -> float:
        """Unit of the network's outputs, eV."""
        return self.backbone.energy_scale

    @property
    def heads(self) -> Heads:
        """Variances that the backbone gives."""
        return self.backbone.heads

    def set_statistics(self, references: Mapping[int, float], scale: float, neighbors: float) -> None:
        """Set the statistics of the backbone."""
        self.backbone.set_statistics(references, scale, neighbors)

    def conventions(self) -> dict[str, float]:
        """Return the conventions of the backbone."""
        return self.backbone.conventions()

    def set_noise_unit(self, energy: float, forces: float) -> None:
        """Set the noise unit of the backbone's heads."""
        self.backbone.set_noise_unit(energy, forces)

    def last_layers(self) -> tuple[str, ...]:
        """Return no layers: with noise on the last weights the energy is not a function of them alone."""
        return ()

    def layer_roles(self) -> dict[str, Role]:
        """Return the roles of the backbone's layers, with the prefix ``backbone.``."""
        return {f"backbone.{name}": role for name, role in self.backbone.layer_roles().items()}

    def slot_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return {slot: shape} of the weight noise in a draw."""
        if self.config.mode == "local":
            return {"noise_seed": ()}
        return {f"backbone.{name}.weight_noise": shape for name, shape in self.weight_shapes.items()}

    def forward(self, graph: GraphTensors) -> ModelOutput:
        """Compute energies, with noise where a draw fills the slots; ``penalty`` is the KL over all rows and layers."""
        alphas = self.inference(graph)
        slots = {f"{name}.alpha": alphas.node[:, k] for k, name in enumerate(self.node_layers)}
        slots |= {f"{name}.alpha": alphas.edge[:, k] for k, name in enumerate(self.edge_layers)}
        if self.config.mode == "local" and self.noise_seed.numel():
            slots |= self._row_noise(graph)
        output = torch.func.functional_call(self.backbone, slots, (graph,))
        return output._replace(penalty=self._kl(alphas))

    def _kl(self, alphas: Alphas) -> Tensor:
        """Return sum and count of the KL, (terms, 2), over atoms and node layers, and over pairs and edge layers (BLIP, §3.4)."""
        terms = [kl_divergence(a, self.config.alpha_prior) for a in alphas if a.numel()]
        return torch.stack([torch.stack([kl.sum(), kl.new_tensor(float(kl.numel()))]) for kl in terms])

    def _row_noise(self, graph: GraphTensors) -> dict[str, Tensor]:
        """Draw ε per row and channel from the seed of this draw, on the CPU: its random stream is the same on all devices."""
        generator = torch.Generator().manual_seed(int(self.noise_seed))
        like, slots = graph.vectors, {}
        for name, role in self.roles.items():
            rows = like.shape[0] if role == "edge" else graph.species.shape[0]
            noise = torch.randn((rows, self.weight_shapes[name][0]), generator=generator, dtype=torch.float64)
            slots[f"{name}.row_noise"] = noise.to(like.device, like.dtype)
        return slots


def _chosen_layers(backbone: Network, config: BlipConfig) -> dict[str, Role]:
    """Return {name: role} of the layers to convert."""
    roles = {name: role for name, role in backbone.layer_roles().items() if config.vectors or role != "vector"}
    if config.where in ("node", "edge"):
        roles = {name: role for name, role in roles.items() if (role == "edge") == (config.where == "edge")}
    if config.where == "last":
        roles = _last_block(roles)
    if not roles:
        raise ConfigurationError(f"where={config.where!r} chooses no layer of {type(backbone).__name__}")
    return roles


def _last_block(roles: dict[str, Role]) -> dict[str, Role]:
    """Return the layers of the last numbered block, and those after it without a number, the readout."""
    blocks = {name: next((int(part) for part in name.split(".") if part.isdigit()), None) for name in roles}
    last = max((block for block in blocks.values() if block is not None), default=None)
    names = list(roles)
    readout = names[max((k for k, name in enumerate(names) if blocks[name] is not None), default=-1) + 1 :]
    return {name: role for name, role in roles.items() if blocks[name] == last is not None or name in readout}


def _replace(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, module)


@plain_state()
def bayesianize(model: Network, config: BlipConfig | None = None, **settings: object) -> BlipModel:
    """Turn a deterministic potential into a BLIP: chosen linear layers become variational and keep their weights.

    Parameters
    ----------
    model : an EnergyModel; converted in place, so that the result shares its parameters
    config : settings, or give them as keywords (``where="last"``, ``mode="local"``, …)

    Raises
    ------
    ConfigurationError : no layer chosen, or the model is a BLIP already
    """
    if isinstance(model, BlipModel):
        raise ConfigurationError("this model is a BLIP already; bayesianize its backbone with other settings instead")
    return BlipModel(model, config or BlipConfig.of(settings))


@dataclass(frozen=True)
class BlipPosterior(OneNetwork):
    """Frozen or local weight noise in the layers of one BLIP.

    slots : {slot name: shape}, from :meth:`BlipModel.slot_shapes`
    """

    slots: Mapping[str, tuple[int, ...]]
    name: ClassVar[str] = "blip"

    @property
    def noise(self) -> Self:
        """This posterior, which is the weight noise of the layers."""
        return self

    def numbers(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the noise of one draw."""
        return _noise(self.slots, generator)

    def draw(self, n: int, *, generator: torch.Generator) -> Draws:
        """Return K independent draws; draw k does not depend on K."""
        refuse_none(n)
        per_draw = [self.numbers(generator) for _ in range(n)]
        return Draws(n, {name: torch.stack([noise[name] for noise in per_draw]) for name in self.slots})

    def random_numbers(self, n: int, generator: torch.Generator) -> Mapping[str, Tensor]:
        """Return the noise of n draws."""
        return self.draw(n, generator=generator).overrides

    @classmethod
    def of(cls, network: Network) -> Self:
        """Return the posterior over the noise of a BLIP; raises :class:`DrawsError` for another network."""
        if not isinstance(network, BlipModel):
            raise DrawsError(f"expected a BLIP, got {type(network).__name__}, whose layers carry no noise")
        return cls(network.slot_shapes())


class Blip(PosteriorMethod):
    """One network with weight noise in its layers."""

    name = "blip"
    Config = BlipConfig
    settings: BlipConfig
    has_noise = True

    def network(self, trained: Network) -> BlipModel:
        """Return the trained network as a BLIP."""
        return bayesianize(trained, self.settings)

    def noise(self, network: Network) -> BlipPosterior:
        """Return the posterior over the weight noise."""
        return BlipPosterior.of(network)

    def restore(
        self, network: Network, members: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
    ) -> StoredPosterior:
        """Restore the posterior from a BLIP without further tensors."""
        refuse_more(self.name, members, tensors)
        return BlipPosterior.of(network)


def _noise(slots: Mapping[str, tuple[int, ...]], generator: torch.Generator) -> dict[str, Tensor]:
    """Draw the noise of one draw, in the order of the slots."""
    return {
        name: torch.randint(0, 2**62, (), generator=generator)
        if name == "noise_seed"
        else torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in slots.items()
    }
