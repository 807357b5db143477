"""The stages of the main job in blocks: what a size costs that is too large to run whole; see main_job.py --blocks."""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from music_map.evaluation.baselines.history import binary_matrix
from music_map.evaluation.baselines.item_knn import item_similarity, recent_pairs
from music_map.evaluation.baselines.settings import ItemKnnSettings
from music_map.evaluation.playlist import sessions_of
from music_map.evaluation.ranking import ScoreBlock, embedding_scores, rank
from music_map.graph.bipartite import listeners_of
from music_map.graph.build import build_graph
from music_map.model import fusion
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency, choose_backend
from music_map.model.sound import neighbours
from music_map.playlist.fit import examples_of, fit_heads
from music_map.preprocess.dataset import SPLITS
from music_map.recency.fit import Examples, fit_head, gather
from music_map.recency.history import Histories
from music_map.recency.moment import observe
from music_map.recency.scores import FEATURES, Embeddings, RecencyScorer
from music_map.reporter import Reporter, Stopped
from music_map.retrieval.export import IdTables, make_export, popularity_of, user_songs_of, write_export
from music_map.retrieval.present import Head
from music_map.run import stages
from music_map.run.config import Config
from music_map.run.evaluation import history_of
from music_map.run.recency import windows_of
from music_map.run.run import Run, step_settings
from music_map.stopwatch import Spent, Stages
from music_map.topk import rows_at_once
from music_map.training.runner import Runner
from music_map.training.step import TrainState

# Users of a block of the fit, and songs of item-kNN that are taken at least.
_FITTED, _SIMILAR = 64, 20_000


@dataclasses.dataclass(frozen=True)
class Block:
    """What was measured of a stage: `done` of `all` units took `spent`; a unit is `unit`."""

    stage: str
    unit: str
    done: float
    all: float
    spent: Spent

    @property
    def row(self) -> str:
        """A row of the table, with the processor seconds of the whole stage."""
        whole = self.spent.processor * self.all / self.done
        part = "all" if self.done == self.all else f"{self.done:,.0f} of {self.all:,.0f} {self.unit}"
        seconds = f"{self.spent.wall:.1f} | {self.spent.processor:.1f} | {self.spent.peak / 2**30:.1f} | {whole:,.0f}"
        return f"| {self.stage} | {part} | {seconds} |"


HEAD = (
    "| stage | measured | wall s | processor s | peak GiB | processor s of the whole stage |\n|---|---|---|---|---|---|"
)


