"""Recommendations for one song, a playlist or a user, with reasons: the scorer behind Python, commands and service.

    recommender = Recommender.load("checkpoints/demo")
    recommender.recommend(songs=[123, 456], k=10)

Queries with songs, with or without a user, use the playlist query. For a user alone, the recency head (if the run has
one) ranks all songs by what fits now.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from music_map.errors import DamagedFileError, UserError
from music_map.playlist.attention import Head, attend, push_away
from music_map.playlist.heads import Heads, from_json, to_json, untrained
from music_map.playlist.space import embed, moments_of
from music_map.retrieval import export as exports
from music_map.retrieval.answers import Answer, Id, Query, Reason, Recommendation
from music_map.retrieval.export import Export, IdTables, UserSongs, popularity_of
from music_map.retrieval.filters import Filters, allowed_songs, choose, filters_of, left_out_for, unknown_in
from music_map.retrieval.index import FOLDER, Index, build_index, choose_backend, installed, load_index
from music_map.retrieval.present import PresentScorer
from music_map.retrieval.search import search_filtered
from music_map.retrieval.settings import RetrievalSettings
from music_map.runfiles import RunFiles
from music_map.settings import from_stored
from music_map.storage import fingerprint
from music_map.unit import unit

# Most songs of a playlist, and most disliked songs that push a query. Programs are compiled for these widths.
MAX_SONGS = 1024
_WIDTHS = (16, 128, MAX_SONGS)
_MOST_DISLIKES = 128
_BATCHES = (1, 8, 64, 512)
# First number of candidates, in multiples of k, from which caps and orders choose a user's songs.
_POOL = 20
# Most songs of a playlist that a recommendation names as reasons.
MOST_REASONS = 10


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """A query in indices.

    Attributes:
      songs: int64 [n], the playlist, each song once, the latest last.
      user: -1: none, or an unknown one.
      pushed: songs that the query is pushed away from: disliked ones, at most _MOST_DISLIKES.
      out: songs not to recommend.
      ordered: whether the order of the songs is that of listening.
      warnings: so far.
    """

    songs: np.ndarray
    user: int
    pushed: np.ndarray
    out: np.ndarray
    ordered: bool
    warnings: list[str]


class UserScorer(Protocol):
    """Ranks all songs for users, such as the recency head."""

    def rank(
        self, users: np.ndarray, k: int, *, allowed: np.ndarray, out: Sequence[np.ndarray], heard: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best songs of each user.

        Args:
          users: int32 [B], user indices.
          k: songs wanted.
          allowed: bool [I], songs that may be ranked for any user.
          out: for each user the songs left out, int [n].
          heard: whether heard songs may be ranked; the weights depend on it.

        Returns:
          songs int32 [B, k], -1 beyond the last, and scores float32 [B, k].
        """


def _padded(count: int, sizes: Sequence[int]) -> int:
    return next((size for size in sizes if size >= count), sizes[-1])


