"""The playlist attention of a run: trained on sessions of past windows, with an encoder that knows none of them.

WORKDIR/playlist.json    the heads; fitted by launch/train.py with the encoder of WORKDIR/recency
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from launch import app, experiment, recency
from launch.experiment import Experiment
from music_map import processes
from music_map.errors import DamagedFileError
from music_map.evaluation.playlist import sessions_of
from music_map.playlist.fit import Examples, examples_of, fit_heads
from music_map.playlist.heads import Heads, from_json, to_json, untrained
from music_map.retrieval.export import HEADS_FILE, popularity_of
from music_map.storage import fingerprint, read_json, write_json

# Raised when the attention or its fit change their meaning: heads of an older version are then fitted anew.
FORMAT_VERSION = 5


def heads_for(run: Experiment, workdir: Path) -> Heads:
    """The run's heads, fitted now where that has not been done; untrained ones where no window has a session."""
    retrieval, windows = run.config.retrieval, recency.windows_of(run)
    start = untrained(retrieval.attention_temperature)
    if not retrieval.learned_attention or not windows or not (workdir / "recency" / "checkpoints").is_dir():
        if processes.first():
            (workdir / HEADS_FILE).unlink(missing_ok=True)
        return start
    step, params = experiment.best_params(recency.as_of(run, windows[-1].now), workdir / "recency")
    identity = fingerprint(
        {
            "version": FORMAT_VERSION,
            "dataset": run.dataset.fingerprint,
            "step": step,
            "windows": [dataclasses.asdict(window) for window in windows],
            "num_sessions": retrieval.num_sessions,
            "min_played_pct": run.config.eval.min_played_pct,
            "seed": run.config.train.seed,
        }
    )
    path = workdir / HEADS_FILE
    kept = processes.from_first(_kept_heads(path, identity))
    if kept is not None:
        return from_json(kept, source=str(path))
    examples = _examples_of(run, windows, params)
    heads = start
    if examples:
        heads, strengths = fit_heads(examples, seed=run.config.train.seed)
        count = sum(len(e.songs) for e in examples)
        how = {name: "the plain mean" if np.isinf(x) else f"weights, strength {x:g}" for name, x in strengths.items()}
        chosen = "; ".join(f"{name}: {told}" for name, told in how.items())
        app.note(f"playlist attention: fitted on {count} sessions of {len(examples)} past windows; {chosen}")
    else:
        app.warn("no past window has a session of three songs; the playlist attention stays untrained")
    if processes.first():
        write_json(path, {"fingerprint": identity, "heads": to_json(heads)})
    return heads


def _kept_heads(path: Path, identity: str) -> dict | None:
    """The heads in a file of `heads_for`, as JSON; None where it is missing, damaged or another model's."""
    if not path.exists():
        return None
    try:
        stored = read_json(path)
        if isinstance(stored, dict) and stored.get("fingerprint") == identity:
            return stored.get("heads", {})
    except DamagedFileError:
        app.warn(f"{path}: is damaged; fitted anew")
    return None


def _examples_of(run: Experiment, windows: list, params) -> list[Examples]:
    train = run.dataset.events("train")
    found, left = [], run.config.retrieval.num_sessions
    for number, window in enumerate(windows):
        sessions = sessions_of(window.targets(train), min_played_pct=run.config.eval.min_played_pct)
        if left <= 0 or not len(sessions.users):
            continue
        past = recency.as_of(run, window.now)
        degree = np.diff(past.graph.item_offsets)
        items = np.asarray(experiment.encode(past, params)[1])
        examples = examples_of(
            sessions, items, popularity_of(degree), degree > 0, most=left, seed=run.config.train.seed + number
        )
        if examples is not None:
            found.append(examples)
            left -= len(examples.songs)
    return found
