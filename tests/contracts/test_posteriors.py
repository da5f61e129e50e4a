"""Every posterior against the contract suite, and the suite against posteriors that break one promise each."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch

from blipcalc import testing
from blipcalc.core.contracts import Draws
from blipcalc.errors import DrawsError
from blipcalc.models.build import build_model
from blipcalc.posteriors import ensemble as ensembles
from blipcalc.posteriors.method import PosteriorMethod
from blipcalc.posteriors.stored import OneNetwork, refuse_none
from blipcalc.registries import POSTERIORS, Registry
from blipcalc.training.batches import labelled_graphs

SIZES = {"features": 4, "interactions": 1, "n_radial": 4, "cutoff": 3.0}


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model("painn", SIZES, (1, 8)).double()


def trained(method, model):
    """What an online fit ends in after six steps towards zero weights."""
    fit, parameters = method.online(100.0), dict(model.named_parameters())
    optimizer = fit.optimizer([{"params": list(parameters.values()), "factor": 1.0}], 1e-3)
    for epoch in range(1, 7):
        weights = fit.step_weights(parameters, torch.Generator().manual_seed(epoch))
        sum(value.square().sum() for value in weights.values()).backward()
        for name, value in parameters.items():
            value.grad = weights[name].grad
        optimizer.step()
        fit.end_epoch(epoch, 6, parameters)
        optimizer.zero_grad()
    posterior, centre = fit.posterior(parameters)
    with torch.no_grad():
        for name, value in centre.items():
            parameters[name].copy_(value)
    return posterior


def made(name, small):
    """A network and the posterior of this name."""
    method = POSTERIORS[name]({"start": 0.0, "rank": 3} if name == "swag" else None)
    model = method.network(network())
    if method.is_online:
        return model, trained(method, model)
    graphs = labelled_graphs(small.pairs(6, noise=0.1), SIZES["cutoff"])
    model.double()
    others = [method.network(network(seed)).double() for seed in range(3)] if method.is_several else []
    members = ensembles.stack_members([dict(other.named_parameters()) for other in others]) if others else {}
    return model, method.fit(model, members, dict.fromkeys(method.reads, graphs))[0]


@pytest.mark.parametrize("name", POSTERIORS.own)
class TestOurs(testing.PosteriorContract):
    @pytest.fixture(autouse=True)
    def build(self, name, small):
        self.method, self.made = POSTERIORS[name], made(name, small)

    def make(self):
        return copy.deepcopy(self.made)


@dataclass(frozen=True)
class Shaken(OneNetwork):
    """The embedding times 1 + spread z: keeps every promise; each one below breaks one of them."""

    embedding: torch.Tensor
    spread: torch.Tensor
    name = "shaken"

    def numbers(self, generator):
        return {"z": torch.randn((), generator=generator, dtype=torch.float64)}

    def draw(self, n, *, generator):
        refuse_none(n)
        z = torch.stack([self.numbers(generator)["z"] for _ in range(n)])
        return Draws(n, {"embedding.weight": self.embedding * (1 + self.spread * z[:, None, None])})

    def tensors(self):
        return {"spread": self.spread}


class Shaking(PosteriorMethod):
    """Noise on the embedding."""

    name = "shaken"
    kind = Shaken

    def restore(self, network, members, tensors):
        if set(tensors) != {"spread"}:
            raise DrawsError("expected one tensor, spread")
        return self.kind(network.embedding.weight.detach(), tensors["spread"])


class Unseeded(Shaken):
    def draw(self, n, *, generator):
        return super().draw(n, generator=torch.Generator().manual_seed(torch.seed() % 1000))


class KnowsK(Shaken):
    def draw(self, n, *, generator):
        z = torch.randn(n, generator=generator, dtype=torch.float64).flip(0)
        return Draws(n, {"embedding.weight": self.embedding * (1 + self.spread * z[:, None, None])})


class Alike(Shaken):
    def numbers(self, generator):
        return {"z": torch.zeros((), dtype=torch.float64)}


class Misnamed(Shaken):
    def draw(self, n, *, generator):
        draws = super().draw(n, generator=generator)
        return Draws(n, {"embeding.weight": draws.overrides["embedding.weight"]})


class Global(Shaken):
    def numbers(self, generator):
        torch.rand(1)
        return super().numbers(generator)


class Forgets(Shaken):
    def tensors(self):
        return {"spread": torch.ones_like(self.spread)}


class Anything(Shaken):
    def draw(self, n, *, generator):
        return super().draw(max(n, 1), generator=generator)


BREAKS = {
    Unseeded: "test_draws_are_those_of_their_seed",
    KnowsK: "test_a_draw_does_not_depend_on_how_many_there_are",
    Alike: "test_draws_differ_if_it_is_random",
    Misnamed: "test_draws_fit_the_network",
    Global: "test_the_random_state_of_the_process_is_left_alone",
    Forgets: "test_a_file_gives_it_back",
    Anything: "test_draws_that_it_cannot_give_are_refused",
}
TESTS = [name for name in vars(testing.PosteriorContract) if name.startswith("test_")]


def contract(kind, monkeypatch):
    """The suite on a posterior that is registered for one test."""
    method, get = type(f"{kind.__name__}Method", (Shaking,), {"kind": kind}), Registry.get
    monkeypatch.setattr(
        Registry, "get", lambda self, name, package="": method if name == "shaken" else get(self, name, package)
    )
    monkeypatch.setitem(POSTERIORS.places, "shaken", "blipcalc.posteriors.point:Point")  # for its words

    class Contract(testing.PosteriorContract):
        def make(self):
            model = network()
            return model, kind(model.embedding.weight.detach(), torch.tensor(0.1, dtype=torch.float64))

    suite = Contract()
    suite.method = method
    return suite


@pytest.mark.parametrize("test", TESTS)
def test_a_posterior_that_keeps_every_promise_passes(test, monkeypatch):
    getattr(contract(Shaken, monkeypatch), test)()


@pytest.mark.parametrize("kind", BREAKS, ids=lambda kind: kind.__name__)
def test_a_broken_promise_is_seen(kind, monkeypatch):
    with pytest.raises((AssertionError, DrawsError)):
        getattr(contract(kind, monkeypatch), BREAKS[kind])()


def test_a_posterior_that_is_not_registered_is_seen(monkeypatch):
    suite = contract(Shaken, monkeypatch)
    suite.method = Shaking
    with pytest.raises(AssertionError):
        suite.test_it_is_registered_and_says_what_it_is()


def test_a_method_that_takes_any_tensor_is_seen(monkeypatch):
    suite = contract(Shaken, monkeypatch)
    monkeypatch.setattr(
        Shaking, "restore", lambda self, network, members, tensors: Shaken(network.embedding.weight, torch.ones(()))
    )
    with pytest.raises(AssertionError, match="it is restored from"):
        suite.test_tensors_that_do_not_fit_are_refused()
