"""The scorers of users alone in use: the recency head at the present of the logs, and the graph filter.

Users are asked about in groups of few sizes, each with its own programs (`sizes_of_groups`). A group is read once, for
its ranks and for the reasons.

Arrays of an export: moment/* (all songs as of the present), histories/* (the events of all users); its meta has the
weights of both heads and the length of the attention.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
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
from music_map.recency.scores import FEATURES, Embeddings, Reading, RecencyScorer, Weights
from music_map.rows import offsets_of, row_of_each, select
from music_map.storage import ArrayFolder, ArrayWriter, check_form

# Users of a group are filled up to one of these numbers, or to the most that a scorer takes: few programs are compiled.
_SIZES = (1, 8)
# Songs ranked by one program: so many, or 4, 16, ... times as many.
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


@dataclasses.dataclass(frozen=True, eq=False)
class UserGroup:
    """Users who are asked about together.

    Attributes:
      scorer: of all songs.
      users: int32, the scorer's users that are read; those beyond the first `count` fill up.
      count: B, the users that are asked about.
      size: users of the program.
      some: makes a group of some of the users, by their places.
    """

    scorer: RecencyScorer | MixedScorer
    users: np.ndarray
    count: int
    size: int
    some: Callable[[np.ndarray], UserGroup]

    @functools.cached_property
    def reading(self) -> Reading | np.ndarray:
        """What the scorer ranks for."""
        if isinstance(self.scorer, RecencyScorer):
            return self.scorer.reading(self.users, size=self.size)
        return np.append(self.users, np.repeat(self.users[:1], self.size - len(self.users)))

    def rank(self, k: int, *, allowed: np.ndarray, out: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The k best songs of each user.

        Args:
          k: songs wanted.
          allowed: bool [I], songs that may be ranked for any user.
          out: for each user the songs left out, int [n].

        Returns:
          songs int32 [B, k], -1 beyond the last, and scores float32 [B, k]; fewer where there are no k songs.
        """
        num_items, k = self.scorer.num_items, min(k, self.scorer.num_items)
        width = _width(k, num_items)
        rows = np.repeat(np.arange(self.count), [len(songs) for songs in out])
        withheld = Pairs.of(rows, np.concatenate(out), num_rows=self.size, num_items=num_items)
        found, scores = self.scorer.rank(self.reading, width, allowed=allowed, out=withheld)
        return found[: self.count, :k], scores[: self.count, :k]

    def scores(self) -> np.ndarray:
        """Scores of all songs for the users, float32 [B, I]."""
        return np.asarray(self.scorer(self.users[: self.count]))

    @property
    def head(self) -> RecencyScorer | None:
        """The recency head, if the scores are its."""
        return self.scorer if isinstance(self.scorer, RecencyScorer) else None


def sizes_of_groups(count: int, most: int) -> list[int]:
    """The sizes of groups, one after the other, of `count` users in all for a scorer that takes `most` at once.

    Each group has more than half as many users as its program, so that little is computed for nobody.
    """
    sizes, found = _sizes(most), []
    while count:
        above, below = _filled(count, most), max(size for size in sizes if size <= count)
        found.append(min(count, above) if 2 * count > above else below)
        count -= found[-1]
    return found


def _width(k: int, num_items: int) -> int:
    width = _LEAST_K
    while width < k:
        width *= 4
    return min(width, num_items)


def _filled(count: int, most: int) -> int:
    return next((size for size in _sizes(most) if count <= size), most)


