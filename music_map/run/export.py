"""Stores the trained model as one scorer, made from the best checkpoint.

WORKDIR/embeddings    see music_map.retrieval.export
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from music_map import processes
from music_map.graph.bipartite import listeners_of
from music_map.preprocess.dataset import SPLITS
from music_map.recency.history import Histories
from music_map.recency.scores import Weights
from music_map.reporter import SILENT, Reporter
from music_map.retrieval.export import FOLDER, Export, IdTables, make_export, user_songs_of, write_export
from music_map.retrieval.present import Head
from music_map.run.folder import files_of, read_record
from music_map.run.recency import HEARD, UNHEARD, Past, heads_for_use
from music_map.run.run import all_events, open_run
from music_map.storage import fingerprint


def export_model(past: Past) -> Export:
    """Encodes everything and writes WORKDIR/embeddings."""
    run = past.run
    users, items = run.embeddings
    export = make_export(
        user_ids=run.dataset.user_ids,
        item_ids=run.dataset.item_ids,
        user_embeddings=np.asarray(users),
        item_embeddings=np.asarray(items),
        listeners=listeners_of(run.graph),
        features=run.features,
    )
    step, heads = run.trained.step, heads_for_use(past)
    identity = fingerprint({"dataset": run.dataset.fingerprint, "step": step})

    def save() -> None:
        user_songs = user_songs_of(run.dataset)
        ids = IdTables(run.dataset.users, run.dataset.songs, run.dataset.artists, run.dataset.albums)
        head = None if heads is None else _head_of(past, heads)
        with files_of(run.workdir).new_folder(FOLDER) as folder:
            write_export(export, folder, fingerprint=identity, step=step, user_songs=user_songs, ids=ids, head=head)

    processes.once(save)
    return export


def _head_of(past: Past, heads: dict[str, Weights]) -> Head:
    """The head at the present of the logs, from all splits."""
    run, num_users = past.run, past.run.dataset.num_users
    splits = [run.events(split) for split in SPLITS]
    moment = past.moment(all_events(splits), now=run.dataset.present)
    histories = Histories.of(*splits, num_users=num_users)
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
