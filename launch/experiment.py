"""From a configuration to the objects of the library: where ConfigDict ends and named arguments begin."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import yambda
from launch import app, stages
from launch.config_file import flat
from music_map import processes
from music_map.errors import DamagedFileError, UserError, require
from music_map.evaluation import protocols
from music_map.evaluation.baselines import (
    BASELINES,
    COLD_START,
    check_names,
    fit_baselines,
    settings_from_json,
    settings_to_json,
    tune_baselines,
)
from music_map.evaluation.baselines.settings import SETTINGS, Settings
from music_map.evaluation.evaluate import evaluate_beside_baselines, evaluate_scores
from music_map.evaluation.metrics import METRICS
from music_map.evaluation.protocols import RankingTask, build_task, find_protocol
from music_map.evaluation.ranking import ScoreBlock, embedding_scores
from music_map.graph.bipartite import BipartiteGraph
from music_map.losses import LossSettings
from music_map.model import cold, fusion
from music_map.model.encoder import EncoderInputs, Params
from music_map.model.propagation import adjacency, choose_backend
from music_map.model.settings import ModelSettings
from music_map.model.sound import Kept
from music_map.parallel import mesh as meshes
from music_map.parallel.partition import EdgeParts, GraphInMemory
from music_map.parallel.runners import MODES, degrees, make_runner
from music_map.preprocess.dataset import Dataset
from music_map.recency.settings import RecencySettings
from music_map.retrieval.export import FOLDER, Export, histories_of, load_export, make_export, save_export
from music_map.retrieval.filters import filters_of
from music_map.retrieval.index import BACKENDS as INDEXES
from music_map.settings import from_values
from music_map.storage import fingerprint, read_json, write_json
from music_map.training.checkpoint import CheckpointStore
from music_map.training.loop import FitResult, LoopSettings, Position, epochs_of, fit, steps_per_epoch
from music_map.training.metrics_log import MetricsLog
from music_map.training.optimizer import OptimizerSettings
from music_map.training.profiling import StepProfile
from music_map.training.runner import OneDevice, Runner
from music_map.training.sampling import SampleData, sample_data
from music_map.training.step import StepSettings
from music_map.training.subgraph import Subgraphs

# Where the data lies: other places can hold the same data.
PLACES = {"data.raw_dir", "data.path", "data.processed_dir", "data.chunk_size"}

# Fields that may differ when a run goes on: where the data lies, and what changes no number of the training.
FREE = {
    "data.raw_dir",
    "data.path",
    "data.processed_dir",
    "data.chunk_size",
    "train.patience",
    "train.steps_per_dispatch",
    "train.checkpoint_every_seconds",
    "eval.ks",
    "eval.baselines",
    *(f"retrieval.{name}" for name in yambda.get_config().retrieval),
    "model.backend",
    "recency.enabled",
    "recency.latest_songs",
    "recency.num_users",
    "recency.max_epochs",
    "recency.strength",
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A configuration with its data and graph, on the device where the encoder needs them.

    Attributes:
      config: the configuration.
      dataset: processed events and features.
      graph: the bipartite graph, NumPy.
      inputs: what the encoder reads, on the device; in the host's memory where config.parallel is not "none".
      settings: what a training step is compiled for.
      nearest: songs without train edges, to be placed by what they sound like, or None.
      parts: where several processes read their edges from; the graph is then mapped, and inputs has no edges.
    """

    config: ConfigDict
    dataset: Dataset
    graph: BipartiteGraph
    inputs: EncoderInputs
    settings: StepSettings
    nearest: cold.Nearest | None
    parts: EdgeParts | None = None

    @functools.cached_property
    def runner(self) -> Runner:
        """The devices of config.parallel, with graph, features and sampling tables on them."""
        train = self.config.train
        drawn = {"users": train.user_sampling, "items": train.item_sampling}
        if train.mode == "subgraph":
            data = sample_data(self.graph, **drawn)
            return OneDevice(self.inputs, data, self.settings, subgraphs=subgraphs(self, data))
        return make_runner(
            self.config.parallel,
            graph=self.graph,
            inputs=self.inputs,
            **drawn,
            settings=self.settings,
            parts=self.parts,
        )