def measured(config: Config, folder: Path, reporter: Reporter) -> Iterator[Block]:
    """The stages one by one, each with its data from the one before; parameters are those of the first steps."""
    clock, numbers = Stages(memory=True), itertools.count()

    def timed(stage: str, work: Callable[[], Any], unit: str = "", done: float = 1, of: float = 1) -> tuple[Any, Block]:
        name = f"{stage} {next(numbers)}"
        with clock(name):
            made = jax.block_until_ready(work())
        return made, Block(stage, unit, done, of, clock.spent[name])

    dataset, row = timed("preprocess", lambda: stages.ensure_dataset(config, reporter=reporter))
    yield row
    graph, row = timed("graph", lambda: stages.ensure_graph(config, dataset, reporter=reporter))
    yield row
    train, row = timed("read train events", lambda: dataset.events("train"))
    yield row
    features, users, songs = dataset.item_features(), dataset.num_users, dataset.num_items

    played = np.diff(graph.item_offsets) > 0
    silent = np.flatnonzero((features.audio_row >= 0) & ~played)
    size = min(4 * rows_at_once(int(played.sum())), len(silent))
    near = {"count": config.model.cold_neighbours}
    work = partial(neighbours, features, silent[:size], np.flatnonzero(played), **near)
    yield timed("neighbours in sound", work, "songs", size, len(silent))[1]

    backend = choose_backend(config.model.backend, num_edges=graph.num_edges)
    model = dataclasses.replace(config.model, backend=backend)

    def on_device() -> tuple[Run, Runner, TrainState]:
        adjacent = adjacency(graph, degree=model.degree)
        inputs = fusion.features(features, np.asarray(adjacent.item_degree), audio=model.audio, metadata=model.metadata)
        settings = step_settings(config, model, num_edges=graph.num_edges)
        given = EncoderInputs(adjacent, inputs)
        run = Run(config, folder, dataset, graph, given, settings, None, reporter=reporter, clock=clock)
        return run, run.runner, run.runner.create_state(0)

    (run, runner, state), row = timed("graph and features to the device", on_device)
    yield row
    (state, _), row = timed("compile a step", partial(runner.advance, state, 0, 0))
    yield row
    epoch = run.steps_per_epoch
    (state, _), row = timed("train: an epoch", partial(runner.advance, state, 0, 1), "steps", 1, epoch)
    yield row
    params = runner.params(state.params)
    runner.encode(params)
    encoded, row = timed("encode all", partial(runner.encode, params))
    yield row
    embeddings = Embeddings(*encoded)
    del state, params, encoded, work

    task, row = timed("targets and masks of a split", lambda: run.task(config.eval.protocol, "val"))
    yield row

    def ranked(stage: str, scores: ScoreBlock) -> Block:
        def block() -> np.ndarray:
            given = {"candidates": task.candidates, "masked": task.masked.select(np.arange(size))}
            return rank(scores, task.users[:size], num_items=songs, k=max(config.eval.ks), **given)

        size = min(2 * getattr(scores, "block_size", rows_at_once(songs)), len(task.users))
        block()
        return timed(stage, block, "users", size, len(task.users))[1]

    yield ranked("validate: rank", embedding_scores(*embeddings))

    windows, row = timed("windows of the past", lambda: windows_of(run))
    yield row
    now = windows[0].now
    past, row = timed("graph of the past", lambda: build_graph(dataset.as_of(now + 1), config.graph)[0])
    yield row
    known = listeners_of(past) > 0
    sizes = {"num_users": users, "num_items": songs}
    moment, row = timed("moment", lambda: observe(train, features, now=now, **sizes))
    yield row
    histories = Histories.of(train, num_users=users)
    scorer = RecencyScorer(
        embeddings, {}, moment, histories, latest_length=config.recency.latest_songs, backend=backend
    )
    settings = dataclasses.replace(config.recency, num_users=_FITTED)
    gather(task, scorer, settings, seed=0)
    work = partial(gather, task, scorer, settings, seed=0)
    examples, row = timed("recency: examples of two heads", work, "users", _FITTED, 2 * config.recency.num_users)
    yield row
    tiled = -(-config.recency.num_users // len(examples.target))
    whole = Examples(*(np.concatenate([column] * tiled) for column in examples))
    work = partial(fit_head, whole, strength=1.0, prior={"user": 5.0})
    weights, row = timed("recency: fit of two heads", work, "heads", 1, 2)
    yield row
    del whole, examples, work
    yield ranked("test: rank with recency", scorer.at(weights=weights))

    sessions, row = timed("sessions of a window", lambda: sessions_of(windows[0].targets(train)))
    yield row
    given = np.asarray(embeddings.item), popularity_of(listeners_of(past)), known
    most = {"most": config.retrieval.num_sessions, "seed": 0}
    examples, row = timed("playlist: examples", partial(examples_of, sessions, *given, **most))
    yield row
    yield timed("playlist: fit of the space", partial(fit_heads, [examples], strengths=()))[1]
    del examples, sessions, scorer, moment, histories, past, runner

    def export() -> None:
        every = Histories.of(*(run.events(split) for split in SPLITS), num_users=users)
        at_present = observe(every, features, now=dataset.present, **sizes)
        head = Head(dict.fromkeys(FEATURES, 0.0), dict.fromkeys(FEATURES, 0.0), at_present, every, 100)
        made = make_export(
            user_ids=dataset.user_ids,
            item_ids=dataset.item_ids,
            user_embeddings=np.asarray(embeddings.user),
            item_embeddings=np.asarray(embeddings.item),
            listeners=listeners_of(graph),
            features=features,
        )
        ids = IdTables(dataset.users, dataset.songs, dataset.artists, dataset.albums)
        (folder / "embeddings").mkdir(parents=True)
        options = {"user_songs": user_songs_of(dataset), "ids": ids, "head": head}
        write_export(made, folder / "embeddings", fingerprint="", step=0, **options)

    yield timed("export", export)[1]

    history = history_of(run, task.protocol)
    pairs, row = timed("item-kNN: latest songs", lambda: recent_pairs(history, max_items=ItemKnnSettings().max_history))
    yield row
    matrix = binary_matrix(pairs, songs)
    by_song = matrix.T.tocsr()
    products = np.concatenate([[0], np.cumsum(np.diff(matrix.indptr)[by_song.indices])])[by_song.indptr]
    songs_done = []

    @contextlib.contextmanager
    def first_songs(label: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
        del label, total, unit

        def advance(count: int) -> None:
            songs_done.append(count)
            if sum(songs_done) >= _SIMILAR:
                raise Stopped

        yield advance

    def similar() -> None:
        with contextlib.suppress(Stopped):
            item_similarity(pairs, songs, progress=first_songs)

    _, row = timed("item-kNN: neighbours", similar)
    yield dataclasses.replace(row, unit="products", done=float(products[sum(songs_done)]), all=float(products[-1]))
