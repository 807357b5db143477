"""Recommendations for every user into one Parquet file, block by block, going on after a stop."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from launch import app
from music_map.errors import UserError, disk_errors
from music_map.evaluation.ranking import ScoreBlock
from music_map.retrieval.filters import Filters
from music_map.retrieval.recommender import Query, Recommender
from music_map.storage import fingerprint, read_json, write_json

# Users of one part: what a stop costs at most.
_BLOCK = 512
_SCHEMA = pa.schema([("uid", pa.uint32()), ("rank", pa.int32()), ("item_id", pa.uint32()), ("score", pa.float32())])


def write_every_user(
    recommender: Recommender, output: Path, *, k: int, filters: Filters, scores: ScoreBlock | None
) -> str:
    """Writes `output` through OUTPUT.parts/, which holds what an earlier, stopped call has done.

    Args:
      recommender: its users are asked for, in the order of their ids.
      output: the Parquet file.
      k, filters: of all queries.
      scores: what ranks songs for users, or None: their embeddings.

    Returns:
      a line for the user.

    Raises:
      UserError: OUTPUT.parts/ belongs to another model, k or filters.
    """
    parts = output.with_name(output.name + ".parts")
    export = recommender.export
    identity = fingerprint(
        {
            "k": k,
            "filters": dataclasses.asdict(filters),
            "recency": scores is not None,
            "embeddings": [float(export.user_embeddings.sum()), float(export.item_embeddings.sum())],
            "users": len(export.user_ids),
        }
    )
    with disk_errors(output):
        parts.mkdir(parents=True, exist_ok=True)
        if (parts / "identity.json").exists() and read_json(parts / "identity.json") != identity:
            raise UserError(f"{parts}: was begun with another model, k or filters; delete it to start anew")
        write_json(parts / "identity.json", identity)
        blocks = range(0, len(export.user_ids), _BLOCK)
        files = [parts / f"{start:010d}.parquet" for start in blocks]
        with app.bar("recommend", len(export.user_ids), "user") as advance:
            for start, path in zip(blocks, files, strict=True):
                users = np.arange(start, min(start + _BLOCK, len(export.user_ids)), dtype=np.int32)
                if not path.exists():
                    _write(_table(recommender, users, k, filters, scores), path)
                advance(len(users))
        temporary = parts / "whole.parquet"
        rows = 0
        with pq.ParquetWriter(temporary, _SCHEMA) as writer:
            for path in files:
                table = pq.read_table(path)
                writer.write_table(table)
                rows += len(table)
        temporary.replace(output)
        shutil.rmtree(parts)
    return f"{rows} recommendations for {len(export.user_ids)} users in {output}"


def plan_every_user(recommender: Recommender, output: Path, *, k: int) -> str:
    """What `write_every_user` would do, and what of it an earlier, stopped call has done: a line for the user."""
    users = len(recommender.export.user_ids)
    done = len(list(output.with_name(output.name + ".parts").glob("[0-9]*.parquet")))
    blocks = -(-users // _BLOCK)
    return f"to do: {k} songs for each of {users:,} users -> {output}; {done} of {blocks} parts are done"


def _write(table: pa.Table, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    temporary.replace(path)


def _table(
    recommender: Recommender, users: np.ndarray, k: int, filters: Filters, scores: ScoreBlock | None
) -> pa.Table:
    ids = recommender.export.user_ids[users]
    answers = recommender.recommend_batch(
        [Query(user=int(uid)) for uid in ids],
        k=k,
        filters=filters,
        user_scores=None if scores is None else list(np.asarray(scores(users))),
        explain=False,
    )
    found = [a.recommendations for a in answers]
    flat = [r for rows in found for r in rows]
    columns = {
        "uid": np.repeat(ids, [len(rows) for rows in found]),
        "rank": [r.rank for r in flat],
        "item_id": [r.item_id for r in flat],
        "score": [r.score for r in flat],
    }
    return pa.table(columns, schema=_SCHEMA)
