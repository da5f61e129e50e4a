"""From MD to an average: energies of the draws in trajectories, runs that are refused, runs on each draw, the command."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from ase.calculators.calculator import Calculator
from typer.testing import CliRunner

from blipcalc.averages.average import AVERAGES, average
from blipcalc.averages.independent_runs import independent_runs
from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calculators.combined import CombinedCalculator
from blipcalc.calculators.draw_surfaces import Surfaces
from blipcalc.calculators.snapshot import snapshot
from blipcalc.calculators.weighted_baseline import BaselineFallback
from blipcalc.cli.main import app
from blipcalc.core.prediction import Calibration
from blipcalc.errors import ConfigurationError, DataError, DrawsError, NonFiniteError, SamplingError
from blipcalc.files.checksums import forget_sums
from blipcalc.files.json_file import read_json, write_json
from blipcalc.io import read, write
from blipcalc.md.run_md import run_md
from blipcalc.md.summary import RUN_SUMMARY
from blipcalc.model_file.model import Model
from blipcalc.posteriors.blip import BlipPosterior

RUN = {
    "time_ps": 2.4,
    "timestep_fs": 0.8,
    "friction_per_fs": 0.25,
    "threshold": 1e3,
    "every": 8,
    "write_every": 8,
    "progress": False,
}


@pytest.fixture(scope="module")
def driven(tmp_path_factory):
    """Folder of a run of four atoms in wells, 500 frames."""
    return tmp_path_factory.mktemp("driven")


@pytest.fixture
def run(driven, well):
    if not (driven / "summary.json").exists():
        run_md(well(), folder=driven, **RUN)
    return driven


@pytest.mark.chance(14)
def test_a_langevin_run_has_the_known_averages(well, tmp_path, offset_squares, stiffness, kT, chance):
    run, most = tmp_path / str(chance.stage), chance.student(20)
    run_md(well(), folder=run, seed=chance.seed(), **RUN | {"time_ps": chance.times(4.0)})
    found = average(run, offset_squares, method="reweight")
    assert found.temperature_K == 300.0
    assert abs(found.value - kT / 5.0) < most * found.sampling_error
    assert found.sampling_error < 0.1 * found.value
    apart = found.estimate.draws / found.value - 5.0 / stiffness
    assert np.abs(apart).max() < 0.1
    # the noise of a spread that comes out small is small as well
    assert found.model_error == pytest.approx(np.std(kT / stiffness, ddof=1), abs=1.5 * most * found.noise)
    assert found.noise < 0.2 * found.model_error
    energy = average(run, "energy", method="reweight")
    assert abs(energy.value - 6 * kT) < most * energy.sampling_error
    # ½ k_k r² has 6 kT on each surface, whatever k_k: the own energy of a draw, not that of the run, which would differ
    assert (np.abs(energy.estimate.draws - 6 * kT) < most * energy.sampling_error).all()
    of_the_run = average(run, lambda atoms: atoms.get_potential_energy(), method="reweight")
    assert energy.model_error < 0.3 * of_the_run.model_error


def test_stored_energies_are_those_of_an_evaluation_afterwards(run, well):
    """Bit for bit, since nothing is rounded on the way; and an average with a calculator is the same."""
    frames = read(run / "trajectory.traj")
    calculator = well().calc
    for frame, both in zip(frames, Surfaces(calculator)(frames, forces=False), strict=True):
        assert np.array_equal(frame.calc.results["draw_deviations"], both.draws.energy - both.driving.energy)
    known = average(run, "distance:0,1")
    for frame in frames:
        del frame.calc.results["draw_deviations"]
    with pytest.raises(DataError, match=r"frame 0 holds no draw_deviations.*keep_draws=True"):
        average(frames, "distance:0,1", temperature_K=300.0)
    again = average(frames, "distance:0,1", temperature_K=300.0, calculator=calculator, batch=7)
    np.testing.assert_allclose(again.estimate.draws, known.estimate.draws, rtol=1e-12)
    with pytest.raises(ConfigurationError, match="expected the calculator that drove the run"):
        average(frames, "distance:0,1", temperature_K=300.0, calculator=well(scale=3.0).calc)


def test_replicas_are_one_run(well, tmp_path, offset_squares):
    for seed in (1, 2, 3):
        run_md(well(), folder=tmp_path / str(seed), seed=seed, **RUN | {"time_ps": 0.64})
    parts = [average(tmp_path / str(seed), offset_squares) for seed in (1, 2, 3)]
    together = average([tmp_path / str(seed) for seed in (1, 2, 3)], offset_squares)
    assert together.value == pytest.approx(np.mean([one.value for one in parts]))
    assert together.sampling.n_frames == sum(one.sampling.n_frames for one in parts)
    assert together.sampling_error < np.mean([one.sampling_error for one in parts])


def test_draws_to_keep_must_be_there(well):
    """A blend of potentials is no surface of which draws deviate."""
    atoms = well()
    atoms.calc = BaselineFallback(atoms.calc, Push(), sigma_baseline_eV=0.1, shifts={"H": 0.0})
    with pytest.raises(ConfigurationError, match="keep_draws=True: BaselineFallback gives no 'draw_deviations'"):
        run_md(atoms, keep_draws=True, **RUN)


@pytest.mark.parametrize("keep", [False, True])
def test_draws_are_kept_where_they_were_evaluated_or_asked_for(make_blip, molecule, tmp_path, keep):
    """Centre surface, checks at every fourth step, frames at every second; the run itself is the same to the last bit."""
    network = make_blip()
    model = Model(network, BlipPosterior(network.slot_shapes()))
    settings = {"time_ps": 0.006, "timestep_fs": 0.25, "threshold": 1e6, "progress": False, "temperature_K": 100.0}
    settings |= {"every": 4, "write_every": 2, "checkpoint_every": 5}

    def go(folder, keep, **changed):
        atoms = molecule.copy()
        atoms.calc = BayesianCalculator(model, n_draws=3, surface="centre", raw=True, device="cpu")
        run_md(atoms, folder=folder, keep_draws=keep, **settings | changed)
        return read(folder / "trajectory.traj"), atoms.calc

    plain, _ = go(tmp_path / "plain", False)
    for time_ps in (0.0022, 0.004):  # in parts
        go(tmp_path / "parts", keep, time_ps=time_ps)
    frames, calculator = go(tmp_path / "parts", keep)
    assert [frame.info["step"] for frame in frames] == list(range(0, 25, 2))
    for one, other in zip(frames, plain, strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert np.array_equal(one.get_momenta(), other.get_momenta())
    has = [frame.info["step"] for frame in frames if "draw_deviations" in frame.calc.results]
    assert has == (list(range(0, 25, 2)) if keep else list(range(0, 25, 4)))
    for frame in frames:
        if "draw_deviations" in frame.calc.results:
            samples = calculator.get_samples(frame)
            expected = samples.energy - frame.get_potential_energy()
            np.testing.assert_allclose(frame.calc.results["draw_deviations"], expected, rtol=0, atol=1e-12)


@pytest.mark.chance(8)
def test_the_density_at_constant_pressure(frames_of, kT, chance):
    """Volumes of a Gaussian; draw k pulls with E_k - E = c_k V: ⟨V⟩_k = ⟨V⟩ - β c_k Var V, exactly, and pV itself cancels."""
    c = np.array([-3e-5, 0.0, 5e-5])
    volumes = chance.rng().normal(1000.0, 30.0, chance.times(4000))
    frames = [frames_of(np.zeros((1, 1, 3)), [0.0], [c * v], np.eye(3) * v ** (1 / 3))[0] for v in volumes]
    for method in ("cea", "reweight"):
        found = average(frames, "volume", temperature_K=300.0, discard=0.0, method=method)
        expected = 1000.0 - c * 900.0 / kT
        assert (np.abs(found.estimate.draws - expected) < 1.2 * chance.sigmas * found.sampling_error).all()
        apart = found.estimate.draws - found.estimate.draws.mean()
        assert np.abs(apart - (expected - expected.mean())).max() < 1.5 * chance.sigmas * found.noise
    density = average(frames, "density", temperature_K=300.0, discard=0.0)
    assert density.estimate.unit == "g/cm³"
    assert density.value == pytest.approx(1.008 / 0.602214 / 1000.0, rel=0.01)
    assert density.estimate.draws[0] < density.value < density.estimate.draws[2]


@pytest.mark.parametrize("suffix", [".traj", ".extxyz", ".db"])
@pytest.mark.parametrize("n_draws", [2, 9])
def test_energies_of_draws_survive_files(tmp_path, frames_of, suffix, n_draws):
    """Nine among them, which text takes for a matrix."""
    (frame,) = frames_of(np.zeros((1, 2, 3)) + np.eye(2, 3), [-1.0], np.random.default_rng(0).normal(size=(1, n_draws)))
    write(tmp_path / f"x{suffix}", frame)
    (found,) = read(tmp_path / f"x{suffix}")
    assert np.array_equal(found.calc.results["draw_deviations"], frame.calc.results["draw_deviations"])


class Push(Calculator):
    """An exact part: a constant force."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=(), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results = {
            "energy": -0.3 * self.atoms.positions[:, 1].sum(),
            "forces": np.tile([0, 0.3, 0], (len(self.atoms), 1)),
        }


