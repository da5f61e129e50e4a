"""Targets for what people publish: relaxed structures, barriers, frequencies, lattices, scans, thermal averages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixBondLength, FixedPlane
from fuzz_inputs import ODD, Source, generator, often, one, settings, structure

from blipcalc import BayesianCalculator, average, committee, relax
from blipcalc.files.json_file import json_text
from blipcalc.io import write
from blipcalc.properties import (
    barrier,
    dihedral_scan,
    dimer_scan,
    distance_scan,
    elastic_constants,
    energy_difference,
    equation_of_state,
    phonons,
    vacancy_energy,
    vibrations,
)
from blipcalc.stats.estimate import Estimate

SIGMA, RC = 2.0, 5.0


def argon() -> BayesianCalculator:
    """Two Lennard-Jones draws, whose minima are known."""
    members = [LennardJones(sigma=SIGMA * s, epsilon=e, rc=RC, smooth=True) for s, e in ((1.0, 0.1), (1.003, 0.11))]
    return BayesianCalculator(committee(members), raw=True)


def triangle(source: Source) -> Atoms:
    """Three atoms near their minimum; the third across the line of the first two, or on the other side."""
    r = 2 ** (1 / 6) * SIGMA
    return Atoms("Ar3", [[0, 0, 0], [r, 0, 0], [r / 2, one(source, (1, -1)) * 3**0.5 * r / 2, 0]])


def crystal() -> Atoms:
    """One cell of fcc."""
    return bulk("Ar", "fcc", a=1.54 * SIGMA, cubic=True)


def _odd_atoms(source: Source, sound: Atoms) -> Atoms:
    """Sound ones, rattled, held somewhere, or something else."""
    atoms = structure(source, (18,)) if often(source, 15) else sound
    if atoms is not sound:
        atoms.cell, atoms.pbc = None, False  # the neighbour list of ASE's Lennard-Jones takes a tiny cell for ever
    if len(atoms) > 2 and often(source, 20):
        atoms.set_constraint(
            one(source, (FixAtoms([0]), FixBondLength(0, 1), FixedPlane(0, (0, 0, 1)), FixAtoms(range(len(atoms)))))
        )
    atoms.calc = argon() if often(source, 95) else one(source, (None, LennardJones(sigma=SIGMA, rc=RC)))
    return atoms


def _capped(chosen: dict[str, Any], most: int = 30) -> dict[str, Any]:
    """As many steps as were asked for, up to a limit: a long relaxation is no fault."""
    steps = chosen.get("steps")
    if type(steps) in (int, float) and most < steps < np.inf:
        chosen["steps"] = most
    return chosen


def relaxations(source: Source, tools: Any, folder: Path) -> Any:
    """relax: structures, constraints, cells, settings; networks and committees."""
    sound = {
        "optimizer": one(source, ("BFGS", "FIRE", "LBFGS", "MDMin")), "fmax": 0.01, "z": 0.3, "steps": 30, "error_bars": "auto",
        "cell": False, "pressure_GPa": 0.0, "tolerance": None, "threshold": None, "outside": None, "criteria": (),
        "on_breach": "flag", "options": None,
    }  # fmt: skip
    networks = often(source, 40)
    atoms = structure(source) if networks else _odd_atoms(source, triangle(source) if often(source, 70) else crystal())
    if networks:
        atoms.calc = one(source, tools.calculators)
    else:
        shift = generator(source).normal(scale=0.05, size=(len(atoms), 3))
        if atoms.positions.shape == shift.shape and atoms.positions.dtype == float:
            atoms.positions += shift
    if atoms.pbc.all() and often(source, 50):
        sound["cell"] = one(source, (True, "isotropic", "shape", [True, False, False, False, False, False]))
    chosen = _capped(settings(source, sound))
    chosen["trajectory"] = folder / "path.traj" if often(source, 30) else None
    found = relax(atoms, **chosen)
    json.loads(json_text(found.to_dict()))
    assert found.table()
    assert found.status in ("converged", "noise floor", "steps", "halted")
    return None if found.status == "steps" else [atoms.positions, found.atoms.positions]


def _value(found: Any) -> Any:
    return found.value if isinstance(found, Estimate) else found


def properties(source: Source, tools: Any, folder: Path) -> Any:
    """Barriers, frequencies, phonons, lattices, scans, differences."""
    return one(source, PROPERTIES)(source)


def _barrier(source: Source) -> Any:
    first = triangle(source)
    last = first.copy()
    last.positions[2, 1] *= -1
    sound = {"n_images": 3, "climb": True, "fmax": 0.05, "steps": 10, "relax_ends": True, "reoptimize": False, "project": True,
             "method": "improvedtangent", "spring": 0.1, "interpolation": "linear"}  # fmt: skip
    chosen = _capped(settings(source, sound))
    if type(chosen["n_images"]) in (int, float) and 20 < chosen["n_images"] < np.inf:
        chosen["n_images"] = 3
    ends = [_odd_atoms(source, first), _odd_atoms(source, last)]
    return _value(barrier(ends if often(source, 95) else one(source, ODD), **chosen).forward)


def _vibrations(source: Source) -> Any:
    sound = {
        "at": one(source, ("own", "shared")),
        "project": True,
        "fmax": 1e-3,
        "degenerate_cm": 2.0,
        "positions": None,
    }
    found = vibrations(_odd_atoms(source, triangle(source)), **settings(source, sound))
    return [
        _value(found.frequencies),
        _value(found.zero_point_energy()),
        _value(found.free_energy(one(source, (0, 1, 300.0)))),
    ]


def _phonons(source: Source) -> Any:
    sound = {"supercell": (2, 2, 2), "structures": None, "fmax": 1e-3, "degenerate_cm": 2.0}
    found = phonons(_odd_atoms(source, bulk("Ar", "fcc", a=1.54 * SIGMA)), **settings(source, sound))
    return _value(found.at(one(source, ([[0.5, 0, 0]], [[0, 0, 0.1]], *ODD)))[0])


def _lattice(source: Source) -> Any:
    chosen = {"strain": 0.02, "points": 5, "eos": "birchmurnaghan", "relax_ions": False, "relax_shape": False, "fmax": 0.02,
              "steps": 20, "second_order": False}  # fmt: skip
    chosen = _capped(settings(source, chosen))
    if type(chosen["points"]) in (int, float) and 50 < chosen["points"] < np.inf:
        chosen["points"] = 5
    found = equation_of_state(_odd_atoms(source, crystal()), **chosen)
    return [_value(found.volume), _value(found.bulk_modulus)]


def _elastic(source: Source) -> Any:
    sound = {"clamped": False, "shared_lattice": False, "fmax": 0.02, "steps": 20}
    return _value(elastic_constants(_odd_atoms(source, crystal()), **_capped(settings(source, sound))).tensor)


def _scan(source: Source) -> Any:
    atoms = _odd_atoms(source, triangle(source))
    if often(source, 30):
        return _value(
            dimer_scan(one(source, ("Ar2", "Ar", "", "ArXe", 3)), one(source, ([2.0, 2.5], *ODD)), atoms.calc).energies
        )
    sound = {"distances": [2.0, 2.2], "indices": (0, 1), "relax": False, "zero": "lowest", "moving": None, "steps": 10}
    if often(source, 40):
        sound = {"angles": [0.0, 60.0], **sound, "indices": (0, 1, 2, 3)}
        del sound["distances"]
        atoms = triangle(source) + Atoms("Ar", [[0.0, 1.0, 2.0]])
        atoms.calc = argon()
    scan = dihedral_scan if "angles" in sound else distance_scan
    return _value(scan(atoms, **_capped(settings(source, sound))).energies)


def _difference(source: Source) -> Any:
    whole, calc = crystal(), argon()
    less = whole[1:]
    whole.calc = less.calc = calc
    sound = {"relax": False, "second_order": False, "fmax": 0.02, "steps": 10}
    if often(source, 50):
        chosen = _capped(settings(source, {"index": 0, **sound}))
        return _value(vacancy_energy(_odd_atoms(source, whole), **chosen).energy)
    terms = one(
        source,
        ([(1.0, less), (-0.75, whole)], [(1.0, less)], [(1.0, whole), (-1.0, _odd_atoms(source, crystal()))], *ODD),
    )
    return _value(energy_difference(terms, **_capped(settings(source, {"balanced": True, **sound}))).energy)


PROPERTIES: tuple[Callable[[Source], Any], ...] = (
    _barrier, _vibrations, _phonons, _lattice, _elastic, _scan, _difference,
)  # fmt: skip
SOUND = (
    "energy", "energy_per_atom", "distance:0,1", "angle:0,1,2", "distribution:0,1", "density", "volume", "rdf:Ar-Ar", "msd:Ar",
    "diffusion",
)  # fmt: skip
NAMES = (
    "rdf:Ar-Ar:2.0", "distance:0,9", "rdf:X-Y", "energy:1", "msd:Ar:1e999", "", ":", "rdf:", "distance:0,0",
    len, lambda atoms: np.nan, lambda atoms: None, lambda atoms: "x", lambda atoms: atoms.positions, *ODD,
)  # fmt: skip


def averages(source: Source, tools: Any, folder: Path) -> Any:
    """average: stored frames of which some are odd, names, settings."""
    rng, calc, frames, periodic = generator(source), argon(), [], often(source, 40)
    for step in range(one(source, (0, 1, 10, 60, 60, 60, 60))):
        atoms = crystal() if periodic else triangle(source)
        atoms.rattle(0.02, rng=rng)
        atoms.info.update(step=step, time_fs=10.0 * step)
        atoms.calc = calc
        frames.append(atoms)
    if frames and often(source, 20):
        frames[source.whole(0, len(frames) - 1)] = _odd_atoms(source, triangle(source))
    run: Any = frames
    if frames and often(source, 30):
        run = folder / one(source, ("run.traj", "run.xyz"))
        write(run, frames)
    sound = {"method": one(source, ("auto", "cea", "reweight")), "temperature_K": 300.0, "calculator": argon(), "discard": 0.1,
             "batch": 16}  # fmt: skip
    observable = one(source, SOUND) if often(source, 70) else one(source, NAMES)
    found = average(run if often(source, 95) else one(source, ODD), observable, **settings(source, sound, most=1))
    json.loads(json_text(found.to_dict()))
    return [found.value, found.model_error, found.sampling_error]
