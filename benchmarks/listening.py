"""Real listening: the model beside tuned baselines on small logs, with intervals over the users of several logs.

    python benchmarks/listening.py --config=configs/own.py --data=DIR --folder=DIR --output=listening.json

DIR has 30music/window{0,1,2}.tsv (UserId, SessionId, ItemId, Time, ArtistId; three logs of five days) and
lastfm1k-counts/{train,validation,test}.csv (user, artist, plays; three windows in time, see real_logs.py).

For each log the model is trained on train, with sizes that follow from the log, and baselines are tuned on validation;
then all are fitted on train and validation, the encoder for as many epochs as were best, and rank the test day. Rows of
several logs of a group are joined: a figure is the mean over all users, an interval that of (model - row), paired. The
folder keeps runs and settings, and a second call goes on from there.
"""

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import options
from absl import flags
from real_logs import Log, logs_of
from variants import Column, metric_columns, pooled, report, table

from music_map.evaluation.baselines import fit_baselines
from music_map.evaluation.baselines.settings import OwnPlaysSettings
from music_map.run.config import Config, with_values
from music_map.run.evaluation import baseline_inputs, fitted_baselines, models_of, tuned_baselines
from music_map.run.folder import claim
from music_map.run.logs import read_logs
from music_map.run.options import resolved
from music_map.run.recency import Past, train_past
from music_map.run.run import prepare
from music_map.run.training import train_encoder
from music_map.storage import write_json

_CONFIG = options.define_config()
_DATA = flags.DEFINE_string("data", os.environ.get("MUSIC_MAP_SHARED_DATA"), "Folder of the logs.")
_FOLDER = flags.DEFINE_string("folder", None, "Folder of the runs.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file of all results.", required=True)
_GROUPS = flags.DEFINE_list("groups", ["30music", "30music-artists", "lastfm1k"], "Logs to measure.")
_SPLITS = flags.DEFINE_list("splits", ["val", "test"], "Splits to rank.")
_BASELINES = flags.DEFINE_list(
    "baselines",
    ["most_pop", "decay_pop", "own_plays", "item_knn", "item_knn_decay", "ials", "bpr_mf"],
    "Baselines, tuned on validation.",
)

METRICS = ("ndcg@20", "recall@20")
# All plays after a moment, and songs that the user had never met.
PROTOCOLS = ("global_temporal", "temporal")


def config_of(log: Log, config: Config, folder: Path) -> Config:
    """The configuration of a log; sizes that `config` leaves open follow from it."""
    raw = folder / log.name / "logs"
    if not (raw / "flat/own/listens.parquet").is_file():
        read_logs(folder=raw, reporter=options.REPORTER, **log.arguments())
    places = {"data.raw_dir": str(raw), "data.size": "own", "data.processed_dir": str(folder / log.name / "processed")}
    split = {"data.split": "global_temporal", "eval.protocol": PROTOCOLS[0]}
    return resolved(with_values(config, places | split | dict(log.settings)))


def trained(workdir: Path, config: Config) -> Past:
    """Trains encoder and past encoder of a run, or goes on."""
    run = prepare(config, workdir, reporter=options.REPORTER)
    claim(config, run.dataset.fingerprint, workdir)
    train_encoder(run)
    past = Past(run)
    train_past(past, should_stop=lambda: False)
    return past


def rows_of(past: Past, protocol: str, split: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Column]]:
    """Columns of the model's forms and of the baselines on a split."""
    run, task = past.run, past.run.task(protocol, split)
    scorers = [(name, make()) for name, make in models_of(past, task).items()]
    counts = {"own_plays": OwnPlaysSettings(half_life_days=1e6)}
    undecayed = fit_baselines(
        ["own_plays"], run.events("train"), task.protocol, **baseline_inputs(run), settings=counts
    )
    baselines = fitted_baselines(run, task, _BASELINES.value, settings)
    named = itertools.chain(scorers, baselines, ((f"{name}, counts", scores) for name, scores in undecayed))
    return {name: metric_columns(scores, task, METRICS) for name, scores in named}


def measured(log: Log, config: Config, folder: Path) -> dict[tuple[str, str], dict[str, dict[str, Column]]]:
    """Rows of one log by (protocol, split)."""
    config = config_of(log, config, folder)
    past = trained(folder / log.name / "tuning", config)
    found, settings = {}, {}
    for protocol in PROTOCOLS:
        kept = folder / log.name / f"baselines-{protocol}.json"
        settings[protocol] = tuned_baselines(past.run, past.run.task(protocol, "val"), kept, names=_BASELINES.value)
        if "val" in _SPLITS.value:
            found[protocol, "val"] = rows_of(past, protocol, "val", settings[protocol])
    epochs = max(1, round(past.run.trained.step / past.run.steps_per_epoch))
    final = with_values(config, {"data.train_on_val": True, "train.num_epochs": epochs, "train.min_steps": 0})
    past = trained(folder / log.name / "final", final)
    for protocol in PROTOCOLS:
        if "test" in _SPLITS.value:
            found[protocol, "test"] = rows_of(past, protocol, "test", settings[protocol])
    return found


def main() -> int:
    folder, config = Path(_FOLDER.value).absolute(), options.read_config(_CONFIG)
    groups = logs_of(options.path_of(_DATA.value, "data").absolute())
    results: dict[str, Any] = {}
    for group in _GROUPS.value:
        of_logs = {log.name: measured(log, config, folder) for log in groups[group]}
        for protocol, split in itertools.product(PROTOCOLS, _SPLITS.value):
            by_log = {name: rows[protocol, split] for name, rows in of_logs.items()}
            parts = {"all logs": pooled(list(by_log.values()))} | (by_log if len(by_log) > 1 else {})
            for part, rows in parts.items():
                found = report(rows, {}, "model")
                users = len(rows["model"][METRICS[0]].numerator)
                results.setdefault(group, {}).setdefault(f"{protocol}, {split}", {})[part] = {
                    "users": users,
                    "rows": found,
                }
                if part == "all logs" or split == "test":
                    options.say(
                        f"\n{group}, {protocol}, {split}, {part}, {users} users\n\n{table(found, METRICS, 'model')}"
                    )
    write_json(Path(_OUTPUT.value), results)
    return 0


if __name__ == "__main__":
    options.run(main)
