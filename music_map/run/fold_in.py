"""What places listeners and songs that a run has not trained on."""

from __future__ import annotations

import numpy as np

from music_map.graph.bipartite import listeners_of
from music_map.model.content import Content, content_of
from music_map.model.fold_in import FoldIn, Learning, make_fold_in
from music_map.run.run import Run


def fold_in_of(run: Run) -> tuple[FoldIn, Content]:
    """Both, of the run's best checkpoint; all processes must call it."""
    model, params = run.settings.model, run.trained.params
    users, items = map(np.asarray, run.embeddings)
    sent = run.runner.messages(params)
    messages, power, base = (None, 0.0, 1.0) if sent is None else (np.asarray(sent.items), *map(float, sent[1:]))
    unit = model.score == "cosine"
    fold_in = make_fold_in(
        run.graph,
        users=users,
        items=items,
        messages=messages,
        power=power,
        degree=model.degree,
        unit=unit,
        learning=learning_of(run, items, base) if sent is not None else None,
        seed=run.config.train.seed,
    )
    content = content_of(
        params.get("fusion"),
        run.features,
        listeners_of(run.graph),
        dim=items.shape[1],
        scale=base,
        neighbours=model.cold_neighbours if model.audio else 0,
        unit=unit,
    )
    return fold_in, content


def learns(run: Run) -> bool:
    """Whether a softmax over songs with a pull towards 0 is what the run trains, of a plain dot product."""
    loss = run.config.loss
    return run.settings.model.score == "dot" and loss.name == "sampled_softmax" and loss.l2 > 0


def learning_of(run: Run, items: np.ndarray, base: float) -> Learning | None:
    """What e_u^(0) of a new user is learned by, with songs float32 [I, d] of which it has the share `base`."""
    loss = run.config.loss
    return Learning(items, base, loss.temperature, loss.l2) if learns(run) and base > 0 else None
