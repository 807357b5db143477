"""What the benchmarks share that train variants of one configuration: training in this process, columns, intervals.

Variants and seeds whose programs agree compile once.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from music_map.evaluation.evaluate import evaluate_scores
from music_map.evaluation.metrics import per_user_metric
from music_map.evaluation.protocols import RankingTask
from music_map.evaluation.ranking import ScoreBlock
from music_map.evaluation.uncertainty import interval, resample
from music_map.model.encoder import Params
from music_map.preprocess.dataset import Dataset
from music_map.reporter import SILENT, Reporter
from music_map.run import stages
from music_map.run.config import Config, with_values
from music_map.run.folder import claim
from music_map.run.run import Run, assemble, check, prepare
from music_map.run.training import train_encoder, train_run

Changes = Mapping[str, Any]


class Column(NamedTuple):
    """One figure as a ratio of sums over users, sum(numerator) / sum(denominator); both float64 [U].

    Of a mean over users the denominators are 1.
    """

    numerator: np.ndarray
    denominator: np.ndarray

    @property
    def value(self) -> float:
        return float(self.numerator.sum() / self.denominator.sum())


def check_all(config: Config, variants: Mapping[str, Changes]) -> None:
    """Raises UserError for a variant that could not be trained, before the first is."""
    for changes in variants.values():
        check(with_values(config, changes))


def trained(config: Config, dataset: Dataset, changes: Changes, *, seed: int) -> tuple[Run, Params]:
    """Trains one variant; the encoder at its best validation epoch."""
    config = with_values(config, {**changes, "train.seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        run = assemble(config, dataset, stages.ensure_graph(config, dataset), workdir=Path(folder))
        train_encoder(run)
        return run, jax.block_until_ready(run.trained.params)


def trained_in(workdir: Path, config: Config, *, reporter: Reporter = SILENT) -> Run:
    """Trains a run to its results in a folder, or goes on there."""
    run = prepare(config, workdir, reporter=reporter)
    claim(config, run.dataset.fingerprint, workdir)
    train_run(run)
    return run


def metric_columns(scores: ScoreBlock, task: RankingTask, keys: Sequence[str]) -> dict[str, Column]:
    """Metrics of a scorer as columns, e.g. "ndcg@20"."""
    topk = evaluate_scores(scores, task, ks=sorted({int(key.partition("@")[2]) for key in keys})).topk
    return {key: Column(per_user_metric(key, topk, task.targets), np.ones(len(task.users))) for key in keys}


def over_seeds(columns: Sequence[Mapping[str, Column]]) -> dict[str, Column]:
    """Each user's mean over seeds; the denominators do not depend on the seed."""
    first = columns[0]
    return {
        key: Column(np.mean([each[key].numerator for each in columns], axis=0), first[key].denominator) for key in first
    }


def bounds(column: Column, against: Column | None = None, *, seed: int = 0) -> list[float]:
    """The 95 % bootstrap interval over users of a column, or of (`against` - it), paired: [low, high]."""
    difference = column.numerator if against is None else against.numerator - column.numerator
    samples = resample({"": difference[:, None]}, column.denominator[:, None], seed=seed)[""]
    return interval(samples)[0].tolist()


def report(rows: Mapping[str, Mapping[str, Column]], seeds: Mapping[str, Sequence[Mapping[str, Column]]], first: str):
    """Figures of each row as JSON-able values: value, interval, by seed, and the interval of (first - row)."""
    return {
        name: {
            key: {
                "value": column.value,
                "interval": bounds(column),
                "first_minus": bounds(column, rows[first][key]),
                "by_seed": [each[key].value for each in seeds.get(name, [])],
            }
            for key, column in row.items()
        }
        for name, row in rows.items()
    }


def table(results: Mapping[str, Mapping[str, Mapping[str, Any]]], keys: Sequence[str], first: str) -> str:
    """A Markdown table: value [interval of (first - row)], and of the first row value [its own interval]."""
    lines = [f"| | {' | '.join(keys)} |", "|---|" + "---|" * len(keys)]
    for name, row in results.items():
        cells = []
        for key in keys:
            low, high = row[key]["interval"] if name == first else row[key]["first_minus"]
            sign = "" if name == first else "+"
            cells.append(f"{row[key]['value']:.4f} [{low:{sign}.4f}, {high:{sign}.4f}]")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def pooled(rows: list[Mapping[str, Mapping[str, Column]]]) -> dict[str, dict[str, Column]]:
    """The columns of several logs as those of all their users."""
    return {
        name: {
            key: Column(*map(np.concatenate, zip(*(row[name][key] for row in rows), strict=True))) for key in columns
        }
        for name, columns in rows[0].items()
    }
