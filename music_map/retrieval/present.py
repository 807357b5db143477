"""The scorers of users alone in use: the recency head at the present of the logs, and the graph filter.

Arrays of an export: moment/* (all songs as of the present), histories/* (the events of all users); its meta has the
weights of both heads and the length of the attention.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from music_map.errors import DamagedFileError
from music_map.evaluation.pairs import Pairs
from music_map.graph.settings import GraphSettings
from music_map.graph.weights import chunk_edges
from music_map.graph_filter.kept import KeptFilter
from music_map.graph_filter.operator import UserRows
from music_map.graph_filter.scores import MixedScorer
from music_map.preprocess.dataset import Withdrawals
from music_map.recency.guests import Guests, no_events
from music_map.recency.history import Histories
from music_map.recency.moment import Moment
from music_map.recency.scores import FEATURES, Embeddings, RecencyScorer, Weights
from music_map.rows import offsets_of, row_of_each, select
from music_map.storage import ArrayFolder, ArrayWriter, check_form

# Batches are padded to one of these numbers of users, so that few programs are compiled.
_SIZES = (1, 8, 64, 512)
# Songs ranked by one program at least.
_LEAST_K = 16
_META = "recency"
_FORM = {"latest_length": int, "heard": {str: float}, "unheard": {str: float}}


@dataclasses.dataclass(frozen=True)
class Head:
    """The data of the recency head besides embeddings.

    Attributes:
      heard, unheard: weights for use with and without heard songs among the recommended.
      moment: of all songs.
      histories: of all users.
      latest_length: number of songs that the attention reads.
    """

    heard: Weights
    unheard: Weights
    moment: Moment
    histories: Histories
    latest_length: int

    def save(self, writer: ArrayWriter) -> dict[str, Any]:
        """Writes the arrays; returns what belongs into the folder's meta."""
        self.moment.save(writer)
        self.histories.save(writer)
        return {_META: {"latest_length": self.latest_length, "heard": dict(self.heard), "unheard": dict(self.unheard)}}

    @classmethod
    def load(cls, store: ArrayFolder) -> Head | None:
        """Reads what `save` wrote; None if the run has no head. Raises DamagedFileError."""
        meta = store.meta.get(_META)
        if meta is None:
            return None
        path = store.folder / "manifest.json"
        check_form(meta, _FORM, path)
        for name in ("heard", "unheard"):
            if unknown := meta[name].keys() - set(FEATURES):
                raise DamagedFileError(
                    f"{path}: the recency head has no feature {min(unknown)!r}; export the run again"
                )
        moment, histories = Moment.load(store), Histories.load(store)
        return cls(meta["heard"], meta["unheard"], moment, histories, meta["latest_length"])


