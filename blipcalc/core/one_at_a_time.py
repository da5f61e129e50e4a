"""One thread at a time in an object that remembers: a calculator answers each question as a whole.

ASE's calculators keep the structure and the results of the last question.  Where a second thread asks between "is this the
structure that I know?" and "then this is its result", the first one gets results of another structure.
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
        """Held by the thread that uses it; a thread that holds it may take it again."""
        ...


class WithLock:
    """A lock of its own for every object; copies and pickles get new ones."""

    lock: AbstractContextManager[Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """With a lock, before anything else can be done with it."""
        made = super().__new__(cls)
        made.lock = threading.RLock()
        return made

    def __getstate__(self) -> dict[str, Any]:
        """All attributes but the lock."""
        return {name: value for name, value in vars(self).items() if name != "lock"}


def one_at_a_time(
    method: Callable[Concatenate[Owner, Arguments], Result],
) -> Callable[Concatenate[Owner, Arguments], Result]:
    """The method of an object :class:`WithLock`, run while the thread holds the lock."""

    @functools.wraps(method)
    def locked(self: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with self.lock:
            return method(self, *args, **kwargs)

    return locked


class AnswersOneAtATime(WithLock, Calculator):
    """To be named before ASE's ``Calculator`` among the bases of a calculator: each question is answered under its lock.

    Methods that a calculator defines itself and that change it, ``calculate`` first of all, take :func:`one_at_a_time`.
    """

    @one_at_a_time
    def get_property(self, name: str, atoms: Any = None, allow_calculation: bool = True) -> Any:
        """A copy of one result; see ASE."""
        return super().get_property(name, atoms, allow_calculation)

    @one_at_a_time
    def calculate_properties(self, atoms: Any, properties: Any) -> Any:
        """Several results, computed anew; see ASE."""
        return super().calculate_properties(atoms, properties)

    @one_at_a_time
    def reset(self) -> None:
        """Forget all results."""
        super().reset()
