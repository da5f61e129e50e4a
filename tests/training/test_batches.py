"""Batches are a function of seed and epoch, and processes share each of them without overlap."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch

from blipcalc.data.labels import labels
from blipcalc.errors import CoincidentAtomsError
from blipcalc.training.batches import collate, labelled_graphs, ordered_batches, shuffled_batches

CUTOFF = 4.0


@pytest.fixture(scope="module")
def frames(small):
    return small.pairs(11, names=("H2O", "CH4"))


@pytest.fixture(scope="module")
def graphs(frames):
    return labelled_graphs(frames, CUTOFF)


def energies(batches) -> list[list[float]]:
    return [batch.energy.tolist() for batch in batches]


def shuffled(graphs, size=4, seed=0, epoch=0, **process) -> list[list[float]]:
    return energies(shuffled_batches(graphs, size, torch.float32, seed=seed, epoch=epoch, **process))


def test_graphs_carry_their_labels(frames, graphs):
    for atoms, graph in zip(frames, graphs, strict=True):
        energy, forces = labels(atoms)
        assert graph.energy.tolist() == [energy]
        assert graph.energy.dtype == torch.float64
        np.testing.assert_array_equal(graph.forces.numpy(), forces)
        torch.testing.assert_close(graph.vectors, graph.edge_vectors(), rtol=0, atol=0)


def test_a_batch_keeps_order_and_puts_labels_beside_their_atoms(frames, graphs):
    batch = collate(graphs[:3], torch.float64)
    assert batch.graph.n_structures == 3
    assert batch.graph.batch.tolist() == [0] * 3 + [1] * 5 + [2] * 3
    np.testing.assert_array_equal(batch.forces.numpy(), np.concatenate([labels(a)[1] for a in frames[:3]]))
    assert batch.energy.tolist() == [labels(a)[0] for a in frames[:3]]
    first = batch.graph.edge_index.max(dim=0).values < 3
    torch.testing.assert_close(batch.graph.vectors[first], graphs[0].vectors, rtol=0, atol=0)


def test_dtype_is_that_of_the_network_but_energies_stay_float64(graphs):
    batch = collate(graphs[:2], torch.float32)
    assert batch.graph.vectors.dtype == batch.forces.dtype == torch.float32
    assert batch.energy.dtype == torch.float64


def test_coincident_atoms_are_refused_when_graphs_are_made(small):
    bad = small.pairs(1)
    bad[0].positions[1] = bad[0].positions[0]
    with pytest.raises(CoincidentAtomsError):
        labelled_graphs(bad, CUTOFF)


def test_seed_and_epoch_give_the_same_batches_and_others_give_others(graphs):
    assert shuffled(graphs) == shuffled(graphs)
    assert shuffled(graphs, epoch=1) != shuffled(graphs)
    assert shuffled(graphs, seed=1) != shuffled(graphs)
    assert shuffled(graphs, seed=0, epoch=1) != shuffled(graphs, seed=1, epoch=0)


def test_the_global_random_stream_neither_matters_nor_moves(graphs):
    before = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        first = shuffled(graphs)
    assert first == shuffled(graphs)
    assert torch.equal(before, torch.get_rng_state())


def test_an_epoch_shows_whole_batches_of_different_frames(graphs):
    batches = shuffled(graphs)
    assert [len(b) for b in batches] == [4, 4]  # eleven frames; the incomplete third batch is dropped
    assert len(set(chain(*batches))) == 8
    seen = {e for epoch in range(12) for batch in shuffled(graphs, epoch=epoch) for e in batch}
    assert len(seen) == len(graphs)  # what one epoch drops another shows


def test_fewer_frames_than_a_batch_are_one_batch(graphs):
    assert [len(b) for b in shuffled(graphs[:3], size=10)] == [3]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_each_batch(graphs, world):
    whole = shuffled(graphs)
    parts = [shuffled(graphs, rank=rank, world=world) for rank in range(world)]
    for k, batch in enumerate(whole):
        pieces = [part[k] for part in parts]
        assert sorted(chain(*pieces)) == sorted(batch)
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_ordered_batches_show_everything_once_and_in_order(frames, graphs):
    batches = energies(ordered_batches(graphs, 4, torch.float32))
    assert [len(b) for b in batches] == [4, 4, 3]
    assert list(chain(*batches)) == [labels(a)[0] for a in frames]