def test_exact_parts_do_not_change_the_weights(well):
    alone, atoms = well(), well()
    atoms.calc = CombinedCalculator(atoms.calc, Push())
    for one in (alone, atoms):
        one.rattle(0.1, seed=0)
        one.get_potential_energy()
        one.calc.get_property("atom_std", one)
    kept = [snapshot(one).calc.results for one in (alone, atoms)]
    assert np.array_equal(kept[0]["draw_deviations"], kept[1]["draw_deviations"])
    assert kept[0]["energy"] != kept[1]["energy"]


def test_one_draw_drives_and_all_of_them_guard(well, stiffness):
    atoms = well()
    atoms.rattle(0.1, seed=0)
    whole = BayesianCalculator(atoms.calc.predictor, raw=True)
    samples = whole.get_samples(atoms)
    for k in range(len(stiffness)):
        one = Surfaces(whole).single(k)
        assert one.get_property("energy", atoms) == samples.energy[k]
        assert np.array_equal(one.get_property("forces", atoms), samples.forces[k])
        assert np.array_equal(one.get_property("atom_std", atoms), whole.get_property("atom_std", atoms))
        np.testing.assert_allclose(
            one.get_property("draw_deviations", atoms), samples.energy - samples.energy[k], atol=1e-14
        )
    pushed = Surfaces(CombinedCalculator(whole, Push())).single(1)
    assert pushed.get_property("energy", atoms) == pytest.approx(samples.energy[1] + Push().get_potential_energy(atoms))


