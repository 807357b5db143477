"""The mix of encoder and graph filter in use, stored with the model.

Arrays of an export: graph_filter/offsets, items and weights (the edges by user), and of a filter with a spectrum
graph_filter/eigenvalues and vectors; its meta has the kind, the exponent and the share.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from music_map.errors import DamagedFileError, UserError
from music_map.graph_filter.choose import Choice
from music_map.graph_filter.operator import FilteredGraph, Spectrum, UserRows, matrix_of
from music_map.graph_filter.scores import MixedScorer
from music_map.graph_filter.settings import KINDS
from music_map.model.propagation import choose_backend
from music_map.storage import ArrayFolder, ArrayWriter, check_form, check_rows

_META = "graph_filter"
_FORM = {"kind": str, "exponent": float, "share": float}


class KeptFilter(NamedTuple):
    """A filter with its share, and what it is made from.

    Attributes:
      choice: kind, exponent and share.
      rows: the graph's edges, by user.
      spectrum: None for a kind without one.
    """

    choice: Choice
    rows: UserRows
    spectrum: Spectrum | None

    @classmethod
    def of(cls, graph: FilteredGraph, choice: Choice) -> KeptFilter:
        """A filter of a graph."""
        needed = KINDS.find(choice.kind).response is not None
        return cls(choice, graph.rows, graph.spectrum if needed else None)

    def save(self, writer: ArrayWriter) -> dict[str, Any]:
        """Writes the arrays; returns what belongs into the folder's meta."""
        arrays = self.rows._asdict() | ({} if self.spectrum is None else self.spectrum._asdict())
        for name, array in arrays.items():
            writer.write(f"{_META}/{name}", np.asarray(array))
        return {_META: self.choice._asdict()}

    @classmethod
    def load(cls, store: ArrayFolder, *, num_users: int, num_items: int) -> KeptFilter | None:
        """Reads what `save` wrote; None if the model has no filter. Raises DamagedFileError."""
        meta = store.meta.get(_META)
        if meta is None:
            return None
        path = store.folder / "manifest.json"
        check_form(meta, _FORM, path)
        try:
            kind = KINDS.find(meta["kind"])
        except UserError as e:
            raise DamagedFileError(f"{path}: {e}; export the run again") from e
        rows = UserRows(*(store.load(f"{_META}/{name}") for name in UserRows._fields))
        check_rows(store, f"{_META}/items", rows.offsets, rows.items, rows=num_users, limit=num_items)
        fits = rows.weights.shape == rows.items.shape
        spectrum = None
        if kind.response is not None:
            spectrum = Spectrum(*(store.load(f"{_META}/{name}") for name in Spectrum._fields))
            fits &= spectrum.vectors.shape == (num_items, len(spectrum.eigenvalues))
        if not fits:
            raise DamagedFileError(f"{store.folder / _META}: arrays do not fit each other; export the run again")
        return cls(Choice(**meta), rows, spectrum)

    def scorer(self, users: np.ndarray, items: np.ndarray) -> MixedScorer:
        """The mix with embeddings of the encoder, float32 [U, d] and [I, d]; songs beyond the graph's have no edge."""
        backend, num_items, known = choose_backend("auto"), len(items), self.spectrum
        matrix = matrix_of(self.rows, num_items, backend=backend)
        rank = 0 if known is None else len(known.eigenvalues)
        if known is not None:
            known = known._replace(vectors=np.pad(known.vectors, ((0, num_items - len(known.vectors)), (0, 0))))
        graph = FilteredGraph(self.rows, matrix, num_items, rank, 0, backend, known=known)
        operator = graph.operator(self.choice.kind, self.choice.exponent)
        return MixedScorer(users, items, self.rows, operator, self.choice.share, backend=backend)
