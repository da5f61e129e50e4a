"""Calculators of other people: when kept results are out of date, and what comes through the gate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms
from ase.md.verlet import VelocityVerlet
from ase.stress import voigt_6_to_full_3x3_stress

from blipcalc import io
from blipcalc.adapters.ase_results import ask
from blipcalc.adapters.committee import CommitteePredictor, committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.calculators.reference_on_demand import ReferenceOnDemand
from blipcalc.calculators.single_draw import SingleDraw
from blipcalc.calculators.snapshot import FINGERPRINT, annotate, snapshot
from blipcalc.calculators.weighted_baseline import BaselineFallback
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.errors import CalculatorResultError, ConfigurationError, NonFiniteError
from blipcalc.monitor.observer import UncertaintyMonitor


class Charged(Calculator):
    """k Σ r² + 10 q, forces -2 k r + q, with q = info["charge"], which it does not look at to see a change."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, k):
        super().__init__()
        self.k, self.calls = k, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        q, r = self.atoms.info.get("charge", 0), self.atoms.positions
        q = q + self.atoms.get_initial_charges().sum() + self.atoms.get_initial_magnetic_moments().sum()
        self.results = {"energy": float(self.k * (r**2).sum() + 10 * q), "forces": -2 * self.k * r + q}


class Attentive(Charged):
    """Sees every change of ``info``, as the calculators of several networks do; fails where that holds arrays."""

    def check_state(self, atoms, tol=1e-15):
        found = super().check_state(atoms, tol)
        return found or (["info"] if self.atoms.info != atoms.info else [])


class Everywhere(Predictor):
    """A predictor around a committee that does not give its draws one by one."""

    def __init__(self, predictor):
        self._predictor, self.calculators = predictor, predictor.calculators
        self.surface, self.heads, self.n_draws, self.species = "mean", "none", predictor.n_draws, None
        self.has_stress, self.has_energies = predictor.has_stress, False

    def __call__(self, structures, need=Need()):
        return self._predictor(structures, need)

    def changes(self, seen, atoms):
        return self._predictor.changes(seen, atoms)


def bayesian(kind=Charged):
    return BayesianCalculator(committee([kind(k) for k in (1.0, 1.1, 1.2)]), raw=True)


def members(model):
    return list(model.predictor.calculators)


def driven_by_the_reference(model, reference):
    calc = ReferenceOnDemand(model, reference)
    calc.switch("reference")
    return calc


#: kind of a member -> (calculator, the foreign calculators that its energy and variances come from, energy per charge)
WRAPPERS = {
    "committee": lambda kind: (m := bayesian(kind), members(m), 10.0),
    "sum with an exact part": lambda kind: (
        CombinedCalculator(m := bayesian(kind), part := kind(0.5)),
        [*members(m), part],
        20.0,
    ),
    "sum with a sum of ASE": lambda kind: (
        CombinedCalculator(m := bayesian(kind), SumCalculator([a := kind(0.5), b := kind(0.7)])),
        [*members(m), a, b],
        30.0,
    ),
    "fallback": lambda kind: (
        BaselineFallback(m := bayesian(kind), base := kind(1.0), sigma_baseline_eV=1.0, shifts={"O": 0.0, "H": 0.0}),
        [*members(m), base],
        10.0,
    ),
    "model drives": lambda kind: (ReferenceOnDemand(m := bayesian(kind), kind(2.0)), members(m), 10.0),
    "reference drives": lambda kind: (
        driven_by_the_reference(m := bayesian(kind), reference := kind(2.0)),
        [*members(m), reference],
        10.0,
    ),
    "one draw": lambda kind: (SingleDraw(m := bayesian(kind), 1), members(m), 10.0),
    "one draw of all": lambda kind: (
        SingleDraw(m := BayesianCalculator(Everywhere(bayesian(kind).predictor), raw=True), 1),
        members(m),
        10.0,
    ),
}
KINDS = pytest.mark.parametrize("kind", [Charged, Attentive])
EACH = pytest.mark.parametrize("wrapper", WRAPPERS)


def hydroxyl(charge=0):
    atoms = Atoms("OH", [[0, 0, 0], [0, 0.1, 1.0]])
    atoms.info["charge"] = charge
    return atoms


def looked_at(atoms):
    return atoms.get_potential_energy(), atoms.get_forces(), atoms.calc.get_property("atom_std", atoms)


