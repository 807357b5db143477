"""The playlist protocol: given the first songs of a listening session, rank the rest of it.

A session is a user's events up to a gap of more than SESSION_GAP seconds. Its songs are the distinct ones that were
played at least half or liked, in the order in which that first happened; the first n are the seeds, the rest the
targets. A query knows its seeds and nothing of the user. Candidates are the songs of train without the seeds; a target
that is not in train remains a target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from music_map.errors import UserError
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.protocols import MIN_PLAYED_PCT, RankingTask, find_protocol, relevant
from music_map.evaluation.ranking import ScoreBlock
from music_map.preprocess.dataset import Events
from music_map.rows import offsets_of, select
from music_map.unit import unit

SESSION_GAP = 1_800
SEED_COUNTS = (1, 5, 10, 25, 100)
# The protocol's headline figures are with 10 seeds, or with fewer where fewer than MIN_SESSIONS sessions are that long.
DEFAULT_SEEDS = 10
MIN_SESSIONS = 100

# (songs float32 [B, n, d], unit rows; where bool [B, n], False for padding; popularity float32 [B, n]) -> queries
# float32 [B, d].
Query = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Sessions(NamedTuple):
    """Listening sessions; session s has the songs items[offsets[s]:offsets[s + 1]], in the order of listening.

    Attributes:
      users: int32 [S], the user of each session; ascending, a user's sessions by time.
      offsets: int64 [S + 1].
      items: int32, distinct within a session.
    """

    users: np.ndarray
    offsets: np.ndarray
    items: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Number of songs of each session, int64 [S]."""
        return np.diff(self.offsets)

    def select(self, rows: np.ndarray) -> Sessions:
        """Some of the sessions, in the given order."""
        offsets, at = select(self.offsets, rows)
        return Sessions(self.users[rows], offsets, self.items[at])


def sessions_of(events: Events, *, min_played_pct: int = MIN_PLAYED_PCT, gap: int = SESSION_GAP) -> Sessions:
    """Cuts events into sessions; sessions without a song that counts are left out.

    A session goes on with any event, a skip or a dislike too.

    Args:
      events: sorted by user, then timestamp.
      min_played_pct: share of the track, in percent, from which a listen counts.
      gap: seconds without an event beyond which a new session starts.
    """
    if len(events.user) == 0:
        return Sessions(np.zeros(0, np.int32), np.zeros(1, np.int64), np.zeros(0, np.int32))
    pause = np.diff(events.timestamp.astype(np.int64))
    starts = np.concatenate([[True], (np.diff(events.user) != 0) | (pause > gap)])
    counts = relevant(events, find_protocol("playlist").relevance, min_played_pct=min_played_pct)
    session, item, user = (np.cumsum(starts) - 1)[counts], events.item[counts], events.user[counts]
    # The first event of each (session, song), in the order of the events.
    _, first = np.unique(session * (1 + int(item.max(initial=0))) + item, return_index=True)
    first = np.sort(first)
    _, at, sizes = np.unique(session[first], return_index=True, return_counts=True)
    return Sessions(user[first][at].astype(np.int32), offsets_of(sizes), item[first].astype(np.int32))


@dataclass(frozen=True)
class PlaylistTask:
    """Queries of one number of seeds.

    Attributes:
      ranking: the task; its "users" are the queries 0..Q - 1, its masked songs the seeds.
      seeds: int32 [Q, n], in the order they were played.
      users: int32 [Q], the user of each query's session; for evaluation only.
      num_sessions: sessions of the split that are long enough; Q of them were drawn.
    """

    ranking: RankingTask
    seeds: np.ndarray
    users: np.ndarray
    num_sessions: int

    @property
    def num_seeds(self) -> int:
        return self.seeds.shape[1]


