from .adapters.committee import committee as committee
from .averages.average import average as average
from .calculators.bayesian import BayesianCalculator as BayesianCalculator
from .calibration.evaluation import evaluate as evaluate
from .calibration.fit import calibrate as calibrate
from .core.prediction import Calibration as Calibration
from .core.prediction import Prediction as Prediction
from .io import read as read
from .io import write as write
from .md.run_md import run_md as run_md
from .model_file.model_file import load as load
from .monitor.observer import UncertaintyMonitor as UncertaintyMonitor
from .relaxation.relax import relax as relax
from .stats.estimate import Estimate as Estimate
from .training.train import train as train

__version__: str
