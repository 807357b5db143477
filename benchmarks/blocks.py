"""The stages of the main job in blocks: what a size costs that is too large to run whole; see main_job.py --blocks."""

import contextlib
import dataclasses
import functools
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
from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import ScoreBlock, embedding_scores, rank
from music_map.graph.bipartite import BipartiteGraph, listeners_of
from music_map.graph.build import build_graph
from music_map.model import fusion
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency, choose_backend
from music_map.model.sound import neighbours
from music_map.playlist.fit import examples_of, fit_heads
from music_map.preprocess.dataset import SPLITS, Dataset
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
GROUPS = ("prepare", "train", "recency", "playlist", "export", "baselines")


class Job:
    """A job in blocks. Each group of stages can run in a process of its own: embeddings are random unit vectors."""

    def __init__(self, config: Config, folder: Path, reporter: Reporter):
        self.config, self.folder, self.reporter = config, folder, reporter
        self.clock, self._numbers = Stages(memory=True), itertools.count()

    def timed(
        self, stage: str, work: Callable[[], Any], unit: str = "", done: float = 1, of: float = 1
    ) -> tuple[Any, Block]:
        """The result of `work`, and its time as a block of `done` units of a stage of `of`."""
        name = f"{stage} {next(self._numbers)}"
        with self.clock(name):
            made = jax.block_until_ready(work())
        return made, Block(stage, unit, done, of, self.clock.spent[name])

    @functools.cached_property
    def dataset(self) -> Dataset:
        return stages.ensure_dataset(self.config, reporter=self.reporter)

    @functools.cached_property
    def graph(self) -> BipartiteGraph:
        return stages.ensure_graph(self.config, self.dataset, reporter=self.reporter)

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_users": self.dataset.num_users, "num_items": self.dataset.num_items}

    @functools.cached_property
    def embeddings(self) -> Embeddings:
        rng, dim = np.random.default_rng(0), self.config.model.embedding_dim
        rows = (rng.normal(size=(n, dim)).astype(np.float32) for n in self.sizes.values())
        return Embeddings(*(jax.numpy.asarray(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in rows))

    @functools.cached_property
    def run(self) -> Run:
        """The run with graph and features on the device, without songs placed by their sound."""
        model = self.config.model
        backend = choose_backend(model.backend, num_edges=self.graph.num_edges)
        model = dataclasses.replace(model, backend=backend)
        adjacent, features = adjacency(self.graph, degree=model.degree), self.dataset.item_features()
        inputs = fusion.features(features, np.asarray(adjacent.item_degree), audio=model.audio, metadata=model.metadata)
        settings = step_settings(self.config, model, num_edges=self.graph.num_edges)
        given = self.dataset, self.graph, EncoderInputs(adjacent, inputs), settings, None
        return Run(self.config, self.folder, *given, reporter=self.reporter, clock=self.clock)

    def ranked(self, stage: str, scores: ScoreBlock, task: RankingTask) -> Block:
        """Two blocks of users, after one ranking that compiles."""

        def block() -> np.ndarray:
            given = {"candidates": task.candidates, "masked": task.masked.select(np.arange(size))}
            return rank(scores, task.users[:size], num_items=songs, k=max(self.config.eval.ks), **given)

        songs = self.dataset.num_items
        size = min(2 * getattr(scores, "block_size", rows_at_once(songs)), len(task.users))
        block()
        return self.timed(stage, block, "users", size, len(task.users))[1]

    # --- Groups of stages ---

    def prepare(self) -> Iterator[Block]:
        yield self.timed("preprocess", lambda: self.dataset)[1]
        yield self.timed("graph", lambda: self.graph)[1]

    def train(self) -> Iterator[Block]:
        features, played = self.dataset.item_features(), np.diff(self.graph.item_offsets) > 0
        silent = np.flatnonzero((features.audio_row >= 0) & ~played)
        size = min(4 * rows_at_once(int(played.sum())), len(silent))
        near = partial(neighbours, count=self.config.model.cold_neighbours)
        work = partial(near, features, silent[:size], np.flatnonzero(played))
        yield self.timed("neighbours in sound", work, "songs", size, len(silent))[1]
        runner, row = self.timed("graph and features to the device", lambda: self.run.runner)
        yield row
        state = runner.create_state(0)
        (state, _), row = self.timed("compile a step", partial(runner.advance, state, 0, 0))
        yield row
        epoch = self.run.steps_per_epoch
        (state, _), row = self.timed("train: an epoch", partial(runner.advance, state, 0, 1), "steps", 1, epoch)
        yield row
        params = runner.params(state.params)
        runner.encode(params)
        yield self.timed("encode all", partial(runner.encode, params))[1]
        del state, params
        task, row = self.timed("targets and masks of a split", lambda: self.run.task(self.config.eval.protocol, "val"))
        yield row
        yield self.ranked("validate: rank", embedding_scores(*self.embeddings), task)

    def recency(self) -> Iterator[Block]:
        train, row = self.timed("read train events", lambda: self.dataset.events("train"))
        yield row
        windows, row = self.timed("windows of the past", lambda: windows_of(self.run))
        yield row
        now = windows[0].now
        yield self.timed("graph of the past", lambda: build_graph(self.dataset.as_of(now + 1), self.config.graph)[0])[1]
        features = self.dataset.item_features()
        moment, row = self.timed("moment", lambda: observe(train, features, now=now, **self.sizes))
        yield row
        histories = Histories.of(train, num_users=self.dataset.num_users)
        settings = self.config.recency
        scorer = RecencyScorer(self.embeddings, {}, moment, histories, latest_length=settings.latest_songs)
        task = self.run.task(self.config.eval.protocol, "val")
        few = dataclasses.replace(settings, num_users=_FITTED)
        gather(task, scorer, few, seed=0)
        work = partial(gather, task, scorer, few, seed=0)
        examples, row = self.timed("recency: examples of two heads", work, "users", _FITTED, 2 * settings.num_users)
        yield row
        tiled = -(-settings.num_users // len(examples.target))
        whole = Examples(*(np.concatenate([column] * tiled) for column in examples))
        work = partial(fit_head, whole, strength=1.0, prior={"user": 5.0})
        weights, row = self.timed("recency: fit of two heads", work, "heads", 1, 2)
        yield row
        yield self.ranked("test: rank with recency", scorer.at(weights=weights), task)

    def playlist(self) -> Iterator[Block]:
        targets = windows_of(self.run)[0].targets(self.dataset.events("train"))
        sessions, row = self.timed("sessions of a window", lambda: sessions_of(targets))
        yield row
        listeners = listeners_of(self.graph)
        given = np.asarray(self.embeddings.item), popularity_of(listeners), listeners > 0
        most = {"most": self.config.retrieval.num_sessions, "seed": 0}
        examples, row = self.timed("playlist: examples", lambda: examples_of(sessions, *given, **most))
        yield row
        yield self.timed("playlist: fit", lambda: fit_heads([examples]))[1]

    def export(self) -> Iterator[Block]:
        dataset, features = self.dataset, self.dataset.item_features()

        def histories() -> Histories:
            return Histories.of(*(dataset.events(split) for split in SPLITS), num_users=dataset.num_users)

        every, row = self.timed("export: histories of all splits", histories)
        yield row
        observed = partial(observe, every, features, now=dataset.present, **self.sizes)
        moment, row = self.timed("export: moment", observed)
        yield row
        zero = dict.fromkeys(FEATURES, 0.0)
        head = Head(zero, zero, moment, every, self.config.recency.latest_songs)
        user_songs, row = self.timed("export: heard and disliked songs", lambda: user_songs_of(dataset))
        yield row
        made = make_export(
            user_ids=dataset.user_ids,
            item_ids=dataset.item_ids,
            user_embeddings=np.asarray(self.embeddings.user),
            item_embeddings=np.asarray(self.embeddings.item),
            listeners=listeners_of(self.graph),
            features=features,
        )
        ids = IdTables(dataset.users, dataset.songs, dataset.artists, dataset.albums)
        folder = self.folder / "embeddings"
        folder.mkdir(parents=True)
        options = {"fingerprint": "", "step": 0, "user_songs": user_songs, "ids": ids, "head": head}
        yield self.timed("export: write", lambda: write_export(made, folder, **options))[1]

    def baselines(self) -> Iterator[Block]:
        songs = self.dataset.num_items
        history = history_of(self.run, self.run.task(self.config.eval.protocol, "val").protocol)
        latest = partial(recent_pairs, history, max_items=ItemKnnSettings().max_history)
        pairs, row = self.timed("item-kNN: latest songs", latest)
        yield row
        matrix = binary_matrix(pairs, songs)
        by_song = matrix.T.tocsr()
        products = np.concatenate([[0], np.cumsum(np.diff(matrix.indptr)[by_song.indices])])[by_song.indptr]
        done = []

        @contextlib.contextmanager
        def first_songs(label: str, total: int, unit: str) -> Iterator[Callable[[int], object]]:
            del label, total, unit

            def advance(count: int) -> None:
                done.append(count)
                if sum(done) >= _SIMILAR:
                    raise Stopped

            yield advance

        def similar() -> None:
            with contextlib.suppress(Stopped):
                item_similarity(pairs, songs, progress=first_songs)

        _, row = self.timed("item-kNN: neighbours", similar)
        yield dataclasses.replace(row, unit="products", done=float(products[sum(done)]), all=float(products[-1]))
