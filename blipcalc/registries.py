"""Registries of models, posterior methods and other kinds by name: our own, and those of installed packages.

[project.entry-points."blipcalc.posteriors"]
mine = "my_package.posterior:MyPosterior"
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from blipcalc.errors import ConfigurationError


@dataclass(frozen=True)
class Registry:
    """Classes or functions of one kind by name; the module of each is imported on first use.

    kind : word for one entry, such as ``model``
    group : of the entry points
    own : {name: ``module:attribute``} of blipcalc's own entries
    """

    kind: str
    group: str
    own: Mapping[str, str]

    @cached_property
    def places(self) -> dict[str, str]:
        """{name: ``module:attribute``} of all entries; other packages cannot take our own names."""
        return {entry.name: entry.value for entry in entry_points(group=self.group)} | dict(self.own)

    def names(self) -> list[str]:
        """Return all names, our own first."""
        return [*self.own, *sorted(self.places.keys() - self.own.keys())]

    def package(self, name: str) -> str:
        """Return name and version of the distribution that adds a name, for model files; empty for our own."""
        found = [entry.dist for entry in entry_points(group=self.group, name=name) if name not in self.own]
        return f"{found[0].name} {found[0].version}" if found and found[0] is not None else ""

    def __getitem__(self, name: str) -> Any:
        """Return the class or function of a name; raises :class:`ConfigurationError` for an unknown one."""
        return self.get(name)

    def get(self, name: str, package: str = "") -> Any:
        """Return the class or function of a name.

        package : the distribution named in a file, see :meth:`package`
        raises : ConfigurationError for an unknown name
        """
        if name not in self.places:
            if package:
                raise ConfigurationError(
                    f"the {self.kind} {name!r} is of {package}, which is not installed: install it"
                )
            near = get_close_matches(str(name).lower(), self.places, n=1, cutoff=0.0)
            raise ConfigurationError(
                f"unknown {self.kind} {name!r}; did you mean {near[0]!r}? Known: {', '.join(sorted(self.places))}. One of "
                f"another package is there once that package is installed, by its entry point in {self.group!r}"
            )
        module, _, attribute = self.places[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def words(self, name: str) -> str:
        """Return the first line of an entry's docstring, read from its file without an import, so that help is fast."""
        module, _, attribute = self.places[name].partition(":")
        source = _source_of(module)
        if source is None:
            return ""
        tree = ast.parse(source.read_text(encoding="utf-8"))
        kinds = (ast.ClassDef, ast.FunctionDef)
        found_here = (node for node in tree.body if isinstance(node, kinds) and node.name == attribute)
        return next((ast.get_docstring(node) or "" for node in found_here), "").partition("\n")[0]

    def help(self) -> str:
        """Return every name with its first line, a paragraph each, for the help of a command."""
        lines = []
        for name in self.names():
            words = self.words(name).replace("`", "").rstrip(".")
            lines.append(words if words.startswith(name) else f"{name}: {words}" if words else name)
        return "\n\n".join(lines)

    def name_of(self, cls: type) -> str:
        """Return the name under which a class is registered.

        raises : ConfigurationError for a class that is not registered
        """
        place = f"{cls.__module__}:{cls.__qualname__}"
        for name, known in self.places.items():
            if known == place:
                return name
        raise ConfigurationError(
            f"{place.replace(':', '.')} is not a registered {self.kind}; known: {', '.join(sorted(self.places))}. Register it by "
            f"an entry point in {self.group!r}"
        )


def _source_of(module: str) -> Path | None:
    """Return the source file of a module without importing its packages; None where there is none."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin) if not rest else Path(spec.origin).parent.joinpath(*rest).with_suffix(".py")
    path = path if path.is_file() else path.with_suffix("") / "__init__.py"
    return path if path.is_file() else None


MODELS = Registry(
    "model",
    "blipcalc.models",
    {
        "painn": "blipcalc.models.painn:PaiNN",
        "race": "blipcalc.models.race:Race",
        "schnet": "blipcalc.models.schnet:SchNet",
        "visnet": "blipcalc.models.visnet:ViSNet",
    },
)

#: posterior methods, by the names that model files use
POSTERIORS = Registry(
    "posterior",
    "blipcalc.posteriors",
    {
        "point": "blipcalc.posteriors.point:Point",
        "blip": "blipcalc.posteriors.blip:Blip",
        "ensemble": "blipcalc.posteriors.ensemble:Ensemble",
        "mixture": "blipcalc.posteriors.ensemble:Mixture",
        "swag": "blipcalc.posteriors.swag:Swag",
        "ivon": "blipcalc.posteriors.ivon:Ivon",
        "laplace": "blipcalc.posteriors.laplace:Laplace",
        "laplace-all": "blipcalc.posteriors.laplace:LaplaceAll",
        "laplace-kron": "blipcalc.posteriors.laplace:LaplaceKron",
        "llpr": "blipcalc.posteriors.llpr:Llpr",
        "pops": "blipcalc.posteriors.pops:Pops",
    },
)

#: criteria with a limit from a reference run
CRITERIA = Registry(
    "criterion",
    "blipcalc.criteria",
    {
        "trip": "blipcalc.monitor.fitted_criteria:FittedInstantThreshold",
        "smoothed": "blipcalc.monitor.fitted_criteria:FittedSmoothedThreshold",
        "evidence": "blipcalc.monitor.fitted_criteria:FittedEDetector",
        "distance": "blipcalc.monitor.fitted_criteria:FittedLatentDistance",
    },
)

#: observables averaged over the frames of a run
OBSERVABLES = Registry(
    "observable",
    "blipcalc.properties",
    {
        "energy": "blipcalc.averages.named_observables:named_energy",
        "energy_per_atom": "blipcalc.averages.named_observables:named_energy_per_atom",
        "volume": "blipcalc.averages.named_observables:named_volume",
        "density": "blipcalc.averages.named_observables:named_density",
        "distance": "blipcalc.averages.named_observables:named_distance",
        "angle": "blipcalc.averages.named_observables:named_angle",
        "distribution": "blipcalc.averages.named_observables:named_distribution",
        "rdf": "blipcalc.averages.named_observables:named_rdf",
        "msd": "blipcalc.averages.named_observables:named_msd",
        "diffusion": "blipcalc.averages.named_observables:named_diffusion",
    },
)
