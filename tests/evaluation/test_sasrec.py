import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkerboard import brings_the_diagonal_first, checkerboard_history, history

from music_map.evaluation.baselines.sasrec import SasRec, Sequences, _batches, _loss, sasrec
from music_map.evaluation.baselines.settings import ESasRecSettings, SasRecSettings

SMALL = SasRecSettings(dim=16, num_blocks=1, num_heads=2, max_length=6, batch_size=8, num_epochs=2, dropout=0.0)
# The forms of a block, eSASRec's with its own defaults.
FORMS = [
    SMALL,
    ESasRecSettings(dim=16, num_blocks=1, num_heads=2, max_length=6, batch_size=8, num_epochs=2, dropout=0.0),
]
each_form = pytest.mark.parametrize("settings", FORMS, ids=lambda settings: settings.layers)


def test_sequences_follow_time_and_know_first_meetings():
    played = history([1, 1, 1, 0, 0], [4, 2, 4, 3, 3], [9, 1, 1, 5, 2], num_users=3, num_items=5)
    sequences = Sequences.of(played)
    assert sequences.songs.tolist() == [3, 3, 2, 4, 4]
    assert sequences.first.tolist() == [True, False, True, True, False]
    assert sequences.offsets.tolist() == [0, 2, 5, 5]


@pytest.mark.parametrize("first_only", [False, True])
def test_an_epoch_asks_for_every_next_song_once(first_only):
    rng = np.random.default_rng(0)
    sizes = [0, 1, 2, 6, 7, 8, 40]
    users = np.repeat(np.arange(len(sizes)), sizes)
    played = history(users, rng.integers(0, 30, len(users)), np.arange(len(users)), num_users=7, num_items=30)
    sequences = Sequences.of(played)
    chosen = SasRecSettings(max_length=6, batch_size=4, first_only=first_only)
    expected = sorted(
        (int(sequences.songs[p - 1]), int(sequences.songs[p]))
        for p in range(len(users))
        if p and users[p - 1] == users[p] and (sequences.first[p] or not first_only)
    )
    for _ in range(5):
        asked = []
        for songs, targets in _batches(sequences, chosen, rng):
            assert songs.shape == targets.shape == (4, 6)
            # Filled up on the left only, and nowhere asked behind a missing song.
            assert (np.diff((songs >= 0).astype(int), axis=1) >= 0).all() and (songs[targets >= 0] >= 0).all()
            asked += zip(songs[targets >= 0].tolist(), targets[targets >= 0].tolist(), strict=True)
        assert sorted(asked) == expected


def test_an_epoch_of_few_events_draws_other_segments_each_time():
    users = np.repeat(np.arange(20), 30)
    played = history(users, np.arange(600) % 50, np.arange(600), num_users=20, num_items=50)
    chosen, rng = SasRecSettings(max_length=6, batch_size=4, most_events=100), np.random.default_rng(0)
    epochs = [np.concatenate([t for _, t in _batches(Sequences.of(played), chosen, rng)]) for _ in range(2)]
    assert all(100 <= (targets >= 0).sum() <= 106 for targets in epochs)
    assert epochs[0].shape != epochs[1].shape or (epochs[0] != epochs[1]).any()


def encode(model, params, songs):
    return model.apply(params, jnp.asarray(songs, jnp.int32), training=False)


def model_and_params(settings=SMALL, num_items=20):
    model = SasRec(num_items, settings)
    return model, model.init(jax.random.key(0), jnp.zeros((1, settings.max_length), jnp.int32), training=False)