def test_a_draw_of_a_network_alone(make_blip, molecule):
    network = make_blip()
    model = Model(network, BlipPosterior(network.slot_shapes()))
    for surface in ("mean", "centre"):
        whole = BayesianCalculator(model, n_draws=3, surface=surface, raw=True, device="cpu")
        samples = whole.get_samples(molecule)
        one = Surfaces(whole).single(2)
        assert one.get_property("energy", molecule) == pytest.approx(samples.energy[2], abs=1e-12)
        np.testing.assert_allclose(one.get_property("forces", molecule), samples.forces[2], atol=1e-12)
    with pytest.raises(DrawsError, match="draw 3; expected one of 0 to 2"):
        whole.predictor.single(3)


@pytest.mark.chance(6)
def test_independent_runs_where_weights_fail(well, tmp_path, offset_squares, stiffness, kT, chance):
    """180 modes: the spread of their energies leaves too few frames; each draw on its own has kT / k_k, in parts too."""
    tmp_path, end_ps = tmp_path / str(chance.stage), chance.times(0.64)
    for time_ps in (0.2, end_ps):
        settings = RUN | {"time_ps": time_ps, "draws": (0, 2, 4), "seed": chance.seed()}
        found = independent_runs(well(60), tmp_path, **settings)
    assert list(found) == ["driving", "draw-000", "draw-002", "draw-004"]
    assert {(summary.status, summary.steps) for summary in found.values()} == {("finished", round(1000 * end_ps / 0.8))}
    with pytest.raises(SamplingError, match="independent_runs"):
        average(tmp_path / "driving", offset_squares, method="reweight")
    means = average(tmp_path, offset_squares)
    assert means.sampling.method == "independent runs"
    expected = kT / stiffness[::2]
    assert (np.abs(means.estimate.draws - expected) < chance.student(20) * means.noise).all()
    assert means.model_error == pytest.approx(np.std(expected, ddof=1), rel=0.5)
    assert means.noise < 0.5 * means.model_error


