"""Named errors. Each message says what was expected, what came, and what to do."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path

from blipcalc.text import printable


class BlipcalcError(Exception):
    """Base of every error that this package raises on purpose."""

    def __str__(self) -> str:
        """The message; it may quote a file."""
        return printable(super().__str__())


class BlipcalcWarning(UserWarning):
    """Base of every warning of this package."""

    def __str__(self) -> str:
        """The message; it may quote a file."""
        return printable(super().__str__())


class StructureError(BlipcalcError, ValueError):
    """A structure cannot be evaluated."""


class EmptyStructureError(StructureError):
    """A structure without atoms."""


class NonFiniteError(StructureError):
    """NaN or infinity in what goes in or in what comes out."""


class ExtentError(StructureError):
    """Lengths beyond what numbers can resolve, or a cell so small that its images cannot be counted."""


class CoincidentAtomsError(StructureError):
    """Two atoms at the same place."""


class SingularCellError(StructureError):
    """A periodic direction whose cell vector is missing or linearly dependent."""


class ZeroVarianceError(StructureError):
    """Forces whose variance is exactly zero although they are not: all draws are the same, and their spread is no error bar."""


class UnknownElementError(StructureError):
    """An element that the model was not made for."""


class DrawsError(BlipcalcError, ValueError):
    """Posterior draws that do not fit the model, or that the posterior cannot give."""


class ConfigurationError(BlipcalcError, ValueError):
    """A setting that is unknown, missing or contradictory."""


class CalculatorResultError(BlipcalcError, ValueError):
    """A calculator gave a property of another shape or kind than ASE's."""


class NotEvaluatedError(BlipcalcError, ValueError):
    """A quantity that was needed is not among those that were evaluated."""


class DataError(BlipcalcError, ValueError):
    """A data set that cannot be trained or evaluated on."""


class MissingLabelsError(DataError):
    """Energies or forces are missing."""


class NonFiniteLabelsError(DataError):
    """NaN or infinite labels or positions in a data set."""


class UnknownKeyError(DataError):
    """A property or file key that is not there."""


class MixedElementsError(DataError):
    """Data sets whose elements do not agree with each other or with the model."""


class EmptySplitError(DataError):
    """A split that leaves one part without frames."""


class DuplicateFramesWarning(BlipcalcWarning):
    """Frames that occur more than once; all but the first of each are left out of a split."""


class UnitsWarning(BlipcalcWarning):
    """Labels whose forces are not on the gradient scale of their energies."""


class ModelFileError(BlipcalcError, ValueError):
    """A model file that is refused."""


class DamagedFileError(ModelFileError):
    """A truncated file, or tensors or manifest that do not match their hash."""


class SchemaError(ModelFileError):
    """A manifest of another schema, or one whose fields are missing, unknown or of the wrong kind."""


class NonFiniteWeightsError(ModelFileError):
    """NaN or infinite values among the stored tensors."""


class ChangedRandomStreamError(ModelFileError):
    """Draws made from the stored seed differ from those that the file was calibrated with."""


class ChangedFileError(ModelFileError):
    """A model file that changed since it was loaded, so that saving would lose what somebody else wrote."""


class CalibrationError(BlipcalcError, ValueError):
    """A calibration that cannot be fitted or does not belong to what it is asked for."""


class TrainingDataReusedError(CalibrationError):
    """Frames offered for calibration that the model was trained on."""


class UncalibratedWarning(BlipcalcWarning):
    """Variances are raw posterior values: no calibration belongs to these settings."""


class SilentForcesWarning(BlipcalcWarning):
    """Forces that vanish by symmetry say nothing of error bars, and are left out."""


class TrainingWarning(BlipcalcWarning):
    """A training ended otherwise than it should, or went on from something older than expected."""


class CheckpointWarning(BlipcalcWarning):
    """A checkpoint was damaged, and the one before it is used; or a run that goes on is not the same to the last bit."""


class BusyError(BlipcalcError, RuntimeError):
    """Another run, process or thread writes to this place."""


class RunFolderBusyError(BusyError):
    """Another process runs in this folder."""


class FileBusyError(BusyError):
    """Another run, process or thread writes to this file."""


class NoLockWarning(BlipcalcWarning):
    """A file system without locks: two processes can write to one file."""


class MonitorError(BlipcalcError, ValueError):
    """A monitor that cannot watch what it is given."""


class LimitsError(BlipcalcError, ValueError):
    """Limits of a guard that the reference cannot carry, or that belong to something else."""


class SamplingError(BlipcalcError, ValueError):
    """Too few independent frames for an average, or for the weights that lead to another surface."""


class CompilationError(BlipcalcError, RuntimeError):
    """A model that cannot be compiled here, or whose compiled results differ from the plain ones."""


class IncomparableError(BlipcalcError, ValueError):
    """Structures whose energies cannot be subtracted draw by draw."""


class RelaxationError(BlipcalcError, ValueError):
    """A structure or a path from which a derived quantity cannot be worked out."""


class NotStationaryError(RelaxationError):
    """A structure that is no minimum or saddle, or from which none is reached."""


class ImaginaryModesError(RelaxationError):
    """Thermodynamics of modes that are no oscillators."""


class NoBarrierError(RelaxationError):
    """A path whose highest image is one of its ends."""


class NotConvergedError(RelaxationError):
    """A relaxation that has not arrived within its steps."""


class NotAMinimumError(RelaxationError):
    """A structure whose surface has no minimum there."""


class OutOfRangeError(BlipcalcError, ValueError):
    """A minimum or a barrier that lies outside of the range that was looked at."""


def warn_user(message: str, category: type[Warning]) -> None:
    """A warning that points at the line of the user, whatever of this package and of its decorators lies in between."""
    own, level, frame = (str(Path(__file__).parent), contextlib.__file__), 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
