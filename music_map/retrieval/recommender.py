"""Recommendations for one song, a playlist or a user, with the reasons.

from music_map.retrieval.recommender import Recommender
recommender = Recommender.load("checkpoints/demo")
recommender.recommend(songs=[123, 456], k=10)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from music_map.errors import DamagedFileError, UserError
from music_map.ids import Ids
from music_map.playlist.attention import Head, attend, push_away, unit
from music_map.playlist.heads import Heads, from_json, to_json, untrained
from music_map.playlist.space import embed, moments_of
from music_map.retrieval import export as exports
from music_map.retrieval.export import Export, Histories, places, popularity_of
from music_map.retrieval.filters import Filters, allowed_songs, choose, filters_of, unknown_in
from music_map.retrieval.index import FOLDER, Index, build_index, choose_backend, load_index
from music_map.retrieval.search import rank_all, search_filtered
from music_map.storage import fingerprint, read_json

# Most songs of a playlist, and most disliked songs that push a query: the programs compiled are of these widths.
MAX_SONGS = 1024
_WIDTHS = (16, 128, MAX_SONGS)
_MOST_DISLIKES = 128
_BATCHES = (1, 8, 64, 512)
# Songs of a playlist that a recommendation names as its reasons.
MOST_REASONS = 10


@dataclasses.dataclass(frozen=True)
class Query:
    """What to recommend for.

    Attributes:
      songs: original song ids, in the order of listening, the latest last; duplicates count once, at their last place.
      user: original user id, or None: its taste is mixed in, its dislikes are out.
      dislikes: original song ids to stay away from.
      ordered: whether the order of `songs` means something.
    """

    songs: tuple[int, ...] = ()
    user: int | None = None
    dislikes: tuple[int, ...] = ()
    ordered: bool = True


@dataclasses.dataclass(frozen=True)
class Reason:
    """How one song of the query speaks for a recommendation.

    Attributes:
      item_id: the query's song.
      weight: its attention weight in the query.
      similarity: cosine between it and the recommended song.
    """

    item_id: int
    weight: float
    similarity: float


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """One recommended song; `why` has the query's songs by weight times similarity, the strongest ten first."""

    rank: int
    item_id: int
    score: float
    artist_ids: list[int]
    album_ids: list[int]
    why: list[Reason]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Recommendations and what was noticed on the way (unknown songs, say)."""

    recommendations: list[Recommendation]
    warnings: list[str]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A query in song and user indices."""

    songs: np.ndarray
    user: int
    pushed: np.ndarray
    out: np.ndarray
    ordered: bool
    warnings: list[str]


