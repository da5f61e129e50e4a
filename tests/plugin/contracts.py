"""The contract suites on the model and the posterior of the package beside this file."""

from __future__ import annotations

import torch
from blipcalc_example.radial import Radial
from blipcalc_example.snapshots import Snapshots, SnapshotsPosterior

from blipcalc import testing
from blipcalc.models.build import build_model


def network() -> Radial:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model("radial", {}, (1, 6, 8))


class TestRadial(testing.ModelContract):
    def make_model(self, dtype):
        return network().to(dtype)


class TestSnapshots(testing.PosteriorContract):
    method = Snapshots

    def make(self):
        model, generator = network(), torch.Generator().manual_seed(1)
        weights = {
            name: value.detach() + 0.1 * torch.randn(8, *value.shape, generator=generator)
            for name, value in model.named_parameters()
        }
        return model, SnapshotsPosterior(weights)
