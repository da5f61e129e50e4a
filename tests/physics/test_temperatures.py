"""Temperatures of every ensemble with every kind of constraint: right, or refused by name.

Right is the distribution: K ~ Gamma(f/2, kT) by its mean and variance, and ⟨U⟩ as Metropolis sampling of the same energy has it.
"""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    Hookean,
)
from ase.md.velocitydistribution import Stationary, ZeroRotation, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from physics.springs import SpringCalculator, cluster, crystal, inertia_weight, metropolis
from scipy.stats import gamma

from blipcalc import BayesianCalculator, UncertaintyMonitor, committee, run_md
from blipcalc.core.degrees_of_freedom import degrees_of_dynamics, degrees_of_freedom, redraw, thermalize
from blipcalc.errors import ConfigurationError
from blipcalc.md.integrators import GLOBAL, NPT, RANDOM, IntegratorConfig, counted, integrator

T = 600.0
KT = units.kB * T
#: independent parts that a run is cut into
BLOCKS = 16
HELD = [0, 3, 5]
PAIRS = [[0, 1], [2, 6], [5, 7]]

ENSEMBLES = ("nve", "langevin", "baoab", "bussi", "nose-hoover", "npt", "npt-cell", "npt-baoab")
STRUCTURES = ("none", "atoms fixed", "bond lengths fixed", "free molecule")
#: (ensemble, structure) that an integrator of ASE cannot do right
REFUSED = {
    *((name, held) for name in ("npt", "npt-cell", "npt-baoab") for held in STRUCTURES[1:]),
    ("baoab", "bond lengths fixed"),
    ("nose-hoover", "atoms fixed"),
    ("nose-hoover", "bond lengths fixed"),
}
#: f of the eight atoms: (where momenta are random, where what is conserved is left out)
FREEDOM = {"none": (24, 24), "atoms fixed": (15, 15), "bond lengths fixed": (21, 21), "free molecule": (24, 18)}


def structure(name, ensemble):
    """Atoms on springs with a calculator."""
    if ensemble in NPT:
        atoms, springs = crystal()
    else:
        atoms, springs = cluster(0.0 if name == "free molecule" else 3.0)
    if name == "free molecule":
        atoms.pbc = False
    elif name == "atoms fixed":
        atoms.set_constraint(FixAtoms(HELD if len(atoms) == 8 else [0]))
    elif name == "bond lengths fixed":
        atoms.set_constraint(FixBondLengths(PAIRS if len(atoms) == 8 else [[0, 1]]))
    atoms.calc = SpringCalculator(springs)
    return atoms, springs


def config(ensemble):
    return IntegratorConfig(
        ensemble=ensemble, timestep_fs=2.0, friction_per_fs=0.02, damping_fs=30.0, pressure_damping_fs=150.0
    )


