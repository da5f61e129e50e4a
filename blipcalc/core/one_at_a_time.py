"""Locks for calculators and predictors, which keep state between calls: one thread at a time.

ASE's calculators keep the structure and the results of the last request.  Where a second thread calls between the comparison of
the structure and the return of the result, the first thread gets results of another structure.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, Self, TypeVar, runtime_checkable

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator
else:
    Calculator = object

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Owner = TypeVar("Owner", bound="WithLock")


@runtime_checkable
class Lockable(Protocol):
    """An object that one thread uses at a time."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Lock of the object; the thread that holds it may take it again."""
        ...


class WithLock:
    """Base class with one lock per object; copies and pickles get new locks."""

    lock: AbstractContextManager[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Create the object with its lock, before any other use."""
        made = super().__new__(cls)
        made.lock = threading.RLock()
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Return all attributes but the lock."""
        return {name: value for name, value in vars(self).items() if name != "lock"}


def one_at_a_time(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """Wrap a method of an object :class:`WithLock` to run under the lock."""

    @functools.wraps(method)
    def locked(self: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked


class AnswersOneAtATime(WithLock, Calculator):
    """Base of calculators whose requests run under the lock; it precedes ASE's ``Calculator`` among the bases.

    Methods of a calculator that change it, above all ``calculate``, need the decorator :func:`one_at_a_time`.
    """

    @one_at_a_time
    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """Return a copy of one result; see ASE."""
        return super().get_property(name, atoms, allow_calculation)

    @one_at_a_time
    def calculate_properties(self, atoms: Any, properties: Any) -> Any:
        """Compute several results anew; see ASE."""
        return super().calculate_properties(atoms, properties)

    @one_at_a_time
    def reset(self) -> None:
        """Clear all results."""
        super().reset()
