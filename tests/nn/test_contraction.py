"""Symmetric products of features: their number from characters, their basis, closed forms, and what is refused."""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import factorial, pi, prod

import pytest
import torch
from e3nn import o3

from blipcalc.errors import ConfigurationError
from blipcalc.nn.contraction import (
    Monomials,
    SymmetricContraction,
    check_channels,
    products_fingerprint,
    reached_by_products,
    symmetric_couplings,
)
from blipcalc.nn.irreps import degree

NATURAL = ("0e", "1o", "2e", "3o")
BOTH = ("0e", "0o", "1e", "1o", "2e", "2o")
SETS = [("1o",), ("2e",), NATURAL[:2], NATURAL[:3], NATURAL, ("1e", "1o"), BOTH]


def features(channels, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        ir: torch.randn(n, 2 * degree(ir) + 1, channels, dtype=torch.float64, generator=generator)
        for ir in ("0e", "1o")
    }


def character(irreps, angle, inverted):
    """Trace of a rotation by an angle, with the inversion or without, on a sum of irreps."""
    total = torch.zeros_like(angle)
    for ir in irreps:
        trace = 1 + 2 * sum(torch.cos(m * angle) for m in range(1, degree(ir) + 1))
        total = total + (-trace if inverted and ir.endswith("o") else trace)
    return total


def multiplicity(irreps, order, out, *, symmetric=True):
    """How often ``out`` is in a symmetric power (or in the plain tensor power), by orthogonality of characters of O(3)."""
    n = 64  # exact: degrees of the trigonometric polynomials stay below
    angle = 2 * pi * torch.arange(n, dtype=torch.float64) / n
    found = 0.0
    for inverted in (False, True):
        # the k-th power of an improper rotation is improper for odd k
        x1, x2, x3 = (character(irreps, k * angle, inverted and k % 2 == 1) for k in (1, 2, 3))
        powers = {2: (x1**2 + x2) / 2, 3: (x1**3 + 3 * x1 * x2 + 2 * x3) / 6}
        power = powers[order] if symmetric else x1**order
        found += float((power * character([out], angle, inverted) * (1 - torch.cos(angle))).mean()) / 2
    assert abs(found - round(found)) < 1e-9
    return round(found)


def polynomials(irreps, order, out, x):
    """(P, N, 2l + 1) values of the basis at features (N, d)."""
    values = Monomials(x.shape[1], order)(x)[:, -symmetric_couplings(irreps, order, out).shape[2] :]
    return torch.einsum("pmq,nq->pnm", symmetric_couplings(irreps, order, out), values)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("irreps", SETS, ids="+".join)
def test_number_of_paths_is_that_of_the_characters(irreps, order):
    for out in ("0e", "0o", "1e", "1o", "2e", "2o", "3o"):
        assert len(symmetric_couplings(irreps, order, out)) == multiplicity(irreps, order, out), out


def test_number_of_paths_known_from_books():
    """s² + v·v; a vector times a vector has no symmetric pseudovector; |v|² v alone of three vectors; tr Q³ of quadrupoles."""
    counts = [(("0e", "1o"), 2, "0e", 2), (("1o",), 2, "1e", 0), (("1o",), 3, "1o", 1), (("2e",), 3, "0e", 1)]
    for irreps, order, out, expected in counts:
        assert len(symmetric_couplings(irreps, order, out)) == expected == multiplicity(irreps, order, out)


