"""One of several processes that train a tiny graph together; what it finds goes to FOLDER for the test to compare.

python worker.py PORT NUM_PROCESSES PROCESS_ID FOLDER MODE:FIRST_STEP:LAST_STEP ...
"""

import sys
from pathlib import Path

import jax
import numpy as np
from tiny import GRAPH, STEP

from music_map import processes
from music_map.evaluation.ranking import embedding_scores, rank
from music_map.model.encoder import EncoderInputs
from music_map.model.propagation import adjacency
from music_map.parallel.runners import degrees, make_runner
from music_map.parallel.storage import load_parts, save_parts
from music_map.training.checkpoint import CheckpointStore


def main() -> None:
    port, num, index, folder, *runs = sys.argv[1:]
    where = {"coordinator_address": f"127.0.0.1:{port}", "num_processes": int(num), "process_id": int(index)}
    processes.join(**where, heartbeat_seconds=30)
    assert jax.process_count() == int(num)
    for run in runs:
        mode, first, last = run.split(":")
        train(mode, int(first), int(last), Path(folder))


def train(mode: str, first: int, last: int, folder: Path) -> None:
    parts, read = None, []
    if mode == "sharded":
        if processes.any_says(load_parts(folder / "parts", GRAPH, identity="tiny") is None):
            save_parts(GRAPH, folder / "parts", identity="tiny")
        parts = load_parts(folder / "parts", GRAPH, identity="tiny")
        to_users = parts.to_users
        parts.to_users = lambda part: (read.append(part), to_users(part))[1]
        inputs = EncoderInputs(degrees(parts, degree="weighted"), None)
    else:
        inputs = EncoderInputs(adjacency(GRAPH, degree="weighted"), None)
    runner = make_runner(mode, graph=GRAPH, inputs=inputs, users="uniform", items="weight", settings=STEP, parts=parts)
    state = runner.create_state(0)
    with CheckpointStore(folder / f"checkpoints-{mode}") as store:
        found = store.restore(state)
        state = state if found is None else found[1]
        assert int(state.step) == first
        state, finite = runner.advance(state, first, last - first)
        assert finite
        store.save(last, state, {"step": last})
    users, items = runner.encode(runner.params(state.params))
    scores = embedding_scores(users, items, devices=jax.local_devices())
    topk = rank(scores, np.arange(90, dtype=np.int32), num_items=len(items), k=10, block_size=7, shared=True)
    if mode == "sharded":
        # Of the 64 parts those of its own devices and no other.
        mine = jax.process_index()
        devices = [d for d, device in enumerate(runner.mesh.devices.flat) if device.process_index == mine]
        assert set(read) == {part for d in devices for part in runner.partition.users.parts(d)}
        assert len(set(read)) == 64 // processes.count()
    if processes.first():
        out = {"users": users, "items": items, "topk": topk, "loss": float(state.metric_sums["loss"])}
        np.savez(folder / f"{mode}-{last}.npz", **out)


main()
