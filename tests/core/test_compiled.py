"""What is compiled is compared with the plain function, and refused by name where it is wrong."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from blipcalc.core import compiled
from blipcalc.core.compiled import Checked, check_equal, through_compiler
from blipcalc.core.graph import Graph
from blipcalc.errors import CompilationError
from blipcalc.nn.scatter import gather_rows, segment_sum
from blipcalc.process import plain_state
from blipcalc.training.steps import step_function

ABOUT = {"what": "a function", "remedy": "do without"}


def test_differences_that_are_found():
    one, nan = torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.nan])
    check_equal({"a": one, "b": nan}, {"a": one + 1e-9, "b": nan}, 1e-8, **ABOUT)
    for other in (torch.tensor([1.0, 2.1]), nan, torch.tensor([0.0, 0.0])):
        with pytest.raises(CompilationError, match=r"a function differs .* b by .*: do without"):
            check_equal({"a": one, "b": one}, {"a": one, "b": other}, 1e-8, **ABOUT)


class Output(NamedTuple):
    energy: Tensor
    forces: Tensor
    penalty: Tensor | None = None


def of_weights(weights, x):
    """Two results of two weights; the second weight has a small derivative."""
    return Output((weights["a"] * x.sin()).sum(), weights["a"] * x.cos() + 1e-2 * weights["b"] * x)


class _WrongDerivative(torch.autograd.Function):
    """The same values, and twice the derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return 2.0 * gradient


#: compilers by what they get wrong
COMPILERS = {
    "nothing": lambda results: results,
    "energy": lambda results: [1.001 * results[0], *results[1:]],
    "forces": lambda results: [results[0], results[1].roll(1), *results[2:]],
    "the derivative of energy": lambda results: [_WrongDerivative.apply(results[0]), results[1]],
    "the derivative of forces": lambda results: [results[0], _WrongDerivative.apply(results[1])],
    "not a number": lambda results: [results[0], results[1] * torch.nan],
}


@pytest.fixture
def compiler(monkeypatch):
    """(name) -> a compiler of that kind stands in for that of torch; returns the list of what it compiled."""

    def install(name):
        made = []

        def compile_graph(module, inputs, options):
            made.append(options)
            return lambda *args: COMPILERS[name](list(module(*args)))

        monkeypatch.setattr(compiled, "compile_graph", compile_graph)
        torch._dynamo.reset()
        return made

    return install


def arguments(n=4):
    weights = {"a": torch.tensor(1.5, requires_grad=True), "b": torch.tensor(0.5, requires_grad=True)}
    return weights, torch.linspace(0.1, 2.0, n, dtype=torch.float32)


@pytest.mark.parametrize("name", COMPILERS)
def test_a_wrong_compiled_function_is_refused_at_its_first_call(compiler, name):
    compiler(name)
    function = Checked(of_weights, **ABOUT)
    if name == "nothing":
        assert torch.equal(function(*arguments()).forces, of_weights(*arguments()).forces)
        return
    with pytest.raises(CompilationError, match="forces" if name == "not a number" else name):
        function(*arguments())


def test_a_default_dtype_of_the_process_changes_nothing_that_is_compiled(compiler):
    """A mode stands for the dtype of a clean process; the compiler must not stumble over it."""

    def made(weights, x):
        return Output((weights["a"] * torch.ones(3) * 0.5).sum(), weights["a"] * x)

    compiler("nothing")
    torch.set_default_dtype(torch.float64)
    try:
        with plain_state():
            assert Checked(made, **ABOUT)(*arguments()).energy.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_whatever_is_compiled_anew_is_compared_anew(compiler, monkeypatch):
    made, compared = compiler("nothing"), []
    function = Checked(of_weights, **ABOUT)
    monkeypatch.setattr(function, "_compare", compared.append)
    for n in (4, 4, 4, 1, 1):  # one row is another function to the compiler
        function(*arguments(n))
        assert len(compared) == len(made)
    assert len(made) == 2


@pytest.mark.parametrize("kind", ["draws", "members"])
def test_a_training_step_is_compared_too(compiler, make_blip, draw, make_backbone, molecule, kind):
    model = make_blip() if kind == "draws" else make_backbone()
    if kind == "draws":
        overrides = dict(draw(model, 2).overrides)
    else:
        overrides = {n: torch.stack([p.detach(), 1.1 * p.detach()]) for n, p in model.named_parameters()}
    tensors = Graph.from_atoms(molecule, model.cutoff).tensors(torch.float64)
    compiler("forces")
    step = step_function(model, stacked=True, compiled=True)
    with pytest.raises(CompilationError, match="compiled training step differs from the plain function: forces by"):
        step(dict(model.named_parameters()), overrides, *tensors)


def gradients_of_draws(vectors, weights, x, source, target):
    """The gradient by vectors of K stacked functions of rows that differ between the draws, gathered and summed twice."""

    def energy(vectors, weights):
        y = x * weights
        for _ in range(2):
            y = segment_sum(torch.tanh(gather_rows(y, source) * vectors[:, :1]), target, len(x)) * weights
        return y.square().sum()

    return torch.func.vmap(torch.func.grad(energy), in_dims=(None, 0))(vectors, weights)


def inputs():
    generator = torch.Generator().manual_seed(0)
    floats = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((20, 3), (3, 4), (5, 4)))
    return (*floats, *(torch.randint(0, 5, (20,), generator=generator) for _ in range(2)))


@pytest.mark.slow
def test_rows_of_several_draws_are_not_summed_into_one_buffer():
    found = through_compiler(gradients_of_draws, dynamic=False)(*inputs())
    torch.testing.assert_close(found, gradients_of_draws(*inputs()), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_control_the_compiler_alone_sums_them_into_one_buffer():
    """Why graphs are changed before the compiler sees them."""
    if not torch.__version__.startswith("2.13."):
        pytest.skip("known of torch 2.13")
    torch._dynamo.reset()
    found = torch.compile(gradients_of_draws)(*inputs())
    assert (found - gradients_of_draws(*inputs())).abs().max() > 0.1
