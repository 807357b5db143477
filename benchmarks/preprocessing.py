"""Raw Parquet to the finished graph, beside reading the files and doing nothing, pandas, polars and DuckDB.

    python benchmarks/preprocessing.py --raw_dir=DIR --size=50m --output=preprocessing.json
    python benchmarks/preprocessing.py --raw_dir=DIR --size=50m --only=ours,floor --rounds=1 --output=preprocessing.json

Every run is a process of its own: wall-clock seconds and the peak of its resident memory. "ours" is
launch/preprocess.py and launch/build_graph.py with configs/yambda.py, checksums of inputs and outputs included. The
peers do the core of that job from the same files and keep the result in memory: events of listens, likes and dislikes,
at least 10 interactions of users and songs, a split by time at 80 and 90 %, continuous ids, and one edge per (user,
song) with the sum of decayed weights; they read no embeddings and no mappings, take no likes back, check nothing and
write nothing. "floor" reads every column of the event files by pyarrow, batch by batch. Rounds are interleaved;
medians.
"""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import options
from absl import flags

from music_map.errors import UserError
from music_map.storage import write_json

_RAW = flags.DEFINE_string("raw_dir", None, "Folder of the logs, in the hub's layout.", required=True)
_SIZE = flags.DEFINE_string("size", "50m", "Of the logs.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Runs of each.", 1)
_ONLY = flags.DEFINE_list("only", ["ours", "floor", "pandas", "polars", "duckdb"], "What to run.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")
_CHILD = flags.DEFINE_string("run", None, "Internal: runs one peer in this process.")

HALF_LIFE, LIKE, LEAST = 60 * 86_400.0, 5.0, 10


def floor(folder: Path) -> int:
    """Reads all event files; the number of rows."""
    import pyarrow.parquet as pq

    rows = 0
    for name in ("listens", "likes", "dislikes", "unlikes", "undislikes"):
        for batch in pq.ParquetFile(folder / f"{name}.parquet").iter_batches(batch_size=1_000_000):
            rows += batch.num_rows
    return rows


def with_pandas(folder: Path) -> int:
    """The job in pandas; the number of edges."""
    import numpy as np
    import pandas as pd

    columns = ["uid", "timestamp", "item_id", "is_organic"]
    listens = pd.read_parquet(folder / "listens.parquet", columns=[*columns, "played_ratio_pct"])
    listens["w"] = listens.pop("played_ratio_pct").clip(upper=100).astype("float32") / 100
    likes = pd.read_parquet(folder / "likes.parquet", columns=columns).assign(w=np.float32(LIKE))
    dislikes = pd.read_parquet(folder / "dislikes.parquet", columns=columns).assign(w=np.float32(0))
    events = pd.concat([listens, likes, dislikes], ignore_index=True)
    del listens, likes, dislikes
    users, songs = events["uid"].value_counts(), events["item_id"].value_counts()
    events = events[events["uid"].map(users).ge(LEAST) & events["item_id"].map(songs).ge(LEAST)]
    ends = events["timestamp"].quantile([0.8, 0.9], interpolation="nearest").to_numpy()
    user, item = pd.factorize(events["uid"], sort=True)[0], pd.factorize(events["item_id"], sort=True)[0]
    train = (events["timestamp"] < ends[0]).to_numpy() & (events["w"] > 0).to_numpy()
    held = [(events["timestamp"] >= ends[0]) & (events["timestamp"] < ends[1]), events["timestamp"] >= ends[1]]
    age = float(ends[0]) - events["timestamp"].to_numpy()[train]
    organic = np.where(events["is_organic"].to_numpy()[train] == 1, 1.0, 0.5)
    weight = events["w"].to_numpy()[train] * 2.0 ** (-age / HALF_LIFE) * organic
    edges = pd.DataFrame({"u": user[train], "i": item[train], "w": weight}).groupby(["u", "i"], sort=True)["w"].sum()
    edges = np.log1p(edges)
    return len(edges) + 0 * sum(int(mask.sum()) for mask in held)


def with_polars(folder: Path) -> int:
    """The job in polars, lazily; the number of edges."""
    import polars as pl

    columns = ["uid", "timestamp", "item_id", "is_organic"]
    strength = (pl.col("played_ratio_pct").clip(upper_bound=100) / 100).cast(pl.Float32).alias("w")
    listens = pl.scan_parquet(folder / "listens.parquet").select(*columns, strength)
    fixed = [
        pl.scan_parquet(folder / f"{name}.parquet").select(*columns, pl.lit(w, pl.Float32).alias("w"))
        for name, w in (("likes", LIKE), ("dislikes", 0.0))
    ]
    events = pl.concat([listens, *fixed])
    for column in ("uid", "item_id"):
        kept = events.group_by(column).len().filter(pl.col("len") >= LEAST).select(column)
        kept = kept.collect(engine="streaming").sort(column).with_row_index(f"{column}_index")
        events = events.join(kept.lazy(), on=column)
    events = events.collect(engine="streaming")
    ends = [events["timestamp"].quantile(q, interpolation="nearest") for q in (0.8, 0.9)]
    events.select(((pl.col("timestamp") >= ends[0]) & (pl.col("timestamp") < ends[1])).sum())
    age = (ends[0] - pl.col("timestamp").cast(pl.Float64)) / HALF_LIFE
    organic = pl.when(pl.col("is_organic") == 1).then(1.0).otherwise(0.5)
    edges = (
        events.lazy()
        .filter((pl.col("timestamp") < ends[0]) & (pl.col("w") > 0))
        .group_by("uid_index", "item_id_index")
        .agg((pl.col("w") * 2.0 ** (-age) * organic).sum().log1p())
        .sort("uid_index", "item_id_index")
        .collect(engine="streaming")
    )
    return edges.height


