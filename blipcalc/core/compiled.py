"""``torch.compile`` with workarounds for two faults, and a comparison of every compiled or traced function with the plain one.

Both faults (torch 2.13, CPU) give correct energies and wrong forces of stacked draws:

* Under ``vmap`` the derivative of ``index_select`` sums into zeros that are *expanded* over the draws, one buffer seen K times.
  The compiler turns that sum into one in place (``index_put`` into ``index_put_``), so that the rows of all draws end in that
  buffer; forces are wrong by up to a third.  Every such sum gets its own buffer before compilation.
* The order of operations that needs least memory (``reorder_for_peak_memory``) reads a buffer after it was overwritten: forces
  of a BLIP of two blocks and 32 features on 90 atoms are wrong by 7e-5 of the largest.  That order is switched off.

:class:`Checked` and :class:`~blipcalc.core.kernels.Kernels` compare every compiled function with the plain one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from blipcalc.errors import CompilationError

#: settings of the compiler that avoid the second fault
WITHOUT_FAULT = {"reorder_for_peak_memory": False}
#: largest difference from the plain result by rounding, relative to the largest entry
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
#: eV, eV/Å; lower bound of the largest entry, since rounding does not shrink where large terms cancel
SMALLEST = 0.1
#: the same for derivatives by weights, sums of many terms; a fault changes them by a tenth or more
GRADIENT_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}
#: lower bound of the derivative by one tensor, relative to the largest
SMALL_GRADIENT = 1e-2


def through_compiler(
    function: Callable[..., Any],
    *,
    dynamic: bool,
    fullgraph: bool = False,
    options: Mapping[str, Any] | None = None,
    on_compilation: Callable[[], None] = lambda: None,
) -> Callable[..., Any]:
    """Return the function through ``torch.compile``, which compiles it at its first call.

    dynamic, fullgraph : of ``torch.compile``; options : of the compiler behind it
    on_compilation : called at every compilation
    """

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        on_compilation()
        return compile_graph(module, inputs, dict(options or {}))

    return torch.compile(function, dynamic=dynamic, fullgraph=fullgraph, backend=backend)


def compile_graph(module: torch.fx.GraphModule, inputs: list[Tensor], options: dict[str, Any]) -> Callable[..., Any]:
    """Compile one graph with the compiler of torch."""
    from torch._inductor.compile_fx import compile_fx  # this import takes a second

    patches = options | {"post_grad_custom_pre_pass": _own_accumulators()} | WITHOUT_FAULT
    # it returns a path or weights only when it compiles ahead of time
    return compile_fx(module, inputs, config_patches=patches)  # type: ignore[return-value]


@cache
def _own_accumulators() -> Callable[[torch.fx.Graph], None]:
    """Return the pass over a graph that corrects the first fault."""
    from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files

    sums = (torch.ops.aten.index_put.default, torch.ops.aten._unsafe_index_put.default)

    class OwnAccumulators(CustomGraphPass):
        """Graph pass that copies expanded buffers before rows are added to them."""

        def __call__(self, graph: torch.fx.Graph) -> None:
            for node in [node for node in graph.nodes if node.op == "call_function" and node.target in sums]:
                accumulator = node.args[0]
                value = accumulator.meta["val"]
                if 0 in value.stride():
                    with graph.inserting_before(node):
                        own = graph.call_function(
                            torch.ops.aten.clone.default, (accumulator,), {"memory_format": torch.contiguous_format}
                        )
                    own.meta["val"] = value.new_empty(value.shape)
                    node.update_arg(0, own)

        def uuid(self) -> bytes:
            return get_hash_for_files((__file__,))

    return OwnAccumulators()


class Checked:
    """A compiled function whose results and derivatives are compared with those of the plain function after every compilation.

    Parameters
    ----------
    function : of tensors and containers of them; returns a NamedTuple of tensors and None
    what : name of the function, for the message
    remedy : advice to the user, for the message
    """

    def __init__(self, function: Callable[..., Any], *, what: str, remedy: str) -> None:
        self._plain, self._what, self._remedy = function, what, remedy
        self._compiled = through_compiler(function, dynamic=True, on_compilation=self._note)
        self._is_new = False

    def _note(self) -> None:
        self._is_new = True

    def __call__(self, *args: Any) -> Any:
        """Return the result of the function.

        raises : CompilationError for a missing compiler, or wrong results
        """
        self._is_new = False
        with compiler_named(self._remedy):
            result = self._compiled(*args)
            if self._is_new:
                self._compare(args)
        return result

    def _compare(self, args: tuple[Any, ...]) -> None:
        leaves = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf.requires_grad]
        plain, found = self._plain(*args), self._compiled(*args)
        tensors = {name: value for name, value in plain._asdict().items() if value is not None}
        dtype = min((value.dtype for value in tensors.values()), key=lambda d: torch.finfo(d).bits)
        check = partial(check_equal, what=self._what, remedy=self._remedy)
        check({name: getattr(found, name) for name in tensors}, tensors, TOLERANCE[dtype])
        for name in [name for name, value in tensors.items() if value.requires_grad]:
            weights = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
            # a new result for each, since the first derivative frees the buffers of a compiled one
            own, expected = (
                dict(enumerate(_gradient(getattr(output, name), leaves, weights, keep)))
                for output, keep in ((self._compiled(*args), False), (plain, True))
            )
            largest = max((float(value.abs().max()) for value in expected.values() if value.numel()), default=0.0)
            for k, value in expected.items():
                check(
                    {f"the derivative of {name} by the weights": own[k]},
                    {f"the derivative of {name} by the weights": value},
                    GRADIENT_TOLERANCE[dtype],
                    smallest=SMALL_GRADIENT * largest,
                )


def _gradient(output: Tensor, leaves: list[Tensor], weights: Tensor, keep: bool) -> list[Tensor]:
    """Return the derivatives of a weighted sum of outputs by the leaves; zeros where there is no dependence."""
    return list(
        torch.autograd.grad(
            output, leaves, weights.to(output), retain_graph=keep, materialize_grads=True, allow_unused=True
        )
    )


@contextlib.contextmanager
def compiler_named(remedy: str) -> Iterator[None]:
    """Turn an error of ``torch.compile`` into one that names what is missing."""
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise CompilationError(
            f"torch.compile fails with {_root(error)}. It needs a C++ compiler that works: install one (g++ or clang++), "
            f"or name it in the environment variable CXX; without one {remedy}"
        ) from error


def check_equal(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    tolerance: float,
    *,
    what: str,
    remedy: str,
    smallest: float = SMALLEST,
) -> None:
    """Compare named results with those of the plain function; raises :class:`CompilationError` for more than rounding.

    tolerance : allowed difference, in units of the largest entry of each
    what, remedy : for the message
    smallest : lower bound of the largest entry
    """
    for name, other in expected.items():
        one = found[name].detach()
        if not other.numel() and one.shape == other.shape:
            continue
        scale = max(float(other.detach().nan_to_num().abs().max()), smallest)
        difference = float((one.nan_to_num() - other.detach().nan_to_num()).abs().max())
        if not difference <= tolerance * scale or not torch.equal(one.isnan(), other.isnan()):
            raise CompilationError(
                f"{what} differs from the plain function: {name} by {difference:.1e} where values reach {scale:.1e} "
                f"(allowed: {tolerance:.0e} of that); torch {torch.__version__} compiles it wrongly: {remedy}"
            )


def _root(error: BaseException) -> str:
    """Return type and first line of the innermost error of ``torch.compile``."""
    while (inner := getattr(error, "inner_exception", None) or error.__cause__) is not None:
        error = inner
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
