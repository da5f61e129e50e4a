"""Sizes of RACE: those for a CPU, and those of the paper and its published codes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from blipcalc.models.heads import HeadsConfig
from blipcalc.settings import Settings


def _both_parities(channels: int, l_max: int) -> str:
    return "+".join(f"{channels}x{degree}{parity}" for degree in range(l_max + 1) for parity in "eo")


class RaceConfig(Settings):
    """Sizes of a :class:`~blipcalc.models.race.Race`; the defaults are for CPUs, and class methods give those of the paper."""

    hidden: str = Field(default="32x0e+32x1o+32x2e", description="H, channels per irrep of every layer")
    embedding: int = Field(default=64, ge=1, description="F, channels of the embedding of elements")
    layers: int = Field(default=3, ge=1, le=16, description="η, layers, and strata of the energy")
    l_max: int = Field(default=2, ge=0, le=6, description="largest degree of the harmonics")
    n_radial: int = Field(default=8, ge=2, le=512, description="Bessel functions")
    radial_width: int = Field(default=64, ge=4, description="hidden width of the radial MLP")
    readout_width: int = Field(default=64, ge=4, description="hidden width of a readout")
    readout_bias: bool = Field(default=False, description="a bias on the last map of every readout")
    neighbors: float | None = Field(
        default=None,
        gt=0,
        description="n̄, divides the messages; None: the mean number of pairs per atom in the training frames",
    )
    cutoff: float = Field(default=5.0, gt=0, description="Å")
    nonlinearity: Literal["none", "gate"] = Field(
        default="none",
        description="of the trunk; none as in the paper; gate: SiLU on scalars, which gate all other irreps",
    )
    correlation: int = Field(
        default=1,
        ge=1,
        le=3,
        description="ν, factors of the products of messages; 1 as in the paper; more add products of a message with itself, so "
        "that a layer sees ν neighbours at a time",
    )
    heads: HeadsConfig = Field(default_factory=HeadsConfig, description="outputs beside the energy")
    layout: Literal["lean", "torch", "jax"] = Field(
        default="lean",
        description="which parameters exist: those that reach an energy, or all that the published codes have; the energy is "
        "the same function",
    )

    @classmethod
    def small(cls) -> RaceConfig:
        """Return a small preset for tests and laptops."""
        return cls(hidden="8x0e+8x1o+8x2e", embedding=8, layers=2, radial_width=16, readout_width=8, neighbors=8.0)

    @classmethod
    def qm9(cls) -> RaceConfig:
        """Return the paper's size for QM9 (table 2)."""
        return cls._paper(_both_parities(64, 2), cutoff=5.0, neighbors=28.0)

    @classmethod
    def psb3(cls) -> RaceConfig:
        """Return the paper's size for PSB3."""
        return cls._paper(_both_parities(64, 2), embedding=64, cutoff=6.0, neighbors=13.0)

    @classmethod
    def rmd17(cls) -> RaceConfig:
        """Return the paper's size for rMD17; its n̄ are 9 (ethanol, malonaldehyde), 16 to 21 (the others)."""
        return cls._paper(_both_parities(64, 3), l_max=3, cutoff=5.0)

    @classmethod
    def bpa(cls) -> RaceConfig:
        """Return the paper's size for 3BPA."""
        return cls._paper(_both_parities(64, 3), cutoff=6.0, neighbors=26.0)

    @classmethod
    def obn25(cls) -> RaceConfig:
        """Return the size of the published inputs for oBN25 (its table S7 has F = 128)."""
        return cls._paper("32x0o+32x0e+16x1o+16x1e+8x2o+8x2e", embedding=32, cutoff=3.0, neighbors=19.0)

    @classmethod
    def _paper(cls, hidden: str, **sizes: object) -> RaceConfig:
        return cls.of({"hidden": hidden, "embedding": 128, "layers": 5, "l_max": 2, "layout": "torch"} | sizes)
