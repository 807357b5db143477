import sys

import numpy as np
import pytest
from checkerboard import brings_the_diagonal_first, checkerboard_history, history_of
from hypothesis import given, settings
from hypothesis import strategies as st

from music_map.errors import UserError
from music_map.evaluation.baselines import fit_baselines
from music_map.evaluation.baselines.matrix_factorization import bpr_mf, ials
from music_map.evaluation.baselines.settings import BprSettings, IalsSettings
from music_map.evaluation.protocols import Protocol
from music_map.preprocess.dataset import Events

PROTOCOL = Protocol("anything", "any", history="any", mask="train", candidates="all")


def last(baseline, history, chosen, *, seed=0, every=1000):
    *_, (epochs, scores) = baseline(history, chosen, seed=seed, every=every)
    assert epochs == chosen.num_epochs
    return scores


@pytest.mark.parametrize("baseline", ["ials", "bpr_mf"])
def test_without_implicit_the_error_names_the_extra(monkeypatch, baseline):
    monkeypatch.setitem(sys.modules, "implicit", None)
    empty = Events(*(np.zeros(0, np.int64) for _ in Events._fields))
    with pytest.raises(UserError, match=rf"'{baseline}' needs the package implicit.*music-map\[baselines\]"):
        fit_baselines([baseline], empty, PROTOCOL, num_users=1, num_items=1, train_end=0, seed=0)


class TestWithImplicit:
    @pytest.fixture(autouse=True)
    def _implicit(self):
        pytest.importorskip("implicit")

    def test_checkerboard_brings_the_withheld_diagonal_first(self):
        played = checkerboard_history(30)
        assert brings_the_diagonal_first(last(ials, played, IalsSettings(factors=8)), played)
        chosen = BprSettings(factors=8, learning_rate=0.1, num_epochs=100)
        assert brings_the_diagonal_first(last(bpr_mf, played, chosen), played)

    def test_same_seed_same_scores(self):
        played, users = checkerboard_history(20), np.arange(20)
        for baseline, chosen in ((ials, IalsSettings(num_epochs=3)), (bpr_mf, BprSettings(num_epochs=5))):
            first, second, other = (np.asarray(last(baseline, played, chosen, seed=seed)(users)) for seed in (3, 3, 4))
            np.testing.assert_array_equal(first, second)
            assert not np.array_equal(first, other)

    def test_settings_that_diverge_are_named(self):
        played = checkerboard_history(20)
        with pytest.raises(UserError, match=r"bpr_mf: the training diverged with .*regularization=1000000\.0"):
            last(bpr_mf, played, BprSettings(regularization=1_000_000, num_epochs=2))

    def test_stops_on_the_way_change_nothing(self):
        """A score block keeps the epoch that it was given at, and alternation goes on from there."""
        played, users = checkerboard_history(20), np.arange(20)
        chosen = IalsSettings(num_epochs=5)
        stops = [(n, np.asarray(s(users))) for n, s in ials(played, chosen, seed=0, every=2)]
        assert [n for n, _ in stops] == [2, 4, 5]
        later = [np.asarray(s(users)) for _, s in list(ials(played, chosen, seed=0, every=2))]
        for (_, at_once), afterwards in zip(stops, later, strict=True):
            np.testing.assert_array_equal(at_once, afterwards)
        np.testing.assert_allclose(stops[-1][1], np.asarray(last(ials, played, chosen)(users)), rtol=1e-5)

    def test_bpr_draws_other_triples_after_a_stop(self):
        played, users = checkerboard_history(20), np.arange(20)
        blocks = [np.asarray(s(users)) for _, s in bpr_mf(played, BprSettings(num_epochs=2), seed=0, every=1)]
        assert not np.array_equal(blocks[0], blocks[1])

    def test_bpr_gives_back_what_drawing_by_popularity_takes(self):
        dense = np.random.default_rng(1).random((15, 8)) < 0.4
        dense[:, 3] = False
        without, half = (
            np.asarray(last(bpr_mf, history_of(dense), BprSettings(popularity=p, num_epochs=3))(np.arange(15)))
            for p in (0.0, 0.5)
        )
        counts = np.maximum(dense.sum(axis=0), 0.5)
        np.testing.assert_allclose(half - without, np.tile(0.5 * np.log(counts), (15, 1)), atol=1e-5)

    def test_bpr_ranks_by_popularity_where_users_are_all_alike(self):
        """Without a taste to learn, p(i | u) = q(i): drawn by popularity all songs look the same."""
        rng = np.random.default_rng(0)
        dense = rng.random((400, 12)) < np.linspace(0.05, 0.6, 12)
        chosen = BprSettings(factors=2, regularization=0.1, num_epochs=30)
        scores = np.asarray(last(bpr_mf, history_of(dense), chosen)(np.arange(400))).mean(axis=0)
        assert np.corrcoef(scores, np.log(dense.sum(axis=0)))[0, 1] > 0.95

    @settings(deadline=None, max_examples=3)
    @given(st.integers(0, 2**32 - 1))
    def test_ials_ends_where_plain_least_squares_ends(self, seed):
        """The same objective in NumPy: exact alternation cannot improve the library's factors; other starts hardly do.

        The objective is not convex: starts end in optima that differ by a few hundredths.
        """
        rng = np.random.default_rng(seed)
        dense = (rng.random((12, 9)) < 0.4).astype(float)
        dense[0, 0] = 1.0
        chosen = IalsSettings(factors=3, alpha=4.0, regularization=0.5, num_epochs=200)
        confidence = np.where(dense > 0, chosen.alpha, 1.0)

        def solve(fixed, ratings, weights):
            eye, rows = chosen.regularization * np.eye(3), zip(ratings, weights, strict=True)
            return np.stack([np.linalg.solve(fixed.T * w @ fixed + eye, fixed.T * w @ r) for r, w in rows])

        def loss(x, y):
            fit = (confidence * (dense - x @ y.T) ** 2).sum()
            return fit + chosen.regularization * ((x**2).sum() + (y**2).sum())

        def alternate(y, times):
            for _ in range(times):
                x = solve(y, dense, confidence)
                y = solve(x, dense.T, confidence.T)
            return loss(x, y)

        scores = np.asarray(last(ials, history_of(dense), chosen)(np.arange(12)))
        # The library's factors, up to the scale that the objective settles: recovered from its scores.
        u, s, v = np.linalg.svd(scores.astype(float))
        x, y = u[:, :3] * np.sqrt(s[:3]), v[:3].T * np.sqrt(s[:3])
        np.testing.assert_allclose(x @ y.T, scores, atol=1e-4)
        assert alternate(y, 3) >= loss(x, y) * 0.9999
        others = [alternate(np.random.default_rng(start).random((9, 3)) * 0.1, 100) for start in range(4)]
        assert loss(x, y) <= np.median(others) * 1.05