def host_memory(config: ConfigDict) -> contextlib.AbstractContextManager:
    """Within, arrays that would go to the first device stay with the host where many devices share them."""
    if config.parallel == "none":
        return contextlib.nullcontext()
    return meshes.host_memory()


def check(config: ConfigDict) -> None:
    """Raises UserError for a value without meaning, before anything that takes long."""
    require(config.parallel in MODES, "config.parallel", config.parallel, f"one of {', '.join(MODES)}")
    for field, choices in (("user_sampling", ("uniform", "degree")), ("item_sampling", ("uniform", "weight"))):
        value = config.train[field]
        require(value in choices, f"config.train.{field}", value, f"one of {', '.join(choices)}")
    mode, drawn = config.train.mode, config.train.user_sampling
    require(mode in ("full", "subgraph"), "config.train.mode", mode, "one of full, subgraph")
    require(config.train.partitions >= 1, "config.train.partitions", config.train.partitions, "at least 1")
    rule = "'none' with config.train.mode='subgraph'"
    require(mode == "full" or config.parallel == "none", "config.parallel", config.parallel, rule)
    rule = "'uniform' with config.train.mode='subgraph'"
    require(mode == "full" or drawn == "uniform", "config.train.user_sampling", drawn, rule)
    require(config.train.batch_size >= 1, "config.train.batch_size", config.train.batch_size, "at least 1")
    check_protocol(config, config.eval.protocol, "--config.eval.protocol")
    of_users = find_protocol(config.eval.protocol).queries == "users"
    rule = "a protocol over users; this one is for launch/evaluate.py --protocol=playlist"
    require(of_users, "config.eval.protocol", config.eval.protocol, rule)
    ks = tuple(config.eval.ks)
    require(bool(ks) and all(isinstance(k, int) and k >= 1 for k in ks), "config.eval.ks", ks, "numbers of at least 1")
    name, at, k = config.eval.metric.partition("@")
    metrics = f"NAME@K with NAME one of {', '.join(METRICS)} and K in config.eval.ks"
    require(at == "@" and name in METRICS and k in map(str, ks), "config.eval.metric", config.eval.metric, metrics)
    check_baselines(config.eval.baselines, "--config.eval.baselines")
    indexes = f"one of {', '.join(INDEXES)}"
    require(config.retrieval.index in INDEXES, "config.retrieval.index", config.retrieval.index, indexes)
    RecencySettings(**config.recency)
    temperature = config.retrieval.attention_temperature
    require(temperature > 0, "config.retrieval.attention_temperature", temperature, "above 0")
    push, target = config.retrieval.dislike_push, config.retrieval.recall_target
    require(0 <= push <= 1, "config.retrieval.dislike_push", push, "at least 0 and at most 1")
    require(0 < target <= 1, "config.retrieval.recall_target", target, "above 0 and at most 1")
    require(
        config.retrieval.num_sessions >= 1, "config.retrieval.num_sessions", config.retrieval.num_sessions, "at least 1"
    )
    filters_of(config.retrieval)


def check_protocol(config: ConfigDict, name: str, flag: str) -> None:
    """Raises UserError, with the flag's name, for a protocol that is unknown or that the data cannot answer."""
    try:
        protocols.check_protocol(
            find_protocol(name),
            data_format=config.data.format,
            split_rule=config.data.split,
            songs_held_out=config.data.cold_item_fraction > 0,
        )
    except UserError as e:
        raise UserError(f"{flag}: {e}") from e


def check_baselines(names: Sequence[str], flag: str) -> None:
    """Raises UserError, with the flag's name, for a baseline that is unknown or whose library is not installed."""
    try:
        check_names(names)
    except UserError as e:
        raise UserError(f"{flag}: {e}") from e


def load(config: ConfigDict, *, trained_on: str | None = None, quiet: bool = False) -> Experiment:
    """Runs the stages not yet done for this configuration and puts graph and features on the device.

    Args:
      config: the configuration.
      trained_on: fingerprint of the data of an earlier run, whose data is then used; None for a new run.
      quiet: nothing is said of a graph that is there.

    Raises:
      UserError: a field of the configuration has no meaning, or the data is wrong.
    """
    check(config)
    _settings(config)
    if processes.count() > 1:
        rule = "'pmap' or 'sharded' with several processes"
        require(config.parallel != "none", "config.parallel", config.parallel, rule)
        processes.check_alike(fingerprint(describe(config)), "configuration")
        dataset = stages.shared_dataset(config)
    else:
        dataset = stages.dataset_of_run(config, trained_on) if trained_on else stages.ensure_dataset(config)
    return assemble(config, dataset, *graph_of(config, dataset, quiet=quiet))


