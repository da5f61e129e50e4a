"""Run folder with two generations of checkpoints, the identity of the run, and a lock for one process."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from blipcalc.errors import CheckpointWarning, ConfigurationError, ModelFileError, SchemaError, warn_user
from blipcalc.files.locks import held
from blipcalc.files.safetensors_file import read_sealed, write_sealed
from blipcalc.settings import Settings, checked

#: the two generations of checkpoints in a run folder
NEWEST, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"


@dataclass(frozen=True)
class State:
    """State from which a run continues as if it had not stopped.

    tensors : {kind: {name: tensor}}
    figures : plain values: epoch, step, seconds, …
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    figures: Mapping[str, Any]

    def of(self, kind: str) -> Mapping[str, Tensor]:
        """Return the tensors of a kind; empty where the run has none."""
        return self.tensors.get(kind, {})


@dataclass
class Checkpoints:
    """Checkpoints of one run.

    folder : of the run
    identity : hash that identifies the run
    settings : as plain values
    may_change : names of settings that may differ from the first ones
    what : kind of run, in words
    belongs_to : contents of the identity, in words
    schema : of the contents of a checkpoint beside tensors; None takes anything
    """

    folder: Path
    identity: str
    settings: Mapping[str, Any]
    may_change: AbstractSet[str]
    what: str = "training"
    belongs_to: str = "network or other data"
    schema: type[Settings] | None = None
    #: a damaged newest checkpoint is overwritten, and never replaces the good previous one
    _newest_is_whole: bool = field(default=False, init=False)

    def save(self, state: State) -> None:
        """Write the newest checkpoint; the last one becomes the previous."""
        tensors = {f"{kind}/{name}": value for kind, part in state.tensors.items() for name, value in part.items()}
        manifest = {"kind": f"{self.what} checkpoint", "config": dict(self.settings), "identity": self.identity}
        path = self.folder / NEWEST
        if self._newest_is_whole and path.exists():
            path.replace(self.folder / PREVIOUS)
        write_sealed(path, tensors, manifest | dict(state.figures))
        self._newest_is_whole = True

    def load(self) -> State | None:
        """Return the state of the newest undamaged checkpoint; None where there is none.

        raises : ConfigurationError for another run in the folder, or other settings; SchemaError for another kind of content
        """
        found = last_checkpoint(self.folder)
        if found is None:
            return None
        tensors, manifest, self._newest_is_whole = found
        if self.schema is not None:
            checked(self.schema, manifest, f"{self.folder} holds no checkpoint of {self.what}", error=SchemaError)
        if manifest.get("identity") != self.identity:
            raise ConfigurationError(
                f"{self.folder} holds a run with another {self.belongs_to} (identity "
                f"{str(manifest.get('identity'))[:12]}…, now {self.identity[:12]}…); give another folder, or remove this one"
            )
        then = manifest["config"]
        changed = {k: (v, then.get(k)) for k, v in self.settings.items() if then.get(k) != v}
        if set(changed) - self.may_change:
            raise ConfigurationError(
                f"{self.folder} holds a run with other settings: {json.dumps(changed)} (now, then); give another folder"
            )
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            kind, _, rest = name.partition("/")
            parts.setdefault(kind, {})[rest] = value
        return State(parts, manifest)


def last_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], bool] | None:
    """Return the newest undamaged checkpoint of a run folder and whether it is the newest file; None where there is none."""
    for name in (NEWEST, PREVIOUS):
        path = folder / name
        if path.exists():
            try:
                return *read_sealed(path), name == NEWEST
            except ModelFileError as error:
                warn_user(f"passed over: {error}", CheckpointWarning)
    return None


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the folder for this process; the lock ends with the process in any case.

    raises : RunFolderBusyError where another process holds it
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ConfigurationError(f"{folder} cannot be a run folder: {error.strerror}; give another") from None
    with held(folder):
        yield
