"""Named errors; each message says what was expected, what was found, and how to correct it."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

from blipcalc.text import printable


class BlipcalcError(Exception):
    """Base class of all errors that this package defines."""

    def __str__(self) -> str:
        """Return the message in printable characters, since it may quote a file."""
        return printable(super().__str__())


class BlipcalcWarning(UserWarning):
    """Base class of all warnings of this package."""

    def __str__(self) -> str:
        """Return the message in printable characters, since it may quote a file."""
        return printable(super().__str__())


class StructureError(BlipcalcError, ValueError):
    """A structure cannot be evaluated."""


class EmptyStructureError(StructureError):
    """A structure without atoms."""


class NonFiniteError(StructureError):
    """NaN or infinity in inputs or results."""


class ExtentError(StructureError):
    """Lengths too large for the resolution of numbers, or a cell so small that its images cannot be counted."""


class CoincidentAtomsError(StructureError):
    """Two atoms at the same place."""


class SingularCellError(StructureError):
    """A periodic direction whose cell vector is missing or linearly dependent."""


class ZeroVarianceError(StructureError):
    """All variances are exactly zero although the values are not: all draws are equal, and their spread is no error bar."""


class UnknownElementError(StructureError):
    """An element outside those of the model."""


class DrawsError(BlipcalcError, ValueError):
    """Posterior draws that do not fit the model, or that the posterior cannot give."""


class ConfigurationError(BlipcalcError, ValueError):
    """A setting that is unknown, missing or contradictory."""


class CalculatorResultError(BlipcalcError, ValueError):
    """A calculator gave a property of a shape or type other than ASE's."""


class NotEvaluatedError(BlipcalcError, ValueError):
    """A required quantity was not evaluated."""


class DataError(BlipcalcError, ValueError):
    """A data set that cannot be used for training or evaluation."""


class MissingLabelsError(DataError):
    """Energies or forces are missing."""


class NonFiniteLabelsError(DataError):
    """NaN or infinite labels or positions in a data set."""


class UnknownKeyError(DataError):
    """A missing property or file key."""


class MixedElementsError(DataError):
    """Data sets whose elements do not agree with each other or with the model."""


class EmptySplitError(DataError):
    """A split that leaves one part without frames."""


class DuplicateFramesWarning(BlipcalcWarning):
    """Frames that occur more than once; all but the first of each are left out of a split."""


class UnitsWarning(BlipcalcWarning):
    """Labels whose forces are not on the gradient scale of their energies."""


class ModelFileError(BlipcalcError, ValueError):
    """A model file that cannot be used."""


class DamagedFileError(ModelFileError):
    """A truncated file, or one whose content does not match its hash."""


class SchemaError(ModelFileError):
    """A manifest of another schema, or one with missing, unknown or wrong fields."""


class NonFiniteWeightsError(ModelFileError):
    """NaN or infinite values among the stored tensors."""


class ChangedRandomStreamError(ModelFileError):
    """Draws from the stored seed differ from those of the calibration."""


class ChangedFileError(ModelFileError):
    """A model file that has changed since it was loaded, so that saving would lose another writer's changes."""


class CalibrationError(BlipcalcError, ValueError):
    """A calibration that cannot be fitted, or does not belong to the requested settings."""


class TrainingDataReusedError(CalibrationError):
    """Calibration frames on which the model was trained."""


class UncalibratedWarning(BlipcalcWarning):
    """Variances are raw posterior values: no calibration belongs to these settings."""


class SilentForcesWarning(BlipcalcWarning):
    """Forces that vanish by symmetry carry no information on error bars, and are left out."""


class TrainingWarning(BlipcalcWarning):
    """A training that ended unexpectedly, or resumed from an older state than expected."""


class CheckpointWarning(BlipcalcWarning):
    """A damaged checkpoint replaced by the previous one, or a resumed run that is not bit-identical."""


class BusyError(BlipcalcError, RuntimeError):
    """Another run, process or thread writes to this place."""


class RunFolderBusyError(BusyError):
    """Another process runs in this folder."""


class FileBusyError(BusyError):
    """Another run, process or thread writes to this file."""


class NoLockWarning(BlipcalcWarning):
    """A file system without locks: two processes can write to one file."""


class MonitorError(BlipcalcError, ValueError):
    """A monitor that cannot be used with the given atoms or calculator."""


class LimitsError(BlipcalcError, ValueError):
    """Limits of a monitor that the reference does not support, or that belong to something else."""


class SamplingError(BlipcalcError, ValueError):
    """Too few independent frames for an average, or for reweighting to another surface."""


class CompilationError(BlipcalcError, RuntimeError):
    """A model that cannot be compiled here, or whose compiled results differ from the plain ones."""


class IncomparableError(BlipcalcError, ValueError):
    """Structures whose energies cannot be subtracted draw by draw."""


class RelaxationError(BlipcalcError, ValueError):
    """A structure or a path that does not determine the derived quantity."""


class NotStationaryError(RelaxationError):
    """A structure that is no minimum or saddle, or from which none is reached."""


class ImaginaryModesError(RelaxationError):
    """Thermodynamics with imaginary modes, which are no oscillators."""


class NoBarrierError(RelaxationError):
    """A path whose highest image is one of its ends."""


class NotConvergedError(RelaxationError):
    """A relaxation that did not converge within its steps."""


class NotAMinimumError(RelaxationError):
    """A structure near which the surface has no minimum."""


class OutOfRangeError(BlipcalcError, ValueError):
    """A minimum or a barrier outside the examined range."""


def warn_user(message: str, category: type[Warning]) -> None:
    """Give a warning at the user's line, below all frames of this package and of its decorators."""
    own, level, frame = (str(Path(__file__).parent), contextlib.__file__), 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
