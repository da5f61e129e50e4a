"""Harmonics, couplings and linear maps on irreps, against e3nn's own tensor product and its rotation matrices."""

from __future__ import annotations

import math

import pytest
import torch
from e3nn import o3

from blipcalc.errors import ConfigurationError
from blipcalc.nn.contraction import SymmetricContraction
from blipcalc.nn.irreps import (
    Couplings,
    IrrepsGate,
    IrrepsLinear,
    coupling,
    degree,
    fingerprint,
    parse_irreps,
    paths,
    species_linear,
)

TRIPLES = [(a, b, c) for a in range(4) for b in range(4) for c in range(abs(a - b), min(3, a + b) + 1)]


def directions(n, seed=0):
    v = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return v / v.norm(dim=1, keepdim=True)


def features(channels, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        ir: torch.randn(n, 2 * degree(ir) + 1, c, dtype=torch.float64, generator=generator)
        for ir, c in channels.items()
    }


def rotated(x, rotation):
    """Features after a rotation or a reflection of space."""
    proper, many = rotation * rotation.det(), directions(50, seed=9)
    out = {}
    for ir, value in x.items():
        # the matrix that turns harmonics; e3nn's own wigner_D has the precision of float32
        before, after = (o3.spherical_harmonics(degree(ir), v, normalize=False) for v in (many, many @ proper.T))
        d = torch.linalg.lstsq(before, after).solution.T
        sign = -1.0 if ir.endswith("o") and rotation.det() < 0 else 1.0
        out[ir] = sign * torch.einsum("ij,njc->nic", d, value)
    return out


@pytest.mark.parametrize("triple", TRIPLES)
def test_first_entry_is_positive_and_the_output_has_unit_variance(triple):
    c = coupling(*triple)
    flat = c.flatten()
    assert flat[flat.abs() > 1e-6][0] > 0
    # Σ over inputs of squares is one for every output, so unit variances give unit variance
    torch.testing.assert_close(
        c.square().sum(dim=(0, 1)), torch.ones(c.shape[2], dtype=c.dtype), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("triple", TRIPLES)
def test_product_with_harmonics_is_that_of_e3nn_up_to_a_sign(triple):
    l_in, l_sh, l_out = triple
    unit, x = directions(5), features({f"{l_in}e": 3}, 5)[f"{l_in}e"]
    ours = Couplings([triple], 3)(unit)[triple] @ x
    # natural parities, as e3nn wants them
    out_parity = "e" if l_sh % 2 == 0 else "o"
    product = o3.TensorProduct(
        f"3x{l_in}e",
        f"1x{l_sh}{out_parity}",
        f"3x{l_out}{out_parity}",
        [(0, 0, 0, "uvu", False)],
        irrep_normalization="component",
        path_normalization="element",
    ).double()
    harmonics = o3.spherical_harmonics(l_sh, unit, normalize=False, normalization="component")
    theirs = product(x.transpose(1, 2).flatten(1), harmonics).view(5, 3, -1).transpose(1, 2)
    sign = math.copysign(1.0, float((ours * theirs).sum()))
    # its constants are of the default dtype
    torch.testing.assert_close(ours, sign * theirs, rtol=1e-5, atol=1e-5)


def test_harmonic_of_degree_zero_leaves_features_alone():
    for l in range(4):  # noqa: E741
        expected = torch.eye(2 * l + 1, dtype=torch.float64).expand(4, -1, -1)
        torch.testing.assert_close(Couplings([(l, 0, l)], 3)(directions(4))[l, 0, l], expected)


@pytest.mark.parametrize("mirror", [False, True])
def test_blocks_are_equivariant(mirror):
    channels = {"0e": 4, "0o": 3, "1e": 2, "1o": 4, "2e": 3, "2o": 2}
    x, unit = features(channels, 6), directions(6)
    rotation = torch.linalg.qr(features({"1o": 3}, 1)["1o"][0])[0]
    rotation = rotation * rotation.det() * (-1.0 if mirror else 1.0)
    linear, gate = IrrepsLinear(channels, {"0e": 2, "1o": 5, "2e": 1}).double(), IrrepsGate(channels).double()
    for block in (linear, gate):
        for ir, value in rotated(block(x), rotation).items():
            torch.testing.assert_close(block(rotated(x, rotation))[ir], value, rtol=1e-10, atol=1e-10)
    for start, l_sh, end in paths(list(channels), list(channels), 2):
        triple = (degree(start), l_sh, degree(end))
        couple = Couplings([triple], 2)
        turned = couple(unit @ rotation.T)[triple] @ rotated(x, rotation)[start]
        expected = rotated({end: couple(unit)[triple] @ x[start]}, rotation)[end]
        torch.testing.assert_close(turned, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("irreps", [("0e", "1o", "2e", "3o"), ("0e", "0o", "1e", "1o", "2e", "2o")], ids="+".join)
def test_products_of_features_are_equivariant(irreps, mirror):
    x, one_hot = features(dict.fromkeys(irreps, 3), 5), torch.eye(2, dtype=torch.float64)[[0, 1, 1, 0, 0]]
    rotation = torch.linalg.qr(features({"1o": 3}, 1)["1o"][0])[0]
    rotation = rotation * rotation.det() * (-1.0 if mirror else 1.0)
    contraction = SymmetricContraction(irreps, irreps, 3, 2, 3).double()
    assert contraction.outputs == sorted(irreps)
    for ir, value in rotated(contraction(x, one_hot), rotation).items():
        torch.testing.assert_close(contraction(rotated(x, rotation), one_hot)[ir], value, rtol=1e-10, atol=1e-10)


def test_paths_keep_degree_and_parity():
    found = paths(["0e", "1o"], ["0e", "0o", "1e", "1o", "2e"], 2)
    assert ("1o", 1, "1e") in found
    assert ("1o", 1, "0e") in found
    assert ("0e", 2, "2e") in found
    assert not {("1o", 1, "0o"), ("0e", 1, "1e"), ("1o", 2, "1e")} & set(found)


def test_every_atom_goes_through_the_matrix_of_its_element():
    x = features({"1o": 4}, 5)["1o"]
    weights = torch.randn(3, 4, 2, dtype=torch.float64)
    rows = torch.tensor([2, 0, 1, 1, 2])
    one_hot = torch.nn.functional.one_hot(rows, 3).double()
    expected = torch.stack([a @ weights[z] for a, z in zip(x, rows, strict=True)])
    torch.testing.assert_close(species_linear(x, weights, one_hot), expected, rtol=1e-14, atol=1e-14)


def test_irreps_are_parsed_added_up_and_sorted():
    assert parse_irreps("2x1o+4x0e+3x1o") == {"0e": 4, "1o": 5}
    for text in ("8x1o", "8x0f", "nonsense", ""):
        with pytest.raises(ConfigurationError, match="expected irreps"):
            parse_irreps(text)


def test_fingerprint_is_what_model_files_were_written_with():
    """The same under e3nn 0.4.4 and 0.6.0; another number means that stored weights mean something else."""
    assert [fingerprint(l_max) for l_max in range(4)] == pytest.approx(FINGERPRINTS, rel=1e-10)


FINGERPRINTS = [3.0, 12.940369516701976, 26.893781591013116, 52.235286417657505]
