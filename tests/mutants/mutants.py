"""Bugs that would really hurt, each a replacement of one text in one file, and the tests that are to see it.

A text that is not in its file exactly once any more, because the code has moved, fails a fast test: bring the row up to date.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One planted bug.

    name : of the row
    wrong : what is wrong, in one sentence
    file : below ``blipcalc/``
    old, new : text that occurs once, and what stands there instead
    tests : files or node ids of the default suite, below ``tests/``
    """

    name: str
    wrong: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    # -- geometry and derivatives
    Mutant(
        "virial-sign",
        "The stress has the sign of a pressure, so that a barostat compresses what pushes.",
        "core/forces.py",
        "return total / volume[None, :, None, None]",
        "return -total / volume[None, :, None, None]",
        ("core/test_evaluate.py",),
    ),
    Mutant(
        "shift-ignored",
        "Vectors between atoms leave out the cell vectors of periodic images.",
        "core/graph.py",
        "return self.positions[source] - self.positions[target] + offsets",
        "return self.positions[source] - self.positions[target] + 0.0 * offsets",
        ("core/test_graph.py", "core/test_evaluate.py"),
    ),
    Mutant(
        "missing-image",
        "Images beyond the neighbouring cells are missing where the cell is smaller than the cutoff.",
        "core/neighbors.py",
        "keep = squared < self.cutoff**2",
        "keep = (squared < self.cutoff**2) & (np.abs(shifts) <= 1).all(axis=1)",
        ("core/test_neighbors.py",),
    ),
    Mutant(
        "skin-too-wide",
        "A list of pairs is reused until an atom has moved by the whole skin instead of half of it.",
        "core/neighbors.py",
        "< (0.5 * self.skin) ** 2",
        "< self.skin**2",
        ("core/test_neighbors.py",),
    ),
    Mutant(
        "skin-stale-after-wrap",
        "An atom that was wrapped into the cell counts as not moved, and keeps the cell shifts of before.",
        "core/neighbors.py",
        "        moved = positions - old_positions\n",
        "        moved = positions - old_positions\n"
        "        inverse = np.linalg.pinv(np.where(pbc[:, None], cell, 0.0))\n"
        "        moved = moved - np.round(moved @ inverse) @ cell\n",
        ("core/test_neighbors.py", "test_predictor.py"),
    ),
    Mutant(
        "wrong-pair",
        "Of several pairs that are too close the shortest is judged, not the one furthest below its limit, so no halt follows.",
        "monitor/faults.py",
        "np.argmin(distances[below] / limits[below])",
        "np.argmin(distances[below])",
        ("monitor/test_faults.py",),
    ),
    # -- draws and their spread
    Mutant(
        "ddof-of-energies",
        "Variances of energies have divisor K instead of K - 1.",
        "stats/spread.py",
        "np.maximum(squares, 0.0) / (count - 1)",
        "np.maximum(squares, 0.0) / count",
        ("stats/test_spread.py",),
    ),
    Mutant(
        "ddof-of-forces",
        "Covariances of forces have divisor K instead of K - 1.",
        "stats/spread.py",
        "/ (2 * (count - 1))",
        "/ (2 * count)",
        ("stats/test_spread.py",),
    ),
    Mutant(
        "detached-alpha",
        "Forces leave out how the noise level of BLIP follows the structure, and are no gradient any more.",
        "bayes/variational.py",
        "_per_row(self.alpha.sqrt(), noise)",
        "_per_row(self.alpha.detach().sqrt(), noise)",
        ("core/test_evaluate.py",),
    ),
    Mutant(
        "draws-resampled",
        "Each call takes other draws, so that MD runs on another surface at every step.",
        "predictor.py",
        "sample_arrays(self._evaluator(self.draws, graph, **wanted), graph)",
        "sample_arrays(self._evaluator(type(self.draws)(self.n_draws, {"
        "name: value[np.random.default_rng().integers(len(value), size=len(value))] "
        "for name, value in self.draws.overrides.items()}, self.draws.linear), graph, **wanted), graph)",
        ("test_predictor.py", "test_calculator.py"),
    ),
    Mutant(
        "largest-component",
        "What a monitor reads is the largest component of the variance, which turns with the axes, not the third of the trace.",
        "core/prediction.py",
        "return None if self.forces_cov is None else atom_variance(self.forces_cov)",
        "return None if self.forces_cov is None else self.forces_var.max(axis=1)",
        ("core/test_evaluate.py",),
    ),
    Mutant(
        "energy-variance-per-atom",
        "The variance of the energy is the sum over atoms, which forgets that errors of alike environments add up.",
        "core/prediction.py",
        'total["energy_var"] = spread(draws.energy)[1] + (',
        'total["energy_var"] = spread(draws.energies)[1].sum() + (',
        ("core/test_evaluate.py",),
    ),
    Mutant(
        "transposed-root",
        "Latent distances use the transposed root of the inverse covariance.",
        "stats/ellipsoid.py",
        "(points - self.centre) @ self.root, axis=1",
        "(points - self.centre) @ self.root.T, axis=1",
        ("core/test_domain.py",),
    ),
    # -- what a calculator remembers
    Mutant(
        "stale-cache",
        "The calculator gives the results of another structure where atoms moved by less than 1e-4 Å.",
        "calculator.py",
        "return super().check_state(atoms, tol)",
        "return super().check_state(atoms, 1e-4)",
        ("test_calculator.py",),
    ),
    Mutant(
        "stale-after-failure",
        "A calculation that fails leaves the results of the structure before.",
        "calculator.py",
        "        self.results, self.prediction = {}, None\n        super().calculate(",
        "        super().calculate(",
        ("test_calculator.py",),
    ),
    Mutant(
        "stale-centre",
        "On the centre surface energy and forces of another cell are taken for those of this one.",
        "predictor.py",
        "(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)",
        "(atoms.numbers, atoms.positions, atoms.pbc)",
        ("test_predictor.py", "test_calculator.py"),
    ),
    Mutant(
        "baseline-without-gradient",
        "The weighted baseline leaves out the gradient of its weight, and heats or cools the run.",
        "fallback.py",
        "blended[key] = mixed - of_weight * cross_covariance(samples.energy, getattr(samples, key))",
        "blended[key] = mixed - 0.0 * of_weight",
        ("test_fallback.py",),
    ),
    Mutant(
        "switch-keeps-cache",
        "After a switch to the reference method the results of the model are still given.",
        "on_demand.py",
        "self._active, self.results = active, {}",
        "self._active = active",
        ("monitor/test_on_demand.py",),
    ),
    # -- calibration
    Mutant(
        "linear-factor",
        "Variances are multiplied by the factor of standard deviations.",
        "core/prediction.py",
        "return None if value is None else value * factor",
        "return None if value is None else value * np.sqrt(factor)",
        ("test_calculator.py", "calibration/test_fit.py", "calibration/test_calibrate.py"),
    ),
    Mutant(
        "uncalibrated-is-certain",
        "Atoms of an element that was never calibrated have a variance of zero instead of NaN.",
        "core/prediction.py",
        "self.scale.get(int(z), np.nan)",
        "self.scale.get(int(z), 0.0)",
        ("test_calculator.py", "calibration/test_fit.py"),
    ),
    Mutant(
        "conformal-rank",
        "The conformal rank is made with n instead of n + 1, and covers too little.",
        "stats/conformal.py",
        "rank = _rank(values.size + 1, level)",
        "rank = _rank(values.size, level)",
        ("stats/test_conformal.py",),
    ),
    Mutant(
        "pooled-quantile",
        "All elements share one conformal quantile.",
        "calibration/fit.py",
        "rows = residuals.species == z\n",
        "rows = np.isin(residuals.species, list(counts))\n",
        ("calibration/test_fit.py",),
    ),
    Mutant(
        "frame-quantile-rank",
        "The quantile of whole frames is one rank too low.",
        "calibration/fit.py",
        "quantiles = {float(level): conformal_quantile(worst, level) for level in levels}",
        "quantiles = {float(level): np.max(worst, where=worst < conformal_quantile(worst, level), initial=0)"
        " for level in levels}",
        ("calibration/test_fit.py",),
    ),
    # -- error bars of zero
    Mutant(
        "zero-variance-passes",
        "Draws that are all the same have an error bar of zero.",
        "core/prediction.py",
        "if name := self.without_spread:",
        'if name := "":',
        ("test_zero_variance.py",),
    ),
    Mutant(
        "rest-passes",
        "Draws that are all the same have an error bar of zero where nobody asks for forces, or they vanish.",
        "core/contracts.py",
        "judged += predictor([_moved(atoms) for atoms in structures], Need(stress=is_crystal))",
        "pass",
        ("test_zero_variance.py",),
    ),
    Mutant(
        "blank-sensor-passes",
        "An uncertainty that is zero for all atoms that can move lets a run go on.",
        "monitor/readings.py",
        "if forces is not None and is_blank(atom_std[mask], forces[mask]):",
        "if False:",
        ("test_zero_variance.py",),
    ),
    Mutant(
        "no-self-test",
        "A run begins without asking whether the uncertainty answers to a motion.",
        "md/run.py",
        'monitor.setdefault("self_test", True)',
        'monitor.setdefault("self_test", False)',
        ("test_zero_variance.py",),
    ),
    Mutant(
        "still-without-a-witness",
        "A sensor that stands still is not seen where no latent distance says that atoms moved.",
        "monitor/still.py",
        'return "forces" if reading.latent_distance is None else "distance"',
        'return "distance"',
        ("monitor/test_still.py",),
    ),
    # -- rates and evidence
    Mutant(
        "probability-for-a-rate",
        "Limits and bounds of a rate are the probability of a block over its length.",
        "stats/rates.py",
        "return -np.log1p(-np.asarray(p, dtype=np.float64)) / block",
        "return np.asarray(p, dtype=np.float64) / block",
        ("stats/test_rates.py", "monitor/test_limits.py"),
    ),
    Mutant(
        "expected-probability-for-a-rate",
        "The expected rate is the probability of a block over its length.",
        "stats/rates.py",
        "expected = float(digamma(n + 1) - digamma(n + 1 - beyond)) / block",
        "expected = beyond / (n + 1) / block",
        ("stats/test_rates.py", "monitor/test_limits.py"),
    ),
    Mutant(
        "ties-are-smaller",
        "A p-value takes references that are equal to the value for smaller ones.",
        "stats/evidence.py",
        "(larger + (1.0 - rng.random(x.shape)) * (equal + 1))",
        "(larger + (1.0 - rng.random(x.shape)))",
        ("stats/test_evidence.py",),
    ),
    Mutant(
        "bet-sees-its-value",
        "A bet of the confidence sequence knows the value that it is made on.",
        "stats/evidence.py",
        "        variance = self._squares / t\n",
        "        variance = (self._squares + (x - self._sum / t) ** 2) / t\n",
        ("stats/test_evidence.py",),
    ),
    Mutant(
        "interval-inwards",
        "The ends of a confidence sequence are the next points of its grid inwards, so that it can be empty.",
        "stats/evidence.py",
        "m[self._up >= largest].max(initial=0.0)",
        "m[self._up < largest].min(initial=1.0)",
        ("stats/test_evidence.py",),
    ),
    Mutant(
        "audit-without-spacing",
        "An audit asks its reference as often as its coin says, whatever the spacing.",
        "monitor/audit.py",
        "if self.steps and step - self.steps[-1] < least:",
        "if self.steps and step - self.steps[-1] < 1:",
        ("monitor/test_audit.py",),
    ),
    # -- the guard
    Mutant(
        "nan-passes",
        "A rule asks for > instead of not <=, and NaN passes.",
        "monitor/triggers.py",
        "beyond = reading.mask & ~(values <= limits)",
        "beyond = reading.mask & (values > limits)",
        ("monitor/test_triggers.py",),
    ),
    Mutant(
        "fixed-atoms-watched",
        "Atoms that cannot move stop a run.",
        "monitor/readings.py",
        "mask[constraint.index] = False",
        "mask[constraint.index] = True",
        ("monitor/test_observer.py",),
    ),
    Mutant(
        "unthinned-evidence",
        "The e-detector takes every check for an independent one.",
        "monitor/channels.py",
        "if self._count % self.every == 0:",
        "if self._count:",
        ("monitor/test_channels.py",),
    ),
    Mutant(
        "memory-not-applied",
        "Limits hand the e-detector every check, whatever the memory of the reference run.",
        "monitor/limits.py",
        "Evidence(ratio, np.array(self.evidence), every, length)",
        "Evidence(ratio, np.array(self.evidence), 1, length)",
        ("monitor/test_limits.py",),
    ),
    Mutant(
        "limits-of-another-model",
        "Limits that were made for another model are accepted.",
        "monitor/limits.py",
        "if getattr(now, name) != getattr(self.identity, name)\n",
        'if name != "model_hash" and getattr(now, name) != getattr(self.identity, name)\n',
        ("monitor/test_limits.py",),
    ),
    Mutant(
        "safe-frame-aliased",
        "The frame to roll back to is the array that MD goes on writing to.",
        "monitor/actions.py",
        "(step, atoms.positions.copy(), atoms.get_momenta(), atoms.cell.array.copy())",
        "(step, atoms.positions, atoms.get_momenta(), atoms.cell.array.copy())",
        ("monitor/test_faults.py",),
    ),
    Mutant(
        "nan-in-events",
        "Events hold NaN, which is no JSON.",
        "monitor/events.py",
        "return float(value) if math.isfinite(value) else None",
        "return float(value)",
        ("monitor/test_faults.py",),
    ),
    # -- integrators, checkpoints, files
    Mutant(
        "fixed-centre",
        "Langevin fixes the centre of mass and is too hot by N / (N - 1).",
        "md/integrators.py",
        "friction=friction, fixcm=False, rng=rng",
        "friction=friction, fixcm=True, rng=rng",
        ("physics/test_thermostats.py::test_a_thermostat_samples_the_canonical_ensemble",),
    ),
    Mutant(
        "random-numbers-not-saved",
        "A checkpoint holds the random numbers of the beginning, so that a run that goes on is another one.",
        "md/restart.py",
        '"rng": rng.bit_generator.state,',
        '"rng": np.random.default_rng(0).bit_generator.state,',
        ("md/test_restart.py::test_a_run_in_parts_is_the_run",),
    ),
    Mutant(
        "thermostat-state-lost",
        "The variables of Nose-Hoover chains and barostats are in no checkpoint.",
        "md/integrators.py",
        'yield from _numbers(value, f"{prefix}{key}.")',
        "continue",
        ("md/test_restart.py::test_every_integrator_goes_on_bit_for_bit",),
    ),
    Mutant(
        "window-forgotten",
        "The smoothed channel begins its window anew where a run goes on.",
        "monitor/channels.py",
        'deque(math.nan if value is None else value for value in state["logs"])',
        "deque()",
        ("monitor/test_channels.py",),
    ),
    Mutant(
        "frames-not-cut",
        "Frames behind the checkpoint stay in the trajectory, and come twice.",
        "md/files.py",
        "            cut(path, n_frames)\n",
        "            pass\n",
        ("md/test_restart.py::test_a_run_that_breaks_goes_on_from_its_last_checkpoint",),
    ),
    Mutant(
        "history-row-lost",
        "A run that goes on has lost the last row of its history.",
        "monitor/history.py",
        "if row[0] <= last_step:",
        "if row[0] < last_step:",
        ("md/test_restart.py::test_a_run_in_parts_is_the_run",),
    ),
    Mutant(
        "no-fsync",
        "A file is renamed into place before its content is on the disk: nothing syncs it.",
        "sealed.py",
        "            os.fsync(stream.fileno())\n",
        "",
        ("test_sealed.py::test_order_of_a_write_is_file_sync_rename_folder_sync",),
    ),
    Mutant(
        "rename-before-fsync",
        "A file is renamed into place before it is synced.",
        "sealed.py",
        "            os.fsync(stream.fileno())\n        os.replace(temporary, path)\n",
        "            os.replace(temporary, path)\n            os.fsync(stream.fileno())\n",
        ("test_sealed.py::test_order_of_a_write_is_file_sync_rename_folder_sync",),
    ),
    Mutant(
        "trajectory-not-synced",
        "A checkpoint reaches the disk before the frames that it counts on.",
        "md/files.py",
        "        sync(*(path for path, _ in self._of_frames()))\n",
        "",
        ("md/test_restart.py::test_frames_are_on_the_disk_before_a_checkpoint_that_counts_on_them",),
    ),
    Mutant(
        "frames-not-summed",
        "The checksum of a frame is not compared.",
        "checksums.py",
        "if p.stop > size or _crc(file, p) != p.crc",
        "if p.stop > size",
        ("test_checksums.py",),
    ),
    Mutant(
        "frames-partly-summed",
        "Bytes of a frame that stand before a table are taken for bytes that may change.",
        "checksums.py",
        "return (*head, (self.index, self.stop)) if self.index else head",
        "return (*head, (self.item, self.stop)) if self.index else head",
        ("test_checksums.py",),
    ),
)
