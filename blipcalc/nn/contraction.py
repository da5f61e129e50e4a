"""Products of features with themselves, channel by channel, which give one layer terms of higher body order.

    B^{ZLM}_c = Σ_{ν=2}^{order} Σ_p W^{Z}_{p c} Σ_q U^{ν p}_{M q} x^ν_{q c}

| symbol | variable |
|---|---|
| x^ν_q, product of ν components m ≤ m' ≤ … of all irreps | ``Monomials`` |
| U^{ν p}, an equivariant polynomial of degree ν; p counts a basis of them | ``symmetric_couplings`` |
| W, per element, path and channel | ``weights`` |

With x_i = Σ_j φ(r_ij) a product of ν of them is a sum over ν neighbours of i at once: terms of body order ν + 1, whereas a
message alone has two.  The factors of a product are the same features, so only its symmetric part remains: couplings that
differ in the order of the factors coincide, antisymmetric ones vanish.  The basis contains each polynomial once, whereas chains
of coupling coefficients are an overcomplete set.

Source: Batatia et al., NeurIPS 2022 (arXiv 2206.07697), equations 10 and 11; the basis: Dusson et al., J. Comput. Phys. 454,
110946 (2022), doi:10.1016/j.jcp.2022.110946.  The linear map after the sum provides the term ν = 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations_with_replacement, product
from math import factorial, prod

import torch
from torch import Tensor, nn

from blipcalc.errors import ConfigurationError
from blipcalc.nn.irreps import Features, coupling, degree

#: least new part of a candidate: rounding leaves 1e-15, a truly new one of degrees up to 5 at least 0.4
NEW = 1e-6
#: initial weight of the products, small: with weights of order one, energies of new networks (3 layers, ethanol, n̄ = 8) were
#: 10 (ν = 2) to 10⁶ times (ν = 3) those without products, since powers of numbers above one grow
START = 0.1
#: largest degree with coefficients in e3nn
LARGEST_DEGREE = 11


def check_channels(hidden: dict[str, int], order: int) -> None:
    """Raise :class:`ConfigurationError` for irreps whose channels cannot be multiplied with each other."""
    if order > 1 and len(set(hidden.values())) > 1:
        counts, equal = (
            "+".join(f"{n}x{ir}" for ir, n in channels.items())
            for channels in (hidden, dict.fromkeys(hidden, hidden["0e"]))
        )
        raise ConfigurationError(
            f"correlation={order} multiplies channel by channel, so all hidden irreps need the same number of channels, got "
            f"{counts!r}; take e.g. {equal!r}, or correlation=1"
        )
    if order > 2 and 2 * max(map(degree, hidden)) > LARGEST_DEGREE:
        raise ConfigurationError(
            f"correlation={order} takes hidden irreps of degrees up to {LARGEST_DEGREE // 2}, got "
            f"{max(map(degree, hidden))}; leave out the largest, or take correlation=2"
        )


@cache
def symmetric_couplings(irreps: tuple[str, ...], order: int, out: str) -> Tensor:
    """Return an orthonormal basis of the equivariant homogeneous polynomials of degree ``order`` from some irreps to one.

    Orthonormal under Fischer's product ⟨f, g⟩ = Σ_α α! f_α g_α of coefficients, for every component of the output: harmonic
    polynomials then keep unit variance.  Candidates are orthogonalised one after the other in a fixed order, so
    that a basis is the same everywhere, unlike singular vectors of degenerate values.

    irreps, each once, in the order of the components -> (P, 2l + 1, Q), float64, Q as in :class:`Monomials`
    """
    starts = dict(zip(irreps, _starts(irreps), strict=False))
    rows = {m: q for q, m in enumerate(combinations_with_replacement(range(_starts(irreps)[-1]), order))}
    found = [torch.zeros(0, 2 * degree(out) + 1, len(rows), dtype=torch.float64)]
    for content in combinations_with_replacement(irreps, order):
        if "eo"[sum(ir.endswith("o") for ir in content) % 2] != out[-1]:
            continue
        factors = product(*(range(starts[ir], starts[ir] + 2 * degree(ir) + 1) for ir in content))
        terms = [tuple(sorted(m)) for m in factors]
        local = {m: i for i, m in enumerate(dict.fromkeys(terms))}
        scale = torch.tensor([prod(factorial(m.count(i)) for i in set(m)) for m in local], dtype=torch.float64).sqrt()
        basis = _basis(_chains([degree(ir) for ir in content], degree(out)), [local[m] for m in terms], scale)
        part = found[0].new_zeros(len(basis), *found[0].shape[1:])
        part[..., [rows[m] for m in local]] = basis / scale
        found.append(part)
    return torch.cat(found)


def _starts(irreps: Sequence[str]) -> list[int]:
    """Return the position of the first component of each irrep, and the total number of components."""
    starts = [0]
    for ir in irreps:
        starts.append(starts[-1] + 2 * degree(ir) + 1)
    return starts


def _basis(chains: Iterator[Tensor], terms: list[int], scale: Tensor) -> Tensor:
    """Orthonormalise chains (2l + 1, products of factors) as polynomials with coefficients √α! f_α, (P, 2l + 1, q)."""
    kept: list[Tensor] = []
    for chain in chains:
        # adding the coefficients of equal products symmetrises
        candidate = chain.new_zeros(len(chain), len(scale)).index_add(1, torch.tensor(terms), chain) * scale
        rest = candidate
        for _ in range(2):  # twice, against rounding
            rest = rest - sum(b * (b * rest).sum() / len(b) for b in kept)
        if rest.norm() > NEW * chain.norm():
            kept.append(rest * len(rest) ** 0.5 / rest.norm())
    return torch.stack(kept) if kept else scale.new_zeros(0, 1, len(scale))


def _chains(degrees: Sequence[int], l_out: int) -> Iterator[Tensor]:
    """Yield all couplings of one factor after the other, (l_1 l_2) L, (L l_3) …, to l_out: (2 l_out + 1, Π (2 l_i + 1))."""
    partial = [(degrees[0], torch.eye(2 * degrees[0] + 1, dtype=torch.float64))]
    for n, l_next in enumerate(degrees[1:], start=2):
        longer = []
        for l_so_far, chain in partial:
            targets = range(abs(l_so_far - l_next), l_so_far + l_next + 1)
            for target in targets if n < len(degrees) else {l_out} & set(targets):
                c = coupling(l_so_far, l_next, target)
                longer.append((target, torch.einsum("xa,aby->xby", chain, c).flatten(0, 1)))
        partial = longer
    return (chain.T for _, chain in partial)


def reached_by_products(irreps: Sequence[str], outputs: Sequence[str], order: int) -> set[str]:
    """Return the outputs to which some product of 2 to ``order`` of the irreps contributes."""
    sources = tuple(sorted(irreps))
    return {ir for ir in outputs for n in range(2, order + 1) if len(symmetric_couplings(sources, n, ir))}


def products_fingerprint(irreps: Sequence[str], order: int) -> float:
    """Return one number for the bases of all products of some irreps, equal wherever weights have the same meaning."""
    sources = tuple(sorted(irreps))
    bases = [symmetric_couplings(sources, n, ir).flatten() for n in range(2, order + 1) for ir in sources]
    values = torch.cat(bases)
    return float(values @ torch.linspace(1.0, 2.0, len(values), dtype=torch.float64))


class Monomials(nn.Module):
    """All products of 2 to ``order`` of d components, each once: x_0 x_0, x_0 x_1, … x_1 x_1, …

    A product of ν is one component times a product of ν - 1 components that are not before it.  Matrices of zeros and ones
    select both.  Slices of all widths need half the time for large structures, but ``torch.compile`` takes twenty times
    longer with them, and its kernels may write beyond their buffers (torch 2.13, CPU: "double free or corruption").
    """

    def __init__(self, size: int, order: int) -> None:
        super().__init__()
        self.order = order
        shorter: list[tuple[int, ...]] = [(i,) for i in range(size)]
        for n in range(2, order + 1):
            rows = {term: row for row, term in enumerate(shorter)}
            terms: list[tuple[int, ...]] = list(combinations_with_replacement(range(size), n))
            for kind, picked in (("first", [t[0] for t in terms]), ("rest", [rows[t[1:]] for t in terms])):
                matrix = nn.functional.one_hot(torch.tensor(picked), size if kind == "first" else len(shorter))
                self.register_buffer(f"{kind}_{n}", matrix.T.double().contiguous(), persistent=False)
            shorter = terms

    def forward(self, x: Tensor) -> Tensor:
        """Compute the products (…, Q) of components (…, d)."""
        last, found = x, []
        for n in range(2, self.order + 1):
            first, rest = (getattr(self, f"{kind}_{n}").to(x.dtype) for kind in ("first", "rest"))
            last = (x @ first) * (last @ rest)
            found.append(last)
        return torch.cat(found, dim=-1)


class SymmetricContraction(nn.Module):
    """Contraction of products of features with trainable weights, B of the formula above.

    Parameters
    ----------
    inputs : irreps of the features that are multiplied
    outputs : requested irreps; those without a contribution of any product are left out
    channels : C, of every irrep
    n_species : S
    order : largest ν, 2 or more
    """

    def __init__(
        self, inputs: Sequence[str], outputs: Sequence[str], channels: int, n_species: int, order: int
    ) -> None:
        super().__init__()
        self.inputs = tuple(sorted(inputs))
        self.monomials = Monomials(_starts(self.inputs)[-1], order)
        self.outputs = sorted(reached_by_products(self.inputs, outputs, order))
        self.weights = nn.ParameterDict()
        for ir in self.outputs:
            parts = [symmetric_couplings(self.inputs, n, ir) for n in range(2, order + 1)]
            # products of different degrees are in different columns
            blocks = [torch.block_diag(*(part[:, m] for part in parts)) for m in range(2 * degree(ir) + 1)]
            couplings = torch.stack(blocks, dim=1)
            self.register_buffer(f"couplings_{ir}", couplings, persistent=False)
            start = torch.randn(n_species, len(couplings), channels) * (START * len(couplings) ** -0.5)
            self.weights[ir] = nn.Parameter(start)

    def forward(self, x: Features, one_hot: Tensor) -> Features:
        """Contract features {irrep: (N, 2l + 1, C)}, with one_hot (N, S), to the outputs, of the same shapes.

        Weights are multiplied into the couplings first, at no cost per atom, which leaves one matrix per channel and element,
        from all monomials to all components.
        """
        powers = self.monomials(torch.cat([x[ir] for ir in self.inputs], dim=1).permute(2, 0, 1).contiguous())
        folded = [
            torch.einsum("spc,pmq->csmq", self.weights[ir], getattr(self, f"couplings_{ir}").to(powers.dtype))
            for ir in self.outputs
        ]
        every = torch.einsum("cnq,csmq->cnsm", powers, torch.cat(folded, dim=2))
        total = torch.einsum("cnsm,ns->nmc", every, one_hot)
        sizes = [2 * degree(ir) + 1 for ir in self.outputs]
        return dict(zip(self.outputs, total.split(sizes, dim=1), strict=True))
