"""Gathered rows, and sums over segments: definition, derivatives, every way of batching, compiled, and repeated."""

from __future__ import annotations

import itertools

import pytest
import torch

from blipcalc.nn.scatter import gather_rows, segment_sum

N = 4
INDEX = torch.tensor([2, 0, 2, 3, 3, 3])


def rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tail", [(), (3,), (3, 2)])
def test_equals_its_definition(tail):
    x = rows(len(INDEX), *tail)
    y = segment_sum(x, INDEX, N)
    expected = torch.stack([x[a == INDEX].sum(0) for a in range(N)])
    torch.testing.assert_close(y, expected, rtol=1e-15, atol=1e-15)
    assert torch.equal(y[1], torch.zeros(tail, dtype=x.dtype))


def test_no_rows_give_zeros():
    empty = segment_sum(rows(0, 3), torch.empty(0, dtype=torch.int64), N)
    assert torch.equal(empty, torch.zeros(N, 3, dtype=torch.float64))


def test_first_and_second_derivatives():
    x = rows(len(INDEX), 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: segment_sum(t, INDEX, N), (x,))
    assert torch.autograd.gradgradcheck(lambda t: segment_sum(t, INDEX, N).sin(), (x,))


@pytest.mark.parametrize(
    ("x_dim", "index_dim"), [dims for dims in itertools.product((None, 0, 1), repeat=2) if dims != (None, None)]
)
def test_every_way_of_batching(x_dim, index_dim):
    k = 3
    x = rows(len(INDEX), 2) if x_dim is None else rows(k, len(INDEX), 2).movedim(0, x_dim)
    index = INDEX
    if index_dim is not None:
        index = torch.stack([INDEX.roll(i) for i in range(k)]).movedim(0, index_dim)
    y = torch.func.vmap(lambda t, i: segment_sum(t, i, N), in_dims=(x_dim, index_dim))(x, index)
    for i in range(k):
        one = x if x_dim is None else x.select(x_dim, i)
        which = index if index_dim is None else index.select(index_dim, i)
        torch.testing.assert_close(y[i], segment_sum(one, which, N), rtol=1e-15, atol=1e-15)


def stacked_gradient(total):
    """The gradient of K stacked functions: messages along pairs, gathered, summed, gathered again."""

    def energy(weights, x, source, target):
        y = total(x[source] * weights, target, len(x))
        return (torch.tanh(y)[source] * weights).sum()

    return torch.func.vmap(torch.func.grad(energy), in_dims=(0, None, None, None))


def difference_when_compiled(total):
    weights, x = rows(3, 20, 4), rows(5, 4, seed=1)
    source, target = (torch.randint(0, 5, (20,), generator=torch.Generator().manual_seed(s)) for s in (2, 3))
    function = stacked_gradient(total)
    compiled = torch.compile(function, fullgraph=True)
    return (compiled(weights, x, source, target) - function(weights, x, source, target)).abs().max().item()


@pytest.mark.slow
def test_compiled_is_right_where_only_the_rows_are_batched():
    assert difference_when_compiled(segment_sum) < 1e-14


@pytest.mark.slow
def test_control_an_accumulator_without_the_axis_of_draws_is_compiled_wrongly():
    """Why the accumulator is made from the rows."""

    def plain(x, index, n):
        return torch.zeros(n, x.shape[-1], dtype=x.dtype).index_add(0, index, x)

    if not torch.__version__.startswith("2.13."):
        pytest.skip("known of torch 2.13")
    assert difference_when_compiled(plain) > 1e-3


@pytest.fixture
def two_threads():
    """Atomic additions need more than one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_gathered_rows_and_their_derivatives():
    x = rows(N, 2).requires_grad_()
    assert torch.equal(gather_rows(x, INDEX), x[INDEX])
    assert torch.autograd.gradcheck(lambda t: gather_rows(t, INDEX), (x,))
    assert torch.autograd.gradgradcheck(lambda t: gather_rows(t, INDEX).sin(), (x,))


def test_gradient_of_gathered_rows_repeats_bit_for_bit(two_threads):
    """In float32 on two threads, where that of ``x[index]`` does not (the control)."""
    index = torch.randint(0, 192, (10_000,), generator=torch.Generator().manual_seed(1))
    weights = rows(10_000, 384).float()

    def gradients(gather):
        for _ in range(8):
            x = torch.ones(192, 384, requires_grad=True)
            (gather(x, index) * weights).sum().backward()
            yield x.grad

    first, *others = gradients(gather_rows)
    assert all(torch.equal(first, other) for other in others)
    first, *others = gradients(lambda x, index: x[index])
    assert not all(torch.equal(first, other) for other in others)
