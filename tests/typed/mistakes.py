"""Mistakes that a type checker must find: the control of the test.  What it calls each stands behind its line."""

from pathlib import Path

from ase import Atoms
from ase.calculators.emt import EMT

from blipcalc import BayesianCalculator, UncertaintyMonitor, average, evaluate, load, read, relax, run_md, train
from blipcalc.predictor import BayesianPredictor
from blipcalc.properties import dimer_scan, vibrations
from blipcalc.training.config import TrainConfig

relax("text")  # finds: arg-type
relax(Atoms(), f_max=0.01)  # finds: call-arg
relax(Atoms(), error_bars="none")  # finds: arg-type
run_md(Atoms(), time_ps=1.0, tolerence=0.5)  # finds: call-arg
run_md(Atoms())  # finds: call-arg
BayesianCalculator("rmd17", surface="center")  # finds: arg-type
BayesianCalculator(load("rmd17"), draws=8)  # finds: call-arg
BayesianPredictor.load("rmd17", strategy="fast")  # finds: arg-type
UncertaintyMonitor(tolerance="0.5")  # finds: arg-type
TrainConfig(epoch=3)  # finds: call-arg
average("run", "energy", method="reweigh")  # finds: arg-type
evaluate(BayesianPredictor.load("rmd17"), [], tolerence=0.5)  # finds: call-arg
vibrations(Atoms(), at="rest")  # finds: arg-type
dimer_scan("CuAu", 2.5, EMT())  # finds: arg-type
train("data.xyz", output=None)  # finds: arg-type
print(len(read(Path("a.xyz"), 0)), read("a.xyz").positions)  # finds: attr-defined
print(BayesianCalculator("rmd17").prediction.energy)  # finds: union-attr
print((relax(Atoms()).energy + "1").std)  # finds: operator