def _sizes(most: int) -> list[int]:
    """The sizes of programs for a scorer that takes `most` users at once."""
    return [*(size for size in _SIZES if size < most), most]


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
        self._take({True: heard, False: heard.at(weights=head.unheard)})

    def _take(self, scorers: Mapping[bool, RecencyScorer]) -> None:
        self._scorers = scorers
        # Guests are asked about at a later second, all of one batch at the same.
        self._later = functools.lru_cache(4)(lambda now, heard: scorers[heard].at(now))

    @property
    def now(self) -> int:
        """The present, seconds."""
        return self._scorers[True].now

    def events_of(self, user: int) -> Histories:
        """The events of one user in the logs, as the only one of Histories."""
        return self._scorers[True].histories.select(np.array([user]))

    @property
    def most(self) -> int:
        """See `recommender.UserScorer`."""
        return self._scorers[True].block_size

    def group(self, users: np.ndarray, *, heard: bool) -> UserGroup:
        """See `recommender.UserScorer`."""
        users = np.asarray(users, np.int32)
        some = lambda rows: self.group(users[rows], heard=heard)  # noqa: E731
        return UserGroup(self._scorers[heard], users, len(users), _filled(len(users), self.most), some)

    def hosting(self, guests: Guests, now: int, *, heard: bool) -> UserGroup:
        """See `recommender.UserScorer`."""
        scorer = self._scorers[heard] if now == self.now else self._later(now, heard)
        count, size = len(guests.known), _filled(len(guests.known), self.most)
        some = lambda rows: self.hosting(guests.select(rows), now, heard=heard)  # noqa: E731
        return UserGroup(scorer.hosting(guests.padded(size)), np.arange(size, dtype=np.int32), count, size, some)

    def compile(self, ks: Sequence[int]) -> int:
        """See `recommender.UserScorer`."""
        widths = {_width(k, self._scorers[True].num_items) for k in ks}
        counts = [
            scorer.compile(size, width)
            for scorer in (self._later(self.now + 1, True), self._scorers[False])
            for size in _sizes(self.most)
            for width in sorted(widths)
        ]
        return sum(counts) // len(self._scorers)

    def grown(self, export: Any) -> PresentScorer:
        """The scorer with more songs, of an Export whose first songs are its own."""
        names = export.artist_offsets, export.artists, export.album_offsets, export.albums
        moment = self._scorers[True].moment.grown(len(export.item_embeddings), *names)
        embeddings = self._scorers[True].embeddings._replace(item=jnp.asarray(export.item_embeddings))
        grown = object.__new__(PresentScorer)
        changes = {"moment": moment, "embeddings": embeddings}
        grown._take({heard: scorer.at(**changes) for heard, scorer in self._scorers.items()})
        return grown


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

    @property
    def most(self) -> int:
        """See `recommender.UserScorer`."""
        return self._scorer.block_size

    def group(self, users: np.ndarray, *, heard: bool) -> UserGroup:
        """See `recommender.UserScorer`; the mix is the same with and without heard songs."""
        users = np.asarray(users, np.int32)
        some = lambda rows: self.group(users[rows], heard=heard)  # noqa: E731
        return UserGroup(self._scorer, users, len(users), _filled(len(users), self.most), some)

    def hosting(self, guests: Guests, now: int, *, heard: bool) -> UserGroup:
        """See `recommender.UserScorer`: the edges of guests' events are added to those of known users."""
        asked, count, size = guests, len(guests.known), _filled(len(guests.known), self.most)
        guests, num_items = guests.padded(size), self._scorer.num_items
        nothing = Withdrawals(*(column[:0] for column in guests.fresh.events()[:4]))
        fresh = chunk_edges(guests.fresh.events(), nothing, self._graph, now=now, num_items=num_items)[0]
        rows, old = self._kept.rows, np.flatnonzero(guests.known >= 0)
        offsets, at = select(rows.offsets, guests.known[old])
        user = np.concatenate([old[row_of_each(offsets)], fresh.user])
        order = np.argsort(user, kind="stable")
        items, weights = (
            np.concatenate(pair)[order] for pair in ((rows.items[at], fresh.item), (rows.weights[at], fresh.weight))
        )
        edges = UserRows(offsets_of(np.bincount(user, minlength=size)), items, weights.astype(np.float32))
        scorer = dataclasses.replace(self._scorer, users=guests.embeddings, rows=edges)
        some = lambda rows: self.hosting(asked.select(rows), now, heard=heard)  # noqa: E731
        return UserGroup(scorer, np.arange(size, dtype=np.int32), count, size, some)

    def compile(self, ks: Sequence[int]) -> int:
        """See `recommender.UserScorer`; the lists of edges are as long as those of the first users."""
        allowed, count = np.ones(self._scorer.num_items, bool), 0
        for size in _sizes(self.most):
            group = self.group(np.arange(min(size, len(self._users))), heard=True)
            for k in ks:
                group.rank(k, allowed=allowed, out=[allowed[:0]] * group.count)
                count += 1
        return count

    def grown(self, export: Any) -> FilterScorer:
        """The scorer with more songs, of an Export whose first songs are its own; they have no edges."""
        return FilterScorer(self._kept, self._users, export.item_embeddings, self._graph)
