"""Rows of sparse matrices."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import sparse

from music_map.rows import offsets_of


def largest(matrix: sparse.csr_array, n: int) -> sparse.csr_array:
    """The n largest positive entries of each row; equal ones by lower column."""
    columns, values, sizes = [], [], []
    for start, end in itertools.pairwise(matrix.indptr):
        column, value = matrix.indices[start:end], matrix.data[start:end]
        column, value = column[value > 0], value[value > 0]
        if len(value) > n:
            bound = np.partition(value, len(value) - n)[len(value) - n]
            above, equal = value > bound, value == bound
            ties = np.sort(column[equal])[: n - int(above.sum())]
            column = np.concatenate([column[above], ties])
            value = np.concatenate([value[above], np.repeat(bound, len(ties))])
        columns.append(column)
        values.append(value)
        sizes.append(len(column))
    offsets = offsets_of(np.array(sizes, np.int64))
    return sparse.csr_array((np.concatenate(values), np.concatenate(columns), offsets), matrix.shape)