def graph_of(
    config: ConfigDict, dataset: Dataset, *, quiet: bool = False, past: bool = False
) -> tuple[BipartiteGraph, EdgeParts | None]:
    """The graph of a data set, and its parts where several processes share the edges; see `stages.ensure_graph`."""
    if processes.count() == 1:
        return stages.ensure_graph(config, dataset, quiet=quiet, past=past), None
    if config.parallel == "sharded":
        return stages.shared_parts(config, dataset, past=past)
    return stages.shared_graph(config, dataset, past=past), None


def _settings(config: ConfigDict) -> tuple[ModelSettings, LossSettings]:
    """Encoder and loss. Raises UserError for a value without meaning."""
    backend = choose_backend(config.model.backend)
    return from_values(ModelSettings, {**config.model, "backend": backend}), from_values(LossSettings, config.loss)


def assemble(config: ConfigDict, dataset: Dataset, graph: BipartiteGraph, parts: EdgeParts | None = None) -> Experiment:
    """Puts graph and features on the device."""
    with host_memory(config):
        return _assemble(config, dataset, graph, parts)


def _assemble(config: ConfigDict, dataset: Dataset, graph: BipartiteGraph, parts: EdgeParts | None) -> Experiment:
    model, loss = _settings(config)
    if config.parallel == "sharded":  # the runner puts each device's edges there
        adjacent = degrees(parts or GraphInMemory(graph), degree=model.degree)
    else:
        adjacent = adjacency(graph, degree=model.degree)
    item_degree = np.asarray(adjacent.item_degree)
    raw = dataset.item_features()
    features = fusion.features(raw, item_degree, audio=model.audio, metadata=model.metadata)
    kept = Kept(dataset.store.folder.parent, dataset.store.fingerprint)
    nearest = cold.nearest(raw, item_degree, count=model.cold_neighbours, kept=kept) if model.audio else None
    optimizer = optimizer_settings(config, num_edges=len(graph.item))
    step = StepSettings(model, loss, optimizer, config.train.batch_size)
    inputs = EncoderInputs(adjacent, features)
    if config.train.mode == "subgraph":  # the whole graph stays in host memory, where it is encoded too
        inputs, nearest = jax.device_put((inputs, nearest), jax.devices("cpu")[0])
    return Experiment(config, dataset, graph, inputs, step, nearest, parts)


def check_settings(config: ConfigDict) -> None:
    """Raises UserError for whatever `load` would refuse before it reads any data."""
    check(config)
    _settings(config)
    optimizer_settings(config, num_edges=1)
    loop_settings(config)
    stages.preprocess_settings(config)
    stages.graph_settings(config)


def optimizer_settings(config: ConfigDict, *, num_edges: int) -> OptimizerSettings:
    """The optimizer's part of the configuration; the schedule is as long as the training on `num_edges` edges."""
    train = config.train
    epoch = steps_per_epoch(num_edges, train.batch_size)
    return OptimizerSettings(
        name=train.optimizer,
        learning_rate=train.learning_rate,
        schedule=train.schedule,
        warmup_steps=train.warmup_steps,
        weight_decay=train.weight_decay,
        clip_norm=train.clip_norm,
        total_steps=epochs_of(train.num_epochs, train.min_steps, epoch) * epoch,
    )


def loop_settings(config: ConfigDict) -> LoopSettings:
    """The training loop's part of the configuration."""
    names = [f.name for f in dataclasses.fields(LoopSettings) if f.name != "metric"]
    return LoopSettings(**{name: config.train[name] for name in names}, metric=config.eval.metric)


def encode(experiment: Experiment, params: Params) -> tuple[jax.Array, jax.Array]:
    """User embeddings [U, d] and song embeddings [I, d]."""
    users, items = experiment.runner.encode(params)
    if experiment.nearest is not None:
        items = _place(items, experiment.nearest, unit=experiment.settings.model.score == "cosine")
    return users, items


