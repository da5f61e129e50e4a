"""Text for the terminal: what is in a model file, calibrations, evaluations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from blipcalc.averages.average import ThermalAverage
from blipcalc.calibration.comparison import Compared
from blipcalc.calibration.evaluation import Evaluation, Foreign
from blipcalc.core.prediction import Calibration
from blipcalc.model_file.manifest import StoredCalibration
from blipcalc.monitor.fitted_criterion import rate_text
from blipcalc.monitor.limits import Limits
from blipcalc.predictor import BayesianPredictor
from blipcalc.stats.estimate import with_error
from blipcalc.stats.shift import LEAST, Shifted


def info_text(manifest: dict[str, Any], path: Path) -> str:
    """A page about a model file."""
    training = manifest["training"]
    lines = [
        f"{path} ({path.stat().st_size / 1e6:.2f} MB)",
        f"  network      {manifest['architecture']} {manifest['architecture_config']}",
        f"  posterior    {manifest['posterior']}"
        + (f" {manifest['posterior_config']}" if manifest["posterior_config"] else ""),
        f"  elements     {' '.join(chemical_symbols[z] for z in manifest['species'])}",
        f"  cutoff       {manifest['cutoff']:g} Å",
        f"  surface      {manifest['surface']} (recommended)",
        f"  model hash   {manifest['model_hash'][:16]}…",
        f"  trained on   {training.get('n_train', '?')} frames: {', '.join(training.get('data', {}).get('files', {})) or '?'}",
        f"  command      {training.get('command') or '?'}",
        f"  wall time    {training.get('wall_seconds', '?')} s on {training.get('machine', '?')}",
        f"  versions     {training.get('versions', '?')}",
    ]
    if training.get("alpha"):
        lines.append(f"  learned α    {'layer':24s} 5 %       median    95 %")
        for name, quantiles in training["alpha"]["layers"].items():
            lines.append(f"               {name:24s} " + " ".join(f"{q:<9.2g}" for q in quantiles))
        lines.append(f"               {training['alpha']['near_bound']:.1%} of all rows lie at the bound")
    if training.get("posterior_fit"):
        lines.append("  fitted       " + "  ".join(f"{k} {v:.4g}" for k, v in training["posterior_fit"].items()))
    found = [StoredCalibration.model_validate(c).calibration() for c in manifest["calibrations"]]
    return "\n".join(lines) + "\n" + (calibration_text(found) if found else "  not calibrated: run blipcalc calibrate")


def calibration_text(calibrations: Sequence[Calibration]) -> str:
    """A table of calibrations: factors on the standard deviations, and quantiles at 95 %."""
    head = f"{'surface':7s} {'K':>3s} {'seed':>5s} {'frames':>6s}"
    rows = [f"  calibrated   {head}  {'factor on σ':42s} {'q_atom, 95 %':28s} q_frame, 95 %"]
    for c in calibrations:
        scale = " ".join(f"{chemical_symbols[int(z)]} {s**0.5:.2f}" for z, s in c.scale.items())
        atom = " ".join(f"{chemical_symbols[int(z)]} {q.get(0.95, float('nan')):.2f}" for z, q in c.q_atom.items())
        numbers = f"{c.surface:7s} {c.n_draws:3d} {c.seed:5d} {c.n_frames:6d}"
        scale += f"; energy {c.scale_energy**0.5:.2f}"
        rows.append(f"               {numbers}  {scale:42s} {atom:28s} {c.q_frame.get(0.95, float('nan')):.2f}")
    rows.append("               stress_var and pressure_var: uncalibrated, posterior values; stress has no labels")
    return "\n".join(rows)


def error_bars_text(predictor: BayesianPredictor, stored: Sequence[Calibration], *, raw: bool) -> str:
    """One line on what the error bars are worth: the calibration that a predictor applies, or that there is none, and why.

    stored : calibrations of the model file
    raw : whether posterior values were asked for
    """
    settings, used = _settings(predictor.surface, predictor.n_draws, predictor.seed), predictor.calibration
    if predictor.n_draws < 2 and predictor.heads != "joint":
        return "no spread: one network, or one draw of it, has errors but no error bars"
    if used is not None:
        return f"calibrated on {used.n_frames} frames: {settings}"
    if raw:
        return f"UNCALIBRATED: posterior values, as --raw asks for; {settings}"
    counts: dict[tuple[str, int], list[int]] = {}
    for c in stored:
        counts.setdefault((c.surface, c.seed), []).append(c.n_draws)
    there = [_settings(surface, ", ".join(map(str, sorted(k))), seed) for (surface, seed), k in counts.items()]
    return (
        f"UNCALIBRATED: no constants for {settings}; there are {' and '.join(there) or 'none'}; "
        "take such settings, or run blipcalc calibrate for these"
    )


def _settings(surface: str, n_draws: int | str, seed: int) -> str:
    """What constants belong to."""
    return f"surface={surface}, K={n_draws}, seed={seed}"


def evaluation_text(e: Evaluation) -> str:
    """The figures of an evaluation; without a spread those of errors alone."""
    lines = [
        f"{e.n_frames} frames, {e.n_atoms} atoms, surface {e.surface}, K = {e.n_draws}; n counts frames in every limit",
        f"  energy   MAE {1e3 * e.energy.mae:.2f}  RMSE {1e3 * e.energy.rmse:.2f} meV"
        f"   ({1e3 * e.energy_mae_per_atom:.3f}, {1e3 * e.energy_rmse_per_atom:.3f} per atom; shifted by the mean error of "
        f"each formula {1e3 * e.energy_mae_shifted:.2f}, {1e3 * e.energy_rmse_shifted:.2f})",
        f"  forces   MAE {1e3 * e.forces.mae:.2f}  RMSE {1e3 * e.forces.rmse:.2f} meV/Å per component",
    ]
    if e.has_variances:
        lines += _spread_lines(e)
    lines += _silent_lines(e)
    for c in e.compositions:
        lines.append(
            f"  {c.formula:10s} energy MAE {1e3 * c.energy_mae:7.2f} meV   forces MAE {1e3 * c.forces_mae:6.2f} meV/Å"
        )
    if e.n_uncalibrated:
        lines.append(f"  {e.n_uncalibrated} atoms belong to elements that were never calibrated; left out")
    if e.is_calibration_set:
        lines.append("  these are the frames of the calibration itself: its coverage proves nothing")
    if e.foreign is not None:
        lines += _foreign_lines(e.foreign, has_spread=e.has_variances)
    return "\n".join(lines)


def _silent_lines(e: Evaluation) -> list[str]:
    """What says nothing of error bars, and errors that come without a spread."""
    lines, all_of_them = [], e.forces.n_silent == 3 * e.n_atoms
    if e.forces.n_silent:
        lines.append(
            f"  {e.forces.n_silent} of {3 * e.n_atoms} force components vanish by symmetry, without error and spread, and say "
            "nothing of error bars: "
            + ("NO COVERAGE and no scores of forces; give displaced structures" if all_of_them else "left out")
        )
    if e.energy.n_silent:
        lines.append(f"  {e.energy.n_silent} of {e.n_frames} energies have neither error nor spread: left out")
    for scores, what in ((e.energy, "energies"), (e.forces, "forces")):
        if frames := scores.frames_without_spread:
            lines.append(
                f"  WARNING: {what} of {len(frames)} frames (first: {list(frames[:5])}) have an error and no spread, which no "
                "factor mends: not covered, and in no score"
            )
    return lines


def _spread_lines(e: Evaluation) -> list[str]:
    """Scores, ranks and coverage of error bars."""
    lines = []
    for name, scores, unit in (("energy", e.energy, "eV"), ("forces", e.forces, "eV/Å")):
        if math.isnan(scores.nll):
            continue
        lines.append(
            f"  {name}   NLL {scores.nll:.3f}  CRPS {1e3 * scores.crps:.2f} m{unit}  ZMS {scores.zms:.2f} "
            f"[{scores.zms_interval[0]:.2f}, {scores.zms_interval[1]:.2f}]  Spearman {scores.spearman:.3f} "
            f"(ceiling {scores.spearman_ceiling:.3f}, ratio {scores.spearman_ratio:.2f})"
        )
    if not math.isnan(e.auroc_error):
        lines.append(f"  AUROC of atom_std for force errors above {e.tolerance:.3f} eV/Å: {e.auroc_error:.3f}")
    lines.append("  coverage                          level  observed  99 % limits   frames")
    rows = [("forces", row) for row in e.forces.coverage] + [("energy", row) for row in e.energy.coverage]
    for quantity, row in rows + [("forces", row) for row in e.frames]:
        limits = "no limits" if row.inside is None else f"[{row.low:.3f}, {row.high:.3f}]"
        mark = "  OUTSIDE" if row.inside is False else ""
        lines.append(
            f"  {quantity} {row.kind:11s} {row.group:9s} {row.level:5.2f}  {row.observed:8.3f}  "
            f"{limits:14s} {row.n_frames:6d}{mark}"
        )
    return lines


def _foreign_lines(f: Foreign, *, has_spread: bool) -> list[str]:
    """What error bars say of structures from outside; figures that need labels, or a spread, only where they are."""
    line = f"  foreign: {f.n_frames} frames"
    if has_spread:
        line += f", AUROC of the largest atom_std {f.auroc:.3f}"
    line += f"; {f.n_labelled} labelled"
    if f.n_labelled:
        line += f": forces MAE {1e3 * f.forces_mae:.1f} meV/Å"
    if f.n_labelled and has_spread:
        low, high = f.forces_zms_interval
        line += f", scaled mean z² {f.forces_zms:.1f} [{low:.1f}, {high:.1f}]"
    left_out = f"  foreign: {f.n_left_out} frames with uncalibrated elements left out"
    return [line, left_out] if f.n_left_out else [line]


def comparison_text(rows: Sequence[Compared]) -> str:
    """Models side by side, as a Markdown table; empty cells where a model has no such figure."""
    head = (
        "model", "posterior", "K", "train min", "ms/frame", "E MAE (meV)", "F MAE (meV/Å)", "NLL", "CRPS (meV/Å)", "mean z²",
        "covers 95 %", "CE_F raw", "calibrated", "isotonic", "CE_E raw", "calibrated", "isotonic", "Spearman", "ceiling", "AUROC",
        "foreign z²",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        e, f = row.evaluation, row.evaluation.forces
        pooled = next((c.observed for c in f.coverage if c.kind == "all" and c.level == 0.95), float("nan"))
        foreign = (float("nan"), float("nan")) if e.foreign is None else (e.foreign.auroc, e.foreign.forces_zms)
        cells = [row.name, f"{row.architecture} {row.posterior}", str(e.n_draws)]
        cells += [_cell(x, form) for x, form in (
            (row.minutes, ".1f"), (row.ms_per_frame, ".1f"), (1e3 * e.energy.mae, ".1f"), (1e3 * f.mae, ".1f"), (f.nll, ".2f"),
            (1e3 * f.crps, ".1f"), (f.zms, ".2f"), (pooled, ".3f"), *((x, ".4f") for x in (*row.forces_ce, *row.energy_ce)),
            (f.spearman, ".2f"), (f.spearman_ceiling, ".2f"), (foreign[0], ".3f"), (foreign[1], ".1f"),
        )]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float, form: str) -> str:
    return "" if value != value else format(value, form)


def limits_text(limits: Limits) -> str:
    """What a reference run says of false alarms."""
    now = limits.at_tolerance
    lines = [
        f"reference   {limits.reference_ns:.4g} ns in {limits.n_replicas} replicas, a check every {limits.interval_fs:g} fs; "
        f"memory {limits.inefficiency_ps:.2g} ps, maxima over blocks of {limits.block_ps:.2g} ps",
        f"at R = 1    halts where the bound on a force error reaches {limits.tolerance:g} eV/Å: {rate_text(now)}; "
        f"{now.n_beyond} of {now.n_blocks} blocks",
    ]
    lines += [f"{criterion.name:12}{criterion.text(limits.watch)}" for criterion in limits.criteria]
    if limits.frames is not None:
        lines.append(_frames_text(limits.frames, limits.level))
    lines.append(
        f"together    {limits.expected_rate:.3g} false alarms per ns expected, at most {limits.rate_per_ns:g} with "
        f"{limits.confidence:.0%} confidence, in runs like the reference"
    )
    return "\n".join(lines + [f"note        {note}" for note in limits.notes])


def _frames_text(frames: Shifted, level: float) -> str:
    worth = f"{frames.effective:.0f} of {frames.n} labelled frames are like the reference run"
    if frames.quantile is None:
        return f"frames      no statement on errors of whole frames: {worth}, {LEAST} are needed"
    return (
        f"frames      {level:.0%} of the frames of the reference run have no error beyond {frames.quantile:.3g} σ (unweighted "
        f"{frames.plain:.3g}): {worth}"
    )


def demo_text(summary: dict[str, Any], folder: Path) -> str:
    """What happened, and where it lies."""
    quiet, heated, limit = summary["quiet"], summary["heated"], summary["limit_on_atom_std_eV_per_A"]
    passed = "ran through" if quiet["ran_through"] else "was HALTED"
    lines = [
        f"{summary['molecule']}, tolerance {summary['tolerance_eV_per_A']:g} eV/Å on the force error: "
        f"halt at atom_std > {limit:.4f} eV/Å",
        f"  {quiet['time_ps']:g} ps at {quiet['temperature_K']:g} K {passed} (mean {quiet['mean_temperature_K']:.0f} K, "
        f"largest atom_std {quiet['max_atom_std_eV_per_A']:.4f} eV/Å)",
    ]
    if heated["status"] == "halted":
        lines.append(
            f"  heated at {heated['rate_K_per_ps']:g} K/ps: halted at {heated['halted_at_ps']:.2f} ps: {heated['reason']}"
        )
    else:
        lines.append(f"  heated at {heated['rate_K_per_ps']:g} K/ps: {heated['status']}, not halted")
    lines.append(f"  {summary['ms_per_step']:.1f} ms per step, {summary['wall_seconds']:.0f} s in all")
    lines += [
        f"look at {folder}/uncertainty.png; trajectory with uncertainties: {folder}/trajectory.traj; numbers: "
        f"{folder}/summary.json",
        "next: blipcalc train YOUR_FRAMES.extxyz -o my.blip, or BayesianCalculator('rmd17') in a script (examples/)",
    ]
    return "\n".join(lines)


def averages_text(found: Sequence[ThermalAverage]) -> str:
    """A table of thermal averages; of curves the place with the largest value."""
    head = ("observable", "value", "model error", "(noise)", "sampling error", "N_eff", "independent", "method")
    rows = [head]
    for one in found:
        s, at = one.sampling, int(np.argmax(one.value)) if one.value.ndim else None
        name = (
            one.name if at is None or one.axis is None else f"{one.name} at {one.axis.values[at]:.3g} {one.axis.unit}"
        )
        parts = (one.value, one.model_error, one.noise, one.sampling_error)
        value, *errors = (float(part if at is None else part[at]) for part in parts)
        shown = f"{with_error(value, max(errors)).split(' ')[0]} {one.estimate.unit}".rstrip()
        counts = (f"{one.n_eff:.0f}", f"{s.n_independent:.0f} of {s.n_frames}", s.method)
        rows.append((name, shown, f"{errors[0]:.2g}", f"({errors[1]:.1g})", f"{errors[2]:.2g}", *counts))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    first = found[0]
    factors = ", ".join(dict.fromkeys(f"{one.estimate.calibration_factor:.2f}" for one in found))
    kind = f"posterior spread × {factors} of the calibration" if first.estimate.calibrated else "posterior values"
    lines.append(f"{first.temperature_K:g} K, K = {first.estimate.n_draws} draws; model errors are one sd ({kind})")
    lines += [f"{one.name}: {one.estimate.note.partition('; ')[2]}" for one in found if "; " in one.estimate.note]
    unresolved = [one.name for one in found if _below(one.model_error, 2.0 * one.noise)]
    if unresolved:
        lines.append(
            f"no larger than twice its noise, which a longer run brings down: model error of {', '.join(unresolved)}"
        )
    return "\n".join(lines)


def _below(one: np.ndarray, other: np.ndarray) -> bool:
    """As a whole: root mean squares."""
    return bool(np.mean(np.square(one)) < np.mean(np.square(other)))
