"""The state of all songs at a moment, from all events up to it: trends, and the users and names that songs share."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from music_map import rows as compressed
from music_map.decay import decay
from music_map.errors import UserError
from music_map.model.propagation import Csr
from music_map.preprocess.dataset import Events, ItemFeatures
from music_map.recency.history import HOUR, MIN_AGE, Histories, engagement, event_age
from music_map.reporter import Progress, silent
from music_map.storage import ArrayFolder, ArrayWriter
from music_map.threads import num_workers, ordered_map

# Half-lives of the songs' trends, hours.
TREND_HALF_LIVES = (6.0, 24.0, 72.0, 168.0, 720.0)
TREND = (*(f"log_plays_{half_life:g}h" for half_life in TREND_HALF_LIVES), "log_plays", "log_listeners", "log_song_age")

# Walks from songs to songs with a common name: the songs of an artist share its probability, or have it each; the songs
# of an album share it.
NAMES = ("artists", "artist_share", "albums")

# Events that are summed at once.
_CHUNK = 2**21
_ARRAYS = (
    "plays", "total", "first", "user_offsets", "users", "user_weights", "artist_offsets", "artists", "album_offsets",
    "albums",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SharedNames:
    """Two-step walks from songs to songs with a common name (an artist or an album).

    From a song, all its names are equally likely; from a name, all its songs.

    Attributes:
      into: float32 [I, M], from songs to names; rows sum to 1, or to 0 for songs without names.
      back: float32 [M, I], from names to songs, likewise.
    """

    into: sparse.csr_array
    back: sparse.csr_array

    @classmethod
    def of(cls, offsets: np.ndarray, names: np.ndarray) -> SharedNames:
        """Builds the walks from the names of each song, given as compressed rows."""
        shape = (len(offsets) - 1, int(names.max(initial=-1)) + 1)
        into = sparse.csr_array((np.ones(len(names), np.float32), names, offsets), shape)
        back = sparse.csr_array(into.T)
        for matrix in (into, back):
            sizes = np.diff(matrix.indptr)
            matrix.data /= np.repeat(sizes, sizes).astype(np.float32)
        return cls(into, back)

    @property
    def whole(self) -> SharedNames:
        """With 1 to each song on the way back: a song has the probability of its names, however many songs share it."""
        back = self.back.copy()
        back.data = np.ones_like(back.data)
        return SharedNames(self.into, back)


@dataclasses.dataclass(frozen=True)
class Moment:
    """The songs at a moment.

    Attributes:
      now: seconds.
      plays: float32 [I, len(TREND_HALF_LIVES)], sum over listens and likes of engagement * 2^(-age / half-life).
      total: float32 [I], sum over listens and likes of engagement.
      first: int64 [I], seconds of the song's first event, -1 if it has none.
      user_offsets, users: the listeners of each song, as compressed rows: int64 [I + 1], int32 [E].
      user_weights: float32 [E], log(1 + engagement of the pair), divided by the norm of these over the user's songs.
        Walks weight the pair by it, both to the user and back.
      artist_offsets, artists, album_offsets, albums: see ItemFeatures.
    """

    now: int
    plays: np.ndarray
    total: np.ndarray
    first: np.ndarray
    user_offsets: np.ndarray
    users: np.ndarray
    user_weights: np.ndarray
    artist_offsets: np.ndarray
    artists: np.ndarray
    album_offsets: np.ndarray
    albums: np.ndarray
    num_users: int

    @property
    def num_items(self) -> int:
        return len(self.total)

    def trend(self, now: int) -> np.ndarray:
        """The trend features of each song at `now`, float32 [I, T]; see TREND.

        log_plays_h is log(1 + sum over listens and likes of engagement * 2^(-age / h)). log_song_age is the logarithm
        of the hours since the song's first event, and 0 for a song without events. If `now` is later than the moment,
        the sums are decayed to `now`.

        Raises:
          UserError: `now` is earlier than the moment.
        """
        self.check(now)
        since = decay((now - self.now) / HOUR, np.array(TREND_HALF_LIVES))
        return trend_features(self.plays * since, self.total, self.listener_counts, self.first, now)

    def check(self, now: int) -> None:
        """Raises UserError if `now` is earlier than the moment."""
        if now < self.now:
            raise UserError(
                f"now={now} is earlier than {self.now}, the last second that the model knows; give a later one"
            )

    def weighted_trend(self, now: int, weights: np.ndarray) -> jax.Array:
        """`trend(now) @ weights`, float32 [I], made on the device: a twentieth of the host's time."""
        self.check(now)
        since = decay((now - self.now) / HOUR, np.array(TREND_HALF_LIVES)).astype(np.float32)
        later = np.float32((now - self.now) / HOUR)
        return _weighted_trend(*self._trend_on_device, since, later, jnp.asarray(weights, jnp.float32))

    @functools.cached_property
    def _trend_on_device(self) -> tuple[jax.Array, ...]:
        # Ages in hours are exact to a second in float32 for 500 years; seconds since 1970 are not.
        age = np.where(self.first < 0, -np.inf, (self.now - self.first) / HOUR)
        columns = (self.plays, self.total, self.listener_counts, age)
        return tuple(jnp.asarray(column, jnp.float32) for column in columns)

    @functools.cached_property
    def listener_counts(self) -> np.ndarray:
        """Listeners of each song, int64 [I]."""
        return np.diff(self.user_offsets)

    def trend_of(self, songs: np.ndarray, now: int) -> np.ndarray:
        """`trend` of some songs, float32 [n, T]."""
        self.check(now)
        since = decay((now - self.now) / HOUR, np.array(TREND_HALF_LIVES))
        counts = self.listener_counts[songs]
        return trend_features(self.plays[songs] * since, self.total[songs], counts, self.first[songs], now)

    def log_song_age_of(self, songs: np.ndarray, now: int) -> np.ndarray:
        """The last column of `trend_of`, float32 [n]."""
        return _log_song_age(self.first[songs], now).astype(np.float32)

    @functools.cached_property
    def plays_of_all(self) -> np.ndarray:
        """`plays` of all songs together, float64 [T]."""
        return self.plays.sum(axis=0, dtype=np.float64)

    @functools.cached_property
    def listeners(self) -> sparse.csr_array:
        """`user_weights` as a sparse matrix, float32 [I, U]."""
        shape = (self.num_items, self.num_users)
        return sparse.csr_array((self.user_weights, self.users, self.user_offsets), shape)

    @functools.cached_property
    def listeners_on_device(self) -> Csr:
        """`listeners`, put on the device once."""
        rows = compressed.row_of_each(self.user_offsets)
        columns = (self.user_offsets, np.int32), (rows, np.int32), (self.users, np.int32)
        return Csr(*(jnp.asarray(c.astype(t, copy=False)) for c, t in columns), jnp.asarray(self.user_weights))

    @functools.cached_property
    def user_totals(self) -> np.ndarray:
        """Sum of each user's weights, float64 [U]."""
        return np.bincount(self.users, self.user_weights, self.num_users)

    @functools.cached_property
    def names(self) -> tuple[SharedNames, ...]:
        """Walks over names, in the order of NAMES."""
        artists, albums = (
            SharedNames.of(self.artist_offsets, self.artists),
            SharedNames.of(self.album_offsets, self.albums),
        )
        return artists, artists.whole, albums

    def grown(
        self,
        num_items: int,
        artist_offsets: np.ndarray,
        artists: np.ndarray,
        album_offsets: np.ndarray,
        albums: np.ndarray,
    ) -> Moment:
        """The moment with songs without events after its own, `num_items` in all, and the names of all songs."""
        more = num_items - self.num_items

        def filled(values: np.ndarray, fill: float) -> np.ndarray:
            return np.concatenate([values, np.full((more, *values.shape[1:]), fill, values.dtype)])

        ends = filled(self.user_offsets, self.user_offsets[-1])
        found = dataclasses.replace(
            self,
            plays=filled(self.plays, 0),
            total=filled(self.total, 0),
            first=filled(self.first, -1),
            user_offsets=ends,
            artist_offsets=artist_offsets,
            artists=artists,
            album_offsets=album_offsets,
            albums=albums,
        )
        # The edges are the same, and may be many: they stay where they are.
        offsets = jnp.asarray(ends.astype(np.int32))
        found.__dict__["listeners_on_device"] = self.listeners_on_device._replace(offsets=offsets)
        found.__dict__["user_totals"] = self.user_totals
        return found

    def save(self, writer: ArrayWriter, prefix: str = "moment") -> None:
        """Writes the arrays as PREFIX/NAME; `load` reads them."""
        for name in _ARRAYS:
            writer.write(f"{prefix}/{name}", getattr(self, name))
        writer.write(f"{prefix}/now", np.array([self.now, self.num_users], np.int64))

    @classmethod
    def load(cls, store: ArrayFolder, prefix: str = "moment", *, verify: bool = True) -> Moment:
        """Reads the files of `save`. Raises DamagedFileError if a file is damaged."""
        now, num_users = map(int, store.load(f"{prefix}/now", verify=verify))
        arrays = {name: store.load(f"{prefix}/{name}", verify=verify) for name in _ARRAYS}
        return cls(now, **arrays, num_users=num_users)


