"""Test suites for models and posteriors of other packages, which check the contracts.

Each ``check_*`` function raises ``AssertionError`` with the numbers.  Authors of a model derive a test class::

    class TestMyModel(ModelContract):
        def make_model(self, dtype):
            return MyModel(...).to(dtype)

    class TestMyPosterior(PosteriorContract):
        method = MyMethod

        def make(self):
            return network, MyPosterior(...)

Tolerances, for float64: symmetries and batching 1e-10 relative; forces 1e-6 eV/Å and stress 1e-7 eV/Å³ + 1e-5 relative,
against a sweep of central differences; 1e-4 eV/Å for the jump of a force at the cutoff; 1e-12 relative for ``vmap``
against a loop; 1e-4 relative for float32 against float64.
"""

from blipcalc.testing.comparisons import Evaluation, default_structures, evaluate_one, perturbed
from blipcalc.testing.derivatives import check_cutoff, check_force_training, check_forces, check_stress
from blipcalc.testing.execution import check_layer_roles, check_precision, check_vmap
from blipcalc.testing.invariance import (
    check_batch,
    check_isolated_atoms,
    check_lattice_shifts,
    check_protocol,
    check_supercell,
    check_symmetries,
)
from blipcalc.testing.model_contract import ModelContract
from blipcalc.testing.posterior_contract import PosteriorContract

__all__ = [
    "Evaluation",
    "ModelContract",
    "PosteriorContract",
    "check_batch",
    "check_cutoff",
    "check_force_training",
    "check_forces",
    "check_isolated_atoms",
    "check_lattice_shifts",
    "check_layer_roles",
    "check_precision",
    "check_protocol",
    "check_stress",
    "check_supercell",
    "check_symmetries",
    "check_vmap",
    "default_structures",
    "evaluate_one",
    "perturbed",
]
