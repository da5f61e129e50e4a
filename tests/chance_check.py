"""The statistical tests with other seeds, and with one and two threads:  python tests/chance_check.py [--seeds 20] [--slow]

None may be red.  First stages that fail are counted too: tests/chance.py expects that of less than 1 % of all runs of a test.
Prints a table and ends with 1 where a test is red or one fails in its first stage more often than is to be expected.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from scipy.stats import binom

ROOT = Path(__file__).resolve().parents[1]
#: share of first stages that may fail, and how unlikely a count beyond it is
SHARE, RARE = 0.01, 1e-4


def run(threads: int, first: int, seeds: int, rest: list[str]) -> tuple[str, Counter, list[str], list[str]]:
    """(last line of the tests, runs of each, those that failed in their first stage, those that are red)."""
    environment = os.environ | {
        name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
        command += [f"--junitxml={report}", f"--seed-offset={first}", f"--seeds={seeds}", *rest]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if not report.exists():
            raise SystemExit(done.stdout + done.stderr)
        cases = list(ElementTree.parse(report).iter("testcase"))
    names = {case: re.sub(r"\[(\d+)(-|\])", lambda m: "[" if m[2] == "-" else "", case.get("name")) for case in cases}
    named = {case: f"{case.get('classname')}::{name}" for case, name in names.items()}
    second = [named[c] for c in cases if any(p.get("name") == "first stage failed" for p in c.iter("property"))]
    red = [f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("failure") is not None]
    red += [f"{case.get('classname')}::{case.get('name')}" for case in cases if case.find("error") is not None]
    return done.stdout.strip().splitlines()[-1], Counter(named.values()), second, red


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1, help="the suite itself has seed 0")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--slow", action="store_true", help="the slow ones too")
    parser.add_argument("tests", nargs="*", default=["tests"])
    arguments = parser.parse_args()
    marked = "chance and not gpu" if arguments.slow else "chance and not slow and not gpu"
    runs, second, reds = Counter(), Counter(), []
    for threads in arguments.threads:
        began = time.perf_counter()
        said, ran, again, red = run(threads, arguments.first, arguments.seeds, ["-m", marked, *arguments.tests])
        print(f"{threads} threads, {time.perf_counter() - began:.0f} s: {said}", flush=True)
        runs.update(ran)
        second.update(again)
        reds += red
    often = {name: n for name, n in second.items() if n > binom.isf(RARE, runs[name], SHARE)}
    print(f"{sum(runs.values())} runs of {len(runs)} tests, {len(reds)} red, {sum(second.values())} second stages")
    for name, n in second.most_common():
        print(f"  {n} of {runs[name]} first stages: {name}{'  too many' if name in often else ''}")
    for name in reds:
        print(f"  red: {name}")
    return 1 if reds or often else 0


if __name__ == "__main__":
    sys.exit(main())