@functools.partial(jax.jit)
def _queries(
    vectors: jax.Array,
    popularity: jax.Array,
    songs: jax.Array,
    where: jax.Array,
    heads: tuple[Head, Head],
    ordered: jax.Array,
    taste: jax.Array,
    share: jax.Array,
    pushed: jax.Array,
    push_where: jax.Array,
    push: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Queries float32 [B, d] and attention weights float32 [B, n] of padded playlists."""
    rows = vectors[songs]
    made = [attend(rows, where, popularity[songs], head) for head in heads]
    query = jnp.where(ordered[:, None], made[0][0], made[1][0])
    weights = jnp.where(ordered[:, None], made[0][1], made[1][1])
    query = unit((1.0 - share)[:, None] * query + share[:, None] * taste)
    return push_away(query, vectors[pushed], push_where, strength=push), weights


class Recommender:
    """Answers queries over an Export.

    Args:
      export: embeddings and ids.
      index: over the songs' unit embeddings, or a backend to build one with, see `music_map.retrieval.index`.
      heads: of the playlist attention; None: untrained.
      attention_temperature: of untrained heads.
      user_songs: what users heard and dislike; None: nothing is known.
      filters: of queries without filters.
      dislike_push: share of disliked songs' directions that is removed from a query, 0 to 1.
      ids: the logs' own ids and names; None: ids are the numbers.
      user_scorer: ranks for users without songs; None: by the similarity to their embedding.
      identity: fingerprint of what an index is built from.
      step: of the checkpoint.
    """

    def __init__(
        self,
        export: Export,
        *,
        index: Index | str = "auto",
        heads: Heads | None = None,
        attention_temperature: float = 0.1,
        user_songs: UserSongs | None = None,
        filters: Filters | None = None,
        dislike_push: float = 0.5,
        ids: IdTables | None = None,
        user_scorer: UserScorer | None = None,
        identity: str = "",
        step: int = 0,
    ):
        if attention_temperature <= 0:
            raise UserError(f"config.retrieval.attention_temperature={attention_temperature}: must be above 0")
        if not 0.0 <= dislike_push <= 1.0:
            raise UserError(f"config.retrieval.dislike_push={dislike_push}: must be at least 0 and at most 1")
        self.export = export
        self.ids = exports.id_tables(export) if ids is None else ids
        self.user_scorer = user_scorer
        self.identity, self.step = identity, step
        self.dislike_push = dislike_push
        self.filters = filters or Filters()
        self.heads = heads = heads or untrained(attention_temperature)
        self.vectors, self.tastes = in_space(export, heads)
        self.index = build_index(self.vectors, backend=index) if isinstance(index, str) else index
        self._user_songs = user_songs or exports.no_user_songs(len(export.user_ids))
        self._heads = jax.tree.map(jnp.asarray, (heads.ordered, heads.unordered))
        self._push = jnp.float32(dislike_push)
        self._device_vectors = jnp.asarray(self.vectors)
        self._popularity = jnp.asarray(popularity_of(export.listeners))
        # Filters repeat: the songs that they leave are cached.
        self._allowed = functools.lru_cache(maxsize=32)(
            lambda chosen: (allowed_songs(chosen, export, self.ids.songs), unknown_in(chosen, self.ids.songs))
        )

    @classmethod
    def load(cls, workdir: str | Path, *, index: str | None = None, now: int | None = None) -> Recommender:
        """The recommender of a trained run, from its export and its index (built in memory if none is saved).

        Needs neither logs nor training code. `music_map.Recommender` also loads runs whose export is missing or of an
        older version.

        Args:
          workdir: folder of a run of launch/train.py.
          index: backend, in place of the saved index and the configuration's choice.
          now: the present, in seconds, not before that of the logs; None: that of the logs.

        Raises:
          UserError: the run is not trained yet, or its index is another checkpoint's.
          DamagedFileError: a file is missing or damaged; names it.
        """
        workdir = Path(workdir).expanduser()
        folder = workdir / exports.FOLDER
        if not exports.is_current(folder):
            raise UserError(
                f"{folder}: no export of this version there; launch/recommend.py makes it from the best checkpoint, "
                "after launch/train.py"
            )
        files = RunFiles(workdir)
        files.arrays(exports.FOLDER)  # of this run, and no other's
        export, identity = exports.load_export(folder)
        settings = retrieval_settings(workdir)
        heads = load_heads(workdir) or untrained(settings.attention_temperature)
        index_identity = index_fingerprint(identity, heads)
        found: Index | str = choose_backend(index or settings.index, len(export.item_ids))
        # A run trained where ScaNN is installed opens where it is not.
        unusable = settings.index == "auto" and not installed() and (workdir / FOLDER / "scann").is_dir()
        if index is None and (workdir / FOLDER).is_dir() and not unusable:
            files.arrays(FOLDER, remedy="build it again with launch/build_index.py")
            saved, vectors, ids = load_index(workdir / FOLDER, fingerprint=index_identity)
            if vectors.shape[0] != len(export.item_ids) or not np.array_equal(ids, export.item_ids):
                raise DamagedFileError(f"{workdir / FOLDER}: of other songs; build it again with launch/build_index.py")
            # A saved index is used even where "auto" would build another one.
            if settings.index in ("auto", saved.backend):
                found = saved
        if isinstance(found, str):
            found = build_index(in_space(export, heads)[0], backend=found, recall_target=settings.recall_target)
        head = exports.load_head(folder)
        return cls(
            export,
            index=found,
            heads=heads,
            user_songs=exports.load_user_songs(folder),
            filters=filters_of(settings),
            dislike_push=settings.dislike_push,
            ids=exports.load_ids(folder),
            identity=index_identity,
            step=exports.step_of(folder),
            user_scorer=head and PresentScorer(head, export.user_embeddings, export.item_embeddings, now=now),
        )

    def recommend(
        self,
        songs: Sequence[Any] = (),
        *,
        user: Any = None,
        k: int = 10,
        dislikes: Sequence[Any] = (),
        ordered: bool = True,
        exclude: Sequence[Any] = (),
        filters: Filters | None = None,
        user_share: float = 0.3,
    ) -> Answer:
        """The k songs that go best with a playlist, with a user, or with both.

        Args:
          songs, user, dislikes, ordered: see Query; unknown ids are named in the warnings.
          k: songs wanted.
          exclude: songs not to recommend; the query's own songs and disliked ones are always left out.
          filters: in place of the recommender's.
          user_share: 0..1: with songs the query is (1 - user_share) of the playlist and user_share of the user.

        Returns:
          Fewer than k recommendations if the catalogue has no more.

        Raises:
          UserError: nothing to start from (no known song and no known user), too many songs, or k below 1.
        """
        query = Query(tuple(songs), user, tuple(dislikes), ordered)
        (answer,) = self.recommend_batch([query], k=k, exclude=exclude, filters=filters, user_share=user_share)
        if isinstance(answer, UserError):
            raise answer
        return answer

    def recommend_batch(
        self,
        queries: Sequence[Query],
        *,
        k: int = 10,
        exclude: Sequence[Any] = (),
        filters: Filters | None = None,
        user_share: float = 0.3,
        explain: bool = True,
        reasons: int = MOST_REASONS,
    ) -> list[Answer | UserError]:
        """`recommend` for many queries at once; for a query that cannot be answered, the list holds its error.

        Args:
          queries: any number.
          k, exclude, filters, user_share: as for `recommend`.
          explain: whether to give reasons; without, artists, albums and reasons are empty.
          reasons: most songs of the query that a recommendation names.

        Raises:
          UserError: k below 1, or filters that leave no song.
        """
        if k < 1:
            raise UserError(f"k={k}: must be at least 1")
        chosen = self.filters if filters is None else filters
        allowed, noted = self._allowed(chosen)
        excluded, unknown = self.ids.songs.resolve(exclude)
        if unknown:
            noted = [*noted, f"exclude: {self.ids.songs.unknown('song', unknown)}"]
        resolved = [self._resolve(query, chosen, excluded) for query in queries]
        good = [row for row, query in enumerate(resolved) if isinstance(query, _Resolved)]
        answers: list[Answer | UserError] = list(resolved)
        for start in range(0, len(good), _BATCHES[-1]):
            rows = good[start : start + _BATCHES[-1]]
            block = [resolved[row] for row in rows]
            best, weights = self._best(block, k, allowed, chosen, user_share)
            for row, query, weight, (items, scores) in zip(rows, block, weights, best, strict=True):
                query.warnings.extend(noted)
                if len(items) < k:
                    query.warnings.append(f"only {len(items)} of {k} songs: the catalogue has no more candidates")
                songs = self._explained(items, scores, query.songs, weight, explain, reasons)
                answers[row] = Answer(songs, query.warnings)
        return answers

    def _best(
        self, queries: Sequence[_Resolved], k: int, allowed: np.ndarray, filters: Filters, user_share: float
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[np.ndarray]]:
        """Songs and scores of each query, and the attention weights of its playlist."""
        users_alone = [self.user_scorer is not None and not len(query.songs) for query in queries]
        best: list[Any] = [None] * len(queries)
        weights = [np.zeros(0, np.float32)] * len(queries)
        if rows := [row for row, alone in enumerate(users_alone) if not alone]:
            block = [queries[row] for row in rows]
            vectors, weights_of_block = self._query(block, user_share)
            out = [query.out for query in block]
            searched = search_filtered(
                self.index, self.vectors, vectors, k, allowed, out, filters=filters, export=self.export
            )
            for row, songs, weight in zip(rows, searched, weights_of_block, strict=True):
                best[row], weights[row] = songs, weight
        if rows := [row for row, alone in enumerate(users_alone) if alone]:
            ranked = self._rank_for_users([queries[row] for row in rows], k, allowed, filters)
            for row, songs in zip(rows, ranked, strict=True):
                best[row] = songs
        return best, weights

    def _rank_for_users(
        self, queries: Sequence[_Resolved], k: int, allowed: np.ndarray, filters: Filters
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Songs and scores for users without a playlist, from a pool that doubles until the caps leave k of it."""
        most, left = int(np.count_nonzero(allowed)), list(range(len(queries)))
        best: list[Any] = [None] * len(queries)
        size = min(most, k if filters.by_score_alone else _POOL * k)
        while left:
            users = np.array([queries[row].user for row in left], np.int32)
            out = [queries[row].out for row in left]
            songs, scores = self.user_scorer.rank(users, size, allowed=allowed, out=out, heard=filters.heard)
            for row, items, values in zip(left, songs, scores, strict=True):
                items, values = items[items >= 0], values[items >= 0]
                if not filters.by_score_alone:
                    picked = choose(filters, self.export, self.vectors, items, values, k)
                    if len(picked) < k and size < most:
                        continue
                    items, values = items[picked], values[picked]
                best[row] = items, values
            left = [row for row in left if best[row] is None]
            size = min(2 * size, most)
        return best

    def similar(self, song: Any, *, k: int = 10, filters: Filters | None = None) -> Answer:
        """The k songs nearest to one song; see `recommend`."""
        return self.recommend([song], k=k, filters=filters)

    def explain(self, song: Any, *, songs: Sequence[Any] = (), user: Any = None) -> Recommendation:
        """Why a query would recommend a song, with all the query's songs as reasons; the rank is among all songs.

        Raises:
          UserError: an unknown song, or nothing to start from.
        """
        at = self.ids.songs.index_of(song)
        if at < 0:
            raise UserError(self.ids.songs.unknown("song", [song]))
        query = self._resolve(Query(tuple(songs), user), self.filters, np.zeros(0, np.int64))
        if isinstance(query, UserError):
            raise query
        vectors, weights = self._query([query], 0.3)
        scores = self.vectors @ vectors[0]
        (found,) = self._explained(np.array([at]), scores[at : at + 1], query.songs, weights[0], True, MAX_SONGS)
        return dataclasses.replace(found, rank=1 + int((scores > scores[at]).sum()))

    def warm(self, *, k: int = 10) -> None:
        """Compiles the programs of single queries and small batches."""
        for width in _WIDTHS:
            songs = tuple(self.export.item_ids[: width // 2 + 1].tolist())
            for batch in _BATCHES[:3]:
                self.recommend_batch([Query(songs, dislikes=songs[:1])] * batch, k=k)
        self.recommend_batch([Query(songs[:1])] * 2, k=k)
        if self.user_scorer is not None:
            # Programs differ by the lengths of histories: short, middling and long ones are tried.
            order = np.argsort(np.diff(self._user_songs.heard_offsets), kind="stable")
            for size in _BATCHES[:3]:
                for at in (0, len(order) // 2, max(len(order) - size, 0)):
                    queries = [Query(user=user) for user in self.ids.users.labels(order[at : at + size].tolist())]
                    for heard in (True, False):
                        self.recommend_batch(queries, k=k, filters=self.filters.replace(heard=heard))

    def _resolve(self, query: Query, filters: Filters, excluded: np.ndarray) -> _Resolved | UserError:
        songs, users, warnings = self.ids.songs, self.ids.users, []
        if len(query.songs) > MAX_SONGS:
            return UserError(f"a playlist of {len(query.songs)} songs: at most {MAX_SONGS}; give the latest of them")
        playlist, unknown = songs.resolve(query.songs)
        # A duplicate counts at its last place.
        playlist = np.array(list(dict.fromkeys(playlist[::-1].tolist()))[::-1], np.int64)
        pushed, unknown_dislikes = songs.resolve(query.dislikes)
        user = -1 if query.user is None else users.index_of(query.user)
        for ids, kind, values in (
            (songs, "song", unknown),
            (users, "user", [query.user] if query.user is not None and user < 0 else []),
            (songs, "disliked song", unknown_dislikes),
        ):
            if values:
                warnings.append(ids.unknown(kind, values))
        if not len(playlist) and user < 0:
            if warnings:
                return UserError("; ".join(warnings))
            return UserError("an empty playlist: give at least one song, or a user")
        out = [playlist, excluded, pushed]
        if user >= 0:
            disliked = self._user_songs.disliked_by(user)
            out.append(disliked)
            out += left_out_for(filters, self._user_songs, user)
            pushed = np.concatenate([pushed, disliked])
        if len(pushed):
            pushed = np.setdiff1d(pushed, playlist)
        return _Resolved(playlist, user, pushed[:_MOST_DISLIKES], np.concatenate(out), query.ordered, warnings)

    def _query(self, queries: Sequence[_Resolved], user_share: float) -> tuple[np.ndarray, list[np.ndarray]]:
        """Query vectors float32 [B, d], and the attention weights of each playlist."""
        size = _padded(len(queries), _BATCHES)
        width = _padded(max(len(query.songs) for query in queries), _WIDTHS)
        num_pushed = max(len(query.pushed) for query in queries)
        push_width = _padded(num_pushed, (1, 16, _MOST_DISLIKES))
        songs, where = exports.indices([query.songs for query in queries], width)
        pushed, push_where = exports.indices([query.pushed for query in queries], push_width)
        taste = np.zeros((len(queries), self.vectors.shape[1]), np.float32)
        share = np.zeros(len(queries), np.float32)
        for row, query in enumerate(queries):
            if query.user >= 0:
                taste[row] = self.tastes[query.user]
                share[row] = user_share if len(query.songs) else 1.0
        ordered = np.array([query.ordered for query in queries])

        def rows(x: np.ndarray) -> np.ndarray:
            return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)]) if size > len(x) else x

        vectors, weights = _queries(
            self._device_vectors,
            self._popularity,
            *map(rows, (songs, where)),
            self._heads,
            *map(rows, (ordered, taste, share, pushed, push_where)),
            self._push,
        )
        weights = np.asarray(weights)
        lengths = [len(query.songs) for query in queries]
        return np.asarray(vectors)[: len(queries)], [w[:n] for w, n in zip(weights, lengths, strict=False)]

    def _explained(
        self,
        items: np.ndarray,
        scores: np.ndarray,
        playlist: np.ndarray,
        weights: np.ndarray,
        explain: bool,
        most: int = MOST_REASONS,
    ) -> list[Recommendation]:
        songs = self.ids.songs
        labels = zip(songs.labels(items.tolist()), scores.tolist(), strict=True)
        if not explain:
            return [Recommendation(rank, label, score, [], [], []) for rank, (label, score) in enumerate(labels, 1)]
        similarity = self.vectors[items] @ self.vectors[playlist].T
        order = np.argsort(-weights * similarity, axis=1, kind="stable")[:, :most]
        query = songs.labels(playlist.tolist())
        # Converting whole arrays to lists is several times faster than element by element.
        reasons = zip(
            order.tolist(),
            weights[order].tolist(),
            np.take_along_axis(similarity, order, axis=1).tolist(),
            strict=True,
        )
        found = []
        for item, (label, score), (at, weight, close) in zip(items.tolist(), labels, reasons, strict=True):
            artists, albums = self._metadata(item)
            why = [Reason(query[place], *numbers) for place, *numbers in zip(at, weight, close, strict=True)]
            found.append(Recommendation(len(found) + 1, label, score, artists, albums, why, songs.name(item)))
        return found

    def _metadata(self, item: int) -> tuple[list[Id], list[Id]]:
        """The ids of a song's artists and albums."""
        export, ids = self.export, self.ids
        artists = export.artists[slice(*export.artist_offsets[item : item + 2])]
        albums = export.albums[slice(*export.album_offsets[item : item + 2])]
        return ids.artists.labels(artists.tolist()), ids.albums.labels(albums.tolist())


def in_space(export: Export, heads: Heads) -> tuple[np.ndarray, np.ndarray]:
    """Songs and users as points of the playlist space: unit rows float32 [I, d] and [U, d]."""
    moments = moments_of(export.item_embeddings, export.listeners > 0)
    rows = (export.item_embeddings, export.user_embeddings)
    return tuple(np.asarray(embed(jnp.asarray(x, jnp.float32), moments, heads.space)) for x in rows)


def index_fingerprint(embeddings: str, heads: Heads) -> str:
    """Identity of what an index is built from: the export's fingerprint and the space."""
    return fingerprint({"embeddings": embeddings, "space": to_json(heads)["space"]})


def load_heads(workdir: Path) -> Heads | None:
    """The playlist attention that launch/train.py fitted; None where there is none."""
    files, remedy = RunFiles(workdir), "give the launch/train.py command again"
    if not files.has(exports.HEADS_FILE):
        return None
    stored = files.read_json(exports.HEADS_FILE, {"heads": dict}, remedy=remedy)
    return from_json(stored["heads"], source=str(workdir / exports.HEADS_FILE))


def retrieval_settings(workdir: Path) -> RetrievalSettings:
    """config.retrieval of a run. Raises DamagedFileError where config.json has none."""
    remedy = "put the file back, or train again in a new folder"
    stored = RunFiles(workdir).read_json("config.json", {"config": {"retrieval": dict}}, remedy=remedy)
    try:
        return from_stored(RetrievalSettings, stored["config"]["retrieval"])[0]
    except UserError as e:
        raise DamagedFileError(f"{workdir / 'config.json'}: {e}; {remedy}") from e