def test_half_a_set_of_independent_runs(run, tmp_path):
    (tmp_path / "driving").mkdir()
    with pytest.raises(DataError, match="two draws or more beside driving, got 0"):
        average(tmp_path, "energy")


def test_the_calibration_widens_the_spread(frames_of, run, tmp_path, well):
    plain = average(run, "distance:0,1")
    assert not plain.estimate.calibrated
    calibration = Calibration(
        surface="mean", n_draws=5, seed=0, model_hash="", scale={1: 4.0}, scale_energy=25.0, q_atom={}, q_frame={},
        n_frames=9, n_atoms={1: 9}, frames_hash="",
    )  # fmt: skip
    atoms = well()
    atoms.calc.predictor.calibration = calibration
    wide = average(run, "distance:0,1", calculator=atoms.calc)
    assert wide.estimate.calibrated
    assert wide.model_error == pytest.approx(2 * plain.model_error)
    assert wide.noise == pytest.approx(2 * plain.noise)
    assert np.array_equal(wide.estimate.draws, plain.estimate.draws)  # the weights are those of the posterior
    summary = read_json(run / "summary.json", RUN_SUMMARY)
    whole = average(run, "energy", calculator=atoms.calc)  # an offset that all frames share is in it
    assert whole.estimate.calibration_factor == 5.0
    stored = {
        "surface": "mean",
        "n_draws": 5,
        "seed": 0,
        "model_hash": "0" * 64,
        "scale": {"1": 9.0},
        "scale_energy": 16.0,
    }
    stored |= {
        "q_atom": {},
        "q_frame": {},
        "n_frames": 9,
        "n_atoms": {"1": 9},
        "n_element_frames": {"1": 9},
        "frames_hash": "0" * 64,
    }
    summary["run"]["provenance"]["calibration"] = stored
    (tmp_path / "trajectory.traj").write_bytes((run / "trajectory.traj").read_bytes())
    write_json(tmp_path / "summary.json", RUN_SUMMARY, summary)
    assert average(tmp_path, "distance:0,1").estimate.calibration_factor == 3.0
    assert average(tmp_path, "energy").estimate.calibration_factor == 4.0
    summary["run"]["provenance"]["calibration"] = {"scale": 1.0}
    write_json(tmp_path / "summary.json", RUN_SUMMARY, summary)
    with pytest.raises(DataError, match=r"provenance\.calibration\.surface: Field required"):
        average(tmp_path, "energy")


def test_temperatures_must_be_known_and_agree(run, well, tmp_path, frames_of):
    frames = read(run / "trajectory.traj")
    with pytest.raises(ConfigurationError, match="no temperature is known"):
        average(run / "trajectory.traj", "energy")
    with pytest.raises(ConfigurationError, match="300 K, 310 K"):
        average(run, "energy", temperature_K=310.0)
    assert average(run, "energy", temperature_K=300.0).value == average(run, "energy").value
    assert average(frames, "energy", temperature_K=300.0).value == average(run, "energy").value
    run_md(well(), folder=tmp_path / "nve", ensemble="nve", **RUN | {"time_ps": 0.02})
    with pytest.raises(ConfigurationError, match="constant energy"):
        average(tmp_path / "nve", "energy", temperature_K=300.0)
    course = [(0.0, 100.0), (0.02, 300.0)]
    run_md(well(), folder=tmp_path / "course", temperature_K=course, **RUN | {"time_ps": 0.02})
    with pytest.raises(ConfigurationError, match="course of temperatures"):
        average(tmp_path / "course", "energy")


