"""Compiled functions that are compared with the plain ones before anybody relies on them."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType

import torch
from torch import Tensor
from torch._dynamo import lookup_backend, maybe_mark_dynamic
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InvalidCxxCompiler
from torch.utils._pytree import tree_leaves

from blipcalc.core.graph import GraphTensors
from blipcalc.errors import CompilationError

#: largest difference of a compiled result from the plain one, relative to the largest entry: rounding in another order
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
#: the axis of atoms or pairs
AXES = {"vectors": 0, "edge_index": 1, "species": 0, "batch": 0}


class Compiled:
    """``torch.compile`` of ``function(state, overrides, graph)``; every new kernel is checked on the input it was made for.

    The numbers of atoms and of pairs are symbols, so that one kernel (and one entry of the disk cache) serves all molecules;
    the number of structures is a constant until a second one is met.  Each instance compiles a code object of its own, so
    that the limit on recompilations is not shared between models.

    Parameters
    ----------
    function : returns nested tuples of tensors
    """

    def __init__(self, function: Callable[..., object]) -> None:
        self._plain = function
        self._is_new = False

        def run(state: dict[str, Tensor], overrides: dict[str, Tensor], graph: GraphTensors) -> object:
            return function(state, overrides, graph)

        own = FunctionType(run.__code__.replace(), run.__globals__, run.__name__, None, run.__closure__)
        self._fast = torch.compile(own, backend=self._backend, fullgraph=True)

    def _backend(self, module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        self._is_new = True
        return lookup_backend("inductor")(module, inputs)

    def __call__(self, state: dict[str, Tensor], overrides: dict[str, Tensor], graph: GraphTensors) -> object:
        """The result of the function.

        Raises
        ------
        CompilationError : no working C++ compiler, a function that cannot be compiled, or a compiled result that is wrong
        """
        if graph.vectors.shape[0] < 2:
            return self._plain(state, overrides, graph)
        graph = _marked(graph)
        self._is_new = False
        try:
            result = self._fast(state, overrides, graph)
        except (TorchDynamoException, InvalidCxxCompiler) as error:
            raise _explained(error) from error
        if self._is_new:
            check_equal(result, self._plain(state, overrides, graph), TOLERANCE[graph.vectors.dtype])
        return result


def _marked(graph: GraphTensors) -> GraphTensors:
    """The same tensors (aliases: marks are attributes), N and E marked as symbols."""
    marked = graph._replace(**{name: getattr(graph, name).detach() for name in AXES})
    for name, axis in AXES.items():
        maybe_mark_dynamic(getattr(marked, name), axis)
    return marked


def check_equal(result: object, expected: object, tolerance: float) -> None:
    """Compare nested tuples of tensors; raises :class:`CompilationError` where they differ by more than rounding."""
    for one, other in zip(tree_leaves(result), tree_leaves(expected), strict=True):
        scale = other.nan_to_num().abs().max()
        difference = (one.nan_to_num() - other.nan_to_num()).abs().max()
        if not difference <= tolerance * scale or not torch.equal(one.isnan(), other.isnan()):
            raise CompilationError(
                f"a compiled result differs from the plain one by {difference:.1e} where values reach {scale:.1e} (allowed: "
                f"{tolerance:.0e} of that); torch {torch.__version__} compiles this model wrongly, use strategy='vmap'"
            )


def _explained(error: Exception) -> CompilationError:
    """What to do about an error of the compiler."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InvalidCxxCompiler):
        cause = getattr(cause, "inner_exception", None) or cause.__cause__
    if isinstance(cause, InvalidCxxCompiler):
        return CompilationError(
            "strategy='compiled' needs a C++ compiler and found none that works; install one (g++ or clang++), name it in the "
            "environment variable CXX, or use strategy='vmap'"
        )
    return CompilationError(f"this model cannot be compiled, use strategy='vmap' or 'loop': {str(error)[:400]}")
