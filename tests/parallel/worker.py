"""One of several processes that train a tiny graph together; what it finds goes to OUTPUT.npz for the test to compare.

python worker.py PORT NUM_PROCESSES PROCESS_ID MODE PARTS CHECKPOINTS FIRST_STEP LAST_STEP OUTPUT
"""

import sys
from pathlib import Path

import jax
import numpy as np
from tiny import GRAPH, STEP

from music_map import processes
from music_map.evaluation.ranking import embedding_scores, rank
from music_map.model.lightgcn import Inputs
from music_map.model.propagation import adjacency
from music_map.parallel.runners import degrees, make_runner
from music_map.parallel.storage import load_parts, save_parts
from music_map.training.checkpoint import CheckpointStore

PORT, NUM, ID, MODE, PARTS, CHECKPOINTS, FIRST, LAST, OUTPUT = sys.argv[1:]


def main() -> None:
    processes.join(
        coordinator_address=f"127.0.0.1:{PORT}", num_processes=int(NUM), process_id=int(ID), heartbeat_seconds=30
    )
    assert jax.process_count() == int(NUM)
    parts, inputs = None, None
    if MODE == "sharded":
        folder = Path(PARTS)
        if processes.any_says(load_parts(folder, GRAPH, identity="tiny") is None):
            save_parts(GRAPH, folder, identity="tiny")
        parts = load_parts(folder, GRAPH, identity="tiny")
        read: list[int] = []
        to_users = parts.to_users
        parts.to_users = lambda part: (read.append(part), to_users(part))[1]
        inputs = Inputs(degrees(parts, degree="weighted"), None)
    else:
        inputs = Inputs(adjacency(GRAPH, degree="weighted"), None)
    runner = make_runner(MODE, graph=GRAPH, inputs=inputs, users="uniform", items="weight", settings=STEP, parts=parts)
    state = runner.create_state(0)
    with CheckpointStore(Path(CHECKPOINTS)) as store:
        found = store.restore(state)
        state = state if found is None else found[1]
        assert int(state.step) == int(FIRST)
        state, finite = runner.advance(state, int(FIRST), int(LAST) - int(FIRST))
        assert finite
        store.save(int(state.step), state, {"step": int(state.step)})
    users, items = runner.encode(runner.params(state.params))
    scores = embedding_scores(users, items, devices=jax.local_devices())
    topk = rank(scores, np.arange(90, dtype=np.int32), num_items=len(items), k=10, block_size=7, shared=True)
    if MODE == "sharded":
        # Of the 64 parts those of its own devices and no other.
        mine = {p for d, device in enumerate(runner.mesh.devices.flat) for p in runner.partition.users.parts(d)
                if device.process_index == jax.process_index()}  # fmt: skip
        assert set(read) == mine and len(mine) == 64 // int(NUM)
    if processes.first():
        np.savez(OUTPUT, users=users, items=items, topk=topk, loss=float(state.window["loss"]))


main()
