"""Base test class for posteriors of other packages."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from blipcalc.core.contracts import Network, check_draws
from blipcalc.errors import DrawsError
from blipcalc.model_file.model import Model
from blipcalc.model_file.model_file import load, save_model
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.stored import StoredPosterior
from blipcalc.registries import POSTERIORS


class PosteriorContract:
    """Base test class of a posterior; a subclass must define ``method`` and ``make`` alone.

    method : the registered class
    """

    method: type[PosteriorMethod]

    def make(self) -> tuple[Network, StoredPosterior]:
        """Return a small network of a registered model, and its posterior."""
        raise NotImplementedError("make() must return a network and its posterior")

    def _n(self, posterior: StoredPosterior, wanted: int) -> int:
        return wanted if posterior.most_draws is None else min(wanted, posterior.most_draws)

    def _draws(self, posterior: StoredPosterior, n: int, seed: int = 0) -> dict[str, Tensor]:
        return dict(posterior.draw(n, generator=torch.Generator().manual_seed(seed)).overrides)

    def test_it_is_registered_and_says_what_it_is(self) -> None:
        _, posterior = self.make()
        assert POSTERIORS[posterior.name] is self.method
        assert self.method.name == posterior.name
        assert self.method.is_random == posterior.is_random
        assert POSTERIORS.words(posterior.name), "its class has no docstring for the command line"

    def test_settings_have_defaults(self) -> None:
        assert self.method().settings == self.method.Config()

    def test_draws_fit_the_network(self) -> None:
        network, posterior = self.make()
        check_draws(network, posterior.draw(self._n(posterior, 3), generator=torch.Generator().manual_seed(0)))

    def test_draws_are_those_of_their_seed(self) -> None:
        _, posterior = self.make()
        n = self._n(posterior, 4)
        assert _equal(self._draws(posterior, n), self._draws(posterior, n)), "one seed gives two sets of draws"
        if posterior.random_numbers(n, torch.Generator().manual_seed(0)):
            others = [self._draws(posterior, n, seed) for seed in range(1, 6)]
            assert not all(_equal(self._draws(posterior, n), other) for other in others), "no seed changes the draws"

    def test_a_draw_does_not_depend_on_how_many_there_are(self) -> None:
        _, posterior = self.make()
        many = self._n(posterior, 5)
        few = self._draws(posterior, min(2, many))
        assert _equal(few, {name: value[: min(2, many)] for name, value in self._draws(posterior, many).items()})

    def test_draws_differ_if_it_is_random(self) -> None:
        _, posterior = self.make()
        n = self._n(posterior, 16)
        draws = self._draws(posterior, n)
        differ = any(not torch.equal(value[0], value[k]) for value in draws.values() for k in range(1, n))
        assert differ == posterior.is_random

    def test_draws_that_it_cannot_give_are_refused(self) -> None:
        _, posterior = self.make()
        for n in (0, *([] if posterior.most_draws is None else [posterior.most_draws + 1])):
            try:
                self._draws(posterior, n)
            except DrawsError:
                continue
            raise AssertionError(f"{n} draws are given")

    def test_the_centre_is_a_network_or_refused(self) -> None:
        network, posterior = self.make()
        if self.method.has_centre:
            check_draws(network, posterior.centre())
            return
        try:
            centre = posterior.centre()
        except DrawsError:
            return
        assert not posterior.is_random, f"has_centre is False, and centre() gives {centre.n} networks"

    def test_the_random_state_of_the_process_is_left_alone(self) -> None:
        _, posterior = self.make()
        before = torch.get_rng_state()
        self._draws(posterior, self._n(posterior, 2))
        assert torch.equal(torch.get_rng_state(), before)

    def test_a_file_gives_it_back(self) -> None:
        network, posterior = self.make()
        model = Model(copy.deepcopy(network), posterior)
        with tempfile.TemporaryDirectory() as folder:
            save_model(model, Path(folder) / "model.blip")
            again = load(Path(folder) / "model.blip")
        assert again.hash == model.hash
        n = self._n(posterior, 3)
        assert _equal(self._draws(posterior, n), self._draws(again.posterior, n)), "a file gives other draws"
        assert _equal(dict(posterior.tensors()), dict(again.posterior.tensors()))

    def test_tensors_that_do_not_fit_are_refused(self) -> None:
        network, posterior = self.make()
        own, members = dict(posterior.tensors()), dict(posterior.members)
        wrong = [own | {"no such tensor": torch.zeros(2)}, *({k: v for k, v in own.items() if k != x} for x in own)]
        method = self.method()
        for tensors in wrong:
            try:
                method.restore(network, members, tensors)
            except DrawsError:
                continue
            raise AssertionError(f"it is restored from {sorted(tensors)} instead of {sorted(own)}")


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
