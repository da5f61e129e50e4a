"""Equations of state held against ASE's own fits, and against curves that they are."""

import numpy as np
import pytest
from ase.eos import EquationOfState as OfASE
from ase.eos import birchmurnaghan

from blipcalc.errors import ConfigurationError
from blipcalc.properties.eos_fits import NAMES, fit

VOLUMES = 46.0 * (1 + np.linspace(-0.03, 0.03, 9)) ** 3
#: E0, B0, B0′, V0
TRUE = -14.0, 0.85, 4.7, 45.1


@pytest.mark.parametrize("name", NAMES)
def test_the_same_as_those_of_ase(name):
    energies = birchmurnaghan(VOLUMES, *TRUE) + 1e-5 * np.cos(7 * np.arange(9))
    v0, e0, b0 = OfASE(VOLUMES, energies, eos=name).fit(warn=False)
    found = fit(name, VOLUMES, energies)
    assert found.volume == pytest.approx(v0, rel=1e-6)
    assert found.energy == pytest.approx(e0, abs=1e-7)
    assert found.bulk_modulus == pytest.approx(b0, rel=1e-5)
    assert 1e-6 < found.residual < 4e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_of_the_bulk_modulus(name):
    found = fit(name, VOLUMES, birchmurnaghan(VOLUMES, *TRUE))
    assert found.slope == pytest.approx(TRUE[2], rel=0.2)
    if name in ("birch", "birchmurnaghan"):
        assert found.slope == pytest.approx(TRUE[2], rel=1e-8)
        assert found.residual < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_curves_without_a_minimum_give_none(name):
    assert np.isnan(fit(name, VOLUMES, -0.1 * VOLUMES).volume)


def test_large_offsets_cost_no_digits():
    energies = birchmurnaghan(VOLUMES, *TRUE)
    near, far = fit("birchmurnaghan", VOLUMES, energies), fit("birchmurnaghan", VOLUMES, energies - 1e6)
    assert far.bulk_modulus == pytest.approx(near.bulk_modulus, rel=1e-6)


def test_names_are_checked():
    with pytest.raises(ConfigurationError, match="expected one of 'birchmurnaghan'"):
        fit("birch-murnaghan", VOLUMES, VOLUMES)
