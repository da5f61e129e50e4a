"""Computation independent of the state of the process, which belongs to the user.

Other packages of this field set torch's default dtype to float64 for the whole process, a user may call from within
``torch.autocast`` or ``torch.inference_mode``, and numpy may be set to raise on underflow.  :func:`plain_state` sets
torch and numpy to the state of a new process, for one call and one thread.  It is used wherever networks and tensors are made,
evaluated, trained and fitted.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

#: functions that make floating-point tensors of the default dtype
_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.eye, torch.linspace, torch.logspace}
_MAKERS |= {torch.scalar_tensor}
#: functions that do so for Python floats only, with the name and position of those
_OF_VALUES = {torch.full: ("fill_value", 1), torch.tensor: ("data", 0), torch.as_tensor: ("data", 0)}
#: numpy's own defaults
_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}


class _Float32(TorchFunctionMode):
    """Make tensors without a given dtype float32, in this thread alone; the default dtype would affect all threads."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") is None and (func in _MAKERS or _is_of_floats(func, args, kwargs)):
            kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)


def _is_of_floats(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether the values of a new tensor are Python floats; numpy numbers and tensors have their own dtype."""
    if func not in _OF_VALUES:
        return False
    name, position = _OF_VALUES[func]
    value = kwargs.get(name, args[position] if len(args) > position else None)
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return type(value) is float


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Import packages with deprecated parts, even where the process turns warnings into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


@contextlib.contextmanager
def plain_state() -> Iterator[None]:
    """Compute as in a new process, then restore the state.

    In between: default dtype float32, default device ``cpu``, gradients on, no autocast, no inference mode, numpy's own treatment
    of floating-point errors.

    It is a context and a decorator, for the thread that enters it.  Settings that it keeps (deterministic algorithms, threads)
    change numbers by rounding only.
    """
    with contextlib.ExitStack() as stack:
        # entered only where needed: a call in MD takes a few ms, and each of these some µs and more inside
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if not torch.is_grad_enabled():
            stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        made = torch.empty(0)
        if made.device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if made.dtype != torch.float32:
            stack.enter_context(_Float32())
        if np.geterr() != _ERRORS:
            stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        yield
