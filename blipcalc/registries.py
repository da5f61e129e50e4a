"""All open sets: things of one kind by name, our own and those that installed packages add by an entry point.

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
    """Classes of one kind; the module of each is imported when it is asked for.

    kind : a word for one of them, such as ``model``
    group : of the entry points
    own : {name: ``module:attribute``} of those that come with blipcalc
    """

    kind: str
    group: str
    own: Mapping[str, str]

    @cached_property
    def places(self) -> dict[str, str]:
        """{name: ``module:attribute``}; names of our own cannot be taken by others."""
        return {entry.name: entry.value for entry in entry_points(group=self.group)} | dict(self.own)

    def names(self) -> list[str]:
        """All of them, our own first."""
        return [*self.own, *sorted(self.places.keys() - self.own.keys())]

    def __getitem__(self, name: str) -> Any:
        """The class of a name.

        raises : ConfigurationError for an unknown name
        """
        if name not in self.places:
            near = get_close_matches(str(name).lower(), self.places, n=1, cutoff=0.0)
            raise ConfigurationError(
                f"unknown {self.kind} {name!r}; did you mean {near[0]!r}? Known: {', '.join(sorted(self.places))}. One of "
                f"another package is there once that package is installed, by its entry point in {self.group!r}"
            )
        module, _, attribute = self.places[name].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def words(self, name: str) -> str:
        """First line of the docstring of a class, read from its file; the module is not imported, so that help is fast."""
        module, _, attribute = self.places[name].partition(":")
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:
            return ""
        tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
        classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == attribute)
        return next((ast.get_docstring(node) or "" for node in classes), "").partition("\n")[0]

    def name_of(self, cls: type) -> str:
        """The name under which a class is registered.

        raises : ConfigurationError for a class that is not
        """
        place = f"{cls.__module__}:{cls.__qualname__}"
        for name, known in self.places.items():
            if known == place:
                return name
        raise ConfigurationError(
            f"{place.replace(':', '.')} is not a registered {self.kind}; known: {', '.join(sorted(self.places))}. Register it by "
            f"an entry point in {self.group!r}"
        )


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

#: methods, by the names that model files give them
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

#: with a limit from a reference run
CRITERIA = Registry(
    "criterion",
    "blipcalc.criteria",
    {
        "trip": "blipcalc.monitor.fitted_criteria:FittedTrip",
        "smoothed": "blipcalc.monitor.fitted_criteria:FittedSmoothed",
        "evidence": "blipcalc.monitor.fitted_criteria:FittedEvidence",
        "distance": "blipcalc.monitor.fitted_criteria:FittedDistance",
    },
)
