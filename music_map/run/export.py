"""Stores the trained model as one scorer, made from the best checkpoint.

WORKDIR/embeddings    see music_map.retrieval.export
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from music_map import processes
from music_map.errors import DamagedFileError
from music_map.graph.bipartite import listeners_of
from music_map.graph_filter.choose import Choice
from music_map.graph_filter.kept import KeptFilter
from music_map.model.content import Content
from music_map.model.fold_in import FoldIn
from music_map.playlist.companions import FORMAT_VERSION as COMPANIONS_VERSION
from music_map.playlist.heads import Heads
from music_map.playlist.onward import FORMAT_VERSION as ONWARD_VERSION
from music_map.preprocess.dataset import SPLITS
from music_map.recency.history import Histories
from music_map.recency.scores import Weights
from music_map.reporter import SILENT, Reporter
from music_map.retrieval.export import FOLDER, IdTables, Placing, is_current, make_export, user_songs_of, write_export
from music_map.retrieval.present import Head
from music_map.run.evaluation import part_beside
from music_map.run.fold_in import fold_in_of, learns
from music_map.run.folder import files_of, read_record
from music_map.run.playlist import goes_on, heads_for, told_by_sessions
from music_map.run.recency import HEARD, UNHEARD, Past, heads_for_use
from music_map.run.run import open_run
from music_map.storage import ArrayFolder, fingerprint


def export_model(past: Past) -> None:
    """Encodes everything and writes WORKDIR/embeddings, unless the same is there and whole."""
    run, heads, choice = past.run, heads_for_use(past), filter_for_use(past)
    playlist = heads_for(past)
    users, items = map(np.asarray, run.embeddings)
    identity = fingerprint(
        {
            "dataset": run.dataset.fingerprint,
            "step": run.trained.step,
            "embeddings": [hashlib.sha256(array).hexdigest() for array in (users, items)],
            "heads": heads,
            "recency": dataclasses.asdict(run.config.recency),
            **({} if choice is None else {"graph_filter": [choice, run.config.graph_filter.rank]}),
        }
        | ({"companions": COMPANIONS_VERSION} if playlist.mixture.together > 0 else {})
        | ({"learning": 1} if learns(run) else {})
        | ({"onward": [ONWARD_VERSION, *map(float, playlist.space)]} if goes_on(playlist) else {})
    )
    if processes.from_first(processes.first() and _is_there(run.workdir / FOLDER, identity)):
        return
    fold_in, content = fold_in_of(run)
    processes.once(lambda: _write(past, heads, choice, playlist, fold_in, content, identity))


def _is_there(folder: Path, identity: str) -> bool:
    """Whether a folder holds this export, undamaged."""
    with contextlib.suppress(DamagedFileError):
        if is_current(folder, fingerprint=identity):
            store = ArrayFolder.open(folder)
            for name in store.arrays:
                store.load(name, mmap=True)
            return True
    return False


def filter_for_use(past: Past) -> Choice | None:
    """The graph filter that recommends for users alone: that of config.eval.protocol; None beside a recency head."""
    found = part_beside(past, past.run.config.eval.protocol)
    return found if isinstance(found, Choice) else None


def _write(
    past: Past,
    heads: dict[str, Weights] | None,
    choice: Choice | None,
    playlist: Heads,
    fold_in: FoldIn,
    content: Content,
    identity: str,
) -> None:
    run, dataset = past.run, past.run.dataset
    users, items = run.embeddings
    export = make_export(
        user_ids=dataset.user_ids,
        item_ids=dataset.item_ids,
        user_embeddings=np.asarray(users),
        item_embeddings=np.asarray(items),
        listeners=listeners_of(run.graph),
        features=run.features,
    )
    ids = IdTables(dataset.users, dataset.songs, dataset.artists, dataset.albums)
    companions, onward = told_by_sessions(run, playlist, progress=past.reporter.bar)
    with past.reporter.bar("export", 3, "part") as advance:
        user_songs = user_songs_of(dataset)
        advance(1)
        head = None if heads is None else _head_of(past, heads)
        if head is None and choice is not None:
            head = KeptFilter.of(run.filtered_graph, choice)
        advance(1)
        with files_of(run.workdir).new_folder(FOLDER) as folder:
            rest = {"step": run.trained.step, "user_songs": user_songs, "ids": ids, "head": head}
            rest |= {"placing": Placing(fold_in, run.config.graph), "content": content, "companions": companions}
            rest |= {"onward": onward, "present": dataset.present}
            write_export(export, folder, fingerprint=identity, **rest)
        advance(1)


def _head_of(past: Past, heads: dict[str, Weights]) -> Head:
    """The head at the present of the logs, from all splits."""
    run, num_users = past.run, past.run.dataset.num_users
    histories = Histories.of(*(run.events(split) for split in SPLITS), num_users=num_users)
    moment = past.moment(histories.events(), now=run.dataset.present)
    return Head(heads[HEARD], heads[UNHEARD], moment, histories, run.config.recency.latest_songs)


def export_again(workdir: Path, why: str, *, reporter: Reporter = SILENT) -> None:
    """Makes WORKDIR/embeddings anew from the best checkpoint.

    Args:
      workdir: of a trained run.
      why: what is wrong with the one that is there, for the reporter.

    Raises:
      UserError: there is no run, no checkpoint, or the run's data is gone.
    """
    read_record(workdir)
    reporter.warn(f"{workdir / FOLDER}: {why}; made from the best checkpoint")
    export_model(Past(open_run(workdir, reporter=reporter)))