def sampled(ensemble, name, steps, rng, *, count=counted, scale=1.0):
    """(rows, 3) K, U and volume of a run of ours, after its first tenth, and f."""
    atoms, _ = structure(name, ensemble)
    c = config(ensemble)
    degrees = count(atoms, ensemble)
    thermalize(atoms, T, degrees, rng)
    dynamics, rows = integrator(atoms, c, scale * T, rng, degrees), []
    dynamics.attach(
        lambda: rows.append(
            (degrees.kinetic_energy(atoms), atoms.get_potential_energy(), abs(np.linalg.det(atoms.cell.array)))
        ),
        3,
    )
    dynamics.run(steps)
    return np.array(rows[len(rows) // 10 :]), degrees.number


def off(values, expected, error=0.0):
    """Standard errors by which the mean of a series is off, from the means of its parts."""
    parts = values[: len(values) // BLOCKS * BLOCKS].reshape(BLOCKS, -1).mean(axis=1)
    return (parts.mean() - expected) / np.hypot(parts.std(ddof=1) / np.sqrt(BLOCKS), error)


def expected_energy(name, ensemble, rng):
    """⟨U⟩ and its standard error, eV, by Metropolis sampling."""
    atoms, springs = structure(name, ensemble)
    n, chains = len(atoms), 300
    free = np.ones((n, 1))
    if name == "atoms fixed":
        free[HELD] = 0.0

    def none(state):
        return np.zeros(len(state))

    start = np.repeat(atoms.positions[None], chains, axis=0)
    if name == "bond lengths fixed":
        pairs = np.array(PAIRS)
        length = np.linalg.norm(start[0, pairs[:, 1]] - start[0, pairs[:, 0]], axis=1)[:, None]
        masses = atoms.get_masses()
        share = (masses[pairs[:, 1]] / masses[pairs].sum(axis=1))[:, None]

        def move(state, size, rng):
            # the centres of mass and the directions of rigid pairs have the weight of free ones
            new = state + 0.3 * size * rng.normal(size=state.shape)
            one, two = state[:, pairs[:, 0]], state[:, pairs[:, 1]]
            centre = one + share * (two - one) + 0.3 * size * rng.normal(size=one.shape)
            turned = two - one + size * rng.normal(size=one.shape)
            turned *= length / np.linalg.norm(turned, axis=-1, keepdims=True)
            new[:, pairs[:, 0]], new[:, pairs[:, 1]] = centre - share * turned, centre + (1 - share) * turned
            return new
    else:

        def move(state, size, rng):
            return state + size * free * rng.normal(size=state.shape)

    weight = none
    if name == "free molecule" and ensemble not in RANDOM:
        weight = inertia_weight(atoms.get_masses())
    energies, _ = metropolis(start, springs.energy, weight, move, KT, rng, chains=chains)
    means = energies.mean(axis=0)
    return means.mean(), means.std(ddof=1) / np.sqrt(chains)


def expected_under_pressure(ensemble, rng):
    """[(value, standard error)] of ⟨U⟩ and ⟨V⟩ of a crystal in a cubic cell at no pressure, and (chains, 1 + N, 3) samples: the
    edge, three times, and scaled coordinates.
    """
    atoms, springs = structure("none", ensemble)
    n, chains, edge = len(atoms), 300, atoms.cell[0, 0]
    # of an edge L: dV ∝ L² dL, and V^N, or V^(N-1) without the momentum of the centre
    power = 3 * (n if ensemble in RANDOM else n - 1) + 2

    def energy(state):
        length = state[:, 0, :1]
        cells = length[:, :, None] * np.eye(3)
        return springs.energy(length[:, :, None] * state[:, 1:], cells)

    def weight(state):
        return power * np.log(state[:, 0, 0])

    def move(state, size, rng):
        new = state + 0.1 * size * rng.normal(size=state.shape)
        new[:, 0] = state[:, 0] + 0.3 * size * rng.normal(size=(len(state), 1))
        return new

    one = np.concatenate([np.full((1, 3), edge), atoms.positions / edge])
    energies, states = metropolis(np.repeat(one[None], chains, axis=0), energy, weight, move, KT, rng, chains=chains)
    volumes = states[:, :, 0, 0] ** 3
    known = [(x.mean(), x.mean(axis=0).std(ddof=1) / np.sqrt(chains)) for x in (energies, volumes)]
    return known, states[-1]


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("ensemble", ENSEMBLES)
@pytest.mark.chance(4)
def test_a_temperature_is_right_or_refused(ensemble, name, chance):
    if (ensemble, name) in REFUSED:
        atoms, _ = structure(name, ensemble)
        with pytest.raises(ConfigurationError, match=f"ensemble='{ensemble}'"):
            run_md(wrapped(atoms), time_ps=0.01, ensemble=ensemble, threshold=1e9, progress=False)
        assert not atoms.get_momenta().any()
        return
    if ensemble == "nve":
        return check_report_at_constant_energy(name, chance)
    if ensemble in NPT:
        return check_under_pressure(ensemble, chance, 2500 if ensemble == "npt-cell" else 4000)
    rows, freedom = sampled(ensemble, name, chance.times(4000), chance.rng())
    assert freedom == FREEDOM[name][ensemble not in RANDOM]
    found = deviations(rows, freedom)
    found["potential energy"] = off(rows[:, 1], *expected_energy(name, ensemble, chance.rng(1)))
    assert max(map(abs, found.values())) < chance.student(BLOCKS - 1), found
    return None


def check_under_pressure(ensemble, chance, steps):
    """K of the crystal, and ⟨U⟩ and ⟨V⟩ where its cell keeps its shape.

    A chain of thermostats keeps a few stiff atoms where they are for longer than a test may run (Var K is 1.1 of its value after
    40 ps, with a barostat or without), so that ``npt`` starts from the law and must stay in it.
    """
    known, states = expected_under_pressure(ensemble, chance.rng(1))
    if ensemble == "npt":
        return check_that_it_stays(known, states[: chance.times(50)], chance)
    rows, freedom = sampled(ensemble, "none", chance.times(steps), chance.rng())
    assert freedom == (12 if ensemble in RANDOM else 9)
    found = deviations(rows, freedom)
    if ensemble == "npt-cell":
        del found["variance of K"]
    else:
        for k, expected in enumerate(known, start=1):
            found["UV"[k - 1]] = off(rows[:, k], *expected)
    assert max(map(abs, found.values())) < chance.student(BLOCKS - 1), found
    return None


def stays(states, rng, *, count=counted, steps=60):
    """(3, runs) means over time of K, (K - f kT / 2)² and V of runs that begin in the law, momenta of chain and barostat too."""
    found = []
    for (edge, *_), *scaled in states:
        atoms, _ = structure("none", "npt")
        atoms.set_cell([edge] * 3)
        atoms.positions = edge * np.array(scaled)
        degrees, rows = count(atoms, "npt"), []
        thermalize(atoms, T, counted(atoms, "npt"), rng)
        dynamics = integrator(atoms, config("npt"), T, rng, degrees)
        barostat, chain = dynamics._barostat, dynamics._thermostat
        dynamics._p_eps = rng.normal() * np.sqrt(barostat.W * KT)
        chain._p_eta = rng.normal(size=chain._Q.shape) * np.sqrt(chain._Q * KT)
        barostat._p_xi = rng.normal(size=barostat._R.shape) * np.sqrt(barostat._R * KT)
        dynamics.attach(lambda rows=rows, atoms=atoms: rows.append((atoms.get_kinetic_energy(), atoms.get_volume())), 4)
        dynamics.run(steps)
        kinetic, volume = np.array(rows[1:]).T
        found.append((kinetic.mean(), ((kinetic - 4.5 * KT) ** 2).mean(), volume.mean()))
    return np.transpose(found)


def apart(values, expected, error=0.0):
    """Standard errors by which the mean of independent values is off."""
    return (values.mean() - expected) / np.hypot(values.std(ddof=1) / np.sqrt(len(values)), error)


def check_that_it_stays(known, states, chance):
    kinetic, squared, volume = stays(states, chance.rng())
    found = {"K": apart(kinetic, 4.5 * KT), "variance of K": apart(squared, 4.5 * KT**2), "V": apart(volume, *known[1])}
    assert max(map(abs, found.values())) < chance.student(len(states) - 1), found


def deviations(rows, freedom):
    """Of the mean and the variance of K, in standard errors."""
    mean = 0.5 * freedom * KT
    return {"K": off(rows[:, 0], mean), "variance of K": off((rows[:, 0] - mean) ** 2, mean * KT)}


def wrapped(atoms):
    """The same energy behind a Bayesian calculator: three members around it."""
    springs = atoms.calc.springs
    members = [SpringCalculator(springs, factor) for factor in (0.99, 1.0, 1.01)]
    atoms.calc = BayesianCalculator(committee(members), raw=True)
    return atoms


def check_report_at_constant_energy(name, chance):
    """A run at constant energy sets no temperature; what it reports is 2K / (f k), and f leaves out what it conserves."""
    atoms, _ = structure(name, "nve")
    thermalize(atoms, T, counted(atoms, "langevin"), chance.rng())
    drift = atoms.get_momenta().sum(axis=0)
    _, monitor = run_md(
        wrapped(atoms), time_ps=0.2, timestep_fs=1.0, ensemble="nve", threshold=1e9, every=10, progress=False
    )
    freedom = FREEDOM[name][1]
    kinetic = atoms.get_kinetic_energy()
    if name == "free molecule":  # with momentum, for nobody took it away
        np.testing.assert_allclose(atoms.get_momenta().sum(axis=0), drift, atol=1e-9)
        at_rest = atoms.copy()
        Stationary(at_rest, preserve_temperature=False)
        ZeroRotation(at_rest, preserve_temperature=False)
        assert at_rest.get_kinetic_energy() < 0.99 * kinetic
        kinetic = at_rest.get_kinetic_energy()
    assert monitor.history.last("temperature_K") == pytest.approx(2 * kinetic / (freedom * units.kB), rel=1e-9)


def all_of_them(atoms, ensemble):
    """Three degrees of freedom for each atom."""
    degrees = counted(atoms, ensemble)
    return type(degrees)(3 * len(atoms), 0, degrees.motions, degrees.origin)


@pytest.mark.parametrize("ensemble", ["bussi", "nose-hoover", pytest.param("npt-cell", marks=pytest.mark.slow)])
@pytest.mark.chance(1)
def test_control_counting_three_for_each_atom_is_seen(ensemble, chance):
    name = "none" if ensemble in NPT else "free molecule"
    steps = chance.times(12_000)
    rows, _ = sampled(ensemble, name, steps, chance.rng(), count=all_of_them)
    freedom = 9 if ensemble in NPT else 18
    assert deviations(rows, freedom)["K"] > 2 * chance.student(BLOCKS - 1)


@pytest.mark.chance(1)
def test_control_counting_three_for_each_atom_is_seen_under_a_barostat(chance):
    _, states = expected_under_pressure("npt", chance.rng(1))
    kinetic, _, _ = stays(states[: chance.times(70)], chance.rng(), count=all_of_them)
    assert apart(kinetic, 4.5 * KT) > 2 * chance.student(len(kinetic) - 1)


@pytest.mark.parametrize("ensemble", ["langevin", "bussi"])
@pytest.mark.chance(1)
def test_control_another_temperature_is_seen(ensemble, chance):
    rows, freedom = sampled(ensemble, "none", chance.times(10_000), chance.rng(), scale=1.4)
    assert deviations(rows, freedom)["K"] > 2 * chance.student(BLOCKS - 1)


@pytest.mark.parametrize("ensemble", ["langevin", "baoab", "bussi", "nose-hoover"])
@pytest.mark.chance(1)
def test_the_summary_reports_the_temperature_that_was_set(ensemble, chance):
    """Through ``run_md``: momenta, thermostat and history count alike."""
    atoms = wrapped(structure("free molecule", ensemble)[0])
    summary, monitor = run_md(
        atoms, time_ps=chance.times(3), timestep_fs=2.0, ensemble=ensemble, temperature_K=T, friction_per_fs=0.02,
        damping_fs=30.0, threshold=1e9, every=4, seed=chance.seed(), progress=False,
    )  # fmt: skip
    assert summary.temperature_K == pytest.approx(monitor.history["temperature_K"].mean())
    assert abs(off(monitor.history["temperature_K"][50:], T)) < chance.student(BLOCKS - 1)
    if ensemble in GLOBAL:
        momentum = np.abs(atoms.get_momenta().sum(axis=0)).max(), np.abs(atoms.get_angular_momentum()).max()
        assert max(momentum) < 1e-6


@pytest.mark.chance(2)
def test_starting_momenta_are_canonical(chance):
    """Of what moves: K ~ Gamma(f/2, kT), and nothing of the rigid motions."""
    atoms, _ = structure("free molecule", "bussi")
    degrees, rng, kinetic = counted(atoms, "bussi"), chance.rng(), []
    for _ in range(chance.times(2000)):
        thermalize(atoms, T, degrees, rng)
        kinetic.append(atoms.get_kinetic_energy())
    shares = gamma(0.5 * degrees.number, scale=KT).cdf(kinetic)
    n = len(shares)
    assert abs(shares.mean() - 0.5) < chance.sigmas * np.sqrt(1 / 12 / n)
    assert abs((shares**2).mean() - 1 / 3) < chance.sigmas * np.sqrt(4 / 45 / n)
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-9


def field(atoms):
    """Springs, and a weak field along z that acts on all atoms."""
    inner = atoms.calc

    class Field(SpringCalculator):
        def calculate(self, *args, **settings):
            super().calculate(*args, **settings)
            self.results["forces"] = self.results["forces"] + np.array([0.0, 0.0, 0.01])

    atoms.calc = Field(inner.springs)


def trap(atoms):
    """A spring from each atom to one point."""
    atoms.calc = SpringCalculator(atoms.calc.springs)
    springs = atoms.calc.springs
    atoms.calc.springs = type(springs)(
        springs.i, springs.j, springs.shift, springs.length, np.full(8, 0.5), np.full((8, 3), 0.4)
    )


@pytest.mark.parametrize(
    ("change", "number", "held"),
    [
        (None, 18, 0),
        (FixAtoms([0]), 24 - 3 - 3, 3),  # it turns about the atom
        (FixAtoms([0, 1]), 24 - 6 - 1, 6),  # and about the line of two
        (FixAtoms([0, 1, 2]), 24 - 9, 9),
        (FixCom(), 18, 3),
        (FixBondLengths([[0, 1], [1, 2]]), 16, 2),
        ([FixedPlane(i, (0, 0, 1)) for i in range(8)], 16 - 3, 8),
        (FixedPlane(0, (0, 0, 1)), 24 - 1 - 3, 1),
        (FixedLine([0], (1, 0, 0)), 24 - 2 - 2, 2),
        (Hookean(0, [0.0, 0.0, 0.0], k=5.0, rt=0.1), 24 - 3, 0),
        (Hookean(0, 1, k=5.0, rt=0.5), 18, 0),
        (field, 24 - 3, 0),  # two translations, one rotation
        (trap, 24 - 3, 0),  # three rotations about the point
    ],
    ids=[
        *(
            "free",
            "one atom",
            "two atoms",
            "three atoms",
            "centre of mass",
            "bond lengths",
            "a plane for all",
            "a plane",
        ),
        *("a line", "a spring to a point", "a spring", "a field", "a trap"),
    ],
)
def test_what_a_run_conserves_is_left_out(change, number, held):
    atoms, _ = structure("free molecule", "bussi")
    if callable(change):
        change(atoms)
    else:
        atoms.set_constraint(change)
    found = degrees_of_freedom(atoms, random_momenta=False)
    assert (found.number, found.n_held) == (number, held)
    assert degrees_of_freedom(atoms, random_momenta=True).number == 24 - held


@pytest.mark.parametrize(
    ("formula", "number"), [("H2", 1), ("CO2", 3), ("H2O", 3), ("CH4", 9)], ids=["two", "a line", "a plane", "general"]
)
def test_small_molecules(formula, number):
    """A line of three atoms bends within a plane where its angular momentum is zero."""
    atoms = molecule(formula)
    atoms.calc = EMT()
    assert degrees_of_freedom(atoms, random_momenta=False).number == number
    atoms.cell, atoms.pbc = [20.0] * 3, True  # as long as no force crosses a face
    assert degrees_of_freedom(atoms, random_momenta=False).number == number


@pytest.mark.parametrize("ensemble", GLOBAL)
def test_where_nothing_moves_a_thermostat_is_refused(ensemble):
    atoms = Atoms("H", cell=[8.0] * 3, pbc=True)
    atoms.calc = EMT()
    with pytest.raises(ConfigurationError, match="nothing moves"):
        run_md(wrapped_emt(atoms), time_ps=0.01, ensemble=ensemble, threshold=1.0, progress=False)


def wrapped_emt(atoms):
    atoms.calc = BayesianCalculator(committee([EMT(), EMT()]), raw=True)
    return atoms


@pytest.mark.parametrize("ensemble", ["nve", "langevin", "baoab"])
def test_a_single_atom_keeps_finite_momenta(ensemble):
    atoms = wrapped_emt(Atoms("H"))
    summary, _ = run_md(
        atoms, time_ps=0.01, ensemble=ensemble, threshold=1.0, fault_checks=(), self_test=False, progress=False
    )
    assert summary.status == "finished"
    assert np.isfinite(atoms.get_momenta()).all()
    assert np.isfinite(summary.temperature_K) == (ensemble != "nve")  # alone at constant energy nothing is heat


@pytest.mark.parametrize(
    "held", [FixInternals(bonds=[[1.7, [0, 1]]]), ExternalForce(0, 1, 0.1)], ids=["internals", "force"]
)
@pytest.mark.parametrize("ensemble", ["nve", "langevin", "bussi"])
def test_constraints_that_are_no_projection_are_refused(held, ensemble):
    atoms, _ = structure("free molecule", ensemble)
    atoms.set_constraint(held)
    with pytest.raises(ConfigurationError, match="no orthogonal projection"):
        run_md(wrapped(atoms), time_ps=0.01, ensemble=ensemble, threshold=1e9, progress=False)


def test_constraints_that_share_atoms_are_refused():
    atoms, _ = structure("free molecule", "langevin")
    atoms.set_constraint([FixAtoms([0]), FixBondLengths([[0, 1]])])
    with pytest.raises(ConfigurationError, match="share no atoms"):
        run_md(wrapped(atoms), time_ps=0.01, threshold=1e9, progress=False)


@pytest.mark.parametrize("ensemble", GLOBAL)
def test_momenta_that_are_given_lose_what_would_count_as_heat(ensemble, chance_rng):
    periodic = ensemble in NPT
    atoms, _ = structure("none" if periodic else "free molecule", ensemble)
    thermalize_momenta(atoms, temperature_K=T, rng=chance_rng)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() > 1e-3
    run_md(wrapped(atoms), time_ps=0.01, ensemble=ensemble, threshold=1e9, progress=False)
    assert np.abs(atoms.get_momenta().sum(axis=0)).max() < 1e-9


@pytest.fixture
def chance_rng(seeds):
    return seeds.rng()


def test_a_monitor_of_another_program_counts_motions_at_rest(chance_rng):
    atoms, _ = structure("free molecule", "nve")
    thermalize_momenta(atoms, temperature_K=T, rng=chance_rng)
    moving = degrees_of_dynamics(VelocityVerlet(atoms, units.fs))
    Stationary(atoms)
    still = degrees_of_dynamics(VelocityVerlet(atoms, units.fs))
    ZeroRotation(atoms)
    dynamics = VelocityVerlet(atoms, units.fs)
    assert (moving.number, still.number, degrees_of_dynamics(dynamics).number) == (24, 21, 18)
    monitor = UncertaintyMonitor(dynamics, threshold=1e9, calculator=wrapped(atoms).calc)
    dynamics.run(3)
    expected = 2 * atoms.get_kinetic_energy() / (18 * units.kB)
    assert monitor.history.last("temperature_K") == pytest.approx(expected)


def test_redrawn_momenta_keep_energy_momentum_and_angular_momentum(chance_rng):
    atoms, _ = structure("free molecule", "bussi")
    thermalize_momenta(atoms, temperature_K=T, rng=chance_rng)
    before = atoms.get_kinetic_energy(), atoms.get_momenta().sum(axis=0), atoms.get_angular_momentum()
    old = atoms.get_momenta()
    redraw(atoms, chance_rng)
    after = atoms.get_kinetic_energy(), atoms.get_momenta().sum(axis=0), atoms.get_angular_momentum()
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    assert np.abs(atoms.get_momenta() - old).max() > 0.01
