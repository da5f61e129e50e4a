"""Pictures of relaxed structures: from where they are looked at, and what is drawn."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from PIL import Image

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.relaxation.relax import relax
from blipcalc.relaxation.relaxation_plot import along_a_vector, cell_edges, plot_relaxed, round_factor, widest_side


@pytest.mark.parametrize("cell", [np.diag([5.0, 4.0, 3.0]), [[4.0, 0, 0], [1.0, 6.0, 0], [0.5, 0.5, 3.0]]])
def test_a_crystal_is_seen_along_its_shortest_vector(cell):
    axes = along_a_vector(np.array(cell))
    assert np.allclose(axes @ axes.T, np.eye(3))
    assert np.linalg.det(axes) == pytest.approx(1.0)
    assert np.allclose(np.array(cell)[2] @ axes.T, [0, 0, np.linalg.norm(cell[2])])
    longest = np.linalg.norm(cell, axis=1).argmax()
    assert abs((np.array(cell)[longest] @ axes.T)[1]) < 1e-12


def test_a_cell_has_twelve_edges():
    cell = np.array([[4.0, 0, 0], [1.0, 6.0, 0], [0.5, 0.5, 3.0]])
    ways = np.diff(cell_edges(cell), axis=1)[:, 0]
    for vector in cell:
        assert np.isclose(ways, vector).all(axis=1).sum() == 4


def test_a_molecule_is_seen_from_its_widest_side():
    places = np.array([[0.0, 0, 0], [0, 0, 3.0], [0, 1.0, 1.0], [0, -1.0, 2.0]])
    axes = widest_side(places)
    assert abs(axes[2] @ [1.0, 0, 0]) == pytest.approx(1.0)
    assert round_factor(37.0) == 20.0


def test_a_crystal_is_drawn_with_its_bonds(tmp_path):
    class Stiffer(EMT):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results = {key: 1.1 * value for key, value in self.results.items()}

    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.calc = BayesianCalculator(committee([EMT(), Stiffer()]), raw=True)
    relaxed = relax(atoms, fmax=0.05, z=0.0)
    plot_relaxed(relaxed, tmp_path / "copper.png", "copper")
    assert np.asarray(Image.open(tmp_path / "copper.png").convert("RGB")).std() > 5
