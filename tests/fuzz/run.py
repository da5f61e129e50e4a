"""Very many inputs, one seed each:  python tests/fuzz/run.py --inputs 100000

Prints for each target how many inputs ended with a result and how many with which named error, and every kind of defect with
the seed of its first input;  --target files --seed 17  gives that one input again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import faulthandler
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fuzz_inputs import Drawn, Seeded
from fuzz_property import Outcome, outcome
from fuzz_targets import TARGETS, Tools

__all__ = ["BY_NAME", "Drawn", "Seeded", "outcome", "sweep", "tidy", "try_one", "workshop"]
BY_NAME = {target.__name__: target for target in TARGETS}


@contextlib.contextmanager
def workshop() -> Iterator[tuple[Tools, Path]]:
    """The tools, and a folder for inputs."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as name:
        (Path(name) / "tools").mkdir()
        (Path(name) / "input").mkdir()
        yield Tools(Path(name) / "tools"), Path(name) / "input"


def try_one(name: str, seed: int, tools: Tools, folder: Path) -> Outcome:
    """One input of a target."""
    found = outcome(lambda: BY_NAME[name](Seeded(list(BY_NAME).index(name), seed), tools, folder), folder)
    tidy(folder)
    return found


def tidy(folder: Path) -> None:
    """Empty it for the next input."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def sweep(
    n: int, first: int = 0, only: str | None = None, done: Callable[[str, collections.Counter], None] | None = None
) -> dict[str, collections.Counter]:
    """{target: {outcome: inputs}} of about so many inputs; defects under their own words, with the seed of the first.

    done : told of each target as it is finished
    """
    counts: dict[str, collections.Counter] = {}
    with workshop() as (tools, folder):
        for target, share in TARGETS.items():
            name, seen = target.__name__, {}
            if only not in (None, name):
                continue
            counts[name] = collections.Counter()
            for seed in range(first, first + (n if only else max(1, n * share // 1000))):
                found = try_one(name, seed, tools, folder)
                kind = found.kind
                if found.defect:
                    key = "".join(c for c in found.defect if not c.isdigit())[:80]
                    kind = seen.setdefault(key, f"DEFECT (seed {seed}): {found.defect}")
                counts[name][kind] += 1
            if done is not None:
                done(name, counts[name])
    return counts


def say(name: str, found: collections.Counter) -> None:
    """Print what became of the inputs of a target."""
    print(f"{name}: {found.total()} inputs")
    for kind, n in found.most_common():
        print(f"    {n:7d}  {kind}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--target", choices=BY_NAME)
    parser.add_argument("--seed", type=int, help="only this one")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if arguments.seed is not None:
        with workshop() as (tools, folder):
            BY_NAME[arguments.target](Seeded(list(BY_NAME).index(arguments.target), arguments.seed), tools, folder)
        return
    began = time.perf_counter()
    faulthandler.register(signal.SIGUSR1)  # where is it?
    counts = sweep(arguments.inputs, arguments.first, arguments.target, say)
    total = sum(found.total() for found in counts.values())
    print(f"{total} inputs in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