def _unknown(kind: str, wanted: Sequence[int], known: np.ndarray) -> str:
    """One line that names ids which the model does not have."""
    named = ", ".join(map(str, wanted[:10])) + (", ..." if len(wanted) > 10 else "")
    plural = "s" if len(wanted) > 1 else ""
    return f"unknown {kind}{plural} {named}: not in the logs, or with too few interactions; ids are like {known[0]}"


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
      histories: what users heard and dislike; None: nothing is known.
      filters: of queries that bring none.
      dislike_push: share of disliked songs' directions that is taken out of a query, 0 to 1.
    """

    def __init__(
        self,
        export: Export,
        *,
        index: Index | str = "auto",
        heads: Heads | None = None,
        attention_temperature: float = 0.1,
        histories: Histories | None = None,
        filters: Filters | None = None,
        dislike_push: float = 0.5,
    ):
        if attention_temperature <= 0:
            raise UserError(f"config.retrieval.attention_temperature={attention_temperature}: must be above 0")
        if not 0.0 <= dislike_push <= 1.0:
            raise UserError(f"config.retrieval.dislike_push={dislike_push}: must be at least 0 and at most 1")
        self.export = export
        self.songs = Ids(export.item_ids)
        self.filters = filters or Filters()
        heads = heads or untrained(attention_temperature)
        self.vectors, self._tastes = in_space(export, heads)
        self.index = build_index(self.vectors, backend=index) if isinstance(index, str) else index
        self._histories = histories or exports.no_histories(len(export.user_ids))
        self._heads = jax.tree.map(jnp.asarray, (heads.ordered, heads.unordered))
        self._push = jnp.float32(dislike_push)
        self._device_vectors = jnp.asarray(self.vectors)
        self._popularity = jnp.asarray(popularity_of(export.listeners))
        # Sets of filters repeat: what they leave of the catalogue is kept for the last few.
        self._allowed = functools.lru_cache(maxsize=32)(
            lambda chosen: (allowed_songs(chosen, export, self.songs), unknown_in(chosen, self.songs))
        )

    @classmethod
    def load(cls, workdir: str | Path, *, index: str | None = None) -> Recommender:
        """The recommender of a trained workdir: embeddings, index (built in memory where none is saved), attention.

        Args:
          workdir: folder of a run of launch/train.py.
          index: backend, in place of the saved index and the configuration's choice.

        Raises:
          UserError: the run is not trained yet, or its index is another checkpoint's.
          DamagedFileError: a file is missing or damaged; names it.
        """
        workdir = Path(workdir).expanduser()
        if not (workdir / exports.FOLDER).is_dir():
            raise UserError(f"{workdir}: no embeddings there; train first: launch/train.py --workdir={workdir}")
        export, identity = exports.load_export(workdir / exports.FOLDER)
        settings = read_json(workdir / "config.json")["config"]["retrieval"]
        heads = load_heads(workdir) or untrained(settings["attention_temperature"])
        found: Index | str = index or settings["index"]
        wanted = choose_backend(found, len(export.item_ids))
        if index is None and (workdir / FOLDER).is_dir():
            saved, _, _ = load_index(workdir / FOLDER, fingerprint=index_fingerprint(identity, heads))
            # What was saved on purpose is used, whatever "auto" would build.
            if settings["index"] in ("auto", saved.backend):
                found = saved
        if isinstance(found, str):
            found = build_index(in_space(export, heads)[0], backend=wanted, recall_target=settings["recall_target"])
        return cls(
            export,
            index=found,
            heads=heads,
            histories=exports.load_histories(workdir / exports.FOLDER),
            filters=filters_of(settings),
            dislike_push=settings["dislike_push"],
        )

    def recommend(
        self,
        songs: Sequence[int] = (),
        *,
        user: int | None = None,
        k: int = 10,
        dislikes: Sequence[int] = (),
        ordered: bool = True,
        exclude: Sequence[int] | np.ndarray = (),
        filters: Filters | None = None,
        user_share: float = 0.3,
        user_scores: np.ndarray | None = None,
    ) -> Answer:
        """The k songs most similar to a playlist, to a user, or to both.

        Args:
          songs, user, dislikes, ordered: see Query; unknown songs are named in the warnings.
          k: songs wanted.
          exclude: original ids never to recommend; the query's own songs and disliked ones are left out anyway.
          filters: in place of the recommender's.
          user_share: 0..1: with songs the query is (1 - user_share) of the playlist and user_share of the user; a user
            alone is a query too.
          user_scores: float [I], what ranks the songs for a user alone; None: the similarity to the user's embedding.

        Returns:
          Fewer than k recommendations only where the catalogue has no more.

        Raises:
          UserError: nothing to start from: no known song and no user, an unknown user, too many songs, or k below 1.
        """
        query = Query(tuple(map(int, songs)), user, tuple(map(int, dislikes)), ordered)
        (answer,) = self.recommend_batch(
            [query],
            k=k,
            exclude=exclude,
            filters=filters,
            user_share=user_share,
            user_scores=None if user_scores is None or len(query.songs) else [user_scores],
        )
        if isinstance(answer, UserError):
            raise answer
        return answer

    def recommend_batch(
        self,
        queries: Sequence[Query],
        *,
        k: int = 10,
        exclude: Sequence[int] | np.ndarray = (),
        filters: Filters | None = None,
        user_share: float = 0.3,
        user_scores: Sequence[np.ndarray] | None = None,
        explain: bool = True,
        reasons: int = MOST_REASONS,
    ) -> list[Answer | UserError]:
        """`recommend` for many queries at once; a query that cannot be answered gives the error in its place.

        Args:
          queries: any number.
          k, exclude, filters, user_share: as for `recommend`.
          user_scores: float [I] for each query, in place of the similarity to its embedding.
          explain: whether recommendations say why; without it artists, albums and reasons are empty.
          reasons: songs of the query that a recommendation names, at most.

        Raises:
          UserError: k below 1, or filters that leave no song.
        """
        if k < 1:
            raise UserError(f"k={k}: must be at least 1")
        chosen = self.filters if filters is None else filters
        base, noted = self._allowed(chosen)
        barred = places(self.export.item_ids, np.asarray(exclude).tolist())
        barred = barred[barred >= 0]
        asked = [self._ask(query, chosen, barred) for query in queries]
        good = [row for row, a in enumerate(asked) if isinstance(a, _Asked)]
        answers: list[Answer | UserError] = list(asked)
        for start in range(0, len(good), _BATCHES[-1]):
            rows = good[start : start + _BATCHES[-1]]
            block = [asked[row] for row in rows]
            vectors, weights = self._query(block, user_share)
            if user_scores is None:
                found = search_filtered(
                    self.index,
                    self.vectors,
                    vectors,
                    k,
                    base,
                    [a.out for a in block],
                    filters=chosen,
                    export=self.export,
                )
            else:
                found = [
                    self._by_scores(np.asarray(user_scores[row]), _without(base, a.out), k, chosen)
                    for row, a in zip(rows, block, strict=True)
                ]
            for row, a, weight, (items, scores) in zip(rows, block, weights, found, strict=True):
                a.warnings.extend(noted)
                if len(items) < k:
                    a.warnings.append(f"only {len(items)} of {k} songs: the catalogue has no more candidates")
                answers[row] = Answer(self._explained(items, scores, a.songs, weight, explain, reasons), a.warnings)
        return answers

    def similar(self, song: int, *, k: int = 10, filters: Filters | None = None) -> Answer:
        """The k songs nearest to one song; see `recommend`."""
        return self.recommend([song], k=k, filters=filters)

    def explain(self, song: int, *, songs: Sequence[int] = (), user: int | None = None) -> Recommendation:
        """How a query speaks for one song, by all its songs, recommended or not; the rank is that among all songs.

        Raises:
          UserError: an unknown song, or nothing to start from.
        """
        at = int(places(self.export.item_ids, [song])[0])
        if at < 0:
            raise UserError(_unknown("song", [song], self.export.item_ids))
        asked = self._ask(Query(tuple(songs), user), self.filters, np.zeros(0, np.int64))
        if isinstance(asked, UserError):
            raise asked
        vectors, weights = self._query([asked], 0.3)
        scores = self.vectors @ vectors[0]
        (found,) = self._explained(np.array([at]), scores[at : at + 1], asked.songs, weights[0], True, MAX_SONGS)
        return dataclasses.replace(found, rank=1 + int((scores > scores[at]).sum()))

    def warm(self, *, k: int = 10) -> None:
        """Compiles what single queries and small batches need, so that the first ones do not wait for it."""
        for width in _WIDTHS:
            songs = tuple(self.export.item_ids[: width // 2 + 1].tolist())
            for batch in _BATCHES[:3]:
                self.recommend_batch([Query(songs, dislikes=songs[:1])] * batch, k=k)
        self.recommend_batch([Query(songs[:1])] * 2, k=k)

    def _ask(self, query: Query, filters: Filters, barred: np.ndarray) -> _Asked | UserError:
        export, warnings = self.export, []
        if len(query.songs) > MAX_SONGS:
            return UserError(f"a playlist of {len(query.songs)} songs: at most {MAX_SONGS}; give the latest of them")
        # The last place of a duplicate counts: it was played last there.
        wanted = list(dict.fromkeys(reversed(query.songs)))[::-1]
        found = places(export.item_ids, wanted)
        missing = [s for s, at in zip(wanted, found, strict=True) if at < 0]
        if missing and len(missing) == len(wanted) and query.user is None:
            return UserError(_unknown("song", missing, export.item_ids))
        if missing:
            warnings.append(_unknown("song", missing, export.item_ids))
        playlist = found[found >= 0]
        if not len(playlist) and query.user is None:
            return UserError("an empty playlist: give at least one song, or a user")
        pushed = found[:0]
        if query.dislikes:
            pushed = places(export.item_ids, query.dislikes)
            if (pushed < 0).any():
                unknown = [d for d, at in zip(query.dislikes, pushed, strict=True) if at < 0]
                warnings.append(_unknown("disliked song", unknown, export.item_ids))
            pushed = pushed[pushed >= 0]
        out, user = [playlist, barred, pushed], -1
        if query.user is not None:
            user = int(places(export.user_ids, [query.user])[0])
            if user < 0:
                return UserError(_unknown("user", [query.user], export.user_ids))
            out.append(self._histories.disliked_by(user))
            if not filters.heard:
                out.append(self._histories.heard_by(user))
        if user >= 0:
            pushed = np.concatenate([pushed, self._histories.disliked_by(user)])
        if len(pushed):
            pushed = np.setdiff1d(pushed, playlist)
        return _Asked(playlist, user, pushed[:_MOST_DISLIKES], np.concatenate(out), query.ordered, warnings)

    def _query(self, asked: Sequence[_Asked], user_share: float) -> tuple[np.ndarray, list[np.ndarray]]:
        """Query vectors float32 [B, d], and the attention weights of each playlist."""
        size = _padded(len(asked), _BATCHES)
        width = _padded(max(len(a.songs) for a in asked), _WIDTHS)
        num_pushed = max(len(a.pushed) for a in asked)
        push_width = _padded(num_pushed, (1, 16, _MOST_DISLIKES))
        songs, where = exports.indices([a.songs for a in asked], width)
        pushed, push_where = exports.indices([a.pushed for a in asked], push_width)
        taste = np.zeros((len(asked), self.vectors.shape[1]), np.float32)
        share = np.zeros(len(asked), np.float32)
        for row, a in enumerate(asked):
            if a.user >= 0:
                taste[row] = self._tastes[a.user]
                share[row] = user_share if len(a.songs) else 1.0
        ordered = np.array([a.ordered for a in asked])

        def rows(x: np.ndarray) -> np.ndarray:
            return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)]) if size > len(x) else x

        query, weights = _queries(
            self._device_vectors,
            self._popularity,
            *map(rows, (songs, where)),
            self._heads,
            *map(rows, (ordered, taste, share, pushed, push_where)),
            self._push,
        )
        weights = np.asarray(weights)
        return np.asarray(query)[: len(asked)], [w[: len(a.songs)] for w, a in zip(weights, asked, strict=False)]

    def _by_scores(
        self, scores: np.ndarray, allowed: np.ndarray, k: int, filters: Filters
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best by given scores: the same search, over the scores as vectors of one dimension."""
        count = int(np.count_nonzero(allowed))
        column, one = scores.astype(np.float32)[:, None], np.ones(1, np.float32)
        size = min(count, k if filters.by_score_alone else 20 * k)
        while True:
            items, found = rank_all(column, one, size, allowed)
            if filters.by_score_alone:
                return items, found
            picked = choose(filters, self.export, self.vectors, items, found, k)
            if len(picked) == k or size == count:
                return items[picked], found[picked]
            size = min(2 * size, count)

    def _explained(
        self,
        items: np.ndarray,
        scores: np.ndarray,
        playlist: np.ndarray,
        weights: np.ndarray,
        explain: bool,
        most: int = MOST_REASONS,
    ) -> list[Recommendation]:
        export, ids = self.export, self.export.item_ids
        told = zip(ids[items].tolist(), scores.tolist(), strict=True)
        if not explain:
            return [Recommendation(rank, item_id, score, [], [], []) for rank, (item_id, score) in enumerate(told, 1)]
        similarity = self.vectors[items] @ self.vectors[playlist].T
        order = np.argsort(-weights * similarity, axis=1, kind="stable")[:, :most]
        # Whole arrays become lists at once: an element at a time costs several times as much.
        reasons = zip(
            ids[playlist][order].tolist(),
            weights[order].tolist(),
            np.take_along_axis(similarity, order, axis=1).tolist(),
            strict=True,
        )
        found = []
        for item, (item_id, score), why in zip(items.tolist(), told, reasons, strict=True):
            artists = export.artist_ids[export.artists[slice(*export.artist_offsets[item : item + 2])]].tolist()
            albums = export.album_ids[export.albums[slice(*export.album_offsets[item : item + 2])]].tolist()
            found.append(Recommendation(len(found) + 1, item_id, score, artists, albums, list(map(Reason, *why))))
        return found


def _without(base: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`base` less some songs; `base` itself where there are none."""
    if not len(out):
        return base
    mask = base.copy()
    mask[out] = False
    return mask


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
    path = workdir / exports.HEADS_FILE
    if not path.exists():
        return None
    stored = read_json(path)
    if not isinstance(stored, dict):
        raise DamagedFileError(f"{path}: holds no playlist query; delete it and run launch/train.py again")
    return from_json(stored.get("heads", {}), source=str(path))
