"""Losses that rank a user's songs above others, each a pure function of scores; means over the batch.

`row_weights`, float [B], replaces the mean over rows by a weighted sum: 1 / (size of the whole batch) where a batch is
split over devices, 0 for a row that only fills up a part.

Scores are dot products of user and song embeddings (cosines where the encoder normalises).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def _mean(cost: jax.Array, row_weights: jax.Array | None) -> jax.Array:
    """The mean over rows; with weights their sum, which is this device's part of a mean over a batch that is split."""
    return jnp.mean(cost) if row_weights is None else jnp.sum(jnp.where(row_weights > 0, row_weights * cost, 0.0))


def bpr(positive: jax.Array, negative: jax.Array, *, row_weights: jax.Array | None = None) -> jax.Array:
    """Bayesian personalised ranking, -log sigmoid(s+ - s-), averaged.

    Args:
      positive: float [B], scores of observed pairs.
      negative: float [B], scores of the same users with songs they have not heard.

    Returns:
      float [].

    Reference: Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.
    """
    if positive.shape != negative.shape:
        raise ValueError(f"positive {positive.shape} and negative {negative.shape} must have one shape")
    return _mean(jax.nn.softplus(negative - positive), row_weights)


def sampled_bpr(
    positive: jax.Array,
    negative: jax.Array,
    *,
    log_correction: jax.Array,
    where: jax.Array,
    row_weights: jax.Array | None = None,
) -> jax.Array:
    """Bayesian personalised ranking, its mean over negatives estimated from many: mean_j -c_j log sigmoid(s+ - s_j).

    c_j = 1 / (I q_j) is the importance weight that turns a mean over samples drawn with probability q_j into a mean
    over the I songs. The objective is that of `bpr`, whose one negative a row makes for noise that only small learning
    rates and many epochs average out.

    Args:
      positive: float [B].
      negative: float [B, N], scores with the sampled songs.
      log_correction: float [N], log(I q_j) = -log c_j; 0 for uniform draws.
      where: bool [B, N], False for samples to leave out of the mean: those that are no negatives.

    Returns:
      float [].

    Reference: Rendle et al., UAI 2009.
    """
    cost = jax.nn.softplus(negative - positive[:, None]) * jnp.exp(-log_correction)[None, :]
    each = jnp.sum(jnp.where(where, cost, 0.0), axis=1) / jnp.maximum(jnp.sum(where, axis=1), 1)
    return _mean(each, row_weights)


def softmax(
    scores: jax.Array, labels: jax.Array, *, temperature: float, row_weights: jax.Array | None = None
) -> jax.Array:
    """Full softmax cross-entropy, -log(exp(s_label / t) / sum_j exp(s_j / t)), averaged.

    Args:
      scores: float [B, I], scores of all songs.
      labels: int [B], the observed songs.
      temperature: t > 0.

    Returns:
      float [].
    """
    logits = scores / temperature
    label = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    return _mean(jax.nn.logsumexp(logits, axis=-1) - label, row_weights)


def sampled_softmax(
    positive: jax.Array,
    negative: jax.Array,
    *,
    log_correction: jax.Array,
    where: jax.Array,
    temperature: float,
    row_weights: jax.Array | None = None,
) -> jax.Array:
    """Softmax cross-entropy with the sum over songs estimated from sampled negatives.

        -log( exp(s+ / t) / (exp(s+ / t) + sum_j exp(s_j / t - log(n q_j))) )

    where song j is drawn n times in expectation n q_j: the correction makes the sum an unbiased estimate of the sum
    over all songs. A correction higher by log(I / M) makes it that of the sum over M of the I songs, drawn uniformly:
    M -> 0 is the gradient of a pairwise loss over all negatives alike, M = I the softmax.

    Args:
      positive: float [B].
      negative: float [B, N], scores with the sampled songs.
      log_correction: float [N], log of the expected number of draws of each sampled song, log(N q_j).
      where: bool [B, N], False for samples to leave out (the positive itself).
      temperature: t > 0.

    Returns:
      float [].

    Reference: Bengio and Senecal, "Adaptive Importance Sampling to Accelerate Training of a Neural Probabilistic
    Language Model", 2008; Yi et al., "Sampling-bias-corrected neural modeling", RecSys 2019.
    """
    pos = positive / temperature
    neg = jnp.where(where, negative / temperature - log_correction[None, :], -jnp.inf)
    logits = jnp.concatenate([pos[:, None], neg], axis=1)
    return _mean(jax.nn.logsumexp(logits, axis=1) - pos, row_weights)


