"""Kernels: traced, flat lists of tensor operations for one molecule and one set of draws.

``vmap(grad(energy))`` is traced once per kernel with constant weights, draws and species.  Whatever depends on constants alone
is computed at once; the rest runs without autograd and without ``vmap``, from pairs and their vectors to gradient and energies,
or from directions to second derivatives along them.  Draws in several chunks are an input too, so that one kernel serves all.
Tracing takes about a second.  ``compiled`` passes the list to ``torch.compile``, which fuses it (a C++ compiler, a minute or more
per kernel).

A kernel belongs to the atoms of a graph and to a *padded* number of pairs: pairs are added at exactly the cutoff, where every
model gives zero, and removed from the result.  Every new kernel is compared with the plain result on its first input.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

from blipcalc.core.compiled import TOLERANCE, check_equal, compiler_named, through_compiler
from blipcalc.core.graph import GraphTensors

#: (derivatives (…, E, 3), (energy (…, S), energies (…, N), and the variances of heads where there are any; or nothing))
Output = tuple[Tensor, tuple[Tensor, ...]]
#: function of (state, overrides, graph), and possibly of directions (…, E, 3)
Function = Callable[..., Output]

#: of ``torch.compile``: one thread, since with two it fails on sums over pairs (torch 2.13, an assertion in its scheduler)
OPTIONS = {"cpp.threads": 1}
#: for messages: name and remedy, and the names of the results in order
KERNEL, REMEDY = "a kernel", "use strategy='vmap'"
RESULTS = ("derivatives", "energy", "energies", "energy_var", "forces_cov")
#: number of kernels kept per function; a run of one molecule needs a few, for its numbers of pairs
KEPT = 16


class Kernels:
    """A function with kernels for its graphs and draws.

    Parameters
    ----------
    function : the plain function of (state, overrides, graph)
    cutoff : of the model, Å
    compiled : whether to pass the traced operations to ``torch.compile``
    """

    def __init__(self, function: Function, cutoff: float, *, compiled: bool) -> None:
        self._plain, self._cutoff, self._compiled = function, cutoff, compiled
        # kernels with the tensors they were made for, kept alive so that no other tensor gets their addresses
        self._kernels: OrderedDict[tuple[object, ...], tuple[Callable[..., tuple[Tensor, ...]], object]] = OrderedDict()

    def __call__(
        self,
        state: Mapping[str, Tensor],
        overrides: Mapping[str, Tensor],
        graph: GraphTensors,
        *directions: Tensor,
        constant: bool = True,
    ) -> Output:
        """Return the result of the function.

        directions : (…, E, 3), for a function of directions
        constant : whether every call has the same draws; False where other draws of the same shapes follow

        Raises
        ------
        CompilationError : no working C++ compiler, or a wrong kernel
        """
        n_pairs = graph.vectors.shape[0]
        if n_pairs < 2:
            return self._plain(state, overrides, graph, *directions)
        padded = padded_pairs(graph, self._cutoff)
        missing = padded.vectors.shape[0] - n_pairs
        along = tuple(torch.nn.functional.pad(given, (0, 0, 0, missing)) for given in directions)
        key = (
            padded.vectors.shape[0],
            graph.n_structures,
            graph.species.cpu().numpy().tobytes(),
            graph.batch.cpu().numpy().tobytes(),
            tuple((value.data_ptr(), value._version) for value in state.values()),
            tuple(
                (value.data_ptr(), value._version, value.shape) if constant else (name, value.shape)
                for name, value in overrides.items()
            ),
            tuple(given.shape for given in along),
        )
        inputs = (padded.vectors, padded.edge_index, *along, *(() if constant else overrides.values()))
        if key in self._kernels:
            self._kernels.move_to_end(key)
            return _run(self._kernels[key][0], inputs, n_pairs)
        kernel = self._made(state, overrides, padded, inputs, len(along))
        result = _run(kernel, inputs, n_pairs)
        expected = self._plain(state, overrides, graph, *directions)
        check_equal(_named(result), _named(expected), TOLERANCE[graph.vectors.dtype], what=KERNEL, remedy=REMEDY)
        self._kernels[key] = kernel, (state, overrides if constant else None)
        while len(self._kernels) > KEPT:
            self._kernels.popitem(last=False)
        return result

    def _made(
        self,
        state: Mapping[str, Tensor],
        overrides: Mapping[str, Tensor],
        graph: GraphTensors,
        inputs: tuple[Tensor, ...],
        n_along: int,
    ) -> Callable[..., tuple[Tensor, ...]]:
        def run(vectors: Tensor, edge_index: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
            here = graph._replace(vectors=vectors, edge_index=edge_index)
            along, draws = others[:n_along], others[n_along:]
            given = dict(zip(overrides, draws, strict=True)) if draws else overrides
            gradient, values = self._plain(state, given, here, *along)
            return gradient, *values

        # functional, since an in-place operation on a constant would change it for the next call
        module = make_fx(torch.func.functionalize(run))(*inputs)
        folded = fold_constants(module)
        return through_compiler(folded, dynamic=False, fullgraph=True, options=OPTIONS) if self._compiled else folded


def _run(kernel: Callable[..., tuple[Tensor, ...]], inputs: tuple[Tensor, ...], n_pairs: int) -> Output:
    """Return the result of a kernel without the padding."""
    with compiler_named("use strategy='traced'"):
        gradient, *values = kernel(*inputs)
    return gradient[..., :n_pairs, :], tuple(values)


def _named(output: Output) -> dict[str, Tensor]:
    """Return results by name, for messages."""
    return dict(zip(RESULTS, (output[0], *output[1]), strict=False))


def fold_constants(module: GraphModule) -> GraphModule:
    """Compute all that depends on constants alone, and remove unused nodes."""
    graph, values = module.graph, {}
    for node in list(graph.nodes):
        if node.op == "get_attr":
            values[node] = getattr(module, node.target)
        elif node.op == "call_function":
            if node.target is torch.ops.aten.detach.default:
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)
            elif all(source in values for source in node.all_input_nodes):
                args, kwargs = (map_arg(part, values.__getitem__) for part in (node.args, node.kwargs))
                values[node] = node.target(*args, **kwargs)
    for k, (node, value) in enumerate(values.items()):
        leaves = any(user not in values for user in node.users)
        if node.op == "call_function" and isinstance(value, Tensor) and leaves:
            _as_constant(module, node, value, f"constant_{k}")
    graph.eliminate_dead_code()
    graph.lint()
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _as_constant(module: GraphModule, node: Node, value: Tensor, name: str) -> None:
    """Replace a node by a buffer."""
    module.register_buffer(name, value.contiguous())
    with module.graph.inserting_before(node):
        node.replace_all_uses_with(module.graph.get_attr(name))


def padded_number(n_pairs: int) -> int:
    """Return a number of pairs at most an eighth larger, so that many numbers share few sizes."""
    return n_pairs + -n_pairs % max(1, 2 ** (n_pairs.bit_length() - 4))


def padded_pairs(graph: GraphTensors, cutoff: float) -> GraphTensors:
    """Return the graph with :func:`padded_number` of pairs; those added join atom 0 with itself at the cutoff."""
    n_pairs = graph.vectors.shape[0]
    missing = padded_number(n_pairs) - n_pairs
    if not missing:
        return graph
    vectors = graph.vectors.new_zeros(missing, 3)
    vectors[:, 0] = cutoff
    edge_index = torch.cat([graph.edge_index, graph.edge_index.new_zeros(2, missing)], dim=1)
    return graph._replace(vectors=torch.cat([graph.vectors, vectors]), edge_index=edge_index)