def calls(parts):
    return [part.calls for part in parts]


@KINDS
@EACH
def test_a_changed_charge_costs_exactly_one_evaluation_of_each_part(wrapper, kind):
    atoms = hydroxyl()
    atoms.calc, parts, per_charge = WRAPPERS[wrapper](kind)
    energy, forces, std = looked_at(atoms)
    before = calls(parts)
    looked_at(atoms)
    assert calls(parts) == before
    atoms.info["charge"] = 1
    charged_energy, charged_forces, charged_std = looked_at(atoms)
    assert charged_energy - energy == pytest.approx(per_charge, abs=1e-9)
    np.testing.assert_allclose(charged_forces - forces, per_charge / 10, atol=1e-9)
    np.testing.assert_allclose(charged_std, std, atol=1e-12)
    assert [now - then for now, then in zip(calls(parts), before, strict=True)] == [1] * len(parts)
    looked_at(atoms)
    atoms.info["charge"] = 0
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-12)


@EACH
@pytest.mark.parametrize("setter", ["set_initial_charges", "set_initial_magnetic_moments"])
def test_initial_charges_and_moments_are_inputs(wrapper, setter):
    atoms = hydroxyl()
    atoms.calc, _, per_charge = WRAPPERS[wrapper](Charged)
    energy = atoms.get_potential_energy()
    getattr(atoms, setter)([0.25, 0.5])
    assert atoms.get_potential_energy() - energy == pytest.approx(0.75 * per_charge, abs=1e-9)


@KINDS
@EACH
def test_notes_of_observers_cost_nothing(wrapper, kind):
    atoms = hydroxyl()
    atoms.calc, parts, _ = WRAPPERS[wrapper](kind)
    looked_at(atoms)
    before = calls(parts)
    for k in range(3):
        annotate(atoms)
        atoms.info.update(step=k, time_fs=0.5 * k, breach_reason=f"{k}")
        assert any(isinstance(value, np.ndarray) for value in atoms.info.values())
        looked_at(atoms)
    assert calls(parts) == before
    assert all("step" not in part.atoms.info and FINGERPRINT not in part.atoms.info for part in parts)


@KINDS
@EACH
def test_a_step_of_md_costs_one_evaluation_of_each_part(wrapper, kind):
    atoms = hydroxyl()
    atoms.calc, parts, _ = WRAPPERS[wrapper](kind)
    dynamics = VelocityVerlet(atoms, 0.2 * units.fs)
    monitor = UncertaintyMonitor(dynamics, threshold=100.0, fault_checks=(), annotate=True)

    def note():
        atoms.info.update(step=dynamics.nsteps, time_fs=0.2 * dynamics.nsteps)
        snapshot(atoms, compute=("atom_std",))

    dynamics.attach(note)
    dynamics.run(4)
    assert monitor.status == "finished"
    assert calls(parts) == [5] * len(parts)


def test_other_entries_of_info_count_as_the_parts_say():
    for kind, value, cost in (
        (Charged, "chloroform", 0),
        (Charged, np.arange(3.0), 0),
        (Charged, [[1], [1, 2]], 0),
        (Attentive, "chloroform", 1),
    ):
        atoms = hydroxyl()
        atoms.calc = bayesian(kind)
        looked_at(atoms)
        atoms.info["solvent"] = value
        looked_at(atoms)
        assert calls(members(atoms.calc)) == [1 + cost] * 3


def test_a_predictor_without_calculators_is_not_evaluated_anew_for_a_note():
    class Counting(Predictor):
        surface, heads, n_draws, species, has_stress, has_energies = "mean", "none", 2, None, False, False
        calls = 0

        def __call__(self, structures, need=Need()):
            self.calls += 1
            return committee([EMT(), EMT(asap_cutoff=True)])(structures, need)

    atoms = bulk("Cu", cubic=True)
    atoms.calc = BayesianCalculator(Counting(), raw=True)
    looked_at(atoms)
    before = atoms.calc.predictor.calls
    atoms.info["note"] = "mine"
    looked_at(atoms)
    assert atoms.calc.predictor.calls == before


