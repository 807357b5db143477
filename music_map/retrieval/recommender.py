"""Recommendations for one song, a playlist or a user, with reasons: the scorer behind Python, commands and service.

    recommender = Recommender.load("checkpoints/demo")
    recommender.recommend(songs=[123, 456], k=10)

Queries with songs, with or without a user, use the playlist query. For a user alone, the recency head (if the run has
one) ranks all songs by what fits now, or else the graph filter beside the encoder. Somebody whom the model has never
seen is a history of plays, and a known user's plays of this minute are added to those of the logs:

    recommender.recommend(history=[Play(123, time=1_700_000_000, played=0.9), Play(456, kind="like")])
    recommender.recommend(user=7, history=[(123, 1_700_000_000)])
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from music_map.errors import DamagedFileError, UserError
from music_map.ids import Ids
from music_map.model.content import Content
from music_map.playlist.companions import Companions
from music_map.playlist.heads import Heads, from_json, to_json, untrained
from music_map.playlist.onward import Onward
from music_map.playlist.space import embed, moments_of
from music_map.preprocess.dataset import DISLIKE
from music_map.recency.guests import Guests
from music_map.recency.history import Histories
from music_map.recency.scores import PARTS
from music_map.retrieval import export as exports
from music_map.retrieval.answers import Answer, Id, Part, Query, Reason, Recommendation, Taste
from music_map.retrieval.export import Export, IdTables, Placing, UserSongs, popularity_of
from music_map.retrieval.filters import Filters, allowed_songs, choose, filters_of, left_out_for, unknown_in
from music_map.retrieval.index import FOLDER, Index, build_index, choose_backend, installed, load_index
from music_map.retrieval.listeners import Listener, guests_of, listener_of
from music_map.retrieval.new_songs import grown_export, grown_fold_in, grown_ids, grown_index, new_songs_of
from music_map.retrieval.playlist_files import Track, track_of
from music_map.retrieval.playlist_query import MOST_DISLIKES, Asked, PlaylistQuery
from music_map.retrieval.plays import Play as Play
from music_map.retrieval.plays import plays_of, resolve
from music_map.retrieval.present import FilterScorer, PresentScorer, UserGroup, sizes_of_groups
from music_map.retrieval.reasons import Explainer
from music_map.retrieval.search import rank_songs, search_filtered
from music_map.retrieval.settings import RetrievalSettings
from music_map.runfiles import RunFiles
from music_map.settings import from_stored
from music_map.storage import fingerprint
from music_map.text import shortened

# Most songs of a playlist, and queries that are worked on at once.
MAX_SONGS, _BLOCK = 1_024, 512
# First number of candidates, in multiples of k, from which caps and orders choose a user's songs.
_POOL = 20
# Songs of one name that a message lists.
_MOST_MATCHES = 5
# Most songs of a playlist that a recommendation names as reasons.
MOST_REASONS = 10


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """A query in indices.

    Attributes:
      songs: int64 [n], the playlist, each song once, the latest last.
      user: -1: none, or an unknown one.
      listener: somebody with a history, who may be the user; or None.
      pushed: songs that the query is pushed away from: disliked ones, at most MOST_DISLIKES.
      out: songs not to recommend.
      ordered: whether the order of the songs is that of listening.
      warnings: so far.
    """

    songs: np.ndarray
    user: int
    listener: Listener | None
    pushed: np.ndarray
    out: np.ndarray
    ordered: bool
    warnings: list[str]


class UserScorer(Protocol):
    """Ranks all songs for users, such as the recency head.

    Attributes:
      most: users of a group.
      now: the present, seconds.
    """

    most: int
    now: int

    def group(self, users: np.ndarray, *, heard: bool) -> UserGroup:
        """Known users, int [B], who are asked about together; heard: whether heard songs may be ranked."""

    def hosting(self, guests: Guests, now: int, *, heard: bool) -> UserGroup:
        """Listeners with events that the logs do not hold, likewise, as of `now`, not before the present."""

    def events_of(self, user: int) -> Histories:
        """The events of one user in the logs."""

    def compile(self, ks: Sequence[int]) -> int:
        """Compiles the programs of groups of all sizes that rank so many songs; returns their number."""

    def grown(self, export: Export) -> UserScorer:
        """The scorer with more songs, of an Export whose first songs are its own."""


class Recommender:
    """Answers queries over an Export.

    Args:
      export: embeddings and ids.
      index: over the songs' unit embeddings, or a backend to build one with, see `music_map.retrieval.index`.
      heads: of the playlist attention; None: untrained.
      attention_temperature: of untrained heads.
      companions: songs listened to together; None: nothing is known.
      onward: where sessions go on; None: nothing is known.
      user_songs: what users heard and dislike; None: nothing is known.
      filters: of queries without filters.
      dislike_push: share of disliked songs' directions that is removed from a query, 0 to 1.
      ids: the logs' own ids and names; None: ids are the numbers.
      user_scorer: ranks for users without songs; None: by the similarity to their embedding.
      placing: places listeners whom the model has never seen; None: at the mean of their songs.
      content: reads what places new songs, at the first of them; None: none can be added.
      present: the last second of the logs; None: not known.
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
        companions: Companions | None = None,
        onward: Onward | None = None,
        user_songs: UserSongs | None = None,
        filters: Filters | None = None,
        dislike_push: float = 0.5,
        ids: IdTables | None = None,
        user_scorer: UserScorer | None = None,
        placing: Placing | None = None,
        content: Callable[[], Content | None] | None = None,
        present: int | None = None,
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
        self.placing = exports.placing_by_mean(export) if placing is None else placing
        self.present, self.identity, self.step = present, identity, step
        self.dislike_push = dislike_push
        self.filters = filters or Filters()
        self.heads = heads = heads or untrained(attention_temperature)
        self._moments = moments_of(export.item_embeddings, export.listeners > 0)
        self.vectors, self.tastes = in_space(export, heads)
        self.index = build_index(self.vectors, backend=index) if isinstance(index, str) else index
        self._explainer = Explainer(export)
        self._content = functools.cache(content or (lambda: None))
        self._adding = threading.Lock()
        self._user_songs = user_songs or exports.no_user_songs(len(export.user_ids))
        self._companions, self._onward = companions, onward
        self._query = self._query_over(export)
        self._allowed = self._allowed_of(export)

    def _query_over(self, export: Export) -> PlaylistQuery:
        return PlaylistQuery(
            self.vectors,
            popularity_of(export.listeners),
            self.heads,
            companions=self._companions and self._companions.grown(len(self.vectors)),
            onward=self._onward,
            push=self.dislike_push,
        )

    def _allowed_of(self, export: Export) -> Callable[[Filters], tuple[np.ndarray, list[str]]]:
        # Filters repeat: the songs that they leave are cached.
        songs = self.ids.songs
        return functools.lru_cache(maxsize=32)(
            lambda chosen: (allowed_songs(chosen, export, songs), unknown_in(chosen, songs))
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
        return cls(
            export,
            index=found,
            heads=heads,
            companions=exports.load_companions(folder),
            onward=exports.load_onward(folder),
            user_songs=exports.load_user_songs(folder),
            filters=filters_of(settings),
            dislike_push=settings.dislike_push,
            ids=exports.load_ids(folder),
            identity=index_identity,
            step=exports.step_of(folder),
            placing=exports.load_placing(folder),
            content=functools.partial(exports.load_content, folder),
            present=exports.present_of(folder),
            user_scorer=_user_scorer(folder, export, now),
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
        history: Sequence[Any] = (),
        now: int | None = None,
    ) -> Answer:
        """The k songs that go best with a playlist, with a listener, or with both.

        Args:
          songs, user, dislikes, ordered, history, now: see Query; unknown ids are named in the warnings.
          k: songs wanted.
          exclude: songs not to recommend; the query's own songs and disliked ones are always left out.
          filters: in place of the recommender's.
          user_share: 0..1: with songs the query is (1 - user_share) of the playlist and user_share of the user.

        Returns:
          Fewer than k recommendations if the catalogue has no more.

        Raises:
          UserError: nothing to start from (no known song, user or entry of the history), too many songs, a wrong entry
            of the history, or k below 1.
        """
        query = Query(tuple(songs), user, tuple(dislikes), ordered, tuple(history), now)
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
          reasons: most songs of the query, or parts of a listener's score, that a recommendation names.

        Raises:
          UserError: k below 1, or filters that leave no song.
        """
        if k < 1:
            raise UserError(f"k={k}: must be at least 1")
        # All of one answer is of one state, whatever `add_songs` does meanwhile.
        options = {"filters": filters, "user_share": user_share, "explain": explain, "reasons": reasons}
        return copy.copy(self)._answers(queries, k, exclude=exclude, **options)

    def _answers(
        self,
        queries: Sequence[Query],
        k: int,
        *,
        exclude: Sequence[Any],
        filters: Filters | None,
        user_share: float,
        explain: bool,
        reasons: int,
    ) -> list[Answer | UserError]:
        chosen = self.filters if filters is None else filters
        allowed, noted = self._allowed(chosen)
        excluded, unknown = self.ids.songs.resolve(exclude)
        if unknown:
            noted = [*noted, f"exclude: {self.ids.songs.unknown('song', unknown)}"]
        resolved = [self._resolve(query, chosen, excluded) for query in queries]
        good = [row for row, query in enumerate(resolved) if isinstance(query, _Resolved)]
        answers: list[Answer | UserError] = list(resolved)
        for start in range(0, len(good), _BLOCK):
            rows = good[start : start + _BLOCK]
            block = [resolved[row] for row in rows]
            best, weights, told, tastes = self._best(block, k, allowed, chosen, user_share, reasons if explain else 0)
            found = zip(rows, block, weights, best, told, tastes, strict=True)
            for row, query, weight, (items, scores), why, of in found:
                query.warnings.extend(noted)
                if len(items) < k:
                    query.warnings.append(f"only {len(items)} of {k} songs: the catalogue has no more candidates")
                songs = self._explained(items, scores, query.songs, weight, why, explain, reasons)
                answers[row] = Answer(songs, query.warnings, self._tastes(query.songs, of, weight) if explain else [])
        return answers

    def _best(
        self,
        queries: Sequence[_Resolved],
        k: int,
        allowed: np.ndarray,
        filters: Filters,
        user_share: float,
        reasons: int,
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[np.ndarray], list[list[list[Part]]], list[np.ndarray]]:
        """Songs and scores of each query, the attention weights and the tastes of its playlist's songs.

        The third are the reasons for listeners without songs.
        """
        best: list[Any] = [None] * len(queries)
        told: list[list[list[Part]]] = [[]] * len(queries)
        weights, tastes = [np.zeros(0, np.float32)] * len(queries), [np.zeros(0, np.int64)] * len(queries)
        alone = [row for row, query in enumerate(queries) if self.user_scorer is not None and not len(query.songs)]
        if rows := sorted(set(range(len(queries))) - set(alone)):
            block = [queries[row] for row in rows]
            wanted, weights_of_block = self._query(self._asked(block, user_share))
            out = [query.out for query in block]
            searched = search_filtered(
                self.index, self.vectors, wanted, k, allowed, out, filters=filters, export=self.export
            )
            for row, songs, weight, one in zip(rows, searched, weights_of_block, wanted, strict=True):
                best[row], weights[row], tastes[row] = songs, weight, one.tastes
                if not len(queries[row].songs):
                    told[row] = self._told_by_similarity(queries[row], *songs, reasons)
        for rows in self._groups(queries, alone):
            block = [queries[row] for row in rows]
            group = self._group(block, filters)
            ranked = self._rank_group(group, block, k, allowed, filters)
            for row, songs, why in zip(rows, ranked, self._told(group, block, ranked, reasons), strict=True):
                best[row], told[row] = songs, why
        return best, weights, told, tastes

    def _groups(self, queries: Sequence[_Resolved], alone: Sequence[int]) -> Iterator[list[int]]:
        """The rows of listeners without songs who are asked about together: those of one moment."""
        moments = {row: None if queries[row].listener is None else queries[row].listener.now for row in alone}
        for now in dict.fromkeys(moments.values()):
            rows = iter([row for row in alone if moments[row] == now])
            for size in sizes_of_groups(sum(of == now for of in moments.values()), self.user_scorer.most):
                yield list(itertools.islice(rows, size))

    def _group(self, queries: Sequence[_Resolved], filters: Filters) -> UserGroup:
        """The group of listeners of one moment."""
        if (first := queries[0].listener) is None:
            return self.user_scorer.group(np.array([query.user for query in queries]), heard=filters.heard)
        guests = guests_of([query.listener for query in queries])
        return self.user_scorer.hosting(guests, first.now, heard=filters.heard)

    def _rank_group(
        self, group: UserGroup, queries: Sequence[_Resolved], k: int, allowed: np.ndarray, filters: Filters
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Songs and scores for the users of a group, from a pool that doubles until the caps leave k of it."""
        most, left = int(np.count_nonzero(allowed)), np.arange(len(queries))
        best: list[Any] = [None] * len(queries)
        size = min(most, k if filters.by_score_alone else _POOL * k)
        while len(left):
            asked = group if len(left) == len(queries) else group.some(left)
            songs, scores = asked.rank(size, allowed=allowed, out=[queries[row].out for row in left])
            for row, items, values in zip(left, songs, scores, strict=True):
                items, values = items[items >= 0], values[items >= 0]
                if not filters.by_score_alone:
                    picked = choose(filters, self.export, self.vectors, items, values, k)
                    if len(picked) < k and size < most:
                        continue
                    items, values = items[picked], values[picked]
                best[row] = items, values
            left = np.array([row for row in left if best[row] is None], np.int64)
            size = min(2 * size, most)
        return best

    def find(self, songs: Sequence[Any], *, kind: str = "song") -> tuple[np.ndarray, list[str]]:
        """The positions of songs, int64 [n], and a line for each kind of song that is not clear.

        Args:
          songs: ids, names ("Artist - Title", or the title alone) or Tracks of a playlist file.
          kind: what the lines call them.
        """
        ids, values = self.ids.songs, list(songs)
        at = ids.indices(values)
        unknown, lines = [], []
        for row in np.flatnonzero(at < 0).tolist():
            matches = _named(values[row], ids)
            if len(matches) == 1:
                at[row] = matches[0]
            elif matches:
                shown = [f"{ids.label(match)} ({shortened(ids.name(match), 60)})" for match in matches[:_MOST_MATCHES]]
                more = ", ..." if len(matches) > _MOST_MATCHES else ""
                name = shortened(str(values[row]), 60)
                lines.append(f"{name!r} is the name of {len(matches)} songs: {', '.join(shown)}{more}; give an id")
            else:
                unknown.append(str(values[row]) if isinstance(values[row], Track) else values[row])
        return at[at >= 0], [ids.unknown(kind, unknown), *lines] if unknown else lines

    def played(self, query: Query, *, most: int) -> list[Id]:
        """The songs that a listener played or liked, each once, the latest first, at most `most`.

        They are those of the logs, if the run has a recency head in their order, and those of the query's history.
        """
        found = self._resolve(query, self.filters, np.zeros(0, np.int64))
        if isinstance(found, UserError):
            return []
        items = np.zeros(0, np.int32)
        if found.listener is not None:
            events = [part.events() for part in (found.listener.old, found.listener.fresh)]
        elif self.user_scorer is not None and found.user >= 0:
            events = [self.user_scorer.events_of(found.user).events()]
        else:
            events = []
        item, when, kind = (
            np.concatenate([getattr(part, name) for part in events] or [items])
            for name in ("item", "timestamp", "kind")
        )
        there = np.flatnonzero(kind != DISLIKE)
        items = item[there][np.argsort(when[there], kind="stable")][::-1]
        if not len(items) and found.user >= 0:
            items = self._user_songs.heard_by(found.user)
        return self.ids.songs.labels(list(dict.fromkeys(items.tolist()))[:most])

    def tracks(self, answer: Answer) -> list[Track]:
        """The recommended songs for `music_map.write_playlist`."""
        ids = self.ids.songs
        return [track_of(ids, at) for at in ids.indices([song.item_id for song in answer.recommendations]).tolist()]

    def similar(self, song: Any, *, k: int = 10, filters: Filters | None = None) -> Answer:
        """The k songs nearest to one song; see `recommend`."""
        return self.recommend([song], k=k, filters=filters)

    def explain(
        self, song: Any, *, songs: Sequence[Any] = (), user: Any = None, history: Sequence[Any] = ()
    ) -> Recommendation:
        """Why a query would recommend a song, with all its reasons; the rank is among the other songs.

        As in `recommend`, a listener without songs is scored by the recency head or the graph filter, if there is one.

        Raises:
          UserError: an unknown song, or nothing to start from.
        """
        found, lines = self.find([song])
        if not len(found):
            raise UserError("; ".join(lines))
        at = int(found[0])
        query = self._resolve(Query(tuple(songs), user, history=tuple(history)), self.filters, np.zeros(0, np.int64))
        if isinstance(query, UserError):
            raise query
        others = np.arange(len(self.vectors)) < len(self.ids.songs)
        others[query.songs] = False
        others[at] = True
        weights, item = np.zeros(0, np.float32), np.array([at])
        if self.user_scorer is None or len(query.songs):
            (wanted,), (weights,) = self._query(self._asked([query], 0.3))
            items, scores = rank_songs(self.vectors, wanted, allowed=others)
        else:
            group, items = self._group([query], self.filters), np.flatnonzero(others)
            scores = group.scores()[0, items]
        place = int(np.flatnonzero(items == at)[0])
        found = item, scores[place : place + 1]
        told: list[list[Part]] = []
        if not len(query.songs):
            told = (
                self._told_by_similarity(query, *found, len(PARTS))
                if self.user_scorer is None
                else self._told(group, [query], [found], len(PARTS))[0]
            )
        (one,) = self._explained(*found, query.songs, weights, told, True, MAX_SONGS)
        return dataclasses.replace(one, rank=1 + int((scores > scores[place]).sum()))

    def add_songs(self, songs: Sequence[Mapping[str, Any]]) -> list[str]:
        """Adds songs that were not there at training, for this object's life; queries may be asked meanwhile.

            recommender.add_songs([{"id": 999, "audio": [...], "artist": 40, "album": [7], "name": "Artist - Title"}])

        They are placed as songs of the data set without plays are: by audio, artists and albums (see
        `music_map.model.content`). From then on they can be recommended, asked for and stand in histories. The index
        takes them in without being built again. Programs are compiled for every 256 new songs.

        Args:
          songs: with "id" and, as far as they are known, "audio" (as many numbers as the data set's embeddings have),
            "artist" and "album" (an id of the logs, or a list of ids) and "name".

        Returns:
          warnings, such as unknown artists.

        Raises:
          UserError: an id that is known already, a wrong entry, or a song of which nothing is known that the model
            uses; then none is added.
        """
        with self._adding:
            content = self._content()
            if content is None:
                raise UserError("this recommender has nothing that places new songs; load a trained run")
            new, known = new_songs_of(songs, self.ids, content), len(self.ids.songs)
            if not new.added:
                return new.warnings
            given = content.place(new.audio, new.has_audio, new.artists, new.albums, self.export.item_embeddings)
            export, count = grown_export(self.export, known, new, given)
            grown = copy.copy(self)
            grown.export, grown.ids = export, grown_ids(self.ids, new)
            placed = np.asarray(embed(jnp.asarray(export.item_embeddings[known:]), self._moments, self.heads.space))
            grown.vectors = np.concatenate([self.vectors[:known], placed])
            grown.index = grown_index(self.index, grown.vectors, count)
            grown._query = grown._query_over(export)
            grown.placing = self.placing._replace(fold_in=grown_fold_in(self.placing.fold_in, export, known))
            if self.user_scorer is not None:
                grown.user_scorer = self.user_scorer.grown(export)
            grown._explainer = Explainer(export)
            grown._allowed = grown._allowed_of(export)
            # One assignment: a query sees the old songs or the new ones.
            self.__dict__ = grown.__dict__
            return new.warnings

    def warm(self, *, k: int = 10) -> int:
        """Compiles the programs of usual questions and makes the tables of look-ups; returns the number of programs.

        These are questions for up to k songs, with caps and without, alone and in batches of up to 64. Listeners may
        have any history, and playlists any length.
        """
        self.ids.songs.find("")
        labels = self.ids.songs.labels((0, len(self.ids.songs) - 1))
        for batch in (1, 8, 64):  # an exact index has a program for each
            self.recommend_batch([Query((labels[0],))] * batch, k=k)
        history = tuple((label,) for label in labels)
        self.recommend_batch([Query((labels[0],), history=history), Query(history=history)], k=k)
        return 0 if self.user_scorer is None else self.user_scorer.compile((k, _POOL * k))

    def _resolve(self, query: Query, filters: Filters, excluded: np.ndarray) -> _Resolved | UserError:
        users = self.ids.users
        if len(query.songs) > MAX_SONGS:
            return UserError(f"a playlist of {len(query.songs)} songs: at most {MAX_SONGS}; give the latest of them")
        playlist, warnings = self.find(query.songs)
        # A duplicate counts at its last place.
        playlist = np.array(list(dict.fromkeys(playlist[::-1].tolist()))[::-1], np.int64)
        pushed, unclear = self.find(query.dislikes, kind="disliked song")
        user = -1 if query.user is None else users.index_of(query.user)
        try:
            listener, unknown_played = self._listener(query, user)
        except UserError as e:
            return e
        if query.user is not None and user < 0:
            warnings.append(users.unknown("user", [query.user]))
        warnings += unclear
        if unknown_played:
            warnings.append(self.ids.songs.unknown("played song", unknown_played))
        if not len(playlist) and user < 0 and listener is None:
            if warnings:
                return UserError("; ".join(warnings))
            return UserError("an empty playlist: give at least one song, a user or a history")
        out = [playlist, excluded, pushed]
        if user >= 0 or listener is not None:
            of, row = (self._user_songs, user) if listener is None else (listener.songs, 0)
            disliked = of.disliked_by(row)
            out.append(disliked)
            out += left_out_for(filters, of, row)
            pushed = np.concatenate([pushed, disliked])
        if len(pushed):
            pushed = np.setdiff1d(pushed, playlist)
        pushed = pushed[:MOST_DISLIKES]
        return _Resolved(playlist, user, listener, pushed, np.concatenate(out), query.ordered, warnings)

    def _listener(self, query: Query, user: int) -> tuple[Listener | None, list[Any]]:
        """Who asks, where the logs alone do not say it, and the unknown songs of the history. Raises UserError."""
        plays, scorer = plays_of(query.history), self.user_scorer
        if not plays and (query.now is None or user < 0 or scorer is None):
            return None, []
        history = resolve(plays, self.ids.songs, now=query.now, at_least=0 if scorer is None else scorer.now)
        if user >= 0:
            old = None if scorer is None else scorer.events_of(user)
            known = self.export.user_embeddings[user], user, old, self._user_songs
        elif len(history.events.item) or len(history.withdrawals.item):
            known = self.placing.embed(history), -1, None, None
        else:  # unknown songs alone
            return None, history.unknown
        return listener_of(history, *known), history.unknown

    def _asked(self, queries: Sequence[_Resolved], user_share: float) -> list[Asked]:
        found = []
        for query in queries:
            taste, share = np.zeros(self.vectors.shape[1], np.float32), 0.0
            if query.user >= 0 or query.listener is not None:
                taste = self.tastes[query.user] if query.user >= 0 else self._taste(query.listener)
                share = user_share if len(query.songs) else 1.0
            found.append(Asked(query.songs, query.ordered, taste, share, query.pushed))
        return found

    def _taste(self, listener: Listener) -> np.ndarray:
        """A listener as a point of the playlist space, float32 [d]; 0 if the history tells no taste."""
        return np.asarray(embed(jnp.asarray(listener.embedding)[None], self._moments, self.heads.space))[0]

    def _explained(
        self,
        items: np.ndarray,
        scores: np.ndarray,
        playlist: np.ndarray,
        weights: np.ndarray,
        told: Sequence[list[Part]],
        explain: bool,
        most: int = MOST_REASONS,
    ) -> list[Recommendation]:
        """The recommended songs; of a playlist with the songs that speak for each, of a listener with `told`."""
        songs = self.ids.songs
        labels = zip(songs.labels(items.tolist()), scores.tolist(), strict=True)
        names = map(songs.name, items.tolist()) if songs.named else itertools.repeat(None, len(items))
        rows = enumerate(zip(labels, names, items.tolist(), strict=True))
        if not explain:
            return [Recommendation(at + 1, label, score, [], [], [], name) for at, ((label, score), name, _) in rows]
        why = self._why(items, playlist, weights, most) if len(playlist) else [[]] * len(items)
        return [
            Recommendation(
                at + 1, label, score, *self._metadata(item), why[at], name, told[at] if at < len(told) else []
            )
            for at, ((label, score), name, item) in rows
        ]

    def _tastes(self, playlist: np.ndarray, tastes: np.ndarray, weights: np.ndarray) -> list[Taste]:
        songs, shares = self.ids.songs.labels(playlist.tolist()), np.bincount(tastes, weights).tolist()
        of = tastes.tolist()
        return [
            Taste([song for song, taste in zip(songs, of, strict=True) if taste == at], share)
            for at, share in enumerate(shares)
        ]

    def _why(self, items: np.ndarray, playlist: np.ndarray, weights: np.ndarray, most: int) -> list[list[Reason]]:
        """The songs of a playlist that speak for each of some songs, the strongest first."""
        songs, similarity = self.ids.songs, self.vectors[items] @ self.vectors[playlist].T
        parts = weights * (similarity + self._query.together(playlist, items))
        order = np.argsort(-parts, axis=1, kind="stable")[:, :most]
        query = songs.labels(playlist.tolist())
        names = {p: songs.name(playlist[p]) for p in np.unique(order).tolist()} if songs.named else {}
        # Converting whole arrays to lists is several times faster than element by element.
        reasons = zip(
            order.tolist(),
            weights[order].tolist(),
            np.take_along_axis(similarity, order, axis=1).tolist(),
            strict=True,
        )
        return [
            [Reason(query[p], *numbers, names.get(p)) for p, *numbers in zip(at, weight, close, strict=True)]
            for at, weight, close in reasons
        ]

    def _told(
        self,
        group: UserGroup,
        queries: Sequence[_Resolved],
        ranked: Sequence[tuple[np.ndarray, np.ndarray]],
        most: int,
    ) -> list[list[list[Part]]]:
        """The reasons of the songs recommended to each listener of a group."""
        if group.head is None:
            pairs = zip(queries, ranked, strict=True)
            return [self._told_by_similarity(query, *songs, most) for query, songs in pairs]
        return self._explainer.by_head(group.reading, [items for items, _ in ranked], self.ids, most=most)

    def _told_by_similarity(
        self, query: _Resolved, items: np.ndarray, scores: np.ndarray, most: int
    ) -> list[list[Part]]:
        of, row = (self._user_songs, query.user) if query.listener is None else (query.listener.songs, 0)
        return self._explainer.by_similarity(self.vectors, scores, of.heard_by(row), items, self.ids, most=most)

    def _metadata(self, item: int) -> tuple[list[Id], list[Id]]:
        """The ids of a song's artists and albums."""
        export, ids = self.export, self.ids
        artists = export.artists[slice(*export.artist_offsets[item : item + 2])]
        albums = export.albums[slice(*export.album_offsets[item : item + 2])]
        return ids.artists.labels(artists.tolist()), ids.albums.labels(albums.tolist())


def _named(value: Any, songs: Ids) -> list[int]:
    """The positions of the songs that have a name. A number is no name where ids are numbers."""
    if isinstance(value, Track):
        return value.find(songs)
    is_name = isinstance(value, str) and songs.named and not (songs.own is None and value.strip().isdigit())
    return songs.find(value) if is_name else []


def _user_scorer(folder: Path, export: Export, now: int | None) -> UserScorer | None:
    """The stored scorer of users alone: the recency head, or else the graph filter."""
    embeddings = export.user_embeddings, export.item_embeddings
    if (head := exports.load_head(folder)) is not None:
        return PresentScorer(head, *embeddings, now=now)
    kept = exports.load_filter(folder, export)
    return None if kept is None else FilterScorer(kept, *embeddings, exports.load_placing(folder).graph)


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
