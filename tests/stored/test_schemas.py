"""What a file says is held against ranges and names, though its seal is right: each fault is a named error that says where."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load as load_tensors

from blipcalc import io
from blipcalc.calibration.evaluation import EVALUATION
from blipcalc.errors import (
    BlipcalcError,
    DamagedFileError,
    DataError,
    DrawsError,
    LimitsError,
    SchemaError,
)
from blipcalc.files.checksums import add_sums
from blipcalc.files.json_file import Kind, read_json, write_json
from blipcalc.files.npz_file import write_arrays
from blipcalc.files.run_folder import NEWEST, Checkpoints
from blipcalc.files.safetensors_file import write_sealed
from blipcalc.md.summary import RUN_SUMMARY, read_checkpoint, read_summary
from blipcalc.model_file.model_file import load, model_info
from blipcalc.monitor.events import read_events
from blipcalc.monitor.history import History
from blipcalc.monitor.limits import LIMITS, Limits
from blipcalc.monitor.observer import UncertaintyMonitor
from blipcalc.report.page import write_report
from blipcalc.stats.estimate import Estimate
from blipcalc.training.run_identity import StoredTraining

MINUS, DROP = object(), object()


def changed(said, path, value):
    """The same with another value at a path of keys; a sign turned round, or a key left out."""
    said = json.loads(json.dumps(said))
    part = said
    *way, last = path.split(".")
    for key in way:
        part = part[int(key) if isinstance(part, list) else key]
    last = int(last) if isinstance(part, list) else last
    if value is MINUS:
        part[last] = -part[last]
    elif value is DROP:
        del part[last]
    else:
        part[last] = value
    return said


# -- limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("tolerance", MINUS, r"tolerance: .*greater than 0 \(got -40"),
        ("tolerance", 0.0, "tolerance: .*greater than 0"),
        ("tolerance", None, "tolerance: .*valid number"),
        ("tolerance", "40", "tolerance: .*valid number"),
        ("tolerance", True, "tolerance: .*valid number"),
        ("tolerance", DROP, "tolerance: Field required"),
        ("quantiles.N", MINUS, r"quantiles\.N: .*greater than 0"),
        ("quantiles", {}, "quantiles: .*at least 1"),
        ("quantiles.Xx", 2.0, "symbol of an element"),
        ("interval_fs", -10.0, "interval_fs: .*greater than 0"),
        ("confidence", 7.0, "confidence: .*less than 1"),
        ("level", 95, "level: .*less than 1"),
        ("rate_per_ns", 0, "rate_per_ns: .*greater than 0"),
        ("n_replicas", 0, "n_replicas: .*greater than or equal to 1"),
        ("n_replicas", 1.5, "n_replicas: .*valid integer"),
        (
            "criteria.0",
            {"name": "evidence", "references": [0.1, -0.1], "rate_per_ns": 1.0},
            r"references\.1: .*greater than 0",
        ),
        ("criteria.0", {"name": "none"}, r"unknown criterion 'none'.*once that package is installed"),
        ("criteria.0", {"limit": 1.0}, "expected a criterion with its name"),
        ("criteria.0.name", "smoothed", "warning: Field required"),
        ("criteria", [], "at least 1"),
        ("criteria.0.limit.value", MINUS, "expected a limit > 0"),
        ("criteria.0.limit.rate", MINUS, "rates ≥ 0"),
        ("criteria.0.limit.n_blocks", 0, "no more blocks beyond than there are"),
        ("criteria.0.limit.confidence", 1.0, "confidence between 0 and 1"),
        ("criteria.0.limit.valeu", 1.0, r"unknown setting 'limit\.valeu'; did you mean 'value'\?"),
        ("criteria.1.limit.value", None, r"limit\.value: .*valid number"),
        ("criteria.1.warning", None, "warning: .*"),
        ("tolerence", 0.5, r"unknown setting 'tolerence'; did you mean 'tolerance'\?"),
        ("identity.sed", 0, r"unknown setting 'identity\.sed'; did you mean 'seed'\?"),
    ],
)
def test_limits_that_cannot_be_are_refused_though_their_seal_is_right(written, tmp_path, path, value, said):
    whole = read_json(written["limits"].files[0], LIMITS)
    write_json(tmp_path / "limits.json", LIMITS, changed(whole, path, value))
    with pytest.raises(LimitsError, match=said):
        Limits.load(tmp_path / "limits.json")
    with pytest.raises(LimitsError, match=said):
        UncertaintyMonitor(None, limits=tmp_path / "limits.json")


def test_limits_are_refused_where_they_are_made_too(limits):
    with pytest.raises(ValueError, match="greater than 0"):
        Limits(**limits.model_dump() | {"tolerance": -1.0})


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (
            '"tolerance": 40.0,\n "tolerance": 400.0',
            DamagedFileError,
            r"names a key twice: \['tolerance'\].*blipcalc check",
        ),
        ('"tolerance": NaN', DamagedFileError, "changed since it was written"),
        ('"tolerance": 1e999', DamagedFileError, "changed since it was written"),
        ('"tolerance": -40.0', DamagedFileError, "not edited by hand; make limits anew with 'blipcalc check'"),
        ('"tolerance": 40.0,', DamagedFileError, "no readable JSON"),
    ],
)
def test_an_edited_file_of_limits_is_refused(written, tmp_path, text, error, said):
    whole = written["limits"].files[0].read_text()
    assert '"tolerance": 40.0' in whole
    (tmp_path / "limits.json").write_text(whole.replace('"tolerance": 40.0', text))
    with pytest.raises(error, match=said):
        Limits.load(tmp_path / "limits.json")


def test_what_is_no_sealed_file_of_the_kind_is_named(written, tmp_path):
    for content in (b"{}", b"[1, 2]", b'{"kind": "limits"}', b'{"kind": "limits", "sha256": 5}'):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(LimitsError, match=r"x\.json holds no limits.*blipcalc check"):
            Limits.load(tmp_path / "x.json")
    with pytest.raises(LimitsError, match="holds no limits, but 'evaluation'"):
        Limits.load(written["evaluation"].files[0])
    with pytest.raises(LimitsError, match="no limits at"):
        Limits.load(tmp_path)
    assert read_json(written["evaluation"].files[0])["surface"] == "mean"


def test_sealed_json_is_for_people_too(tmp_path):
    """Keys stay in their order, one a line; what is not finite is null; another layout reads the same."""
    kind, content = Kind("test", "make it anew"), {"z": 1.5, "a": [float("nan"), {3: (1, 2)}], "text": "Å \x1b[31m"}
    write_json(tmp_path / "x.json", kind, content)
    lines = (tmp_path / "x.json").read_text().splitlines()
    assert lines[1:3] == [' "kind": "test",', ' "z": 1.5,']
    expected = {"z": 1.5, "a": [None, {"3": [1, 2]}], "text": "Å \x1b[31m"}
    assert read_json(tmp_path / "x.json", kind) == expected
    (tmp_path / "x.json").write_text(json.dumps(json.loads((tmp_path / "x.json").read_text()), sort_keys=True))
    assert read_json(tmp_path / "x.json", kind) == expected
    with pytest.raises(ValueError, match="sha256"):
        write_json(tmp_path / "x.json", kind, {"sha256": 1})


# -- calibrations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("scale.7", MINUS, r"calibrations\.0\.scale\.7: .*greater than 0"),
        ("scale_energy", 0.0, "scale_energy: .*greater than 0"),
        ("q_atom.8", {"0.95": -2.5}, r"q_atom\.8\.0\.95: .*greater than 0"),
        ("q_frame", {"1.5": 4.0}, "q_frame.*less than 1"),
        ("n_frames", 0, "n_frames: .*greater than or equal to 1"),
        ("n_draws", "3", "n_draws: .*valid integer"),
        ("scale", {"200": 1.0}, "scale.*less than or equal to 118"),
        ("scal", {}, r"unknown setting 'calibrations\.0\.scal'; did you mean 'scale'\?"),
        ("scale_energy", None, "scale_energy: .*valid number"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused_though_its_seal_is_right(written, tmp_path, path, value, said):
    content = written["model with calibrations"].files[0].read_bytes()
    (tmp_path / "whole.blip").write_bytes(content)
    with safe_open(tmp_path / "whole.blip", "pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    bad = manifest | {"calibrations": [changed(manifest["calibrations"][0], path, value)]}
    write_sealed(tmp_path / "x.blip", load_tensors(content), bad)
    for reader in (load, model_info):
        with pytest.raises(SchemaError, match=said):
            reader(tmp_path / "x.blip")
    write_sealed(tmp_path / "x.blip", load_tensors(content), manifest)
    load(tmp_path / "x.blip")


# -- runs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("steps", MINUS, "steps: .*greater than or equal to 0"),
        ("status", "fine", "status: Input should be"),
        ("wall_seconds", "1", "wall_seconds: .*valid number"),
        ("max_atom_std", -0.1, "max_atom_std: .*greater than or equal to 0"),
        ("stepz", 3, r"unknown setting 'summary\.stepz'; did you mean 'steps'\?"),
        ("run", None, "run: "),
        ("run", [1, 2], "run: "),
        ("run.config", 5, r"run\.config"),
        ("run.config.trajectory", 5, r"trajectory: .*valid string"),
        ("run.config.timestep_fs", "1", r"timestep_fs: .*valid number"),
        ("run.config.timestep_fs", MINUS, r"timestep_fs: .*greater than 0"),
        ("run.config.course", [[0.0]], r"course"),
        ("run.config.course", [[0.0, -300.0]], r"course.*greater than 0"),
        ("run.config.monitor", "none", r"monitor"),
        ("run.config.monitor.threshold", {"": "high"}, r"threshold"),
        ("run.config.monitor.every", 0, r"every: .*greater than or equal to 1"),
        ("run.identity", 7, r"identity: .*valid string"),
        ("run.provenance.calibration.scale.7", MINUS, r"scale\.7: .*greater than 0"),
        ("run.provenance.versions", [], r"versions"),
        ("run.environment", {"threads": {}}, r"environment"),
    ],
)
def test_a_summary_that_cannot_be_is_refused_and_no_report_is_written(written, tmp_path, path, value, said):
    whole = read_json(written["summary of a run"].files[0], RUN_SUMMARY)
    shutil.copytree(written["summary of a run"].files[0].parent, tmp_path / "run")
    write_json(tmp_path / "run" / "summary.json", RUN_SUMMARY, changed(whole, path, value))
    with pytest.raises(DataError, match=rf"(?s)is no summary of run_md: .*{said}"):
        read_summary(tmp_path / "run" / "summary.json")
    with pytest.raises(DataError, match="is no summary of run_md"):
        write_report(tmp_path / "run")
    (tmp_path / "run" / "summary.json").write_text(json.dumps(whole))
    with pytest.raises(DataError, match="holds no summary of a run: it has no kind and sha256; remove it"):
        write_report(tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    assert write_report(tmp_path / "run").is_file()


@pytest.mark.parametrize(
    ("path", "value"),
    [("step", MINUS), ("seconds", -1.0), ("rng", None), ("config.seed", "0"), ("frames", {"history.csv": -1}), ("stepp", 1),
     ("kind", "training checkpoint"), ("observers", {}), ("provenance", DROP)],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_is_refused_though_its_seal_is_right(written, tmp_path, path, value):
    content = written["checkpoint of MD"].files[0].read_bytes()
    (tmp_path / "whole").write_bytes(content)
    with safe_open(tmp_path / "whole", "pt") as file:
        manifest = json.loads(file.metadata()["manifest"])
    write_sealed(tmp_path / NEWEST, load_tensors(content), changed(manifest, path, value))
    with pytest.raises(SchemaError, match=rf"holds no checkpoint of run_md: .*{path.split('.')[-1]}"):
        read_checkpoint(tmp_path)
    with pytest.raises(SchemaError, match="holds no checkpoint of training"):
        Checkpoints(tmp_path, manifest["identity"], manifest["config"], set(), schema=StoredTraining).load()


def test_events_and_rows_of_a_history_have_ranges(written, tmp_path):
    line = json.loads(written["events"].files[0].read_text().splitlines()[0])
    cases = {"step": -1, "event": 5, "atoms": [-1, 0], "symbols": ["N"], "value": "large", "reason": None}
    for key, value in cases.items():
        (tmp_path / "e.jsonl").write_text(json.dumps(line | {key: value}) + "\n")
        with pytest.raises(DataError, match=r"e\.jsonl, line 1, is no event"):
            read_events(tmp_path / "e.jsonl")
    (tmp_path / "e.jsonl").write_text(json.dumps(line)[:-1] + ', "step": 0}\n')
    with pytest.raises(DataError, match="names a key twice"):
        read_events(tmp_path / "e.jsonl")
    head, row, *_ = written["history"].files[0].read_text().splitlines()
    for column, text in (
        ("step", "-5"),
        ("max_atom_std", "-0.1"),
        ("temperature_K", "-300.0"),
        ("breached", "1"),
        ("step", "1.5"),
    ):
        cells = row.split(",")
        cells[head.split(",").index(column)] = text
        (tmp_path / "h.csv").write_text(f"{head}\n{','.join(cells)}\n")
        with pytest.raises(DataError, match=r"h\.csv is no history"):
            History().load_csv(tmp_path / "h.csv", last_step=100)


def test_evaluations_have_ranges(written, tmp_path):
    whole = read_json(written["evaluation"].files[0], EVALUATION)
    run = written["summary of a run"].files[0].parent
    for path, value in (("n_draws", MINUS), ("surface", "other"), ("forces.coverage", {}), ("forces", None)):
        write_json(tmp_path / "evaluation.json", EVALUATION, changed(whole, path, value))
        with pytest.raises(DataError, match=f"is no evaluation: {path.split('.')[0]}"):
            write_report(run, tmp_path / "page.html", evaluation=tmp_path)
    row = whole["forces"]["coverage"][0]
    for key, value in (("level", 7.0), ("observed", -1.0), ("levle", 0.9), ("n_frames", None)):
        write_json(tmp_path / "evaluation.json", EVALUATION, changed(whole, "forces.coverage", [row | {key: value}]))
        with pytest.raises(DataError, match=rf"is no evaluation: .*{key}"):
            write_report(run, tmp_path / "page.html", evaluation=tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"widening": -1.0}, DataError, "widening: .*greater than or equal to 0"),
        ({"of_differences": -1.0}, DataError, "of_differences"),
        ({"draws": [1.0]}, DataError, "at least 2"),
        ({"draws": [1.0, [2.0]]}, DataError, "draws"),
        ({"draws": [[1.0], [2.0]]}, DrawsError, "shape"),
        ({"value": "1.0"}, DataError, "value"),
        ({"value": True}, DataError, "value"),
        ({"calibrated": 1}, DataError, "calibrated: .*valid boolean"),
        ({"widning": 1.0}, DataError, r"unknown setting 'widning'; did you mean 'widening'\?"),
    ],
)
def test_estimates_have_ranges(change, error, said):
    whole = {"value": 1.0, "draws": [1.0, None], "unit": "eV"}
    assert np.isnan(Estimate.from_dict(whole).draws[1])
    with pytest.raises(error, match=said):
        Estimate.from_dict(whole | change)


def test_stored_draws_are_numbers_of_a_known_name(written, tmp_path):
    source = written["draws of frames"].files[0].parent
    for name in ("frames.traj", "frames.traj.sums"):
        shutil.copy(source / name, tmp_path / name)
    path = tmp_path / "frames.traj.samples.npz"
    for arrays in ({"0/energy": np.array([1.0, np.nan])}, {"0/enregy": np.ones(2)}, {"forces": np.ones(3)}):
        write_arrays(path, arrays)
        with pytest.raises(SchemaError, match=r"samples\.npz: .*expected finite numbers"):
            io.read(tmp_path / "frames.traj")
    with np.load(source / path.name) as whole:
        np.savez(path, **{name: whole[name] if name == "sha256" else 2 * whole[name] for name in whole.files})
    with pytest.raises(DamagedFileError, match="the arrays hash to"):
        io.read(tmp_path / "frames.traj")
    np.savez(path, **{"0/energy": np.ones(2)})
    with pytest.raises(DamagedFileError, match="write the frames again"):
        io.read(tmp_path / "frames.traj")
    np.savez(path, **{"0/energy": np.array([object()])})
    with pytest.raises(DamagedFileError, match=r"cannot be read: ValueError: .*allow_pickle"):
        io.read(tmp_path / "frames.traj")


def test_every_reader_of_frames_looks_at_their_checksums(tmp_path, written):
    """Labels, references, starting structures: the same flip, the same refusal."""
    from blipcalc.cli.options import structure_of
    from blipcalc.data.labels import read_labelled
    from blipcalc.monitor.fit_limits import _frames

    readers = (
        io.read,
        read_labelled,
        structure_of,
        lambda path: _frames(path, ":"),
        lambda path: list(io.iterate(path)),
    )
    for kind in ("frames as text", "draws of frames", "database"):
        path = written[kind].files[0]
        path = path.with_name("frames.traj") if kind == "draws of frames" else path
        there = tmp_path / path.name
        there.write_bytes(path.read_bytes())
        if path.suffix != ".db":
            add_sums(there)
        for reader in readers:
            reader(there)
        content = bytearray(there.read_bytes())
        at = content.rfind(b"1.25" if path.suffix == ".xyz" else np.float64(3.0).tobytes()[-2:])
        content[at + 1] ^= 1
        there.write_bytes(bytes(content))
        for reader in readers:
            with pytest.raises(BlipcalcError):
                reader(there)
