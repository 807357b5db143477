"""SASRec: a small causal Transformer that predicts the next song from the songs before it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from music_map.evaluation.baselines.history import History
from music_map.evaluation.baselines.settings import SasRecSettings, require_finite
from music_map.evaluation.ranking import ScoreBlock
from music_map.reporter import Progress, silent
from music_map.rows import offsets_of_sorted


class Sequences(NamedTuple):
    """The songs of each user in the order of time.

    Attributes:
      songs: int32 [E], user after user.
      first: bool [E], whether it is the user's first event on the song.
      offsets: int64 [U + 1]; user u owns songs[offsets[u]:offsets[u + 1]].
    """

    songs: np.ndarray
    first: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, history: History) -> Sequences:
        """Orders a history by user, then time; equal times keep their order."""
        users, songs, times = history.users, history.items, history.timestamps
        later = (np.diff(users) > 0) | ((np.diff(users) == 0) & (times[1:] >= times[:-1]))
        if not later.all():
            order = np.lexsort((times, users))
            users, songs = users[order], songs[order]
        key = users.astype(np.int64) * history.num_items + songs
        order = np.argsort(key, kind="stable")
        first = np.zeros(len(key), bool)
        first[order] = np.diff(key[order], prepend=-1) > 0
        return cls(songs.astype(np.int32), first, offsets_of_sorted(users, history.num_users))


class SasRec(nn.Module):
    """Songs before a moment -> a vector whose dot products with the song embeddings score the next song.

    Blocks of causal self-attention A and a feed-forward layer F over N(song + position embedding); songs at the input
    and at the output share their embedding. With N a layer normalisation and s the logistic function, a block is

        pre_norm:  x + A(N(x)),                 then x + F(N(x));                  F with GELU
        ligr:      x + s(W x + b) * A(N(x)),    then x + s(W' x + b') * F(N(x));   F with SwiGLU

    Reference:
      Kang and McAuley, Self-attentive sequential recommendation, ICDM 2018. That the loss decides (softmax over all or
      many songs in place of one negative): Klenitskiy and Vasilev, Turning dross into gold loss, RecSys 2023. ligr:
      Borisyuk et al., From features to transformers, 2025, as in eSASRec (RecSys 2025, arXiv 2508.06450).
    """

    num_items: int
    settings: SasRecSettings

    @nn.compact
    def __call__(self, songs: jax.Array, *, training: bool) -> tuple[jax.Array, jax.Array]:
        """Encodes segments.

        Args:
          songs: int32 [B, L], filled up with -1 on the left.
          training: whether units are dropped, with the random key "dropout".

        Returns:
          float32 [B, L, D], the vector after each song, and float32 [I, D], the song embeddings.
        """
        settings, dim = self.settings, self.settings.dim
        # Dropout only at the end of each branch: on CPU, drawing masks costs more than the layers.
        dropout = nn.Dropout(settings.dropout, deterministic=not training)
        init = nn.initializers.normal(0.02)
        table = self.param("songs", init, (self.num_items, dim))
        position = self.param("positions", init, (1, settings.max_length, dim))
        real = songs >= 0
        mask = nn.combine_masks(nn.make_causal_mask(songs), nn.make_attention_mask(jnp.ones_like(real), real))
        # With songs times sqrt(dim), as in the paper, in place of N, it takes twice the epochs to the same validation.
        x = dropout(nn.LayerNorm()(table[jnp.maximum(songs, 0)] + position)) * real[..., None]
        gated = settings.layers == "ligr"
        hidden = functools.partial(nn.Dense, settings.feed_forward * dim, use_bias=not gated)

        def attend(y: jax.Array) -> jax.Array:
            return nn.MultiHeadDotProductAttention(settings.num_heads)(y, mask=mask)

        def feed(y: jax.Array) -> jax.Array:
            y = nn.silu(hidden()(y)) * hidden()(y) if gated else nn.gelu(hidden()(y))
            return nn.Dense(dim, use_bias=not gated)(y)

        for _ in range(settings.num_blocks):
            for branch in (attend, feed):
                gate = nn.sigmoid(nn.Dense(dim)(x)) if gated else 1.0
                x += gate * dropout(branch(nn.LayerNorm()(x)))
        return nn.LayerNorm()(x), table


def sasrec(
    history: History, settings: SasRecSettings, *, seed: int, every: int, progress: Progress = silent
) -> Iterator[tuple[int, ScoreBlock]]:
    """Trains SASRec on the sequences of train: softmax cross-entropy of every next song, repeats included.

    A catalogue larger than `num_negatives` gets the sampled softmax: uniform negatives n, the logit of each raised by
    log(num_items / num_negatives), so that their sum estimates that over the catalogue. Each epoch cuts the
    sequences anew into segments of `max_length`, at a random place, and takes as many as hold `most_events` events.

    Args:
      history: its events make the sequences; without timestamps their order, and so the result, means nothing.
      settings: see SasRecSettings.
      seed: of the initial parameters, the segments, the negatives and the dropout.
      every: epochs between two score blocks.
      progress: reports epochs.

    Returns:
      Iterator of (epochs done, score block). A user without history scores all songs by an empty sequence.
    """
    sequences = Sequences.of(history)
    model = SasRec(history.num_items, settings)
    rng = np.random.default_rng(seed)
    init_key, key = jax.random.split(jax.random.key(seed))
    params = model.init(init_key, jnp.zeros((1, settings.max_length), jnp.int32), training=False)
    opt_state = _optimizer(settings.learning_rate).init(params)
    step = 0
    with progress("eSASRec" if settings.layers == "ligr" else "SASRec", settings.num_epochs, "epoch") as advance:
        for epoch in range(1, settings.num_epochs + 1):
            for songs, targets in _batches(sequences, settings, rng):
                batch_key = jax.random.fold_in(key, step)
                params, opt_state = _train_step(params, opt_state, songs, targets, batch_key, model=model)
                step += 1
            advance(1)
            if epoch % every == 0 or epoch == settings.num_epochs:
                require_finite(settings, *jax.tree.leaves(params))
                yield epoch, functools.partial(_score_block, sequences, model, params)


def _optimizer(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate, b2=0.98)


def _batches(
    sequences: Sequences, settings: SasRecSettings, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """One epoch of (songs, targets), int32 [B, L] each; -1 where there is none.

    A segment [a, b) of a sequence has songs[a:b] as input and songs[a + 1:b + 1] as targets.
    """
    length, starts, ends = settings.max_length, sequences.offsets[:-1], sequences.offsets[1:] - 1
    # Segments lie back to back up to a random cut within the last `length` inputs, and one follows the cut.
    cut = np.maximum(ends - rng.integers(0, length, len(ends)), starts)
    before = -(-(cut - starts) // length)
    which = np.repeat(np.arange(len(ends)), before)
    nth = np.arange(len(which)) - np.repeat(np.cumsum(before) - before, before)
    stop = np.concatenate([cut[which] - nth * length, ends])
    start = np.concatenate([np.maximum(cut[which] - (nth + 1) * length, starts[which]), cut])
    segments = rng.permutation(np.flatnonzero(stop > start))
    enough = 1 + np.searchsorted(np.cumsum((stop - start)[segments]), settings.most_events)
    segments = segments[:enough]
    for at in range(0, len(segments), settings.batch_size):
        chosen = segments[at : at + settings.batch_size]
        rows, real = _segment_rows(start[chosen], stop[chosen], length)
        songs = np.full((settings.batch_size, length), -1, np.int32)
        targets = songs.copy()
        songs[: len(chosen)][real] = sequences.songs[rows[real]]
        wanted = real.copy()
        if settings.first_only:
            wanted[real] = sequences.first[rows[real] + 1]
        targets[: len(chosen)][wanted] = sequences.songs[rows[wanted] + 1]
        yield songs, targets


def _segment_rows(start: np.ndarray, stop: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the songs that segments [start, stop) hold, at their right end; int64 [S, L], and bool [S, L]: inside."""
    rows = stop[:, None] - length + np.arange(length)[None]
    return rows, rows >= start[:, None]


