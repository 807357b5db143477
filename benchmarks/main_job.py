"""The main job end to end: generated logs to results.json, as launch/train.py does it, and where its time goes.

    python benchmarks/main_job.py --size=demo
    python benchmarks/main_job.py --size=50m --output=main_job.json
    python benchmarks/main_job.py --size=50m --epochs=1 --batch_size=65536 --recency_epochs=1    # two cores
    python benchmarks/main_job.py --size=500m --blocks=prepare,train,recency,playlist,export,baselines     # 24 GiB

Generates the logs where they are not there; processed data and run are made anew. Wall seconds, processor seconds and
the peak of resident memory of each stage; beside them peers, of those that are installed: pyarrow reading the columns
that are used, torch's product and ranking, implicit's item-kNN and iALS on the same pairs.

With --blocks every stage does a part of its work, from which the whole stage follows by proportion: for sizes that
would take days. Groups of stages may run in calls of their own; processed data that is there is taken.
"""

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import blocks
import jax
import numpy as np
from absl import app, flags

from music_map.raw.layout import event_path
from music_map.reporter import PrintReporter, Reporter
from music_map.run.config import Config
from music_map.run.evaluation import history_of, report_table
from music_map.run.folder import claim
from music_map.run.run import Run, prepare
from music_map.run.training import train_run
from music_map.stopwatch import Spent, Stages
from music_map.storage import write_json
from music_map.synthetic.settings import Settings, settings_for
from music_map.synthetic.writer import generate, read_record
from music_map.topk import rows_at_once

# Yambda's shapes; 5m has the users and songs that a tenth of its listens would have.
SIZES: dict[str, Settings] = {
    "demo": settings_for("demo"),
    "5m": settings_for("50m", num_users=2_000, num_items=250_000, num_listens=4_646_721),
    "50m": settings_for("50m"),
    "500m": settings_for("500m"),
}
_BATCH = {"demo": 2048, "5m": 8192, "50m": 8192, "500m": 65536}
_EPOCHS = {"demo": 10, "5m": 20, "50m": 20, "500m": 5}

_SIZE = flags.DEFINE_enum("size", "demo", list(SIZES), "Events: 0.4, 4.8, 47.8 or 480 million.")
_BLOCKS = flags.DEFINE_list("blocks", [], f"A block of each stage of these groups: {', '.join(blocks.GROUPS)}.")
flags.register_validator("blocks", lambda groups: set(groups) <= set(blocks.GROUPS), "unknown group of stages")
_EPOCHS_FLAG = flags.DEFINE_integer("epochs", None, "Of training; the configurations' where it is left out.", 1)
_BATCH_FLAG = flags.DEFINE_integer("batch_size", None, "Pairs of a step; likewise.", 1)
_RECENCY_EPOCHS = flags.DEFINE_integer("recency_epochs", None, "At most, of the encoder of the past; likewise.", 1)
_BASELINES = flags.DEFINE_list("baselines", None, "In place of the configurations'.")
_FOLDER = flags.DEFINE_string("folder", "data/main_job", "Logs, processed data and run go below it.")
_RAW = flags.DEFINE_string("raw_dir", None, "Logs that are there, of this size; none are then generated.")
_PEERS = flags.DEFINE_bool("peers", True, "Time the peers too.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")


def configuration(raw: Path, processed: Path) -> Config:
    """That of configs/yambda.py or configs/demo.py, on these folders."""
    config, size = Config(), SIZES[_SIZE.value]
    data = dataclasses.replace(config.data, raw_dir=str(raw), size=size.size, processed_dir=str(processed))
    train = dataclasses.replace(
        config.train,
        batch_size=_BATCH_FLAG.value or _BATCH[_SIZE.value],
        num_epochs=_EPOCHS_FLAG.value or _EPOCHS[_SIZE.value],
        patience=3 if _SIZE.value == "demo" else config.train.patience,
    )
    changes = {"data": data, "train": train}
    if _RECENCY_EPOCHS.value:
        changes["recency"] = dataclasses.replace(config.recency, max_epochs=_RECENCY_EPOCHS.value)
    if _BASELINES.value is not None:
        changes["eval"] = dataclasses.replace(config.eval, baselines=tuple(filter(None, _BASELINES.value)))
    return dataclasses.replace(config, **changes)


def peers(run: Run, reporter: Reporter) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """The stage of ours, the peer's name, and its work."""
    import pyarrow.parquet as pq

    data = run.config.data
    listens = event_path(data.source, data.size, "listens")
    columns = ["uid", "timestamp", "item_id", "is_organic", "played_ratio_pct", "track_length_seconds"]
    yield "preprocess", "pyarrow: read the listens' columns", lambda: pq.read_table(listens, columns=columns)
    if importlib.util.find_spec("torch") is None:
        reporter.note("torch is not installed: its rows are left out")
    else:
        yield from torch_peers(run)
    if importlib.util.find_spec("implicit") is None:
        reporter.note("implicit is not installed: its rows are left out")
        return
    from implicit.als import AlternatingLeastSquares
    from implicit.nearest_neighbours import CosineRecommender
    from scipy import sparse

    history = history_of(run, run.task(run.config.eval.protocol, "test").protocol)
    pairs, shape = history.pairs, (run.dataset.num_users, run.dataset.num_items)
    ones = np.ones(len(pairs.items), np.float32)
    matrix = sparse.csr_matrix((ones, pairs.items, pairs.offsets.astype(np.int32)), shape)
    yield "baselines", "implicit: item-kNN, all pairs", lambda: CosineRecommender(K=100).fit(matrix, False)
    als = AlternatingLeastSquares(factors=64, iterations=1, calculate_training_loss=False)
    yield "baselines", "implicit: one iteration of iALS", lambda: als.fit(matrix, False)


