"""Graph of a set of structures, the input of every model.

Edge e points from a *source* atom (the neighbour j) to a *target* atom (the centre i), as in PyG:
``edge_index[0]`` holds sources, ``edge_index[1]`` targets, and

    vectors[e] = positions[source] - positions[target] + shifts[e] @ cell[structure]        (Å)

A model reads the geometry from ``vectors`` alone, so that one derivative with respect to them gives forces and stress
(:mod:`blipcalc.core.forces`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from blipcalc.core.neighbors import NeighborList
from blipcalc.core.validate import check_structure
from blipcalc.errors import ConfigurationError
from blipcalc.process import plain_state, quiet_imports

with quiet_imports():
    from torch_geometric.data import Batch, Data


class GraphTensors(NamedTuple):
    """The part of a :class:`Graph` that a model reads: plain tensors, which pass through ``vmap`` and ``compile``.

    vectors : (E, 3) Å, in the dtype of the model
    edge_index : (2, E) int64, rows (source, target)
    species : (N,) int64 atomic numbers
    batch : (N,) int64, structure of each atom
    n_structures : S
    """

    vectors: Tensor
    edge_index: Tensor
    species: Tensor
    batch: Tensor
    n_structures: int


class Graph(Data):
    """One or more structures with their neighbour pairs.

    positions (N, 3) Å float64 · species (N,) Z · cell (S, 3, 3) Å, rows as in ASE · pbc (S, 3) bool ·
    edge_index (2, E) · shifts (E, 3) cell counts · batch (N,)
    """

    @classmethod
    @plain_state()
    def from_atoms(cls, atoms: Atoms, cutoff: float, neighbors: NeighborList | None = None) -> Graph:
        """Build the graph of one structure.

        Parameters
        ----------
        atoms : the structure; an undefined (zero) cell vector is allowed along an axis that is not periodic
        cutoff : Å
        neighbors : a list with skin to reuse between steps; without one the pairs are searched anew

        Raises
        ------
        EmptyStructureError, NonFiniteError, SingularCellError, CoincidentAtomsError
        ConfigurationError : a neighbour list for another cutoff
        """
        check_structure(atoms)
        neighbors = neighbors or NeighborList(cutoff, skin=0.0)
        if neighbors.cutoff != cutoff:
            raise ConfigurationError(f"the neighbour list is for {neighbors.cutoff} Å, the graph wants {cutoff} Å")
        edge_index, shifts = neighbors.update(atoms.positions, atoms.cell.array, atoms.pbc)
        return cls(
            positions=torch.from_numpy(atoms.positions.astype(np.float64)),
            species=torch.from_numpy(atoms.numbers.astype(np.int64)),
            cell=torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64))[None],
            pbc=torch.from_numpy(np.array(atoms.pbc, dtype=bool))[None],
            edge_index=torch.from_numpy(edge_index),
            shifts=torch.from_numpy(shifts),
            batch=torch.zeros(len(atoms), dtype=torch.int64),
            num_nodes=len(atoms),
        )

    @staticmethod
    @plain_state()
    def collate(graphs: Sequence[Graph]) -> Graph:
        """Join several graphs into one, atoms and pairs in the given order."""
        return Batch.from_data_list(list(graphs))

    @property
    def n_structures(self) -> int:
        """Number of structures S."""
        return int(self.cell.shape[0])

    @property
    def n_atoms(self) -> Tensor:
        """Number of atoms of each structure, (S,)."""
        return torch.bincount(self.batch, minlength=self.n_structures)

    def edge_vectors(self) -> Tensor:
        """Return the vectors (E, 3) from target to source, float64, Å."""
        source, target = self.edge_index
        offsets = torch.einsum("ei,eij->ej", self.shifts.to(self.positions.dtype), self.cell[self.batch[target]])
        return self.positions[source] - self.positions[target] + offsets

    def tensors(self, dtype: torch.dtype, vectors: Tensor | None = None) -> GraphTensors:
        """Return the tensors that a model reads, with vectors in ``dtype``; ``vectors`` replaces them, as by a leaf."""
        if vectors is None:
            vectors = self.edge_vectors().to(dtype)
        return GraphTensors(vectors, self.edge_index, self.species, self.batch, self.n_structures)
