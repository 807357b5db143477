"""Recommendations for every user in one Parquet file, written block by block; continues after a stop."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from music_map.errors import UserError, disk_errors
from music_map.lock import writing_file
from music_map.reporter import Progress, silent
from music_map.retrieval.filters import Filters
from music_map.retrieval.recommender import Query, Recommender
from music_map.storage import fingerprint, read_json, write_json

# Users of one part; a stop loses one part at most.
_BLOCK = 512


def write_every_user(
    recommender: Recommender,
    output: Path,
    *,
    k: int,
    filters: Filters,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Progress = silent,
) -> str:
    """Writes `output`. OUTPUT.parts/ keeps finished blocks, from which a call after a stop continues.

    Args:
      recommender: of the users, in the order of their ids.
      output: the Parquet file: uid, rank, item_id, score, and name where songs have names; ids as the logs have them,
        numbers or texts.
      k, filters: of all queries.
      should_stop: called between parts.
      progress: shows the users.

    Returns:
      a line for the user.

    Raises:
      UserError: OUTPUT.parts/ belongs to another model, k or filters, or another process writes it.
    """
    parts = output.with_name(output.name + ".parts")
    export, ids = recommender.export, recommender.ids
    count = len(ids.users)
    identity = fingerprint(
        {
            "k": k,
            "filters": filters.as_dict(),
            "recency": recommender.user_scorer is not None,
            "embeddings": [float(export.user_embeddings.sum()), float(export.item_embeddings.sum())],
            "users": count,
            "named": ids.songs.named,
        }
    )
    schema = pa.schema(
        [
            ("uid", pa.uint32() if ids.users.own is None else pa.string()),
            ("rank", pa.int32()),
            ("item_id", pa.uint32() if ids.songs.own is None else pa.string()),
            ("score", pa.float32()),
            *([("name", pa.string())] if ids.songs.named else []),
        ]
    )
    with disk_errors(output), writing_file(output):
        parts.mkdir(parents=True, exist_ok=True)
        if (parts / "identity.json").exists() and read_json(parts / "identity.json") != identity:
            raise UserError(f"{parts}: was begun with another model, k or filters; delete it to start anew")
        write_json(parts / "identity.json", identity)
        blocks = range(0, count, _BLOCK)
        files = [parts / f"{start:010d}.parquet" for start in blocks]
        with progress("recommend", count, "user") as advance:
            for start, path in zip(blocks, files, strict=True):
                users = range(start, min(start + _BLOCK, count))
                if not path.exists():
                    if should_stop():
                        return f"stopped; {start} of {count} users are done. Run the same command to go on."
                    _write(_table(recommender, users, k, filters, schema), path)
                advance(len(users))
        temporary = parts / "whole.parquet"
        rows = 0
        with pq.ParquetWriter(temporary, schema) as writer:
            for path in files:
                table = pq.read_table(path)
                writer.write_table(table)
                rows += len(table)
        temporary.replace(output)
        shutil.rmtree(parts)
    return f"{rows} recommendations for {count} users in {output}"


def plan_every_user(recommender: Recommender, output: Path, *, k: int) -> str:
    """What `write_every_user` would do, and what an earlier call has done of it: one line for the user."""
    users = len(recommender.ids.users)
    done = len(list(output.with_name(output.name + ".parts").glob("[0-9]*.parquet")))
    blocks = -(-users // _BLOCK)
    return f"to do: {k} songs for each of {users:,} users -> {output}; {done} of {blocks} parts are done"


def _write(table: pa.Table, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)


def _table(recommender: Recommender, users: range, k: int, filters: Filters, schema: pa.Schema) -> pa.Table:
    labels = recommender.ids.users.labels(users)
    answers = recommender.recommend_batch([Query(user=label) for label in labels], k=k, filters=filters, explain=False)
    found = [a.recommendations for a in answers]
    rows = [r for recommendations in found for r in recommendations]
    uids = np.repeat(np.arange(len(labels)), [len(recommendations) for recommendations in found])
    columns = [[labels[at] for at in uids], [r.rank for r in rows], [r.item_id for r in rows], [r.score for r in rows]]
    columns.append([r.name for r in rows])
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=False)]
    return pa.Table.from_arrays(arrays, schema=schema)