def test_snapshots_and_files_do_not_keep_results_of_another_charge(tmp_path):
    atoms = hydroxyl()
    atoms.calc = bayesian()
    looked_at(atoms)
    frozen = snapshot(atoms)
    assert frozen.get_potential_energy() == atoms.get_potential_energy()
    frozen.info["note"] = "read again"
    assert frozen.get_potential_energy() == atoms.get_potential_energy()
    frozen.info["charge"] = 1
    with pytest.raises(PropertyNotImplementedError, match="info"):
        frozen.get_potential_energy()
    annotate(atoms)
    atoms.info["charge"] = 1
    assert snapshot(atoms).calc is None
    io.write(tmp_path / "x.traj", atoms)
    back = io.read(tmp_path / "x.traj", 0)
    assert back.calc is None
    assert back.info == {"charge": 1}


# -- the gate


class Wild(Calculator):
    """EMT times a factor, in whatever form."""

    implemented_properties = ["energy", "forces", "stress"]

    def __init__(self, factor=1.0, only=None, **forms):
        super().__init__()
        self.factor, self.forms = factor, forms
        if only is not None:
            self.implemented_properties = list(only)

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        plain = atoms.copy()
        plain.calc = EMT()
        values = {"energy": plain.get_potential_energy(), "forces": plain.get_forces(), "stress": plain.get_stress()}
        values = {key: self.factor * value for key, value in values.items()}
        values["free_energy"] = values["energy"]
        self.results = {key: self.forms.get(key, lambda x: x)(values[key]) for key in self.implemented_properties}


def strained():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(
        atoms.cell.array @ (np.eye(3) + 0.02 * np.random.default_rng(0).normal(size=(3, 3))), scale_atoms=True
    )
    return atoms


FORMS = {
    "3×3 stress": {"stress": voigt_6_to_full_3x3_stress},
    "energy (1,)": {"energy": lambda e: np.array([e])},
    "energy (1, 1)": {"energy": lambda e: np.array([[e]])},
    "tensors": {
        "energy": lambda e: torch.tensor(e, requires_grad=True),
        "forces": lambda f: torch.tensor(f, requires_grad=True),
        "stress": lambda s: torch.tensor(voigt_6_to_full_3x3_stress(s)),
    },
    "lists": {"forces": lambda f: f.tolist(), "stress": lambda s: s.tolist()},
}