_place = jax.jit(cold.place, static_argnames="unit")


def task_for(experiment: Experiment, protocol: str, split: str) -> RankingTask:
    """Targets, masks and candidates of a protocol on "val" or "test"."""
    return task_on(experiment.dataset, protocol, split, min_played_pct=experiment.config.eval.min_played_pct)


def task_on(dataset: Dataset, protocol: str, split: str, *, min_played_pct: int) -> RankingTask:
    """`task_for`, where there is no model yet."""
    held_out = dataset.held_out_items()
    apart = find_protocol(protocol).candidates == "held_out" and held_out.any()
    events = dataset.held_out_events if apart else dataset.events
    return build_task(
        protocol,
        split,
        train=dataset.events("train"),
        val=events("val"),
        test=events("test"),
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        min_played_pct=min_played_pct,
        held_out_items=held_out,
    )


def model_scores(experiment: Experiment, params: Params) -> ScoreBlock:
    """The model as a scorer."""
    return embedding_scores(*encode(experiment, params), devices=ranking_devices(experiment.config))


def ranking_devices(config: ConfigDict) -> list[jax.Device] | None:
    """Devices of this process that share the work of ranking; None: one, where config.parallel is "none"."""
    return None if config.parallel == "none" else jax.local_devices()


def model_metrics(experiment: Experiment, task: RankingTask, params: Params) -> dict[str, float]:
    """The model's metrics on a task."""
    ks = tuple(experiment.config.eval.ks)
    return evaluate_scores(model_scores(experiment, params), task, ks=ks, shared=processes.count() > 1).metrics


def report(
    experiment: Experiment,
    task: RankingTask,
    params: Params,
    *,
    recency: ScoreBlock | None = None,
    baselines: Sequence[str] | None = None,
    settings: Mapping[str, Settings] | None = None,
) -> dict[str, Any]:
    """The model beside the baselines on a task, as JSON-able values; see `evaluate_beside_baselines`.

    Args:
      experiment, task, params: of the model.
      recency: the model's scores with recency, which are then "model"; the encoder's own are
        "model_without_recency".
      baselines: names; None: those of the configuration.
      settings: of the baselines, by name; the defaults where a name is not there.
    """
    config = experiment.config
    names = baseline_names(config, task.protocol.name) if baselines is None else tuple(baselines)
    fitted = fitted_baselines(experiment, task, names, settings)
    alone = model_scores(experiment, params)
    models = {"model": alone} if recency is None else {"model": recency, "model_without_recency": alone}
    return evaluate_beside_baselines(
        models, fitted, task, ks=tuple(config.eval.ks), seed=config.train.seed, shared=processes.count() > 1
    )


def fitted_baselines(
    experiment: Experiment, task: RankingTask, names: Sequence[str], settings: Mapping[str, Settings] | None = None
) -> Iterator[tuple[str, ScoreBlock]]:
    """Baselines of a task, fitted on train one by one; the default settings where a name has none."""
    return fit_baselines(
        names,
        experiment.dataset.events("train"),
        task.protocol,
        **baseline_inputs(experiment.config, experiment.dataset),
        settings=settings,
        progress=app.bar,
    )


def baseline_names(config: ConfigDict, protocol: str, given: Sequence[str] | None = None) -> tuple[str, ...]:
    """The baselines to put beside a model.

    Args:
      config: eval.baselines, where none are given.
      protocol: its name. One that ranks held-out songs has its own baselines: the others know nothing of such songs.
      given: names, or ("all",).
    """
    cold = find_protocol(protocol).candidates == "held_out"
    if given is None:
        return COLD_START if cold else tuple(config.eval.baselines)
    return (COLD_START if cold else BASELINES) if tuple(given) == ("all",) else tuple(given)


