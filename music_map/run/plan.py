"""The output of --dry_run: which stages are done, what the others would read and write, and the sizes.

Nothing is written and no input is hashed; inputs that were never hashed count as new.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from music_map.errors import UserError
from music_map.graph.build import graph_fingerprint, graph_folder
from music_map.preprocess.build import find_dataset, remembered_plan
from music_map.preprocess.dataset import Dataset
from music_map.reporter import Reporter
from music_map.run.config import Config
from music_map.run.folder import read_results
from music_map.storage import MANIFEST, ArrayFolder
from music_map.text import folder_size, size_text
from music_map.training.loop import epochs_of


class Prepared(NamedTuple):
    """Results of the stages before training; None for a stage that is not done."""

    dataset: Dataset | None
    num_edges: int | None


def say_stages(config: Config, reporter: Reporter, *, force: bool = False) -> Prepared:
    """Says whether preprocess and build_graph are done for a configuration.

    Args:
      config: the configuration.
      force: whether the graph would be built again.

    Raises:
      UserError: a required input is absent, or a field has no meaning.
    """
    dataset = say_dataset(config, reporter)
    return Prepared(dataset, _say_graph(config, dataset, reporter, force=force))


def say_dataset(config: Config, reporter: Reporter, *, force: bool = False) -> Dataset | None:
    """Says whether preprocess is done for a configuration. Returns the data set if so, unless it would be repeated."""
    settings, source = config.data.preprocess(), config.data.source
    plan, sizes = remembered_plan(settings, source=source, processed_dir=config.data.processed)
    dataset = find_dataset(plan) if plan is not None else None
    files = f"{len(sizes)} files of {source}, {size_text(sum(sizes.values()))}"
    if dataset is not None:
        stats = dataset.stats
        events = " + ".join(f"{stats[f'{split}_size']:,}" for split in ("train", "val", "test"))
        reporter.say(
            f"preprocess: {'done, to do again (--force)' if force else 'done'}: {plan.folder}, "
            f"{size_text(folder_size(plan.folder))}: {events} events, {stats['num_users']:,} users, "
            f"{stats['num_items']:,} songs"
        )
        return None if force else dataset
    where = f"{config.data.processed}/events-..." if plan is None else str(plan.folder)
    new = " (not hashed yet; if their content is known, this is done already)" if plan is None else ""
    reporter.say(f"preprocess: to do: {files}{new} -> {where}; chunks of {settings.chunk_size:,} events")
    for name, size in sizes.items():
        reporter.say(f"  {size_text(size):>10}  {source / name}")
    return None


def _say_graph(config: Config, dataset: Dataset | None, reporter: Reporter, *, force: bool) -> int | None:
    settings = config.graph
    if dataset is None:
        reporter.say("build_graph: to do, after preprocess")
        return None
    identity = graph_fingerprint(dataset, settings)
    folder = graph_folder(config.data.processed, identity)
    if not (folder / MANIFEST).is_file() or (stored := ArrayFolder.open(folder)).fingerprint != identity:
        # An edge takes 16 bytes: user, song, weight and a position in the songs' order.
        most = dataset.stats["train_size"]
        reporter.say(f"build_graph: to do: {most:,} events of train -> {folder}, at most {size_text(16 * most)}")
        return None
    stats = stored.meta["stats"]
    edges = stats["num_edges"] // 2
    again = "done, to do again (--force)" if force else "done"
    reporter.say(
        f"build_graph: {again}: {folder}, {size_text(folder_size(folder))}: {edges:,} edges, "
        f"{stats['num_negative_edges']:,} negative edges"
    )
    return edges


def checkpoint_steps(workdir: Path) -> list[int]:
    """The steps of a run's checkpoints, ascending."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("[0-9]*") if path.name.isdigit())


def say_training(
    config: Config, workdir: Path, dataset: Dataset | None, steps_per_epoch: int | None, reporter: Reporter
) -> None:
    """Says what training would do in a workdir, and from which step.

    Args:
      config: the configuration.
      workdir: of the run.
      dataset: None if it is not made yet.
      steps_per_epoch: None if the graph is not built yet.
    """
    train, model = config.train, config.model
    if steps_per_epoch is None:
        last = None
        what = f"{train.num_epochs} epochs, steps of {train.batch_size:,} pairs"
    else:
        epochs = epochs_of(train.num_epochs, train.min_steps, steps_per_epoch)
        last = epochs * steps_per_epoch
        what = f"{epochs} epochs of {steps_per_epoch:,} steps of {train.batch_size:,} pairs, {last:,} steps"
    if dataset is not None:
        nodes = dataset.num_users + dataset.num_items
        rows = 4 * nodes * model.embedding_dim
        what += f"; a row of {model.embedding_dim} for each of {nodes:,} nodes is {size_text(rows)}, "
        what += f"a checkpoint with its optimizer about {size_text(3 * rows)}"
    steps = checkpoint_steps(workdir)
    if (workdir / "results.json").exists():
        step = read_results(workdir)["step"]
        reporter.say(f"train: done in {workdir} (best step {step}); to do: the table of results once more")
        return
    if steps:
        of_all = f" of {last:,}" if last else ""
        reporter.say(f"train: begun in {workdir}, continues at step {steps[-1]:,}{of_all}; {what}")
    else:
        reporter.say(f"train: to do in {workdir}: {what}")
    if config.recency.enabled and config.data.format != "text":
        reporter.say(f"recency: to do, an encoder of past windows, at most {config.recency.max_epochs} epochs")
    beside = ", ".join(config.eval.baselines) or "nothing"
    reporter.say(f"evaluate: to do, protocol {config.eval.protocol}, beside {beside}")


def settings_from(path: str | None) -> str:
    """The source of the settings of baselines that are not tuned, in words."""
    return "their settings are the defaults" if path is None else f"their settings are those of {path}"


def say_evaluation(
    workdirs: Sequence[Path], protocol: str, split: str, baselines: Sequence[str], how: str, reporter: Reporter
) -> None:
    """Says what would be evaluated, and with which baselines.

    Args:
      workdirs: runs of launch/train.py.
      protocol: by name.
      split: "val" or "test".
      baselines: by name.
      how: the source of the baselines' settings, in words.

    Raises:
      UserError: a run has no checkpoint yet.
    """
    for workdir in workdirs:
        if not (steps := checkpoint_steps(workdir)):
            raise UserError(f"{workdir}: no checkpoint there yet; run launch/train.py to train")
        step = steps[-1]
        if (workdir / "results.json").exists():
            step = read_results(workdir)["step"]
        reporter.say(f"evaluate: {workdir}, step {step:,}: protocol {protocol}, {split} split")
    reporter.say(f"baselines: {', '.join(baselines) or 'none'}; {how}")