def trend_features(
    plays: np.ndarray, total: np.ndarray, listeners: np.ndarray, first: np.ndarray, now: int
) -> np.ndarray:
    """TREND of songs, float32 [n, T], from Moment's `plays` (decayed to `now`), `total`, listeners and `first`."""
    columns = [np.log1p(plays), np.log1p(total.astype(np.float64))[:, None]]
    columns += [np.log1p(listeners)[:, None], _log_song_age(first, now)[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float32)


def _log_song_age(first: np.ndarray, now: int) -> np.ndarray:
    oldest = np.where(first < 0, 0.0, np.maximum((now - first) / HOUR, MIN_AGE))
    return np.log(np.maximum(oldest, 1.0))


@jax.jit
def _weighted_trend(
    plays: jax.Array,
    total: jax.Array,
    listeners: jax.Array,
    age: jax.Array,
    since: jax.Array,
    later: jax.Array,
    weights: jax.Array,
) -> jax.Array:
    columns = [jnp.log1p(plays * since[None]), *(jnp.log1p(x)[:, None] for x in (total, listeners))]
    columns.append(jnp.log(jnp.maximum(age + later, 1.0))[:, None])
    return jnp.matmul(jnp.concatenate(columns, axis=1), weights, precision=jax.lax.Precision.HIGHEST)


def observe(
    events: Events | Histories,
    features: ItemFeatures,
    *,
    now: int,
    num_users: int,
    num_items: int,
    progress: Progress = silent,
) -> Moment:
    """Computes the moment `now`; later events do not count.

    Args:
      events: of all users, as histories or sorted by user, then timestamp.
      features: artists and albums of the songs.
      now: seconds.
      num_users, num_items: U and I.
      progress: reports events.
    """
    plays, total = np.zeros((len(TREND_HALF_LIVES), num_items)), np.zeros(num_items)
    first, of_users = np.full(num_items, np.iinfo(np.int64).max), []
    # A chunk ends at the end of a user, so all events of a pair are in one chunk.
    histories = events if isinstance(events, Histories) else Histories.of(events, num_users=num_users)
    ends = histories.offsets
    cuts = np.unique(np.searchsorted(ends, np.arange(0, ends[-1], _CHUNK), "right") - 1).tolist()
    chunks = [(low, high) for low, high in itertools.pairwise([*cuts, num_users]) if high > low]

    def sums(chunk: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, sparse.csr_array]:
        low, high = chunk
        rows = slice(ends[low], ends[high])
        known = np.flatnonzero(histories.timestamp[rows] <= now)
        user = compressed.row_of_each(ends[low : high + 1])[known]
        item, timestamp, kind, played = (column[rows][known] for column in histories[1:])
        age, strength = event_age(timestamp, now), engagement(kind, played)
        recent = np.stack([np.bincount(item, strength * decay(age, h), minlength=num_items) for h in TREND_HALF_LIVES])
        oldest = np.full(num_items, np.iinfo(np.int64).max)
        np.minimum.at(oldest, item, timestamp.astype(np.int64))
        counts = strength > 0
        offsets = compressed.offsets_of_sorted(user[counts], high - low)
        entries = strength[counts].astype(np.float32), item[counts], offsets
        pairs = sparse.csr_array(entries, (high - low, num_items))
        pairs.sum_duplicates()
        pairs.data = np.log1p(pairs.data)
        norm = np.sqrt(pairs.multiply(pairs).sum(axis=1))
        pairs.data /= np.repeat(np.maximum(norm, 1e-12), np.diff(pairs.indptr)).astype(np.float32)
        return recent, np.bincount(item, strength, minlength=num_items), oldest, pairs

    with ThreadPoolExecutor(num_workers()) as pool, progress("moment", int(ends[-1]), "event") as advance:
        found = ordered_map(sums, chunks, pool=pool, ahead=num_workers())
        for (low, high), (recent, all_time, oldest, pairs) in zip(chunks, found, strict=True):
            plays += recent
            total += all_time
            np.minimum(first, oldest, out=first)
            of_users.append(pairs)
            advance(int(ends[high] - ends[low]))
    by_user = (
        sparse.vstack(of_users, format="csr") if of_users else sparse.csr_array((num_users, num_items), dtype="f4")
    )
    listeners = sparse.csr_array(by_user.T)
    first[first == np.iinfo(np.int64).max] = -1
    return Moment(
        now,
        np.ascontiguousarray(plays.T, np.float32),
        total.astype(np.float32),
        first,
        listeners.indptr.astype(np.int64),
        listeners.indices.astype(np.int32),
        listeners.data.astype(np.float32),
        features.artist_offsets,
        features.artists,
        features.album_offsets,
        features.albums,
        num_users,
    )
