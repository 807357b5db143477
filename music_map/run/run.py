"""A run as an object: its configuration with data and graph, on the device where the encoder needs them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from music_map import mesh as meshes
from music_map import processes
from music_map.errors import DamagedFileError, UserError, about, require
from music_map.evaluation import protocols
from music_map.evaluation.baselines import check_names
from music_map.evaluation.cut import CutEmbeddingScores
from music_map.evaluation.protocols import RankingTask, build_task, find_protocol
from music_map.evaluation.ranking import ScoreBlock, embedding_scores
from music_map.graph.bipartite import BipartiteGraph
from music_map.graph.build import build_graph
from music_map.graph_filter.operator import FilteredGraph, UserRows, matrix_of
from music_map.model import cold, fusion
from music_map.model.encoder import EncoderInputs, Params
from music_map.model.propagation import adjacency, choose_backend
from music_map.model.settings import ModelSettings
from music_map.model.sound import Kept
from music_map.parallel.partition import EdgeParts, GraphInMemory
from music_map.parallel.runners import degrees, make_runner
from music_map.preprocess.dataset import Dataset, Events, ItemFeatures
from music_map.recency.scores import Embeddings
from music_map.reporter import SILENT, Reporter
from music_map.run import stages
from music_map.run.config import Config, described
from music_map.run.folder import files_of, read_record, run_of
from music_map.run.memory import require_room
from music_map.run.options import open_fields
from music_map.stopwatch import Stages
from music_map.storage import fingerprint
from music_map.training.checkpoint import CheckpointStore
from music_map.training.loop import LoopSettings, epochs_of, steps_per_epoch
from music_map.training.optimizer import OptimizerSettings
from music_map.training.runner import OneDevice, Runner
from music_map.training.sampling import sample_data
from music_map.training.step import StepSettings
from music_map.training.subgraph import Subgraphs


class Trained(NamedTuple):
    """A checkpoint: its step and the parameters of the encoder."""

    step: int
    params: Params


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A configuration with its data and graph; events, features and embeddings are loaded once.

    Attributes:
      config: the configuration.
      workdir: the run's folder; None for an encoder within another run.
      dataset: processed events and features.
      graph: the bipartite graph, NumPy.
      inputs: what the encoder reads, on the device; in the host's memory where config.parallel is not "none".
      settings: of the training step.
      nearest: songs without train edges, which are placed by their sound, or None.
      parts: stored edges, read by several processes; the graph is then mapped, and `inputs` has no edges.
      reporter: shows slow stages.
      clock: seconds by stage.
    """

    config: Config
    workdir: Path | None
    dataset: Dataset
    graph: BipartiteGraph
    inputs: EncoderInputs
    settings: StepSettings
    nearest: cold.Nearest | None
    parts: EdgeParts | None = None
    reporter: Reporter = SILENT
    clock: Stages = dataclasses.field(default_factory=Stages)

    def __repr__(self) -> str:
        users, songs = self.dataset.num_users, self.dataset.num_items
        return f"Run in {self.workdir}: {users:,} users, {songs:,} songs, {self.graph.num_edges:,} edges"

    @functools.cached_property
    def runner(self) -> Runner:
        """The devices of config.parallel, with graph, features and sampling tables on them."""
        train = self.config.train
        drawn = {"users": train.user_sampling, "items": train.item_sampling}
        if train.mode == "subgraph":
            data = sample_data(self.graph, **drawn)
            steps = steps_per_epoch(self.graph.num_edges, train.batch_size)
            subgraphs = Subgraphs(
                self.graph,
                self.inputs,
                data,
                num_parts=train.partitions,
                steps_per_part=-(-steps // train.partitions),
                seed=train.seed,
                backend=self.settings.model.backend,
            )
            return OneDevice(self.inputs, data, self.settings, subgraphs=subgraphs)
        return make_runner(
            self.config.parallel, graph=self.graph, inputs=self.inputs, **drawn, settings=self.settings,
            parts=self.parts,
        )  # fmt: skip

    def events(self, split: str) -> Events:
        """The interactions of "train", "val" or "test"."""
        with self.clock("read"):
            return self.dataset.events(split)

    @property
    def features(self) -> ItemFeatures:
        """Audio, artists, albums and lengths of the songs."""
        with self.clock("read"):
            return self.dataset.item_features()

    @functools.cached_property
    def trained(self) -> Trained:
        """The best undamaged checkpoint.

        Raises:
          UserError: there is none.
        """
        return best_checkpoint(self, self.workdir, self.workdir)

    @functools.cached_property
    def embeddings(self) -> Embeddings:
        """Those of the best checkpoint."""
        return self.encode(self.trained.params)

    def encode(self, params: Params) -> Embeddings:
        """The embeddings of all users and songs; NumPy arrays where songs are cut over devices."""
        users, items = self.runner.encode(params)
        if self.nearest is not None:
            with contextlib.nullcontext() if self.mesh is None else meshes.host_memory():
                items = _place(items, self.nearest, unit=self.settings.model.score == "cosine")
        return Embeddings(users, items if self.mesh is None else np.asarray(items))

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """The devices of all processes if config.parallel is "sharded", which cuts songs over them; else None."""
        return meshes.make_mesh() if self.config.parallel == "sharded" else None

    @property
    def devices(self) -> list[jax.Device] | None:
        """See `ranking_devices`."""
        return ranking_devices(self.config)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return steps_per_epoch(self.graph.num_edges, self.config.train.batch_size)

    def task(self, protocol: str, split: str) -> RankingTask:
        """Targets, masks and candidates of a protocol on "val" or "test"."""
        dataset = self.dataset
        held_out = dataset.held_out_items()
        ranks_held_out = find_protocol(protocol).candidates == "held_out" and held_out.any()
        events = dataset.held_out_events if ranks_held_out else self.events
        return build_task(
            protocol,
            split,
            train=self.events("train"),
            val=events("val"),
            test=events("test"),
            num_users=dataset.num_users,
            num_items=dataset.num_items,
            min_played_pct=self.config.eval.min_played_pct,
            held_out_items=held_out,
        )

    def encoder_scores(self, params: Params | None = None) -> ScoreBlock:
        """The encoder alone as a scorer: dot products of embeddings, by default those of the best checkpoint."""
        embeddings = self.embeddings if params is None else self.encode(params)
        if self.mesh is not None:
            return CutEmbeddingScores(*embeddings, self.mesh)
        return embedding_scores(*embeddings, devices=self.devices)

    @functools.cached_property
    def filtered_graph(self) -> FilteredGraph:
        """The graph as its filters read it; they share the encoder's matrix where that is on the default device."""
        graph, config, backend = self.graph, self.config, self.settings.model.backend
        rows = UserRows(graph.user_offsets, graph.item, graph.weight)
        here = config.parallel == "none" and config.train.mode == "full"
        matrix = self.inputs.adjacency.users_from_items if here else matrix_of(rows, graph.num_items, backend=backend)
        sizes = {"num_items": graph.num_items, "rank": config.graph_filter.rank, "seed": config.train.seed}
        return FilteredGraph(rows, matrix, **sizes, backend=backend, progress=self.reporter.bar)

    def as_of(self, now: int) -> Run:
        """The run with data and graph up to and including the second `now`; it has no folder."""
        dataset = self.dataset.as_of(now + 1)
        if processes.count() > 1:
            return assemble(self.config, dataset, *graph_of(self.config, dataset, past=True), reporter=self.reporter)
        return assemble(self.config, dataset, build_graph(dataset, self.config.graph)[0], reporter=self.reporter)

    def without(self, users: np.ndarray, workdir: Path) -> Run:
        """The run as if some users, bool [U], had no events, in a folder of its own."""
        dataset = self.dataset.without(users)
        graph = build_graph(dataset, self.config.graph)[0]
        return assemble(self.config, dataset, graph, workdir=workdir, reporter=self.reporter, clock=self.clock)


_place = jax.jit(cold.place, static_argnames="unit")


def prepare(
    config: Config,
    workdir: Path | None = None,
    *,
    trained_on: str | None = None,
    reporter: Reporter = SILENT,
    clock: Stages | None = None,
) -> Run:
    """Runs the stages not yet done for a configuration and puts graph and features on the device.

    Args:
      config: the configuration.
      workdir: of the run.
      trained_on: fingerprint of the data of an earlier run, whose data is then used; None for a new run.
      reporter: shows the stages.
      clock: the seconds of the stages are added to it; None: a new one.

    Raises:
      UserError: a field of the configuration has no meaning here, or the data is wrong.
    """
    check(config)
    clock = Stages() if clock is None else clock
    with clock("preprocess"):
        if processes.count() > 1:
            rule = "'pmap' or 'sharded' with several processes"
            require(config.parallel != "none", "config.parallel", config.parallel, rule)
            processes.check_alike(fingerprint(described(config)), "configuration")
            dataset = stages.shared_dataset(config, reporter=reporter)
        elif trained_on:
            dataset = stages.dataset_of_run(config, trained_on)
        else:
            dataset = stages.ensure_dataset(config, reporter=reporter)
    if not trained_on:
        require_room(config, num_users=dataset.num_users, num_items=dataset.num_items)
    with clock("graph"):
        graph = graph_of(config, dataset, reading=trained_on is not None, reporter=reporter)
        return assemble(config, dataset, *graph, workdir=workdir, reporter=reporter, clock=clock)


def open_run(workdir: str | Path, *, reporter: Reporter = SILENT) -> Run:
    """A run that has been trained, or is being trained, with its data and graph.

    Args:
      workdir: its folder.
      reporter: shows stages that are repeated.

    Raises:
      UserError: there is none, or its data is gone.
    """
    workdir = Path(workdir).expanduser()
    record = read_record(workdir, reporter=reporter)
    return prepare(record.config, workdir, trained_on=record.dataset, reporter=reporter)


def open_graph(workdir: Path) -> tuple[Dataset, BipartiteGraph]:
    """The data set and the graph that a run was trained on, without its model. Raises UserError as `open_run`."""
    record = read_record(workdir)
    dataset = stages.dataset_of_run(record.config, record.dataset)
    return dataset, stages.ensure_graph(record.config, dataset, reading=True)


def check(config: Config) -> None:
    """Checks fields against the machine and each other before data is read. Raises UserError."""
    for name in open_fields(config):
        raise UserError(f"config.{name}=0: is open; music_map.run.options.resolved sets it from the logs")
    with about("config.eval.protocol"):
        check_protocol(config, config.eval.protocol)
    with about("config.eval.baselines"):
        check_names(config.eval.baselines)
    of_users = find_protocol(config.eval.protocol).queries == "users"
    rule = "a protocol over users who are trained on; this one is for launch/evaluate.py --protocol=NAME"
    require(of_users, "config.eval.protocol", config.eval.protocol, rule)
    choose_backend(config.model.backend)


def check_protocol(config: Config, name: str) -> None:
    """Raises UserError for a protocol that is unknown or that the data cannot answer."""
    protocols.check_protocol(
        find_protocol(name),
        data_format=config.data.format,
        split_rule=config.data.split,
        songs_held_out=config.data.cold_item_fraction > 0,
    )


def graph_of(
    config: Config, dataset: Dataset, *, past: bool = False, reading: bool = False, reporter: Reporter = SILENT
) -> tuple[BipartiteGraph, EdgeParts | None]:
    """The graph of a data set, and its parts where several processes share the edges; see `stages.ensure_graph`."""
    options = {"past": past, "reporter": reporter}
    if processes.count() == 1:
        return stages.ensure_graph(config, dataset, reading=reading, **options), None
    if config.parallel == "sharded":
        return stages.shared_parts(config, dataset, **options)
    return stages.shared_graph(config, dataset, **options), None


def assemble(
    config: Config,
    dataset: Dataset,
    graph: BipartiteGraph,
    parts: EdgeParts | None = None,
    *,
    workdir: Path | None = None,
    reporter: Reporter = SILENT,
    clock: Stages | None = None,
) -> Run:
    """Puts graph and features on the device, or in the host's memory if several devices share them."""
    memory = contextlib.nullcontext() if config.parallel == "none" else meshes.host_memory()
    backend = choose_backend(config.model.backend, num_edges=len(graph.item))
    model = dataclasses.replace(config.model, backend=backend)
    with memory:
        if config.parallel == "sharded":  # the runner puts each device's edges there
            adjacent = degrees(parts or GraphInMemory(graph), degree=model.degree)
        else:
            adjacent = adjacency(graph, degree=model.degree)
        item_degree = np.asarray(adjacent.item_degree)
        raw = dataset.item_features()
        inputs = EncoderInputs(adjacent, fusion.features(raw, item_degree, audio=model.audio, metadata=model.metadata))
        kept = Kept(dataset.store.folder.parent, dataset.store.fingerprint)
        nearest = None
        if model.audio:
            options = {"count": model.cold_neighbours, "kept": kept, "progress": reporter.bar}
            nearest = cold.nearest(raw, item_degree, **options)
        if config.train.mode == "subgraph":  # the whole graph stays in the host's memory and is encoded there
            inputs, nearest = jax.device_put((inputs, nearest), jax.devices("cpu")[0])
    settings = step_settings(config, model, num_edges=len(graph.item))
    clock = Stages() if clock is None else clock
    return Run(config, workdir, dataset, graph, inputs, settings, nearest, parts, reporter, clock)


def step_settings(config: Config, model: ModelSettings, *, num_edges: int) -> StepSettings:
    """The settings of a training step; the schedule's length follows from `num_edges`."""
    train = config.train
    epoch = steps_per_epoch(num_edges, train.batch_size)
    optimizer = OptimizerSettings(
        name=train.optimizer,
        learning_rate=train.learning_rate,
        schedule=train.schedule,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
        total_steps=epochs_of(train.num_epochs, train.min_steps, epoch) * epoch,
    )
    return StepSettings(model, config.loss, optimizer, train.batch_size)


def ranking_devices(config: Config) -> list[jax.Device] | None:
    """Devices of this process that share ranking; None (one device) if config.parallel is "none"."""
    return None if config.parallel == "none" else jax.local_devices()


def loop_settings(config: Config) -> LoopSettings:
    """The training loop's part of the configuration."""
    names = [f.name for f in dataclasses.fields(LoopSettings) if f.name != "metric"]
    return LoopSettings(**{name: getattr(config.train, name) for name in names}, metric=config.eval.metric)


def checkpoint_store(folder: Path, workdir: Path, *, read_only: bool, reporter: Reporter) -> CheckpointStore:
    """The checkpoints below a folder: the run's folder `workdir`, or one inside it."""
    return CheckpointStore(folder / "checkpoints", warn=reporter.warn, read_only=read_only, run=run_of(workdir))


def best_checkpoint(run: Run, folder: Path, workdir: Path) -> Trained:
    """The best undamaged checkpoint below a folder of the run in `workdir`, of an encoder of `run`'s shapes.

    Raises:
      UserError: there is none.
    """
    found = None
    if (folder / "checkpoints").is_dir():
        with checkpoint_store(folder, workdir, read_only=True, reporter=run.reporter) as store:
            found = store.restore(run.runner.create_state(run.config.train.seed), best=True)
    if found is None:
        raise UserError(f"{folder}: no checkpoint there yet; run launch/train.py to train, or to go on training")
    return Trained(found[0], run.runner.params(found[1].params))


def read_kept(run: Run, name: str, form: Any) -> Any:
    """What `keep` stored under a name; None if it is missing or, with a warning, damaged."""
    files = files_of(run.workdir)
    try:
        return files.read_json(name, form) if files.has(name) else None
    except DamagedFileError as e:
        run.reporter.warn(f"{str(e).partition(';')[0]}; fitted anew")
    return None


def keep(run: Run, name: str, value: Any) -> None:
    """Stores fitted values in the run's folder; a warning if another process writes there."""
    try:
        files_of(run.workdir).write_json({name: value})
    except UserError as e:
        run.reporter.warn(f"{run.workdir / name}: not kept ({e})")
