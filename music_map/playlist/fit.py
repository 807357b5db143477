"""Training the playlist attention to continue sessions.

For a session cut after n songs, with query q of those, targets T the rest and z the songs in the playlist space,

    loss = -1/|T| sum_{t in T} log(exp(s q . z_t) / sum_i exp(s q . z_i)),   s the learned sharpness,

plus strength/2 ||w - w_0||^2 with w the learned weights without s, and w_0 those of the plain mean. The sum over songs
is estimated by the targets and a weighted uniform sample of the others, without the playlist's own songs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from music_map import mesh as meshes
from music_map.evaluation.playlist import Sessions
from music_map.mesh import to_host
from music_map.playlist.attention import attend
from music_map.playlist.heads import Heads, untrained
from music_map.playlist.space import Moments, Space, embed, moments_of
from music_map.reporter import Progress, silent
from music_map.topk import top_k

# At most: songs in a query, targets of an example, the same where it only measures, candidates of a window.
_MOST_SONGS, _MOST_TARGETS, _MOST_MEASURED, _MOST_CANDIDATES = 128, 32, 128, 8_192
# Start of the space (centring, whitening), where its gradient is not 0, and the strength of the pull towards it.
_START, _SPACE_STRENGTH = (0.5, 0.0), 1.0
# Strengths that are tried: with strength s, a weight of 1 costs a loss of s / 2 nats, summed over sessions.
STRENGTHS = (1.0, 10.0, 100.0)
_ITERATIONS = 50
_AT = 20  # of NDCG
# Of the loss, relative: float32 tells no much smaller differences, and a line search would look for them.
_TOLERANCE = 1e-6


class Examples(NamedTuple):
    """N cut sessions of one window; C candidate songs.

    Attributes:
      songs: int32 [N, n], the first songs in the order they were played, padded at the end.
      where: bool [N, n].
      own: bool [N, C], the candidates that are songs of the playlist.
      targets: int32 [N, T], positions in `candidates`, padded.
      target_weight: float32 [N, T], 1 / |T|, 0 on padding.
      candidates: int32 [C].
      log_weight: float32 [C], log of the number of songs that a candidate represents.
      items: float32 [I, d], embeddings of an encoder trained before the window.
      moments: of the songs known before the window.
      popularity: float32 [I], log(1 + listeners).
    """

    songs: np.ndarray
    where: np.ndarray
    own: np.ndarray
    targets: np.ndarray
    target_weight: np.ndarray
    candidates: np.ndarray
    log_weight: np.ndarray
    items: np.ndarray
    moments: Moments
    popularity: np.ndarray


def examples_of(
    sessions: Sessions, items: np.ndarray, popularity: np.ndarray, known: np.ndarray, *, most: int, seed: int
) -> Examples | None:
    """Cuts sessions at random, log-uniformly; songs without an edge before the window are left out.

    Args:
      sessions: of a window.
      items: float32 [I, d], of any length; see Examples.
      popularity: float32 [I].
      known: bool [I], songs with an edge before the window.
      most: examples to make, at most.
      seed: of all draws.

    Returns:
      None if no session has three known songs.
    """
    rng = np.random.default_rng(seed)
    lists = _lists(sessions, known, least=3)
    if not lists:
        return None
    chosen = [lists[s] for s in rng.permutation(len(lists))[:most]]
    # A cut after one song teaches nothing: a single song is its own query.
    cuts = [int(np.exp(rng.uniform(np.log(2), np.log(len(songs))))) for songs in chosen]
    return _examples(chosen, cuts, items, popularity, known, rng=rng, most_targets=_MOST_TARGETS)


def examples_at(
    cuts: Sequence[int],
    sessions: Sessions,
    items: np.ndarray,
    popularity: np.ndarray,
    known: np.ndarray,
    *,
    most: int,
    seed: int,
) -> tuple[Examples, np.ndarray] | None:
    """Cuts sessions after each of some numbers of songs, those that are longer; see `examples_of` for the arguments.

    Returns:
      the examples, and the session of each, int [N]; None if no session is long enough. `most` counts sessions.
    """
    rng = np.random.default_rng(seed)
    lists = _lists(sessions, known, least=min(cuts) + 1)
    if not lists:
        return None
    lists = [lists[s] for s in rng.permutation(len(lists))[:most]]
    rows = [(s, cut) for s, songs in enumerate(lists) for cut in cuts if len(songs) > cut]
    of, each = (list(column) for column in zip(*rows, strict=True))
    given = (items, popularity, known)
    return _examples([lists[s] for s in of], each, *given, rng=rng, most_targets=_MOST_MEASURED), np.array(of)


def _lists(sessions: Sessions, known: np.ndarray, *, least: int) -> list[np.ndarray]:
    """The known songs of the sessions that have so many."""
    lists = (sessions.items[a:b] for a, b in zip(sessions.offsets[:-1], sessions.offsets[1:], strict=True))
    return [s for s in (s[known[s]] for s in lists) if len(s) >= least]


def _examples(
    lists: Sequence[np.ndarray],
    cuts: Sequence[int],
    items: np.ndarray,
    popularity: np.ndarray,
    known: np.ndarray,
    *,
    rng: np.random.Generator,
    most_targets: int,
) -> Examples:
    """An example of each list, cut after so many songs."""
    width = 1 << (min(max(cuts), _MOST_SONGS) - 1).bit_length()
    songs = np.zeros((len(lists), width), np.int32)
    where = np.zeros(songs.shape, bool)
    targets = np.full((len(lists), most_targets), -1, np.int64)
    for row, (played, cut) in enumerate(zip(lists, cuts, strict=True)):
        given, rest = played[:cut][-_MOST_SONGS:], played[cut:]
        songs[row, : len(given)], where[row, : len(given)] = given, True
        drawn = rng.permutation(rest)[:most_targets]
        targets[row, : len(drawn)] = drawn
    there = targets >= 0
    wanted = np.unique(targets[there])
    others = np.setdiff1d(np.flatnonzero(known), wanted, assume_unique=True)
    sample = np.sort(rng.permutation(others)[: max(_MOST_CANDIDATES - len(wanted), 1_024)])
    weight = np.log(len(others) / len(sample)) if len(sample) else 0.0
    candidates = np.concatenate([wanted, sample])
    position = np.full(len(items), len(candidates), np.int32)
    position[candidates] = np.arange(len(candidates))
    own = np.zeros((len(lists), len(candidates) + 1), bool)
    np.put_along_axis(own, np.where(where, position[songs], len(candidates)), True, axis=1)
    return Examples(
        songs,
        where,
        own[:, :-1],
        np.where(there, np.searchsorted(wanted, targets), 0).astype(np.int32),
        (there / there.sum(axis=1, keepdims=True)).astype(np.float32),
        candidates.astype(np.int32),
        np.concatenate([np.zeros(len(wanted)), np.full(len(sample), weight)]).astype(np.float32),
        items.astype(np.float32),
        moments_of(items, known),
        popularity.astype(np.float32),
    )


@jax.jit
def _placed(space: Space, examples: Examples) -> jax.Array:
    """The songs in the playlist space, float32 [I, d]."""
    return embed(jnp.asarray(examples.items), examples.moments, space)


def _loss(heads: Heads, sharpness: jax.Array, examples: Examples, placed: jax.Array, *, ordered: bool) -> jax.Array:
    candidates = placed[examples.candidates]
    score = (sharpness * _queries(heads, examples, placed, ordered=ordered)) @ candidates.T
    # logsumexp in as few passes as go: the weights are a product, the songs that are out zeros.
    largest = jax.lax.stop_gradient(jnp.max(jnp.where(examples.own, -jnp.inf, score), axis=1))
    likely = jnp.where(examples.own, 0.0, jnp.exp(score - largest[:, None]))
    total = largest + jnp.log(jnp.matmul(likely, jnp.exp(examples.log_weight), precision=jax.lax.Precision.HIGHEST))
    found = jnp.take_along_axis(score, examples.targets, axis=1)
    loss = total - jnp.sum(examples.target_weight * found, axis=1)
    return jnp.sum(jnp.where(examples.target_weight.any(axis=1), loss, 0.0))  # padding has no target


def _queries(heads: Heads, examples: Examples, placed: jax.Array, *, ordered: bool) -> jax.Array:
    """float32 [N, d]."""
    songs = jnp.asarray(examples.songs)
    head = heads.ordered if ordered else heads.unordered
    return attend(placed[songs], examples.where, jnp.asarray(examples.popularity)[songs], head)[0]


def continuation_ndcg(heads: Heads, examples: Examples, *, ordered: bool) -> np.ndarray:
    """NDCG@20 of each example that is no padding, float64 [N]: its targets ranked among the weighted candidates.

    rank_t = 1 + sum_c weight_c [s_c > s_t],  DCG = sum_{t: rank_t <= 20} 1 / log2(1 + rank_t)
    """
    return ndcg_of(examples, *_best(heads, examples, ordered=ordered))


def ndcg_of(examples: Examples, best: jax.Array, at: jax.Array, found: jax.Array) -> np.ndarray:
    """`continuation_ndcg` from scores and positions [N, 20] of the best candidates, and the targets' scores [N, T]."""
    best, at, found = map(to_host, (best, at, found))
    weight, there = np.exp(to_host(examples.log_weight), dtype=np.float64), to_host(examples.target_weight) > 0
    real = there.any(axis=1)
    best, at, found, there = best[real], at[real], found[real], there[real]
    # A candidate stands for one song at least: a target below the first 20 candidates has no rank that counts.
    above = np.cumsum(np.pad(weight[at], ((0, 0), (1, 0))), axis=1)
    number = (best[:, None, :] > found[:, :, None]).sum(axis=2)
    rank = 1.0 + np.take_along_axis(above, number, axis=1)
    gain = np.where(there & (rank <= _AT), 1.0 / np.log2(1.0 + rank), 0.0).sum(axis=1)
    ideal = np.cumsum(1.0 / np.log2(2.0 + np.arange(_AT)))
    return gain / ideal[np.minimum(there.sum(axis=1), _AT) - 1]


