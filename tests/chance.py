"""How often the suite may be red by chance, and how each test with random numbers keeps to its share.

The whole suite, slow tests included, may fail by chance less than once in 10,000 runs, whatever the seed and the machine.  A
machine matters where a run is chaotic: the last digit of a sum decides which of all possible runs it is.  So each comparison
of a random number with a bound has the probability BUDGET / COMPARISONS, 5e-8, and every test says how many it makes:

    @pytest.mark.chance(2)                       # comparisons in this test; each case of a parametrised test makes them anew
    def test_something(chance):
        rng = chance.rng()                       # or chance.seed(), for torch and for run_md(seed=...); chance.rng(1): another
        x = rng.normal(size=chance.times(1000))  # 1000 values, or 4000 in the second stage
        assert abs(x.mean()) < chance.sigmas / np.sqrt(len(x))                # the error is known: normal deviates
        assert abs(y.mean()) < chance.student(19) * y.std(ddof=1) / np.sqrt(20)    # it comes from 20 independent values
        low, high = chance.counts(400, 0.95)     # between which a binomial count lies; chance.p is for any other law

Two stages.  Where a test fails, it is run again from fresh seeds and with samples four times as large (``times``), and only
the second failure counts.  c comparisons at probability p each fail in both stages with probability (c p)² at most, so that
p = √(BUDGET / COMPARISONS / c): 3.7 standard errors for one comparison, where a single stage would need 5.5.  A tolerance
without a standard error is as safe if the first stage fails in less than 1 % of all seeds (z = 2.6): with half of the scatter
the second is then beyond 5.1 deviates, 2e-7, and both are 2e-9.  ``tests/chance_check.py`` counts first stages that fail.

One stage, ``@pytest.mark.chance(2, stages=1)``, for tests on values that a fixture of the module made: it has p = 5e-8.

Positive controls show the power: what is wrong must be found beyond twice the bound, or it would be missed in every other run.

``--seed-offset N`` gives every test other seeds, ``--seeds M`` runs each of them with M seeds, from N on; fixtures of wider
scope take theirs from ``seeds``.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm, poisson, t

#: probability that the suite is red by chance, and the comparisons that share it: what is collected may not exceed them
BUDGET, COMPARISONS = 1e-4, 2000
EACH = BUDGET / COMPARISONS
#: how much larger the samples of the second stage are
LONGER = 4


class Seeds:
    """Seeds of one stage, other ones for every offset.

    key : a number of the caller's, for streams that shall differ
    """

    def __init__(self, offset: int, stage: int = 1) -> None:
        self.offset, self.stage = offset, stage

    def rng(self, key: int = 0) -> np.random.Generator:
        """A generator of numpy."""
        return np.random.default_rng([self.offset, self.stage, key])

    def seed(self, key: int = 0) -> int:
        """A whole number below 2³¹."""
        return int(self.rng(key).integers(2**31))


class Chance(Seeds):
    """Seeds and bounds of one test; see the text of the module."""

    def __init__(self, offset: int, comparisons: int, stages: int = 2) -> None:
        super().__init__(offset)
        if comparisons < 1 or stages not in (1, 2):
            raise ValueError(f"expected a comparison or more in one or two stages, got {comparisons} in {stages}")
        self.stages = stages
        #: of one comparison in one stage, both tails together
        self.p = EACH if stages == 1 else float(np.sqrt(EACH / comparisons))

    def again(self) -> None:
        """Go on to the second stage."""
        self.stage = 2

    def times(self, n: int) -> int:
        """A size of a sample or a length of a run, larger in the second stage."""
        return n if self.stage == 1 else LONGER * n

    @property
    def sigmas(self) -> float:
        """Standard errors, where these are known exactly."""
        return float(norm.isf(self.p / 2))

    def student(self, freedom: float) -> float:
        """Standard errors, where these are estimated with so many degrees of freedom."""
        return float(t.isf(self.p / 2, freedom))

    def counts(self, n: int, share: float) -> tuple[int, int]:
        """The least and the most of n independent events of probability ``share`` that are to be expected."""
        return int(binom.ppf(self.p / 2, n, share)), int(binom.isf(self.p / 2, n, share))

    def events(self, mean: float) -> tuple[int, int]:
        """The least and the most events of a Poisson process."""
        return int(poisson.ppf(self.p / 2, mean)), int(poisson.isf(self.p / 2, mean))


def declared(item: pytest.Item) -> tuple[int, int] | None:
    """(comparisons, stages) of a test; None without the marker."""
    mark = item.get_closest_marker("chance")
    return None if mark is None else (mark.args[0], mark.kwargs.get("stages", 2))


@pytest.fixture(scope="session")
def seed_offset(request) -> int:
    """Offset of all seeds; a parameter where there are several."""
    return getattr(request, "param", request.config.getoption("seed_offset"))


@pytest.fixture(scope="session")
def seeds(seed_offset) -> Seeds:
    """Seeds for fixtures that several tests share."""
    return Seeds(seed_offset)


@pytest.fixture
def chance(request, seed_offset) -> Chance:
    """Seeds and bounds of this test."""
    found = declared(request.node)
    if found is None:
        raise pytest.UsageError(f"{request.node.nodeid} takes chance: say @pytest.mark.chance(number of comparisons)")
    return Chance(seed_offset, *found)


def pytest_addoption(parser):
    parser.addoption("--seed-offset", type=int, default=0, help="other seeds for all tests that take chance or seeds")
    parser.addoption("--seeds", type=int, default=1, help="run these tests with so many seeds, from the offset on")


def pytest_generate_tests(metafunc):
    first, n = metafunc.config.getoption("seed_offset"), metafunc.config.getoption("seeds")
    if n > 1 and "seed_offset" in metafunc.fixturenames:
        metafunc.parametrize("seed_offset", range(first, first + n), indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    total = sum(found[0] for item in items if (found := declared(item)) is not None) // config.getoption("seeds")
    if total > COMPARISONS:
        raise pytest.UsageError(f"{total} comparisons with chance; the bounds of tests/chance.py are for {COMPARISONS}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test of two stages once more where it fails; what the first stage said stays in the report."""
    chance = pyfuncitem.funcargs.get("chance")
    if not isinstance(chance, Chance) or chance.stages == 1:
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    try:
        pyfuncitem.obj(**arguments)
    except AssertionError as error:
        pyfuncitem.add_report_section("call", "first stage", str(error))
        pyfuncitem.user_properties.append(("first stage failed", str(error)[:200]))
        chance.again()
        pyfuncitem.obj(**arguments)
    return True