def test_control_tensor_powers_have_more_paths():
    for order, plain, symmetric in ((2, 3, 2), (3, 11, 5)):
        assert multiplicity(NATURAL[:3], order, "1o") == symmetric
        assert multiplicity(NATURAL[:3], order, "0e", symmetric=False) == plain


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("irreps", [NATURAL[:3], NATURAL, BOTH], ids="+".join)
def test_basis_is_orthonormal(irreps, order):
    """Σ_α α! f_α g_α for every component: of one path one, of two paths, or of two components, zero."""
    size = sum(2 * degree(ir) + 1 for ir in irreps)
    weights = [prod(factorial(a.count(i)) for i in set(a)) for a in combinations_with_replacement(range(size), order)]
    for out in irreps:
        flat = symmetric_couplings(irreps, order, out).flatten(0, 1)
        found = flat * torch.tensor(weights, dtype=torch.float64) @ flat.T
        torch.testing.assert_close(found, torch.eye(len(flat), dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_products_of_a_vector_are_its_square_and_its_harmonics():
    v = features(1, 6)["1o"][..., 0]
    square = v.square().sum(1, keepdim=True)
    expected = {
        (2, "0e"): square / 6**0.5,
        (2, "2e"): o3.spherical_harmonics(2, v, normalize=False, normalization="component") / 15**0.5,
        (3, "1o"): square * v / 10**0.5,
        (3, "3o"): o3.spherical_harmonics(3, v, normalize=False, normalization="component") / 105**0.5,
    }
    for (order, out), value in expected.items():
        (found,) = polynomials(("1o",), order, out, v)
        torch.testing.assert_close(found * (found * value).sum().sign(), value, rtol=1e-6, atol=1e-6)


def test_contraction_of_a_scalar_and_a_vector_in_closed_form():
    """Every element, path and channel has its weight: s², v·v, s³, s v·v and s v, s² v, |v|² v."""
    x, one_hot = features(4, 5), torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1, 2]]
    contraction = SymmetricContraction(["0e", "1o"], ["0e", "1o"], 4, 3, 3).double()
    s, v = x["0e"], x["1o"]
    square = v.square().sum(1, keepdim=True)
    paths = {
        "0e": [s**2 / 2**0.5, square / 6**0.5, s**3 / 6**0.5, s * square / 6**0.5],
        "1o": [s * v, s**2 * v / 2**0.5, square * v / 10**0.5],
    }
    found = contraction(x, one_hot)
    for ir, values in paths.items():
        weights = one_hot @ contraction.weights[ir].flatten(1)
        weights = weights.view(5, len(values), 1, 4)
        expected = sum(weights[:, p] * value for p, value in enumerate(values))
        torch.testing.assert_close(found[ir], expected, rtol=1e-12, atol=1e-12)


def test_every_product_is_there_once_and_in_order():
    x = features(1, 2)["1o"][..., 0]
    terms = [t for order in (2, 3) for t in combinations_with_replacement(range(3), order)]
    expected = torch.stack([prod(x[:, i] for i in t) for t in terms], dim=1)
    torch.testing.assert_close(Monomials(3, 3)(x), expected, rtol=1e-14, atol=0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("order", [2, 3])
def test_compiled_products_of_stacked_weights_are_those_of_each(order):
    contraction = SymmetricContraction(["0e", "1o"], ["0e", "1o"], 8, 3, order).double()
    x, one_hot = features(8, 9), torch.eye(3, dtype=torch.float64)[[0, 1, 2] * 3]
    weights = {
        name: torch.stack([(k + 1) * p.detach() for k in range(4)]) for name, p in contraction.named_parameters()
    }

    def total(x, weights):
        products = torch.func.functional_call(contraction, weights, (x, one_hot))
        return sum(value.square().sum() for value in products.values())

    compiled = torch.compile(torch.vmap(torch.func.grad(total), in_dims=(None, 0)), fullgraph=True)(x, weights)
    for k in range(4):
        expected = torch.func.grad(total)(x, {name: value[k] for name, value in weights.items()})
        for ir, value in expected.items():
            torch.testing.assert_close(compiled[ir][k], value, rtol=1e-12, atol=1e-12)


def test_what_products_reach():
    assert reached_by_products(["0e", "1o"], BOTH, 1) == set()
    assert reached_by_products(["1o"], BOTH, 2) == {"0e", "2e"}
    assert reached_by_products(["1o", "2e"], BOTH, 2) == {"0e", "1o", "2e", "2o"}
    # three vectors of one channel are parallel: a pseudoscalar takes three irreps that differ, such as 2, 3 and 4
    assert "0o" not in reached_by_products(NATURAL, BOTH, 3)
    assert "0o" in reached_by_products(["2e", "3o", "4e"], BOTH, 3)


def test_unequal_channels_and_degrees_without_coefficients_are_refused():
    check_channels({"0e": 8, "1o": 4}, 1)
    check_channels({"0e": 8, "6e": 8}, 2)
    with pytest.raises(ConfigurationError, match=r"got '8x0e\+4x1o'; take e.g. '8x0e\+8x1o', or correlation=1"):
        check_channels({"0e": 8, "1o": 4}, 2)
    with pytest.raises(ConfigurationError, match="degrees up to 5, got 6"):
        check_channels({"0e": 8, "6e": 8}, 3)


def test_fingerprint_is_what_model_files_were_written_with():
    """The same under e3nn 0.4.4, 0.5.1 and 0.6.0; another number means that stored weights mean something else."""
    found = [products_fingerprint(irreps, order) for irreps in (NATURAL[:2], NATURAL[:3], NATURAL) for order in (2, 3)]
    assert found == pytest.approx(FINGERPRINTS, rel=1e-10)


FINGERPRINTS = [
    7.307615214275955,
    16.28611042863148,
    11.686415891957951,
    53.55195053629897,
    22.124701725310693,
    159.07519479194457,
]
