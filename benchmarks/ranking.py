"""Full ranking of the catalogue for many users, beside torch's matmul and topk.

    python benchmarks/ranking.py --output=ranking.json

Both take blocks of users, score all songs, and keep the best 100; ours also leaves out what the users heard, as
evaluation does. In turns, users a second, medians.
"""

import os
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

from launch import app
from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import embedding_scores, rank
from music_map.storage import write_json
from music_map.topk import rows_at_once

_USERS = flags.DEFINE_integer("users", 1_024, "Users ranked in a turn.", 1)
_SONGS = flags.DEFINE_integer("songs", 253_939, "Songs.", 1)
_DIMS = flags.DEFINE_integer("dims", 64, "Of an embedding.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns.", 1)
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")

K, HEARD = 100, 500


def main() -> int:
    rng = np.random.default_rng(0)
    num_users, num_songs = _USERS.value, _SONGS.value
    users, songs = (rng.normal(size=(n, _DIMS.value)).astype(np.float32) for n in (num_users, num_songs))
    rows = np.repeat(np.arange(num_users), HEARD)
    heard = Pairs.of(rows, rng.integers(0, num_songs, len(rows)), num_rows=num_users, num_items=num_songs)
    everybody, scores = np.arange(num_users, dtype=np.int32), embedding_scores(users, songs)
    block = rows_at_once(num_songs)

    def ours() -> None:
        rank(scores, everybody, num_items=num_songs, k=K, masked=heard)

    runs = {"ours, heard songs left out": ours}
    try:
        import torch

        torch.set_num_threads(os.cpu_count() or 1)
        device = "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
        u, s = torch.from_numpy(users).to(device), torch.from_numpy(songs).to(device)

        def theirs() -> None:
            for start in range(0, num_users, block):
                torch.topk(u[start : start + block] @ s.T, K).indices.cpu()

        runs["torch matmul + topk, nothing left out"] = theirs
    except ImportError:
        app.warn("torch is not installed: pip install torch")
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_ROUNDS.value + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    app.say(
        f"{num_users} users, {num_songs} songs, {_DIMS.value} dimensions, blocks of {block}, {os.cpu_count()} cores"
    )
    app.say("| | users/s |\n|---|---|")
    for name, value in median.items():
        app.say(f"| {name} | {num_users / value:.0f} |")
    values = list(median.values())
    app.say(f"torch over ours, seconds: {values[-1] / values[0]:.2f}")
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), {"seconds": seconds})
    return 0


if __name__ == "__main__":
    app.run(main)