@pytest.mark.parametrize("form", FORMS)
def test_members_of_every_form_give_the_same_numbers(form):
    atoms, plain = strained(), strained()
    plain.calc = BayesianCalculator(committee([Wild(k) for k in (0.9, 1.0, 1.1)]), raw=True)
    atoms.calc = BayesianCalculator(committee([Wild(k, **FORMS[form]) for k in (0.9, 1.0, 1.1)]), raw=True)
    emt = EMT()
    for key in ("energy", "forces", "stress"):
        np.testing.assert_allclose(
            atoms.calc.get_property(key, atoms), emt.get_property(key, atoms), rtol=1e-9, atol=1e-12
        )
    for key in ("energy", "energy_std", "forces", "atom_std", "stress", "stress_std", "pressure_std"):
        value = atoms.calc.get_property(key, atoms)
        np.testing.assert_allclose(value, plain.calc.get_property(key, plain), rtol=1e-9, atol=1e-12)
        assert np.asarray(value).dtype == np.float64
    assert atoms.get_stress().shape == (6,)
    samples = atoms.calc.get_samples(atoms)
    assert (samples.energy.shape, samples.forces.shape, samples.stress.shape) == ((3,), (3, 4, 3), (3, 6))
    q = 1e-3 * np.random.default_rng(2).normal(size=18)  # positions and strain: what second derivatives are made of
    found, expected = (Surfaces(one.calc).slope_at(one, q) for one in (atoms, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_single_precision_comes_out_as_float64():
    atoms, single = strained(), dict.fromkeys(("energy", "forces", "stress"), np.float32)
    atoms.calc = BayesianCalculator(committee([Wild(k, **single) for k in (0.9, 1.0, 1.1)]), raw=True)
    assert atoms.get_forces().dtype == np.float64
    np.testing.assert_allclose(atoms.get_forces(), EMT().get_property("forces", atoms), atol=1e-6)
    both = CombinedCalculator(atoms.calc, Wild(1.0, **single))
    assert both.get_property("stress", atoms).dtype == np.float64
    assert type(both.get_property("energy", atoms)) is float


def around(part):
    """Every calculator of ours that takes a foreign one, with that one in it."""
    model = BayesianCalculator(committee([Wild(k) for k in (0.9, 1.0, 1.1)]), raw=True)
    return {
        "committee": BayesianCalculator(committee([Wild(0.9), part, Wild(1.1)]), raw=True),
        "sum": CombinedCalculator(model, part),
        "fallback": BaselineFallback(model, part, sigma_baseline_eV=1.0, shifts={"Cu": 0.0}),
        "reference": driven_by_the_reference(model, part),
    }


@pytest.mark.parametrize("where", ["committee", "sum", "fallback", "reference"])
@pytest.mark.parametrize(
    ("key", "form", "error", "words"),
    [
        ("energy", lambda e: np.full(4, e), CalculatorResultError, r"energy of shape \(4,\); expected \(\)"),
        ("energy", lambda e: None, CalculatorResultError, "energy of type NoneType"),
        ("energy", lambda e: complex(e), CalculatorResultError, "complex"),
        ("energy", lambda e: np.nan, NonFiniteError, "NaN or infinity for energy"),
        ("forces", lambda f: f.ravel(), CalculatorResultError, r"forces of shape \(12,\); expected \(4, 3\)"),
        ("forces", lambda f: f[:3], CalculatorResultError, r"forces of shape \(3, 3\); expected \(4, 3\)"),
        ("forces", lambda f: [[1.0], [1.0, 2.0]], CalculatorResultError, "no array"),
        ("forces", lambda f: np.where(np.arange(4)[:, None] == 2, np.inf, f), NonFiniteError, r"on atoms \[2\]"),
        ("stress", lambda s: s[:3], CalculatorResultError, r"stress of shape \(3,\); expected \(6,\) in Voigt order"),
        ("stress", lambda s: s * np.nan, NonFiniteError, "for stress"),
    ],
)
def test_what_is_no_result_is_refused_by_name(where, key, form, error, words):
    atoms = strained()
    atoms.calc = around(Wild(1.0, **{key: form}))[where]
    name = {
        "committee": "committee member 1",
        "sum": "part 1",
        "fallback": "the baseline",
        "reference": "the reference",
    }
    with pytest.raises(error, match=rf"{name[where]}.* \(Wild\) gave .*{words}"):
        atoms.calc.get_property(key, atoms)
    assert key not in atoms.calc.results


@pytest.mark.parametrize("where", ["committee", "sum", "fallback", "reference"])
def test_errors_of_a_part_keep_their_kind_and_name_it(where):
    class Failing(Wild):
        def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
            if self.broken:
                raise MemoryError("no memory left")
            super().calculate(atoms, properties, system_changes)

    part, atoms = Failing(), strained()
    part.broken = False
    atoms.calc = around(part)[where]
    atoms.get_forces()
    part.broken = True
    atoms.positions += 0.01
    with pytest.raises(MemoryError, match="no memory left") as caught:
        atoms.get_forces()
    assert any("(Failing) when it was asked for" in note for note in caught.value.__notes__)
    assert "forces" not in atoms.calc.results
    part.broken = False
    fresh = around(Wild())[where]
    np.testing.assert_allclose(atoms.get_forces(), fresh.get_property("forces", atoms), rtol=0, atol=1e-12)


@pytest.mark.parametrize("where", ["committee", "sum", "fallback", "reference"])
def test_results_are_copies_of_what_a_part_keeps(where):
    class Reusing(Wild):
        """Gives its own array, and writes the next forces into it."""

        own = None

        def get_property(self, name, atoms=None, allow_calculation=True):
            value = super().get_property(name, atoms, allow_calculation)
            if name != "forces" or value is None:
                return value
            self.own = np.array(value) if self.own is None else self.own
            self.own[:] = value
            return self.own

    part, atoms = Reusing(), strained()
    calc = around(part)[where]
    forces = calc.get_property("forces", atoms)
    kept = forces.copy()
    part.own[:] = 1e6
    assert np.array_equal(calc.get_property("forces", atoms), kept)
    assert np.array_equal(forces, kept)


def test_a_free_energy_stands_for_the_energy_and_the_other_way_round():
    atoms, emt = strained(), EMT()
    free = [Wild(k, only=("free_energy", "forces")) for k in (0.9, 1.0, 1.1)]
    calc = BayesianCalculator(committee(free), raw=True)
    assert calc.get_property("energy", atoms) == pytest.approx(emt.get_property("energy", atoms), abs=1e-9)
    assert not calc.predictor.has_stress
    both = CombinedCalculator(calc, Wild(1.0, only=("energy", "forces")), Wild(1.0, only=("free_energy", "forces")))
    for key in ("energy", "free_energy"):
        assert both.get_property(key, atoms) == pytest.approx(3 * emt.get_property("energy", atoms), abs=1e-9)


def test_one_member_without_stress_leaves_the_rest_of_the_committee():
    calc = BayesianCalculator(committee([Wild(0.9), Wild(1.0, only=("energy", "forces")), Wild(1.1)]), raw=True)
    atoms = strained()
    assert np.isfinite(calc.get_property("atom_std", atoms)).all()
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property("stress", atoms)


def test_a_member_that_computes_only_what_it_is_asked_for_is_evaluated_once():
    class Lazy(Wild):
        calls = 0

        def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
            super().calculate(atoms, properties, system_changes)
            self.calls += 1
            if list(properties) == ["energy"]:
                self.results = {"energy": self.results["energy"]}

    parts, atoms = [Lazy(0.9), Lazy(1.1)], strained()
    atoms.calc = BayesianCalculator(committee(parts), raw=True)
    atoms.get_stress()
    looked_at(atoms)
    assert calls(parts) == [1, 1]


def test_constraints_are_not_shown_to_parts():
    class Looking(Wild):
        def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
            assert not atoms.constraints
            super().calculate(atoms, properties, system_changes)

    for name, calc in around(Looking()).items():
        atoms = strained()
        atoms.set_constraint(FixAtoms([0]))
        assert np.abs(calc.get_property("forces", atoms)[0]).max() > 0.01, name
    assert ask(Looking(), "energy", atoms) == pytest.approx(EMT().get_property("energy", atoms))


# -- who may be a member


def test_one_object_is_no_two_members():
    emt, predictor = EMT(), committee([EMT(), EMT()])
    with pytest.raises(ConfigurationError, match=r"members 0 and 2 \(EMT\) are the same object"):
        committee([emt, EMT(), emt])
    twice = [BayesianCalculator(predictor, raw=True) for _ in range(2)]
    with pytest.raises(ConfigurationError, match="around the same CommitteePredictor"):
        committee(twice)
    draws = [SingleDraw(twice[0], k) for k in range(2)]
    assert committee(draws).n_draws == 2  # two surfaces of one model are two members


def test_what_is_no_calculator_is_no_member():
    for wrong in ("emt", EMT, None):
        with pytest.raises(ConfigurationError, match="committee member 1: expected an ASE calculator"):
            committee([EMT(), wrong])
    with pytest.raises(ConfigurationError, match=r"committee member 0 \(Wild\) gives no forces"):
        committee([Wild(only=("energy",))])
    with pytest.raises(ConfigurationError, match="at least one"):
        committee([])


def test_one_member_keeps_its_number_in_messages():
    one = committee([Wild(), Wild(forces=np.ravel)]).single(1)
    assert isinstance(one, CommitteePredictor)
    with pytest.raises(CalculatorResultError, match="committee member 1"):
        one([strained()])


class Field(Calculator):
    """A spring in a field that it takes from ``info``, and whose changes it notices."""

    implemented_properties = ("energy", "forces")

    def __init__(self, k):
        super().__init__()
        self.k, self.seen = k, None

    def check_state(self, atoms, tol=1e-15):
        return super().check_state(atoms, tol) or (["info"] if atoms.info.get("field") != self.seen else [])

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.seen = atoms.info.get("field")
        r = self.atoms.positions
        self.results = {"energy": float(self.k * (r**2).sum()), "forces": -2 * self.k * r + (self.seen or 0.0)}


def test_a_part_that_answered_for_another_field_meanwhile_does_not_vouch_for_old_results():
    atoms = hydroxyl()
    atoms.calc = SingleDraw(BayesianCalculator(committee([Field(k) for k in (1.0, 1.1, 1.2)]), raw=True), 0)
    before = atoms.get_forces()
    atoms.info["field"] = 5.0
    atoms.calc.get_property("atom_std", atoms)  # asks all members, the first of which is the draw, for the new field
    np.testing.assert_allclose(atoms.get_forces(), before + 5.0)