class PresentScorer:
    """Ranks all songs for users as of the present, or later; a `recommender.UserScorer`.

    Args:
      head: of the run.
      user_embeddings, item_embeddings: of the encoder, float32 [U, d] and [I, d].
      now: seconds, not before the head's moment; None: that moment.

    Raises:
      UserError: `now` is earlier than the head's moment.
    """

    def __init__(self, head: Head, user_embeddings: np.ndarray, item_embeddings: np.ndarray, *, now: int | None = None):
        heard = RecencyScorer(
            Embeddings(user_embeddings, item_embeddings),
            head.heard,
            head.moment,
            head.histories,
            latest_length=head.latest_length,
            now=now,
        )
        self._scorers: Mapping[bool, RecencyScorer] = {True: heard, False: heard.at(weights=head.unheard)}

    @property
    def now(self) -> int:
        """The present, seconds."""
        return self._scorers[True].now

    def events_of(self, user: int) -> Histories:
        """The events of one user in the logs, as the only one of Histories."""
        return self._scorers[True].histories.select(np.array([user]))

    def hosting(self, guests: Guests, now: int) -> PresentScorer:
        """The scorer of guests, users 0..B - 1, as of `now`, not before the present."""
        hosted = object.__new__(PresentScorer)
        hosted._scorers = {heard: scorer.hosting(guests, now=now) for heard, scorer in self._scorers.items()}
        return hosted

    def rank(
        self, users: np.ndarray, k: int, *, allowed: np.ndarray, out: Sequence[np.ndarray], heard: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `recommender.UserScorer`."""
        return _rank_in_blocks(self._scorers[heard], users, k, allowed=allowed, out=out)

    def grown(self, export: Any) -> PresentScorer:
        """The scorer with more songs, of an Export whose first songs are its own."""
        names = export.artist_offsets, export.artists, export.album_offsets, export.albums
        moment = self._scorers[True].moment.grown(len(export.item_embeddings), *names)
        embeddings = self._scorers[True].embeddings._replace(item=jnp.asarray(export.item_embeddings))
        grown = object.__new__(PresentScorer)
        grown._scorers = {
            heard: scorer.at(moment=moment, embeddings=embeddings) for heard, scorer in self._scorers.items()
        }
        return grown

    def scorer(self, *, heard: bool) -> RecencyScorer:
        """The scorer with the weights for use with, or without, heard songs."""
        return self._scorers[heard]

    def contributions(self, user: int, songs: np.ndarray, *, heard: bool) -> dict[str, np.ndarray]:
        """The contribution of each part of the head to the scores of songs: float32 [n] each."""
        return self._scorers[heard].contributions(user, songs)


class FilterScorer:
    """Ranks all songs for users by the mix of encoder and graph filter; a `recommender.UserScorer`.

    Args:
      kept: the filter with the graph's edges.
      user_embeddings, item_embeddings: of the encoder, float32 [U, d] and [I, d].
      graph: how events of guests become edges.
    """

    def __init__(
        self, kept: KeptFilter, user_embeddings: np.ndarray, item_embeddings: np.ndarray, graph: GraphSettings
    ):
        self._kept, self._graph, self._users = kept, graph, user_embeddings
        self._scorer = kept.scorer(user_embeddings, item_embeddings)

    @property
    def now(self) -> int:
        """The present, seconds; the filter knows no times."""
        return 0

    def events_of(self, user: int) -> Histories:
        """No events: the filter knows edges alone."""
        del user
        return no_events(1)

    def hosting(self, guests: Guests, now: int) -> FilterScorer:
        """The scorer of guests, users 0..B - 1, with the edges of their events added to those of known users."""
        count, num_items = len(guests.known), self._scorer.num_items
        nothing = Withdrawals(*(column[:0] for column in guests.fresh.events()[:4]))
        fresh = chunk_edges(guests.fresh.events(), nothing, self._graph, now=now, num_items=num_items)[0]
        rows, old = self._kept.rows, np.flatnonzero(guests.known >= 0)
        offsets, at = select(rows.offsets, guests.known[old])
        user = np.concatenate([old[row_of_each(offsets)], fresh.user])
        order = np.argsort(user, kind="stable")
        items, weights = (
            np.concatenate(pair)[order] for pair in ((rows.items[at], fresh.item), (rows.weights[at], fresh.weight))
        )
        ends = offsets_of(np.bincount(user, minlength=count))
        hosted = copy.copy(self)
        hosted._scorer = dataclasses.replace(
            self._scorer, users=guests.embeddings, rows=UserRows(ends, items, weights.astype(np.float32))
        )
        return hosted

    def grown(self, export: Any) -> FilterScorer:
        """The scorer with more songs, of an Export whose first songs are its own; they have no edges."""
        return FilterScorer(self._kept, self._users, export.item_embeddings, self._graph)

    def scorer(self, *, heard: bool) -> MixedScorer:
        """The mix, which is the same with and without heard songs."""
        del heard
        return self._scorer

    def rank(
        self, users: np.ndarray, k: int, *, allowed: np.ndarray, out: Sequence[np.ndarray], heard: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """See `recommender.UserScorer`; the mix is the same with and without heard songs."""
        del heard
        return _rank_in_blocks(self._scorer, users, k, allowed=allowed, out=out)


def _rank_in_blocks(
    scorer: RecencyScorer | MixedScorer, users: np.ndarray, k: int, *, allowed: np.ndarray, out: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    most = min(scorer.block_size, _SIZES[-1])
    k = min(k, scorer.num_items)
    # A program for each power of two, not for each k.
    width = min(max(1 << (k - 1).bit_length(), _LEAST_K), scorer.num_items)
    items, scores = np.full((len(users), k), -1, np.int32), np.zeros((len(users), k), np.float32)
    for start in range(0, len(users), most):
        block, without = users[start : start + most], out[start : start + most]
        size = min(next(size for size in _SIZES if size >= len(block)), most)
        filled = np.concatenate([block, np.repeat(block[:1], size - len(block))])
        rows = np.repeat(np.arange(len(without)), [len(songs) for songs in without])
        withheld = Pairs.of(rows, np.concatenate(without), num_rows=size, num_items=scorer.num_items)
        found, score = scorer.rank(filled, width, allowed=allowed, out=withheld)
        items[start : start + most], scores[start : start + most] = found[: len(block), :k], score[: len(block), :k]
    return items, scores