# The parameters are not donated: score blocks of earlier epochs use them.
@functools.partial(jax.jit, static_argnames="model", donate_argnums=1)
def _train_step(
    params: Any, opt_state: Any, songs: jax.Array, targets: jax.Array, key: jax.Array, *, model: SasRec
) -> tuple[Any, Any]:
    updates, opt_state = _optimizer(model.settings.learning_rate).update(
        jax.grad(_loss)(params, songs, targets, key, model), opt_state, params
    )
    return optax.apply_updates(params, updates), opt_state


def _loss(params: Any, songs: jax.Array, targets: jax.Array, key: jax.Array, model: SasRec) -> jax.Array:
    """Mean cross-entropy of the targets, float32 []; see `sasrec`."""
    dropout_key, negative_key = jax.random.split(key)
    vectors, table = model.apply(params, songs, training=True, rngs={"dropout": dropout_key})
    wanted = targets >= 0
    labels = jnp.maximum(targets, 0)
    positive = jnp.sum(vectors * table[labels], axis=-1)
    if model.num_items <= model.settings.num_negatives:
        total = jax.nn.logsumexp(vectors @ table.T, axis=-1)
    else:
        negatives = jax.random.randint(negative_key, (model.settings.num_negatives,), 0, model.num_items)
        logits = vectors @ table[negatives].T + jnp.log(model.num_items / model.settings.num_negatives)
        logits = jnp.where(negatives[None, None] == labels[..., None], -jnp.inf, logits)
        total = jnp.logaddexp(jax.nn.logsumexp(logits, axis=-1), positive)
    return jnp.sum((total - positive) * wanted) / jnp.maximum(jnp.sum(wanted), 1)


def _score_block(sequences: Sequences, model: SasRec, params: Any, users: np.ndarray) -> jax.Array:
    length, stop = model.settings.max_length, sequences.offsets[users + 1]
    rows, real = _segment_rows(sequences.offsets[users], stop, length)
    songs = np.full(rows.shape, -1, np.int32)
    songs[real] = sequences.songs[rows[real]]
    return _scores(params, songs, model=model)


@functools.partial(jax.jit, static_argnames="model")
def _scores(params: Any, songs: jax.Array, *, model: SasRec) -> jax.Array:
    vectors, table = model.apply(params, songs, training=False)
    return jnp.matmul(vectors[:, -1], table.T, precision=jax.lax.Precision.HIGHEST)
