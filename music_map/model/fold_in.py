"""Embeddings of users who were not trained, from their edges: "fold-in".

LightGCN++ and its kin are linear in the edges of a user. With M_i what song i sends to a user over all layers (see
`music_map.model.encoder.Messages`),

    e_u = d_u^power sum_i w_ui M_i + base e_u^(0)

and one table [I, d], the rows M_i, places anybody. e_u^(0), which is learned, is taken as 0: estimates from the songs,
by a regression or from like-minded users, ranked no better on validation (docs/lab-notes.md). Where training minimises
a softmax over songs with a pull of e_u^(0) towards 0, one Newton step of that loss, with the songs as they are,
estimates it (see `learned_part`). If embeddings have unit length ("cosine"), e_u is normalised.

For an encoder without messages, such as "mf", M_i is the embedding of song i times the ridge regression of the trained
users' embeddings on the weighted means of their songs', and the power is -1.

The messages of a song without train edges are 0. It gets those that the regression of messages on embeddings predicts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from music_map.graph.bipartite import BipartiteGraph
from music_map.ridge import solve_ridge
from music_map.rows import select
from music_map.unit import unit_rows

# Users, and songs, that a regression is fitted on at most.
_MOST_ROWS = 20_000
# Strength of the ridge, relative to the mean squared feature.
_RIDGE = 0.01


# Songs that count in the softmax at most, the likeliest ones: they bound the time of a step.
_MOST_LIKELY = 8_192


class Learning(NamedTuple):
    """What e_u^(0) is learned by, see `learned_part`.

    Attributes:
      songs: embeddings float32 [I, d].
      base: share of e_u^(0) in e_u.
      temperature: of the softmax.
      pull: strength of the pull towards 0.
    """

    songs: np.ndarray
    base: float
    temperature: float
    pull: float


class FoldIn(NamedTuple):
    """What places new users.

    Attributes:
      messages: float32 [I, d], the table above.
      power: of the user's degree.
      degree: "weighted" or "count", see ModelSettings.degree.
      unit: whether embeddings have unit length.
      learning: what e_u^(0) is learned by; None: it is 0.
    """

    messages: np.ndarray
    power: float
    degree: str
    unit: bool
    learning: Learning | None = None

    def embed(self, offsets: np.ndarray, items: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Embeddings of B users, float32 [B, d]; 0 for a user without edges.

        Args:
          offsets: int64 [B + 1]; user b has the edges offsets[b]:offsets[b + 1].
          items: int32 [E].
          weights: float32 [E], > 0, see `music_map.graph.weights`.
        """
        found = received(self.messages, offsets, items, weights, power=self.power, degree=self.degree)
        if self.learning is not None:
            for user in np.flatnonzero(np.diff(offsets)):
                own = items[offsets[user] : offsets[user + 1]]
                found[user] += self.learning.base * learned_part(found[user], own, self.learning)
        return unit_rows(found).astype(np.float32) if self.unit else found


def received(
    messages: np.ndarray, offsets: np.ndarray, items: np.ndarray, weights: np.ndarray, *, power: float, degree: str
) -> np.ndarray:
    """x_u of users with some edges, float32 [B, d]; 0 for a user without edges."""
    edges = sparse.csr_array((weights.astype(np.float32), items, offsets), (len(offsets) - 1, len(messages)))
    total = edges.sum(axis=1) if degree == "weighted" else np.diff(offsets)
    scale = np.where(total > 0, np.maximum(total, 1e-12) ** power, 0.0)
    return (scale[:, None] * (edges @ messages)).astype(np.float32)


def learned_part(x: np.ndarray, own: np.ndarray, learning: Learning) -> np.ndarray:
    """e_u^(0) of a new user, float32 [d]: one Newton step from 0 of the loss

        L(e) = log sum_{j not in own} exp(s_j(e)) - mean_{i in own} s_i(e) + pull/2 ||e||^2,
        s_i(e) = (x + base e) . z_i / T
        e = -t (c^2 Cov_p(z) + pull I)^-1 c (E_p[z] - mean_{i in own} z_i),    c = base / T

    with p the softmax of s_j(0) over the songs not in `own`, and t the first of 1, 1/2, 1/4, ... that lowers L.

    Args:
      x: what the user's songs send, float32 [d].
      own: the user's songs, int [n], n > 0.
      learning: z and the numbers.
    """
    z, c = learning.songs, learning.base / learning.temperature
    score = z @ x / np.float32(learning.temperature)
    score[own] = -np.inf
    if len(score) > _MOST_LIKELY:
        likely = np.argpartition(-score, _MOST_LIKELY)[:_MOST_LIKELY]
        z, score = z[likely], score[likely]
    largest = score.max()
    if not np.isfinite(largest):  # the user has played all songs
        return np.zeros(len(x), np.float32)
    p = np.exp(score - largest)
    p /= p.sum()
    mean = p @ z
    spread = (z - mean) * np.sqrt(p)[:, None]
    towards = c * (learning.songs[own].mean(axis=0) - mean)
    step = np.linalg.solve(c * c * (spread.T @ spread) + learning.pull * np.eye(len(x)), towards).astype(np.float32)
    along, gain, square = c * (z @ step), c * (learning.songs[own] @ step).mean(), learning.pull / 2 * (step @ step)
    for t in 0.5 ** np.arange(10):
        if np.log(p @ np.exp(t * along)) - t * gain + t * t * square < 0:  # L(t step) - L(0)
            return (t * step).astype(np.float32)
    return np.zeros(len(x), np.float32)


def make_fold_in(
    graph: BipartiteGraph,
    *,
    users: np.ndarray,
    items: np.ndarray,
    messages: np.ndarray | None,
    power: float,
    degree: str,
    unit: bool,
    learning: Learning | None = None,
    seed: int = 0,
) -> FoldIn:
    """Makes the table, with the regressions that it needs.

    Args:
      graph: that the encoder was trained on.
      users, items: embeddings, float32 [U, d] and [I, d].
      messages, power: see `music_map.model.encoder.Messages`; None, and unused, for an encoder without.
      degree, unit, learning: see FoldIn; without messages there is no learning.
      seed: of the draw of users and songs, where there are more than 20,000.
    """
    rng = np.random.default_rng(seed)
    if messages is not None:
        known = np.diff(graph.item_offsets) > 0
        if known.any() and not known.all():
            rows = _drawn(np.flatnonzero(known), rng)
            messages = np.where(known[:, None], messages, items @ ridge(items[rows], messages[rows]))
        return FoldIn(messages.astype(np.float32), float(power), degree, unit, learning)
    of = _drawn(np.flatnonzero(np.diff(graph.user_offsets)), rng)
    offsets, at = select(graph.user_offsets, of)
    x = received(items, offsets, graph.item[at], graph.weight[at], power=-1.0, degree="weighted")
    return FoldIn((items @ ridge(x, users[of])).astype(np.float32), -1.0, "weighted", unit)


def ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A that minimises ||x A - y||^2 + strength ||A||^2, float64 [d, e], for x [N, d] and y [N, e]."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    return solve_ridge(x.T @ x, x.T @ y, _RIDGE)


def _drawn(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rows if len(rows) <= _MOST_ROWS else np.sort(rng.choice(rows, _MOST_ROWS, replace=False))