def torch_peers(run: Run) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """The sparse products of a step, and the ranking of a validation, in torch's fastest forms."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
    graph, users, items = run.graph, *map(np.asarray, run.embeddings)
    order, layers = graph.item_order, run.config.model.num_layers

    def csr(offsets: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
        parts = (torch.from_numpy(np.array(a)) for a in (offsets.astype(np.int32), columns, values))
        return torch.sparse_csr_tensor(*parts, size=shape).to(device)

    by_user = csr(graph.user_offsets, graph.item, graph.weight, (len(users), len(items)))
    by_item = csr(graph.item_offsets, graph.user[order], graph.weight[order], (len(items), len(users)))
    u, s = (torch.from_numpy(np.array(rows)).to(device) for rows in (users, items))

    def products() -> None:
        for _ in range(2 * layers):  # forward and backward
            by_user @ s, by_item @ u
        if device == "cuda":
            torch.cuda.synchronize()

    asked = torch.from_numpy(run.task(run.config.eval.protocol, "val").users).long().to(device)

    def ranked() -> None:
        for start in range(0, len(asked), rows_at_once(len(items))):
            rows = u[asked[start : start + rows_at_once(len(items))]]
            torch.topk(rows @ s.T, max(run.config.eval.ks)).indices.cpu()

    products(), ranked()
    yield "train", f"torch: the products of one step, {layers} layers", products
    yield "validate", "torch: matmul + topk of one validation, nothing left out", ranked


def main(argv: list[str]) -> None:
    del argv
    reporter = PrintReporter()
    folder = Path(_FOLDER.value) / _SIZE.value
    raw = Path(_RAW.value) if _RAW.value else folder / "raw"
    if _RAW.value is None and read_record(raw, SIZES[_SIZE.value]) is None:
        started = time.perf_counter()
        generate(raw, SIZES[_SIZE.value], overwrite=True, progress=reporter.bar)
        reporter.say(f"generated in {time.perf_counter() - started:.1f} s")
    config = configuration(raw, folder / "processed")
    shutil.rmtree(folder / "run", ignore_errors=True)
    if _BLOCKS.value:
        reporter.say(f"{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} cores, JAX {jax.__version__}\n")
        reporter.say(blocks.HEAD)
        job = blocks.Job(config, folder / "run", reporter)
        for group in _BLOCKS.value:
            for block in getattr(job, group)():
                reporter.say(block.row)
        return
    shutil.rmtree(folder / "processed", ignore_errors=True)
    clock, started = Stages(memory=True), time.perf_counter()
    run = prepare(config, folder / "run", reporter=reporter, clock=clock)
    claim(config, run.dataset.fingerprint, folder / "run")
    try:
        results = train_run(run)
    except KeyboardInterrupt:
        results = None
        reporter.warn("stopped: the stages up to here follow, the last one in part")
    wall = time.perf_counter() - started
    clock.seconds()
    rows, beside = dict(clock.spent), {}
    with contextlib.suppress(StopIteration):
        todo = peers(run, reporter) if _PEERS.value and results is not None else iter(())
        while True:
            stage, name, work = next(todo)
            watch = Stages(memory=True)
            with watch("peer"):
                work()
            beside[f"{stage} | {name}"] = watch.spent["peer"]
    device = jax.devices()[0].device_kind
    size = f"{len(run.graph.item):,} edges, {run.dataset.num_users:,} users, {run.dataset.num_items:,} songs"
    steps = f"{run.steps_per_epoch:,} steps of {config.train.batch_size:,} an epoch"
    if results is not None:
        steps = f"{results.fitted.step:,} steps of {config.train.batch_size:,}"
        reporter.say(f"\n{report_table(results.report, metric=config.eval.metric)}")
    reporter.say(f"\n{device}, {len(os.sched_getaffinity(0))} cores, JAX {jax.__version__}; {size}; {steps}\n")
    reporter.say(table(rows, wall))
    if beside:
        reporter.say("\n" + table(beside, None))
    if _OUTPUT.value:
        found = {"device": device, "size": size, "steps": steps, "wall": wall}
        for name, spent in (("stages", rows), ("peers", beside)):
            found[name] = {key: dataclasses.asdict(value) for key, value in spent.items()}
        write_json(Path(_OUTPUT.value), found)


def table(rows: dict[str, Spent], wall: float | None) -> str:
    """Markdown: a row a stage, and their sum where `wall` is given."""
    rows = dict(rows)
    if wall is not None:
        processor, peak = sum(s.processor for s in rows.values()), max(s.peak for s in rows.values())
        rows["all"] = Spent(wall, processor, peak)
    head = ["| stage | wall s | processor s | peak GiB |", "|---|---|---|---|"]
    if wall is None:
        head = ["| stage | peer | wall s | processor s | peak GiB |", "|---|---|---|---|---|"]
    body = [f"| {name} | {s.wall:.1f} | {s.processor:.1f} | {s.peak / 2**30:.2f} |" for name, s in rows.items()]
    return "\n".join(head + body)


if __name__ == "__main__":
    app.run(main)
