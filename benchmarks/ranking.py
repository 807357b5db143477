"""Full ranking of the catalogue for many users, beside torch's matmul and topk.

    python benchmarks/ranking.py --output=ranking.json
    python benchmarks/ranking.py --users=16384 --variants

Both take blocks of users, score all songs, and keep the best 100; ours also leaves out what the users heard, as
evaluation does. In turns, users a second, medians. --variants times what a block consists of, on the device alone:
the product, masking, the top-k in several numbers of rounds, block sizes, precision.
"""

import functools
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import options
from absl import flags

from music_map.evaluation.pairs import Pairs
from music_map.evaluation.ranking import embedding_scores, mask_indices, rank
from music_map.storage import write_json
from music_map.topk import rows_at_once, top_k_in_rounds

_USERS = flags.DEFINE_integer("users", 1_024, "Users ranked in a turn.", 1)
_SONGS = flags.DEFINE_integer("songs", 253_939, "Songs.", 1)
_DIMS = flags.DEFINE_integer("dims", 64, "Of an embedding.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns.", 1)
_VARIANTS = flags.DEFINE_bool("variants", False, "Time the parts of a block and variants of them.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file.")

K, HEARD = 100, 500


def seconds_of(run: Callable[[], object]) -> float:
    """Median seconds of a call, its result waited for, compilation left out."""
    jax.block_until_ready(run())
    found = []
    for _ in range(_ROUNDS.value):
        start = time.perf_counter()
        # Ten at a time: the host's part of a call is then hidden, as it is in `rank`.
        jax.block_until_ready([run() for _ in range(10)])
        found.append((time.perf_counter() - start) / 10)
    return statistics.median(found)


@functools.partial(jax.jit, static_argnames=("precision", "rounds", "nan"))
def ranked(users, songs, rows=None, items=None, *, precision="highest", rounds=None, nan=False):
    """Scores, masked, and their top-k: those parts that are asked for, to one number or the lists."""
    scores = jnp.matmul(users, songs.T, precision=precision)
    if rows is not None:
        scores = scores.at[rows, items].set(-jnp.inf, mode="drop")
    best = None if rounds is None else top_k_in_rounds(scores, k=K, rounds=rounds)[1]
    return best, (jnp.isnan(scores.max(axis=1)).any() if nan or rounds is None else None)


def variants(users: np.ndarray, songs: np.ndarray, heard: Pairs) -> dict[str, float]:
    """Users a second of the parts of a block, and of variants of them, on the device alone; said as they are known."""
    songs, found = jnp.asarray(songs), {}
    block = min(rows_at_once(len(songs)), len(users))

    def time_it(name: str, size: int, **options: object) -> None:
        masked = options.pop("masked", False)
        first, lists = jnp.asarray(users[:size]), mask_indices(heard, 0, size, out_of_range=size)
        masks = [jnp.asarray(column) for column in lists] if masked else []
        found[name] = size / seconds_of(lambda: ranked(first, songs, *masks, **options))
        options.say(f"| {name}, blocks of {size} | {found[name]:.0f} |")

    options.say("| on the device alone | users/s |\n|---|---|")
    time_it("product, largest score", block)
    time_it("product in the default precision, largest score", block, precision="default")
    time_it("the same, heard songs left out", block, masked=True)
    for rounds in (1, 2, 3, 4):
        time_it(f"product and top-k in {rounds} rounds", block, rounds=rounds)
    time_it("all, 2 rounds, NaN looked for", block, masked=True, rounds=2, nan=True)
    for size in (block // 4, block // 2, 2 * block, 4 * block):
        if 0 < size <= len(users):
            time_it(f"all, 3 rounds, NaN looked for ({size})", size, masked=True, rounds=3, nan=True)
    return found


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
        options.warn("torch is not installed: pip install torch")
    of_variants = variants(users, songs, heard) if _VARIANTS.value else {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(_ROUNDS.value + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    options.say(
        f"{num_users} users, {num_songs} songs, {_DIMS.value} dimensions, blocks of {block}, {os.cpu_count()} cores"
    )
    options.say("| | users/s |\n|---|---|")
    for name, value in median.items():
        options.say(f"| {name} | {num_users / value:.0f} |")
    if len(median) > 1:
        ours, torch_seconds = median.values()
        options.say(f"torch over ours, seconds: {torch_seconds / ours:.2f}")
    if _OUTPUT.value:
        write_json(Path(_OUTPUT.value), {"seconds": seconds, "variants": of_variants})
    return 0


if __name__ == "__main__":
    options.run(main)
