"""Barriers with error bars against closed forms and root finders."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import BFGS, MDMin
from scaled_emt import ScaledEMT
from scipy.optimize import root

from blipcalc.adapters.committee import committee
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.core.prediction import Calibration
from blipcalc.errors import ConfigurationError, DrawsError, NoBarrierError
from blipcalc.files.bundled import starting_structure
from blipcalc.properties.barrier import barrier
from blipcalc.properties.property_plots import plot_profile

H = np.array([0.4, 0.5, 0.7])


def at(x, y=0.0):
    return Atoms("H", [[x, y, 0.0]])


# --- double well ----------------------------------------------------------------------------------------------------------


def double_well(h, tilt=0.0, shift=0.0):
    def potential(x, y):
        x = x - shift
        return h * (x**2 - 1) ** 2 + tilt * x + 5 * y**2, 4 * h * x * (x**2 - 1) + tilt, 10 * y

    return potential


def wells(toys, **draws):
    names = list(draws)
    rows = [dict(zip(names, row, strict=True)) for row in zip(*draws.values(), strict=True)]
    return toys.calculator([toys.plane(double_well(**row)) for row in rows])


@pytest.mark.parametrize("reoptimize", [False, "points", "paths"])
def test_the_barrier_of_a_double_well_is_its_height(toys, reoptimize):
    found = barrier(
        [at(-1), at(1)],
        wells(toys, h=H),
        interpolation="linear",
        project=False,
        reoptimize=reoptimize,
        fmax=1e-3,
        optimizer=BFGS,
    )
    for which in (found, found.reoptimized) if reoptimize else (found,):
        assert np.allclose(which.forward.draws, H, atol=1e-5)
        assert np.allclose(which.backward.draws, H, atol=1e-5)
        assert np.allclose(which.reaction.draws, 0, atol=1e-5)
        assert which.forward.std == pytest.approx(H.std(ddof=1), rel=1e-4)
        assert which.forward.value == pytest.approx(H.mean(), abs=1e-5)
    assert found.converged
    assert found.saddle_at == pytest.approx(1.0, abs=1e-3)
    if reoptimize:
        assert found.reoptimized.status == ("converged",) * 3
        assert np.abs(found.first_order_error).max() < 1e-5


@pytest.mark.parametrize("n_images", [2, 4])
def test_without_climbing_the_maximum_lies_between_the_images(toys, n_images):
    found = barrier(
        [at(-1), at(1)],
        wells(toys, h=H),
        n_images=n_images,
        interpolation="linear",
        climb=False,
        fmax=1e-3,
        optimizer=BFGS,
    )
    assert found.energies.value.max() < 0.95 * H.mean()  # control: no image is there
    assert found.saddle_at == pytest.approx(1.0, abs=1e-3)
    assert np.allclose(found.forward.draws, H, rtol=0.05)
    s, profile = found.profile(50)
    assert profile.value.max() == pytest.approx(float(found.forward.value), abs=2e-3)
    assert s[-1] == pytest.approx(2.0)


def test_what_shared_images_leave_out(toys):
    """Wells that are shifted against each other: every draw has the same barrier, at another place."""
    shifts = np.array([-0.1, -0.03, 0.02, 0.11])
    calculator = wells(toys, h=np.full(4, 0.5), shift=shifts)
    settings = {"interpolation": "linear", "project": False, "fmax": 1e-3, "optimizer": BFGS}
    found = {how: barrier([at(-1), at(1)], calculator, reoptimize=how, **settings) for how in ("points", "paths")}
    shared = found["points"]
    assert shared.forward.bias == pytest.approx(0, abs=1e-12)  # linear in the energies
    assert np.allclose(shared.backward.draws - shared.forward.draws, -shared.reaction.draws)
    for how, result in found.items():
        assert np.allclose(result.reoptimized.forward.draws, 0.5, atol=1e-4), how
        # second order: at the minimum ½ · 8h · shift², at the saddle ½ · 4h · shift²
        expected = 0.5 * (8 + 4) * 0.5 * (shifts - shifts.mean()) ** 2
        assert np.allclose(result.first_order_error, expected, atol=0.02)
        assert result.first_order_error.min() > 0
    assert found["points"].reoptimized.forward.std < 1e-4 < shared.forward.std  # control: shared images see a spread
    # the mean of shifted wells is shallower than any of them, which the bias of the draws says
    assert found["points"].reoptimized.forward.bias > 0.015


def test_reaction_energies_and_backward_barriers(toys):
    tilts = np.array([0.05, 0.1, 0.15])
    found = barrier(
        [at(-1), at(1)], wells(toys, h=np.full(3, 0.6), tilt=tilts), interpolation="linear", project=False,
        reoptimize="points", fmax=1e-3, optimizer=BFGS,
    )  # fmt: skip
    own = found.reoptimized
    for k, tilt in enumerate(tilts):
        x = np.sort(np.roots([4 * 0.6, 0, -4 * 0.6, tilt]).real)
        low, top, high = 0.6 * (x**2 - 1) ** 2 + tilt * x
        assert own.forward.draws[k] == pytest.approx(top - low, abs=1e-6)
        assert own.backward.draws[k] == pytest.approx(top - high, abs=1e-6)
        assert own.reaction.draws[k] == pytest.approx(high - low, abs=1e-6)
    assert np.allclose(found.forward.draws, own.forward.draws, atol=1e-3)


# --- Müller and Brown -------------------------------------------------------------------------------------------------------

AMPLITUDE = np.array([-200.0, -100.0, -170.0, 15.0])
XX, XY, YY = np.array([-1, -1, -6.5, 0.7]), np.array([0, 0, 11, 0.6]), np.array([-10, -10, -6.5, 0.7])
X0, Y0 = np.array([1, 0, -0.5, -1]), np.array([0, 0.5, 1.5, 1])


def mueller_brown(depths):
    """In hundredths of the original, times a factor for each of its four parts."""

    def potential(x, y):
        dx, dy = x - X0, y - Y0
        part = 0.01 * AMPLITUDE * depths * np.exp(XX * dx**2 + XY * dx * dy + YY * dy**2)
        return part.sum(), part @ (2 * XX * dx + XY * dy), part @ (XY * dx + 2 * YY * dy)

    return potential


DEPTHS = 1 + 0.03 * np.random.default_rng(3).normal(size=(5, 4))


def stationary(depths, start):
    found = root(lambda r: mueller_brown(depths)(*r)[1:], start, tol=1e-12)
    assert found.success
    return mueller_brown(depths)(*found.x)[0], found.x


@pytest.fixture(scope="module")
def known():
    """(5, 2) barrier from the upper minimum over the first saddle, and energy of the middle minimum above it."""
    rows = []
    for depths in DEPTHS:
        low, top, end = (stationary(depths, s)[0] for s in ((-0.558, 1.442), (-0.822, 0.624), (-0.05, 0.467)))
        rows.append((top - low, end - low))
    return np.array(rows)


@pytest.mark.parametrize("how", ["points", "paths"])
def test_mueller_brown_with_scaled_depths(toys, known, how):
    calculator = toys.calculator([toys.plane(mueller_brown(d)) for d in DEPTHS])
    found = barrier(
        [at(-0.558, 1.442), at(-0.05, 0.467)], calculator, n_images=7, interpolation="linear", project=False,
        reoptimize=how, fmax=0.02, spring=2.0, optimizer=BFGS,
    )  # fmt: skip
    assert found.converged
    own = found.reoptimized
    assert own.status == ("converged",) * 5
    assert np.allclose(own.forward.draws, known[:, 0], atol=1e-4)
    assert np.allclose(own.reaction.draws, known[:, 1], atol=1e-4)
    # at first order nothing is missing: what is left is second order in the depths, far below the spread
    assert np.abs(found.first_order_error).max() < 0.05 * known[:, 0].std(ddof=1)
    assert found.forward.std == pytest.approx(known[:, 0].std(ddof=1), rel=0.05)
    # control: energies of one draw against another's minimum are no barrier
    wrong = found.energies.draws.max(axis=1) - np.roll(found.energies.draws[:, -1], 1)
    assert not np.allclose(wrong, known[:, 0], atol=0.05)


def test_exact_parts_and_calibrations(toys):
    """A part that is exact raises every barrier alike; a calibration widens the error bar, not the draws."""
    members = toys.calculator([toys.plane(double_well(h)) for h in H]).predictor.calculators
    extra = toys.calculator([toys.plane(double_well(0.2))]).predictor.calculators[0]
    calibration = Calibration(
        surface="mean", n_draws=3, seed=0, model_hash="", scale={1: 4.0}, scale_energy=9.0, q_atom={}, q_frame={}, n_frames=0,
        n_atoms={}, frames_hash="",
    )  # fmt: skip
    calculator = CombinedCalculator(BayesianCalculator(committee(members, calibration)), extra)
    for how in ("points", "paths"):
        found = barrier(
            [at(-1), at(1)], calculator, interpolation="linear", project=False, reoptimize=how, optimizer=BFGS
        )
        for which in (found, found.reoptimized):
            assert np.allclose(which.forward.draws, H + 0.2, atol=1e-5)
            assert which.forward.std == pytest.approx(2 * H.std(ddof=1), rel=1e-4)
            assert which.forward.calibrated


# --- atoms ------------------------------------------------------------------------------------------------------------------


FACTORS = np.array([0.9, 1.0, 1.2])


def hop():
    slab = fcc100("Cu", size=(2, 2, 2), vacuum=6.0)
    add_adsorbate(slab, "Cu", 1.7, "hollow")
    slab.set_constraint(FixAtoms(mask=slab.positions[:, 2] < slab.positions[:, 2].mean()))
    end = slab.copy()
    end.positions[-1, 0] += slab.cell[0, 0] / 2
    return slab, end


@pytest.mark.parametrize("shared", [True, False])
def test_an_adatom_hops_and_held_atoms_stay(shared):
    start, end = hop()
    seen = []
    calculators = [BayesianCalculator(committee([ScaledEMT(f) for f in FACTORS]), raw=True) for _ in range(5)]
    images = [start, end] if shared else [start, *(start.copy() for _ in range(3)), end]
    if not shared:
        for i, image in enumerate(images):
            image.positions[-1] = start.positions[-1] + i / 4 * (end.positions[-1] - start.positions[-1]) + [0, 0, 0.1]
            image.calc = calculators[i]
    before = [image.positions.copy() for image in images]
    found = barrier(
        images, calculators[0] if shared else None, n_images=3, fmax=0.05, optimizer=BFGS,
        attach=lambda optimizer: optimizer.attach(lambda: seen.append(optimizer.nsteps)),
    )  # fmt: skip
    assert found.converged
    assert len(seen) > found.n_steps > 5
    held = start.constraints[0].index
    assert all(np.allclose(image.positions[held], start.positions[held], atol=1e-12) for image in found.images)
    assert np.allclose(found.forward.draws, FACTORS / FACTORS.mean() * found.forward.value)
    assert found.reaction.value == pytest.approx(0, abs=0.01)
    assert 0.3 < found.forward.value < 0.7
    assert len(found.atom_std) == 5
    assert found.atom_std.max() < 0.05
    assert all(np.array_equal(image.positions, was) for image, was in zip(images, before, strict=True))  # copies


def test_draws_on_their_own_with_periodic_cells():
    start, end = hop()
    calculator = BayesianCalculator(committee([ScaledEMT(f) for f in FACTORS]), raw=True)
    found = barrier([start, end], calculator, n_images=3, fmax=0.05, optimizer=BFGS, reoptimize="points")
    assert np.allclose(found.reoptimized.forward.draws, found.forward.draws, atol=2e-3)


def test_a_methyl_group_turns_into_a_permutation_of_itself():
    """Ethanol with the bundled model: both ends are one structure with its atoms renamed, on every draw."""
    start = starting_structure("ethanol")
    start.calc = BayesianCalculator("rmd17", surface="centre", n_draws=8)
    BFGS(start, logfile=None).run(fmax=0.01, steps=200)
    end = start.copy()
    end.rotate_dihedral(2, 0, 1, 5, 120, indices=[5, 6, 7])
    found = barrier([start, end], start.calc, n_images=3, optimizer=BFGS, reoptimize="points")
    assert found.converged
    assert 0.12 < found.forward.value < 0.20
    assert 1e-4 < found.forward.std < 0.01
    own = found.reoptimized
    assert np.abs(own.reaction.draws).max() < 1e-5
    assert own.forward.value == pytest.approx(float(found.forward.value), abs=0.003)
    assert np.abs(found.first_order_error).max() < 0.001
    energies = np.abs(own.forward.draws - own.forward.value)
    assert energies.max() > 3 * np.abs(found.first_order_error).max()


# --- what happens otherwise ---------------------------------------------------------------------------------------------------


def test_a_path_that_did_not_converge_says_so(toys):
    found = barrier([at(-1), at(1)], wells(toys, h=H, tilt=[0.1] * 3), interpolation="linear", steps=1, fmax=1e-4)
    assert found.status == "not converged"
    assert not found.converged
    assert found.residual > 1e-4
    as_it_is = barrier([at(-1), at(1)], wells(toys, h=H), interpolation="linear", steps=0)
    assert as_it_is.n_steps == 0
    assert np.allclose(as_it_is.energies.value, [0, *(H.mean() * (np.array([-2, -1, 0, 1, 2]) ** 2 / 9 - 1) ** 2), 0])


def test_a_slope_has_no_barrier(toys):
    calculator = toys.calculator([toys.plane(lambda x, y, k=k: (k * x + y**2, k, 2 * y)) for k in H])
    with pytest.raises(NoBarrierError, match="image 6 of 7"):
        barrier([at(-1), at(1)], calculator, interpolation="linear", steps=0)


def test_a_draw_without_a_barrier_is_named(toys):
    calculator = wells(toys, h=[0.5, 0.5, 0.5], tilt=[0.0, 0.0, 1.2])
    found = barrier([at(-1), at(1)], calculator, interpolation="linear", reoptimize=True, fmax=1e-3, optimizer=BFGS)
    assert found.reoptimized.status == ("converged", "converged", "no barrier")
    assert np.isnan(found.reoptimized.forward.draws[2])
    assert np.isnan(found.reoptimized.forward.std)


def test_ends_are_relaxed_first_unless_told(toys):
    calculator, ends = wells(toys, h=H), [at(-0.8), at(0.9)]
    settings = {"interpolation": "linear", "fmax": 1e-3, "optimizer": BFGS}
    assert barrier(ends, calculator, **settings).forward.value == pytest.approx(H.mean(), abs=1e-4)
    assert barrier(ends, calculator, relax_ends=False, **settings).forward.value < 0.9 * H.mean()


def test_refusals(toys):
    calculator = wells(toys, h=H)
    with pytest.raises(ConfigurationError, match="got 1 images"):
        barrier([at(1)], calculator)
    with pytest.raises(ConfigurationError, match="same atoms"):
        barrier([at(1), Atoms("He", [[0, 0, 0]])], calculator)
    with pytest.raises(ConfigurationError, match="'guess'"):
        barrier([at(-1), at(1)], calculator, reoptimize="guess")
    with pytest.raises(ConfigurationError, match="EMT"):
        barrier([at(-1), at(1)], EMT())
    with pytest.raises(DrawsError):
        barrier([at(-1), at(1)], BayesianCalculator(committee([EMT()])))
    start, end = hop()
    end.positions[0] += 0.1
    with pytest.raises(ConfigurationError, match="other end"):
        barrier([start, end], calculator)
    with pytest.raises(ConfigurationError, match="re-optimised"):
        _ = barrier([at(-1), at(1)], calculator, interpolation="linear").first_order_error


def test_other_optimizers_tables_pictures(toys, tmp_path):
    found = barrier(
        [at(-1), at(1)], wells(toys, h=H), interpolation="linear", optimizer=MDMin, project=False, reoptimize="points"
    )
    text = found.table()
    assert "forward 0.53 ± 0.15 eV" in text
    assert "shared images miss" in text
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["reoptimized"]["how"] == "points"
    plot_profile(found, tmp_path / "profile.png", title="double well")
    assert (tmp_path / "profile.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_images_outside_of_the_data_are_named():
    ethanol = starting_structure("ethanol")
    ethanol.calc = BayesianCalculator("rmd17", n_draws=4, raw=True)
    stretched = ethanol.copy()
    stretched.set_distance(2, 8, 1.8, fix=0)
    found = barrier([ethanol, stretched, ethanol.copy()], ethanol.calc, steps=0)
    (note,) = found.notes
    assert note.startswith("image 1: atoms")
    assert "H8" in note
    assert note in found.table()
    assert found.to_dict()["notes"] == [note]
