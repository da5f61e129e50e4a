"""A predictor whose uncertainties are written down step by step, on harmonic wells."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.core.prediction import Calibration, Prediction
from blipcalc.core.predictor_contract import Need, Predictor


class Scripted(Predictor):
    """Wells at the first positions seen; ``script(step)`` gives atom_std, (n,) or a number; every call is kept.

    Beyond its twelfth digit atom_std follows the structure, as that of a sensor that is alive, but where it is ``frozen``.
    """

    species = None
    has_stress = has_energies = False
    heads = "none"
    n_draws = 8

    def __init__(self, script, *, surface="mean", calibration=None, energy_std=0.01, forces=None, frozen=False):
        self.script, self.surface, self.calibration = script, surface, calibration
        self.energy_std, self.forces, self.frozen = energy_std, forces, frozen
        self.home = self.last = None
        self.step = -1
        self.needs: list[Need] = []
        self.variances_at: list[int] = []

    def __call__(self, structures, need=Need()):
        (atoms,) = structures
        if self.home is None:
            self.home = atoms.positions.copy()
        if self.last is None or not np.array_equal(self.last, atoms.positions):
            self.step, self.last = self.step + 1, atoms.positions.copy()
        self.needs.append(need)
        shift = atoms.positions - self.home
        forces = -2.0 * shift
        if self.forces is not None:
            forces = self.forces(self.step, forces)
        cov = energy_var = None
        if self.surface == "mean" or need.variance:
            self.variances_at.append(self.step)
            std = np.broadcast_to(np.asarray(self.script(self.step), dtype=float), len(atoms))
            std = std if self.frozen else std * (1 - 1e-12 * np.tanh(np.abs(shift).sum()))
            cov, energy_var = np.zeros((len(atoms), 3, 3)), self.energy_std**2
            cov[:, range(3), range(3)] = std[:, None] ** 2
        prediction = Prediction(
            species=atoms.numbers,
            energy=float((shift**2).sum()),
            energies=(shift**2).sum(1),
            forces=forces,
            stress=None,
            energy_var=energy_var,
            forces_cov=cov,
            stress_var=None,
            n_draws=0 if cov is None else self.n_draws,
            surface=self.surface,
        )
        return [prediction if self.calibration is None else self.calibration.apply(prediction)]


def make_calibration(surface="mean", elements=(1, 6, 8), q=2.0):
    return Calibration(
        surface=surface,
        n_draws=Scripted.n_draws,
        seed=0,
        model_hash="m",
        scale=dict.fromkeys(elements, 1.0),
        scale_energy=1.0,
        q_atom={},
        q_frame={0.9: 0.8 * q, 0.95: q},
        n_frames=100,
        n_atoms=dict.fromkeys(elements, 100),
        frames_hash="f",
    )


@pytest.fixture
def calibration():
    return make_calibration


@pytest.fixture
def scripted():
    """(script, **settings) -> ethanol off its wells, with a calculator that follows the script."""

    def make(script, *, atoms: Atoms | None = None, **settings) -> Atoms:
        if not callable(script):
            script = (lambda values: lambda step: values[min(step, len(values) - 1)])(list(script))
        atoms = molecule("CH3CH2OH") if atoms is None else atoms
        predictor = Scripted(script, **settings)
        predictor.home = atoms.positions.copy()
        atoms.positions += np.random.default_rng(1).normal(scale=0.05, size=atoms.positions.shape)
        atoms.calc = BayesianCalculator(predictor, raw=predictor.calibration is None)
        return atoms

    return make
