"""The page about a run: it holds all that happened, nothing from outside, and names what is amiss."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser

import numpy as np
import pytest
from ase import Atoms

from blipcalc.calculators.bayesian import BayesianCalculator
from blipcalc.calibration.evaluation import EVALUATION
from blipcalc.core.prediction import Calibration, SampleArrays, summarize
from blipcalc.core.predictor_contract import Need, Predictor
from blipcalc.errors import ConfigurationError, DamagedFileError, DataError, LimitsError, NonFiniteError
from blipcalc.files.checksums import forget_sums, sums_of
from blipcalc.files.json_file import write_json
from blipcalc.files.run_folder import NEWEST, PREVIOUS
from blipcalc.io import read
from blipcalc.md.run_md import EVENTS, HISTORY, SUMMARY, TRAJECTORY, run_md
from blipcalc.monitor.history import History
from blipcalc.monitor.limits import Limits, fit_limits
from blipcalc.report.figures import uncertainty_figure
from blipcalc.report.frames import Frame, read_traces
from blipcalc.report.page import write_report
from blipcalc.report.record import read_run
from blipcalc.report.structure import view_data
from blipcalc.report.thinning import thinned

CALIBRATION = Calibration(
    surface="mean", n_draws=3, seed=0, model_hash="ab" * 32, scale={7: 1.0, 8: 4.0}, scale_energy=1.0,
    q_atom={7: {0.95: 2.5}, 8: {0.95: 5.0}}, q_frame={0.95: 4.0}, n_frames=70, n_atoms={7: 280, 8: 280},
    frames_hash="cd" * 32, n_element_frames={7: 70, 8: 70},
)  # fmt: skip


class Springs(Predictor):
    """Three draws of springs to the starting places; their spread grows with the displacement."""

    species, n_draws, surface, has_stress, has_energies, heads = None, 3, "mean", False, False, "none"

    def __init__(self, home, breaks=math.inf, calibration=None):
        self.home, self.breaks, self.calibration, self.calls = home, breaks, calibration, 0

    def __call__(self, structures, need=Need()):
        found = []
        for atoms in structures:
            self.calls += 1
            if self.calls > self.breaks:
                raise NonFiniteError("forces are <b>not finite</b>")
            d = atoms.positions - self.home
            stiffness = 5.0 * (1.0 + 0.1 * np.array([-1.0, 0.0, 1.0]))
            samples = SampleArrays(energy=stiffness * 0.5 * (d**2).sum(), forces=-stiffness[:, None, None] * d)
            raw = summarize(atoms.numbers, samples)
            found.append(raw if self.calibration is None else self.calibration.apply(raw))
        return found


class Page(HTMLParser):
    """Elements of a page, its text, and its tables."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.attributes, self.tables, self.text = [], [], [], ""
        self.captions, self._in = [], []
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self._in.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "figcaption":
            self.captions.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._in.pop() == tag

    def handle_data(self, data):
        if self._in and self._in[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if self._in and self._in[-1] == "figcaption":
            self.captions[-1] += data
        if "script" not in self._in and "style" not in self._in:
            self.text += data

    def table(self, first):
        return next(rows[1:] for rows in self.tables if rows[0][0] == first)


def cube(**settings):
    atoms = Atoms("N4O4", positions=np.argwhere(np.ones((2, 2, 2))) * 3.0)
    is_raw = settings.get("calibration") is None
    atoms.calc = BayesianCalculator(Springs(atoms.positions.copy(), **settings), raw=is_raw)
    return atoms


def run(folder, atoms=None, **settings):
    given = {"time_ps": 0.1, "timestep_fs": 1.0, "threshold": 10.0, "every": 5, "write_every": 10, "progress": False}
    return run_md(cube() if atoms is None else atoms, folder=folder, **given | settings)


@pytest.fixture(scope="module")
def halted(tmp_path_factory):
    """Heated until it halts, rolled back before."""
    folder = tmp_path_factory.mktemp("page") / "run"
    course = [(0.0, 100.0), (0.2, 100.0), (2.0, 4000.0)]
    summary, _ = run(folder, time_ps=2.0, temperature_K=course, threshold=0.2, on_breach=["flag", "rollback", "halt"])
    assert summary.status == "halted"
    return folder, summary


def test_the_page_stands_alone_and_says_what_happened(halted, tmp_path):
    folder, summary = halted
    page = Page(write_report(folder, tmp_path / "page.html"))
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    for tag, attributes in page.attributes:
        assert not {"src", "data", "srcset"} & set(attributes), tag
        assert (attributes.get("href") or "#").startswith("#")
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert page.tags.count("figure") == len(page.captions) == 4
    assert all(len(caption) > 60 for caption in page.captions)
    assert summary.reason in page.text
    assert f"{summary.max_atom_std:.4g} eV/Å" in page.text
    events = [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]
    rows = page.table("event")
    assert [(r[0], int(r[1]), r[7]) for r in rows] == [(e["event"], e["step"], e["reason"]) for e in events]
    assert rows[-1][:2] == ["halt", str(summary.steps)]
    assert rows[-1][3].split()[:2] == [events[-1]["symbols"][0], str(events[-1]["atoms"][0])]
    assert not (folder / "report.html").exists()
    assert len(page.source) < 1e6


def test_ids_of_figures_are_unique_and_are_found(halted, tmp_path):
    page = Page(write_report(halted[0], tmp_path / "page.html"))
    ids = [a["id"] for _, a in page.attributes if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for _, a in page.attributes if "href" in a} <= set(ids)


def test_hashes_are_those_of_the_files(halted, tmp_path):
    import hashlib

    folder = halted[0]
    page = Page(write_report(folder, tmp_path / "page.html"))
    found = {row[0]: row[2] for row in page.table("file")}
    assert {HISTORY, EVENTS, SUMMARY, TRAJECTORY, NEWEST} <= set(found)
    for name, digest in found.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    identity = json.loads((folder / SUMMARY).read_text())["run"]["identity"]
    assert page.table("identity")[0] == ["run (structure and calculator)", identity]


def test_element_traces_and_the_worst_frame_are_those_of_the_trajectory(halted):
    folder = halted[0]
    traces, frames = read_traces(folder / TRAJECTORY), read(folder / TRAJECTORY)
    std = np.array([frame.calc.results["atom_std"] for frame in frames])
    assert np.array_equal(traces.largest["N"], std[:, :4].max(axis=1))
    assert np.array_equal(traces.largest["O"], std[:, 4:].max(axis=1))
    worst = int(std.max(axis=1).argmax())
    assert (traces.worst.step, traces.worst.worst_atom) == (frames[worst].info["step"], int(std[worst].argmax()))


def test_a_reason_is_escaped(tmp_path):
    summary, _ = run(tmp_path / "run", cube(breaks=40), every=1)
    assert (summary.status, summary.is_finite) == ("halted", False)
    page = Page(write_report(tmp_path / "run"))
    assert "no finite value" in page.text
    assert "forces are <b>not finite</b>" in page.text
    assert "b" not in page.tags
    assert "forces are &lt;b&gt;" in page.source
    assert page.table("event")[-1][4] == "not finite"


def test_checks_that_are_not_finite_are_gaps_and_are_counted(tmp_path):
    run(tmp_path)
    lines = (tmp_path / HISTORY).read_text().splitlines()
    for k in (5, 6):
        cells = lines[k].split(",")
        cells[4] = "nan"
        lines[k] = ",".join(cells)
    (tmp_path / HISTORY).write_text("\n".join(lines) + "\n")
    with pytest.raises(DamagedFileError, match="repair"):
        write_report(tmp_path)
    forget_sums(tmp_path / HISTORY)
    page = Page(write_report(tmp_path))
    values = read_run(tmp_path).history["max_atom_std"]
    assert f"{np.nanmax(values):.4g} eV/Å, atom" in page.text
    assert "not finite in 2 checks" in page.text


def test_history_is_whole_where_the_run_broke_before_its_first_checkpoint(tmp_path):
    run(tmp_path, cube(breaks=40), every=1, checkpoint_every=1000)
    rows = History()
    rows.load_csv(tmp_path / HISTORY, last_step=1000)
    assert len(rows) > 30
    record = read_run(tmp_path)
    assert record.config["timestep_fs"] == 1.0
    drawn, _ = uncertainty_figure(record, 10.0)
    assert "currentColor" in drawn


def test_a_run_that_has_not_ended_is_shown_as_that(halted, tmp_path):
    folder = tmp_path / "run"
    run(folder, checkpoint_every=50)
    (folder / SUMMARY).unlink()
    (folder / EVENTS).unlink(missing_ok=True)
    page = Page(write_report(folder))
    assert "Not ended" in page.text
    assert "0.1 ps, step 100" in page.text


def test_finished_without_events_or_trajectory(tmp_path):
    run(tmp_path)
    (tmp_path / TRAJECTORY).unlink()
    page = Page(write_report(tmp_path))
    assert "Finished: 0.1 ps, step 100" in page.text
    assert "UNCALIBRATED" in page.text
    assert "None: no warning" in page.text
    assert "Not shown: there is no trajectory" in page.text
    assert len(page.captions) == 2


def test_without_any_check_it_says_so(tmp_path):
    run(tmp_path)
    for name in (HISTORY, NEWEST, PREVIOUS):
        (tmp_path / name).unlink(missing_ok=True)
    assert "No check was kept" in Page(write_report(tmp_path)).text


def test_constants_of_the_calibration_are_those_of_the_run(tmp_path):
    atoms = cube(calibration=CALIBRATION)
    run(tmp_path, atoms, threshold=None, tolerance=40.0)
    page = Page(write_report(tmp_path))
    assert "Calibrated on 70 labelled frames for surface mean, K = 3, seed 0" in page.text
    everything = {row[0]: row for rows in page.tables for row in rows}
    assert everything["O"] == ["O", "2.000", "5", "280", "70"]
    assert everything["worst atom of a frame"] == ["worst atom of a frame", "", "4", "", "70"]
    assert everything["model"][1] == "ab" * 32
    assert "10 eV/Å" in page.text  # tolerance / q_frame
    with pytest.raises(ConfigurationError, match="abababababab"):
        write_report(tmp_path, model="rmd17")


def test_limits_must_be_those_of_the_run(tmp_path):
    rng = np.random.default_rng(0)
    replicas = [np.exp(rng.normal(-3.0, 0.1, 4000)) for _ in range(40)]
    limits = fit_limits(
        {"ratio": replicas}, 5.0, CALIBRATION, {"N": 2.5, "O": 5.0}, tolerance=40.0, rate_per_ns=20.0, criteria=["trip"]
    )
    run(tmp_path / "plain", cube(calibration=CALIBRATION), threshold=None, tolerance=40.0)
    with pytest.raises(LimitsError, match="guarded by no limits"):
        write_report(tmp_path / "plain", limits=limits)
    limits.save(tmp_path / "limits.json")
    run(tmp_path / "run", cube(calibration=CALIBRATION), threshold=None, every=None, limits=tmp_path / "limits.json")
    page = Page(write_report(tmp_path / "run", limits=tmp_path / "limits.json"))
    assert isinstance(limits, Limits)
    of_n = limits["trip"].limit.value * 40.0 / 2.5
    assert f"N {of_n:.4g}, O {of_n / 2:.4g} eV/Å" in page.text
    assert "at most 20 false alarms per ns" in page.text


def test_an_evaluation_must_be_one(tmp_path):
    run(tmp_path, cube(calibration=CALIBRATION))
    row = {"kind": "all", "group": "all", "level": 0.95, "observed": 0.94, "low": 0.9, "high": 0.98, "n_frames": 50}
    said = {"surface": "mean", "n_draws": 3, "forces": {"coverage": [row | {"inside": True}]}}
    write_json(tmp_path / "evaluation.json", EVALUATION, said)
    assert "Observed coverage" in Page(write_report(tmp_path, evaluation=tmp_path)).text
    write_json(tmp_path / "evaluation.json", EVALUATION, said | {"n_draws": 16})
    with pytest.raises(DataError, match="K = 16"):
        write_report(tmp_path, evaluation=tmp_path)
    with pytest.raises(DataError, match="no evaluation"):
        write_report(tmp_path, evaluation=tmp_path / SUMMARY)


def test_folders_that_are_none_and_files_that_are_damaged_are_named(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        write_report(tmp_path / "nothing")
    with pytest.raises(DataError, match="no run folder"):
        write_report(tmp_path)
    run(tmp_path, threshold=0.001)
    whole = (tmp_path / SUMMARY).read_bytes()
    (tmp_path / SUMMARY).write_text("{")
    with pytest.raises(DamagedFileError, match=r"no readable JSON.*remove it"):
        write_report(tmp_path)
    (tmp_path / SUMMARY).write_bytes(whole)
    for name, content, said in [
        (SUMMARY, "[1]", "no summary"),
        (SUMMARY, "{}", "no summary"),
        (HISTORY, "a,b\n", "no history"),
        (EVENTS, '{"event": "halt"}\n{}\n', "line 1, is no event: step"),
        (TRAJECTORY, "nothing", "cannot be read as a trajectory"),
    ]:
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_text(content)
        if sums_of(tmp_path / name).exists():
            with pytest.raises(DamagedFileError, match="blipcalc repair"):
                write_report(tmp_path)
            forget_sums(tmp_path / name)
        with pytest.raises(DataError, match=said):
            write_report(tmp_path)
        (tmp_path / name).write_bytes(before)
    with pytest.raises(ConfigurationError, match="is a folder"):
        write_report(tmp_path, tmp_path)
    assert write_report(tmp_path).is_file()


def test_thinning_keeps_peaks_and_gaps():
    values = np.sin(np.linspace(0, 20, 100_000))
    values[77_777], values[50_000], values[12_345] = 9.0, -9.0, np.nan
    kept = thinned(values, 2000)
    assert len(kept) <= 2000
    assert {0, 12_345, 50_000, 77_777, 99_999} <= set(kept.tolist())
    assert np.array_equal(kept, np.unique(kept))
    assert np.array_equal(thinned(values[:50]), np.arange(50))
    assert len(thinned(np.full(10_000, np.nan), 100)) <= 100


def test_bonds_colours_and_the_worst_atom_of_a_view():
    atoms = Atoms("OHH", positions=[[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    data = view_data(Frame(atoms, 7, np.array([0.1, 0.3, np.nan]), np.ones(3, dtype=bool)), 1)
    assert sorted(map(sorted, data["bonds"])) == [[0, 1], [0, 2]]
    assert (data["worst"], data["shown"]) == (1, [0, 1, 2])
    assert data["atoms"][2]["color"] == "#b0b0b0"
    assert len({atom["color"] for atom in data["atoms"]}) == 3
    at = np.array([atom["at"] for atom in data["atoms"]])
    assert np.linalg.norm(at[0] - at[1]) == pytest.approx(0.96, abs=2e-3)
    assert np.allclose(at[:, 2], 0.0)  # the flat molecule lies in the plane of the screen


def test_a_view_of_a_crystal_is_wrapped_about_the_worst_atom_and_is_not_mirrored():
    rng = np.random.default_rng(1)
    atoms = Atoms("N900", positions=rng.uniform(0, 30, (900, 3)), cell=[30, 30, 30], pbc=True)
    data = view_data(Frame(atoms, 0, rng.uniform(size=900), np.ones(900, dtype=bool)), 5)
    assert len(data["atoms"]) == 400
    at = np.array([atom["at"] for atom in data["atoms"]])
    wanted = atoms.get_distances(5, data["shown"], mic=True, vector=True)
    turn, *_ = np.linalg.lstsq(wanted - wanted.mean(axis=0), at, rcond=None)
    assert np.linalg.det(turn) == pytest.approx(1.0, abs=1e-3)
    assert np.allclose(turn @ turn.T, np.eye(3), atol=1e-3)