def baseline_inputs(config: ConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Arguments that fitting and tuning baselines share."""
    return {
        "num_users": dataset.num_users,
        "num_items": dataset.num_items,
        "train_end": dataset.train_end,
        "seed": config.train.seed,
        "min_played_pct": config.eval.min_played_pct,
        "features": dataset.item_features,
    }


def read_baseline_settings(path: Path) -> dict[str, Settings]:
    """The settings in a file of `tuned_baselines`. Raises UserError where there are none."""
    stored = read_json(path)
    return settings_from_json(stored.get("settings") if isinstance(stored, dict) else None, source=str(path))


def tuned_baselines(
    config: ConfigDict, dataset: Dataset, validation: RankingTask, path: Path, *, names: Sequence[str]
) -> dict[str, Settings]:
    """Settings of the baselines chosen by config.eval.metric on the validation split, kept in a JSON file.

    Args:
      config: eval.metric chooses.
      dataset: train is fitted on.
      validation: the validation task of the protocol at hand.
      path: the file; what it has already for this data, protocol and metric is not tuned again.
      names: baselines; those without settings are passed over.
    """
    identity = {"dataset": dataset.fingerprint, "protocol": validation.protocol.name, "metric": config.eval.metric}
    kept = {"settings": {}, "trials": {}}
    if path.exists():
        stored = read_json(path)
        if isinstance(stored, dict) and {key: stored.get(key) for key in identity} == identity:
            kept = {key: stored.get(key, {}) for key in kept}
    found = settings_from_json(kept["settings"], source=str(path))
    missing = [name for name in names if name in SETTINGS and name not in found]
    tuning = tune_baselines(
        missing,
        dataset.events("train"),
        validation,
        **baseline_inputs(config, dataset),
        metric=config.eval.metric,
        progress=app.bar,
    )
    for name, tuned in tuning:
        found[name] = tuned.settings
        kept["trials"][name] = [
            settings_to_json({name: settings})[name] | {config.eval.metric: value} for settings, value in tuned.trials
        ]
        # After each baseline: some take minutes, and a stop should cost no more than the one at hand.
        write_json(path, identity | {"settings": settings_to_json(found), "trials": kept["trials"]})
        app.note(f"{name}: validation {config.eval.metric} {tuned.value:.4f} with {tuned.settings}")
    return found


def report_table(result: dict[str, Any], *, metric: str) -> str:
    """What `report` gave, as text; with the intervals of one metric."""
    models = ("model", "model_without_recency")
    rows = {name: result[name] for name in models if name in result} | result["baselines"]
    head = f"protocol {result['protocol']}, split {result['split']}, {result['num_users']} users:"
    parts = [head, metrics_table(rows, columns(result["protocol"]))]
    intervals = result["intervals"]
    if metric in intervals["model"]:
        width = max(map(len, rows))
        parts.append(f"95 % intervals over users of {metric}, and of the model's less the row's:")
        for name in rows:
            low, high = (intervals.get(name) or intervals["baselines"][name])[metric]
            line = f"{name:<{width}}" + f"[{low:.4f}, {high:.4f}]".rjust(20)
            if name in intervals["model_minus"]:
                low, high = intervals["model_minus"][name][metric]
                line += f"[{low:+.4f}, {high:+.4f}]".rjust(22)
            parts.append(line)
    return "\n".join(parts)


def config_file(workdir: Path) -> Path:
    return workdir / "config.json"


def train(
    run: Experiment,
    workdir: Path,
    loop: LoopSettings,
    *,
    should_stop: Callable[[], bool],
    evaluated: Callable[[float, Position], object] | None = None,
    profile: StepProfile | None = None,
    tensorboard: bool = False,
) -> FitResult:
    """Trains in a workdir, or goes on there; see `music_map.training.loop.fit`. Only the validation split is ranked.

    With `tensorboard` the lines of metrics.jsonl go to WORKDIR/tensorboard too.
    """
    config = run.config
    validation = None if config.data.train_on_val else task_for(run, config.eval.protocol, "val")
    with checkpoint_store(workdir, read_only=False) as store:
        return fit(
            runner=run.runner,
            settings=loop,
            store=store,
            log=metrics_log(workdir, tensorboard=tensorboard),
            evaluate=validation and (lambda params: model_metrics(run, validation, params)),
            should_stop=should_stop,
            evaluated=evaluated,
            profile=profile,
            progress=app.bar,
        )


def metrics_log(workdir: Path, *, tensorboard: bool) -> MetricsLog:
    """The log of a run. Raises UserError where it should go to TensorBoard and the writer is not installed."""
    if tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise UserError(
            "--tensorboard: tensorboardX is not installed; install the extra: pip install -e '.[tensorboard]'"
        )
    if not tensorboard or not processes.first():
        return MetricsLog(workdir / "metrics.jsonl", writes=processes.first())
    from music_map.training.tensorboard import TensorBoardLog

    return TensorBoardLog(workdir / "metrics.jsonl", workdir / "tensorboard")


def subgraphs(run: Experiment, data: SampleData) -> Subgraphs | None:
    """The parts of the graph that training uses in turn; None where it uses the whole graph."""
    train = run.config.train
    if train.mode == "full":
        return None
    steps = steps_per_epoch(run.graph.num_edges, train.batch_size)
    return Subgraphs(
        run.graph,
        run.inputs,
        data,
        num_parts=train.partitions,
        steps_per_part=-(-steps // train.partitions),
        seed=train.seed,
        backend=run.settings.model.backend,
    )


def describe(config: ConfigDict) -> dict[str, Any]:
    """The configuration as JSON-able values, its folders absolute: what a workdir remembers."""
    described = app.to_dict(config)
    for name in ("raw_dir", "path", "processed_dir"):
        if described["data"][name]:
            described["data"][name] = str(Path(described["data"][name]).expanduser().absolute())
    return described


def first_difference(old: dict[str, Any], new: dict[str, Any], *, free: AbstractSet[str]) -> str | None:
    """The first field, `free` ones aside, in which two described configurations differ: "config.FIELD=OLD, not NEW"."""
    before, now = flat(old), flat(new)
    for field in sorted(before.keys() | now.keys()):
        if field not in free and before.get(field) != now.get(field):
            return f"config.{field}={before.get(field)!r}, not {now.get(field)!r}"
    return None


def claim_workdir(experiment: Experiment, workdir: Path) -> None:
    """Writes config.json into a new workdir, or checks that a used one belongs to this configuration and data.

    Raises:
      UserError: the workdir is another configuration's; names the first field that differs.
    """
    processes.once(lambda: _claim(experiment, workdir))


def _claim(experiment: Experiment, workdir: Path) -> None:
    check_workdir(experiment.config, experiment.dataset.fingerprint, workdir)
    write_json(config_file(workdir), _described(experiment.config, experiment.dataset.fingerprint))


def _described(config: ConfigDict, dataset: str) -> dict[str, Any]:
    return {"config": describe(config), "dataset": dataset}


def check_workdir(config: ConfigDict, dataset: str, workdir: Path) -> None:
    """Raises UserError where a used workdir is another configuration's, or other data's; `dataset` is a fingerprint."""
    described = _described(config, dataset)
    if not config_file(workdir).exists():
        return
    before, trained_on = _read_config(workdir)
    remedy = "choose another --workdir, or delete this one to start anew"
    free = FREE | ({"train.num_epochs", "train.min_steps"} if config.train.schedule == "constant" else set())
    if difference := first_difference(before, described["config"], free=free):
        raise UserError(f"{workdir}: was trained with {difference}; {remedy}")
    if trained_on != dataset:
        raise UserError(f"{workdir}: was trained on other data than {described['config']['data']['raw_dir']}; {remedy}")


@dataclasses.dataclass(frozen=True)
class Run:
    """What WORKDIR/config.json says: the configuration and the fingerprint of the data."""

    config: ConfigDict
    dataset: str


def open_workdir(workdir: Path) -> Run:
    """The run of a workdir.

    Raises:
      UserError: there is none.
    """
    if not config_file(workdir).exists():
        raise UserError(
            f"{workdir}: no config.json there; train first: launch/train.py --config=... --workdir={workdir}"
        )
    config, dataset = _read_config(workdir)
    missing = sorted(flat(app.to_dict(yambda.get_config())).keys() - flat(config).keys())
    if missing:
        raise UserError(
            f"{config_file(workdir)}: has no config.{missing[0]}: another version of this project wrote it; "
            "train again in a new --workdir"
        )
    return Run(ConfigDict(config), dataset)


def _read_config(workdir: Path) -> tuple[dict[str, Any], str]:
    """Configuration and data fingerprint of config.json. Raises DamagedFileError where it is none."""
    path = config_file(workdir)
    stored = read_json(path)
    try:
        return dict(stored["config"]), str(stored["dataset"])
    except (KeyError, TypeError, ValueError) as e:
        raise DamagedFileError(
            f"{path}: is no configuration of a run; delete it and give the launch/train.py command again"
        ) from e


def check_same_data(workdirs: Sequence[Path], opened: Sequence[Run]) -> None:
    """Raises UserError where a run has other users, songs or events than the first."""
    for workdir, run in zip(workdirs[1:], opened[1:], strict=True):
        if run.dataset == opened[0].dataset:
            continue
        one, other = (flat(app.to_dict(each.config.data), "data.") for each in (opened[0], run))
        named = [name for name in one if one[name] != other.get(name) and name not in PLACES]
        why = f"config.{named[0]} is {one[named[0]]!r} there, {other[named[0]]!r} here" if named else "the logs differ"
        raise UserError(
            f"{workdirs[0]} and {workdir} were trained on different data ({why}); figures on different data cannot be "
            "compared: train both with the same data fields on the same logs"
        )


def checkpoint_store(workdir: Path, *, read_only: bool) -> CheckpointStore:
    """The checkpoints of a workdir."""
    return CheckpointStore(workdir / "checkpoints", warn=app.warn, read_only=read_only)


def best_params(experiment: Experiment, workdir: Path) -> tuple[int, Params]:
    """Step and parameters of the best undamaged checkpoint.

    Raises:
      UserError: there is none.
    """
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir}: no checkpoint there yet; run launch/train.py to train")
    with checkpoint_store(workdir, read_only=True) as store:
        like = experiment.runner.create_state(experiment.config.train.seed)
        found = store.restore(like, best=True)
    if found is None:
        raise UserError(f"{workdir}: no checkpoint there yet; run launch/train.py again to go on training")
    return found[0], experiment.runner.params(found[1].params)


def export_model(experiment: Experiment, workdir: Path, step: int, params: Params) -> Export:
    """Encodes everything and writes WORKDIR/embeddings."""
    users, items = encode(experiment, params)
    export = make_export(
        user_ids=experiment.dataset.user_ids,
        item_ids=experiment.dataset.item_ids,
        user_embeddings=np.asarray(users),
        item_embeddings=np.asarray(items),
        item_degree=np.asarray(experiment.inputs.adjacency.item_degree),
        features=experiment.dataset.item_features(),
    )
    identity = fingerprint({"dataset": experiment.dataset.fingerprint, "step": step})

    def save() -> None:
        histories = histories_of(experiment.dataset)
        save_export(export, workdir / FOLDER, fingerprint=identity, step=step, histories=histories)

    processes.once(save)
    return export


def load_model_export(workdir: Path) -> Export:
    """WORKDIR/embeddings; made anew from the best checkpoint where it is missing or damaged."""
    folder = workdir / FOLDER
    try:
        return load_export(folder)[0]
    except DamagedFileError as e:
        if folder.exists():
            app.warn(f"{e}; made anew from the best checkpoint")
    run = open_workdir(workdir)
    experiment = load(run.config, trained_on=run.dataset)
    return export_model(experiment, workdir, *best_params(experiment, workdir))


def metrics_table(rows: dict[str, dict[str, float]], columns: tuple[str, ...]) -> str:
    """A text table: a row a model, a column a metric; columns that no row has are left out."""
    shown = [c for c in columns if any(c in row for row in rows.values())]
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{c:>14}" for c in shown)]
    for name, row in rows.items():
        lines.append(f"{name:<{width}}" + "".join(f"{row[c]:>14.4f}" if c in row else " " * 14 for c in shown))
    return "\n".join(lines)


def columns(protocol: str) -> tuple[str, ...]:
    """Metrics of a protocol's printed tables."""
    return YAMBDA_COLUMNS if protocol.startswith("global_temporal") else TABLE_COLUMNS


TABLE_COLUMNS = ("recall@20", "ndcg@20", "hit_rate@20", "mrr@20", "map@20", "coverage@20", "recall@100", "ndcg@100")
# Those of the Yambda paper's tables, whose NDCG is the pooled one.
YAMBDA_COLUMNS = ("ndcg_pooled@10", "ndcg_pooled@100", "recall@10", "recall@100", "coverage@10", "coverage@100")
