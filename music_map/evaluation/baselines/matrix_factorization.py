"""Matrix factorization by the library `implicit`: weighted alternating least squares and BPR.

`implicit` is an extra; it is imported when one of the two is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse

from music_map.errors import require_packages
from music_map.evaluation.baselines.history import History, binary_matrix
from music_map.evaluation.baselines.settings import BprSettings, IalsSettings, require_finite
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import ScoreBlock, embedding_scores


def require_implicit(name: str) -> None:
    """Raises UserError where `implicit` is not installed."""
    require_packages(f"baseline {name!r}", "baselines", "implicit")


def ials(history: History, settings: IalsSettings, *, seed: int, every: int) -> Iterator[tuple[int, ScoreBlock]]:
    """Matrix factorization of the binary matrix R by weighted alternating least squares.

        minimise  sum_{u, i} c_ui (r_ui - <x_u, y_i>)^2 + regularization * (sum_u ||x_u||^2 + sum_i ||y_i||^2)

    with c_ui = alpha where r_ui = 1, else 1.

    Args:
      history: its distinct pairs are R.
      settings: see IalsSettings.
      seed: of the initial factors.
      every: epochs between two score blocks.

    Returns:
      Iterator of (epochs done, score block).

    Reference:
      Hu, Koren and Volinsky, Collaborative filtering for implicit feedback datasets, ICDM 2008.
    """
    require_implicit("ials")
    from threadpoolctl import threadpool_limits

    ratings = _csr(history)
    # The library has threads of its own; BLAS threads as well would make it slower, and it would warn.
    with threadpool_limits(1, "blas"):
        model = _als(settings, seed)
    for done, step in _stops(settings.num_epochs, every):
        model.iterations = step
        with threadpool_limits(1, "blas"):
            # fit() continues from the factors that it has.
            _fit(model, ratings, settings)
        # Copies: the next fit() changes the factors in place.
        yield done, embedding_scores(np.array(model.user_factors), np.array(model.item_factors))


def ials_new_users(history: History, given: Pairs, settings: IalsSettings, *, seed: int) -> ScoreBlock:
    """iALS for users who are not in its matrix: one alternating step for them, with the songs' factors as fitted.

        x_u = argmin sum_i c_ui (r_ui - <x_u, y_i>)^2 + regularization * ||x_u||^2,   `recalculate_user` of the library

    Args:
      history: that the factors are fitted on, see `ials`.
      given: the songs of the users to score for, one row a user.
      settings: see IalsSettings.
      seed: of the initial factors.
    """
    require_implicit("ials")
    from threadpoolctl import threadpool_limits

    ratings = _csr(history)
    with threadpool_limits(1, "blas"):
        model = _als(settings, seed)
        model.iterations = settings.num_epochs
        model.fit(ratings, show_progress=False)
        rows = sparse.csr_matrix(binary_matrix(given, history.num_items))
        users = model.recalculate_user(np.arange(given.num_rows), rows)
    return embedding_scores(np.array(users), np.array(model.item_factors))


def _als(settings: IalsSettings, seed: int) -> Any:
    from implicit.cpu.als import AlternatingLeastSquares

    return AlternatingLeastSquares(
        factors=settings.factors,
        regularization=settings.regularization,
        alpha=settings.alpha,
        random_state=seed,
    )


def bpr_mf(history: History, settings: BprSettings, *, seed: int, every: int) -> Iterator[tuple[int, ScoreBlock]]:
    """Matrix factorization by Bayesian personalized ranking, with a bias per song.

        minimise  -mean log sigmoid(s_ui - s_uj) + regularization * squared norms,    s_ui = <x_u, y_i> + b_i

    over songs i of user u and other songs j, by stochastic gradient descent on one thread (with several, updates of the
    same rows race and runs differ). The library draws j in proportion to the popularity q, where the paper draws
    uniformly; the optimum is then s_ui = log p(i | u) - log q(i) + c_u, which hides popular songs. So
    popularity * log q(i) is added to the biases: 1 gives the ranking of uniform draws, 0 the library's.

    Args:
      history: its distinct pairs are the positives.
      settings: see BprSettings.
      seed: of the initial factors and the draws.
      every: epochs between two score blocks.

    Returns:
      Iterator of (epochs done, score block).

    Reference:
      Rendle et al., BPR: Bayesian personalized ranking from implicit feedback, UAI 2009.
    """
    require_implicit("bpr_mf")
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    ratings = _csr(history)
    model = BayesianPersonalizedRanking(
        factors=settings.factors,
        learning_rate=settings.learning_rate,
        regularization=settings.regularization,
        num_threads=1,
        # A generator: with a number, each fit() would draw the same triples again.
        random_state=np.random.default_rng(seed),
    )
    counts = np.bincount(history.pairs.items, minlength=history.num_items)
    # A song without users counts as half a user.
    added = settings.popularity * np.log(np.maximum(counts, 0.5))
    for done, step in _stops(settings.num_epochs, every):
        model.iterations = step
        _fit(model, ratings, settings)
        # The last column: 1 of a user, the bias of a song.
        items = np.array(model.item_factors)
        items[:, -1] += added
        yield done, embedding_scores(np.array(model.user_factors), items)


def _fit(model: Any, ratings: sparse.csr_matrix, settings: BprSettings | IalsSettings) -> None:
    """Raises UserError where the factors diverge; `implicit` has an error of its own for some of these cases."""
    from implicit.recommender_base import ModelFitError

    with contextlib.suppress(ModelFitError):
        model.fit(ratings, show_progress=False)
    require_finite(settings, model.user_factors, model.item_factors)


def _csr(history: History) -> sparse.csr_matrix:
    """`implicit` knows scipy's matrices, not its arrays."""
    return sparse.csr_matrix(binary_matrix(history.pairs, history.num_items))


def _stops(num_epochs: int, every: int) -> Iterator[tuple[int, int]]:
    """(epochs done, epochs since the previous stop): every `every` epochs, and at the end."""
    done = 0
    while done < num_epochs:
        step = min(every, num_epochs - done)
        done += step
        yield done, step