def debiased_contrastive(
    positive: jax.Array,
    negative: jax.Array,
    *,
    log_correction: jax.Array,
    where: jax.Array,
    temperature: float,
    positive_prior: float,
    num_negatives: float,
    row_weights: jax.Array | None = None,
) -> jax.Array:
    """Contrastive loss corrected for unlabelled samples that are in truth positives.

        -log( e^{s+/t} / (e^{s+/t} + M g) )
        g = max( (mean_j c_j e^{s_j/t} - p e^{s+/t}) / (1 - p),  e^{-1/t} )

    with M the number of negatives that the loss stands for, p the prior probability that a random song is a positive,
    and c_j = 1 / (I q_j) the importance weight that turns a mean over samples drawn with probability q_j into a mean
    over the I songs. The lower bound is the least that e^{s/t} can be for cosines.

    Args:
      positive: float [B].
      negative: float [B, N].
      log_correction: float [N], log(I q_j) = -log c_j; 0 for uniform draws.
      where: bool [B, N], False for samples to leave out of the mean (the positive itself).
      temperature: t > 0.
      positive_prior: p, 0 <= p < 1; 0 gives the plain contrastive loss.
      num_negatives: M > 0.

    Returns:
      float [].

    Reference: Chuang et al., "Debiased Contrastive Learning", NeurIPS 2020, equations 6 to 8.
    """
    pos = positive / temperature
    neg = jnp.where(where, negative / temperature - log_correction[None, :], -jnp.inf)
    # In logarithms relative to the largest term, so that low temperatures do not overflow.
    top = jax.lax.stop_gradient(jnp.maximum(pos, jnp.max(neg, axis=1)))
    mean = jnp.sum(jnp.exp(neg - top[:, None]), axis=1) / jnp.maximum(jnp.sum(where, axis=1), 1)
    debiased = (mean - positive_prior * jnp.exp(pos - top)) / (1.0 - positive_prior)
    least = jnp.exp(-1.0 / temperature - top)
    estimate = jnp.maximum(debiased, least)
    return _mean(jnp.log(jnp.exp(pos - top) + num_negatives * estimate) + top - pos, row_weights)


def popularity_smoothing(
    positive: jax.Array, expected: jax.Array, *, temperature: float, row_weights: jax.Array | None = None
) -> jax.Array:
    """What smoothing the labels towards popularity adds to a softmax cross-entropy, per unit of smoothing.

        mean( (s+ - sum_j p_j s_j) / t )

    For a softmax P, -log P(+) + e (s+ - sum_j p_j s_j) / t is the cross-entropy with the target
    (1 - e) [j = +] + e p_j: a Dirichlet prior over what a user plays, centred on what everybody plays. Without it a
    long training learns that a user will never play the popular songs that are not yet in the history.

    Args:
      positive: float [B], s+.
      expected: float [B], sum_j p_j s_j, the user's mean score over songs drawn by popularity.
      temperature: t > 0.

    Returns:
      float [].

    Reference: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7, with
    their uniform prior replaced; Zhai and Lafferty, "A study of smoothing methods for language models", TOIS 2004.
    """
    return _mean(positive - expected, row_weights) / temperature


def explicit_negative(
    scores: jax.Array,
    weight: jax.Array,
    *,
    margin: float,
    temperature: float,
    total_weight: jax.Array | None = None,
) -> jax.Array:
    """Pushes users away from the songs they dislike: weighted mean of softplus((s - margin) / t).

    Args:
      scores: float [B], scores of users with songs they dislike.
      weight: float [B], at least 0, strength of each dislike; 0 leaves a row out.
      margin: the score above which a disliked song costs most.
      temperature: t > 0.
      total_weight: what to divide by; None: the sum of `weight`. That of the whole batch where it is split.

    Returns:
      float []; 0 where all weights are 0.
    """
    cost = jax.nn.softplus((scores - margin) / temperature)
    total = jnp.sum(weight) if total_weight is None else total_weight
    return jnp.sum(weight * cost) / jnp.where(total > 0, total, 1.0)


def l2(*rows: jax.Array, row_weights: jax.Array | None = None) -> jax.Array:
    """1/2 * sum of squared norms / B over the batch's e^(0) rows, each float [B, d]."""
    if row_weights is None:
        return sum(0.5 * jnp.sum(jnp.square(r)) for r in rows) / rows[0].shape[0]
    return sum(0.5 * _mean(jnp.sum(jnp.square(r), axis=-1), row_weights) for r in rows)
