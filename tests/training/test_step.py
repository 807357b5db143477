"""The loss of a batch against plain NumPy on its scores."""

import dataclasses

import jax
import numpy as np
import pytest
from graphs import random_graph
from small_training import STEP, inputs_and_data

from music_map.model import encoder
from music_map.training import sampling
from music_map.training.step import batch_loss, create_state

_, DENSE = random_graph(0, num_users=20, num_items=15, negatives=[(0, 3, 3.0), (2, 5, 3.0)])
KEY = jax.random.key(3)


@pytest.mark.parametrize("mask_observed", [False, True])
@pytest.mark.parametrize(("name", "softmax_songs"), [("softmax", 0), ("sampled_softmax", 0), ("sampled_softmax", 3)])
def test_negatives_are_all_other_songs_or_those_not_observed(name, softmax_songs, mask_observed):
    # So many uniform negatives that the sample's mean is that over all songs, to about a percent.
    loss = dataclasses.replace(
        STEP.loss,
        name=name,
        mask_observed=mask_observed,
        popularity_smoothing=0.0,
        negatives="uniform",
        num_negatives=200_000,
        softmax_songs=softmax_songs,
    )
    step = dataclasses.replace(STEP, loss=loss)
    inputs, data = inputs_and_data()
    params = create_state(step, inputs, seed=0).params
    _, parts = batch_loss(params, inputs, data, KEY, step)

    edges = inputs.adjacency.users_from_items.forward
    users, items = sampling.draw_positives(jax.random.split(KEY, 4)[0], edges, data.positives, step.batch_size)
    user, item, _ = encoder.encode(params, inputs, step.model)
    logits = np.asarray(user @ item.T, np.float64) / loss.temperature
    rows = []
    for u, i in zip(np.asarray(users), np.asarray(items), strict=True):
        left = np.ones(logits.shape[1], bool)
        if mask_observed:
            left = DENSE[u] == 0
        left[i] = True
        # The sum over the negatives counts for softmax_songs of the I songs; the positive always counts whole.
        share = np.where(np.arange(len(left)) == i, 1.0, (softmax_songs or len(left)) / len(left))
        rows.append(np.log(np.sum(share[left] * np.exp(logits[u, left]))) - logits[u, i])
    assert float(parts["ranking_loss"]) == pytest.approx(np.mean(rows), rel=1e-5 if name == "softmax" else 0.02)


def test_smoothing_adds_the_mean_gap_to_songs_drawn_by_popularity():
    inputs, data = inputs_and_data()
    steps = [
        dataclasses.replace(STEP, loss=dataclasses.replace(STEP.loss, popularity_smoothing=share))
        for share in (0.0, 0.4)
    ]
    params = create_state(steps[0], inputs, seed=0).params
    plain, smoothed = (batch_loss(params, inputs, data, KEY, step)[1]["ranking_loss"] for step in steps)

    edges = inputs.adjacency.users_from_items.forward
    users, items = sampling.draw_positives(jax.random.split(KEY, 4)[0], edges, data.positives, STEP.batch_size)
    user, item, _ = encoder.encode(params, inputs, STEP.model)
    logits = np.asarray(user @ item.T, np.float64)[np.asarray(users)] / STEP.loss.temperature
    drawn = np.asarray(data.item_probability, np.float64)
    gap = logits[np.arange(len(items)), np.asarray(items)] - logits @ drawn
    assert float(smoothed - plain) == pytest.approx(0.4 * np.mean(gap), rel=1e-4)