@each_form
def test_no_position_sees_what_comes_after_it_or_the_filling(settings):
    model, params = model_and_params(settings)
    vectors, _ = encode(model, params, [[-1, -1, 3, 4, 5, 6]])
    changed, _ = encode(model, params, [[-1, -1, 3, 4, 9, 6]])
    np.testing.assert_allclose(vectors[0, 2:4], changed[0, 2:4], atol=1e-6)
    assert not np.allclose(vectors[0, 4], changed[0, 4]) and not np.allclose(vectors[0, 5], changed[0, 5])
    poisoned = jax.tree.map(lambda x: x, params)
    poisoned["params"]["songs"] = params["params"]["songs"].at[0].set(100.0)  # what -1 reads before it is masked
    np.testing.assert_allclose(vectors[0, 2:], encode(model, poisoned, [[-1, -1, 3, 4, 5, 6]])[0][0, 2:], atol=1e-5)


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def by_numpy(params, songs, settings):
    """The vectors after the songs of a sequence that fills the segment, float64; norms are at their initial values."""
    weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)["params"]
    dense = [weights[f"Dense_{n}"] for n in range(sum(name.startswith("Dense") for name in weights))]
    x = normalised(weights["songs"][songs] + weights["positions"][0])
    form, heads = settings.layers, weights["MultiHeadDotProductAttention_0"]

    def logistic(y):
        return 1 / (1 + np.exp(-y))

    def linear(layer, y):
        return y @ layer["kernel"] + layer.get("bias", 0.0)

    def attend(y):
        query, key, value = (np.einsum("ld,dhk->hlk", y, heads[name]["kernel"]) for name in ("query", "key", "value"))
        out = np.zeros((len(y), settings.dim))
        for h in range(settings.num_heads):
            for t in range(len(y)):
                logits = key[h, : t + 1] @ query[h, t] / np.sqrt(settings.dim // settings.num_heads)
                share = np.exp(logits - logits.max())
                out[t] += (share / share.sum()) @ value[h, : t + 1] @ heads["out"]["kernel"][h]
        return out

    def feed(y, layers):
        if form == "ligr":
            gate, up, down = layers
            return linear(down, linear(gate, y) * logistic(linear(gate, y)) * linear(up, y))
        up, down = layers
        hidden = linear(up, y)
        cubic = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
        return linear(down, hidden * (1 + np.tanh(cubic)) / 2)

    if form == "ligr":
        first, second, *rest = dense
        x = x + logistic(linear(first, x)) * attend(normalised(x))
        return normalised(x + logistic(linear(second, x)) * feed(normalised(x), rest))
    x = x + attend(normalised(x))
    return normalised(x + feed(normalised(x), dense))


@each_form
def test_vectors_against_plain_numpy(settings):
    model, params = model_and_params(settings)
    params = jax.tree.map(lambda leaf: leaf, params)
    songs = np.array([3, 4, 5, 6, 4, 9])
    # Larger than at the start of training, where positions and songs hardly differ.
    for name in ("songs", "positions"):
        params["params"][name] = params["params"][name] * 20
    found, _ = encode(model, params, songs[None])
    np.testing.assert_allclose(found[0], by_numpy(params, songs, settings), atol=2e-5)


@each_form
def test_filling_changes_nothing_but_the_position(settings):
    """Two songs at the right end, alone or behind filling of a longer segment, with the same positions."""
    model, params = model_and_params(settings)
    short = SasRec(20, dataclasses.replace(settings, max_length=2))
    cut = jax.tree.map(lambda leaf: leaf, params)
    cut["params"]["positions"] = params["params"]["positions"][:, -2:]
    alone, _ = encode(short, cut, [[3, 4]])
    np.testing.assert_allclose(encode(model, params, [[-1, -1, -1, -1, 3, 4]])[0][0, -2:], alone[0], atol=1e-5)


def test_loss_against_plain_numpy():
    model, params = model_and_params()
    songs, targets = np.array([[-1, -1, 3, 4, 5, 6]]), np.array([[-1, -1, 4, -1, 6, 7]])
    vectors, table = (np.asarray(a, np.float64) for a in encode(model, params, songs))
    expected = []
    for at, target in ((2, 4), (4, 6), (5, 7)):
        logits = table @ vectors[0, at]
        expected.append(np.log(np.exp(logits).sum()) - logits[target])
    loss = _loss(params, jnp.asarray(songs), jnp.asarray(targets), jax.random.key(1), model)
    assert float(loss) == pytest.approx(np.mean(expected), rel=1e-5)


def test_sampled_softmax_estimates_the_full_one():
    full, params = model_and_params(num_items=400)
    sampled = SasRec(400, SasRecSettings(**{**SMALL.__dict__, "num_negatives": 300}))
    rng = np.random.default_rng(0)
    songs, targets = rng.integers(0, 400, (8, 6)), rng.integers(0, 400, (8, 6))
    exact = float(_loss(params, songs, targets, jax.random.key(0), full))
    keys = jax.random.split(jax.random.key(0), 20)
    estimates = np.asarray(jax.vmap(lambda key: _loss(params, songs, targets, key, sampled))(keys))
    assert np.mean(estimates) == pytest.approx(exact, rel=0.01) and np.std(estimates) > 0


def last(played, settings, seed=0):
    *_, (epochs, scores) = sasrec(played, settings, seed=seed, every=settings.num_epochs)
    assert epochs == settings.num_epochs
    return scores


def test_checkerboard_brings_the_withheld_diagonal_first():
    played = checkerboard_history(20)
    chosen = SasRecSettings(
        dim=16, num_blocks=1, num_heads=1, max_length=8, batch_size=16, num_epochs=30, learning_rate=0.01
    )
    assert brings_the_diagonal_first(last(played, chosen), played)


@pytest.mark.parametrize("kind", [SasRecSettings, ESasRecSettings])
def test_learns_a_cycle_that_no_order_blind_model_could(kind):
    """Everyone walks round the same ring of songs, from another start: the next one follows from the last one alone."""
    starts = np.arange(12)
    songs = (starts[:, None] + np.arange(18)[None]) % 12
    users = np.repeat(starts, 18)
    played = history(users, songs.ravel(), np.tile(np.arange(18), 12), num_users=13, num_items=12)
    chosen = kind(
        dim=16, num_blocks=1, num_heads=1, max_length=6, batch_size=8, num_epochs=30, learning_rate=0.01, dropout=0.0
    )
    scores = np.asarray(last(played, chosen)(np.arange(13)))
    assert (scores[:12].argmax(axis=1) == (starts + 18) % 12).all()
    # The last user has no history: an empty sequence is scored all the same.
    assert np.isfinite(scores[12]).all()


def test_same_seed_same_scores_and_a_block_keeps_its_epoch():
    played, users = checkerboard_history(16), np.arange(16)
    stops = [(n, np.asarray(s(users))) for n, s in sasrec(played, SMALL, seed=3, every=1)]
    kept = [np.asarray(s(users)) for _, s in list(sasrec(played, SMALL, seed=3, every=1))]
    assert [n for n, _ in stops] == [1, 2]
    for (_, at_once), afterwards in zip(stops, kept, strict=True):
        np.testing.assert_array_equal(at_once, afterwards)
    np.testing.assert_array_equal(stops[1][1], np.asarray(last(played, SMALL, seed=3)(users)))
    assert not np.array_equal(stops[1][1], np.asarray(last(played, SMALL, seed=4)(users)))