def with_duckdb(folder: Path) -> int:
    """The job in DuckDB; the number of edges."""
    import duckdb

    db = duckdb.connect()
    db.execute(f"SET threads = {os.cpu_count()}")
    db.execute(
        f"""
        CREATE TABLE events AS
        WITH raw AS (
          SELECT uid, timestamp, item_id, is_organic, least(played_ratio_pct, 100) / 100.0 AS w
          FROM '{folder}/listens.parquet'
          UNION ALL SELECT uid, timestamp, item_id, is_organic, {LIKE} FROM '{folder}/likes.parquet'
          UNION ALL SELECT uid, timestamp, item_id, is_organic, 0 FROM '{folder}/dislikes.parquet'),
        users AS (SELECT uid, row_number() OVER (ORDER BY uid) AS u FROM raw GROUP BY uid HAVING count(*) >= {LEAST}),
        songs AS (SELECT item_id, row_number() OVER (ORDER BY item_id) AS i
                  FROM raw GROUP BY item_id HAVING count(*) >= {LEAST})
        SELECT u, i, timestamp, is_organic, w FROM raw JOIN users USING (uid) JOIN songs USING (item_id)
        """
    )
    first, second = db.execute(
        "SELECT quantile_disc(timestamp, 0.8), quantile_disc(timestamp, 0.9) FROM events"
    ).fetchone()
    db.execute(f"SELECT count(*) FROM events WHERE timestamp >= {first} AND timestamp < {second}").fetchone()
    db.execute(
        f"""
        CREATE TABLE edges AS
        SELECT u, i, ln(1 + sum(w * pow(2, -({first} - timestamp::DOUBLE) / {HALF_LIFE})
                               * CASE is_organic WHEN 1 THEN 1.0 ELSE 0.5 END)) AS w
        FROM events WHERE timestamp < {first} AND w > 0 GROUP BY u, i ORDER BY u, i
        """
    )
    return db.execute("SELECT count(*) FROM edges").fetchone()[0]


PEERS = {"floor": floor, "pandas": with_pandas, "polars": with_polars, "duckdb": with_duckdb}


def run(name: str, raw: Path, size: str) -> dict[str, float]:
    """One run in a process of its own: seconds, and MiB at the peak."""
    scratch = Path(tempfile.mkdtemp(prefix="preprocessing-"))
    common = ["--config=configs/yambda.py", f"--config.data.raw_dir={raw}", f"--config.data.size={size}"]
    common += [f"--config.data.processed_dir={scratch}"]
    commands = {
        "ours": [["launch/preprocess.py", *common], ["launch/build_graph.py", *common]],
    }.get(name, [[__file__, f"--raw_dir={raw}", f"--size={size}", f"--run={name}"]])
    seconds, peak = 0.0, 0.0
    try:
        for command in commands:
            start = time.perf_counter()
            process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            error = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds += time.perf_counter() - start
            peak = max(peak, usage.ru_maxrss / 1024)
            if process.returncode:
                raise UserError(f"{name}: ended with {process.returncode}: {error.decode()[-500:]}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return {"seconds": seconds, "peak_mib": peak}


def main() -> int:
    raw = options.path_of(_RAW.value, "raw_dir").absolute()
    folder = raw / "flat" / _SIZE.value
    if _CHILD.value:
        options.say(
            f"{PEERS[_CHILD.value](folder)}, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
        )
        return 0
    import pyarrow.parquet as pq

    rows = sum(
        pq.ParquetFile(folder / f"{name}.parquet").metadata.num_rows for name in ("listens", "likes", "dislikes")
    )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in _ONLY.value}
    for turn in range(_ROUNDS.value):
        for name in found:
            found[name].append(run(name, raw, _SIZE.value))
            last = found[name][-1]
            options.say(f"round {turn}: {name} {last['seconds']:.1f} s, {last['peak_mib']:.0f} MiB")
    median = {name: statistics.median(r["seconds"] for r in runs) for name, runs in found.items()}
    first = next(iter(median))
    options.say(f"\n{rows / 1e6:.1f} million events, {os.cpu_count()} cores")
    options.say(f"| | s | million events/s | times {first} | peak MiB |\n|---|---|---|---|---|")
    for name, value in median.items():
        peak = max(r["peak_mib"] for r in found[name])
        options.say(f"| {name} | {value:.1f} | {rows / value / 1e6:.2f} | {value / median[first]:.2f} | {peak:.0f} |")
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), {"rows": rows, "runs": found})
    return 0


if __name__ == "__main__":
    options.run(main)