def test_runs_that_cannot_be_averaged(run, frames_of, tmp_path):
    with pytest.raises(SamplingError, match="takes 20"):
        average(read(run / "trajectory.traj", ":15"), "energy", temperature_K=300.0)
    with pytest.raises(DataError, match="no run folder"):
        average(tmp_path, "energy")
    with pytest.raises(DataError, match="no trajectory"):
        average(tmp_path / "none.traj", "energy", temperature_K=300.0)
    with pytest.raises(DataError, match="empty list"):
        average([], "energy")
    with pytest.raises(ConfigurationError, match="discard"):
        average(run, "energy", discard=1.0)
    with pytest.raises(NonFiniteError, match="is not finite at frame 0"):
        average(run, lambda atoms: np.nan)
    shapes = iter(range(1, 10**6))
    with pytest.raises(DataError, match="one shape for all frames"):
        average(run, lambda atoms: np.ones(next(shapes)))
    frames = read(run / "trajectory.traj")
    frames[3].calc.results["from_reference"] = 1.0
    with pytest.raises(DataError, match="driven by the reference"):
        average(frames, "energy", temperature_K=300.0)
    frames = read(run / "trajectory.traj")
    frames[3].calc.results["draw_deviations"] = np.zeros(4)
    with pytest.raises(DataError, match=r"\[4, 5\] draws"):
        average(frames, "energy", temperature_K=300.0)


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command(run, tmp_path):
    options = ("--observable", "distance:0,1", "--observable", "distribution:0,1:2.0,4.0,20")
    files = ("--json", tmp_path / "out.json", "--plot", tmp_path / "out.png")
    result = call("average", run, *options, *files)
    assert result.exit_code == 0
    for text in (
        "distance:0,1",
        "Å",
        "model error",
        "sampling error",
        "N_eff",
        "independent",
        "reweight",
        "300 K, K = 5",
    ):
        assert text in result.output, text
    number, curve = read_json(tmp_path / "out.json", AVERAGES)["averages"]
    assert number["estimate"]["value"] == pytest.approx(float(average(run, "distance:0,1").value))
    assert len(curve["axis"]["values"]) == len(curve["model_error"]) == len(curve["sampling"]["sampling_error"]) == 20
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigurationError, match="nothing to draw"):
        call("average", run, "--observable", "energy", "--plot", tmp_path / "out.png")


def test_a_refusal_exits_with_two(run, tmp_path, monkeypatch, capsys):
    import sys

    from blipcalc.cli.main import main

    monkeypatch.setattr(sys, "argv", ["blipcalc", "average", str(run), "--observable", "energy", "--discard", "0.98"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "SamplingError: " in capsys.readouterr().err


def test_a_calculator_of_other_draws_is_noticed_though_it_drives_alike(make_blip, molecule, tmp_path):
    """On the centre surface the energy of a frame does not know the seed of the draws; their energies do."""
    network = make_blip()
    model = Model(network, BlipPosterior(network.slot_shapes()))

    def calculator(seed):
        return BayesianCalculator(model, n_draws=3, seed=seed, surface="centre", raw=True, device="cpu")

    atoms = molecule.copy()
    atoms.calc = calculator(0)
    run_md(
        atoms, folder=tmp_path / "run", time_ps=0.02, timestep_fs=0.25, threshold=1e6, every=4, write_every=2,
        temperature_K=100.0, progress=False,
    )  # fmt: skip
    with pytest.raises(ConfigurationError, match="other draws than those of the run"):
        average(tmp_path / "run", "distance:0,1", calculator=calculator(1), method="cea")
    with pytest.raises(SamplingError):  # the right one gets as far as counting frames
        average(tmp_path / "run", "distance:0,1", calculator=calculator(0), method="cea")


def test_a_run_that_was_rolled_back_is_of_no_ensemble(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    average(folder, "distance:0,1")  # control
    with (folder / "events.jsonl").open("a") as events:
        said = {"event": "rollback", "step": 40, "time_fs": 40.0, "atoms": [], "symbols": []}
        said |= {"value": 1.0, "threshold": 0.5, "unit": "eV/Å", "reason": "too large"}
        events.write(json.dumps(said) + "\n")
    forget_sums(folder / "events.jsonl")
    with pytest.raises(ConfigurationError, match=r"rolled back 1 times \(first at step 40\)"):
        average(folder, "distance:0,1")
