"""What a Python prompt and a notebook show: one line that says what a thing is."""

from __future__ import annotations

import pytest

import blipcalc
from blipcalc import BayesianCalculator
from blipcalc.files.bundled import starting_structure


@pytest.fixture(scope="module")
def shown():
    """{name: repr} after a short run and a relaxation of ethanol."""
    atoms = starting_structure("ethanol")
    atoms.calc = BayesianCalculator("rmd17", n_draws=8)
    atoms.get_forces()
    atoms.calc.get_property("atom_std", atoms)
    things = {"calculator": atoms.calc, "prediction": atoms.calc.prediction}
    _, monitor = blipcalc.run_md(atoms, time_ps=0.005, threshold=0.5, every=5, progress=False)
    relaxed = blipcalc.relax(atoms, fmax=0.1)
    model = blipcalc.load("rmd17")
    things |= {"monitor": monitor, "history": monitor.history, "relaxed": relaxed, "energy": relaxed.energy}
    things |= {"positions": relaxed.positions, "model": model, "calibration": model.calibrations[0]}
    return {name: repr(thing) for name, thing in things.items()} | {"html": monitor.history._repr_html_()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("calculator", ("BayesianCalculator(rmd17; H, C, N, O", "K = 8", "calibrated")),
        ("prediction", ("Prediction(9 atoms, energy -4210.", "eV/Å", "calibrated")),
        ("monitor", ("UncertaintyMonitor(finished, every 5 steps", "History(3 checks")),
        ("history", ("steps 0 to 10", "0 breached")),
        ("relaxed", ("Relaxed(C2H6O, converged after", "± ")),
        ("energy", ("Estimate(-4210.", " eV; K = 8, calibrated")),
        ("positions", ("Estimate((9, 3) values, Å", "K = 8")),
        ("model", ("Model(PaiNN, posterior mixture; H, C, N, O", "K = 8, seed 0")),
        ("calibration", ("Calibration(surface mean, K = 8", "frames")),
    ],
)
def test_one_line_says_what_it_is(shown, name, words):
    text = shown[name]
    assert all(word in text for word in words), text
    assert len(text) < 320
    assert "\n" not in text


def test_a_notebook_shows_a_table_of_the_checks(shown):
    assert shown["html"].count("<tr>") == 4
    assert "<th>max_atom_std</th>" in shown["html"]
