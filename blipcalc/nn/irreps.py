"""Irreducible representations of rotations and reflections: harmonics, their couplings, and features sorted by irrep.

Features are a mapping from an irrep ("0e", "1o", …: degree l and parity) to a tensor (N, 2l + 1, C) with C channels.  Names,
spherical harmonics and coupling coefficients are those of e3nn (Geiger and Smidt, arXiv 2207.09453), but for the sign of the
coefficients: e3nn 0.4 and 0.5 differ in it for (1, 2, 2) and (1, 3, 3), so that the same weights gave other energies.  Here
the first nonzero entry is positive for all versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

from blipcalc.errors import ConfigurationError
from blipcalc.process import quiet_imports

# e3nn 0.4 unpickles its constants at import, which torch 2.6 and newer otherwise refuse
with quiet_imports(), torch.serialization.safe_globals([slice]):
    from e3nn import o3

Features = dict[str, Tensor]
Path = tuple[str, int, str]


def parse_irreps(text: str) -> dict[str, int]:
    """Return the channels per irrep of a text such as ``"32x0e+16x1o"``; raises :class:`ConfigurationError` for other text."""
    try:
        parts = [(str(part.ir), part.mul) for part in o3.Irreps(text)]
    except (ValueError, AssertionError) as error:
        raise ConfigurationError(f"expected irreps such as '32x0e+16x1o', got {text!r} ({error})") from None
    channels: dict[str, int] = {}
    for name, count in sorted(parts, key=lambda part: (degree(part[0]), part[0])):
        channels[name] = channels.get(name, 0) + count
    if not channels.get("0e"):
        raise ConfigurationError(
            f"expected irreps with scalars, such as '32x0e', got {text!r}: energies are made of them"
        )
    return channels


def degree(irrep: str) -> int:
    """Return the degree l of an irrep."""
    return int(irrep[:-1])


def paths(inputs: Sequence[str], outputs: Sequence[str], l_max: int) -> list[Path]:
    """Return the couplings (irrep, degree of the harmonic, irrep) from inputs to outputs; harmonics have parity (-1)^l."""
    found = []
    for start in inputs:
        for l_sh in range(l_max + 1):
            parity = "eo"[(start[-1] == "o") ^ (l_sh % 2)]
            for l_out in range(abs(degree(start) - l_sh), degree(start) + l_sh + 1):
                if f"{l_out}{parity}" in outputs:
                    found.append((start, l_sh, f"{l_out}{parity}"))
    return found


@cache
def coupling(l_in: int, l_sh: int, l_out: int) -> Tensor:
    """Return coefficients (2 l_in + 1, 2 l_sh + 1, 2 l_out + 1), float64, normalised so that the output keeps unit variance."""
    w = o3.wigner_3j(l_in, l_sh, l_out, dtype=torch.float64)
    first = w.flatten()[w.flatten().abs() > 1e-6][0]
    return w * first.sign() * (2 * l_out + 1) ** 0.5


def fingerprint(l_max: int) -> float:
    """Return one number for harmonics and couplings up to l_max, equal wherever weights have the same meaning."""
    direction = torch.tensor([[0.48, -0.6, 0.64]], dtype=torch.float64)
    harmonics = _harmonics(direction, l_max)
    degrees = [(a, b, c) for a in range(l_max + 1) for b in range(l_max + 1) for c in range(abs(a - b), l_max + 1)]
    values = torch.cat([harmonics.flatten(), *(coupling(*d).flatten() for d in degrees if d[2] <= d[0] + d[1])])
    return float(values @ torch.linspace(1.0, 2.0, len(values), dtype=torch.float64))


def _harmonics(unit: Tensor, l_max: int) -> Tensor:
    """Return spherical harmonics (E, (l_max + 1)²) of unit vectors (E, 3), each degree with Σ_m Y² = 2l + 1."""
    return o3.spherical_harmonics(list(range(l_max + 1)), unit, normalize=False, normalization="component")


class Couplings(nn.Module):
    """Spherical harmonics of pair directions, as matrices that map features of one degree to another.

        T^{l l' l''}_{m'' m}(r̂) = Σ_m' C^{l l' l''}_{m m' m''} Y_{l' m'}(r̂)

    They depend on the geometry alone, so they are computed once per graph for all layers, parities, channels and draws.
    """

    coefficients: Tensor

    def __init__(self, triples: Sequence[tuple[int, int, int]], l_max: int) -> None:
        super().__init__()
        self.triples, self.l_max = sorted(set(triples)), l_max
        columns = [torch.empty((l_max + 1) ** 2, 0, dtype=torch.float64)]
        for l_in, l_sh, l_out in self.triples:
            full = torch.zeros((l_max + 1) ** 2, 2 * l_out + 1, 2 * l_in + 1, dtype=torch.float64)
            full[l_sh**2 : (l_sh + 1) ** 2] = coupling(l_in, l_sh, l_out).permute(1, 2, 0)
            columns.append(full.flatten(1))
        self.register_buffer("coefficients", torch.cat(columns, dim=1), persistent=False)

    def forward(self, unit: Tensor) -> dict[tuple[int, int, int], Tensor]:
        """Compute {(l, l', l''): (E, 2l'' + 1, 2l + 1)} of unit vectors (E, 3)."""
        flat = _harmonics(unit, self.l_max) @ self.coefficients.to(unit.dtype)
        shapes = [(2 * l_out + 1, 2 * l_in + 1) for l_in, _, l_out in self.triples]
        parts = flat.split([a * b for a, b in shapes], dim=1)
        return {t: part.view(-1, *shape) for t, part, shape in zip(self.triples, parts, shapes, strict=True)}


class IrrepsLinear(nn.Module):
    """Linear map with one matrix per irrep over its channels, without bias; irreps in inputs or outputs alone are dropped."""

    def __init__(self, inputs: dict[str, int], outputs: dict[str, int]) -> None:
        super().__init__()
        self.outputs = {ir: n for ir, n in outputs.items() if ir in inputs}
        self.blocks = nn.ModuleDict({ir: unit_linear(inputs[ir], n) for ir, n in self.outputs.items()})

    def forward(self, x: Features) -> Features:
        """Map features {irrep: (N, 2l + 1, C)} to {irrep: (N, 2l + 1, C')}."""
        return {ir: self.blocks[ir](value) for ir, value in x.items() if ir in self.blocks}


class IrrepsGate(nn.Module):
    """Equivariant nonlinearity: SiLU of the scalars; all others times a sigmoid of scalars.

    Source: Weiler et al., NeurIPS 2018 (arXiv 1807.02547), section 4.3.
    """

    def __init__(self, channels: dict[str, int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({ir: unit_linear(channels["0e"], n) for ir, n in channels.items() if ir != "0e"})

    def forward(self, x: Features) -> Features:
        """Apply the gate to features {irrep: (N, 2l + 1, C)}, of the same shapes."""
        scalars = x["0e"]
        gated = {ir: value * torch.sigmoid(self.blocks[ir](scalars)) for ir, value in x.items() if ir != "0e"}
        return {"0e": nn.functional.silu(scalars), **gated}


def unit_linear(n_in: int, n_out: int, *, bias: bool = False) -> nn.Linear:
    """Return a linear layer that keeps the variance: weights N(0, 1/n_in), bias zero (e3nn's normalisation)."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.normal_(layer.weight, std=n_in**-0.5)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def species_linear(x: Tensor, weights: Tensor, one_hot: Tensor) -> Tensor:
    """Multiply every atom by the matrix of its element: y_n = x_n W_{Z_n}.

    x (N, M, C), weights (S, C, C'), one_hot (N, S) -> (N, M, C').  All S products are computed and one is kept: S is small, and
    a dense product is faster than gathered matrices of C·C' numbers per atom.
    """
    return torch.einsum("nmc,scd,ns->nmd", x, weights, one_hot)