def build_playlist_tasks(
    split: str,
    *,
    train: Events,
    held_out: Events,
    num_items: int,
    seed_counts: Sequence[int] = SEED_COUNTS,
    max_sessions: int = 10_000,
    seed: int = 0,
    min_played_pct: int = MIN_PLAYED_PCT,
    parts: int = 1,
) -> dict[int, PlaylistTask]:
    """The tasks of a split by number of seeds; numbers that no session exceeds are left out.

    With several `parts` a playlist is the first songs of so many sessions of different users, one session after the
    other, and its targets are the rest of them all.

    Args:
      split: "val" or "test".
      train: its songs are the candidates.
      held_out: the events of the split.
      num_items: number of songs.
      seed_counts: numbers of seeds.
      max_sessions: most queries for each number of seeds; where there are more, they are drawn without replacement.
      seed: of the draw.
      min_played_pct: share of the track, in percent, from which a listen counts.
      parts: sessions in a playlist.

    Raises:
      UserError: no session is long enough.
    """
    sessions = sessions_of(held_out, min_played_pct=min_played_pct)
    protocol = find_protocol("playlist")
    candidates = np.zeros(num_items, bool)
    candidates[train.item[relevant(train, protocol.history, min_played_pct=min_played_pct)]] = True
    tasks = {}
    for n in seed_counts:
        # Seeds of each part; a session that gives some has another song as a target.
        shares = np.diff(np.arange(parts + 1) * n // parts)
        chosen = np.flatnonzero(sessions.sizes > shares.max())
        long_enough = len(chosen)
        if parts > 1:
            chosen = _groups(sessions, chosen, shares, np.random.default_rng((seed, n, parts)))
        if len(chosen) == 0 or shares.min() < 1:
            continue
        if len(chosen) > max_sessions:
            rows = np.random.default_rng((seed, n)).choice(len(chosen), max_sessions, replace=False)
            chosen = chosen[np.sort(rows)]
        drawn, queries = sessions.select(chosen.ravel()), np.arange(len(chosen), dtype=np.int32)
        given = np.arange(len(drawn.items)) - drawn.offsets[:-1].repeat(drawn.sizes)
        given = given < np.tile(shares, len(chosen)).repeat(drawn.sizes)
        seeds = drawn.items[given].reshape(len(chosen), n)
        size = {"num_rows": len(chosen), "num_items": num_items}
        masked = Pairs.of(np.repeat(queries, n), seeds.ravel(), **size)
        rows = np.repeat(queries, parts).repeat(drawn.sizes)
        targets = Pairs.of(rows[~given], drawn.items[~given], **size).minus(masked)
        ranking = RankingTask(
            protocol=protocol,
            split=split,
            users=queries,
            targets=targets,
            masked=masked,
            candidates=candidates,
            num_dropped_users=0,
            cold_target_share=float((~candidates[targets.items]).mean()),
        )
        tasks[n] = PlaylistTask(ranking, seeds, drawn.users[::parts], long_enough)
    if not tasks:
        raise UserError(
            f"protocol 'playlist' finds no session of more than {min(seed_counts)} songs in the {split} split; choose "
            "another protocol (config.eval.protocol) or split, or give a longer log"
        )
    return tasks


def _groups(sessions: Sessions, chosen: np.ndarray, shares: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sessions that make a playlist together, int64 [Q, len(shares)]: of different users, without a song in common."""
    if not len(chosen):
        return chosen
    groups = np.stack([rng.permutation(chosen) for _ in shares], axis=1)
    lists = [[sessions.items[sessions.offsets[s] : sessions.offsets[s + 1]] for s in group] for group in groups]
    good = [
        len(set(sessions.users[group].tolist())) == len(shares)
        and len(np.unique(np.concatenate(songs))) == sum(map(len, songs))
        for group, songs in zip(groups, lists, strict=True)
    ]
    return groups[good]


def default_seeds(tasks: Mapping[int, PlaylistTask]) -> int:
    """The number of seeds of the protocol's headline figures.

    DEFAULT_SEEDS, or where fewer than MIN_SESSIONS sessions are that long the largest smaller number with so many
    sessions, or else the smallest number.
    """
    enough = [n for n, task in tasks.items() if n <= DEFAULT_SEEDS and task.num_sessions >= MIN_SESSIONS]
    return max(enough, default=min(tasks))


def query_scores(
    item_emb: jax.Array | np.ndarray, task: PlaylistTask, query: Query, *, popularity: np.ndarray
) -> ScoreBlock:
    """Scores of queries made from the seeds: score(q, i) = <query(seeds of q), e_i / ||e_i||>.

    Args:
      item_emb: float [I, d], of any length.
      task: its seeds.
      query: from songs to a query, e.g. `mean_query`; traced once, for blocks of queries.
      popularity: float32 [I], log(1 + listeners in train).
    """
    vectors, popularity = unit(jnp.asarray(item_emb)), jnp.asarray(popularity, jnp.float32)

    @jax.jit
    def scores(vectors: jax.Array, popularity: jax.Array, seeds: jax.Array, where: jax.Array) -> jax.Array:
        queries = query(vectors[seeds], where, popularity[seeds])
        return jnp.matmul(queries, vectors.T, precision=jax.lax.Precision.HIGHEST)

    # Seeds are an argument: XLA would fold them as constants for seconds.
    return lambda queries: scores(
        vectors, popularity, task.seeds[queries], np.ones((len(queries), task.num_seeds), bool)
    )


def mean_query(songs: jax.Array, where: jax.Array, popularity: jax.Array) -> jax.Array:
    """The plain mean of the songs, float32 [B, d]; its length changes no ranking."""
    del popularity
    return jnp.sum(songs * where[..., None], axis=1) / jnp.maximum(where.sum(axis=1), 1)[:, None]


def last_query(songs: jax.Array, where: jax.Array, popularity: jax.Array) -> jax.Array:
    """The last song alone, float32 [B, d]."""
    del popularity
    last = where.shape[1] - 1 - jnp.argmax(where[:, ::-1], axis=1)
    return jnp.take_along_axis(songs, last[:, None, None], axis=1)[:, 0]


def neighbour_scores(similar: sparse.csr_array, task: PlaylistTask) -> ScoreBlock:
    """Item-kNN on the seeds: score(q, j) = sum over the seeds i of similar[i, j].

    Args:
      similar: float32 [I, I], see baselines.item_knn.neighbours.
      task: its seeds.
    """
    num_items, n = similar.shape[0], task.num_seeds

    def score_block(queries: np.ndarray) -> np.ndarray:
        offsets = np.arange(len(queries) + 1) * n
        ones, shape = np.ones(offsets[-1], np.float32), (len(queries), num_items)
        return (sparse.csr_array((ones, task.seeds[queries].ravel(), offsets), shape) @ similar).toarray()

    return score_block