@functools.partial(jax.jit, static_argnames="ordered")
def _best(heads: Heads, examples: Examples, *, ordered: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores and positions [N, 20] of the best candidates, and the targets' scores float32 [N, T]."""
    placed = _placed(heads.space, examples)
    score = _queries(heads, examples, placed, ordered=ordered) @ placed[examples.candidates].T
    found = jnp.take_along_axis(score, examples.targets, axis=1)
    return *top_k(jnp.where(examples.own, -jnp.inf, score), min(_AT, score.shape[1])), found


def fit_heads(
    windows: Sequence[Examples],
    *,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
    mesh: Mesh | None = None,
    progress: Progress = silent,
) -> tuple[Heads, dict[str, float]]:
    """Fits the space in which the plain mean of a playlist does best, then the attention in it.

    The attention is fitted with each strength on each half of the examples and measured by NDCG@20, for which the loss
    is a proxy, on the other half. The plain mean stays unless the best attention gains more than a standard error of
    the difference. The chosen attention is fitted again on all examples.

    Args:
      windows: at least one.
      strengths: of the pull towards the plain mean.
      seed: of the halves.
      mesh: devices that share the examples, of all processes, which have the same examples; None: one device.
      progress: reports fits.

    Returns:
      the heads, and the strengths chosen for "ordered" and "unordered"; infinite if the plain mean stays.
    """
    heads = untrained(np.inf)
    heads = heads._replace(space=Space(*map(np.float32, _START)))
    windows = [_used_songs(examples) for examples in windows]
    whole = [_put(examples, mesh) for examples in windows]
    rng = np.random.default_rng(seed)
    halves: tuple[list[Examples], list[Examples]] = ([], [])
    for examples in windows:
        rows = rng.permutation(len(examples.songs))
        for half, chosen in zip(halves, (rows[::2], rows[1::2]), strict=True):
            if len(chosen):
                half.append(_put(_rows(examples, np.sort(chosen)), mesh))
    strengths = sorted(strengths, reverse=True) if all(halves) else []
    kept = {}
    with progress("playlist query", 1 + 4 * len(strengths), "fit") as advance:
        space = [("space", name) for name in Space._fields]
        heads, sharpness = _fit(heads, whole, space, ordered=False, strength=_SPACE_STRENGTH)
        advance(1)
        for part, fields in (("ordered", heads.ordered._fields), ("unordered", ("centre", "popularity"))):
            options = {"used": [(part, name) for name in fields], "ordered": part == "ordered"}
            kept[part] = _best_strength(heads, sharpness, halves, strengths, advance=advance, **options)
            if np.isfinite(kept[part]):
                options |= {"strength": kept[part], "start": (heads, sharpness)}
                heads, sharpness = _fit(heads, whole, **options)
    return heads, kept


def _best_strength(
    heads: Heads,
    sharpness: float,
    halves: tuple[list[Examples], list[Examples]],
    strengths: Sequence[float],
    *,
    used: Sequence[tuple[str, str]],
    ordered: bool,
    advance: Callable[[int], object],
) -> float:
    """The strength, of descending `strengths`, whose fits on each half do best on the other; see `fit_heads`.

    Infinite if `heads` as they are, the plain mean, are as good.
    """

    def measured(tried: Heads, half: list[Examples]) -> np.ndarray:
        return np.concatenate([continuation_ndcg(tried, examples, ordered=ordered) for examples in half])

    others = halves[::-1]
    of_plain = [measured(heads, half) for half in others] if strengths else []
    best, chosen = 0.0, np.inf
    fitted: list[tuple[Heads, float]] = [(heads, sharpness)] * 2
    for strength in strengths:
        # Each fit starts where the one before, with a stronger pull, ended.
        options = {"ordered": ordered, "strength": strength}
        fitted = [_fit(heads, half, used, start=s, **options) for half, s in zip(halves, fitted, strict=True)]
        advance(2)
        trials = zip(fitted, others, of_plain, strict=True)
        gain = np.concatenate([measured(tried, half) - plain for (tried, _), half, plain in trials])
        if gain.mean() > max(best, gain.std() / np.sqrt(len(gain))):
            best, chosen = float(gain.mean()), strength
    return chosen


# The arrays with a row for each example.
_BY_ROW = ("songs", "where", "own", "targets", "target_weight")


def _rows(examples: Examples, rows: np.ndarray) -> Examples:
    """Some of the examples, with the same candidates."""
    return examples._replace(**{name: getattr(examples, name)[rows] for name in _BY_ROW})


def _used_songs(examples: Examples) -> Examples:
    """The examples with embeddings of the songs that occur in them alone, renumbered."""
    used = np.unique(np.append(examples.candidates, examples.songs[examples.where]))
    rows = _longer(used, _power_of_two(len(used)), used[0])
    return examples._replace(
        songs=np.where(examples.where, np.searchsorted(used, examples.songs), 0).astype(np.int32),
        candidates=np.searchsorted(used, examples.candidates).astype(np.int32),
        items=examples.items[rows],
        popularity=examples.popularity[rows],
    )


def _put(examples: Examples, mesh: Mesh | None) -> Examples:
    """Puts examples on the device, or cuts them over devices; padded, so that few sizes are compiled."""
    rows = _power_of_two(max(len(examples.songs), 64 if mesh is None else mesh.size))
    padded = {name: _longer(getattr(examples, name), rows, getattr(examples, name)[:1]) for name in _BY_ROW}
    padded["target_weight"][len(examples.songs) :] = 0.0
    more = -len(examples.candidates) % 1_024
    padded["own"] = np.pad(padded["own"], ((0, 0), (0, more)), constant_values=True)  # left out as the query's own are
    candidates, log_weight = (np.pad(getattr(examples, name), (0, more)) for name in ("candidates", "log_weight"))
    examples = examples._replace(**padded, candidates=candidates, log_weight=log_weight)
    if mesh is None:
        return jax.tree.map(jnp.asarray, examples)
    placed = meshes.replicate(mesh, examples._replace(**dict.fromkeys(_BY_ROW)))
    return placed._replace(**{name: meshes.put(meshes.by_rows(mesh), array) for name, array in padded.items()})


def _power_of_two(length: int) -> int:
    return 1 << (length - 1).bit_length()


def _longer(array: np.ndarray, length: int, fill: np.ndarray) -> np.ndarray:
    """An array with `fill` repeated at its end, up to a length."""
    return np.append(array, np.repeat(np.atleast_1d(fill), length - len(array), axis=0), axis=0)


def _fit(
    origin: Heads,
    windows: Sequence[Examples],
    used: Sequence[tuple[str, str]],
    *,
    ordered: bool,
    strength: float,
    start: tuple[Heads, float] | None = None,
) -> tuple[Heads, float]:
    """`origin` with the parts that are `used` fitted, and log(sharpness).

    Args:
      origin: w_0, which the regularization pulls towards.
      windows: examples, see _put.
      used: (part, field) of Heads.
      ordered: which attention.
      strength: of the regularization.
      start: result of an earlier fit of the same parts, from which this one starts; None: from w_0.
    """
    used = tuple(used)

    def packed(heads: Heads, sharpness: float) -> np.ndarray:
        parts = [np.ravel(getattr(getattr(heads, part), name)) for part, name in used]
        return np.concatenate([*parts, [sharpness]]).astype(np.float64)

    flat = packed(origin, np.log(10.0))
    first = flat if start is None else packed(*start)

    def objective(w: np.ndarray) -> tuple[float, np.ndarray]:
        at = w.astype(np.float32)
        found = [
            _value_and_grad(at, origin, examples, items, used=used, ordered=ordered)
            for examples, items in zip(windows, placed, strict=True)
        ]
        pull = (w - flat) * np.r_[np.ones(len(w) - 1), 0.0]
        value = sum(float(v) for v, _ in found) + 0.5 * strength * float(pull @ pull)
        return value, sum(np.asarray(g, np.float64) for _, g in found) + strength * pull

    from scipy.optimize import minimize  # takes a third of a second

    moves = any(part == "space" for part, _ in used)
    placed = [None if moves else _placed(origin.space, examples) for examples in windows]
    found = minimize(
        objective,
        first,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": _ITERATIONS, "ftol": _TOLERANCE},
    )
    fitted = _unpack(found.x.astype(np.float32), origin, used)
    return jax.tree.map(lambda x: np.asarray(x, np.float32), fitted), float(found.x[-1])


def _unpack(w: jax.Array, start: Heads, used: tuple[tuple[str, str], ...]) -> Heads:
    """`start` with the parts that are `used` taken from `w`."""
    heads, at = start, 0
    for part, name in used:
        old = getattr(getattr(heads, part), name)
        value = w[at : at + np.size(old)].reshape(np.shape(old))
        heads = heads._replace(**{part: getattr(heads, part)._replace(**{name: value})})
        at += np.size(old)
    return heads


# Of the module, not of a fit: what differs between the fits are arguments, and one program serves them all.
@functools.partial(jax.jit, static_argnames=("used", "ordered"))
def _value_and_grad(
    w: jax.Array,
    start: Heads,
    examples: Examples,
    placed: jax.Array | None,
    *,
    used: tuple[tuple[str, str], ...],
    ordered: bool,
) -> tuple[jax.Array, jax.Array]:
    def loss(w: jax.Array) -> jax.Array:
        heads = _unpack(w, start, used)
        items = _placed(heads.space, examples) if placed is None else placed
        return _loss(heads, jnp.exp(w[-1]), examples, items, ordered=ordered)

    return jax.value_and_grad(loss)(w)
