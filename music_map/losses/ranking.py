"""The losses that rank a user's songs above others, and the terms added to them. Each returns the cost of every row.

They are pure functions of scores, see `music_map.losses.table.Scores`; a batch's loss is the mean over its rows. Scores
are dot products of user and song embeddings (cosines if the encoder normalises).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from music_map.losses.settings import LossSettings
from music_map.losses.table import Scores, register


@register("bpr", negatives="one")
def bpr(scores: Scores, settings: LossSettings) -> jax.Array:
    """Bayesian personalised ranking: -log sigmoid(s+ - s-).

    Args:
      scores: the negative of each row, float [B], is a song that the user has not heard.

    Returns:
      float [B].

    Reference: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
    """
    del settings
    if scores.positive.shape != scores.negative.shape:
        raise ValueError(f"positive {scores.positive.shape} and negative {scores.negative.shape} must have one shape")
    return jax.nn.softplus(scores.negative - scores.positive)


@register("sampled_bpr", negatives="shared")
def sampled_bpr(scores: Scores, settings: LossSettings) -> jax.Array:
    """Bayesian personalised ranking with many negatives: mean_j -c_j log sigmoid(s+ - s_j).

    c_j = 1 / (I q_j) is the importance weight that turns a mean over samples drawn with probability q_j into a mean
    over the I songs. The objective is the same as for `bpr`, with less noise: the one negative per row of `bpr` needs
    small learning rates and many epochs.

    Args:
      scores: negatives float [B, N]; `where` selects those that enter the mean.

    Returns:
      float [B].

    Reference: Rendle et al., UAI 2009.
    """
    del settings
    cost = jax.nn.softplus(scores.negative - scores.positive[:, None]) * jnp.exp(-scores.log_correction)[None, :]
    return jnp.sum(jnp.where(scores.where, cost, 0.0), axis=1) / jnp.maximum(jnp.sum(scores.where, axis=1), 1)


@register("softmax", negatives="all", cross_entropy=True)
def softmax(scores: Scores, settings: LossSettings) -> jax.Array:
    """Full softmax cross-entropy: -log(exp(s+ / t) / sum_j exp(s_j / t)).

    Args:
      scores: of all songs, float [B, I], including the observed one; `where` selects those that enter the sum.
      settings: temperature t.

    Returns:
      float [B].
    """
    every = scores.negative / settings.temperature
    if scores.where is not None:
        every = jnp.where(scores.where, every, -jnp.inf)
    return jax.nn.logsumexp(every, axis=-1) - scores.positive / settings.temperature


@register("sampled_softmax", negatives="shared", cross_entropy=True)
def sampled_softmax(scores: Scores, settings: LossSettings) -> jax.Array:
    """Softmax cross-entropy with the sum over songs estimated from sampled negatives.

        -log( exp(s+ / t) / (exp(s+ / t) + (M / I) sum_j exp(s_j / t) / (N q_j)) )

    N q_j is the expected number of draws of song j: dividing by it makes the sum an unbiased estimate of the sum over
    all I songs. The factor M / I turns this into the sum over M songs drawn uniformly. For M -> 0 the gradient is that
    of a pairwise loss with equal weight on all negatives; M = I is the softmax.

    Args:
      scores: negatives float [B, N]; `where` selects those that enter the sum.
      settings: temperature t, softmax_songs M.

    Returns:
      float [B].

    Reference: Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic
    Language Model", 2008; Yi et al., "Sampling-bias-corrected neural modeling", RecSys 2019.
    """
    pos = scores.positive / settings.temperature
    # log(N q_j) + log(I / M) = log(I q_j) + log(N / M)
    correction = scores.log_correction + jnp.log(
        scores.negative.shape[1] / (settings.softmax_songs or scores.num_items)
    )
    neg = jnp.where(scores.where, scores.negative / settings.temperature - correction[None, :], -jnp.inf)
    return jax.nn.logsumexp(jnp.concatenate([pos[:, None], neg], axis=1), axis=1) - pos


@register("debiased_contrastive", negatives="shared", cross_entropy=True)
def debiased_contrastive(scores: Scores, settings: LossSettings) -> jax.Array:
    """Contrastive loss, corrected for sampled negatives that are really positives.

        -log( e^{s+/t} / (e^{s+/t} + N g) )
        g = max( (mean_j c_j e^{s_j/t} - p e^{s+/t}) / (1 - p),  e^{-1/t} )

    with p the prior probability that a random song is a positive, and c_j = 1 / (I q_j) the importance weight that
    turns a mean over samples drawn with probability q_j into a mean over the I songs. The lower bound e^{-1/t} is the
    least value of e^{s/t} for cosines.

    Args:
      scores: negatives float [B, N]; `where` selects those that enter the mean.
      settings: temperature t, positive_prior p (0 gives the plain contrastive loss).

    Returns:
      float [B].

    Reference: Chuang et al., "Debiased Contrastive Learning", NeurIPS 2020, equations 6 to 8.
    """
    t, prior, where = settings.temperature, settings.positive_prior, scores.where
    pos = scores.positive / t
    neg = jnp.where(where, scores.negative / t - scores.log_correction[None, :], -jnp.inf)
    # In logarithms relative to the largest term, so that low temperatures do not overflow.
    top = jax.lax.stop_gradient(jnp.maximum(pos, jnp.max(neg, axis=1)))
    mean = jnp.sum(jnp.exp(neg - top[:, None]), axis=1) / jnp.maximum(jnp.sum(where, axis=1), 1)
    debiased = (mean - prior * jnp.exp(pos - top)) / (1.0 - prior)
    estimate = jnp.maximum(debiased, jnp.exp(-1.0 / t - top))
    return jnp.log(jnp.exp(pos - top) + scores.negative.shape[1] * estimate) + top - pos


def popularity_smoothing(positive: jax.Array, expected: jax.Array, *, temperature: float) -> jax.Array:
    """The term that smoothing the labels towards popularity adds to a softmax cross-entropy, per unit of smoothing.

        (s+ - sum_j p_j s_j) / t

    For a softmax P, -log P(+) + e (s+ - sum_j p_j s_j) / t is the cross-entropy with the target
    (1 - e) [j = +] + e p_j. This is a Dirichlet prior over a user's songs, centred on the popularity of songs. Without
    it, a long training learns that users never play popular songs that are not yet in their history.

    Args:
      positive: float [B], s+.
      expected: float [B], sum_j p_j s_j, the user's mean score over songs drawn by popularity.
      temperature: t > 0.

    Returns:
      float [B].

    Reference: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7, with
    their uniform prior replaced; Zhai and Lafferty, "A study of smoothing methods for language models", TOIS 2004.
    """
    return (positive - expected) / temperature


def explicit_negative(scores: jax.Array, *, margin: float, temperature: float) -> jax.Array:
    """Pushes users away from the songs they dislike: softplus((s - margin) / t).

    Args:
      scores: float [B], of pairs of a user and a disliked song.
      margin: the score above which a disliked song costs most.
      temperature: t > 0.

    Returns:
      float [B].
    """
    return jax.nn.softplus((scores - margin) / temperature)


def l2(*rows: jax.Array) -> jax.Array:
    """1/2 * the squared norms of e^(0), summed over the arrays, for each row: float [B] from arrays float [B, d]."""
    return sum(0.5 * jnp.sum(jnp.square(r), axis=-1) for r in rows)
